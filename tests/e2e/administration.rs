//! The operator's commands on a running broker.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::client::{V3, V5, VERSIONS};
use crate::harness::{ANNA, BOB, Broker};

#[test]
fn status_and_lists_show_what_there_is() {
    let broker = Broker::start(|_| ());
    let mut client = broker.device(V5, "device-1");
    client.subscribe(&["lab/a", "lab/b"], 2);
    let offline = broker.dial(V3, "away").certificate("device-2").persistent();
    offline.connect().disconnect();
    let list = broker.ask(&["client", "list"]).succeeded().out;
    assert!(
        list.contains("device-1") && !list.contains("away"),
        "{list}"
    );
    let all = broker.ask(&["session", "list"]).succeeded().out;
    assert!(all.contains("device-1") && all.contains("away"), "{all}");
    let one = broker.ask(&["client", "show", "device-1"]).succeeded().out;
    for part in [
        "cert:device-1",
        "main",
        "5.0",
        "lab/a  qos 2",
        "lab/b  qos 2",
    ] {
        assert!(one.contains(part), "{part}: {one}");
    }
    assert_eq!(broker.number("connections"), 1);
    let missing = broker.ask(&["client", "show", "nobody"]).failed();
    assert!(
        missing.err.contains("there is no session \"nobody\""),
        "{missing:?}"
    );
}

#[test]
fn a_kicked_client_is_told_and_may_come_back_to_its_session() {
    let broker = Broker::start(|_| ());
    for (version, goodbye) in [(V3, None), (V5, Some(0x98))] {
        for command in [&["kick", "k"][..], &["client", "kick", "k"]] {
            let dial = broker.dial(version, "k").login(ANNA).persistent();
            let mut client = dial.clone().connect();
            broker.ask(command).succeeded();
            assert_eq!(client.ended(), goodbye);
            assert!(dial.connect().session_present);
        }
        broker.ask(&["session", "drop", "k"]).succeeded();
    }
    let said = broker.ask(&["kick", "nobody"]).failed();
    assert!(said.err.contains("not connected"), "{said:?}");
    broker.record("administration", &[("action", "kick of \"k\"")]);
}

#[test]
fn a_ban_ends_connections_keeps_out_is_listed_and_is_lifted() {
    let broker = Broker::start(|_| ());
    for (flag, target) in [("--principal", "user:anna"), ("--client-id", "banned")] {
        for (version, goodbye, code) in [(V3, None, 0x05), (V5, Some(0x87), 0x87)] {
            let dial = broker.dial(version, "banned").login(ANNA);
            let mut client = dial.clone().connect();
            let ban = [
                "ban", "add", flag, target, "--for", "10 min", "--reason", "why not",
            ];
            broker.ask(&ban).succeeded();
            assert_eq!(client.ended(), goodbye, "{flag}");
            assert_eq!(dial.clone().refused(), code, "{flag} {version:?}");
            let list = broker.ask(&["ban", "list"]).succeeded().out;
            assert!(list.contains(target) && list.contains("why not"), "{list}");
            broker.user(version, "other", BOB).disconnect();
            broker.ask(&["ban", "remove", flag, target]).succeeded();
            let list = broker.ask(&["ban", "list"]).succeeded().out;
            assert!(!list.contains(target), "{list}");
            dial.connect().disconnect();
        }
        broker.ask(&["ban", "remove", flag, target]).failed();
    }
    broker.record("refuse", &[("client_id", "banned"), ("code", "0x87")]);
}

#[test]
fn a_banned_address_gets_no_connection() {
    let broker = Broker::start(|_| ());
    let ban = ["--address", "127.0.0.1"];
    broker
        .ask(&[&["ban", "add"][..], &ban].concat())
        .succeeded();
    broker.dial(V5, "device-1").certificate("device-1").broken();
    broker.dial(V3, "anna").login(ANNA).local().broken();
    broker
        .ask(&[&["ban", "remove"][..], &ban].concat())
        .succeeded();
    broker.device(V5, "device-1").disconnect();
}

#[test]
fn a_ban_outlives_a_restart() {
    let mut broker = Broker::start(|_| ());
    let ban = ["ban", "add", "--principal", "user:anna", "--for", "1 d"];
    broker.ask(&ban).succeeded();
    broker.kill_and_restart();
    assert_eq!(broker.dial(V5, "anna").login(ANNA).refused(), 0x87);
}

#[test]
fn a_dropped_session_is_gone_with_its_connection() {
    let broker = Broker::start(|_| ());
    for version in VERSIONS {
        let dial = broker.dial(version, "d").login(ANNA).persistent();
        let mut client = dial.clone().connect();
        client.subscribe(&["lab/a"], 1);
        broker.ask(&["session", "drop", "d"]).succeeded();
        client.ended();
        assert!(!dial.connect().session_present);
        broker.ask(&["session", "drop", "d"]).succeeded();
        broker.ask(&["session", "drop", "d"]).failed();
    }
}

#[test]
fn rule_8_the_only_way_to_administrate_is_a_socket_of_the_brokers_own_user() {
    let mut broker = Broker::start(|_| ());
    let socket = broker.setup.path("data/control.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let at = ["status", "--socket", socket.to_str().unwrap()];
    broker.setup.portcullis(&at).succeeded();
    broker.terminate();
    let said = broker.ask(&["status"]).failed();
    assert!(said.err.contains("no broker answers"), "{said:?}");
}

/// Rule 11.
#[test]
fn rule_11_the_program_never_changes_its_configuration() {
    let mut broker = Broker::start(|setup| setup.auth += "# a comment of mine\n\n\n");
    let names = [
        "portcullis.toml",
        "policy.csv",
        "users.passwd",
        "pki/server.pem",
    ];
    let files = |broker: &Broker| names.map(|name| fs::read(broker.setup.path(name)).unwrap());
    let before = files(&broker);
    let mut client = broker.device(V5, "device-1");
    broker.ask(&["ban", "add", "--client-id", "b"]).succeeded();
    broker.ask(&["kick", "device-1"]).succeeded();
    client.ended();
    broker.reload().unwrap();
    broker
        .ask(&["ban", "remove", "--client-id", "b"])
        .succeeded();
    broker.ask(&["check"]).succeeded();
    assert_eq!(broker.terminate().code(), Some(0));
    assert_eq!(files(&broker), before);
}

/// `portcullis policy test ... | head -1`
#[test]
fn who_stops_reading_ends_a_command_without_a_word() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["policy", "test", "policies/default/tests.toml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(writer)
        .output()
        .unwrap();
    // Its answer did not arrive.
    assert_eq!(done.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
}
