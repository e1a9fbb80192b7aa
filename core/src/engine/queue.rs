//! The queue of one session: what could not be sent yet.
//!
//! Bounded in messages and bytes, by itself and together with the other queues of its
//! [`Owner`]. For a connected session the bound is kept by slowing publishers: what comes in over it
//! is taken, and the publisher's acknowledgement is held back until it lies within the bound (rule
//! 13). So the excess is at most what publishers may have unacknowledged. For an offline session the
//! oldest messages make room.
//!
//! Where the owner's queues are full together each still has its equal part, so that no session can
//! take everything from the others: together they hold at most twice the bound.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use crate::guard::Stored;
use crate::journal::Entry;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::ticket::Hold;
use crate::wire::QoS;

use super::Ids;
use super::owner::{Amount, Owner};
use super::pieces::Pieces;
use super::tree::ShareGroup;

/// A message that waits for its receiver.
#[derive(Debug)]
pub(super) struct Queued {
    /// Its place in the session's history; 0 where there is no journal of it.
    pub(super) entry: Entry,
    pub(super) message: Stored<Message>,
    /// The granted `QoS`.
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) ids: Ids,
    /// The group through which it came.
    pub(super) share: Option<Arc<ShareGroup>>,
    /// Whether the queue has counted it for the owner.
    pub(super) counts: bool,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// In all queues of an owner.
    pub(super) together: Amount,
    /// So many sessions have an equal part of that each, whatever the others hold.
    pub(super) sessions: usize,
}

impl Bound {
    fn part(&self) -> Amount {
        let sessions = self.sessions.max(1);
        Amount {
            messages: self.together.messages / sessions,
            bytes: self.together.bytes / sessions,
        }
    }
}

/// Which bound has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The queue's own.
    Queue,
    /// That of all queues of the owner.
    Owner,
}

impl Full {
    /// Counts a message that found no room.
    pub(super) fn tell(self, metrics: &Metrics) {
        if self == Self::Owner {
            metrics.queue_over_quota.inc();
        }
    }
}

/// See the module header.
#[derive(Debug)]
pub(super) struct Queue {
    owner: Arc<Owner>,
    entries: Pieces<Queued>,
    bytes: usize,
    /// While publishers wait for this queue.
    excess: Option<Box<Excess>>,
}

/// Acknowledgements held back for the newest entries.
#[derive(Debug, Default)]
struct Excess {
    /// Oldest first, with the weights of the entries, which are the newest of the queue.
    holds: VecDeque<(Hold, usize)>,
    bytes: usize,
}

impl Queue {
    pub(super) fn new(owner: Arc<Owner>) -> Self {
        Self {
            owner,
            entries: Pieces::new(),
            bytes: 0,
            excess: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the oldest message needs no packet identifier.
    pub(super) fn front_is_qos0(&self) -> bool {
        self.entries
            .front()
            .is_some_and(|queued| queued.qos == QoS::AtMostOnce)
    }

    /// The weight of the oldest message; 0 where there is none.
    pub(super) fn front_weight(&self) -> usize {
        self.entries
            .front()
            .map_or(0, |queued| queued.message.weight())
    }

    /// Whether publishers wait for this queue.
    pub(super) fn holds_publishers(&self) -> bool {
        self.excess.is_some()
    }

    /// Which bound, if any, has no room for one more of this weight.
    pub(super) fn full(&self, weight: usize, bound: Bound) -> Option<Full> {
        let own = Amount {
            messages: self.entries.len(),
            bytes: self.bytes,
        };
        if own.messages >= bound.messages || own.bytes + weight > bound.bytes {
            Some(Full::Queue)
        } else {
            // Nothing overtakes what is held back.
            (self.excess.is_some() || !self.owner_takes(own, weight, bound)).then_some(Full::Owner)
        }
    }

    /// Whether the owner may have one more of this weight wait, in a queue that has `own`.
    fn owner_takes(&self, own: Amount, weight: usize, bound: Bound) -> bool {
        let (all, most) = (self.owner.waiting(), bound.together);
        if all.messages < most.messages && all.bytes + weight <= most.bytes {
            return true;
        }
        let part = bound.part();
        (all.messages < most.messages || own.messages < part.messages)
            && (all.bytes + weight <= most.bytes || own.bytes + weight <= part.bytes)
    }

    /// Whether this queue has to give something up for what its owner's have together.
    fn must_give(&self, bound: Bound) -> bool {
        let (all, most) = (self.owner.waiting(), bound.together);
        if all.messages <= most.messages && all.bytes <= most.bytes {
            return false;
        }
        let part = bound.part();
        (all.messages > most.messages && self.entries.len() > part.messages)
            || (all.bytes > most.bytes && self.bytes > part.bytes)
    }

    /// Makes room for one more of this weight: `QoS` 0 gives way, and who is held back goes on as far
    /// as others of the owner have made room. Says what still has none.
    pub(super) fn make_room(
        &mut self,
        weight: usize,
        bound: Bound,
        metrics: &Metrics,
    ) -> Option<Full> {
        self.full(weight, bound)?;
        if self.excess.is_none() {
            // Behind what is held back no QoS 0 is taken, so there is none from there on.
            self.drop_qos0(metrics);
        }
        self.release(bound);
        self.full(weight, bound)
    }

    /// Appends a message. Over the bound, the caller hands in a hold on the publisher.
    pub(super) fn push(&mut self, mut queued: Queued, hold: Option<Hold>, metrics: &Metrics) {
        let weight = queued.message.weight();
        if let Some(hold) = hold {
            let excess = self.excess.get_or_insert_default();
            excess.bytes += weight;
            excess.holds.push_back((hold, weight));
        } else {
            queued.count(&self.owner);
        }
        self.append(queued, metrics);
    }

    /// Appends one that counts later: a retained message, of a page that is walked when nothing else
    /// waits, or what a restart finds.
    pub(super) fn push_uncounted(&mut self, queued: Queued, metrics: &Metrics) {
        self.append(queued, metrics);
    }

    fn append(&mut self, queued: Queued, metrics: &Metrics) {
        let weight = queued.message.weight();
        metrics.queued_messages.inc();
        metrics.queued_bytes.add(weight as u64);
        self.bytes += weight;
        self.entries.push_back(queued);
    }

    /// Takes the oldest message.
    pub(super) fn pop(&mut self, bound: Bound, metrics: &Metrics) -> Option<Queued> {
        let queued = self.entries.pop_front()?;
        self.left(&queued, metrics);
        if let Some(excess) = &mut self.excess
            && excess.holds.len() > self.entries.len()
        {
            // It was a held one itself.
            excess.bytes -= excess.holds.pop_front().map_or(0, |(_, weight)| weight);
        }
        self.release(bound);
        Some(queued)
    }

    /// Held entries are the newest; those that now lie within the bound are acknowledged.
    fn release(&mut self, bound: Bound) {
        while let Some(excess) = &self.excess
            && let Some((_, weight)) = excess.holds.front()
        {
            let weight = *weight;
            let own = Amount {
                messages: self.entries.len().saturating_sub(excess.holds.len()),
                bytes: self.bytes.saturating_sub(excess.bytes),
            };
            // One that is larger than the bound goes when it is the first.
            let first = own.messages == 0;
            let within = own.messages < bound.messages && own.bytes + weight <= bound.bytes;
            if !(first || within) || !self.owner_takes(own, weight, bound) {
                return;
            }
            if let Some(queued) = self.entries.get_mut(own.messages) {
                queued.count(&self.owner);
            }
            if let Some(excess) = &mut self.excess {
                excess.bytes -= weight;
                excess.holds.pop_front();
            }
        }
        self.excess = None;
    }

    /// Drops all `QoS` 0 messages to make room for better ones; says how many.
    pub(super) fn drop_qos0(&mut self, metrics: &Metrics) -> u64 {
        let mut kept = Pieces::new();
        let mut dropped = 0;
        for queued in mem::replace(&mut self.entries, Pieces::new()) {
            if queued.qos == QoS::AtMostOnce {
                self.left(&queued, metrics);
                dropped += 1;
            } else {
                kept.push_back(queued);
            }
        }
        self.entries = kept;
        metrics.dropped_qos0.add(dropped);
        dropped
    }

    /// The client goes: nobody is held back any more, everything counts, and the oldest are dropped
    /// until the queue lies within the bound. Returns what was dropped.
    pub(super) fn leave(&mut self, bound: Bound, metrics: &Metrics) -> Vec<Queued> {
        self.excess = None;
        let mut dropped = self.shorten(bound, metrics);
        for queued in self.entries.iter_mut() {
            queued.count(&self.owner);
        }
        dropped.append(&mut self.give_way(bound, metrics));
        dropped
    }

    /// Appends a message for a session that is away; the oldest make room. Returns what was dropped.
    pub(super) fn push_away(
        &mut self,
        queued: Queued,
        bound: Bound,
        metrics: &Metrics,
    ) -> Vec<Queued> {
        self.append(queued, metrics);
        // Counted when the queue itself is as short as it must be: one that is full takes nothing
        // from the others of its owner, not even for a moment.
        let mut dropped = self.shorten(bound, metrics);
        if let Some(queued) = self.entries.back_mut() {
            queued.count(&self.owner);
        }
        dropped.append(&mut self.give_way(bound, metrics));
        dropped
    }

    /// Drops the oldest for the queue's own bound.
    fn shorten(&mut self, bound: Bound, metrics: &Metrics) -> Vec<Queued> {
        let long = |queue: &Self| queue.entries.len() > bound.messages || queue.bytes > bound.bytes;
        self.drop_while(long, metrics)
    }

    /// Drops the oldest for what the owner's queues have together.
    fn give_way(&mut self, bound: Bound, metrics: &Metrics) -> Vec<Queued> {
        let dropped = self.drop_while(|queue| queue.must_give(bound), metrics);
        metrics.queue_over_quota.add(dropped.len() as u64);
        dropped
    }

    fn drop_while(&mut self, over: impl Fn(&Self) -> bool, metrics: &Metrics) -> Vec<Queued> {
        let mut dropped = Vec::new();
        while over(self)
            && let Some(queued) = self.entries.pop_front()
        {
            self.left(&queued, metrics);
            dropped.push(queued);
        }
        metrics.dropped_offline.add(dropped.len() as u64);
        dropped
    }

    /// What waits, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.entries.iter()
    }

    /// Takes one message of a group out: another member has it. Gives its entry.
    pub(super) fn take_out(
        &mut self,
        message: &Stored<Message>,
        metrics: &Metrics,
    ) -> Option<Entry> {
        let same = |queued: &Queued| queued.share.is_some() && queued.message.is_same(message);
        let place = self.entries.iter().position(same)?;
        let queued = self.entries.remove(place)?;
        self.left(&queued, metrics);
        Some(queued.entry)
    }

    /// Empties the queue and lets go of everybody.
    pub(super) fn clear(&mut self, metrics: &Metrics) {
        metrics.queued_messages.sub(self.entries.len() as u64);
        metrics.queued_bytes.sub(self.bytes as u64);
        self.owner.discount(self.counted());
        *self = Self::new(Arc::clone(&self.owner));
    }

    /// What of it counts for the owner.
    pub(super) fn counted(&self) -> Amount {
        let counted = self.entries.iter().filter(|queued| queued.counts);
        counted.fold(Amount::default(), |all, queued| Amount {
            messages: all.messages + 1,
            bytes: all.bytes + queued.message.weight(),
        })
    }

    /// A message is no longer in it.
    fn left(&mut self, queued: &Queued, metrics: &Metrics) {
        let bytes = queued.message.weight();
        self.bytes -= bytes;
        metrics.queued_messages.sub(1);
        metrics.queued_bytes.sub(bytes as u64);
        if queued.counts {
            self.owner.discount(Amount { messages: 1, bytes });
        }
    }
}

impl Queued {
    /// Counts it for the owner, once.
    fn count(&mut self, owner: &Owner) {
        if !mem::replace(&mut self.counts, true) {
            owner.count(self.message.weight());
        }
    }
}
