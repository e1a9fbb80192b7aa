//! How a client's last word decides about its session and its will.

use std::time::Duration;

use super::*;

fn goodbye(reason: ReasonCode, session_expiry: Option<u32>) -> Packet<'static> {
    Packet::Disconnect(Disconnect {
        reason,
        session_expiry,
        reason_string: None,
        user: UserProperties::default(),
    })
}

#[test]
pub(super) fn a_disconnect_may_change_how_long_the_session_lives() {
    let how = As::persistent("user:a");
    for (asked, alive, over) in [
        (None, 3599, 3601),
        (Some(10), 9, 11),
        (Some(7200), 7199, 7201),
        // What is asked for beyond the longest granted gets that one.
        (Some(u32::MAX), 7 * 86_400 - 1, 7 * 86_400 + 1),
    ] {
        for (seconds, present) in [(alive, true), (over, false)] {
            let mut world = World::new();
            let mut client = world.connect("a", &how);
            client.send(&world, &[goodbye(ReasonCode::Success, asked)]);
            world.later(Duration::from_secs(seconds));
            let session_present = world.connect("a", &how).session_present;
            assert_eq!(session_present, present, "{asked:?} after {seconds} s");
        }
    }
    // None at all: the session ends with the connection, and its subscriptions.
    let world = World::new();
    let mut client = world.connect("a", &how);
    client.subscribe(&world, "t", QoS::AtLeastOnce);
    client.send(&world, &[goodbye(ReasonCode::Success, Some(0))]);
    assert_eq!(world.engine.metrics.sessions.value(), 0);
    assert_eq!(world.engine.subscription_nodes(), 0);
    assert!(!world.connect("a", &how).session_present);
}

#[test]
pub(super) fn a_disconnect_with_will_publishes_it_after_its_delay() {
    let mut world = World::new();
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "will", QoS::AtMostOnce);
    let with_will = ReasonCode::DisconnectWithWill;
    for (delay, expiry, due) in [(0, None, 0), (10, None, 10), (10, Some(5), 5)] {
        let how = As {
            will: Some(("will", delay)),
            ..As::persistent("user:a")
        };
        let mut client = world.connect("a", &how);
        client.send(&world, &[goodbye(with_will, expiry)]);
        if due > 0 {
            world.later(Duration::from_secs(due - 1));
            assert!(watcher.payloads(&world).is_empty(), "{delay} {expiry:?}");
            world.later(Duration::from_secs(1));
        }
        assert_eq!(watcher.payloads(&world), ["will"], "{delay} {expiry:?}");
    }
}

#[test]
pub(super) fn a_will_expires_from_when_it_fires_and_goes_to_who_can_take_it() {
    let mut world = World::new();
    let watch = |id, max_packet, world: &World| {
        let how = As {
            max_packet,
            ..As::persistent("user:w")
        };
        let mut watcher = world.connect(id, &how);
        watcher.subscribe(world, "will", QoS::AtLeastOnce);
        watcher
    };
    let mut watcher = watch("w1", None, &world);
    let mut narrow = watch("w2", Some(20), &world);
    watch("w3", None, &world).lose(&world);
    let how = As {
        will: Some(("will", 10)),
        will_expiry: Some(5),
        ..As::persistent("user:a")
    };
    world.connect("a", &how).lose(&world);
    world.later(Duration::from_secs(10));
    let got = watcher.got(&world);
    assert!(
        matches!(
            &got[..],
            [Got::Message {
                expiry: Some(5),
                ..
            }]
        ),
        "{got:?}"
    );
    // Too large with its properties: not sent, and not in the way of what comes next.
    assert!(narrow.got(&world).is_empty());
    assert_eq!(world.engine.metrics.dropped_too_large.value(), 1);
    let mut author = world.connect("p", &As::new("user:p"));
    author.publish(&world, "will", "x", qos1(1));
    assert_eq!(narrow.payloads(&world), ["x"]);
    // Who was away for longer misses it.
    world.later(Duration::from_secs(6));
    let mut late = world.connect("w3", &As::persistent("user:w"));
    assert_eq!(late.payloads(&world), ["x"]);
}
