//! An `Observer` of one's own: counts what each principal sends, without slowing anybody down.
//!
//! Events come one by one and are rare; traffic comes through a handle per connection, once per
//! read batch, so that observing costs nanoseconds per message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_core::clock::Now;
use portcullis_core::hook::{BatchFacts, Event, Observer, Snapshot, Tally};

#[derive(Default)]
struct Traffic {
    messages: Arc<AtomicU64>,
    refusals: AtomicU64,
}

struct Count(Arc<AtomicU64>);

impl Tally for Count {
    fn batch(&mut self, facts: &BatchFacts, _: Now) {
        self.0
            .fetch_add(u64::from(facts.publishes), Ordering::Relaxed);
    }
}

impl Observer for Traffic {
    fn name(&self) -> &'static str {
        "traffic"
    }

    fn event(&self, event: &Event<'_>, _: Now) {
        if matches!(
            event,
            Event::ConnectionRefused { .. } | Event::PublishDenied { .. }
        ) {
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tally(&self, _: &Snapshot) -> Option<Box<dyn Tally>> {
        Some(Box::new(Count(Arc::clone(&self.messages))))
    }
}

fn main() {
    let observer = Traffic::default();
    observer.event(&Event::Started, Now::read());
    println!(
        "{} messages, {} refusals; register it with Broker::builder().observer(..)",
        observer.messages.load(Ordering::Relaxed),
        observer.refusals.load(Ordering::Relaxed)
    );
}
