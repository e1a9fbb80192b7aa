//! What one connection costs, batch by batch.
//!
//! Packets are charged after they were read, so a bucket may owe; the answer is a pause of reading
//! until it no longer does, at most [`LONGEST_PAUSE`] at a time (an empty batch then asks again).
//! Publishes, and the deliveries that they cause, are only ever slowed. What has no use beyond a certain rate - subscription churn,
//! pings, acknowledgements of nothing, refused actions - is slowed too, and ends the connection when one read goes far over the
//! burst or the client keeps at it for [`PATIENCE`].

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis_core::clock::Now;
use portcullis_core::hook::{BatchFacts, Begun, Meter, Verdict};
use portcullis_core::wire::ReasonCode;

use crate::bucket::{Bucket, Plan};
use crate::fan_out::FanOut;
use crate::limiter::{Shared, State};
use crate::settings::{Rate, Settings};

/// The longest pause of reading that one batch causes.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Nanoseconds on end that a client may be over a limit for what has no use.
const PATIENCE: u64 = 60_000_000_000;
/// A debt of so many bursts ends the connection at once.
const FAR: u64 = 10;

/// The limits of a connection, ready to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plans {
    publishes: Plan,
    bytes: Plan,
    filters: Plan,
    pings: Plan,
    stray: Plan,
    refused: Plan,
}

impl Plans {
    pub(crate) fn new(settings: &Settings) -> Self {
        let plain = |rate: Rate| Plan::new(rate, rate.burst());
        let bandwidth = settings.publish_bandwidth;
        Self {
            publishes: plain(settings.publish_rate),
            bytes: Plan::new(bandwidth, bandwidth.burst().max(settings.max_packet_size)),
            filters: plain(settings.filter_rate),
            pings: plain(settings.ping_rate),
            stray: plain(settings.stray_rate),
            refused: plain(settings.refused_rate),
        }
    }
}

/// The meter of one connection.
pub(crate) struct ClientMeter {
    shared: Arc<Shared>,
    /// The generation of settings that `state` is of.
    version: u64,
    state: Arc<State>,
    publishes: Bucket,
    bytes: Bucket,
    /// Whose fan-out it is.
    spender: u64,
    /// What that one's publishes have caused; looked for when the first causes something.
    fan_out: Option<Arc<FanOut>>,
    slowed: Slowed,
    filters: Nuisance,
    pings: Nuisance,
    stray: Nuisance,
    refused: Nuisance,
}

/// Whether the fan-out of its publishes slows a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slowed {
    No,
    /// Since the present batch.
    Begun,
    Yes,
}

impl ClientMeter {
    pub(crate) fn new(shared: Arc<Shared>, spender: u64) -> Self {
        let version = shared.version();
        let state = shared.state();
        Self {
            shared,
            version,
            state,
            publishes: Bucket::default(),
            bytes: Bucket::default(),
            spender,
            fan_out: None,
            slowed: Slowed::No,
            filters: Nuisance::default(),
            pings: Nuisance::default(),
            stray: Nuisance::default(),
            refused: Nuisance::default(),
        }
    }

    /// Takes new settings over; what is owed stays owed.
    fn refresh(&mut self) {
        let version = self.shared.version();
        if version == self.version {
            return;
        }
        let state = self.shared.state();
        let (old, new) = (&self.state.plans, &state.plans);
        self.version = version;
        self.publishes.rebase(&old.publishes, &new.publishes);
        self.bytes.rebase(&old.bytes, &new.bytes);
        self.filters.bucket.rebase(&old.filters, &new.filters);
        self.pings.bucket.rebase(&old.pings, &new.pings);
        self.stray.bucket.rebase(&old.stray, &new.stray);
        self.refused.bucket.rebase(&old.refused, &new.refused);
        if !Arc::ptr_eq(&self.state.fan_outs, &state.fan_outs) {
            self.fan_out = None;
        }
        self.state = state;
    }

    fn judge(&mut self, facts: &BatchFacts, at: u64) -> Verdict {
        let fan_out = self.fan_out(facts, at);
        let plans = &self.state.plans;
        self.publishes
            .charge(facts.publishes.into(), &plans.publishes, at);
        self.bytes.charge(facts.publish_bytes, &plans.bytes, at);
        let pause = self
            .publishes
            .wait(&plans.publishes)
            .max(self.bytes.wait(&plans.bytes))
            .max(fan_out);
        slow(pause)
            .and(self.filters.charge(
                facts.filters,
                &plans.filters,
                at,
                "SUBSCRIBE and UNSUBSCRIBE filters",
            ))
            .and(
                self.pings
                    .charge(facts.pings, &plans.pings, at, "PINGREQ packets"),
            )
            .and(
                self.stray
                    .charge(facts.stray, &plans.stray, at, "acknowledgements of nothing"),
            )
            .and(self.refused.charge(
                facts.refused,
                &plans.refused,
                at,
                "refused publishes and filters",
            ))
    }
}

impl ClientMeter {
    /// How long its principal has to wait for what its publishes caused. A connection that causes
    /// nothing does not wait for others.
    fn fan_out(&mut self, facts: &BatchFacts, at: u64) -> Duration {
        if facts.fan_out == 0 && self.slowed == Slowed::No {
            return Duration::ZERO;
        }
        let (fan_outs, spender) = (&self.state.fan_outs, self.spender);
        let fan_out = self.fan_out.get_or_insert_with(|| fan_outs.one(spender));
        let wait = fan_outs.charge(fan_out, facts, at);
        self.slowed = match (wait.is_zero(), self.slowed) {
            (true, _) => Slowed::No,
            (false, Slowed::No) => Slowed::Begun,
            (false, Slowed::Begun | Slowed::Yes) => Slowed::Yes,
        };
        wait
    }
}

impl Meter for ClientMeter {
    fn batch(&mut self, facts: &BatchFacts, now: Now) -> Verdict {
        self.refresh();
        let verdict = self.judge(facts, self.shared.at(now));
        let counters = &self.shared.counters;
        match &verdict {
            Verdict::Admit => {}
            Verdict::Slow(_) => {
                counters.batches_slowed.fetch_add(1, Ordering::Relaxed);
                if self.slowed != Slowed::No {
                    counters.fan_outs_slowed.fetch_add(1, Ordering::Relaxed);
                }
            }
            Verdict::Refuse { .. } => {
                counters.floods_ended.fetch_add(1, Ordering::Relaxed);
            }
        }
        verdict
    }

    fn begun(&self) -> Option<Begun> {
        (self.slowed == Slowed::Begun).then(|| {
            let settings = &self.state.settings;
            Begun {
                limit: "limits.fan-out-rate",
                reason: format!(
                    "its publishes cause more than {} deliveries or {} bytes (limits.fan-out-bandwidth); \
                     it is read more slowly",
                    settings.fan_out_rate, settings.fan_out_bandwidth
                ),
            }
        })
    }
}

/// Counts what no client needs much of.
#[derive(Debug, Default)]
struct Nuisance {
    bucket: Bucket,
    /// Since when each batch that had any was over the limit.
    over_since: Option<NonZeroU64>,
}

impl Nuisance {
    fn charge(&mut self, count: u32, plan: &Plan, at: u64, what: &str) -> Verdict {
        self.bucket.charge(0, plan, at);
        if self.bucket.is_settled() {
            self.over_since = None;
            if count == 0 {
                return Verdict::Admit;
            }
        }
        self.bucket.charge(count.into(), plan, at);
        let wait = self.bucket.wait(plan);
        if count > 0 && wait.is_zero() {
            self.over_since = None;
        }
        if count > 0 && !wait.is_zero() {
            let begins = NonZeroU64::new(at).unwrap_or(NonZeroU64::MIN);
            let since = self.over_since.get_or_insert(begins).get();
            let far = self.bucket.exceeds(FAR, plan);
            if far || at.saturating_sub(since) >= PATIENCE {
                let how = if far {
                    "far over the limit"
                } else {
                    "over the limit for a minute"
                };
                return Verdict::Refuse {
                    code: ReasonCode::MessageRateTooHigh,
                    reason: format!("a flood of {what}: {how}"),
                    will: true,
                };
            }
        }
        slow(wait)
    }
}

fn slow(pause: Duration) -> Verdict {
    if pause.is_zero() {
        Verdict::Admit
    } else {
        Verdict::Slow(pause.min(LONGEST_PAUSE))
    }
}
