//! What a server sends, read from the client's side: for tests, for fuzzing, and for a bridge.

use std::num::{NonZeroU16, NonZeroU32};

use super::decode::{
    PUBACK_REASONS, PUBREL_REASONS, ack, auth, publish, reason_of, reason_properties,
};
use super::frame::{Frame, kind};
use super::properties::{Budget, Properties, Set, id};
use super::reader::Reader;
use super::{
    Ack, Auth, ConnAck, DecodeError, Disconnect, Limits, PacketId, Publish, QoS, ReasonCode,
    UserProperties, Version,
};

/// A decoded packet that a server may send.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerPacket<'a> {
    /// The answer to a CONNECT (section 3.2).
    ConnAck(Box<ConnAck<'a>>),
    /// An application message (3.3), and the Subscription Identifiers that came with it.
    Publish(Publish<'a>, Vec<NonZeroU32>),
    /// `QoS` 1 acknowledged (3.4).
    PubAck(Ack<'a>),
    /// `QoS` 2, first answer (3.5).
    PubRec(Ack<'a>),
    /// `QoS` 2, release (3.6).
    PubRel(Ack<'a>),
    /// `QoS` 2, complete (3.7).
    PubComp(Ack<'a>),
    /// The answer to a SUBSCRIBE (3.9).
    SubAck(SubAck<'a>),
    /// The answer to an UNSUBSCRIBE (3.11).
    UnsubAck(SubAck<'a>),
    /// The answer to a PINGREQ (3.13).
    PingResp,
    /// Goodbye (3.14), 5.0 only.
    Disconnect(Disconnect<'a>),
    /// Enhanced authentication (3.15), 5.0 only.
    Auth(Auth<'a>),
}

/// A SUBACK or an UNSUBACK.
#[derive(Clone, Debug, PartialEq)]
pub struct SubAck<'a> {
    /// Whose answer this is.
    pub id: PacketId,
    /// One for each filter, in their order; none in the UNSUBACK of 3.x.
    pub codes: Vec<ReasonCode>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// Decodes a packet that a server sends, with the same strictness as the other direction.
///
/// What the types have no place for is checked and then left out: of a CONNACK the four properties
/// that say what is available, Server Reference and user properties; of a DISCONNECT Server
/// Reference. The return codes of 3.x become the reason codes that say the same.
///
/// # Errors
///
/// The first rule that the packet breaks.
pub fn decode_server<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
) -> Result<ServerPacket<'a>, DecodeError> {
    match frame.kind() {
        kind::CONNACK => connack(frame, version, limits).map(ServerPacket::ConnAck),
        kind::PUBLISH => {
            let mut subscriptions = Vec::new();
            let publish = publish(frame, version, limits, |id| {
                subscriptions.push(id);
                Ok(())
            })?;
            Ok(ServerPacket::Publish(publish, subscriptions))
        }
        kind::PUBACK => ack(frame, version, limits, PUBACK_REASONS).map(ServerPacket::PubAck),
        kind::PUBREC => ack(frame, version, limits, PUBACK_REASONS).map(ServerPacket::PubRec),
        kind::PUBREL => ack(frame, version, limits, PUBREL_REASONS).map(ServerPacket::PubRel),
        kind::PUBCOMP => ack(frame, version, limits, PUBREL_REASONS).map(ServerPacket::PubComp),
        kind::SUBACK => suback(frame, version, limits).map(ServerPacket::SubAck),
        kind::UNSUBACK => unsuback(frame, version, limits).map(ServerPacket::UnsubAck),
        kind::PINGRESP => Reader::new(frame.body)
            .end()
            .map(|()| ServerPacket::PingResp),
        kind::DISCONNECT if version.is_v5() => {
            disconnect(frame, limits).map(ServerPacket::Disconnect)
        }
        kind::AUTH if version.is_v5() => auth(frame, limits, AUTH_REASONS).map(ServerPacket::Auth),
        kind @ (kind::CONNECT
        | kind::SUBSCRIBE
        | kind::UNSUBSCRIBE
        | kind::PINGREQ
        | kind::DISCONNECT) => Err(DecodeError::WrongDirection(kind)),
        kind => Err(DecodeError::ReservedType(kind)),
    }
}

/// Section 3.2.2.2.
const CONNACK_REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::UnsupportedProtocolVersion,
    ReasonCode::ClientIdentifierNotValid,
    ReasonCode::BadUserNameOrPassword,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerUnavailable,
    ReasonCode::ServerBusy,
    ReasonCode::Banned,
    ReasonCode::BadAuthenticationMethod,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
    ReasonCode::RetainNotSupported,
    ReasonCode::QoSNotSupported,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::ConnectionRateExceeded,
];

/// Section 3.9.3.
const SUBACK_REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::GrantedQoS1,
    ReasonCode::GrantedQoS2,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];

/// Section 3.9.3 of 3.1.1.
const SUBACK_REASONS_V3: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::GrantedQoS1,
    ReasonCode::GrantedQoS2,
    ReasonCode::UnspecifiedError,
];

/// Section 3.11.3.
const UNSUBACK_REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoSubscriptionExisted,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::PacketIdentifierInUse,
];

/// Section 3.14.2.1, sent by: server; and 0x8C, which section 2.4 lists for DISCONNECT too.
const DISCONNECT_REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerBusy,
    ReasonCode::ServerShuttingDown,
    ReasonCode::BadAuthenticationMethod,
    ReasonCode::KeepAliveTimeout,
    ReasonCode::SessionTakenOver,
    ReasonCode::TopicFilterInvalid,
    ReasonCode::TopicNameInvalid,
    ReasonCode::ReceiveMaximumExceeded,
    ReasonCode::TopicAliasInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::MessageRateTooHigh,
    ReasonCode::QuotaExceeded,
    ReasonCode::AdministrativeAction,
    ReasonCode::PayloadFormatInvalid,
    ReasonCode::RetainNotSupported,
    ReasonCode::QoSNotSupported,
    ReasonCode::UseAnotherServer,
    ReasonCode::ServerMoved,
    ReasonCode::SharedSubscriptionsNotSupported,
    ReasonCode::ConnectionRateExceeded,
    ReasonCode::MaximumConnectTime,
    ReasonCode::SubscriptionIdentifiersNotSupported,
    ReasonCode::WildcardSubscriptionsNotSupported,
];

/// Section 3.15.2.1, sent by: server.
const AUTH_REASONS: &[ReasonCode] = &[ReasonCode::Success, ReasonCode::ContinueAuthentication];

/// Section 3.2.
fn connack<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
) -> Result<Box<ConnAck<'a>>, DecodeError> {
    let mut body = Reader::new(frame.body);
    let session_present = match body.u8()? {
        0 => false,
        // In 3.1 that byte is reserved, and whatever stands in it says nothing.
        1 => version != Version::V3_1,
        _ => return Err(DecodeError::ReservedConnAckFlags),
    };
    let reason = match body.u8()? {
        code if version.is_v5() => reason_of(code, CONNACK_REASONS)?,
        code => return_code(code)?,
    };
    if session_present && reason != ReasonCode::Success {
        return Err(DecodeError::SessionPresentOnRefusal);
    }
    let mut connack = Box::new(ConnAck {
        session_present,
        ..ConnAck::refusal(reason)
    });
    if version.is_v5() {
        connack_properties(body.block()?, limits, &mut connack)?;
    }
    body.end()?;
    Ok(connack)
}

/// The return codes of 3.1.1, table 3.1.
fn return_code(code: u8) -> Result<ReasonCode, DecodeError> {
    match code {
        0x00 => Ok(ReasonCode::Success),
        0x01 => Ok(ReasonCode::UnsupportedProtocolVersion),
        0x02 => Ok(ReasonCode::ClientIdentifierNotValid),
        0x03 => Ok(ReasonCode::ServerUnavailable),
        0x04 => Ok(ReasonCode::BadUserNameOrPassword),
        0x05 => Ok(ReasonCode::NotAuthorized),
        _ => Err(DecodeError::InvalidReason(code)),
    }
}

/// Section 3.2.2.3.
fn connack_properties<'a>(
    block: &'a [u8],
    limits: &Limits,
    connack: &mut ConnAck<'a>,
) -> Result<(), DecodeError> {
    const ALLOWED: Set = Set::of(&[
        id::SESSION_EXPIRY,
        id::RECEIVE_MAXIMUM,
        id::MAX_QOS,
        id::RETAIN_AVAILABLE,
        id::MAX_PACKET_SIZE,
        id::ASSIGNED_CLIENT_ID,
        id::TOPIC_ALIAS_MAX,
        id::REASON_STRING,
        id::WILDCARD_AVAILABLE,
        id::SUBSCRIPTION_IDS_AVAILABLE,
        id::SHARED_AVAILABLE,
        id::SERVER_KEEP_ALIVE,
        id::RESPONSE_INFO,
        id::SERVER_REFERENCE,
        id::AUTH_METHOD,
        id::AUTH_DATA,
    ]);
    let mut budget = Budget::new(limits);
    let mut properties = Properties::new(block, ALLOWED, &mut budget);
    while let Some(id) = properties.next()? {
        match id {
            id::SESSION_EXPIRY => connack.session_expiry = Some(properties.value.u32()?),
            id::RECEIVE_MAXIMUM => {
                let maximum = NonZeroU16::new(properties.value.u16()?);
                connack.receive_maximum = Some(maximum.ok_or(DecodeError::ZeroReceiveMaximum)?);
            }
            id::MAX_QOS => {
                let at_least_once = properties.boolean(id)?;
                connack.max_qos = QoS::from_bits(u8::from(at_least_once));
            }
            id::MAX_PACKET_SIZE => match properties.value.u32()? {
                0 => return Err(DecodeError::ZeroMaxPacketSize),
                maximum => connack.max_packet_size = Some(maximum),
            },
            id::ASSIGNED_CLIENT_ID => {
                connack.assigned_client_id = Some(properties.value.utf8()?);
            }
            id::TOPIC_ALIAS_MAX => connack.topic_alias_max = properties.value.u16()?,
            id::REASON_STRING => connack.reason_string = Some(properties.value.utf8()?),
            id::SERVER_KEEP_ALIVE => connack.server_keep_alive = Some(properties.value.u16()?),
            id::RESPONSE_INFO => connack.response_info = Some(properties.value.utf8()?),
            id::SERVER_REFERENCE => drop(properties.value.utf8()?),
            id::AUTH_METHOD => connack.auth_method = Some(properties.value.utf8()?),
            id::AUTH_DATA => connack.auth_data = Some(properties.value.binary()?),
            _ => drop(properties.boolean(id)?),
        }
    }
    if connack.auth_data.is_some() && connack.auth_method.is_none() {
        return Err(DecodeError::AuthDataWithoutMethod);
    }
    Ok(())
}

/// Section 3.9.
fn suback<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
) -> Result<SubAck<'a>, DecodeError> {
    let allowed = if version.is_v5() {
        SUBACK_REASONS
    } else {
        SUBACK_REASONS_V3
    };
    let mut body = Reader::new(frame.body);
    let id = body.packet_id()?;
    codes(id, body, version, limits, allowed)
}

/// Section 3.11; in 3.x nothing follows the identifier.
fn unsuback<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
) -> Result<SubAck<'a>, DecodeError> {
    let mut body = Reader::new(frame.body);
    let id = body.packet_id()?;
    if version.is_v5() {
        return codes(id, body, version, limits, UNSUBACK_REASONS);
    }
    body.end()?;
    Ok(SubAck {
        id,
        codes: Vec::new(),
        reason_string: None,
        user: UserProperties::default(),
    })
}

/// What follows the identifier of a SUBACK or UNSUBACK.
fn codes<'a>(
    id: PacketId,
    mut body: Reader<'a>,
    version: Version,
    limits: &Limits,
    allowed: &[ReasonCode],
) -> Result<SubAck<'a>, DecodeError> {
    let (reason_string, user) = if version.is_v5() {
        reason_properties(body.block()?, limits)?
    } else {
        (None, UserProperties::default())
    };
    if body.is_empty() {
        return Err(DecodeError::NoReasonCodes);
    }
    let codes = body.rest().iter().map(|code| reason_of(*code, allowed));
    Ok(SubAck {
        id,
        codes: codes.collect::<Result<_, _>>()?,
        reason_string,
        user,
    })
}

/// Section 3.14. A server must not send Session Expiry Interval \[MQTT-3.14.2-2\].
fn disconnect<'a>(frame: Frame<'a>, limits: &Limits) -> Result<Disconnect<'a>, DecodeError> {
    const ALLOWED: Set = Set::of(&[id::REASON_STRING, id::SERVER_REFERENCE]);
    let mut body = Reader::new(frame.body);
    let mut disconnect = Disconnect {
        reason: ReasonCode::Success,
        session_expiry: None,
        reason_string: None,
        user: UserProperties::default(),
    };
    if !body.is_empty() {
        disconnect.reason = reason_of(body.u8()?, DISCONNECT_REASONS)?;
    }
    if !body.is_empty() {
        let mut budget = Budget::new(limits);
        let mut properties = Properties::new(body.block()?, ALLOWED, &mut budget);
        while let Some(id) = properties.next()? {
            let text = properties.value.utf8()?;
            if id == id::REASON_STRING {
                disconnect.reason_string = Some(text);
            }
        }
        disconnect.user = properties.user();
    }
    body.end()?;
    Ok(disconnect)
}
