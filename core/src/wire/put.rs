//! Writing fields to the end of a buffer.
//!
//! A string or a block of bytes over 65 535 bytes cannot be written in MQTT. None reaches the
//! encoder: they come from the wire, where none can be longer, or from configuration. If one did,
//! it would be written empty: the framing stays sound, and a topic is never cut to another one.

use super::UserProperties;
use super::frame::MAX_REMAINING_LENGTH;

/// Bytes of `value` as a variable byte integer.
#[inline]
pub(super) const fn varint_size(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

/// A variable byte integer (section 1.5.5). `value` has at most 28 bits.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "seven bits at a time is the format"
)]
pub(super) fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `bytes`, or nothing where their length does not fit into two bytes.
#[inline]
const fn fitting(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= u16::MAX as usize {
        bytes
    } else {
        &[]
    }
}

/// Bytes that [`binary`] writes.
#[inline]
pub(super) const fn binary_size(bytes: &[u8]) -> usize {
    2 + fitting(bytes).len()
}

/// Binary Data (section 1.5.6).
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "`fitting` has at most 65 535 bytes"
)]
pub(super) fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = fitting(bytes);
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A UTF-8 Encoded String (section 1.5.4).
#[inline]
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    binary(out, text.as_bytes());
}

/// A packet that is not on the hot path: the body first, then its length in front of it. A body
/// that no Remaining Length can express is not written.
pub(super) fn packet(out: &mut Vec<u8>, first: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    fill(&mut body);
    if body.len() <= MAX_REMAINING_LENGTH as usize {
        out.reserve(5 + body.len());
        out.push(first);
        varint(out, body.len());
        out.append(&mut body);
    }
}

/// A property block with its length in front of it.
pub(super) fn properties(out: &mut Vec<u8>, fill: impl FnOnce(&mut PropertyWriter)) {
    let mut block = PropertyWriter(Vec::new());
    fill(&mut block);
    varint(out, block.0.len());
    out.append(&mut block.0);
}

/// Properties off the hot path; those that are absent are not written.
pub(super) struct PropertyWriter(pub(super) Vec<u8>);

impl PropertyWriter {
    pub(super) fn byte(&mut self, id: u8, value: Option<u8>) {
        if let Some(value) = value {
            self.0.extend_from_slice(&[id, value]);
        }
    }

    pub(super) fn u16(&mut self, id: u8, value: Option<u16>) {
        if let Some(value) = value {
            self.0.push(id);
            self.0.extend_from_slice(&value.to_be_bytes());
        }
    }

    pub(super) fn u32(&mut self, id: u8, value: Option<u32>) {
        if let Some(value) = value {
            self.0.push(id);
            self.0.extend_from_slice(&value.to_be_bytes());
        }
    }

    pub(super) fn string(&mut self, id: u8, value: Option<&str>) {
        self.binary(id, value.map(str::as_bytes));
    }

    pub(super) fn binary(&mut self, id: u8, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.0.push(id);
            binary(&mut self.0, value);
        }
    }

    pub(super) fn user(&mut self, user: UserProperties<'_>) {
        for property in user.encoded() {
            self.0.extend_from_slice(property);
        }
    }
}
