//! Where packets begin and end, and what is refused before a body arrives.

use portcullis_core::fuzzing::framing;
use portcullis_core::wire::{DecodeError, MAX_PACKET_SIZE, split_frame};
use proptest::prelude::*;

#[test]
fn mqtt_2_1_3_1_each_first_byte_is_decided_at_once() {
    for first in 0..=u8::MAX {
        let (kind, flags) = (first >> 4, first & 0x0f);
        let expected = match (kind, flags) {
            (0, _) => Err(DecodeError::ReservedType(0)),
            (3, 6 | 7 | 14 | 15) => Err(DecodeError::Qos3),
            (3, 8 | 9) => Err(DecodeError::DupWithoutQos),
            (3, _) | (6 | 8 | 10, 2) => Ok(None),
            (6 | 8 | 10, _) => Err(DecodeError::Flags(first)),
            (_, 0) => Ok(None),
            _ => Err(DecodeError::Flags(first)),
        };
        assert_eq!(split_frame(&[first], 100), expected, "{first:#04x}");
        assert_eq!(split_frame(&[first, 1], 100), expected, "{first:#04x}");
    }
}

#[test]
fn mqtt_1_5_5_a_length_has_at_most_four_bytes_in_the_shortest_form() {
    let limit = MAX_PACKET_SIZE;
    for (header, expected) in [
        (&b"\x30\x80"[..], Ok(None)),
        (b"\x30\x80\x80\x80", Ok(None)),
        (b"\x30\x80\x80\x80\x80", Err(DecodeError::Varint)),
        (b"\x30\xff\xff\xff\xff\x7f", Err(DecodeError::Varint)),
        (b"\x30\x80\x00", Err(DecodeError::Varint)),
        (b"\x30\xff\x00", Err(DecodeError::Varint)),
        (b"\x30\x80\x80\x00", Err(DecodeError::Varint)),
        (b"\x30\x81\x80\x80\x00", Err(DecodeError::Varint)),
        (b"\x30\xff\xff\xff\x7f", Ok(None)),
    ] {
        assert_eq!(split_frame(header, limit), expected, "{header:02x?}");
    }
    for (header, length) in [
        (&b"\x30\x00"[..], 0),
        (b"\x30\x7f", 127),
        (b"\x30\x80\x01", 128),
        (b"\x30\xff\x7f", 16_383),
        (b"\x30\x80\x80\x01", 16_384),
        (b"\x30\xff\xff\x7f", 2_097_151),
        (b"\x30\x80\x80\x80\x01", 2_097_152),
    ] {
        let mut packet = header.to_vec();
        packet.resize(header.len() + length, b'x');
        packet.extend_from_slice(b"\xc0\x00");
        let frame = split_frame(&packet, limit).unwrap().unwrap();
        assert_eq!(frame.size, header.len() + length);
        assert_eq!(frame.body.len(), length);
        assert_eq!(frame.kind(), 3);
    }
}

#[test]
fn a_packet_that_is_too_large_is_refused_from_its_header() {
    let too_large = |size, limit| Err(DecodeError::TooLarge { size, limit });
    assert_eq!(split_frame(b"\x30\x08", 10), Ok(None));
    assert_eq!(split_frame(b"\x30\x09", 10), too_large(11, 10));
    assert_eq!(split_frame(b"\x30\x80\x01", 130), too_large(131, 130));
    assert_eq!(
        split_frame(b"\x10\xff\xff\xff\x7f", 1 << 16),
        too_large(MAX_PACKET_SIZE, 1 << 16)
    );
    assert_eq!(
        split_frame(b"\x10\xff\xff\xff\x7f", MAX_PACKET_SIZE),
        Ok(None)
    );
    assert_eq!(split_frame(b"\xc0\x00", 0), too_large(2, 0));
}

#[test]
fn a_cut_at_every_length_asks_for_more() {
    for packet in [
        &b"\x30\x05\x00\x01abc"[..],
        b"\xc0\x00",
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
    ] {
        for cut in 0..packet.len() {
            assert_eq!(
                split_frame(&packet[..cut], 100),
                Ok(None),
                "{cut} of {packet:02x?}"
            );
        }
        assert_eq!(
            split_frame(packet, 100).unwrap().unwrap().size,
            packet.len()
        );
    }
}

proptest! {
    #[test]
    fn framing_is_total_bounded_and_prefix_stable(
        header in prop::collection::vec(any::<u8>(), 0..6),
        rest in prop::collection::vec(any::<u8>(), 0..200),
        limit in 0_u32..300,
    ) {
        framing(&[header, rest].concat(), limit);
    }
}
