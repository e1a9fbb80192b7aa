//! What a CONNECT says, and which are refused: one row for each rule of the text.

#![expect(
    clippy::unwrap_used,
    reason = "a row that is not a packet is a failed test"
)]

use std::num::{NonZeroU16, NonZeroU32};

use portcullis_core::secret::Secret;
use portcullis_core::wire::{
    Connect, DecodeError, Limits, MessageProperties, QoS, SecretBytes, UserProperties, Version,
    Will, decode_connect, split_frame,
};

use DecodeError as E;
use Version::{V3_1, V3_1_1 as V4, V5};

/// A whole packet: first byte, and a body under 128 bytes.
fn raw(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(body.len()).unwrap()], body].concat()
}

fn connect(packet: &[u8]) -> Result<Connect<'_>, DecodeError> {
    let limits = Limits::default();
    let frame = split_frame(packet, limits.max_packet_size)?.unwrap();
    decode_connect(frame, &limits).map(|connect| *connect)
}

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn secret(bytes: &[u8]) -> SecretBytes<'_> {
    SecretBytes(Secret::new(bytes))
}

/// A CONNECT with nothing in it.
fn bare(version: Version) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: "c",
        will: None,
        username: None,
        password: None,
        session_expiry: None,
        receive_maximum: None,
        max_packet_size: None,
        topic_alias_max: 0,
        request_response_info: false,
        request_problem_info: true,
        auth_method: None,
        auth_data: None,
        user: UserProperties::default(),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn a_connect_says_what_its_bytes_say() {
    let user = UserProperties::block([("k", "v")]);
    let user = UserProperties::from_block(&user).unwrap();
    for (name, body, expected) in [
        (
            "3.1",
            &b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c"[..],
            bare(V3_1),
        ),
        ("3.1.1", b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c", bare(V4)),
        (
            "3.1.1 without an id or a clean session is the caller's affair",
            b"\x00\x04MQTT\x04\x00\x00\x3c\x00\x00",
            Connect {
                clean_start: false,
                client_id: "",
                ..bare(V4)
            },
        ),
        (
            "3.1.1 with will, user name and password",
            b"\x00\x04MQTT\x04\xee\x00\x3c\x00\x01c\x00\x01w\x00\x02\xff\x00\x00\x01u\x00\x01p",
            Connect {
                will: Some(Will {
                    topic: "w",
                    payload: b"\xff\x00",
                    qos: QoS::AtLeastOnce,
                    retain: true,
                    delay: 0,
                    properties: MessageProperties::default(),
                }),
                username: Some("u"),
                password: Some(secret(b"p")),
                ..bare(V4)
            },
        ),
        (
            "5.0",
            b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c",
            bare(V5),
        ),
        (
            "5.0 with a password alone",
            b"\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x01c\x00\x01p",
            Connect {
                password: Some(secret(b"p")),
                ..bare(V5)
            },
        ),
        (
            "5.0 with every property",
            b"\x00\x04MQTT\x05\x02\x00\x3c\x23\
              \x11\x00\x00\x00\x05\x21\x00\x06\x27\x00\x00\x00\x07\x22\x00\x08\x19\x01\x17\x00\
              \x15\x00\x01m\x16\x00\x01d\x26\x00\x01k\x00\x01v\x00\x01c",
            Connect {
                session_expiry: Some(5),
                receive_maximum: Some(id(6)),
                max_packet_size: NonZeroU32::new(7),
                topic_alias_max: 8,
                request_response_info: true,
                request_problem_info: false,
                auth_method: Some("m"),
                auth_data: Some(secret(b"d")),
                user,
                ..bare(V5)
            },
        ),
        (
            "5.0 with an empty authentication method, which is a method",
            b"\x00\x04MQTT\x05\x02\x00\x3c\x06\x15\x00\x00\x16\x00\x00\x00\x01c",
            Connect {
                auth_method: Some(""),
                auth_data: Some(secret(b"")),
                ..bare(V5)
            },
        ),
        (
            "5.0 with a will and every property of it",
            b"\x00\x04MQTT\x05\x16\x00\x3c\x00\x00\x01c\x1f\
              \x18\x00\x00\x00\x09\x01\x01\x02\x00\x00\x00\x0a\x03\x00\x01t\x08\x00\x01r\
              \x09\x00\x01d\x26\x00\x01k\x00\x01v\x00\x01w\x00\x00",
            Connect {
                will: Some(Will {
                    topic: "w",
                    payload: b"",
                    qos: QoS::ExactlyOnce,
                    retain: false,
                    delay: 9,
                    properties: MessageProperties {
                        payload_is_utf8: true,
                        expiry: Some(10),
                        content_type: Some("t"),
                        response_topic: Some("r"),
                        correlation_data: Some(b"d"),
                        user,
                    },
                }),
                ..bare(V5)
            },
        ),
    ] {
        assert_eq!(connect(&raw(0x10, body)), Ok(expected), "{name}");
    }
}

/// Statement or section, body, error.
#[rustfmt::skip]
const BROKEN_CONNECTS: &[(&str, &[u8], E)] = &[
    ("MQTT-3.1.2-1", b"\x00\x04MQTX\x04\x02\x00\x00\x00\x00", E::UnsupportedVersion),
    ("MQTT-3.1.2-1 case", b"\x00\x04mqtt\x04\x02\x00\x00\x00\x00", E::UnsupportedVersion),
    ("MQTT-3.1.2-1 empty", b"\x00\x00", E::UnsupportedVersion),
    ("MQTT-3.1.2-2 level 3", b"\x00\x04MQTT\x03\x02\x00\x00\x00\x00", E::UnsupportedVersion),
    ("MQTT-3.1.2-2 level 6", b"\x00\x04MQTT\x06\xff", E::UnsupportedVersion),
    ("MQTT-3.1.2-2 a bridge", b"\x00\x04MQTT\x84\x02\x00\x00\x00\x00", E::UnsupportedVersion),
    ("MQTT-3.1.2-2 a bridge", b"\x00\x06MQIsdp\x83\x02\x00\x00", E::UnsupportedVersion),
    ("MQTT-3.1.2-2 MQIsdp 4", b"\x00\x06MQIsdp\x04\x02\x00\x00", E::UnsupportedVersion),
    ("MQTT-3.1.2-3", b"\x00\x04MQTT\x04\x03\x00\x00\x00\x00", E::ReservedConnectFlag),
    ("MQTT-3.1.2-3 in 5.0", b"\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x00", E::ReservedConnectFlag),
    ("MQTT-3.1.2-3 in 3.1", b"\x00\x06MQIsdp\x03\x03\x00\x00\x00\x00", E::ReservedConnectFlag),
    ("MQTT-3.1.2-11", b"\x00\x04MQTT\x04\x0a\x00\x00\x00\x00", E::WillFlags),
    ("MQTT-3.1.2-13", b"\x00\x04MQTT\x04\x22\x00\x00\x00\x00", E::WillFlags),
    ("MQTT-3.1.2-12", b"\x00\x04MQTT\x04\x1e\x00\x00\x00\x00\x00\x01w\x00\x00", E::WillQos3),
    ("MQTT-3.1.2-22 of 3.1.1", b"\x00\x04MQTT\x04\x42\x00\x00\x00\x00\x00\x00", E::PasswordWithoutUsername),
    ("MQTT-3.1.2-22 in 3.1", b"\x00\x06MQIsdp\x03\x42\x00\x00\x00\x00\x00\x00", E::PasswordWithoutUsername),
    ("MQTT-3.1.3-1 will missing", b"\x00\x04MQTT\x04\x06\x00\x00\x00\x00", E::Truncated),
    ("MQTT-3.1.2-17 user name missing", b"\x00\x04MQTT\x04\x82\x00\x00\x00\x00", E::Truncated),
    ("MQTT-3.1.2-19 password missing", b"\x00\x04MQTT\x04\xc2\x00\x00\x00\x00\x00\x01u", E::Truncated),
    ("trailing bytes", b"\x00\x04MQTT\x04\x02\x00\x00\x00\x00\x00", E::TrailingBytes),
    ("MQTT-3.1.2-16 user name unannounced", b"\x00\x04MQTT\x04\x02\x00\x00\x00\x00\x00\x01u", E::TrailingBytes),
    ("MQTT-3.1.3-4 UTF-8", b"\x00\x04MQTT\x04\x02\x00\x00\x00\x01\xff", E::Utf8),
    ("MQTT-1.5.4-1 surrogate", b"\x00\x04MQTT\x04\x02\x00\x00\x00\x03\xed\xa0\x80", E::Utf8),
    ("MQTT-1.5.4-1 overlong", b"\x00\x04MQTT\x04\x02\x00\x00\x00\x02\xc0\x80", E::Utf8),
    ("MQTT-1.5.4-2", b"\x00\x04MQTT\x04\x02\x00\x00\x00\x01\x00", E::NulInString),
    ("MQTT-3.1.3-11 will topic", b"\x00\x04MQTT\x04\x06\x00\x00\x00\x00\x00\x01\xff\x00\x00", E::Utf8),
    ("MQTT-3.1.3-12 user name", b"\x00\x04MQTT\x04\x82\x00\x00\x00\x00\x00\x01\xff", E::Utf8),
    ("2.2.2.1 length beyond the packet", b"\x00\x04MQTT\x05\x02\x00\x00\x05\x21\x00\x01", E::Truncated),
    ("2.2.2.1 property beyond its block", b"\x00\x04MQTT\x05\x02\x00\x00\x02\x21\x00\x01\x00\x00", E::Truncated),
    ("2.2.2.1 length in five bytes", b"\x00\x04MQTT\x05\x02\x00\x00\x80\x80\x80\x80\x01", E::Varint),
    ("MQTT-1.5.5-1", b"\x00\x04MQTT\x05\x02\x00\x00\x80\x00\x00\x00", E::Varint),
    ("2.2.2.2 unknown", b"\x00\x04MQTT\x05\x02\x00\x00\x02\x04\x00\x00\x00", E::UnknownProperty(0x04)),
    ("2.2.2.2 unknown and large", b"\x00\x04MQTT\x05\x02\x00\x00\x02\xff\x01\x00\x00", E::UnknownProperty(0xff)),
    ("2.2.2.2 misplaced", b"\x00\x04MQTT\x05\x02\x00\x00\x02\x01\x00\x00\x00", E::MisplacedProperty(0x01)),
    ("3.1.2.11.2 repeated", b"\x00\x04MQTT\x05\x02\x00\x00\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01\x00\x00", E::RepeatedProperty(0x11)),
    ("3.1.2.11.3 zero", b"\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x00\x00\x00", E::ZeroReceiveMaximum),
    ("3.1.2.11.4 zero", b"\x00\x04MQTT\x05\x02\x00\x00\x05\x27\x00\x00\x00\x00\x00\x00", E::ZeroMaxPacketSize),
    ("3.1.2.11.6 neither 0 nor 1", b"\x00\x04MQTT\x05\x02\x00\x00\x02\x19\x02\x00\x00", E::BooleanProperty(0x19)),
    ("3.1.2.11.7 neither 0 nor 1", b"\x00\x04MQTT\x05\x02\x00\x00\x02\x17\xff\x00\x00", E::BooleanProperty(0x17)),
    ("3.1.2.11.10", b"\x00\x04MQTT\x05\x02\x00\x00\x04\x16\x00\x01d\x00\x00", E::AuthDataWithoutMethod),
    ("3.1.3.2 misplaced in a will", b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x03\x21\x00\x01\x00\x01w\x00\x00", E::MisplacedProperty(0x21)),
    ("3.1.3.2.2 repeated", b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x0a\x18\x00\x00\x00\x01\x18\x00\x00\x00\x01\x00\x01w\x00\x00", E::RepeatedProperty(0x18)),
    ("3.1.3.2.3 neither 0 nor 1", b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x02\x01\x02\x00\x01w\x00\x00", E::BooleanProperty(0x01)),
];

#[test]
fn a_connect_that_breaks_a_rule_is_refused_by_name() {
    for &(statement, body, error) in BROKEN_CONNECTS {
        assert_eq!(connect(&raw(0x10, body)), Err(error), "{statement}");
    }
    assert_eq!(connect(b"\xc0\x00"), Err(E::NotConnect), "MQTT-3.1.0-1");
    assert_eq!(
        connect(b"\x20\x02\x00\x00"),
        Err(E::NotConnect),
        "MQTT-3.1.0-1"
    );
}

#[test]
fn the_version_of_a_broken_connect_is_known_for_the_answer() {
    for (body, version) in [
        (&b"\x00\x04MQTT\x05\x03"[..], Some(V5)),
        (b"\x00\x04MQTT\x04", Some(V4)),
        (b"\x00\x06MQIsdp\x03", Some(V3_1)),
        (b"\x00\x04MQTT\x06", None),
        (b"\x00\x04MQTT", None),
        (b"\x00", None),
    ] {
        let packet = raw(0x10, body);
        let frame = split_frame(&packet, 100).unwrap().unwrap();
        assert_eq!(frame.connect_version(), version, "{body:?}");
    }
    let frame = split_frame(b"\x30\x07\x00\x04MQTT\x05", 100)
        .unwrap()
        .unwrap();
    assert_eq!(frame.connect_version(), None);
}

#[test]
fn a_connect_cut_at_any_length_is_never_another_connect() {
    for body in [
        &b"\x00\x04MQTT\x04\xee\x00\x3c\x00\x01c\x00\x01w\x00\x02\xff\x00\x00\x01u\x00\x01p"[..],
        b"\x00\x04MQTT\x05\xc6\x00\x3c\x03\x21\x00\x06\x00\x01c\x02\x01\x01\x00\x01w\x00\x00\x00\x01u\x00\x01p",
    ] {
        assert!(connect(&raw(0x10, body)).is_ok());
        for cut in 0..body.len() {
            let packet = raw(0x10, &body[..cut]);
            assert_eq!(connect(&packet), Err(E::Truncated), "{cut} of {body:02x?}");
        }
    }
}

#[test]
fn a_password_is_not_printed() {
    let packet = raw(
        0x10,
        b"\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x01c\x00\x06hunter",
    );
    let printed = format!("{:?}", connect(&packet).unwrap());
    assert!(
        !printed.contains("hunter") && !printed.contains("104, 117"),
        "{printed}"
    );
}
