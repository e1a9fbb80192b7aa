//! How clients get their sessions and leave them: ownership, takeover, clean starts, endings.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::budget::{self, Level};
use crate::clock::Now;
use crate::guard::{Authorized, Subject};
use crate::hook::{Event, Principal};
use crate::journal::SessionId;
use crate::message::Publication;
use crate::topic::TopicFilter;
use crate::wire::{AckKind, ReasonCode};

use super::link::{Close, NewLink, Pace, Taken};
use super::session::{Away, State, Subscription};
use super::share::Orphan;
use super::share::rehome;
use super::{Engine, Registry, Routing, Session, Tickets, Will};

/// A client that is about to be admitted.
pub(crate) struct Admitted {
    pub(crate) subject: Arc<Subject>,
    pub(crate) clean_start: bool,
    /// Granted, seconds.
    pub(crate) expiry: u32,
    pub(crate) will: Option<Box<Will>>,
    pub(crate) link: NewLink,
}

/// A client's place in the engine.
pub(crate) struct Attached {
    pub(crate) session: Arc<Session>,
    pub(crate) epoch: u64,
}

/// What becomes of a client's will when its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is published, now or after its delay.
    Publish,
    /// It is called off.
    Discard,
    /// The broker stops: a session that survives keeps it.
    Keep,
}

/// What a `QoS` 2 message is to its session.
pub(crate) enum Receipt {
    /// Not seen before: it is remembered from now on.
    New,
    /// A repetition \[MQTT-4.3.3-10\], with what its PUBREC waits for.
    Known(Tickets),
    /// The session belongs to a later connection.
    Stale,
}

/// Why a session cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAttached {
    /// It belongs to another principal (rule 3).
    SomebodyElses(Principal),
    /// The principal has as many as it may have.
    TooMany(usize),
    /// The store does not take a session that must survive.
    StoreFull,
    /// Memory is short, and the client is new or brings a large will.
    NoMemory,
}

impl Engine {
    /// Gives a proven client its session, new or found again, and ends its old connection. Also
    /// whether it was found, as a CONNACK says it.
    pub(crate) fn attach(
        &self,
        client_id: &Arc<str>,
        client: Admitted,
        now: Now,
    ) -> Result<(Attached, bool), NotAttached> {
        let mut routing = self.routing(None, now);
        let mut fired = None;
        let mut orphans = Vec::new();
        let (attached, session_present) = {
            let mut registry = self.registry.lock();
            let principal = client.subject.principal();
            let known = registry.sessions.get(client_id).cloned();
            if let Some(session) = &known
                && session.owner.principal != *principal
            {
                return Err(NotAttached::SomebodyElses(session.owner.principal.clone()));
            }
            if !self.has_memory_for(&client, known.is_some()) {
                self.metrics.memory_clients_shed.inc();
                return Err(NotAttached::NoMemory);
            }
            let limit = routing.settings.limits.sessions_per_principal;
            let (owner, sessions) = registry.owner(principal);
            if known.is_none() && sessions >= limit {
                return Err(NotAttached::TooMany(limit));
            }
            let session = known.clone().unwrap_or_else(|| {
                let rights = client.subject.rights(&self.modules);
                let (id, subject) = (Arc::clone(client_id), Arc::clone(&client.subject));
                Session::new(id, owner, subject, rights)
            });
            let mut state = session.lock();
            let session_present = known.is_some() && !client.clean_start && state.expiry > 0;
            // Before anything changes: what cannot be written down did not happen.
            self.record_opening(&mut state, &client, session_present, &routing)?;
            if known.is_none() {
                registry.insert(&session);
                self.metrics.sessions.inc();
                routing.grew(budget::SESSION);
            }
            self.stop_waiting(&mut state);
            if state.link.is_some() {
                self.metrics.takeovers.inc();
                let close = Close {
                    code: ReasonCode::SessionTakenOver,
                    reason: "its client connected again".to_owned(),
                    will: true,
                };
                state.order(close, &mut routing);
            }
            if let Some(will) = state.will.take() {
                // A delayed will is called off when the session goes on [MQTT-3.1.3-9]; it is
                // published when the session ends or the connection was open until now.
                let connected = state.link.is_some();
                if (connected && will.delay == 0) || !session_present {
                    fired = Some(will);
                }
            }
            if !session_present {
                orphans = state.orphans(true);
                self.forget_subscriptions(&session, &mut state);
                state.clear(&mut routing);
            }
            state.rights = client.subject.rights(&self.modules);
            let before = Arc::clone(&state.subject);
            state.subject = client.subject;
            state.expiry = client.expiry;
            state.will = client.will;
            state.connect(&client.link, now.mono);
            if session_present {
                // The rights of the new identity decide about the old subscriptions.
                if before.snapshot() == state.subject.snapshot() {
                    state.refresh(&mut routing);
                } else {
                    state.reassess(&mut routing);
                }
                state.resume(&mut routing);
            }
            let epoch = state.epoch;
            drop(state);
            (Attached { session, epoch }, session_present)
        };
        self.metrics.clients.inc();
        self.metrics.connects.inc();
        rehome(orphans, &attached.session, None, &mut routing);
        if let Some(will) = fired {
            self.fire(&will, &mut routing);
        }
        Ok((attached, session_present))
    }

    /// Whether memory is there for a client. Who comes back takes what waits and so makes room: it
    /// is let in, unless it brings a will that takes room itself.
    fn has_memory_for(&self, client: &Admitted, comes_back: bool) -> bool {
        match self.budget.level() {
            Level::Calm => true,
            // Over a Unix socket, by the broker's own user.
            _ if client.subject.snapshot().address.is_none() => true,
            Level::Pressed => comes_back,
            Level::Full | Level::Spent => {
                comes_back && client.will.as_deref().is_none_or(Will::is_small)
            }
        }
    }

    /// Writes down that a client has this session; the CONNACK waits for it.
    fn record_opening(
        &self,
        state: &mut State,
        client: &Admitted,
        session_present: bool,
        routing: &Routing<'_>,
    ) -> Result<(), NotAttached> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let known = state.id;
        let id = match (client.expiry > 0, known.is_durable()) {
            (false, false) => return Ok(()),
            (false, true) => SessionId::default(),
            (true, true) => known,
            (true, false) => journal.new_session(),
        };
        let will = client.will.as_deref().map(Will::record);
        let who = client.subject.snapshot();
        let ticket = routing
            .write(
                if id.is_durable() { id } else { known },
                // Who comes back takes what waits and so makes room: a full store lets it in, unless
                // it brings a will that takes room itself.
                known.is_durable() && client.will.as_deref().is_none_or(Will::is_small),
                &mut |steps| {
                    if !id.is_durable() {
                        steps.ended(known);
                        return;
                    }
                    if !session_present && known.is_durable() {
                        steps.reset(id);
                    }
                    steps.opened(id, who, client.expiry, will.as_ref());
                },
            )
            .map_err(|_| NotAttached::StoreFull)?;
        state.id = id;
        if !session_present {
            state.entries = 0;
        }
        state.barrier = ticket.filter(|_| id.is_durable());
        Ok(())
    }

    /// Ends a connection of a session. `will`: it is to be published. `expiry`: the client's last
    /// word on how long the session lives, seconds.
    pub(crate) fn detach(&self, attached: &Attached, will: Fate, expiry: Option<u32>, now: Now) {
        self.metrics.clients.sub(1);
        let mut routing = self.routing(None, now);
        let mut fired = None;
        let (orphans, away);
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
            let left = state.will.take().filter(|_| will != Fate::Discard);
            if state.expiry == 0 {
                fired = left.filter(|_| will == Fate::Publish);
                away = None;
                orphans = self.end(&mut registry, session, &mut state, &mut routing);
            } else {
                away = Some(state.epoch);
                orphans = state.orphans(false);
                let mut timers = self.timers.lock();
                let mut keys = SmallVec::new();
                let will_at;
                match left {
                    // A broker that stops leaves the will to the one that starts.
                    Some(left) if left.delay > 0 || will == Fate::Keep => {
                        let delay = left.delay.min(state.expiry);
                        let key = timers.will(routing.millis, delay, session, state.epoch);
                        keys.push(key);
                        will_at = Some(key.0);
                        state.will = Some(left);
                    }
                    left => {
                        // Due now, until it has been published.
                        will_at = left.as_ref().map(|_| routing.millis);
                        fired = left;
                    }
                }
                keys.push(timers.expiry(routing.millis, state.expiry, session, state.epoch));
                state.away = Some(Box::new(Away {
                    since: routing.millis,
                    will_at,
                    timers: keys,
                }));
                let (id, expiry) = (state.id, state.expiry);
                let _ = routing.write(id, true, &mut |steps| {
                    steps.left(id, routing.millis, expiry, will_at);
                });
            }
        }
        rehome(orphans, &attached.session, away, &mut routing);
        if let Some(will) = fired {
            self.fire(&will, &mut routing);
            routing.will_is_over(&attached.session, attached.epoch);
        }
    }

    /// Takes a session out of everything. What comes back is for others of its groups.
    pub(super) fn end(
        &self,
        registry: &mut Registry,
        session: &Arc<Session>,
        state: &mut State,
        routing: &mut Routing<'_>,
    ) -> Vec<Orphan> {
        registry.remove(session);
        self.metrics.sessions.sub(1);
        self.stop_waiting(state);
        let orphans = state.orphans(true);
        self.forget_subscriptions(session, state);
        state.clear(routing);
        state.ended = true;
        let id = std::mem::take(&mut state.id);
        let _ = routing.write(id, true, &mut |steps| steps.ended(id));
        orphans
    }

    /// The client is back, or its session has ended.
    fn stop_waiting(&self, state: &mut State) {
        if let Some(away) = state.away.take() {
            self.timers.lock().call_off(&away.timers);
        }
    }

    fn forget_subscriptions(&self, session: &Arc<Session>, state: &mut State) {
        let all = state.drain_subscriptions();
        self.metrics.subscriptions.sub(all.len() as u64);
        for (slot, subscription) in all {
            self.undeclare(&subscription);
            self.tree.remove(
                subscription.filter,
                subscription.share.as_ref(),
                session,
                slot,
            );
        }
    }

    /// The bus hears of each subscription that goes, as it heard of each that came.
    fn undeclare(&self, subscription: &Subscription) {
        let text = self.tree.text(subscription.filter);
        let whole = match &subscription.share {
            Some(group) => format!("$share/{}/{text}", group.name),
            None => text,
        };
        let limits = self.settings.load().mqtt.topic;
        if let Ok(filter) = TopicFilter::new(&whole, limits) {
            self.bus.declare(filter, false);
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
}

impl Attached {
    /// Takes what a connection has to write; see [`Taken`]. `published`: when its client last did, if
    /// it has since the last time.
    pub(crate) fn take(
        &self,
        into: &mut Vec<u8>,
        waker: &std::task::Waker,
        published: Option<Instant>,
        routing: &mut Routing<'_>,
    ) -> Taken {
        let mut state = self.session.lock();
        state.take(self.epoch, into, waker, published, routing)
    }

    /// Whether others have given the connection something to do, or are about to.
    pub(crate) fn is_awake(&self) -> bool {
        self.session.state.try_lock().is_none_or(|state| {
            state
                .link
                .as_ref()
                .is_some_and(|link| link.pace == Pace::Awake)
        })
    }

    /// The client acknowledged something that was sent to it; whether that moved anything on.
    pub(crate) fn acknowledged(
        &self,
        kind: AckKind,
        id: u16,
        reason: ReasonCode,
        routing: &mut Routing<'_>,
    ) -> bool {
        let mut state = self.session.lock();
        state.epoch == self.epoch && state.acknowledged(kind, id, reason, routing)
    }

    /// Remembers a `QoS` 2 message before it is routed, so that a connection that takes over in
    /// between knows it too.
    pub(crate) fn receive(&self, id: u16) -> Receipt {
        let mut state = self.session.lock();
        if state.epoch != self.epoch || state.ended {
            return Receipt::Stale;
        }
        let received = state.received.get_or_insert_default();
        if let Some(tickets) = received.find(id) {
            return Receipt::Known(tickets);
        }
        received.insert(id);
        Receipt::New
    }

    /// Writes down that an authorized `QoS` 2 message is about to be routed; its PUBREC waits for
    /// that. What its sender repeats after a crash is not routed again, so the restart does it.
    pub(crate) fn routing(
        &self,
        id: u16,
        publication: &Authorized<Publication<'_>>,
        routing: &mut Routing<'_>,
    ) {
        let mut state = self.session.lock();
        let received = state.received.get_or_insert_default();
        received.routing += 1;
        received.unwritten = None;
        if state.epoch == self.epoch && state.id.is_durable() {
            let message = publication.store();
            state.record(routing, |steps, session| {
                steps.received(session, id, Some(&message));
            });
        }
    }

    /// Everybody has it. Said once for each [`Self::routing`], also if the client has come back on
    /// another connection meanwhile.
    pub(crate) fn routed(
        &self,
        publication: &Authorized<Publication<'_>>,
        routing: &mut Routing<'_>,
    ) {
        let mut state = self.session.lock();
        if let Some(received) = &mut state.received {
            received.routing = received.routing.saturating_sub(1);
        }
        if state.id.is_durable() {
            let message = publication.store();
            state.record(routing, |steps, session| steps.routed(session, &message));
        }
    }

    /// The PUBREC of a received message waits for these.
    pub(crate) fn promise(&self, id: u16, tickets: &Tickets) {
        let mut state = self.session.lock();
        if state.epoch == self.epoch
            && let Some(received) = &mut state.received
        {
            received.promise(id, tickets);
        }
    }

    /// The PUBREC of a received message goes out.
    pub(crate) fn kept_promise(&self, id: u16) {
        let mut state = self.session.lock();
        if state.epoch == self.epoch
            && let Some(received) = &mut state.received
        {
            received.kept_promise(id);
        }
    }

    /// The sender released a `QoS` 2 message, or it was refused \[MQTT-4.3.3-9\]; whether it was
    /// known.
    pub(crate) fn released(&self, id: u16, routing: &mut Routing<'_>) -> bool {
        let mut state = self.session.lock();
        if state.epoch != self.epoch {
            return false;
        }
        let received = state.received.as_mut();
        let known = received.is_some_and(|received| received.release(id));
        if known {
            // The PUBCOMP waits for it.
            state.record(routing, |steps, session| steps.freed(session, id));
        }
        known
    }

    /// `QoS` 2 messages received and not released.
    pub(crate) fn unreleased(&self) -> usize {
        let state = self.session.lock();
        state.received.as_ref().map_or(0, |known| known.ids.len())
    }

    /// The connection can take nothing now, until it comes to take something. It is told since when
    /// publishers have waited for its client, if they do, or that it must end.
    pub(crate) fn block(&self) -> Result<Option<Instant>, Close> {
        self.session.lock().block(self.epoch)
    }

    /// The client took bytes from the socket.
    pub(crate) fn progressed(&self, now: Now) {
        let mut state = self.session.lock();
        if state.epoch == self.epoch {
            state.progressed(now.mono);
        }
    }
}

impl Routing<'_> {
    pub(super) fn session_ended(&self, session: &Session, reason: &str) {
        let event = Event::SessionEnded {
            client_id: &session.client_id,
            owner: session.owner.principal.as_str(),
            reason,
        };
        self.modules().observe(&event, self.now);
    }
}
