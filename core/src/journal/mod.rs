//! What the durable records mean: sessions, their messages and flows, retained messages, wills.
//!
//! The log below (`store`) keeps bytes in order and says when they are safe; here each step of a
//! persistent session becomes a record, written under that session's lock, so that the order in
//! the log is the order in which things happened. Reading the log back gives the state at the
//! moment of the last safe record (`recover`).
//!
//! Bodies are written once: a message for a hundred sessions is one `Message` record and a hundred
//! small ones, and an author is written once for all its messages. A compaction round writes
//! everything that lives again, session by session and without stopping the others; what was
//! written before the round is then superfluous.

mod codec;
mod correct;
mod inspect;
mod recover;

pub use correct::{Correction, correct_clock};
pub use inspect::{Contents, SessionContents, inspect};
pub(crate) use recover::{Recovered, RecoveredFlight, RecoveredSession, Unrouted};

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::guard::{Stored, Subject};
use crate::hook::Snapshot;
use crate::message::Message;
use crate::store::{Batch, Disk, FileSystem, Full, Log, Mode, Options, StoreError};
use crate::ticket::Ticket;
use crate::wire::{QoS, SubscribeOptions};

use codec::{Put, option, put_asked, put_ids, put_options, put_snapshot};

/// Kinds of records; the numbers are the format.
mod kind {
    pub(super) const AUTHOR: u8 = 1;
    pub(super) const MESSAGE: u8 = 2;
    pub(super) const OPENED: u8 = 3;
    pub(super) const RESET: u8 = 4;
    pub(super) const LEFT: u8 = 5;
    pub(super) const ENDED: u8 = 6;
    pub(super) const SUBSCRIBED: u8 = 7;
    pub(super) const UNSUBSCRIBED: u8 = 8;
    pub(super) const QUEUED: u8 = 9;
    pub(super) const SENT: u8 = 10;
    pub(super) const RELEASED: u8 = 11;
    pub(super) const DONE: u8 = 12;
    pub(super) const RECEIVED: u8 = 13;
    pub(super) const FREED: u8 = 14;
    pub(super) const RETAINED: u8 = 15;
    pub(super) const UNRETAINED: u8 = 16;
    pub(super) const WILL_OVER: u8 = 17;
    pub(super) const ROUTED: u8 = 18;
    pub(super) const CLOCK: u8 = 19;
    pub(super) const AHEAD: u8 = 20;
}

/// Compact when the log has grown to this multiple of what the last round left, but not before it is
/// larger than one segment.
const GROWTH: u64 = 2;
/// A round goes on when no more than this waits to be written, bytes.
const ROUND_WAITING: u64 = 4 << 20;

/// The name of something in the log, and the round in which it was last written. Part of every
/// message and author; means nothing without a journal.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    id: AtomicU64,
    round: AtomicU32,
}

impl Mark {
    /// Known from the log.
    fn recovered(&self, id: u64, round: u32) {
        self.id.store(id, Ordering::Relaxed);
        self.round.store(round, Ordering::Relaxed);
    }

    /// Its name; whether it must be written in this round. Called under the log's lock alone.
    fn claim(&self, next: &AtomicU64, round: u32) -> (u64, bool) {
        let mut id = self.id.load(Ordering::Relaxed);
        if id == 0 {
            id = next.fetch_add(1, Ordering::Relaxed);
            self.id.store(id, Ordering::Relaxed);
        }
        (id, self.round.swap(round, Ordering::Relaxed) != round)
    }
}

/// The store takes nothing: it is full or has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// Writes what happens to persistent sessions and retained messages.
pub(crate) struct Journal {
    log: Log,
    /// Size of a segment, bytes.
    segment: u64,
    /// From this size on nothing new is taken, bytes.
    limit: u64,
    exact: bool,
    /// How far the time of the store is ahead of the calendar, milliseconds; see [`Journal::time`].
    ahead: u64,
    next: AtomicU64,
    next_session: AtomicU64,
    /// The size that the last round left.
    settled: AtomicU64,
    /// The size when the present round began.
    begun: AtomicU64,
}

/// A session's part of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(u64);

impl SessionId {
    /// Whether the session is written at all.
    pub(crate) fn is_durable(self) -> bool {
        self.0 != 0
    }
}

/// A message in a session's queue or in flight, by its place in the session's history.
pub(crate) type Entry = u64;

/// What a message's record says besides the message.
pub(crate) struct QueuedAs<'a> {
    pub(crate) entry: Entry,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) ids: &'a [NonZeroU32],
}

/// A will as it is recorded.
pub(crate) struct WillRecord<'a> {
    pub(crate) message: &'a Stored<Message>,
    pub(crate) delay: u32,
    pub(crate) expiry: Option<u32>,
}

/// What one append says: some steps of one session, or of the retained store.
pub(crate) struct Steps<'j, 'b> {
    journal: &'j Journal,
    batch: &'j mut Batch<'b>,
    round: u32,
}

impl Journal {
    /// Opens the log and reads back what it says.
    ///
    /// # Errors
    ///
    /// A store that is damaged, in use, or of another format.
    pub(crate) fn open(options: &Options) -> Result<(Self, Recovered), StoreError> {
        Self::open_on(Arc::new(FileSystem), options)
    }

    /// [`Self::open`], with another way to write. For tests that break it.
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        options: &Options,
    ) -> Result<(Self, Recovered), StoreError> {
        let mut recovery = recover::Recovery::default();
        let log = Log::open_on(disk, options, &mut |kind, bytes| {
            recovery.apply(kind, bytes)
        })?;
        // What a broker left behind that was started and ended often is not all alive.
        let live = recovery.live_bytes().min(log.size());
        let ahead = recovery.ahead();
        let (recovered, next, next_session) = recovery.finish(log.round());
        let journal = Self {
            settled: AtomicU64::new(live),
            begun: AtomicU64::new(0),
            log,
            segment: options.segment_bytes,
            limit: options.max_bytes / 3,
            exact: options.mode == Mode::Fsync,
            ahead,
            next: AtomicU64::new(next),
            next_session: AtomicU64::new(next_session),
        };
        Ok((journal, recovered))
    }

    /// The time of the store when the calendar says `millis`: what is stored expires by it. It never
    /// goes back. The calendar does, where an operator has corrected it ([`correct_clock`]), and the
    /// store's time is then ahead by as much.
    pub(crate) fn time(&self, millis: u64) -> u64 {
        millis.saturating_add(self.ahead)
    }

    /// Whether what is told of is safe before it is told ([`Mode::Fsync`]).
    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    /// A name for a new persistent session.
    pub(crate) fn new_session(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes some steps together; the ticket completes when they are safe. A full store takes
    /// what is `essential` all the same.
    pub(crate) fn write(
        &self,
        essential: bool,
        steps: &mut dyn FnMut(&mut Steps<'_, '_>),
    ) -> Result<Option<Ticket>, Refused> {
        let mut write = |batch: &mut Batch<'_>| {
            steps(&mut Steps {
                journal: self,
                round: batch.round(),
                batch,
            });
        };
        if essential {
            self.log.append_release(&mut write)
        } else {
            self.log.append(&mut write)
        }
        .map_err(|_| Refused)
    }

    /// Whether a compaction round is worth its while.
    pub(crate) fn wants_round(&self) -> bool {
        let settled = self.settled.load(Ordering::Relaxed);
        let size = self.log.size();
        let garbage = size.saturating_sub(settled);
        // Near the limit sooner: what is superfluous must not be why something is refused.
        let near = size > self.limit / 4 * 3 && garbage > self.limit / 8;
        near || size > (settled * GROWTH).max(self.segment)
    }

    /// Begins a round: everything that lives is to be written again.
    pub(crate) fn begin_round(&self) {
        self.begun.store(self.log.size(), Ordering::Relaxed);
        let _ = self.log.begin_round();
    }

    /// Everything that lives was written; what is older may go.
    pub(crate) fn finish_round(&self) {
        let begun = self.begun.load(Ordering::Relaxed);
        let live = self.log.size().saturating_sub(begun);
        self.settled.store(live, Ordering::Relaxed);
        self.log.finish_round();
    }

    /// Not everything could be written: what is older stays.
    pub(crate) fn give_up_round(&self) {
        self.log.give_up_round();
    }

    /// Whether a round may go on: what it writes must not be why a message is refused, so it waits
    /// until the disk has taken nearly all.
    pub(crate) fn has_room(&self) -> bool {
        self.log.waiting() < ROUND_WAITING
    }

    /// Why nothing new is taken, if so. A disk that is only slow does not count.
    pub(crate) fn full(&self) -> Option<Full> {
        self.log.is_full().filter(|full| *full != Full::Buffer)
    }

    /// Bytes in the log.
    pub(crate) fn size(&self) -> u64 {
        self.log.size()
    }

    /// Why nothing can be written any more, if so.
    pub(crate) fn failed(&self) -> Option<String> {
        self.log.failed()
    }

    /// Writes and syncs what is left.
    pub(crate) fn stop(&self) {
        self.log.stop();
    }
}

impl Steps<'_, '_> {
    fn author(&mut self, author: &Arc<Subject>) -> u64 {
        let (id, new) = author.mark().claim(&self.journal.next, self.round);
        if new {
            self.batch.record(kind::AUTHOR, |out| {
                out.u64(id);
                put_snapshot(out, author.snapshot());
            });
        }
        id
    }

    fn message(&mut self, message: &Stored<Message>) -> u64 {
        let author = self.author(message.author());
        let (id, new) = message.mark().claim(&self.journal.next, self.round);
        if new {
            self.batch.record(kind::MESSAGE, |out| {
                out.u64(id);
                out.u64(author);
                let (qos, asked, expires) = message.facts();
                out.u8(qos as u8);
                put_asked(out, asked);
                out.u64(option(expires));
                let (topic, properties, payload) = message.parts();
                out.bytes(topic);
                out.bytes(properties);
                out.bytes(payload);
            });
        }
        id
    }

    /// A session got a connection: its owner as of now, its expiry, its will.
    pub(crate) fn opened(
        &mut self,
        session: SessionId,
        who: &Snapshot,
        expiry: u32,
        will: Option<&WillRecord<'_>>,
    ) {
        let message = will.map(|will| self.message(will.message));
        self.batch.record(kind::OPENED, |out| {
            out.u64(session.0);
            put_snapshot(out, who);
            out.u32(expiry);
            out.u64(option(message));
            out.u32(will.map_or(0, |will| will.delay));
            out.u64(option(will.and_then(|will| will.expiry).map(u64::from)));
        });
    }

    /// Its will was published, or called off.
    pub(crate) fn will_over(&mut self, session: SessionId) {
        self.batch.record(kind::WILL_OVER, |out| out.u64(session.0));
    }

    /// Subscriptions, messages and identifiers of the session are forgotten.
    pub(crate) fn reset(&mut self, session: SessionId) {
        self.batch.record(kind::RESET, |out| out.u64(session.0));
    }

    /// The session lost its connection at `millis`; `will` is when its will fires, if it still does.
    pub(crate) fn left(&mut self, session: SessionId, millis: u64, expiry: u32, will: Option<u64>) {
        self.batch.record(kind::LEFT, |out| {
            out.u64(session.0);
            out.u64(millis);
            out.u32(expiry);
            out.u64(option(will));
        });
    }

    /// The session ended.
    pub(crate) fn ended(&mut self, session: SessionId) {
        self.batch.record(kind::ENDED, |out| out.u64(session.0));
    }

    /// A subscription, new or replaced. `filter` has its `$share` prefix.
    pub(crate) fn subscribed(
        &mut self,
        session: SessionId,
        filter: &str,
        options: SubscribeOptions,
        id: Option<NonZeroU32>,
    ) {
        self.batch.record(kind::SUBSCRIBED, |out| {
            out.u64(session.0);
            out.bytes(filter.as_bytes());
            put_options(out, options);
            out.u32(id.map_or(0, NonZeroU32::get));
        });
    }

    /// A subscription was given up.
    pub(crate) fn unsubscribed(&mut self, session: SessionId, filter: &str) {
        self.batch.record(kind::UNSUBSCRIBED, |out| {
            out.u64(session.0);
            out.bytes(filter.as_bytes());
        });
    }

    /// The session took a message.
    pub(crate) fn queued(
        &mut self,
        session: SessionId,
        message: &Stored<Message>,
        how: &QueuedAs<'_>,
    ) {
        let message = self.message(message);
        self.batch.record(kind::QUEUED, |out| {
            out.u64(session.0);
            out.u64(how.entry);
            out.u64(message);
            out.u8(how.qos as u8);
            out.u8(how.retain.into());
            put_ids(out, how.ids);
        });
    }

    /// The message goes out under this packet identifier.
    pub(crate) fn sent(&mut self, session: SessionId, entry: Entry, id: u16) {
        self.batch.record(kind::SENT, |out| {
            out.u64(session.0);
            out.u64(entry);
            out.u16(id);
        });
    }

    /// PUBREC came; PUBREL goes out.
    pub(crate) fn released(&mut self, session: SessionId, entry: Entry, id: u16) {
        self.batch.record(kind::RELEASED, |out| {
            out.u64(session.0);
            out.u64(entry);
            out.u16(id);
        });
    }

    /// The message is acknowledged, dropped or expired.
    pub(crate) fn done(&mut self, session: SessionId, entry: Entry) {
        self.batch.record(kind::DONE, |out| {
            out.u64(session.0);
            out.u64(entry);
        });
    }

    /// A `QoS` 2 message with this identifier came in. `message`: it is about to be routed; if the
    /// broker ends before [`Self::routed`], a restart routes it to those who do not have it.
    pub(crate) fn received(
        &mut self,
        session: SessionId,
        id: u16,
        message: Option<&Stored<Message>>,
    ) {
        let message = message.map(|message| self.message(message));
        self.batch.record(kind::RECEIVED, |out| {
            out.u64(session.0);
            out.u16(id);
            out.u64(option(message));
        });
    }

    /// A received message was given to everybody who is to have it.
    pub(crate) fn routed(&mut self, session: SessionId, message: &Stored<Message>) {
        let message = self.message(message);
        self.batch.record(kind::ROUTED, |out| {
            out.u64(session.0);
            out.u64(message);
        });
    }

    /// The sender released it.
    pub(crate) fn freed(&mut self, session: SessionId, id: u16) {
        self.batch.record(kind::FREED, |out| {
            out.u64(session.0);
            out.u16(id);
        });
    }

    /// The message is retained under its topic.
    pub(crate) fn retained(&mut self, message: &Stored<Message>) {
        let message = self.message(message);
        self.batch.record(kind::RETAINED, |out| out.u64(message));
    }

    /// The store's time ([`Journal::time`]), milliseconds since the Unix epoch: a restart does not
    /// begin earlier.
    pub(crate) fn clock(&mut self, time: u64) {
        self.batch.record(kind::CLOCK, |out| out.u64(time));
    }

    /// How far the store's time is ahead of the calendar, where it is.
    pub(crate) fn ahead(&mut self) {
        let ahead = self.journal.ahead;
        if ahead > 0 {
            self.batch.record(kind::AHEAD, |out| out.u64(ahead));
        }
    }

    /// Nothing is retained under this topic any more.
    pub(crate) fn unretained(&mut self, topic: &str) {
        self.batch
            .record(kind::UNRETAINED, |out| out.bytes(topic.as_bytes()));
    }
}
