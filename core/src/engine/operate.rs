//! What an operator may see and do.

use std::time::Instant;

use crate::clock::Now;
use crate::hook::{Principal, Snapshot};
use crate::wire::{QoS, ReasonCode};

use super::session::Covered;
use super::share::rehome;
use super::{Close, Engine};

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

impl Engine {
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
                    owner: &session.owner.principal,
                    who: state.subject.snapshot(),
                    connected: link
                        .map(|link| (state.subject.peer(), link.version, link.connected_at)),
                    subscriptions: state.subscriptions.len(),
                    queued: state.queue.len(),
                    in_flight: state.inflight_len(),
                    expiry: state.expiry,
                    filters: &|| {
                        state
                            .subscriptions
                            .iter()
                            .map(|(_, known)| {
                                let suspended = known.cover == Covered::Suspended;
                                (known.text(&self.tree), known.options.qos, suspended)
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
        let orphans = self.end(&mut registry, &session, &mut state, &mut routing);
        drop(state);
        drop(registry);
        rehome(orphans, &session, None, &mut routing);
        routing.session_ended(&session, "dropped");
        true
    }
}
