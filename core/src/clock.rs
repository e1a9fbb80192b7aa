//! Time as an argument: two readings of the clock that are taken together.
//!
//! Nothing in the sans-IO parts of this crate asks for the time. The driver reads the clock
//! once per read batch and hands it in.
//!
//! The calendar of the system may be set, by an operator or by whoever answers its time queries. What
//! has expired must not live again by that, so the calendar of this process never goes back: where
//! the system's does, it goes on from where it was, at the pace of the monotonic clock, until the
//! system's has caught up (`Calendar`).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// A moment, as a monotonic reading (for deadlines) and a wall-clock reading (for expiries).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Never goes back; for deadlines and rates.
    pub mono: Instant,
    /// The calendar; for `exp`, `notAfter`, message expiry and records.
    pub wall: SystemTime,
}

impl Now {
    /// Reads both clocks. Called at the edge only: by drivers, timers and the program.
    #[must_use]
    pub fn read() -> Self {
        let mono = Instant::now();
        Self {
            mono,
            wall: CALENDAR.reading(SystemTime::now(), mono),
        }
    }

    /// Milliseconds since the Unix epoch; 0 for a clock that is set before it.
    #[must_use]
    pub fn unix_millis(&self) -> u64 {
        unix_millis(self.wall)
    }

    /// This moment moved forward on both clocks. For tests and simulated time.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self {
            mono: self.mono + span,
            wall: self.wall + span,
        }
    }
}

/// Milliseconds since the Unix epoch; 0 for a time before it.
#[must_use]
pub fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |span| {
        u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The calendar of this process.
pub(crate) static CALENDAR: Calendar = Calendar::new();

/// A jump of the system's calendar by more than this is told.
const TOLD: i64 = 60_000;
/// A difference from the monotonic clock that is no jump yet, milliseconds. Also how often the
/// reading that others are compared with is renewed.
const SLACK: u64 = 1_000;

/// A calendar that does not go back, made of one that may.
pub(crate) struct Calendar {
    /// The reading of [`Self::base`], milliseconds since the Unix epoch; what others need to see of
    /// it without a lock.
    highest: AtomicU64,
    /// How far readings are ahead of the system's calendar, milliseconds.
    ahead: AtomicU64,
    base: Mutex<Option<(Instant, u64)>>,
    /// Jumps that nobody has asked for yet, their sum in milliseconds.
    jumped: AtomicI64,
}

impl Calendar {
    pub(crate) const fn new() -> Self {
        Self {
            highest: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            base: Mutex::new(None),
            jumped: AtomicI64::new(0),
        }
    }

    /// What the calendar says when the system's says `system`. In the usual case two loads.
    pub(crate) fn reading(&self, system: SystemTime, mono: Instant) -> SystemTime {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let millis = unix_millis(system).saturating_add(ahead);
        if millis.abs_diff(self.highest.load(Ordering::Relaxed)) > SLACK {
            let ahead = self.renew(unix_millis(system), mono);
            return system + Duration::from_millis(ahead);
        }
        system + Duration::from_millis(ahead)
    }

    /// From now on nothing is earlier than `millis`: it was read by a process before this one.
    pub(crate) fn not_before(&self, millis: u64, now: (SystemTime, Instant)) {
        let (system, mono) = (unix_millis(now.0), now.1);
        {
            let mut base = self.base.lock();
            let known = base.map_or(system, |(_, known)| known);
            if millis <= known {
                return;
            }
            *base = Some((mono, millis));
        }
        self.renew(system, mono);
    }

    /// The jumps since the last call taken together, milliseconds; negative: back. `None`: there
    /// was none of more than a minute.
    pub(crate) fn take_jump(&self) -> Option<i64> {
        match self.jumped.swap(0, Ordering::Relaxed) {
            0 => None,
            jump => Some(jump),
        }
    }

    /// Compares with the monotonic clock; returns how far readings are ahead of the system's.
    fn renew(&self, system: u64, mono: Instant) -> u64 {
        let mut base = self.base.lock();
        let ahead = self.ahead.load(Ordering::Relaxed);
        let Some((then, reading)) = *base else {
            *base = Some((mono, system));
            self.highest.store(system, Ordering::Relaxed);
            return 0;
        };
        let passed = mono.saturating_duration_since(then).as_millis();
        let expected = reading.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        let jump = system.saturating_add(ahead).cast_signed() - expected.cast_signed();
        let ahead = if jump.unsigned_abs() <= SLACK {
            ahead
        } else {
            expected.saturating_sub(system)
        };
        if jump.abs() > TOLD {
            self.jumped.fetch_add(jump, Ordering::Relaxed);
        }
        // Another thread may have been here with a later reading.
        let now = system.saturating_add(ahead).max(reading);
        *base = Some((mono.max(then), now));
        self.ahead.store(ahead, Ordering::Relaxed);
        self.highest.store(now, Ordering::Relaxed);
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system whose clocks a test sets.
    struct System {
        calendar: Calendar,
        wall: SystemTime,
        mono: Instant,
    }

    impl System {
        fn new() -> Self {
            let mut system = Self {
                calendar: Calendar::new(),
                wall: UNIX_EPOCH + Duration::from_hours(24 * 365 * 50),
                mono: Instant::now(),
            };
            system.pass(0);
            system
        }

        /// Seconds go by, with a reading in each.
        fn pass(&mut self, seconds: u64) -> u64 {
            for _ in 0..seconds {
                self.wall += Duration::from_secs(1);
                self.mono += Duration::from_secs(1);
                self.read();
            }
            self.read()
        }

        fn read(&self) -> u64 {
            unix_millis(self.calendar.reading(self.wall, self.mono)) / 1000
        }
    }

    #[test]
    fn without_a_jump_it_is_the_calendar_of_the_system() {
        let mut system = System::new();
        let before = system.pass(100);
        assert_eq!(before, unix_millis(system.wall) / 1000);
        assert_eq!(system.pass(100), before + 100);
        assert_eq!(system.calendar.take_jump(), None);
    }

    #[test]
    fn set_back_it_goes_on_and_the_jump_is_told_once() {
        let mut system = System::new();
        let before = system.pass(10);
        system.wall -= Duration::from_hours(1);
        assert_eq!(system.read(), before);
        assert_eq!(system.pass(100), before + 100);
        assert_eq!(system.calendar.take_jump(), Some(-3_600_000));
        assert_eq!(system.calendar.take_jump(), None);
    }

    #[test]
    fn set_right_again_it_is_the_calendar_of_the_system_again() {
        let mut system = System::new();
        let before = system.pass(10);
        system.wall -= Duration::from_hours(1);
        system.pass(10);
        system.wall += Duration::from_hours(1);
        assert_eq!(system.pass(10), before + 20);
        assert_eq!(system.calendar.ahead.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn set_forward_it_follows_and_does_not_come_back() {
        let mut system = System::new();
        let before = system.pass(10);
        system.wall += Duration::from_hours(1);
        assert_eq!(system.read(), before + 3600);
        assert_eq!(system.calendar.take_jump(), Some(3_600_000));
        system.wall -= Duration::from_hours(1);
        assert_eq!(system.pass(10), before + 3610);
        assert_eq!(system.calendar.take_jump(), Some(-3_600_000));
    }

    #[test]
    fn small_steps_are_followed_back_to_nothing_and_not_told() {
        let mut system = System::new();
        let before = system.pass(10);
        system.wall -= Duration::from_secs(30);
        assert!(system.pass(10) >= before + 9);
        assert_eq!(system.calendar.take_jump(), None);
    }

    #[test]
    fn a_restart_begins_where_the_last_process_ended() {
        let mut system = System::new();
        let floor = (system.read() + 7200) * 1000;
        let now = (system.wall, system.mono);
        system.calendar.not_before(floor, now);
        assert_eq!(system.read(), floor / 1000);
        assert_eq!(system.calendar.take_jump(), Some(-7_200_000));
        assert_eq!(system.pass(5), floor / 1000 + 5);
        system.calendar.not_before(1, now);
        assert_eq!(system.read(), floor / 1000 + 5);
    }
}
