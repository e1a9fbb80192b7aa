//! What is told when it changes: memory that is short, a store that takes nothing new, a calendar that
//! jumps. And what the calendar said is written down now and then, so that a restart does not begin before it.

use std::time::{Duration, Instant};

use crate::budget::Level;
use crate::clock::{Calendar, Now};
use crate::hook::Event;
use crate::store::Full;

use super::Engine;

/// How often the calendar is written down.
const CLOCK: Duration = Duration::from_mins(1);

/// Told so far.
#[derive(Default)]
pub(crate) struct Watch {
    full: Option<Full>,
    memory: Option<Level>,
    /// The memory of the process cannot be read.
    unread: bool,
    /// When the calendar was written down last.
    clock: Option<Instant>,
}

impl Watch {
    /// Looks again; called several times a second.
    pub(crate) fn look(&mut self, engine: &Engine, calendar: &Calendar, now: Now) {
        if let Some(jump) = calendar.take_jump() {
            jumped(engine, jump, now);
        }
        self.memory(engine, now);
        let Some(journal) = &engine.journal else {
            return;
        };
        let full = journal.full();
        if full != self.full {
            self.full = full;
            filled(engine, full, now);
        }
        let due = self.clock.is_none_or(|last| last + CLOCK <= now.mono);
        if due {
            self.clock = Some(now.mono);
            // Lost, it is written again in a minute.
            let _ = journal.write(true, &mut |steps| steps.clock(engine.time(now)));
        }
    }
}

impl Watch {
    fn memory(&mut self, engine: &Engine, now: Now) {
        let failed = engine.budget.failed();
        if failed.is_some() != self.unread {
            self.unread = failed.is_some();
            let reason = match failed {
                Some(error) => format!(
                    "the memory of the process cannot be read ({error}): new clients are refused \
                     until it can; /proc must be there"
                ),
                None => "the memory of the process can be read again".to_owned(),
            };
            tracing::error!("{reason}");
            tell(engine, "limits.memory", &reason, now);
        }
        let level = engine.budget.level();
        if level != self.memory.replace(level).unwrap_or(Level::Calm) {
            shortened(engine, level, now);
        }
    }
}

fn shortened(engine: &Engine, level: Level, now: Now) {
    let (used, budget) = (&engine.metrics.memory_used, &engine.metrics.memory_budget);
    let seen = format!(
        "{} MiB of limits.memory = {} MiB in use",
        used.value() >> 20,
        budget.value() >> 20
    );
    let what = match level {
        Level::Calm => {
            let reason = format!("{seen}: everybody is let in and everything is kept again");
            tracing::info!("{reason}");
            return tell(engine, "limits.memory", &reason, now);
        }
        Level::Pressed => "pressed: new clients are refused (0x89) and idle ones ended",
        Level::Full => {
            "full: new clients and what would have to be kept are refused (0x89, 0x97), waiting \
             QoS 0 is dropped"
        }
        Level::Spent => {
            "spent: connections are closed at accept, and nothing large is taken, besides what \
             full refuses"
        }
    };
    let reason = format!(
        "{seen}: {what}; raise limits.memory, or see with portcullis session list who queues what \
         and lower queue-bytes, retained-bytes or connections in [limits]"
    );
    tracing::error!("{reason}");
    tell(engine, "limits.memory", &reason, now);
}

fn jumped(engine: &Engine, millis: i64, now: Now) {
    engine.metrics.clock_jumps.inc();
    let by = Duration::from_millis(millis.unsigned_abs()).as_secs();
    let reason = if millis < 0 {
        format!(
            "the calendar of the system went back by {by} s; the broker's goes on from where it was, \
             so that nothing that has expired lives again"
        )
    } else {
        format!("the calendar of the system went forward by {by} s, and so what expires, expires")
    };
    tracing::error!("{reason}");
    tell(engine, "clock", &reason, now);
}

fn filled(engine: &Engine, full: Option<Full>, now: Now) {
    engine.metrics.store_full.set(u64::from(full.is_some()));
    let reason = if let Some(why) = full {
        let reason = format!("{why}: what would have to be stored is refused (0x97)");
        tracing::error!("{reason}");
        reason
    } else {
        let reason = "the store takes messages again".to_owned();
        tracing::info!("{reason}");
        reason
    };
    tell(engine, "durability", &reason, now);
}

fn tell(engine: &Engine, limit: &str, reason: &str, now: Now) {
    let event = Event::LimitHit {
        who: None,
        peer: None,
        limit,
        reason,
    };
    engine.modules.observe(&event, now);
}
