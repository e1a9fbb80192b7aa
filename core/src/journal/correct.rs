//! The calendar of a store that was written while the clock stood in the future, put right by an
//! operator.

use std::path::PathBuf;

use crate::store::{Log, Mode, Options, StoreError};

use super::codec::Put as _;
use super::kind;
use super::recover::Recovery;

/// The calendar is recorded once a minute: what expired since then stays expired, too.
const RECORDED: u64 = 60_000;

/// A correction that can be made; until it is dropped nobody else can open the store.
#[derive(Debug)]
pub struct Correction {
    /// What the calendar of the store says, milliseconds since the Unix epoch.
    pub from: u64,
    /// Where it is to go on, milliseconds since the Unix epoch.
    pub to: u64,
    /// How far the store's time is then ahead of the calendar, milliseconds.
    ahead: u64,
    log: Log,
    dir: PathBuf,
}

/// Looks whether the calendar of a store is ahead of `system`, in milliseconds since the Unix epoch.
/// `None`: it is not. The broker must not be running on the store.
///
/// # Errors
///
/// A store that is damaged or in use, or has records that are not understood.
pub fn correct_clock(options: &Options, system: u64) -> Result<Option<Correction>, StoreError> {
    let options = Options {
        mode: Mode::Fsync,
        ..options.clone()
    };
    let mut recovery = Recovery::default();
    let log = Log::open(&options, &mut |kind, bytes| recovery.apply(kind, bytes))?;
    let from = recovery.time().saturating_sub(recovery.ahead());
    Ok((from > system).then(|| Correction {
        from,
        to: system,
        ahead: (recovery.time() + RECORDED).saturating_sub(system),
        log,
        dir: options.dir,
    }))
}

impl Correction {
    /// Makes it. Nothing that has expired lives again: the time by which stored messages, wills and
    /// sessions expire goes on from where it is, and is from now on ahead of the calendar. So each
    /// keeps what it has left.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn make(self) -> Result<(), StoreError> {
        let Self {
            ahead, log, dir, ..
        } = self;
        let written = log.append_release(&mut |batch| {
            batch.record(kind::AHEAD, |out| out.u64(ahead));
        });
        log.stop();
        match (written, log.failed()) {
            (Ok(_), None) => Ok(()),
            (Ok(_), Some(reason)) => Err(StoreError::not_written(&dir, reason)),
            (Err(full), _) => Err(StoreError::not_written(&dir, full)),
        }
    }
}
