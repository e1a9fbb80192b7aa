//! Who gains and who loses what between two policies: symbolically, over all topics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use portcullis_core::hook::Snapshot;

use super::{plain, rules};
use crate::algebra::{View, WORK, ask, symbolic, symbolic_filter};
use crate::cond::{Bounds, Kinds};
use crate::pattern::Level;
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
    /// When the change is there, as a condition: one of clients and times that holds while every other
    /// does not, and the messages that it is about. `None`: already when none holds, and about all.
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
/// has lines of its own or whose roles change; sorted. Conditions of clients and times are looked at
/// one by one: first as if none held, then as if each alone did. Bounds on messages are exact.
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
        let always = compare(name, &before, &after);
        let conditions: BTreeSet<&String> =
            before.conditions.iter().chain(&after.conditions).collect();
        for when in conditions {
            let (before, after) = sides(Some(when));
            let mut found = compare(name, &before, &after);
            found.retain(|change| !always.contains(change));
            changes.extend(found.into_iter().map(|change| Change {
                when: Some(match &change.when {
                    Some(bounds) if when.contains("||") => format!("({when}) && {bounds}"),
                    Some(bounds) => format!("{when} && {bounds}"),
                    None => when.clone(),
                }),
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
/// which messages. Each change once for a principal, however many sessions it has.
#[must_use]
pub fn diff_live(old: &Policy, new: &Policy, clients: &[Snapshot], at: SystemTime) -> Vec<Change> {
    let mut changes = Vec::new();
    for who in clients {
        let sides = [old, new].map(|policy| Side::of_client(policy, who, at));
        let [before, after] = &sides;
        changes.extend(compare(who.principal().as_str(), before, after));
    }
    changes.sort();
    changes.dedup();
    changes
}

/// One policy as one subject sees it.
struct Side<'a> {
    own: bool,
    roles: Vec<&'a str>,
    /// What all its lines ask of clients and times.
    conditions: Vec<String>,
    lines: Vec<Line>,
    values: Vec<Option<Box<str>>>,
}

/// A line that counts.
struct Line {
    number: u32,
    act: Act,
    effect: Effect,
    levels: Box<[Level]>,
    /// As the subject sees it.
    pattern: String,
    /// The messages that it is about.
    bounds: Bounds,
}

impl<'a> Side<'a> {
    /// As a client sees it, with its own values.
    fn of_client(policy: &'a Policy, who: &Snapshot, at: SystemTime) -> Self {
        let conditions = &policy.conditions;
        let truths = conditions.of(who, &conditions.windows_at(Some(at)));
        let rules = rules(policy, who, |rule| Policy::in_force(rule, &truths));
        let lines = rules.into_iter().filter_map(|rule| {
            let pattern = rule.filter?;
            let number = rule.rule.0;
            Some(Line {
                number,
                act: rule.act,
                effect: rule.effect,
                levels: plain(&pattern).into(),
                pattern,
                bounds: conditions.bounds(policy.rule(number)?.cond),
            })
        });
        Self {
            own: true,
            roles: Vec::new(),
            conditions: Vec::new(),
            lines: lines.collect(),
            values: Vec::new(),
        }
    }

    /// As whoever holds a role or has a name sees it, while one condition of clients and times holds.
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
        let rules: Vec<(u32, &PolicyRule, Option<String>)> = reached
            .iter()
            .flat_map(|subject| policy.own_rules(*subject))
            .filter_map(|number| {
                let rule = policy.rule(*number)?;
                let asks = rule.cond.and_then(|cond| policy.conditions.of_client(cond));
                Some((*number, rule, asks))
            })
            .collect();
        let counts = |asks: &Option<String>| asks.is_none() || asks.as_deref() == when;
        let lines = rules.iter().filter(|(_, _, asks)| counts(asks));
        let lines = lines.map(|(number, rule, _)| Line {
            number: *number,
            act: rule.act,
            effect: rule.effect,
            levels: rule.levels.clone(),
            pattern: symbolic_filter(&rule.levels, &policy.slots),
            bounds: policy.conditions.bounds(rule.cond),
        });
        Self {
            own: start.is_some_and(|subject| !policy.own_rules(subject).is_empty()),
            roles: others,
            lines: lines.collect(),
            conditions: rules.into_iter().filter_map(|(_, _, asks)| asks).collect(),
            values: symbolic(&policy.slots),
        }
    }

    fn bounds(&self) -> impl Iterator<Item = Bounds> {
        self.lines.iter().map(|line| line.bounds)
    }

    /// The lines about one kind of message.
    fn about(&self, message: Bounds) -> About<'_> {
        let lines = self.lines.iter();
        let lines: Vec<&Line> = lines.filter(|line| line.bounds.contain(message)).collect();
        let mut trie = Trie::new([]);
        for line in &lines {
            trie.add(&line.levels, line.act, line.effect, line.number);
        }
        About {
            lines,
            trie,
            values: &self.values,
        }
    }
}

/// What one side says of one kind of message.
struct About<'a> {
    lines: Vec<&'a Line>,
    trie: Trie,
    values: &'a Values,
}

impl About<'_> {
    fn may_join(&self, group: &str) -> bool {
        let said = self.trie.share(group, self.values);
        said.allow != NONE && said.deny == NONE
    }
}

/// The changes for each kind of message that the lines tell apart, put together again.
fn compare(name: &str, before: &Side<'_>, after: &Side<'_>) -> Vec<Change> {
    let kinds = Kinds::of(before.bounds().chain(after.bounds()));
    let mut found: BTreeMap<Change, BTreeSet<_>> = BTreeMap::new();
    for (kind, message) in kinds.all() {
        let (before, after) = (before.about(message), after.about(message));
        for (direction, giving) in [(Kind::Gains, &after), (Kind::Loses, &before)] {
            for line in &giving.lines {
                let change = match (line.act, line.effect) {
                    (Act::Share, _) => groups(name, direction, &line.pattern, &before, &after),
                    (_, Effect::Allow) => topics(name, direction, line, &before, &after),
                    (_, Effect::Deny) => None,
                };
                if let Some(change) = change {
                    found.entry(change).or_default().insert(kind);
                }
            }
        }
    }
    let found = found.into_iter().flat_map(|(change, some)| {
        kinds.joined(&some).into_iter().map(move |bounds| Change {
            when: (bounds != Bounds::ALL).then(|| bounds.to_string()),
            ..change.clone()
        })
    });
    found.collect()
}

fn topics(
    name: &str,
    kind: Kind,
    line: &Line,
    before: &About<'_>,
    after: &About<'_>,
) -> Option<Change> {
    let (act, pattern) = (line.act, &line.pattern);
    let asked = Asked::of(act)?;
    let (old, new) = ([&before.trie], [&after.trie]);
    let view = |tries, values| View {
        tries,
        values,
        asked,
    };
    let answer = ask(
        pattern,
        &[view(&old, before.values), view(&new, after.values)],
        WORK,
    );
    let [_, only_old, only_new, _] = answer.examples;
    let example = match kind {
        Kind::Gains => only_new,
        Kind::Loses => only_old,
    };
    let example = example.or_else(|| answer.exhausted.then(|| pattern.to_owned()));
    example.map(|example| Change {
        subject: name.to_owned(),
        kind,
        act,
        pattern: pattern.clone(),
        example,
        inexact: answer.exhausted,
        when: None,
    })
}

/// Groups that a line names, and one that no line names.
fn groups(
    name: &str,
    kind: Kind,
    pattern: &str,
    before: &About<'_>,
    after: &About<'_>,
) -> Option<Change> {
    // A name with a wildcard in it is nobody's, so it is the stranger.
    let group = if pattern == "#" { "+" } else { pattern };
    let (was, is) = (before.may_join(group), after.may_join(group));
    let moved = match kind {
        Kind::Gains => is && !was,
        Kind::Loses => was && !is,
    };
    moved.then(|| Change {
        subject: name.to_owned(),
        kind,
        act: Act::Share,
        pattern: pattern.to_owned(),
        example: group.to_owned(),
        inexact: false,
        when: None,
    })
}
