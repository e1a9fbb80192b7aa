//! What carries and keeps messages below the engine.
//!
//! The native bus is the in-process one. Another broker or a log fits behind the same trait, so
//! that the guard in front of it is the same: only authorized messages go in, and what comes out
//! is a question to the guard again.
//!
//! No method blocks.

mod native;

pub use native::Native;

use crate::clock::Now;
use crate::guard::{Authorized, Stored};
use crate::message::{Message, Publication};
use crate::ticket::Ticket;
use crate::topic::TopicFilter;
use crate::wire::ReasonCode;

/// What a bus carries and keeps; the start-up report names what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each named where it is asked for"
)]
pub struct Keeps {
    /// Messages come back with the author that they were appended with.
    pub author: bool,
    /// An appended message survives the process once its ticket is complete.
    pub durable: bool,
    /// Retained messages are kept and can be read.
    pub retained: bool,
    /// Messages appended here are handed to this broker's own sessions by the engine at once;
    /// otherwise they come back through [`Bus::poll`].
    pub local: bool,
}

/// What became of one appended message.
#[derive(Debug)]
pub enum Appended {
    /// It is as safe as this bus makes it.
    Safe,
    /// It will be; the acknowledgement waits for the ticket.
    Later(Ticket),
    /// It was not taken.
    Refused(ReasonCode),
    /// It was not taken, because of this limit (the configuration key): 0x97, and told to the
    /// observers.
    Full(&'static str),
}

/// Carries and keeps messages.
pub trait Bus: Send + Sync {
    /// Names the bus in logs and metrics.
    fn name(&self) -> &str;

    /// What it keeps.
    fn keeps(&self) -> Keeps;

    /// Takes a batch over, in order; `taken` is called once for each message, with its place in
    /// the batch.
    fn append(
        &self,
        batch: &[Authorized<Publication<'_>>],
        now: Now,
        taken: &mut dyn FnMut(usize, Appended),
    );

    /// Says that some session wants what matches `filter`, or that the last one does no more.
    fn declare(&self, filter: TopicFilter<'_>, wanted: bool);

    /// Retained messages that match, in the order of their topics, after the topic `after`.
    /// Examines at most `budget` topics, so that no filter makes anybody wait for long.
    fn retained(
        &self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        budget: usize,
        now: Now,
    ) -> RetainedPage;

    /// Takes messages that others published, where [`Keeps::local`] is false.
    fn poll(&self, batch: &mut Vec<Stored<Message>>);

    /// Writes everything that lives into the journal again, where this bus keeps it there; `false`
    /// if that was not possible. Part of a compaction round.
    fn rewrite(&self) -> bool {
        true
    }

    /// Drops what has expired; called about once a second.
    fn tend(&self, now: Now);
}

/// Part of a walk over retained messages.
#[derive(Debug, Default)]
pub struct RetainedPage {
    /// What was found.
    pub messages: Vec<Stored<Message>>,
    /// Where to go on; `None` when the walk is complete.
    pub next: Option<Box<str>>,
}
