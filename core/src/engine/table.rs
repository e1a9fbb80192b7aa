//! The subscriptions of one session, by their place and by their filter.

use crate::hook::Effort;

use super::session::{State, Subscription, Toil};
use super::tree::{FilterRef, Slot};

impl State {
    /// The subscription of a slot, if it is still the same.
    pub(super) fn subscription(&self, slot: Slot) -> Option<&Subscription> {
        self.subscriptions
            .get(slot.place as usize)
            .filter(|subscription| subscription.serial == slot.serial)
    }

    /// The place of the subscription to this filter, if there is one.
    pub(super) fn slot_of(&self, filter: FilterRef, share: Option<&str>) -> Option<Slot> {
        self.index
            .find(index_hash(filter), |place| {
                self.subscriptions
                    .get(*place as usize)
                    .is_some_and(|known| {
                        known.filter == filter
                            && known.share.as_ref().map(|group| &*group.name) == share
                    })
            })
            .and_then(|place| {
                let serial = self.subscriptions.get(*place as usize)?.serial;
                Some(Slot {
                    place: *place,
                    serial,
                })
            })
    }

    /// Whether all subscriptions can still be judged anew after a change of policy, with one more
    /// that takes so much work, in place of the one in a known slot. `limit` is how many there may be:
    /// those that take less than their share are not counted, and half of the effort is theirs.
    pub(super) fn may_toil(&self, toil: Toil, known: Option<Slot>, limit: usize) -> bool {
        let most = u64::from(Effort::SESSION / 2);
        if u64::from(toil.steps()).saturating_mul(limit as u64) <= most {
            return true;
        }
        let before = known.and_then(|slot| self.subscription(slot));
        let before = before.map_or(0, |one| one.toil.steps());
        let others = u64::from(self.toiled).saturating_sub(before.into());
        others + u64::from(toil.steps()) <= most
    }

    /// A subscription that was judged again took so much work.
    pub(super) fn toils(&mut self, slot: Slot, toil: Toil) {
        if let Some(subscription) = self.subscriptions.get_mut(slot.place as usize) {
            let before = std::mem::replace(&mut subscription.toil, toil);
            self.toiled = self.toiled.saturating_sub(before.steps());
            self.toiled = self.toiled.saturating_add(toil.steps());
        }
    }

    /// The slot that the next new subscription gets.
    pub(super) fn next_slot(&mut self) -> Slot {
        self.serial = self.serial.wrapping_add(1);
        Slot {
            place: u32::try_from(self.subscriptions.vacant_key()).unwrap_or(u32::MAX),
            serial: self.serial,
        }
    }

    pub(super) fn insert(&mut self, subscription: Subscription) {
        if self.subscriptions.capacity() == 0 {
            // Most devices have one.
            self.subscriptions.reserve_exact(1);
        }
        self.toiled = self.toiled.saturating_add(subscription.toil.steps());
        let hash = index_hash(subscription.filter);
        let place = u32::try_from(self.subscriptions.insert(subscription)).unwrap_or(u32::MAX);
        let subscriptions = &self.subscriptions;
        self.index.insert_unique(hash, place, |place| {
            subscriptions
                .get(*place as usize)
                .map_or(0, |known| index_hash(known.filter))
        });
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Subscription> {
        let subscription = self.subscriptions.try_remove(slot.place as usize)?;
        self.toiled = self.toiled.saturating_sub(subscription.toil.steps());
        let hash = index_hash(subscription.filter);
        if let Ok(found) = self.index.find_entry(hash, |place| *place == slot.place) {
            found.remove();
        }
        Some(subscription)
    }

    /// Every subscription, taken out: the session ends or starts anew.
    pub(super) fn drain_subscriptions(&mut self) -> Vec<(Slot, Subscription)> {
        self.index.clear();
        self.toiled = 0;
        let slots = std::mem::take(&mut self.subscriptions);
        slots
            .into_iter()
            .map(|(place, subscription)| {
                let slot = Slot {
                    place: u32::try_from(place).unwrap_or(u32::MAX),
                    serial: subscription.serial,
                };
                (slot, subscription)
            })
            .collect()
    }
}

fn index_hash(filter: FilterRef) -> u64 {
    // Numbers that the tree chose, not the client.
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::default().hash_one(filter)
}
