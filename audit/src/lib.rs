//! Can we prove it? The tamper-evident record of what the broker decided.
//!
//! What holds, against whom:
//!
//! - **Whoever can change the files but not the key** cannot change, add, remove or reorder a
//!   record that the signed head covers without [`verify`] saying so. The head is at most a second
//!   behind the records.
//! - **Whoever floods the broker** cannot flood the record: equal refusals are counted
//!   (`aggregate`), texts are cut, the store has a largest size and a defined answer at it
//!   ([`OnFull`]), and losses are counted and recorded.
//! - **Whoever chooses a client id or a topic** cannot forge a line: text is escaped, one record
//!   is one line.
//! - **The broker is never held up**: [`Audit`] takes facts into a bounded queue and one thread
//!   writes them.
//!
//! What does not hold: an attacker who has the key and the files can write another history.
//! Keep a copy of `audit.pub` and of a head elsewhere; [`verify_with`] takes the copy.
//!
//! The format is in `docs/audit.md`. Not here: what is a refusal (core), which commands show the
//! record (the program).

mod aggregate;
mod batch;
mod chain;
mod query;
mod record;
mod store;
mod verify;
mod writer;

use std::path::PathBuf;

use thiserror::Error;

pub use chain::PublicKey;
pub use query::{Entry, Filter, Format, Query, export, query};
pub use verify::{Fault, Report, Status, verify, verify_with};
pub use writer::{Audit, AuditSettings, AuditStats, OnFull, StopHandler};

/// Why an audit store cannot be opened, read or verified.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file system said no.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
    /// Another process has the store open.
    #[error("{path} is in use by another broker")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The key file is missing, damaged, or does not fit the store.
    #[error("{path}: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        reason: &'static str,
    },
    /// The existing records do not verify, so they are not continued.
    #[error(
        "the record is broken: {0}; keep the directory as evidence and give [audit] path another one"
    )]
    Broken(Fault),
    /// A setting that cannot work.
    #[error("[audit] {0}")]
    Settings(&'static str),
}

impl AuditError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}
