//! Messages between clients that others wrote.

use crate::client::{Message, V3, V5, VERSIONS};
use crate::harness::{ANNA, BOB, Broker};
use crate::raw;

#[test]
fn every_qos_arrives_in_both_versions() {
    let broker = Broker::start(|_| ());
    for from in VERSIONS {
        for to in VERSIONS {
            let mut receiver = broker.device(to, "device-1");
            assert_eq!(receiver.subscribe(&["lab/a"], 2), [2]);
            let mut sender = broker.device(from, "device-2");
            for qos in 0..=2 {
                let payload = format!("{from:?} to {to:?} {qos}");
                assert_eq!(sender.publish("lab/a", &payload, qos), 0);
                let expected = Message {
                    topic: "lab/a".to_owned(),
                    payload,
                    qos,
                    retain: false,
                };
                assert_eq!(receiver.message(), expected);
            }
            receiver.disconnect();
            sender.disconnect();
        }
    }
}

#[test]
fn a_delivery_has_the_lower_qos_of_publish_and_subscription() {
    let broker = Broker::start(|_| ());
    let mut client = broker.device(V5, "device-1");
    for granted in 0..=2 {
        assert_eq!(client.subscribe(&["lab/q"], granted), [granted]);
        for sent in 0..=2 {
            client.publish("lab/q", "", sent);
            assert_eq!(client.message().qos, granted.min(sent), "{sent} {granted}");
        }
    }
}

#[test]
fn messages_of_one_client_arrive_whole_and_in_order() {
    let broker = Broker::start(|setup| setup.limits += "publish-rate = \"100000/s\"\n");
    let mut receiver = broker.device(V5, "device-1");
    assert_eq!(receiver.subscribe(&["lab/order"], 2), [2]);
    let sender = broker.device(V3, "device-2");
    let sent: Vec<_> = (0..500).map(|number| number.to_string()).collect();
    for (payload, qos) in sent.iter().zip([1, 2].into_iter().cycle()) {
        sender.send("lab/order", payload, qos, false);
    }
    let mut got: Vec<_> = sent.iter().map(|_| receiver.payload()).collect();
    // Order holds within a QoS; between them a client may see either first.
    let number = |payload: &String| payload.parse::<u32>().unwrap();
    for parity in [0, 1] {
        let one: Vec<_> = got.iter().map(number).filter(|n| n % 2 == parity).collect();
        assert!(one.is_sorted(), "{one:?}");
    }
    got.sort_by_key(number);
    assert_eq!(got, sent);
}

#[test]
fn wildcards_match_levels() {
    let broker = Broker::start(|_| ());
    let mut client = broker.device(V5, "device-1");
    assert_eq!(client.subscribe(&["lab/w/+/t", "lab/deep/#"], 1), [1, 1]);
    for (topic, matches) in [
        ("lab/w/a/t", true),
        ("lab/w/a/b/t", false),
        ("lab/deep", true),
        ("lab/deep/er/still", true),
        ("lab/deeper", false),
        ("lab/w//t", true),
    ] {
        client.publish(topic, topic, 1);
        client.publish("lab/w/end/t", "end", 1);
        if matches {
            assert_eq!(client.payload(), topic);
        }
        assert_eq!(client.payload(), "end", "after {topic}");
    }
    client.unsubscribe("lab/deep/#");
    client.publish("lab/deep/er", "gone", 1);
    client.publish("lab/w/end/t", "end", 1);
    assert_eq!(client.payload(), "end");
}

#[test]
fn a_retained_message_is_sent_to_new_subscriptions_until_it_is_cleared() {
    let broker = Broker::start(|_| ());
    for version in VERSIONS {
        let mut author = broker.device(version, "device-1");
        assert!(author.retain("lab/r/1", "first", 1) < 0x80);
        assert!(author.retain("lab/r/1", "second", 2) < 0x80);
        let mut reader = broker.device(version, "device-2");
        reader.subscribe(&["lab/r/+"], 1);
        let message = reader.message();
        assert_eq!((&*message.payload, message.retain), ("second", true));
        author.retain("lab/r/1", "live", 1);
        let message = reader.message();
        assert_eq!((&*message.payload, message.retain), ("live", false));
        author.retain("lab/r/1", "", 1);
        assert_eq!(reader.payload(), "");
        reader.unsubscribe("lab/r/+");
        reader.subscribe(&["lab/r/+", "lab/end"], 1);
        author.publish("lab/end", "nothing was retained", 1);
        assert_eq!(reader.payload(), "nothing was retained");
        author.disconnect();
        reader.disconnect();
    }
}

#[test]
fn a_will_is_published_when_the_network_is_lost_and_not_after_disconnect() {
    let broker = Broker::start(|_| ());
    let mut watcher = broker.device(V5, "operator");
    watcher.subscribe(&["lab/will/#"], 1);
    for version in VERSIONS {
        let dial = broker
            .dial(version, "device-1")
            .certificate("device-1")
            .will(("lab/will/1", "lost", 1, true));
        dial.clone().connect().disconnect();
        drop(dial.connect());
        let message = watcher.message();
        assert_eq!(
            (&*message.topic, &*message.payload),
            ("lab/will/1", "lost"),
            "{version:?}"
        );
        broker.record(
            "will",
            &[("client_id", "device-1"), ("topic", "lab/will/1")],
        );
    }
    // It asked for a retained one.
    let mut late = broker.device(V3, "device-2");
    late.subscribe(&["lab/will/#"], 1);
    assert!(late.message().retain);
}

#[test]
fn a_client_that_is_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    let broker = Broker::start(|_| ());
    for (level, goodbye) in [(4, None), (5, Some(0x8d))] {
        let mut wire = broker.wire();
        wire.send(&raw::connect(level, "sleepy", 1, ANNA));
        assert_eq!(wire.receive().unwrap().0, 0x20);
        wire.send(&raw::packet(0xc0, &[]));
        assert_eq!(wire.receive(), Some((0xd0, Vec::new())), "PINGRESP");
        let end = wire.receive();
        match goodbye {
            None => assert_eq!(end, None),
            Some(code) => {
                let (first, body) = end.unwrap();
                assert_eq!((first, body[0]), (0xe0, code));
            }
        }
    }
}

#[test]
fn a_shared_subscription_gives_each_message_to_one_of_the_group() {
    let broker = Broker::start(|_| ());
    for version in VERSIONS {
        let mut workers = [
            broker.user(version, "worker-1", ANNA),
            broker.user(version, "worker-2", BOB),
        ];
        for worker in &mut workers {
            assert_eq!(worker.subscribe(&["$share/workers/lab/jobs"], 1), [1]);
            worker.subscribe(&["lab/end"], 1);
        }
        let mut sender = broker.device(V5, "device-1");
        for job in 0..40 {
            sender.publish("lab/jobs", &job.to_string(), 1);
        }
        sender.publish("lab/end", "end", 1);
        let mut jobs = Vec::new();
        for worker in &mut workers {
            let before = jobs.len();
            loop {
                match worker.payload().as_str() {
                    "end" => break,
                    job => jobs.push(job.parse::<u32>().unwrap()),
                }
            }
            assert!(jobs.len() > before, "both work");
        }
        jobs.sort_unstable();
        assert_eq!(jobs, (0..40).collect::<Vec<_>>());
        for worker in workers {
            worker.disconnect();
        }
        sender.disconnect();
    }
}

#[test]
fn a_payload_of_many_reads_passes_through_tls() {
    let broker = Broker::start(|_| ());
    let mut receiver = broker.device(V3, "device-1");
    receiver.subscribe(&["lab/big"], 2);
    // rumqttc itself takes packets of at most 10 KiB in 3.1.1.
    let payload = "0123456789".repeat(1000);
    let mut sender = broker.device(V3, "device-2");
    for qos in 0..=2 {
        sender.publish("lab/big", &payload, qos);
        assert_eq!(receiver.payload(), payload);
    }
}
