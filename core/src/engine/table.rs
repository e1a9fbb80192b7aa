//! The subscriptions of one session, by their place and by their filter.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::hook::Effort;
use crate::topic::TopicFilter;
use crate::wire::SubscribeOptions;

use super::session::{Covered, State, Subscription, Toil};
use super::tree::{Claim, FilterRef, ShareGroup, Slot, Terms};

/// What a delivery asks about a subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing<'a> {
    pub(super) options: SubscribeOptions,
    pub(super) cover: Covered,
    pub(super) id: Option<NonZeroU32>,
    pub(super) share: Option<&'a Arc<ShareGroup>>,
}

/// After so many changes the terms on which a session's subscriptions were made are not trusted any
/// more.
pub(super) const CHANGEABLE: u8 = u8::MAX;

impl State {
    /// What goes into the tree for a new subscription.
    pub(super) fn claim(
        &self,
        slot: Slot,
        filter: TopicFilter<'_>,
        options: SubscribeOptions,
        id: Option<NonZeroU32>,
        cover: Covered,
    ) -> Claim {
        let plain = id.is_none() && filter.share().is_none();
        let terms = plain.then_some(Terms {
            options,
            cover,
            changes: self.changes,
        });
        Claim { slot, terms }
    }

    /// How a subscription stands now. The terms on which it was made hold if none has changed since or
    /// gone away; otherwise the table is asked, which among many takes a wait for memory.
    pub(super) fn standing(&self, claim: Claim) -> Option<Standing<'_>> {
        match claim.terms {
            Some(terms) if terms.changes == self.changes && self.changes < CHANGEABLE => {
                let standing = Standing {
                    options: terms.options,
                    cover: terms.cover,
                    id: None,
                    share: None,
                };
                debug_assert_eq!(Some(&standing), self.looked_up(claim.slot).as_ref());
                Some(standing)
            }
            _ => self.looked_up(claim.slot),
        }
    }

    fn looked_up(&self, slot: Slot) -> Option<Standing<'_>> {
        let known = self.subscription(slot)?;
        Some(Standing {
            options: known.options,
            cover: known.cover,
            id: known.id,
            share: known.share.as_ref(),
        })
    }

    /// A client that subscribes again mostly asks for what it has.
    pub(super) fn replace(
        &mut self,
        slot: Slot,
        options: SubscribeOptions,
        id: Option<NonZeroU32>,
        cover: Covered,
    ) {
        if let Some(known) = self.subscriptions.get_mut(slot.place as usize)
            && (known.options, known.id, known.cover) != (options, id, cover)
        {
            (known.options, known.id, known.cover) = (options, id, cover);
            self.changed();
        }
    }

    /// A subscription changes or goes away.
    pub(super) fn changed(&mut self) {
        self.changes = self.changes.saturating_add(1);
    }

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
        self.changed();
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
        self.changed();
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
