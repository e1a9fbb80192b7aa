//! The append-only segmented log underneath the engine.
//!
//! To the log a record is a kind and some bytes; what they mean is the engine's affair. What
//! holds, as long as the disk keeps what it says it has synced:
//!
//! 1. **Acknowledged is kept.** A ticket completes as a success only after the records it stands
//!    for were written and synced ([`Mode::Fsync`]). After a failed write or sync nothing
//!    completes as a success any more, and nothing is appended: nobody knows what is on the disk.
//! 2. **A prefix, and whole groups.** What [`Log::open`] replays is a prefix of what was appended,
//!    in order, and each call of [`Log::append`] is there with all its records or with none.
//! 3. **No silent loss.** The torn end of the last write is cut off, and [`Log::recovered`] says
//!    so. Any other damage, and a missing segment, is an error that says where and what is lost;
//!    [`repair`] is for the operator who has read it.
//! 4. **Bounded.** What waits in memory and what lies on disk have limits; [`Full`] is the answer.
//! 5. **Nothing blocks** but the writer thread: appending is a copy into a shared buffer under a
//!    short lock. All that gathers while one write is under way goes out with the next, so the
//!    cost of a sync is shared by all connections.
//!
//! With a [`Key`] everything but sizes and times is encrypted and authenticated; an attacker who can
//! write the files can still put an old state of the whole directory back.
//!
//! Not here: which records there are and which of them still live. Space comes back by rounds that
//! the owner drives: [`Log::begin_round`], appending again what lives, [`Log::finish_round`].

mod check;
mod disk;
mod format;
mod key;
mod open;
pub(crate) mod property;
mod segment;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;

use crate::ticket::Ticket;

pub(crate) use check::check_with;
pub use check::{Problem, Report, check, repair};
pub use disk::{Disk, DiskFile, FileSystem};
pub use key::Key;
pub use open::{Recovered, Torn};
pub use writer::Batch;
use writer::{Room, Shared};

/// When records are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Tickets complete after the sync that covers their records.
    Fsync,
    /// Written and synced at least this often; there are no tickets. A crash loses at most what was
    /// appended in the last interval and the time that one write and sync take.
    Interval(Duration),
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the segments lie. Made if it is not there; nothing else belongs in it.
    pub dir: PathBuf,
    /// When records are on disk.
    pub mode: Mode,
    /// A segment that has this many bytes is followed by the next. One segment at a time is read
    /// into memory at start.
    pub segment_bytes: u64,
    /// Bound of what lies on disk. [`Log::append`] is refused from a third of it on and
    /// [`Log::append_release`] from half of it, so that a round, which for a while needs space for all
    /// that lives a second time, has room.
    pub max_bytes: u64,
    /// Bytes that may wait in memory for the disk; [`Log::append`] is refused from there on, and
    /// [`Log::append_release`] from twice as much.
    pub max_waiting: u64,
    /// Encrypts all records at rest.
    pub key: Option<Key>,
}

impl Options {
    /// The defaults: synced before acknowledged, segments of 64 MiB, 8 GiB in all, 64 MiB in memory,
    /// not encrypted.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            mode: Mode::Fsync,
            segment_bytes: 64 << 20,
            max_bytes: 8 << 30,
            max_waiting: 64 << 20,
            key: None,
        }
    }
}

/// Takes a record at start: its kind and its bytes, or says why it cannot be understood.
pub type Replay<'a> = dyn FnMut(u8, &[u8]) -> Result<(), String> + 'a;

/// The log. Clones are handles to the same one; when the last is dropped it is stopped.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    recovered: Recovered,
    dir: PathBuf,
}

impl Log {
    /// Opens the log in `options.dir`, or begins one: locks the directory, hands every record to
    /// `replay` in order of their appending, cuts off a torn tail, and starts the writer thread.
    ///
    /// # Errors
    ///
    /// Another process has the directory; a segment is damaged, missing, of another format version
    /// or encrypted with another key; `replay` refused a record. Nothing was changed then, but what
    /// `replay` was given before must be thrown away.
    pub fn open(options: &Options, replay: &mut Replay<'_>) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(FileSystem), options, replay)
    }

    /// [`Self::open`], with another way to write. For tests that break it.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        options: &Options,
        replay: &mut Replay<'_>,
    ) -> Result<Self, StoreError> {
        let (writer, shared, recovered) = open::open(disk, options, replay)?;
        let thread = std::thread::Builder::new()
            .name("portcullis-store".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| StoreError::io(&options.dir, source))?;
        Ok(Self(Arc::new(Handle {
            shared,
            thread: Mutex::new(Some(thread)),
            recovered,
            dir: options.dir.clone(),
        })))
    }

    /// Appends the records that `write` pushes, as one group: together, or after a crash not at
    /// all, and with nobody else's between them. `write` runs under the lock of the buffer, so what
    /// it decides about earlier records is still true when its own are appended; it must not call
    /// the log again, nor wait for anything.
    ///
    /// Returns a ticket that completes when the group is as safe as the mode makes it; `None` if it
    /// already is ([`Mode::Interval`]), or if nothing was pushed.
    ///
    /// # Errors
    ///
    /// There is no room, or the log has failed. `write` did not run then.
    pub fn append(&self, write: &mut dyn FnMut(&mut Batch<'_>)) -> Result<Option<Ticket>, Full> {
        self.0.shared.append(Room::New, write)
    }

    /// [`Self::append`] for records that let space come back: what says that a message is done with,
    /// and what a round appends again. They may use half of the space, and all of it during a round.
    ///
    /// # Errors
    ///
    /// As [`Self::append`]: that much lies on disk already, twice as much waits, or the log has failed.
    pub fn append_release(
        &self,
        write: &mut dyn FnMut(&mut Batch<'_>),
    ) -> Result<Option<Ticket>, Full> {
        self.0.shared.append(Room::Release, write)
    }

    /// Whether [`Self::append`] would now be refused, and why.
    #[must_use]
    pub fn is_full(&self) -> Option<Full> {
        self.0.shared.is_full()
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.0.shared.waiting()
    }

    /// A ticket for all that was appended so far; `None` if nothing of it waits for the disk, or in
    /// [`Mode::Interval`].
    ///
    /// # Errors
    ///
    /// The log has failed.
    pub fn barrier(&self) -> Result<Option<Ticket>, Full> {
        self.0.shared.barrier()
    }

    /// The present round of compaction. The first after opening is 1; what was replayed belongs to
    /// it.
    #[must_use]
    pub fn round(&self) -> u32 {
        self.0.shared.round()
    }

    /// Bytes in all segments and in the buffer.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.shared.size()
    }

    /// Begins a round: what is appended from now on goes to new segments. Returns its number. Called
    /// from within `write` of [`Self::append`] it would wait for itself for ever.
    #[must_use]
    pub fn begin_round(&self) -> u32 {
        self.0.shared.begin_round()
    }

    /// Says that all that lives has been appended since [`Self::begin_round`]. The writer thread
    /// deletes the segments before the round's first once all that was appended so far is synced.
    pub fn finish_round(&self) {
        self.0.shared.finish_round();
    }

    /// Says that the round will not be finished: what is older stays.
    pub fn give_up_round(&self) {
        self.0.shared.give_up_round();
    }

    /// Why the log has failed. Then every ticket that was open has failed, and nothing can be
    /// appended until the process is started again.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.0.shared.failed()
    }

    /// What opening found.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        &self.0.recovered
    }

    /// Writes and syncs all that was appended and ends the writer thread. Nothing can be appended
    /// afterwards.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Handle {
    fn stop(&self) {
        self.shared.begin_stop();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has been noted as a failure by its own guard.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut log = f.debug_struct("Log");
        log.field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Full {
    /// The log is as large as its configuration allows.
    #[error("the store has reached its configured size")]
    Budget,
    /// The file system has no room. Writing goes on by itself when it has some again.
    #[error("the file system of the store is full")]
    FileSystem,
    /// The disk is slower than what is appended.
    #[error("too much waits to be written to the store")]
    Buffer,
    /// A write or a sync failed, or the log was stopped.
    #[error("the store has failed")]
    Failed,
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refused something.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process has the store.
    #[error("{}: another process has this store open", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// A key file of the wrong form.
    #[error("{}: not a key: 32 bytes, or 64 hexadecimal digits, are needed", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
    },
    /// A key file that others may read or write.
    #[error("{}: mode {mode:o}: others than its owner may use the key; chmod 600", path.display())]
    KeyMode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Written by another version of the program.
    #[error(
        "{}: format version {found} is unknown to this program, which knows version {}",
        file.display(), format::VERSION
    )]
    Version {
        /// The segment.
        file: PathBuf,
        /// What it says.
        found: u32,
    },
    /// The store is encrypted and no key is configured.
    #[error("{}: the store is encrypted and there is no key", file.display())]
    NeedsKey {
        /// The segment.
        file: PathBuf,
    },
    /// A key is configured and the store is not encrypted.
    #[error("{}: a key is configured, but the store is not encrypted", file.display())]
    NotEncrypted {
        /// The segment.
        file: PathBuf,
    },
    /// The store is encrypted with another key.
    #[error("{}: the store is encrypted with another key", file.display())]
    WrongKey {
        /// The segment.
        file: PathBuf,
    },
    /// Damage that no crash explains.
    #[error("{}: damaged at byte {offset}: {what}; {lost}", file.display())]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// The first byte that makes no sense.
        offset: u64,
        /// What is wrong.
        what: &'static str,
        /// What cannot be read because of it.
        lost: String,
    },
    /// A segment between others is not there.
    #[error("{}: this segment is missing, with all its records", file.display())]
    Missing {
        /// The segment.
        file: PathBuf,
    },
    /// The owner of the log did not understand a record.
    #[error("{}: record refused: {reason} (group {group})", file.display())]
    Refused {
        /// The segment.
        file: PathBuf,
        /// The number of the group in it, from 0.
        group: u64,
        /// What the owner said.
        reason: String,
    },
}

impl StoreError {
    /// Something that had to be appended was not.
    pub(crate) fn not_written(dir: &Path, why: impl fmt::Display) -> Self {
        Self::io(dir, io::Error::other(why.to_string()))
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
