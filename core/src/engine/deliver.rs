//! How a message reaches a session: sent at once, queued, or dropped as the rules say; and how what
//! waits goes out when there is room.
//!
//! A session's own lock is held for one message at a time. Delivery encodes straight into the
//! connection's output, so that a message that can go out at once is copied once and never
//! allocated.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::budget::{ENTRY, Level};
use crate::guard::{self, Authorized, Delivery, Stored};
use crate::journal::Entry;
use crate::message::{Message, Publication};
use crate::wire::QoS;

use super::flight::{InFlight, Kept, next_serial};
use super::queue::Queued;
use super::session::{Covered, Session, State};
use super::tree::{Claim, ShareGroup, Slot};
use super::{Ids, Routing};

/// What became of a message at one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It is on its way or queued.
    Taken,
    /// The receiver does not get it: suspended, not allowed, its own, full.
    Not,
}

/// A walk over the retained messages of a subscription.
pub(super) struct Scan {
    slot: Slot,
    after: Option<Box<str>>,
}

impl Session {
    /// Delivers a message once, through those of `claims` that still stand: at the highest of their
    /// `QoS` at which the policy lets it through. So a subscription at a higher `QoS` never withholds
    /// what one at a lower would bring by itself.
    pub(super) fn deliver(
        &self,
        publication: &Authorized<Publication<'_>>,
        claims: &[Claim],
        routing: &mut Routing<'_>,
    ) -> Delivered {
        routing.offers += 1;
        let mut state = self.lock();
        state.refresh(routing);
        let own = routing.is_origin(self);
        let mut denied = None;
        while let Some(Through {
            delivery,
            covered,
            share,
        }) = state.through(publication, claims, own, denied)
        {
            let qos = delivery.qos;
            let authorized = guard::deliver(&state.rights, delivery, covered, routing.modules());
            if let Ok(delivery) = authorized {
                return state.push(&delivery, share, &|| publication.store(), routing);
            }
            denied = Some(qos);
        }
        if denied.is_some() {
            routing.metrics().deliveries_denied.inc();
        }
        Delivered::Not
    }
}

/// A message as some of a session's subscriptions would have it.
struct Through<'a> {
    delivery: Delivery<'a>,
    /// One of them is [`Covered::Full`] at this `QoS` or above.
    covered: bool,
    share: Option<Arc<ShareGroup>>,
}

impl State {
    /// What those of `claims` ask for that stand, and whose `QoS` is below one that is `denied`.
    fn through<'a>(
        &self,
        publication: &'a Publication<'a>,
        claims: &[Claim],
        own: bool,
        denied: Option<QoS>,
    ) -> Option<Through<'a>> {
        let mut granted: Option<QoS> = None;
        let mut covered: Option<QoS> = None;
        let mut retain = false;
        let mut ids = Ids::new();
        let mut share = None;
        for claim in claims {
            let Some(subscription) = self.standing(*claim) else {
                continue;
            };
            if subscription.cover == Covered::Suspended || (subscription.options.no_local && own) {
                continue;
            }
            if denied.is_some_and(|denied| subscription.options.qos >= denied) {
                continue;
            }
            granted = granted.max(Some(subscription.options.qos));
            if subscription.cover == Covered::Full {
                covered = covered.max(Some(subscription.options.qos));
            }
            retain |= subscription.options.retain_as_published && publication.asked.retain;
            ids.extend(subscription.id);
            share = subscription.share.cloned().or(share);
        }
        let qos = publication.qos.min(granted?);
        Some(Through {
            delivery: Delivery {
                publication,
                qos,
                retain,
                subscription_ids: ids,
            },
            covered: covered >= Some(qos),
            share,
        })
    }
}

impl State {
    /// Sends a message, or queues it, or drops it as the rules say. `store` makes the copy that is
    /// kept.
    fn push(
        &mut self,
        delivery: &Authorized<Delivery<'_>>,
        share: Option<Arc<ShareGroup>>,
        store: &dyn Fn() -> Stored<Message>,
        routing: &mut Routing<'_>,
    ) -> Delivered {
        let Some(link) = &self.link else {
            return self.push_offline(delivery, share, store, routing);
        };
        routing.laden |= link.needs_turn();
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
        // A will that fires was kept already, and there is nobody to tell of a refusal.
        if routing.level() >= Level::Full && !delivery.publication.asked.will {
            routing.refuse_for_memory();
            return Delivered::Not;
        }
        let entry = self.next_entry(delivery.qos);
        let queued = Queued::of(entry, delivery, share, store());
        if !self.record_taken(&queued, None, routing) {
            return Delivered::Not;
        }
        routing.grew(queued.message.weight() + ENTRY);
        let (bound, metrics) = (routing.bound(), routing.metrics());
        let dropped = self.queue.push_away(queued, bound, metrics);
        self.dropped(dropped, routing);
        Delivered::Taken
    }

    /// The oldest messages of an offline session made room.
    pub(super) fn dropped(&mut self, dropped: Vec<Queued>, routing: &mut Routing<'_>) {
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
        let open = self.is_open(delivery.publication.payload.len(), routing);
        let Some(link) = &mut self.link else {
            return Delivered::Not;
        };
        if open {
            link.send(delivery, None, false, routing);
            link.wake(routing);
            return Delivered::Taken;
        }
        if routing.level() >= Level::Full {
            routing.metrics().memory_dropped_qos0.inc();
            return Delivered::Not;
        }
        let message = store();
        if let Some(full) = self.queue.full(message.weight(), routing.bound()) {
            routing.metrics().dropped_qos0.inc();
            full.tell(routing.metrics());
            return Delivered::Not;
        }
        routing.grew(message.weight() + ENTRY);
        let queued = Queued::of(0, delivery, share, message);
        self.queue.push(queued, None, routing.metrics());
        Delivered::Taken
    }

    /// Whether a message with a payload of this size can go out before others that wait.
    fn is_open(&self, payload: usize, routing: &Routing<'_>) -> bool {
        self.queue.is_empty()
            && self.resuming == 0
            && self
                .link
                .as_ref()
                .is_some_and(|link| link.has_room(routing))
            && routing.may_encode(payload)
    }

    fn push_acknowledged(
        &mut self,
        delivery: &Authorized<Delivery<'_>>,
        share: Option<Arc<ShareGroup>>,
        store: &dyn Fn() -> Stored<Message>,
        routing: &mut Routing<'_>,
    ) -> Delivered {
        let keep = self.expiry > 0 || share.is_some();
        let open = self.is_open(delivery.publication.payload.len(), routing);
        if (keep || !open) && routing.level() == Level::Spent {
            routing.refuse_for_memory();
            return Delivered::Not;
        }
        let entry = self.next_entry(delivery.qos);
        let window = self
            .link
            .as_ref()
            .map_or(0, |link| usize::from(link.window));
        if open && self.inflight.len() < window {
            let serial = next_serial(self.given, &self.inflight);
            let id = serial.id();
            if entry != 0 {
                let queued = Queued::of(entry, delivery, share.clone(), store());
                if !self.record_taken(&queued, Some(id), routing) {
                    return Delivered::Not;
                }
            }
            let Some(link) = &mut self.link else {
                return Delivered::Not;
            };
            if link.send(delivery, Some((id, false)), false, routing) {
                link.wake(routing);
                let kept = keep.then(|| Kept::of(delivery, share, store()));
                if let Some(kept) = &kept {
                    routing.grew(kept.message.weight());
                }
                let flight = InFlight::new(entry, serial, delivery.qos, kept);
                self.fly(flight, routing);
            } else {
                self.done(entry, routing);
            }
            return Delivered::Taken;
        }
        let queued = Queued::of(entry, delivery, share, store());
        if !self.record_taken(&queued, None, routing) {
            return Delivered::Not;
        }
        let (weight, bound) = (queued.message.weight(), routing.bound_online());
        routing.grew(weight + ENTRY);
        let full = self.queue.make_room(weight, bound, routing.metrics());
        let hold = full.map(|full| {
            full.tell(routing.metrics());
            routing.hold()
        });
        if hold.is_some()
            && let Some(link) = &mut self.link
        {
            // So that the connection looks at its clock: without progress it will be ended.
            if self.queue.holds_publishers() {
                link.wake(routing);
            } else {
                link.progress = routing.now.mono;
                link.rouse(routing);
            }
        }
        self.queue.push(queued, hold, routing.metrics());
        Delivered::Taken
    }

    /// Moves queued and retained messages into the output while there is room.
    pub(super) fn fill(&mut self, routing: &mut Routing<'_>) {
        let bound = routing.bound_online();
        loop {
            let Some(link) = &mut self.link else { return };
            if !link.has_room(routing) {
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
            if !routing.may_encode(self.queue.front_weight()) {
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
            ..
        } = queued;
        let Some(link) = &mut self.link else { return };
        let serial = (qos != QoS::AtMostOnce).then(|| next_serial(self.given, &self.inflight));
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
                let id = serial.map(|serial| (serial.id(), false));
                link.send(&delivery, id, false, routing).then_some(serial)
            }),
            None => return self.done(entry, routing),
        };
        match delivery {
            Ok(Some(Some(serial))) => {
                let id = serial.id();
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
                self.fly(InFlight::new(entry, serial, qos, kept), routing);
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
            self.scanned();
            return;
        };
        let text = routing.tree().text(subscription.filter);
        let (options, id) = (subscription.options, subscription.id);
        let page = routing.retained(&text, scan.after.as_deref());
        match page.next {
            Some(next) => scan.after = Some(next),
            None => self.scanned(),
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
                counts: false,
            };
            if self.record_taken(&queued, None, routing) {
                self.queue.push_uncounted(queued, routing.metrics());
            }
        }
    }

    /// The oldest walk is over.
    fn scanned(&mut self) {
        self.scans.pop_front();
        if self.scans.is_empty() {
            self.scans = VecDeque::new();
        }
    }

    /// Starts a walk over the retained messages of a subscription. It goes as far as there is room
    /// at once, so that what is retained after this moment is not sent twice.
    pub(super) fn send_retained(&mut self, slot: Slot, routing: &mut Routing<'_>) {
        self.scans.push_back(Scan { slot, after: None });
        self.fill(routing);
    }
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
            counts: false,
        }
    }
}
