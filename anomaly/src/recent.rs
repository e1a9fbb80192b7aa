//! A bounded table that forgets those that were quiet longest.
//!
//! Two generations: what is touched moves to the young one; when that is half of the bound, the
//! old one is thrown away and the young one becomes old. So at most `bound` entries are kept, and
//! whoever was touched among the last half of them is remembered.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};

/// Values by the seeded hash of something. Keys are not kept: two share a value with a probability
/// of 2^-64 for each pair, and without the seed nobody can aim for it; so the table itself need not
/// be hard to aim at.
pub(crate) type ByHash<V> = HashMap<u64, V, foldhash::fast::RandomState>;

/// See the module header.
pub(crate) struct Recent<V> {
    young: ByHash<V>,
    old: ByHash<V>,
    half: usize,
    hasher: RandomState,
}

impl<V: Default> Recent<V> {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            young: ByHash::default(),
            old: ByHash::default(),
            half: (bound / 2).max(1),
            hasher: RandomState::new(),
        }
    }

    /// Another bound, from the next entry on.
    pub(crate) fn resize(&mut self, bound: usize) {
        self.half = (bound / 2).max(1);
    }

    /// The value of `key`, made where there is none; counts as a touch.
    pub(crate) fn touch(&mut self, key: &impl Hash) -> &mut V {
        let key = self.hasher.hash_one(key);
        if !self.young.contains_key(&key) && self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young
            .entry(key)
            .or_insert_with(|| old.remove(&key).unwrap_or_default())
    }

    /// The value of `key`, if it is remembered; no touch.
    pub(crate) fn look(&self, key: &impl Hash) -> Option<&V> {
        if self.len() == 0 {
            return None;
        }
        let key = self.hasher.hash_one(key);
        self.young.get(&key).or_else(|| self.old.get(&key))
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_bounded_and_remembers_the_last_half(keys in prop::collection::vec(0_u32..200, 1..600), bound in 2_usize..80) {
            let mut table = Recent::<u32>::new(bound);
            for (place, key) in keys.iter().enumerate() {
                *table.touch(key) += 1;
                prop_assert!(table.len() <= bound);
                // Of the keys touched last, the last half of the bound are there.
                let mut seen = Vec::new();
                for key in keys[..=place].iter().rev() {
                    if !seen.contains(key) {
                        seen.push(*key);
                    }
                    if seen.len() == bound / 2 {
                        break;
                    }
                }
                for key in seen {
                    prop_assert!(table.look(&key).is_some());
                }
            }
        }
    }
}
