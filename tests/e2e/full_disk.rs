//! A disk that is really full: the broker runs over a small file system of its own, in a mount
//! namespace, and a file takes the rest of it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::Command;

use crate::client::{Client, V3, V5};
use crate::harness::{ANNA, BOB, Broker, PORTCULLIS, Setup, eventually, not_tested};

/// Starts a broker whose directory `name` is a file system of this size. `None`: this machine
/// lets nobody make one.
fn on_small_disk(
    name: &str,
    size: &str,
    change: impl FnOnce(&mut Setup),
) -> Option<(Broker, Disk)> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command
    };
    let allowed = unshare().arg("mount -t tmpfs tmpfs /mnt").status();
    if !allowed.is_ok_and(|status| status.success()) {
        not_tested("no mount namespaces here");
        return None;
    }
    let mut setup = Setup::new();
    setup.more += "[admin]\nbind = \"127.0.0.1:0\"\n";
    change(&mut setup);
    setup.write();
    let path = setup.path(name);
    fs::create_dir(&path).unwrap();
    let mut command = unshare();
    command
        .arg("mount -t tmpfs -o mode=0700,size=$1 tmpfs \"$2\" && exec \"$3\" run --config \"$4\"")
        .args(["sh", size])
        .arg(&path)
        .arg(PORTCULLIS)
        .arg(setup.config());
    let broker = Broker::spawn(setup, command);
    let seen = format!("/proc/{}/root{}", broker.id(), path.display());
    let filler = PathBuf::from(seen).join("filler");
    Some((broker, Disk { filler }))
}

struct Disk {
    filler: PathBuf,
}

impl Disk {
    /// Leaves no byte.
    fn fill(&self) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&self.filler)
            .unwrap();
        for size in [1 << 16, 1 << 10, 1] {
            loop {
                match file.write(&vec![0; size]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn free(&self) {
        fs::remove_file(&self.filler).unwrap();
    }
}

fn user(broker: &Broker, id: &str) -> Client {
    broker.user(V5, id, ANNA)
}

#[test]
fn a_full_disk_refuses_what_must_be_stored_serves_the_rest_and_recovers() {
    let started = on_small_disk("data", "2m", |setup| {
        setup.more += "[durability]\nmode = \"fsync\"\n";
    });
    let Some((broker, disk)) = started else {
        return;
    };
    let away = || broker.dial(V5, "away").login(BOB).local().persistent();
    let mut reader = away().connect();
    reader.subscribe(&["lab/kept"], 1);
    reader.disconnect();
    let mut sender = user(&broker, "sender");
    assert_eq!(sender.publish("lab/kept", "before", 1), 0);

    disk.fill();
    // The first waits for room, unacknowledged; the broker has not heard of it before.
    let mut waiting = user(&broker, "waiting");
    waiting.send("lab/kept", &"w".repeat(9_000), 1, false);
    eventually("the alarm", || {
        (broker.metric("store_full") == 1).then_some(())
    });
    broker.record("limit", &[("rule", "durability"), ("reason", "full")]);
    assert!(
        broker
            .log
            .find(0, |line| line.contains("ERROR") && line.contains("full"))
            .is_some()
    );
    assert_eq!(sender.publish("lab/kept", "refused", 1), 0x97);
    assert_eq!(sender.retain("lab/state", "refused", 1), 0x97);
    let mut new = broker.dial(V5, "new").login(BOB).local();
    assert_eq!(new.clone().persistent().refused(), 0x97);
    // Who needs nothing stored is served.
    new = broker.dial(V5, "live").login(BOB).local();
    let mut live = new.connect();
    live.subscribe(&["lab/live"], 1);
    assert_eq!(sender.publish("lab/live", "served", 1), 0);
    assert_eq!(live.payload(), "served");

    disk.free();
    assert_eq!(waiting.acknowledged(1), 0, "stored after all");
    eventually("the end of the alarm", || {
        (broker.metric("store_full") == 0).then_some(())
    });
    broker.record("limit", &[("rule", "durability"), ("reason", "again")]);
    assert_eq!(sender.publish("lab/kept", "after", 1), 0);
    let mut reader = away().connect();
    assert_eq!(reader.payload(), "before");
    assert_eq!(reader.payload(), "w".repeat(9_000));
    assert_eq!(reader.payload(), "after");
}

/// Makes records until the disk has no room for them.
fn record_until_failing(broker: &Broker, client: &mut Client) {
    eventually("the record cannot be written", || {
        client.subscribe(&["lab/a"], 0);
        client.unsubscribe("lab/a");
        (broker.metric("audit_failing") == 1).then_some(())
    });
}

#[test]
fn with_a_full_disk_for_the_record_nobody_new_is_admitted_until_there_is_room() {
    let started = on_small_disk("audit", "1m", |_| ());
    let Some((broker, disk)) = started else {
        return;
    };
    let mut inside = user(&broker, "inside");
    disk.fill();
    record_until_failing(&broker, &mut inside);
    assert_eq!(broker.dial(V5, "new").login(BOB).local().refused(), 0x88);
    assert_eq!(inside.publish("lab/x", "served", 1) & 0x80, 0);
    disk.free();
    eventually("the record is written again", || {
        (broker.metric("audit_failing") == 0).then_some(())
    });
    broker.dial(V5, "new").login(BOB).local().connect();
}

#[test]
fn with_a_full_disk_the_oldest_records_go_where_that_is_configured() {
    let started = on_small_disk("audit", "400k", |setup| {
        setup.audit += "on-full = \"drop-oldest\"\nmax-bytes = \"1 MiB\"\n";
    });
    let Some((broker, disk)) = started else {
        return;
    };
    let mut inside = user(&broker, "inside");
    for _ in 0..800 {
        inside.subscribe(&["lab/a"], 0);
        inside.unsubscribe("lab/a");
    }
    eventually("the record goes on", || {
        broker.dial(V5, "new").login(BOB).local().connect();
        let (bytes, failing) = (broker.metric("audit_bytes"), broker.metric("audit_failing"));
        (failing == 0 && bytes < 400 << 10).then_some(())
    });

    // What is left verifies, and a signed head says from where on.
    let seen = disk.filler.with_file_name("");
    let record = broker.setup.path("audit");
    let verify = || broker.ask(&["audit", "verify"]);
    let said = eventually("a whole copy", || {
        // As `verify` reads: the head first.
        let mut files = vec![seen.join("head.json"), seen.join("audit.pub")];
        let all = fs::read_dir(&seen)
            .unwrap()
            .map(|file| file.unwrap().path());
        files.extend(all.filter(|path| path.extension().is_some_and(|end| end == "jsonl")));
        for file in fs::read_dir(&record).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        for file in files {
            fs::copy(&file, record.join(file.file_name().unwrap())).ok()?;
        }
        Some(verify()).filter(|said| said.code() == Some(0))
    });
    assert!(said.out.contains("records 1 to "), "{said:?}");
    assert!(said.out.contains("the signed head says so"), "{said:?}");

    // And whatever is done to it is found.
    let mut segments: Vec<_> = fs::read_dir(&record)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    segments.sort();
    for segment in &segments {
        let whole = fs::read(segment).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        fs::write(segment, changed).unwrap();
        verify().failed();
        fs::write(segment, whole).unwrap();
    }
    verify().succeeded();
    let oldest = fs::read(&segments[0]).unwrap();
    fs::remove_file(&segments[0]).unwrap();
    verify().failed();
    let from = 1 + oldest.iter().position(|byte| *byte == b'\n').unwrap();
    fs::write(&segments[0], &oldest[from..]).unwrap();
    verify().failed();
    fs::write(&segments[0], oldest).unwrap();
    verify().succeeded();
}

/// A file that may not grow further: the write there is short, and the next one fails.
#[test]
fn what_a_failing_disk_cuts_short_was_acknowledged_to_nobody() {
    let mut setup = Setup::new();
    setup.more += "[durability]\nmode = \"fsync\"\n[admin]\nbind = \"127.0.0.1:0\"\n";
    setup.write();
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 512; exec \"$0\" run --config \"$1\"",
        ])
        .arg(PORTCULLIS)
        .arg(setup.config());
    let mut broker = Broker::spawn(setup, command);
    let away = |broker: &Broker| {
        let dial = broker.dial(V5, "away").login(BOB).local();
        dial.persistent().connect()
    };
    let mut reader = away(&broker);
    reader.subscribe(&["lab/kept"], 1);
    reader.disconnect();
    let mut old = broker.user(V3, "old", ANNA);
    let mut sender = user(&broker, "sender");
    let payload = |number: usize| format!("{number:>9000}");
    let kept = (0..60)
        .take_while(|number| sender.publish("lab/kept", &payload(*number), 1) == 0)
        .count();
    assert!((1..60).contains(&kept), "{kept}");

    eventually("the alarm", || {
        (broker.metric("store_full") == 1).then_some(())
    });
    broker.record("limit", &[("rule", "durability"), ("reason", "failed")]);
    assert!(broker.http("/health").starts_with("HTTP/1.1 503"));
    assert_eq!(sender.publish("lab/kept", "refused", 1), 0x97);
    old.send("lab/kept", "refused", 1, false);
    assert_eq!(old.ended(), None, "3.x has no word for it");
    let mut live = broker.user(V5, "live", BOB);
    live.subscribe(&["lab/live"], 1);
    assert_eq!(sender.publish("lab/live", "served", 1), 0);
    assert_eq!(live.payload(), "served");

    broker.kill_and_restart();
    let torn = |line: &str| line.contains("cut");
    assert!(broker.log.find(0, torn).is_some(), "{}", broker.log.text());
    let mut reader = away(&broker);
    for number in 0..kept {
        assert_eq!(reader.payload(), payload(number));
    }
    assert_eq!(user(&broker, "sender").publish("lab/kept", "after", 1), 0);
    assert_eq!(reader.payload(), "after");
}

#[test]
fn with_a_full_disk_the_broker_stops_where_that_is_configured() {
    let started = on_small_disk("audit", "1m", |setup| {
        setup.audit += "on-full = \"stop\"\n";
    });
    let Some((mut broker, disk)) = started else {
        return;
    };
    let inside = user(&broker, "inside");
    disk.fill();
    for _ in 0..20 {
        inside.send("lab/secret/x", "denied", 0, false);
    }
    assert_eq!(broker.await_end().code(), Some(1));
}
