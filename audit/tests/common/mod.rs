//! What the tests of the record share: a store in a directory, and events to put into it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_audit::{Audit, AuditSettings, Report, Status, verify};
use portcullis_core::clock::Now;
use portcullis_core::hook::{Credential, Event, Granted, Identity, Observer, Principal, Snapshot};
use portcullis_core::wire::QoS;

/// A client, proven.
pub(crate) fn client(name: &str) -> Snapshot {
    Snapshot {
        identity: Identity::new(Principal::vouched("cert", name).unwrap()),
        credential: Credential::new("certificate", "serial 1"),
        client_id: name.into(),
        listener: Arc::from("internet"),
        address: Some("192.0.2.7".parse().unwrap()),
    }
}

/// One record that is never aggregated.
pub(crate) fn subscribe(audit: &Audit, who: &str, filter: &str) {
    let who = client(who);
    let event = Event::Subscribed {
        who: &who,
        granted: &[Granted {
            filter,
            qos: QoS::AtLeastOnce,
            narrowed: false,
        }],
    };
    audit.event(&event, Now::read());
}

/// A small store of a broker that ended in good order, in files of a few records each.
pub(crate) fn small_store(dir: &Path, records: usize) {
    let audit = Audit::start(settings(dir)).unwrap();
    for n in 0..records {
        subscribe(&audit, "pump-17", &format!("ward/{n}/#"));
    }
    audit.stop(Now::read());
}

pub(crate) fn settings(dir: &Path) -> AuditSettings {
    AuditSettings {
        segment_bytes: Some(1500),
        ..AuditSettings::new(dir)
    }
}

/// The files of records, oldest first.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "jsonl"))
        .collect();
    files.sort();
    files
}

/// What `kill -9` leaves: the files as they are at this moment.
pub(crate) fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

pub(crate) fn status(dir: &Path) -> Status {
    verify(dir).unwrap().status
}

pub(crate) fn report(dir: &Path) -> Report {
    verify(dir).unwrap()
}

/// All lines, parsed.
pub(crate) fn entries(dir: &Path) -> Vec<serde_json::Value> {
    files(dir)
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) fn events_named(dir: &Path, event: &str) -> Vec<serde_json::Value> {
    entries(dir)
        .into_iter()
        .filter(|entry| entry["event"] == event)
        .collect()
}
