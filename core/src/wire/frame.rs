//! Framing: where one packet ends and the next begins.

use super::reader::Reader;
use super::{DecodeError, QoS, Version};

/// The largest packet that MQTT can express: five bytes of header and 268 435 455 more.
pub const MAX_PACKET_SIZE: u32 = 5 + MAX_REMAINING_LENGTH;

/// The largest Remaining Length (section 1.5.5).
pub(super) const MAX_REMAINING_LENGTH: u32 = 0x0fff_ffff;

/// Packet types (section 2.1.2).
pub(super) mod kind {
    pub(in crate::wire) const CONNECT: u8 = 1;
    pub(in crate::wire) const CONNACK: u8 = 2;
    pub(in crate::wire) const PUBLISH: u8 = 3;
    pub(in crate::wire) const PUBACK: u8 = 4;
    pub(in crate::wire) const PUBREC: u8 = 5;
    pub(in crate::wire) const PUBREL: u8 = 6;
    pub(in crate::wire) const PUBCOMP: u8 = 7;
    pub(in crate::wire) const SUBSCRIBE: u8 = 8;
    pub(in crate::wire) const SUBACK: u8 = 9;
    pub(in crate::wire) const UNSUBSCRIBE: u8 = 10;
    pub(in crate::wire) const UNSUBACK: u8 = 11;
    pub(in crate::wire) const PINGREQ: u8 = 12;
    pub(in crate::wire) const PINGRESP: u8 = 13;
    pub(in crate::wire) const DISCONNECT: u8 = 14;
    pub(in crate::wire) const AUTH: u8 = 15;
}

/// Splits the first frame off `input`; it takes [`Frame::size`] bytes. `None` means "sound so far,
/// read more".
///
/// Which side sends, and in 3.x that type 15 does not exist, is not known here: `decode` and
/// `decode_server` look at it.
///
/// # Errors
///
/// A prefix that no further byte can repair: a first byte that no packet has, a length that is not
/// in its shortest form, a packet larger than `max_packet_size` (whole, header included). Framing
/// is lost then; the connection must end.
#[inline]
pub fn split_frame(input: &[u8], max_packet_size: u32) -> Result<Option<Frame<'_>>, DecodeError> {
    let mut reader = Reader::new(input);
    let Ok(first) = reader.u8() else {
        return Ok(None);
    };
    check_first(first)?;
    let remaining = match reader.varint() {
        Ok(remaining) => remaining,
        Err(DecodeError::Truncated) => return Ok(None),
        Err(error) => return Err(error),
    };
    let header = input.len() - reader.rest().len();
    // A header has at most 5 bytes and a Remaining Length 28 bits: neither step can overflow.
    let size = header + remaining as usize;
    if size > max_packet_size as usize {
        return Err(DecodeError::TooLarge {
            size: u32::try_from(size).unwrap_or(u32::MAX),
            limit: max_packet_size,
        });
    }
    Ok(input
        .get(header..size)
        .map(|body| Frame { first, body, size }))
}

/// One whole packet, its body not yet looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Packet type and flags, checked against each other.
    pub(super) first: u8,
    /// Everything after the fixed header.
    pub body: &'a [u8],
    /// Bytes of the whole packet, fixed header included.
    pub size: usize,
}

impl<'a> Frame<'a> {
    /// The topic of a PUBLISH as it stands there, not yet looked at.
    pub(crate) fn topic(self) -> Option<&'a [u8]> {
        if self.kind() != kind::PUBLISH {
            return None;
        }
        let (length, rest) = self.body.split_first_chunk()?;
        rest.get(..usize::from(u16::from_be_bytes(*length)))
    }
}

impl Frame<'_> {
    /// The packet type, 1 to 15 (section 2.1.2).
    #[must_use]
    #[inline]
    pub fn kind(self) -> u8 {
        self.first >> 4
    }

    /// The version that a CONNECT asks for, even if the rest of it does not decode: the answer must
    /// be in words that the client knows. `None` for any other packet or version.
    #[must_use]
    pub fn connect_version(self) -> Option<Version> {
        if self.kind() != kind::CONNECT {
            return None;
        }
        read_version(&mut Reader::new(self.body)).ok()
    }

    /// The flags of a PUBLISH: `QoS`, DUP, RETAIN.
    #[inline]
    pub(super) fn publish_flags(self) -> Result<(QoS, bool, bool), DecodeError> {
        let qos = QoS::from_bits(self.first >> 1).ok_or(DecodeError::Qos3)?;
        Ok((qos, self.first & 0b1000 != 0, self.first & 1 != 0))
    }
}

/// Protocol name and level (sections 3.1.2.1 and 3.1.2.2).
pub(super) fn read_version(body: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = body.binary()?;
    match (name, body.u8()) {
        (b"MQTT", Ok(5)) => Ok(Version::V5),
        (b"MQTT", Ok(4)) => Ok(Version::V3_1_1),
        (b"MQIsdp", Ok(3)) => Ok(Version::V3_1),
        (b"MQTT" | b"MQIsdp", Err(error)) => Err(error),
        _ => Err(DecodeError::UnsupportedVersion),
    }
}

/// Packet type and flags (sections 2.1.2 and 2.1.3).
#[inline]
fn check_first(first: u8) -> Result<(), DecodeError> {
    match (first >> 4, first & 0x0f) {
        (kind::PUBLISH, flags) if flags & 0b0110 == 0b0110 => Err(DecodeError::Qos3),
        (kind::PUBLISH, flags) if flags & 0b1110 == 0b1000 => Err(DecodeError::DupWithoutQos),
        (kind::PUBLISH, _) | (kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE, 0b0010) => Ok(()),
        (0, _) => Err(DecodeError::ReservedType(0)),
        (kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE, _) => Err(DecodeError::Flags(first)),
        (_, 0) => Ok(()),
        _ => Err(DecodeError::Flags(first)),
    }
}
