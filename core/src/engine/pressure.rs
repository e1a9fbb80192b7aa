//! What is done about short memory besides refusing: idle connections are ended, and who waits is
//! called again.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::Level;
use crate::clock::Now;
use crate::wire::ReasonCode;

use super::link::Link;
use super::{Attached, Close, Engine, Session};

/// How often all connections are looked at while memory is short.
const ROUND: Duration = Duration::from_secs(1);

/// Most connections that are ended in one round.
pub(super) const EVICTED: usize = 100;

/// The rounds so far.
#[derive(Default)]
pub(super) struct Relief {
    /// Memory is short, or was in the last round.
    active: bool,
    last: Option<Instant>,
}

impl Relief {
    /// Whether a round is due. The last one comes when memory is there again.
    fn is_due(&mut self, level: Level, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| last + ROUND <= now);
        if !due || (level == Level::Calm && !self.active) {
            return false;
        }
        self.active = level > Level::Calm;
        self.last = Some(now);
        true
    }
}

impl Engine {
    /// While memory is short, once a second: ends the connections that have been idle for longest,
    /// and calls those that have something to write, as what they may has changed.
    pub(super) fn relieve(&self, now: Now) {
        let level = self.budget.level();
        if !self.relief.lock().is_due(level, now.mono) {
            return;
        }
        let sessions: Vec<_> = self.registry.lock().sessions.values().cloned().collect();
        let mut routing = self.routing(None, now);
        let idle_after = routing.settings.limits.idle;
        let mut idle: Vec<(Duration, Arc<Session>)> = Vec::new();
        for session in sessions {
            let state = session.lock();
            let Some(link) = &state.link else { continue };
            let local = state.subject.snapshot().address.is_none();
            if !state.queue.is_empty() || link.is_blocked() {
                routing.wakes.extend(link.waker.clone());
            }
            let span = link.idle(now.mono);
            if state.subscriptions.is_empty() && !local && span >= idle_after {
                drop(state);
                idle.push((span, session));
            }
        }
        if level == Level::Calm {
            return;
        }
        idle.sort_unstable_by_key(|(span, _)| Reverse(*span));
        for (span, session) in idle.into_iter().take(EVICTED) {
            let mut state = session.lock();
            // It may have come to life meanwhile.
            let still = state.link.as_ref().map(|link| link.idle(now.mono));
            if still == Some(span) && state.subscriptions.is_empty() {
                self.metrics.memory_evicted.inc();
                let reason = format!(
                    "limits.memory: memory is short, and it has no subscription and has published \
                     nothing for {} s",
                    span.as_secs()
                );
                state.order(
                    Close {
                        code: ReasonCode::ServerBusy,
                        reason,
                        will: true,
                    },
                    &mut routing,
                );
            }
        }
    }
}

impl Attached {
    /// Bytes that are encoded for the client, besides those that its connection has taken.
    pub(crate) fn encoded(&self) -> usize {
        let state = self.session.lock();
        state.link.as_ref().map_or(0, |link| link.output.len())
    }
}

impl Link {
    /// How long its client has published nothing.
    fn idle(&self, now: Instant) -> Duration {
        let since = self.connected_at + Duration::from_secs(self.published.into());
        now.saturating_duration_since(since)
    }
}
