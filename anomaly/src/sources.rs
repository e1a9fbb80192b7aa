//! What is counted by address, before anything is proven: governor over a bounded table.
//!
//! The limiters are governor's (GCRA); clock and table are ours, so that time is an argument and
//! the table has a bound.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use crate::recent::ByHash;
use crate::settings::Rate;

/// A source prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    bits: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    V4Host,
    V4Net24,
    V6Net64,
    V6Net48,
}

impl Source {
    /// What counts as one peer: an IPv4 address, an IPv6 /64.
    pub(crate) fn near(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self {
                bits: v4.to_bits().into(),
                kind: Kind::V4Host,
            },
            IpAddr::V6(v6) => Self {
                bits: upper(v6.to_bits()),
                kind: Kind::V6Net64,
            },
        }
    }

    /// Its surroundings, which one attacker may hold as a whole: IPv4 /24, IPv6 /48.
    pub(crate) fn wide(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self {
                bits: (v4.to_bits() & !0xff).into(),
                kind: Kind::V4Net24,
            },
            IpAddr::V6(v6) => Self {
                bits: upper(v6.to_bits()) & !0xffff,
                kind: Kind::V6Net48,
            },
        }
    }
}

fn upper(bits: u128) -> u64 {
    u64::try_from(bits >> 64).unwrap_or(u64::MAX)
}

/// What a limiter says about one more from a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Within,
    Over,
    /// The table is full and does not know the source.
    NoRoom,
}

/// One limit for each source.
pub(crate) struct Keyed {
    rate: Rate,
    bound: usize,
    limiter: RateLimiter<Source, Shared, Fed, NoOpMiddleware<Nanos>>,
    clock: Fed,
    table: Arc<Table>,
    started: u64,
}

impl Keyed {
    /// Nobody has a history at `at`.
    pub(crate) fn new(rate: Rate, burst: u64, bound: usize, at: u64) -> Self {
        let clock = Fed(Arc::new(AtomicU64::new(at)));
        let table = Arc::new(Table::default());
        // Governor counts in whole cells and at least a nanosecond each: beyond a thousand million
        // per second there is no limit that matters.
        let period = rate.span() / u32::try_from(rate.count()).unwrap_or(u32::MAX);
        let burst = u32::try_from(burst)
            .ok()
            .and_then(NonZeroU32::new)
            .unwrap_or(NonZeroU32::MAX);
        let quota = Quota::with_period(period)
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MAX))
            .allow_burst(burst);
        Self {
            rate,
            bound,
            limiter: RateLimiter::new(quota, Shared(Arc::clone(&table)), clock.clone()),
            clock,
            table,
            started: at,
        }
    }

    pub(crate) fn is(&self, rate: Rate, bound: usize) -> bool {
        self.rate == rate && self.bound == bound
    }

    /// Charges one to `source`.
    pub(crate) fn check(&self, source: Source, at: u64) -> Answer {
        self.clock.0.fetch_max(at, Ordering::Relaxed);
        self.table
            .sweep(at, self.started, self.table.len() >= self.bound);
        if self.table.len() >= self.bound && !self.table.knows(&source) {
            return Answer::NoRoom;
        }
        match self.limiter.check_key(&source) {
            Ok(()) => Answer::Within,
            Err(_) => Answer::Over,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

/// Governor's clock, moved by whoever hands in the time. Never goes back.
#[derive(Clone, Debug)]
struct Fed(Arc<AtomicU64>);

impl Clock for Fed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

const SHARDS: usize = 64;
/// How often a shard is swept when there is room; so each of them about once a minute.
const SWEEP_NANOS: u64 = 1_000_000_000;

/// The theoretical arrival time of each source, in nanoseconds since the limiter's start. One that
/// has passed is as good as none, and is swept away.
struct Table {
    shards: [Mutex<ByHash<u64>>; SHARDS],
    hasher: RandomState,
    len: AtomicUsize,
    swept_at: AtomicU64,
    next_sweep: AtomicUsize,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            len: AtomicUsize::new(0),
            swept_at: AtomicU64::new(0),
            next_sweep: AtomicUsize::new(0),
        }
    }
}

impl Table {
    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    fn knows(&self, source: &Source) -> bool {
        self.shard(source)
            .is_some_and(|(shard, key)| shard.lock().contains_key(&key))
    }

    /// Where a source is, and under which key.
    fn shard(&self, source: &Source) -> Option<(&Mutex<ByHash<u64>>, u64)> {
        let key = self.hasher.hash_one(source);
        // The modulus is below SHARDS, so there always is one.
        let place = usize::try_from(key % SHARDS as u64).unwrap_or_default();
        Some((self.shards.get(place)?, key))
    }

    /// Sweeps one shard, where it is time or room is needed: never a stop for all.
    fn sweep(&self, at: u64, started: u64, needed: bool) {
        let last = self.swept_at.load(Ordering::Relaxed);
        let is_time = at.saturating_sub(last) >= SWEEP_NANOS
            && self
                .swept_at
                .compare_exchange(last, at, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !is_time && !needed {
            return;
        }
        let place = self.next_sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        if let Some(shard) = self.shards.get(place) {
            let mut shard = shard.lock();
            let before = shard.len();
            shard.retain(|_, arrival| *arrival > at.saturating_sub(started));
            let gone = before - shard.len();
            if shard.capacity() > 4 * shard.len() + 64 {
                shard.shrink_to_fit();
            }
            drop(shard);
            self.len.fetch_sub(gone, Ordering::Relaxed);
        }
    }
}

/// Governor's view of the table.
struct Shared(Arc<Table>);

impl StateStore for Shared {
    type Key = Source;

    fn measure_and_replace<T, F, E>(&self, key: &Source, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let Some((shard, key)) = self.0.shard(key) else {
            return f(None).map(|(answer, _)| answer);
        };
        let mut shard = shard.lock();
        if let Some(arrival) = shard.get_mut(&key) {
            let (answer, after) = f(Some(Nanos::from(*arrival)))?;
            *arrival = after.as_u64();
            return Ok(answer);
        }
        let (answer, after) = f(None)?;
        shard.insert(key, after.as_u64());
        self.0.len.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn source(text: &str) -> Source {
        Source::near(text.parse().unwrap())
    }

    fn ten_per_second(bound: usize) -> Keyed {
        Keyed::new(
            Rate::new(10, Duration::from_secs(1)).unwrap(),
            100,
            bound,
            5 * SECOND,
        )
    }

    #[test]
    fn prefixes_are_those_that_one_peer_holds() {
        for (a, b, near, wide) in [
            ("192.0.2.1", "192.0.2.1", true, true),
            ("192.0.2.1", "192.0.2.2", false, true),
            ("192.0.2.1", "192.0.3.1", false, false),
            ("192.0.2.1", "::ffff:192.0.2.1", true, true),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::", true, true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false, true),
            ("2001:db8:0:1::1", "2001:db8:1:1::1", false, false),
            ("0.0.0.0", "::1", false, false),
        ] {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(Source::near(a) == Source::near(b), near, "{a} {b}");
            assert_eq!(Source::wide(a) == Source::wide(b), wide, "{a} {b}");
        }
    }

    #[test]
    fn a_source_has_its_burst_then_its_rate() {
        let keyed = ten_per_second(10);
        let count = |at| {
            (0..1000)
                .filter(|_| keyed.check(source("10.0.0.1"), at) == Answer::Within)
                .count()
        };
        assert_eq!(count(5 * SECOND), 100);
        assert_eq!(count(6 * SECOND), 10);
        assert_eq!(count(26 * SECOND), 100);
    }

    #[test]
    fn a_full_table_refuses_the_unknown_and_makes_room_when_the_known_are_quiet() {
        let keyed = ten_per_second(10);
        for host in 0..10 {
            assert_eq!(
                keyed.check(source(&format!("10.0.0.{host}")), 5 * SECOND),
                Answer::Within
            );
        }
        assert_eq!(keyed.check(source("10.0.1.1"), 5 * SECOND), Answer::NoRoom);
        assert_eq!(keyed.check(source("10.0.0.1"), 5 * SECOND), Answer::Within);
        // One shard is swept by each call.
        let admitted =
            (0..=SHARDS).any(|_| keyed.check(source("10.0.1.1"), 60 * SECOND) == Answer::Within);
        assert!(admitted);
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst_and_the_table_stays_bounded(
            steps in prop::collection::vec((0_u8..20, 0_u64..SECOND), 1..500),
        ) {
            let keyed = ten_per_second(8);
            let mut at = 5 * SECOND;
            let mut admitted = [0_u64; 20];
            for (host, pause) in steps {
                at += pause / 50;
                if keyed.check(source(&format!("10.0.0.{host}")), at) == Answer::Within {
                    admitted[usize::from(host)] += 1;
                }
                prop_assert!(keyed.len() <= 8);
                prop_assert!(admitted[usize::from(host)] <= 100 + (at - 5 * SECOND) * 10 / SECOND + 1);
            }
        }
    }
}
