//! `QoS` 1 and 2 towards the client: what is on its way, what its acknowledgements do to it, and
//! what is sent again on resume.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::guard::{self, Delivery, Stored};
use crate::journal::Entry;
use crate::message::Message;
use crate::wire::{AckKind, QoS, ReasonCode};

use super::link::WINDOW;
use super::session::State;
use super::tree::ShareGroup;
use super::{Ids, Routing};

/// A message on its way, by its packet identifier.
pub(super) struct InFlight {
    /// Its place in the session's history; 0 where there is no journal of it.
    pub(super) entry: Entry,
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
    /// The group through which it came.
    pub(super) share: Option<Arc<ShareGroup>>,
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
    pub(super) fn new(entry: Entry, id: u16, qos: QoS, kept: Option<Kept>) -> Self {
        let state = match qos {
            QoS::ExactlyOnce => Awaits::Receipt(kept),
            QoS::AtLeastOnce | QoS::AtMostOnce => Awaits::Acknowledgement(kept),
        };
        Self { entry, id, state }
    }
}

impl Kept {
    pub(super) fn of(
        delivery: &Delivery<'_>,
        share: Option<Arc<ShareGroup>>,
        message: Stored<Message>,
    ) -> Self {
        Self {
            message,
            retain: delivery.retain,
            ids: delivery.subscription_ids.clone(),
            share,
        }
    }
}

impl State {
    /// The client acknowledged something; whether that moved anything on.
    pub(super) fn acknowledged(
        &mut self,
        kind: AckKind,
        id: u16,
        reason: ReasonCode,
        routing: &mut Routing<'_>,
    ) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        // What moves nothing on is no progress: a client cannot hold publishers up for ever by
        // acknowledging what was never sent.
        let mut moved = false;
        let mut progress = || {
            moved = true;
            link.progress = routing.now.mono;
        };
        let place = self.inflight.iter().position(|flight| flight.id == id);
        let flight = place.and_then(|place| self.inflight.get_mut(place));
        let (entry, state) = match flight {
            Some(flight) => (flight.entry, Some(&mut flight.state)),
            None => (0, None),
        };
        match (kind, state) {
            (AckKind::PubAck, Some(Awaits::Acknowledgement(_)))
            | (AckKind::PubComp, Some(Awaits::Completion)) => {
                progress();
                self.forget(place, routing);
            }
            // [MQTT-4.3.3-4]: an error ends the flow.
            (AckKind::PubRec, Some(Awaits::Receipt(_))) if reason.is_error() => {
                progress();
                self.forget(place, routing);
            }
            (AckKind::PubRec, Some(state @ (Awaits::Receipt(_) | Awaits::Completion))) => {
                let new = matches!(state, Awaits::Receipt(_));
                if new {
                    progress();
                }
                *state = Awaits::Completion;
                link.release(id, ReasonCode::Success);
                if new {
                    // On disk before the PUBREL goes out: after it, the PUBLISH must not.
                    self.record(routing, |steps, session| {
                        steps.released(session, entry, id);
                    });
                }
            }
            (AckKind::PubRec, _) if !reason.is_error() => {
                link.release(id, ReasonCode::PacketIdentifierNotFound);
            }
            _ => {}
        }
        moved
    }

    fn forget(&mut self, place: Option<usize>, routing: &mut Routing<'_>) {
        if place.is_some_and(|place| place >= self.inflight.len() - usize::from(self.resuming)) {
            self.resuming -= 1;
        }
        let gone = place.and_then(|place| self.inflight.remove(place));
        if self.inflight.is_empty() && self.inflight.capacity() > 64 {
            self.inflight = VecDeque::new();
        }
        if let Some(flight) = gone {
            self.done(flight.entry, routing);
        }
    }

    /// Everything in flight has to be sent again on this new connection \[MQTT-4.4.0-1\].
    pub(super) fn resume(&mut self, routing: &mut Routing<'_>) {
        // At most as many as there are packet identifiers.
        self.resuming = u16::try_from(self.inflight.len()).unwrap_or(u16::MAX);
        self.resend(routing);
    }

    /// Sends again what was in flight, in its order \[MQTT-4.6.0-1\], as far as the client's
    /// Receive Maximum and the output have room; what the policy no longer allows is dropped
    /// instead.
    pub(super) fn resend(&mut self, routing: &mut Routing<'_>) {
        while self.resuming > 0 {
            let place = self.inflight.len() - usize::from(self.resuming);
            let Some(link) = &mut self.link else { return };
            let Some(flight) = self.inflight.get(place) else {
                return;
            };
            let (kept, qos) = match &flight.state {
                Awaits::Completion => {
                    link.release(flight.id, ReasonCode::Success);
                    self.resuming -= 1;
                    continue;
                }
                Awaits::Acknowledgement(kept) => (kept, QoS::AtLeastOnce),
                Awaits::Receipt(kept) => (kept, QoS::ExactlyOnce),
            };
            if place >= usize::from(link.window) || link.output.len() >= routing.high_water {
                return;
            }
            let publication = kept
                .as_ref()
                .and_then(|kept| Some((kept, routing.reopen(&kept.message)?)));
            let sent = publication.is_some_and(|(kept, publication)| {
                let delivery = Delivery {
                    publication: &publication,
                    qos,
                    retain: kept.retain,
                    subscription_ids: kept.ids.clone(),
                };
                guard::deliver(&self.rights, delivery, false, routing.modules())
                    .map_err(|_| routing.metrics().deliveries_denied.inc())
                    .is_ok_and(|delivery| {
                        link.send(&delivery, Some((flight.id, true)), true, routing)
                    })
            });
            self.resuming -= 1;
            if !sent {
                self.forget(Some(place), routing);
            }
        }
    }
}
