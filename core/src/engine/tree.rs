//! The subscription tree: which subscriptions match a topic.
//!
//! Sharded by the first level, so that a client that subscribes in a loop disturbs neither other
//! shards nor the caches of those who publish there; filters that begin with a wildcard have a
//! shard of their own. Each shard has a version that moves when an answer may have changed:
//! whoever keeps an answer compares versions and needs no lock.
//!
//! Compact, because there may be millions: a radix tree whose nodes hold one wildcard or a run of
//! literal levels, in 64 bytes unless the run is long. Children are found through one table per
//! shard. The filter's text is not stored but read back from the path.
//!
//! With so many, a lookup waits for memory and for little else: a line of the table and one of the
//! node, for each level that is not shared by many. So an entry holds all that a delivery asks about
//! a subscription, and a batch of topics is [warmed](Tree::warm) before it is looked up.
//!
//! Here are the shards, what an entry says, and the lookup over two of them; in `body` the nodes of one
//! shard and how they are walked, in `node` and `path` what it is made of, in `nodes` and `index` where
//! nodes and their children are kept.
//!
//! Locks: a session's lock may be held while a shard's is taken, never the other way round.

mod body;
mod index;
mod node;
mod nodes;
mod path;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use crate::topic::{TopicFilter, TopicName};
use crate::wire::SubscribeOptions;

use super::session::{Covered, Session};

use body::{Body, Found, Hasher, Warm};
use node::ROOT;
use path::first;

const SHARDS: u16 = 64;

/// The shard of filters that begin with a wildcard.
const WILD: u16 = SHARDS;

/// Answers with more targets are not kept: computing them again costs less than the fan-out.
const CACHED_TARGETS: usize = 8192;

/// Topics that are warmed together.
pub(crate) const AHEAD: usize = 32;

/// A shard with fewer nodes fits into the caches of a processor; tests warm much smaller ones.
const LARGE: usize = if cfg!(test) { 4 } else { 1 << 14 };

/// A subscription as the tree knows it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) session: Arc<Session>,
    pub(crate) claim: Claim,
}

/// A subscription as it was made. The truth is in the session's own table;
/// `State::standing` says whether it must be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// The place in that table, with the number that tells a reused place apart.
    pub(crate) slot: Slot,
    /// `None` where a delivery needs to know more.
    pub(crate) terms: Option<Terms>,
}

/// What a delivery asks about most subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) options: SubscribeOptions,
    pub(crate) cover: Covered,
    /// `State::changes` at that time.
    pub(crate) changes: u8,
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

impl PartialEq for ShareGroup {
    /// There is only one of its name at its filter.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for ShareGroup {}

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
    pub(crate) claims: SmallVec<[Claim; 1]>,
}

pub(crate) struct Tree {
    shards: Box<[Shard]>,
    hasher: Hasher,
    /// A shard is or was [`LARGE`].
    large: AtomicBool,
}

struct Shard {
    version: AtomicU64,
    body: RwLock<Body>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let shard = || Shard {
            version: AtomicU64::new(1),
            body: RwLock::new(Body::new()),
        };
        Self {
            shards: (0..=SHARDS).map(|_| shard()).collect(),
            hasher: Hasher::default(),
            large: AtomicBool::new(false),
        }
    }

    fn shard_of(&self, topic: &[u8]) -> u16 {
        // The remainder is below SHARDS.
        u16::try_from(self.hasher.hash_one(first(topic)) % u64::from(SHARDS)).unwrap_or_default()
    }

    fn shard(&self, number: u16) -> Option<&Shard> {
        self.shards.get(usize::from(number))
    }

    fn place(&self, filter: &str) -> u16 {
        if filter.starts_with(['+', '#']) {
            WILD
        } else {
            self.shard_of(filter.as_bytes())
        }
    }

    /// The filter's name in the tree, if anybody subscribed to it.
    pub(crate) fn find(&self, filter: TopicFilter<'_>) -> Option<FilterRef> {
        let filter = filter.filter();
        let shard = self.place(filter);
        let node = self
            .shard(shard)?
            .body
            .read()
            .find(&self.hasher, filter.as_bytes())?;
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
        let node = body.enter(&self.hasher, text.as_bytes())?;
        if body.nodes.len() >= LARGE && !self.is_large() {
            self.large.store(true, Ordering::Relaxed);
        }
        let name = FilterRef { shard: place, node };
        let Some(group) = filter.share() else {
            body.nodes.get_mut(node)?.entries.push(entry);
            shard.version.fetch_add(1, Ordering::Release);
            return Some((name, None));
        };
        let groups = body.groups.entry(node).or_default();
        if let Some(known) = groups.iter().find(|known| *known.name == *group) {
            // The group's members are read live: nobody's answer changes.
            Arc::make_mut(&mut *known.members.lock()).push(entry);
            return Some((name, Some(Arc::clone(known))));
        }
        let group = Arc::new(ShareGroup {
            name: group.into(),
            members: Mutex::new(Arc::new(vec![entry])),
            next: AtomicUsize::new(0),
        });
        groups.push(Arc::clone(&group));
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
        let mine = |entry: &Entry| Arc::ptr_eq(&entry.session, session) && entry.claim.slot == slot;
        match group {
            None => {
                let Some(node) = body.nodes.get_mut(name.node) else {
                    return;
                };
                node.entries.remove(mine);
            }
            Some(group) => {
                let mut members = group.members.lock();
                Arc::make_mut(&mut *members).retain(|entry| !mine(entry));
                if members.is_empty()
                    && let Some(groups) = body.groups.get_mut(&name.node)
                {
                    groups.retain(|known| !Arc::ptr_eq(known, group));
                    if groups.is_empty() {
                        body.groups.remove(&name.node);
                    }
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
        shard.body.read().text(name.node)
    }

    /// Whether a kept answer for this very topic is still right.
    pub(crate) fn is_current(&self, matched: &Matched) -> bool {
        let version = |number| {
            self.shard(number)
                .map(|shard| shard.version.load(Ordering::Acquire))
        };
        version(matched.literal.0) == Some(matched.literal.1) && version(WILD) == Some(matched.wild)
    }

    /// Whether there is so much that [`Self::warm`] may help.
    pub(crate) fn is_large(&self) -> bool {
        self.large.load(Ordering::Relaxed)
    }

    /// Brings what lookups of these topics will read into the processor's caches, so that it waits for
    /// the memory of all of them at once. Changes no answer; the topics need not be valid.
    pub(crate) fn warm(&self, topics: &[&[u8]]) {
        let mut left: SmallVec<[(Option<u16>, &[u8]); AHEAD]> = SmallVec::new();
        left.extend(
            topics
                .iter()
                .map(|topic| (Some(self.shard_of(topic)), *topic)),
        );
        for at in 0..left.len() {
            let Some((Some(number), _)) = left.get(at).copied() else {
                continue;
            };
            let mut open: Warm<'_, u32> = SmallVec::new();
            for (shard, topic) in left.iter_mut().skip(at) {
                if *shard == Some(number) {
                    *shard = None;
                    open.push((ROOT, *topic));
                }
            }
            if let Some(shard) = self.shard(number)
                && open.len() > 1
            {
                let body = shard.body.read();
                if body.nodes.len() >= LARGE {
                    body.warm(&self.hasher, &mut open, &mut |_| {});
                }
            }
        }
    }

    /// Everybody who subscribed to a topic, and whether the answer is worth keeping.
    pub(crate) fn lookup(&self, topic: TopicName<'_>) -> (Matched, bool) {
        let number = self.shard_of(topic.as_str().as_bytes());
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
        if entries.len() > 1 {
            entries.sort_by_key(|entry| Arc::as_ptr(&entry.session).addr());
        }
        let mut targets: Vec<Target> = Vec::with_capacity(entries.len());
        for Entry { session, claim } in entries {
            match targets.last_mut() {
                Some(last) if Arc::ptr_eq(&last.session, &session) => last.claims.push(claim),
                _ => targets.push(Target {
                    session,
                    claims: SmallVec::from_slice(&[claim]),
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
        body.visit(&self.hasher, topic.as_str().as_bytes(), &mut |node| {
            body.collect(node, found);
        });
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
