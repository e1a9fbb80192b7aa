//! What is remembered for a time, and never more than so much of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use parking_lot::Mutex;

/// A table whose entries end by themselves. When it is full, what has ended goes, or else the half
/// that would end first.
pub(crate) struct Bounded<K, V, T = Instant> {
    table: Mutex<HashMap<K, (T, V)>>,
    capacity: usize,
}

impl<K: Eq + Hash, V: Clone, T: Copy + Ord> Bounded<K, V, T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            table: Mutex::new(HashMap::new()),
            capacity,
        }
    }

    /// What is remembered under `key` at `now`.
    pub(crate) fn get(&self, key: &K, now: T) -> Option<V> {
        let table = self.table.lock();
        let (until, value) = table.get(key)?;
        (now < *until).then(|| value.clone())
    }

    /// What was remembered last under `key`, ended or not.
    pub(crate) fn peek(&self, key: &K) -> Option<V> {
        self.table.lock().get(key).map(|(_, value)| value.clone())
    }

    /// Remembers; gives what was there, if it had not ended.
    pub(crate) fn insert(&self, key: K, value: V, until: T, now: T) -> Option<V> {
        let mut table = self.table.lock();
        if table.len() >= self.capacity && !table.contains_key(&key) {
            make_room(&mut table, now);
        }
        let (before, old) = table.insert(key, (until, value))?;
        (now < before).then_some(old)
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.table.lock().clear();
    }
}

fn make_room<K: Eq + Hash, V, T: Copy + Ord>(table: &mut HashMap<K, (T, V)>, now: T) {
    let before = table.len();
    table.retain(|_, (until, _)| now < *until);
    if table.len() < before {
        return;
    }
    let mut ends: Vec<T> = table.values().map(|(until, _)| *until).collect();
    let middle = ends.len() / 2;
    if ends.is_empty() {
        return;
    }
    let (_, median, _) = ends.select_nth_unstable(middle);
    let median = *median;
    table.retain(|_, (until, _)| *until > median);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn entries_end_and_are_bounded() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let table = Bounded::new(10);
        assert_eq!(table.insert(0, 'a', at(5), now), None);
        assert_eq!(table.get(&0, at(4)), Some('a'));
        assert_eq!(table.get(&0, at(5)), None);
        assert_eq!(table.insert(0, 'b', at(9), at(4)), Some('a'));
        assert_eq!(table.insert(0, 'c', at(12), at(9)), None, "it had ended");
        for key in 1..1000 {
            table.insert(key, 'x', at(100 + key), now);
            assert!(table.table.lock().len() <= 10);
            assert_eq!(table.get(&key, now), Some('x'), "the newest is there");
        }
        table.clear();
        assert_eq!(table.get(&999, now), None);
    }

    #[test]
    fn entries_that_end_together_leave_room_too() {
        let now = Instant::now();
        let table = Bounded::new(4);
        for key in 0..100 {
            table.insert(key, (), now + Duration::from_secs(1), now);
            assert!(table.table.lock().len() <= 4);
        }
    }
}
