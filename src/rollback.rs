//! Automatic rollback: when denials jump after a change of policy, the old policy comes back.
//!
//! Only numbers and readings of the clock come in, so a minute takes no time in a test. What is
//! counted: publishes and subscriptions that the policy refused, and subscriptions that it
//! suspended. A change is watched for a minute; afterwards it has proved itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::Rate;

/// How long a change of policy is watched.
pub const WATCHED: Duration = Duration::from_mins(1);

/// Watches denials. Told the running total about once a second.
#[derive(Debug, Default)]
pub struct Rollback {
    /// Readings of one period and the one before it, oldest first.
    readings: VecDeque<(Instant, u64)>,
    watched: Option<Watch>,
}

/// A change that is being watched.
#[derive(Clone, Copy, Debug)]
struct Watch {
    since: Instant,
    /// The total at the change.
    start: u64,
    /// Whether denials were below the threshold before it.
    calm: bool,
}

impl Rollback {
    /// The policy is about to change; `total` is the number of denials so far.
    pub fn changed(&mut self, threshold: Rate, total: u64, now: Instant) {
        self.forget(threshold, now);
        let first = self.readings.front().map_or(total, |(_, first)| *first);
        self.watched = Some(Watch {
            since: now,
            start: total,
            calm: total.saturating_sub(first) <= threshold.count,
        });
        self.readings.clear();
        self.readings.push_back((now, total));
    }

    /// Stops watching: the change was taken back.
    pub fn done(&mut self) {
        self.watched = None;
    }

    /// Takes a reading. `Some` when the change has to be taken back: the denials of the last
    /// period. It then no longer watches.
    pub fn observe(&mut self, threshold: Rate, total: u64, now: Instant) -> Option<u64> {
        self.readings.push_back((now, total));
        self.forget(threshold, now);
        let watch = self.watched?;
        if now.saturating_duration_since(watch.since) > WATCHED {
            self.watched = None;
            return None;
        }
        let first = self.readings.front().map_or(total, |(_, first)| *first);
        let denials = total.saturating_sub(first.max(watch.start));
        if !watch.calm || denials <= threshold.count {
            return None;
        }
        self.watched = None;
        Some(denials)
    }

    /// Keeps the readings of the last period, and the newest before it as its beginning.
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Rate = Rate::per_minute(100);

    /// Feeds one reading a second: denials in that second; says in which second it struck.
    fn strike(limit: Rate, before: &[u64], after: &[u64]) -> Option<usize> {
        let start = Instant::now();
        let mut rollback = Rollback::default();
        let mut total = 7;
        let mut at = start;
        assert_eq!(rollback.observe(limit, total, at), None);
        for denials in before {
            at += Duration::from_secs(1);
            total += denials;
            assert_eq!(
                rollback.observe(limit, total, at),
                None,
                "nothing is watched"
            );
        }
        rollback.changed(limit, total, at);
        for (second, denials) in after.iter().enumerate() {
            at += Duration::from_secs(1);
            total += denials;
            if rollback.observe(limit, total, at).is_some() {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn a_jump_after_a_change_takes_it_back() {
        assert_eq!(strike(LIMIT, &[1; 30], &[30; 10]), Some(3));
        assert_eq!(strike(LIMIT, &[], &[101]), Some(0));
        assert_eq!(strike(LIMIT, &[0; 200], &[2; 60]), Some(50));
        assert_eq!(strike(Rate::per_second(10), &[1; 5], &[9, 9, 11]), Some(2));
    }

    #[test]
    fn what_is_below_the_threshold_stays() {
        assert_eq!(strike(LIMIT, &[1; 30], &[1; 120]), None);
        assert_eq!(strike(LIMIT, &[], &[100]), None);
        assert_eq!(strike(Rate::per_second(10), &[1; 5], &[10; 60]), None);
    }

    /// Whoever can cause denials must not be able to have a policy taken back.
    #[test]
    fn denials_that_were_high_before_prove_nothing() {
        assert_eq!(strike(LIMIT, &[5; 60], &[50; 60]), None);
        assert_eq!(strike(LIMIT, &[200], &[200; 60]), None);
    }

    #[test]
    fn denials_of_long_ago_do_not_count_as_before() {
        let mut before = [0; 100];
        before[..10].fill(100);
        assert_eq!(strike(LIMIT, &before, &[101]), Some(0));
    }

    #[test]
    fn after_a_minute_a_change_has_proved_itself() {
        let mut after = vec![0; 61];
        after.push(1000);
        assert_eq!(strike(LIMIT, &[], &after), None);
    }

    #[test]
    fn a_change_is_taken_back_once() {
        let start = Instant::now();
        let mut rollback = Rollback::default();
        rollback.changed(LIMIT, 0, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rollback.observe(LIMIT, 500, at(1)), Some(500));
        assert_eq!(rollback.observe(LIMIT, 900, at(2)), None);
    }
}
