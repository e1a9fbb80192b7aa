//! Shared subscriptions.

use super::*;

#[test]
pub(super) fn a_group_shares_messages_evenly_among_those_who_are_there() {
    let world = World::new();
    let mut members: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|id| {
            let mut member = world.connect(id, &As::new("user:m"));
            assert_eq!(
                member.subscribe(&world, "$share/g/t/#", QoS::AtLeastOnce),
                1
            );
            member
        })
        .collect();
    let mut whole = world.connect("w", &As::new("user:w"));
    whole.subscribe(&world, "t/#", QoS::AtMostOnce);
    let mut author = world.connect("p", &As::new("user:p"));
    for id in 1..=9 {
        author.publish(&world, "t/1", "x", qos1(id));
    }
    let shares: Vec<_> = members
        .iter_mut()
        .map(|member| member.payloads(&world).len())
        .collect();
    assert_eq!(shares, [3, 3, 3]);
    assert_eq!(whole.payloads(&world).len(), 9);
    members[0].lose(&world);
    for id in 10..=13 {
        author.publish(&world, "t/1", "x", qos1(id));
    }
    let rest: usize = members[1..]
        .iter_mut()
        .map(|member| member.payloads(&world).len())
        .sum();
    assert_eq!(rest, 4);
    // [MQTT-4.8.2-3]: at the granted QoS.
    author.publish(&world, "t/1", "x", qos2(14));
    let got: Vec<_> = members[1..]
        .iter_mut()
        .flat_map(|member| member.got(&world))
        .collect();
    assert!(
        matches!(
            &got[..],
            [Got::Message {
                qos: QoS::AtLeastOnce,
                ..
            }]
        ),
        "{got:?}"
    );
}

#[test]
pub(super) fn a_member_that_lost_the_right_gets_nothing_and_the_others_get_its_share() {
    let world = World::new();
    let mut good = world.connect("a", &As::new("user:good"));
    let mut bad = world.connect("b", &As::new("user:bad"));
    for member in [&mut good, &mut bad] {
        member.subscribe(&world, "$share/g/t", QoS::AtMostOnce);
    }
    world.policy.set(&[
        ("*", Some(Action::Publish), "#", true),
        ("user:good", Some(Action::Receive), "t", true),
        ("user:good", None, "g", true),
        ("user:bad", None, "g", true),
    ]);
    let mut author = world.connect("p", &As::new("user:p"));
    for _ in 0..4 {
        author.publish(&world, "t", "x", Delivery::AtMostOnce);
    }
    assert_eq!(good.payloads(&world).len(), 4);
    assert!(bad.payloads(&world).is_empty());
}

#[test]
pub(super) fn leaving_a_group_leaves_nothing_behind() {
    let world = World::new();
    let mut member = world.connect("a", &As::new("user:a"));
    member.subscribe(&world, "$share/g/t/+/x", QoS::AtMostOnce);
    member.subscribe(&world, "t/+/x", QoS::AtMostOnce);
    member.unsubscribe(&world, "$share/g/t/+/x");
    assert_eq!(member.got(&world), [Got::UnsubAck(9, vec![0])]);
    assert_eq!(world.engine.metrics.subscriptions.value(), 1);
    member.lose(&world);
    assert_eq!(world.engine.subscription_nodes(), 0);
}

fn member(world: &World, id: &str, how: &As) -> Client {
    let mut member = world.connect(id, how);
    let granted = member.subscribe(world, "$share/g/t", QoS::ExactlyOnce);
    assert_eq!(granted, 2);
    member
}

#[test]
pub(super) fn unacknowledged_and_waiting_messages_move_to_another_member() {
    for how in [As::new("user:m"), As::persistent("user:m")] {
        let world = World::new();
        let slow = As {
            receive_maximum: Some(1),
            ..how
        };
        let mut first = member(&world, "a", &slow);
        let mut author = world.connect("p", &As::new("user:p"));
        for id in 1..=3 {
            author.publish(&world, "t", &id.to_string(), qos1(id));
        }
        // One is on its way and not acknowledged, two wait.
        assert_eq!(first.got(&world).len(), 1);
        let mut second = member(&world, "b", &As::new("user:m"));
        first.lose(&world);
        assert_eq!(second.payloads(&world), ["1", "2", "3"]);
        assert_eq!(world.engine.metrics.queued_messages.value(), 0);
        let mut first = world.connect("a", &slow);
        assert!(
            first.payloads(&world).is_empty(),
            "they are not there twice"
        );
    }
}

#[test]
pub(super) fn qos_2_stays_with_the_session_that_it_was_sent_to() {
    let world = World::new();
    let persistent = As::persistent("user:m");
    let mut first = member(&world, "a", &persistent);
    let mut author = world.connect("p", &As::new("user:p"));
    author.publish(&world, "t", "x", qos2(1));
    assert_eq!(first.got(&world).len(), 1);
    let mut second = member(&world, "b", &As::new("user:m"));
    first.lose(&world);
    assert!(second.payloads(&world).is_empty());
    // [MQTT-4.8.2-4]
    let mut first = world.connect("a", &persistent);
    assert_eq!(first.payloads(&world), ["x"]);
    author.publish(&world, "t", "y", qos2(2));
    author.publish(&world, "t", "z", qos2(3));
    let mine: Vec<_> = first.got(&world);
    assert_eq!(mine.len(), 1);
    // [MQTT-4.8.2-5]: the session ends, and so does the message.
    first.lose(&world);
    let clean = As {
        clean: true,
        ..persistent
    };
    assert!(world.connect("a", &clean).got(&world).is_empty());
    assert_eq!(second.payloads(&world).len(), 1);
}

#[test]
pub(super) fn what_a_member_refuses_goes_to_nobody_else() {
    let world = World::new();
    let mut first = member(&world, "a", &As::persistent("user:m"));
    let mut author = world.connect("p", &As::new("user:p"));
    author.publish(&world, "t", "1", qos1(1));
    author.publish(&world, "t", "2", qos2(2));
    assert_eq!(first.got(&world).len(), 2);
    let refused = |id| Ack {
        reason: ReasonCode::QuotaExceeded,
        ..ack(id)
    };
    first.send(
        &world,
        &[Packet::PubAck(refused(1)), Packet::PubRec(refused(2))],
    );
    let mut second = member(&world, "b", &As::new("user:m"));
    first.lose(&world);
    assert!(second.payloads(&world).is_empty());
    let mut first = world.connect("a", &As::persistent("user:m"));
    assert!(first.got(&world).is_empty(), "[MQTT-4.4.0-2]");
}
