//! Memory that is short: what is refused at each level, what goes on, and how it ends.

use std::io;
use std::sync::atomic::AtomicBool;
use std::task::Wake;

use super::*;
use crate::budget::{LARGE, Memory};
use crate::clock::Calendar;
use crate::engine::Watch;
use crate::sys::Sys;

const PRESSED: u64 = 75;
const FULL: u64 = 85;
const SPENT: u64 = 90;

/// Of the budget of these worlds.
const PERCENT: u64 = 1 << 20;

fn bounded() -> World {
    let mut settings = Settings::default();
    settings.limits.memory = 100 * PERCENT;
    World::over(settings, false)
}

impl World {
    /// So much of the budget is in use now.
    fn uses(&self, percent: u64) {
        self.memory.store(percent * PERCENT, Ordering::Relaxed);
        self.engine.budget.read();
    }
}

/// A session with a subscription to `t` whose client is away.
fn away(world: &World, id: &str) -> As {
    let how = As::persistent("user:b");
    let mut reader = world.connect(id, &how);
    reader.subscribe(world, "t", QoS::AtLeastOnce);
    reader.lose(world);
    how
}

#[test]
fn pressed_a_newcomer_is_refused_and_who_comes_back_is_let_in() {
    let world = bounded();
    let how = away(&world, "b");
    let mut author = world.connect("a", &As::new("user:a"));
    world.uses(PRESSED - 1);
    world.connect("c", &As::new("user:c")).disconnect(&world);
    world.uses(PRESSED);
    let refused = |id, how: &As| world.try_connect(id, how).err();
    for stranger in [As::new("user:c"), As::persistent("user:c")] {
        assert_eq!(refused("c", &stranger), Some(NotAttached::NoMemory));
    }
    assert_eq!(world.engine.metrics.memory_clients_shed.value(), 2);
    // Whose session it is still comes first.
    let owner = Principal::vouched("user", "b").unwrap();
    assert_eq!(
        refused("b", &As::new("user:c")),
        Some(NotAttached::SomebodyElses(owner))
    );
    author.publish(&world, "t", "kept", qos1(1));
    assert_eq!(author.got(&world), [Got::PubAck(1, ReasonCode::Success)]);
    let mut reader = world.connect("b", &how);
    assert_eq!(reader.payloads(&world), ["kept"]);
    assert_eq!(reader.subscribe(&world, "u", QoS::AtLeastOnce), 1);
    // Its own connection, taken over.
    world.connect("a", &As::new("user:a"));
    let local = As {
        local: true,
        ..As::new("user:d")
    };
    world.connect("d", &local);
    world.uses(PRESSED - 6);
    world.connect("c", &As::new("user:c"));
}

#[test]
fn full_who_comes_back_may_bring_no_more_than_a_small_will() {
    let world = bounded();
    let how = away(&world, "b");
    world.uses(FULL);
    let large: &'static str = Box::leak("w".repeat(2000).into_boxed_str());
    let with = |topic| As {
        will: Some((topic, 0)),
        ..how.clone()
    };
    let refused = world.try_connect("b", &with(large)).err();
    assert_eq!(refused, Some(NotAttached::NoMemory));
    let stranger = world.try_connect("c", &As::new("user:c")).err();
    assert_eq!(stranger, Some(NotAttached::NoMemory));
    let mut reader = world.connect("b", &with("w"));
    assert!(reader.session_present, "nothing was touched before");
    reader.disconnect(&world);
    world.uses(PRESSED);
    world.connect("b", &with(large));
}

#[test]
fn full_what_would_have_to_be_kept_is_refused_and_the_rest_is_served() {
    let world = bounded();
    let how = away(&world, "b");
    let mut author = world.connect("a", &As::new("user:a"));
    let mut there = world.connect("c", &As::persistent("user:c"));
    there.subscribe(&world, "u", QoS::ExactlyOnce);
    author.publish(&world, "t", "before", qos1(1));
    world.uses(FULL);
    author.publish(&world, "t", "refused", qos1(2));
    author.publish(&world, "u", "once", qos1(3));
    author.publish(&world, "u", "twice", qos2(4));
    let codes = [
        Got::PubAck(1, ReasonCode::Success),
        Got::PubAck(2, ReasonCode::QuotaExceeded),
        Got::PubAck(3, ReasonCode::Success),
        Got::PubRec(4, ReasonCode::Success),
    ];
    assert_eq!(author.got(&world), codes);
    assert_eq!(there.payloads(&world), ["once", "twice"]);
    assert_eq!(world.engine.metrics.memory_messages_refused.value(), 1);
    assert_eq!(there.subscribe(&world, "u", QoS::AtLeastOnce), 1, "known");
    assert_eq!(there.subscribe(&world, "v", QoS::AtLeastOnce), 0x97);
    assert_eq!(
        world.engine.metrics.subscribes_denied.value(),
        0,
        "no policy"
    );
    there.unsubscribe(&world, "u");
    let mut reader = world.connect("b", &how);
    assert_eq!(reader.payloads(&world), ["before"]);
    reader.send(&world, &[puback(1)]);
    reader.lose(&world);
    world.uses(FULL - 6);
    author.publish(&world, "t", "after", qos1(5));
    assert_eq!(author.got(&world), [Got::PubAck(5, ReasonCode::Success)]);
    assert_eq!(world.connect("b", &how).payloads(&world), ["after"]);
}

#[test]
fn full_a_retained_message_may_be_replaced_by_one_that_is_no_larger() {
    let world = bounded();
    let mut author = world.connect("a", &As::new("user:a"));
    let mut retain = |id, topic, payload| {
        author.send(&world, &[publish(topic, payload, qos1(id), true)]);
        match author.got(&world).as_slice() {
            [Got::PubAck(_, code)] => *code,
            other => panic!("{other:?}"),
        }
    };
    let taken = ReasonCode::NoMatchingSubscribers;
    assert_eq!(retain(1, "r", "12345678"), taken);
    world.uses(FULL);
    assert_eq!(retain(2, "s", "1"), ReasonCode::QuotaExceeded);
    assert_eq!(retain(3, "r", "123456789"), ReasonCode::QuotaExceeded);
    assert_eq!(retain(4, "r", "87654321"), taken);
    assert_eq!(world.engine.metrics.memory_retained_refused.value(), 2);
    // What the broker says of itself is told at all times.
    world.policy.set(&[
        ("*", Some(Action::Publish), "$SYS/#", true),
        ("*", Some(Action::Retain), "$SYS/#", true),
        ("*", Some(Action::Publish), "#", true),
        ("*", Some(Action::Retain), "#", true),
        ("*", Some(Action::Receive), "#", true),
        ("*", Some(Action::Receive), "$SYS/broker/memory/level", true),
    ]);
    let author = Subject::system("sys", &world.engine.modules);
    Sys::new(author, world.now).tend(&world.engine, world.now);
    assert_eq!(world.engine.metrics.memory_retained_refused.value(), 2);
    world.uses(PRESSED);
    let mut reader = world.connect("a", &As::new("user:a"));
    reader.subscribe(&world, "#", QoS::AtMostOnce);
    reader.subscribe(&world, "$SYS/broker/memory/level", QoS::AtMostOnce);
    assert_eq!(reader.payloads(&world), ["87654321", "2"]);
}

#[test]
fn full_a_will_that_fires_is_kept_for_who_is_away() {
    let world = bounded();
    let how = away(&world, "b");
    let with_will = As {
        will: Some(("t", 0)),
        ..As::new("user:a")
    };
    let mut author = world.connect("a", &with_will);
    world.uses(FULL);
    author.lose(&world);
    assert_eq!(world.connect("b", &how).payloads(&world), ["will"]);
}

/// A reader of `t` that takes one message at a time.
fn slow(world: &World) -> Client {
    let mut reader = world.connect(
        "slow",
        &As {
            receive_maximum: Some(1),
            ..As::new("user:s")
        },
    );
    reader.subscribe(world, "t", QoS::AtLeastOnce);
    reader
}

#[test]
fn full_a_receiver_that_lags_holds_its_publishers_early_and_loses_nothing() {
    let world = bounded();
    let mut reader = slow(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    world.uses(FULL);
    let messages: Vec<String> = (0..4)
        .map(|n| n.to_string().repeat(LARGE / 2 - 200))
        .collect();
    for (id, message) in (1..).zip(&messages) {
        author.publish(&world, "t", message, qos1(id));
    }
    let acknowledged = |got: &[Got]| got.len();
    // One is on its way, two wait within the bound, the fourth holds its publisher.
    assert_eq!(acknowledged(&author.got(&world)), 3);
    author.publish(&world, "t", "never queued", Delivery::AtMostOnce);
    assert_eq!(world.engine.metrics.memory_dropped_qos0.value(), 1);
    assert_eq!(reader.payloads(&world), messages);
    assert_eq!(acknowledged(&author.got(&world)), 1);
}

#[test]
fn full_who_reads_nothing_is_a_burden_with_all_that_waits_for_it() {
    let world = bounded();
    let mut reader = world.connect("slow", &As::new("user:s"));
    reader.subscribe(&world, "t", QoS::AtMostOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    let is_burden = |reader: &Client, unsent| {
        let connection = reader.connection.as_ref().unwrap();
        connection.is_burden(unsent)
    };
    author.publish(&world, "t", &"x".repeat(LARGE), Delivery::AtMostOnce);
    assert!(!is_burden(&reader, 1), "memory is not short");
    world.uses(FULL);
    assert!(is_burden(&reader, 1));
    assert!(!is_burden(&reader, 0), "its socket takes all there is");
    assert_eq!(reader.payloads(&world).len(), 1);
    assert!(!is_burden(&reader, 1));
}

#[test]
fn spent_nothing_is_queued_and_nothing_large_is_begun() {
    let world = bounded();
    let mut lagging = slow(&world);
    let mut prompt = world.connect("p", &As::new("user:p"));
    prompt.subscribe(&world, "u", QoS::AtLeastOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    let large = "x".repeat(LARGE);
    author.publish(&world, "t", "1", qos1(1));
    author.publish(&world, "t", &large, qos1(2));
    assert_eq!(author.got(&world).len(), 2);
    assert_eq!(lagging.got(&world).len(), 1);
    world.uses(SPENT);
    author.publish(&world, "t", "waits", qos1(3));
    author.publish(&world, "u", &large, qos1(4));
    author.publish(&world, "u", &large, Delivery::AtMostOnce);
    author.publish(&world, "u", "small", qos1(5));
    let codes = [
        Got::PubAck(3, ReasonCode::QuotaExceeded),
        Got::PubAck(4, ReasonCode::QuotaExceeded),
        Got::PubAck(5, ReasonCode::Success),
    ];
    assert_eq!(author.got(&world), codes);
    assert_eq!(prompt.payloads(&world), ["small"]);
    // What was taken waits until there is memory for it.
    lagging.send(&world, &[puback(1)]);
    assert!(lagging.got(&world).is_empty());
    world.uses(FULL);
    assert_eq!(lagging.payloads(&world), [large]);
}

/// One that subscribes to `t`, and what becomes of messages to it: sent while so much of the budget
/// is in use.
fn exchange(world: &World) -> (Client, impl FnMut(u64, &str) -> ReasonCode) {
    let mut reader = world.connect("r", &As::new("user:r"));
    reader.subscribe(world, "t", QoS::AtLeastOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    let send = move |percent, text: &str| {
        world.uses(percent);
        author.publish(world, "t", text, qos1(1));
        match author.got(world).as_slice() {
            [Got::PubAck(1, code)] => *code,
            other => panic!("{other:?}"),
        }
    };
    (reader, send)
}

#[test]
fn spent_what_its_client_takes_nothing_of_is_not_added_to() {
    let world = bounded();
    let (mut reader, mut send) = exchange(&world);
    reader.connection.as_mut().unwrap().block().unwrap();
    assert_eq!(send(FULL, "1"), ReasonCode::Success);
    assert_eq!(send(SPENT, "2"), ReasonCode::QuotaExceeded);
    assert_eq!(reader.payloads(&world), ["1"]);
    assert_eq!(send(SPENT, "3"), ReasonCode::Success, "it reads again");
    assert_eq!(reader.payloads(&world), ["3"]);
}

#[test]
fn spent_little_waits_for_a_socket() {
    let world = bounded();
    let (mut reader, mut send) = exchange(&world);
    let text = "x".repeat(1000);
    let taken = (0..100).take_while(|_| send(SPENT, &text) == ReasonCode::Success);
    let taken = taken.count();
    assert!((8..10).contains(&taken), "{taken} KiB");
    assert_eq!(reader.payloads(&world).len(), taken);
    assert_eq!(send(SPENT, &text), ReasonCode::Success);
}

#[test]
fn nearly_at_the_end_of_the_budget_only_small_messages_are_sent_on() {
    let world = bounded();
    let (mut reader, mut send) = exchange(&world);
    let medium = "x".repeat(20 << 10);
    for (percent, text, code) in [
        (96, medium.as_str(), ReasonCode::Success),
        (97, medium.as_str(), ReasonCode::QuotaExceeded),
        (97, "small", ReasonCode::Success),
        (99, "small", ReasonCode::Success),
    ] {
        assert_eq!(send(percent, text), code, "{percent}");
        let taken = reader.payloads(&world).len();
        assert_eq!(taken, usize::from(code == ReasonCode::Success));
    }
}

/// Hundreds of receivers of one message, before anybody looks how much memory there is.
#[test]
fn what_many_are_sent_between_two_readings_is_counted() {
    let world = bounded();
    let mut crowd: Vec<_> = (0..200)
        .map(|n| {
            let mut reader = world.connect(&n.to_string(), &As::new("user:r"));
            reader.subscribe(&world, "t", QoS::AtMostOnce);
            reader
        })
        .collect();
    let mut author = world.connect("a", &As::new("user:a"));
    world.uses(96);
    let text = "x".repeat(20 << 10);
    author.publish(&world, "t", &text, Delivery::AtMostOnce);
    let taken: usize = crowd.iter_mut().map(|r| r.payloads(&world).len()).sum();
    assert!(taken > 0 && taken < crowd.len(), "{taken}");
}

#[test]
fn spent_a_large_packet_is_not_waited_for() {
    let world = bounded();
    let mut client = world.connect("a", &As::new("user:a"));
    let connection = client.connection.as_mut().unwrap();
    world.uses(FULL);
    assert_eq!(connection.grew(1000, LARGE), Ok(()));
    assert!(connection.is_burden(LARGE) && !connection.is_burden(LARGE - 1));
    world.uses(SPENT);
    assert_eq!(connection.grew(1000, LARGE - 1), Ok(()));
    let end = connection.grew(1000, LARGE);
    assert!(
        matches!(&end, Err(End::Server(close)) if close.code == ReasonCode::QuotaExceeded),
        "{end:?}"
    );
    world.uses(PRESSED);
    assert!(!connection.is_burden(usize::MAX));
}

/// One burst in one interval: the timer has not looked yet.
#[test]
fn a_burst_between_two_readings_is_noticed_by_what_it_keeps() {
    let world = bounded();
    away(&world, "b");
    let mut author = world.connect("a", &As::new("user:a"));
    let message = "x".repeat(1 << 16);
    // What was read last is long past.
    world.memory.store(FULL * PERCENT, Ordering::Relaxed);
    let mut taken = 0;
    for id in 1..100 {
        author.publish(&world, "t", &message, qos1(id));
        match author.got(&world).as_slice() {
            [Got::PubAck(_, ReasonCode::Success)] => taken += 1,
            [Got::PubAck(_, ReasonCode::QuotaExceeded)] => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(taken * message.len() <= 100 << 20 >> 6, "{taken}");
    assert!(taken > 0, "a reading for each message would cost too much");
}

#[test]
fn pressed_the_idle_are_ended_the_longest_first_and_no_more_than_a_hundred_a_second() {
    let mut world = bounded();
    let minutes = |n| Duration::from_mins(n);
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "will", QoS::AtMostOnce);
    let with_will = As {
        will: Some(("will", 0)),
        ..As::new("user:i")
    };
    let mut first: Vec<_> = (0..40)
        .map(|n| world.connect(&format!("first-{n}"), &with_will))
        .collect();
    world.later(minutes(1));
    let mut crowd: Vec<_> = (0..100)
        .map(|n| world.connect(&n.to_string(), &As::new("user:i")))
        .collect();
    let mut busy = world.connect("busy", &As::new("user:i"));
    let mut local = world.connect(
        "local",
        &As {
            local: true,
            ..As::new("user:i")
        },
    );
    world.later(minutes(4));
    busy.publish(&world, "x", "", Delivery::AtMostOnce);
    assert!(busy.got(&world).is_empty());
    world.later(minutes(6));
    let ended = |client: &mut Client, world: &World| {
        client.got(world) == [Got::Bye(ReasonCode::ServerBusy)]
    };
    assert!(!ended(&mut first[0], &world), "idle is nothing bad as such");
    world.uses(PRESSED);
    world.later(Duration::from_millis(1));
    assert!(first.iter_mut().all(|client| ended(client, &world)));
    assert_eq!(watcher.payloads(&world).len(), first.len(), "their wills");
    let left = crowd.len();
    crowd.retain_mut(|client| !ended(client, &world));
    assert_eq!(left - crowd.len(), 60);
    world.later(Duration::from_millis(200));
    assert!(!ended(&mut crowd[0], &world), "bounded in a second");
    world.later(Duration::from_millis(800));
    assert!(crowd.iter_mut().all(|client| ended(client, &world)));
    assert_eq!(world.engine.metrics.memory_evicted.value(), 140);
    for client in [&mut watcher, &mut busy, &mut local] {
        assert!(client.got(&world).is_empty());
        assert!(client.connection.is_some());
    }
    world.later(minutes(4));
    assert!(ended(&mut busy, &world));
}

#[derive(Default)]
struct Called(AtomicBool);

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// However little it took last, and though nothing is queued for it: only so does it see that memory
/// is short and that it must end.
#[test]
fn who_reads_nothing_is_called_while_memory_is_short() {
    let mut world = bounded();
    let mut reader = world.connect("r", &As::new("user:r"));
    let called = Arc::new(Called::default());
    let waker = Waker::from(Arc::clone(&called));
    let connection = reader.connection.as_mut().unwrap();
    connection
        .take_output(&mut Vec::new(), &waker, world.now)
        .unwrap();
    for (blocked, expected) in [(false, false), (true, true)] {
        if blocked {
            let connection = reader.connection.as_mut().unwrap();
            connection.block().unwrap();
        }
        world.uses(FULL);
        world.later(Duration::from_secs(1));
        assert_eq!(called.0.swap(false, Ordering::Relaxed), expected);
    }
}

#[test]
fn who_waits_for_memory_is_called_when_it_is_there_again() {
    let mut world = bounded();
    let mut reader = slow(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t", "1", qos1(1));
    author.publish(&world, "t", &"x".repeat(LARGE), qos1(2));
    world.uses(SPENT);
    assert_eq!(reader.got(&world).len(), 1);
    reader.send(&world, &[puback(1)]);
    let called = Arc::new(Called::default());
    let connection = reader.connection.as_mut().unwrap();
    let waker = Waker::from(Arc::clone(&called));
    let mut out = Vec::new();
    connection.take_output(&mut out, &waker, world.now).unwrap();
    assert!(out.is_empty());
    let was_called = |world: &mut World| {
        world.later(Duration::from_secs(1));
        called.0.swap(false, Ordering::Relaxed)
    };
    assert!(was_called(&mut world));
    world.uses(0);
    assert!(was_called(&mut world), "once more when it is over");
    assert!(!was_called(&mut world));
}

#[test]
fn each_level_is_told_when_it_is_entered_and_left() {
    let world = bounded();
    let calendar = Calendar::new();
    let mut watch = Watch::default();
    let mut told = |percent| {
        world.uses(percent);
        world.notes.0.lock().clear();
        watch.look(&world.engine, &calendar, world.now);
        world.notes.0.lock().concat()
    };
    assert_eq!(told(PRESSED - 1), "");
    assert!(told(PRESSED).contains("75 MiB of limits.memory = 100 MiB in use: pressed"));
    assert_eq!(told(PRESSED + 1), "", "once");
    assert!(told(FULL).contains("full: "));
    assert!(told(SPENT).contains("spent: "));
    assert!(told(FULL).contains("full: "));
    assert!(told(0).contains("everybody is let in"));
    assert_eq!(told(0), "");
}

/// Fails when it is told to.
struct Broken(AtomicBool);

impl Memory for Broken {
    fn resident(&self) -> io::Result<u64> {
        if self.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("no such file"));
        }
        Ok(0)
    }
}

#[test]
fn while_memory_cannot_be_read_nobody_new_is_let_in_and_it_is_told() {
    let broken = Arc::new(Broken(AtomicBool::new(false)));
    let world = World::new();
    let engine = Engine::new(
        Arc::clone(&world.engine.modules),
        Arc::clone(&world.engine.settings),
        Arc::new(Native::new(
            Arc::clone(&world.engine.settings),
            Arc::clone(&world.engine.metrics),
        )),
        None,
        Arc::clone(&broken) as _,
    );
    let mut world = World {
        engine: Arc::new(engine),
        ..world
    };
    let (calendar, mut watch) = (Calendar::new(), Watch::default());
    let mut author = world.connect("a", &As::new("user:a"));
    broken.0.store(true, Ordering::Relaxed);
    world.later(Duration::from_millis(200));
    watch.look(&world.engine, &calendar, world.now);
    assert!(world.noted("cannot be read (no such file)"));
    let refused = world.try_connect("b", &As::new("user:b")).err();
    assert_eq!(refused, Some(NotAttached::NoMemory));
    author.publish(&world, "t", "served", qos1(1));
    assert_eq!(
        author.got(&world),
        [Got::PubAck(1, ReasonCode::NoMatchingSubscribers)]
    );
    assert_eq!(world.engine.metrics.memory_unread.value(), 1);
    broken.0.store(false, Ordering::Relaxed);
    world.later(Duration::from_millis(200));
    watch.look(&world.engine, &calendar, world.now);
    assert!(world.noted("can be read again"));
    world.connect("b", &As::new("user:b"));
}
