//! Rules about topics as a tree of levels.
//!
//! One trie holds the rules of one set of subjects, for all four topic actions; clients with the
//! same set share it. A placeholder is an edge that is compared with the client's own value while
//! walking, so ten thousand devices of one role cost one trie. Walking takes no lock and allocates
//! nothing; its depth is at most that of the deepest rule (64 levels).

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::pattern::Level;
use crate::policy::{Act, Effect, PolicyRule};

/// The value of each slot for one client; `None` for a missing or unsafe one.
pub(crate) type Values = [Option<Box<str>>];

/// No rule, no node, no edge.
pub(crate) const NONE: u32 = u32::MAX;

/// The node where every walk begins.
pub(crate) const ROOT: u32 = 0;

/// The topic actions, as places in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Publish = 0,
    Retain = 1,
    Will = 2,
    Receive = 3,
}

impl Asked {
    pub(crate) const fn of(act: Act) -> Option<Self> {
        match act {
            Act::Publish => Some(Self::Publish),
            Act::Retain => Some(Self::Retain),
            Act::Will => Some(Self::Will),
            Act::Subscribe => Some(Self::Receive),
            Act::Share => None,
        }
    }

    const fn allow(self) -> u8 {
        1 << self as u8
    }

    const fn deny(self) -> u8 {
        16 << self as u8
    }
}

/// The rules that take effect at one point: the first of each kind, or [`NONE`].
#[derive(Clone, Copy, Debug)]
struct Effects {
    allow: [u32; 4],
    deny: [u32; 4],
}

impl Effects {
    const EMPTY: Self = Self {
        allow: [NONE; 4],
        deny: [NONE; 4],
    };

    fn add(&mut self, asked: Asked, effect: Effect, rule: u32) {
        let table = match effect {
            Effect::Allow => &mut self.allow,
            Effect::Deny => &mut self.deny,
        };
        if let Some(place) = table.get_mut(asked as usize) {
            *place = rule.min(*place);
        }
    }
}

/// What the rules say at one point, as rule numbers or [`NONE`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) allow: u32,
    pub(crate) deny: u32,
}

#[derive(Clone, Debug)]
struct Node {
    /// Child by `+`.
    any: u32,
    /// Effects when the topic ends here.
    end: u32,
    /// Effects of a `#` below here, which matches here too.
    rest: u32,
    /// First of the literal edges, chained by [`Edge::next`].
    first: u32,
    /// Which effects are here or further down: allow bits low, deny bits high.
    below: u8,
    /// Children by placeholder.
    slots: SmallVec<[(u16, u32); 1]>,
}

#[derive(Clone, Debug)]
struct Edge {
    parent: u32,
    child: u32,
    next: u32,
    /// The bytes of its text, in place where they are few: a walk waits for memory, not for much
    /// else.
    level: SmallVec<[u8; 16]>,
}

/// The rules of a set of subjects.
#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    table: HashTable<u32>,
    effects: Vec<Effects>,
    shares: Vec<(Level, Effect, u32)>,
    slots_used: Box<[u16]>,
    hasher: RandomState,
}

impl Trie {
    /// A trie of these rules with their numbers.
    pub(crate) fn new<'a>(rules: impl IntoIterator<Item = (u32, &'a PolicyRule)>) -> Self {
        let mut trie = Self {
            nodes: Vec::new(),
            edges: Vec::new(),
            table: HashTable::new(),
            effects: Vec::new(),
            shares: Vec::new(),
            slots_used: Box::default(),
            hasher: RandomState::default(),
        };
        trie.node();
        for (number, rule) in rules {
            trie.add(&rule.levels, rule.act, rule.effect, number);
        }
        trie.slots_used = trie.find_slots();
        trie.nodes.shrink_to_fit();
        trie.edges.shrink_to_fit();
        trie.effects.shrink_to_fit();
        trie
    }

    /// How many nodes there are: a measure of its memory.
    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a rule about topics, or about a group, which is its first level.
    pub(crate) fn add(&mut self, levels: &[Level], act: Act, effect: Effect, rule: u32) {
        if let Some(asked) = Asked::of(act) {
            self.insert(levels, asked, effect, rule);
        } else if let Some(group) = levels.first() {
            self.shares.push((group.clone(), effect, rule));
        }
    }

    /// Adds a rule about topics.
    pub(crate) fn insert(&mut self, levels: &[Level], asked: Asked, effect: Effect, rule: u32) {
        let bit = match effect {
            Effect::Allow => asked.allow(),
            Effect::Deny => asked.deny(),
        };
        let mut at = ROOT;
        let mut rest = false;
        self.mark(at, bit);
        for level in levels {
            at = match level {
                Level::Rest => {
                    rest = true;
                    break;
                }
                Level::Literal(text) => self.literal_child(at, text),
                Level::Any => self.any_child(at),
                Level::Slot(number) => self.slot_child(at, *number),
            };
            self.mark(at, bit);
        }
        let known = self
            .nodes
            .get(at as usize)
            .map_or(NONE, |node| if rest { node.rest } else { node.end });
        let place = if known == NONE {
            self.effects.push(Effects::EMPTY);
            let place = number(self.effects.len() - 1);
            if let Some(node) = self.nodes.get_mut(at as usize) {
                *(if rest { &mut node.rest } else { &mut node.end }) = place;
            }
            place
        } else {
            known
        };
        if let Some(effects) = self.effects.get_mut(place as usize) {
            effects.add(asked, effect, rule);
        }
    }

    fn mark(&mut self, node: u32, bit: u8) {
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.below |= bit;
        }
    }

    fn node(&mut self) -> u32 {
        self.nodes.push(Node {
            any: NONE,
            end: NONE,
            rest: NONE,
            first: NONE,
            below: 0,
            slots: SmallVec::new(),
        });
        number(self.nodes.len() - 1)
    }

    fn literal_child(&mut self, parent: u32, level: &str) -> u32 {
        if let Some(child) = self.literal(parent, level) {
            return child;
        }
        let child = self.node();
        let edge = number(self.edges.len());
        let next = self
            .nodes
            .get_mut(parent as usize)
            .map_or(NONE, |node| std::mem::replace(&mut node.first, edge));
        self.edges.push(Edge {
            parent,
            child,
            next,
            level: SmallVec::from_slice(level.as_bytes()),
        });
        let Self {
            edges,
            table,
            hasher,
            ..
        } = self;
        table.insert_unique(hasher.hash_one((parent, level.as_bytes())), edge, |edge| {
            edges
                .get(*edge as usize)
                .map_or(0, |edge| hasher.hash_one((edge.parent, &*edge.level)))
        });
        child
    }

    fn any_child(&mut self, parent: u32) -> u32 {
        if let Some(child) = self.any(parent) {
            return child;
        }
        let child = self.node();
        if let Some(node) = self.nodes.get_mut(parent as usize) {
            node.any = child;
        }
        child
    }

    fn slot_child(&mut self, parent: u32, slot: u16) -> u32 {
        let known = self.slots(parent).iter().find(|(known, _)| *known == slot);
        if let Some((_, child)) = known {
            return *child;
        }
        let child = self.node();
        if let Some(node) = self.nodes.get_mut(parent as usize) {
            node.slots.push((slot, child));
        }
        child
    }

    /// The child of a node by a literal level.
    pub(crate) fn literal(&self, parent: u32, level: &str) -> Option<u32> {
        #[cfg(test)]
        looked::inc();
        let level = level.as_bytes();
        let hash = self.hasher.hash_one((parent, level));
        let edge = self.table.find(hash, |edge| {
            self.edges
                .get(*edge as usize)
                .is_some_and(|edge| edge.parent == parent && &*edge.level == level)
        })?;
        self.edges.get(*edge as usize).map(|edge| edge.child)
    }

    /// The child of a node by `+`.
    pub(crate) fn any(&self, node: u32) -> Option<u32> {
        #[cfg(test)]
        looked::inc();
        let any = self.nodes.get(node as usize)?.any;
        (any != NONE).then_some(any)
    }

    /// The children of a node by placeholder.
    pub(crate) fn slots(&self, node: u32) -> &[(u16, u32)] {
        self.nodes.get(node as usize).map_or(&[], |n| &n.slots)
    }

    /// The literal levels that lead on from a node, and where to.
    pub(crate) fn literals(&self, node: u32) -> impl Iterator<Item = (&str, u32)> {
        let first = self.nodes.get(node as usize).map_or(NONE, |n| n.first);
        let edges = std::iter::successors(self.edges.get(first as usize), |edge| {
            self.edges.get(edge.next as usize)
        });
        edges.map(|edge| {
            #[cfg(test)]
            looked::inc();
            let level = std::str::from_utf8(&edge.level).unwrap_or_default();
            (level, edge.child)
        })
    }

    /// Whether there are allows, and denies, at a node or further down.
    pub(crate) fn below(&self, node: u32, asked: Asked) -> (bool, bool) {
        #[cfg(test)]
        looked::inc();
        let below = self.nodes.get(node as usize).map_or(0, |n| n.below);
        (below & asked.allow() != 0, below & asked.deny() != 0)
    }

    /// What is said of a topic that ends at a node.
    pub(crate) fn at_end(&self, node: u32, asked: Asked) -> Said {
        let place = self.nodes.get(node as usize).map_or(NONE, |n| n.end);
        self.said(place, asked)
    }

    /// What a `#` at a node says of every topic that comes by.
    pub(crate) fn at_rest(&self, node: u32, asked: Asked) -> Said {
        let place = self.nodes.get(node as usize).map_or(NONE, |n| n.rest);
        self.said(place, asked)
    }

    fn said(&self, place: u32, asked: Asked) -> Said {
        #[cfg(test)]
        looked::inc();
        let effects = self.effects.get(place as usize);
        let of = |table: Option<&[u32; 4]>| {
            let rule = table.and_then(|table| table.get(asked as usize));
            rule.copied().unwrap_or(NONE)
        };
        Said {
            allow: of(effects.map(|e| &e.allow)),
            deny: of(effects.map(|e| &e.deny)),
        }
    }

    /// Which slots the rules name.
    pub(crate) fn slots_used(&self) -> &[u16] {
        &self.slots_used
    }

    fn find_slots(&self) -> Box<[u16]> {
        let nodes = self.nodes.iter().flat_map(|node| node.slots.iter());
        let groups = self.shares.iter().filter_map(|(group, _, _)| match group {
            Level::Slot(number) => Some(*number),
            Level::Literal(_) | Level::Any | Level::Rest => None,
        });
        let mut used: Vec<u16> = nodes.map(|(number, _)| *number).chain(groups).collect();
        used.sort_unstable();
        used.dedup();
        used.into()
    }

    /// What the rules say of a concrete topic. Stops at the first deny.
    pub(crate) fn decide(&self, asked: Asked, topic: &str, values: &Values) -> Said {
        let mut walk = Walk {
            trie: self,
            asked,
            values,
            allow: NONE,
        };
        let deny = walk.root(topic);
        Said {
            allow: walk.allow,
            deny: deny.unwrap_or(NONE),
        }
    }

    /// What the rules say of joining a group. `+` and `#` stand for any group.
    pub(crate) fn share(&self, group: &str, values: &Values) -> Said {
        let mut said = Said {
            allow: NONE,
            deny: NONE,
        };
        for (level, effect, rule) in &self.shares {
            let matches = match level {
                Level::Literal(name) => &**name == group,
                Level::Any | Level::Rest => true,
                Level::Slot(number) => match value(values, *number) {
                    Some(value) => value == group,
                    None => *effect == Effect::Deny,
                },
            };
            if matches {
                let place = match effect {
                    Effect::Allow => &mut said.allow,
                    Effect::Deny => &mut said.deny,
                };
                *place = (*rule).min(*place);
            }
        }
        said
    }
}

/// The safe value of a slot.
pub(crate) fn value(values: &Values, slot: u16) -> Option<&str> {
    values.get(usize::from(slot))?.as_deref()
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

struct Walk<'a> {
    trie: &'a Trie,
    asked: Asked,
    values: &'a Values,
    allow: u32,
}

impl Walk<'_> {
    fn root(&mut self, topic: &str) -> Option<u32> {
        // A leading wildcard, and what counts as one, does not touch `$`-topics.
        if topic.starts_with('$') {
            let (level, rest) = cut(topic);
            return match self.trie.literal(ROOT, level) {
                Some(child) => self.visit(child, rest, false),
                None => None,
            };
        }
        self.visit(ROOT, Some(topic), false)
    }

    /// Walks on from `node`, where `topic` is what remains; `None` at its end. Returns the rule
    /// that denies. `only_denies` holds below a placeholder without a safe value.
    fn visit(&mut self, node: u32, topic: Option<&str>, only_denies: bool) -> Option<u32> {
        #[cfg(test)]
        looked::inc();
        let trie = self.trie;
        let here = trie.nodes.get(node as usize)?;
        let mut wanted = self.asked.deny();
        if self.allow == NONE && !only_denies {
            wanted |= self.asked.allow();
        }
        if here.below & wanted == 0 {
            return None;
        }
        if here.rest != NONE
            && let Some(deny) = self.take(here.rest, only_denies)
        {
            return Some(deny);
        }
        let Some(topic) = topic else {
            return if here.end == NONE {
                None
            } else {
                self.take(here.end, only_denies)
            };
        };
        let (level, rest) = cut(topic);
        if here.first != NONE
            && let Some(child) = trie.literal(node, level)
            && let Some(deny) = self.visit(child, rest, only_denies)
        {
            return Some(deny);
        }
        if here.any != NONE
            && let Some(deny) = self.visit(here.any, rest, only_denies)
        {
            return Some(deny);
        }
        for (slot, child) in &here.slots {
            let deny = match value(self.values, *slot) {
                Some(value) if value == level => self.visit(*child, rest, only_denies),
                Some(_) => None,
                None => self.visit(*child, rest, true),
            };
            if deny.is_some() {
                return deny;
            }
        }
        None
    }

    fn take(&mut self, place: u32, only_denies: bool) -> Option<u32> {
        let said = self.trie.said(place, self.asked);
        if said.deny != NONE {
            return Some(said.deny);
        }
        if !only_denies {
            self.allow = self.allow.min(said.allow);
        }
        None
    }
}

/// The first level of a topic, and what follows if something does.
fn cut(topic: &str) -> (&str, Option<&str>) {
    match topic.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (topic, None),
    }
}

/// How often this thread has looked at a part of a trie: what the bounds on work are held against.
#[cfg(test)]
pub(crate) mod looked {
    use std::cell::Cell;

    /// A bound that does not hold is seen, and not waited for.
    const TOO_OFTEN: u64 = 1 << 26;

    thread_local!(static LOOKED: Cell<u64> = const { Cell::new(0) });

    pub(super) fn inc() {
        LOOKED.set(LOOKED.get() + 1);
        assert!(LOOKED.get() < TOO_OFTEN, "a walk without an end");
    }

    /// How often `run` looks.
    pub(crate) fn count(run: impl FnOnce()) -> u64 {
        LOOKED.set(0);
        run();
        LOOKED.get()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::pattern::{Slots, topic};

    /// Every third line is a deny, or all of them are.
    fn trie(patterns: &[String], every: u32) -> Trie {
        let mut trie = Trie::new([]);
        let mut slots = Slots::default();
        for (number, pattern) in (0..).zip(patterns) {
            let levels = topic(pattern, &mut slots).map_err(|c| c.message);
            let effect = match number % every {
                0 => Effect::Deny,
                _ => Effect::Allow,
            };
            trie.insert(&levels.unwrap(), Asked::Publish, effect, number);
        }
        trie
    }

    /// Each node is reached by one way only: the work of a decision is bounded by the lines, whatever
    /// the topic is and however the lines overlap.
    fn looks_at_each_node_once(patterns: &[String], topic: &str) {
        for every in [3, 1] {
            let trie = trie(patterns, every);
            for values in [vec![None, None], vec![Some("a".into()), None]] {
                let looks = looked::count(|| {
                    let _ = trie.decide(Asked::Publish, topic, &values);
                });
                // The node itself, its literal child, and what is said there.
                let most = 4 * trie.size() as u64;
                assert!(looks <= most, "{looks} for {} nodes", trie.size());
            }
        }
    }

    #[test]
    fn a_topic_of_64_levels_meets_no_more_nodes_than_there_are() {
        // Every way to write the first twelve levels, and then all of the same: each line matches.
        let patterns: Vec<String> = (0..1 << 12)
            .map(|choice: u32| {
                let level = |at: u32| match choice >> at.min(11) & 1 {
                    0 => "+",
                    _ if at < 12 => "a",
                    _ => "{name}",
                };
                let levels: Vec<&str> = (0..63).map(level).collect();
                levels.join("/")
            })
            .collect();
        looks_at_each_node_once(&patterns, &["a"; 63].join("/"));
        // Every line goes on by what the topic has not: no deny is found, and nothing ends the walk.
        let endings: Vec<String> = patterns.iter().map(|line| format!("{line}/z")).collect();
        looks_at_each_node_once(&endings, &["a"; 64].join("/"));
    }

    proptest! {
        #[test]
        fn no_topic_makes_a_walk_longer_than_the_lines_are(
            patterns in prop::collection::vec(
                prop::collection::vec(select(vec!["a", "b", "+", "{name}", "{listener}"]), 1..12),
                1..60,
            ),
            topic in prop::collection::vec(select(vec!["a", "b", "c"]), 1..64),
        ) {
            let patterns: Vec<String> = patterns.iter().map(|levels| levels.join("/")).collect();
            looks_at_each_node_once(&patterns, &topic.join("/"));
            // Nothing that is found ends the walk.
            let endings: Vec<String> = patterns.iter().map(|line| format!("{line}/z")).collect();
            looks_at_each_node_once(&endings, &topic.join("/"));
        }
    }
}
