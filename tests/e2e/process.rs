//! The program as a process: exit codes, signals, files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rustix::process::Signal;

use crate::client::{V3, V5};
use crate::harness::{Broker, PORTCULLIS, Setup, launch};

#[test]
fn exit_codes_are_0_for_success_1_for_no_and_2_for_usage() {
    let setup = Setup::new();
    setup.write();
    let explain = |topic| {
        let question = [
            "policy",
            "explain",
            "--config",
            "portcullis.toml",
            "--principal",
        ];
        [&question[..], &["cert:device-1", "publish", topic]].concat()
    };
    for (arguments, code) in [
        (vec!["--help"], 0),
        (vec!["--version"], 0),
        (vec!["check", "--config", "portcullis.toml"], 0),
        (explain("devices/device-1/telemetry"), 0),
        (explain("devices/device-2/telemetry"), 1),
        (vec!["check", "--config", "missing.toml"], 1),
        (vec!["run", "--config", "missing.toml"], 1),
        (vec!["status", "--config", "portcullis.toml"], 1),
        (vec!["audit", "verify", "--config", "portcullis.toml"], 1),
        (vec!["pki", "show", "missing.pem"], 1),
        (vec![], 2),
        (vec!["chek"], 2),
        (vec!["check", "--confg", "x"], 2),
        (vec!["quickstart", "--bind", "nowhere"], 2),
        (vec!["ban", "add"], 2),
        (vec!["ban", "add", "--client-id", "a", "--for", "0 s"], 2),
        (vec!["kick"], 2),
    ] {
        let said = setup.portcullis(&arguments);
        assert_eq!(said.code(), Some(code), "{arguments:?}: {said:?}");
        // An answer is for standard output, a failure for standard error.
        let answered = code == 0 || arguments.contains(&"explain");
        assert_eq!(said.err.is_empty(), answered, "{arguments:?}: {said:?}");
        assert!(!said.err.contains("panicked"), "{said:?}");
    }
}

#[test]
fn the_word_ready_comes_once_and_when_every_listener_accepts() {
    let broker = Broker::start(|_| ());
    for listener in ["main", "local"] {
        broker.tcp(listener);
    }
    let log = broker.log.text();
    let word = |line: &&str| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| word == "ready")
    };
    assert_eq!(log.lines().filter(word).count(), 1, "{log}");
}

#[test]
fn sigterm_and_sigint_drain_and_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut broker = Broker::start(|_| ());
        let mut new = broker
            .dial(V5, "device-1")
            .certificate("device-1")
            .connect();
        let mut old = broker
            .dial(V3, "device-2")
            .certificate("device-2")
            .connect();
        let mut waiting = broker.tcp("local");
        broker.signal(signal);
        assert_eq!(new.ended(), Some(0x8b));
        assert_eq!(old.ended(), None);
        assert_eq!(broker.await_end().code(), Some(0));
        assert_eq!(std::io::Read::read(&mut waiting, &mut [0]).unwrap_or(0), 0);
        let log = broker.log.text();
        assert!(log.contains("draining") && log.contains("stopped"), "{log}");
        broker.record("stop", &[]);
        assert_eq!(
            broker.record("disconnect", &[("client_id", "device-1")])["code"],
            "0x8b"
        );
        // It can be started again over the same files.
        broker.kill_and_restart();
        broker.device(V5, "device-1").disconnect();
    }
}

#[test]
fn a_second_broker_over_the_same_data_is_refused_and_the_first_serves_on() {
    let broker = Broker::start(|_| ());
    let said = broker.ask(&["run"]).failed();
    assert!(said.err.contains("in use by another broker"), "{said:?}");
    broker.ask(&["status"]).succeeded();
    broker.device(V5, "device-1").disconnect();
    broker.ask(&["audit", "verify"]).succeeded();
}

#[test]
fn secrets_on_disk_are_for_their_owner_alone() {
    let broker = Broker::start(|_| ());
    let mode = |name: &str| {
        let metadata = fs::metadata(broker.setup.path(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    for name in [
        "pki/ca.key",
        "pki/server.key",
        "pki/device-1.key",
        "pki/operator.key",
        "tokens/issuer.key",
        "users.passwd",
        "audit/audit.key",
        "data/control.sock",
    ] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for name in ["pki", "data", "audit"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    let passwords = fs::read_to_string(broker.setup.path("users.passwd")).unwrap();
    assert!(passwords.contains("$argon2id$"), "{passwords}");
    assert!(!passwords.contains(crate::harness::ANNA.1));
}

#[test]
fn the_log_can_be_json_for_machines() {
    let setup = Setup::new();
    setup.write();
    let mut command = Command::new(PORTCULLIS);
    command
        .args(["--log-format", "json", "run", "--config"])
        .arg(setup.config());
    let (mut child, log) = launch(&mut command);
    let line = log.find(0, |line| line.contains("ready")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["message"], "ready");
    assert_eq!(line["level"], "INFO");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_process_with_keys_leaves_no_core_dump_and_after_a_clean_end_no_socket() {
    let mut broker = Broker::start(|_| ());
    let limits = fs::read_to_string(format!("/proc/{}/limits", broker.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"]);
    assert!(broker.setup.path("data/control.sock").exists());
    assert!(broker.terminate().success());
    assert!(!broker.setup.path("data/control.sock").exists());
}
