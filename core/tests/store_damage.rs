//! Damaged files: a torn tail is cut off and said, everything else refuses to start, and repair
//! keeps what can be read.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use portcullis_core::store::{Key, Log, Options, StoreError, check, repair};
use portcullis_core::ticket::Progress;

type Record = (u8, Vec<u8>);

fn options(dir: &Path, key: Option<&Key>) -> Options {
    Options {
        segment_bytes: 330,
        key: key.cloned(),
        ..Options::new(dir)
    }
}

fn open(options: &Options) -> Result<(Log, Vec<Record>), StoreError> {
    let mut records = Vec::new();
    let log = Log::open(options, &mut |kind, bytes| {
        records.push((kind, bytes.to_vec()));
        Ok(())
    })?;
    Ok((log, records))
}

/// Appends, each record with a write and a sync of its own.
fn append_synced(log: &Log, record: &Record) {
    let ticket = log.append(&mut |batch| batch.record(record.0, |out| out.extend(&record.1)));
    let ticket = ticket.unwrap().unwrap();
    while ticket.poll(None) == Progress::Open {
        thread::yield_now();
    }
}

/// A store of some segments. Without a clean stop the last has no seal.
fn store(dir: &Path, key: Option<&Key>, stopped: bool) -> Vec<Record> {
    let (log, _) = open(&options(dir, key)).unwrap();
    let records: Vec<Record> = (0..9).map(|n| (n, vec![n; 5 + usize::from(n)])).collect();
    for record in &records {
        append_synced(&log, record);
    }
    drop(log);
    if !stopped {
        let last = segments(dir).pop().unwrap();
        let content = fs::read(&last).unwrap();
        fs::write(&last, content.get(..content.len() - 32).unwrap()).unwrap();
    }
    records
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    logs.sort();
    logs
}

/// A directory in memory where there is one: thousands of small stores are made, and what a loss
/// of power would do is not tested here.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// A fresh copy of the files, for one experiment.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = scratch();
    for path in segments(from) {
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn keys() -> [Option<Key>; 2] {
    [None, Some(Key::new([3; 32]))]
}

#[test]
fn a_tail_cut_at_any_byte_leaves_a_prefix_and_the_store_goes_on() {
    for key in keys() {
        let dir = scratch();
        let records = store(dir.path(), key.as_ref(), false);
        let length = fs::read(segments(dir.path()).pop().unwrap()).unwrap().len();
        let mut seen = 0;
        for cut in 0..=length {
            let trial = copy(dir.path());
            let last = segments(trial.path()).pop().unwrap();
            let content = fs::read(&last).unwrap();
            fs::write(&last, content.get(..cut).unwrap()).unwrap();
            let options = options(trial.path(), key.as_ref());
            assert!(check(trial.path(), key.as_ref()).unwrap().is_sound());

            let (log, mut kept) = open(&options).unwrap();
            assert!(records.starts_with(&kept), "cut at {cut}");
            assert!(kept.len() >= seen, "a longer file gives no less");
            seen = kept.len();
            append_synced(&log, &(99, vec![99]));
            drop(log);
            kept.push((99, vec![99]));
            let (log, again) = open(&options).unwrap();
            assert_eq!(again, kept, "cut at {cut}");
            assert_eq!(log.recovered().torn, None, "said once");
        }
        assert_eq!(seen, records.len());
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_repair_says_what_it_cost() {
    for key in keys() {
        for stopped in [true, false] {
            let dir = scratch();
            let records = store(dir.path(), key.as_ref(), stopped);
            let files = segments(dir.path());
            for (index, file) in files.iter().enumerate() {
                let length = fs::read(file).unwrap().len();
                for at in 0..length {
                    let trial = copy(dir.path());
                    let last = index + 1 == files.len();
                    flip(&trial, file, at);
                    flipped(&trial, key.as_ref(), &records, last);
                }
            }
        }
    }
}

fn flip(trial: &tempfile::TempDir, file: &Path, at: usize) {
    let path = trial.path().join(file.file_name().unwrap());
    let mut content = fs::read(&path).unwrap();
    *content.get_mut(at).unwrap() ^= 1 << (at % 8);
    fs::write(&path, content).unwrap();
}

fn flipped(trial: &tempfile::TempDir, key: Option<&Key>, records: &[Record], last: bool) {
    let options = options(trial.path(), key);
    match open(&options) {
        Ok((log, kept)) => {
            let torn = log.recovered().torn.clone();
            assert!(last && torn.is_some(), "silent: {torn:?}");
            assert!(records.starts_with(&kept) && kept.len() + 1 >= records.len());
        }
        Err(StoreError::Corrupt { .. }) => {
            let found = check(trial.path(), key).unwrap();
            let report = repair(trial.path(), key).unwrap();
            assert_eq!(report.problems, found.problems);
            assert!(!report.is_sound() && !report.done.is_empty());
            let (_, kept) = open(&options).unwrap();
            assert_eq!(kept.len() as u64, report.records);
            let mut rest = records.iter();
            assert!(kept.iter().all(|record| rest.any(|known| known == record)));
            assert!(kept.len() + 1 >= records.len(), "one write at most is lost");
        }
        Err(other) => assert!(key.is_some(), "unexpected: {other}"),
    }
}

#[test]
fn a_missing_segment_is_named_and_repair_goes_on_without_it() {
    let whole = scratch();
    let records = store(whole.path(), None, true);
    let count = segments(whole.path()).len();
    for gone in 0..count - 1 {
        let dir = copy(whole.path());
        let path = segments(dir.path()).remove(gone);
        fs::remove_file(&path).unwrap();
        let error = open(&options(dir.path(), None)).unwrap_err();
        assert!(
            matches!(&error, StoreError::Missing { file } if *file == path),
            "{error}"
        );
        let report = repair(dir.path(), None).unwrap();
        assert_eq!(report.problems.len(), 1);
        assert!(check(dir.path(), None).unwrap().is_sound());
        let (_, kept) = open(&options(dir.path(), None)).unwrap();
        assert!(!kept.is_empty() && kept.len() < records.len());
    }
}

#[test]
fn a_segment_of_another_store_or_in_another_place_is_refused() {
    let (one, two) = (scratch(), scratch());
    store(one.path(), None, true);
    store(two.path(), None, true);
    let trial = copy(one.path());
    let target = segments(trial.path()).remove(1);
    for foreign in [
        segments(two.path()).remove(1),
        segments(one.path()).remove(0),
    ] {
        fs::copy(foreign, &target).unwrap();
        let error = open(&options(trial.path(), None)).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn a_segment_cut_between_two_writes_is_not_complete() {
    let dir = scratch();
    store(dir.path(), None, true);
    let first = segments(dir.path()).remove(0);
    let content = fs::read(&first).unwrap();
    fs::write(&first, content.get(..content.len() - 32).unwrap()).unwrap();
    let error = open(&options(dir.path(), None)).unwrap_err();
    assert!(error.to_string().contains("not complete"), "{error}");
    assert_eq!(repair(dir.path(), None).unwrap().problems.len(), 1);
    assert!(open(&options(dir.path(), None)).is_ok());
}

#[test]
fn repair_leaves_a_sound_store_alone() {
    let dir = scratch();
    let records = store(dir.path(), None, true);
    let report = repair(dir.path(), None).unwrap();
    assert!(report.is_sound() && report.done.is_empty());
    assert_eq!(report.records, records.len() as u64);
}
