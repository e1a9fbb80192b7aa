//! The guard of one connection's publishes, with the bounded cache that makes the steady state of
//! a device a lookup.

use std::hash::BuildHasher;
use std::sync::Arc;

use crate::engine::Matched;
use crate::hook::{Alike, Modules};
use crate::message::{Asked, Publication};

use super::{Authorized, Denial, Rights, Subject};

/// Places in the cache; a device publishes to few topics.
const SLOTS: usize = 8;

/// Longest topic that is cached, bytes: bounds the cache of a connection to a few KiB.
const LONGEST: usize = 256;

/// Authorizes what one client publishes.
pub(crate) struct Inbound {
    subject: Arc<Subject>,
    rights: Arc<Rights>,
    hasher: foldhash::fast::RandomState,
    slots: Vec<Option<RouteSlot>>,
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
            if slots.is_empty() {
                slots.resize_with(SLOTS, || None);
            }
            // The remainder is below SLOTS.
            let place = usize::try_from(hasher.hash_one(topic) % SLOTS as u64).unwrap_or_default();
            match slots.get_mut(place) {
                Some(slot) => slot.get_or_insert_with(|| RouteSlot::of("")),
                None => spare,
            }
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
