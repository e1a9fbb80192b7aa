//! The session and routing engine.
//!
//! Sessions, their ownership, subscriptions, quality-of-service flows, wills and offline queues.
//! Everything that comes in has passed the guard; everything that goes out passes it again.
//!
//! Locks, in the order in which they may be taken: registry, session, shard of the tree. None is
//! held across a fan-out, and none while a waker or an observer runs, except a session's own when
//! one of its subscriptions is suspended.

mod ahead;
mod attach;
mod deliver;
mod flight;
mod link;
mod operate;
mod owner;
mod pieces;
mod pressure;
mod queue;
mod received;
mod record;
mod restore;
mod session;
mod share;
mod subscribe;
mod table;
mod tree;
mod watch;
mod will;

pub(crate) use ahead::Ahead;
pub(crate) use attach::{Admitted, Attached, Fate, NotAttached, Receipt};
pub(crate) use link::{Close, NewLink, Taken};
pub(crate) use session::{Session, Tickets, Will};
pub(crate) use tree::Matched;
pub(crate) use watch::Watch;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::budget::{self, Budget, Level, Memory};
use crate::bus::{Appended, Bus, RetainedPage};
use crate::clock::Now;
use crate::connection::Connection;
use crate::guard::{self, Authorized, Grant, Rights, Stored, Subject};
use crate::hook::{Effort, Event, Modules, Principal, Snapshot, Use};
use crate::journal::{Journal, Refused as NotWritten, SessionId, Steps};
use crate::message::{Asked, Message, Publication};
use crate::metrics::Metrics;
use crate::settings::{OnRevoke, PartlyCovered, Settings};
use crate::ticket::{Hold, Ticket};
use crate::topic::{TopicFilter, TopicName};
use crate::wire::{MessageProperties, QoS, ReasonCode};

use deliver::Delivered;
use owner::{Amount, Owner};
use pressure::Relief;
use queue::Bound;
use session::{Toil, Wakes};
use tree::{Target, Tree};
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
    pub(crate) budget: Budget,
    bus: Arc<dyn Bus>,
    /// What persists; `None` where everything lives in memory.
    pub(crate) journal: Option<Arc<Journal>>,
    tree: Tree,
    registry: Mutex<Registry>,
    timers: Mutex<Timers>,
    /// The generations that the last sweep has seen: policy, standing.
    swept: Mutex<(u64, u64)>,
    sweep_millis: AtomicU64,
    relief: Mutex<Relief>,
}

#[derive(Default)]
struct Registry {
    sessions: HashMap<Arc<str>, Arc<Session>>,
    owned: HashMap<Principal, Arc<Owner>>,
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

/// One step through the engine: the moment, the settings and generation that hold for it, and
/// the connections that must be woken when it is over.
pub(crate) struct Routing<'e> {
    engine: &'e Engine,
    settings: Arc<Settings>,
    pub(crate) now: Now,
    /// [`Engine::time`].
    pub(crate) millis: u64,
    pub(crate) generation: u64,
    /// Encoded bytes that may wait for a socket; see [`link::OUTPUT_HIGH_WATER`].
    high_water: usize,
    origin: Option<&'e Session>,
    /// How often the tree was asked.
    lookups: u32,
    /// How often a session was offered a message, whether it took it or not.
    offers: u64,
    /// What must be on disk before the message that is being published is acknowledged.
    safe: Tickets,
    /// Somebody who should have it could not store it.
    refused: bool,
    wakes: Wakes,
    /// A receiver has much to write and waits for its turn.
    laden: bool,
    hold: Option<(Ticket, Hold)>,
}

impl Drop for Routing<'_> {
    fn drop(&mut self) {
        self.wakes.drain(..).for_each(std::task::Waker::wake);
    }
}

impl<'e> Routing<'e> {
    /// Whether connections will be woken when it is over.
    pub(crate) fn wakes_others(&self) -> bool {
        !self.wakes.is_empty()
    }

    /// Whether a receiver has so much to write that it should have a turn before more is routed.
    pub(crate) fn has_laden(&self) -> bool {
        self.laden
    }

    /// How often a session was offered a message, whether it took it or not.
    pub(crate) fn offers(&self) -> u64 {
        self.offers
    }

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
        let limits = &self.settings.limits;
        Bound {
            messages: limits.queue_messages,
            bytes: limits.queue_bytes,
            together: Amount {
                messages: limits.queue_messages_per_principal,
                bytes: limits.queue_bytes_per_principal,
            },
            sessions: limits.sessions_per_principal,
        }
    }

    /// What may wait for a connected session: while memory is short its publishers are held back
    /// early.
    fn bound_online(&self) -> Bound {
        let bound = self.bound();
        if self.level() < Level::Full {
            return bound;
        }
        Bound {
            bytes: bound.bytes.min(budget::LARGE),
            ..bound
        }
    }

    /// How short memory is.
    fn level(&self) -> Level {
        self.engine.budget.level()
    }

    /// So many bytes are kept from now on.
    fn grew(&self, bytes: usize) {
        self.engine.budget.grew(bytes);
    }

    /// Whether a message of this size may be encoded for one more receiver.
    fn may_encode(&self, bytes: usize) -> bool {
        bytes < budget::SMALL
            || self.level() < Level::Spent
            || (bytes < budget::LARGE && self.engine.budget.has(bytes))
    }

    /// How a subscription that is granted at `qos` stands, and how much work it was to see that.
    fn cover(
        &self,
        rights: &Rights,
        filter: TopicFilter<'_>,
        qos: QoS,
        effort: &Effort,
    ) -> (Result<Grant, String>, Toil) {
        let before = effort.left();
        let (narrow, modules) = (self.narrows(), self.modules());
        let grant = guard::subscription(rights, filter, qos, narrow, effort, modules);
        (grant, Toil::of(before - effort.left()))
    }

    fn narrows(&self) -> bool {
        self.settings.enforcement.subscribe == PartlyCovered::Narrow
    }

    fn disconnects_revoked(&self) -> bool {
        self.settings.enforcement.on_revoke == OnRevoke::Disconnect
    }

    /// A hold on the acknowledgement of the message that is being published.
    fn hold(&mut self) -> Hold {
        let (_, hold) = self.hold.get_or_insert_with(Ticket::new);
        hold.clone()
    }

    /// Writes steps to the journal, if there is one and the session is in it. What is essential -
    /// that something was sent, acknowledged or is over - is taken by a full store too.
    fn write(
        &self,
        session: SessionId,
        essential: bool,
        steps: &mut dyn FnMut(&mut Steps<'_, '_>),
    ) -> Result<Option<Ticket>, NotWritten> {
        match &self.engine.journal {
            Some(journal) if session.is_durable() => journal.write(essential, steps),
            _ => Ok(None),
        }
    }

    /// The message that is being published is acknowledged when this is complete, too.
    fn await_safe(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket
            && !self.safe.iter().any(|known| known.is(&ticket))
        {
            self.safe.push(ticket);
        }
    }

    /// The message that is being published could not be stored for somebody.
    fn refuse(&mut self) {
        self.engine.metrics.store_refused.inc();
        self.refused = true;
    }

    /// Somebody who should have the message that is being published has no memory for it.
    fn refuse_for_memory(&mut self) {
        self.engine.metrics.memory_messages_refused.inc();
        self.refused = true;
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

    fn not_retained(&self, publication: &Publication<'_>, limit: &str) {
        self.metrics().limits_hit.inc();
        let event = Event::LimitHit {
            who: Some(publication.author.snapshot()),
            peer: None,
            limit,
            reason: &format!(
                "a message to {:?} is not retained",
                publication.topic.as_str()
            ),
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
        journal: Option<Arc<Journal>>,
        memory: Arc<dyn Memory>,
    ) -> Self {
        let swept = (modules.policy_generation(), modules.standing_generation());
        Self {
            metrics: Arc::clone(&modules.metrics),
            budget: Budget::new(Arc::clone(&settings), Arc::clone(&modules.metrics), memory),
            modules,
            settings,
            bus,
            journal,
            tree: Tree::new(),
            registry: Mutex::default(),
            timers: Mutex::default(),
            swept: Mutex::new(swept),
            sweep_millis: AtomicU64::new(0),
            relief: Mutex::default(),
        }
    }

    /// By what messages, wills and sessions expire, milliseconds since the Unix epoch: the calendar's,
    /// or what the store says is ahead of it.
    pub(crate) fn time(&self, now: Now) -> u64 {
        let millis = now.unix_millis();
        self.journal
            .as_ref()
            .map_or(millis, |journal| journal.time(millis))
    }

    /// Begins a step. `origin` is the session of the client that acts.
    pub(crate) fn routing<'e>(&'e self, origin: Option<&'e Session>, now: Now) -> Routing<'e> {
        Routing {
            settings: self.settings.load_full(),
            now,
            millis: self.time(now),
            generation: self.modules.policy_generation(),
            high_water: link::high_water(self.budget.level()),
            origin,
            lookups: 0,
            offers: 0,
            safe: Tickets::new(),
            refused: false,
            wakes: Wakes::new(),
            laden: false,
            hold: None,
            engine: self,
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
        let mut full = None;
        if publication.asked.retain && self.bus.keeps().retained {
            routing.grew(publication.payload.len() + budget::ENTRY);
        }
        self.bus.append(
            std::slice::from_ref(publication),
            routing.now,
            &mut |_, appended| match appended {
                Appended::Safe => {}
                Appended::Later(ticket) => published.tickets.push(ticket),
                Appended::Refused(code) => published.reason = code,
                Appended::Full(limit) => full = Some(limit),
            },
        );
        if let Some(limit) = full {
            published.reason = ReasonCode::QuotaExceeded;
            routing.not_retained(publication, limit);
        }
        if published.reason.is_error() || !self.bus.keeps().local {
            return published;
        }
        if known
            .as_ref()
            .is_none_or(|known| !self.tree.is_current(known))
        {
            routing.lookups = routing.lookups.saturating_add(1);
            let (matched, worth_keeping) = self.tree.lookup(publication.topic);
            if !worth_keeping {
                *known = None;
                Self::fan_out(publication, &matched, &mut published, routing);
                return published;
            }
            *known = Some(Arc::new(matched));
        }
        if let Some(matched) = known {
            Self::fan_out(publication, matched, &mut published, routing);
        }
        published
    }

    fn fan_out(
        publication: &Authorized<Publication<'_>>,
        matched: &Matched,
        published: &mut Published,
        routing: &mut Routing<'_>,
    ) {
        // What a subscription of the same batch left behind is not this message's.
        routing.safe.clear();
        routing.refused = false;
        for Target { session, claims } in &matched.targets {
            if session.deliver(publication, claims, routing) == Delivered::Taken {
                published.receivers += 1;
            }
        }
        for group in &matched.shares {
            // Those who are there come first; a session that is away keeps it otherwise.
            let among = share::Among::Everybody;
            published.receivers += u64::from(share::offer(publication, group, among, routing));
        }
        if let Some((ticket, _)) = routing.hold.take() {
            published.tickets.push(ticket);
        }
        published.tickets.append(&mut routing.safe);
        if std::mem::take(&mut routing.refused) {
            published.reason = ReasonCode::QuotaExceeded;
        } else if published.receivers == 0 {
            published.reason = ReasonCode::NoMatchingSubscribers;
        }
    }

    /// How many sessions a topic finds in the tree; for the benchmarks.
    pub(crate) fn matching(&self, topic: TopicName<'_>) -> usize {
        self.tree.lookup(topic).0.targets.len()
    }

    /// Publishes for the broker itself: `system:NAME`, under the policy like everybody. `false`: it
    /// was not taken.
    pub(crate) fn publish_system(
        &self,
        author: &Arc<Subject>,
        topic: &str,
        payload: &[u8],
        retain: bool,
        now: Now,
    ) -> bool {
        let mut routing = self.routing(None, now);
        let Ok(topic) = TopicName::new(topic, routing.settings.mqtt.topic) else {
            return false;
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
        guard::internal(publication, &self.modules).is_ok_and(|publication| {
            let published = self.publish(&publication, &mut None, &mut routing);
            !published.reason.is_error()
        })
    }

    /// What has to be done by the clock: wills, expiries, and the sweep after a change of policy
    /// or standing; and how much memory there is. Called several times a second.
    pub(crate) fn tick(&self, now: Now) {
        self.budget.tick();
        self.relieve(now);
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
            self.look_again(&session, now);
        }
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.sweep_millis.store(took, Ordering::Relaxed);
    }

    /// The same for one client that has just been admitted.
    pub(crate) fn sweep_one(&self, connection: &Connection, now: Now) {
        self.look_again(connection.session(), now);
    }

    fn look_again(&self, session: &Session, now: Now) {
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

    /// Nodes of the subscription tree; for tests of what is left behind.
    #[cfg(test)]
    pub(crate) fn subscription_nodes(&self) -> usize {
        self.tree.nodes()
    }

    /// Who subscribed to a topic, as a message that is on its way keeps it; for tests of what happens
    /// meanwhile.
    #[cfg(test)]
    pub(crate) fn found(&self, topic: TopicName<'_>) -> Matched {
        self.tree.lookup(topic).0
    }

    /// At which `QoS` the subscriptions found before deliver now; for tests.
    #[cfg(test)]
    pub(crate) fn standing(matched: &Matched) -> Vec<QoS> {
        let claims = matched.targets.iter().flat_map(|target| {
            let state = target.session.lock();
            let standing = target.claims.iter().map(|claim| {
                let standing = state.standing(*claim)?;
                (standing.cover != session::Covered::Suspended).then_some(standing.options.qos)
            });
            standing.collect::<Vec<_>>()
        });
        claims.flatten().collect()
    }

    /// Deadlines that wait; for tests of what is left behind.
    #[cfg(test)]
    pub(crate) fn deadlines(&self) -> usize {
        self.timers.lock().len()
    }

    /// How long the last sweep took.
    pub(crate) fn last_sweep(&self) -> Duration {
        Duration::from_millis(self.sweep_millis.load(Ordering::Relaxed))
    }
}
