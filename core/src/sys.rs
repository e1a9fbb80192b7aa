//! What the broker says about itself: the topics below `$SYS/broker` that people know from
//! Mosquitto, as far as this broker counts the same thing.
//!
//! Published as `system:sys`, retained, under the policy like everything else: rows for `$SYS/#`
//! decide whether the broker may publish it and who may read it. Only values that changed are
//! published; what the policy held back, or the store had no room for, is tried again.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::Now;
use crate::engine::Engine;
use crate::guard::Subject;
use crate::metrics::Metrics;

/// Topics below `$SYS/broker/`, with what they say.
type Row = (&'static str, fn(&Facts<'_>) -> String);

/// What the values are made from.
struct Facts<'a> {
    metrics: &'a Metrics,
    uptime: u64,
}

const ROWS: &[Row] = &[
    ("version", |_| {
        concat!("portcullis ", env!("CARGO_PKG_VERSION")).to_owned()
    }),
    ("uptime", |facts| format!("{} seconds", facts.uptime)),
    ("clients/connected", |f| number(f.metrics.clients.value())),
    ("clients/total", |f| number(f.metrics.sessions.value())),
    ("clients/disconnected", |f| {
        let connected = f.metrics.clients.value();
        number(f.metrics.sessions.value().saturating_sub(connected))
    }),
    ("messages/received", |f| {
        number(f.metrics.packets_received.value())
    }),
    ("messages/sent", |f| number(f.metrics.packets_sent.value())),
    ("publish/messages/received", |f| {
        number(f.metrics.messages_received.value())
    }),
    ("publish/messages/sent", |f| {
        number(f.metrics.messages_sent.value())
    }),
    ("publish/messages/dropped", |f| number(dropped(f.metrics))),
    ("bytes/received", |f| {
        number(f.metrics.bytes_received.value())
    }),
    ("bytes/sent", |f| number(f.metrics.bytes_sent.value())),
    ("subscriptions/count", |f| {
        number(f.metrics.subscriptions.value())
    }),
    ("retained messages/count", |f| {
        number(f.metrics.retained_messages.value())
    }),
    ("store/full", |f| number(f.metrics.store_full.value())),
    ("memory/used", |f| number(f.metrics.memory_used.value())),
    ("memory/budget", |f| number(f.metrics.memory_budget.value())),
    ("memory/level", |f| number(f.metrics.memory_level.value())),
    ("clock/jumps", |f| number(f.metrics.clock_jumps.value())),
    ("store/messages/count", |f| {
        let queued = f.metrics.queued_messages.value();
        number(queued + f.metrics.retained_messages.value())
    }),
];

fn number(value: u64) -> String {
    value.to_string()
}

fn dropped(metrics: &Metrics) -> u64 {
    metrics.dropped_qos0.value()
        + metrics.memory_dropped_qos0.value()
        + metrics.dropped_offline.value()
        + metrics.dropped_too_large.value()
        + metrics.dropped_expired.value()
}

/// Publishes the tree.
pub(crate) struct Sys {
    author: Arc<Subject>,
    started: Instant,
    /// When it was last published.
    last: Option<Instant>,
    /// What was said last, in the order of [`ROWS`].
    said: Vec<String>,
}

impl Sys {
    /// `author` is the principal that publishes.
    pub(crate) fn new(author: Arc<Subject>, now: Now) -> Self {
        Self {
            author,
            started: now.mono,
            last: None,
            said: vec![String::new(); ROWS.len()],
        }
    }

    /// Publishes what changed, once in `mqtt.sys_interval`.
    pub(crate) fn tend(&mut self, engine: &Engine, now: Now) {
        let interval = engine.settings.load().mqtt.sys_interval;
        if self.last.is_some_and(|last| last + interval > now.mono) {
            return;
        }
        self.last = Some(now.mono);
        // Taken together, before the publishing itself moves a number.
        let facts = Facts {
            metrics: &engine.metrics,
            uptime: now.mono.saturating_duration_since(self.started).as_secs(),
        };
        let values: Vec<String> = ROWS.iter().map(|(_, value)| value(&facts)).collect();
        for (((topic, _), value), said) in ROWS.iter().zip(values).zip(&mut self.said) {
            if *said != value {
                let topic = format!("$SYS/broker/{topic}");
                // What the policy did not let through is still to be said.
                if engine.publish_system(&self.author, &topic, value.as_bytes(), true, now) {
                    *said = value;
                }
            }
        }
    }
}
