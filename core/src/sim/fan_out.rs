//! What the publishes of one client cause: counted, and bounded for one batch.

use super::*;

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
        assert_eq!(connection.was_cut_short(), !rest.is_empty());
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(caused, [65_536, 64 * 1500 - 65_536]);
    let expected: Vec<_> = (0..MESSAGES).map(|n| n.to_string()).collect();
    for receiver in &mut receivers {
        assert_eq!(receiver.payloads(&world), expected);
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
