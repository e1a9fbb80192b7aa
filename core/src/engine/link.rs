//! The connection of a session: encoded output, and whom to wake for it.

use std::num::{NonZeroU16, NonZeroU32};
use std::task::Waker;
use std::time::Instant;

use crate::budget::{LARGE, Level, SMALL};
use crate::guard::{Authorized, Delivery};
use crate::ticket::Ticket;
use crate::wire::{self, AckKind, Outbound, PacketId, QoS, ReasonCode, Version};

use super::Routing;

/// Encoded bytes that may wait for the socket; beyond, messages wait in the queue.
pub(super) const OUTPUT_HIGH_WATER: usize = 256 << 10;

/// The same at this level of the memory budget.
pub(super) fn high_water(level: Level) -> usize {
    match level {
        Level::Calm | Level::Pressed => OUTPUT_HIGH_WATER,
        Level::Full => LARGE,
        Level::Spent => LARGE / 4,
    }
}

/// Encoded bytes from which on publishers give their turn to the connection that must write them.
const LADEN: usize = 64 << 10;

/// Most `QoS` 1 and 2 messages on their way to one client, whatever Receive Maximum it offers, if
/// its session ends with the connection: nothing of them is kept.
pub(super) const WINDOW: u16 = 1024;

/// The same for a session that can be resumed: they are kept until they are acknowledged.
pub(super) const KEPT_WINDOW: u16 = 256;

/// Most topic aliases of one connection towards its client: bounds memory and the search.
const ALIASES: u16 = 16;

/// Shortest topic that gets an alias, bytes. Setting one costs three bytes once and saves the
/// topic but for three bytes from then on.
const ALIAS_WORTH: usize = 7;

/// The connection of a session.
pub(crate) struct Link {
    pub(super) version: Version,
    /// Encoded packets for the socket; without an allocation while there are none.
    pub(super) output: Vec<u8>,
    /// How large the output was when it was last taken.
    pub(super) usual: u32,
    /// When its client last published, in seconds after it connected.
    pub(super) published: u32,
    pub(super) waker: Option<Waker>,
    pub(super) pace: Pace,
    pub(super) window: u16,
    pub(super) max_packet: usize,
    /// If its client takes any.
    pub(super) aliases: Option<Box<Aliases>>,
    /// When the client last acknowledged something or took bytes.
    pub(super) progress: Instant,
    /// An order to close, by somebody else.
    pub(super) close: Option<Box<Close>>,
    /// Messages encoded since the last take.
    pub(super) sent: u32,
    pub(super) connected_at: Instant,
}

/// What the connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It has taken all there was.
    Asleep,
    /// It knows that there is something to take, and will have a turn.
    Awake,
    /// It cannot take anything now: its socket is full, or the disk comes first. It comes by itself
    /// when it can.
    Blocked,
}

/// Topic aliases towards one client: first come, first served, and for the life of the connection
/// \[MQTT-3.3.2-7\].
pub(super) struct Aliases {
    /// Never more than the client takes \[MQTT-3.1.2-26\], \[MQTT-3.1.2-27\].
    max: usize,
    topics: Vec<Box<str>>,
}

impl Aliases {
    pub(super) fn new(asked: u16) -> Option<Box<Self>> {
        let max = asked.min(ALIASES).into();
        let topics = Vec::new();
        (max > 0).then(|| Box::new(Self { max, topics }))
    }

    /// The alias to send with a topic, and whether the client knows it already.
    fn of(&self, topic: &str) -> Option<(PacketId, bool)> {
        if topic.len() < ALIAS_WORTH {
            return None;
        }
        let known = self.topics.iter().position(|known| **known == *topic);
        let place = known.unwrap_or(self.topics.len());
        let number = u16::try_from(place + 1).ok().and_then(NonZeroU16::new)?;
        (place < self.max).then_some((number, known.is_some()))
    }
}

/// An order to end a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    /// What a 5.0 client is told.
    pub(crate) code: ReasonCode,
    /// For log and record.
    pub(crate) reason: String,
    /// Whether the will is published.
    pub(crate) will: bool,
}

/// What a new connection brings.
pub(crate) struct NewLink {
    pub(crate) version: Version,
    pub(crate) receive_maximum: Option<NonZeroU16>,
    pub(crate) max_packet: Option<NonZeroU32>,
    /// Topic aliases that the client takes.
    pub(crate) topic_alias_max: u16,
}

/// What a connection took to write, and what it must know.
pub(crate) enum Taken {
    /// Go on; `sent` messages are in the output. `stalled` is since when publishers have waited
    /// for this client without its making progress.
    Output {
        sent: u64,
        stalled: Option<Instant>,
        /// What must be on disk before any of it is sent.
        barrier: Option<Ticket>,
    },
    /// The connection must end.
    Close(Close),
}

impl Link {
    /// Encodes a PUBREL.
    pub(super) fn release(&mut self, id: u16, reason: ReasonCode) {
        if let Some(id) = NonZeroU16::new(id) {
            wire::ack(
                &mut self.output,
                self.version,
                AckKind::PubRel,
                id,
                reason,
                None,
            );
        }
    }

    /// Encodes a delivery. `false`: it was not sent, because it expired or is larger than the
    /// client takes \[MQTT-3.1.2-24\].
    pub(super) fn send(
        &mut self,
        delivery: &Authorized<Delivery<'_>>,
        id: Option<(u16, bool)>,
        resent: bool,
        routing: &mut Routing<'_>,
    ) -> bool {
        let publication = delivery.publication;
        let mut properties = publication.properties;
        if publication.expires.is_some() {
            match publication.remaining(routing.millis) {
                Ok(remaining) => properties.expiry = remaining,
                Err(_) if resent => properties.expiry = Some(0),
                Err(_) => {
                    routing.metrics().dropped_expired.inc();
                    return false;
                }
            }
        }
        let promise = match (delivery.qos, id) {
            (QoS::AtLeastOnce, Some((id, dup))) => {
                NonZeroU16::new(id).map(|id| wire::Delivery::AtLeastOnce { id, dup })
            }
            (QoS::ExactlyOnce, Some((id, dup))) => {
                NonZeroU16::new(id).map(|id| wire::Delivery::ExactlyOnce { id, dup })
            }
            (QoS::AtMostOnce | QoS::AtLeastOnce | QoS::ExactlyOnce, _) => None,
        };
        let mut outbound = Outbound {
            topic: publication.topic.as_str(),
            alias: None,
            delivery: promise.unwrap_or(wire::Delivery::AtMostOnce),
            retain: delivery.retain,
            properties,
            subscription_ids: &delivery.subscription_ids,
            payload: publication.payload,
        };
        let topic = outbound.topic;
        let alias = self.aliases.as_ref().and_then(|known| known.of(topic));
        if let Some((alias, known)) = alias {
            outbound.alias = Some(alias);
            if known {
                outbound.topic = "";
            }
        }
        let fits = |outbound: &Outbound<'_>| {
            self.max_packet == usize::MAX
                || wire::publish_size(self.version, outbound) <= self.max_packet
        };
        if outbound.alias.is_some() && !outbound.topic.is_empty() && !fits(&outbound) {
            // Too large only because it would set an alias.
            outbound.alias = None;
        }
        if !fits(&outbound) {
            routing.metrics().dropped_too_large.inc();
            return false;
        }
        let room = self.output.capacity();
        if room == 0 {
            self.output = Vec::with_capacity(self.usual as usize);
        }
        wire::publish(&mut self.output, self.version, &outbound);
        let grown = self.output.capacity() - room;
        if grown >= SMALL {
            routing.grew(grown);
        }
        if outbound.alias.is_some()
            && !outbound.topic.is_empty()
            && let Some(aliases) = &mut self.aliases
        {
            aliases.topics.push(topic.into());
        }
        self.sent += 1;
        true
    }

    /// Whether more may be encoded: what its client takes nothing of is not added to when memory is
    /// spent.
    pub(super) fn has_room(&self, routing: &Routing<'_>) -> bool {
        self.output.len() < routing.high_water
            && (self.pace != Pace::Blocked || routing.level() < Level::Spent)
    }

    /// It has much to write that it will take as soon as it has a turn.
    pub(super) fn needs_turn(&self) -> bool {
        self.output.len() >= LADEN && self.pace == Pace::Awake
    }

    /// Its client takes nothing at present, or the disk has to.
    pub(super) fn is_blocked(&self) -> bool {
        self.pace == Pace::Blocked
    }

    /// There is something to take.
    pub(super) fn wake(&mut self, routing: &mut Routing<'_>) {
        if self.pace == Pace::Asleep {
            self.rouse(routing);
        }
    }

    /// There is something to know for a connection that cannot take anything, too.
    pub(super) fn rouse(&mut self, routing: &mut Routing<'_>) {
        if self.pace == Pace::Asleep {
            self.pace = Pace::Awake;
        }
        routing.wakes.extend(self.waker.clone());
    }
}
