//! Guessing passwords: counted per claimed user *and* source prefix, so that strangers who guess
//! at somebody's password from elsewhere cannot lock him out.
//!
//! The first failures cost nothing, a typing error is human; then each further attempt waits
//! longer, and at last attempts are refused for a while without being looked at. Certificates and
//! tokens are never counted: nobody guesses a signature. The limit per address, whatever the user,
//! is `limits.auth-failures-per-ip`.
//!
//! What is being judged is counted as if it were wrong, until it is known to be right: so that not
//! more are judged at once than may fail. One more waits for that, as clients do that share a user
//! and come at once.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use portcullis_core::hook::StopClock;
use tokio::sync::Notify;

use crate::slots::{Place, Slots};

/// Counts failures; bounded.
pub(crate) struct Guesses {
    table: Mutex<HashMap<u64, Failures>>,
    /// Who wait until others have been judged, whatever the user.
    waiting: AtomicUsize,
    /// Seeded: nobody can choose a user whose key is another's.
    hash: RandomState,
    capacity: usize,
}

#[derive(Clone, Debug)]
struct Failures {
    count: u32,
    /// Attempts that are being judged. While there are any, this is not forgotten.
    judged: u32,
    last: Instant,
    /// Told whenever one of them has been judged.
    judgement: Arc<Notify>,
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

/// One attempt at a password.
#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    guesses: &'a Guesses,
    key: u64,
    now: Instant,
    /// When it was `now`.
    since: tokio::time::Instant,
}

/// Why an attempt is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unjudged {
    /// Too many were wrong.
    Refused,
    /// Too many wait.
    Unavailable,
}

/// An attempt that is being judged. Dropped, it was neither right nor wrong.
pub(crate) struct Reserved<'a> {
    attempt: Attempt<'a>,
    right: Option<bool>,
}

impl<'a> Attempt<'a> {
    /// Why an attempt is refused.
    pub(crate) const TOO_MANY: &'static str =
        "too many wrong ones for this user from this address; refused for a minute";

    /// What the attempt has to bear.
    pub(crate) fn patience(&self) -> Patience {
        self.guesses.patience(self.key, self.at())
    }

    /// Asks to be judged, and waits while as many are as may fail; meanwhile `clock` is stopped.
    /// Nothing that others wait for may be held.
    ///
    /// # Errors
    ///
    /// It is not judged.
    pub(crate) async fn reserve(self, clock: &StopClock) -> Result<Reserved<'a>, Unjudged> {
        let judgement = match self.guesses.reserve(self.key, self.at()) {
            Turn::Now => return Ok(self.reserved()),
            Turn::Never => return Err(Unjudged::Refused),
            Turn::Later(judgement) => judgement,
        };
        let _place =
            Place::take(&self.guesses.waiting, Slots::QUEUE).ok_or(Unjudged::Unavailable)?;
        let _stopped = clock.stop();
        let mut judgement = judgement;
        loop {
            // From here on it hears of each; so what was judged before is asked about once more.
            let heard = Arc::clone(&judgement).notified_owned();
            judgement = match self.guesses.reserve(self.key, self.at()) {
                Turn::Now => return Ok(self.reserved()),
                Turn::Never => return Err(Unjudged::Refused),
                Turn::Later(same) if Arc::ptr_eq(&same, &judgement) => {
                    heard.await;
                    same
                }
                Turn::Later(another) => another,
            };
        }
    }

    fn reserved(self) -> Reserved<'a> {
        Reserved {
            attempt: self,
            right: None,
        }
    }

    fn at(&self) -> Instant {
        self.now + self.since.elapsed()
    }
}

impl Reserved<'_> {
    /// Counts it as wrong.
    pub(crate) fn failed(mut self) {
        self.right = Some(false);
    }

    /// Forgets the failures of one who knew the password.
    pub(crate) fn succeeded(mut self) {
        self.right = Some(true);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let Attempt { guesses, key, .. } = self.attempt;
        guesses.judged(key, self.right, self.attempt.at());
    }
}

/// When an attempt is judged.
enum Turn {
    /// It is counted among those that are.
    Now,
    /// When one of these has been.
    Later(Arc<Notify>),
    Never,
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
            waiting: AtomicUsize::new(0),
            hash: RandomState::new(),
            capacity,
        }
    }

    /// An attempt as `user` from `peer` at `now`.
    pub(crate) fn attempt(
        &self,
        user: &str,
        peer: Option<SocketAddr>,
        now: Instant,
    ) -> Attempt<'_> {
        Attempt {
            guesses: self,
            key: self.key(user, peer),
            now,
            since: tokio::time::Instant::now(),
        }
    }

    fn patience(&self, key: u64, now: Instant) -> Patience {
        let table = self.table.lock();
        let Some(failures) = table.get(&key) else {
            return Patience::Judge;
        };
        let count = failures.held(now);
        if failures.room(now) == 0 {
            Patience::Refuse
        } else if (Self::FREE..Self::MANY).contains(&count) {
            Patience::Wait(Self::FIRST_WAIT * (1 << (count - Self::FREE)))
        } else {
            Patience::Judge
        }
    }

    /// Counts an attempt as one that is being judged, if it may be.
    fn reserve(&self, key: u64, now: Instant) -> Turn {
        let mut table = self.table.lock();
        if table.len() >= self.capacity && !table.contains_key(&key) {
            make_room(&mut table, now);
        }
        let failures = table.entry(key).or_insert_with(|| Failures {
            count: 0,
            judged: 0,
            last: now,
            judgement: Arc::default(),
        });
        let room = failures.room(now);
        if room == 0 {
            Turn::Never
        } else if failures.judged >= room {
            Turn::Later(Arc::clone(&failures.judgement))
        } else {
            failures.judged += 1;
            Turn::Now
        }
    }

    /// An attempt that was counted as being judged is that no more; whether it was right, if that is
    /// known.
    fn judged(&self, key: u64, right: Option<bool>, now: Instant) {
        let mut table = self.table.lock();
        let Some(failures) = table.get_mut(&key) else {
            return;
        };
        failures.judged = failures.judged.saturating_sub(1);
        match right {
            None => {}
            Some(true) => failures.count = 0,
            Some(false) => {
                failures.count = failures.held(now).saturating_add(1);
                // Another may have come later and been judged before.
                failures.last = failures.last.max(now);
            }
        }
        failures.judgement.notify_waiters();
        if failures.count == 0 && failures.judged == 0 {
            table.remove(&key);
        }
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

impl Failures {
    /// Failures that are not forgotten.
    fn held(&self, now: Instant) -> u32 {
        if self.since(now) < Guesses::FORGOTTEN {
            self.count
        } else {
            0
        }
    }

    /// How many may be judged at once; 0: none is.
    fn room(&self, now: Instant) -> u32 {
        match Guesses::MANY.saturating_sub(self.held(now)) {
            0 if self.since(now) < Guesses::REFUSED => 0,
            // One more try, then it is refused again.
            0 => 1,
            room => room,
        }
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }
}

/// Drops what is forgotten, or else the oldest half; but nothing that is being judged, of which
/// there is only as much as may wait.
fn make_room(table: &mut HashMap<u64, Failures>, now: Instant) {
    let before = table.len();
    table.retain(|_, failures| failures.judged > 0 || failures.since(now) < Guesses::FORGOTTEN);
    if table.len() < before {
        return;
    }
    let mut times: Vec<Instant> = table.values().map(|failures| failures.last).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    table.retain(|_, failures| failures.judged > 0 || failures.last > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Guesses {
        fn bears(&self, user: &str, peer: Option<SocketAddr>, now: Instant) -> Patience {
            self.patience(self.key(user, peer), now)
        }

        fn begins(&self, user: &str, peer: Option<SocketAddr>, now: Instant) -> bool {
            matches!(self.reserve(self.key(user, peer), now), Turn::Now)
        }

        fn ends(&self, user: &str, peer: Option<SocketAddr>, right: Option<bool>, now: Instant) {
            self.judged(self.key(user, peer), right, now);
        }

        fn failed(&self, user: &str, peer: Option<SocketAddr>, now: Instant) {
            if self.begins(user, peer, now) {
                self.ends(user, peer, Some(false), now);
            }
        }
    }

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
            seen.push(guesses.bears("anna", from, now));
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
        let judge = |at| guesses.bears("anna", from, at);
        assert_eq!(judge(later(59)), Patience::Refuse);
        assert_eq!(judge(later(60)), Patience::Judge);
        // Who is refused does not make it longer.
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
                guesses.bears(user, peer(from), now),
                expected,
                "{user} {from}"
            );
        }
        assert_eq!(guesses.bears("anna", None, now), Patience::Judge);
    }

    #[test]
    fn who_knows_the_password_starts_afresh() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        for _ in 0..6 {
            guesses.failed("anna", None, now);
        }
        assert!(guesses.begins("anna", None, now));
        guesses.ends("anna", None, Some(true), now);
        assert!(guesses.table.lock().is_empty());
        assert_eq!(guesses.bears("anna", None, now), Patience::Judge);
    }

    #[test]
    fn no_more_are_judged_at_once_than_may_fail() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        let begin = |at| (0..20).filter(|_| guesses.begins("anna", None, at)).count();
        let end = |right, at| guesses.ends("anna", None, right, at);
        assert_eq!(begin(now), 10);
        // Neither right nor wrong: one more.
        end(None, now);
        assert_eq!(begin(now), 1);
        // Wrong, and there is no room for another. They wait long, and the minute begins with the
        // last that was wrong, whichever was judged first.
        (0..9).for_each(|_| end(Some(false), later(70)));
        assert_eq!(begin(later(70)), 0);
        end(Some(false), later(65));
        assert_eq!(guesses.bears("anna", None, later(129)), Patience::Refuse);
        assert_eq!(begin(later(129)), 0);
        assert_eq!(begin(later(130)), 1, "one more try");
        end(Some(true), later(130));
        assert_eq!(begin(later(130)), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_judgement_hears_of_it_and_long_waits_count() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        let clock = StopClock::new(Duration::from_secs(10));
        let attempt = || guesses.attempt("anna", None, now);
        let mut judged = Vec::new();
        for _ in 0..10 {
            judged.push(attempt().reserve(&clock).await.ok().unwrap());
        }
        let next = attempt().reserve(&clock);
        tokio::pin!(next);
        let seconds = Duration::from_secs;
        let soon = tokio::time::timeout(seconds(90), &mut next).await;
        assert!(soon.is_err(), "ten are being judged");
        judged.pop().unwrap().succeeded();
        judged.push(next.await.ok().unwrap());
        let next = attempt().reserve(&clock);
        tokio::pin!(next);
        let soon = tokio::time::timeout(seconds(1), &mut next).await;
        assert!(soon.is_err(), "ten are being judged");
        judged.into_iter().for_each(Reserved::failed);
        assert_eq!(next.await.err(), Some(Unjudged::Refused));
        // It came long before the failures, and they are counted where they were.
        let late = guesses.attempt("anna", None, now + seconds(91 + 59));
        assert_eq!(late.patience(), Patience::Refuse);
        let late = guesses.attempt("anna", None, now + seconds(91 + 60));
        assert_eq!(late.patience(), Patience::Judge);
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
            assert_eq!(guesses.bears(&user.to_string(), None, at), Patience::Refuse);
        }
    }
}
