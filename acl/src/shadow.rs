//! Shadow mode: a candidate policy is asked everything that the active one is asked, and what it
//! would have said differently is counted. It never decides. Where a listener learns, it is compared
//! with what learning allows: that shows what a draft still lacks.
//!
//! Costs nothing when there is no candidate: clients then hold the plain grants. With one, each
//! question is asked twice, and only a difference takes a lock, which nobody waits for: what cannot
//! be written down at once is counted as missed. The table is bounded.
//!
//! What is counted are questions. The broker asks about a topic once and remembers, and it asks
//! about a subscription as a whole; so the numbers tell where the policies differ, not how many
//! messages went there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use portcullis_core::hook::{
    Action, Cover, Decision, Effort, Grants, MessageFacts, Principal, Rule, Snapshot,
};
use portcullis_core::topic::{TopicFilter, TopicName};

use crate::compile::{ClientGrants, Compiled};
use crate::learning::LESSON;
use crate::policy::{Act, Policy};

/// Most rows of the table; each holds a principal, a rule and a topic, at most some 1.5 KiB.
pub const MAX_DIFFERENCES: usize = 4096;
/// Longest part of a topic that is kept as an example, bytes.
const MAX_TOPIC: usize = 256;

/// A candidate, and what it says differently.
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) candidate: Compiled,
    pub(crate) differences: Arc<Differences>,
}

/// What the candidate policy has said differently since it became the candidate.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    table: Mutex<HashMap<Key, Seen>>,
    total: AtomicU64,
    missed: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    principal: Principal,
    act: Act,
    gains: bool,
    rule: Option<Named>,
}

/// A rule of one of the two policies, or none of them: a lesson.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Named {
    Active(u32),
    Lesson,
    Candidate(u32),
}

#[derive(Debug)]
struct Seen {
    count: u64,
    example: Box<str>,
}

/// A question that the candidate answers differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Whose.
    pub principal: String,
    /// About what.
    pub act: Act,
    /// The candidate allows (more of) what the active policy denies; `false`: it denies (more).
    pub gains: bool,
    /// The line that makes the difference, in words; empty where none speaks.
    pub rule: String,
    /// The first topic, filter or group of this kind.
    pub example: String,
    /// How often.
    pub count: u64,
}

/// What came of a candidate so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowReport {
    /// The hash of the policy that decides.
    pub active: String,
    /// The hash of the candidate.
    pub candidate: String,
    /// The most frequent first.
    pub differences: Vec<Difference>,
    /// Questions with another answer, whether in the table or not.
    pub total: u64,
    /// Those that are not in the table: it was full, or in use at that moment.
    pub missed: u64,
}

impl Shadow {
    pub(crate) fn report(&self, active: &Policy) -> ShadowReport {
        let candidate = &self.candidate.policy;
        let mut differences: Vec<Difference> = self
            .differences
            .table
            .lock()
            .iter()
            .map(|(key, seen)| Difference {
                principal: key.principal.to_string(),
                act: key.act,
                gains: key.gains,
                rule: match key.rule {
                    Some(Named::Active(rule)) => active.describe(Rule(rule)),
                    Some(Named::Lesson) => "the listener is learning".to_owned(),
                    Some(Named::Candidate(rule)) => candidate.describe(Rule(rule)),
                    None => String::new(),
                },
                example: seen.example.to_string(),
                count: seen.count,
            })
            .collect();
        differences.sort_by(|a, b| {
            let order = b.count.cmp(&a.count);
            order.then_with(|| (&a.principal, a.act, &a.rule).cmp(&(&b.principal, b.act, &b.rule)))
        });
        ShadowReport {
            active: active.hash().to_owned(),
            candidate: candidate.hash().to_owned(),
            differences,
            total: self.total(),
            missed: self.differences.missed.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.differences.total.load(Ordering::Relaxed)
    }

    /// The grants that decide, with the candidate's beside them.
    pub(crate) fn beside(&self, active: Arc<dyn Grants>, who: &Snapshot) -> Arc<dyn Grants> {
        Arc::new(Shadowed {
            active,
            candidate: self.candidate.grants(who),
            principal: who.principal().clone(),
            differences: Arc::clone(&self.differences),
        })
    }
}

impl Differences {
    fn count(&self, key: Key, topic: &str) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let Some(mut table) = self.table.try_lock() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if let Some(seen) = table.get_mut(&key) {
            seen.count += 1;
        } else if table.len() < MAX_DIFFERENCES {
            let mut end = topic.len().min(MAX_TOPIC);
            while !topic.is_char_boundary(end) {
                end -= 1;
            }
            let example = topic.get(..end).unwrap_or_default().into();
            table.insert(key, Seen { count: 1, example });
        } else {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Grants that answer by what is in force and note what the candidate would have said.
struct Shadowed {
    active: Arc<dyn Grants>,
    candidate: Arc<ClientGrants>,
    principal: Principal,
    differences: Arc<Differences>,
}

impl Shadowed {
    fn compare(&self, act: Act, topic: &str, active: Decision, candidate: Decision) {
        if active.is_allowed() == candidate.is_allowed() {
            return;
        }
        let rule = match (active, candidate) {
            (Decision::Deny(rule), _) => Some(Named::Active(rule.0)),
            (_, Decision::Deny(rule) | Decision::Allow(rule)) => Some(Named::Candidate(rule.0)),
            (Decision::Allow(Rule(LESSON)), _) => Some(Named::Lesson),
            (Decision::Allow(rule), _) => Some(Named::Active(rule.0)),
            (Decision::Silent, Decision::Silent) => None,
        };
        self.note(act, topic, candidate.is_allowed(), rule);
    }

    fn note(&self, act: Act, topic: &str, gains: bool, rule: Option<Named>) {
        let key = Key {
            principal: self.principal.clone(),
            act,
            gains,
            rule,
        };
        self.differences.count(key, topic);
    }
}

impl Grants for Shadowed {
    fn decide(&self, action: Action, topic: TopicName<'_>, message: &MessageFacts) -> Decision {
        let active = self.active.decide(action, topic, message);
        let act = match action {
            Action::Publish => Act::Publish,
            Action::Retain => Act::Retain,
            Action::Will => Act::Will,
            Action::Receive => Act::Subscribe,
        };
        let candidate = self.candidate.decide(action, topic, message);
        self.compare(act, topic.as_str(), active, candidate);
        active
    }

    fn share(&self, group: &str) -> Decision {
        let active = self.active.share(group);
        self.compare(Act::Share, group, active, self.candidate.share(group));
        active
    }

    fn cover(&self, filter: TopicFilter<'_>, message: &MessageFacts, effort: &Effort) -> Cover {
        // What the candidate takes is not taken from the answer that counts.
        let own = Effort::new(effort.left());
        let active = self.active.cover(filter, message, effort);
        let candidate = self.candidate.cover(filter, message, &own);
        let amount = |cover: Cover| match cover {
            Cover::Nothing(_) => 0,
            Cover::Partial(_) | Cover::Unclear => 1,
            Cover::Bounded => 2,
            Cover::Full => 3,
        };
        let cut = |cover: Cover| match cover {
            Cover::Full | Cover::Bounded | Cover::Unclear => None,
            Cover::Partial(rule) | Cover::Nothing(rule) => rule,
        };
        let gains = amount(candidate) > amount(active);
        if amount(candidate) != amount(active) {
            let rule = if gains {
                cut(active).map(|rule| Named::Active(rule.0))
            } else {
                cut(candidate).map(|rule| Named::Candidate(rule.0))
            };
            self.note(Act::Subscribe, filter.filter(), gains, rule);
        }
        active
    }

    fn describe(&self, rule: Rule) -> String {
        self.active.describe(rule)
    }
}
