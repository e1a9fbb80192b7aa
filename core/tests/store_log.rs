//! The log of the store on a real directory: what was appended comes back, in order and whole.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use portcullis_core::store::{Full, Key, Log, Mode, Options, StoreError, check, repair};
use portcullis_core::ticket::{Progress, Ticket};

type Record = (u8, Vec<u8>);

fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: 1000,
        max_bytes: 1 << 20,
        ..Options::new(dir)
    }
}

fn encrypted(dir: &Path, key: u8) -> Options {
    Options {
        key: Some(Key::new([key; 32])),
        ..options(dir)
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

fn append(log: &Log, records: &[Record]) -> Option<Ticket> {
    log.append(&mut |batch| {
        for (kind, bytes) in records {
            batch.record(*kind, |out| out.extend(bytes));
        }
    })
    .unwrap()
}

/// Waits as a task would, woken by the ticket.
fn wait(ticket: &Ticket) -> Progress {
    struct Thread(thread::Thread);
    impl std::task::Wake for Thread {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Thread(thread::current())).into();
    loop {
        match ticket.poll(Some(&waker)) {
            Progress::Open => thread::park(),
            done @ (Progress::Complete | Progress::Failed) => return done,
        }
    }
}

fn some_records(count: u8) -> Vec<Record> {
    (0..count)
        .map(|number| (number, vec![number; usize::from(number) * 3]))
        .collect()
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

#[test]
fn what_was_appended_comes_back_in_order_over_many_segments_and_starts() {
    for key in [None, Some(Key::new([5; 32]))] {
        for mode in [Mode::Fsync, Mode::Interval(Duration::from_millis(1))] {
            let dir = tempfile::tempdir().unwrap();
            let options = Options {
                key: key.clone(),
                mode,
                ..options(dir.path())
            };
            let mut all = Vec::new();
            for _ in 0..4 {
                let (log, records) = open(&options).unwrap();
                assert_eq!(records, all);
                for record in some_records(40) {
                    let ticket = append(&log, std::slice::from_ref(&record));
                    assert_eq!(ticket.is_some(), mode == Mode::Fsync);
                    all.push(record);
                }
                log.stop();
                assert_eq!(log.failed(), None);
            }
            assert!(segments(dir.path()).len() > 4);
            assert!(check(dir.path(), key.as_ref()).unwrap().is_sound());
        }
    }
}

#[test]
fn all_tickets_of_many_threads_complete_and_each_keeps_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path())).unwrap();
    thread::scope(|scope| {
        for caller in 0..8_u8 {
            let log = log.clone();
            scope.spawn(move || {
                for number in 0..100_u8 {
                    let pair = [(caller, vec![number]), (caller, vec![number, 0])];
                    let ticket = append(&log, &pair).unwrap();
                    if number % 10 == 0 {
                        assert_eq!(wait(&ticket), Progress::Complete);
                    }
                }
                let barrier = log.barrier().unwrap();
                assert!(barrier.is_none_or(|ticket| wait(&ticket) == Progress::Complete));
            });
        }
    });
    drop(log);
    let (_, records) = open(&options(dir.path())).unwrap();
    for caller in 0..8_u8 {
        let own = records.iter().filter(|(kind, _)| *kind == caller);
        let own: Vec<_> = own.map(|(_, bytes)| bytes.clone()).collect();
        let expected: Vec<_> = (0..100).flat_map(|n| [vec![n], vec![n, 0]]).collect();
        assert_eq!(own, expected);
    }
    let pairs = records.as_chunks::<2>().0;
    assert!(pairs.iter().all(|[one, two]| one.0 == two.0), "torn apart");
}

#[test]
fn a_start_without_appending_leaves_no_trail() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        open(&options(dir.path())).unwrap();
        assert_eq!(segments(dir.path()).len(), 1);
    }
}

#[test]
fn nothing_pushed_is_nothing_written() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path())).unwrap();
    let size = log.size();
    assert!(append(&log, &[]).is_none());
    assert_eq!(log.size(), size);
}

#[test]
fn a_finished_round_leaves_only_what_was_appended_since_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path())).unwrap();
    for _ in 0..20 {
        append(&log, &some_records(20));
    }
    assert_eq!((log.round(), log.begin_round(), log.round()), (1, 2, 2));
    let alive = vec![(1, vec![1]), (2, vec![2; 2000])];
    append(&log, &alive);
    log.finish_round();
    let after = (3, vec![3]);
    let ticket = append(&log, std::slice::from_ref(&after)).unwrap();
    assert_eq!(wait(&ticket), Progress::Complete);
    assert!(log.size() < 4000, "{}", log.size());
    drop(log);
    let (_, records) = open(&options(dir.path())).unwrap();
    assert_eq!(records, [alive, vec![after]].concat());
}

#[test]
fn an_unfinished_round_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path())).unwrap();
    append(&log, &[(1, vec![1])]);
    let _ = log.begin_round();
    append(&log, &[(2, vec![2])]);
    drop(log);
    let (_, records) = open(&options(dir.path())).unwrap();
    assert_eq!(records, [(1, vec![1]), (2, vec![2])]);
}

#[test]
fn the_budget_is_kept_and_a_round_has_room_for_all_that_lives() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        max_bytes: 30_000,
        ..options(dir.path())
    };
    let (log, _) = open(&options).unwrap();
    let refused = loop {
        let mut ran = false;
        let result = log.append(&mut |batch| {
            ran = true;
            batch.record(1, |out| out.extend([1; 400]));
        });
        match result {
            Ok(_) => assert!(ran),
            Err(full) => break (full, ran),
        }
    };
    assert_eq!(refused, (Full::Budget, false));
    assert_eq!(log.is_full(), Some(Full::Budget));
    assert!((10_000..11_000).contains(&log.size()), "{}", log.size());
    // What makes room has more of it, and everybody who has any may use it up.
    let release =
        |log: &Log| log.append_release(&mut |batch| batch.record(2, |out| out.extend([2; 400])));
    while release(&log).is_ok() {}
    assert!((15_000..16_000).contains(&log.size()), "{}", log.size());
    // Nothing was superfluous: all of it is written again.
    let lives = log.size();
    let _ = log.begin_round();
    let before = log.size();
    while log.size() < before + lives - 1000 {
        assert!(
            release(&log).is_ok(),
            "{} of {}",
            log.size(),
            options.max_bytes
        );
    }
    log.give_up_round();
    assert_eq!(
        release(&log).err(),
        Some(Full::Budget),
        "outside of a round"
    );
    let _ = log.begin_round();
    let ticket = log.append_release(&mut |batch| batch.record(3, |out| out.push(3)));
    assert!(ticket.is_ok());
    log.finish_round();
    log.stop();
    assert!(log.size() < 1000);
    assert_eq!(open(&options).unwrap().1, [(3, vec![3])]);
}

#[test]
fn a_panic_while_writing_leaves_the_log_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path())).unwrap();
    append(&log, &[(1, vec![1])]);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        log.append(&mut |batch| {
            batch.record(9, |out| out.push(9));
            batch.record(9, |_| std::panic::resume_unwind(Box::new(())));
        })
    }));
    assert!(panicked.is_err());
    append(&log, &[(2, vec![2])]);
    drop(log);
    assert_eq!(
        open(&options(dir.path())).unwrap().1,
        [(1, vec![1]), (2, vec![2])]
    );
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&options(dir.path())).unwrap();
    for error in [
        open(&options(dir.path())).err(),
        check(dir.path(), None).err(),
        repair(dir.path(), None).err(),
    ] {
        assert!(
            matches!(error, Some(StoreError::Locked { .. })),
            "{error:?}"
        );
    }
    log.stop();
    assert!(open(&options(dir.path())).is_ok(), "stopped is given back");
}

#[test]
fn a_wrong_or_missing_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(&encrypted(dir.path(), 1)).unwrap();
    append(&log, &[(1, b"a patient's data".to_vec())]);
    drop(log);
    for path in segments(dir.path()) {
        let content = fs::read(path).unwrap();
        assert!(!content.windows(7).any(|part| part == b"patient"));
    }
    let error = open(&encrypted(dir.path(), 2)).unwrap_err();
    assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
    let error = open(&options(dir.path())).unwrap_err();
    assert!(matches!(error, StoreError::NeedsKey { .. }), "{error}");
    assert_eq!(open(&encrypted(dir.path(), 1)).unwrap().1.len(), 1);

    let dir = tempfile::tempdir().unwrap();
    append(&open(&options(dir.path())).unwrap().0, &[(1, vec![1])]);
    let error = open(&encrypted(dir.path(), 1)).unwrap_err();
    assert!(matches!(error, StoreError::NotEncrypted { .. }), "{error}");
}

#[test]
fn a_key_file_holds_32_bytes_or_their_hexadecimal_digits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    for (content, good) in [
        (vec![0xff; 32], true),
        (b"0123456789abcdefABCDEF9876543210".repeat(2), true),
        ([b"0f".repeat(32), b"\n".to_vec()].concat(), true),
        (vec![1; 31], false),
        (b"0g".repeat(32), false),
        (b"0f".repeat(33), false),
        (Vec::new(), false),
    ] {
        fs::write(&path, &content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let key = Key::read(&path);
        assert_eq!(key.is_ok(), good, "{content:?}");
        assert!(key.is_err() || format!("{key:?}") == "Ok(Key(..))");
    }
}

#[test]
fn a_key_file_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, [1; 32]).unwrap();
    for (mode, good) in [
        (0o600, true),
        (0o400, true),
        (0o640, false),
        (0o604, false),
        (0o602, false),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let key = Key::read(&path);
        assert_eq!(key.is_ok(), good, "{mode:o}");
        if let Err(error) = key {
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }
}

#[test]
fn an_unknown_version_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(&options(dir.path())).unwrap().0, &[(1, vec![1])]);
    let path = segments(dir.path()).remove(0);
    let mut content = fs::read(&path).unwrap();
    *content.get_mut(8).unwrap() = 2;
    *content.get_mut(84 + 8).unwrap() = 2;
    fs::write(&path, &content).unwrap();
    for error in [
        open(&options(dir.path())).unwrap_err(),
        check(dir.path(), None).unwrap_err(),
        repair(dir.path(), None).unwrap_err(),
    ] {
        assert!(
            matches!(error, StoreError::Version { found: 2, .. }),
            "{error}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), content, "left alone");
}

#[test]
fn a_record_that_the_owner_refuses_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    append(&open(&options(dir.path())).unwrap().0, &[(1, vec![1])]);
    let result = Log::open(&options(dir.path()), &mut |_, _| Err("what?".to_owned()));
    assert!(matches!(result, Err(StoreError::Refused { group: 0, .. })));
}
