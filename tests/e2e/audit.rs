//! The record: what it holds, that it verifies, and that it holds no secrets.

use std::fs;

use serde_json::json;

use crate::client::{V3, V5};
use crate::harness::{Broker, POLICY, audit_text};

#[test]
fn a_running_and_a_stopped_brokers_record_verifies_and_a_changed_one_does_not() {
    let mut broker = Broker::start(|_| ());
    let verify = ["audit", "verify"];
    let mut device = broker.device(V5, "device-1");
    device.subscribe(&["lab/a"], 1);
    device.publish("elsewhere", "", 1);
    assert_eq!(broker.dial(V3, "x").login(("anna", "wrong")).refused(), 4);
    broker.record("refuse", &[("client_id", "x")]);
    broker.ask(&verify).succeeded();
    device.disconnect();
    broker.record("disconnect", &[("client_id", "device-1")]);
    assert_eq!(broker.terminate().code(), Some(0));
    let said = broker.ask(&verify).succeeded();
    assert!(said.out.contains("ok"), "{said:?}");

    let file = broker.setup.path("audit/audit-000001.jsonl");
    let good = fs::read(&file).unwrap();
    for place in [0, good.len() / 3, good.len() / 2, good.len() - 2] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        fs::write(&file, &bad).unwrap();
        let said = broker.ask(&verify).failed();
        assert!(
            said.all().contains("audit-000001.jsonl"),
            "{place}: {said:?}"
        );
    }
    // A line that is missing, in the middle and at the end.
    let lines: Vec<_> = good.split_inclusive(|byte| *byte == b'\n').collect();
    for missing in [lines.len() / 2, lines.len() - 1] {
        let mut less = lines.clone();
        less.remove(missing);
        fs::write(&file, less.concat()).unwrap();
        broker.ask(&verify).failed();
    }
    fs::write(&file, &good).unwrap();
    broker.ask(&verify).succeeded();
}

#[test]
fn a_record_goes_on_over_restarts_and_kill_9() {
    let mut broker = Broker::start(|_| ());
    broker.device(V5, "device-1").disconnect();
    broker.record("disconnect", &[("client_id", "device-1")]);
    broker.kill_and_restart();
    broker.record("recovered", &[]);
    broker.ask(&["audit", "verify"]).succeeded();
    let export = broker.ask(&["audit", "export"]).succeeded().out;
    let events: Vec<String> = export
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| record["event"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        events.starts_with(&["start", "connect", "disconnect"].map(str::to_owned)),
        "{events:?}"
    );
    assert!(events.contains(&"recovered".to_owned()), "{events:?}");
    let query = ["audit", "query", "--principal", "cert:device-1"];
    let found = broker.ask(&query).succeeded().out;
    assert_eq!(found.lines().count(), 2, "{found}");
}

#[test]
fn the_record_says_who_did_what_from_where_by_which_rule() {
    let broker = Broker::start(|_| ());
    let mut device = broker.device(V5, "device-1");
    device.subscribe(&["lab/a", "lab/secret/x"], 1);
    device.publish("lab/secret/x", "", 1);
    device.unsubscribe("lab/a");
    device.disconnect();
    let who = [("principal", "cert:device-1"), ("client_id", "device-1")];
    for (event, filled) in [
        (
            "connect",
            &["peer", "method", "credential", "version", "listener"][..],
        ),
        ("subscribe", &[]),
        ("subscribe-denied", &["filter", "rule"]),
        ("publish-denied", &["topic", "action", "rule"]),
        ("unsubscribe", &["filter"]),
        ("disconnect", &["peer", "reason"]),
    ] {
        let record = broker.record(event, &who);
        for name in filled.iter().chain(&["time", "hash", "prev", "policy"]) {
            let text = record[*name].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{event} {name}: {record}");
        }
    }
    let granted = broker.record("subscribe", &who);
    assert_eq!(granted["filters"], serde_json::json!(["lab/a"]));
    assert_eq!(granted["qos"], serde_json::json!([1]));
    let denied = broker.record("publish-denied", &who);
    assert!(
        denied["rule"].as_str().unwrap().contains("deny"),
        "{denied}"
    );
    broker.record("start", &[]);
    broker
        .replace_policy(&format!("{POLICY}# changed\n"))
        .unwrap();
    broker.record("reload", &[("unit", "policy")]);
}

/// Rule 10: canaries in every place where a secret enters, at the most talkative log level.
#[test]
fn rule_10_no_password_token_or_payload_is_in_the_log_the_record_or_any_output() {
    let canary = "canary-7f3a9c";
    let mut broker = Broker::start(|setup| setup.more += "[log]\nlevel = \"trace\"\n");
    let secret = |what: &str| format!("{canary}-{what}");
    let token = broker.setup.token(&json!({ "nonce": canary }));
    let signature = token.rsplit('.').next().unwrap().to_owned();
    broker.setup.passwd("carol", &secret("password"));
    broker.reload().unwrap();
    let mut printed = String::new();
    for version in [V3, V5] {
        let carol = ("carol", &*secret("password"));
        let mut client = broker
            .dial(version, "carol")
            .login(carol)
            .local()
            .will(("lab/will", &secret("will"), 1, true))
            .connect();
        client.subscribe(&["lab/#", "lab/a"], 2);
        for qos in 0..=2 {
            client.publish("lab/a", &secret("payload"), qos);
            client.publish("elsewhere", &secret("denied"), qos);
            client.retain("lab/r", &secret("retained"), qos);
        }
        drop(client);
        let mut client = broker.dial(version, "token").token(&token).connect();
        client.publish("lab/a", &secret("payload"), 1);
        let wrong = ("carol", &*secret("wrong"));
        broker.dial(version, "carol").login(wrong).local().refused();
        let forged = format!("{token}x");
        broker.dial(version, "token").token(&forged).refused();
        for command in [
            &["status"][..],
            &["session", "list"],
            &["client", "show", "token"],
        ] {
            printed += &broker.ask(command).all();
        }
        client.disconnect();
    }
    broker.record("will", &[]);
    for command in [&["audit", "export"][..], &["audit", "verify"], &["check"]] {
        printed += &broker.ask(command).all();
    }
    assert_eq!(broker.terminate().code(), Some(0));
    let log = broker.log.text();
    assert!(log.contains("stopped"), "it is the whole log");
    let recorded = audit_text(&broker.setup.path("audit"));
    assert!(recorded.contains("carol"));
    for (place, text) in [("log", &log), ("record", &recorded), ("output", &printed)] {
        for secret in [canary, &token, &signature] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret:?} in the {place}");
        }
    }
}
