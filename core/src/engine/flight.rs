//! `QoS` 1 and 2 towards the client: what is on its way, what its acknowledgements do to it, and
//! what is sent again on resume.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::time::Instant;

use crate::guard::{self, Delivery, Stored};
use crate::message::Message;
use crate::wire::{self, AckKind, QoS, ReasonCode};

use super::link::WINDOW;
use super::session::State;
use super::{Ids, Routing};

/// A message on its way, by its packet identifier.
pub(super) struct InFlight {
    pub(super) id: u16,
    pub(super) state: Awaits,
}

pub(super) enum Awaits {
    /// `QoS` 1 sent. The message is kept if the session can be resumed.
    Acknowledgement(Option<Kept>),
    /// `QoS` 2 sent.
    Receipt(Option<Kept>),
    /// PUBREL sent.
    Completion,
}

pub(super) struct Kept {
    pub(super) message: Stored<Message>,
    pub(super) retain: bool,
    pub(super) ids: Ids,
}

/// The next packet identifier that is not in flight.
pub(super) fn next_id(last: &mut u16, inflight: &VecDeque<InFlight>) -> Option<u16> {
    // At most WINDOW are in flight, so one of the next WINDOW + 1 is free; in the usual case the
    // first, which is known free if the window does not reach around.
    for _ in 0..=WINDOW {
        *last = last.checked_add(1).unwrap_or(1);
        let id = *last;
        let wrapped = inflight.front().is_some_and(|oldest| oldest.id > id);
        if !wrapped && inflight.back().is_none_or(|newest| newest.id < id) {
            return Some(id);
        }
        if inflight.iter().all(|flight| flight.id != id) {
            return Some(id);
        }
    }
    None
}

impl InFlight {
    pub(super) fn new(id: u16, qos: QoS, kept: Option<Kept>) -> Self {
        let state = match qos {
            QoS::ExactlyOnce => Awaits::Receipt(kept),
            QoS::AtLeastOnce | QoS::AtMostOnce => Awaits::Acknowledgement(kept),
        };
        Self { id, state }
    }
}

impl Kept {
    pub(super) fn of(delivery: &Delivery<'_>, message: Stored<Message>) -> Self {
        Self {
            message,
            retain: delivery.retain,
            ids: delivery.subscription_ids.clone(),
        }
    }
}

impl State {
    /// The client acknowledged something.
    pub(super) fn acknowledged(
        &mut self,
        kind: AckKind,
        id: u16,
        reason: ReasonCode,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let version = match &mut self.link {
            Some(link) => {
                link.progress = now;
                link.version
            }
            None => return,
        };
        let place = self.inflight.iter().position(|flight| flight.id == id);
        let flight = place.and_then(|place| self.inflight.get_mut(place));
        let wire_id = NonZeroU16::new(id);
        match (kind, flight.map(|flight| &mut flight.state)) {
            (AckKind::PubAck, Some(Awaits::Acknowledgement(_)))
            | (AckKind::PubComp, Some(Awaits::Completion)) => self.forget(place),
            // [MQTT-4.3.3-4]: an error ends the flow.
            (AckKind::PubRec, Some(Awaits::Receipt(_))) if reason.is_error() => self.forget(place),
            (AckKind::PubRec, Some(state @ (Awaits::Receipt(_) | Awaits::Completion))) => {
                *state = Awaits::Completion;
                if let Some(id) = wire_id {
                    wire::ack(out, version, AckKind::PubRel, id, ReasonCode::Success, None);
                }
            }
            (AckKind::PubRec, _) if !reason.is_error() => {
                if let Some(id) = wire_id {
                    let unknown = ReasonCode::PacketIdentifierNotFound;
                    wire::ack(out, version, AckKind::PubRel, id, unknown, None);
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, place: Option<usize>) {
        match place {
            Some(0) => {
                self.inflight.pop_front();
            }
            Some(place) => {
                self.inflight.remove(place);
            }
            None => {}
        }
        if self.inflight.is_empty() && self.inflight.capacity() > 64 {
            self.inflight = VecDeque::new();
        }
    }

    /// Sends again what was in flight, in its order \[MQTT-4.4.0-1\], \[MQTT-4.6.0-1\]; what the
    /// policy no longer allows is dropped instead.
    pub(super) fn resume(&mut self, routing: &mut Routing<'_>) {
        let Self {
            link,
            inflight,
            rights,
            ..
        } = self;
        let Some(link) = link else { return };
        inflight.retain(|flight| {
            let Some(id) = NonZeroU16::new(flight.id) else {
                return false;
            };
            let (kept, qos) = match &flight.state {
                Awaits::Completion => {
                    let (out, version) = (&mut link.output, link.version);
                    wire::ack(out, version, AckKind::PubRel, id, ReasonCode::Success, None);
                    return true;
                }
                Awaits::Acknowledgement(Some(kept)) => (kept, QoS::AtLeastOnce),
                Awaits::Receipt(Some(kept)) => (kept, QoS::ExactlyOnce),
                Awaits::Acknowledgement(None) | Awaits::Receipt(None) => return false,
            };
            let Some(publication) = routing.reopen(&kept.message) else {
                return false;
            };
            let delivery = Delivery {
                publication: &publication,
                qos,
                retain: kept.retain,
                subscription_ids: kept.ids.clone(),
            };
            let Ok(delivery) = guard::deliver(rights, delivery, false, routing.modules()) else {
                routing.metrics().deliveries_denied.inc();
                return false;
            };
            link.send(&delivery, Some((flight.id, true)), true, routing)
        });
    }
}
