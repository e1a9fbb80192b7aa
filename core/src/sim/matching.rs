//! The subscription tree against a naive reading of section 4.7, through a client that subscribes
//! and unsubscribes: which of its subscriptions a message came through, it is told.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Section 4.7.1 to 4.7.3, level by level.
fn reaches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => reaches(filter, topic),
        ([level, filter @ ..], [same, topic @ ..]) => level == same && reaches(filter, topic),
        _ => false,
    }
}

/// And 4.7.2: a leading wildcard does not reach what begins with `$`.
fn oracle(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<_>, Vec<_>) =
        (filter.split('/').collect(), topic.split('/').collect());
    let hidden = topic[0].starts_with('$') && ["+", "#"].contains(&filter[0]);
    !hidden && reaches(&filter, &topic)
}

fn levels(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(of), 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let below = levels(&["a", "b", "", "+", "+", "$x"]);
    let filter =
        (below, any::<bool>()).prop_map(|(text, all)| if all { text + "/#" } else { text });
    prop_oneof![9 => filter, 1 => Just("#".to_owned())]
        .prop_filter("not empty", |text| !text.is_empty())
}

fn topic() -> impl Strategy<Value = String> {
    levels(&["a", "b", "", "$x"]).prop_filter("not empty", |text| !text.is_empty())
}

/// Through which subscriptions a message to `topic` comes.
fn through(world: &World, reader: &mut Client, author: &mut Client, topic: &str) -> Vec<u32> {
    author.publish(world, topic, "x", Delivery::AtMostOnce);
    let mut got = reader.got(world);
    assert!(got.len() < 2, "one copy: {got:?}");
    match got.pop() {
        Some(Got::Message { mut ids, .. }) => {
            ids.sort_unstable();
            ids
        }
        None => Vec::new(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_message_comes_through_the_subscriptions_that_a_naive_reading_finds(
        filters in prop::collection::vec((filter(), any::<bool>()), 1..25),
        topics in prop::collection::vec(topic(), 1..12),
    ) {
        let world = World::new();
        world.policy.set(&[
            ("*", Some(Action::Publish), "#", true),
            ("*", Some(Action::Publish), "$x/#", true),
            ("*", Some(Action::Receive), "#", true),
        ]);
        let mut reader = world.connect("b", &As::new("user:b"));
        let mut author = world.connect("a", &As::new("user:a"));
        let mut standing = BTreeMap::new();
        for (id, (filter, _)) in (1..).zip(&filters) {
            reader.subscribe_with(&world, filter, SubscribeOptions::default(), Some(id));
            standing.insert(filter.as_str(), id);
        }
        let expected = |standing: &BTreeMap<&str, u32>, topic: &str| {
            let matching = standing.iter().filter(|(filter, _)| oracle(filter, topic));
            let mut ids: Vec<_> = matching.map(|(_, id)| *id).collect();
            ids.sort_unstable();
            ids
        };
        for topic in &topics {
            let ids = through(&world, &mut reader, &mut author, topic);
            prop_assert_eq!(ids, expected(&standing, topic), "{}", topic);
        }
        // Some go again; what was remembered for these topics no longer holds.
        for (filter, _) in filters.iter().filter(|(_, goes)| *goes) {
            reader.unsubscribe(&world, filter);
            standing.remove(filter.as_str());
        }
        reader.got(&world);
        for topic in &topics {
            let ids = through(&world, &mut reader, &mut author, topic);
            prop_assert_eq!(ids, expected(&standing, topic), "{}", topic);
        }
    }
}

/// A message on its way holds what was found for its topic, with the terms on which each subscription
/// was made. Whatever changes meanwhile counts.
#[test]
fn what_was_found_before_a_change_stands_as_it_does_after() {
    const ZERO: QoS = QoS::AtMostOnce;
    const ONE: QoS = QoS::AtLeastOnce;
    const TWO: QoS = QoS::ExactlyOnce;
    type Change = fn(&mut World, &mut Client);
    let changes: [(&str, Change, &[QoS]); 8] = [
        ("nothing", |_, _| {}, &[ZERO, ONE, TWO]),
        (
            "another QoS",
            |world, reader| {
                reader.subscribe(world, "t", ONE);
            },
            &[ONE, ONE, TWO],
        ),
        (
            "another QoS, so often that a count of changes would be back where it was",
            |world, reader| {
                for _ in 0..128 {
                    reader.subscribe(world, "t", ONE);
                    reader.subscribe(world, "t", TWO);
                }
            },
            &[ONE, TWO, TWO],
        ),
        (
            "unsubscribed",
            |world, reader| reader.unsubscribe(world, "+"),
            &[ZERO, TWO],
        ),
        (
            "one in the place of another",
            |world, reader| {
                reader.unsubscribe(world, "+");
                reader.got(world);
                reader.subscribe(world, "else", TWO);
            },
            &[ZERO, TWO],
        ),
        (
            "forbidden",
            |world, _| {
                world.policy.set(&[]);
                world.later(Duration::from_secs(1));
            },
            &[],
        ),
        (
            "allowed again",
            |world, _| {
                world.policy.set(&[]);
                world.later(Duration::from_secs(1));
                world.policy.allow_all();
                world.later(Duration::from_secs(1));
            },
            &[ZERO, ONE, TWO],
        ),
        ("gone", |world, reader| reader.disconnect(world), &[]),
    ];
    for (what, change, expected) in changes {
        let mut world = World::new();
        world.policy.allow_all();
        let mut reader = world.connect("b", &As::new("user:b"));
        let topic = TopicName::new("t", Settings::default().mqtt.topic).unwrap();
        for (filter, qos) in ["t", "+", "#"].iter().zip([ZERO, ONE, TWO]) {
            reader.subscribe(&world, filter, qos);
        }
        let before = world.engine.found(topic);
        change(&mut world, &mut reader);
        for (found, when) in [
            (before, "found before"),
            (world.engine.found(topic), "found after"),
        ] {
            let mut standing = Engine::standing(&found);
            standing.sort_unstable();
            assert_eq!(standing, expected, "{what}, {when}");
        }
    }
}
