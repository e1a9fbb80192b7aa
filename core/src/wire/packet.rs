//! The packets of MQTT, borrowed from the bytes that they were read from.

use std::num::{NonZeroU16, NonZeroU32};

use crate::secret::Secret;

use super::ReasonCode;

/// A protocol version that a client may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V3_1,
    /// MQTT 3.1.1: level 4.
    V3_1_1,
    /// MQTT 5.0: level 5.
    V5,
}

impl Version {
    /// Whether packets have properties and acknowledgements have reason codes.
    #[must_use]
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

/// A delivery promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// Reads the lower two bits of `bits`; `None` for 3, which no packet may have.
    #[must_use]
    #[inline]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier; never zero \[MQTT-2.2.1-3\].
pub type PacketId = NonZeroU16;

/// A delivery promise with the packet identifier, which exists exactly where the protocol has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `QoS` 0.
    AtMostOnce,
    /// `QoS` 1.
    AtLeastOnce {
        /// Echoed in the PUBACK.
        id: PacketId,
        /// Sent before, as far as the sender knows.
        dup: bool,
    },
    /// `QoS` 2.
    ExactlyOnce {
        /// Echoed in the PUBREC.
        id: PacketId,
        /// Sent before, as far as the sender knows.
        dup: bool,
    },
}

impl Delivery {
    /// The promise without the identifier.
    #[must_use]
    pub fn qos(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce { .. } => QoS::AtLeastOnce,
            Self::ExactlyOnce { .. } => QoS::ExactlyOnce,
        }
    }
}

/// A decoded packet that a client may send.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet<'a> {
    /// A client introduces itself (section 3.1).
    Connect(Box<Connect<'a>>),
    /// An application message (3.3).
    Publish(Publish<'a>),
    /// `QoS` 1 acknowledged (3.4).
    PubAck(Ack<'a>),
    /// `QoS` 2, first answer (3.5).
    PubRec(Ack<'a>),
    /// `QoS` 2, release (3.6).
    PubRel(Ack<'a>),
    /// `QoS` 2, complete (3.7).
    PubComp(Ack<'a>),
    /// Subscribe (3.8).
    Subscribe(Subscribe<'a>),
    /// Unsubscribe (3.10).
    Unsubscribe(Unsubscribe<'a>),
    /// Keep alive (3.12).
    PingReq,
    /// Goodbye (3.14).
    Disconnect(Disconnect<'a>),
    /// Enhanced authentication (3.15).
    Auth(Auth<'a>),
}

/// User properties, in their order, checked and not yet taken apart: a walk allocates nothing.
///
/// Holds the part of a property block from the first user property to the end of the last; other
/// properties in between are skipped.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a>(pub(super) &'a [u8]);

/// The application's own part of a message's properties: what is forwarded unchanged
/// \[MQTT-3.3.2-4\], \[MQTT-3.3.2-15\], \[MQTT-3.3.2-16\], \[MQTT-3.3.2-17\], \[MQTT-3.3.2-20\].
/// PUBLISH and wills have them alike.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessageProperties<'a> {
    /// Payload Format Indicator 1: the payload is UTF-8.
    pub payload_is_utf8: bool,
    /// Message Expiry Interval, seconds.
    pub expiry: Option<u32>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// Response Topic.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// An application message as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Publish<'a> {
    /// The topic as sent; empty when the client used an alias (5.0 only).
    pub topic: &'a str,
    /// A number that stands for the topic on this connection.
    pub alias: Option<NonZeroU16>,
    /// The delivery promise, with its identifier.
    pub delivery: Delivery,
    /// Whether the message is to be kept for later subscribers.
    pub retain: bool,
    /// What is forwarded unchanged.
    pub properties: MessageProperties<'a>,
    /// The application's own bytes; may be empty.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ack<'a> {
    /// Whose answer this is.
    pub id: PacketId,
    /// [`ReasonCode::Success`] in 3.x.
    pub reason: ReasonCode,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// A CONNECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Connect<'a> {
    /// The protocol version.
    pub version: Version,
    /// Clean Start; Clean Session in 3.x. Whether an earlier session is to be forgotten.
    pub clean_start: bool,
    /// Seconds; 0 for none.
    pub keep_alive: u16,
    /// May be empty.
    pub client_id: &'a str,
    /// What to publish when the client vanishes.
    pub will: Option<Will<'a>>,
    /// User Name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<SecretBytes<'a>>,
    /// Session Expiry Interval, seconds; `None` where absent and in 3.x.
    pub session_expiry: Option<u32>,
    /// Receive Maximum; `None` where absent.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size; `None` where absent.
    pub max_packet_size: Option<NonZeroU32>,
    /// Topic Alias Maximum; 0 where absent.
    pub topic_alias_max: u16,
    /// Request Response Information; false where absent.
    pub request_response_info: bool,
    /// Request Problem Information; true where absent.
    pub request_problem_info: bool,
    /// Authentication Method.
    pub auth_method: Option<&'a str>,
    /// Authentication Data.
    pub auth_data: Option<SecretBytes<'a>>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// [`Secret`] that can be compared in tests; printing it is still impossible.
#[derive(Clone, Copy, Debug)]
pub struct SecretBytes<'a>(pub Secret<'a>);

impl PartialEq for SecretBytes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

/// A will message (3.1.3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Will<'a> {
    /// Where to.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// How.
    pub qos: QoS,
    /// Whether to keep it.
    pub retain: bool,
    /// Will Delay Interval, seconds.
    pub delay: u32,
    /// What is forwarded unchanged.
    pub properties: MessageProperties<'a>,
}

/// A SUBSCRIBE.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe<'a> {
    /// Echoed in the SUBACK.
    pub id: PacketId,
    /// Subscription Identifier.
    pub subscription_id: Option<NonZeroU32>,
    /// What is asked for; at least one \[MQTT-3.8.3-2\].
    pub filters: Vec<(&'a str, SubscribeOptions)>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// Subscription options (3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Maximum `QoS`.
    pub qos: QoS,
    /// Not what the client itself published.
    pub no_local: bool,
    /// Keep the RETAIN flag as it was published.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent on a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every subscribe.
    #[default]
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// An UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsubscribe<'a> {
    /// Echoed in the UNSUBACK.
    pub id: PacketId,
    /// At least one \[MQTT-3.10.3-2\].
    pub filters: Vec<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// A DISCONNECT from a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disconnect<'a> {
    /// [`ReasonCode::Success`] in 3.x.
    pub reason: ReasonCode,
    /// Session Expiry Interval, seconds.
    pub session_expiry: Option<u32>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// An AUTH.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auth<'a> {
    /// Success, Continue or Re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method.
    pub method: Option<&'a str>,
    /// Authentication Data.
    pub data: Option<SecretBytes<'a>>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// What a CONNACK says (3.2). In 3.x only `session_present` and `reason` are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnAck<'a> {
    /// Session Present.
    pub session_present: bool,
    /// The verdict.
    pub reason: ReasonCode,
    /// Session Expiry Interval, where the server chose another.
    pub session_expiry: Option<u32>,
    /// Receive Maximum.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum `QoS`, where it is not 2.
    pub max_qos: Option<QoS>,
    /// Maximum Packet Size.
    pub max_packet_size: Option<u32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<&'a str>,
    /// Topic Alias Maximum.
    pub topic_alias_max: u16,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// Server Keep Alive, seconds.
    pub server_keep_alive: Option<u16>,
    /// Response Information.
    pub response_info: Option<&'a str>,
    /// Authentication Method.
    pub auth_method: Option<&'a str>,
    /// Authentication Data.
    pub auth_data: Option<&'a [u8]>,
}

impl ConnAck<'_> {
    /// A refusal without more words.
    #[must_use]
    pub fn refusal(reason: ReasonCode) -> Self {
        Self {
            session_present: false,
            reason,
            session_expiry: None,
            receive_maximum: None,
            max_qos: None,
            max_packet_size: None,
            assigned_client_id: None,
            topic_alias_max: 0,
            reason_string: None,
            server_keep_alive: None,
            response_info: None,
            auth_method: None,
            auth_data: None,
        }
    }
}

/// What a PUBLISH to a client says besides topic and payload.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// Where to; empty where `alias` was set before.
    pub topic: &'a str,
    /// The alias, if the client takes one.
    pub alias: Option<NonZeroU16>,
    /// The promise.
    pub delivery: Delivery,
    /// The RETAIN flag.
    pub retain: bool,
    /// Forwarded unchanged; `expiry` is what remains of it.
    pub properties: MessageProperties<'a>,
    /// Subscription Identifiers, one for each matching subscription that has one.
    pub subscription_ids: &'a [NonZeroU32],
    /// The application's bytes.
    pub payload: &'a [u8],
}
