//! A policy that bounds messages: their `QoS` and their size.

use super::*;

const SMALL: &str = "12345678";
const LARGE: &str = "123456789";

/// `QoS` 0 or 1, and eight bytes.
const EIGHT: Limit =
    |_, message| message.qos_at_most(QoS::AtLeastOnce) && message.payload_at_most(8);

/// A world in which messages may have `QoS` 0 or 1 and eight bytes.
fn bounded() -> World {
    let world = World::new();
    world.policy.allow_all();
    world.policy.limit(Some(EIGHT));
    world
}

/// Whoever warms the topic cache with a harmless message gains nothing for the next one.
#[test]
fn a_remembered_answer_is_not_used_for_a_larger_message_or_another_qos() {
    let world = bounded();
    let mut client = world.connect("a", &As::new("user:a"));
    for retain in [false, true] {
        let mut codes = Vec::new();
        for (payload, promise) in [
            (SMALL, qos1(1)),
            (LARGE, qos1(1)),
            (SMALL, qos2(2)),
            (SMALL, qos1(1)),
            (LARGE, qos2(3)),
        ] {
            client.send(&world, &[publish("t", payload, promise, retain)]);
            codes.extend(client.got(&world));
        }
        let (ok, no) = (ReasonCode::NoMatchingSubscribers, ReasonCode::NotAuthorized);
        let expected = [
            Got::PubAck(1, ok),
            Got::PubAck(1, no),
            Got::PubRec(2, no),
            Got::PubAck(1, ok),
            Got::PubRec(3, no),
        ];
        assert_eq!(codes, expected, "retain: {retain}");
    }
}

#[test]
fn the_right_to_retain_has_bounds_of_its_own_in_the_cache() {
    let world = bounded();
    let mut client = world.connect("a", &As::new("user:a"));
    // Not retained, and then retained, on a topic that is known.
    for (payload, retain, code) in [
        (SMALL, false, ReasonCode::NoMatchingSubscribers),
        (LARGE, true, ReasonCode::NotAuthorized),
        (SMALL, true, ReasonCode::NoMatchingSubscribers),
        (LARGE, false, ReasonCode::NotAuthorized),
    ] {
        client.send(&world, &[publish("t", payload, qos1(1), retain)]);
        assert_eq!(client.got(&world), [Got::PubAck(1, code)]);
    }
}

/// Rule 4 with the facts of the message.
#[test]
fn a_stored_message_is_judged_again_by_its_own_size() {
    let world = World::new();
    let mut author = world.connect("a", &As::new("user:a"));
    author.retain(&world, "t/small", SMALL);
    author.retain(&world, "t/large", LARGE);
    author.disconnect(&world);
    let mut waiting = world.connect("w", &As::persistent("user:w"));
    waiting.subscribe(&world, "q", QoS::AtLeastOnce);
    waiting.lose(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "q", LARGE, qos1(1));
    author.publish(&world, "q", SMALL, qos1(2));
    world.policy.limit(Some(EIGHT));
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "t/#", QoS::AtMostOnce);
    assert_eq!(reader.payloads(&world), [SMALL]);
    assert!(world.noted("StoredWithheld"));
    let mut waiting = world.connect("w", &As::persistent("user:w"));
    assert_eq!(waiting.payloads(&world), [SMALL]);
    world.policy.limit(None);
    reader.subscribe(&world, "t/#", QoS::AtMostOnce);
    assert_eq!(reader.payloads(&world), [LARGE, SMALL]);
}

#[test]
fn a_will_is_bounded_at_connect_and_when_it_fires() {
    let world = World::new();
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "t/will", QoS::AtMostOnce);
    let how = As {
        will: Some(("t/will", 0)),
        ..As::new("user:x")
    };
    let mut client = world.connect("x", &how);
    world
        .policy
        .limit(Some(|_, message| message.payload_at_most(0)));
    client.lose(&world);
    assert!(watcher.got(&world).is_empty());
    assert!(world.noted("its author may no longer publish"));
}

#[test]
fn a_subscription_gets_the_highest_qos_that_the_policy_allows() {
    let world = bounded();
    let mut reader = world.connect("b", &As::new("user:b"));
    assert_eq!(reader.subscribe(&world, "t", QoS::ExactlyOnce), 1);
    assert_eq!(reader.subscribe(&world, "u", QoS::AtMostOnce), 0);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t", SMALL, qos1(1));
    author.publish(&world, "t", SMALL, Delivery::AtMostOnce);
    assert_eq!(reader.payloads(&world), [SMALL, SMALL]);
}

/// A lower bound is a subscription without cover: kept, silent, and back with the bound.
#[test]
fn a_subscription_above_a_new_bound_is_suspended_and_resumes() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    assert_eq!(reader.subscribe(&world, "t", QoS::AtLeastOnce), 1);
    let mut author = world.connect("a", &As::new("user:a"));
    let once: Limit = |_, message| message.qos_at_most(QoS::AtMostOnce);
    world.policy.limit(Some(once));
    author.publish(&world, "t", "no", Delivery::AtMostOnce);
    assert!(reader.got(&world).is_empty());
    assert!(world.noted("suspended: true"));
    // What the bound allows can be had by asking for it.
    assert_eq!(reader.subscribe(&world, "t", QoS::AtLeastOnce), 0);
    author.publish(&world, "t", "yes", Delivery::AtMostOnce);
    assert_eq!(reader.payloads(&world), ["yes"]);
    world.policy.limit(None);
    author.publish(&world, "t", LARGE, Delivery::AtMostOnce);
    assert_eq!(reader.payloads(&world), [LARGE]);
}

/// MQTT sends a message that several subscriptions match once, at the highest of their `QoS`. What
/// is not allowed at that goes out at the next one, and says which subscriptions brought it.
#[test]
fn a_subscription_at_a_high_qos_withholds_nothing_that_one_at_a_low_qos_brings() {
    let world = World::new();
    world.policy.limit(Some(|action, message| {
        action == Action::Publish
            || message.payload_at_most(8)
            || message.qos_at_most(QoS::AtMostOnce)
    }));
    let mut reader = world.connect("b", &As::new("user:b"));
    let mut subscribe = |filter, qos, id| {
        let options = SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        reader.subscribe_with(&world, filter, options, Some(id))
    };
    subscribe("t/#", QoS::AtMostOnce, 1);
    subscribe("t/+", QoS::AtLeastOnce, 2);
    subscribe("t/x", QoS::ExactlyOnce, 3);
    let mut author = world.connect("a", &As::new("user:a"));
    let mut received = |payload, promise| {
        author.publish(&world, "t/x", payload, promise);
        let got = reader.got(&world).into_iter().map(|got| match got {
            Got::Message { qos, mut ids, .. } => {
                ids.sort_unstable();
                (qos, ids)
            }
            other => panic!("{other:?}"),
        });
        got.collect::<Vec<_>>()
    };
    let once = QoS::AtMostOnce;
    assert_eq!(
        received(SMALL, qos1(1)),
        [(QoS::AtLeastOnce, vec![1, 2, 3])]
    );
    assert_eq!(received(LARGE, qos1(2)), [(once, vec![1])]);
    assert_eq!(received(LARGE, qos2(3)), [(once, vec![1])]);
    assert_eq!(
        received(LARGE, Delivery::AtMostOnce),
        [(once, vec![1, 2, 3])]
    );
    let denied = || world.engine.metrics.deliveries_denied.value();
    assert_eq!(denied(), 0, "nothing was withheld");
    // One subscription alone is not served below the QoS that it was granted.
    reader.unsubscribe(&world, "t/#");
    assert!(matches!(reader.got(&world).as_slice(), [Got::UnsubAck(..)]));
    author.publish(&world, "t/x", LARGE, qos1(4));
    assert!(reader.got(&world).is_empty());
    assert_eq!(denied(), 1);
}
