//! What a store means, for people who look at one without a broker.

use std::path::Path;

use crate::store::{Key, Report, StoreError, check_with};

use super::recover::{Recovered, Recovery};

/// What a broker would find in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Persistent sessions, by client id.
    pub sessions: Vec<SessionContents>,
    /// Retained messages.
    pub retained: usize,
    /// `QoS` 2 messages whose routing was cut short, which a start completes.
    pub unrouted: usize,
    /// Records that depend on others which are not there: what they say is lost.
    pub dangling: u64,
    /// Records that this program does not understand, each with what is wrong.
    pub unreadable: Vec<String>,
    /// What the calendar said last, milliseconds since the Unix epoch; 0: not recorded.
    pub clock: u64,
}

/// A session in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionContents {
    /// Its client id.
    pub client_id: String,
    /// The principal that it belongs to.
    pub owner: String,
    /// Seconds that it outlives its connection.
    pub expiry: u32,
    /// When it lost its connection, milliseconds since the Unix epoch; `None`: it was connected.
    pub left: Option<u64>,
    /// Its subscriptions, `$share` prefix included.
    pub subscriptions: Vec<String>,
    /// Messages that wait.
    pub queued: usize,
    /// Messages that were sent and are not acknowledged.
    pub in_flight: usize,
    /// `QoS` 2 messages that it sent and has not released.
    pub received: usize,
    /// Whether it has a will.
    pub will: bool,
    /// Messages of its queue that are not there any more.
    pub lost: u64,
}

impl Contents {
    /// Whether a broker of this version understands every record; it does not start otherwise.
    #[must_use]
    pub fn is_understood(&self) -> bool {
        self.unreadable.is_empty()
    }
}

/// Reads a whole store without changing it, checksums and meaning. The broker must not be running on
/// it. Of a damaged store it shows what can be read, which is what a broker finds after
/// [`crate::store::repair`].
///
/// # Errors
///
/// As of [`crate::store::check`].
pub fn inspect(dir: &Path, key: Option<&Key>) -> Result<(Report, Contents), StoreError> {
    let mut recovery = Recovery::default();
    let mut contents = Contents::default();
    let report = check_with(dir, key, &mut |kind, bytes| {
        // The first tell enough.
        if let Err(problem) = recovery.apply(kind, bytes)
            && contents.unreadable.len() < MANY
        {
            contents.unreadable.push(problem);
        }
    })?;
    contents.dangling = recovery.dangling();
    let (recovered, ..) = recovery.finish(0);
    contents.fill(recovered);
    Ok((report, contents))
}

/// Problems of records that are kept.
const MANY: usize = 20;

impl Contents {
    fn fill(&mut self, recovered: Recovered) {
        self.retained = recovered.retained.len();
        self.unrouted = recovered.unrouted.len();
        self.clock = recovered.clock;
        self.sessions = recovered
            .sessions
            .into_iter()
            .map(|session| {
                let sent = session
                    .messages
                    .values()
                    .filter(|flight| flight.sent.is_some());
                let sent = sent.count();
                SessionContents {
                    client_id: session.who.client_id.to_string(),
                    owner: session.who.principal().as_str().to_owned(),
                    expiry: session.expiry,
                    left: session.left,
                    queued: session.messages.len() - sent,
                    in_flight: sent + session.releasing.len(),
                    received: session.received.len(),
                    will: session.will.is_some(),
                    lost: session.lost,
                    subscriptions: session
                        .subscriptions
                        .into_keys()
                        .map(String::from)
                        .collect(),
                }
            })
            .collect();
        self.sessions.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    }
}
