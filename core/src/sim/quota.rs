//! What may wait for all sessions of one principal together, and who feels it when it is full.

use super::*;

/// A world in which one principal may have so many messages wait, in ten at most for each session.
fn bounded(together: usize, change: impl FnOnce(&mut Settings)) -> World {
    let mut settings = Settings::default();
    settings.limits.queue_messages = 10;
    settings.limits.queue_messages_per_principal = together;
    change(&mut settings);
    World::with(settings)
}

/// A session of `user:b` that gets what is published to its name, and is away.
fn away(world: &World, id: &str) {
    let mut reader = world.connect(id, &As::persistent("user:b"));
    reader.subscribe(world, id, QoS::AtLeastOnce);
    reader.lose(world);
}

/// One that is there and takes one message at a time.
fn slow(world: &World, id: &str) -> Client {
    let how = As {
        receive_maximum: Some(1),
        ..As::persistent("user:b")
    };
    let mut reader = world.connect(id, &how);
    reader.subscribe(world, id, QoS::AtLeastOnce);
    reader
}

/// Publishes these; all are acknowledged.
fn fill(world: &World, author: &mut Client, topic: &str, payloads: std::ops::Range<u16>) {
    for number in payloads {
        author.publish(world, topic, &number.to_string(), qos1(1));
        assert_eq!(author.got(world), [Got::PubAck(1, ReasonCode::Success)]);
    }
}

fn comes_back(world: &World, id: &str) -> Vec<String> {
    let mut reader = world.connect(id, &As::persistent("user:b"));
    assert!(reader.session_present);
    let all = reader.payloads(world);
    reader.lose(world);
    all
}

/// What waits for each principal, counted and looked up.
fn waiting(world: &World) -> Vec<(String, usize)> {
    let counts = world.engine.counts().into_iter().map(|count| {
        assert_eq!(count.counted, count.there, "{:?}", count.principal);
        (count.principal.as_str().to_owned(), count.counted.0)
    });
    let mut counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
    counts.sort();
    counts
}

#[test]
pub(super) fn the_queues_of_a_principal_are_full_together_and_who_gets_more_loses_its_oldest() {
    let world = bounded(4, |_| ());
    away(&world, "one");
    away(&world, "two");
    let mut author = world.connect("a", &As::new("user:a"));
    fill(&world, &mut author, "one", 1..4);
    assert!(!world.noted("QueueDropped"));
    fill(&world, &mut author, "two", 4..7);
    assert_eq!(waiting(&world), [("user:b".to_owned(), 4)]);
    assert!(world.noted("QueueDropped { client_id: \"two\", owner: \"user:b\", count: 1 }"));
    let metrics = &world.engine.metrics;
    assert_eq!(metrics.dropped_offline.value(), 2);
    assert_eq!(metrics.queue_over_quota.value(), 2);
    assert_eq!(comes_back(&world, "one"), ["1", "2", "3"], "not touched");
    assert_eq!(comes_back(&world, "two"), ["6"]);
    // And now there is room again.
    fill(&world, &mut author, "two", 7..11);
    assert_eq!(comes_back(&world, "two"), ["7", "8", "9", "10"]);
    assert_eq!(metrics.dropped_offline.value(), 2);
}

#[test]
pub(super) fn they_are_bounded_in_bytes_too() {
    // Topic, payload, and what keeping a message costs.
    let weight = 3 + 100 + 64;
    let world = bounded(100, |settings| {
        settings.limits.queue_bytes_per_principal = 3 * weight;
    });
    away(&world, "one");
    away(&world, "two");
    let mut author = world.connect("a", &As::new("user:a"));
    for (id, topic, payload) in [
        (1, "one", "a"),
        (2, "two", "b"),
        (3, "one", "c"),
        (4, "two", "d"),
    ] {
        author.publish(&world, topic, &payload.repeat(100), qos1(id));
    }
    assert_eq!(author.got(&world).len(), 4);
    assert_eq!(world.engine.metrics.queue_over_quota.value(), 1);
    let mut reader = slow(&world, "own");
    for id in 1..3 {
        author.publish(&world, "own", &"e".repeat(100), qos1(id));
    }
    assert_eq!(author.got(&world).len(), 1, "one is on its way");
    assert_eq!(reader.payloads(&world).len(), 2);
    assert_eq!(author.got(&world).len(), 1);
    assert_eq!(
        comes_back(&world, "one"),
        ["a".repeat(100), "c".repeat(100)]
    );
    assert_eq!(comes_back(&world, "two"), ["d".repeat(100)]);
}

#[test]
pub(super) fn every_session_has_its_equal_part_whatever_the_others_hold() {
    // Two messages for each of three sessions, by number or by weight: topic, payload, and what
    // keeping a message costs.
    let in_bytes = 6 * (5 + 1 + 64);
    for (messages, bytes) in [(6, 1 << 20), (100, in_bytes)] {
        equal_parts(messages, bytes);
    }
}

fn equal_parts(messages: usize, bytes: usize) {
    let world = bounded(messages, |settings| {
        settings.limits.sessions_per_principal = 3;
        settings.limits.queue_bytes_per_principal = bytes;
    });
    let mut author = world.connect("a", &As::new("user:a"));
    for id in ["q/one", "q/two"] {
        away(&world, id);
        fill(&world, &mut author, id, 1..8);
    }
    // One on its way, two within its part, the others wait; and then it goes.
    let mut reader = slow(&world, "q/six");
    fill(&world, &mut author, "q/six", 1..4);
    author.publish(&world, "q/six", "4", qos1(1));
    author.publish(&world, "q/six", "5", qos1(2));
    assert_eq!(author.got(&world), []);
    assert_eq!(waiting(&world), [("user:b".to_owned(), 6 + 2 + 2)]);
    reader.lose(&world);
    assert_eq!(author.got(&world).len(), 2);
    assert_eq!(waiting(&world), [("user:b".to_owned(), 6 + 2 + 2)]);
    assert_eq!(comes_back(&world, "q/six"), ["1", "4", "5"]);
    assert_eq!(comes_back(&world, "q/two"), ["6", "7"]);
    assert_eq!(comes_back(&world, "q/one"), ["2", "3", "4", "5", "6", "7"]);
}

/// Ten full queues, as the defaults have room for, and publishers that are held back.
#[test]
pub(super) fn a_principal_with_few_sessions_has_as_much_in_each_as_if_it_were_alone() {
    let world = bounded(100, |_| ());
    let ids: Vec<String> = (0..9).map(|n| format!("away-{n}")).collect();
    let mut author = world.connect("a", &As::new("user:a"));
    for id in &ids {
        away(&world, id);
        fill(&world, &mut author, id, 0..10);
    }
    let mut reader = slow(&world, "slow");
    // One on its way, ten that wait, and five that wait for that.
    fill(&world, &mut author, "slow", 0..11);
    for id in 2..7 {
        author.publish(&world, "slow", "held", qos1(id));
    }
    assert_eq!(author.got(&world), []);
    let mut other = world.connect("o", &As::new("user:o"));
    for id in &ids {
        fill(&world, &mut other, id, 10..11);
    }
    let metrics = &world.engine.metrics;
    assert_eq!(metrics.queue_over_quota.value(), 0);
    for id in &ids {
        let last: Vec<String> = (1..11).map(|n| n.to_string()).collect();
        assert_eq!(comes_back(&world, id), last, "its own bound");
    }
    assert_eq!(reader.payloads(&world).len(), 16);
    assert_eq!(author.got(&world).len(), 5);
}

#[test]
pub(super) fn rule_13_a_receiver_whose_principal_is_full_slows_its_publishers_and_loses_nothing() {
    let world = bounded(2, |_| ());
    away(&world, "hoard");
    let mut author = world.connect("a", &As::new("user:a"));
    fill(&world, &mut author, "hoard", 0..2);
    let mut reader = slow(&world, "slow");
    for id in 1..5 {
        author.publish(&world, "slow", &id.to_string(), qos1(id));
    }
    author.publish(&world, "slow", "never", Delivery::AtMostOnce);
    assert_eq!(
        author.got(&world),
        [Got::PubAck(1, ReasonCode::Success)],
        "one is on its way"
    );
    let metrics = &world.engine.metrics;
    assert_eq!(metrics.dropped_qos0.value(), 1);
    assert_eq!(metrics.queue_over_quota.value(), 4);
    assert_eq!(waiting(&world), [("user:b".to_owned(), 2)], "theirs");
    // Each that goes out is acknowledged, and no other.
    assert_eq!(reader.got(&world).len(), 1);
    for id in 1..4 {
        reader.send(&world, &[puback(id)]);
        assert_eq!(reader.got(&world).len(), 1);
        let next = Got::PubAck(id + 1, ReasonCode::Success);
        assert_eq!(author.got(&world), [next]);
    }
    assert_eq!(metrics.dropped_offline.value(), 0);
    assert_eq!(comes_back(&world, "hoard"), ["0", "1"]);
}

#[test]
pub(super) fn rule_13_who_is_held_back_goes_on_when_another_session_has_made_room() {
    let world = bounded(3, |_| ());
    away(&world, "hoard");
    let mut author = world.connect("a", &As::new("user:a"));
    fill(&world, &mut author, "hoard", 0..3);
    let mut reader = slow(&world, "slow");
    for id in 1..4 {
        author.publish(&world, "slow", &id.to_string(), qos1(id));
    }
    assert_eq!(author.got(&world).len(), 1);
    assert_eq!(comes_back(&world, "hoard").len(), 3);
    let mut other = world.connect("o", &As::new("user:o"));
    other.publish(&world, "slow", "4", qos1(1));
    other.publish(&world, "slow", "5", qos1(2));
    assert_eq!(author.got(&world).len(), 2);
    assert_eq!(other.got(&world).len(), 1);
    assert_eq!(waiting(&world), [("user:b".to_owned(), 3)]);
    assert_eq!(reader.payloads(&world), ["1", "2", "3", "4", "5"]);
    assert_eq!(other.got(&world).len(), 1);
}

#[test]
pub(super) fn rule_13_without_progress_it_is_ended_and_what_it_held_up_goes_on_at_its_own_cost() {
    let mut world = bounded(4, |_| ());
    let mut author = world.connect("a", &As::new("user:a"));
    let mut reader = slow(&world, "slow");
    fill(&world, &mut author, "slow", 0..3);
    away(&world, "hoard");
    fill(&world, &mut author, "hoard", 0..2);
    for id in 3..5 {
        author.publish(&world, "slow", &id.to_string(), qos1(id));
    }
    assert_eq!(author.got(&world).len(), 0);
    assert_eq!(reader.got(&world).len(), 1, "reads, does not acknowledge");
    world.later(Duration::from_secs(6));
    let connection = reader.connection.as_mut().unwrap();
    let end = connection.check_time(world.now).unwrap_err();
    reader.ended(&world, end);
    assert_eq!(author.got(&world).len(), 2);
    assert_eq!(waiting(&world), [("user:b".to_owned(), 4)]);
    assert_eq!(world.engine.metrics.dropped_offline.value(), 2);
    assert_eq!(comes_back(&world, "hoard"), ["0", "1"]);
    assert_eq!(comes_back(&world, "slow"), ["0", "3", "4"]);
}

#[test]
pub(super) fn what_waited_counts_no_longer_when_it_is_sent_or_its_session_ends_or_begins_anew() {
    let mut world = bounded(100, |_| ());
    let mut author = world.connect("a", &As::new("user:a"));
    let expect = |world: &World, count: usize| {
        let all: usize = waiting(world).iter().map(|(_, count)| count).sum();
        assert_eq!(all, count);
    };
    let ids = ["sent", "cleared", "ended", "dropped", "expired"];
    for id in ids {
        away(&world, id);
        fill(&world, &mut author, id, 0..2);
    }
    expect(&world, 10);
    comes_back(&world, "sent");
    expect(&world, 8);
    let clean = As {
        clean: true,
        ..As::persistent("user:b")
    };
    world.connect("cleared", &clean).lose(&world);
    expect(&world, 6);
    let ends = As {
        expiry: 0,
        receive_maximum: Some(1),
        ..As::persistent("user:b")
    };
    let mut reader = world.connect("ended", &ends);
    assert_eq!(reader.got(&world).len(), 1);
    expect(&world, 5);
    reader.lose(&world);
    expect(&world, 4);
    assert!(world.engine.drop_session("dropped", world.now));
    expect(&world, 2);
    world.later(Duration::from_secs(3601));
    expect(&world, 0);
    author.lose(&world);
    assert!(world.engine.counts().is_empty(), "nobody is left");
}

/// A page of a walk waits in the queue; it does not count while its client is there.
#[test]
pub(super) fn a_walk_over_retained_messages_takes_no_room_from_other_sessions() {
    let world = bounded(4, |_| ());
    let mut author = world.connect("a", &As::new("user:a"));
    for number in 0..8 {
        author.send(
            &world,
            &[publish(&format!("r/{number}"), "x", qos1(1), true)],
        );
        author.got(&world);
    }
    let mut reader = slow(&world, "slow");
    reader.subscribe(&world, "r/#", QoS::AtLeastOnce);
    assert_eq!(waiting(&world), []);
    away(&world, "other");
    fill(&world, &mut author, "other", 0..4);
    assert_eq!(waiting(&world), [("user:b".to_owned(), 4)]);
    reader.lose(&world);
    assert_eq!(waiting(&world), [("user:b".to_owned(), 4)]);
    assert_eq!(comes_back(&world, "other"), ["0", "1", "2", "3"]);
}

/// A device that was taken over has as many sessions as it may have, and fills them.
#[test]
pub(super) fn a_principal_with_many_sessions_cannot_have_others_messages_refused_or_lost() {
    const SESSIONS: usize = 200;
    let mut settings = Settings::default();
    settings.limits.memory = 32 << 20;
    settings.limits.queue_bytes = 1 << 20;
    settings.limits.queue_bytes_per_principal = 8 << 20;
    settings.limits.sessions_per_principal = SESSIONS;
    let world = World::with(settings);
    let victim = As::persistent("user:v");
    let mut reader = world.connect("v", &victim);
    reader.subscribe(&world, "v", QoS::AtLeastOnce);
    reader.lose(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "v", "before", qos1(1));
    let names: Vec<String> = (0..SESSIONS).map(|n| format!("m/{n}")).collect();
    let mut attacker = world.connect("m", &As::new("user:m"));
    let large = "x".repeat(60_000);
    for name in &names[1..] {
        let mut session = world.connect(name, &As::persistent("user:m"));
        session.subscribe(&world, name, QoS::AtLeastOnce);
        session.lose(&world);
        for id in 1..9 {
            attacker.publish(&world, name, &large, qos1(id));
        }
        assert_eq!(attacker.got(&world).len(), 8);
        // The process has what waits, and nothing else.
        let used = world.engine.metrics.queued_bytes.value();
        world.memory.store(used, Ordering::Relaxed);
        world.engine.budget.read();
        assert!(used <= 2 * (8 << 20), "{used}");
    }
    author.publish(&world, "v", "after", qos1(2));
    let taken = |id| Got::PubAck(id, ReasonCode::Success);
    assert_eq!(author.got(&world), [taken(1), taken(2)]);
    let mut reader = world.connect("v", &victim);
    assert_eq!(reader.payloads(&world), ["before", "after"]);
    assert_eq!(world.engine.metrics.memory_messages_refused.value(), 0);
    assert!(!world.noted("QueueDropped { client_id: \"v\""));
    waiting(&world);
}
