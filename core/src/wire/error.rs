//! Why a byte string is not a packet, and what the peer is told.

use thiserror::Error;

use super::ReasonCode;

/// Why a byte string is not a packet: one variant for each rule that it can break. Statement ids
/// are those of MQTT 5.0, where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The packet ends inside a field, or a field is longer than what holds it.
    #[error("ends inside a field")]
    Truncated,
    /// Something follows the last field.
    #[error("has bytes after its last field")]
    TrailingBytes,
    /// Packet type 0, or in 3.x 15 (section 2.1.2).
    #[error("packet type {0} is reserved")]
    ReservedType(u8),
    /// \[MQTT-2.1.3-1\]
    #[error("first byte {0:#04x} has flags that its packet type does not allow")]
    Flags(u8),
    /// \[MQTT-3.3.1-4\]
    #[error("PUBLISH with both QoS bits set")]
    Qos3,
    /// \[MQTT-3.3.1-2\]
    #[error("PUBLISH at QoS 0 with DUP set")]
    DupWithoutQos,
    /// \[MQTT-1.5.5-1\]
    #[error("variable byte integer is not in its shortest form, or too long")]
    Varint,
    /// Larger than this peer may send.
    #[error("packet of {size} bytes; the limit is {limit}")]
    TooLarge {
        /// As announced by the fixed header, which is included.
        size: u32,
        /// As configured.
        limit: u32,
    },
    /// \[MQTT-3.1.0-1\]
    #[error("first packet is not a CONNECT")]
    NotConnect,
    /// \[MQTT-3.1.0-2\]
    #[error("second CONNECT")]
    SecondConnect,
    /// A protocol name or level that is not spoken here: answered with CONNACK 0x01 or 0x84, if at
    /// all \[MQTT-3.1.2-1\], \[MQTT-3.1.2-2\]. The level of a Mosquitto bridge (0x84) is one of them;
    /// it then asks again with 4.
    #[error("protocol name or level is not supported")]
    UnsupportedVersion,
    /// A packet that only the other side may send (section 2.1.2).
    #[error("packet type {0} is for the other direction")]
    WrongDirection(u8),
    /// \[MQTT-1.5.4-1\]
    #[error("string is not UTF-8")]
    Utf8,
    /// \[MQTT-1.5.4-2\]
    #[error("string contains U+0000")]
    NulInString,
    /// \[MQTT-2.2.1-3\]
    #[error("packet identifier is zero")]
    ZeroPacketId,
    /// \[MQTT-3.1.2-3\]
    #[error("CONNECT with its reserved flag set")]
    ReservedConnectFlag,
    /// \[MQTT-3.1.2-11\], \[MQTT-3.1.2-13\]
    #[error("CONNECT with Will QoS or Will Retain, but no Will Flag")]
    WillFlags,
    /// \[MQTT-3.1.2-12\]
    #[error("will with both QoS bits set")]
    WillQos3,
    /// \[MQTT-3.1.2-22\] of 3.1.1; 5.0 allows it.
    #[error("CONNECT with a password, but no user name")]
    PasswordWithoutUsername,
    /// Section 2.2.2.2
    #[error("property {0:#04x} does not exist")]
    UnknownProperty(u8),
    /// Section 2.2.2.2
    #[error("property {0:#04x} does not belong here")]
    MisplacedProperty(u8),
    /// Section 2.2.2.2 and that of the property
    #[error("property {0:#04x} is repeated")]
    RepeatedProperty(u8),
    /// A property that is 0 or 1 with another value.
    #[error("property {0:#04x} is neither 0 nor 1")]
    BooleanProperty(u8),
    /// Section 3.1.2.11.3
    #[error("Receive Maximum is zero")]
    ZeroReceiveMaximum,
    /// Section 3.1.2.11.4
    #[error("Maximum Packet Size is zero")]
    ZeroMaxPacketSize,
    /// \[MQTT-3.3.2-8\]
    #[error("Topic Alias is zero")]
    ZeroAlias,
    /// Sections 3.3.2.3.8 and 3.8.2.1.2
    #[error("Subscription Identifier is zero")]
    ZeroSubscriptionId,
    /// \[MQTT-3.3.4-6\]
    #[error("PUBLISH from a client with a Subscription Identifier")]
    SubscriptionIdFromClient,
    /// Section 3.1.2.11.10
    #[error("Authentication Data without Authentication Method")]
    AuthDataWithoutMethod,
    /// Section 3.15.2.2.2
    #[error("AUTH without Authentication Method")]
    AuthWithoutMethod,
    /// \[MQTT-3.8.3-2\], \[MQTT-3.10.3-2\]
    #[error("SUBSCRIBE or UNSUBSCRIBE without a filter")]
    NoFilters,
    /// \[MQTT-3.8.3-5\]; in 3.1.1 \[MQTT-3-8.3-4\]
    #[error("subscription options {0:#04x} with a reserved bit set")]
    ReservedOptions(u8),
    /// Section 3.8.3.1; in 3.1.1 \[MQTT-3-8.3-4\]
    #[error("subscription options with QoS 3")]
    SubscriptionQos3,
    /// Section 3.8.3.1
    #[error("subscription options with Retain Handling 3")]
    RetainHandling3,
    /// \[MQTT-3.8.3-4\]
    #[error("No Local on a shared subscription")]
    NoLocalOnShared,
    /// A reason or return code that a packet of this kind, from this side, cannot have.
    #[error("reason code {0:#04x} does not belong here")]
    InvalidReason(u8),
    /// \[MQTT-3.2.2-1\]
    #[error("CONNACK with a reserved flag set")]
    ReservedConnAckFlags,
    /// \[MQTT-3.2.2-6\]
    #[error("CONNACK that refuses and says that a session is present")]
    SessionPresentOnRefusal,
    /// \[MQTT-3.8.4-6\]: a code for each filter, and there is at least one.
    #[error("SUBACK or UNSUBACK without a reason code")]
    NoReasonCodes,
    /// More than [`Limits::user_properties`](super::Limits::user_properties).
    #[error("too many user properties")]
    TooManyUserProperties,
    /// More than [`Limits::user_property_bytes`](super::Limits::user_property_bytes).
    #[error("user properties are too large")]
    UserPropertiesTooLarge,
    /// More than [`Limits::filters_per_packet`](super::Limits::filters_per_packet).
    #[error("too many filters in one packet")]
    TooManyFilters,
}

impl DecodeError {
    /// What the peer is told, in a CONNACK or a DISCONNECT. No wildcard arm: whoever adds a variant
    /// has to choose its code here.
    #[must_use]
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::Truncated
            | Self::TrailingBytes
            | Self::ReservedType(_)
            | Self::Flags(_)
            | Self::Qos3
            | Self::DupWithoutQos
            | Self::Varint
            | Self::Utf8
            | Self::NulInString
            | Self::ReservedConnectFlag
            | Self::WillFlags
            | Self::WillQos3
            | Self::PasswordWithoutUsername
            | Self::UnknownProperty(_)
            | Self::MisplacedProperty(_)
            | Self::ReservedOptions(_)
            | Self::InvalidReason(_)
            | Self::ReservedConnAckFlags => ReasonCode::MalformedPacket,
            Self::NotConnect
            | Self::SecondConnect
            | Self::WrongDirection(_)
            | Self::ZeroPacketId
            | Self::RepeatedProperty(_)
            | Self::BooleanProperty(_)
            | Self::ZeroReceiveMaximum
            | Self::ZeroMaxPacketSize
            | Self::ZeroSubscriptionId
            | Self::SubscriptionIdFromClient
            | Self::AuthDataWithoutMethod
            | Self::AuthWithoutMethod
            | Self::NoFilters
            | Self::SubscriptionQos3
            | Self::RetainHandling3
            | Self::NoLocalOnShared
            | Self::SessionPresentOnRefusal
            | Self::NoReasonCodes => ReasonCode::ProtocolError,
            Self::ZeroAlias => ReasonCode::TopicAliasInvalid,
            Self::TooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedVersion => ReasonCode::UnsupportedProtocolVersion,
            Self::TooManyUserProperties | Self::UserPropertiesTooLarge | Self::TooManyFilters => {
                ReasonCode::QuotaExceeded
            }
        }
    }
}
