//! The bytes that the broker sends.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::num::{NonZeroU16, NonZeroU32};

use portcullis_core::wire::{
    AckKind, ConnAck, DecodeError, Delivery, EncodedPublish, Limits, MAX_PACKET_SIZE,
    MessageProperties, Outbound, QoS, ReasonCode, UserProperties, Version, ack, auth, connack,
    decode_message_properties, decode_server, disconnect, encode_message_properties, pingresp,
    publish, publish_size, split_frame, suback, unsuback,
};

use ReasonCode as R;
use Version::{V3_1, V3_1_1 as V4, V5};

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn bytes(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    fill(&mut out);
    out
}

#[test]
fn a_connack_speaks_the_version_of_its_client() {
    let accepted = ConnAck {
        session_present: true,
        max_qos: Some(QoS::ExactlyOnce),
        ..ConnAck::refusal(R::Success)
    };
    let refused = ConnAck {
        session_present: true,
        ..ConnAck::refusal(R::NotAuthorized)
    };
    let rich = ConnAck {
        session_expiry: Some(1),
        receive_maximum: Some(id(2)),
        max_qos: Some(QoS::AtLeastOnce),
        max_packet_size: Some(3),
        assigned_client_id: Some("i"),
        topic_alias_max: 4,
        server_keep_alive: Some(5),
        ..ConnAck::refusal(R::Success)
    };
    for (statement, version, packet, expected) in [
        ("3.2 of 3.1.1", V4, &accepted, &b"\x20\x02\x01\x00"[..]),
        ("MQTT-3.2.2-4 of 3.1.1", V4, &refused, b"\x20\x02\x00\x05"),
        ("3.2 in 3.1", V3_1, &rich, b"\x20\x02\x00\x00"),
        (
            "3.2.2.3.4 Maximum QoS 2 is not said",
            V5,
            &accepted,
            b"\x20\x03\x01\x00\x00",
        ),
        ("MQTT-3.2.2-6", V5, &refused, b"\x20\x03\x00\x87\x00"),
        (
            "3.2.2.3",
            V5,
            &rich,
            b"\x20\x1c\x00\x00\x19\x11\x00\x00\x00\x01\x21\x00\x02\x24\x01\x27\x00\x00\x00\x03\
              \x12\x00\x01i\x22\x00\x04\x13\x00\x05",
        ),
    ] {
        assert_eq!(
            bytes(|out| connack(out, version, packet)),
            expected,
            "{statement}"
        );
    }
}

#[test]
fn a_refusal_in_3_x_is_the_nearest_return_code() {
    for (reason, code) in [
        (R::Success, 0),
        (R::UnsupportedProtocolVersion, 1),
        (R::ClientIdentifierNotValid, 2),
        (R::ServerUnavailable, 3),
        (R::ServerBusy, 3),
        (R::QuotaExceeded, 3),
        (R::BadUserNameOrPassword, 4),
        (R::BadAuthenticationMethod, 4),
        (R::NotAuthorized, 5),
        (R::Banned, 5),
    ] {
        assert_eq!(reason.connack_v3(), code, "{reason:?}");
    }
}

#[test]
fn acknowledgements_take_their_shortest_form() {
    let denied = R::NotAuthorized;
    for (statement, version, kind, reason, text, expected) in [
        (
            "3.4",
            V4,
            AckKind::PubAck,
            R::Success,
            None,
            &b"\x40\x02\x01\x02"[..],
        ),
        (
            "3.x has no reason",
            V4,
            AckKind::PubAck,
            denied,
            Some("x"),
            b"\x40\x02\x01\x02",
        ),
        (
            "MQTT-3.6.1-1",
            V4,
            AckKind::PubRel,
            R::Success,
            None,
            b"\x62\x02\x01\x02",
        ),
        (
            "3.4.2.1",
            V5,
            AckKind::PubAck,
            R::Success,
            None,
            b"\x40\x02\x01\x02",
        ),
        (
            "3.5.2.1",
            V5,
            AckKind::PubRec,
            denied,
            None,
            b"\x50\x03\x01\x02\x87",
        ),
        (
            "3.7.2.2",
            V5,
            AckKind::PubComp,
            R::PacketIdentifierNotFound,
            Some("x"),
            b"\x70\x08\x01\x02\x92\x04\x1f\x00\x01x",
        ),
        (
            "3.4.2.2",
            V5,
            AckKind::PubAck,
            R::Success,
            Some(""),
            b"\x40\x07\x01\x02\x00\x03\x1f\x00\x00",
        ),
    ] {
        let got = bytes(|out| ack(out, version, kind, id(0x0102), reason, text));
        assert_eq!(got, expected, "{statement}");
    }
}

#[test]
fn the_other_answers_are_as_in_the_text() {
    let codes = [R::GrantedQoS1, R::NotAuthorized, R::Success];
    let unknown = [R::NoSubscriptionExisted];
    for (statement, got, expected) in [
        (
            "3.9.3 of 3.1.1",
            bytes(|out| suback(out, V4, id(1), &codes, Some("x"))),
            &b"\x90\x05\x00\x01\x01\x80\x00"[..],
        ),
        (
            "3.9.3",
            bytes(|out| suback(out, V5, id(1), &codes, None)),
            b"\x90\x06\x00\x01\x00\x01\x87\x00",
        ),
        (
            "3.9.2.1",
            bytes(|out| suback(out, V5, id(1), &[R::Success], Some("x"))),
            b"\x90\x08\x00\x01\x04\x1f\x00\x01x\x00",
        ),
        (
            "3.11 of 3.1.1",
            bytes(|out| unsuback(out, V4, id(1), &unknown, None)),
            b"\xb0\x02\x00\x01",
        ),
        (
            "3.11.3",
            bytes(|out| unsuback(out, V5, id(1), &unknown, None)),
            b"\xb0\x04\x00\x01\x00\x11",
        ),
        ("3.13", bytes(pingresp), b"\xd0\x00"),
        (
            "3.14.2.1",
            bytes(|out| disconnect(out, R::ServerShuttingDown, None)),
            b"\xe0\x02\x8b\x00",
        ),
        (
            "3.14.2.2",
            bytes(|out| disconnect(out, R::Success, Some("x"))),
            b"\xe0\x06\x00\x04\x1f\x00\x01x",
        ),
        (
            "3.15",
            bytes(|out| auth(out, R::ContinueAuthentication, "m", Some(b"d"), None)),
            b"\xf0\x0a\x18\x08\x15\x00\x01m\x16\x00\x01d",
        ),
    ] {
        assert_eq!(got, expected, "{statement}");
    }
}

const MESSAGE: Outbound<'static> = Outbound {
    topic: "a/b",
    alias: None,
    delivery: Delivery::AtMostOnce,
    retain: false,
    properties: MessageProperties {
        payload_is_utf8: false,
        expiry: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user: UserProperties::EMPTY,
    },
    subscription_ids: &[],
    payload: b"p",
};

#[test]
fn a_publish_is_as_in_the_text_and_as_long_as_announced() {
    let user = UserProperties::block([("k", "v")]);
    let properties = MessageProperties {
        payload_is_utf8: true,
        expiry: Some(7),
        content_type: Some("t"),
        response_topic: Some("r"),
        correlation_data: Some(b"c"),
        user: UserProperties::from_block(&user).unwrap(),
    };
    let ids = [NonZeroU32::MIN, NonZeroU32::new(300).unwrap()];
    let rich = Outbound {
        alias: Some(id(1)),
        properties,
        subscription_ids: &ids,
        ..MESSAGE
    };
    let delivery = |dup| Delivery::AtLeastOnce {
        id: id(0x0102),
        dup,
    };
    let exactly = Delivery::ExactlyOnce {
        id: id(0x0102),
        dup: false,
    };
    for (name, version, message, expected) in [
        ("QoS 0", V4, MESSAGE, &b"\x30\x06\x00\x03a/bp"[..]),
        ("QoS 1", V4, Outbound { delivery: delivery(false), ..MESSAGE }, b"\x32\x08\x00\x03a/b\x01\x02p"),
        ("QoS 1 again", V4, Outbound { delivery: delivery(true), ..MESSAGE }, b"\x3a\x08\x00\x03a/b\x01\x02p"),
        ("QoS 2", V4, Outbound { delivery: exactly, retain: true, ..MESSAGE }, b"\x35\x08\x00\x03a/b\x01\x02p"),
        ("3.x has no properties", V4, rich, b"\x30\x06\x00\x03a/bp"),
        ("5.0", V5, Outbound { delivery: delivery(false), ..MESSAGE }, b"\x32\x09\x00\x03a/b\x01\x02\x00p"),
        (
            "5.0 with everything",
            V5,
            rich,
            b"\x30\x29\x00\x03a/b\x22\x23\x00\x01\x01\x01\x02\x00\x00\x00\x07\x03\x00\x01t\x08\x00\x01r\
              \x09\x00\x01c\x26\x00\x01k\x00\x01v\x0b\x01\x0b\xac\x02p",
        ),
    ] {
        let got = bytes(|out| publish(out, version, &message));
        assert_eq!(got, expected, "{name}");
        assert_eq!(publish_size(version, &message), expected.len(), "{name}");
    }
}

#[test]
fn a_copy_of_an_encoded_publish_has_its_own_packet_identifier() {
    for version in [V4, V5] {
        for payload in [0, 100, 200, 20_000] {
            let payload = vec![b'p'; payload];
            let message = |number| Outbound {
                delivery: Delivery::AtLeastOnce {
                    id: id(number),
                    dup: false,
                },
                payload: &payload,
                ..MESSAGE
            };
            let encoded = EncodedPublish::new(version, &message(1));
            let mut out = b"before".to_vec();
            encoded.append(&mut out, id(0xabcd));
            let alone = bytes(|out| publish(out, version, &message(0xabcd)));
            assert_eq!(out, [b"before".as_slice(), &alone].concat());
            assert_eq!(encoded.size(), alone.len());
        }
    }
}

#[test]
fn what_cannot_be_said_is_not_said_wrongly() {
    // A topic that no length field can express is not cut to another topic.
    let topic = "t".repeat(65_536);
    let message = Outbound {
        topic: &topic,
        ..MESSAGE
    };
    let got = bytes(|out| publish(out, V4, &message));
    assert_eq!(got, b"\x30\x03\x00\x00p");
    assert_eq!(publish_size(V4, &message), got.len());

    // A message that no Remaining Length can express is not written.
    let payload = vec![0; MAX_PACKET_SIZE as usize];
    let message = Outbound {
        payload: &payload,
        ..MESSAGE
    };
    assert!(publish_size(V4, &message) > MAX_PACKET_SIZE as usize);
    assert_eq!(bytes(|out| publish(out, V4, &message)), b"");
    assert_eq!(EncodedPublish::new(V5, &message).size(), 0);
}

#[test]
fn stored_properties_are_one_block_that_reads_back() {
    let user = UserProperties::block([("b", "1"), ("a", "2"), ("b", "1")]);
    let properties = MessageProperties {
        payload_is_utf8: true,
        expiry: Some(0),
        content_type: Some(""),
        response_topic: None,
        correlation_data: Some(b"\xff"),
        user: UserProperties::from_block(&user).unwrap(),
    };
    let block = bytes(|out| encode_message_properties(out, &properties));
    assert_eq!(decode_message_properties(&block), Some(properties));
    assert_eq!(
        decode_message_properties(b""),
        Some(MessageProperties::default())
    );
    for (name, block) in [
        ("cut", &b"\x02\x00\x00\x00"[..]),
        ("a property of the connection", b"\x23\x00\x01"),
        ("repeated", b"\x01\x01\x01\x01"),
        ("unknown", b"\x00"),
    ] {
        assert_eq!(decode_message_properties(block), None, "{name}");
    }
}

#[test]
fn a_server_packet_that_breaks_a_rule_is_refused_by_name() {
    for (statement, version, packet, error) in [
        (
            "MQTT-3.2.2-1",
            V4,
            &b"\x20\x02\x02\x00"[..],
            DecodeError::ReservedConnAckFlags,
        ),
        (
            "MQTT-3.2.2-6",
            V5,
            b"\x20\x03\x01\x87\x00",
            DecodeError::SessionPresentOnRefusal,
        ),
        (
            "3.2.2.3 of 3.1.1",
            V4,
            b"\x20\x02\x00\x06",
            DecodeError::InvalidReason(6),
        ),
        (
            "3.2.2.3.4",
            V5,
            b"\x20\x05\x00\x00\x02\x24\x02",
            DecodeError::BooleanProperty(0x24),
        ),
        (
            "3.2.2.3.5",
            V5,
            b"\x20\x05\x00\x00\x02\x25\x02",
            DecodeError::BooleanProperty(0x25),
        ),
        (
            "MQTT-3.14.2-2",
            V5,
            b"\xe0\x07\x00\x05\x11\x00\x00\x00\x01",
            DecodeError::MisplacedProperty(0x11),
        ),
        (
            "3.14.2.1 for clients",
            V5,
            b"\xe0\x01\x04",
            DecodeError::InvalidReason(4),
        ),
        (
            "3.14 of 3.1.1: clients only",
            V4,
            b"\xe0\x00",
            DecodeError::WrongDirection(14),
        ),
        (
            "3.15.2.1 for clients",
            V5,
            b"\xf0\x06\x19\x04\x15\x00\x01m",
            DecodeError::InvalidReason(0x19),
        ),
        (
            "MQTT-3.8.4-6",
            V4,
            b"\x90\x02\x00\x01",
            DecodeError::NoReasonCodes,
        ),
        (
            "3.9.3 of 3.1.1",
            V4,
            b"\x90\x03\x00\x01\x87",
            DecodeError::InvalidReason(0x87),
        ),
        ("2.1.2", V4, b"\xc0\x00", DecodeError::WrongDirection(12)),
        ("2.1.2", V4, b"\xf0\x00", DecodeError::ReservedType(15)),
    ] {
        let limits = Limits::default();
        let frame = split_frame(packet, limits.max_packet_size)
            .unwrap()
            .unwrap();
        assert_eq!(
            decode_server(frame, version, &limits),
            Err(error),
            "{statement}"
        );
    }
}
