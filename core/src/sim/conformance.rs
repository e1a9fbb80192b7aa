//! Statements of the OASIS texts that no other test holds, through bytes in and bytes out. The
//! table of all statements is `tests/conformance/statements.toml`.

use std::time::Duration;

use super::*;
use crate::wire::{Auth, RetainHandling};

/// The messages that a client is sent, as they stand on the wire.
fn raw(client: &mut Client, world: &World, look: &mut dyn FnMut(&Publish<'_>)) {
    if let Some(slow) = &world.slow {
        slow.settle();
    }
    let mut output = Vec::new();
    let connection = client.connection.as_mut().unwrap();
    connection
        .take_output(&mut output, Waker::noop(), world.now)
        .unwrap();
    let mut rest = &output[..];
    while let Some(frame) = split_frame(rest, u32::MAX).unwrap() {
        rest = &rest[frame.size..];
        let packet = decode_server(frame, client.version, &Limits::default()).unwrap();
        if let ServerPacket::Publish(publish, _) = packet {
            look(&publish);
        }
    }
}

fn with(delivery: Delivery, properties: MessageProperties<'_>) -> Packet<'_> {
    Packet::Publish(Publish {
        topic: "t",
        alias: None,
        delivery,
        retain: false,
        properties,
        payload: b"x",
    })
}

fn options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions {
        qos,
        ..SubscribeOptions::default()
    }
}

fn subscribe<'a>(id: u16, filters: &[(&'a str, QoS)]) -> Packet<'a> {
    Packet::Subscribe(Subscribe {
        id: NonZeroU16::new(id).unwrap(),
        subscription_id: None,
        filters: filters.iter().map(|(f, qos)| (*f, options(*qos))).collect(),
        user: UserProperties::default(),
    })
}

fn unsubscribe<'a>(id: u16, filters: &[&'a str]) -> Packet<'a> {
    Packet::Unsubscribe(Unsubscribe {
        id: NonZeroU16::new(id).unwrap(),
        filters: filters.to_vec(),
        user: UserProperties::default(),
    })
}

#[test]
pub(super) fn mqtt_3_3_2_what_belongs_to_the_application_is_forwarded_unaltered() {
    let world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    let block = UserProperties::block([("b", "1"), ("a", "2"), ("b", "1")]);
    let properties = MessageProperties {
        payload_is_utf8: true,
        expiry: None,
        content_type: Some("\u{feff}text/plain"),
        response_topic: Some("answers/\u{feff}here"),
        correlation_data: Some(b"\x00\xff"),
        user: UserProperties::from_block(&block).unwrap(),
    };
    let mut author = world.connect("a", &As::new("user:a"));
    // At once, and from the queue of an offline session.
    for stored in [false, true] {
        if stored {
            reader.lose(&world);
        }
        author.send(&world, &[with(qos1(1), properties)]);
        if stored {
            reader = world.connect("b", &As::persistent("user:b"));
        }
        let mut seen = 0;
        raw(&mut reader, &world, &mut |publish| {
            assert_eq!(publish.properties, properties);
            seen += 1;
        });
        assert_eq!(seen, 1 + u32::from(stored), "the first comes again");
    }
}

#[test]
pub(super) fn mqtt_3_3_1_3_dup_is_not_passed_on_and_3_3_1_12_retain_is_not_without_asking() {
    for version in [Version::V3_1_1, Version::V5] {
        let world = World::new();
        let how = As {
            version,
            ..As::new("user:b")
        };
        let mut reader = world.connect("b", &how);
        reader.subscribe(&world, "t", QoS::AtLeastOnce);
        let mut author = world.connect("a", &As::new("user:a"));
        let id = NonZeroU16::new(1).unwrap();
        let again = Delivery::AtLeastOnce { id, dup: true };
        author.send(&world, &[publish("t", "x", again, true)]);
        let got = reader.got(&world);
        assert!(
            matches!(
                &got[..],
                [Got::Message {
                    dup: false,
                    retain: false,
                    ..
                }]
            ),
            "{got:?}"
        );
        // A subscription that comes later gets it with RETAIN.
        let mut late = world.connect("c", &how);
        late.subscribe(&world, "t", QoS::AtLeastOnce);
        let got = late.got(&world);
        assert!(
            matches!(
                &got[..],
                [Got::Message {
                    dup: false,
                    retain: true,
                    ..
                }]
            ),
            "{got:?}"
        );
    }
}

#[test]
pub(super) fn mqtt_3_3_1_5_to_8_only_a_retained_publish_touches_what_is_retained() {
    let world = World::new();
    let mut author = world.connect("a", &As::new("user:a"));
    let mut retained = |delivery, retain, text: &str| {
        author.send(&world, &[publish("t", text, delivery, retain)]);
        let mut reader = world.connect("b", &As::new("user:b"));
        reader.subscribe(&world, "t", QoS::ExactlyOnce);
        let got = reader.got(&world);
        got.into_iter()
            .map(|got| match got {
                Got::Message { payload, qos, .. } => (payload, qos as u8),
                other => panic!("{other:?}"),
            })
            .next()
    };
    let some = |text: &str, qos| Some((text.to_owned(), qos));
    assert_eq!(retained(qos1(1), true, "old"), some("old", 1));
    assert_eq!(
        retained(Delivery::AtMostOnce, false, "other"),
        some("old", 1)
    );
    assert_eq!(retained(Delivery::AtMostOnce, false, ""), some("old", 1));
    // The newest stays, with its own QoS, a lower one too.
    assert_eq!(retained(Delivery::AtMostOnce, true, "new"), some("new", 0));
    assert_eq!(retained(qos1(2), true, ""), None);
    assert_eq!(world.engine.metrics.retained_messages.value(), 0);
}

#[test]
pub(super) fn mqtt_3_3_2_7_aliases_end_with_their_connection_and_3_3_2_12_all_are_taken() {
    let world = World::new();
    let max = Settings::default().mqtt.topic_alias_max;
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "#", QoS::AtMostOnce);
    let how = As::persistent("user:a");
    let mut author = world.connect("a", &how);
    let aliased = |topic, alias| {
        Packet::Publish(Publish {
            topic,
            alias: NonZeroU16::new(alias),
            delivery: Delivery::AtMostOnce,
            retain: false,
            properties: MessageProperties::default(),
            payload: b"x",
        })
    };
    let names: Vec<_> = (1..=max).map(|alias| format!("t/{alias}")).collect();
    for (alias, name) in (1..).zip(&names) {
        author.send(&world, &[aliased(name, alias), aliased("", alias)]);
    }
    let topics: Vec<_> = reader
        .got(&world)
        .into_iter()
        .map(|got| match got {
            Got::Message { topic, .. } => topic,
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<_> = names
        .iter()
        .flat_map(|name| [name.clone(), name.clone()])
        .collect();
    assert_eq!(topics, expected);
    author.lose(&world);
    let mut author = world.connect("a", &how);
    author.send(&world, &[aliased("", 1)]);
    assert_eq!(author.got(&world), [Got::Bye(ReasonCode::ProtocolError)]);
    let mut author = world.connect("a", &how);
    author.send(&world, &[aliased("t", max + 1)]);
    assert_eq!(
        author.got(&world),
        [Got::Bye(ReasonCode::TopicAliasInvalid)]
    );
}

#[test]
pub(super) fn mqtt_3_8_4_and_3_9_3_each_filter_has_its_answer_in_its_order() {
    for (version, denied) in [(Version::V3_1_1, 0x80), (Version::V5, 0x87)] {
        let world = World::new();
        world.policy.set(&[
            ("*", Some(Action::Publish), "#", true),
            ("*", Some(Action::Receive), "a", true),
            ("*", Some(Action::Receive), "b", true),
        ]);
        let mut client = world.connect(
            "a",
            &As {
                version,
                ..As::new("user:a")
            },
        );
        let filters = [
            ("b", QoS::ExactlyOnce),
            ("no", QoS::AtMostOnce),
            ("a", QoS::AtMostOnce),
            ("b", QoS::AtLeastOnce),
        ];
        client.send(&world, &[subscribe(7, &filters)]);
        assert_eq!(client.got(&world), [Got::SubAck(7, vec![2, denied, 0, 1])]);
        // As if they had come one by one: the last of two equal ones holds.
        let mut author = world.connect("p", &As::new("user:p"));
        author.publish(&world, "b", "x", qos2(1));
        assert!(matches!(
            &client.got(&world)[..],
            [Got::Message {
                qos: QoS::AtLeastOnce,
                ..
            }]
        ));
    }
}

#[test]
pub(super) fn mqtt_3_8_4_3_and_4_a_repeated_subscription_replaces_and_loses_nothing() {
    let world = World::new();
    let mut author = world.connect("a", &As::new("user:a"));
    author.retain(&world, "t", "kept");
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe_with(&world, "t", options(QoS::AtLeastOnce), Some(1));
    reader.lose(&world);
    author.publish(&world, "t", "waits", qos1(1));
    let mut reader = world.connect("b", &As::persistent("user:b"));
    let again = SubscribeOptions {
        retain_handling: RetainHandling::Send,
        ..options(QoS::AtMostOnce)
    };
    reader.subscribe_with(&world, "t", again, None);
    author.publish(&world, "t", "new", qos1(2));
    let got = reader.got(&world);
    let seen: Vec<_> = got
        .iter()
        .map(|got| match got {
            Got::Message {
                payload, qos, ids, ..
            } => (payload.as_str(), *qos as u8, ids.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    for expected in [("waits", 1, 1), ("kept", 0, 0), ("new", 0, 0)] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
    assert_eq!(world.engine.metrics.subscriptions.value(), 1);
}

#[test]
pub(super) fn mqtt_3_10_4_unsubscribe_answers_each_filter_and_compares_character_by_character() {
    let world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    let filters = [
        ("t/+", QoS::AtMostOnce),
        ("t/#", QoS::AtMostOnce),
        ("T", QoS::AtMostOnce),
    ];
    client.send(&world, &[subscribe(1, &filters)]);
    client.got(&world);
    client.send(&world, &[unsubscribe(5, &["t/#", "t/a", "t", "T", "T"])]);
    assert_eq!(
        client.got(&world),
        [Got::UnsubAck(5, vec![0, 0x11, 0x11, 0, 0x11])]
    );
    let mut author = world.connect("p", &As::new("user:p"));
    author.publish(&world, "t/a", "still by t/+", Delivery::AtMostOnce);
    author.publish(&world, "t/a/b", "no more", Delivery::AtMostOnce);
    assert_eq!(client.payloads(&world), ["still by t/+"]);
    let mut old = world.connect(
        "c",
        &As {
            version: Version::V3_1_1,
            ..As::new("user:c")
        },
    );
    old.send(&world, &[unsubscribe(6, &["nothing"])]);
    assert_eq!(old.got(&world), [Got::UnsubAck(6, vec![])]);
}

#[test]
pub(super) fn mqtt_3_10_4_3_what_was_begun_before_unsubscribe_is_completed() {
    let world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::ExactlyOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t", "1", qos1(1));
    author.publish(&world, "t", "2", qos2(2));
    assert_eq!(reader.got(&world).len(), 2);
    reader.unsubscribe(&world, "t");
    author.publish(&world, "t", "3", qos1(3));
    assert_eq!(reader.got(&world), [Got::UnsubAck(9, vec![0])]);
    reader.send(&world, &[pubrec(2)]);
    assert_eq!(reader.got(&world), [Got::PubRel(2, ReasonCode::Success)]);
    reader.lose(&world);
    let mut reader = world.connect("b", &As::persistent("user:b"));
    assert_eq!(reader.payloads(&world), ["1"]);
}

#[test]
pub(super) fn mqtt_4_3_an_identifier_stands_for_a_new_message_once_its_flow_is_over() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "#", QoS::ExactlyOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    let id = NonZeroU16::new(1).unwrap();
    // [MQTT-4.3.2-5]: whatever DUP says.
    author.publish(&world, "t", "1", qos1(1));
    author.publish(&world, "t", "2", Delivery::AtLeastOnce { id, dup: true });
    // [MQTT-4.3.3-12]
    author.publish(&world, "t", "3", qos2(1));
    author.send(&world, &[pubrel(1)]);
    author.publish(&world, "t", "4", Delivery::ExactlyOnce { id, dup: true });
    author.send(&world, &[pubrel(1)]);
    // [MQTT-4.3.3-9]
    world.policy.set(&[
        ("*", Some(Action::Receive), "#", true),
        ("*", Some(Action::Publish), "t", true),
    ]);
    author.publish(&world, "no", "refused", qos2(1));
    author.publish(&world, "t", "5", qos2(1));
    assert_eq!(reader.payloads(&world), ["1", "2", "3", "4", "5"]);
    let codes: Vec<_> = author
        .got(&world)
        .into_iter()
        .filter_map(|got| match got {
            Got::PubRec(1, code) => Some(code as u8),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [0, 0, 0x87, 0]);
}

#[test]
pub(super) fn mqtt_4_3_3_7_expiry_does_not_end_what_was_begun() {
    let mut world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::ExactlyOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    let properties = MessageProperties {
        expiry: Some(5),
        ..MessageProperties::default()
    };
    author.send(&world, &[with(qos2(1), properties)]);
    assert_eq!(reader.got(&world).len(), 1);
    reader.lose(&world);
    world.later(Duration::from_mins(1));
    let mut reader = world.connect("b", &As::persistent("user:b"));
    assert_eq!(reader.payloads(&world), ["x"]);
}

#[test]
pub(super) fn mqtt_4_9_0_3_everything_else_is_answered_while_the_quota_is_zero() {
    let world = World::new();
    let mut reader = world.connect(
        "b",
        &As {
            receive_maximum: Some(1),
            ..As::new("user:b")
        },
    );
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    for id in 1..=3 {
        author.publish(&world, "t", &id.to_string(), qos1(id));
    }
    // [MQTT-4.9.0-2], [MQTT-3.3.4-9]
    assert_eq!(reader.got(&world).len(), 1);
    reader.send(
        &world,
        &[
            Packet::PingReq,
            subscribe(2, &[("u", QoS::AtMostOnce)]),
            unsubscribe(3, &["u"]),
            publish("v", "x", qos2(4), false),
        ],
    );
    assert_eq!(
        reader.got(&world),
        [
            Got::Pong,
            Got::SubAck(2, vec![0]),
            Got::UnsubAck(3, vec![0]),
            Got::PubRec(4, ReasonCode::NoMatchingSubscribers),
        ]
    );
    reader.send(&world, &[pubrel(4)]);
    assert_eq!(reader.got(&world), [Got::PubComp(4, ReasonCode::Success)]);
    assert_eq!(reader.payloads(&world).len(), 0, "the first is still due");
    reader.send(&world, &[puback(1)]);
    assert_eq!(reader.payloads(&world), ["2", "3"]);
}

#[test]
pub(super) fn mqtt_2_2_1_4_an_identifier_in_use_is_not_given_again() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    let mut author = world.connect(
        "a",
        &As {
            version: Version::V3_1_1,
            ..As::new("user:a")
        },
    );
    author.publish(&world, "t", "held", qos1(1));
    let mut held = match &reader.got(&world)[..] {
        [Got::Message { id: Some(id), .. }] => vec![*id],
        other => panic!("{other:?}"),
    };
    let mut given = 0u32;
    while given < 65_600 {
        let batch: Vec<_> = (1..=100)
            .map(|id| publish("t", "x", qos1(id), false))
            .collect();
        author.send(&world, &batch);
        author.got(&world);
        let mut acks = Vec::new();
        for got in reader.got(&world) {
            match got {
                Got::Message { id: Some(id), .. } => {
                    assert!(id != 0 && !held.contains(&id), "{id} is in use");
                    // A second one stays among others that go.
                    if given == 0 && acks.len() == 50 && held.len() == 1 {
                        held.push(id);
                    } else {
                        acks.push(puback(id));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        given += u32::try_from(acks.len()).unwrap();
        reader.send(&world, &acks);
    }
}

#[test]
pub(super) fn mqtt_3_1_2_14_and_15_a_will_is_retained_if_it_says_so_and_keeps_its_properties() {
    for retain in [false, true] {
        let world = World::new();
        let mut watcher = world.connect("w", &As::new("user:w"));
        watcher.subscribe(&world, "will", QoS::AtMostOnce);
        let mut client = world.connect(
            "a",
            &As {
                will: Some(("will", 0)),
                will_retain: retain,
                ..As::new("user:a")
            },
        );
        client.lose(&world);
        let mut seen = Vec::new();
        raw(&mut watcher, &world, &mut |publish| {
            // [MQTT-3.1.3-10]
            let user = publish.properties.user.iter();
            seen = user.map(|(k, v)| format!("{k}={v}")).collect();
        });
        assert_eq!(seen, ["z=1", "a=2", "z=1"]);
        let mut late = world.connect("l", &As::new("user:l"));
        late.subscribe(&world, "will", QoS::AtMostOnce);
        assert_eq!(late.payloads(&world).len(), usize::from(retain));
    }
}

#[test]
pub(super) fn mqtt_4_12_an_auth_that_nobody_agreed_on_ends_the_connection() {
    let world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    client.send(
        &world,
        &[Packet::Auth(Auth {
            reason: ReasonCode::ReAuthenticate,
            method: Some("SCRAM"),
            data: None,
            reason_string: None,
            user: UserProperties::default(),
        })],
    );
    assert_eq!(client.got(&world), [Got::Bye(ReasonCode::ProtocolError)]);
}

#[test]
pub(super) fn mqtt_3_14_nothing_follows_a_disconnect_in_either_direction() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "t", QoS::AtMostOnce);
    let mut client = world.connect("a", &As::new("user:a"));
    let goodbye = Packet::Disconnect(Disconnect {
        reason: ReasonCode::Success,
        session_expiry: None,
        reason_string: None,
        user: UserProperties::default(),
    });
    let late = publish("t", "late", Delivery::AtMostOnce, false);
    client.send(&world, &[goodbye, late]);
    assert!(client.got(&world).is_empty(), "a goodbye is not answered");
    assert!(reader.payloads(&world).is_empty());
    // 5.0, 3.14.2.2.2: no expiry at DISCONNECT where CONNECT had none.
    let mut client = world.connect("a", &As::new("user:a"));
    client.send(
        &world,
        &[Packet::Disconnect(Disconnect {
            reason: ReasonCode::Success,
            session_expiry: Some(5),
            reason_string: None,
            user: UserProperties::default(),
        })],
    );
    assert_eq!(client.got(&world), [Got::Bye(ReasonCode::ProtocolError)]);
    // 3.x has no DISCONNECT from the server.
    let mut old = world.connect(
        "a",
        &As {
            version: Version::V3_1_1,
            ..As::new("user:a")
        },
    );
    old.send_bytes(&world, b"\xf0\x00");
    assert!(old.got(&world).is_empty() && old.connection.is_none());
}

#[test]
pub(super) fn mqtt_4_7_3_4_topics_are_compared_as_they_are() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    let filters = [
        ("a//b", QoS::AtMostOnce),
        ("caf\u{e9}", QoS::AtMostOnce),
        ("X", QoS::AtMostOnce),
        ("/s", QoS::AtMostOnce),
        (" y", QoS::AtMostOnce),
    ];
    reader.send(&world, &[subscribe(1, &filters)]);
    reader.got(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    for topic in ["a/b", "cafe\u{301}", "x", "s", "s/", "y", "\u{feff}X"] {
        author.publish(&world, topic, "no", Delivery::AtMostOnce);
    }
    for (topic, _) in filters {
        author.publish(&world, topic, topic, Delivery::AtMostOnce);
    }
    assert_eq!(reader.payloads(&world), filters.map(|(topic, _)| topic));
}

#[test]
pub(super) fn mqtt_3_2_2_9_and_10_a_lower_maximum_qos_grants_less_and_refuses_more() {
    let mut settings = Settings::default();
    settings.mqtt.max_qos = QoS::AtMostOnce;
    let world = World::with(settings);
    let mut client = world.connect("a", &As::new("user:a"));
    assert_eq!(client.subscribe(&world, "t", QoS::ExactlyOnce), 0);
    client.publish(&world, "t", "x", qos1(1));
    assert_eq!(client.got(&world), [Got::Bye(ReasonCode::QoSNotSupported)]);
}

#[test]
pub(super) fn mqtt_4_13_an_acknowledged_error_concerns_one_packet_only() {
    let world = World::new();
    world.policy.set(&[("*", Some(Action::Publish), "t", true)]);
    let mut client = world.connect("a", &As::new("user:a"));
    client.publish(&world, "no", "x", qos1(1));
    client.publish(&world, "t", "x", qos1(2));
    assert_eq!(
        client.got(&world),
        [
            Got::PubAck(1, ReasonCode::NotAuthorized),
            Got::PubAck(2, ReasonCode::NoMatchingSubscribers)
        ]
    );
}

#[test]
pub(super) fn mqtt_3_1_1_the_clean_session_flag_decides_what_is_kept() {
    let world = World::new();
    let how = As {
        version: Version::V3_1_1,
        ..As::persistent("user:b")
    };
    let mut author = world.connect("a", &As::new("user:a"));
    author.retain(&world, "r", "kept");
    let mut reader = world.connect("b", &how);
    assert!(!reader.session_present);
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    reader.disconnect(&world);
    author.publish(&world, "t", "waits", qos1(1));
    let mut reader = world.connect("b", &how);
    assert!(reader.session_present);
    assert_eq!(reader.payloads(&world), ["waits"]);
    reader.disconnect(&world);
    let clean = As {
        version: Version::V3_1_1,
        ..As::new("user:b")
    };
    let mut reader = world.connect("b", &clean);
    assert!(!reader.session_present);
    author.publish(&world, "t", "gone", qos1(2));
    // Retained messages belong to no session.
    reader.subscribe(&world, "r", QoS::AtMostOnce);
    assert_eq!(reader.payloads(&world), ["kept"]);
    reader.disconnect(&world);
    assert!(!world.connect("b", &how).session_present);
}

#[test]
pub(super) fn mqtt_4_8_0_2_of_3_1_1_what_could_not_be_stored_is_not_acknowledged() {
    for (version, answer) in [
        (Version::V3_1_1, None),
        (
            Version::V5,
            Some(Got::PubAck(1, ReasonCode::UnspecifiedError)),
        ),
    ] {
        let world = World::over(Settings::default(), true);
        let mut client = world.connect(
            "a",
            &As {
                version,
                ..As::new("user:a")
            },
        );
        client.publish(&world, "t", "x", qos1(1));
        world.slow.as_ref().unwrap().fail(0);
        assert_eq!(client.read(&world).into_iter().next(), answer);
        assert_eq!(client.connection.is_some(), version.is_v5());
    }
}

#[test]
pub(super) fn mqtt_4_7_2_1_a_leading_wildcard_does_not_touch_dollar_topics() {
    let world = World::new();
    world.policy.set(&[
        ("*", Some(Action::Publish), "$x/y", true),
        ("*", Some(Action::Publish), "x/y", true),
        ("*", Some(Action::Receive), "#", true),
        ("*", Some(Action::Receive), "+/y", true),
        ("*", Some(Action::Receive), "$x/+", true),
    ]);
    for (filter, seen) in [
        ("#", vec!["x/y"]),
        ("+/y", vec!["x/y"]),
        ("$x/+", vec!["$x/y"]),
    ] {
        let mut reader = world.connect("b", &As::new("user:b"));
        assert_eq!(reader.subscribe(&world, filter, QoS::AtMostOnce), 0);
        let mut author = world.connect("a", &As::new("user:a"));
        for topic in ["$x/y", "x/y"] {
            author.publish(&world, topic, topic, Delivery::AtMostOnce);
        }
        assert_eq!(reader.payloads(&world), seen, "{filter}");
    }
}
