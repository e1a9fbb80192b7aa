//! Nodes by their number, in pieces: growing moves none of them, so that nobody waits for a lock while
//! megabytes are copied, and no memory is taken twice.

use super::node::Node;

/// Nodes of one piece.
const PIECE: usize = 1 << 12;

/// See the module header.
#[derive(Default)]
pub(super) struct Nodes {
    /// All but the last are full.
    pieces: Vec<Vec<Place>>,
    /// How many places there are.
    places: usize,
    /// The place that the next node gets: vacant, or one more.
    next: usize,
    taken: usize,
}

enum Place {
    /// With the vacant place after this one.
    Vacant(usize),
    Taken(Node),
}

impl Nodes {
    pub(super) fn get(&self, number: u32) -> Option<&Node> {
        let number = number as usize;
        match self.pieces.get(number / PIECE)?.get(number % PIECE)? {
            Place::Taken(node) => Some(node),
            Place::Vacant(_) => None,
        }
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Node> {
        match self.place(number as usize)? {
            Place::Taken(node) => Some(node),
            Place::Vacant(_) => None,
        }
    }

    /// The number of the next new node. `None` only if there were more than 2^32.
    pub(super) fn vacant(&self) -> Option<u32> {
        u32::try_from(self.next).ok()
    }

    /// Adds a node under that number.
    pub(super) fn insert(&mut self, node: Node) -> Option<u32> {
        let name = self.vacant()?;
        let number = self.next;
        if number == self.places {
            if number.is_multiple_of(PIECE) {
                self.pieces.push(Vec::new());
            }
            self.pieces.last_mut()?.push(Place::Taken(node));
            self.places += 1;
            self.next = self.places;
        } else {
            let place = self.place(number)?;
            if let Place::Vacant(next) = std::mem::replace(place, Place::Taken(node)) {
                self.next = next;
            }
        }
        self.taken += 1;
        Some(name)
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<Node> {
        self.get(number)?;
        let vacant = Place::Vacant(self.next);
        let place = std::mem::replace(self.place(number as usize)?, vacant);
        self.next = number as usize;
        self.taken -= 1;
        match place {
            Place::Taken(node) => Some(node),
            Place::Vacant(_) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.taken
    }

    fn place(&mut self, number: usize) -> Option<&mut Place> {
        self.pieces.get_mut(number / PIECE)?.get_mut(number % PIECE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_place_has_the_size_of_a_node() {
        assert_eq!(size_of::<Place>(), size_of::<Node>());
    }

    /// Over the end of a piece and back, twice.
    #[test]
    fn numbers_name_nodes_until_they_are_removed() {
        let mut nodes = Nodes::default();
        let mut known = BTreeMap::new();
        let mut mark = 0;
        for _ in 0..2 {
            while known.len() < 2 * PIECE + 3 {
                mark += 1;
                let node = Node {
                    parent: mark,
                    ..Node::default()
                };
                assert_eq!(known.insert(nodes.insert(node).unwrap(), mark), None);
            }
            for number in 0..=u32::try_from(2 * PIECE + 3).unwrap() {
                let found = nodes.get(number).map(|node| node.parent);
                assert_eq!(found, known.get(&number).copied(), "{number}");
                assert_eq!(nodes.get_mut(number).map(|node| node.parent), found);
            }
            for number in (0..u32::try_from(2 * PIECE).unwrap()).step_by(3) {
                let gone = nodes.remove(number).map(|node| node.parent);
                assert_eq!(gone, known.remove(&number));
            }
            assert_eq!(nodes.len(), known.len());
        }
        assert_eq!(nodes.places, 2 * PIECE + 3);
    }
}
