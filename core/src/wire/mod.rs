//! The wire format: bytes to packets and back, MQTT 3.1, 3.1.1 and 5.0.
//!
//! Everything here is a pure function. There is no socket, no clock and no state between two
//! calls, so a test is a byte string and a fuzz target is one call.
//!
//! The input is hostile. These promises hold for *every* byte string and every limit; the
//! properties in [`crate::fuzzing`] check them:
//!
//! 1. **Total.** Decoding returns. It does not panic.
//! 2. **Bounded.** A packet larger than the limit is refused from its fixed header, before its body
//!    arrives. What decoding allocates is one box for a CONNECT and one list for a SUBSCRIBE or
//!    UNSUBSCRIBE, which grows with the filters that are there and ends at
//!    [`Limits::filters_per_packet`]. A PUBLISH or an acknowledgement allocates nothing.
//! 3. **Linear.** Each byte of a body is looked at a fixed number of times: readers only move
//!    forward, repeated properties are found with a bit set, and nothing is searched for in what
//!    was read before. User properties, the only thing that may repeat without end, are counted.
//! 4. **Prefix-stable.** Reading more bytes never changes an answer already given.
//! 5. **Faithful.** What is encoded decodes to the same packet, in both directions.
//!
//! Decoding is strict: what the OASIS text calls malformed or a protocol error is refused, one
//! [`DecodeError`] for each rule, with the reason code that the text names. Where the three versions
//! differ, each is judged by its own text; MQTT 3.1, which has no such statements, by that of 3.1.1.
//!
//! Not here: what a topic name or filter may look like ([`crate::topic`]; here they are only valid
//! strings, and may be empty), which packet may come when and what a number announced in CONNECT or
//! CONNACK then forbids (`guard`), whether a payload that is said to be UTF-8 is (nobody: the text
//! leaves it to the receiver), who may do what ([`crate::hook`]).

mod client;
mod decode;
mod encode;
mod error;
mod frame;
mod packet;
mod properties;
mod put;
mod reader;
mod reason;
mod server;

pub use client::encode_client;
pub use decode::{decode, decode_connect};
pub use encode::{
    AckKind, EncodedPublish, ack, auth, connack, disconnect, pingresp, publish, publish_size,
    suback, unsuback,
};
pub use error::DecodeError;
pub use frame::{Frame, MAX_PACKET_SIZE, split_frame};
pub use packet::*;
pub use properties::{decode_message_properties, encode_message_properties};
pub use reason::ReasonCode;
pub use server::{ServerPacket, SubAck, decode_server};

/// What one packet may cost to decode. Every field is finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole packet, fixed header included. Refused from the header alone.
    pub max_packet_size: u32,
    /// User properties in one packet, those of a will included.
    pub user_properties: usize,
    /// Bytes of the names and values of all user properties in one packet.
    pub user_property_bytes: usize,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet_size: 1 << 20,
            user_properties: 64,
            user_property_bytes: 16 << 10,
            filters_per_packet: 100,
        }
    }
}
