//! Start, crash, restart, full: the record goes on, or says that it does not.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{
    client, copy, entries, events_named, files, report, settings, small_store, status, subscribe,
};
use portcullis_audit::{
    Audit, AuditError, AuditSettings, Filter, Format, OnFull, Status, export, query,
};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Disconnected, Event, Observer};
use portcullis_core::secret::Secret;
use portcullis_core::wire::{QoS, ReasonCode, Version};

#[test]
fn restarts_continue_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    for run in 1..=3 {
        small_store(dir.path(), 5);
        let report = report(dir.path());
        assert_eq!((report.status, report.last), (Status::Ok, run * 5));
    }
    assert!(events_named(dir.path(), "recovered").is_empty());
}

#[test]
fn a_running_store_verifies_and_so_does_what_kill_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(settings(dir.path())).unwrap();
    assert_eq!(status(dir.path()), Status::Ok, "before the first record");
    for n in 0..10 {
        subscribe(&audit, "a", &format!("x/{n}"));
        if n % 3 == 0 {
            audit.flush();
        }
        assert_eq!(status(dir.path()), Status::Ok);
    }
    audit.flush();
    let crashed = copy(dir.path());
    for run in 1..=2 {
        assert_eq!(status(crashed.path()), Status::Ok);
        Audit::start(settings(crashed.path()))
            .unwrap()
            .stop(Now::read());
        assert_eq!(status(crashed.path()), Status::Ok);
        assert_eq!(
            events_named(crashed.path(), "recovered").len(),
            1,
            "once, after restart {run}"
        );
    }
}

#[test]
fn a_torn_line_is_open_and_a_restart_closes_it_with_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(settings(dir.path())).unwrap();
    subscribe(&audit, "a", "x");
    audit.flush();
    let crashed = copy(dir.path());
    let line = fs::read(&files(dir.path())[0]).unwrap();
    for cut in [1, 40, line.len() - 1] {
        let store = copy(crashed.path());
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(&files(store.path())[0])
            .unwrap();
        file.write_all(&line[..cut]).unwrap();
        assert_eq!(status(store.path()), Status::Open);
        Audit::start(settings(store.path()))
            .unwrap()
            .stop(Now::read());
        assert_eq!(status(store.path()), Status::Ok);
        let recovered = events_named(store.path(), "recovered");
        assert_eq!(recovered[0]["cut_bytes"], cut);
    }
}

#[test]
fn records_that_the_head_does_not_cover_yet_are_kept_by_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(AuditSettings::new(dir.path())).unwrap();
    subscribe(&audit, "a", "x");
    audit.flush();
    let early = copy(dir.path());
    subscribe(&audit, "a", "y");
    audit.flush();
    let late = copy(dir.path());
    fs::copy(
        early.path().join("head.json"),
        late.path().join("head.json"),
    )
    .unwrap();
    let before = report(late.path());
    assert_eq!((before.status, before.after_head), (Status::Ok, 1));
    Audit::start(AuditSettings::new(late.path()))
        .unwrap()
        .stop(Now::read());
    assert_eq!(status(late.path()), Status::Ok);
    assert_eq!(events_named(late.path(), "recovered")[0]["after_head"], 1);
}

#[test]
fn a_store_that_does_not_verify_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    small_store(dir.path(), 6);
    let last = files(dir.path()).pop().unwrap();
    let text = fs::read_to_string(&last).unwrap();
    fs::write(&last, text.replace("pump", "pimp")).unwrap();
    assert!(matches!(
        Audit::start(settings(dir.path())),
        Err(AuditError::Broken(_))
    ));
    fs::write(&last, text).unwrap();
    fs::remove_file(dir.path().join("audit.key")).unwrap();
    assert!(matches!(
        Audit::start(settings(dir.path())),
        Err(AuditError::Key { .. })
    ));
}

#[test]
fn one_store_has_one_broker_and_its_key_one_reader() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(settings(dir.path())).unwrap();
    assert!(matches!(
        Audit::start(settings(dir.path())),
        Err(AuditError::InUse { .. })
    ));
    let key = dir.path().join("audit.key");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(audit);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        Audit::start(settings(dir.path())),
        Err(AuditError::Key { .. })
    ));
}

#[test]
fn every_event_is_one_line_with_its_facts() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(AuditSettings::new(dir.path())).unwrap();
    audit.set_policy_hash("p0".to_owned());
    let now = Now::read();
    let who = client("pump-17");
    let peer = Some("192.0.2.7:4711".parse().unwrap());
    for event in [
        Event::Started,
        Event::Connected {
            who: &who,
            peer,
            version: Version::V5,
            session_present: true,
        },
        Event::ConnectionRefused {
            listener: "internet",
            peer,
            client_id: Some("x\"}\n{\"seq\":1"),
            claimed: Some("user:eve"),
            check: "credential",
            code: Some(ReasonCode::BadUserNameOrPassword),
            reason: "no such user",
        },
        Event::PublishDenied {
            who: &who,
            topic: "a/b",
            qos: QoS::AtMostOnce,
            payload: 0,
            action: "publish",
            rule: "policy.csv:3",
        },
        Event::Disconnected {
            who: &who,
            peer,
            how: Disconnected::ByServer(ReasonCode::NotAuthorized),
            reason: "revoked",
        },
        Event::Reloaded {
            unit: "policy",
            error: Some("line 3"),
        },
        Event::Administration {
            action: "kick pump-17",
        },
        Event::Stopping,
    ] {
        audit.event(&event, now);
    }
    audit.stop(now);
    let entries = entries(dir.path());
    let column = |key: &str| -> Vec<String> {
        entries
            .iter()
            .map(|entry| entry[key].as_str().unwrap_or("-").to_owned())
            .collect()
    };
    assert_eq!(
        column("event"),
        [
            "start",
            "connect",
            "refuse",
            "publish-denied",
            "disconnect",
            "reload",
            "administration",
            "stop"
        ]
    );
    assert_eq!(column("principal")[1], "cert:pump-17");
    assert_eq!(column("peer")[1], "192.0.2.7:4711");
    assert_eq!(
        column("client_id")[2],
        "x\"}\n{\"seq\":1",
        "escaped, not interpreted"
    );
    assert_eq!(
        (column("code")[2].as_str(), column("code_name")[2].as_str()),
        ("0x86", "BadUserNameOrPassword")
    );
    assert_eq!(
        (column("topic")[3].as_str(), column("rule")[3].as_str()),
        ("a/b", "policy.csv:3")
    );
    assert_eq!(column("code")[4], "0x87");
    assert!(column("policy").iter().all(|policy| policy == "p0"));
    assert_eq!(status(dir.path()), Status::Ok);
}

#[test]
fn long_texts_are_cut_and_the_line_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(AuditSettings::new(dir.path())).unwrap();
    let long = "\u{1}".repeat(65_000);
    let mut who = client("a");
    who.client_id = long.as_str().into();
    audit.event(
        &Event::PublishDenied {
            who: &who,
            topic: &long,
            qos: QoS::AtMostOnce,
            payload: 0,
            action: "publish",
            rule: &long,
        },
        Now::read(),
    );
    audit.stop(Now::read());
    let text = fs::read_to_string(&files(dir.path())[0]).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.len() < 64 << 10, "{}", text.len());
    assert!(text.contains("[cut "));
    assert_eq!(status(dir.path()), Status::Ok);
}

#[test]
fn equal_refusals_are_ten_records_and_one_summary() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(AuditSettings::new(dir.path())).unwrap();
    let now = Now::read();
    for port in 0..25 {
        audit.event(
            &Event::ConnectionRefused {
                listener: "internet",
                peer: Some(format!("198.51.100.{port}:1000").parse().unwrap()),
                client_id: Some(&format!("id-{port}")),
                claimed: None,
                check: "credential",
                code: None,
                reason: &format!("attempt {port}"),
            },
            now,
        );
    }
    assert_eq!(audit.stats().counted, 15);
    audit.stop(now);
    assert_eq!(events_named(dir.path(), "refuse").len(), 10);
    let summaries = events_named(dir.path(), "summary");
    assert_eq!(summaries.len(), 1);
    assert_eq!(
        (&summaries[0]["count"], &summaries[0]["source"]),
        (&15.into(), &"198.51.100.0/24".into())
    );
}

// Rule 10, with a canary: a secret that is formatted by mistake, and the store's own key.
#[test]
fn no_secret_reaches_a_file_of_the_store_but_its_key_file() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(settings(dir.path())).unwrap();
    let password = Secret::new(b"canary-4711");
    audit.event(
        &Event::ModuleFailed {
            module: "auth",
            reason: &format!("cannot judge {password:?}"),
        },
        Now::read(),
    );
    audit.stop(Now::read());
    let key = fs::read_to_string(dir.path().join("audit.key")).unwrap();
    let key: String = key
        .lines()
        .filter(|line| !line.starts_with("---"))
        .collect();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("audit.key") {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(!text.contains("canary-4711"), "{path:?}");
        assert!(!text.contains(&key[24..60]), "{path:?}");
    }
    assert_eq!(
        events_named(dir.path(), "module-failed")[0]["reason"],
        "cannot judge Secret(..)"
    );
}

fn fill(audit: &Audit, records: u32) {
    for n in 0..records {
        subscribe(audit, "a", &format!("x/{n}"));
    }
    audit.flush();
}

fn full_settings(dir: &Path, on_full: OnFull) -> AuditSettings {
    AuditSettings {
        on_full,
        max_bytes: 64 << 10,
        segment_bytes: Some(8 << 10),
        ..AuditSettings::new(dir)
    }
}

fn size(dir: &Path) -> u64 {
    files(dir)
        .iter()
        .map(|file| fs::metadata(file).unwrap().len())
        .sum()
}

#[test]
fn a_full_store_refuses_new_clients_and_still_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(full_settings(dir.path(), OnFull::RefuseNew)).unwrap();
    fill(&audit, 50);
    assert!(audit.can_record());
    fill(&audit, 500);
    assert!(!audit.can_record());
    let stats = audit.stats();
    assert!(stats.full && stats.lost > 0, "{stats:?}");
    assert!(size(dir.path()) <= 64 << 10);
    assert_eq!(status(dir.path()), Status::Ok);
    audit.stop(Now::read());
    assert_eq!(report(dir.path()).last, stats.records);
    let again = Audit::start(full_settings(dir.path(), OnFull::RefuseNew)).unwrap();
    assert!(!again.can_record(), "a restart does not empty it");
}

#[test]
fn strangers_cannot_fill_the_space_that_is_kept_for_what_lives() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(full_settings(dir.path(), OnFull::RefuseNew)).unwrap();
    let now = Now::read();
    for n in 0..2000 {
        let address = format!("10.{}.{}.1:1", n / 256, n % 256);
        audit.event(
            &Event::ConnectionRefused {
                listener: "internet",
                peer: Some(address.parse().unwrap()),
                client_id: None,
                claimed: None,
                check: "credential",
                code: None,
                reason: "no",
            },
            now,
        );
        if n % 100 == 0 {
            audit.flush();
        }
    }
    audit.flush();
    assert!(!audit.can_record());
    audit.event(
        &Event::Administration {
            action: "ban 10.0.0.0/8",
        },
        now,
    );
    audit.event(&Event::Stopping, now);
    audit.stop(now);
    assert_eq!(events_named(dir.path(), "administration").len(), 1);
    assert_eq!(events_named(dir.path(), "stop").len(), 1);
    assert_eq!(status(dir.path()), Status::Ok);
}

#[test]
fn drop_oldest_removes_whole_files_and_the_head_says_where_the_record_begins() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(full_settings(dir.path(), OnFull::DropOldest)).unwrap();
    let first_file = files(dir.path()).remove(0);
    for _ in 0..6 {
        fill(&audit, 100);
        assert_eq!(status(dir.path()), Status::Ok);
        assert!(size(dir.path()) <= 64 << 10);
    }
    assert!(audit.can_record());
    assert_eq!(audit.stats().lost, 0);
    audit.stop(Now::read());
    let report = report(dir.path());
    assert!(report.first > 1 && report.last == 600, "{report:?}");
    assert!(!first_file.exists());
    // Removing one more file by hand is not the same.
    let oldest = files(dir.path()).remove(0);
    let text = fs::read(&oldest).unwrap();
    fs::remove_file(&oldest).unwrap();
    assert_eq!(status(dir.path()), Status::Broken);
    fs::write(&oldest, text).unwrap();
    small_store_goes_on(dir.path());
}

fn small_store_goes_on(dir: &Path) {
    let audit = Audit::start(full_settings(dir, OnFull::DropOldest)).unwrap();
    fill(&audit, 100);
    audit.stop(Now::read());
    assert_eq!(status(dir), Status::Ok);
    assert_eq!(report(dir).last, 700);
}

#[test]
fn stop_asks_the_program_to_end_once() {
    let dir = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let audit = Audit::start(AuditSettings {
        on_stop: Some(Arc::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        })),
        ..full_settings(dir.path(), OnFull::Stop)
    })
    .unwrap();
    fill(&audit, 50);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    fill(&audit, 500);
    fill(&audit, 500);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(!audit.can_record());
}

#[test]
fn a_write_that_fails_is_no_yes_and_loses_nothing_once_it_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(settings(dir.path())).unwrap();
    // In the way of the new head.
    let obstacle = dir.path().join("head.json.new");
    fs::create_dir(&obstacle).unwrap();
    fill(&audit, 3);
    assert!(!audit.can_record());
    assert!(audit.stats().failing);
    fs::remove_dir(&obstacle).unwrap();
    fill(&audit, 3);
    assert!(audit.can_record());
    audit.stop(Now::read());
    assert_eq!(audit.stats().lost, 0);
    assert_eq!(
        (status(dir.path()), report(dir.path()).last),
        (Status::Ok, 6)
    );
}

#[test]
fn what_the_queue_cannot_take_is_counted_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(AuditSettings {
        queue_bytes: 1000,
        ..AuditSettings::new(dir.path())
    })
    .unwrap();
    let long = "x".repeat(2000);
    subscribe(&audit, "a", &long);
    assert_eq!(audit.stats().lost, 1);
    assert!(!audit.can_record());
    audit.flush();
    assert!(audit.can_record());
    audit.stop(Now::read());
    let summaries = events_named(dir.path(), "summary");
    assert_eq!(
        (&summaries[0]["of"], &summaries[0]["count"]),
        (&"lost".into(), &1.into())
    );
    subscribe(&audit, "a", "after the end");
    assert_eq!(audit.stats().lost, 2);
}

#[test]
fn a_query_finds_and_an_export_converts() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::start(settings(dir.path())).unwrap();
    let who = client("pump-17");
    for topic in ["ward/1/cmd", "ward/2/cmd", "=ward"] {
        audit.event(
            &Event::PublishDenied {
                who: &who,
                topic,
                qos: QoS::AtMostOnce,
                payload: 0,
                action: "publish",
                rule: "none",
            },
            Now::read(),
        );
    }
    subscribe(&audit, "pump-18", "ward/+/cmd");
    audit.flush();
    let count = |filter: Filter| {
        query(dir.path(), filter)
            .unwrap()
            .map(Result::unwrap)
            .count()
    };
    let some = |text: &str| Some(text.to_owned());
    for (filter, found) in [
        (Filter::default(), 4),
        (
            Filter {
                event: some("publish-denied"),
                ..Filter::default()
            },
            3,
        ),
        (
            Filter {
                principal: some("cert:pump-18"),
                ..Filter::default()
            },
            1,
        ),
        (
            Filter {
                client_id: some("pump-1"),
                ..Filter::default()
            },
            0,
        ),
        (
            Filter {
                topic: some("ward/+/cmd"),
                ..Filter::default()
            },
            3,
        ),
        (
            Filter {
                topic: some("ward/1/cmd"),
                event: some("subscribe"),
                ..Filter::default()
            },
            0,
        ),
        (
            Filter {
                since: some("2100-01-01"),
                ..Filter::default()
            },
            0,
        ),
        (
            Filter {
                until: some("2000-01-01"),
                ..Filter::default()
            },
            0,
        ),
    ] {
        assert_eq!(count(filter.clone()), found, "{filter:?}");
    }
    audit.stop(Now::read());
    let mut lines = Vec::new();
    assert_eq!(
        export(dir.path(), Filter::default(), Format::Jsonl, &mut lines).unwrap(),
        4
    );
    let whole: Vec<u8> = files(dir.path())
        .iter()
        .flat_map(|file| fs::read(file).unwrap())
        .collect();
    assert_eq!(lines, whole);
    let mut csv = Vec::new();
    export(dir.path(), Filter::default(), Format::Csv, &mut csv).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.starts_with("seq,time,event,principal,"));
    assert!(csv.contains(",'=ward,"), "{csv}");
    assert_eq!(csv.lines().count(), 5);
}
