//! Smells: lines that do nothing, and lines that do more than anybody wants.

use portcullis_core::hook::Cover;

use crate::algebra::{View, WORK, ask, symbolic, symbolic_filter};
use crate::error::PolicyWarning;
use crate::load::Loaded;
use crate::pattern::Level;
use crate::policy::{Act, Effect, Policy, PolicyRule};
use crate::trie::{Asked, Trie};

/// Subjects with more lines are not searched for lines that others make superfluous: that compares
/// each line with all others.
const MOST_COMPARED: usize = 500;

/// The warnings of loading and, on top, what a second look finds: lines that a deny takes back
/// completely, lines that say nothing new, grants of everything, wills and retained messages that
/// may not be published, wide grants to everybody. In order of files and lines.
#[must_use]
pub fn lint(loaded: &Loaded) -> Vec<PolicyWarning> {
    let policy = &loaded.policy;
    let mut warnings = loaded.warnings.clone();
    for (subject, _) in policy.subjects.iter() {
        Subject::new(policy, subject).look(&mut warnings);
    }
    let order = |file: &str| policy.files.iter().position(|known| **known == *file);
    warnings.sort_by_key(|warning| (order(&warning.file), warning.line));
    warnings
}

struct Subject<'a> {
    policy: &'a Policy,
    name: &'a str,
    rules: Vec<(u32, &'a PolicyRule)>,
    values: Vec<Option<Box<str>>>,
}

impl<'a> Subject<'a> {
    fn new(policy: &'a Policy, subject: u32) -> Self {
        let numbers = policy.own_rules(subject).iter();
        Self {
            policy,
            name: policy.subjects.name(subject),
            rules: numbers
                .filter_map(|number| Some((*number, policy.rule(*number)?)))
                .collect(),
            values: symbolic(&policy.slots),
        }
    }

    fn look(&self, warnings: &mut Vec<PolicyWarning>) {
        let always = self.beside(None);
        for (number, rule) in &self.rules {
            let Some(asked) = Asked::of(rule.act) else {
                continue;
            };
            let filter = symbolic_filter(&rule.levels, &self.policy.slots);
            let conditional = rule.cond.map(|cond| self.beside(Some(cond)));
            let all = conditional.as_ref().unwrap_or(&always);
            let found = match rule.effect {
                Effect::Allow => self
                    .taken_back(all, asked, &filter)
                    .or_else(|| self.superfluous(*number, rule, asked, &filter))
                    .or_else(|| self.unpublished(all, rule, &filter))
                    .or_else(|| self.wide(rule)),
                Effect::Deny => self.superfluous(*number, rule, asked, &filter),
            };
            warnings.extend(found.map(|(message, remedy)| PolicyWarning {
                file: self.policy.file(rule.file).into(),
                line: rule.line,
                message,
                remedy,
            }));
        }
    }

    /// The lines that surely count where a line with this condition does.
    fn beside(&self, cond: Option<u32>) -> Trie {
        let rules = self.rules.iter().copied();
        Trie::new(rules.filter(|(_, rule)| rule.cond.is_none() || rule.cond == cond))
    }

    fn cover(&self, trie: &Trie, asked: Asked, filter: &str) -> Cover {
        let view = View {
            tries: &[trie],
            values: &self.values,
            asked,
        };
        ask(filter, &[view], WORK).cover()
    }

    fn taken_back(&self, all: &Trie, asked: Asked, filter: &str) -> Option<(String, String)> {
        match self.cover(all, asked, filter) {
            Cover::Nothing(Some(deny)) => Some((
                format!(
                    "the line has no effect: {} denies it all",
                    self.policy.describe(deny)
                ),
                "remove one of the two, or narrow the deny".into(),
            )),
            Cover::Nothing(None)
            | Cover::Full
            | Cover::Bounded
            | Cover::Partial(_)
            | Cover::Unclear => None,
        }
    }

    /// Whether the other lines with the same effect say all that this one says.
    fn superfluous(
        &self,
        number: u32,
        rule: &PolicyRule,
        asked: Asked,
        filter: &str,
    ) -> Option<(String, String)> {
        if self.rules.len() > MOST_COMPARED {
            return None;
        }
        let mut others = Trie::new([]);
        for (other, line) in &self.rules {
            let counts = line.cond.is_none() || line.cond == rule.cond;
            let same = line.act == rule.act && line.effect == rule.effect;
            if *other != number && same && counts {
                others.insert(&line.levels, asked, Effect::Allow, *other);
            }
        }
        (self.cover(&others, asked, filter) == Cover::Full).then(|| {
            (
                format!("other lines for `{}` say the same and more", self.name),
                "remove the line".to_owned(),
            )
        })
    }

    fn unpublished(&self, all: &Trie, rule: &PolicyRule, filter: &str) -> Option<(String, String)> {
        let extra = matches!(rule.act, Act::Retain | Act::Will);
        // Others may bring the right to publish: a role above, or the client's own lines.
        let alone = self.name.starts_with("role:") || self.name == "*";
        if !extra || alone {
            return None;
        }
        match self.cover(all, Asked::Publish, filter) {
            Cover::Nothing(_) => Some((
                format!(
                    "{} is asked in addition to publish, which is not allowed here",
                    rule.act
                ),
                format!(
                    "check that a role gives it, or add `p, {}, {filter}, publish, allow`",
                    self.name
                ),
            )),
            Cover::Full | Cover::Bounded | Cover::Partial(_) | Cover::Unclear => None,
        }
    }

    fn wide(&self, rule: &PolicyRule) -> Option<(String, String)> {
        let everything = matches!(&*rule.levels, [Level::Rest] | [Level::Any, Level::Rest]);
        let starts_wild = matches!(rule.levels.first(), Some(Level::Any | Level::Rest));
        let everybody = matches!(self.name, "*" | "anonymous");
        let remedy = "name the topics that are needed".to_owned();
        if everything {
            let act = rule.act;
            return Some((format!("`{}` may {act} everything", self.name), remedy));
        }
        if everybody && starts_wild {
            let act = rule.act;
            let message = format!("`{}` may {act} under every first level", self.name);
            return Some((message, remedy));
        }
        None
    }
}
