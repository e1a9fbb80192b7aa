//! What the broker sends: packets appended to a buffer.
//!
//! Nothing here fails. What cannot be expressed (a packet over [`MAX_PACKET_SIZE`]) is not written,
//! see [`publish`]. The caller keeps to the client's Maximum Packet Size: [`publish_size`] says what
//! a PUBLISH takes, and a Reason String is left out by passing `None` \[MQTT-3.4.2-2\].
//!
//! [`MAX_PACKET_SIZE`]: super::MAX_PACKET_SIZE

use super::frame::{MAX_REMAINING_LENGTH, kind};
use super::properties::{encode_message_properties, id, message_properties_size};
use super::put;
use super::{ConnAck, Delivery, Outbound, PacketId, QoS, ReasonCode, Version};

/// Appends a CONNACK (section 3.2). In 3.x the reason becomes a return code, see
/// [`ReasonCode::connack_v3`]. Session Present is sent with success only \[MQTT-3.2.2-6\].
pub fn connack(out: &mut Vec<u8>, version: Version, connack: &ConnAck<'_>) {
    let accepted = connack.reason == ReasonCode::Success;
    let present = u8::from(connack.session_present && accepted);
    if !version.is_v5() {
        // In 3.1 that byte is reserved.
        let present = if version == Version::V3_1 { 0 } else { present };
        out.extend_from_slice(&[kind::CONNACK << 4, 2, present, connack.reason.connack_v3()]);
        return;
    }
    put::packet(out, kind::CONNACK << 4, |body| {
        body.extend_from_slice(&[present, connack.reason as u8]);
        put::properties(body, |properties| {
            let alias_max = (connack.topic_alias_max > 0).then_some(connack.topic_alias_max);
            // Maximum QoS 2 is said by silence (3.2.2.3.4).
            let max_qos = connack.max_qos.filter(|qos| *qos != QoS::ExactlyOnce);
            properties.u32(id::SESSION_EXPIRY, connack.session_expiry);
            properties.u16(id::RECEIVE_MAXIMUM, connack.receive_maximum.map(Into::into));
            properties.byte(id::MAX_QOS, max_qos.map(|qos| qos as u8));
            properties.u32(id::MAX_PACKET_SIZE, connack.max_packet_size);
            properties.string(id::ASSIGNED_CLIENT_ID, connack.assigned_client_id);
            properties.u16(id::TOPIC_ALIAS_MAX, alias_max);
            properties.string(id::REASON_STRING, connack.reason_string);
            properties.u16(id::SERVER_KEEP_ALIVE, connack.server_keep_alive);
            properties.string(id::RESPONSE_INFO, connack.response_info);
            properties.string(id::AUTH_METHOD, connack.auth_method);
            properties.binary(id::AUTH_DATA, connack.auth_data);
        });
    });
}

/// Appends a PUBLISH (section 3.3). In 3.x alias, properties and Subscription Identifiers are not
/// sent.
///
/// A message over [`MAX_PACKET_SIZE`](super::MAX_PACKET_SIZE) is not written. Whoever can meet one
/// asks [`publish_size`] first, as for the client's own limit.
#[inline]
pub fn publish(out: &mut Vec<u8>, version: Version, message: &Outbound<'_>) {
    let size = Size::of(version, message);
    if size.remaining > MAX_REMAINING_LENGTH as usize {
        return;
    }
    out.reserve(size.whole());
    let (flags, id) = match message.delivery {
        Delivery::AtMostOnce => (0, None),
        Delivery::AtLeastOnce { id, dup } => (0b0010 | u8::from(dup) << 3, Some(id)),
        Delivery::ExactlyOnce { id, dup } => (0b0100 | u8::from(dup) << 3, Some(id)),
    };
    out.push(kind::PUBLISH << 4 | flags | u8::from(message.retain));
    put::varint(out, size.remaining);
    put::string(out, message.topic);
    if let Some(id) = id {
        out.extend_from_slice(&id.get().to_be_bytes());
    }
    if version.is_v5() {
        put::varint(out, size.properties);
        if size.properties > 0 {
            publish_properties(out, message);
        }
    }
    out.extend_from_slice(message.payload);
}

/// Bytes of the whole packet that [`publish`] writes: what the client's Maximum Packet Size is
/// compared with \[MQTT-3.1.2-24\].
#[must_use]
#[inline]
pub fn publish_size(version: Version, message: &Outbound<'_>) -> usize {
    Size::of(version, message).whole()
}

fn publish_properties(out: &mut Vec<u8>, message: &Outbound<'_>) {
    if let Some(alias) = message.alias {
        let [high, low] = alias.get().to_be_bytes();
        out.extend_from_slice(&[id::TOPIC_ALIAS, high, low]);
    }
    encode_message_properties(out, &message.properties);
    for subscription in message.subscription_ids {
        out.push(id::SUBSCRIPTION_ID);
        put::varint(out, subscription.get() as usize);
    }
}

/// How long the parts of a PUBLISH are.
struct Size {
    properties: usize,
    remaining: usize,
}

impl Size {
    #[inline]
    fn of(version: Version, message: &Outbound<'_>) -> Self {
        let id = if message.delivery == Delivery::AtMostOnce {
            0
        } else {
            2
        };
        let plain = put::binary_size(message.topic.as_bytes()) + id + message.payload.len();
        if !version.is_v5() {
            return Self {
                properties: 0,
                remaining: plain,
            };
        }
        let alias = if message.alias.is_some() { 3 } else { 0 };
        let mut properties = alias + message_properties_size(&message.properties);
        for subscription in message.subscription_ids {
            properties += 1 + put::varint_size(subscription.get() as usize);
        }
        Self {
            properties,
            remaining: plain + put::varint_size(properties) + properties,
        }
    }

    #[inline]
    fn whole(&self) -> usize {
        1 + put::varint_size(self.remaining) + self.remaining
    }
}

/// A PUBLISH that many clients get: encoded once, then copied, with the packet identifier of each
/// client written into its copy.
#[derive(Clone, Debug)]
pub struct EncodedPublish {
    bytes: Vec<u8>,
    /// Where the packet identifier stands; `None` at `QoS` 0.
    id_at: Option<usize>,
}

impl EncodedPublish {
    /// Encodes `message`; its own packet identifier does not matter.
    #[must_use]
    pub fn new(version: Version, message: &Outbound<'_>) -> Self {
        let mut bytes = Vec::new();
        publish(&mut bytes, version, message);
        let header = 1 + put::varint_size(Size::of(version, message).remaining);
        let id_at = match message.delivery {
            Delivery::AtMostOnce => None,
            Delivery::AtLeastOnce { .. } | Delivery::ExactlyOnce { .. } => {
                Some(header + put::binary_size(message.topic.as_bytes()))
            }
        };
        Self { bytes, id_at }
    }

    /// Bytes of the whole packet; 0 if it was too large to be written.
    #[must_use]
    #[inline]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Appends it with this packet identifier, which at `QoS` 0 is not looked at.
    #[inline]
    pub fn append(&self, out: &mut Vec<u8>, id: PacketId) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let slot = self
            .id_at
            .and_then(|at| out.get_mut(start + at..)?.first_chunk_mut());
        if let Some(slot) = slot {
            *slot = id.get().to_be_bytes();
        }
    }
}

/// Which of the four acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AckKind {
    /// `QoS` 1 acknowledged (section 3.4).
    PubAck = kind::PUBACK << 4,
    /// `QoS` 2, first answer (3.5).
    PubRec = kind::PUBREC << 4,
    /// `QoS` 2, release (3.6); its flags are 2.
    PubRel = kind::PUBREL << 4 | 2,
    /// `QoS` 2, complete (3.7).
    PubComp = kind::PUBCOMP << 4,
}

/// Appends an acknowledgement (sections 3.4 to 3.7) in its shortest form. In 3.x reason and Reason
/// String are not sent.
#[inline]
pub fn ack(
    out: &mut Vec<u8>,
    version: Version,
    kind: AckKind,
    id: PacketId,
    reason: ReasonCode,
    reason_string: Option<&str>,
) {
    let [high, low] = id.get().to_be_bytes();
    let first = kind as u8;
    if !version.is_v5() || (reason == ReasonCode::Success && reason_string.is_none()) {
        out.extend_from_slice(&[first, 2, high, low]);
    } else if reason_string.is_none() {
        out.extend_from_slice(&[first, 3, high, low, reason as u8]);
    } else {
        put::packet(out, first, |body| {
            body.extend_from_slice(&[high, low, reason as u8]);
            put_reason_string(body, reason_string);
        });
    }
}

/// Appends a SUBACK (section 3.9) with a code for each filter, in their order \[MQTT-3.8.4-6\]. In 3.x
/// every failure is 0x80.
pub fn suback(
    out: &mut Vec<u8>,
    version: Version,
    id: PacketId,
    codes: &[ReasonCode],
    reason_string: Option<&str>,
) {
    put::packet(out, kind::SUBACK << 4, |body| {
        body.extend_from_slice(&id.get().to_be_bytes());
        if version.is_v5() {
            put_reason_string(body, reason_string);
        }
        body.extend(codes.iter().map(|code| {
            let failed = code.is_error() && !version.is_v5();
            if failed { 0x80 } else { *code as u8 }
        }));
    });
}

/// Appends an UNSUBACK (section 3.11); in 3.x there is only the identifier.
pub fn unsuback(
    out: &mut Vec<u8>,
    version: Version,
    id: PacketId,
    codes: &[ReasonCode],
    reason_string: Option<&str>,
) {
    put::packet(out, kind::UNSUBACK << 4, |body| {
        body.extend_from_slice(&id.get().to_be_bytes());
        if version.is_v5() {
            put_reason_string(body, reason_string);
            body.extend(codes.iter().map(|code| *code as u8));
        }
    });
}

/// Appends a PINGRESP (section 3.13).
#[inline]
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::PINGRESP << 4, 0]);
}

/// Appends a DISCONNECT of 5.0 (section 3.14). In 3.x a server only closes: do not call it then.
pub fn disconnect(out: &mut Vec<u8>, reason: ReasonCode, reason_string: Option<&str>) {
    put::packet(out, kind::DISCONNECT << 4, |body| {
        body.push(reason as u8);
        // The length of no properties may be left out (3.14.2.2.1), but there are clients, rumqttc
        // among them, that then cannot read the reason.
        put_reason_string(body, reason_string);
    });
}

/// Appends an AUTH of 5.0 (section 3.15).
pub fn auth(
    out: &mut Vec<u8>,
    reason: ReasonCode,
    method: &str,
    data: Option<&[u8]>,
    reason_string: Option<&str>,
) {
    put::packet(out, kind::AUTH << 4, |body| {
        body.push(reason as u8);
        put::properties(body, |properties| {
            properties.string(id::AUTH_METHOD, Some(method));
            properties.binary(id::AUTH_DATA, data);
            properties.string(id::REASON_STRING, reason_string);
        });
    });
}

/// A property block with a Reason String or nothing in it.
fn put_reason_string(body: &mut Vec<u8>, reason_string: Option<&str>) {
    put::properties(body, |properties| {
        properties.string(id::REASON_STRING, reason_string);
    });
}
