//! Node numbers by a keyed hash of where a node belongs.
//!
//! Open addressing with linear probing over cells of eight bytes, which hold half of the hash:
//! most questions touch one line of memory, and growing touches no node. Keys are the caller's to
//! compare. The hash must be keyed: nobody outside may choose what collides.

/// See the module header.
#[derive(Default)]
pub(super) struct Index {
    /// None, or a power of two, at most three quarters of them taken: the tag and the node. No node
    /// has the number 0, so that is a vacant cell.
    cells: Vec<u64>,
    taken: usize,
}

/// The half of a hash that is kept; where its cell would best be, too.
fn tag(hash: u64) -> u64 {
    hash >> 32
}

fn node(cell: u64) -> u32 {
    u32::try_from(cell & u64::from(u32::MAX)).unwrap_or_default()
}

impl Index {
    /// The node with this hash that is the right one.
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let mut at = self.home(tag);
        loop {
            let cell = *self.cells.get(at)?;
            if cell == 0 {
                return None;
            }
            if cell >> 32 == tag && is(node(cell)) {
                return Some(node(cell));
            }
            at = self.next(at);
        }
    }

    /// Reads the cell where a hash would best be, for the sake of reading it.
    pub(super) fn touch(&self, hash: u64) -> u64 {
        let home = self.home(tag(hash));
        self.cells.get(home).copied().unwrap_or_default()
    }

    /// Adds a node that is not there.
    pub(super) fn insert(&mut self, hash: u64, node: u32) {
        if (self.taken + 1) * 4 > self.cells.len() * 3 {
            let room = (self.cells.len() * 2).max(8);
            let old = std::mem::replace(&mut self.cells, vec![0; room]);
            old.into_iter()
                .filter(|cell| *cell != 0)
                .for_each(|cell| self.put(cell));
        }
        self.taken += 1;
        self.put((tag(hash) << 32) | u64::from(node));
    }

    pub(super) fn remove(&mut self, hash: u64, node: u32) {
        let gone = (tag(hash) << 32) | u64::from(node);
        let mut hole = self.home(tag(hash));
        loop {
            match self.cells.get(hole) {
                None | Some(0) => return,
                Some(cell) if *cell == gone => break,
                Some(_) => hole = self.next(hole),
            }
        }
        // Those behind it move up, unless that were in front of where they would best be.
        let mut at = hole;
        loop {
            at = self.next(at);
            let cell = self.cells.get(at).copied().unwrap_or_default();
            if cell == 0 {
                break;
            }
            if self.steps(self.home(cell >> 32), at) >= self.steps(hole, at) {
                self.set(hole, cell);
                hole = at;
            }
        }
        self.set(hole, 0);
        self.taken -= 1;
        if self.taken == 0 {
            self.cells = Vec::new();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    fn home(&self, tag: u64) -> usize {
        usize::try_from(tag).unwrap_or_default() & self.mask()
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & self.mask()
    }

    /// How far it is from one cell to another, forwards.
    fn steps(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    fn mask(&self) -> usize {
        self.cells.len().wrapping_sub(1)
    }

    fn put(&mut self, cell: u64) {
        let mut at = self.home(cell >> 32);
        while self.cells.get(at).is_some_and(|taken| *taken != 0) {
            at = self.next(at);
        }
        self.set(at, cell);
    }

    fn set(&mut self, at: usize, cell: u64) {
        if let Some(place) = self.cells.get_mut(at) {
            *place = cell;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Every third near the end of the table.
    fn spread(low: u64) -> u64 {
        let high = if low.is_multiple_of(3) {
            0xffff_fff0
        } else {
            0
        };
        (low | high) << 32
    }

    proptest! {
        /// Few tags, so that cells collide, wrap around and share their tag.
        #[test]
        fn an_index_is_a_set_of_pairs(
            steps in proptest::collection::vec((any::<bool>(), 0u64..24, 1u32..6), 1..200),
        ) {
            let mut index = Index::default();
            let mut oracle = BTreeSet::new();
            for (add, low, node) in steps {
                let hash = spread(low);
                match (add, oracle.contains(&(hash, node))) {
                    (true, false) => {
                        index.insert(hash, node);
                        oracle.insert((hash, node));
                    }
                    (false, true) => {
                        index.remove(hash, node);
                        oracle.remove(&(hash, node));
                    }
                    (false, false) => index.remove(hash, node),
                    (true, true) => {}
                }
                prop_assert_eq!(index.len(), oracle.len());
                for low in 0u64..24 {
                    for node in 1..6 {
                        let hash = spread(low);
                        let found = index.find(hash, |other| other == node);
                        prop_assert_eq!(found.is_some(), oracle.contains(&(hash, node)));
                    }
                }
            }
        }
    }
}
