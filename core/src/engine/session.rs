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

use crate::guard::{self, Authorized, Delivery, Grant, Rights, Stored, Subject};
use crate::hook::Principal;
use crate::journal::{Entry, QueuedAs, SessionId, Steps, WillRecord};
use crate::message::{Message, Publication};
use crate::ticket::Ticket;
use crate::topic::TopicFilter;
use crate::wire::{QoS, ReasonCode, SubscribeOptions};

use super::flight::{InFlight, Kept, next_id};
use super::link::{Aliases, Close, Link, NewLink, OUTPUT_HIGH_WATER, Taken, WINDOW};
use super::queue::{IdSet, Queue, Queued};
use super::tree::{FilterRef, ShareGroup, Slot, Tree};
use super::will::TimerKey;
use super::{Ids, Routing};

/// A session; shared by its connection, the subscription tree and the registry.
pub(crate) struct Session {
    pub(crate) client_id: Arc<str>,
    pub(crate) owner: Principal,
    state: Mutex<State>,
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
    pub(super) will: Option<Will>,
    pub(super) subscriptions: Slab<Subscription>,
    index: HashTable<u32>,
    serial: u32,
    pub(super) queue: Queue,
    pub(super) inflight: VecDeque<InFlight>,
    /// How many at the end of `inflight` are still to be sent again on this connection.
    pub(super) resuming: usize,
    pub(super) last_id: u16,
    pub(super) received: IdSet,
    /// Tickets of received `QoS` 2 messages whose PUBREC still waits, by packet identifier: a
    /// client that comes back and repeats one waits for the same.
    pub(super) promised: Vec<(u16, Tickets)>,
    /// Walks over retained messages that are not finished.
    scans: VecDeque<Scan>,
    /// Its deadlines while nobody is connected.
    pub(super) timers: SmallVec<[TimerKey; 2]>,
    /// When it lost its connection and when its will is due, for the journal; milliseconds since
    /// the Unix epoch.
    pub(super) left: Option<(u64, Option<u64>)>,
    /// The session has ended: nothing is taken any more.
    pub(super) ended: bool,
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
    /// Wholly: deliveries need no check.
    Full,
    /// In part: each delivery is checked.
    Narrowed,
    /// No more: kept, delivers nothing.
    Suspended,
}

impl From<Grant> for Covered {
    fn from(grant: Grant) -> Self {
        match grant {
            Grant::Full => Self::Full,
            Grant::Narrowed => Self::Narrowed,
        }
    }
}

struct Scan {
    slot: Slot,
    after: Option<Box<str>>,
}

/// What became of a message at one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It is on its way or queued.
    Taken,
    /// The receiver does not get it: suspended, not allowed, its own, full.
    Not,
}

impl Session {
    pub(super) fn new(
        client_id: Arc<str>,
        subject: Arc<Subject>,
        rights: Arc<Rights>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client_id,
            owner: subject.principal().clone(),
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
                queue: Queue::default(),
                inflight: VecDeque::new(),
                resuming: 0,
                last_id: 0,
                received: IdSet::default(),
                promised: Vec::new(),
                scans: VecDeque::new(),
                timers: SmallVec::new(),
                left: None,
                ended: false,
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Whether its client is connected.
    pub(super) fn is_online(&self) -> bool {
        self.state.lock().link.is_some()
    }

    /// Delivers a message through those of `slots` that still stand.
    pub(super) fn deliver(
        &self,
        publication: &Authorized<Publication<'_>>,
        slots: &[Slot],
        routing: &mut Routing<'_>,
    ) -> Delivered {
        let mut state = self.state.lock();
        state.refresh(routing);
        let mut granted: Option<QoS> = None;
        let mut covered = false;
        let mut retain = false;
        let mut ids = Ids::new();
        let mut share = None;
        let own = routing.is_origin(self);
        for slot in slots {
            let Some(subscription) = state.subscription(*slot) else {
                continue;
            };
            if subscription.cover == Covered::Suspended || (subscription.options.no_local && own) {
                continue;
            }
            granted = granted.max(Some(subscription.options.qos));
            covered |= subscription.cover == Covered::Full;
            retain |= subscription.options.retain_as_published && publication.asked.retain;
            ids.extend(subscription.id);
            share = subscription.share.clone().or(share);
        }
        let Some(granted) = granted else {
            return Delivered::Not;
        };
        let delivery = Delivery {
            publication,
            qos: publication.qos.min(granted),
            retain,
            subscription_ids: ids,
        };
        let authorized = guard::deliver(&state.rights, delivery, covered, routing.modules());
        let Ok(delivery) = authorized else {
            routing.metrics().deliveries_denied.inc();
            return Delivered::Not;
        };
        state.push(&delivery, share, &|| publication.store(), routing)
    }
}

impl State {
    /// The subscription of a slot, if it is still the same.
    fn subscription(&self, slot: Slot) -> Option<&Subscription> {
        self.subscriptions
            .get(slot.place as usize)
            .filter(|subscription| subscription.serial == slot.serial)
    }

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
        for (_, subscription) in &mut self.subscriptions {
            let whole = subscription.text(routing.tree());
            let granted = TopicFilter::new(&whole, routing.settings().mqtt.topic)
                .map_err(|error| error.to_string())
                .and_then(|filter| routing.cover(&self.rights, filter));
            let was = subscription.cover;
            subscription.cover = granted.as_ref().map_or(Covered::Suspended, |g| (*g).into());
            let suspended = subscription.cover == Covered::Suspended;
            if suspended != (was == Covered::Suspended) {
                routing.suspended(self.subject.snapshot(), &whole, suspended);
            }
            if let Err(rule) = granted {
                revoked.get_or_insert(format!("{whole} is no longer allowed: {rule}"));
            }
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
            link.close.get_or_insert(close);
            link.wake(routing);
        }
    }

    /// Writes steps of this session to the journal, if it has one; what is sent to the client
    /// afterwards waits until they are safe. If they cannot be written the connection ends: a
    /// client must not be told what a restart would not know.
    pub(super) fn record(
        &mut self,
        routing: &mut Routing<'_>,
        mut steps: impl FnMut(&mut Steps<'_, '_>, SessionId),
    ) {
        let id = self.id;
        match routing.write(id, true, &mut |write| steps(write, id)) {
            Ok(ticket) => self.barrier = ticket.or(self.barrier.take()),
            Err(_) => self.order(
                Close {
                    code: ReasonCode::UnspecifiedError,
                    reason: "the store has failed".to_owned(),
                    will: true,
                },
                routing,
            ),
        }
    }

    /// The same for what can be refused; `false`: the store does not take it.
    pub(super) fn try_record(
        &mut self,
        routing: &mut Routing<'_>,
        mut steps: impl FnMut(&mut Steps<'_, '_>, SessionId),
    ) -> bool {
        let id = self.id;
        let written = routing.write(id, false, &mut |write| steps(write, id));
        if let Ok(ticket) = &written {
            self.barrier = ticket.clone().or(self.barrier.take());
        }
        written.is_ok()
    }

    /// A message is acknowledged, dropped or expired. If that cannot be written it comes again
    /// after a restart: once more, never less.
    pub(super) fn done(&mut self, entry: Entry, routing: &mut Routing<'_>) {
        if entry != 0 {
            let id = self.id;
            let _ = routing.write(id, true, &mut |steps| steps.done(id, entry));
        }
    }

    /// The number of the next message that the journal is told of; 0 where there is none.
    fn next_entry(&mut self, qos: QoS) -> Entry {
        if !self.id.is_durable() || qos == QoS::AtMostOnce {
            return 0;
        }
        self.entries += 1;
        self.entries
    }

    /// Writes down that this session takes a message; its publisher's acknowledgement waits for
    /// that. `sent`: the packet identifier under which it goes out at once, which for `QoS` 2 must
    /// be on disk first. `false`: the store does not take it.
    fn record_taken(
        &mut self,
        queued: &Queued,
        sent: Option<u16>,
        routing: &mut Routing<'_>,
    ) -> bool {
        if queued.entry == 0 {
            return true;
        }
        let id = self.id;
        let how = QueuedAs {
            entry: queued.entry,
            qos: queued.qos,
            retain: queued.retain,
            ids: &queued.ids,
        };
        let written = routing.write(id, false, &mut |steps| {
            steps.queued(id, &queued.message, &how);
            if let Some(sent) = sent {
                steps.sent(id, queued.entry, sent);
            }
        });
        let Ok(ticket) = written else {
            routing.refuse();
            return false;
        };
        if sent.is_some() && queued.qos == QoS::ExactlyOnce {
            self.barrier = ticket.clone().or(self.barrier.take());
        }
        routing.await_safe(ticket);
        true
    }

    /// Sends a message, or queues it, or drops it as the rules say. `store` makes the copy that is
    /// kept.
    fn push(
        &mut self,
        delivery: &Authorized<Delivery<'_>>,
        share: Option<Arc<ShareGroup>>,
        store: &dyn Fn() -> Stored<Message>,
        routing: &mut Routing<'_>,
    ) -> Delivered {
        if self.link.is_none() {
            return self.push_offline(delivery, share, store, routing);
        }
        if delivery.qos == QoS::AtMostOnce {
            self.push_once(delivery, share, store, routing)
        } else {
            self.push_acknowledged(delivery, share, store, routing)
        }
    }

    fn push_offline(
        &mut self,
        delivery: &Authorized<Delivery<'_>>,
        share: Option<Arc<ShareGroup>>,
        store: &dyn Fn() -> Stored<Message>,
        routing: &mut Routing<'_>,
    ) -> Delivered {
        // QoS 0 is for those who are there.
        if self.expiry == 0 || self.ended || delivery.qos == QoS::AtMostOnce {
            return Delivered::Not;
        }
        let entry = self.next_entry(delivery.qos);
        let queued = Queued::of(entry, delivery, share, store());
        if !self.record_taken(&queued, None, routing) {
            return Delivered::Not;
        }
        self.queue.push(queued, None, routing.metrics());
        self.trim(routing);
        Delivered::Taken
    }

    /// The oldest messages of an offline session make room.
    pub(super) fn trim(&mut self, routing: &mut Routing<'_>) {
        let dropped = self.queue.trim(routing.bound(), routing.metrics());
        routing.queue_dropped(self.subject.snapshot(), dropped.len() as u64);
        for queued in dropped {
            self.done(queued.entry, routing);
        }
    }

    fn push_once(
        &mut self,
        delivery: &Authorized<Delivery<'_>>,
        share: Option<Arc<ShareGroup>>,
        store: &dyn Fn() -> Stored<Message>,
        routing: &mut Routing<'_>,
    ) -> Delivered {
        let open = self.is_open();
        let Some(link) = &mut self.link else {
            return Delivered::Not;
        };
        if open {
            link.send(delivery, None, false, routing);
            link.wake(routing);
            return Delivered::Taken;
        }
        let message = store();
        if !self.queue.has_room(message.weight(), routing.bound()) {
            routing.metrics().dropped_qos0.inc();
            return Delivered::Not;
        }
        let queued = Queued::of(0, delivery, share, message);
        self.queue.push(queued, None, routing.metrics());
        Delivered::Taken
    }

    /// Whether a message can go out before others that wait.
    fn is_open(&self) -> bool {
        self.queue.is_empty()
            && self.resuming == 0
            && self
                .link
                .as_ref()
                .is_some_and(|link| link.output.len() < OUTPUT_HIGH_WATER)
    }

    fn push_acknowledged(
        &mut self,
        delivery: &Authorized<Delivery<'_>>,
        share: Option<Arc<ShareGroup>>,
        store: &dyn Fn() -> Stored<Message>,
        routing: &mut Routing<'_>,
    ) -> Delivered {
        let entry = self.next_entry(delivery.qos);
        let window = self
            .link
            .as_ref()
            .map_or(0, |link| usize::from(link.window));
        if self.is_open()
            && self.inflight.len() < window
            && let Some(id) = next_id(&mut self.last_id, &self.inflight)
        {
            if entry != 0 {
                let queued = Queued::of(entry, delivery, share.clone(), store());
                if !self.record_taken(&queued, Some(id), routing) {
                    return Delivered::Not;
                }
            }
            let keep = self.expiry > 0 || share.is_some();
            let Some(link) = &mut self.link else {
                return Delivered::Not;
            };
            if link.send(delivery, Some((id, false)), false, routing) {
                link.wake(routing);
                let kept = keep.then(|| Kept::of(delivery, share, store()));
                self.inflight
                    .push_back(InFlight::new(entry, id, delivery.qos, kept));
            } else {
                self.done(entry, routing);
            }
            return Delivered::Taken;
        }
        let queued = Queued::of(entry, delivery, share, store());
        if !self.record_taken(&queued, None, routing) {
            return Delivered::Not;
        }
        let (weight, bound) = (queued.message.weight(), routing.bound());
        if !self.queue.has_room(weight, bound) {
            self.queue.drop_qos0(routing.metrics());
        }
        let hold = (!self.queue.has_room(weight, bound)).then(|| routing.hold());
        if hold.is_some()
            && let Some(link) = &mut self.link
        {
            if !self.queue.holds_publishers() {
                link.progress = routing.now.mono;
            }
            // So that the connection looks at its clock: without progress it will be ended.
            link.wake(routing);
        }
        self.queue.push(queued, hold, routing.metrics());
        Delivered::Taken
    }

    /// Moves queued and retained messages into the output while there is room.
    fn fill(&mut self, routing: &mut Routing<'_>) {
        let bound = routing.bound();
        loop {
            let Some(link) = &mut self.link else { return };
            if link.output.len() >= OUTPUT_HIGH_WATER {
                return;
            }
            if self.resuming > 0 {
                self.resend(routing);
                if self.resuming > 0 {
                    return;
                }
                continue;
            }
            let blocked = self.inflight.len() >= usize::from(link.window);
            if self.queue.is_empty() {
                if blocked || self.scans.is_empty() {
                    return;
                }
                self.scan(routing);
                continue;
            }
            if blocked && !self.queue.front_is_qos0() {
                return;
            }
            let Some(queued) = self.queue.pop(bound, routing.metrics()) else {
                return;
            };
            self.send_stored(queued, routing);
        }
    }

    /// Sends one message that was stored: its author and the receiver are asked about again.
    fn send_stored(&mut self, queued: Queued, routing: &mut Routing<'_>) {
        let Queued {
            entry,
            message,
            qos,
            retain,
            ids,
            share,
        } = queued;
        let Some(link) = &mut self.link else { return };
        let delivery = match routing.reopen(&message) {
            Some(publication) => guard::deliver(
                &self.rights,
                Delivery {
                    publication: &publication,
                    qos,
                    retain,
                    subscription_ids: ids.clone(),
                },
                false,
                routing.modules(),
            )
            .map(|delivery| {
                let id = if qos == QoS::AtMostOnce {
                    None
                } else {
                    match next_id(&mut self.last_id, &self.inflight) {
                        Some(id) => Some(id),
                        None => return None,
                    }
                };
                link.send(&delivery, id.map(|id| (id, false)), false, routing)
                    .then_some(id)
            }),
            None => return self.done(entry, routing),
        };
        match delivery {
            Ok(Some(Some(id))) => {
                if entry != 0 && qos == QoS::ExactlyOnce {
                    self.record(routing, |steps, session| steps.sent(session, entry, id));
                } else if entry != 0 {
                    let session = self.id;
                    // If that is lost it goes out under another identifier after a restart.
                    let _ =
                        routing.write(session, true, &mut |steps| steps.sent(session, entry, id));
                }
                let kept = (self.expiry > 0 || share.is_some()).then_some(Kept {
                    message,
                    retain,
                    ids,
                    share,
                });
                self.inflight.push_back(InFlight::new(entry, id, qos, kept));
            }
            Ok(_) => self.done(entry, routing),
            Err(_) => {
                routing.metrics().deliveries_denied.inc();
                self.done(entry, routing);
            }
        }
    }

    /// One step of the oldest unfinished walk over retained messages.
    fn scan(&mut self, routing: &mut Routing<'_>) {
        let Some(scan) = self.scans.front_mut() else {
            return;
        };
        let found = self
            .subscriptions
            .get(scan.slot.place as usize)
            .filter(|subscription| {
                subscription.serial == scan.slot.serial && subscription.cover != Covered::Suspended
            });
        let Some(subscription) = found else {
            self.scans.pop_front();
            return;
        };
        let text = routing.tree().text(subscription.filter);
        let (options, id) = (subscription.options, subscription.id);
        let page = routing.retained(&text, scan.after.as_deref());
        match page.next {
            Some(next) => scan.after = Some(next),
            None => {
                self.scans.pop_front();
            }
        }
        for message in page.messages {
            let own = &self.subject.snapshot().client_id;
            if options.no_local && message.author().snapshot().client_id == *own {
                continue;
            }
            let qos = message.qos().min(options.qos);
            let queued = Queued {
                entry: self.next_entry(qos),
                qos,
                message,
                retain: true,
                ids: id.into_iter().collect(),
                share: None,
            };
            if self.record_taken(&queued, None, routing) {
                self.queue.push(queued, None, routing.metrics());
            }
        }
    }

    /// Takes over a new connection. The caller has dealt with the old one.
    pub(super) fn connect(&mut self, new: &NewLink, now: Instant) {
        self.epoch += 1;
        self.link = Some(Link {
            version: new.version,
            output: Vec::new(),
            usual: 256,
            waker: None,
            // The driver takes once before it sleeps.
            awake: true,
            window: new
                .receive_maximum
                .map_or(WINDOW, |max| max.get().min(WINDOW)),
            max_packet: new.max_packet.map_or(usize::MAX, |max| max.get() as usize),
            aliases: Aliases::new(new.topic_alias_max),
            progress: now,
            close: None,
            sent: 0,
            connected_at: now,
            peer: new.peer,
        });
    }

    /// Moves what there is to write into `into`, which must be empty, and remembers whom to wake.
    pub(super) fn take(
        &mut self,
        epoch: u64,
        into: &mut Vec<u8>,
        waker: &Waker,
        routing: &mut Routing<'_>,
    ) -> Taken {
        if self.epoch != epoch || self.link.is_none() {
            return Taken::Close(Close {
                code: ReasonCode::SessionTakenOver,
                reason: "its client connected again".to_owned(),
                will: true,
            });
        }
        self.refresh(routing);
        self.fill(routing);
        let holds = self.queue.holds_publishers();
        let Some(link) = &mut self.link else {
            return Taken::Output {
                sent: 0,
                stalled: None,
                barrier: None,
            };
        };
        if let Some(close) = link.close.take() {
            return Taken::Close(close);
        }
        link.usual = link.output.len().clamp(256, 64 << 10);
        std::mem::swap(into, &mut link.output);
        link.awake = false;
        if link
            .waker
            .as_ref()
            .is_none_or(|known| !known.will_wake(waker))
        {
            link.waker = Some(waker.clone());
        }
        Taken::Output {
            sent: std::mem::take(&mut link.sent),
            stalled: holds.then_some(link.progress),
            barrier: self.barrier.take(),
        }
    }

    /// The client took bytes.
    pub(super) fn progressed(&mut self, now: Instant) {
        if let Some(link) = &mut self.link {
            link.progress = now;
        }
    }

    /// Adds or replaces a subscription; see [`super::Engine::subscribe`].
    pub(super) fn slot_of(&self, filter: FilterRef, share: Option<&str>) -> Option<Slot> {
        self.index
            .find(index_hash(filter), |place| {
                self.subscriptions
                    .get(*place as usize)
                    .is_some_and(|known| {
                        known.filter == filter
                            && known.share.as_ref().map(|group| &*group.name) == share
                    })
            })
            .and_then(|place| {
                let serial = self.subscriptions.get(*place as usize)?.serial;
                Some(Slot {
                    place: *place,
                    serial,
                })
            })
    }

    /// The slot that the next new subscription gets.
    pub(super) fn next_slot(&mut self) -> Slot {
        self.serial = self.serial.wrapping_add(1);
        Slot {
            place: u32::try_from(self.subscriptions.vacant_key()).unwrap_or(u32::MAX),
            serial: self.serial,
        }
    }

    pub(super) fn insert(&mut self, subscription: Subscription) {
        let hash = index_hash(subscription.filter);
        let place = u32::try_from(self.subscriptions.insert(subscription)).unwrap_or(u32::MAX);
        let subscriptions = &self.subscriptions;
        self.index.insert_unique(hash, place, |place| {
            subscriptions
                .get(*place as usize)
                .map_or(0, |known| index_hash(known.filter))
        });
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Subscription> {
        let subscription = self.subscriptions.try_remove(slot.place as usize)?;
        let hash = index_hash(subscription.filter);
        if let Ok(found) = self.index.find_entry(hash, |place| *place == slot.place) {
            found.remove();
        }
        Some(subscription)
    }

    /// Every subscription, taken out: the session ends or starts anew.
    pub(super) fn drain_subscriptions(&mut self) -> Vec<(Slot, Subscription)> {
        self.index.clear();
        let slots = std::mem::take(&mut self.subscriptions);
        slots
            .into_iter()
            .map(|(place, subscription)| {
                let slot = Slot {
                    place: u32::try_from(place).unwrap_or(u32::MAX),
                    serial: subscription.serial,
                };
                (slot, subscription)
            })
            .collect()
    }

    /// Starts a walk over the retained messages of a subscription. It goes as far as there is room
    /// at once, so that what is retained after this moment is not sent twice.
    pub(super) fn send_retained(&mut self, slot: Slot, routing: &mut Routing<'_>) {
        self.scans.push_back(Scan { slot, after: None });
        self.fill(routing);
    }

    /// Empties everything but the identity.
    pub(super) fn clear(&mut self, routing: &mut Routing<'_>) {
        self.queue.clear(routing.metrics());
        self.inflight = VecDeque::new();
        self.resuming = 0;
        self.received = IdSet::default();
        self.promised = Vec::new();
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
            self.trim(routing);
        }
    }

    pub(super) fn inflight_len(&self) -> usize {
        self.inflight.len()
    }
}

fn index_hash(filter: FilterRef) -> u64 {
    // Numbers that the tree chose, not the client.
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::default().hash_one(filter)
}

impl Queued {
    fn of(
        entry: Entry,
        delivery: &Delivery<'_>,
        share: Option<Arc<ShareGroup>>,
        message: Stored<Message>,
    ) -> Self {
        Self {
            entry,
            message,
            share,
            qos: delivery.qos,
            retain: delivery.retain,
            ids: delivery.subscription_ids.clone(),
        }
    }
}

/// Of most deliveries: none or one.
pub(super) type Wakes = SmallVec<[Waker; 4]>;
