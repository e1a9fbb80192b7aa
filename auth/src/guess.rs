//! Guessing passwords: counted per claimed user *and* source prefix, so that strangers who guess
//! at somebody's password from elsewhere cannot lock him out.
//!
//! The first failures cost nothing, a typing error is human; then each further attempt waits
//! longer, and at last attempts are refused for a while without being looked at. Certificates and
//! tokens are never counted: nobody guesses a signature. The limit per address, whatever the user,
//! is `limits.auth-failures-per-ip`.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Counts failures; bounded.
pub(crate) struct Guesses {
    table: Mutex<HashMap<u64, Failures>>,
    /// Seeded: nobody can choose a user whose key is another's.
    hash: RandomState,
    capacity: usize,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

/// What an attempt has to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Nothing.
    Judge,
    /// It waits first.
    Wait(Duration),
    /// It is refused, whatever it brings.
    Refuse,
}

/// One attempt at a password. While it waits for its turn others may have failed, so it is asked
/// about once more then: else as many could guess at once as there are connections.
#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) guesses: &'a Guesses,
    pub(crate) user: &'a str,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) now: Instant,
}

impl Attempt<'_> {
    /// Why an attempt is refused.
    pub(crate) const TOO_MANY: &'static str =
        "too many wrong ones for this user from this address; refused for a minute";

    /// What the attempt has to bear.
    pub(crate) fn patience(&self) -> Patience {
        self.guesses.patience(self.user, self.peer, self.now)
    }

    /// Whether it may still be judged now that its turn has come.
    pub(crate) fn may_go_on(&self, waited: Duration) -> bool {
        let now = self.now + waited;
        self.guesses.patience(self.user, self.peer, now) != Patience::Refuse
    }

    /// Counts it as wrong.
    pub(crate) fn failed(&self) {
        self.guesses.failed(self.user, self.peer, self.now);
    }

    /// Forgets the failures of one who knew the password.
    pub(crate) fn succeeded(&self) {
        self.guesses.succeeded(self.user, self.peer);
    }
}

impl Guesses {
    /// Failures that cost nothing.
    const FREE: u32 = 5;
    /// Failures after which attempts are refused.
    const MANY: u32 = 10;
    /// The first wait; it doubles with each failure.
    const FIRST_WAIT: Duration = Duration::from_millis(200);
    /// How long attempts are refused.
    const REFUSED: Duration = Duration::from_mins(1);
    /// After this time without a failure nothing is held against anybody.
    const FORGOTTEN: Duration = Duration::from_mins(15);
    /// Users and prefixes remembered at a time; some four mebibytes.
    const CAPACITY: usize = 1 << 16;

    pub(crate) fn new() -> Self {
        Self::with_capacity(Self::CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            table: Mutex::default(),
            hash: RandomState::new(),
            capacity,
        }
    }

    /// What an attempt as `user` from `peer` has to bear at `now`.
    fn patience(&self, user: &str, peer: Option<SocketAddr>, now: Instant) -> Patience {
        let found = self.table.lock().get(&self.key(user, peer)).copied();
        let Some(failures) = found else {
            return Patience::Judge;
        };
        let since = now.saturating_duration_since(failures.last);
        if since >= Self::FORGOTTEN || failures.count < Self::FREE {
            Patience::Judge
        } else if failures.count < Self::MANY {
            Patience::Wait(Self::FIRST_WAIT * (1 << (failures.count - Self::FREE)))
        } else if since < Self::REFUSED {
            Patience::Refuse
        } else {
            // One more try, then it is refused again.
            Patience::Judge
        }
    }

    /// Counts a wrong password. One that is refused already costs nothing more, or whoever is
    /// refused could be kept out for ever.
    fn failed(&self, user: &str, peer: Option<SocketAddr>, now: Instant) {
        let key = self.key(user, peer);
        let mut table = self.table.lock();
        if table.len() >= self.capacity && !table.contains_key(&key) {
            make_room(&mut table, now);
        }
        let failures = table.entry(key).or_insert(Failures {
            count: 0,
            last: now,
        });
        let since = now.saturating_duration_since(failures.last);
        if since >= Self::FORGOTTEN {
            failures.count = 0;
        } else if failures.count >= Self::MANY && since < Self::REFUSED {
            return;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
    }

    fn succeeded(&self, user: &str, peer: Option<SocketAddr>) {
        self.table.lock().remove(&self.key(user, peer));
    }

    fn key(&self, user: &str, peer: Option<SocketAddr>) -> u64 {
        let prefix = peer.map(|peer| match peer.ip().to_canonical() {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            // A /64 is what one customer gets. The bit below tells it from IPv4.
            IpAddr::V6(address) => (address.to_bits() >> 64 << 64) | 1 << 63,
        });
        self.hash.hash_one((user, prefix))
    }
}

/// Drops what is forgotten, or else the oldest half.
fn make_room(table: &mut HashMap<u64, Failures>, now: Instant) {
    let before = table.len();
    table.retain(|_, failures| now.saturating_duration_since(failures.last) < Guesses::FORGOTTEN);
    if table.len() < before {
        return;
    }
    let mut times: Vec<Instant> = table.values().map(|failures| failures.last).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    table.retain(|_, failures| failures.last > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Option<SocketAddr> {
        let address = text.parse().ok()?;
        Some(SocketAddr::new(address, 1))
    }

    #[test]
    fn a_guesser_waits_longer_each_time_and_is_then_refused_for_a_minute() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        let from = peer("192.0.2.1");
        let mut seen = Vec::new();
        for _ in 0..11 {
            seen.push(guesses.patience("anna", from, now));
            guesses.failed("anna", from, now);
        }
        let wait = |millis| Patience::Wait(Duration::from_millis(millis));
        let expected = [
            Patience::Judge,
            Patience::Judge,
            Patience::Judge,
            Patience::Judge,
            Patience::Judge,
            wait(200),
            wait(400),
            wait(800),
            wait(1600),
            wait(3200),
            Patience::Refuse,
        ];
        assert_eq!(seen, expected);
        let later = |seconds| now + Duration::from_secs(seconds);
        let judge = |at| guesses.patience("anna", from, at);
        assert_eq!(judge(later(59)), Patience::Refuse);
        assert_eq!(judge(later(60)), Patience::Judge);
        // Who was being judged when it was refused does not make it longer.
        guesses.failed("anna", from, later(59));
        assert_eq!(judge(later(60)), Patience::Judge);
        guesses.failed("anna", from, later(60));
        assert_eq!(judge(later(61)), Patience::Refuse);
        assert_eq!(judge(later(60 + 900)), Patience::Judge);
        // Forgotten altogether, not merely let in once.
        guesses.failed("anna", from, later(60 + 900));
        assert_eq!(judge(later(60 + 901)), Patience::Judge);
    }

    #[test]
    fn a_guesser_locks_out_nobody_elsewhere_and_no_other_user() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        for _ in 0..20 {
            guesses.failed("anna", peer("192.0.2.1"), now);
            guesses.failed("anna", peer("2001:db8:0:1::1"), now);
        }
        for (user, from, expected) in [
            ("anna", "192.0.2.1", Patience::Refuse),
            ("anna", "::ffff:192.0.2.1", Patience::Refuse),
            ("anna", "2001:db8:0:1:ffff::9", Patience::Refuse),
            ("anna", "192.0.2.2", Patience::Judge),
            ("anna", "2001:db8:0:2::1", Patience::Judge),
            ("otto", "192.0.2.1", Patience::Judge),
        ] {
            assert_eq!(
                guesses.patience(user, peer(from), now),
                expected,
                "{user} {from}"
            );
        }
        assert_eq!(guesses.patience("anna", None, now), Patience::Judge);
    }

    #[test]
    fn who_knows_the_password_starts_afresh() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        for _ in 0..6 {
            guesses.failed("anna", None, now);
        }
        guesses.succeeded("anna", None);
        assert_eq!(guesses.patience("anna", None, now), Patience::Judge);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_newest() {
        let (guesses, now) = (Guesses::with_capacity(100), Instant::now());
        for user in 0..1000 {
            let at = now + Duration::from_millis(user);
            for _ in 0..10 {
                guesses.failed(&user.to_string(), None, at);
            }
            assert!(guesses.table.lock().len() <= 100);
            assert_eq!(
                guesses.patience(&user.to_string(), None, at),
                Patience::Refuse
            );
        }
    }
}
