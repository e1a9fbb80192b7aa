//! Shared subscriptions.

use super::*;

#[test]
fn a_group_shares_messages_evenly_among_those_who_are_there() {
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
}

#[test]
fn a_member_that_lost_the_right_gets_nothing_and_the_others_get_its_share() {
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
fn leaving_a_group_leaves_nothing_behind() {
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
