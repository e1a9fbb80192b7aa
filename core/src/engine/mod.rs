//! The session and routing engine.
//!
//! Sessions, their ownership, subscriptions, quality-of-service flows, wills and offline queues.
//! Everything that comes in has passed the guard; everything that goes out passes it again.
//!
//! Locks, in the order in which they may be taken: registry, session, shard of the tree. None is
//! held across a fan-out, and none while a waker or an observer runs, except a session's own when
//! one of its subscriptions is suspended.

mod queue;
mod session;
mod tree;
mod will;

pub(crate) use session::{Close, NewLink, Session, Taken, Will};
pub(crate) use tree::Matched;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::bus::{Appended, Bus, RetainedPage};
use crate::clock::Now;
use crate::guard::{self, Authorized, Grant, Rights, Stored, Subject};
use crate::hook::{Event, Modules, Principal, Snapshot, Use};
use crate::message::{Asked, Message, Publication};
use crate::metrics::Metrics;
use crate::settings::{OnRevoke, PartlyCovered, Settings};
use crate::ticket::{Hold, Ticket};
use crate::topic::{TopicFilter, TopicName};
use crate::wire::{AckKind, MessageProperties, QoS, ReasonCode, RetainHandling, SubscribeOptions};

use queue::Bound;
use session::{Delivered, Subscription, Wakes};
use tree::{Entry, Target, Tree};
use will::Timers;

/// Subscription Identifiers of one delivery.
pub(crate) type Ids = SmallVec<[NonZeroU32; 2]>;

/// Retained topics examined in one step of a walk.
const RETAINED_STEP: usize = 256;

/// Sessions and routing; see the module header.
pub(crate) struct Engine {
    pub(crate) modules: Arc<Modules>,
    pub(crate) settings: Arc<ArcSwap<Settings>>,
    pub(crate) metrics: Arc<Metrics>,
    bus: Arc<dyn Bus>,
    tree: Tree,
    registry: Mutex<Registry>,
    timers: Mutex<Timers>,
    /// The generations that the last sweep has seen: policy, standing.
    swept: Mutex<(u64, u64)>,
    sweep_millis: AtomicU64,
}

#[derive(Default)]
struct Registry {
    sessions: HashMap<Arc<str>, Arc<Session>>,
    owned: HashMap<Principal, usize>,
}

/// A client that is about to be admitted.
pub(crate) struct Admitted {
    pub(crate) subject: Arc<Subject>,
    pub(crate) clean_start: bool,
    /// Granted, seconds.
    pub(crate) expiry: u32,
    pub(crate) will: Option<Will>,
    pub(crate) link: NewLink,
}

/// A client's place in the engine.
pub(crate) struct Attached {
    pub(crate) session: Arc<Session>,
    pub(crate) epoch: u64,
    pub(crate) session_present: bool,
}

/// What became of a publish.
pub(crate) struct Published {
    /// Success, `NoMatchingSubscribers`, or why it was not taken.
    pub(crate) reason: ReasonCode,
    /// What its acknowledgement waits for.
    pub(crate) tickets: SmallVec<[Ticket; 1]>,
    /// Sessions that took it.
    pub(crate) receivers: u64,
}

/// Why a session cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAttached {
    /// It belongs to another principal (rule 3).
    SomebodyElses(Principal),
    /// The principal has as many as it may have.
    TooMany(usize),
}

/// One step through the engine: the moment, the settings and generation that hold for it, and
/// the connections that must be woken when it is over.
pub(crate) struct Routing<'e> {
    engine: &'e Engine,
    settings: Arc<Settings>,
    pub(crate) now: Now,
    pub(crate) millis: u64,
    pub(crate) generation: u64,
    origin: Option<&'e Session>,
    wakes: Wakes,
    hold: Option<(Ticket, Hold)>,
}

impl Drop for Routing<'_> {
    fn drop(&mut self) {
        self.wakes.drain(..).for_each(std::task::Waker::wake);
    }
}

impl<'e> Routing<'e> {
    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub(crate) fn modules(&self) -> &'e Modules {
        &self.engine.modules
    }

    pub(crate) fn metrics(&self) -> &'e Metrics {
        &self.engine.metrics
    }

    fn tree(&self) -> &'e Tree {
        &self.engine.tree
    }

    fn is_origin(&self, session: &Session) -> bool {
        self.origin
            .is_some_and(|origin| std::ptr::eq(origin, session))
    }

    fn bound(&self) -> Bound {
        Bound {
            messages: self.settings.limits.queue_messages,
            bytes: self.settings.limits.queue_bytes,
        }
    }

    fn cover(&self, rights: &Rights, filter: TopicFilter<'_>) -> Result<Grant, String> {
        let narrow = self.settings.enforcement.subscribe == PartlyCovered::Narrow;
        guard::subscription(rights, filter, narrow, self.modules())
    }

    fn disconnects_revoked(&self) -> bool {
        self.settings.enforcement.on_revoke == OnRevoke::Disconnect
    }

    /// A hold on the acknowledgement of the message that is being published.
    fn hold(&mut self) -> Hold {
        let (_, hold) = self.hold.get_or_insert_with(Ticket::new);
        hold.clone()
    }

    /// A stored message opened again; what is withheld is counted and told.
    fn reopen<'a>(&self, stored: &'a Stored<Message>) -> Option<Authorized<Publication<'a>>> {
        guard::reopen(stored, self.modules(), self.now)
            .map_err(|reason| self.withheld(stored, &reason))
            .ok()
    }

    fn withheld(&self, stored: &Stored<Message>, reason: &str) {
        self.metrics().stored_withheld.inc();
        let event = Event::StoredWithheld {
            author: stored.author().snapshot(),
            topic: stored.topic(),
            reason,
        };
        self.modules().observe(&event, self.now);
    }

    fn suspended(&self, who: &Snapshot, filter: &str, suspended: bool) {
        let event = Event::SubscriptionSuspended {
            who,
            filter,
            suspended,
        };
        self.modules().observe(&event, self.now);
    }

    fn queue_dropped(&self, who: &Snapshot, count: u64) {
        if count > 0 {
            let event = Event::QueueDropped {
                client_id: &who.client_id,
                owner: who.principal().as_str(),
                count,
            };
            self.modules().observe(&event, self.now);
        }
    }

    fn retained(&self, filter: &str, after: Option<&str>) -> RetainedPage {
        TopicFilter::new(filter, self.settings.mqtt.topic)
            .map(|filter| {
                self.engine
                    .bus
                    .retained(filter, after, RETAINED_STEP, self.now)
            })
            .unwrap_or_default()
    }
}

impl Engine {
    pub(crate) fn new(
        modules: Arc<Modules>,
        settings: Arc<ArcSwap<Settings>>,
        bus: Arc<dyn Bus>,
    ) -> Self {
        let swept = (modules.policy_generation(), modules.standing_generation());
        Self {
            metrics: Arc::clone(&modules.metrics),
            modules,
            settings,
            bus,
            tree: Tree::new(),
            registry: Mutex::default(),
            timers: Mutex::default(),
            swept: Mutex::new(swept),
            sweep_millis: AtomicU64::new(0),
        }
    }

    /// Begins a step. `origin` is the session of the client that acts.
    pub(crate) fn routing<'e>(&'e self, origin: Option<&'e Session>, now: Now) -> Routing<'e> {
        Routing {
            settings: self.settings.load_full(),
            now,
            millis: now.unix_millis(),
            generation: self.modules.policy_generation(),
            origin,
            wakes: Wakes::new(),
            hold: None,
            engine: self,
        }
    }

    /// Gives a proven client its session, new or found again, and ends its old connection.
    pub(crate) fn attach(
        &self,
        client_id: &Arc<str>,
        client: Admitted,
        now: Now,
    ) -> Result<Attached, NotAttached> {
        let mut routing = self.routing(None, now);
        let mut fired = None;
        let attached = {
            let mut registry = self.registry.lock();
            let principal = client.subject.principal();
            let known = registry.sessions.get(client_id).cloned();
            let session = match &known {
                Some(session) if session.owner != *principal => {
                    return Err(NotAttached::SomebodyElses(session.owner.clone()));
                }
                Some(session) => Arc::clone(session),
                None => {
                    let limit = routing.settings.limits.sessions_per_principal;
                    let owned = registry.owned.entry(principal.clone()).or_insert(0);
                    if *owned >= limit {
                        return Err(NotAttached::TooMany(limit));
                    }
                    *owned += 1;
                    let rights = client.subject.rights(&self.modules);
                    let session =
                        Session::new(Arc::clone(client_id), Arc::clone(&client.subject), rights);
                    registry
                        .sessions
                        .insert(Arc::clone(client_id), Arc::clone(&session));
                    self.metrics.sessions.inc();
                    session
                }
            };
            let mut state = session.lock();
            if state.link.is_some() {
                self.metrics.takeovers.inc();
                let close = Close {
                    code: ReasonCode::SessionTakenOver,
                    reason: "its client connected again".to_owned(),
                    will: true,
                };
                state.order(close, &mut routing);
            }
            let session_present = known.is_some() && !client.clean_start && state.expiry > 0;
            if let Some(will) = state.will.take() {
                // A delayed will is called off when the session goes on [MQTT-3.1.3-9]; it is
                // published when the session ends or the connection was open until now.
                let connected = state.link.is_some();
                if (connected && will.delay == 0) || !session_present {
                    fired = Some(will);
                }
            }
            if !session_present {
                self.forget_subscriptions(&session, &mut state);
                state.clear(&mut routing);
            }
            state.rights = client.subject.rights(&self.modules);
            let stale = Arc::clone(&state.subject);
            state.subject = client.subject;
            state.expiry = client.expiry;
            state.will = client.will;
            state.connect(&client.link, now.mono);
            if session_present {
                // The rights of the new identity decide about the old subscriptions.
                if stale.snapshot() != state.subject.snapshot() {
                    state.reassess(&mut routing);
                } else {
                    state.refresh(&mut routing);
                }
                state.resume(&mut routing);
            }
            let epoch = state.epoch;
            drop(state);
            Attached {
                session,
                epoch,
                session_present,
            }
        };
        self.metrics.clients.inc();
        self.metrics.connects.inc();
        if let Some(will) = fired {
            self.fire(&will, &mut routing);
        }
        Ok(attached)
    }

    /// Ends a connection of a session. `will`: it is to be published. `expiry`: the client's last
    /// word on how long the session lives, seconds.
    pub(crate) fn detach(&self, attached: &Attached, will: bool, expiry: Option<u32>, now: Now) {
        self.metrics.clients.sub(1);
        let mut routing = self.routing(None, now);
        let mut fired = None;
        {
            let mut registry = self.registry.lock();
            let session = &attached.session;
            let mut state = session.lock();
            if state.epoch != attached.epoch || state.link.is_none() {
                return;
            }
            if state.ended {
                state.link = None;
                return;
            }
            if let Some(expiry) = expiry {
                state.expiry = expiry;
            }
            state.disconnect(&mut routing);
            let left = state.will.take().filter(|_| will);
            if state.expiry == 0 {
                fired = left;
                self.end(&mut registry, session, &mut state, &mut routing);
                routing.session_ended(session, "clean");
            } else {
                let mut timers = self.timers.lock();
                match left {
                    Some(will) if will.delay > 0 => {
                        let delay = will.delay.min(state.expiry);
                        timers.will(routing.millis, delay, session, state.epoch);
                        state.will = Some(will);
                    }
                    left => fired = left,
                }
                timers.expiry(routing.millis, state.expiry, session, state.epoch);
            }
        }
        if let Some(will) = fired {
            self.fire(&will, &mut routing);
        }
    }

    /// Takes a session out of everything.
    fn end(
        &self,
        registry: &mut Registry,
        session: &Arc<Session>,
        state: &mut session::State,
        routing: &mut Routing<'_>,
    ) {
        registry.sessions.remove(&session.client_id);
        if let Some(owned) = registry.owned.get_mut(&session.owner) {
            *owned -= 1;
            if *owned == 0 {
                registry.owned.remove(&session.owner);
            }
        }
        self.metrics.sessions.sub(1);
        self.forget_subscriptions(session, state);
        state.clear(routing);
        state.ended = true;
    }

    fn forget_subscriptions(&self, session: &Arc<Session>, state: &mut session::State) {
        let all = state.drain_subscriptions();
        self.metrics.subscriptions.sub(all.len() as u64);
        for (slot, subscription) in all {
            self.tree.remove(
                subscription.filter,
                subscription.share.as_ref(),
                session,
                slot,
            );
        }
    }

    /// Publishes an authorized message. `known` is what was found for this very topic before.
    pub(crate) fn publish(
        &self,
        publication: &Authorized<Publication<'_>>,
        known: &mut Option<Arc<Matched>>,
        routing: &mut Routing<'_>,
    ) -> Published {
        let mut published = Published {
            reason: ReasonCode::Success,
            tickets: SmallVec::new(),
            receivers: 0,
        };
        self.bus.append(
            std::slice::from_ref(publication),
            routing.now,
            &mut |_, appended| match appended {
                Appended::Safe => {}
                Appended::Later(ticket) => published.tickets.push(ticket),
                Appended::Refused(code) => published.reason = code,
            },
        );
        if published.reason.is_error() || !self.bus.keeps().local {
            return published;
        }
        if known
            .as_ref()
            .is_none_or(|known| !self.tree.is_current(known))
        {
            let (matched, worth_keeping) = self.tree.lookup(publication.topic);
            if !worth_keeping {
                *known = None;
                self.fan_out(publication, &matched, &mut published, routing);
                return published;
            }
            *known = Some(Arc::new(matched));
        }
        if let Some(matched) = known {
            self.fan_out(publication, matched, &mut published, routing);
        }
        published
    }

    fn fan_out(
        &self,
        publication: &Authorized<Publication<'_>>,
        matched: &Matched,
        published: &mut Published,
        routing: &mut Routing<'_>,
    ) {
        for Target { session, slots } in &matched.targets {
            if session.deliver(publication, slots, routing) == Delivered::Taken {
                published.receivers += 1;
            }
        }
        for group in &matched.shares {
            let (members, first) = group.turn();
            let (before, after) = members.split_at(first.min(members.len()));
            let turn = after.iter().chain(before);
            // Those who are there come first; a session that is away keeps it otherwise.
            let mut offer = |online| {
                turn.clone().any(|Entry { session, slot }| {
                    session.is_online() == online
                        && session.deliver(publication, &[*slot], routing) == Delivered::Taken
                })
            };
            if offer(true) || offer(false) {
                published.receivers += 1;
            }
        }
        if let Some((ticket, _)) = routing.hold.take() {
            published.tickets.push(ticket);
        }
        if published.receivers == 0 {
            published.reason = ReasonCode::NoMatchingSubscribers;
        }
    }

    /// Publishes for the broker itself: `system:NAME`, under the policy like everybody.
    pub(crate) fn publish_system(
        &self,
        author: &Arc<Subject>,
        topic: &str,
        payload: &[u8],
        retain: bool,
        now: Now,
    ) {
        let mut routing = self.routing(None, now);
        let Ok(topic) = TopicName::new(topic, routing.settings.mqtt.topic) else {
            return;
        };
        let asked = Asked {
            retain,
            will: false,
        };
        let publication = Publication::new(
            topic,
            payload,
            QoS::AtMostOnce,
            asked,
            MessageProperties::default(),
            author,
            routing.millis,
        );
        if let Ok(publication) = guard::internal(publication, &self.modules) {
            self.publish(&publication, &mut None, &mut routing);
        }
    }

    /// Subscribes, or replaces a subscription \[MQTT-3.8.4-3\]. The answer is the SUBACK's code.
    pub(crate) fn subscribe(
        &self,
        attached: &Attached,
        filter: TopicFilter<'_>,
        mut options: SubscribeOptions,
        id: Option<NonZeroU32>,
        routing: &mut Routing<'_>,
    ) -> ReasonCode {
        let session = &attached.session;
        let mut state = session.lock();
        if state.epoch != attached.epoch || state.ended {
            return ReasonCode::UnspecifiedError;
        }
        state.refresh(routing);
        let who = Arc::clone(&state.subject);
        let denied = |rule: &str| {
            self.metrics.subscribes_denied.inc();
            let event = Event::SubscribeDenied {
                who: who.snapshot(),
                filter: filter.as_str(),
                rule,
            };
            self.modules.observe(&event, routing.now);
        };
        let grant = match routing.cover(&state.rights, filter) {
            Ok(grant) => grant,
            Err(rule) => {
                denied(&rule);
                return ReasonCode::NotAuthorized;
            }
        };
        options.qos = options.qos.min(routing.settings.mqtt.max_qos);
        let known = self
            .tree
            .find(filter)
            .and_then(|name| state.slot_of(name, filter.share()));
        let is_new = known.is_none();
        let slot = match known {
            Some(slot) => {
                if let Some(subscription) = state.subscriptions.get_mut(slot.place as usize) {
                    subscription.options = options;
                    subscription.id = id;
                    subscription.cover = grant.into();
                }
                slot
            }
            None => {
                let limit = routing.settings.limits.subscriptions_per_session;
                if state.subscriptions.len() >= limit {
                    self.metrics.limits_hit.inc();
                    denied(&format!("limits.subscriptions-per-session = {limit}"));
                    return ReasonCode::QuotaExceeded;
                }
                let slot = state.next_slot();
                let entry = Entry {
                    session: Arc::clone(session),
                    slot,
                };
                let Some((name, share)) = self.tree.add(filter, entry) else {
                    return ReasonCode::ImplementationSpecificError;
                };
                state.insert(Subscription {
                    filter: name,
                    share,
                    options,
                    id,
                    serial: slot.serial,
                    cover: grant.into(),
                });
                self.metrics.subscriptions.inc();
                self.bus.declare(filter, true);
                slot
            }
        };
        let wanted = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        if wanted && filter.share().is_none() {
            state.send_retained(slot, routing);
        }
        drop(state);
        let event = Event::Subscribed {
            who: who.snapshot(),
            filter: filter.as_str(),
            qos: options.qos,
            narrowed: grant == Grant::Narrowed,
        };
        self.modules.observe(&event, routing.now);
        match options.qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        }
    }

    /// Gives a subscription up; never refused.
    pub(crate) fn unsubscribe(
        &self,
        attached: &Attached,
        filter: TopicFilter<'_>,
        routing: &mut Routing<'_>,
    ) -> ReasonCode {
        let session = &attached.session;
        let mut state = session.lock();
        if state.epoch != attached.epoch {
            return ReasonCode::UnspecifiedError;
        }
        let slot = self
            .tree
            .find(filter)
            .and_then(|name| state.slot_of(name, filter.share()));
        let Some((slot, subscription)) = slot.and_then(|slot| Some((slot, state.remove(slot)?)))
        else {
            return ReasonCode::NoSubscriptionExisted;
        };
        self.tree.remove(
            subscription.filter,
            subscription.share.as_ref(),
            session,
            slot,
        );
        self.metrics.subscriptions.sub(1);
        self.bus.declare(filter, false);
        let who = Arc::clone(&state.subject);
        drop(state);
        let event = Event::Unsubscribed {
            who: who.snapshot(),
            filter: filter.as_str(),
        };
        self.modules.observe(&event, routing.now);
        ReasonCode::Success
    }

    /// Takes what a connection has to write; see [`Taken`].
    pub(crate) fn take(
        &self,
        attached: &Attached,
        into: &mut Vec<u8>,
        waker: &std::task::Waker,
        routing: &mut Routing<'_>,
    ) -> Taken {
        attached
            .session
            .lock()
            .take(attached.epoch, into, waker, routing)
    }

    /// The client acknowledged something that was sent to it.
    pub(crate) fn acknowledged(
        &self,
        attached: &Attached,
        kind: AckKind,
        id: u16,
        reason: ReasonCode,
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let mut state = attached.session.lock();
        if state.epoch == attached.epoch {
            state.acknowledged(kind, id, reason, now.mono, out);
        }
    }

    /// Remembers that a `QoS` 2 message was received; `false` if it was before
    /// \[MQTT-4.3.3-10\].
    pub(crate) fn received(&self, attached: &Attached, id: u16) -> bool {
        let mut state = attached.session.lock();
        let new = state.epoch == attached.epoch && !state.received.contains(id);
        if new {
            state.received.insert(id);
        }
        new
    }

    /// Whether a `QoS` 2 message with this id was received and not released.
    pub(crate) fn is_received(&self, attached: &Attached, id: u16) -> bool {
        attached.session.lock().received.contains(id)
    }

    /// The sender released a `QoS` 2 message; whether it was known.
    pub(crate) fn released(&self, attached: &Attached, id: u16) -> bool {
        let mut state = attached.session.lock();
        state.epoch == attached.epoch && state.received.remove(id)
    }

    /// `QoS` 2 messages received and not released.
    pub(crate) fn unreleased(&self, attached: &Attached) -> usize {
        attached.session.lock().received.len()
    }

    /// The client took bytes from the socket.
    pub(crate) fn progressed(&self, attached: &Attached, now: Now) {
        let mut state = attached.session.lock();
        if state.epoch == attached.epoch {
            state.progressed(now.mono);
        }
    }

    /// A re-authentication: the same principal with a new snapshot.
    pub(crate) fn renew(&self, attached: &Attached, subject: Arc<Subject>, now: Now) {
        let mut routing = self.routing(None, now);
        let mut state = attached.session.lock();
        if state.epoch == attached.epoch {
            state.subject = subject;
            state.reassess(&mut routing);
        }
    }

    /// What has to be done by the clock: wills, expiries, and the sweep after a change of policy
    /// or standing. Called several times a second.
    pub(crate) fn tick(&self, now: Now) {
        self.fire_timers(now);
        let generations = (
            self.modules.policy_generation(),
            self.modules.standing_generation(),
        );
        {
            let mut swept = self.swept.lock();
            if *swept == generations {
                return;
            }
            *swept = generations;
        }
        self.sweep(now);
    }

    /// Brings every session up to the present policy, and ends connections whose credential or
    /// good standing is gone (rule 6).
    fn sweep(&self, now: Now) {
        let begun = Instant::now();
        let sessions: Vec<_> = self.registry.lock().sessions.values().cloned().collect();
        for session in sessions {
            let mut routing = self.routing(None, now);
            let mut state = session.lock();
            state.refresh(&mut routing);
            if state.link.is_some()
                && let Err(reason) = state.subject.stands(Use::Live, &self.modules, now)
            {
                let close = Close {
                    code: ReasonCode::NotAuthorized,
                    reason,
                    will: false,
                };
                state.order(close, &mut routing);
            }
        }
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.sweep_millis.store(took, Ordering::Relaxed);
    }

    /// Nodes of the subscription tree; for tests of what is left behind.
    #[cfg(test)]
    pub(crate) fn subscription_nodes(&self) -> usize {
        self.tree.nodes()
    }

    /// How long the last sweep took.
    pub(crate) fn last_sweep(&self) -> Duration {
        Duration::from_millis(self.sweep_millis.load(Ordering::Relaxed))
    }

    /// Runs `read` over every session, a few at a time.
    pub(crate) fn inspect<T>(&self, read: impl Fn(&SessionView<'_>) -> Option<T>) -> Vec<T> {
        let sessions: Vec<_> = self.registry.lock().sessions.values().cloned().collect();
        sessions
            .iter()
            .filter_map(|session| {
                let state = session.lock();
                let link = state.link.as_ref();
                read(&SessionView {
                    client_id: &session.client_id,
                    owner: &session.owner,
                    who: state.subject.snapshot(),
                    connected: link.map(|link| (link.peer, link.version, link.connected_at)),
                    subscriptions: state.subscriptions.len(),
                    queued: state.queue.len(),
                    in_flight: state.inflight_len(),
                    expiry: state.expiry,
                    filters: &|| {
                        state
                            .subscriptions
                            .iter()
                            .map(|(_, known)| {
                                let text = self.tree.text(known.filter);
                                let whole = match &known.share {
                                    Some(group) => format!("$share/{}/{text}", group.name),
                                    None => text,
                                };
                                (
                                    whole,
                                    known.options.qos,
                                    known.cover == session::Covered::Suspended,
                                )
                            })
                            .collect()
                    },
                })
            })
            .collect()
    }

    /// Orders connections to end; says how many.
    pub(crate) fn close_where(
        &self,
        chosen: impl Fn(&Snapshot) -> bool,
        close: &Close,
        now: Now,
    ) -> usize {
        let sessions: Vec<_> = self.registry.lock().sessions.values().cloned().collect();
        let mut routing = self.routing(None, now);
        let mut count = 0;
        for session in sessions {
            let mut state = session.lock();
            if state.link.is_some() && chosen(state.subject.snapshot()) {
                state.order(close.clone(), &mut routing);
                count += 1;
            }
        }
        count
    }

    /// Ends a session for good, its connection too; `false` if there is none.
    pub(crate) fn drop_session(&self, client_id: &str, now: Now) -> bool {
        let mut routing = self.routing(None, now);
        let mut registry = self.registry.lock();
        let Some(session) = registry.sessions.get(client_id).cloned() else {
            return false;
        };
        let mut state = session.lock();
        let close = Close {
            code: ReasonCode::AdministrativeAction,
            reason: "its session was dropped by an operator".to_owned(),
            will: false,
        };
        state.order(close, &mut routing);
        self.end(&mut registry, &session, &mut state, &mut routing);
        drop(state);
        drop(registry);
        routing.session_ended(&session, "dropped");
        true
    }
}

impl Routing<'_> {
    fn session_ended(&self, session: &Session, reason: &str) {
        let event = Event::SessionEnded {
            client_id: &session.client_id,
            owner: session.owner.as_str(),
            reason,
        };
        self.modules().observe(&event, self.now);
    }
}

/// What an operator may see of a session.
pub(crate) struct SessionView<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) owner: &'a Principal,
    pub(crate) who: &'a Snapshot,
    pub(crate) connected: Option<(Option<std::net::SocketAddr>, crate::wire::Version, Instant)>,
    pub(crate) subscriptions: usize,
    pub(crate) queued: usize,
    pub(crate) in_flight: usize,
    pub(crate) expiry: u32,
    pub(crate) filters: &'a dyn Fn() -> Vec<(String, QoS, bool)>,
}
