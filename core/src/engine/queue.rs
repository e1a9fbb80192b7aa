//! The queue of one session: what could not be sent yet.
//!
//! Bounded in messages and bytes. For a connected session the bound is kept by slowing
//! publishers: what comes in over it is taken, and the publisher's acknowledgement is held back
//! until it lies within the bound (rule 13). So the excess is at most what publishers may have
//! unacknowledged. For an offline session the oldest messages make room.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::guard::Stored;
use crate::journal::Entry;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::ticket::Hold;
use crate::wire::QoS;

use super::Ids;
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
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// See the module header.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Queued>,
    bytes: usize,
    /// While publishers wait for this queue.
    excess: Option<Box<Excess>>,
}

/// Acknowledgements held back for the newest entries.
#[derive(Debug, Default)]
struct Excess {
    /// Oldest first, with the weights of the entries.
    holds: VecDeque<(Hold, usize)>,
    bytes: usize,
}

impl Queue {
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

    /// Whether one more of this weight lies within the bound.
    pub(super) fn has_room(&self, weight: usize, bound: Bound) -> bool {
        self.entries.len() < bound.messages && self.bytes + weight <= bound.bytes
    }

    /// Appends a message. Over the bound, the caller hands in a hold on the publisher.
    pub(super) fn push(&mut self, queued: Queued, hold: Option<Hold>, metrics: &Metrics) {
        let weight = queued.message.weight();
        metrics.queued_messages.inc();
        metrics.queued_bytes.add(weight as u64);
        self.bytes += weight;
        self.entries.push_back(queued);
        if let Some(hold) = hold {
            let excess = self.excess.get_or_insert_default();
            excess.bytes += weight;
            excess.holds.push_back((hold, weight));
        }
    }

    /// Takes the oldest message.
    pub(super) fn pop(&mut self, bound: Bound, metrics: &Metrics) -> Option<Queued> {
        let queued = self.entries.pop_front()?;
        self.left(queued.message.weight(), metrics);
        // Held entries are the newest; one that now lies within the bound is acknowledged.
        if let Some(excess) = &mut self.excess {
            while let Some((_, weight)) = excess.holds.front() {
                // What was just taken may have been a held one: then there are more holds than
                // entries.
                let messages = self.entries.len().saturating_sub(excess.holds.len());
                let bytes = self.bytes.saturating_sub(excess.bytes);
                let within = messages < bound.messages && bytes + weight <= bound.bytes;
                if !within && self.entries.len() > excess.holds.len() {
                    break;
                }
                excess.bytes -= weight;
                excess.holds.pop_front();
            }
            if excess.holds.is_empty() {
                self.excess = None;
            }
        }
        Some(queued)
    }

    /// Drops all `QoS` 0 messages to make room for better ones; says how many.
    pub(super) fn drop_qos0(&mut self, metrics: &Metrics) -> u64 {
        let mut kept = VecDeque::with_capacity(self.entries.len());
        let mut dropped = 0;
        for queued in std::mem::take(&mut self.entries) {
            if queued.qos == QoS::AtMostOnce {
                self.left(queued.message.weight(), metrics);
                dropped += 1;
            } else {
                kept.push_back(queued);
            }
        }
        self.entries = kept;
        metrics.dropped_qos0.add(dropped);
        dropped
    }

    /// Drops the oldest until the queue lies within the bound and holds nobody: the session went
    /// offline, or gets more while it is. Returns what was dropped.
    pub(super) fn trim(&mut self, bound: Bound, metrics: &Metrics) -> Vec<Queued> {
        let mut dropped = Vec::new();
        while self.entries.len() > bound.messages || self.bytes > bound.bytes {
            let Some(queued) = self.entries.pop_front() else {
                break;
            };
            self.left(queued.message.weight(), metrics);
            dropped.push(queued);
        }
        self.excess = None;
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
        self.left(queued.message.weight(), metrics);
        Some(queued.entry)
    }

    /// Empties the queue and lets go of everybody.
    pub(super) fn clear(&mut self, metrics: &Metrics) {
        metrics.queued_messages.sub(self.entries.len() as u64);
        metrics.queued_bytes.sub(self.bytes as u64);
        *self = Self::default();
    }

    fn left(&mut self, weight: usize, metrics: &Metrics) {
        self.bytes -= weight;
        metrics.queued_messages.sub(1);
        metrics.queued_bytes.sub(weight as u64);
    }
}
