//! A disk that fails under the running broker: system calls on one file end with an error. `strace`
//! puts the error there; to the broker it is the kernel's.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, Dialed, V3, V5};
use crate::harness::{
    ANNA, BOB, Broker, PORTCULLIS, Setup, eventually, launch, not_tested, run_to_end,
};
use crate::raw::{self, Wire};

const SEGMENT: &str = "data/store/000000000001.log";
const RECORD: &str = "audit/audit-000001.jsonl";

/// Errors for a system call on a file, until this is dropped.
struct Fault {
    strace: Child,
    log: PathBuf,
}

impl Fault {
    /// Begins with the next call. `how` is strace's: `fdatasync:error=EIO`. `None`: nobody may trace
    /// a process here.
    fn begin(broker: &Broker, file: &str, how: &str) -> Option<Self> {
        let log = broker.setup.path("strace.log");
        let id = broker.id().to_string();
        let mut command = strace(&broker.setup, file, how);
        command.args(["-p", &id, "-o"]).arg(&log);
        let (mut strace, said) = launch(&mut command);
        let attached = said.find(0, |line| line.contains(" attached"));
        if attached.is_none() {
            let _ = strace.kill();
            let _ = strace.wait();
            let text = said.text();
            assert!(text.contains("ptrace("), "{text}");
            not_tested(&text);
            return None;
        }
        Some(Self { strace, log })
    }

    /// Waits until the broker has met it.
    #[track_caller]
    fn is_met(&self) {
        eventually("the fault is met", || {
            let log = fs::read_to_string(&self.log).unwrap();
            log.contains("(INJECTED)").then_some(())
        });
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // It has ended already where its broker has.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}

fn strace(setup: &Setup, file: &str, how: &str) -> Command {
    let directory = fs::canonicalize(setup.path("")).unwrap();
    let calls = how.split_once(':').unwrap().0;
    let mut command = Command::new("strace");
    command.args(["-f", "-P"]).arg(directory.join(file));
    command.args(["-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={how}")]);
    command
}

fn durable(durability: &str) -> Broker {
    Broker::start(|setup| {
        setup.more += "[admin]\nbind = \"127.0.0.1:0\"\n[durability]\n";
        setup.more += durability;
    })
}

fn user(broker: &Broker, id: &str) -> Client {
    broker.user(V5, id, ANNA)
}

/// The session to which everything that must be stored goes.
fn away(broker: &Broker) -> Client {
    let dial = broker.dial(V5, "away").login(BOB).local();
    dial.persistent().connect()
}

fn leave(broker: &Broker) {
    let mut reader = away(broker);
    assert_eq!(reader.subscribe(&["lab/kept"], 1), [1]);
    reader.disconnect();
}

/// The payloads up to and without `end`.
fn payloads(reader: &mut Client, end: &str) -> Vec<String> {
    let next = || Some(reader.payload()).filter(|payload| payload != end);
    std::iter::from_fn(next).collect()
}

/// That it says so wherever somebody may look.
fn assert_told(broker: &Broker, reason: &str) {
    eventually("the alarm", || {
        (broker.metric("store_full") == 1).then_some(())
    });
    assert_eq!(broker.metric("store_failed"), 1);
    let health = broker.http("/health");
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    assert!(health.contains("the store has failed"), "{health}");
    broker.record("limit", &[("rule", "durability"), ("reason", "failed")]);
    let said = |line: &str| line.contains("ERROR") && line.contains(reason);
    assert!(broker.log.find(0, said).is_some(), "{}", broker.log.text());
}

fn assert_sound(broker: &Broker) {
    let log = broker.log.text();
    assert!(!log.contains("panicked"), "{log}");
}

/// After a failed sync the kernel forgets what it could not write, and the next one succeeds.
#[test]
fn rule_12_after_one_failed_sync_or_write_nothing_is_stored_or_acknowledged_until_a_restart() {
    for (how, reason) in [
        ("fdatasync:error=EIO:when=1", "Input/output error"),
        ("fdatasync:error=ENOSPC:when=1", "No space left"),
        ("write:error=EIO:when=1", "Input/output error"),
    ] {
        let mut broker = durable("mode = \"fsync\"\n");
        leave(&broker);
        let mut live = user(&broker, "live");
        live.subscribe(&["lab/live"], 1);
        let mut sender = user(&broker, "sender");
        let mut old = broker.user(V3, "old", ANNA);
        assert_eq!(sender.publish("lab/kept", "before", 1), 0);

        let Some(fault) = Fault::begin(&broker, SEGMENT, how) else {
            return;
        };
        assert_eq!(sender.publish("lab/kept", "unsure", 1), 0x80, "{how}");
        fault.is_met();
        drop(fault);
        assert_told(&broker, reason);
        for qos in [1, 2] {
            assert_eq!(sender.publish("lab/kept", "refused", qos), 0x97, "{how}");
            assert_eq!(sender.retain("lab/state", "refused", qos), 0x97, "{how}");
        }
        let new = |version| broker.dial(version, "new").login(BOB).local().persistent();
        assert_eq!(new(V5).refused(), 0x97);
        assert_eq!(new(V3).refused(), 3);
        let known = broker.dial(V5, "away").login(BOB).local().persistent();
        assert_eq!(known.refused(), 0x97);
        for qos in [0, 1, 2] {
            assert_eq!(sender.publish("lab/live", "served", qos), 0);
            assert_eq!(live.payload(), "served");
            old.send("lab/live", "served too", qos, false);
            assert_eq!(live.payload(), "served too");
        }
        broker.user(V3, "short", BOB).disconnect();
        old.send("lab/kept", "refused", 1, false);
        assert_eq!(old.ended(), None, "3.x has no word for it");
        assert_sound(&broker);

        broker.kill_and_restart();
        assert_eq!(broker.metric("store_failed"), 0);
        let mut sender = user(&broker, "sender");
        assert_eq!(sender.publish("lab/kept", "after", 1), 0);
        let kept = payloads(&mut away(&broker), "after");
        assert_eq!(kept[0], "before", "{how}");
        // It was written, or not: nobody was told that it was.
        let rest = &kept[1..];
        assert!(rest.is_empty() || rest == ["unsure"], "{how}: {kept:?}");
    }
}

/// The properties of a CONNECT: Session Expiry Interval, an hour.
const EXPIRY: [u8; 6] = [5, 0x11, 0, 0, 14, 16];

/// A client made by hand, whose session persists.
fn connect(broker: &Broker, level: u8) -> Wire {
    let mut wire = broker.wire();
    let properties: &[u8] = if level == 5 { &EXPIRY } else { &[] };
    let body = [
        &raw::string("MQTT")[..],
        &[level, 0xc0, 0, 60],
        properties,
        &raw::string("by hand"),
        &raw::string(ANNA.0),
        &raw::string(ANNA.1),
    ];
    wire.send(&raw::packet(0x10, &body.concat()));
    wire
}

fn publish(level: u8, topic: &str, first: u8) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [&raw::string(topic)[..], &[0, 9], properties, b"x"].concat();
    raw::packet(first, &body)
}

fn subscribe(level: u8) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [&[0, 9][..], properties, &raw::string("lab/new"), &[1]];
    raw::packet(0x82, &body.concat())
}

/// Whether a packet to a client of 5.0 says no; 3.x has no packet for it.
fn is_refusal((first, body): &(u8, Vec<u8>)) -> bool {
    let code = match *first {
        0x40 | 0x50 | 0x70 => body.get(2),
        0x90 => body.get(3),
        0xe0 => body.first(),
        _ => None,
    };
    code.is_some_and(|code| *code >= 0x80)
}

/// What is promised only when it is on disk, each as the first to meet a sync that fails.
#[test]
fn rule_12_whatever_waits_for_a_sync_that_fails_is_acknowledged_to_nobody() {
    let release = raw::packet(0x62, &[0, 9]);
    for level in [5, 4] {
        let begun = || Some(publish(level, "lab/x", 0x34));
        for (what, before, packet) in [
            ("PUBACK", None, publish(level, "lab/kept", 0x32)),
            ("PUBREC", None, publish(level, "lab/kept", 0x34)),
            ("of what is retained", None, publish(level, "lab/r", 0x33)),
            ("PUBCOMP", begun(), release.clone()),
            ("SUBACK", None, subscribe(level)),
        ] {
            let what = format!("{what} of level {level}");
            let mut broker = durable("mode = \"fsync\"\n");
            leave(&broker);
            let mut client = connect(&broker, level);
            assert_eq!(client.receive().unwrap().1[1], 0, "{what}");
            if let Some(before) = before {
                client.send(&before);
                assert_eq!(client.receive().unwrap().0, 0x50, "{what}");
            }
            let Some(fault) = Fault::begin(&broker, SEGMENT, "fdatasync:error=EIO") else {
                return;
            };
            client.send(&packet);
            let got = client.receive();
            let refusal = got.as_ref().map(is_refusal);
            assert_eq!(refusal, (level == 5).then_some(true), "{what}: {got:?}");
            fault.is_met();
            assert_sound(&broker);
            assert_eq!(broker.metric("store_failed"), 1, "{what}");
            drop(fault);
            broker.kill_and_restart();
        }
    }
}

#[test]
fn rule_12_a_persistent_session_whose_sync_fails_is_not_admitted() {
    for version in [V5, V3] {
        let broker = durable("mode = \"fsync\"\n");
        let new = broker.dial(version, "new").login(BOB).local().persistent();
        let Some(fault) = Fault::begin(&broker, SEGMENT, "fdatasync:error=EIO") else {
            return;
        };
        match new.dial() {
            Dialed::Connected(_) => panic!("{version:?}: it is admitted"),
            Dialed::Refused(_) | Dialed::Broken(_) => {}
        }
        fault.is_met();
        assert_sound(&broker);
    }
}

#[test]
fn with_an_interval_nothing_more_is_taken_once_a_sync_has_failed() {
    let broker = durable("mode = \"interval\"\n");
    leave(&broker);
    let mut sender = user(&broker, "sender");
    let Some(fault) = Fault::begin(&broker, SEGMENT, "fdatasync:error=EIO") else {
        return;
    };
    assert_eq!(sender.publish("lab/kept", "within the interval", 1), 0);
    fault.is_met();
    assert_told(&broker, "Input/output error");
    assert_eq!(sender.publish("lab/kept", "refused", 1), 0x97);
    assert_sound(&broker);
}

#[test]
fn over_a_disk_that_fails_no_broker_starts() {
    for (file, how, says) in [
        (
            "data/store/000000000001.log.new",
            "fdatasync:error=EIO",
            "store",
        ),
        ("audit/head.json.new", "fsync:error=EIO", "[audit]"),
        ("audit/head.json.new", "write:error=ENOSPC", "[audit]"),
    ] {
        let mut setup = Setup::new();
        setup.more += "[durability]\nmode = \"fsync\"\n";
        setup.write();
        let mut command = strace(&setup, file, how);
        // The broker is the child then, and ends where the test ends it.
        command.args(["-D", "-o"]).arg(setup.path("strace.log"));
        command
            .args([PORTCULLIS, "run", "--config"])
            .arg(setup.config());
        let said = run_to_end(command, "");
        if said.err.contains("ptrace(") {
            return not_tested(&said.err);
        }
        let said = said.failed();
        assert!(said.err.contains(says), "{file}: {said:?}");
        assert!(!said.err.contains("listening"), "{file}: {said:?}");
    }
}

/// A broker with a record and a client that makes records.
fn recorded(on_full: &str) -> (Broker, Client) {
    let broker = Broker::start(|setup| {
        setup.more += "[admin]\nbind = \"127.0.0.1:0\"\n";
        setup.audit += on_full;
    });
    let inside = user(&broker, "inside");
    (broker, inside)
}

/// Makes a record and waits until it could not be written.
fn record_until_failing(broker: &Broker, inside: &mut Client, fault: &Fault) {
    inside.subscribe(&["lab/during"], 0);
    fault.is_met();
    eventually("the record fails", || {
        (broker.metric("audit_failing") == 1).then_some(())
    });
    let said =
        |line: &str| line.contains("ERROR") && line.contains("audit record cannot be written");
    assert!(broker.log.find(0, said).is_some(), "{}", broker.log.text());
}

fn goes_on(broker: &Broker) {
    eventually("the record is written again", || {
        (broker.metric("audit_failing") == 0).then_some(())
    });
    broker.record("subscribe", &[("filters", "lab/during")]);
    assert_eq!(broker.metric("audit_lost_total"), 0);
    broker.ask(&["audit", "verify"]).succeeded();
    assert_sound(broker);
}

#[test]
fn while_the_record_cannot_be_written_nobody_new_is_admitted_and_no_record_is_lost() {
    for (file, how) in [
        (RECORD, "fdatasync:error=EIO"),
        (RECORD, "write:error=EIO"),
        ("audit/head.json.new", "fsync:error=EIO"),
    ] {
        let (mut broker, mut inside) = recorded("");
        let new = |broker: &Broker, version| match version {
            V5 => broker.dial(V5, "new").login(BOB).local().dial(),
            V3 => broker.dial(V3, "new").login(BOB).local().dial(),
        };
        let Some(fault) = Fault::begin(&broker, file, how) else {
            return;
        };
        record_until_failing(&broker, &mut inside, &fault);
        assert!(matches!(new(&broker, V5), Dialed::Refused(0x88)), "{how}");
        assert!(matches!(new(&broker, V3), Dialed::Refused(3)), "{how}");
        assert!(broker.http("/health").starts_with("HTTP/1.1 503"), "{how}");
        assert_eq!(inside.publish("lab/x", "served", 1) & 0x80, 0);
        drop(fault);
        goes_on(&broker);
        assert!(matches!(new(&broker, V5), Dialed::Connected(_)), "{how}");

        // A crash while it fails leaves a record that verifies.
        let fault = Fault::begin(&broker, file, how).unwrap();
        record_until_failing(&broker, &mut inside, &fault);
        broker.kill_and_restart();
        broker.record("recovered", &[]);
        broker.ask(&["audit", "verify"]).succeeded();
    }
}

#[test]
fn while_the_record_cannot_be_written_everybody_is_served_where_that_is_configured() {
    let (broker, mut inside) = recorded("on-full = \"drop-oldest\"\n");
    let Some(fault) = Fault::begin(&broker, RECORD, "fdatasync:error=EIO") else {
        return;
    };
    record_until_failing(&broker, &mut inside, &fault);
    broker.user(V5, "new", BOB).disconnect();
    drop(fault);
    goes_on(&broker);
    broker.record("connect", &[("client_id", "new")]);
}

#[test]
fn a_record_that_cannot_be_written_ends_the_broker_where_that_is_configured() {
    let (mut broker, inside) = recorded("on-full = \"stop\"\n");
    let Some(fault) = Fault::begin(&broker, RECORD, "fdatasync:error=EIO") else {
        return;
    };
    inside.send("lab/secret/x", "denied", 0, false);
    assert_eq!(broker.await_end().code(), Some(1));
    fault.is_met();
    assert_sound(&broker);
}
