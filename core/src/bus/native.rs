//! The in-process bus: local delivery by the engine, and the retained store.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::budget::Level;
use crate::clock::Now;
use crate::guard::{Authorized, Stored};
use crate::hook::Principal;
use crate::journal::{Journal, Refused as NotWritten, Steps};
use crate::message::{Message, Publication};
use crate::metrics::Metrics;
use crate::settings::{Limits, Settings};
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

/// What is retained. Changed by [`insert`](Self::insert) and [`remove`](Self::remove) alone, which
/// keep the sums.
#[derive(Default)]
struct Retained {
    by_topic: BTreeMap<Box<str>, Stored<Message>>,
    all: Share,
    /// What each author holds; who holds nothing is not in it.
    by_author: HashMap<Principal, Share>,
}

/// So many messages, and their weight in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    messages: usize,
    bytes: usize,
}

impl Share {
    fn with(self, message: &Stored<Message>) -> Self {
        Self {
            messages: self.messages + 1,
            bytes: self.bytes + message.weight(),
        }
    }

    fn without(self, message: &Stored<Message>) -> Self {
        Self {
            messages: self.messages.saturating_sub(1),
            bytes: self.bytes.saturating_sub(message.weight()),
        }
    }
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
                store.insert(message);
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

    /// By what retained messages expire.
    fn time(&self, now: Now) -> u64 {
        let millis = now.unix_millis();
        self.journal
            .as_ref()
            .map_or(millis, |journal| journal.time(millis))
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
            // What the broker says of itself is said anew after a restart, and little.
            let kept = message.author().principal().kind() != "system";
            let limits = &self.settings.load().limits;
            if let Some(limit) = retained.full(&message, limits) {
                self.metrics.retained_refused.inc();
                return Appended::Full(limit);
            }
            if kept && let Some(limit) = retained.over_quota(&message, limits) {
                self.metrics.retained_over_quota.inc();
                return Appended::Full(limit);
            }
            // A will was kept already.
            let spared = !kept || publication.asked.will;
            if !spared && Level::of(&self.metrics) >= Level::Full && retained.grows(&message) {
                self.metrics.memory_retained_refused.inc();
                return Appended::Full("limits.memory");
            }
            let written = if kept {
                self.record(false, &mut |steps| steps.retained(&message))
            } else {
                Ok(None)
            };
            if written.is_ok() {
                retained.insert(message);
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
    /// Whether more bytes are kept with this message in its place.
    fn grows(&self, message: &Stored<Message>) -> bool {
        let freed = self.by_topic.get(message.topic()).map(Stored::weight);
        freed.is_none_or(|freed| message.weight() > freed)
    }

    /// The limit of the whole store that would not hold with this message in its place.
    fn full(&self, message: &Stored<Message>, limits: &Limits) -> Option<&'static str> {
        let old = self.by_topic.get(message.topic());
        let all = old
            .map_or(self.all, |old| self.all.without(old))
            .with(message);
        if all.messages > limits.retained_messages {
            Some("limits.retained-messages")
        } else {
            (all.bytes > limits.retained_bytes).then_some("limits.retained-bytes")
        }
    }

    /// The limit of its author that would not hold with this message in its place.
    fn over_quota(&self, message: &Stored<Message>, limits: &Limits) -> Option<&'static str> {
        let author = message.author().principal();
        let old = self.by_topic.get(message.topic());
        let held = self.by_author.get(author).copied().unwrap_or_default();
        let held = old
            .filter(|old| old.author().principal() == author)
            .map_or(held, |old| held.without(old))
            .with(message);
        if held.messages > limits.retained_messages_per_principal {
            Some("limits.retained-messages-per-principal")
        } else {
            (held.bytes > limits.retained_bytes_per_principal)
                .then_some("limits.retained-bytes-per-principal")
        }
    }

    fn insert(&mut self, message: Stored<Message>) {
        self.remove(message.topic());
        self.all = self.all.with(&message);
        let author = message.author().principal();
        if let Some(held) = self.by_author.get_mut(author) {
            *held = held.with(&message);
        } else {
            let held = Share::default().with(&message);
            self.by_author.insert(author.clone(), held);
        }
        self.by_topic.insert(message.topic().into(), message);
    }

    fn remove(&mut self, topic: &str) {
        let Some(old) = self.by_topic.remove(topic) else {
            return;
        };
        self.all = self.all.without(&old);
        let author = old.author().principal();
        if let Some(held) = self.by_author.get_mut(author) {
            *held = held.without(&old);
            if held.messages == 0 {
                self.by_author.remove(author);
            }
        }
    }

    fn report(&self, metrics: &Metrics) {
        metrics.retained_messages.set(self.all.messages as u64);
        metrics.retained_bytes.set(self.all.bytes as u64);
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
        let time = self.time(now);
        let retained = self.retained.read();
        let mut page = RetainedPage::default();
        let Some(wildcard) = filter.find(['+', '#']) else {
            page.messages.extend(
                retained
                    .by_topic
                    .get(filter)
                    .filter(|m| live(m, time))
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
            if matches(filter, topic) && live(message, time) {
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
        let time = self.time(now);
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
            if !live(message, time) {
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

fn live(message: &Stored<Message>, time: u64) -> bool {
    message.expires().is_none_or(|end| end > time)
}
