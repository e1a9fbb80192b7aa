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
//! Locks: a session's lock may be held while a shard's is taken, never the other way round.

mod index;
mod nodes;

use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use crate::topic::{TopicFilter, TopicName};
use crate::wire::SubscribeOptions;

use super::session::{Covered, Session};

use index::Index;
use nodes::Nodes;

const SHARDS: u16 = 64;

/// The shard of filters that begin with a wildcard.
const WILD: u16 = SHARDS;

/// Answers with more targets are not kept: computing them again costs less than the fan-out.
const CACHED_TARGETS: usize = 8192;

/// Topics that are warmed together.
pub(crate) const AHEAD: usize = 32;

/// A shard with fewer nodes fits into the caches of a processor; tests warm much smaller ones.
const LARGE: usize = if cfg!(test) { 4 } else { 1 << 14 };

/// Levels that are warmed.
const WARM_LEVELS: usize = 16;

/// Nodes of one level that are warmed, for all topics together.
const WARM_NODES: usize = 2 * AHEAD;

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

struct Body {
    nodes: Nodes,
    /// Node numbers, found by parent and level.
    children: Index,
    /// The shared subscriptions of a node; few have any.
    groups: HashMap<u32, Vec<Arc<ShareGroup>>, foldhash::fast::FixedState>,
}

#[derive(Default)]
#[repr(align(64))]
struct Node {
    parent: u32,
    /// How many literal children it has; no two begin with the same level.
    children: u32,
    /// The child `+`, the child `#`; [`ROOT`], which is nobody's child, where there is none.
    plus: u32,
    hash: u32,
    label: Label,
    entries: Entries,
}

/// Who subscribed to one filter; mostly one.
#[derive(Default)]
enum Entries {
    #[default]
    None,
    One(Entry),
    #[expect(clippy::box_collection, reason = "a node is 64 bytes")]
    Many(Box<Vec<Entry>>),
}

impl Entries {
    fn as_slice(&self) -> &[Entry] {
        match self {
            Self::None => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    fn push(&mut self, entry: Entry) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(entry),
            Self::One(first) => Self::Many(Box::new(vec![first, entry])),
            Self::Many(mut entries) => {
                entries.push(entry);
                Self::Many(entries)
            }
        };
    }

    /// Takes one out.
    fn remove(&mut self, is: impl Fn(&Entry) -> bool) {
        *self = match std::mem::take(self) {
            Self::One(entry) if !is(&entry) => Self::One(entry),
            Self::None | Self::One(_) => Self::None,
            Self::Many(mut entries) => {
                if let Some(place) = entries.iter().position(is) {
                    entries.swap_remove(place);
                }
                if entries.len() > 1 {
                    Self::Many(entries)
                } else {
                    entries.pop().map_or(Self::None, Self::One)
                }
            }
        };
    }
}

const ROOT: u32 = 0;

/// `+`, `#`, or literal levels with their separators.
enum Label {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

/// Longest label that needs no memory of its own, bytes.
const SHORT: usize = 22;

impl Default for Label {
    fn default() -> Self {
        Self::new(b"")
    }
}

impl Label {
    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(text);
                Self::Short { length, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// The first level of a path.
fn first(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Levels that are still to be walked; `None` at the end, which is not the same as one empty level.
type Rest<'a> = Option<&'a [u8]>;

/// What follows `label` in `path`, if the path begins with these very levels.
fn after<'a>(path: &'a [u8], label: &[u8]) -> Option<Rest<'a>> {
    match path.strip_prefix(label)? {
        [] => Some(None),
        [b'/', rest @ ..] => Some(Some(rest)),
        _ => None,
    }
}

fn is_wildcard(level: &[u8]) -> bool {
    matches!(level, b"+" | b"#")
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
        if body.nodes.len() == LARGE {
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

#[derive(Default)]
struct Found {
    entries: SmallVec<[Entry; 4]>,
    shares: Vec<Arc<ShareGroup>>,
}

/// Topics, or what is left of them, each with a node or the hash of one.
type Warm<'a, T> = SmallVec<[(T, &'a [u8]); AHEAD]>;

type Hasher = foldhash::fast::RandomState;

impl Body {
    fn new() -> Self {
        let mut nodes = Nodes::default();
        // The first number is that of the root.
        nodes.insert(Node::default());
        Self {
            nodes,
            children: Index::default(),
            groups: HashMap::default(),
        }
    }

    fn hash(hasher: &Hasher, parent: u32, level: &[u8]) -> u64 {
        hasher.hash_one((parent, level))
    }

    /// The literal child that begins with this level.
    fn literal(&self, hasher: &Hasher, parent: u32, level: &[u8]) -> Option<(u32, &Node)> {
        let number = self
            .children
            .find(Self::hash(hasher, parent, level), |child| {
                self.nodes
                    .get(child)
                    .is_some_and(|node| node.parent == parent && first(node.label.bytes()) == level)
            })?;
        Some((number, self.nodes.get(number)?))
    }

    /// The node where a filter ends.
    fn find(&self, hasher: &Hasher, filter: &[u8]) -> Option<u32> {
        let mut number = ROOT;
        let mut rest = Some(filter);
        while let Some(path) = rest {
            let node = self.nodes.get(number)?;
            let level = first(path);
            (number, rest) = match level {
                b"+" if node.plus != ROOT => (node.plus, after(path, level)?),
                b"#" if node.hash != ROOT => (node.hash, after(path, level)?),
                level if !is_wildcard(level) => {
                    let (child, node) = self.literal(hasher, number, level)?;
                    (child, after(path, node.label.bytes())?)
                }
                _ => return None,
            };
        }
        Some(number)
    }

    /// The same; what is missing is added. `None` only if there were more than 2^32 nodes.
    fn enter(&mut self, hasher: &Hasher, filter: &[u8]) -> Option<u32> {
        let mut number = ROOT;
        let mut rest = Some(filter);
        while let Some(path) = rest {
            let level = first(path);
            (number, rest) = if is_wildcard(level) {
                let node = self.nodes.get(number)?;
                let known = if level == b"+" { node.plus } else { node.hash };
                let child = if known == ROOT {
                    self.grow(hasher, number, level)?
                } else {
                    known
                };
                (child, after(path, level)?)
            } else if let Some((child, node)) = self.literal(hasher, number, level) {
                let label = node.label.bytes();
                if let Some(rest) = after(path, label) {
                    (child, rest)
                } else {
                    let common = common(path, label);
                    let above = self.split(hasher, child, common)?;
                    (above, after(path, path.get(..common)?)?)
                }
            } else {
                let run = literal_run(path);
                (self.grow(hasher, number, run)?, after(path, run)?)
            };
        }
        Some(number)
    }

    /// Adds a child.
    fn grow(&mut self, hasher: &Hasher, parent: u32, label: &[u8]) -> Option<u32> {
        let number = self.nodes.vacant()?;
        let above = self.nodes.get_mut(parent)?;
        match label {
            b"+" => above.plus = number,
            b"#" => above.hash = number,
            _ => above.children += 1,
        }
        self.nodes.insert(Node {
            parent,
            label: Label::new(label),
            ..Node::default()
        });
        if !is_wildcard(label) {
            self.link(hasher, number);
        }
        Some(number)
    }

    /// Puts a new node with the first `length` bytes of this one's label between it and its parent.
    /// The old node keeps its number, by which subscriptions know it.
    fn split(&mut self, hasher: &Hasher, lower: u32, length: usize) -> Option<u32> {
        let upper = self.nodes.vacant()?;
        self.unlink(hasher, lower);
        let node = self.nodes.get_mut(lower)?;
        let label = node.label.bytes();
        let (head, tail) = (label.get(..length)?, label.get(length + 1..)?);
        let (head, tail) = (Label::new(head), Label::new(tail));
        node.label = tail;
        let parent = std::mem::replace(&mut node.parent, upper);
        self.nodes.insert(Node {
            parent,
            label: head,
            children: 1,
            ..Node::default()
        });
        self.link(hasher, upper);
        self.link(hasher, lower);
        Some(upper)
    }

    /// Makes a literal node findable from its parent.
    fn link(&mut self, hasher: &Hasher, number: u32) {
        if let Some(node) = self.nodes.get(number) {
            let hash = Self::hash(hasher, node.parent, first(node.label.bytes()));
            self.children.insert(hash, number);
        }
    }

    fn unlink(&mut self, hasher: &Hasher, number: u32) {
        if let Some(node) = self.nodes.get(number) {
            let hash = Self::hash(hasher, node.parent, first(node.label.bytes()));
            self.children.remove(hash, number);
        }
    }

    /// Reads what [`Self::visit`] will for these paths from here on, level by level, and in each level
    /// in loops whose reads do not depend on each other: the processor waits for all of them at once.
    fn warm(&self, hasher: &Hasher, open: &mut Warm<'_, u32>, warmed: &mut impl FnMut(u32)) {
        let mut children: Warm<'_, u64> = SmallVec::new();
        for _ in 0..WARM_LEVELS {
            let nodes = open.iter();
            let nodes = nodes.filter_map(|(number, _)| self.nodes.get(*number));
            black_box(nodes.fold(0, |sum, node| sum ^ node.children));
            let mut below: Warm<'_, u32> = SmallVec::new();
            for (number, path) in open.drain(..) {
                let Some(node) = self.nodes.get(number) else {
                    continue;
                };
                warmed(number);
                let rest = match node.label.bytes() {
                    _ if number == ROOT => Some(Some(path)),
                    b"+" => after(path, first(path)),
                    b"#" => None,
                    label => after(path, label),
                };
                let Some(rest) = rest else { continue };
                if node.hash != ROOT {
                    below.push((node.hash, b""));
                }
                let Some(rest) = rest else { continue };
                if node.plus != ROOT {
                    below.push((node.plus, rest));
                }
                if node.children > 0 {
                    children.push((Self::hash(hasher, number, first(rest)), rest));
                }
            }
            let cells = children.iter().map(|(hash, _)| self.children.touch(*hash));
            black_box(cells.fold(0, |sum, cell| sum ^ cell));
            for (hash, rest) in children.drain(..) {
                // Whether it is the one is seen with the node.
                let child = self.children.find(hash, |_| true);
                below.extend(child.map(|child| (child, rest)));
            }
            below.truncate(WARM_NODES);
            if below.is_empty() {
                return;
            }
            *open = below;
        }
    }

    /// Every node whose filter matches the topic.
    fn visit(&self, hasher: &Hasher, topic: &[u8], found: &mut impl FnMut(u32)) {
        // Nodes that match so far, each with what is left of the topic.
        let mut open: SmallVec<[(u32, Rest<'_>); 16]> = SmallVec::new();
        open.push((ROOT, Some(topic)));
        while let Some((number, rest)) = open.pop() {
            let Some(node) = self.nodes.get(number) else {
                continue;
            };
            // `a/#` matches `a` too.
            if node.hash != ROOT {
                found(node.hash);
            }
            let Some(path) = rest else {
                found(number);
                continue;
            };
            let level = first(path);
            if node.plus != ROOT
                && let Some(rest) = after(path, level)
            {
                open.push((node.plus, rest));
            }
            if node.children > 0
                && let Some((child, node)) = self.literal(hasher, number, level)
                && let Some(rest) = after(path, node.label.bytes())
            {
                open.push((child, rest));
            }
        }
    }

    /// The filter that ends at a node.
    fn text(&self, mut number: u32) -> String {
        let mut labels: SmallVec<[&[u8]; 8]> = SmallVec::new();
        while number != ROOT {
            let Some(node) = self.nodes.get(number) else {
                break;
            };
            labels.push(node.label.bytes());
            number = node.parent;
        }
        labels.reverse();
        // They were cut out of a text at its separators.
        String::from_utf8(labels.join(&b'/')).unwrap_or_default()
    }

    /// Removes a node without entries and children, then its parent if that is now so, ...
    fn prune(&mut self, hasher: &Hasher, mut number: u32) {
        while number != ROOT {
            let Some(node) = self.nodes.get(number) else {
                return;
            };
            let needed = !matches!(node.entries, Entries::None)
                || node.children > 0
                || node.plus != ROOT
                || node.hash != ROOT
                || self.groups.contains_key(&number);
            if needed {
                return;
            }
            if !is_wildcard(node.label.bytes()) {
                self.unlink(hasher, number);
            }
            let Some(gone) = self.nodes.remove(number) else {
                return;
            };
            let Some(above) = self.nodes.get_mut(gone.parent) else {
                return;
            };
            match gone.label.bytes() {
                b"+" => above.plus = ROOT,
                b"#" => above.hash = ROOT,
                _ => above.children -= 1,
            }
            number = gone.parent;
        }
    }

    fn collect(&self, number: u32, found: &mut Found) {
        if let Some(node) = self.nodes.get(number) {
            found
                .entries
                .extend(node.entries.as_slice().iter().cloned());
        }
        if !self.groups.is_empty()
            && let Some(groups) = self.groups.get(&number)
        {
            found.shares.extend(groups.iter().cloned());
        }
    }
}

/// The literal levels that a path begins with.
fn literal_run(path: &[u8]) -> &[u8] {
    let mut length = 0;
    for level in path.split(|byte| *byte == b'/') {
        if is_wildcard(level) {
            // Without the separator in front of it.
            return path.get(..length - 1).unwrap_or_default();
        }
        length += level.len() + 1;
    }
    path
}

/// How many bytes of whole levels two paths have in common; they share the first.
fn common(a: &[u8], b: &[u8]) -> usize {
    let levels = |path| <[u8]>::split(path, |byte| *byte == b'/');
    let shared = levels(a).zip(levels(b)).take_while(|(a, b)| a == b);
    shared.map(|(level, _)| level.len() + 1).sum::<usize>() - 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::topic::matches;

    #[test]
    fn a_node_has_the_size_that_the_memory_per_subscription_is_reckoned_with() {
        // With what tells a vacant place apart.
        assert_eq!(size_of::<Option<Node>>(), 64);
    }

    #[test]
    fn a_label_of_any_length_is_kept() {
        for length in [0, 1, SHORT / 2, SHORT / 2 + 1, 300] {
            let text = "é".repeat(length);
            assert_eq!(Label::new(text.as_bytes()).bytes(), text.as_bytes());
        }
    }

    /// However many nodes match, a bounded number of them is read ahead.
    #[test]
    fn warming_is_bounded() {
        let hasher = Hasher::default();
        let mut body = Body::new();
        let levels = 12;
        for number in 0..1 << levels {
            let filter: Vec<&str> = (0..levels)
                .map(|bit| if number >> bit & 1 == 0 { "a" } else { "+" })
                .collect();
            body.enter(&hasher, filter.join("/").as_bytes());
        }
        let topic = vec!["a"; levels].join("/");
        let mut open = SmallVec::from_elem((ROOT, topic.as_bytes()), AHEAD);
        let mut warmed = 0;
        body.warm(&hasher, &mut open, &mut |_| warmed += 1);
        assert!(warmed <= WARM_LEVELS * WARM_NODES, "{warmed}");
    }

    fn filter() -> impl Strategy<Value = String> {
        "([ab]?|\\+)(/([ab]?|\\+)){0,3}(/#)?"
    }

    proptest! {
        /// Adding and removing in any order, names stay what they were and topics find exactly
        /// the filters that match.
        #[test]
        fn the_tree_is_a_set_of_filters(
            steps in proptest::collection::vec((any::<bool>(), filter()), 1..40),
            topics in proptest::collection::vec("[ab]?(/[ab]?){0,4}", 1..8),
        ) {
            let hasher = Hasher::default();
            let mut body = Body::new();
            let mut oracle: BTreeSet<(String, u32)> = BTreeSet::new();
            for (add, filter) in steps {
                let known = body.find(&hasher, filter.as_bytes());
                let there = oracle.iter().find(|(name, _)| *name == filter).cloned();
                if let Some((_, number)) = &there {
                    prop_assert_eq!(known, Some(*number));
                }
                match (add, there) {
                    (true, None) => {
                        let number = body.enter(&hasher, filter.as_bytes()).unwrap();
                        // Somebody is subscribed.
                        body.groups.insert(number, Vec::new());
                        oracle.insert((filter, number));
                    }
                    (false, Some(gone)) => {
                        body.groups.remove(&gone.1);
                        body.prune(&hasher, gone.1);
                        oracle.remove(&gone);
                    }
                    _ => {}
                }
                for (filter, number) in &oracle {
                    prop_assert_eq!(&body.text(*number), filter);
                }
            }
            let mut warmed = BTreeSet::new();
            let mut open = topics.iter().map(|topic| (ROOT, topic.as_bytes())).collect();
            body.warm(&hasher, &mut open, &mut |number| {
                warmed.insert(number);
            });
            for topic in &topics {
                let mut found = BTreeSet::new();
                body.visit(&hasher, topic.as_bytes(), &mut |number| {
                    if body.groups.contains_key(&number) {
                        assert!(found.insert(number), "{topic:?} found {number} twice");
                    }
                });
                let expected = oracle
                    .iter()
                    .filter(|(filter, _)| matches(filter, topic))
                    .map(|(_, number)| *number)
                    .collect::<BTreeSet<_>>();
                prop_assert!(found.is_subset(&warmed), "{topic:?} finds what is not warm");
                prop_assert_eq!(found, expected, "{:?}", topic);
            }
            for (_, number) in oracle {
                body.groups.remove(&number);
                body.prune(&hasher, number);
            }
            prop_assert_eq!(body.nodes.len(), 1);
            prop_assert_eq!(body.children.len(), 0);
        }
    }
}
