//! What the publishes of one client cause: counted, and bounded for one batch.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;
use crate::engine::Close;

/// How often a connection was called.
#[derive(Default)]
struct Calls(AtomicUsize);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn receivers(world: &World, count: usize) -> Vec<Client> {
    (0..count)
        .map(|n| {
            let mut client = world.connect(&format!("r{n}"), &As::new("user:r"));
            client.subscribe(world, "t", QoS::AtMostOnce);
            client
        })
        .collect()
}

fn batch(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..count {
        let payload = n.to_string();
        let packet = publish("t", &payload, Delivery::AtMostOnce, false);
        encode_client(&mut bytes, Version::V5, &packet);
    }
    bytes
}

#[test]
fn what_a_batch_causes_is_in_its_facts() {
    let world = World::new();
    let _held = receivers(&world, 3);
    let mut author = world.connect("a", &As::new("user:a"));
    author.send(
        &world,
        &[
            publish("t", "12345", Delivery::AtMostOnce, false),
            publish("t", "1", qos1(1), false),
            publish("nobody", "has asked", qos1(2), false),
        ],
    );
    let facts = world.register.scales.lock().facts;
    assert_eq!((facts.fan_out, facts.fan_out_bytes), (6, 3 * 6 + 3 * 2));
}

#[test]
fn a_batch_that_causes_very_many_deliveries_ends_early_and_loses_nothing() {
    const RECEIVERS: usize = 64;
    const MESSAGES: usize = 1500;
    let world = World::new();
    let mut receivers = receivers(&world, RECEIVERS);
    let mut author = world.connect("a", &As::new("user:a"));
    let bytes = batch(MESSAGES);
    let mut caused = Vec::new();
    let mut rest = &bytes[..];
    loop {
        let connection = author.connection.as_mut().unwrap();
        let taken = connection.receive(rest, Waker::noop(), world.now).unwrap();
        rest = &rest[taken..];
        caused.push(world.register.scales.lock().facts.fan_out);
        assert_eq!(connection.has_caused_much(), !rest.is_empty());
        if rest.is_empty() {
            break;
        }
    }
    let (last, whole) = caused.split_last().unwrap();
    assert!(whole.iter().all(|caused| *caused == 4096), "{caused:?}");
    assert_eq!(*last, 64 * 1500 - 23 * 4096);
    let expected: Vec<_> = (0..MESSAGES).map(|n| n.to_string()).collect();
    for receiver in &mut receivers {
        assert_eq!(receiver.payloads(&world), expected);
    }
}

/// Offering it is the work: here to sessions that are away, for which `QoS` 0 is not kept.
#[test]
fn deliveries_that_come_to_nothing_end_a_batch_too() {
    let world = World::new();
    for n in 0..64 {
        let mut client = world.connect(&format!("r{n}"), &As::persistent("user:r"));
        client.subscribe(&world, "t", QoS::AtMostOnce);
        client.lose(&world);
    }
    let mut author = world.connect("a", &As::new("user:a"));
    let bytes = batch(1500);
    let connection = author.connection.as_mut().unwrap();
    let taken = connection
        .receive(&bytes, Waker::noop(), world.now)
        .unwrap();
    assert_eq!(taken, batch(4096 / 64).len());
    assert!(connection.has_caused_much());
    assert_eq!(world.register.scales.lock().facts.fan_out, 0);
}

/// How much one batch causes after each of these waits for a turn, milliseconds.
fn portions(waits: &[u64], receivers: usize, payload: usize) -> Vec<u64> {
    let world = World::new();
    let _held = self::receivers(&world, receivers);
    let mut author = world.connect("a", &As::new("user:a"));
    let mut bytes = Vec::new();
    for _ in 0..5000 / receivers {
        let text = "x".repeat(payload);
        let packet = publish("t", &text, Delivery::AtMostOnce, false);
        encode_client(&mut bytes, Version::V5, &packet);
    }
    let connection = author.connection.as_mut().unwrap();
    let mut caused = |wait: Option<&u64>| {
        if let Some(wait) = wait {
            connection.waited(Duration::from_millis(*wait));
        }
        connection
            .receive(&bytes, Waker::noop(), world.now)
            .unwrap();
        world.register.scales.lock().facts.fan_out
    };
    let first = caused(None);
    let others = waits.iter().map(|wait| caused(Some(wait)));
    [first].into_iter().chain(others).collect()
}

#[test]
fn where_turns_are_long_in_coming_a_batch_causes_less_and_more_again_when_they_are_not() {
    let portions = portions(&[50, 10, 9, 50, 50, 50, 50, 2, 2, 3, 0, 0, 0], 16, 1);
    let expected = [
        4096, 2048, 1024, 1024, 512, 256, 256, 256, 512, 1024, 1024, 2048, 4096, 4096,
    ];
    assert_eq!(portions, expected);
}

#[test]
fn a_batch_of_large_messages_ends_after_fewer_deliveries() {
    assert_eq!(portions(&[], 300, 4_000 - 1), [1200]);
}

/// A receiver that only waits for its turn gets it before `QoS` 0 messages are dropped for it; one
/// that takes no more holds nobody up.
#[test]
fn a_batch_ends_when_a_receiver_should_write_unless_it_cannot() {
    let world = World::new();
    let mut receiver = receivers(&world, 1).remove(0);
    let mut author = world.connect("a", &As::new("user:a"));
    let payload = "x".repeat(1000);
    let mut bytes = Vec::new();
    for _ in 0..100 {
        let packet = publish("t", &payload, Delivery::AtMostOnce, false);
        encode_client(&mut bytes, Version::V5, &packet);
    }
    let mut offer = |bytes: &[u8]| {
        let connection = author.connection.as_mut().unwrap();
        let taken = connection.receive(bytes, Waker::noop(), world.now).unwrap();
        (taken, connection.has_caused_much())
    };
    let (first, gives_way) = offer(&bytes);
    assert!(gives_way && first < bytes.len());
    let before = receiver.payloads(&world).len();
    assert!((64..70).contains(&before), "{before}");
    let (second, gives_way) = offer(&bytes[first..]);
    assert!(!gives_way && first + second == bytes.len());
    assert_eq!(receiver.payloads(&world).len(), 100 - before);
    // Its socket is full.
    receiver.connection.as_mut().unwrap().block().unwrap();
    assert_eq!(offer(&bytes), (bytes.len(), false));
    // Until it takes something again.
    assert_eq!(receiver.payloads(&world).len(), 100);
    assert!(offer(&bytes).1);
}

/// A client whose socket is full is asked to go, and goes for holding publishers up, like any other.
#[test]
fn a_client_that_reads_nothing_hears_of_its_end_and_of_those_that_wait_for_it() {
    let mut settings = Settings::default();
    settings.limits.queue_messages = 1;
    for held in [false, true] {
        let mut world = World::with(settings.clone());
        let as_reader = As {
            receive_maximum: Some(1),
            ..As::new("user:r")
        };
        let mut reader = world.connect("r", &as_reader);
        reader.subscribe(&world, "t", QoS::AtLeastOnce);
        let calls = Arc::new(Calls::default());
        let connection = reader.connection.as_mut().unwrap();
        let waker = Waker::from(Arc::clone(&calls));
        connection
            .take_output(&mut Vec::new(), &waker, world.now)
            .unwrap();
        connection.block().unwrap();
        let mut author = world.connect("a", &As::new("user:a"));
        for id in 1..=2 {
            author.publish(&world, "t", "x", qos1(id));
        }
        assert_eq!(calls.0.load(Ordering::SeqCst), 0, "it comes by itself");
        if held {
            author.publish(&world, "t", "x", qos1(3));
        } else {
            let close = Close {
                code: ReasonCode::AdministrativeAction,
                reason: "kicked".to_owned(),
                will: true,
            };
            let chosen = |who: &Snapshot| &*who.client_id == "r";
            assert_eq!(world.engine.close_where(chosen, &close, world.now), 1);
        }
        assert_eq!(calls.0.load(Ordering::SeqCst), 1);
        let connection = reader.connection.as_mut().unwrap();
        if held {
            connection.block().unwrap();
            world.later(Duration::from_secs(5));
            connection.check_time(world.now).unwrap_err();
        } else {
            connection.block().unwrap_err();
        }
    }
}

/// Whoever is read more slowly is not ended for a silence that the broker made.
#[test]
fn while_reading_is_paused_nobody_is_silent() {
    let mut world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    world.register.scales.lock().wait = Some(Duration::from_mins(10));
    client.publish(&world, "t", "", Delivery::AtMostOnce);
    world.register.scales.lock().wait = None;
    let connection = client.connection.as_mut().unwrap();
    let end = world.now.after(Duration::from_mins(10)).mono;
    assert_eq!(connection.deadline(world.now), end);
    world.later(Duration::from_secs(599));
    assert!(connection.is_paused(world.now).unwrap());
    assert_eq!(connection.check_time(world.now), Ok(()));
    world.later(Duration::from_secs(1));
    assert!(!connection.is_paused(world.now).unwrap());
    // One and a half keep alives from then on.
    world.later(Duration::from_secs(89));
    assert_eq!(connection.check_time(world.now), Ok(()));
    world.later(Duration::from_secs(1));
    assert!(connection.check_time(world.now).is_err());
}

#[test]
fn a_wait_that_begins_is_told_to_the_observers() {
    let world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    client.publish(&world, "t", "", Delivery::AtMostOnce);
    assert!(!world.noted("limits.scales"), "nobody waits");
    world.register.scales.lock().wait = Some(Duration::from_secs(1));
    client.publish(&world, "t", "", Delivery::AtMostOnce);
    assert!(world.noted("limits.scales") && world.noted("too heavy"));
}
