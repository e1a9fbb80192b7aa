//! Does it behave?

use std::net::IpAddr;
use std::time::Duration;

use super::{Principal, Snapshot};
use crate::clock::Now;
use crate::wire::ReasonCode;

/// Watches what clients cost and may tighten; it cannot turn a no into a yes.
///
/// In a chain the strictest verdict wins.
pub trait Admission: Send + Sync {
    /// Names the module in logs, metrics and records.
    fn name(&self) -> &str;

    /// A connection arrived; nothing of it is known but the address. Asked before TLS.
    fn arrive(&self, arrival: &Arrival<'_>, now: Now) -> Verdict;

    /// A CONNECT is about to be judged: may this address (and this claimed name) try at all?
    /// Asked before any hashing.
    fn attempt(&self, arrival: &Arrival<'_>, claimed: Option<&str>, now: Now) -> Verdict;

    /// A client is proven and about to be admitted.
    fn admit(&self, who: &Snapshot, now: Now) -> Verdict;

    /// Bad credentials came from this address.
    fn failed(&self, arrival: &Arrival<'_>, claimed: Option<&Principal>, now: Now);

    /// A handle that watches one admitted connection; dropped when it ends.
    fn watch(&self, who: &Snapshot, now: Now) -> Box<dyn Meter>;

    /// Whether what this author stored may still be delivered; `false` while it is banned.
    fn in_good_standing(&self, author: &Snapshot, now: Now) -> bool;

    /// Moves when a ban or its like changed, so that live connections are asked again.
    fn generation(&self) -> u64;
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The peer's address, or the one that a trusted proxy gave; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// The listener's name.
    pub listener: &'a str,
    /// Whether TLS has proved a client certificate, and nothing else will be judged: whatever
    /// strangers behind the same address have tried, it was not this client.
    pub proven: bool,
}

/// Watches one connection. Called once per read batch, by the connection's own task.
pub trait Meter: Send {
    /// Takes the facts of a batch and says how to go on.
    fn batch(&mut self, facts: &BatchFacts, now: Now) -> Verdict;

    /// What is to be recorded about the wait that [`batch`](Self::batch) has just asked for. `None`:
    /// the wait needs no record, or has one already.
    fn begun(&self) -> Option<Begun> {
        None
    }
}

/// A limit that a client went over, and that slows it from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The configuration key, for example `limits.fan-out-rate`.
    pub limit: &'static str,
    /// For log and record: its value, what was seen.
    pub reason: String,
}

/// What one read batch held, and what went out since the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchFacts {
    /// Packets read.
    pub packets: u32,
    /// Bytes read.
    pub bytes: u64,
    /// PUBLISH packets read, the refused ones included.
    pub publishes: u32,
    /// Bytes of PUBLISH packets.
    pub publish_bytes: u64,
    /// Filters in SUBSCRIBE and UNSUBSCRIBE packets.
    pub filters: u32,
    /// PINGREQ packets.
    pub pings: u32,
    /// Publishes and filters that the policy refused.
    pub refused: u32,
    /// Acknowledgements of what is not under way.
    pub stray: u32,
    /// Messages delivered to this client since the last batch.
    pub egress_messages: u64,
    /// Deliveries that this client's publishes caused: sessions that took a message.
    pub fan_out: u64,
    /// Bytes of topic and payload in those deliveries.
    pub fan_out_bytes: u64,
}

/// An answer; the order is from mild to strict.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Go on.
    Admit,
    /// Go on, but wait so long before the next read (or the answer).
    Slow(Duration),
    /// End the connection (or refuse it) with this code.
    Refuse {
        /// What a 5.0 client is told.
        code: ReasonCode,
        /// For log and record: the limit, its value, what was seen.
        reason: String,
        /// Whether a will is published: limits do, bans do not.
        will: bool,
    },
}

impl Verdict {
    /// The stricter of two; of two waits the longer.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (refuse @ Self::Refuse { .. }, _) | (_, refuse @ Self::Refuse { .. }) => refuse,
            (Self::Slow(a), Self::Slow(b)) => Self::Slow(a.max(b)),
            (slow @ Self::Slow(_), Self::Admit) | (Self::Admit, slow @ Self::Slow(_)) => slow,
            (Self::Admit, Self::Admit) => Self::Admit,
        }
    }
}
