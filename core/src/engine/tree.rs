//! The subscription tree: which subscriptions match a topic.
//!
//! Sharded by the first level, so that a client that subscribes in a loop disturbs neither other
//! shards nor the caches of those who publish there; filters that begin with a wildcard have a
//! shard of their own. Each shard has a version that moves when an answer may have changed:
//! whoever keeps an answer compares versions and needs no lock.
//!
//! Compact: a node per level, children found through one table per shard; the filter's text is
//! not stored but read back from the path.
//!
//! Locks: a session's lock may be held while a shard's is taken, never the other way round.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::{Mutex, RwLock};
use slab::Slab;
use smallvec::SmallVec;

use crate::topic::{TopicFilter, TopicName};

use super::session::Session;

const SHARDS: u16 = 64;

/// The shard of filters that begin with a wildcard.
const WILD: u16 = SHARDS;

/// Answers with more targets are not kept: computing them again costs less than the fan-out.
const CACHED_TARGETS: usize = 8192;

/// A subscription as the tree knows it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) session: Arc<Session>,
    /// The place in the session's own table, with the number that tells a reused place apart.
    pub(crate) slot: Slot,
}

/// Names a subscription within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) place: u32,
    pub(crate) serial: u32,
}

/// Names a filter in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FilterRef {
    shard: u16,
    node: u32,
}

/// The members of one shared subscription.
pub(crate) struct ShareGroup {
    pub(crate) name: Box<str>,
    /// Replaced in whole when it changes, so that a message copies no list.
    members: Mutex<Arc<Vec<Entry>>>,
    next: AtomicUsize,
}

impl std::fmt::Debug for ShareGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShareGroup")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ShareGroup {
    /// The members, and whose turn it is \[MQTT-4.8.2-4\].
    pub(crate) fn turn(&self) -> (Arc<Vec<Entry>>, usize) {
        let members = Arc::clone(&self.members.lock());
        let first = self.next.fetch_add(1, Ordering::Relaxed) % members.len().max(1);
        (members, first)
    }
}

/// Everybody who subscribed to one topic, as of two shard versions.
pub(crate) struct Matched {
    literal: (u16, u64),
    wild: u64,
    pub(crate) targets: Box<[Target]>,
    pub(crate) shares: Box<[Arc<ShareGroup>]>,
}

/// A session with those of its subscriptions that match.
pub(crate) struct Target {
    pub(crate) session: Arc<Session>,
    pub(crate) slots: SmallVec<[Slot; 1]>,
}

pub(crate) struct Tree {
    shards: Box<[Shard]>,
    hasher: foldhash::fast::RandomState,
}

struct Shard {
    version: AtomicU64,
    body: RwLock<Body>,
}

struct Body {
    nodes: Slab<Node>,
    /// Node numbers, found by parent and level.
    children: HashTable<u32>,
}

#[derive(Default)]
struct Node {
    parent: u32,
    children: u32,
    level: Box<str>,
    plus: Option<u32>,
    hash: Option<u32>,
    entries: SmallVec<[Entry; 1]>,
    groups: Vec<Arc<ShareGroup>>,
}

const ROOT: u32 = 0;

impl Tree {
    pub(crate) fn new() -> Self {
        let shard = || Shard {
            version: AtomicU64::new(1),
            body: RwLock::new(Body {
                nodes: Slab::from_iter([(ROOT as usize, Node::default())]),
                children: HashTable::new(),
            }),
        };
        Self {
            shards: (0..=SHARDS).map(|_| shard()).collect(),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    fn shard_of(&self, topic: &str) -> u16 {
        let first = topic.split('/').next().unwrap_or_default();
        // The remainder is below SHARDS.
        u16::try_from(self.hasher.hash_one(first) % u64::from(SHARDS)).unwrap_or_default()
    }

    fn shard(&self, number: u16) -> Option<&Shard> {
        self.shards.get(usize::from(number))
    }

    fn place(&self, filter: &str) -> u16 {
        if filter.starts_with(['+', '#']) {
            WILD
        } else {
            self.shard_of(filter)
        }
    }

    /// The filter's name in the tree, if anybody subscribed to it.
    pub(crate) fn find(&self, filter: TopicFilter<'_>) -> Option<FilterRef> {
        let filter = filter.filter();
        let shard = self.place(filter);
        let body = self.shard(shard)?.body.read();
        let mut node = ROOT;
        for level in filter.split('/') {
            node = body.child(&self.hasher, node, level)?;
        }
        Some(FilterRef { shard, node })
    }

    /// Adds a subscription; a shared one joins its group.
    pub(crate) fn add(
        &self,
        filter: TopicFilter<'_>,
        entry: Entry,
    ) -> Option<(FilterRef, Option<Arc<ShareGroup>>)> {
        let text = filter.filter();
        let place = self.place(text);
        let shard = self.shard(place)?;
        let mut body = shard.body.write();
        let mut node = ROOT;
        for level in text.split('/') {
            node = match body.child(&self.hasher, node, level) {
                Some(child) => child,
                None => body.grow(&self.hasher, node, level)?,
            };
        }
        let name = FilterRef { shard: place, node };
        let here = body.nodes.get_mut(node as usize)?;
        let Some(group) = filter.share() else {
            here.entries.push(entry);
            shard.version.fetch_add(1, Ordering::Release);
            return Some((name, None));
        };
        if let Some(known) = here.groups.iter().find(|known| *known.name == *group) {
            // The group's members are read live: nobody's answer changes.
            Arc::make_mut(&mut *known.members.lock()).push(entry);
            return Some((name, Some(Arc::clone(known))));
        }
        let group = Arc::new(ShareGroup {
            name: group.into(),
            members: Mutex::new(Arc::new(vec![entry])),
            next: AtomicUsize::new(0),
        });
        here.groups.push(Arc::clone(&group));
        shard.version.fetch_add(1, Ordering::Release);
        Some((name, Some(group)))
    }

    /// Takes a subscription out, and the nodes that nobody needs any more.
    pub(crate) fn remove(
        &self,
        name: FilterRef,
        group: Option<&Arc<ShareGroup>>,
        session: &Arc<Session>,
        slot: Slot,
    ) {
        let Some(shard) = self.shard(name.shard) else {
            return;
        };
        let mut body = shard.body.write();
        let Some(node) = body.nodes.get_mut(name.node as usize) else {
            return;
        };
        let mine = |entry: &Entry| Arc::ptr_eq(&entry.session, session) && entry.slot == slot;
        match group {
            None => {
                if let Some(place) = node.entries.iter().position(mine) {
                    node.entries.swap_remove(place);
                }
                if node.entries.is_empty() {
                    node.entries.shrink_to_fit();
                }
            }
            Some(group) => {
                let mut members = group.members.lock();
                Arc::make_mut(&mut *members).retain(|entry| !mine(entry));
                if members.is_empty() {
                    node.groups.retain(|known| !Arc::ptr_eq(known, group));
                    node.groups.shrink_to_fit();
                }
            }
        }
        body.prune(&self.hasher, name.node);
        shard.version.fetch_add(1, Ordering::Release);
    }

    /// The filter's text, without a `$share` prefix.
    pub(crate) fn text(&self, name: FilterRef) -> String {
        let Some(shard) = self.shard(name.shard) else {
            return String::new();
        };
        let body = shard.body.read();
        let mut levels: SmallVec<[&str; 8]> = SmallVec::new();
        let mut number = name.node;
        while number != ROOT {
            let Some(node) = body.nodes.get(number as usize) else {
                break;
            };
            levels.push(&node.level);
            number = node.parent;
        }
        levels.reverse();
        levels.join("/")
    }

    /// Whether a kept answer for this very topic is still right.
    pub(crate) fn is_current(&self, matched: &Matched) -> bool {
        let version = |number| {
            self.shard(number)
                .map(|shard| shard.version.load(Ordering::Acquire))
        };
        version(matched.literal.0) == Some(matched.literal.1) && version(WILD) == Some(matched.wild)
    }

    /// Everybody who subscribed to a topic, and whether the answer is worth keeping.
    pub(crate) fn lookup(&self, topic: TopicName<'_>) -> (Matched, bool) {
        let number = self.shard_of(topic.as_str());
        let mut found = Found::default();
        // Versions are read before the bodies: a change in between makes the answer stale at once.
        let version = self.walk(number, topic, &mut found);
        let wild = if topic.is_reserved() {
            self.shard(WILD)
                .map_or(0, |shard| shard.version.load(Ordering::Acquire))
        } else {
            self.walk(WILD, topic, &mut found)
        };
        let mut entries = found.entries;
        entries.sort_by_key(|entry| Arc::as_ptr(&entry.session).addr());
        let mut targets: Vec<Target> = Vec::with_capacity(entries.len());
        for Entry { session, slot } in entries {
            match targets.last_mut() {
                Some(last) if Arc::ptr_eq(&last.session, &session) => last.slots.push(slot),
                _ => targets.push(Target {
                    session,
                    slots: SmallVec::from_slice(&[slot]),
                }),
            }
        }
        let worth_keeping = targets.len() <= CACHED_TARGETS;
        let matched = Matched {
            literal: (number, version),
            wild,
            targets: targets.into(),
            shares: found.shares.into(),
        };
        (matched, worth_keeping)
    }

    fn walk(&self, number: u16, topic: TopicName<'_>, found: &mut Found) -> u64 {
        let Some(shard) = self.shard(number) else {
            return 0;
        };
        let version = shard.version.load(Ordering::Acquire);
        let body = shard.body.read();
        // Nodes that match the levels so far.
        let mut front: SmallVec<[u32; 16]> = SmallVec::from_slice(&[ROOT]);
        let mut next: SmallVec<[u32; 16]> = SmallVec::new();
        for level in topic.as_str().split('/') {
            next.clear();
            for number in &front {
                let Some(node) = body.nodes.get(*number as usize) else {
                    continue;
                };
                if let Some(hash) = node.hash {
                    body.collect(hash, found);
                }
                next.extend(node.plus);
                if node.children > 0 {
                    next.extend(body.literal(&self.hasher, *number, level));
                }
            }
            std::mem::swap(&mut front, &mut next);
            if front.is_empty() {
                return version;
            }
        }
        for number in front {
            body.collect(number, found);
            // `a/#` matches `a` too.
            if let Some(hash) = body.nodes.get(number as usize).and_then(|node| node.hash) {
                body.collect(hash, found);
            }
        }
        version
    }

    /// Nodes in all shards; for tests of what is left behind.
    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.body.read().nodes.len() - 1)
            .sum()
    }
}

#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    shares: Vec<Arc<ShareGroup>>,
}

impl Body {
    fn hash(hasher: &foldhash::fast::RandomState, parent: u32, level: &str) -> u64 {
        hasher.hash_one((parent, level))
    }

    fn literal(
        &self,
        hasher: &foldhash::fast::RandomState,
        parent: u32,
        level: &str,
    ) -> Option<u32> {
        self.children
            .find(Self::hash(hasher, parent, level), |child| {
                self.nodes
                    .get(*child as usize)
                    .is_some_and(|node| node.parent == parent && *node.level == *level)
            })
            .copied()
    }

    fn child(&self, hasher: &foldhash::fast::RandomState, parent: u32, level: &str) -> Option<u32> {
        let node = self.nodes.get(parent as usize)?;
        match level {
            "+" => node.plus,
            "#" => node.hash,
            _ => self.literal(hasher, parent, level),
        }
    }

    /// Adds a child; `None` only if there were more than 2^32 nodes.
    fn grow(
        &mut self,
        hasher: &foldhash::fast::RandomState,
        parent: u32,
        level: &str,
    ) -> Option<u32> {
        let number = u32::try_from(self.nodes.vacant_key()).ok()?;
        let above = self.nodes.get_mut(parent as usize)?;
        match level {
            "+" => above.plus = Some(number),
            "#" => above.hash = Some(number),
            _ => above.children += 1,
        }
        self.nodes.insert(Node {
            parent,
            level: level.into(),
            ..Node::default()
        });
        if level != "+" && level != "#" {
            let nodes = &self.nodes;
            self.children
                .insert_unique(Self::hash(hasher, parent, level), number, |child| {
                    nodes
                        .get(*child as usize)
                        .map_or(0, |node| Self::hash(hasher, node.parent, &node.level))
                });
        }
        Some(number)
    }

    /// Removes a node without entries and children, then its parent if that is now so, ...
    fn prune(&mut self, hasher: &foldhash::fast::RandomState, mut number: u32) {
        while number != ROOT {
            let Some(node) = self.nodes.get(number as usize) else {
                return;
            };
            let needed = !node.entries.is_empty()
                || !node.groups.is_empty()
                || node.children > 0
                || node.plus.is_some()
                || node.hash.is_some();
            if needed {
                return;
            }
            let gone = self.nodes.remove(number as usize);
            let Some(above) = self.nodes.get_mut(gone.parent as usize) else {
                return;
            };
            match &*gone.level {
                "+" => above.plus = None,
                "#" => above.hash = None,
                level => {
                    above.children -= 1;
                    let hash = Self::hash(hasher, gone.parent, level);
                    if let Ok(found) = self.children.find_entry(hash, |child| *child == number) {
                        found.remove();
                    }
                }
            }
            number = gone.parent;
        }
    }

    fn collect(&self, number: u32, found: &mut Found) {
        if let Some(node) = self.nodes.get(number as usize) {
            found.entries.extend(node.entries.iter().cloned());
            found.shares.extend(node.groups.iter().cloned());
        }
    }
}
