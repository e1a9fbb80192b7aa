//! A queue in pieces of equal size: it grows by a piece and gives each back when it is empty.
//!
//! A `VecDeque` doubles, with the old room and the new one there at once. Where hundreds of queues
//! get the same messages they do so in the same moment, by more than is left of the memory budget
//! when it is nearly spent; and the room of the longest backlog stays until the session ends.

use std::collections::VecDeque;

/// Entries of a piece.
const PIECE: usize = 32;

/// See the module header.
#[derive(Debug)]
pub(super) struct Pieces<T> {
    /// None is empty, and those between the first and the last are full.
    pieces: VecDeque<VecDeque<T>>,
}

impl<T> Pieces<T> {
    pub(super) fn new() -> Self {
        Self {
            pieces: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        let first = self.pieces.front().map_or(0, VecDeque::len);
        let Some(others) = self.pieces.len().checked_sub(2) else {
            return first;
        };
        first + others * PIECE + self.pieces.back().map_or(0, VecDeque::len)
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.pieces.front()?.front()
    }

    pub(super) fn back_mut(&mut self) -> Option<&mut T> {
        self.pieces.back_mut()?.back_mut()
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        let (piece, place) = self.find(place);
        self.pieces.get_mut(piece)?.get_mut(place)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pieces.iter_mut().flatten()
    }

    pub(super) fn push_back(&mut self, entry: T) {
        match self.pieces.back_mut() {
            Some(last) if last.len() < PIECE => last.push_back(entry),
            last => {
                // Most queues are short: the first piece grows as it must.
                let room = if last.is_some() { PIECE } else { 1 };
                let mut piece = VecDeque::with_capacity(room);
                piece.push_back(entry);
                self.pieces.push_back(piece);
            }
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let entry = self.pieces.front_mut()?.pop_front();
        self.tidy();
        entry
    }

    /// Takes one out of the middle; those behind it move up.
    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        let (number, place) = self.find(place);
        let removed = self.pieces.get_mut(number)?.remove(place)?;
        if number > 0 {
            for next in number + 1..self.pieces.len() {
                let moved = self.pieces.get_mut(next).and_then(VecDeque::pop_front);
                if let Some(piece) = self.pieces.get_mut(next - 1) {
                    piece.extend(moved);
                }
            }
        }
        self.tidy();
        Some(removed)
    }

    /// In which piece a place is, and where there.
    fn find(&self, place: usize) -> (usize, usize) {
        let first = self.pieces.front().map_or(0, VecDeque::len);
        match place.checked_sub(first) {
            None => (0, place),
            Some(rest) => (1 + rest / PIECE, rest % PIECE),
        }
    }

    /// Gives empty pieces back, which only the first and the last can be.
    fn tidy(&mut self) {
        self.pieces.pop_front_if(|first| first.is_empty());
        self.pieces.pop_back_if(|last| last.is_empty());
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }
}

impl<T> IntoIterator for Pieces<T> {
    type Item = T;
    type IntoIter = std::iter::Flatten<std::collections::vec_deque::IntoIter<VecDeque<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Pop(usize),
        Remove(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..80usize).prop_map(Step::Push),
            (1..80usize).prop_map(Step::Pop),
            any::<prop::sample::Index>().prop_map(Step::Remove),
            any::<prop::sample::Index>().prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn it_is_a_queue_as_any_other(steps in steps()) {
            let (mut pieces, mut plain) = (Pieces::new(), VecDeque::new());
            let mut entries = 0..;
            for step in steps {
                match step {
                    Step::Push(count) => for entry in entries.by_ref().take(count) {
                        pieces.push_back(entry);
                        plain.push_back(entry);
                    },
                    Step::Pop(count) => for _ in 0..count {
                        prop_assert_eq!(pieces.pop_front(), plain.pop_front());
                    },
                    Step::Remove(place) => {
                        let place = place.index(plain.len() + 1);
                        prop_assert_eq!(pieces.remove(place), plain.remove(place));
                    }
                }
                prop_assert_eq!(pieces.len(), plain.len());
                prop_assert_eq!(pieces.is_empty(), plain.is_empty());
                prop_assert_eq!(pieces.front(), plain.front());
                prop_assert_eq!(pieces.back_mut(), plain.back_mut());
                prop_assert!(pieces.iter().eq(&plain));
                for place in 0..=plain.len() {
                    prop_assert_eq!(pieces.get_mut(place), plain.get_mut(place));
                }
            }
            prop_assert!(pieces.into_iter().eq(plain));
        }
    }

    #[test]
    fn its_room_is_never_much_more_than_what_is_in_it() {
        let room =
            |pieces: &Pieces<u64>| -> usize { pieces.pieces.iter().map(VecDeque::capacity).sum() };
        let mut pieces = Pieces::new();
        assert_eq!(room(&pieces), 0);
        for entry in 0..10_000 {
            pieces.push_back(entry);
            assert!(room(&pieces) <= pieces.len() + PIECE, "{entry}");
        }
        while pieces.pop_front().is_some() {
            assert!(room(&pieces) <= pieces.len() + 2 * PIECE);
        }
        assert_eq!(pieces.pieces.capacity(), 0);
    }
}
