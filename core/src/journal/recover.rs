//! Reads the journal back: the state that its records amount to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::engine::Ids;
use crate::guard::{Stored, Subject};
use crate::hook::Snapshot;
use crate::message::{Message, Recorded};
use crate::wire::{QoS, SubscribeOptions};

use super::codec::{self, Take};
use super::{Entry, SessionId, kind};

/// About what one step takes in the log, bytes.
const STEP: usize = 64;

/// What the journal amounts to.
#[derive(Default)]
pub(crate) struct Recovered {
    pub(crate) sessions: Vec<RecoveredSession>,
    pub(crate) retained: Vec<Stored<Message>>,
    pub(crate) unrouted: Vec<Unrouted>,
    /// What the calendar said last, milliseconds since the Unix epoch.
    pub(crate) clock: u64,
}

/// A `QoS` 2 message whose routing the end of the broker cut short: its publisher will not have it
/// routed again.
pub(crate) struct Unrouted {
    pub(crate) message: Stored<Message>,
    /// Who took it before.
    pub(crate) taken: HashSet<SessionId>,
    /// Whether the retained store did.
    pub(crate) retained: bool,
}

/// A persistent session as it was.
pub(crate) struct RecoveredSession {
    pub(crate) id: SessionId,
    pub(crate) who: Snapshot,
    pub(crate) expiry: u32,
    /// Message, delay and expiry interval in seconds.
    pub(crate) will: Option<(Stored<Message>, u32, Option<u32>)>,
    /// When it lost its connection, milliseconds since the Unix epoch; `None`: the broker ended
    /// while it was connected.
    pub(crate) left: Option<u64>,
    /// When its will fires, if that was set.
    pub(crate) will_at: Option<u64>,
    pub(crate) subscriptions: BTreeMap<Box<str>, (SubscribeOptions, Option<NonZeroU32>)>,
    /// In the order in which they were taken.
    pub(crate) messages: BTreeMap<Entry, RecoveredFlight>,
    /// Packet identifiers whose PUBREC came and whose PUBCOMP did not.
    pub(crate) releasing: BTreeMap<Entry, u16>,
    pub(crate) received: BTreeSet<u16>,
    /// Messages that are not in the journal any more.
    pub(crate) lost: u64,
}

/// A message that a session has to deliver.
pub(crate) struct RecoveredFlight {
    pub(crate) message: Stored<Message>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) ids: Ids,
    /// The packet identifier under which it was sent.
    pub(crate) sent: Option<u16>,
}

/// The state while records are read.
#[derive(Default)]
pub(super) struct Recovery {
    authors: HashMap<u64, Arc<Subject>>,
    messages: HashMap<u64, Stored<Message>>,
    sessions: BTreeMap<u64, RecoveredSession>,
    retained: BTreeMap<Box<str>, Stored<Message>>,
    /// Messages that are being routed.
    open: HashMap<u64, Open>,
    last: u64,
    last_session: u64,
    /// The latest moment that was recorded, in the store's time.
    time: u64,
    /// How far that is ahead of the calendar, milliseconds.
    ahead: u64,
    /// Records whose message or author is not there.
    dangling: u64,
}

/// Who has a message that is being routed.
#[derive(Default)]
struct Open {
    taken: HashSet<SessionId>,
    retained: bool,
}

impl Recovery {
    /// Takes one record.
    pub(super) fn apply(&mut self, kind: u8, bytes: &[u8]) -> Result<(), String> {
        let mut take = Take(bytes);
        self.read(kind, &mut take)
            .and_then(|()| take.end())
            .ok_or_else(|| format!("a record of kind {kind} cannot be read"))
    }

    fn read(&mut self, kind: u8, take: &mut Take<'_>) -> Option<()> {
        match kind {
            kind::AUTHOR => {
                let id = self.named(take)?;
                let author = Subject::recorded(codec::snapshot(take)?);
                self.authors.insert(id, author);
            }
            kind::MESSAGE => {
                let id = self.named(take)?;
                let author = self.authors.get(&take.u64()?).cloned();
                let recorded = Recorded {
                    qos: codec::qos(take)?,
                    asked: codec::asked(take)?,
                    expires: take.option()?,
                    topic: take.text()?,
                    properties: take.bytes()?,
                    payload: take.bytes()?,
                };
                let Some(author) = self.found(author) else {
                    return Some(());
                };
                let message = Message::recorded(&recorded, author)?;
                self.messages.insert(id, Stored::read_back(message));
            }
            kind::RETAINED => {
                let number = take.u64()?;
                if let Some(open) = self.open.get_mut(&number) {
                    open.retained = true;
                }
                let message = self.messages.get(&number).cloned();
                if let Some(message) = self.found(message) {
                    self.retained.insert(message.topic().into(), message);
                }
            }
            kind::UNRETAINED => {
                self.retained.remove(take.text()?);
            }
            kind::OPENED => self.opened(take)?,
            kind::CLOCK => self.time = self.time.max(take.u64()?),
            kind::AHEAD => self.ahead = self.ahead.max(take.u64()?),
            _ => self.step(kind, take)?,
        }
        Some(())
    }

    /// Something that a record refers to. It is missing only where a repair left a gap: what
    /// depended on it is lost with it, and counted.
    fn found<T>(&mut self, referred: Option<T>) -> Option<T> {
        self.dangling += u64::from(referred.is_none());
        referred
    }

    fn named(&mut self, take: &mut Take<'_>) -> Option<u64> {
        let id = take.u64()?;
        self.last = self.last.max(id);
        Some(id)
    }

    fn opened(&mut self, take: &mut Take<'_>) -> Option<()> {
        let id = take.u64()?;
        self.last_session = self.last_session.max(id);
        let who = codec::snapshot(take)?;
        let expiry = take.u32()?;
        let will = match take.option()? {
            Some(message) => {
                let message = self.messages.get(&message).cloned();
                self.found(message)
            }
            None => None,
        };
        let delay = take.u32()?;
        let will_expiry = match take.option()? {
            Some(seconds) => Some(u32::try_from(seconds).ok()?),
            None => None,
        };
        let will = will.map(|message| (message, delay, will_expiry));
        if let Some(session) = self.sessions.get_mut(&id) {
            session.who = who;
            session.expiry = expiry;
            session.will = will;
            session.left = None;
            session.will_at = None;
        } else {
            let session = RecoveredSession {
                id: SessionId(id),
                who,
                expiry,
                will,
                left: None,
                will_at: None,
                subscriptions: BTreeMap::new(),
                messages: BTreeMap::new(),
                releasing: BTreeMap::new(),
                received: BTreeSet::new(),
                lost: 0,
            };
            self.sessions.insert(id, session);
        }
        Some(())
    }

    /// A step of a session. One that has ended has no more steps; a record of one that is not
    /// known was written before the oldest round that is left, and means nothing.
    fn step(&mut self, kind: u8, take: &mut Take<'_>) -> Option<()> {
        let id = take.u64()?;
        if kind == kind::ENDED {
            self.sessions.remove(&id);
            return Some(());
        }
        let mut nobody = None;
        let session = match self.sessions.get_mut(&id) {
            Some(session) => session,
            None => nobody.insert(RecoveredSession::nobody()),
        };
        match kind {
            kind::RESET => {
                session.subscriptions.clear();
                session.messages.clear();
                session.releasing.clear();
                session.received.clear();
            }
            kind::LEFT => {
                let left = take.u64()?;
                self.time = self.time.max(left);
                session.left = Some(left);
                session.expiry = take.u32()?;
                session.will_at = take.option()?;
                if session.will_at.is_none() {
                    session.will = None;
                }
            }
            kind::WILL_OVER => {
                session.will = None;
                session.will_at = None;
            }
            kind::SUBSCRIBED => {
                let filter = take.text()?.into();
                let options = codec::options(take)?;
                let id = NonZeroU32::new(take.u32()?);
                session.subscriptions.insert(filter, (options, id));
            }
            kind::UNSUBSCRIBED => {
                session.subscriptions.remove(take.text()?);
            }
            kind::QUEUED => {
                let entry = take.u64()?;
                let number = take.u64()?;
                if let Some(open) = self.open.get_mut(&number) {
                    open.taken.insert(SessionId(id));
                }
                let message = self.messages.get(&number).cloned();
                let (qos, retain) = (codec::qos(take)?, take.u8()? != 0);
                let ids = codec::ids(take)?;
                let missing = u64::from(message.is_none());
                self.dangling += missing;
                session.lost += missing;
                if let Some(message) = message {
                    let flight = RecoveredFlight {
                        message,
                        qos,
                        retain,
                        ids,
                        sent: None,
                    };
                    session.messages.insert(entry, flight);
                }
            }
            kind::SENT => {
                let (entry, id) = (take.u64()?, take.u16()?);
                if let Some(flight) = session.messages.get_mut(&entry) {
                    flight.sent = Some(id);
                }
            }
            kind::RELEASED => {
                let (entry, id) = (take.u64()?, take.u16()?);
                session.messages.remove(&entry);
                session.releasing.insert(entry, id);
            }
            kind::DONE => {
                let entry = take.u64()?;
                session.messages.remove(&entry);
                session.releasing.remove(&entry);
            }
            kind::RECEIVED => {
                session.received.insert(take.u16()?);
                if let Some(message) = take.option()? {
                    self.open.insert(message, Open::default());
                }
            }
            kind::ROUTED => {
                self.open.remove(&take.u64()?);
            }
            kind::FREED => {
                session.received.remove(&take.u16()?);
            }
            _ => return None,
        }
        Some(())
    }

    /// The latest moment that was recorded, in the store's time.
    pub(super) fn time(&self) -> u64 {
        self.time
    }

    /// How far the store's time is ahead of the calendar, milliseconds.
    pub(super) fn ahead(&self) -> u64 {
        self.ahead
    }

    /// Records that depend on others which are not there.
    pub(super) fn dangling(&self) -> u64 {
        self.dangling
    }

    /// About how many bytes of the log still mean something.
    pub(super) fn live_bytes(&self) -> u64 {
        let messages: usize = self
            .messages
            .values()
            .filter(|message| message.is_shared())
            .map(Stored::weight)
            .sum();
        let steps: usize = self
            .sessions
            .values()
            .map(|session| {
                let subscriptions: usize =
                    session.subscriptions.keys().map(|text| text.len()).sum();
                let steps = session.messages.len() + session.subscriptions.len();
                subscriptions + (steps + session.releasing.len() + 4) * STEP
            })
            .sum();
        (messages + steps + self.retained.len() * STEP) as u64
    }

    /// The state, and the numbers from which new names go on.
    pub(super) fn finish(self, round: u32) -> (Recovered, u64, u64) {
        if self.dangling > 0 {
            tracing::warn!(
                records = self.dangling,
                "the store was repaired: records that depended on lost ones are left out"
            );
        }
        for (id, author) in &self.authors {
            author.mark().recovered(*id, round);
        }
        for (id, message) in &self.messages {
            message.mark().recovered(*id, round);
        }
        let mut open: Vec<_> = self.open.into_iter().collect();
        open.sort_by_key(|(number, _)| *number);
        let unrouted = open.into_iter().filter_map(|(number, open)| {
            Some(Unrouted {
                message: self.messages.get(&number)?.clone(),
                taken: open.taken,
                retained: open.retained,
            })
        });
        let recovered = Recovered {
            clock: self.time.saturating_sub(self.ahead),
            unrouted: unrouted.collect(),
            sessions: self.sessions.into_values().collect(),
            retained: self.retained.into_values().collect(),
        };
        (recovered, self.last + 1, self.last_session + 1)
    }
}

impl RecoveredSession {
    /// Takes steps that belong to nobody any more.
    fn nobody() -> Self {
        Self {
            id: SessionId(0),
            who: Subject::nobody(),
            expiry: 0,
            will: None,
            left: None,
            will_at: None,
            subscriptions: BTreeMap::new(),
            messages: BTreeMap::new(),
            releasing: BTreeMap::new(),
            received: BTreeSet::new(),
            lost: 0,
        }
    }
}
