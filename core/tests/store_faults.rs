//! A disk that fails: nothing is acknowledged that is not on it, and nothing goes on as if.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use portcullis_core::store::{Disk, DiskFile, FileSystem, Full, Log, Mode, Options};
use portcullis_core::ticket::{Progress, Ticket};

/// What a broken disk does, by the name of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Write(ErrorKind),
    Sync,
    Create,
    Rename,
    SyncDir,
}

#[derive(Default)]
struct Faults {
    /// After so many operations of its kind, for as many.
    next: Mutex<Option<(Fault, u32, u32)>>,
    short: bool,
    /// All that happened, in order.
    journal: Mutex<Vec<String>>,
    waited: AtomicU32,
}

impl Faults {
    fn hit(&self, is: impl Fn(Fault) -> bool, name: &str) -> io::Result<()> {
        self.journal.lock().push(name.to_owned());
        let mut next = self.next.lock();
        if let Some((fault, skip, times)) = next.as_mut().filter(|(fault, ..)| is(*fault)) {
            if *skip > 0 {
                *skip -= 1;
            } else if *times > 0 {
                *times -= 1;
                self.waited.fetch_add(1, Ordering::Relaxed);
                return Err(match fault {
                    Fault::Write(kind) => (*kind).into(),
                    Fault::Sync | Fault::Create | Fault::Rename | Fault::SyncDir => {
                        io::Error::other("input/output error")
                    }
                });
            }
        }
        Ok(())
    }
}

struct Broken(Arc<Faults>);

struct BrokenFile(Arc<Faults>, Box<dyn DiskFile>);

impl Disk for Broken {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.hit(|fault| fault == Fault::Create, "create")?;
        let file = FileSystem.create(path)?;
        Ok(Box::new(BrokenFile(Arc::clone(&self.0), file)))
    }

    fn cut(&self, path: &Path, length: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = FileSystem.cut(path, length)?;
        Ok(Box::new(BrokenFile(Arc::clone(&self.0), file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.hit(|fault| fault == Fault::Rename, "rename")?;
        FileSystem.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.hit(|_| false, "remove")?;
        FileSystem.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.hit(|fault| fault == Fault::SyncDir, "sync dir")?;
        FileSystem.sync_dir(dir)
    }
}

impl DiskFile for BrokenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .hit(|fault| matches!(fault, Fault::Write(_)), "write")?;
        let some = if self.0.short {
            bytes.len().min(7)
        } else {
            bytes.len()
        };
        self.1.write(bytes.get(..some).unwrap_or(bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.hit(|fault| fault == Fault::Sync, "sync")?;
        self.1.sync()
    }
}

fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: 500,
        ..Options::new(dir)
    }
}

fn open(dir: &Path, faults: &Arc<Faults>) -> Log {
    let disk = Arc::new(Broken(Arc::clone(faults)));
    Log::open_on(disk, &options(dir), &mut |_, _| Ok(())).unwrap()
}

fn replay(dir: &Path) -> Vec<u8> {
    let mut kinds = Vec::new();
    let log = Log::open(&options(dir), &mut |kind, _| {
        kinds.push(kind);
        Ok(())
    });
    drop(log.unwrap());
    kinds
}

fn append(log: &Log, kind: u8) -> Result<Option<Ticket>, Full> {
    log.append(&mut |batch| batch.record(kind, |out| out.extend([kind; 50])))
}

fn wait(ticket: &Ticket) -> Progress {
    loop {
        match ticket.poll(None) {
            Progress::Open => thread::yield_now(),
            done @ (Progress::Complete | Progress::Failed) => return done,
        }
    }
}

#[test]
fn after_a_failed_write_or_sync_nothing_succeeds_any_more() {
    for fault in [
        Fault::Write(ErrorKind::Other),
        Fault::Sync,
        Fault::Create,
        Fault::Rename,
        Fault::SyncDir,
    ] {
        for skip in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let faults = Arc::default();
            let log = open(dir.path(), &faults);
            *faults.next.lock() = Some((fault, skip, 1));
            let mut acknowledged = Vec::new();
            let mut failed = false;
            for kind in 0..60 {
                let Ok(ticket) = append(&log, kind) else {
                    failed = true;
                    continue;
                };
                match wait(&ticket.unwrap()) {
                    Progress::Complete => {
                        assert!(!failed, "{fault:?} {skip}: success after failure");
                        acknowledged.push(kind);
                    }
                    Progress::Open | Progress::Failed => failed = true,
                }
            }
            assert!(failed, "{fault:?} {skip}: not noticed");
            assert!(log.failed().is_some());
            assert_eq!(append(&log, 0).unwrap_err(), Full::Failed);
            assert_eq!(log.barrier().unwrap_err(), Full::Failed);
            drop(log);
            let kept = replay(dir.path());
            assert!(
                kept.starts_with(&acknowledged),
                "{fault:?} {skip}: {acknowledged:?} of {kept:?}"
            );
        }
    }
}

#[test]
fn a_ticket_completes_after_the_sync_of_its_write_and_a_segment_ends_synced() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::default();
    let log = open(dir.path(), &faults);
    for kind in 0..60 {
        let ticket = append(&log, kind).unwrap().unwrap();
        assert_eq!(wait(&ticket), Progress::Complete);
        let journal = faults.journal.lock();
        assert_eq!(journal.last().map(String::as_str), Some("sync"));
    }
    log.stop();
    let mut dirty = false;
    for operation in faults.journal.lock().iter() {
        match operation.as_str() {
            "write" => dirty = true,
            "sync" => dirty = false,
            other => assert!(!dirty, "{other} before a sync"),
        }
    }
}

#[test]
fn tickets_that_nobody_kept_fail() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::default();
    let log = open(dir.path(), &faults);
    *faults.next.lock() = Some((Fault::Sync, 0, u32::MAX));
    let tickets: Vec<Ticket> = (0..100)
        .map_while(|kind| append(&log, kind).ok().flatten())
        .collect();
    log.stop();
    assert!(!tickets.is_empty());
    for ticket in &tickets {
        assert_eq!(ticket.poll(None), Progress::Failed);
    }
}

#[test]
fn a_full_file_system_is_waited_for() {
    for skip in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::default();
        let log = open(dir.path(), &faults);
        *faults.next.lock() = Some((Fault::Write(ErrorKind::StorageFull), skip, 1));
        let mut kept = Vec::new();
        for kind in 0..20 {
            if let Ok(Some(ticket)) = append(&log, kind) {
                assert_eq!(wait(&ticket), Progress::Complete);
                kept.push(kind);
            }
        }
        assert_eq!(faults.waited.load(Ordering::Relaxed), 1);
        assert_eq!(log.failed(), None);
        drop(log);
        assert_eq!(replay(dir.path()), kept);
    }
}

#[test]
fn a_file_system_that_stays_full_refuses_and_ends_in_failure_not_success() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::default();
    let log = open(dir.path(), &faults);
    *faults.next.lock() = Some((Fault::Write(ErrorKind::StorageFull), 0, u32::MAX));
    let ticket = append(&log, 1).unwrap().unwrap();
    while log.is_full().is_none() {
        thread::yield_now();
    }
    assert_eq!(append(&log, 2).unwrap_err(), Full::FileSystem);
    assert_eq!(ticket.poll(None), Progress::Open);
    log.stop();
    assert_eq!(ticket.poll(None), Progress::Failed);
    assert_eq!(replay(dir.path()), []);
}

#[test]
fn what_waits_for_a_slow_disk_is_bounded_and_none_of_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Options {
        mode: Mode::Interval(Duration::from_hours(1)),
        max_waiting: 1000,
        ..Options::new(dir.path())
    };
    let log = Log::open(&slow, &mut |_, _| Ok(())).unwrap();
    let taken = (0..100).take_while(|_| append(&log, 1).is_ok()).count();
    assert!((5..20).contains(&taken), "{taken}");
    assert_eq!(append(&log, 1).unwrap_err(), Full::Buffer);
    let release = || log.append_release(&mut |batch| batch.record(2, |out| out.extend([2; 50])));
    let more = (0..100).take_while(|_| release().is_ok()).count();
    assert!(more > 0 && more <= taken, "{more}");
    assert_eq!(release().unwrap_err(), Full::Buffer);
    drop(log);
    let kept = [vec![1; taken], vec![2; more]].concat();
    assert_eq!(replay(dir.path()), kept);
}

#[test]
fn short_writes_are_continued() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults {
        short: true,
        ..Faults::default()
    });
    let log = open(dir.path(), &faults);
    for kind in 0..30 {
        assert!(append(&log, kind).is_ok());
    }
    drop(log);
    assert_eq!(replay(dir.path()), (0..30).collect::<Vec<_>>());
}

#[test]
fn a_round_deletes_only_after_everything_newer_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::default();
    let log = open(dir.path(), &faults);
    for kind in 0..30 {
        assert!(append(&log, kind).is_ok());
    }
    let _ = log.begin_round();
    assert!(append(&log, 100).is_ok());
    log.finish_round();
    log.stop();
    let journal = faults.journal.lock().clone();
    let removed = journal.iter().position(|name| name == "remove").unwrap();
    let before = journal.get(..removed).unwrap();
    let ends = ["sync", "rename", "sync dir"];
    assert!(before.ends_with(&ends.map(str::to_owned)), "{journal:?}");
    assert_eq!(replay(dir.path()), [100]);

    // And not at all where one of those fails.
    for skip in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::default();
        let log = open(dir.path(), &faults);
        assert_eq!(wait(&append(&log, 1).unwrap().unwrap()), Progress::Complete);
        *faults.next.lock() = Some((Fault::Sync, skip, 1));
        let _ = log.begin_round();
        let ticket = append(&log, 100).ok().flatten();
        log.finish_round();
        log.stop();
        let kept = replay(dir.path());
        let complete = ticket.is_some_and(|ticket| ticket.poll(None) == Progress::Complete);
        assert!(kept.contains(&1) || kept == [100], "{skip}: {kept:?}");
        assert!(!complete || kept.contains(&100), "{skip}: {kept:?}");
    }
}
