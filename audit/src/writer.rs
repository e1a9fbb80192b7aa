//! [`Audit`]: events in, records out, and nobody waits.
//!
//! [`Audit::event`] counts or formats the event and pushes it into a queue that is bounded in
//! records and bytes. One thread takes what has gathered, seals it and commits it as a group. The
//! longest a record waits is [`GATHER`] and one sync; [`GROUP`] bytes are taken at once. What the queue cannot take is counted, and
//! the count is recorded as soon as there is room.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Event, Observer, Snapshot, Tally};

use crate::AuditError;
use crate::aggregate::Aggregator;
use crate::batch::Batch;
use crate::record::{Facts, Kind, Record, Sameness, describe};
use crate::store::{Bounds, Store, is_disk_full};

/// How long records gather before they are committed together.
const GATHER: Duration = Duration::from_millis(200);
/// Bytes that are committed without waiting for more: a storm of connects writes megabytes a second,
/// and what has gathered is held twice while it is sealed.
const GROUP: usize = 512 << 10;
/// How long the thread sleeps when nothing happens; summaries are at most this late.
const IDLE: Duration = Duration::from_millis(500);
/// How long after a failed commit the next one is tried.
const RETRY: Duration = Duration::from_secs(1);

/// What happens when the record cannot grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// New connections are refused until there is room; those that live go on, and what they do is
    /// recorded in space that is kept for it.
    #[default]
    RefuseNew,
    /// The oldest file of records is removed; the head then says with which record the store
    /// begins.
    DropOldest,
    /// The program is asked to end, through [`AuditSettings::on_stop`].
    Stop,
}

/// Told once, with the reason, when `on-full = "stop"` applies.
pub type StopHandler = Arc<dyn Fn(&str) + Send + Sync>;

/// Where and how to record.
#[derive(Clone)]
pub struct AuditSettings {
    /// The directory; made with mode 0700 where it is missing. `[audit] path`.
    pub path: PathBuf,
    /// `[audit] on-full`.
    pub on_full: OnFull,
    /// Largest size of all records together, in bytes; at least 64 KiB. Default 1 GiB.
    pub max_bytes: u64,
    /// Size at which a file of records is finished and a new one begins, in bytes; at most a
    /// quarter of `max_bytes`. Default: an eighth of it, at most 64 MiB.
    pub segment_bytes: Option<u64>,
    /// Most records that wait for the writer. Default 16 384.
    pub queue_records: usize,
    /// Most bytes that wait for the writer. Default 8 MiB. The writer holds at most as much again.
    pub queue_bytes: usize,
    /// For [`OnFull::Stop`]; called from the writer's thread.
    pub on_stop: Option<StopHandler>,
    /// The hash of the policy in force from the start; see [`Audit::set_policy_hash`].
    pub policy: Option<String>,
}

impl AuditSettings {
    /// The defaults, in this directory.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            on_full: OnFull::default(),
            max_bytes: 1 << 30,
            segment_bytes: None,
            queue_records: 16_384,
            queue_bytes: 8 << 20,
            on_stop: None,
            policy: None,
        }
    }

    fn bounds(&self) -> Result<Bounds, AuditError> {
        if self.max_bytes < 64 << 10 {
            return Err(AuditError::Settings("max-bytes must be at least 64 KiB"));
        }
        let segment_bytes = self
            .segment_bytes
            .unwrap_or((self.max_bytes / 8).min(64 << 20));
        if segment_bytes == 0 || segment_bytes > self.max_bytes / 4 {
            return Err(AuditError::Settings(
                "segment size must be at most a quarter of max-bytes",
            ));
        }
        if self.queue_records == 0 || self.queue_bytes == 0 {
            return Err(AuditError::Settings("the queue must have room"));
        }
        Ok(Bounds {
            max_bytes: self.max_bytes,
            segment_bytes,
            on_full: self.on_full,
        })
    }
}

impl fmt::Debug for AuditSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditSettings")
            .field("path", &self.path)
            .field("on_full", &self.on_full)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

/// Counters of the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditStats {
    /// Number of the last record on disk.
    pub records: u64,
    /// Bytes of all records that are kept.
    pub bytes: u64,
    /// Events since start that could not be recorded.
    pub lost: u64,
    /// Events since start that were counted into summaries instead of recorded one by one.
    pub counted: u64,
    /// Whether the store has its largest size.
    pub full: bool,
    /// Whether the last attempt to write failed.
    pub failing: bool,
}

/// The record of one broker: an [`Observer`].
pub struct Audit {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    on_full: OnFull,
    queue_records: usize,
    queue_bytes: usize,
    queue: Mutex<Queue>,
    /// There is something in the queue, or an order.
    wake: Condvar,
    /// A flush is done, or the thread has ended.
    done: Condvar,
    aggregator: Mutex<Aggregator>,
    policy: RwLock<Option<Arc<str>>>,
    records: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    counted: AtomicU64,
    full: AtomicBool,
    failing: AtomicBool,
    congested: AtomicBool,
}

#[derive(Default)]
struct Queue {
    records: Batch,
    stop: Option<Now>,
    ended: bool,
    flush_asked: u64,
    flush_done: u64,
}

impl Audit {
    /// Opens the store, checks where it ends, and starts the writer.
    ///
    /// # Errors
    ///
    /// A store that cannot be opened, is in use, or does not verify: then nothing may start.
    pub fn start(settings: AuditSettings) -> Result<Self, AuditError> {
        let bounds = settings.bounds()?;
        let store = Store::open(
            &settings.path,
            bounds,
            settings.policy.as_deref(),
            Now::read(),
        )?;
        let shared = Arc::new(Shared {
            on_full: settings.on_full,
            queue_records: settings.queue_records,
            queue_bytes: settings.queue_bytes,
            queue: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            aggregator: Mutex::new(Aggregator::new()),
            policy: RwLock::new(settings.policy.map(Into::into)),
            records: AtomicU64::new(store.seq()),
            bytes: AtomicU64::new(store.bytes()),
            lost: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            full: AtomicBool::new(store.is_full()),
            failing: AtomicBool::new(false),
            congested: AtomicBool::new(false),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            store,
            pending: Batch::default(),
            lost_told: 0,
            on_stop: settings.on_stop,
            retry_at: None,
        };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::io(settings.path))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The hash of another policy, which is in force from now on; every later record names it.
    pub fn set_policy_hash(&self, hash: String) {
        *self.shared.policy.write() = Some(hash.into());
    }

    /// Waits until everything that was told before is on disk, or writing it failed.
    ///
    /// Blocks: not for the broker's own threads.
    pub fn flush(&self) {
        let mut queue = self.shared.queue.lock();
        queue.flush_asked += 1;
        let ticket = queue.flush_asked;
        self.shared.wake.notify_one();
        while queue.flush_done < ticket && !queue.ended {
            self.shared.done.wait(&mut queue);
        }
    }

    /// Writes the summaries of unfinished minutes, everything that waits, and a last head. What is
    /// told afterwards is lost, and counted.
    ///
    /// Blocks until it is on disk, or writing it failed.
    pub fn stop(&self, now: Now) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        self.shared.queue.lock().stop = Some(now);
        self.shared.wake.notify_one();
        // A panic there is logged by the runtime and leaves a store that verifies.
        let _ = thread.join();
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> AuditStats {
        AuditStats {
            records: self.shared.records.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
            counted: self.shared.counted.load(Ordering::Relaxed),
            full: self.shared.full.load(Ordering::Relaxed),
            failing: self.shared.failing.load(Ordering::Relaxed),
        }
    }
}

impl Observer for Audit {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn event(&self, event: &Event<'_>, now: Now) {
        let mut summary = None;
        if let Some(same) = Sameness::of(event) {
            let noted = self.shared.aggregator.lock().note(&same, now);
            summary = noted.summary;
            if !noted.single {
                self.shared.counted.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let policy = self.shared.policy.read().clone();
        let summary = summary.map(|record| record.under(policy.as_deref()));
        let record = describe(event, policy.as_deref(), now);
        self.shared.push(summary.into_iter().chain([record]));
    }

    fn tally(&self, _who: &Snapshot) -> Option<Box<dyn Tally>> {
        None
    }

    fn can_record(&self) -> bool {
        let shared = &self.shared;
        match shared.on_full {
            OnFull::DropOldest => true,
            OnFull::RefuseNew | OnFull::Stop => {
                !(shared.full.load(Ordering::Relaxed)
                    || shared.failing.load(Ordering::Relaxed)
                    || shared.congested.load(Ordering::Relaxed))
            }
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.stop(Now::read());
    }
}

impl Shared {
    /// Takes the records that fit.
    fn push(&self, records: impl IntoIterator<Item = Record>) {
        let mut queue = self.queue.lock();
        let was_empty = queue.records.is_empty();
        let was_enough = self.is_enough(&queue);
        for record in records {
            let bytes = queue.records.bytes() + record.text.len();
            let no_room = queue.records.len() >= self.queue_records || bytes > self.queue_bytes;
            if no_room || queue.ended || queue.stop.is_some() {
                self.lost.fetch_add(1, Ordering::Relaxed);
                self.congested.store(true, Ordering::Relaxed);
            } else {
                queue.records.push(record.as_ref());
            }
        }
        let enough = self.is_enough(&queue);
        let wake = (was_empty && !queue.records.is_empty()) || (enough && !was_enough);
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Whether there is enough for a commit. Half of the queue is for what comes meanwhile.
    fn is_enough(&self, queue: &Queue) -> bool {
        queue.records.len() > self.queue_records / 2
            || queue.records.bytes() > GROUP.min(self.queue_bytes / 2)
    }

    /// Sleeps until there is work, lets it gather as long as there is room, and takes it all.
    fn take(&self, pending: &mut Batch, retry_at: Option<Instant>) -> Orders {
        let mut queue = self.queue.lock();
        let urgent = |queue: &Queue| {
            queue.stop.is_some()
                || queue.flush_asked > queue.flush_done
                || (retry_at.is_none() && self.is_enough(queue))
        };
        if queue.records.is_empty() && !urgent(&queue) {
            self.wake.wait_for(&mut queue, IDLE);
        }
        let until = Instant::now() + if retry_at.is_some() { RETRY } else { GATHER };
        while !urgent(&queue) && (retry_at.is_some() || !queue.records.is_empty()) {
            if self.wake.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        // While writing fails the thread keeps what it has, and the queue fills up.
        if pending.is_empty() {
            std::mem::swap(pending, &mut queue.records);
            self.congested.store(false, Ordering::Relaxed);
        }
        Orders {
            stop: queue.stop,
            flush: queue.flush_asked,
        }
    }
}

struct Orders {
    stop: Option<Now>,
    flush: u64,
}

/// The thread's side.
struct Writer {
    shared: Arc<Shared>,
    store: Store,
    /// Taken from the queue and not sealed yet.
    pending: Batch,
    /// Losses that a record states.
    lost_told: u64,
    on_stop: Option<StopHandler>,
    /// Set after a failure.
    retry_at: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        loop {
            let orders = self.shared.take(&mut self.pending, self.retry_at);
            let now = orders.stop.unwrap_or_else(Now::read);
            let summaries = match orders.stop {
                Some(now) => self.shared.aggregator.lock().finish(now),
                // While writing fails they stay in the table, which is bounded.
                None if self.retry_at.is_some() => Vec::new(),
                None => self.shared.aggregator.lock().due(now),
            };
            let policy = self.shared.policy.read().clone();
            let summaries = summaries.into_iter();
            for record in summaries.map(|record| record.under(policy.as_deref())) {
                self.pending.push(record.as_ref());
            }
            self.write(orders.stop.is_some(), now);
            if orders.stop.is_some() {
                // What a failing disk did not take.
                let lost = self.pending.len() as u64;
                self.shared.lost.fetch_add(lost, Ordering::Relaxed);
                return;
            }
            self.shared.queue.lock().flush_done = orders.flush;
            self.shared.done.notify_all();
        }
    }

    fn write(&mut self, closing: bool, now: Now) {
        let mut lost = 0;
        let mut written = self.seal(now, &mut lost);
        if written.is_ok() {
            written = self.store.commit(closing, now);
        }
        self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        let full = self.store.is_full() || lost > 0;
        self.shared.full.store(full, Ordering::Relaxed);
        self.shared
            .failing
            .store(written.is_err(), Ordering::Relaxed);
        self.shared
            .bytes
            .store(self.store.bytes(), Ordering::Relaxed);
        match written {
            Ok(()) => {
                self.shared
                    .records
                    .store(self.store.seq(), Ordering::Relaxed);
                self.retry_at = None;
                if full {
                    self.ask_to_stop("the audit record has its largest size");
                }
            }
            Err(error) => {
                if self.retry_at.replace(Instant::now()).is_none() {
                    tracing::error!(%error, "the audit record cannot be written");
                }
                if is_disk_full(&error) && self.shared.on_full == OnFull::DropOldest {
                    // The next attempt may find the room; a second failure is reported like the first.
                    let _ = self.store.drop_oldest(now);
                }
                self.ask_to_stop(&format!("the audit record cannot be written: {error}"));
            }
        }
    }

    /// Seals what is pending; counts in `lost` what no longer fits.
    fn seal(&mut self, now: Now, lost: &mut u64) -> std::io::Result<()> {
        let total = self.shared.lost.load(Ordering::Relaxed);
        if total > self.lost_told {
            let mut facts = Facts::new(Kind::Summary, now.wall);
            facts
                .text("of", "lost")
                .text("rule", "audit: events that could not be recorded")
                .number("count", total - self.lost_told);
            let policy = self.shared.policy.read().clone();
            let record = facts.finish().under(policy.as_deref());
            if self.store.append(record.as_ref(), now)? {
                self.lost_told = total;
            }
        }
        self.store.expect(self.pending.len(), self.pending.bytes());
        while let Some(record) = self.pending.front() {
            if !self.store.append(record, now)? {
                *lost += 1;
            }
            self.pending.pop_front();
        }
        Ok(())
    }

    fn ask_to_stop(&mut self, reason: &str) {
        if self.shared.on_full == OnFull::Stop
            && let Some(stop) = self.on_stop.take()
        {
            stop(reason);
        }
    }
}

impl Drop for Writer {
    /// However the thread ends, nobody waits for it and nobody believes that it still writes.
    fn drop(&mut self) {
        self.shared.failing.store(true, Ordering::Relaxed);
        self.shared.queue.lock().ended = true;
        self.shared.done.notify_all();
    }
}
