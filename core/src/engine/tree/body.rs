//! The nodes of one shard: how filters are entered, found and given up, and which match a topic.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::index::Index;
use super::node::{Entries, Label, Node, ROOT};
use super::nodes::Nodes;
use super::path::{Rest, after, common, first, is_wildcard, literal_run};
use super::{AHEAD, Entry, ShareGroup};

/// Levels that are warmed.
const WARM_LEVELS: usize = 16;

/// Nodes of one level that are warmed, for all topics together.
const WARM_NODES: usize = 2 * AHEAD;

pub(super) type Hasher = foldhash::fast::RandomState;

/// See the module header.
pub(super) struct Body {
    pub(super) nodes: Nodes,
    /// Node numbers, found by parent and level.
    children: Index,
    /// The shared subscriptions of a node; few have any.
    pub(super) groups: HashMap<u32, Vec<Arc<ShareGroup>>, foldhash::fast::FixedState>,
}

/// Who subscribed to what matches a topic.
#[derive(Default)]
pub(super) struct Found {
    pub(super) entries: SmallVec<[Entry; 4]>,
    pub(super) shares: Vec<Arc<ShareGroup>>,
}

/// Topics, or what is left of them, each with a node or the hash of one.
pub(super) type Warm<'a, T> = SmallVec<[(T, &'a [u8]); AHEAD]>;

impl Body {
    pub(super) fn new() -> Self {
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
    pub(super) fn find(&self, hasher: &Hasher, filter: &[u8]) -> Option<u32> {
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
    pub(super) fn enter(&mut self, hasher: &Hasher, filter: &[u8]) -> Option<u32> {
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
    pub(super) fn warm(
        &self,
        hasher: &Hasher,
        open: &mut Warm<'_, u32>,
        warmed: &mut impl FnMut(u32),
    ) {
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
    pub(super) fn visit(&self, hasher: &Hasher, topic: &[u8], found: &mut impl FnMut(u32)) {
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
    pub(super) fn text(&self, mut number: u32) -> String {
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
    pub(super) fn prune(&mut self, hasher: &Hasher, mut number: u32) {
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

    pub(super) fn collect(&self, number: u32, found: &mut Found) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::topic::matches;

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
