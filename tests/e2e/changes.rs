//! Changes of the policy of a running broker: candidates, rollback, windows, drafts from the record.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::V5;
use crate::harness::{ANNA, Broker, POLICY, Setup, audit_text};

/// A candidate that takes the lab away and gives `new/#` instead.
fn candidate() -> String {
    let without = POLICY.replace("p, *, lab/#,        publish,   allow\n", "");
    without + "p, *, new/#, publish, allow\n"
}

#[test]
fn a_candidate_is_asked_on_live_traffic_reported_recorded_and_promoted_by_command() {
    let broker = Broker::start(|setup| {
        setup.acl += "shadow = [\"candidate.csv\"]\n";
        fs::write(setup.path("candidate.csv"), candidate()).unwrap();
    });
    let mut anna = broker.user(V5, "anna", ANNA);
    assert_ne!(anna.publish("lab/a", "", 1), 0x87, "it never decides");
    assert_eq!(anna.publish("new/a", "", 1), 0x87);
    let report = broker.ask(&["policy", "shadow"]).succeeded().out;
    for line in [
        "user:anna loses publish lab/a: ",
        "policy.csv:5 ",
        "user:anna gains publish new/a: ",
        "candidate.csv:15 ",
    ] {
        assert!(report.contains(line), "{line}: {report}");
    }
    let said = broker.record("administration", &[("action", "more answers differ")]);
    let action = said["action"].as_str().unwrap();
    assert!(action.contains("user:anna"), "{said}");
    let before = broker.status("policy");
    broker.ask(&["policy", "promote"]).succeeded();
    let after = broker.status("policy");
    assert_ne!(before, after);
    assert_eq!(anna.publish("lab/a", "", 1), 0x87, "in force at once");
    assert_ne!(anna.publish("new/a", "", 1), 0x87);
    broker.record(
        "administration",
        &[("action", "promotion"), ("policy", &after)],
    );
    broker.ask(&["policy", "promote"]).failed();
    // No file was changed: the configuration is what the next reload goes by.
    broker.reload().unwrap();
    assert_eq!(broker.status("policy"), before);
    assert_ne!(anna.publish("lab/a", "", 1), 0x87);
}

#[test]
fn a_broken_candidate_keeps_the_old_one_and_is_named() {
    let broker = Broker::start(|setup| {
        setup.acl += "shadow = [\"candidate.csv\"]\n";
        fs::write(setup.path("candidate.csv"), candidate()).unwrap();
    });
    let path = broker.setup.path("candidate.csv");
    fs::write(path, "p, *, lab/#, publish, Deny\n").unwrap();
    let line = broker.reload().unwrap_err();
    assert!(line.contains("shadow"), "{line}");
    // Nor would a broker start with it.
    let said = broker.ask(&["check"]).failed().all();
    assert!(said.contains("shadow policy: "), "{said}");
    assert!(said.contains("candidate.csv:1: "), "{said}");
    let mut anna = broker.user(V5, "anna", ANNA);
    assert_eq!(anna.publish("new/a", "", 1), 0x87);
    let report = broker.ask(&["policy", "shadow"]).succeeded().out;
    assert!(report.contains("user:anna gains publish new/a"), "{report}");
}

/// A candidate's opposite: nobody publishes to the lab any more.
fn without_lab() -> String {
    POLICY.replace("p, *, lab/#,        publish,   allow\n", "")
}

/// Waits until a policy was taken back, and gives what the record says of it.
fn taken_back(broker: &Broker) -> String {
    let error = ("error", "was taken back");
    let record = broker.record("reload", &[("unit", "policy"), error]);
    record["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_policy_that_makes_denials_jump_is_taken_back_loudly() {
    let broker = Broker::start(|setup| setup.acl += "rollback-denials = \"1/min\"\n");
    let mut reader = broker.device(V5, "device-1");
    reader.subscribe(&["lab/a"], 1);
    let mut anna = broker.user(V5, "anna", ANNA);
    let good = broker.status("policy");
    broker.replace_policy(&without_lab()).unwrap();
    let tried = broker.status("policy");
    assert_ne!(good, tried);
    assert_eq!(anna.publish("lab/a", "no", 1), 0x87);
    assert_eq!(reader.publish("lab/a", "no", 1), 0x87);
    let text = taken_back(&broker);
    assert!(text.contains(&tried) && text.contains(&good), "{text}");
    assert_eq!(broker.status("policy"), good);
    assert!(broker.log.text().contains("was taken back"));
    assert_eq!(anna.publish("lab/a", "yes", 1), 0x00);
    assert_eq!(reader.payload(), "yes", "nobody is left deaf");
    // The files are as they were, and the next reload tries them again.
    broker.reload().unwrap();
    assert_eq!(broker.status("policy"), tried);
}

/// Neither who is refused what nobody granted, nor who loses something and asks for it again and
/// again, has a policy taken back.
#[test]
fn a_flood_of_denials_by_one_client_takes_nothing_back() {
    let broker = Broker::start(|setup| setup.acl += "rollback-denials = \"2/min\"\n");
    let mut stranger = broker.device(V5, "device-2");
    let mut flooder = broker.user(V5, "anna", ANNA);
    let mut device = broker.device(V5, "device-1");
    let mut operator = broker.device(V5, "operator");
    broker.replace_policy(&without_lab()).unwrap();
    for _ in 0..30 {
        assert_eq!(stranger.publish("forbidden/a", "", 1), 0x87);
        assert_eq!(stranger.subscribe(&["forbidden/#"], 1), [0x87]);
        assert_eq!(flooder.publish("lab/a", "", 1), 0x87);
    }
    assert_eq!(device.publish("lab/a", "", 1), 0x87);
    // That makes two. The third principal makes it a jump, and it alone.
    assert_eq!(operator.publish("lab/a", "", 1), 0x87);
    let text = taken_back(&broker);
    assert!(
        text.contains("3 denials counted, of 3 principals"),
        "{text}"
    );
}

/// What has not proved itself is nothing to go back to.
#[test]
fn two_bad_changes_in_a_row_are_both_taken_back() {
    let broker = Broker::start(|setup| setup.acl += "rollback-denials = \"1/min\"\n");
    let mut device = broker.device(V5, "device-1");
    let mut anna = broker.user(V5, "anna", ANNA);
    let good = broker.status("policy");
    broker.replace_policy(&without_lab()).unwrap();
    let worse = without_lab() + "p, *, other, publish, allow\n";
    broker.replace_policy(&worse).unwrap();
    assert_eq!(anna.publish("lab/a", "no", 1), 0x87);
    assert_eq!(device.publish("lab/a", "no", 1), 0x87);
    taken_back(&broker);
    assert_eq!(broker.status("policy"), good);
}

/// What the policy before allowed is asked about the message that was refused.
#[test]
fn a_policy_that_refuses_large_messages_is_taken_back_too() {
    let broker = Broker::start(|setup| setup.acl += "rollback-denials = \"1/min\"\n");
    let mut device = broker.device(V5, "device-1");
    let mut anna = broker.user(V5, "anna", ANNA);
    let good = broker.status("policy");
    let narrow = POLICY.replace(
        "p, *, lab/#,        publish,   allow\n",
        "p, *, lab/#, publish, allow, payload <= '1 KiB'\n",
    );
    broker.replace_policy(&narrow).unwrap();
    let large = "x".repeat(2000);
    assert_ne!(anna.publish("lab/a", "small", 1), 0x87);
    assert_eq!(anna.publish("lab/a", &large, 1), 0x87);
    assert_eq!(device.publish("lab/a", &large, 1), 0x87);
    taken_back(&broker);
    assert_eq!(broker.status("policy"), good);
}

/// A window that closes in the minute after a change closes in the policy before it as well.
#[test]
fn what_a_time_window_takes_is_not_the_fault_of_a_change() {
    let ends = OffsetDateTime::from(SystemTime::now() + Duration::from_secs(4));
    let ends = ends.format(&Rfc3339).unwrap();
    let shift = format!("p, *, shift/#, publish, allow, time before '{ends}'\n");
    let broker = Broker::start(|setup| {
        setup.acl += "rollback-denials = \"1/min\"\n";
        setup.policy += &shift;
    });
    let mut device = broker.device(V5, "device-1");
    let mut anna = broker.user(V5, "anna", ANNA);
    let mut operator = broker.device(V5, "operator");
    broker
        .replace_policy(&(without_lab() + shift.as_str()))
        .unwrap();
    let open = anna.publish("shift/a", "", 1) != 0x87;
    let late = SystemTime::now() + Duration::from_secs(20);
    while anna.publish("shift/a", "", 1) != 0x87 {
        assert!(SystemTime::now() < late, "the window does not close");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(device.publish("shift/a", "", 1), 0x87);
    assert_eq!(operator.publish("shift/a", "", 1), 0x87);
    // These two are, and they alone.
    assert_eq!(device.publish("lab/a", "", 1), 0x87);
    assert_eq!(operator.publish("lab/a", "", 1), 0x87);
    let text = taken_back(&broker);
    assert!(
        text.contains("2 denials counted, of 2 principals"),
        "{text}"
    );
    assert!(open, "the window had closed before the change");
}

/// Who lost a subscription counts as denied too, so that a policy that silences all is noticed.
#[test]
fn suspended_subscriptions_count_and_come_back_with_the_old_policy() {
    let broker = Broker::start(|setup| setup.acl += "rollback-denials = \"1/min\"\n");
    let mut anna = broker.user(V5, "anna", ANNA);
    anna.subscribe(&["lab/a", "lab/b", "lab/c"], 1);
    let mut device = broker.device(V5, "device-1");
    device.subscribe(&["lab/a"], 1);
    let bad = POLICY.replace("p, *, lab/#,        subscribe, allow\n", "");
    broker.replace_policy(&bad).unwrap();
    taken_back(&broker);
    assert_eq!(anna.publish("lab/b", "heard again", 1), 0x00);
    assert_eq!(anna.payload(), "heard again");
}

/// A window closes and another opens while everybody is connected.
#[test]
fn a_time_window_opens_and_closes_in_the_running_broker() {
    let soon = OffsetDateTime::from(SystemTime::now() + Duration::from_secs(4));
    let soon = soon
        .replace_nanosecond(0)
        .unwrap()
        .format(&Rfc3339)
        .unwrap();
    let broker = Broker::start(|setup| {
        setup.policy = format!(
            "p, *, now/#,   publish,   allow, time before '{soon}'\n\
             p, *, now/#,   subscribe, allow, time before '{soon}'\n\
             p, *, later/#, publish,   allow, time after '{soon}'\n\
             p, *, later/#, subscribe, allow, time after '{soon}'\n"
        );
    });
    let mut anna = broker.user(V5, "anna", ANNA);
    assert_eq!(anna.subscribe(&["now/a"], 1), [1]);
    assert_eq!(anna.subscribe(&["later/a"], 1), [0x87]);
    assert_eq!(anna.publish("now/a", "open", 1), 0x00);
    assert_eq!(anna.payload(), "open");
    broker.record(
        "suspended",
        &[("principal", "user:anna"), ("filter", "now/a")],
    );
    assert_eq!(anna.publish("now/a", "closed", 1), 0x87);
    assert_eq!(anna.subscribe(&["later/a"], 1), [1]);
    assert_eq!(anna.publish("later/a", "opened", 1), 0x00);
    assert_eq!(anna.payload(), "opened");
}

#[test]
fn a_draft_from_the_record_lets_clients_do_what_they_were_refused() {
    let broker = Broker::start(|setup| setup.policy = "p, user:x, x, publish, allow\n".to_owned());
    for name in ["device-1", "device-2"] {
        let mut device = broker.device(V5, name);
        assert_eq!(device.publish(&format!("plant/{name}/speed"), "", 1), 0x87);
        assert_eq!(device.subscribe(&[&format!("plant/{name}/set")], 1), [0x87]);
    }
    broker.record("publish-denied", &[("principal", "cert:device-2")]);
    broker.record("subscribe-denied", &[("principal", "cert:device-2")]);
    let draft = broker.ask(&["policy", "learn"]).succeeded().out;
    assert!(
        draft.contains("plant/{name}/speed, publish, allow"),
        "{draft}"
    );
    broker.replace_policy(&draft).unwrap();
    let mut device = broker.device(V5, "device-1");
    assert_ne!(device.publish("plant/device-1/speed", "", 1), 0x87);
    assert_eq!(device.publish("plant/device-2/speed", "", 1), 0x87);
    assert_eq!(device.subscribe(&["plant/device-1/set"], 1), [1]);
}

/// Before a change is made: who of those that are there gains or loses what?
#[test]
fn a_diff_can_be_asked_for_the_principals_of_a_running_broker() {
    let broker = Broker::start(|_| ());
    let config = broker.setup.config();
    let config = config.to_str().unwrap();
    let next = broker.setup.path("next.csv");
    let policy = POLICY.replace("devices/{name}/telemetry", "devices/{name}/{cert.cn}");
    fs::write(&next, policy + "p, user:bob, bob, publish, allow\n").unwrap();
    let arguments = ["policy", "diff", config, next.to_str().unwrap(), "--live"];
    let nobody = broker.ask(&arguments).succeeded().out;
    assert_eq!(nobody.trim(), "nobody gains or loses anything");
    let _device = broker.device(V5, "device-1");
    let _anna = broker.user(V5, "anna", ANNA);
    let said = broker.ask(&arguments).succeeded().out;
    assert_eq!(
        said,
        "cert:device-1 gains publish devices/device-1/device-1\n\
         cert:device-1 loses publish devices/device-1/telemetry\n",
        "bob is not there, and anna keeps what she has"
    );
}

/// A listener that learns is loud, bounded in topics and time, and feeds `policy learn`.
#[test]
fn a_listener_learns_within_its_topics_until_its_time_is_over() {
    let soon = OffsetDateTime::from(SystemTime::now() + Duration::from_secs(6));
    let soon = soon
        .replace_nanosecond(0)
        .unwrap()
        .format(&Rfc3339)
        .unwrap();
    let learn = format!("[listener.learn]\nuntil = \"{soon}\"\ntopics = [\"plant/#\"]\n");
    let broker = Broker::start(|setup| {
        setup.listeners += &learn;
        setup.policy = "p, *, plant/doors, publish, deny\np, *, lab/a, publish, allow\n".to_owned();
    });
    assert!(
        broker.log.text().contains("LEARNS until"),
        "{}",
        broker.log.text()
    );
    broker.record("administration", &[("action", "LEARNING on local")]);
    let mut anna = broker.user(V5, "anna", ANNA);
    assert_eq!(anna.subscribe(&["plant/anna/set"], 1), [1]);
    assert_eq!(anna.publish("plant/anna/set", "taught", 1), 0x00);
    assert_eq!(anna.payload(), "taught");
    assert_ne!(anna.retain("plant/anna/state", "kept", 1), 0x87);
    assert_eq!(
        anna.publish("plant/doors", "", 1),
        0x87,
        "a deny line holds"
    );
    assert_eq!(anna.publish("elsewhere", "", 1), 0x87, "beyond the topics");
    assert_eq!(anna.subscribe(&["#"], 1), [0x87]);
    // Another listener of the same broker learns nothing.
    let mut device = broker.device(V5, "device-1");
    assert_eq!(device.publish("plant/x", "", 1), 0x87);
    let noted = [("principal", "user:anna"), ("action", "retain")];
    broker.record("learned", &noted);
    let draft = broker.ask(&["policy", "learn"]).succeeded().out;
    for line in [
        "plant/anna/set, publish, allow",
        "plant/anna/set, subscribe, allow",
    ] {
        assert!(draft.contains(line), "{line}: {draft}");
    }
    broker.record(
        "administration",
        &[("action", "no listener is learning any more")],
    );
    broker.record("suspended", &[("filter", "plant/anna/set")]);
    assert_eq!(anna.publish("plant/anna/set", "", 1), 0x87);
    // What was stored under it is withheld.
    broker
        .replace_policy("p, *, plant/#, subscribe, allow\np, *, plant/end, publish, allow\n")
        .unwrap();
    let mut reader = broker.device(V5, "device-1");
    reader.subscribe(&["plant/anna/state", "plant/end"], 1);
    reader.publish("plant/end", "end", 1);
    assert_eq!(reader.payload(), "end");
}

/// The file says how a listener is guarded, and it may have changed since the listener was bound: then
/// what may be learned behind the new guard may not be learned behind the old one.
#[test]
fn a_listener_is_taught_only_what_the_file_allows_to_one_that_runs_like_it() {
    let until = OffsetDateTime::from(SystemTime::now() + Duration::from_hours(1));
    let until = until.format(&Rfc3339).unwrap();
    let learn = format!("[listener.learn]\nuntil = \"{until}\"\ntopics = [\"plant/#\"]\n");
    let mut broker = Broker::start(|_| ());
    let mut anna = broker.user(V5, "anna", ANNA);
    assert_eq!(anna.publish("plant/x", "", 1), 0x87);
    let bound = broker.setup.listeners.clone();
    let elsewhere = bound.replace(
        "name = \"local\"\nbind = \"127.0.0.1:0\"",
        "name = \"local\"\nbind = \"127.0.0.2:0\"",
    );
    assert_ne!(elsewhere, bound);
    broker.setup.listeners = elsewhere + learn.as_str();
    broker.setup.write();
    let failed = broker.reload().unwrap_err();
    assert!(failed.contains("learning"), "{failed}");
    let log = broker.log.text();
    assert!(log.contains("does not run as the file says"), "{log}");
    assert_eq!(anna.publish("plant/x", "", 1), 0x87, "nothing is taught");
    // A unit of the listener's that is broken is another way in which it does not run like it.
    let local = "[[listener]]\nname = \"local\"";
    let unlike = bound.replace("\"pki/server.pem\"", "\"users.passwd\"");
    broker.setup.listeners = unlike.replace(local, &format!("{learn}{local}"));
    broker.setup.write();
    let failed = broker.reload().unwrap_err();
    assert!(
        failed.contains("listener main") && failed.contains("learning"),
        "{failed}"
    );
    broker.setup.listeners = bound + learn.as_str();
    broker.setup.write();
    broker.reload().unwrap();
    assert_ne!(anna.publish("plant/x", "", 1), 0x87, "now it runs like it");
}

/// Whoever forgets it is told, and nobody can say that it shall learn for ever.
#[test]
fn check_warns_of_a_listener_that_learns_and_refuses_one_that_would_for_long() {
    for (days, topic, code, says) in [
        (6, "plant/#", 0, "LEARNS until"),
        (8, "plant/#", 1, "would learn for more than seven days"),
        (
            6,
            "plant/{name}",
            1,
            "is not a topic filter without placeholders",
        ),
    ] {
        let end = OffsetDateTime::from(SystemTime::now() + Duration::from_hours(24 * days));
        let end = end.format(&Rfc3339).unwrap();
        let mut setup = Setup::new();
        let learn = format!("[listener.learn]\nuntil = \"{end}\"\ntopics = [\"{topic}\"]\n");
        setup.listeners += &learn;
        setup.write();
        let config = setup.config();
        let said = setup.portcullis(&["check", "--config", config.to_str().unwrap()]);
        assert_eq!(said.code(), Some(code), "{said:?}");
        assert!(said.all().contains(says), "{said:?}");
        assert!(said.all().contains("portcullis.toml:"), "{said:?}");
        if code == 0 {
            let config = setup.config();
            let explain = |listener: &str| {
                let config = config.to_str().unwrap();
                setup.portcullis(&[
                    "policy",
                    "explain",
                    "--config",
                    config,
                    "--principal",
                    "user:anna",
                    "--listener",
                    listener,
                    "publish",
                    "plant/x",
                ])
            };
            let taught = explain("local").succeeded().out;
            assert!(
                taught.contains("by no line: the listener learns until"),
                "{taught}"
            );
            explain("main").failed();
        }
    }
}

/// The hash of the policy stands in the log, in `status`, in the metrics and in every record, those
/// that the record writes about itself included.
#[test]
fn every_record_names_the_policy_that_was_in_force() {
    let mut broker = Broker::start(|setup| {
        setup.more += "[admin]\nbind = \"127.0.0.1:0\"\n";
    });
    let first = broker.status("policy");
    assert!(broker.log.text().contains(&first), "in the log");
    assert!(
        broker
            .http("/metrics")
            .contains(&format!("policy_info{{hash=\"{first}\"}} 1"))
    );
    let mut anna = broker.user(V5, "anna", ANNA);
    for _ in 0..30 {
        anna.publish("nowhere", "", 1);
    }
    broker.kill_and_restart();
    broker.record("recovered", &[]);
    let changed = format!("{POLICY}p, *, more, publish, allow\n");
    broker.replace_policy(&changed).unwrap();
    let second = broker.status("policy");
    assert_ne!(first, second);
    let mut anna = broker.user(V5, "anna", ANNA);
    for _ in 0..30 {
        anna.publish("nowhere", "", 1);
    }
    // The end flushes the summary of what was only counted.
    assert!(broker.terminate().success());
    let text = audit_text(&broker.setup.path("audit"));
    let records: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let kinds = [
        "recovered",
        "summary",
        "reload",
        "start",
        "stop",
        "connect",
        "publish-denied",
    ];
    for kind in kinds {
        assert!(
            records.iter().any(|record| record["event"] == kind),
            "no {kind}"
        );
    }
    let mut changed = false;
    for record in &records {
        changed |= record["event"] == "reload" && record["unit"] == "policy";
        let hash = record["policy"].as_str().unwrap_or_default();
        assert!(hash == if changed { &second } else { &first }, "{record}");
    }
}

/// Connections of the test below. The promise is made for 10 000: run it with that number (and
/// 12 000 open files) to see it kept.
fn connections() -> usize {
    let number = std::env::var("PORTCULLIS_TEST_CONNECTIONS");
    number.map_or(400, |number| number.parse().unwrap())
}

/// One of many: CONNECT and ten filters in one go, and both answers.
fn subscriber(broker: &Broker, number: usize) -> TcpStream {
    let id = format!("c-{number}");
    let text = |text: &str| {
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        [&length[..], text.as_bytes()].concat()
    };
    let packet = |first: u8, body: &[u8]| {
        let (high, low) = (body.len() / 128, u8::try_from(body.len() % 128).unwrap());
        match u8::try_from(high).unwrap() {
            0 => [&[first, low], body].concat(),
            high => [&[first, low | 0x80, high], body].concat(),
        }
    };
    let mut subscribe = vec![0, 1];
    for filter in 0..10 {
        subscribe.extend(text(&format!("s/{id}/{filter}")));
        subscribe.push(0);
    }
    let connect = [text("MQTT"), vec![4, 2, 2, 88], text(&id)].concat();
    let mut stream = broker.tcp("many");
    stream.write_all(&packet(0x10, &connect)).unwrap();
    stream.write_all(&packet(0x82, &subscribe)).unwrap();
    let mut answers = [0; 18];
    stream.read_exact(&mut answers).unwrap();
    assert_eq!(answers[..4], [0x20, 2, 0, 0], "{number}");
    assert_eq!(answers[8..], [0; 10], "granted");
    stream
}

/// Rule 6: a second, measured by the broker itself, at a load that the environment sets.
#[test]
fn rule_6_a_new_policy_reaches_every_connection_within_a_second_and_that_is_exported() {
    let many = connections();
    let policy = "p, anonymous, s/{client_id}/#, subscribe, allow\n\
                  p, anonymous, s/#, publish, allow\n";
    let broker = Broker::start(|setup| {
        setup.listeners = "[[listener]]\nname = \"many\"\nbind = \"127.0.0.1:0\"\n\
                           plaintext = true\nauth = [\"anonymous\"]\n"
            .to_owned();
        setup.auth += "anonymous = true\n";
        setup.limits = "sessions-per-principal = 20000\nconnections-per-ip = 20000\n\
                        connect-rate-per-ip = \"100000/s\"\n"
            .to_owned();
        // So many at once fill the queue of the record, which would refuse them.
        setup.more += "on-full = \"drop-oldest\"\n[admin]\nbind = \"127.0.0.1:0\"\n";
        setup.policy = policy.to_owned();
    });
    let mut streams: Vec<TcpStream> = (0..many).map(|n| subscriber(&broker, n)).collect();
    assert_eq!(broker.number("subscriptions"), 10 * many as u64);
    let denied = format!("{policy}p, anonymous, s/+/9, subscribe, deny\n");
    broker.replace_policy(&denied).unwrap();
    let took = broker.metric("policy_sweep_milliseconds");
    println!("{many} connections with ten subscriptions each: {took} ms");
    assert!(took < 1000, "{took} ms for {many} connections");
    // What is suspended is silent, for the first and the last alike.
    for number in [0, many - 1] {
        let stream = &mut streams[number];
        for filter in [9, 0] {
            let topic = format!("s/c-{number}/{filter}");
            let length = u8::try_from(topic.len()).unwrap();
            let publish = [&[0x30, length + 2, 0, length], topic.as_bytes()].concat();
            stream.write_all(&publish).unwrap();
        }
        let topic = format!("s/c-{number}/0");
        let mut got = vec![0; topic.len() + 4];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got[4..], *topic.as_bytes());
    }
}
