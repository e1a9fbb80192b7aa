//! Who gains and who loses what between two policies: symbolically, over all topics.

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use portcullis_core::hook::Snapshot;

use super::{effective, plain};
use crate::algebra::{View, WORK, ask, symbolic, symbolic_filter};
use crate::policy::{Act, Effect, Policy, PolicyRule};
use crate::trie::{Asked, NONE, Trie, Values};

/// In which direction a right moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Allowed by the new policy only.
    Gains,
    /// Allowed by the old policy only.
    Loses,
}

/// A right that somebody gains or loses. Displays as `role:nurse gains subscribe ward/+/vitals`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// A principal, a role or `*`; placeholders stand for the values of whoever holds it.
    pub subject: String,
    /// Gained or lost.
    pub kind: Kind,
    /// Which right.
    pub act: Act,
    /// The line's pattern in which topics change; for `share` the group.
    pub pattern: String,
    /// A filter (or topic) whose topics all change, `+` standing for a level that no rule names.
    pub example: String,
    /// The work bound was reached: there may be more changes than this one.
    pub inexact: bool,
    /// The change is there when this condition holds and every other one does not; `None`: already
    /// when none holds.
    pub when: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            act,
            pattern,
            example,
            ..
        } = self;
        let verb = match self.kind {
            Kind::Gains => "gains",
            Kind::Loses => "loses",
        };
        write!(f, "{subject} {verb} {act} {pattern}")?;
        if example != pattern {
            write!(f, ", for example {example}")?;
        }
        if let Some(when) = &self.when {
            write!(f, ", when {when}")?;
        }
        if self.inexact {
            f.write_str(" (there may be more)")?;
        }
        Ok(())
    }
}

/// Everything that changes from `old` to `new`, for each role, for `*`, and for each principal that
/// has lines of its own or whose roles change; sorted. Conditions are looked at one by one: first
/// as if none held, then as if each alone did.
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> Vec<Change> {
    let mut names: Vec<&str> = old.subjects.iter().map(|(_, name)| name).collect();
    names.extend(new.subjects.iter().map(|(_, name)| name));
    names.sort_unstable();
    names.dedup();
    let mut changes = Vec::new();
    for name in names {
        let group = name == "*" || name.starts_with("role:");
        let sides = |when: Option<&str>| (Side::new(old, name, when), Side::new(new, name, when));
        let (before, after) = sides(None);
        if !(group || before.own || after.own || before.roles != after.roles) {
            continue;
        }
        let first = changes.len();
        compare(name, &before, &after, &mut changes);
        let always = changes.split_off(first);
        let conditions: BTreeSet<&str> = before
            .conditions
            .iter()
            .chain(&after.conditions)
            .copied()
            .collect();
        for when in conditions {
            let (before, after) = sides(Some(when));
            let mut found = Vec::new();
            compare(name, &before, &after, &mut found);
            found.retain(|change| !always.contains(change));
            changes.extend(found.into_iter().map(|change| Change {
                when: Some(when.to_owned()),
                ..change
            }));
        }
        changes.extend(always);
    }
    changes.sort();
    changes.dedup();
    changes
}

/// What changes for these clients at a time: with their own values, roles and conditions, and for
/// the smallest message. Each change once for a principal, however many sessions it has.
#[must_use]
pub fn diff_live(old: &Policy, new: &Policy, clients: &[Snapshot], at: SystemTime) -> Vec<Change> {
    let mut changes = Vec::new();
    for who in clients {
        let sides = [old, new].map(|policy| Side::of_client(policy, who, at));
        let [before, after] = &sides;
        compare(who.principal().as_str(), before, after, &mut changes);
    }
    changes.sort();
    changes.dedup();
    changes
}

/// One policy as one subject sees it.
struct Side<'a> {
    own: bool,
    roles: Vec<&'a str>,
    /// Of all its lines.
    conditions: Vec<&'a str>,
    lines: Vec<Line>,
    trie: Trie,
    values: Vec<Option<Box<str>>>,
}

/// A line that counts, and its pattern as the subject sees it.
struct Line {
    act: Act,
    effect: Effect,
    pattern: String,
}

impl<'a> Side<'a> {
    /// As a client sees it, with its own values.
    fn of_client(policy: &'a Policy, who: &Snapshot, at: SystemTime) -> Self {
        let mut trie = Trie::new([]);
        let mut lines = Vec::new();
        for rule in effective(policy, who, Some(at)) {
            let Some(pattern) = rule.filter else { continue };
            trie.add(&plain(&pattern), rule.act, rule.effect, rule.rule.0);
            lines.push(Line {
                act: rule.act,
                effect: rule.effect,
                pattern,
            });
        }
        Self {
            own: true,
            roles: Vec::new(),
            conditions: Vec::new(),
            lines,
            trie,
            values: Vec::new(),
        }
    }

    fn new(policy: &'a Policy, name: &str, when: Option<&str>) -> Self {
        let start = policy.subjects.find(name);
        let mut open: Vec<u32> = start.into_iter().chain(policy.subjects.find("*")).collect();
        let mut reached = Vec::new();
        while let Some(subject) = open.pop() {
            if !reached.contains(&subject) {
                reached.push(subject);
                open.extend(policy.direct_roles(subject));
            }
        }
        reached.sort_unstable();
        let mut others: Vec<&str> = reached
            .iter()
            .map(|subject| policy.subjects.name(*subject))
            .filter(|other| *other != name)
            .collect();
        others.sort_unstable();
        let rules: Vec<(u32, &PolicyRule)> = reached
            .iter()
            .flat_map(|subject| policy.own_rules(*subject))
            .filter_map(|number| Some((*number, policy.rule(*number)?)))
            .collect();
        let condition = |rule: &'a PolicyRule| rule.cond.map(|cond| policy.conditions.text(cond));
        let conditions = rules
            .iter()
            .filter_map(|(_, rule)| condition(rule))
            .collect();
        let rules: Vec<(u32, &PolicyRule)> = rules
            .into_iter()
            .filter(|(_, rule)| condition(rule).is_none_or(|text| Some(text) == when))
            .collect();
        Self {
            conditions,
            own: start.is_some_and(|subject| !policy.own_rules(subject).is_empty()),
            roles: others,
            trie: Trie::new(rules.iter().copied()),
            lines: rules
                .iter()
                .map(|(_, rule)| Line {
                    act: rule.act,
                    effect: rule.effect,
                    pattern: symbolic_filter(&rule.levels, &policy.slots),
                })
                .collect(),
            values: symbolic(&policy.slots),
        }
    }

    fn may_join(&self, group: &str) -> bool {
        let values: &Values = &self.values;
        let said = self.trie.share(group, values);
        said.allow != NONE && said.deny == NONE
    }
}

fn compare(name: &str, before: &Side<'_>, after: &Side<'_>, changes: &mut Vec<Change>) {
    for (kind, giving) in [(Kind::Gains, after), (Kind::Loses, before)] {
        for line in &giving.lines {
            if line.act == Act::Share {
                groups(name, kind, &line.pattern, before, after, changes);
            } else if line.effect == Effect::Allow {
                topics(name, kind, line.act, &line.pattern, before, after, changes);
            }
        }
    }
}

fn topics(
    name: &str,
    kind: Kind,
    act: Act,
    pattern: &str,
    before: &Side<'_>,
    after: &Side<'_>,
    changes: &mut Vec<Change>,
) {
    let Some(asked) = Asked::of(act) else { return };
    let (old, new) = ([&before.trie], [&after.trie]);
    let view = |tries, values| View {
        tries,
        values,
        asked,
    };
    let answer = ask(
        pattern,
        &[view(&old, &before.values), view(&new, &after.values)],
        WORK,
    );
    let [_, only_old, only_new, _] = answer.examples;
    let example = match kind {
        Kind::Gains => only_new,
        Kind::Loses => only_old,
    };
    let example = example.or_else(|| answer.exhausted.then(|| pattern.to_owned()));
    changes.extend(example.map(|example| Change {
        subject: name.to_owned(),
        kind,
        act,
        pattern: pattern.to_owned(),
        example,
        inexact: answer.exhausted,
        when: None,
    }));
}

/// Groups that a line names, and one that no line names.
fn groups(
    name: &str,
    kind: Kind,
    pattern: &str,
    before: &Side<'_>,
    after: &Side<'_>,
    changes: &mut Vec<Change>,
) {
    // A name with a wildcard in it is nobody's, so it is the stranger.
    let group = if pattern == "#" { "+" } else { pattern };
    let (was, is) = (before.may_join(group), after.may_join(group));
    let moved = match kind {
        Kind::Gains => is && !was,
        Kind::Loses => was && !is,
    };
    if moved {
        changes.push(Change {
            subject: name.to_owned(),
            kind,
            act: Act::Share,
            pattern: pattern.to_owned(),
            example: group.to_owned(),
            inexact: false,
            when: None,
        });
    }
}
