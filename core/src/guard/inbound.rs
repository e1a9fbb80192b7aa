//! The guard of one connection's publishes, with the bounded cache that makes the steady state of
//! a device a lookup.

use std::hash::BuildHasher;
use std::sync::Arc;

use crate::engine::Matched;
use crate::hook::{Alike, Modules};
use crate::message::{Asked, Publication};

use super::{Authorized, Denial, Rights, Subject};

/// Most places in the cache; a device publishes to few topics, and most to one.
const SLOTS: usize = 8;

/// Longest topic that is cached, bytes: bounds the cache of a connection to a few KiB.
const LONGEST: usize = 256;

/// Authorizes what one client publishes.
pub(crate) struct Inbound {
    subject: Arc<Subject>,
    rights: Arc<Rights>,
    hasher: foldhash::fast::RandomState,
    /// None, or a power of two; a vacant one has an empty topic.
    slots: Vec<RouteSlot>,
    /// For topics that are not cached.
    spare: RouteSlot,
}

/// What is remembered of one topic: which rights were asked and granted in which policy
/// generation, and who subscribed to it when the router was last asked.
pub(crate) struct RouteSlot {
    topic: Box<str>,
    /// Which messages may be published, and which may be published and retained; valid in
    /// `generation` only.
    allowed: [Alike; 2],
    generation: u64,
    /// The router's own memory.
    pub(crate) matched: Option<Arc<Matched>>,
}

impl RouteSlot {
    /// Nothing is known.
    const EMPTY_ALLOWED: [Alike; 2] = [Alike::NONE; 2];

    fn of(topic: &str) -> Self {
        Self {
            topic: topic.into(),
            allowed: Self::EMPTY_ALLOWED,
            generation: 0,
            matched: None,
        }
    }
}

impl Inbound {
    pub(crate) fn new(subject: Arc<Subject>, modules: &Modules) -> Self {
        Self {
            rights: subject.rights(modules),
            subject,
            hasher: foldhash::fast::RandomState::default(),
            slots: Vec::new(),
            spare: RouteSlot::of(""),
        }
    }

    pub(crate) fn subject(&self) -> &Arc<Subject> {
        &self.subject
    }

    /// Fetches the present rights if the policy changed. Called once per read batch.
    pub(crate) fn refresh(&mut self, generation: u64, modules: &Modules) {
        if self.rights.generation != generation {
            self.rights = self.subject.rights(modules);
        }
    }

    pub(crate) fn rights(&self) -> &Arc<Rights> {
        &self.rights
    }

    /// Authorizes a publish. The slot is the router's to use; it belongs to this very topic.
    pub(crate) fn publish<'a>(
        &mut self,
        publication: Publication<'a>,
        modules: &Modules,
    ) -> Result<(Authorized<Publication<'a>>, &mut RouteSlot), (&'static str, Denial)> {
        let topic = publication.topic.as_str();
        let Self {
            rights,
            hasher,
            slots,
            spare,
            ..
        } = self;
        let slot = if topic.len() > LONGEST {
            *spare = RouteSlot::of("");
            spare
        } else {
            let hash = hasher.hash_one(topic);
            let taken = slots
                .get(place(hash, slots.len()))
                .is_none_or(|slot| !slot.topic.is_empty() && *slot.topic != *topic);
            if taken && slots.len() < SLOTS {
                grow(slots, hasher);
            }
            let place = place(hash, slots.len());
            slots.get_mut(place).unwrap_or(spare)
        };
        // Compared in full: a collision costs a lookup, never a wrong decision.
        if *slot.topic != *topic {
            *slot = RouteSlot::of(topic);
        }
        if slot.generation != rights.generation {
            slot.allowed = RouteSlot::EMPTY_ALLOWED;
            slot.generation = rights.generation;
        }
        let [plain, retained] = &mut slot.allowed;
        let known = if publication.asked.retain {
            retained
        } else {
            plain
        };
        if !known.holds(publication.qos, publication.payload.len()) {
            let asked = Asked {
                will: false,
                ..publication.asked
            };
            let message = publication.facts();
            rights.publish(publication.topic, asked, &message, modules)?;
            // It holds for messages like this one, and for no others.
            *known = message.alike();
        }
        Ok((Authorized(publication), slot))
    }
}
/// The place of a topic with this hash among so many.
fn place(hash: u64, places: usize) -> usize {
    // The low bits; where there are no places nothing is found at any.
    usize::try_from(hash & places.saturating_sub(1) as u64).unwrap_or_default()
}

/// Twice the places, or the first one.
fn grow(slots: &mut Vec<RouteSlot>, hasher: &foldhash::fast::RandomState) {
    let old = std::mem::take(slots);
    let places = (old.len() * 2).max(1);
    slots.reserve_exact(places);
    slots.resize_with(places, || RouteSlot::of(""));
    for slot in old.into_iter().filter(|slot| !slot.topic.is_empty()) {
        let place = place(hasher.hash_one(&*slot.topic), places);
        if let Some(new) = slots.get_mut(place) {
            *new = slot;
        }
    }
}
