//! The memory budget of the process (`limits.memory`): how short memory is, and who says so.
//!
//! What is measured is what the system would kill for: the resident memory of the whole process. A
//! reading is taken several times a second and, because much can come between two of them, whenever
//! a sixty-fourth of the budget may have been taken since the last: whoever keeps something says how
//! much (`Budget::grew`). That number decides when to read again, so it may be too high. The output of
//! a connection counts by the room that it takes, not by what is encoded into it.
//!
//! The level goes up with the reading that says so and down only with one that lies well below
//! (`Level::next`). What each level means is enforced where things are kept: `engine`, `bus`,
//! `gate`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::metrics::Metrics;
use crate::settings::Settings;

/// What a connection takes until more is known of it, bytes: a socket, a task, TLS.
pub(crate) const CONNECTION: usize = 8 << 10;
/// What a session takes, bytes.
pub(crate) const SESSION: usize = 1 << 10;
/// What a subscription takes besides its filter, bytes.
pub(crate) const SUBSCRIPTION: usize = 256;
/// What an entry of a queue or of the retained store takes besides its message, bytes.
pub(crate) const ENTRY: usize = 128;
/// From this size on, in bytes, buffers of a connection and single messages are looked at.
pub(crate) const LARGE: usize = 32 << 10;
/// A message of less is never too large to be sent on, bytes; nor does output count that grows by
/// less at once.
pub(crate) const SMALL: usize = 1 << 10;

/// A reading is due when this part of the budget may have been taken since the last.
const PART: u64 = 64;

/// What may be used, in percent of the budget, with a message that is not [`SMALL`] and is sent on
/// when memory is spent. The rest is for what must be answered.
const LAST: u64 = 97;

/// How much memory the process has.
pub trait Memory: Send + Sync {
    /// Bytes that are resident, and those that were swapped out. Asked several times a second, at
    /// times from the thread of a connection: it must not block.
    ///
    /// # Errors
    ///
    /// It cannot be told; nobody new is let in until it can.
    fn resident(&self) -> io::Result<u64>;

    /// Has the allocator give back to the system what nobody uses, if it must be asked for that.
    /// Called several times a second.
    fn give_back(&self) {}
}

/// This process, as Linux accounts for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Memory for Process {
    fn resident(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        resident_in(&status).ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))
    }
}

/// An invented reading, for what runs without a process of its own.
impl Memory for AtomicU64 {
    fn resident(&self) -> io::Result<u64> {
        Ok(self.load(Ordering::Relaxed))
    }
}

/// `VmRSS` and, where there is one, `VmSwap` (proc(5)), bytes.
fn resident_in(status: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        kib.checked_mul(1024)
    };
    field("VmRSS:")?.checked_add(field("VmSwap:").unwrap_or(0))
}

/// How short memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Everything is taken.
    Calm,
    /// Nobody new is let in, and who does nothing is ended.
    Pressed,
    /// What would have to be kept is refused.
    Full,
    /// Hardly anybody gets as far as a CONNECT, and nothing large is begun.
    Spent,
}

impl Level {
    /// Each level above calm: entered from this percentage of the budget on, left below that one.
    const BOUNDS: [(Self, u64, u64); 3] = [
        (Self::Spent, 90, 87),
        (Self::Full, 85, 80),
        (Self::Pressed, 75, 70),
    ];

    /// The level after a reading.
    fn next(self, used: u64, limit: u64) -> Self {
        let reaches = |percent| used >= limit / 100 * percent;
        Self::BOUNDS
            .into_iter()
            .find(|(level, enter, leave)| reaches(if self >= *level { *leave } else { *enter }))
            .map_or(Self::Calm, |(level, ..)| level)
    }

    /// The one that is in force.
    pub(crate) fn of(metrics: &Metrics) -> Self {
        match metrics.memory_level.value() {
            0 => Self::Calm,
            1 => Self::Pressed,
            2 => Self::Full,
            _ => Self::Spent,
        }
    }
}

/// See the module header.
pub(crate) struct Budget {
    settings: Arc<ArcSwap<Settings>>,
    metrics: Arc<Metrics>,
    memory: Arc<dyn Memory>,
    /// Bytes that may have been taken since the last reading.
    grown: AtomicU64,
    /// Why the last reading failed, if it did. Held during one.
    failed: Mutex<Option<String>>,
}

impl Budget {
    pub(crate) fn new(
        settings: Arc<ArcSwap<Settings>>,
        metrics: Arc<Metrics>,
        memory: Arc<dyn Memory>,
    ) -> Self {
        let budget = Self {
            settings,
            metrics,
            memory,
            grown: AtomicU64::new(0),
            failed: Mutex::default(),
        };
        budget.read();
        budget
    }

    /// How short memory is.
    pub(crate) fn level(&self) -> Level {
        Level::of(&self.metrics)
    }

    /// So many bytes are kept from now on.
    pub(crate) fn grew(&self, bytes: usize) {
        let bytes = bytes as u64;
        let grown = self.grown.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if grown > self.metrics.memory_budget.value() / PART {
            self.read();
        }
    }

    /// Whether so many bytes more leave enough of the budget, as far as that is known.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        let grown = self.grown.load(Ordering::Relaxed);
        let used = self.metrics.memory_used.value() + grown + bytes as u64;
        used <= self.metrics.memory_budget.value() / 100 * LAST
    }

    /// The clock's reading: what is free is given back first.
    pub(crate) fn tick(&self) {
        self.memory.give_back();
        self.read();
    }

    /// Reads how much the process has and sets the level.
    pub(crate) fn read(&self) {
        // Who finds somebody at it need not wait: that reading is as good.
        let Some(mut failed) = self.failed.try_lock() else {
            return;
        };
        let limit = self.settings.load().limits.memory;
        self.grown.store(0, Ordering::Relaxed);
        let level = match self.memory.resident() {
            Ok(used) => {
                *failed = None;
                self.metrics.memory_used.set(used);
                self.level().next(used, limit)
            }
            Err(error) => {
                self.metrics.memory_unread.inc();
                *failed = Some(error.to_string());
                self.level().max(Level::Pressed)
            }
        };
        self.metrics.memory_budget.set(limit);
        self.metrics.memory_level.set(level as u64);
    }

    /// Why the memory of the process cannot be told, if so.
    pub(crate) fn failed(&self) -> Option<String> {
        self.failed.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_entered_at_its_bound_and_left_well_below_it() {
        use Level::{Calm, Full, Pressed, Spent};
        let limit = 1000;
        for (from, used, to) in [
            (Calm, 0, Calm),
            (Calm, 749, Calm),
            (Calm, 750, Pressed),
            (Pressed, 700, Pressed),
            (Pressed, 699, Calm),
            (Pressed, 849, Pressed),
            (Pressed, 850, Full),
            (Full, 800, Full),
            (Full, 799, Pressed),
            (Full, 699, Calm),
            (Full, 900, Spent),
            (Spent, 870, Spent),
            (Spent, 869, Full),
            (Spent, 799, Pressed),
            (Spent, 0, Calm),
            (Calm, 5000, Spent),
        ] {
            assert_eq!(from.next(used, limit), to, "{from:?} at {used}");
        }
    }

    #[test]
    fn what_is_swapped_out_counts_too() {
        let status = "Name:\tportcullis\nVmHWM:\t   90000 kB\nVmRSS:\t   20480 kB\n\
                      RssAnon:\t   16000 kB\nVmSwap:\t     512 kB\n";
        assert_eq!(resident_in(status), Some(20_992 << 10));
        let no_swap = status.replace("VmSwap", "VmStack");
        assert_eq!(resident_in(&no_swap), Some(20_480 << 10));
        for broken in ["", "VmRSS:\t x kB\n", "VmRSS:\t20480\n", "VmSwap:\t1 kB\n"] {
            assert_eq!(resident_in(broken), None, "{broken:?}");
        }
        let own = Process.resident().unwrap();
        assert!((1 << 20..1 << 40).contains(&own), "{own}");
    }

    /// Readings one after the other; counts how often it is asked.
    struct Readings(Mutex<(u64, u32)>);

    impl Memory for Readings {
        fn resident(&self) -> io::Result<u64> {
            let mut state = self.0.lock();
            state.1 += 1;
            Ok(state.0)
        }
    }

    #[test]
    fn growth_within_one_interval_is_read_before_it_can_do_harm() {
        let mut settings = Settings::default();
        settings.limits.memory = 64_000;
        let readings = Arc::new(Readings(Mutex::new((1000, 0))));
        let budget = Budget::new(
            Arc::new(ArcSwap::from_pointee(settings)),
            Arc::default(),
            Arc::clone(&readings) as _,
        );
        readings.0.lock().0 = 63_000;
        for _ in 0..10 {
            budget.grew(100);
        }
        assert_eq!(
            budget.level(),
            Level::Calm,
            "a sixty-fourth is not looked at"
        );
        assert_eq!(readings.0.lock().1, 1);
        budget.grew(1);
        assert_eq!(budget.level(), Level::Spent);
        assert_eq!(readings.0.lock().1, 2);
        budget.grew(1000);
        assert_eq!(readings.0.lock().1, 2, "counted anew from each reading");
    }
}
