//! How clients get their sessions and leave them: ownership, takeover, clean starts, endings.

use std::sync::Arc;

use crate::clock::Now;
use crate::guard::Subject;
use crate::hook::{Event, Principal};
use crate::topic::TopicFilter;
use crate::wire::{AckKind, ReasonCode};

use super::link::{Close, NewLink, Taken};
use super::session::{State, Subscription};
use super::share::Orphan;
use super::{Engine, Registry, Routing, Session, Tickets, Will};

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
}

impl Engine {
    /// Gives a proven client its session, new or found again, and ends its old connection.
    pub(crate) fn attach(
        &self,
        client_id: &Arc<str>,
        client: Admitted,
        now: Now,
    ) -> Result<Attached, NotAttached> {
        let mut routing = self.routing(None, now);
        let mut fired = None;
        let mut orphans = Vec::new();
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
            self.timers.lock().call_off(&std::mem::take(&mut state.timers));
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
            Attached {
                session,
                epoch,
                session_present,
            }
        };
        self.metrics.clients.inc();
        self.metrics.connects.inc();
        self.rehome(orphans, &attached.session, None, &mut routing);
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
            let left = state.will.take().filter(|_| will);
            if state.expiry == 0 {
                fired = left;
                away = None;
                orphans = self.end(&mut registry, session, &mut state, &mut routing);
            } else {
                away = Some(state.epoch);
                orphans = state.orphans(false);
                let mut timers = self.timers.lock();
                match left {
                    Some(will) if will.delay > 0 => {
                        let delay = will.delay.min(state.expiry);
                        let key = timers.will(routing.millis, delay, session, state.epoch);
                        state.timers.push(key);
                        state.will = Some(will);
                    }
                    left => fired = left,
                }
                let key = timers.expiry(routing.millis, state.expiry, session, state.epoch);
                state.timers.push(key);
            }
        }
        self.rehome(orphans, &attached.session, away, &mut routing);
        if let Some(will) = fired {
            self.fire(&will, &mut routing);
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
        registry.sessions.remove(&session.client_id);
        if let Some(owned) = registry.owned.get_mut(&session.owner) {
            *owned -= 1;
            if *owned == 0 {
                registry.owned.remove(&session.owner);
            }
        }
        self.metrics.sessions.sub(1);
        self.timers.lock().call_off(&std::mem::take(&mut state.timers));
        let orphans = state.orphans(true);
        self.forget_subscriptions(session, state);
        state.clear(routing);
        state.ended = true;
        orphans
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
    /// Takes what a connection has to write; see [`Taken`].
    pub(crate) fn take(
        &self,
        into: &mut Vec<u8>,
        waker: &std::task::Waker,
        routing: &mut Routing<'_>,
    ) -> Taken {
        self.session.lock().take(self.epoch, into, waker, routing)
    }

    /// The client acknowledged something that was sent to it.
    pub(crate) fn acknowledged(
        &self,
        kind: AckKind,
        id: u16,
        reason: ReasonCode,
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let mut state = self.session.lock();
        if state.epoch == self.epoch {
            state.acknowledged(kind, id, reason, now.mono, out);
        }
    }

    /// Remembers a `QoS` 2 message before it is routed, so that a connection that takes over in
    /// between knows it too.
    pub(crate) fn receive(&self, id: u16) -> Receipt {
        let mut state = self.session.lock();
        if state.epoch != self.epoch || state.ended {
            return Receipt::Stale;
        }
        if state.received.contains(id) {
            let promised = state.promised.iter().find(|(known, _)| *known == id);
            return Receipt::Known(promised.map_or_else(Tickets::new, |(_, t)| t.clone()));
        }
        state.received.insert(id);
        Receipt::New
    }

    /// The PUBREC of a received message waits for these.
    pub(crate) fn promise(&self, id: u16, tickets: &Tickets) {
        let mut state = self.session.lock();
        if state.epoch == self.epoch && state.received.contains(id) {
            state.promised.push((id, tickets.clone()));
        }
    }

    /// The PUBREC of a received message goes out.
    pub(crate) fn kept_promise(&self, id: u16) {
        let mut state = self.session.lock();
        if state.epoch == self.epoch {
            state.promised.retain(|(known, _)| *known != id);
        }
    }

    /// The sender released a `QoS` 2 message, or it was refused \[MQTT-4.3.3-9\]; whether it was
    /// known.
    pub(crate) fn released(&self, id: u16) -> bool {
        let mut state = self.session.lock();
        if state.epoch != self.epoch {
            return false;
        }
        state.promised.retain(|(known, _)| *known != id);
        state.received.remove(id)
    }

    /// `QoS` 2 messages received and not released.
    pub(crate) fn unreleased(&self) -> usize {
        self.session.lock().received.len()
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
            owner: session.owner.as_str(),
            reason,
        };
        self.modules().observe(&event, self.now);
    }
}
