//! The shared buffer, and the thread that brings it to disk.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::disk::segment_path;
use super::format::{BATCH, Codec, GROUP};
use super::segment::{Place, Segment};
use super::{Full, Mode, Options};
use crate::ticket::{Hold, Ticket};

/// In interval mode, as much as this is written before its time.
const WRITE_EARLY: usize = 1 << 20;
/// A buffer that grew larger is given back.
const KEPT_CAPACITY: usize = 4 << 20;
/// How often a full file system is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// What the owner and the writer thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    mode: Mode,
    max_bytes: u64,
    max_waiting: u64,
    encrypted: bool,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that are true or not each by itself"
)]
struct State {
    /// Begins with room for a batch header, so that header and groups are one write.
    buffer: Vec<u8>,
    /// What to do before the group at an offset of the buffer, in order.
    marks: Vec<(usize, Mark)>,
    /// The ticket of all groups in the buffer.
    pending: Option<(Ticket, Pending)>,
    /// The ticket of what is being written.
    writing: Option<Ticket>,
    /// Bytes that the thread took and has not accounted for.
    in_flight: u64,
    /// Bytes in segments.
    on_disk: u64,
    round: u32,
    /// A round is on its way.
    compacting: bool,
    failed: Option<String>,
    file_system_full: bool,
    stopping: bool,
    /// The thread waits and must be woken.
    idle: bool,
}

/// What there must be room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Something new.
    New,
    /// What lets space come back, or is part of a round.
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Begin,
    Finish,
}

/// A hold that fails its ticket unless somebody says that it was kept: also when a thread unwinds.
struct Pending(Option<Hold>);

impl Pending {
    fn kept(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(hold) = self.0.take() {
            hold.fail();
        }
    }
}

/// Takes the records of one group.
#[derive(Debug)]
pub struct Batch<'a> {
    buffer: &'a mut Vec<u8>,
    overflow: bool,
    round: u32,
}

impl Batch<'_> {
    /// The round that these records belong to; see [`super::Log::round`].
    #[must_use]
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Pushes a record. `write` appends its bytes, and only appends.
    pub fn record(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.buffer.push(kind);
        let at = self.buffer.len();
        self.buffer.extend([0; 4]);
        write(self.buffer);
        self.overflow |= !put_length(self.buffer, at, at + 4);
    }
}

/// Puts the number of bytes from `from` to the end into the four bytes at `at`.
fn put_length(buffer: &mut [u8], at: usize, from: usize) -> bool {
    let length = buffer.len().checked_sub(from);
    let length = length.and_then(|length| u32::try_from(length).ok());
    let place = buffer.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
    if let (Some(length), Some(place)) = (length, place) {
        *place = length.to_le_bytes();
        return true;
    }
    false
}

/// Takes back what a group has put into the buffer, unless it is kept.
struct Undo<'a> {
    buffer: &'a mut Vec<u8>,
    length: usize,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        self.buffer.truncate(self.length);
    }
}

impl Shared {
    pub(super) fn new(options: &Options, on_disk: u64) -> Self {
        Self {
            state: Mutex::new(State {
                buffer: vec![0; BATCH],
                marks: Vec::new(),
                pending: None,
                writing: None,
                in_flight: 0,
                on_disk,
                round: 1,
                compacting: false,
                failed: None,
                file_system_full: false,
                stopping: false,
                idle: false,
            }),
            wake: Condvar::new(),
            mode: options.mode,
            max_bytes: options.max_bytes,
            max_waiting: options.max_waiting,
            encrypted: options.key.is_some(),
        }
    }

    pub(super) fn append(
        &self,
        what: Room,
        write: &mut dyn FnMut(&mut Batch<'_>),
    ) -> Result<Option<Ticket>, Full> {
        let mut state = self.state.lock();
        self.room(&state, what)?;
        let start = state.buffer.len();
        let state = &mut *state;
        let mut undo = Undo {
            length: start,
            buffer: &mut state.buffer,
        };
        undo.buffer.extend([0; GROUP]);
        let mut batch = Batch {
            buffer: undo.buffer,
            overflow: false,
            round: state.round,
        };
        write(&mut batch);
        let overflow = batch.overflow;
        if undo.buffer.len() <= start + GROUP {
            return Ok(None);
        }
        let trailer = Codec::trailer(self.encrypted);
        undo.buffer.resize(undo.buffer.len() + trailer, 0);
        if overflow || !put_length(undo.buffer, start, start + GROUP) {
            // More than 4 GiB at once: never taken, whatever room there is.
            return Err(Full::Buffer);
        }
        undo.length = undo.buffer.len();
        drop(undo);
        let ticket = match self.mode {
            Mode::Fsync => Some(state.ticket()),
            Mode::Interval(_) => None,
        };
        let early = match self.mode {
            Mode::Fsync => true,
            Mode::Interval(_) => start == BATCH || state.buffer.len() >= WRITE_EARLY,
        };
        if early {
            self.wake(state);
        }
        Ok(ticket)
    }

    fn wake(&self, state: &mut State) {
        if mem::take(&mut state.idle) {
            self.wake.notify_one();
        }
    }

    /// A round that begins with all that may lie on disk then can write all of it again.
    fn room(&self, state: &State, what: Room) -> Result<(), Full> {
        let (limit, waiting) = match what {
            Room::New => (self.max_bytes / 3, self.max_waiting),
            Room::Release if state.compacting => (self.max_bytes, 2 * self.max_waiting),
            Room::Release => (self.max_bytes / 2, 2 * self.max_waiting),
        };
        if state.failed.is_some() || state.stopping {
            Err(Full::Failed)
        } else if state.file_system_full && what == Room::New {
            Err(Full::FileSystem)
        } else if state.waiting() >= waiting {
            Err(Full::Buffer)
        } else if state.size() >= limit {
            Err(Full::Budget)
        } else {
            Ok(())
        }
    }

    pub(super) fn is_full(&self) -> Option<Full> {
        self.room(&self.state.lock(), Room::New).err()
    }

    pub(super) fn waiting(&self) -> u64 {
        self.state.lock().waiting()
    }

    pub(super) fn barrier(&self) -> Result<Option<Ticket>, Full> {
        let state = self.state.lock();
        if state.failed.is_some() {
            return Err(Full::Failed);
        }
        let pending = state.pending.as_ref().map(|(ticket, _)| ticket.clone());
        Ok(pending.or_else(|| state.writing.clone()))
    }

    pub(super) fn round(&self) -> u32 {
        self.state.lock().round
    }

    pub(super) fn size(&self) -> u64 {
        self.state.lock().size()
    }

    pub(super) fn begin_round(&self) -> u32 {
        let mut state = self.state.lock();
        state.round = state.round.saturating_add(1);
        state.compacting = true;
        self.mark(&mut state, Mark::Begin);
        state.round
    }

    pub(super) fn finish_round(&self) {
        let mut state = self.state.lock();
        state.compacting = false;
        self.mark(&mut state, Mark::Finish);
    }

    pub(super) fn give_up_round(&self) {
        self.state.lock().compacting = false;
    }

    fn mark(&self, state: &mut State, mark: Mark) {
        let at = state.buffer.len();
        if state.failed.is_none() && state.marks.last() != Some(&(at, mark)) {
            state.marks.push((at, mark));
        }
        self.wake(state);
    }

    pub(super) fn failed(&self) -> Option<String> {
        self.state.lock().failed.clone()
    }

    pub(super) fn begin_stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        self.wake.notify_one();
    }

    fn fail(&self, reason: String) {
        tracing::error!(%reason, "the store has failed: nothing is acknowledged any more");
        let mut state = self.state.lock();
        state.failed = Some(reason);
        state.buffer = Vec::new();
        state.marks = Vec::new();
        let pending = state.pending.take();
        drop(state);
        // Wakes whoever waits, so not under the lock.
        drop(pending);
    }

    /// The file system is full. Waits a while; `false`: do not try again.
    fn wait_for_space(&self) -> bool {
        let mut state = self.state.lock();
        if !mem::replace(&mut state.file_system_full, true) {
            tracing::error!("the file system of the store is full: waiting for room");
        }
        if !state.stopping {
            self.wake.wait_for(&mut state, RETRY);
        }
        !state.stopping
    }
}

impl State {
    fn waiting(&self) -> u64 {
        self.in_flight + self.buffer.len().saturating_sub(BATCH) as u64
    }

    fn size(&self) -> u64 {
        self.on_disk + self.waiting()
    }

    fn has_work(&self) -> bool {
        self.buffer.len() > BATCH || !self.marks.is_empty()
    }

    fn ticket(&mut self) -> Ticket {
        let (ticket, _) = self.pending.get_or_insert_with(|| {
            let (ticket, hold) = Ticket::new();
            (ticket, Pending(Some(hold)))
        });
        ticket.clone()
    }
}

/// The thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    place: Place,
    segment_bytes: u64,
    segment: Segment,
    /// The oldest segment that counts.
    base: u64,
    /// The first segment of the present round, if one was begun.
    round: Option<u64>,
    /// The segments that exist, the current one not counted, and their bytes.
    old: Vec<(u64, u64)>,
    /// In interval mode: when what was written must be synced.
    deadline: Option<Instant>,
    /// The lock on the directory, given back when the thread has ended.
    _locked: super::disk::Locked,
}

/// What the thread takes out of the shared state at once.
struct Work {
    buffer: Vec<u8>,
    marks: Vec<(usize, Mark)>,
    pending: Option<Pending>,
    sync: bool,
    stop: bool,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        place: Place,
        segment_bytes: u64,
        segment: Segment,
        base: u64,
        old: Vec<(u64, u64)>,
        locked: super::disk::Locked,
    ) -> Self {
        Self {
            shared,
            place,
            segment_bytes,
            segment,
            base,
            round: None,
            old,
            deadline: None,
            _locked: locked,
        }
    }

    /// Writes until it is told to stop, or cannot.
    pub(super) fn run(mut self) {
        let guard = Unwinding(Arc::clone(&self.shared));
        let mut spare = Vec::new();
        loop {
            let mut work = self.take(mem::take(&mut spare));
            if let Err(error) = self.process(&mut work) {
                self.shared.fail(error.to_string());
                break;
            }
            self.account(&mut work);
            spare = work.buffer;
            if work.stop {
                break;
            }
        }
        drop(guard);
    }

    /// Waits for work and takes all of it.
    fn take(&mut self, spare: Vec<u8>) -> Work {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        self.wait(&mut state);
        state.idle = false;
        let stop = state.stopping;
        let now = Instant::now();
        let sync = match self.shared.mode {
            Mode::Fsync => true,
            Mode::Interval(_) => stop || self.deadline.is_some_and(|deadline| deadline <= now),
        };
        if sync {
            self.deadline = None;
        }
        let buffer = mem::replace(&mut state.buffer, spare);
        state.buffer.clear();
        state.buffer.resize(BATCH, 0);
        state.in_flight = buffer.len().saturating_sub(BATCH) as u64;
        let (ticket, pending) = state.pending.take().unzip();
        state.writing = ticket;
        Work {
            buffer,
            marks: mem::take(&mut state.marks),
            pending,
            sync,
            stop,
        }
    }

    fn wait(&mut self, state: &mut MutexGuard<'_, State>) {
        loop {
            if state.stopping || !state.marks.is_empty() {
                return;
            }
            let interval = match self.shared.mode {
                Mode::Fsync if state.has_work() => return,
                Mode::Fsync => None,
                Mode::Interval(interval) => Some(interval),
            };
            if let (None, Some(interval), true) = (self.deadline, interval, state.has_work()) {
                self.deadline = Some(Instant::now() + interval);
            }
            if interval.is_some() && state.buffer.len() >= WRITE_EARLY {
                return;
            }
            state.idle = true;
            match self.deadline {
                None => self.shared.wake.wait(state),
                Some(deadline) => {
                    if self.shared.wake.wait_until(state, deadline).timed_out() {
                        return;
                    }
                }
            }
        }
    }

    fn process(&mut self, work: &mut Work) -> io::Result<()> {
        let mut marks = mem::take(&mut work.marks).into_iter().peekable();
        let end = work.buffer.len();
        let (mut from, mut at) = (BATCH, BATCH);
        loop {
            if let Some((_, mark)) = marks.next_if(|(offset, _)| *offset <= at) {
                self.write(&mut work.buffer, from, at)?;
                from = at;
                match mark {
                    Mark::Begin => self.begin_round()?,
                    Mark::Finish => self.finish_round()?,
                }
                continue;
            }
            if at >= end {
                break;
            }
            let group = work.buffer.get_mut(at..).unwrap_or_default();
            let waiting = (at - from + BATCH) as u64;
            if !self.segment.is_empty() && self.segment.length() + waiting >= self.segment_bytes {
                self.write(&mut work.buffer, from, at)?;
                from = at;
                self.rotate()?;
                continue;
            }
            at += self.segment.seal(group)?;
        }
        self.write(&mut work.buffer, from, at)?;
        if work.stop {
            let shared = Arc::clone(&self.shared);
            self.segment.finish(&mut || shared.wait_for_space())?;
        } else if work.sync {
            self.segment.sync()?;
        }
        Ok(())
    }

    /// Writes the sealed groups between two offsets. What stands before the first is written
    /// already, so there is room for the header.
    fn write(&mut self, buffer: &mut [u8], from: usize, to: usize) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        let batch = from
            .checked_sub(BATCH)
            .and_then(|start| buffer.get_mut(start..to));
        let batch = batch.ok_or_else(|| io::Error::other("offsets outside the buffer"))?;
        let shared = Arc::clone(&self.shared);
        self.segment.write(batch, &mut || shared.wait_for_space())
    }

    /// Ends the current segment for good and begins the next.
    fn rotate(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let wait = &mut || shared.wait_for_space();
        self.segment.finish(wait)?;
        let next = self.segment.number() + 1;
        let segment = self.place.create(next, self.base, wait)?;
        let done = mem::replace(&mut self.segment, segment);
        self.old.push((done.number(), done.length()));
        Ok(())
    }

    fn begin_round(&mut self) -> io::Result<()> {
        if !self.segment.is_empty() {
            self.rotate()?;
        }
        self.round = Some(self.segment.number());
        Ok(())
    }

    /// A new segment says in its header that older ones no longer count; only then they go. So
    /// whatever part of them a crash leaves behind is known to be superfluous.
    fn finish_round(&mut self) -> io::Result<()> {
        let Some(first) = self.round.take() else {
            return Ok(());
        };
        self.base = first;
        self.rotate()?;
        let (gone, old) = mem::take(&mut self.old)
            .into_iter()
            .partition(|(number, _)| *number < first);
        self.old = old;
        let gone: Vec<_> = gone;
        for (number, _) in gone {
            let path = segment_path(&self.place.dir, number);
            if let Err(error) = self.place.disk.remove(&path) {
                // Harmless: opening removes it.
                tracing::warn!(path = %path.display(), %error, "an old segment stays");
            }
        }
        Ok(())
    }

    /// Tells everybody what is safe now.
    fn account(&mut self, work: &mut Work) {
        if work.buffer.capacity() > KEPT_CAPACITY {
            work.buffer = Vec::new();
        }
        if let (Mode::Interval(interval), None, false) =
            (self.shared.mode, self.deadline, work.sync || work.stop)
        {
            self.deadline = Some(Instant::now() + interval);
        }
        let old: u64 = self.old.iter().map(|(_, length)| length).sum();
        let mut state = self.shared.state.lock();
        state.on_disk = old + self.segment.length();
        state.in_flight = 0;
        state.file_system_full = false;
        state.writing = None;
        drop(state);
        // Wakes whoever waits, so not under the lock.
        if let Some(pending) = work.pending.take() {
            pending.kept();
        }
    }
}

/// Turns a panic of the thread into a failure of the log.
struct Unwinding(Arc<Shared>);

impl Drop for Unwinding {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer thread panicked".to_owned());
        }
    }
}
