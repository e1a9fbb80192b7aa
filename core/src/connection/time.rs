//! Keep alive, the end of the identity, pauses and stalls.

use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::engine::Close;
use crate::hook::{BatchFacts, Event, Verdict};
use crate::settings::Settings;
use crate::wire::ReasonCode;

use super::{Connection, End, STALL};

impl Connection {
    /// A 3.x client that asked for no keep alive, or a longer one than is granted, cannot be told
    /// another: bytes that it takes count as life.
    pub(super) fn outbound_is_life(&self) -> bool {
        let asked = Duration::from_secs(self.terms.keep_alive.into());
        let max = self.engine.settings.load().mqtt.keep_alive_max;
        !self.terms.version.is_v5() && (asked.is_zero() || asked > max)
    }

    /// Whether reading is paused by a rate limit. When a pause ends the meters are asked again:
    /// the debt may be larger than one pause.
    pub(crate) fn is_paused(&mut self, now: Now) -> Result<bool, End> {
        match self.paused {
            None => Ok(false),
            Some(until) if until > now.mono => Ok(true),
            Some(until) => {
                self.paused = None;
                // What the client sent meanwhile could not be heard.
                self.heard = self.heard.max(until);
                self.weigh(&BatchFacts::default(), now)?;
                Ok(self.paused.is_some())
            }
        }
    }

    /// Asks the meters about what was read.
    pub(super) fn weigh(&mut self, facts: &BatchFacts, now: Now) -> Result<(), End> {
        let metrics = &self.engine.metrics;
        match self.watch.batch(facts, metrics, now) {
            Verdict::Admit => Ok(()),
            Verdict::Slow(wait) => {
                if let Some(begun) = self.watch.begun(metrics) {
                    self.limit_hit(begun.limit, &begun.reason, now);
                }
                self.paused = Some(now.mono + wait);
                Ok(())
            }
            Verdict::Refuse { code, reason, will } => {
                self.limit_hit("admission", &reason, now);
                Err(End::Server(Close { code, reason, will }))
            }
        }
    }

    /// When to look again: keep alive, the end of the identity, a pause, a stall.
    pub(crate) fn deadline(&self, now: Now) -> Instant {
        let mut deadline = self.silent_since() + self.patience();
        if let Some(until) = self.terms.until {
            let left = until.duration_since(now.wall).unwrap_or_default();
            deadline = deadline.min(now.mono + left);
        }
        if let Some(paused) = self.paused {
            deadline = deadline.min(paused);
        }
        if let Some(since) = self.stalled {
            deadline = deadline.min(since + STALL);
        }
        deadline
    }

    /// While reading is paused nobody is silent.
    fn silent_since(&self) -> Instant {
        self.paused
            .map_or(self.heard, |until| self.heard.max(until))
    }

    /// One and a half keep alives \[MQTT-3.1.2-22\].
    fn patience(&self) -> Duration {
        let max = self.engine.settings.load().mqtt.keep_alive_max;
        granted_keep_alive(self.terms.keep_alive, max) * 3 / 2
    }

    /// What the time says.
    pub(crate) fn check_time(&self, now: Now) -> Result<(), End> {
        if self.terms.until.is_some_and(|until| until <= now.wall) {
            return Err(End::server(
                ReasonCode::NotAuthorized,
                "the credential has expired",
            ));
        }
        if self.silent_since() + self.patience() <= now.mono {
            return Err(End::server(
                ReasonCode::KeepAliveTimeout,
                "silent for one and a half keep alives",
            ));
        }
        if self.stalled.is_some_and(|since| since + STALL <= now.mono) {
            return Err(self.slow_consumer(now));
        }
        Ok(())
    }

    /// The client takes nothing and holds others up.
    pub(crate) fn slow_consumer(&self, now: Now) -> End {
        self.engine.metrics.slow_consumers.inc();
        let reason = "no progress for 5 s with messages waiting";
        self.limit_hit("limits.queue-messages", reason, now);
        End::server(ReasonCode::QuotaExceeded, reason)
    }

    fn limit_hit(&self, limit: &str, reason: &str, now: Now) {
        self.engine.metrics.limits_hit.inc();
        let event = Event::LimitHit {
            who: Some(self.guard.subject().snapshot()),
            peer: self.guard.subject().peer(),
            limit,
            reason,
        };
        self.engine.modules.observe(&event, now);
    }
}

/// The keep alive that holds: what was asked for, but no more than the longest granted, which
/// also stands in for none.
pub(crate) fn granted_keep_alive(asked: u16, max: Duration) -> Duration {
    match Duration::from_secs(asked.into()) {
        Duration::ZERO => max,
        asked => asked.min(max),
    }
}

/// The session expiry that holds, seconds.
pub(crate) fn granted_expiry(asked: u32, settings: &Settings) -> u32 {
    let max = settings.mqtt.session_expiry_max.as_secs();
    asked.min(u32::try_from(max).unwrap_or(u32::MAX))
}
