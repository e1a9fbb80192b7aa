//! `QoS` 1 and 2 towards the client: what is on its way, what its acknowledgements do to it, and
//! what is sent again on resume.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::guard::{self, Delivery, Stored};
use crate::journal::Entry;
use crate::message::Message;
use crate::wire::{AckKind, QoS, ReasonCode};

use super::session::State;
use super::tree::ShareGroup;
use super::{Ids, Routing};

/// A message on its way, by its packet identifier.
pub(super) struct InFlight {
    /// Its place in the session's history; 0 where there is no journal of it.
    pub(super) entry: Entry,
    pub(super) serial: Serial,
    pub(super) state: Awaits,
}

/// The how manyth packet identifier of a session one is. Serials go up for ever; identifiers go
/// round from 1 to 65 535.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Serial(u64);

/// Packet identifiers that there are.
const ROUND: u64 = 65_535;

impl Serial {
    /// The packet identifier.
    pub(super) fn id(self) -> u16 {
        // From 1 to 65 535; the default, which is given to nothing, has the last one.
        u16::try_from((self.0 + ROUND - 1) % ROUND + 1).unwrap_or(u16::MAX)
    }

    fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The first one after this with this identifier, which is not 0.
    pub(super) fn next_with(self, id: u16) -> Self {
        let ahead = u64::from(id) + ROUND - u64::from(self.next().id());
        Self(self.next().0 + ahead % ROUND)
    }

    /// The last one up to this with this identifier, if there was one.
    fn last_with(self, id: u16) -> Option<Self> {
        let behind = u64::from(self.id()) + ROUND - u64::from(id);
        self.0.checked_sub(behind % ROUND).map(Self)
    }
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

/// The next packet identifier after `last`, the one that was given last, that is not in flight
/// \[MQTT-2.2.1-4\].
pub(super) fn next_serial(last: Serial, inflight: &VecDeque<InFlight>) -> Serial {
    let mut next = last.next();
    // Fewer are in flight than there are identifiers.
    while has_gone_round(next, inflight) && inflight.iter().any(|known| known.id() == next.id()) {
        next = next.next();
    }
    next
}

/// Whether identifiers have gone round past one that is still unacknowledged, up to this one.
fn has_gone_round(last: Serial, inflight: &VecDeque<InFlight>) -> bool {
    let oldest = inflight.front().map_or(last, |oldest| oldest.serial);
    last.0.saturating_sub(oldest.0) >= ROUND
}

/// Where the message with this identifier is. `last` is the one that was given last.
fn place_of(id: u16, last: Serial, inflight: &VecDeque<InFlight>) -> Option<usize> {
    let likely = last.last_with(id)?;
    match inflight.binary_search_by_key(&likely, |flight| flight.serial) {
        Ok(place) => Some(place),
        Err(_) if has_gone_round(last, inflight) => {
            inflight.iter().position(|flight| flight.id() == id)
        }
        Err(_) => None,
    }
}

impl InFlight {
    pub(super) fn new(entry: Entry, serial: Serial, qos: QoS, kept: Option<Kept>) -> Self {
        Self {
            entry,
            serial,
            state: Awaits::what(qos, kept),
        }
    }

    /// The packet identifier.
    pub(super) fn id(&self) -> u16 {
        self.serial.id()
    }
}

impl Awaits {
    /// What a message awaits that was sent at this `QoS`.
    pub(super) fn what(qos: QoS, kept: Option<Kept>) -> Self {
        match qos {
            QoS::ExactlyOnce => Self::Receipt(kept),
            QoS::AtLeastOnce | QoS::AtMostOnce => Self::Acknowledgement(kept),
        }
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
        let place = place_of(id, self.given, &self.inflight);
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

    /// A message is on its way.
    pub(super) fn fly(&mut self, flight: InFlight, routing: &Routing<'_>) {
        if self.inflight.len() == self.inflight.capacity() {
            // It gets twice the room.
            routing.grew(self.inflight.len() * size_of::<InFlight>());
        }
        self.given = flight.serial;
        self.inflight.push_back(flight);
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
                    link.release(flight.id(), ReasonCode::Success);
                    self.resuming -= 1;
                    continue;
                }
                Awaits::Acknowledgement(kept) => (kept, QoS::AtLeastOnce),
                Awaits::Receipt(kept) => (kept, QoS::ExactlyOnce),
            };
            if place >= usize::from(link.window) || !link.has_room(routing) {
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
                        link.send(&delivery, Some((flight.id(), true)), true, routing)
                    })
            });
            self.resuming -= 1;
            if !sent {
                self.forget(Some(place), routing);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        /// However often the identifiers go round, past messages that are never acknowledged too.
        #[test]
        fn no_identifier_is_given_twice_and_an_acknowledgement_finds_its_message(
            stuck in prop::collection::btree_set(0usize..140_000, 0..4),
            whims in prop::collection::vec((1usize..=40, any::<prop::sample::Index>()), 1..20),
        ) {
            let (mut last, mut inflight) = (Serial::default(), VecDeque::<InFlight>::new());
            for (number, (most, whim)) in (0..140_000).zip(whims.iter().cycle()) {
                let before = last;
                last = next_serial(last, &inflight);
                prop_assert!(last.id() > 0 && before.next_with(last.id()) == last);
                prop_assert!(inflight.iter().all(|flight| flight.id() != last.id()));
                // The entry says which are never acknowledged.
                let entry = Entry::from(stuck.contains(&number));
                inflight.push_back(InFlight::new(entry, last, QoS::AtLeastOnce, None));
                while inflight.len() > *most + stuck.len() {
                    let start = whim.index(inflight.len());
                    let mut places = (start..inflight.len()).chain(0..start);
                    let place = places.find(|place| inflight[*place].entry == 0).unwrap();
                    let id = inflight[place].id();
                    prop_assert_eq!(place_of(id, last, &inflight), Some(place));
                    inflight.remove(place);
                    prop_assert_eq!(place_of(id, last, &inflight), None);
                }
            }
            for (place, flight) in inflight.iter().enumerate() {
                prop_assert_eq!(place_of(flight.id(), last, &inflight), Some(place));
            }
        }
    }
}
