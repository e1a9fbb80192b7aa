//! Whoever can change the files but has no key is found out.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::fs;

use common::{copy, files, report, small_store, status};
use portcullis_audit::{PublicKey, Status, verify_with};
use proptest::prelude::*;

#[test]
fn an_untouched_store_verifies() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 12);
    let report = report(dir.path());
    assert_eq!((report.status, report.fault), (Status::Ok, None));
    assert_eq!(
        (report.records, report.first, report.last, report.after_head),
        (12, 1, 12, 0)
    );
    assert!(report.files > 2, "the tests need several files");
}

#[test]
fn any_changed_byte_of_any_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 3);
    let mut names = files(dir.path());
    names.push(dir.path().join("head.json"));
    names.push(dir.path().join("audit.pub"));
    for name in names {
        let whole = fs::read(&name).unwrap();
        for place in 0..whole.len() {
            for flip in [0x01, 0x20] {
                let mut changed = whole.clone();
                changed[place] ^= flip;
                fs::write(&name, &changed).unwrap();
                assert_eq!(
                    status(dir.path()),
                    Status::Broken,
                    "{name:?} byte {place} ^ {flip}"
                );
            }
            let mut newline = whole.clone();
            newline[place] = b'\n';
            if newline != whole {
                fs::write(&name, &newline).unwrap();
                assert_eq!(
                    status(dir.path()),
                    Status::Broken,
                    "{name:?} newline at {place}"
                );
            }
        }
        fs::write(&name, &whole).unwrap();
    }
    assert_eq!(status(dir.path()), Status::Ok);
}

#[test]
fn any_missing_or_added_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 2);
    for name in files(dir.path()) {
        let whole = fs::read(&name).unwrap();
        for place in 0..whole.len() {
            let mut less = whole.clone();
            less.remove(place);
            fs::write(&name, &less).unwrap();
            assert_eq!(
                status(dir.path()),
                Status::Broken,
                "{name:?} without byte {place}"
            );
            for added in [b' ', b'\n', whole[place]] {
                let mut more = whole.clone();
                more.insert(place, added);
                fs::write(&name, &more).unwrap();
                assert_eq!(
                    status(dir.path()),
                    Status::Broken,
                    "{name:?} with byte {place}"
                );
            }
        }
        fs::write(&name, &whole).unwrap();
    }
}

#[test]
fn removed_repeated_moved_and_foreign_lines_are_found() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 10);
    let stranger = tempfile::tempdir().unwrap();
    small_store(stranger.path(), 10);
    for (name, other) in files(dir.path()).into_iter().zip(files(stranger.path())) {
        let text = fs::read_to_string(&name).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let foreign = fs::read_to_string(other).unwrap();
        let foreign: Vec<&str> = foreign.split_inclusive('\n').collect();
        for place in 0..lines.len() {
            let mut removed = lines.clone();
            removed.remove(place);
            let mut repeated = lines.clone();
            repeated.insert(place, lines[place]);
            let mut moved = lines.clone();
            moved.swap(place, (place + 1) % lines.len());
            let mut replaced = lines.clone();
            replaced[place] = foreign[place.min(foreign.len() - 1)];
            for (how, changed) in [
                ("removed", removed),
                ("repeated", repeated),
                ("moved", moved),
                ("replaced", replaced),
            ] {
                if changed != lines {
                    fs::write(&name, changed.concat()).unwrap();
                    assert_eq!(
                        status(dir.path()),
                        Status::Broken,
                        "{name:?} line {place} {how}"
                    );
                }
            }
        }
        fs::write(&name, &text).unwrap();
    }
}

#[test]
fn a_tail_cut_below_the_head_is_found_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 6);
    let last = files(dir.path()).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    for length in 0..whole.len() {
        fs::write(&last, &whole[..length]).unwrap();
        assert_eq!(status(dir.path()), Status::Broken, "cut to {length}");
    }
}

#[test]
fn missing_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 10);
    let mut names = files(dir.path());
    names.push(dir.path().join("head.json"));
    names.push(dir.path().join("audit.pub"));
    for name in names {
        let whole = fs::read(&name).unwrap();
        fs::remove_file(&name).unwrap();
        let report = report(dir.path());
        assert_eq!(report.status, Status::Broken, "{name:?}");
        assert!(report.fault.is_some());
        fs::write(&name, whole).unwrap();
    }
}

#[test]
fn records_added_after_the_end_of_a_closed_store_are_found() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 4);
    let before = copy(dir.path());
    small_store(dir.path(), 4);
    // The records of the second run are genuine; the head of the first does not know them.
    fs::copy(
        before.path().join("head.json"),
        dir.path().join("head.json"),
    )
    .unwrap();
    assert_eq!(status(dir.path()), Status::Broken);
    // And the other way round: the records of the first run under the head of the second.
    let (old, new) = (before, tempfile::tempdir().unwrap());
    small_store(new.path(), 1);
    fs::copy(new.path().join("head.json"), old.path().join("head.json")).unwrap();
    assert_eq!(status(old.path()), Status::Broken);
}

#[test]
fn a_whole_history_made_with_another_key_is_found_with_the_copy_of_the_key() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 4);
    let kept =
        PublicKey::from_pem(&fs::read_to_string(dir.path().join("audit.pub")).unwrap()).unwrap();
    assert_eq!(verify_with(dir.path(), &kept).unwrap().status, Status::Ok);
    let forged = tempfile::tempdir().unwrap();
    small_store(forged.path(), 4);
    assert_eq!(status(forged.path()), Status::Ok);
    assert_eq!(
        verify_with(forged.path(), &kept).unwrap().status,
        Status::Broken
    );
}

// Hashes need no key: whoever changes a record can link everything after it anew.
#[test]
fn a_history_that_is_consistent_in_itself_is_found_by_the_signed_head() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 5);
    let forged = tempfile::tempdir().unwrap();
    small_store(forged.path(), 5);
    for name in files(forged.path()) {
        fs::copy(&name, dir.path().join(name.file_name().unwrap())).unwrap();
    }
    let fault = report(dir.path()).fault.unwrap();
    assert!(
        fault.reason.contains("the head states as the last"),
        "{fault}"
    );
}

#[test]
fn a_broken_store_names_the_file_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 3);
    let name = files(dir.path()).remove(0);
    let text = fs::read_to_string(&name).unwrap();
    fs::write(&name, text.replacen("ward/1/", "ward/2/", 1)).unwrap();
    let fault = report(dir.path()).fault.unwrap();
    assert_eq!((fault.file.as_str(), fault.line), ("audit-000001.jsonl", 2));
    assert!(fault.reason.contains("hash"), "{fault}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any edit of the text of records that changes it is found.
    #[test]
    fn any_splice_is_found(from in 0.0_f64..1.0, length in 0_usize..400, new in prop::collection::vec(any::<u8>(), 0..40)) {
        thread_local! {
            static STORE: tempfile::TempDir = {
                let dir = tempfile::tempdir().unwrap();
                small_store(dir.path(), 6);
                dir
            };
        }
        STORE.with(|store| {
            let name = files(store.path()).remove(0);
            let whole = fs::read(&name).unwrap();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a small file")]
            let from = (from * whole.len() as f64) as usize;
            let to = (from + length).min(whole.len());
            let changed = [&whole[..from], &new, &whole[to..]].concat();
            if changed != whole {
                fs::write(&name, &changed).unwrap();
                let found = status(store.path());
                fs::write(&name, &whole).unwrap();
                assert_eq!(found, Status::Broken);
            }
        });
    }
}
