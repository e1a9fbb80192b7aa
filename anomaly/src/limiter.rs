//! [`Limiter`]: the limits of one address, one client and one identity.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Admission, Arrival, Meter, Principal, Snapshot, Verdict};
use portcullis_core::wire::ReasonCode;

use crate::bucket::{Bucket, Plan};
use crate::fan_out::FanOuts;
use crate::meter::{ClientMeter, Plans};
use crate::recent::Recent;
use crate::settings::{Rate, Settings};
use crate::sources::{Answer, Keyed, Source};

/// How many times the budget of one address its surroundings have.
const WIDE: u64 = 10;
/// Failures over the limit that are delayed before an address is refused.
const STRIKES: u32 = 8;
/// How long a failing address is refused, and how long strikes are remembered.
const PENALTY: Duration = Duration::from_mins(1);
/// The first delay; each strike doubles it.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest delay of an attempt or a connect.
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// The limits, as an [`Admission`] module named `limits`.
///
/// - Arrival: connection rate by address; over it refused with 0x9F before TLS.
/// - Attempt: addresses with bad credentials are delayed, then refused with 0x9F for a minute.
/// - Admission: connects by principal and client id, and by principal; over the rate delayed,
///   over it by half again refused with 0x9F.
/// - Traffic, by connection, and by principal for what its publishes cause: see [`Settings`]. Live connections take new settings with their next batch.
///
/// Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct Limiter {
    shared: Arc<Shared>,
}

/// What the limiter and its meters share.
pub(crate) struct Shared {
    started: Instant,
    state: RwLock<Arc<State>>,
    /// Moves when `state` was replaced.
    version: AtomicU64,
    failing: Mutex<Recent<Failing>>,
    clients: Mutex<Recent<Bucket>>,
    principals: Mutex<Recent<Bucket>>,
    hasher: RandomState,
    pub(crate) counters: Counters,
}

/// One generation of settings, with what depends on them.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) plans: Plans,
    pub(crate) fan_outs: Arc<FanOuts>,
    connects_per_client: Plan,
    connects_per_principal: Plan,
    arrivals: Arc<Keyed>,
    arrivals_wide: Arc<Keyed>,
    failures: Arc<Keyed>,
    failures_wide: Arc<Keyed>,
}

/// An address whose bad credentials are over the limit.
#[derive(Clone, Copy, Debug, Default)]
struct Failing {
    strikes: u32,
    /// When the last strike was.
    last: u64,
    refused_until: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    arrivals_refused: AtomicU64,
    attempts_delayed: AtomicU64,
    attempts_refused: AtomicU64,
    connects_delayed: AtomicU64,
    connects_refused: AtomicU64,
    pub(crate) batches_slowed: AtomicU64,
    pub(crate) fan_outs_slowed: AtomicU64,
    pub(crate) floods_ended: AtomicU64,
}

/// What the limiter has done since it was made, and how full its tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimiterStats {
    /// Connections refused on arrival.
    pub arrivals_refused: u64,
    /// CONNECTs delayed because of bad credentials from their address.
    pub attempts_delayed: u64,
    /// CONNECTs refused because of bad credentials from their address.
    pub attempts_refused: u64,
    /// Proven clients that connect too often, delayed.
    pub connects_delayed: u64,
    /// Proven clients that connect too often, refused.
    pub connects_refused: u64,
    /// Read batches after which reading paused.
    pub batches_slowed: u64,
    /// Of these, those whose principal caused more deliveries than it may.
    pub fan_outs_slowed: u64,
    /// Connections ended because of a flood.
    pub floods_ended: u64,
    /// Source prefixes in the largest table.
    pub sources: usize,
    /// Failing addresses remembered.
    pub failing: usize,
    /// Client ids and principals remembered.
    pub clients: usize,
}

impl Limiter {
    /// A limiter that has seen nothing before `now`.
    #[must_use]
    pub fn new(settings: Settings, now: Now) -> Self {
        let tracked = settings.tracked_clients;
        Self {
            shared: Arc::new(Shared {
                started: now.mono,
                state: RwLock::new(Arc::new(State::new(settings, None, 0))),
                version: AtomicU64::new(0),
                failing: Mutex::new(Recent::new(tracked)),
                clients: Mutex::new(Recent::new(tracked)),
                principals: Mutex::new(Recent::new(tracked)),
                hasher: RandomState::new(),
                counters: Counters::default(),
            }),
        }
    }

    /// Takes new settings, for live connections too. A limit by address or of fan-out that changed
    /// forgets what it counted.
    pub fn replace(&self, settings: Settings, now: Now) {
        let shared = &self.shared;
        for table in [&shared.clients, &shared.principals] {
            table.lock().resize(settings.tracked_clients);
        }
        shared.failing.lock().resize(settings.tracked_clients);
        let mut state = shared.state.write();
        *state = Arc::new(State::new(settings, Some(state.as_ref()), shared.at(now)));
        drop(state);
        shared.version.fetch_add(1, Ordering::Release);
    }

    /// The counters, for metrics.
    #[must_use]
    pub fn stats(&self) -> LimiterStats {
        let shared = &self.shared;
        let state = shared.state();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &shared.counters;
        LimiterStats {
            arrivals_refused: read(&counters.arrivals_refused),
            attempts_delayed: read(&counters.attempts_delayed),
            attempts_refused: read(&counters.attempts_refused),
            connects_delayed: read(&counters.connects_delayed),
            connects_refused: read(&counters.connects_refused),
            batches_slowed: read(&counters.batches_slowed),
            fan_outs_slowed: read(&counters.fan_outs_slowed),
            floods_ended: read(&counters.floods_ended),
            sources: [
                &state.arrivals,
                &state.arrivals_wide,
                &state.failures,
                &state.failures_wide,
            ]
            .iter()
            .map(|keyed| keyed.len())
            .max()
            .unwrap_or_default(),
            failing: shared.failing.lock().len(),
            clients: shared.clients.lock().len()
                + shared.principals.lock().len()
                + state.fan_outs.len(),
        }
    }
}

impl State {
    fn new(settings: Settings, before: Option<&Self>, at: u64) -> Self {
        let bound = settings.tracked_sources.max(1);
        let keyed = |rate: Rate, burst: u64, old: Option<&Arc<Keyed>>| match old {
            Some(old) if old.is(rate, bound) => Arc::clone(old),
            Some(_) | None => Arc::new(Keyed::new(rate, burst, bound, at)),
        };
        let arrive = settings.connect_rate_per_ip;
        let fail = settings.auth_failures_per_ip;
        // One span of it, as the operator reads it: 30 in a minute.
        let whole = |rate: Rate| rate.count().max(rate.burst());
        Self {
            plans: Plans::new(&settings),
            fan_outs: FanOuts::of(&settings, before.map(|b| &b.fan_outs)),
            connects_per_client: Plan::new(
                settings.connects_per_client,
                whole(settings.connects_per_client),
            ),
            connects_per_principal: Plan::new(
                settings.connects_per_principal,
                whole(settings.connects_per_principal),
            ),
            arrivals: keyed(arrive, arrive.burst(), before.map(|b| &b.arrivals)),
            arrivals_wide: keyed(
                arrive.times(WIDE),
                arrive.burst().saturating_mul(WIDE),
                before.map(|b| &b.arrivals_wide),
            ),
            failures: keyed(fail, whole(fail), before.map(|b| &b.failures)),
            failures_wide: keyed(
                fail.times(WIDE),
                whole(fail).saturating_mul(WIDE),
                before.map(|b| &b.failures_wide),
            ),
            settings,
        }
    }
}

impl Shared {
    /// Nanoseconds since the limiter was made.
    pub(crate) fn at(&self, now: Now) -> u64 {
        nanos(now.mono.saturating_duration_since(self.started))
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read())
    }

    /// Whose budget a client spends. Everybody is anonymous: there the address tells one from another.
    fn spender(&self, who: &Snapshot) -> u64 {
        let principal = who.principal();
        let is_anonymous = *principal == Principal::anonymous();
        let place = is_anonymous.then(|| who.address.map(Source::near));
        self.hasher.hash_one((principal, place))
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether this address, whose own budget is spent or not, may connect.
    fn arrival(&self, address: IpAddr, at: u64) -> Verdict {
        let state = self.state();
        let rate = state.settings.connect_rate_per_ip;
        match state.arrivals.check(Source::near(address), at) {
            Answer::Over => {
                return refuse(format!(
                    "limits.connect-rate-per-ip: more than {rate} from {address}"
                ));
            }
            Answer::NoRoom => {
                return refuse(format!(
                    "the table of sources is full; {address} is not in it"
                ));
            }
            Answer::Within => {}
        }
        // What one address may not do is no burden for its surroundings.
        match state.arrivals_wide.check(Source::wide(address), at) {
            Answer::Within => Verdict::Admit,
            Answer::Over => refuse(format!(
                "limits.connect-rate-per-ip: more than {} around {address}",
                rate.times(WIDE)
            )),
            Answer::NoRoom => refuse(format!(
                "the table of sources is full; {address} is not in it"
            )),
        }
    }

    /// One more bad credential.
    fn failure(&self, address: IpAddr, at: u64) {
        let state = self.state();
        let near = state.failures.check(Source::near(address), at) != Answer::Within;
        let wide = state.failures_wide.check(Source::wide(address), at) != Answer::Within;
        let mut failing = self.failing.lock();
        if near {
            failing.touch(&Source::near(address)).strike(at, true);
        }
        // A whole neighbourhood is delayed, not refused: it may have honest devices.
        if wide {
            failing.touch(&Source::wide(address)).strike(at, false);
        }
    }

    /// Whether bad credentials from this address delay or refuse the next attempt.
    fn penalty(&self, address: IpAddr, at: u64) -> Verdict {
        let failing = self.failing.lock();
        let look = |source| {
            failing
                .look(&source)
                .map_or(Verdict::Admit, |failing| failing.verdict(address, at))
        };
        look(Source::near(address)).and(look(Source::wide(address)))
    }
}

impl Failing {
    fn strike(&mut self, at: u64, may_refuse: bool) {
        if at.saturating_sub(self.last) > nanos(PENALTY) {
            self.strikes = 0;
        }
        self.strikes = self.strikes.saturating_add(1);
        self.last = at;
        if may_refuse && self.strikes > STRIKES {
            self.strikes = 0;
            self.refused_until = at.saturating_add(nanos(PENALTY));
        }
    }

    fn verdict(&self, address: IpAddr, at: u64) -> Verdict {
        if at < self.refused_until {
            return refuse(format!(
                "limits.auth-failures-per-ip: too many bad credentials from {address}"
            ));
        }
        match self.strikes {
            0 => Verdict::Admit,
            _ if at.saturating_sub(self.last) > nanos(PENALTY) => Verdict::Admit,
            strikes => Verdict::Slow(doubled(strikes)),
        }
    }
}

fn doubled(strikes: u32) -> Duration {
    let factor = 1_u32
        .checked_shl(strikes.saturating_sub(1).min(16))
        .unwrap_or(u32::MAX);
    FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn refuse(reason: String) -> Verdict {
    Verdict::Refuse {
        code: ReasonCode::ConnectionRateExceeded,
        reason,
        will: true,
    }
}

/// Counts one connect; the answer is mild up to half the burst beyond it. What is refused is not
/// counted, so a client that waits as long as the rate says gets in.
fn connect(
    bucket: &mut Bucket,
    plan: &Plan,
    allowed: u64,
    at: u64,
    what: impl FnOnce() -> String,
) -> Verdict {
    bucket.charge(1, plan, at);
    match bucket.over(plan) {
        0 => Verdict::Admit,
        over if over <= (allowed / 2).max(1) => {
            Verdict::Slow(doubled(u32::try_from(over).unwrap_or(u32::MAX)))
        }
        _ => {
            bucket.refund(1, plan);
            refuse(what())
        }
    }
}

impl Admission for Limiter {
    fn name(&self) -> &'static str {
        "limits"
    }

    fn arrive(&self, arrival: &Arrival<'_>, now: Now) -> Verdict {
        let Some(address) = arrival.address else {
            return Verdict::Admit;
        };
        let counters = &self.shared.counters;
        let verdict = self.shared.arrival(address, self.shared.at(now));
        count(&verdict, None, &counters.arrivals_refused);
        verdict
    }

    fn attempt(&self, arrival: &Arrival<'_>, _claimed: Option<&str>, now: Now) -> Verdict {
        // The claimed name is not looked at: anybody can claim it. A certificate is no guess.
        let Some(address) = arrival.address.filter(|_| !arrival.proven) else {
            return Verdict::Admit;
        };
        let counters = &self.shared.counters;
        let verdict = self.shared.penalty(address, self.shared.at(now));
        count(
            &verdict,
            Some(&counters.attempts_delayed),
            &counters.attempts_refused,
        );
        verdict
    }

    fn admit(&self, who: &Snapshot, now: Now) -> Verdict {
        let shared = &self.shared;
        let (state, at) = (shared.state(), shared.at(now));
        let principal = who.principal();
        let is_anonymous = *principal == Principal::anonymous();
        // Everybody is anonymous: there the address tells one from another, and a stranger cannot
        // spend what belongs to a device elsewhere.
        let place = is_anonymous.then(|| who.address.map(Source::near));
        let rate = state.settings.connects_per_client;
        let verdict = connect(
            shared
                .clients
                .lock()
                .touch(&(principal, &who.client_id, place)),
            &state.connects_per_client,
            rate.count(),
            at,
            || {
                format!(
                    "client id {:?} of {principal} connects more than {rate}",
                    &*who.client_id
                )
            },
        );
        let verdict = if is_anonymous || matches!(verdict, Verdict::Refuse { .. }) {
            verdict
        } else {
            let rate = state.settings.connects_per_principal;
            verdict.and(connect(
                shared.principals.lock().touch(principal),
                &state.connects_per_principal,
                rate.count(),
                at,
                || format!("{principal} connects more than {rate}"),
            ))
        };
        count(
            &verdict,
            Some(&shared.counters.connects_delayed),
            &shared.counters.connects_refused,
        );
        verdict
    }

    fn failed(&self, arrival: &Arrival<'_>, _claimed: Option<&Principal>, now: Now) {
        if let Some(address) = arrival.address {
            self.shared.failure(address, self.shared.at(now));
        }
    }

    fn watch(&self, who: &Snapshot, _now: Now) -> Box<dyn Meter> {
        let spender = self.shared.spender(who);
        Box::new(ClientMeter::new(Arc::clone(&self.shared), spender))
    }

    fn in_good_standing(&self, _author: &Snapshot, _now: Now) -> bool {
        true
    }

    fn generation(&self) -> u64 {
        // Limits end connections by their meters; nothing that lives needs to be asked again.
        0
    }
}

fn count(verdict: &Verdict, delayed: Option<&AtomicU64>, refused: &AtomicU64) {
    match (verdict, delayed) {
        (Verdict::Refuse { .. }, _) => refused.fetch_add(1, Ordering::Relaxed),
        (Verdict::Slow(_), Some(delayed)) => delayed.fetch_add(1, Ordering::Relaxed),
        (Verdict::Slow(_), None) | (Verdict::Admit, _) => 0,
    };
}
