//! A policy made ready to answer: tries that are shared, and the grants of single clients.
//!
//! What clients have in common is computed once: one trie for each set of roles, one for each
//! principal that has lines of its own, one for each set of conditional lines that count together.
//! Lines with the same bounds on messages are a trie too, asked after the others and only believed
//! for messages within. What counts together is held together, once for all clients. A client's
//! [`ClientGrants`] are three pointers and the values of the placeholders that its rules name, however
//! many lines and conditions there are; equal ones are shared. The tables that make this work
//! are bounded: when one is full, what nobody uses leaves, and what still does not fit is built for
//! one client alone.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use portcullis_core::hook::{
    Action, Cover, Decision, Effort, Grants, MessageFacts, Rule, Snapshot,
};
use portcullis_core::topic::{TopicFilter, TopicName};
use smallvec::SmallVec;

use crate::algebra::{self, View, WORK};
use crate::cond::{Bounds, Truth};
use crate::policy::{Effect, Policy};
use crate::trie::{Asked, NONE, ROOT, Said, Trie, Values};

/// Most tries that are kept for reuse.
const MAX_TRIES: usize = 4096;
/// Most nodes in them, some 100 bytes each, beside those of one trie with all rules.
const MAX_NODES: usize = 1 << 20;
/// Most grants that are kept for reuse, some 100 bytes each.
const MAX_GRANTS: usize = 1 << 16;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A policy and the tables that share its compiled parts.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) policy: Arc<Policy>,
    /// Which time windows are open.
    windows: Box<[Truth]>,
    tries: Mutex<Tries>,
    grants: Mutex<Known>,
    /// What is held by whom no line is about.
    nothing: Arc<Held>,
}

#[derive(Debug, Default)]
struct Tries {
    by_rules: Map<Which, Arc<Trie>>,
    nodes: usize,
    refused: usize,
}

/// Which rules count: the unconditional ones of some subjects, and others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Which {
    /// The subjects, and behind them the rules. In one piece, so that none that is compared is
    /// empty: with AVX-512 that took 0.2 us, as the pointer of an empty one leads nowhere.
    numbers: Box<[u32]>,
    /// How many of them are subjects.
    subjects: usize,
}

impl Which {
    fn new(subjects: &[u32], rules: impl Iterator<Item = u32>) -> Self {
        Self {
            numbers: subjects.iter().copied().chain(rules).collect(),
            subjects: subjects.len(),
        }
    }

    fn of(subjects: &[u32]) -> Self {
        Self::new(subjects, std::iter::empty())
    }

    fn rules(rules: Vec<u32>) -> Self {
        Self::new(&[], rules.into_iter())
    }

    fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn split(&self) -> (&[u32], &[u32]) {
        self.numbers
            .split_at_checked(self.subjects)
            .unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Known {
    held: Map<Which, Weak<Held>>,
    by_key: Map<Key, Weak<ClientGrants>>,
    refused: usize,
}

/// Whether a full table is worth looking through: that costs as much as it has entries, so it is
/// done once for every so many that did not fit.
fn look_through(refused: &mut usize, size: usize) -> bool {
    *refused += 1;
    let due = *refused > size / 16;
    if due {
        *refused = 0;
    }
    due
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Where the lines are that are held: as long as an entry has grants, these keep them there.
    held: [usize; 2],
    values: Box<Values>,
}

impl Compiled {
    /// Without a time, no time window is known to be open.
    pub(crate) fn new(policy: Arc<Policy>, at: Option<SystemTime>) -> Self {
        Self {
            windows: policy.conditions.windows_at(at),
            policy,
            tries: Mutex::default(),
            grants: Mutex::default(),
            nothing: Arc::default(),
        }
    }

    /// Whether another set of time windows is open at `at`.
    pub(crate) fn is_stale(&self, at: Option<SystemTime>) -> bool {
        !self.windows.is_empty() && self.policy.conditions.windows_at(at) != self.windows
    }

    /// The grants of a client; the same for clients that no rule can tell apart.
    pub(crate) fn grants(&self, who: &Snapshot) -> Arc<ClientGrants> {
        let applicable = self.policy.applicable(who);
        let held = [&*applicable.shared, applicable.own.as_slice()]
            .map(|subjects| self.held(who, subjects));
        let values = self.values(who, held.iter().flat_map(|held| held.tries()));
        let key = Key {
            held: held.each_ref().map(|held| Arc::as_ptr(held).addr()),
            values,
        };
        let mut table = self.grants.lock();
        let Known {
            by_key, refused, ..
        } = &mut *table;
        if let Some(known) = by_key.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let grants = Arc::new(ClientGrants {
            policy: Arc::clone(&self.policy),
            held,
            values: key.values.clone(),
        });
        if by_key.len() >= MAX_GRANTS && look_through(refused, MAX_GRANTS) {
            by_key.retain(|_, grants| grants.strong_count() > 0);
        }
        if by_key.len() < MAX_GRANTS {
            by_key.insert(key, Arc::downgrade(&grants));
        }
        grants
    }

    /// The lines of some subjects that count for a client at present; the same for all clients for
    /// whom the same count.
    fn held(&self, who: &Snapshot, subjects: &[u32]) -> Arc<Held> {
        let which = Which::new(subjects, self.conditional(who, subjects));
        if which.is_empty() {
            return Arc::clone(&self.nothing);
        }
        if let Some(known) = self.grants.lock().held.get(&which).and_then(Weak::upgrade) {
            return known;
        }
        let (subjects, conditional) = which.split();
        let (always, bounded) = self.by_bounds(conditional);
        let mut parts = Parts::new();
        let unconditional = |subject: &u32| {
            let policy = &self.policy;
            policy.own_rules(*subject).len() > policy.conditional_rules(*subject).len()
        };
        if subjects.iter().any(unconditional) {
            parts.push(self.trie(Which::of(subjects)));
        }
        if !always.is_empty() {
            parts.push(self.trie(Which::rules(always)));
        }
        let held = Arc::new(Held { parts, bounded });
        let mut table = self.grants.lock();
        let Known {
            held: known,
            refused,
            ..
        } = &mut *table;
        if known.len() >= MAX_TRIES && look_through(refused, MAX_TRIES) {
            known.retain(|_, held| held.strong_count() > 0);
        }
        if known.len() < MAX_TRIES {
            known.insert(which, Arc::downgrade(&held));
        }
        held
    }

    /// The conditional rules of some subjects that count for a client at present.
    fn conditional(&self, who: &Snapshot, subjects: &[u32]) -> impl Iterator<Item = u32> {
        let policy = &self.policy;
        let numbers = subjects
            .iter()
            .flat_map(|subject| policy.conditional_rules(*subject));
        // Lines with one condition stand together, more often than not.
        let mut last = None;
        let counts = move |number: &&u32| {
            policy.rule(**number).is_some_and(|rule| {
                let truth = match last {
                    Some((cond, truth)) if cond == rule.cond => truth,
                    _ => policy.conditions.truth(rule.cond, who, &self.windows),
                };
                last = Some((rule.cond, truth));
                truth.applies(rule.effect)
            })
        };
        numbers.filter(counts).copied()
    }

    /// Sorts conditional rules by the messages that they are about: those about all, and the others
    /// by bounds and effect. Allows come first.
    fn by_bounds(&self, conditional: &[u32]) -> (Vec<u32>, Box<[Bounded]>) {
        let mut always = Vec::new();
        let mut groups: Vec<((Effect, Bounds), Vec<u32>)> = Vec::new();
        for number in conditional {
            let Some(rule) = self.policy.rule(*number) else {
                continue;
            };
            let bounds = self.policy.conditions.bounds(rule.cond);
            let kind = (rule.effect, bounds);
            if bounds == Bounds::ALL {
                always.push(*number);
            } else if let Some((_, group)) = groups.iter_mut().find(|(known, _)| *known == kind) {
                group.push(*number);
            } else {
                groups.push((kind, vec![*number]));
            }
        }
        groups.sort_by_key(|((effect, _), _)| *effect);
        let bounded = groups.into_iter().map(|((effect, bounds), rules)| Bounded {
            effect,
            bounds,
            trie: self.trie(Which::rules(rules)),
        });
        (always, bounded.collect())
    }

    /// The values of the placeholders that the rules name; no others, so that clients which differ
    /// only in those share.
    fn values<'a>(
        &self,
        who: &Snapshot,
        tries: impl Iterator<Item = &'a Arc<Trie>>,
    ) -> Box<Values> {
        let mut values: Vec<Option<Box<str>>> = Vec::new();
        for number in tries.flat_map(|trie| trie.slots_used()) {
            let place = usize::from(*number);
            if values.len() <= place {
                values.resize(place + 1, None);
            }
            if let (Some(value @ None), Some(slot)) =
                (values.get_mut(place), self.policy.slots.get(*number))
            {
                *value = slot.value(who).map(Into::into);
            }
        }
        values.into()
    }

    fn trie(&self, which: Which) -> Arc<Trie> {
        if let Some(known) = self.tries.lock().by_rules.get(&which) {
            return Arc::clone(known);
        }
        let rule = |number: &u32| Some((*number, self.policy.rule(*number)?));
        let (subjects, rules) = which.split();
        let unconditional = subjects
            .iter()
            .flat_map(|subject| self.policy.own_rules(*subject))
            .filter_map(rule)
            .filter(|(_, rule)| rule.cond.is_none());
        let others = rules.iter().filter_map(rule);
        let trie = Arc::new(Trie::new(unconditional.chain(others)));
        self.tries.lock().keep(which, &trie);
        trie
    }
}

impl Tries {
    fn keep(&mut self, which: Which, trie: &Arc<Trie>) {
        if self.is_full(trie) && look_through(&mut self.refused, MAX_TRIES) {
            self.by_rules.retain(|_, t| Arc::strong_count(t) > 1);
            self.nodes = self.by_rules.values().map(|t| t.size()).sum();
        }
        if !self.is_full(trie) {
            let before = self.by_rules.insert(which, Arc::clone(trie));
            self.nodes += trie.size();
            self.nodes -= before.map_or(0, |before| before.size());
        }
    }

    fn is_full(&self, trie: &Trie) -> bool {
        self.by_rules.len() >= MAX_TRIES
            || (self.nodes + trie.size() > MAX_NODES && !self.by_rules.is_empty())
    }
}

/// At most: without conditions, and with some.
type Parts = SmallVec<[Arc<Trie>; 2]>;

/// Lines that count together: those of a client's roles, or its own. Shared by all for whom the same
/// count, so that a client costs no more when there are many.
#[derive(Debug, Default)]
struct Held {
    /// About every message.
    parts: Parts,
    /// Allows first.
    bounded: Box<[Bounded]>,
}

impl Held {
    fn tries(&self) -> impl Iterator<Item = &Arc<Trie>> {
        let bounded = self.bounded.iter().map(|part| &part.trie);
        self.parts.iter().chain(bounded)
    }
}

/// Lines with one effect that are about some messages only.
#[derive(Debug)]
struct Bounded {
    effect: Effect,
    bounds: Bounds,
    trie: Arc<Trie>,
}

impl Bounded {
    /// Whether a line allows or denies something of this kind at all.
    fn is_about(&self, asked: Asked) -> bool {
        self.trie.below(ROOT, asked) != (false, false)
    }
}

/// The rights of one client, or of several that no rule tells apart, under one policy.
#[derive(Debug)]
pub struct ClientGrants {
    policy: Arc<Policy>,
    /// Of roles and everybody, and its own.
    held: [Arc<Held>; 2],
    values: Box<Values>,
}

impl ClientGrants {
    fn parts(&self) -> impl Iterator<Item = &Arc<Trie>> {
        self.held.iter().flat_map(|held| &held.parts)
    }

    fn bounds(&self) -> impl Iterator<Item = &Bounded> {
        self.held.iter().flat_map(|held| &*held.bounded)
    }

    /// What the lines say that are about every message. Stops at the first deny.
    fn combine(&self, ask: impl Fn(&Trie) -> Said) -> Said {
        let mut allow = NONE;
        for trie in self.parts() {
            let said = ask(trie);
            allow = allow.min(said.allow);
            if said.deny != NONE {
                return Said {
                    allow,
                    deny: said.deny,
                };
            }
        }
        Said { allow, deny: NONE }
    }

    /// What the lines say that are about some messages, after the others have spoken. The message
    /// is asked about only where such a line matches, so that answers hold as widely as they can.
    fn bounded(
        &self,
        mut said: Said,
        asked: Asked,
        topic: TopicName<'_>,
        message: &MessageFacts,
    ) -> Said {
        for part in self.bounds() {
            if said.deny != NONE {
                break;
            }
            if part.effect == Effect::Allow && said.allow != NONE {
                continue;
            }
            let here = part.trie.decide(asked, topic.as_str(), &self.values);
            if (here.allow, here.deny) != (NONE, NONE) && part.bounds.hold(message) {
                said.allow = said.allow.min(here.allow);
                said.deny = here.deny;
            }
        }
        said
    }

    /// How much of a filter is covered by the lines for every message and these.
    fn cover_with(
        &self,
        filter: TopicFilter<'_>,
        beside: Option<&Trie>,
        effort: &Effort,
        counts: impl Fn(&Bounded) -> bool,
    ) -> Cover {
        let bounded = self.bounds();
        let bounded = bounded.filter(|part| part.is_about(Asked::Receive) && counts(part));
        let tries: SmallVec<[&Trie; 4]> = self
            .parts()
            .map(|trie| &**trie)
            .chain(bounded.map(|part| &*part.trie))
            .chain(beside)
            .collect();
        let view = View {
            tries: &tries,
            values: &self.values,
            asked: Asked::Receive,
        };
        let answer = algebra::ask(filter.filter(), &[view], effort.left().min(WORK));
        effort.spend(answer.work);
        answer.cover()
    }
}

impl Said {
    fn decision(self) -> Decision {
        match self {
            Self { deny, .. } if deny != NONE => Decision::Deny(Rule(deny)),
            Self { allow, .. } if allow != NONE => Decision::Allow(Rule(allow)),
            Self { .. } => Decision::Silent,
        }
    }
}

impl Grants for ClientGrants {
    fn decide(&self, action: Action, topic: TopicName<'_>, message: &MessageFacts) -> Decision {
        let asked = match action {
            Action::Publish => Asked::Publish,
            Action::Retain => Asked::Retain,
            Action::Will => Asked::Will,
            Action::Receive => Asked::Receive,
        };
        let said = self.combine(|trie| trie.decide(asked, topic.as_str(), &self.values));
        self.bounded(said, asked, topic, message).decision()
    }

    fn share(&self, group: &str) -> Decision {
        self.combine(|trie| trie.share(group, &self.values))
            .decision()
    }

    fn cover(&self, filter: TopicFilter<'_>, message: &MessageFacts, effort: &Effort) -> Cover {
        self.cover_beside(filter, message, effort, None)
    }

    fn describe(&self, rule: Rule) -> String {
        self.policy.describe(rule)
    }
}

impl ClientGrants {
    /// How much of a filter is covered by the policy and other lines together.
    pub(crate) fn cover_beside(
        &self,
        filter: TopicFilter<'_>,
        message: &MessageFacts,
        effort: &Effort,
        beside: Option<&Trie>,
    ) -> Cover {
        let cover = self.cover_with(filter, beside, effort, |part| part.bounds.hold(message));
        let about_some = || self.bounds().any(|part| part.is_about(Asked::Receive));
        if cover != Cover::Full || !about_some() {
            return cover;
        }
        // The smallest message of this QoS passes; does every one up to it?
        let every = self.cover_with(filter, beside, effort, |part| match part.effect {
            Effect::Allow => part.bounds.hold_all_up_to(message),
            Effect::Deny => part.bounds.hold_any_up_to(message),
        });
        if every == Cover::Full {
            Cover::Full
        } else {
            Cover::Bounded
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use portcullis_core::wire::QoS;

    use super::*;
    use crate::load::{Source, Sources};
    use crate::tools::Who;

    /// Rule 9: tables are bounded, and a full one costs sharing, not answers.
    #[test]
    fn more_sets_of_roles_than_the_table_holds_are_still_answered() {
        let mut text = String::new();
        for role in 0..13 {
            let _ = writeln!(text, "p, role:{role}, t/{role}, publish, allow");
        }
        let sources = Sources {
            policies: vec![Source::new("policy.csv", text)],
            ..Sources::default()
        };
        let policy = Policy::load(&sources).unwrap().policy;
        let compiled = Compiled::new(Arc::new(policy), None);
        let mut held = Vec::new();
        for set in 1..1_u32 << 13 {
            let roles = (0..13).filter(|role| set >> role & 1 == 1);
            let who = Who {
                principal: "jwt:a".into(),
                roles: roles.map(|role| role.to_string()).collect(),
                ..Who::default()
            };
            let grants = compiled.grants(&who.snapshot().unwrap());
            let topic = TopicName::new("t/5", portcullis_core::topic::TopicLimits::default());
            let message = MessageFacts::smallest(QoS::AtMostOnce);
            let decision = grants.decide(Action::Publish, topic.unwrap(), &message);
            assert_eq!(decision.is_allowed(), set >> 5 & 1 == 1);
            held.push(grants);
        }
        let tries = compiled.tries.lock();
        assert_eq!(tries.by_rules.len(), MAX_TRIES);
        assert!(compiled.grants.lock().by_key.len() <= MAX_GRANTS);
        let nodes: usize = tries.by_rules.values().map(|trie| trie.size()).sum();
        assert_eq!(tries.nodes, nodes);
    }
}
