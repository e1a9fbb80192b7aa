//! One session: its subscriptions, what is on its way to the client, and what waits.
//!
//! A session belongs to a principal (rule 3). Everything in it is behind one small lock that is
//! held for one message at a time, by the publisher's thread while it delivers and by the
//! connection's while it takes what there is to write. Delivery encodes straight into the
//! connection's output, so that a message that can go out at once is copied once and never
//! allocated.
//!
//! No I/O and no clock in here: time comes in with the [`Routing`] of the moment, and the waker of
//! a connection that has something to write goes out with it.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};
use slab::Slab;
use smallvec::SmallVec;

use crate::guard::{Grant, Rights, Stored, Subject};
use crate::hook::Effort;
use crate::journal::{Entry, SessionId, WillRecord};
use crate::message::Message;
use crate::ticket::Ticket;
use crate::topic::TopicFilter;
use crate::wire::{ReasonCode, SubscribeOptions};

use super::Routing;
use super::deliver::Scan;
use super::flight::{InFlight, Serial};
use super::link::{Aliases, Close, KEPT_WINDOW, Link, NewLink, Pace, Taken, WINDOW};
use super::owner::Owner;
use super::queue::Queue;
use super::received::Received;
use super::tree::{FilterRef, ShareGroup, Tree};
use super::will::TimerKey;

/// A session; shared by its connection, the subscription tree and the registry.
pub(crate) struct Session {
    pub(crate) client_id: Arc<str>,
    pub(crate) owner: Arc<Owner>,
    pub(super) state: Mutex<State>,
}

/// What a session knows; see [`Session::lock`].
pub(crate) struct State {
    /// Its name in the journal, if it has one.
    pub(super) id: SessionId,
    /// The number of the last message that it took.
    pub(super) entries: Entry,
    /// What must be on disk before anything more is sent to the client.
    pub(super) barrier: Option<Ticket>,
    pub(super) subject: Arc<Subject>,
    pub(super) rights: Arc<Rights>,
    pub(super) link: Option<Link>,
    /// Counts connections, so that an old one cannot touch its successor's state.
    pub(super) epoch: u64,
    /// Seconds that the session outlives its connection; 0: it ends with it.
    pub(super) expiry: u32,
    pub(super) will: Option<Box<Will>>,
    pub(super) subscriptions: Slab<Subscription>,
    pub(super) index: HashTable<u32>,
    pub(super) serial: u32,
    /// The work of all subscriptions together, in the steps of their [`Toil`].
    pub(super) toiled: u32,
    pub(super) queue: Queue,
    pub(super) inflight: VecDeque<InFlight>,
    /// How many at the end of `inflight` are still to be sent again on this connection.
    pub(super) resuming: u16,
    /// The packet identifier that was given last.
    pub(super) given: Serial,
    /// `QoS` 2 messages of its client, from the first one on.
    pub(super) received: Option<Box<Received>>,
    /// Walks over retained messages that are not finished.
    pub(super) scans: VecDeque<Scan>,
    /// While nobody is connected.
    pub(super) away: Option<Box<Away>>,
    /// The session has ended: nothing is taken any more.
    pub(super) ended: bool,
    /// How often subscriptions changed or went away, up to [`CHANGEABLE`](super::table::CHANGEABLE).
    pub(super) changes: u8,
}

/// A session whose client is away; times in milliseconds since the Unix epoch.
pub(crate) struct Away {
    /// When its connection ended.
    pub(super) since: u64,
    /// When its will is due, if it has one that is not published yet.
    pub(super) will_at: Option<u64>,
    /// Its deadlines: the will's, and its own.
    pub(super) timers: SmallVec<[TimerKey; 2]>,
}

/// What the acknowledgement of one message waits for.
pub(crate) type Tickets = SmallVec<[Ticket; 1]>;

/// A will, put away at CONNECT.
pub(crate) struct Will {
    pub(super) message: Stored<Message>,
    /// Will Delay Interval, seconds.
    pub(super) delay: u32,
    /// Message Expiry Interval, seconds; it starts when the will fires.
    pub(super) expiry: Option<u32>,
}

impl Will {
    pub(crate) fn new(message: Stored<Message>, delay: u32, expiry: Option<u32>) -> Self {
        Self {
            message,
            delay,
            expiry,
        }
    }

    /// Whether a store that is full takes it, with the session that it belongs to; and memory that
    /// is short.
    pub(super) fn is_small(&self) -> bool {
        self.message.weight() <= 1024
    }

    /// As the journal writes it.
    pub(super) fn record(&self) -> WillRecord<'_> {
        WillRecord {
            message: &self.message,
            delay: self.delay,
            expiry: self.expiry,
        }
    }
}

/// A subscription of this session.
pub(crate) struct Subscription {
    pub(super) filter: FilterRef,
    pub(super) share: Option<Arc<ShareGroup>>,
    pub(super) options: SubscribeOptions,
    pub(super) id: Option<NonZeroU32>,
    pub(super) serial: u32,
    pub(super) cover: Covered,
    pub(super) toil: Toil,
}

/// How much work it was to judge a subscription by the policy, as a power of two: the next change
/// of policy will take about as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toil(u8);

impl Toil {
    pub(super) fn of(steps: u32) -> Self {
        // At most 32.
        Self(u8::try_from(steps.next_power_of_two().trailing_zeros()).unwrap_or(u8::MAX))
    }

    pub(super) fn steps(self) -> u32 {
        1u32.checked_shl(self.0.into()).unwrap_or(u32::MAX)
    }
}

impl Subscription {
    /// The filter as the client wrote it.
    pub(super) fn text(&self, tree: &Tree) -> String {
        let text = tree.text(self.filter);
        match &self.share {
            Some(group) => format!("$share/{}/{text}", group.name),
            None => text,
        }
    }
}

/// How a subscription stands under the present policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Covered {
    /// Wholly: deliveries up to its `QoS` need no check.
    Full,
    /// In part, or not for every message: each delivery is checked.
    Narrowed,
    /// No more: kept, delivers nothing.
    Suspended,
}

impl From<Grant> for Covered {
    fn from(grant: Grant) -> Self {
        match grant {
            Grant::Full => Self::Full,
            Grant::Bounded | Grant::Narrowed => Self::Narrowed,
        }
    }
}

impl Session {
    pub(super) fn new(
        client_id: Arc<str>,
        owner: Arc<Owner>,
        subject: Arc<Subject>,
        rights: Arc<Rights>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client_id,
            owner: Arc::clone(&owner),
            state: Mutex::new(State {
                id: SessionId::default(),
                entries: 0,
                barrier: None,
                subject,
                rights,
                link: None,
                epoch: 0,
                expiry: 0,
                will: None,
                subscriptions: Slab::new(),
                index: HashTable::new(),
                serial: 0,
                toiled: 0,
                queue: Queue::new(owner),
                inflight: VecDeque::new(),
                resuming: 0,
                given: Serial::default(),
                received: None,
                scans: VecDeque::new(),
                away: None,
                ended: false,
                changes: 0,
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Room for output that it holds; for tests of what is left behind.
    #[cfg(test)]
    pub(crate) fn output_capacity(&self) -> usize {
        let state = self.lock();
        state.link.as_ref().map_or(0, |link| link.output.capacity())
    }

    /// Whether its client is connected.
    pub(super) fn is_online(&self) -> bool {
        self.state.lock().link.is_some()
    }
}

impl State {
    /// Brings rights and subscriptions up to the present policy. Cheap when nothing changed.
    pub(super) fn refresh(&mut self, routing: &mut Routing<'_>) {
        if self.rights.generation != routing.generation && !self.ended {
            self.reassess(routing);
        }
    }

    /// Asks again about every subscription: the policy or the identity changed.
    pub(super) fn reassess(&mut self, routing: &mut Routing<'_>) {
        self.rights = self.subject.rights(routing.modules());
        let mut revoked = None;
        let effort = Effort::new(Effort::SESSION);
        self.toiled = 0;
        let mut changed = false;
        for (_, subscription) in &mut self.subscriptions {
            let whole = subscription.text(routing.tree());
            let granted = TopicFilter::new(&whole, routing.settings().mqtt.topic)
                .map_err(|error| error.to_string())
                .and_then(|filter| {
                    let qos = subscription.options.qos;
                    let (granted, toil) = routing.cover(&self.rights, filter, qos, &effort);
                    subscription.toil = toil;
                    granted
                });
            self.toiled = self.toiled.saturating_add(subscription.toil.steps());
            let was = subscription.cover;
            subscription.cover = granted.as_ref().map_or(Covered::Suspended, |g| (*g).into());
            changed |= subscription.cover != was;
            let suspended = subscription.cover == Covered::Suspended;
            if suspended != (was == Covered::Suspended) {
                routing.suspended(self.subject.snapshot(), &whole, suspended);
            }
            if let Err(rule) = granted {
                revoked.get_or_insert(format!("{whole} is no longer allowed: {rule}"));
            }
        }
        if changed {
            self.changed();
        }
        if let Some(reason) = revoked
            && routing.disconnects_revoked()
        {
            self.order(
                Close {
                    code: ReasonCode::NotAuthorized,
                    reason,
                    will: false,
                },
                routing,
            );
        }
    }

    /// Orders the connection, if there is one, to end.
    pub(super) fn order(&mut self, close: Close, routing: &mut Routing<'_>) {
        if let Some(link) = &mut self.link {
            link.close.get_or_insert_with(|| Box::new(close));
            link.rouse(routing);
        }
    }

    /// Takes over a new connection. The caller has dealt with the old one.
    pub(super) fn connect(&mut self, new: &NewLink, now: Instant) {
        self.epoch += 1;
        let most = if self.expiry > 0 { KEPT_WINDOW } else { WINDOW };
        self.link = Some(Link {
            version: new.version,
            output: Vec::new(),
            usual: 256,
            published: 0,
            waker: None,
            // The driver takes once before it sleeps.
            pace: Pace::Awake,
            window: new.receive_maximum.map_or(most, |max| max.get().min(most)),
            max_packet: new.max_packet.map_or(usize::MAX, |max| max.get() as usize),
            aliases: Aliases::new(new.topic_alias_max),
            progress: now,
            close: None,
            sent: 0,
            connected_at: now,
        });
    }

    /// Moves what there is to write into `into`, which must be empty, and remembers whom to wake.
    /// `published`: when the client last did, if it has since it last took something.
    pub(super) fn take(
        &mut self,
        epoch: u64,
        into: &mut Vec<u8>,
        waker: &Waker,
        published: Option<Instant>,
        routing: &mut Routing<'_>,
    ) -> Taken {
        if self.epoch == epoch {
            if let Some(link) = &mut self.link {
                link.pace = Pace::Awake;
            }
            self.refresh(routing);
            self.fill(routing);
        }
        let (link, stalled) = match self.heed(epoch) {
            Ok(heeded) => heeded,
            Err(close) => return Taken::Close(close),
        };
        link.usual = u32::try_from(link.output.len())
            .unwrap_or(u32::MAX)
            .clamp(256, 64 << 10);
        if let Some(published) = published {
            let since = published.saturating_duration_since(link.connected_at);
            link.published = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        }
        // The buffer that was written is not kept: a connection that waits has none.
        *into = std::mem::take(&mut link.output);
        link.pace = Pace::Asleep;
        if link
            .waker
            .as_ref()
            .is_none_or(|known| !known.will_wake(waker))
        {
            link.waker = Some(waker.clone());
        }
        Taken::Output {
            sent: std::mem::take(&mut link.sent).into(),
            stalled,
            barrier: self.barrier.take(),
        }
    }

    /// What a connection must know that can take nothing at present: an order to end, or since when
    /// publishers have waited for its client. It will be told if that changes.
    pub(super) fn block(&mut self, epoch: u64) -> Result<Option<Instant>, Close> {
        let (link, stalled) = self.heed(epoch)?;
        link.pace = Pace::Blocked;
        Ok(stalled)
    }

    /// The link of a connection that may go on, and since when publishers have waited for it.
    fn heed(&mut self, epoch: u64) -> Result<(&mut Link, Option<Instant>), Close> {
        let Some(link) = self.link.as_mut().filter(|_| self.epoch == epoch) else {
            return Err(Close {
                code: ReasonCode::SessionTakenOver,
                reason: "its client connected again".to_owned(),
                will: true,
            });
        };
        if let Some(close) = link.close.take() {
            return Err(*close);
        }
        let stalled = self.queue.holds_publishers().then_some(link.progress);
        Ok((link, stalled))
    }

    /// The client took bytes.
    pub(super) fn progressed(&mut self, now: Instant) {
        if let Some(link) = &mut self.link {
            link.progress = now;
        }
    }

    /// Empties everything but the identity.
    pub(super) fn clear(&mut self, routing: &mut Routing<'_>) {
        self.queue.clear(routing.metrics());
        self.inflight = VecDeque::new();
        self.resuming = 0;
        if let Some(received) = &mut self.received {
            received.clear();
        }
        self.scans = VecDeque::new();
        self.will = None;
    }

    /// The connection is gone; what it alone needed goes too.
    pub(super) fn disconnect(&mut self, routing: &mut Routing<'_>) {
        self.link = None;
        self.barrier = None;
        self.resuming = 0;
        self.scans = VecDeque::new();
        if self.expiry > 0 {
            self.queue.drop_qos0(routing.metrics());
            let dropped = self.queue.leave(routing.bound(), routing.metrics());
            self.dropped(dropped, routing);
        }
    }

    /// Whether a `QoS` 2 message of its client is being routed at this moment.
    pub(super) fn is_routing(&self) -> bool {
        self.received
            .as_ref()
            .is_some_and(|known| known.routing > 0)
    }

    pub(super) fn inflight_len(&self) -> usize {
        self.inflight.len()
    }
}

/// Of most deliveries: none or one.
pub(super) type Wakes = SmallVec<[Waker; 4]>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_the_size_that_the_memory_per_connection_is_reckoned_with() {
        // With its two counters a size class of the allocator.
        assert!(size_of::<Session>() + 16 <= 448, "{}", size_of::<Session>());
    }
}
