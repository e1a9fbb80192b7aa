//! Answers to a client: what stands in them, and their order.

use super::*;

/// Everything that is on its way to a client, as bytes.
fn output(client: &mut Client, world: &World) -> Vec<u8> {
    let mut output = Vec::new();
    let connection = client.connection.as_mut().unwrap();
    connection
        .take_output(&mut output, Waker::noop(), world.now)
        .unwrap();
    output
}

/// And what is not sent cannot be too large for the client \[MQTT-3.4.2-2\], \[MQTT-3.9.2-1\].
#[test]
pub(super) fn mqtt_3_1_2_29_answers_say_a_code_and_nothing_more() {
    let world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    world.policy.set(&[]);
    let subscribe = Packet::Subscribe(Subscribe {
        id: NonZeroU16::new(4).unwrap(),
        subscription_id: None,
        filters: vec![("t", SubscribeOptions::default())],
        user: UserProperties::default(),
    });
    let unsubscribe = Packet::Unsubscribe(Unsubscribe {
        id: NonZeroU16::new(5).unwrap(),
        filters: vec!["t"],
        user: UserProperties::default(),
    });
    let (first, second) = (
        publish("t", "x", qos1(1), false),
        publish("t", "x", qos2(2), false),
    );
    client.send(&world, &[first, second, pubrel(3), subscribe, unsubscribe]);
    let answers: [&[u8]; 5] = [
        b"\x40\x03\x00\x01\x87",
        b"\x50\x03\x00\x02\x87",
        b"\x70\x03\x00\x03\x92",
        b"\x90\x04\x00\x04\x00\x87",
        b"\xb0\x04\x00\x05\x00\x11",
    ];
    assert_eq!(output(&mut client, &world), answers.concat());
    // The goodbye says a code, too; the whole reason is for the record.
    client.send_bytes(&world, b"\x36\x00");
    assert_eq!(client.farewell, b"\xe0\x02\x81\x00");
}

#[test]
pub(super) fn mqtt_4_6_0_acknowledgements_keep_the_order_of_receipt() {
    let world = World::over(Settings::default(), true);
    let slow = world.slow.as_ref().unwrap();
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "t", QoS::AtMostOnce);
    world.policy.set(&[
        ("*", Some(Action::Publish), "t", true),
        ("*", Some(Action::Receive), "#", true),
    ]);
    let mut client = world.connect("a", &As::new("user:a"));
    for (topic, delivery) in [
        ("t", qos1(1)),
        ("no", qos1(2)),
        ("t", qos2(3)),
        ("t", qos1(4)),
    ] {
        client.publish(&world, topic, "x", delivery);
    }
    // The last one is safe first: it waits for those before it, as the refused one does.
    assert!(client.read(&world).is_empty());
    slow.complete(2);
    slow.complete(1);
    assert!(client.read(&world).is_empty());
    slow.complete(0);
    assert_eq!(
        client.read(&world),
        [
            Got::PubAck(1, ReasonCode::Success),
            Got::PubAck(2, ReasonCode::NotAuthorized),
            Got::PubRec(3, ReasonCode::Success),
            Got::PubAck(4, ReasonCode::Success),
        ]
    );
}
