//! What the policy says no to, as clients see it.

use crate::client::{V3, V5, VERSIONS};
use crate::harness::{ANNA, BOB, Broker};

/// Rule 1, from outside: whatever a client sends, only what is allowed comes out anywhere.
#[test]
fn rule_1_nothing_that_the_policy_forbids_reaches_a_subscriber_or_the_retained_store() {
    let broker = Broker::start(|_| ());
    let mut operator = broker.device(V5, "operator");
    operator.subscribe(&["devices/#"], 2);
    for version in VERSIONS {
        let mut device = broker.device(version, "device-1");
        for qos in 0..=2 {
            for retain in [false, true] {
                device.send("devices/device-2/telemetry", "forged", qos, retain);
            }
            // A right to publish is not one to retain.
            device.send("devices/device-1/telemetry", "kept?", qos, true);
        }
        device.publish("devices/device-1/telemetry", "true", 1);
        assert_eq!(operator.payload(), "true");
        device.disconnect();
    }
    let mut late = broker.device(V3, "operator");
    late.subscribe(&["devices/#"], 1);
    let mut device = broker.device(V3, "device-1");
    device.publish("devices/device-1/telemetry", "live", 1);
    assert_eq!(late.payload(), "live", "nothing was retained");
}

#[test]
fn a_denied_publish_is_answered_as_its_version_can_and_recorded() {
    let broker = Broker::start(|_| ());
    for (version, code) in [(V3, 0x00), (V5, 0x87)] {
        let mut device = broker.device(version, "device-1");
        for qos in [1, 2] {
            for topic in [
                "devices/device-2/telemetry",
                "lab/secret/x",
                "elsewhere",
                "$SYS/x",
            ] {
                assert_eq!(device.publish(topic, "", qos), code, "{topic}");
            }
            assert_eq!(device.retain("devices/device-1/telemetry", "", qos), code);
            assert_ne!(device.publish("devices/device-1/telemetry", "", qos), 0x87);
        }
        device.disconnect();
    }
    let topic = ("topic", "devices/device-2/telemetry");
    let record = broker.record("publish-denied", &[("principal", "cert:device-1"), topic]);
    assert_eq!(record["action"], "publish");
    broker.record("publish-denied", &[("action", "retain")]);
}

#[test]
fn denied_publish_may_end_the_connection_instead() {
    let broker = Broker::start(|setup| setup.acl += "denied-publish = \"disconnect\"\n");
    for (version, goodbye) in [(V3, None), (V5, Some(0x87))] {
        for qos in 0..=2 {
            let mut device = broker.device(version, "device-1");
            device.send("elsewhere", "", qos, false);
            assert_eq!(device.ended(), goodbye, "{version:?} {qos}");
        }
    }
}

/// Rule 5.
#[test]
fn rule_5_a_subscription_is_granted_only_if_the_policy_covers_it_all() {
    let broker = Broker::start(|setup| {
        setup.policy += "p, user:anna, a, subscribe, allow\n\
                         p, user:anna, a/+, subscribe, allow\n\
                         p, user:anna, a/+/+/#, subscribe, allow\n\
                         p, user:anna, b/+, subscribe, allow\n";
    });
    for (version, denied) in [(V3, 0x80), (V5, 0x87)] {
        let mut anna = broker.user(version, "anna", ANNA);
        for (filter, granted) in [
            ("lab/a", true),
            ("lab/+/b", false), // lab/secret/b
            ("lab/+", false),   // lab/secret
            ("lab/#", false),
            ("lab/secret/x", false),
            ("#", false),
            ("+/a", false),
            ("$SYS/#", false),
            ("a/#", true), // {a, a/+, a/+/+/#}
            ("a/+/b", true),
            ("b/+", true),
            ("b/#", false),
            ("devices/device-1/commands", false),
            ("$share/workers/lab/a", true),
            ("$share/others/lab/a", false),
            ("$share/workers/#", false),
        ] {
            let code = anna.subscribe(&[filter], 1)[0];
            assert_eq!(
                code,
                if granted { 1 } else { denied },
                "{filter} {version:?}"
            );
        }
        // Each filter is judged by itself.
        let codes = anna.subscribe(&["lab/a", "#", "a/b"], 0);
        assert_eq!(codes, [0, denied, 0]);
        anna.disconnect();
    }
    let fields = [("principal", "user:anna"), ("filter", "lab/secret/x")];
    broker.record("subscribe-denied", &fields);
    broker.record(
        "subscribe",
        &[("principal", "user:anna"), ("filters", "a/#")],
    );
}

#[test]
fn rule_5_narrow_grants_what_is_left_and_filters_each_delivery() {
    let broker = Broker::start(|setup| setup.acl += "subscribe = \"narrow\"\n");
    let mut anna = broker.user(V5, "anna", ANNA);
    assert_eq!(anna.subscribe(&["lab/#"], 1), [1]);
    assert_eq!(
        anna.subscribe(&["elsewhere/#"], 1),
        [0x87],
        "nothing is left"
    );
    broker
        .replace_policy(&format!(
            "{}p, user:bob, #, publish, allow\n",
            crate::harness::POLICY.replace("lab/secret/#, publish,   deny", "x, publish, deny")
        ))
        .unwrap();
    let mut bob = broker.user(V5, "bob", BOB);
    assert_eq!(bob.publish("lab/secret/plan", "secret", 1) & 0x80, 0);
    bob.publish("lab/open", "open", 1);
    assert_eq!(anna.payload(), "open");
}

/// Rule 4: what is stored is judged again by the present policy, on its author.
#[test]
fn rule_4_a_retained_message_is_withheld_while_its_author_lacks_the_right() {
    let policy = crate::harness::POLICY;
    let broker = Broker::start(|_| ());
    let mut author = broker.user(V5, "author", ANNA);
    author.retain("lab/r", "from anna", 1);
    author.disconnect();
    let read = || {
        let mut reader = broker.device(V5, "device-1");
        reader.subscribe(&["lab/r", "lab/end"], 1);
        reader.publish("lab/end", "end", 1);
        let first = reader.payload();
        reader.disconnect();
        first
    };
    assert_eq!(read(), "from anna", "disconnection does not matter");
    let without = format!("{policy}p, user:anna, lab/r, publish, deny\n");
    broker.replace_policy(&without).unwrap();
    assert_eq!(read(), "end");
    broker.record(
        "withheld",
        &[("principal", "user:anna"), ("topic", "lab/r")],
    );
    broker.replace_policy(policy).unwrap();
    assert_eq!(read(), "from anna");
    broker
        .ask(&["ban", "add", "--principal", "user:anna"])
        .succeeded();
    assert_eq!(read(), "end", "a ban withholds what was stored");
}

/// Bounds on messages, from outside: a warm cache helps nobody, and what is granted at a low `QoS`
/// opens nothing at a higher one.
#[test]
fn a_line_may_bound_the_qos_and_the_size_of_messages() {
    let broker = Broker::start(|setup| {
        setup.policy = "\
p, user:bob,  t/#,   publish,   allow
p, user:anna, own,   publish,   allow, qos <= 1 && payload <= '8 B'
p, user:anna, own,   retain,    allow, payload <= '4 B'
p, user:anna, t/#,   subscribe, allow, qos <= 0
p, user:anna, t/one, subscribe, allow, payload <= '8 B'
"
        .to_owned();
    });
    let mut anna = broker.user(V5, "anna", ANNA);
    for (payload, qos, allowed) in [
        ("8 bytes!", 1, true),
        ("and more!", 1, false),
        ("8 bytes!", 2, false),
        ("8 bytes!", 1, true),
    ] {
        let code = anna.publish("own", payload, qos);
        assert_eq!(code != 0x87, allowed, "{payload} {qos}");
    }
    assert_ne!(anna.retain("own", "four", 1), 0x87);
    assert_eq!(anna.retain("own", "five!", 1), 0x87);
    let fields = [("principal", "user:anna"), ("action", "retain")];
    broker.record("publish-denied", &fields);
    assert_eq!(anna.subscribe(&["t/#"], 2), [0], "granted lower than asked");
    assert_eq!(anna.subscribe(&["t/one"], 2), [2]);
    let mut bob = broker.user(V5, "bob", BOB);
    for (topic, payload, qos) in [
        ("t/one", "too large to go out at QoS 1", 0),
        ("t/two", "any size goes out at QoS 0", 0),
        ("t/one", "small", 1),
    ] {
        bob.publish(topic, payload, 1);
        let got = anna.message();
        assert_eq!((&*got.payload, got.qos), (payload, qos));
    }
    anna.unsubscribe("t/#");
    bob.publish("t/one", "nothing lower brings it now", 1);
    bob.publish("t/one", "the end", 1);
    assert_eq!(anna.payload(), "the end");
}

/// Rule 7: a value of the client's choice stands for one literal level, or for nothing.
#[test]
fn rule_7_a_client_id_is_data_and_never_a_pattern() {
    let broker = Broker::start(|setup| {
        setup.policy = "\
p, *, own/{client_id}/#, publish, allow
p, *, own/{client_id}/#, subscribe, allow
p, *, all/#, publish, allow
p, *, all/{client_id}/x, publish, deny
"
        .to_owned();
    });
    let mut plain = broker.user(V5, "plain", ANNA);
    assert_eq!(plain.subscribe(&["own/plain/#"], 1), [1]);
    assert_eq!(plain.subscribe(&["own/+/#"], 1), [0x87]);
    assert_ne!(plain.publish("all/other/x", "", 1), 0x87);
    assert_eq!(plain.publish("all/plain/x", "", 1), 0x87);
    let long = "x".repeat(129);
    for id in ["+", "#", "a/b", "$SYS", "a+", &long] {
        let mut client = broker.user(V5, id, BOB);
        for filter in ["own/+/#", "own/#", "own/plain/#", "own/a/b"] {
            assert_eq!(client.subscribe(&[filter], 1), [0x87], "{id:?} {filter}");
        }
        // In a deny line the level counts as `+`.
        assert_eq!(client.publish("all/anything/x", "", 1), 0x87, "{id:?}");
        assert_eq!(plain.publish("own/plain/still", "mine", 1), 0x00);
        assert_eq!(plain.payload(), "mine");
        client.disconnect();
    }
}
