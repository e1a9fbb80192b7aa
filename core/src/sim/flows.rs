//! Flow control, aliases and limits that the client sets, against clients that play games.

use std::time::Duration;

use super::*;

/// A reader of `t` whose queue is full: whoever publishes at `QoS` 1 waits for it.
fn full(world: &World) -> Client {
    let mut reader = world.connect(
        "reader",
        &As {
            receive_maximum: Some(1),
            ..As::persistent("user:r")
        },
    );
    reader.subscribe(world, "t", QoS::AtLeastOnce);
    reader
}

fn narrow() -> World {
    let mut settings = Settings::default();
    settings.limits.queue_messages = 1;
    settings.mqtt.receive_maximum = NonZeroU16::new(8).unwrap();
    World::with(settings)
}

#[test]
pub(super) fn a_client_that_has_read_everything_holds_no_room_for_output() {
    let world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    client.subscribe(&world, "t", QoS::AtMostOnce);
    client.publish(&world, "t", &"x".repeat(1024), Delivery::AtMostOnce);
    assert_eq!(client.payloads(&world).len(), 1);
    let connection = client.connection.as_ref().unwrap();
    assert_eq!(connection.session().output_capacity(), 0);
}

/// What a client does not acknowledge waits in its queue; and of what is kept for it less is on its
/// way.
#[test]
pub(super) fn unacknowledged_messages_are_bounded_and_fewer_where_they_are_kept() {
    for (who, most) in [(As::new("user:r"), 1024), (As::persistent("user:r"), 256)] {
        let world = World::new();
        let mut reader = world.connect("reader", &who);
        reader.subscribe(&world, "t", QoS::AtLeastOnce);
        let mut author = world.connect("a", &As::new("user:a"));
        for _ in 0..=most {
            author.publish(&world, "t", "x", qos1(1));
            assert!(matches!(author.got(&world).as_slice(), [Got::PubAck(1, _)]));
        }
        let mut unacknowledged = Vec::new();
        for got in reader.got(&world) {
            match got {
                Got::Message { id: Some(id), .. } => unacknowledged.push(id),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(unacknowledged.len(), most);
        reader.send(&world, &[puback(unacknowledged[most / 2])]);
        assert_eq!(reader.payloads(&world).len(), 1, "a place is free");
    }
}

#[test]
pub(super) fn aliases_are_used_within_what_the_client_takes() {
    for (asked, aliased) in [(0, 0), (1, 2), (40, 4)] {
        let world = World::new();
        let mut reader = world.connect(
            "b",
            &As {
                alias_max: asked,
                ..As::new("user:b")
            },
        );
        reader.subscribe(&world, "#", QoS::AtMostOnce);
        let mut author = world.connect("a", &As::new("user:a"));
        let topics = ["long/topic/1", "long/topic/2", "short"];
        for topic in topics.repeat(3) {
            author.publish(&world, topic, "x", Delivery::AtMostOnce);
        }
        let seen: Vec<_> = reader
            .got(&world)
            .into_iter()
            .map(|got| match got {
                Got::Message { topic, .. } => topic,
                other => panic!("{other:?}"),
            })
            .collect();
        // [MQTT-3.1.2-26], [MQTT-3.1.2-27]: `Client` refuses an alias over what it takes.
        assert_eq!(seen, topics.repeat(3));
        assert_eq!(reader.aliased, aliased, "alias maximum {asked}");
    }
}

#[test]
pub(super) fn an_alias_is_not_set_where_it_would_make_the_packet_too_large() {
    let world = World::new();
    let mut reader = world.connect(
        "b",
        &As {
            alias_max: 4,
            max_packet: Some(2 + 2 + 10 + 1 + 20),
            ..As::new("user:b")
        },
    );
    reader.subscribe(&world, "#", QoS::AtMostOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    for payload in [20, 17, 20, 21] {
        author.publish(
            &world,
            "long/topic",
            &"x".repeat(payload),
            Delivery::AtMostOnce,
        );
    }
    let sizes: Vec<_> = reader.payloads(&world).iter().map(String::len).collect();
    assert_eq!(sizes, [20, 17, 20, 21]);
    assert_eq!(reader.aliased, 2);
}

#[test]
pub(super) fn a_resumed_session_keeps_to_the_new_receive_maximum() {
    let world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::ExactlyOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    for id in 1..=6 {
        author.publish(&world, "t", &id.to_string(), qos2(id));
    }
    assert_eq!(reader.got(&world).len(), 6);
    reader.send(&world, &[pubrec(2)]);
    reader.lose(&world);
    author.publish(&world, "t", "7", qos2(7));
    let mut reader = world.connect(
        "b",
        &As {
            receive_maximum: Some(2),
            ..As::persistent("user:b")
        },
    );
    // [MQTT-3.3.4-9]: two, and the release of the second, which needs no place.
    let first = reader.got(&world);
    let ids: Vec<_> = first
        .iter()
        .map(|got| match got {
            Got::Message { id, dup: true, .. } => id.unwrap(),
            Got::PubRel(id, _) => *id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [1, 2]);
    reader.send(&world, &[pubrec(1), pubcomp(2)]);
    let mut seen = Vec::new();
    for got in reader.got(&world) {
        match got {
            Got::Message { id: Some(id), .. } => {
                seen.push(id);
                reader.send(&world, &[pubrec(id)]);
            }
            Got::PubRel(id, _) => reader.send(&world, &[pubcomp(id)]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [3]);
    assert_eq!(reader.payloads(&world), ["4", "5", "6", "7"]);
}

#[test]
pub(super) fn answers_that_the_client_cannot_take_end_the_connection() {
    let world = World::new();
    let mut client = world.connect(
        "a",
        &As {
            max_packet: Some(8),
            ..As::new("user:a")
        },
    );
    let subscribe = |filters| {
        Packet::Subscribe(Subscribe {
            id: NonZeroU16::new(1).unwrap(),
            subscription_id: None,
            filters,
            user: UserProperties::default(),
        })
    };
    let options = SubscribeOptions::default();
    client.send(&world, &[subscribe(vec![("a", options); 3])]);
    assert_eq!(client.got(&world), [Got::SubAck(1, vec![0, 0, 0])]);
    client.send(&world, &[subscribe(vec![("a", options); 4])]);
    // [MQTT-3.1.2-24]
    assert_eq!(client.got(&world), [Got::Bye(ReasonCode::PacketTooLarge)]);
}

/// What ends a reader that does `pretend` every second while publishers wait for it.
fn pretend(pretend: impl Fn(&mut Client, &World)) -> ReasonCode {
    let mut world = narrow();
    let mut reader = full(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    for id in 1..=4 {
        author.publish(&world, "t", "x", qos1(id));
    }
    assert_eq!(author.got(&world).len(), 2, "two are held back");
    assert_eq!(reader.got(&world).len(), 1);
    for _ in 0..5 {
        world.later(Duration::from_secs(1));
        pretend(&mut reader, &world);
        reader.got(&world);
    }
    let late = reader.connection.as_ref().unwrap().check_time(world.now);
    match late {
        Err(End::Server(close)) => {
            reader.lose(&world);
            assert_eq!(author.got(&world).len(), 2, "and nobody waits any more");
            close.code
        }
        other => panic!("{other:?}"),
    }
}

#[test]
pub(super) fn acknowledging_what_was_never_sent_is_no_progress() {
    for packet in [puback(77), pubcomp(1), pubrec(1)] {
        let code = pretend(|reader, world| reader.send(world, std::slice::from_ref(&packet)));
        assert_eq!(code, ReasonCode::QuotaExceeded, "{packet:?}");
    }
}

#[test]
pub(super) fn pings_are_no_progress() {
    let code = pretend(|reader, world| reader.send(world, &[Packet::PingReq]));
    assert_eq!(code, ReasonCode::QuotaExceeded);
}

#[test]
pub(super) fn refusals_and_repetitions_behind_a_held_acknowledgement_are_bounded() {
    for version in [Version::V3_1_1, Version::V5] {
        let world = narrow();
        let _reader = full(&world);
        let mut author = world.connect(
            "a",
            &As {
                version,
                ..As::new("user:a")
            },
        );
        // The reader's window takes one, its queue one; the third is held back.
        for id in 1..=3 {
            author.publish(&world, "t", "x", qos1(id));
        }
        assert_eq!(author.got(&world).len(), 2);
        author.publish(&world, "u", "x", qos2(9));
        for _ in 0..1000 {
            author.publish(&world, "u", "x", qos2(9));
        }
        assert!(author.end.is_none(), "a repetition waits with the first");
        world.policy.set(&[("*", Some(Action::Publish), "t", true)]);
        for id in 10..1000 {
            author.publish(&world, "u", "x", qos2(id));
        }
        let ended = matches!(
            &author.end,
            Some(End::Server(close)) if close.code == ReasonCode::ReceiveMaximumExceeded
        );
        // In 3.x there is no quota but 65 535 identifiers.
        assert_eq!(ended, version.is_v5());
    }
}

#[test]
pub(super) fn a_client_that_comes_and_goes_leaves_no_deadlines() {
    let mut world = World::new();
    for _ in 0..10 {
        world.connect("a", &As::persistent("user:a")).lose(&world);
    }
    assert_eq!(world.engine.deadlines(), 1);
    world.connect("a", &As::new("user:a")).lose(&world);
    assert_eq!(world.engine.deadlines(), 0);
    world.connect("a", &As::persistent("user:a")).lose(&world);
    assert!(world.engine.drop_session("a", world.now));
    assert_eq!(world.engine.deadlines(), 0);
    world.later(Duration::from_hours(2));
    assert_eq!(world.engine.metrics.sessions.value(), 0);
}

#[test]
pub(super) fn a_connection_that_was_taken_over_publishes_no_more() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "t", QoS::ExactlyOnce);
    let how = As::persistent("user:a");
    let mut old = world.connect("a", &how);
    let mut new = world.connect("a", &how);
    // What the old connection still had in its socket comes again over the new one.
    old.publish(&world, "t", "x", qos2(1));
    new.publish(&world, "t", "x", qos2(1));
    new.send(&world, &[pubrel(1)]);
    assert_eq!(old.got(&world), [Got::Bye(ReasonCode::SessionTakenOver)]);
    assert_eq!(reader.payloads(&world), ["x"]);
}
