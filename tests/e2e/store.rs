//! `portcullis store`: what the operator sees of the log on disk.

use std::fs;
use std::path::PathBuf;

use portcullis_core::store::{Log, Options};

use crate::client::V5;
use crate::harness::{ANNA, Broker};

fn durable() -> Broker {
    Broker::start(|setup| setup.more += "[durability]\nmode = \"fsync\"\n")
}

fn segments(broker: &Broker) -> Vec<PathBuf> {
    let files = fs::read_dir(broker.setup.path("data/store")).unwrap();
    let mut segments: Vec<_> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .collect();
    segments.sort();
    segments
}

#[test]
fn a_store_in_use_is_left_alone_and_one_that_is_killed_is_sound() {
    let mut broker = durable();
    let mut sender = broker.device(V5, "device-1");
    for number in 0..20 {
        sender.retain("lab/kept", &number.to_string(), 1);
    }
    for command in ["check", "repair"] {
        let said = broker.ask(&["store", command]).failed();
        assert!(said.err.contains("another process"), "{said:?}");
    }
    broker.kill();
    for command in ["check", "repair"] {
        let said = broker.ask(&["store", command]).succeeded();
        assert!(said.out.contains("sound"), "{said:?}");
    }
}

#[test]
fn without_a_store_there_is_nothing_to_be_sound() {
    let mut broker = Broker::start(|_| ());
    broker.kill();
    let said = broker.ask(&["store", "check"]).failed();
    assert!(said.err.contains("there is no store"), "{said:?}");
    assert!(!broker.setup.path("data/store").exists());
}

#[test]
fn a_damaged_store_is_named_repaired_and_opens_again() {
    let mut broker = durable();
    let mut sender = broker.device(V5, "device-1");
    sender.retain("lab/kept", "kept", 1);
    broker.kill_and_restart();
    broker.kill();
    let first = segments(&broker).swap_remove(0);
    let mut bytes = fs::read(&first).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&first, bytes).unwrap();

    let name = first.file_name().unwrap().to_str().unwrap();
    let said = broker.ask(&["store", "check"]).failed();
    assert!(
        said.out.contains("damaged: ") && said.out.contains(name),
        "{said:?}"
    );
    let run = broker.ask(&["run"]).failed();
    assert!(run.err.contains(name), "{run:?}");
    let said = broker.ask(&["store", "repair"]).succeeded();
    assert!(said.out.contains("repaired: "), "{said:?}");
    assert!(first.with_extension("log.damaged").exists());
    broker.ask(&["store", "check"]).succeeded();
    broker.restart();
}

#[test]
fn a_check_says_what_each_session_has_and_what_damage_takes_from_it() {
    let mut broker = durable();
    let away = broker.dial(V5, "away").login(ANNA).local().persistent();
    let mut reader = away.connect();
    reader.subscribe(&["lab/a", "lab/b"], 1);
    reader.disconnect();
    let mut sender = broker.device(V5, "device-1");
    for number in 0..3 {
        sender.publish("lab/a", &number.to_string(), 1);
    }
    sender.retain("lab/kept", "kept", 1);
    broker.kill();
    let said = broker.ask(&["store", "check"]).succeeded();
    let line = "session \"away\" of user:anna: 2 subscriptions, 3 queued, 0 in flight";
    assert!(said.out.contains(line), "{said:?}");
    assert!(
        said.out.contains("1 persistent sessions, 1 retained"),
        "{said:?}"
    );

    // A later file holds records whose messages the damaged one takes along.
    broker.restart();
    broker.kill();
    let first = segments(&broker).swap_remove(0);
    let bytes = fs::read(&first).unwrap();
    let payload = 2 * 84 + 32;
    for at in [payload + 10, bytes.len() / 2] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&first, damaged).unwrap();
        let said = broker.ask(&["store", "check"]).failed();
        assert!(said.out.contains("damaged: "), "{said:?}");
        assert!(said.out.contains("persistent sessions"), "{said:?}");
    }
}

/// A clock that once stood in the future leaves the broker there, until an operator says otherwise.
#[test]
fn a_calendar_that_stands_in_the_future_is_corrected_on_record() {
    const NEW_YEAR_2100: u64 = 4_102_444_800_000;
    const CLOCK: u8 = 19;
    let mut broker = durable();
    let correct = ["store", "correct-clock"];
    let mut sender = broker.device(V5, "device-1");
    assert_eq!(sender.retain("lab/kept", "kept", 1) & 0x80, 0);
    let said = broker.ask(&correct).failed();
    assert!(said.err.contains("another process"), "{said:?}");
    broker.kill();
    let said = broker.ask(&correct).succeeded();
    assert!(said.out.contains("nothing to correct"), "{said:?}");

    let options = Options::new(broker.setup.path("data/store"));
    let log = Log::open(&options, &mut |_, _| Ok(())).unwrap();
    let record = |out: &mut Vec<u8>| out.extend(NEW_YEAR_2100.to_le_bytes());
    log.append(&mut |batch| batch.record(CLOCK, record))
        .unwrap();
    drop(log);
    broker.restart();
    let started = broker.record("start", &[("time", "2100-01-01T")]);
    assert!(started.is_object());
    // Whatever there is that ends has ended: certificates, for one.
    let ended = broker
        .dial(V5, "device-1")
        .certificate("device-1")
        .refused();
    assert_eq!(ended, 0x86);
    assert!(broker.terminate().success());

    let said = broker.ask(&correct).succeeded();
    assert!(said.out.contains("goes back from 2100-01-01T"), "{said:?}");
    let action = [("action", "store correct-clock"), ("action", "2100-01-01T")];
    broker.record("administration", &action);
    broker.restart();
    let mut reader = broker.device(V5, "device-1");
    reader.subscribe(&["lab/kept"], 1);
    assert_eq!(reader.payload(), "kept");
    broker.ask(&["audit", "verify"]).succeeded();
}
