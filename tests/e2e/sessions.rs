//! Whose session is it, and what does it outlive?

use crate::client::{Client, V3, V5, VERSIONS};
use crate::harness::{ANNA, BOB, Broker};

#[test]
fn a_persistent_session_keeps_subscriptions_and_messages_and_a_clean_one_does_not() {
    let broker = Broker::start(|_| ());
    for version in VERSIONS {
        let dial = broker.dial(version, "device-1").certificate("device-1");
        let mut client = dial.clone().persistent().connect();
        assert!(!client.session_present);
        client.subscribe(&["lab/p/#"], 2);
        client.disconnect();
        let mut sender = broker.device(version, "device-2");
        for qos in [1, 2] {
            assert_eq!(sender.publish("lab/p/1", &format!("kept {qos}"), qos), 0);
        }
        let mut client = dial.clone().persistent().connect();
        assert!(client.session_present);
        assert_eq!(client.payload(), "kept 1");
        assert_eq!(client.payload(), "kept 2");
        client.disconnect();
        let client = dial.clone().connect();
        assert!(!client.session_present);
        client.disconnect();
        assert!(!dial.persistent().connect().session_present);
        sender.disconnect();
        broker.ask(&["session", "drop", "device-1"]).succeeded();
    }
}

#[test]
fn the_same_principal_takes_its_session_over_and_the_old_connection_is_told() {
    let broker = Broker::start(|_| ());
    for (version, goodbye) in [(V3, None), (V5, Some(0x8e))] {
        let mut old = broker.device(version, "device-1");
        let new = broker.device(version, "device-1");
        assert_eq!(old.ended(), goodbye);
        new.disconnect();
    }
}

/// Rule 2.
#[test]
fn rule_2_a_connect_that_fails_leaves_the_victim_connected_and_its_session_and_will_untouched() {
    let broker = Broker::start(|_| ());
    let mut watcher = broker.device(V5, "operator");
    watcher.subscribe(&["lab/will"], 1);
    let mut victim = broker
        .dial(V5, "victim")
        .login(ANNA)
        .local()
        .persistent()
        .will(("lab/will", "the victim is gone", 1, false))
        .connect();
    victim.subscribe(&["lab/v"], 1);
    for (version, code) in [(V3, 0x04), (V5, 0x86)] {
        let dial = broker.dial(version, "victim").local();
        for persistent in [false, true] {
            let dial = dial.clone().login((ANNA.0, "a guess"));
            let dial = if persistent { dial.persistent() } else { dial };
            assert_eq!(dial.refused(), code);
        }
        let forged = "eyJhbGciOiJFZERTQSJ9.e30.AAAA";
        assert_eq!(dial.clone().token(forged).refused(), code);
        assert_eq!(dial.refused(), code, "no credential");
    }
    // Still connected, still subscribed, no will.
    watcher.publish("lab/v", "are you there?", 1);
    assert_eq!(victim.payload(), "are you there?");
    watcher.publish("lab/will", "end", 1);
    assert_eq!(watcher.payload(), "end");
    let all = broker.ask(&["client", "show", "victim"]).succeeded().out;
    assert!(all.contains("user:anna"), "{all}");
    broker.record(
        "refuse",
        &[
            ("client_id", "victim"),
            ("rule", "credential"),
            ("code", "0x86"),
        ],
    );
}

/// Rule 3.
#[test]
fn rule_3_another_principal_cannot_take_over_read_clean_or_end_a_session() {
    let broker = Broker::start(|_| ());
    let hold = |version| {
        let dial = broker.dial(version, "mine").login(ANNA).local();
        dial.persistent().connect()
    };
    let attack = |version, code| {
        let dial = broker.dial(version, "mine").login(BOB).local();
        assert_eq!(dial.clone().refused(), code, "clean");
        assert_eq!(dial.persistent().refused(), code, "resume");
    };
    let mut sender = broker.device(V5, "device-2");
    let mut owner = hold(V5);
    owner.subscribe(&["lab/mine"], 1);
    attack(V3, 0x05);
    attack(V5, 0x87);
    sender.publish("lab/mine", "while connected", 1);
    assert_eq!(owner.payload(), "while connected");
    owner.disconnect();

    sender.publish("lab/mine", "while offline", 1);
    attack(V3, 0x05);
    attack(V5, 0x87);
    let mut owner = hold(V5);
    assert!(owner.session_present);
    assert_eq!(owner.payload(), "while offline");
    broker.record(
        "refuse",
        &[
            ("client_id", "mine"),
            ("claimed", "user:bob"),
            ("code", "0x87"),
        ],
    );

    // An operator frees the id.
    broker.ask(&["session", "drop", "mine"]).succeeded();
    owner.ended();
    let dial = broker.dial(V5, "mine").login(BOB).local();
    let bob: Client = dial.persistent().connect();
    assert!(!bob.session_present);
}

#[test]
fn a_renewed_credential_of_the_same_principal_keeps_its_session() {
    let broker = Broker::start(|_| ());
    let token = |seconds| {
        let exp = crate::harness::unix_seconds() + seconds;
        broker.setup.token(&serde_json::json!({ "exp": exp }))
    };
    let dial = |token: &str| broker.dial(V5, "t").token(token).persistent();
    let mut client = dial(&token(1000)).connect();
    client.subscribe(&["lab/t"], 1);
    client.disconnect();
    let mut client = dial(&token(2000)).connect();
    assert!(client.session_present);
    client.publish("lab/t", "kept", 1);
    assert_eq!(client.payload(), "kept");
}

#[test]
fn rule_12_what_was_acknowledged_survives_kill_9() {
    let mut broker = Broker::start(|setup| {
        setup.more += "[durability]\nmode = \"fsync\"\n";
    });
    let client = |broker: &Broker| {
        let dial = broker.dial(V5, "device-1").certificate("device-1");
        dial.persistent().connect()
    };
    let mut receiver = client(&broker);
    receiver.subscribe(&["lab/durable"], 1);
    receiver.disconnect();
    let mut sender = broker.device(V5, "device-2");
    assert_eq!(sender.publish("lab/durable", "acknowledged", 1), 0);
    broker.kill_and_restart();
    let mut receiver = client(&broker);
    assert!(receiver.session_present);
    assert_eq!(receiver.payload(), "acknowledged");
}

/// Rule 13.
#[test]
fn rule_13_every_acknowledged_message_reaches_every_entitled_session() {
    let broker = Broker::start(|setup| setup.limits += "publish-rate = \"100000/s\"\n");
    let offline = broker
        .dial(V5, "device-1")
        .certificate("device-1")
        .persistent();
    let mut receiver = offline.clone().connect();
    receiver.subscribe(&["lab/all"], 1);
    receiver.disconnect();
    let mut connected = broker.user(V3, "connected", ANNA);
    connected.subscribe(&["lab/all"], 2);
    let mut sender = broker.device(V3, "device-2");
    for number in 0..300 {
        assert_eq!(sender.publish("lab/all", &number.to_string(), 1), 0);
    }
    let mut receiver = offline.connect();
    for number in 0..300 {
        assert_eq!(receiver.payload(), number.to_string());
        assert_eq!(connected.payload(), number.to_string());
    }
}

#[test]
fn rule_13_a_full_offline_queue_drops_its_oldest_and_says_so() {
    let broker = Broker::start(|setup| setup.limits += "queue-messages = 5\n");
    let dial = broker
        .dial(V5, "device-1")
        .certificate("device-1")
        .persistent();
    let mut receiver = dial.clone().connect();
    receiver.subscribe(&["lab/few"], 1);
    receiver.disconnect();
    let mut sender = broker.device(V5, "device-2");
    for number in 0..8 {
        sender.publish("lab/few", &number.to_string(), 1);
    }
    let mut receiver = dial.connect();
    for number in 3..8 {
        assert_eq!(receiver.payload(), number.to_string());
    }
    broker.record("queue-dropped", &[("client_id", "device-1")]);
}
