//! Sessions, quality of service, wills and time.

use std::time::Duration;

use super::*;
use crate::wire::RetainHandling;

#[test]
pub(super) fn each_quality_of_service_runs_to_its_end_in_both_versions() {
    for version in [Version::V3_1_1, Version::V5] {
        let world = World::new();
        let mut reader = world.connect(
            "b",
            &As {
                version,
                ..As::new("user:b")
            },
        );
        assert_eq!(reader.subscribe(&world, "t/#", QoS::ExactlyOnce), 2);
        let mut author = world.connect(
            "a",
            &As {
                version,
                ..As::new("user:a")
            },
        );
        author.publish(&world, "t/0", "0", Delivery::AtMostOnce);
        author.publish(&world, "t/1", "1", qos1(7));
        author.publish(&world, "t/2", "2", qos2(8));
        assert_eq!(
            author.got(&world),
            [
                Got::PubAck(7, ReasonCode::Success),
                Got::PubRec(8, ReasonCode::Success)
            ]
        );
        author.send(&world, &[pubrel(8)]);
        assert_eq!(author.got(&world), [Got::PubComp(8, ReasonCode::Success)]);
        assert_eq!(reader.payloads(&world), ["0", "1", "2"]);
        assert!(reader.got(&world).is_empty());
    }
}

#[test]
pub(super) fn mqtt_4_3_3_a_repeated_qos_2_publish_is_delivered_once() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "t", QoS::ExactlyOnce);
    let mut author = world.connect("a", &As::persistent("user:a"));
    author.publish(&world, "t", "x", qos2(1));
    author.lose(&world);
    let mut author = world.connect("a", &As::persistent("user:a"));
    author.publish(&world, "t", "x", qos2(1));
    assert_eq!(author.got(&world), [Got::PubRec(1, ReasonCode::Success)]);
    author.send(&world, &[pubrel(1), pubrel(1)]);
    assert_eq!(
        author.got(&world),
        [
            Got::PubComp(1, ReasonCode::Success),
            Got::PubComp(1, ReasonCode::PacketIdentifierNotFound)
        ]
    );
    assert_eq!(reader.payloads(&world), ["x"]);
}

#[test]
pub(super) fn mqtt_4_4_0_1_what_was_not_acknowledged_is_sent_again_with_dup_in_order() {
    let world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::ExactlyOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t", "1", qos1(1));
    author.publish(&world, "t", "2", qos2(2));
    author.publish(&world, "t", "3", qos2(3));
    let first = reader.got(&world);
    assert_eq!(first.len(), 3);
    let anew = |got: &Got| matches!(got, Got::Message { dup: false, .. });
    assert!(first.iter().all(anew), "{first:?}");
    // The third has got as far as PUBREC.
    reader.send(&world, &[pubrec(3)]);
    reader.lose(&world);
    author.publish(&world, "t", "4", qos1(4));
    let mut reader = world.connect("b", &As::persistent("user:b"));
    let again: Vec<_> = reader
        .got(&world)
        .into_iter()
        .map(|got| match got {
            Got::Message {
                payload, dup, id, ..
            } => format!("{payload} {dup} {}", id.unwrap()),
            Got::PubRel(id, _) => format!("release {id}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(again, ["1 true 1", "2 true 2", "release 3", "4 false 4"]);
}

#[test]
pub(super) fn a_clean_start_forgets_and_an_expired_session_is_gone() {
    let mut world = World::new();
    let persistent = As::persistent("user:b");
    let mut reader = world.connect("b", &persistent);
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    reader.lose(&world);
    world.later(Duration::from_secs(3599));
    let mut reader = world.connect("b", &persistent);
    assert!(reader.session_present);
    reader.lose(&world);
    world.later(Duration::from_hours(1));
    assert!(!world.connect("b", &persistent).session_present);
    let clean = As {
        clean: true,
        ..persistent.clone()
    };
    assert!(!world.connect("b", &clean).session_present);
    assert_eq!(world.engine.metrics.sessions.value(), 1);
    assert_eq!(world.engine.metrics.subscriptions.value(), 0);
}

#[test]
pub(super) fn a_second_connection_takes_over_and_the_first_is_told() {
    let world = World::new();
    let how = As::persistent("user:b");
    let mut first = world.connect("b", &how);
    first.subscribe(&world, "t", QoS::AtMostOnce);
    let mut second = world.connect("b", &how);
    assert!(second.session_present);
    assert_eq!(first.got(&world), [Got::Bye(ReasonCode::SessionTakenOver)]);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t", "x", Delivery::AtMostOnce);
    assert_eq!(second.payloads(&world), ["x"]);
    assert_eq!(world.engine.metrics.clients.value(), 2);
}

#[test]
pub(super) fn a_will_fires_at_once_later_or_never() {
    let will = |delay| As {
        will: Some(("will", delay)),
        ..As::persistent("user:b")
    };
    let mut world = World::new();
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "will", QoS::AtMostOnce);
    // DISCONNECT calls it off.
    world.connect("b", &will(0)).disconnect(&world);
    assert!(watcher.payloads(&world).is_empty());
    // Without delay it fires when the connection is lost.
    world.connect("b", &will(0)).lose(&world);
    assert_eq!(watcher.payloads(&world), ["will"]);
    // With one, later, and not if the client came back [MQTT-3.1.3-9].
    let mut client = world.connect("b", &will(10));
    client.lose(&world);
    world.later(Duration::from_secs(9));
    let mut client = world.connect("b", &will(10));
    client.lose(&world);
    world.later(Duration::from_secs(9));
    assert!(watcher.payloads(&world).is_empty());
    world.later(Duration::from_secs(1));
    assert_eq!(watcher.payloads(&world), ["will"]);
    // The end of the session ends the delay.
    let short = As {
        expiry: 5,
        ..will(100)
    };
    world.connect("b", &short).lose(&world);
    world.later(Duration::from_secs(5));
    assert_eq!(watcher.payloads(&world), ["will"]);
    // So does a clean start.
    world.connect("b", &will(100)).lose(&world);
    let _ = world.connect(
        "b",
        &As {
            clean: true,
            ..As::persistent("user:b")
        },
    );
    assert_eq!(watcher.payloads(&world), ["will"]);
}

#[test]
pub(super) fn silence_for_one_and_a_half_keep_alives_ends_the_connection() {
    let mut world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    world.later(Duration::from_secs(89));
    assert!(
        client
            .connection
            .as_ref()
            .unwrap()
            .check_time(world.now)
            .is_ok()
    );
    client.send(&world, &[Packet::PingReq]);
    assert_eq!(client.got(&world), [Got::Pong]);
    world.later(Duration::from_secs(90));
    let end = client
        .connection
        .as_ref()
        .unwrap()
        .check_time(world.now)
        .unwrap_err();
    assert!(matches!(end, End::Server(close) if close.code == ReasonCode::KeepAliveTimeout));
}

#[test]
pub(super) fn retained_messages_obey_retain_handling_and_the_empty_payload() {
    let world = World::new();
    let mut author = world.connect("a", &As::new("user:a"));
    author.retain(&world, "r/1", "x");
    author.retain(&world, "r/2", "y");
    author.retain(&world, "r/2", "");
    let mut reader = world.connect("b", &As::new("user:b"));
    let mut with = |handling, seen: &[&str]| {
        let options = SubscribeOptions {
            retain_handling: handling,
            ..SubscribeOptions::default()
        };
        reader.subscribe_with(&world, "r/#", options, Some(5));
        let got = reader.got(&world);
        let payloads: Vec<_> = got.iter().filter_map(Got::payload).collect();
        assert_eq!(payloads, seen, "{handling:?}");
        for packet in &got {
            assert!(matches!(packet, Got::Message { retain: true, ids, .. } if *ids == [5]));
        }
    };
    with(RetainHandling::DoNotSend, &[]);
    with(RetainHandling::SendIfNew, &[]);
    with(RetainHandling::Send, &["x"]);
    assert_eq!(world.engine.metrics.retained_messages.value(), 1);
}

#[test]
pub(super) fn many_retained_messages_come_in_pages_and_all_of_them() {
    let world = World::new();
    let mut author = world.connect("a", &As::new("user:a"));
    for number in 0..1000 {
        author.retain(&world, &format!("r/{number}/x"), &number.to_string());
    }
    let mut reader = world.connect(
        "b",
        &As {
            receive_maximum: Some(3),
            ..As::new("user:b")
        },
    );
    reader.subscribe(&world, "r/+/x", QoS::AtLeastOnce);
    assert_eq!(reader.payloads(&world).len(), 1000);
}

#[test]
pub(super) fn overlapping_subscriptions_give_one_copy_with_the_highest_qos_and_all_identifiers() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    let qos = |qos| SubscribeOptions {
        qos,
        ..SubscribeOptions::default()
    };
    reader.subscribe_with(&world, "t/#", qos(QoS::AtMostOnce), Some(1));
    reader.subscribe_with(&world, "t/+", qos(QoS::AtLeastOnce), Some(2));
    reader.subscribe_with(&world, "+/x", qos(QoS::AtMostOnce), None);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t/x", "1", qos2(1));
    let got = reader.got(&world);
    assert_eq!(got.len(), 1);
    let Got::Message { qos, ids, .. } = &got[0] else {
        panic!()
    };
    let mut ids = ids.clone();
    ids.sort_unstable();
    assert_eq!((*qos, ids), (QoS::AtLeastOnce, vec![1, 2]));
    reader.unsubscribe(&world, "t/+");
    reader.unsubscribe(&world, "t/+");
    assert_eq!(
        reader.got(&world),
        [Got::UnsubAck(9, vec![0]), Got::UnsubAck(9, vec![0x11])]
    );
}

#[test]
pub(super) fn no_local_and_retain_as_published_are_honoured() {
    let world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    let options = SubscribeOptions {
        no_local: true,
        retain_as_published: true,
        ..SubscribeOptions::default()
    };
    client.subscribe_with(&world, "t", options, None);
    client.retain(&world, "t", "own");
    assert!(client.payloads(&world).is_empty());
    let mut other = world.connect("b", &As::new("user:b"));
    other.retain(&world, "t", "other");
    assert!(matches!(
        client.got(&world).as_slice(),
        [Got::Message { retain: true, .. }]
    ));
}

#[test]
pub(super) fn a_message_expires_on_the_way_and_says_what_is_left() {
    let mut world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    reader.lose(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    for (expiry, payload) in [(Some(10), "short"), (Some(100), "long"), (None, "for ever")] {
        author.send(
            &world,
            &[Packet::Publish(Publish {
                topic: "t",
                alias: None,
                delivery: qos1(1),
                retain: false,
                properties: MessageProperties {
                    expiry,
                    ..MessageProperties::default()
                },
                payload: payload.as_bytes(),
            })],
        );
    }
    world.later(Duration::from_secs(30));
    let mut reader = world.connect("b", &As::persistent("user:b"));
    let left: Vec<_> = reader
        .got(&world)
        .into_iter()
        .map(|got| match got {
            Got::Message {
                payload, expiry, ..
            } => (payload, expiry),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        left,
        [("long".to_owned(), Some(70)), ("for ever".to_owned(), None)]
    );
    assert_eq!(world.engine.metrics.dropped_expired.value(), 1);
}

#[test]
pub(super) fn mqtt_3_1_2_24_a_message_that_is_too_large_for_the_client_is_not_sent() {
    let world = World::new();
    let mut reader = world.connect(
        "b",
        &As {
            max_packet: Some(30),
            ..As::new("user:b")
        },
    );
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t", &"x".repeat(40), qos1(1));
    author.publish(&world, "t", "small", qos1(2));
    assert_eq!(reader.payloads(&world), ["small"]);
    assert_eq!(world.engine.metrics.dropped_too_large.value(), 1);
}

#[test]
pub(super) fn mqtt_3_3_4_9_more_than_the_receive_maximum_ends_the_connection() {
    let mut settings = Settings::default();
    settings.mqtt.receive_maximum = NonZeroU16::new(2).unwrap();
    let world = World::with(settings);
    let mut author = world.connect("a", &As::new("user:a"));
    for id in 1..=2 {
        author.publish(&world, "t", "x", qos2(id));
    }
    assert_eq!(author.got(&world).len(), 2);
    author.publish(&world, "t", "x", qos2(3));
    assert_eq!(
        author.got(&world),
        [Got::Bye(ReasonCode::ReceiveMaximumExceeded)]
    );
}

#[test]
pub(super) fn a_second_connect_and_a_malformed_packet_end_the_connection() {
    let world = World::new();
    for (bytes, code) in [
        (
            &b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00"[..],
            ReasonCode::ProtocolError,
        ),
        (b"\x36\x05\x00\x01t\x00\x01", ReasonCode::MalformedPacket),
        (b"\x20\x03\x00\x00\x00", ReasonCode::ProtocolError),
        (b"\x30\x03\x00\x00\x00", ReasonCode::ProtocolError),
        (b"\x30\x05\x00\x02t#\x00", ReasonCode::MalformedPacket),
        (b"\xf0\x00", ReasonCode::MalformedPacket),
        (b"\x30\xff\xff\xff\x7f", ReasonCode::PacketTooLarge),
    ] {
        let mut client = world.connect("a", &As::new("user:a"));
        client.send_bytes(&world, bytes);
        assert_eq!(client.got(&world), [Got::Bye(code)], "{bytes:02x?}");
    }
}
