//! Automatic rollback: when denials jump after a change of policy, the old policy comes back.
//!
//! Only denials and readings of the clock come in, so a minute takes no time in a test. A change is
//! watched for a minute; afterwards it has proved itself.
//!
//! Against whom: everybody can cause denials, and somebody who loses a right by a change would like
//! to have it taken back. So the caller counts only what the policy before the change allowed
//! (`keeper`), and of one principal no more than a tenth of the threshold counts here, however
//! often it is refused and over however many connections.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use crate::config::Rate;

/// How long a change of policy is watched.
pub const WATCHED: Duration = Duration::from_mins(1);
/// Most principals that are told apart, 24 bytes each; beyond, nobody new counts.
const MAX_PRINCIPALS: usize = 1 << 16;
/// So many denials of one principal that do not count are looked into; to look takes work.
const LOOKS: u64 = 20;

/// Watches denials. Asked about once a second.
#[derive(Debug, Default)]
pub struct Rollback {
    watched: Option<Watch>,
}

/// A change that is being watched.
#[derive(Debug)]
struct Watch {
    since: Instant,
    /// Denials that counted so far.
    total: u64,
    /// Of how many principals.
    principals: usize,
    /// By hash: two principals that share one, by chance, count as one.
    of: HashMap<u64, Principal>,
    hasher: RandomState,
    /// Readings of `total` of one period, and the newest before it as its beginning.
    readings: VecDeque<(Instant, u64)>,
}

/// What there was of one principal.
#[derive(Debug, Default)]
struct Principal {
    /// Denials that counted.
    denials: u64,
    /// Denials that were looked into.
    looks: u64,
}

/// A change has to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The denials that counted in the last period.
    pub denials: u64,
    /// Of how many principals denials were counted since the change.
    pub principals: usize,
}

impl Rollback {
    /// The policy is about to change.
    pub fn changed(&mut self, now: Instant) {
        self.watched = Some(Watch {
            since: now,
            total: 0,
            principals: 0,
            of: HashMap::new(),
            hasher: RandomState::new(),
            readings: VecDeque::from([(now, 0)]),
        });
    }

    /// Stops watching: the change was taken back, or there is nothing to go back to.
    pub fn done(&mut self) {
        self.watched = None;
    }

    /// Whether a change has not proved itself yet.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.watched.is_some()
    }

    /// Whether to look into a further denial of this principal. That is counted: to ask two policies
    /// is work that somebody without any rights could cause for ever.
    #[must_use]
    pub fn looks(&mut self, threshold: Rate, principal: &str) -> bool {
        let Some(watch) = &mut self.watched else {
            return false;
        };
        let share = share(threshold);
        watch.of(principal).is_some_and(|of| {
            let looks = of.denials < share && of.looks < share.saturating_add(LOOKS);
            of.looks += u64::from(looks);
            looks
        })
    }

    /// Somebody was denied what the policy before the change allowed.
    pub fn denied(&mut self, threshold: Rate, principal: &str) {
        let Some(watch) = &mut self.watched else {
            return;
        };
        let Some(of) = watch.of(principal) else {
            return;
        };
        if of.denials < share(threshold) {
            of.denials += 1;
            let first = of.denials == 1;
            watch.principals += usize::from(first);
            watch.total += 1;
        }
    }

    /// Takes a reading. `Some` when the change has to be taken back. It then no longer watches.
    pub fn observe(&mut self, threshold: Rate, now: Instant) -> Option<Jump> {
        let watch = self.watched.as_mut()?;
        if now.saturating_duration_since(watch.since) > WATCHED {
            self.watched = None;
            return None;
        }
        watch.readings.push_back((now, watch.total));
        watch.forget(threshold, now);
        let first = watch.readings.front().map_or(0, |(_, first)| *first);
        let jump = Jump {
            denials: watch.total.saturating_sub(first),
            principals: watch.principals,
        };
        if jump.denials <= threshold.count {
            return None;
        }
        self.watched = None;
        Some(jump)
    }
}

impl Watch {
    /// `None`: one principal too many.
    fn of(&mut self, principal: &str) -> Option<&mut Principal> {
        let whose = self.hasher.hash_one(principal);
        if self.of.len() >= MAX_PRINCIPALS && !self.of.contains_key(&whose) {
            return None;
        }
        Some(self.of.entry(whose).or_default())
    }

    fn forget(&mut self, threshold: Rate, now: Instant) {
        while self.readings.len() > 1
            && self
                .readings
                .get(1)
                .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= threshold.period)
        {
            self.readings.pop_front();
        }
    }
}

/// How many denials of one principal count.
fn share(threshold: Rate) -> u64 {
    (threshold.count / 10).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Rate = Rate::per_minute(100);

    /// In each second some principals are denied something once, other ones in each second; says in
    /// which second it struck.
    fn strike(limit: Rate, after: &[usize]) -> Option<usize> {
        let start = Instant::now();
        let mut rollback = Rollback::default();
        rollback.changed(start);
        let mut at = start;
        for (second, denials) in after.iter().enumerate() {
            for principal in 0..*denials {
                rollback.denied(limit, &format!("cert:{second}-{principal}"));
            }
            at += Duration::from_secs(1);
            if rollback.observe(limit, at).is_some() {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn a_jump_after_a_change_takes_it_back() {
        assert_eq!(strike(LIMIT, &[30; 10]), Some(3));
        assert_eq!(strike(LIMIT, &[101]), Some(0));
        assert_eq!(strike(LIMIT, &[2; 60]), Some(50));
        assert_eq!(strike(Rate::per_second(10), &[9, 9, 11]), Some(2));
    }

    #[test]
    fn what_is_below_the_threshold_stays() {
        assert_eq!(strike(LIMIT, &[1; 120]), None);
        assert_eq!(strike(LIMIT, &[100]), None);
        assert_eq!(strike(Rate::per_second(10), &[10; 60]), None);
    }

    #[test]
    fn nobody_has_a_change_taken_back_alone() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rollback = Rollback::default();
        rollback.changed(start);
        let mut flood = |names: std::ops::Range<u32>, seconds| {
            for name in names {
                for _ in 0..1000 {
                    rollback.denied(LIMIT, &format!("cert:{name}"));
                }
            }
            rollback.observe(LIMIT, at(seconds))
        };
        assert_eq!(flood(0..1, 1), None);
        assert_eq!(flood(0..10, 2), None, "ten of them are a hundred at most");
        let jump = Jump {
            denials: 110,
            principals: 11,
        };
        assert_eq!(flood(10..11, 3), Some(jump));
    }

    #[test]
    fn small_thresholds_count_each_principal_once() {
        let start = Instant::now();
        let limit = Rate::per_minute(2);
        let mut rollback = Rollback::default();
        rollback.changed(start);
        for name in ["cert:a", "cert:a", "cert:b", "cert:a", "cert:b"] {
            rollback.denied(limit, name);
        }
        assert_eq!(rollback.observe(limit, start), None);
        rollback.denied(limit, "cert:c");
        let jump = rollback.observe(limit, start).unwrap();
        assert_eq!((jump.denials, jump.principals), (3, 3));
    }

    #[test]
    fn what_does_not_count_is_looked_into_a_few_times() {
        let mut rollback = Rollback::default();
        assert!(!rollback.looks(LIMIT, "cert:a"), "nothing is watched");
        rollback.changed(Instant::now());
        let looks = |rollback: &mut Rollback, name| {
            (0..1000).filter(|_| rollback.looks(LIMIT, name)).count()
        };
        assert_eq!(looks(&mut rollback, "cert:a"), 30);
        for _ in 0..10 {
            assert!(rollback.looks(LIMIT, "cert:b"));
            rollback.denied(LIMIT, "cert:b");
        }
        assert_eq!(looks(&mut rollback, "cert:b"), 0, "its share is full");
        rollback.changed(Instant::now());
        assert_eq!(looks(&mut rollback, "cert:a"), 30);
    }

    /// Rule 9 of the design.
    #[test]
    fn more_principals_than_are_told_apart_take_no_memory() {
        let start = Instant::now();
        let limit = Rate::per_minute(1_000_000);
        let mut rollback = Rollback::default();
        rollback.changed(start);
        for name in 0..MAX_PRINCIPALS + 1000 {
            rollback.denied(limit, &name.to_string());
        }
        let watch = rollback.watched.unwrap();
        assert_eq!(watch.of.len(), MAX_PRINCIPALS);
        assert_eq!(watch.total, MAX_PRINCIPALS as u64);
    }

    #[test]
    fn after_a_minute_a_change_has_proved_itself() {
        let mut after = vec![0; 60];
        after.push(1000);
        assert_eq!(strike(LIMIT, &after), None);
        after.remove(0);
        assert_eq!(strike(LIMIT, &after), Some(59));
    }

    #[test]
    fn nothing_counts_before_a_change_nor_after_it_was_taken_back() {
        let start = Instant::now();
        let limit = Rate::per_minute(1);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rollback = Rollback::default();
        let all_are_denied = |rollback: &mut Rollback, seconds| {
            for name in 0..100 {
                rollback.denied(limit, &format!("cert:{name}"));
            }
            rollback.observe(limit, at(seconds)).is_some()
        };
        assert!(!all_are_denied(&mut rollback, 0));
        rollback.changed(at(1));
        assert_eq!(rollback.observe(limit, at(1)), None);
        assert!(all_are_denied(&mut rollback, 2));
        assert!(!all_are_denied(&mut rollback, 3), "once");
    }
}
