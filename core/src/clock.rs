//! Time as an argument: two readings of the clock that are taken together.
//!
//! Nothing in the sans-IO parts of this crate asks for the time. The driver reads the clock
//! once per read batch and hands it in.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
        Self {
            mono: Instant::now(),
            wall: SystemTime::now(),
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
