//! Back from disk, and compaction: the journal's side of the engine.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::Now;
use crate::guard::Subject;
use crate::hook::Effort;
use crate::journal::{
    Entry as JournalEntry, QueuedAs, RecoveredFlight, RecoveredSession, Steps, Unrouted,
};
use crate::metrics::Metrics;
use crate::topic::TopicFilter;
use crate::wire::{QoS, SubscribeOptions};

use super::flight::{Awaits, InFlight, Kept};
use super::queue::Queued;
use super::session::{Away, Covered, State, Subscription};
use super::share::{Among, offer};
use super::tree::{Entry, Target};
use super::{Engine, Session, Will};

/// A will that a broker left behind waits so long for its client to come back, milliseconds: half a
/// minute, and a little for what lies between this and the first connection that is accepted.
const WILL_PATIENCE: u64 = 35_000;

/// How long a compaction waits for the disk before it is given up: so often, ...
const PATIENCE: u32 = 500;
/// ... so long.
const PAUSE: Duration = Duration::from_millis(20);

impl Engine {
    /// Puts back what the journal tells. Called before any listener accepts.
    pub(crate) fn restore(
        &self,
        sessions: Vec<RecoveredSession>,
        unrouted: Vec<Unrouted>,
        now: Now,
    ) {
        for session in sessions {
            self.restore_session(session, now);
        }
        for message in unrouted {
            self.finish_routing(&message, now);
        }
    }

    /// Gives a message to those who should have had it when the broker ended.
    fn finish_routing(&self, unrouted: &Unrouted, now: Now) {
        let mut routing = self.routing(None, now);
        let Some(publication) = routing.reopen(&unrouted.message) else {
            return;
        };
        if publication.asked.retain && !unrouted.retained {
            let batch = std::slice::from_ref(&publication);
            // There is nobody left to tell of a refusal.
            self.bus.append(batch, now, &mut |_, _| {});
        }
        let has_it = |session: &Session| unrouted.taken.contains(&session.lock().id);
        let (matched, _) = self.tree.lookup(publication.topic);
        for Target { session, claims } in &matched.targets {
            if !has_it(session) {
                session.deliver(&publication, claims, &mut routing);
            }
        }
        for group in &matched.shares {
            let (members, _) = group.turn();
            if !members.iter().any(|member| has_it(&member.session)) {
                offer(&publication, group, Among::Everybody, &mut routing);
            }
        }
    }

    fn restore_session(&self, from: RecoveredSession, now: Now) {
        let mut routing = self.routing(None, now);
        let subject = Subject::recorded(from.who);
        let rights = subject.rights(&self.modules);
        let client_id = Arc::clone(&subject.snapshot().client_id);
        let session = {
            let mut registry = self.registry.lock();
            let (owner, _) = registry.owner(subject.principal());
            let session = Session::new(client_id, owner, Arc::clone(&subject), rights);
            registry.insert(&session);
            session
        };
        self.metrics.sessions.inc();
        let mut state = session.lock();
        state.id = from.id;
        state.expiry = from.expiry;
        let effort = Effort::new(Effort::SESSION);
        for (text, (options, id)) in from.subscriptions {
            let Ok(filter) = TopicFilter::new(&text, routing.settings.mqtt.topic) else {
                // The limits are narrower than they were.
                continue;
            };
            let (cover, toil) = routing.cover(&state.rights, filter, options.qos, &effort);
            let cover = cover.map_or(Covered::Suspended, Into::into);
            let slot = state.next_slot();
            let entry = Entry {
                session: Arc::clone(&session),
                claim: state.claim(slot, filter, options, id, cover),
            };
            let Some((name, share)) = self.tree.add(filter, entry) else {
                continue;
            };
            state.insert(Subscription {
                filter: name,
                share,
                options,
                id,
                serial: slot.serial,
                cover,
                toil,
            });
            self.metrics.subscriptions.inc();
            self.bus.declare(filter, true);
        }
        state.restore_messages(from.releasing, from.messages, &self.metrics);
        // Where a crash may have lost that an identifier was released, one that is known stands for
        // nothing: what its sender repeats is published again rather than never.
        let exact = self.journal.as_ref().is_none_or(|known| known.is_exact());
        for id in from.received {
            if exact {
                state.received.get_or_insert_default().ids.insert(id);
            } else {
                // If that is lost the next start does it.
                let session = state.id;
                let _ = routing.write(session, true, &mut |steps| steps.freed(session, id));
            }
        }
        let left = from.left.unwrap_or(routing.millis);
        let patience = routing.millis.saturating_add(WILL_PATIENCE);
        let mut ends = left.saturating_add(u64::from(from.expiry) * 1000);
        let mut will_at = None;
        if let Some((message, delay, expiry)) = from.will {
            let due = from
                .will_at
                .unwrap_or_else(|| left.saturating_add(u64::from(delay) * 1000));
            let due = due.max(patience);
            ends = ends.max(patience);
            will_at = Some(due);
            state.will = Some(Box::new(Will::new(message, delay, expiry)));
        }
        let mut timers = self.timers.lock();
        let mut keys = SmallVec::new();
        if let Some(due) = will_at {
            keys.push(timers.will_at(due, &session, state.epoch));
        }
        keys.push(timers.expiry_at(ends, &session, state.epoch));
        drop(timers);
        state.away = Some(Box::new(Away {
            since: left,
            will_at,
            timers: keys,
        }));
        let dropped = state.queue.leave(routing.bound(), routing.metrics());
        state.dropped(dropped, &mut routing);
    }

    /// Whether the journal has grown so much that writing everything again is worth its while.
    pub(crate) fn wants_compaction(&self) -> bool {
        self.journal
            .as_ref()
            .is_some_and(|journal| journal.wants_round())
    }

    /// Writes everything that lives again, session by session, so that what is older can go. Others
    /// go on meanwhile: what happens to a session after its turn is written after it.
    pub(crate) fn compact(&self, now: Now) {
        let Some(journal) = &self.journal else {
            return;
        };
        journal.begin_round();
        let sessions: Vec<_> = self.registry.lock().sessions.values().cloned().collect();
        let time = self.time(now);
        let clock = |steps: &mut Steps<'_, '_>| {
            steps.clock(time);
            steps.ahead();
        };
        let mut complete = journal.write(true, &mut { clock }).is_ok();
        for session in sessions {
            // The writer takes so much at a time; meanwhile others go on. And a message that is being
            // routed is written by its publisher's session until everybody has it: what is written
            // here would otherwise take the place of the record that has it routed at a restart.
            for _ in 0..PATIENCE {
                if journal.has_room() && !session.lock().is_routing() {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
            let state = session.lock();
            if state.id.is_durable() && !state.ended {
                let filters: Vec<_> = state
                    .subscriptions
                    .iter()
                    .map(|(_, known)| (known.text(&self.tree), known.options, known.id))
                    .collect();
                let written = journal.write(true, &mut |steps| state.dump(&filters, steps));
                complete &= written.is_ok();
            }
        }
        complete &= self.bus.rewrite();
        // A round that is not complete leaves what is older in place.
        if complete {
            journal.finish_round();
        } else {
            journal.give_up_round();
        }
    }
}

impl State {
    /// What was on its way and what waited, in its order.
    fn restore_messages(
        &mut self,
        releasing: BTreeMap<JournalEntry, u16>,
        messages: BTreeMap<JournalEntry, RecoveredFlight>,
        metrics: &Metrics,
    ) {
        let mut flights: Vec<_> = releasing
            .into_iter()
            .map(|(entry, id)| (entry, id, Awaits::Completion))
            .collect();
        for (entry, flight) in messages {
            if let Some(id) = flight.sent {
                let kept = Kept {
                    message: flight.message,
                    retain: flight.retain,
                    ids: flight.ids,
                    share: None,
                };
                flights.push((entry, id, Awaits::what(flight.qos, Some(kept))));
            } else {
                self.entries = self.entries.max(entry);
                let queued = Queued {
                    entry,
                    message: flight.message,
                    qos: flight.qos,
                    retain: flight.retain,
                    ids: flight.ids,
                    share: None,
                    counts: false,
                };
                self.queue.push_uncounted(queued, metrics);
            }
        }
        flights.sort_by_key(|(entry, ..)| *entry);
        for (entry, id, state) in flights {
            self.entries = self.entries.max(entry);
            self.given = self.given.next_with(id);
            self.inflight.push_back(InFlight {
                entry,
                serial: self.given,
                state,
            });
        }
    }

    /// Everything that the journal knows of this session, as of now. `filters` are the texts of its
    /// subscriptions.
    fn dump(
        &self,
        filters: &[(String, SubscribeOptions, Option<NonZeroU32>)],
        steps: &mut Steps<'_, '_>,
    ) {
        let id = self.id;
        let will = self.will.as_deref().map(Will::record);
        steps.opened(id, self.subject.snapshot(), self.expiry, will.as_ref());
        steps.reset(id);
        for (text, options, identifier) in filters {
            steps.subscribed(id, text, *options, *identifier);
        }
        for flight in self.inflight.iter().filter(|flight| flight.entry != 0) {
            let (kept, qos) = match &flight.state {
                Awaits::Acknowledgement(Some(kept)) => (kept, QoS::AtLeastOnce),
                Awaits::Receipt(Some(kept)) => (kept, QoS::ExactlyOnce),
                Awaits::Acknowledgement(None) | Awaits::Receipt(None) => continue,
                Awaits::Completion => {
                    steps.released(id, flight.entry, flight.id());
                    continue;
                }
            };
            let how = QueuedAs {
                entry: flight.entry,
                qos,
                retain: kept.retain,
                ids: &kept.ids,
            };
            steps.queued(id, &kept.message, &how);
            steps.sent(id, flight.entry, flight.id());
        }
        for queued in self.queue.iter().filter(|queued| queued.entry != 0) {
            let how = QueuedAs {
                entry: queued.entry,
                qos: queued.qos,
                retain: queued.retain,
                ids: &queued.ids,
            };
            steps.queued(id, &queued.message, &how);
        }
        // One that is still being judged is written with its message, or never was received.
        if let Some(received) = &self.received {
            let judged = |id: &u16| received.unwritten != Some(*id);
            for received in received.ids.iter().filter(judged) {
                steps.received(id, received, None);
            }
        }
        if let Some(away) = &self.away {
            steps.left(id, away.since, self.expiry, away.will_at);
        }
    }
}
