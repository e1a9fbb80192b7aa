//! The in-process bus: local delivery by the engine, and the retained store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::clock::Now;
use crate::guard::{Authorized, Stored};
use crate::journal::{Journal, Refused as NotWritten, Steps};
use crate::message::{Message, Publication};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::ticket::Ticket;
use crate::topic::{TopicFilter, matches};
use crate::wire::ReasonCode;

use super::{Appended, Bus, Keeps, RetainedPage};

/// Topics looked at in one call of [`Bus::tend`].
const TENDED: usize = 4096;

/// Messages written at once in [`Bus::rewrite`].
const REWRITTEN: usize = 64;

/// The native bus. Retained messages live in memory, ordered by topic, so that a walk over many
/// of them can stop anywhere and go on later.
pub struct Native {
    retained: RwLock<Retained>,
    settings: Arc<ArcSwap<Settings>>,
    metrics: Arc<Metrics>,
    journal: Option<Arc<Journal>>,
    tended: Mutex<Option<Box<str>>>,
}

#[derive(Default)]
struct Retained {
    by_topic: BTreeMap<Box<str>, Stored<Message>>,
    bytes: usize,
}

impl Native {
    /// An empty bus.
    #[must_use]
    pub fn new(settings: Arc<ArcSwap<Settings>>, metrics: Arc<Metrics>) -> Self {
        Self {
            retained: RwLock::default(),
            settings,
            metrics,
            journal: None,
            tended: Mutex::default(),
        }
    }

    /// A bus that keeps retained messages in this journal, and has those that it tells of.
    pub(crate) fn durable(
        settings: Arc<ArcSwap<Settings>>,
        metrics: Arc<Metrics>,
        journal: Arc<Journal>,
        retained: Vec<Stored<Message>>,
    ) -> Self {
        let bus = Self {
            journal: Some(journal),
            ..Self::new(settings, metrics)
        };
        {
            let mut store = bus.retained.write();
            for message in retained {
                store.bytes += message.weight();
                store.by_topic.insert(message.topic().into(), message);
            }
            store.report(&bus.metrics);
        }
        bus
    }

    /// Writes to the journal, where there is one.
    fn record(
        &self,
        essential: bool,
        steps: &mut dyn FnMut(&mut Steps<'_, '_>),
    ) -> Result<Option<Ticket>, NotWritten> {
        match &self.journal {
            Some(journal) => journal.write(essential, steps),
            None => Ok(None),
        }
    }

    fn retain(&self, publication: &Authorized<Publication<'_>>) -> Appended {
        let topic = publication.topic.as_str();
        let mut retained = self.retained.write();
        // [MQTT-3.3.1-6]: an empty payload takes the present one away and is not kept.
        let written = if publication.payload.is_empty() {
            let known = retained.by_topic.contains_key(topic);
            retained.remove(topic);
            if known {
                self.record(true, &mut |steps| steps.unretained(topic))
            } else {
                Ok(None)
            }
        } else {
            let message = publication.store();
            let settings = self.settings.load();
            let freed = retained.by_topic.get(topic).map(Stored::weight);
            let bytes = retained.bytes - freed.unwrap_or(0) + message.weight();
            let count = retained.by_topic.len() + usize::from(freed.is_none());
            if bytes > settings.limits.retained_bytes || count > settings.limits.retained_messages {
                self.metrics.retained_refused.inc();
                return Appended::Refused(ReasonCode::QuotaExceeded);
            }
            // What the broker says of itself is said anew after a restart.
            let kept = publication.author.principal().kind() != "system";
            let written = if kept {
                self.record(false, &mut |steps| steps.retained(&message))
            } else {
                Ok(None)
            };
            if written.is_ok() {
                retained.bytes = bytes;
                retained.by_topic.insert(topic.into(), message);
            }
            written
        };
        retained.report(&self.metrics);
        match written {
            Ok(None) => Appended::Safe,
            Ok(Some(ticket)) => Appended::Later(ticket),
            Err(_) => {
                self.metrics.store_refused.inc();
                Appended::Refused(ReasonCode::QuotaExceeded)
            }
        }
    }
}

impl Retained {
    fn remove(&mut self, topic: &str) {
        if let Some(old) = self.by_topic.remove(topic) {
            self.bytes -= old.weight();
        }
    }

    fn report(&self, metrics: &Metrics) {
        metrics.retained_messages.set(self.by_topic.len() as u64);
        metrics.retained_bytes.set(self.bytes as u64);
    }
}

impl Bus for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn keeps(&self) -> Keeps {
        Keeps {
            author: true,
            durable: self.journal.is_some(),
            retained: true,
            local: true,
        }
    }

    fn append(
        &self,
        batch: &[Authorized<Publication<'_>>],
        _now: Now,
        taken: &mut dyn FnMut(usize, Appended),
    ) {
        for (place, publication) in batch.iter().enumerate() {
            let appended = if publication.asked.retain {
                self.retain(publication)
            } else {
                Appended::Safe
            };
            taken(place, appended);
        }
    }

    fn declare(&self, _filter: TopicFilter<'_>, _wanted: bool) {}

    fn retained(
        &self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        budget: usize,
        now: Now,
    ) -> RetainedPage {
        let filter = filter.filter();
        let retained = self.retained.read();
        let mut page = RetainedPage::default();
        let Some(wildcard) = filter.find(['+', '#']) else {
            page.messages.extend(
                retained
                    .by_topic
                    .get(filter)
                    .filter(|m| live(m, now))
                    .cloned(),
            );
            return page;
        };
        // `a/#` matches `a` as well, so the slash does not belong to the prefix.
        let prefix = filter.get(..wildcard).unwrap_or_default();
        let prefix = if filter.ends_with('#') {
            prefix.strip_suffix('/').unwrap_or(prefix)
        } else {
            prefix
        };
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        for (examined, (topic, message)) in retained
            .by_topic
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .enumerate()
        {
            if matches(filter, topic) && live(message, now) {
                page.messages.push(message.clone());
            }
            if examined + 1 >= budget {
                page.next = Some(topic.clone());
                break;
            }
        }
        page
    }

    fn poll(&self, _batch: &mut Vec<Stored<Message>>) {}

    fn rewrite(&self) -> bool {
        let mut after: Option<Box<str>> = None;
        loop {
            let retained = self.retained.read();
            let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let page: Vec<_> = retained
                .by_topic
                .range::<str, _>((start, Bound::Unbounded))
                .take(REWRITTEN)
                .collect();
            let Some((last, _)) = page.last() else {
                return true;
            };
            // Under the lock: what is retained after this page was read is written after it.
            let written = self.record(true, &mut |steps| {
                for (_, message) in &page {
                    if message.author().principal().kind() != "system" {
                        steps.retained(message);
                    }
                }
            });
            if written.is_err() {
                return false;
            }
            after = Some((*last).clone());
        }
    }

    fn tend(&self, now: Now) {
        let mut place = self.tended.lock();
        let mut retained = self.retained.write();
        let start = place.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let mut gone = Vec::new();
        for (topic, message) in retained
            .by_topic
            .range::<str, _>((start, Bound::Unbounded))
            .take(TENDED)
        {
            if !live(message, now) {
                gone.push(topic.clone());
            }
            last = Some(topic.clone());
        }
        for topic in gone {
            retained.remove(&topic);
        }
        retained.report(&self.metrics);
        *place = last;
    }
}

fn live(message: &Stored<Message>, now: Now) -> bool {
    message.expires().is_none_or(|end| end > now.unix_millis())
}
