//! What a session knows of the `QoS` 2 messages that its client publishes, from their receipt to
//! their release.

use smallvec::SmallVec;

use super::session::Tickets;

/// See the module header; a session has one from the first such message on.
#[derive(Default)]
pub(super) struct Received {
    /// Those that are not released.
    pub(super) ids: IdSet,
    /// The one of them that the journal has not been told of, while the policy is asked about it.
    pub(super) unwritten: Option<u16>,
    /// What the PUBREC of a message still waits for, by packet identifier: a client that comes back
    /// and repeats one waits for the same.
    promised: Vec<(u16, Tickets)>,
    /// How many are being routed at this moment.
    pub(super) routing: u32,
}

impl Received {
    /// Remembers a message that was not seen before.
    pub(super) fn insert(&mut self, id: u16) {
        self.ids.insert(id);
        self.unwritten = Some(id);
    }

    /// Whether a message is known, and what its PUBREC waits for.
    pub(super) fn find(&self, id: u16) -> Option<Tickets> {
        let promised = || self.promised.iter().find(|(known, _)| *known == id);
        self.ids
            .contains(id)
            .then(|| promised().map_or_else(Tickets::new, |(_, tickets)| tickets.clone()))
    }

    /// The PUBREC of a known message waits for these.
    pub(super) fn promise(&mut self, id: u16, tickets: &Tickets) {
        if self.ids.contains(id) {
            self.promised.push((id, tickets.clone()));
        }
    }

    /// The PUBREC of a message waits for nothing any more.
    pub(super) fn kept_promise(&mut self, id: u16) {
        self.promised.retain(|(known, _)| *known != id);
    }

    /// Forgets a message; whether it was known.
    pub(super) fn release(&mut self, id: u16) -> bool {
        self.kept_promise(id);
        self.unwritten = self.unwritten.filter(|unwritten| *unwritten != id);
        self.ids.remove(id)
    }

    /// Forgets all messages. Those that are being routed are counted on, until that is over.
    pub(super) fn clear(&mut self) {
        *self = Self {
            routing: self.routing,
            ..Self::default()
        };
    }
}

/// Packet identifiers of `QoS` 2 messages that were received and not released yet.
///
/// A list while there are few; beyond, a bitmap of all 65 535 (8 KiB), as 3.x clients have no
/// quota.
#[derive(Debug)]
pub(super) enum IdSet {
    Few(SmallVec<[u16; 4]>),
    Many(Box<[u64]>, usize),
}

impl Default for IdSet {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl IdSet {
    const FEW: usize = 64;

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(ids) => ids.len(),
            Self::Many(_, count) => *count,
        }
    }

    pub(super) fn contains(&self, id: u16) -> bool {
        match self {
            Self::Few(ids) => ids.contains(&id),
            Self::Many(bits, _) => bits
                .get(usize::from(id / 64))
                .is_some_and(|word| word & (1 << (id % 64)) != 0),
        }
    }

    /// Adds an id that is not in the set.
    pub(super) fn insert(&mut self, id: u16) {
        if let Self::Few(ids) = self {
            if ids.len() < Self::FEW {
                ids.push(id);
                return;
            }
            let mut bits = vec![0u64; 1024].into_boxed_slice();
            for id in ids.iter() {
                if let Some(word) = bits.get_mut(usize::from(id / 64)) {
                    *word |= 1 << (id % 64);
                }
            }
            *self = Self::Many(bits, ids.len());
        }
        if let Self::Many(bits, count) = self
            && let Some(word) = bits.get_mut(usize::from(id / 64))
        {
            *word |= 1 << (id % 64);
            *count += 1;
        }
    }

    /// The ids, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        let (few, many) = match self {
            Self::Few(ids) => (ids.as_slice(), &[][..]),
            Self::Many(bits, _) => (&[][..], &bits[..]),
        };
        let many = (0u16..).zip(many).flat_map(|(word, bits)| {
            (0..64).filter_map(move |bit| (bits & (1 << bit) != 0).then_some(word * 64 + bit))
        });
        few.iter().copied().chain(many)
    }

    /// Takes an id out; says whether it was there.
    pub(super) fn remove(&mut self, id: u16) -> bool {
        match self {
            Self::Few(ids) => match ids.iter().position(|known| *known == id) {
                Some(place) => {
                    ids.swap_remove(place);
                    true
                }
                None => false,
            },
            Self::Many(bits, count) => {
                let Some(word) = bits.get_mut(usize::from(id / 64)) else {
                    return false;
                };
                let was = *word & (1 << (id % 64)) != 0;
                *word &= !(1 << (id % 64));
                *count -= usize::from(was);
                if *count == 0 {
                    *self = Self::default();
                }
                was
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_set_is_a_set(steps in proptest::collection::vec((any::<bool>(), 1u16..200), 0..600)) {
            let (mut set, mut oracle) = (IdSet::default(), BTreeSet::new());
            for (add, id) in steps {
                if add && !set.contains(id) {
                    set.insert(id);
                    oracle.insert(id);
                } else if !add {
                    prop_assert_eq!(set.remove(id), oracle.remove(&id));
                }
                prop_assert_eq!(set.len(), oracle.len());
                prop_assert_eq!(set.contains(id), oracle.contains(&id));
            }
        }
    }
}
