//! Shared subscriptions: whose turn it is, and what becomes of a message whose member went away.
//!
//! When a member's session ends or its connection is lost, `QoS` 1 messages of its groups that it
//! did not acknowledge move to another member who may have them. A `QoS` 2 message that was sent
//! is completed to the same session \[MQTT-4.8.2-4\] or ends with it \[MQTT-4.8.2-5\]; one that
//! only waited moves when the session ends. What a member refused (0x80 or more) is over
//! \[MQTT-4.8.2-6\].

use std::sync::Arc;

use crate::guard::{Authorized, Stored};
use crate::message::{Message, Publication};
use crate::wire::QoS;

use super::deliver::Delivered;
use super::flight::{Awaits, Serial};
use super::session::State;
use super::tree::{Entry, ShareGroup};
use super::{Routing, Session};

/// Who may be offered a message of a group.
#[derive(Clone, Copy)]
pub(super) enum Among<'a> {
    /// Those who are there, then those who are away.
    Everybody,
    /// The same without one who had it and is gone for good.
    EverybodyBut(&'a Session),
    /// Those who are there, without one who had it and may come back.
    PresentBut(&'a Session),
}

/// Offers a message to the members in turn; whether one took it.
pub(super) fn offer(
    publication: &Authorized<Publication<'_>>,
    group: &ShareGroup,
    among: Among<'_>,
    routing: &mut Routing<'_>,
) -> bool {
    let (members, first) = group.turn();
    let (before, after) = members.split_at(first.min(members.len()));
    let except = match among {
        Among::Everybody => None,
        Among::EverybodyBut(session) | Among::PresentBut(session) => Some(session),
    };
    let mut ask = |online| {
        after.iter().chain(before).any(|Entry { session, claim }| {
            except.is_none_or(|except| !std::ptr::eq(except, Arc::as_ptr(session)))
                && session.is_online() == online
                && session.deliver(publication, &[*claim], routing) == Delivered::Taken
        })
    };
    ask(true) || (!matches!(among, Among::PresentBut(_)) && ask(false))
}

/// A message of a group whose member went away.
pub(super) struct Orphan {
    group: Arc<ShareGroup>,
    message: Stored<Message>,
    /// Its packet identifier if it was sent.
    sent: Option<Serial>,
}

impl State {
    /// What another member of a group may have instead. `ended`: this session is over.
    pub(super) fn orphans(&self, ended: bool) -> Vec<Orphan> {
        let sent = self
            .inflight
            .iter()
            .filter_map(|flight| match &flight.state {
                Awaits::Acknowledgement(Some(kept)) => Some(Orphan {
                    group: Arc::clone(kept.share.as_ref()?),
                    message: kept.message.clone(),
                    sent: Some(flight.serial),
                }),
                Awaits::Acknowledgement(None) | Awaits::Receipt(_) | Awaits::Completion => None,
            });
        let waiting = self.queue.iter().filter_map(|queued| {
            let moves = match queued.qos {
                QoS::AtMostOnce => false,
                QoS::AtLeastOnce => true,
                // It could be sent twice if the client came back at this very moment.
                QoS::ExactlyOnce => ended,
            };
            Some(Orphan {
                group: Arc::clone(queued.share.as_ref().filter(|_| moves)?),
                message: queued.message.clone(),
                sent: None,
            })
        });
        sent.chain(waiting).collect()
    }
}

/// Finds others for messages of groups. `away`: the session may come back, to the connection
/// with this number; what nobody else takes stays with it.
pub(super) fn rehome(
    orphans: Vec<Orphan>,
    from: &Arc<Session>,
    away: Option<u64>,
    routing: &mut Routing<'_>,
) {
    let mut moved = Vec::new();
    for orphan in orphans {
        let Some(publication) = routing.reopen(&orphan.message) else {
            continue;
        };
        let among = match away {
            Some(_) => Among::PresentBut(from),
            None => Among::EverybodyBut(from),
        };
        if offer(&publication, &orphan.group, among, routing) && away.is_some() {
            moved.push(orphan);
        }
    }
    if moved.is_empty() {
        return;
    }
    let mut state = from.lock();
    // If the client came back meanwhile, it has them too: at least once.
    if away != Some(state.epoch) || state.link.is_some() {
        return;
    }
    for Orphan { message, sent, .. } in moved {
        let entry = match sent {
            Some(serial) => {
                let mut flights = state.inflight.iter();
                let place = flights.position(|flight| flight.serial == serial);
                place
                    .and_then(|place| state.inflight.remove(place))
                    .map(|flight| flight.entry)
            }
            None => state.queue.take_out(&message, routing.metrics()),
        };
        state.done(entry.unwrap_or(0), routing);
    }
}
