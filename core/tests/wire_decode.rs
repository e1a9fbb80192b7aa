//! What the wire format accepts and refuses, one row for each rule of the text.

#![expect(
    clippy::unwrap_used,
    reason = "a row that is not a packet is a failed test"
)]

use std::num::{NonZeroU16, NonZeroU32};

use portcullis_core::secret::Secret;
use portcullis_core::wire::{
    Ack, Auth, DecodeError, Delivery, Disconnect, Limits, MessageProperties, Packet, Publish, QoS,
    ReasonCode, RetainHandling, SecretBytes, Subscribe, SubscribeOptions, Unsubscribe,
    UserProperties, Version, decode, decode_connect, split_frame,
};

use DecodeError as E;
use Version::{V3_1, V3_1_1 as V4, V5};

/// A whole packet: first byte, and a body under 128 bytes.
fn raw(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(body.len()).unwrap()], body].concat()
}

fn client(packet: &[u8], version: Version) -> Result<Packet<'_>, DecodeError> {
    let limits = Limits::default();
    let frame = split_frame(packet, limits.max_packet_size)?.unwrap();
    assert_eq!(frame.size, packet.len(), "one whole packet");
    decode(frame, version, &limits)
}

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn secret(bytes: &[u8]) -> SecretBytes<'_> {
    SecretBytes(Secret::new(bytes))
}

/// A PUBLISH with nothing in it.
const PLAIN: Publish<'static> = Publish {
    topic: "a",
    alias: None,
    delivery: Delivery::AtMostOnce,
    retain: false,
    properties: MessageProperties {
        payload_is_utf8: false,
        expiry: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user: EMPTY,
    },
    payload: b"",
};

const EMPTY: UserProperties<'static> = UserProperties::EMPTY;

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn a_publish_says_what_its_bytes_say() {
    let at_least_once = |dup| Delivery::AtLeastOnce {
        id: id(0x0102),
        dup,
    };
    let user = UserProperties::block([("k", "v"), ("k", "")]);
    let user = UserProperties::from_block(&user).unwrap();
    for (name, version, first, body, expected) in [
        ("QoS 0", V4, 0x30, &b"\x00\x01a"[..], PLAIN),
        (
            "payload",
            V4,
            0x31,
            b"\x00\x01a\x00\xff",
            Publish {
                retain: true,
                payload: b"\x00\xff",
                ..PLAIN
            },
        ),
        (
            "QoS 1",
            V4,
            0x32,
            b"\x00\x01a\x01\x02p",
            Publish {
                delivery: at_least_once(false),
                payload: b"p",
                ..PLAIN
            },
        ),
        (
            "QoS 1 again",
            V3_1,
            0x3a,
            b"\x00\x01a\x01\x02",
            Publish {
                delivery: at_least_once(true),
                ..PLAIN
            },
        ),
        (
            "QoS 2",
            V4,
            0x3d,
            b"\x00\x01a\x01\x02",
            Publish {
                delivery: Delivery::ExactlyOnce {
                    id: id(0x0102),
                    dup: true,
                },
                retain: true,
                ..PLAIN
            },
        ),
        (
            "an empty topic is the guard's affair",
            V4,
            0x30,
            b"\x00\x00",
            Publish { topic: "", ..PLAIN },
        ),
        (
            "in 3.x there are no properties",
            V4,
            0x30,
            b"\x00\x01a\x03\x23\x00\x00",
            Publish {
                payload: b"\x03\x23\0\0",
                ..PLAIN
            },
        ),
        (
            "5.0",
            V5,
            0x30,
            b"\x00\x01a\x00p",
            Publish {
                payload: b"p",
                ..PLAIN
            },
        ),
        (
            "5.0 alias",
            V5,
            0x30,
            b"\x00\x00\x03\x23\x01\x00p",
            Publish {
                topic: "",
                alias: Some(id(256)),
                payload: b"p",
                ..PLAIN
            },
        ),
        (
            "5.0 with every property",
            V5,
            0x32,
            b"\x00\x01a\x01\x02\x22\x26\x00\x01k\x00\x01v\x23\x00\x02\x01\x01\x02\x00\x00\x00\x0a\
              \x03\x00\x00\x08\x00\x01r\x09\x00\x01\x00\x26\x00\x01k\x00\x00p",
            Publish {
                alias: Some(id(2)),
                delivery: at_least_once(false),
                properties: MessageProperties {
                    payload_is_utf8: true,
                    expiry: Some(10),
                    content_type: Some(""),
                    response_topic: Some("r"),
                    correlation_data: Some(b"\0"),
                    user,
                },
                payload: b"p",
                ..PLAIN
            },
        ),
        (
            "a payload that is not the UTF-8 it claims is the receiver's affair",
            V5,
            0x30,
            b"\x00\x01a\x02\x01\x01\xff",
            Publish {
                properties: MessageProperties {
                    payload_is_utf8: true,
                    ..PLAIN.properties
                },
                payload: b"\xff",
                ..PLAIN
            },
        ),
    ] {
        assert_eq!(
            client(&raw(first, body), version),
            Ok(Packet::Publish(expected)),
            "{name}"
        );
    }
}

#[test]
fn user_properties_keep_their_order_and_their_repetitions() {
    let body = b"\x00\x01a\x15\x26\x00\x01b\x00\x01\x31\x02\x00\x00\x00\x09\x26\x00\x01a\x00\x01\x32\x01\x00";
    let packet = raw(0x30, body);
    let Ok(Packet::Publish(publish)) = client(&packet, V5) else {
        panic!("a sound packet");
    };
    let pairs: Vec<_> = publish.properties.user.iter().collect();
    assert_eq!(pairs, [("b", "1"), ("a", "2")]);
    assert!(!publish.properties.user.is_empty());

    let same = UserProperties::block(pairs.iter().copied());
    let same = UserProperties::from_block(&same).unwrap();
    assert_eq!(
        publish.properties.user, same,
        "what else stands in the block does not count"
    );
    let other = UserProperties::block([("a", "2"), ("b", "1")]);
    let other = UserProperties::from_block(&other).unwrap();
    assert_ne!(publish.properties.user, other, "the order does");
    assert_eq!(format!("{same:?}"), "UserProperties(2)");
    assert_eq!(UserProperties::from_block(b"\x26\x00\x01k\x00"), None);
    assert_eq!(UserProperties::from_block(b"\x01\x01"), None);
}

/// Statement or section, version, first byte, body, error.
#[rustfmt::skip]
const BROKEN_PUBLISHES: &[(&str, Version, u8, &[u8], E)] = &[
    ("MQTT-3.3.1-2", V4, 0x38, b"\x00\x01a", E::DupWithoutQos),
    ("MQTT-3.3.1-4", V4, 0x36, b"\x00\x01a\x00\x01", E::Qos3),
    ("MQTT-3.3.1-4", V5, 0x3f, b"\x00\x01a\x00\x01\x00", E::Qos3),
    ("MQTT-2.2.1-3", V4, 0x32, b"\x00\x01a\x00\x00", E::ZeroPacketId),
    ("MQTT-2.2.1-3", V5, 0x34, b"\x00\x01a\x00\x00\x00", E::ZeroPacketId),
    ("topic cut", V4, 0x30, b"\x00\x02a", E::Truncated),
    ("no topic", V4, 0x30, b"\x00", E::Truncated),
    ("no packet id", V4, 0x32, b"\x00\x01a\x01", E::Truncated),
    ("MQTT-3.3.2-1 UTF-8", V4, 0x30, b"\x00\x01\xff", E::Utf8),
    ("MQTT-1.5.4-2", V4, 0x30, b"\x00\x02a\x00", E::NulInString),
    ("no property length", V5, 0x30, b"\x00\x01a", E::Truncated),
    ("property length beyond the packet", V5, 0x30, b"\x00\x01a\x04\x23\x00\x01", E::Truncated),
    ("MQTT-3.3.2-8", V5, 0x30, b"\x00\x01a\x03\x23\x00\x00", E::ZeroAlias),
    ("MQTT-3.3.4-6", V5, 0x30, b"\x00\x01a\x02\x0b\x01", E::SubscriptionIdFromClient),
    ("3.3.2.3.8", V5, 0x30, b"\x00\x01a\x02\x0b\x00", E::ZeroSubscriptionId),
    ("3.3.2.3.2 neither 0 nor 1", V5, 0x30, b"\x00\x01a\x02\x01\x02", E::BooleanProperty(0x01)),
    ("3.3.2.3.2 repeated", V5, 0x30, b"\x00\x01a\x04\x01\x01\x01\x01", E::RepeatedProperty(0x01)),
    ("3.3.2.3.3 repeated", V5, 0x30, b"\x00\x01a\x0a\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01", E::RepeatedProperty(0x02)),
    ("3.3.2.3.4 repeated", V5, 0x30, b"\x00\x01a\x06\x23\x00\x01\x23\x00\x01", E::RepeatedProperty(0x23)),
    ("3.3.2.3.5 repeated", V5, 0x30, b"\x00\x01a\x06\x08\x00\x00\x08\x00\x00", E::RepeatedProperty(0x08)),
    ("3.3.2.3.6 repeated", V5, 0x30, b"\x00\x01a\x06\x09\x00\x00\x09\x00\x00", E::RepeatedProperty(0x09)),
    ("3.3.2.3.9 repeated", V5, 0x30, b"\x00\x01a\x06\x03\x00\x00\x03\x00\x00", E::RepeatedProperty(0x03)),
    ("2.2.2.2 misplaced", V5, 0x30, b"\x00\x01a\x05\x18\x00\x00\x00\x01", E::MisplacedProperty(0x18)),
    ("2.2.2.2 unknown", V5, 0x30, b"\x00\x01a\x01\x00", E::UnknownProperty(0x00)),
    ("2.2.2.2 unknown", V5, 0x30, b"\x00\x01a\x01\x3f", E::UnknownProperty(0x3f)),
    ("2.2.2.2 unknown", V5, 0x30, b"\x00\x01a\x01\x40", E::UnknownProperty(0x40)),
    ("MQTT-1.5.4-2 in a value", V5, 0x30, b"\x00\x01a\x07\x26\x00\x01k\x00\x01\x00", E::NulInString),
    ("MQTT-1.5.4-1 in a name", V5, 0x30, b"\x00\x01a\x06\x26\x00\x01\xff\x00\x00", E::Utf8),
    ("MQTT-3.3.2-13", V5, 0x30, b"\x00\x01a\x04\x08\x00\x01\xff", E::Utf8),
    ("MQTT-3.3.2-19", V5, 0x30, b"\x00\x01a\x04\x03\x00\x01\xff", E::Utf8),
    ("value missing", V5, 0x30, b"\x00\x01a\x04\x26\x00\x01k", E::Truncated),
];

#[test]
fn a_publish_that_breaks_a_rule_is_refused_by_name() {
    for &(statement, version, first, body, error) in BROKEN_PUBLISHES {
        assert_eq!(
            client(&raw(first, body), version),
            Err(error),
            "{statement}"
        );
    }
}

fn ack(number: u16) -> Ack<'static> {
    Ack {
        id: id(number),
        reason: ReasonCode::Success,
        reason_string: None,
        user: EMPTY,
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn the_other_packets_say_what_their_bytes_say() {
    let options = SubscribeOptions::default();
    let disconnect = Disconnect {
        reason: ReasonCode::Success,
        session_expiry: None,
        reason_string: None,
        user: EMPTY,
    };
    let full = SubscribeOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let denied = ReasonCode::NotAuthorized;
    let at_least_once = SubscribeOptions {
        qos: QoS::AtLeastOnce,
        ..options
    };
    for (name, version, first, body, expected) in [
        ("PUBACK", V4, 0x40, &b"\x00\x01"[..], Packet::PubAck(ack(1))),
        ("PUBREC", V3_1, 0x50, b"\x00\x02", Packet::PubRec(ack(2))),
        ("PUBREL", V5, 0x62, b"\x00\x03", Packet::PubRel(ack(3))),
        (
            "PUBCOMP",
            V5,
            0x70,
            b"\xff\xff",
            Packet::PubComp(ack(0xffff)),
        ),
        (
            "3 bytes",
            V5,
            0x40,
            b"\x00\x01\x87",
            Packet::PubAck(Ack {
                reason: denied,
                ..ack(1)
            }),
        ),
        (
            "4 bytes",
            V5,
            0x50,
            b"\x00\x01\x87\x00",
            Packet::PubRec(Ack {
                reason: denied,
                ..ack(1)
            }),
        ),
        (
            "reason string",
            V5,
            0x62,
            b"\x00\x01\x92\x05\x1f\x00\x02no",
            Packet::PubRel(Ack {
                reason: ReasonCode::PacketIdentifierNotFound,
                reason_string: Some("no"),
                ..ack(1)
            }),
        ),
        (
            "SUBSCRIBE",
            V4,
            0x82,
            b"\x00\x01\x00\x01a\x01\x00\x00\x00",
            Packet::Subscribe(Subscribe {
                id: id(1),
                subscription_id: None,
                filters: vec![("a", at_least_once), ("", options)],
                user: EMPTY,
            }),
        ),
        (
            "SUBSCRIBE 5.0",
            V5,
            0x82,
            b"\x00\x01\x03\x0b\x80\x01\x00\x01#\x2e",
            Packet::Subscribe(Subscribe {
                id: id(1),
                subscription_id: NonZeroU32::new(128),
                filters: vec![("#", full)],
                user: EMPTY,
            }),
        ),
        (
            "UNSUBSCRIBE",
            V4,
            0xa2,
            b"\x00\x01\x00\x01a",
            Packet::Unsubscribe(Unsubscribe {
                id: id(1),
                filters: vec!["a"],
                user: EMPTY,
            }),
        ),
        (
            "UNSUBSCRIBE 5.0",
            V5,
            0xa2,
            b"\x00\x01\x00\x00\x01a\x00\x01b",
            Packet::Unsubscribe(Unsubscribe {
                id: id(1),
                filters: vec!["a", "b"],
                user: EMPTY,
            }),
        ),
        ("PINGREQ", V4, 0xc0, b"", Packet::PingReq),
        ("DISCONNECT", V4, 0xe0, b"", Packet::Disconnect(disconnect)),
        (
            "DISCONNECT 5.0",
            V5,
            0xe0,
            b"",
            Packet::Disconnect(disconnect),
        ),
        (
            "3.14.2.1 reason alone",
            V5,
            0xe0,
            b"\x04",
            Packet::Disconnect(Disconnect {
                reason: ReasonCode::DisconnectWithWill,
                ..disconnect
            }),
        ),
        (
            "3.14.2.2",
            V5,
            0xe0,
            b"\x00\x09\x11\x00\x00\x00\x07\x1f\x00\x01x",
            Packet::Disconnect(Disconnect {
                session_expiry: Some(7),
                reason_string: Some("x"),
                ..disconnect
            }),
        ),
        (
            "AUTH",
            V5,
            0xf0,
            b"\x19\x0c\x15\x00\x01m\x16\x00\x01d\x1f\x00\x01x",
            Packet::Auth(Auth {
                reason: ReasonCode::ReAuthenticate,
                method: Some("m"),
                data: Some(secret(b"d")),
                reason_string: Some("x"),
                user: EMPTY,
            }),
        ),
    ] {
        assert_eq!(client(&raw(first, body), version), Ok(expected), "{name}");
    }
}

/// Statement or section, version, first byte, body, error.
#[rustfmt::skip]
const BROKEN_PACKETS: &[(&str, Version, u8, &[u8], E)] = &[
    ("MQTT-3.1.0-2", V4, 0x10, b"\x00\x04MQTT\x04\x02\x00\x00\x00\x00", E::SecondConnect),
    ("2.1.2 CONNACK", V4, 0x20, b"\x00\x00", E::WrongDirection(2)),
    ("2.1.2 SUBACK", V5, 0x90, b"\x00\x01\x00", E::WrongDirection(9)),
    ("2.1.2 UNSUBACK", V4, 0xb0, b"\x00\x01", E::WrongDirection(11)),
    ("2.1.2 PINGRESP", V4, 0xd0, b"", E::WrongDirection(13)),
    ("2.1.2 AUTH in 3.1.1", V4, 0xf0, b"", E::ReservedType(15)),
    ("2.1.2 AUTH in 3.1", V3_1, 0xf0, b"", E::ReservedType(15)),
    // Acknowledgements.
    ("MQTT-2.2.1-3", V4, 0x40, b"\x00\x00", E::ZeroPacketId),
    ("MQTT-2.2.1-3", V5, 0x62, b"\x00\x00", E::ZeroPacketId),
    ("3.4.2 short", V4, 0x40, b"\x01", E::Truncated),
    ("3.4.2 empty", V5, 0x70, b"", E::Truncated),
    ("3.4 of 3.1.1: two bytes", V4, 0x40, b"\x00\x01\x00", E::TrailingBytes),
    ("3.4 after the properties", V5, 0x40, b"\x00\x01\x00\x00\x00", E::TrailingBytes),
    ("3.4.2.1 not for PUBACK", V5, 0x40, b"\x00\x01\x92", E::InvalidReason(0x92)),
    ("3.5.2.1 not for PUBREC", V5, 0x50, b"\x00\x01\x01", E::InvalidReason(0x01)),
    ("3.6.2.1 not for PUBREL", V5, 0x62, b"\x00\x01\x80", E::InvalidReason(0x80)),
    ("3.7.2.1 unknown", V5, 0x70, b"\x00\x01\xff", E::InvalidReason(0xff)),
    ("3.4.2.2 misplaced", V5, 0x40, b"\x00\x01\x00\x03\x23\x00\x01", E::MisplacedProperty(0x23)),
    ("3.4.2.2.2 repeated", V5, 0x40, b"\x00\x01\x00\x06\x1f\x00\x00\x1f\x00\x00", E::RepeatedProperty(0x1f)),
    ("3.4.2.2 beyond the packet", V5, 0x40, b"\x00\x01\x00\x01", E::Truncated),
    // SUBSCRIBE and UNSUBSCRIBE.
    ("MQTT-3.8.3-2", V5, 0x82, b"\x00\x01\x00", E::NoFilters),
    ("MQTT-3.8.3-3 of 3.1.1", V4, 0x82, b"\x00\x01", E::NoFilters),
    ("MQTT-2.2.1-3", V4, 0x82, b"\x00\x00\x00\x01a\x00", E::ZeroPacketId),
    ("no options", V4, 0x82, b"\x00\x01\x00\x01a", E::Truncated),
    ("no options on the second", V4, 0x82, b"\x00\x01\x00\x01a\x00\x00\x01b", E::Truncated),
    ("MQTT-3-8.3-4 of 3.1.1", V4, 0x82, b"\x00\x01\x00\x01a\x04", E::ReservedOptions(0x04)),
    ("MQTT-3-8.3-4 of 3.1.1", V4, 0x82, b"\x00\x01\x00\x01a\x03", E::SubscriptionQos3),
    ("MQTT-3.8.3-5", V5, 0x82, b"\x00\x01\x00\x00\x01a\x40", E::ReservedOptions(0x40)),
    ("MQTT-3.8.3-5", V5, 0x82, b"\x00\x01\x00\x00\x01a\x80", E::ReservedOptions(0x80)),
    ("3.8.3.1 QoS 3", V5, 0x82, b"\x00\x01\x00\x00\x01a\x03", E::SubscriptionQos3),
    ("3.8.3.1 Retain Handling 3", V5, 0x82, b"\x00\x01\x00\x00\x01a\x30", E::RetainHandling3),
    ("MQTT-3.8.3-4", V5, 0x82, b"\x00\x01\x00\x00\x0a$share/g/a\x04", E::NoLocalOnShared),
    ("3.8.2.1.2 zero", V5, 0x82, b"\x00\x01\x02\x0b\x00\x00\x01a\x00", E::ZeroSubscriptionId),
    ("3.8.2.1.2 repeated", V5, 0x82, b"\x00\x01\x04\x0b\x01\x0b\x01\x00\x01a\x00", E::RepeatedProperty(0x0b)),
    ("3.8.2.1 misplaced", V5, 0x82, b"\x00\x01\x03\x1f\x00\x00\x00\x01a\x00", E::MisplacedProperty(0x1f)),
    ("MQTT-3.8.3-1", V4, 0x82, b"\x00\x01\x00\x01\xff\x00", E::Utf8),
    ("MQTT-3.10.3-2", V5, 0xa2, b"\x00\x01\x00", E::NoFilters),
    ("MQTT-3.10.3-2", V4, 0xa2, b"\x00\x01", E::NoFilters),
    ("MQTT-2.2.1-3", V4, 0xa2, b"\x00\x00\x00\x01a", E::ZeroPacketId),
    ("MQTT-3.10.3-1", V4, 0xa2, b"\x00\x01\x00\x01\x00", E::NulInString),
    ("MQTT-3.10.3-1", V4, 0xa2, b"\x00\x01\x00\x01\xff", E::Utf8),
    ("3.10.2.1 misplaced", V5, 0xa2, b"\x00\x01\x02\x0b\x01\x00\x01a", E::MisplacedProperty(0x0b)),
    ("filter cut", V4, 0xa2, b"\x00\x01\x00\x02a", E::Truncated),
    // The rest.
    ("3.12", V4, 0xc0, b"\x00", E::TrailingBytes),
    ("3.14 of 3.1.1: empty", V4, 0xe0, b"\x00", E::TrailingBytes),
    ("3.14.2.1 for servers", V5, 0xe0, b"\x8b", E::InvalidReason(0x8b)),
    ("3.14.2.1 for servers", V5, 0xe0, b"\x87", E::InvalidReason(0x87)),
    ("3.14.2.2 for servers", V5, 0xe0, b"\x00\x03\x1c\x00\x00", E::MisplacedProperty(0x1c)),
    ("3.14.2.2.2 repeated", V5, 0xe0, b"\x00\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01", E::RepeatedProperty(0x11)),
    ("3.14.2.2 beyond the packet", V5, 0xe0, b"\x00\x01", E::Truncated),
    ("3.14.2.2 after the properties", V5, 0xe0, b"\x00\x00\x00", E::TrailingBytes),
    ("3.15.2.1 for servers", V5, 0xf0, b"", E::InvalidReason(0x00)),
    ("3.15.2.1 for servers", V5, 0xf0, b"\x00\x04\x15\x00\x01m", E::InvalidReason(0x00)),
    ("3.15.2.2.2", V5, 0xf0, b"\x18\x00", E::AuthWithoutMethod),
    ("3.15.2.2.3 without a method", V5, 0xf0, b"\x18\x04\x16\x00\x01d", E::AuthWithoutMethod),
    ("3.15.2.1 without a length", V5, 0xf0, b"\x18", E::Truncated),
    ("3.15.2.2.2 repeated", V5, 0xf0, b"\x18\x08\x15\x00\x01m\x15\x00\x01m", E::RepeatedProperty(0x15)),
    ("3.15.2.2 misplaced", V5, 0xf0, b"\x18\x05\x11\x00\x00\x00\x01", E::MisplacedProperty(0x11)),
    ("3.15 trailing", V5, 0xf0, b"\x18\x04\x15\x00\x01m\x00", E::TrailingBytes),
];

#[test]
fn the_other_packets_are_refused_by_name_when_they_break_a_rule() {
    for &(statement, version, first, body, error) in BROKEN_PACKETS {
        assert_eq!(
            client(&raw(first, body), version),
            Err(error),
            "{statement}"
        );
    }
}

#[test]
fn a_packet_costs_no_more_than_its_limits() {
    let limits = Limits {
        max_packet_size: 100,
        user_properties: 2,
        user_property_bytes: 6,
        filters_per_packet: 2,
    };
    let publish = |pairs: &[(&str, &str)]| {
        let block = UserProperties::block(pairs.iter().copied());
        let length = [u8::try_from(block.len()).unwrap()];
        raw(0x30, &[b"\x00\x01a", &length[..], &block].concat())
    };
    for (name, packet, error) in [
        (
            "as many as allowed",
            publish(&[("ab", "c"), ("d", "ef")]),
            None,
        ),
        (
            "one too many",
            publish(&[("", ""), ("", ""), ("", "")]),
            Some(E::TooManyUserProperties),
        ),
        (
            "one byte too many",
            publish(&[("ab", "c"), ("d", "efg")]),
            Some(E::UserPropertiesTooLarge),
        ),
        (
            "as many filters as allowed",
            raw(0xa2, b"\x00\x01\x00\x00\x01a\x00\x01b"),
            None,
        ),
        (
            "a filter too many",
            raw(0xa2, b"\x00\x01\x00\x00\x01a\x00\x01b\x00\x01c"),
            Some(E::TooManyFilters),
        ),
        (
            "a filter too many",
            raw(0x82, b"\x00\x01\x00\x00\x01a\x00\x00\x01b\x00\x00\x01c\x00"),
            Some(E::TooManyFilters),
        ),
    ] {
        let frame = split_frame(&packet, limits.max_packet_size)
            .unwrap()
            .unwrap();
        assert_eq!(decode(frame, V5, &limits).err(), error, "{name}");
    }

    // The limit is one for the packet: two in the CONNECT leave none for its will.
    let two = UserProperties::block([("", ""), ("", "")]);
    let one = UserProperties::block([("", "")]);
    let block = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let head = b"\x00\x04MQTT\x05\x06\x00\x00".to_vec();
    let (id, will) = (b"\x00\x00".to_vec(), b"\x00\x01w\x00\x00".to_vec());
    for (parts, error) in [
        ([&head, &block(&one), &id, &block(&one), &will], None),
        (
            [&head, &block(&two), &id, &block(&one), &will],
            Some(E::TooManyUserProperties),
        ),
    ] {
        let packet = raw(0x10, &parts.map(Vec::as_slice).concat());
        let frame = split_frame(&packet, limits.max_packet_size)
            .unwrap()
            .unwrap();
        assert_eq!(decode_connect(frame, &limits).err(), error);
    }
}

#[test]
fn each_error_is_answered_with_the_code_that_the_text_names() {
    for (error, reason) in [
        (E::Truncated, ReasonCode::MalformedPacket),
        (E::MisplacedProperty(1), ReasonCode::MalformedPacket),
        (E::ReservedOptions(0x40), ReasonCode::MalformedPacket),
        (E::Qos3, ReasonCode::MalformedPacket),
        (E::RepeatedProperty(1), ReasonCode::ProtocolError),
        (E::SubscriptionQos3, ReasonCode::ProtocolError),
        (E::SecondConnect, ReasonCode::ProtocolError),
        (E::NoFilters, ReasonCode::ProtocolError),
        (E::ZeroAlias, ReasonCode::TopicAliasInvalid),
        (
            E::UnsupportedVersion,
            ReasonCode::UnsupportedProtocolVersion,
        ),
        (
            E::TooLarge { size: 2, limit: 1 },
            ReasonCode::PacketTooLarge,
        ),
        (E::TooManyFilters, ReasonCode::QuotaExceeded),
    ] {
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[test]
fn mqtt_1_5_4_2_a_zero_byte_is_found_wherever_it_stands() {
    for length in 1..40_u8 {
        for at in 0..length {
            let mut topic = "\u{80}\u{1}".repeat(20).into_bytes();
            topic.truncate(usize::from(length / 3 * 3));
            topic.resize(usize::from(length), b'a');
            let sound = raw(0x30, &[&[0, length], &*topic].concat());
            assert!(client(&sound, V4).is_ok());
            topic[usize::from(at)] = 0;
            if str::from_utf8(&topic).is_ok() {
                let packet = raw(0x30, &[&[0, length], &*topic].concat());
                assert_eq!(client(&packet, V4), Err(E::NulInString), "{at} of {length}");
            }
        }
    }
}
