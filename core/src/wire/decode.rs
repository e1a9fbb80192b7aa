//! What a client sends: frames to packets.

use std::num::{NonZeroU16, NonZeroU32};

use crate::secret::Secret;

use super::frame::{Frame, kind, read_version};
use super::properties::{Budget, MESSAGE, Properties, Set, id};
use super::reader::Reader;
use super::{
    Ack, Auth, Connect, DecodeError, Delivery, Disconnect, Limits, MessageProperties, Packet,
    Publish, QoS, ReasonCode, RetainHandling, SecretBytes, Subscribe, SubscribeOptions,
    Unsubscribe, UserProperties, Version, Will,
};

/// Decodes the first packet of a connection, which must be a CONNECT \[MQTT-3.1.0-1\].
///
/// An empty client id without Clean Session is left to the caller, who answers with CONNACK 0x02
/// \[MQTT-3.1.3-8\] of 3.1.1; so is a client id over 23 bytes in 3.1, which is accepted here. The will
/// topic is only a string yet, and the payload of a will that claims to be UTF-8 is not looked at.
///
/// # Errors
///
/// The first rule that the packet breaks. [`DecodeError::UnsupportedVersion`] comes before anything
/// that a later version could have changed.
pub fn decode_connect<'a>(
    frame: Frame<'a>,
    limits: &Limits,
) -> Result<Box<Connect<'a>>, DecodeError> {
    if frame.kind() != kind::CONNECT {
        return Err(DecodeError::NotConnect);
    }
    let mut body = Reader::new(frame.body);
    let version = read_version(&mut body)?;
    let flags = ConnectFlags::read(body.u8()?, version)?;
    let keep_alive = body.u16()?;
    let mut budget = Budget::new(limits);
    let mut connect = Box::new(Connect {
        version,
        clean_start: flags.clean_start,
        keep_alive,
        client_id: "",
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
    });
    if version.is_v5() {
        connect_properties(body.block()?, &mut budget, &mut connect)?;
    }
    connect.client_id = body.utf8()?;
    if let Some((qos, retain)) = flags.will {
        connect.will = Some(will(&mut body, version, qos, retain, &mut budget)?);
    }
    if flags.username {
        connect.username = Some(body.utf8()?);
    }
    if flags.password {
        connect.password = Some(SecretBytes(Secret::new(body.binary()?)));
    }
    body.end()?;
    Ok(connect)
}

/// Decodes a packet that a client sends after its CONNECT.
///
/// # Errors
///
/// The first rule that the packet breaks; a CONNECT is [`DecodeError::SecondConnect`].
#[inline]
pub fn decode<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
) -> Result<Packet<'a>, DecodeError> {
    match frame.kind() {
        kind::PUBLISH => publish(frame, version, limits, |_| {
            Err(DecodeError::SubscriptionIdFromClient)
        })
        .map(Packet::Publish),
        kind::PUBACK => ack(frame, version, limits, PUBACK_REASONS).map(Packet::PubAck),
        kind::PUBREC => ack(frame, version, limits, PUBACK_REASONS).map(Packet::PubRec),
        kind::PUBREL => ack(frame, version, limits, PUBREL_REASONS).map(Packet::PubRel),
        kind::PUBCOMP => ack(frame, version, limits, PUBREL_REASONS).map(Packet::PubComp),
        kind::SUBSCRIBE => subscribe(frame, version, limits).map(Packet::Subscribe),
        kind::UNSUBSCRIBE => unsubscribe(frame, version, limits).map(Packet::Unsubscribe),
        kind::PINGREQ => Reader::new(frame.body).end().map(|()| Packet::PingReq),
        kind::DISCONNECT => disconnect(frame, version, limits).map(Packet::Disconnect),
        kind::AUTH if version.is_v5() => auth(frame, limits, CLIENT_AUTH_REASONS).map(Packet::Auth),
        kind::CONNECT => Err(DecodeError::SecondConnect),
        kind @ (kind::CONNACK | kind::SUBACK | kind::UNSUBACK | kind::PINGRESP) => {
            Err(DecodeError::WrongDirection(kind))
        }
        kind => Err(DecodeError::ReservedType(kind)),
    }
}

/// Sections 3.4.2.1 and 3.5.2.1.
pub(super) const PUBACK_REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
];

/// Sections 3.6.2.1 and 3.7.2.1.
pub(super) const PUBREL_REASONS: &[ReasonCode] =
    &[ReasonCode::Success, ReasonCode::PacketIdentifierNotFound];

/// Section 3.14.2.1, sent by: client.
const DISCONNECT_REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::DisconnectWithWill,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::TopicNameInvalid,
    ReasonCode::ReceiveMaximumExceeded,
    ReasonCode::TopicAliasInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::MessageRateTooHigh,
    ReasonCode::QuotaExceeded,
    ReasonCode::AdministrativeAction,
    ReasonCode::PayloadFormatInvalid,
];

/// Section 3.15.2.1, sent by: client.
const CLIENT_AUTH_REASONS: &[ReasonCode] = &[
    ReasonCode::ContinueAuthentication,
    ReasonCode::ReAuthenticate,
];

/// A reason code that this kind of packet can have.
pub(super) fn reason_of(byte: u8, allowed: &[ReasonCode]) -> Result<ReasonCode, DecodeError> {
    let found = allowed.iter().copied().find(|code| *code as u8 == byte);
    found.ok_or(DecodeError::InvalidReason(byte))
}

/// The Connect Flags (section 3.1.2.3), checked against each other.
struct ConnectFlags {
    clean_start: bool,
    will: Option<(QoS, bool)>,
    username: bool,
    password: bool,
}

impl ConnectFlags {
    fn read(flags: u8, version: Version) -> Result<Self, DecodeError> {
        let has = |bit: u8| flags & bit != 0;
        if has(0x01) {
            return Err(DecodeError::ReservedConnectFlag);
        }
        let will = if has(0x04) {
            let qos = QoS::from_bits(flags >> 3).ok_or(DecodeError::WillQos3)?;
            Some((qos, has(0x20)))
        } else if has(0x38) {
            return Err(DecodeError::WillFlags);
        } else {
            None
        };
        let (username, password) = (has(0x80), has(0x40));
        if password && !username && !version.is_v5() {
            return Err(DecodeError::PasswordWithoutUsername);
        }
        Ok(Self {
            clean_start: has(0x02),
            will,
            username,
            password,
        })
    }
}

/// Section 3.1.2.11.
fn connect_properties<'a>(
    block: &'a [u8],
    budget: &mut Budget,
    connect: &mut Connect<'a>,
) -> Result<(), DecodeError> {
    const ALLOWED: Set = Set::of(&[
        id::SESSION_EXPIRY,
        id::RECEIVE_MAXIMUM,
        id::MAX_PACKET_SIZE,
        id::TOPIC_ALIAS_MAX,
        id::REQUEST_RESPONSE_INFO,
        id::REQUEST_PROBLEM_INFO,
        id::AUTH_METHOD,
        id::AUTH_DATA,
    ]);
    let mut properties = Properties::new(block, ALLOWED, budget);
    while let Some(id) = properties.next()? {
        match id {
            id::SESSION_EXPIRY => connect.session_expiry = Some(properties.value.u32()?),
            id::RECEIVE_MAXIMUM => {
                let maximum = NonZeroU16::new(properties.value.u16()?);
                connect.receive_maximum = Some(maximum.ok_or(DecodeError::ZeroReceiveMaximum)?);
            }
            id::MAX_PACKET_SIZE => {
                let maximum = NonZeroU32::new(properties.value.u32()?);
                connect.max_packet_size = Some(maximum.ok_or(DecodeError::ZeroMaxPacketSize)?);
            }
            id::TOPIC_ALIAS_MAX => connect.topic_alias_max = properties.value.u16()?,
            id::REQUEST_RESPONSE_INFO => connect.request_response_info = properties.boolean(id)?,
            id::REQUEST_PROBLEM_INFO => connect.request_problem_info = properties.boolean(id)?,
            id::AUTH_METHOD => connect.auth_method = Some(properties.value.utf8()?),
            id::AUTH_DATA => {
                let data = Secret::new(properties.value.binary()?);
                connect.auth_data = Some(SecretBytes(data));
            }
            _ => return Err(DecodeError::MisplacedProperty(id)),
        }
    }
    connect.user = properties.user();
    if connect.auth_data.is_some() && connect.auth_method.is_none() {
        return Err(DecodeError::AuthDataWithoutMethod);
    }
    Ok(())
}

/// Sections 3.1.3.2 to 3.1.3.4.
fn will<'a>(
    body: &mut Reader<'a>,
    version: Version,
    qos: QoS,
    retain: bool,
    budget: &mut Budget,
) -> Result<Will<'a>, DecodeError> {
    const ALLOWED: Set = MESSAGE.with(id::WILL_DELAY);
    let (mut message, mut delay) = (MessageProperties::default(), 0);
    if version.is_v5() {
        let mut properties = Properties::new(body.block()?, ALLOWED, budget);
        while let Some(id) = properties.next()? {
            if id == id::WILL_DELAY {
                delay = properties.value.u32()?;
            } else if !properties.read_message(id, &mut message)? {
                return Err(DecodeError::MisplacedProperty(id));
            }
        }
        message.user = properties.user();
    }
    Ok(Will {
        topic: body.utf8()?,
        payload: body.binary()?,
        qos,
        retain,
        delay,
        properties: message,
    })
}

/// A PUBLISH (section 3.3), from either side. `subscription` is given each Subscription Identifier
/// and says whether there may be one.
#[inline]
pub(super) fn publish<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
    subscription: impl FnMut(NonZeroU32) -> Result<(), DecodeError>,
) -> Result<Publish<'a>, DecodeError> {
    let (qos, dup, retain) = frame.publish_flags()?;
    let mut body = Reader::new(frame.body);
    let topic = body.utf8()?;
    let delivery = match qos {
        QoS::AtMostOnce => Delivery::AtMostOnce,
        QoS::AtLeastOnce => Delivery::AtLeastOnce {
            id: body.packet_id()?,
            dup,
        },
        QoS::ExactlyOnce => Delivery::ExactlyOnce {
            id: body.packet_id()?,
            dup,
        },
    };
    let mut publish = Publish {
        topic,
        alias: None,
        delivery,
        retain,
        properties: MessageProperties::default(),
        payload: &[],
    };
    if version.is_v5() {
        let block = body.block()?;
        if !block.is_empty() {
            publish_properties(block, limits, &mut publish, subscription)?;
        }
    }
    publish.payload = body.rest();
    Ok(publish)
}

/// Section 3.3.2.3.
fn publish_properties<'a>(
    block: &'a [u8],
    limits: &Limits,
    publish: &mut Publish<'a>,
    mut subscription: impl FnMut(NonZeroU32) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    const ALLOWED: Set = MESSAGE.with(id::TOPIC_ALIAS).with(id::SUBSCRIPTION_ID);
    const REPEATABLE: Set = Set::of(&[id::SUBSCRIPTION_ID]);
    let mut budget = Budget::new(limits);
    let mut properties = Properties::new(block, ALLOWED, &mut budget).with_repeatable(REPEATABLE);
    while let Some(id) = properties.next()? {
        match id {
            id::TOPIC_ALIAS => {
                let alias = NonZeroU16::new(properties.value.u16()?);
                publish.alias = Some(alias.ok_or(DecodeError::ZeroAlias)?);
            }
            id::SUBSCRIPTION_ID => subscription(properties.subscription_id()?)?,
            _ if properties.read_message(id, &mut publish.properties)? => {}
            _ => return Err(DecodeError::MisplacedProperty(id)),
        }
    }
    publish.properties.user = properties.user();
    Ok(())
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7), from either side: in 3.x two bytes, in
/// 5.0 two, three, or four and more.
#[inline]
pub(super) fn ack<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
    allowed: &[ReasonCode],
) -> Result<Ack<'a>, DecodeError> {
    let mut body = Reader::new(frame.body);
    let mut ack = Ack {
        id: body.packet_id()?,
        reason: ReasonCode::Success,
        reason_string: None,
        user: UserProperties::default(),
    };
    if version.is_v5() && !body.is_empty() {
        ack.reason = reason_of(body.u8()?, allowed)?;
        if !body.is_empty() {
            (ack.reason_string, ack.user) = reason_properties(body.block()?, limits)?;
        }
    }
    body.end()?;
    Ok(ack)
}

/// A block that may hold a Reason String and user properties.
pub(super) fn reason_properties<'a>(
    block: &'a [u8],
    limits: &Limits,
) -> Result<(Option<&'a str>, UserProperties<'a>), DecodeError> {
    const ALLOWED: Set = Set::of(&[id::REASON_STRING]);
    let mut budget = Budget::new(limits);
    let mut properties = Properties::new(block, ALLOWED, &mut budget);
    let mut reason_string = None;
    while properties.next()?.is_some() {
        reason_string = Some(properties.value.utf8()?);
    }
    Ok((reason_string, properties.user()))
}

/// Section 3.8.
fn subscribe<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
) -> Result<Subscribe<'a>, DecodeError> {
    const ALLOWED: Set = Set::of(&[id::SUBSCRIPTION_ID]);
    let mut body = Reader::new(frame.body);
    let mut subscribe = Subscribe {
        id: body.packet_id()?,
        subscription_id: None,
        filters: Vec::new(),
        user: UserProperties::default(),
    };
    if version.is_v5() {
        let mut budget = Budget::new(limits);
        let mut properties = Properties::new(body.block()?, ALLOWED, &mut budget);
        while properties.next()?.is_some() {
            subscribe.subscription_id = Some(properties.subscription_id()?);
        }
        subscribe.user = properties.user();
    }
    while !body.is_empty() {
        if subscribe.filters.len() >= limits.filters_per_packet {
            return Err(DecodeError::TooManyFilters);
        }
        let filter = body.utf8()?;
        let options = options(body.u8()?, version)?;
        if options.no_local && filter.starts_with("$share/") {
            return Err(DecodeError::NoLocalOnShared);
        }
        subscribe.filters.push((filter, options));
    }
    if subscribe.filters.is_empty() {
        return Err(DecodeError::NoFilters);
    }
    Ok(subscribe)
}

/// Section 3.8.3.1; in 3.x only the two `QoS` bits exist.
fn options(options: u8, version: Version) -> Result<SubscribeOptions, DecodeError> {
    let reserved = if version.is_v5() { 0xc0 } else { 0xfc };
    if options & reserved != 0 {
        return Err(DecodeError::ReservedOptions(options));
    }
    let qos = QoS::from_bits(options).ok_or(DecodeError::SubscriptionQos3)?;
    let retain_handling = match options >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(DecodeError::RetainHandling3),
    };
    Ok(SubscribeOptions {
        qos,
        no_local: options & 0x04 != 0,
        retain_as_published: options & 0x08 != 0,
        retain_handling,
    })
}

/// Section 3.10.
fn unsubscribe<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
) -> Result<Unsubscribe<'a>, DecodeError> {
    let mut body = Reader::new(frame.body);
    let mut unsubscribe = Unsubscribe {
        id: body.packet_id()?,
        filters: Vec::new(),
        user: UserProperties::default(),
    };
    if version.is_v5() {
        let mut budget = Budget::new(limits);
        let mut properties = Properties::new(body.block()?, Set::NONE, &mut budget);
        // Only user properties may stand here; they do not show up as identifiers.
        if let Some(id) = properties.next()? {
            return Err(DecodeError::MisplacedProperty(id));
        }
        unsubscribe.user = properties.user();
    }
    while !body.is_empty() {
        if unsubscribe.filters.len() >= limits.filters_per_packet {
            return Err(DecodeError::TooManyFilters);
        }
        unsubscribe.filters.push(body.utf8()?);
    }
    if unsubscribe.filters.is_empty() {
        return Err(DecodeError::NoFilters);
    }
    Ok(unsubscribe)
}

/// Section 3.14: in 3.x empty, in 5.0 the reason and then the properties may be left out.
fn disconnect<'a>(
    frame: Frame<'a>,
    version: Version,
    limits: &Limits,
) -> Result<Disconnect<'a>, DecodeError> {
    const ALLOWED: Set = Set::of(&[id::SESSION_EXPIRY, id::REASON_STRING]);
    let mut body = Reader::new(frame.body);
    let mut disconnect = Disconnect {
        reason: ReasonCode::Success,
        session_expiry: None,
        reason_string: None,
        user: UserProperties::default(),
    };
    if version.is_v5() && !body.is_empty() {
        disconnect.reason = reason_of(body.u8()?, DISCONNECT_REASONS)?;
        if !body.is_empty() {
            let mut budget = Budget::new(limits);
            let mut properties = Properties::new(body.block()?, ALLOWED, &mut budget);
            while let Some(id) = properties.next()? {
                if id == id::SESSION_EXPIRY {
                    disconnect.session_expiry = Some(properties.value.u32()?);
                } else {
                    disconnect.reason_string = Some(properties.value.utf8()?);
                }
            }
            disconnect.user = properties.user();
        }
    }
    body.end()?;
    Ok(disconnect)
}

/// Section 3.15, from either side.
pub(super) fn auth<'a>(
    frame: Frame<'a>,
    limits: &Limits,
    allowed: &[ReasonCode],
) -> Result<Auth<'a>, DecodeError> {
    const ALLOWED: Set = Set::of(&[id::AUTH_METHOD, id::AUTH_DATA, id::REASON_STRING]);
    let mut body = Reader::new(frame.body);
    if body.is_empty() {
        // Reason Success and no properties; but the method must not be left out (3.15.2.2.2).
        reason_of(ReasonCode::Success as u8, allowed)?;
        return Err(DecodeError::AuthWithoutMethod);
    }
    let mut auth = Auth {
        reason: reason_of(body.u8()?, allowed)?,
        method: None,
        data: None,
        reason_string: None,
        user: UserProperties::default(),
    };
    let mut budget = Budget::new(limits);
    let mut properties = Properties::new(body.block()?, ALLOWED, &mut budget);
    while let Some(id) = properties.next()? {
        match id {
            id::AUTH_METHOD => auth.method = Some(properties.value.utf8()?),
            id::AUTH_DATA => {
                auth.data = Some(SecretBytes(Secret::new(properties.value.binary()?)));
            }
            _ => auth.reason_string = Some(properties.value.utf8()?),
        }
    }
    auth.user = properties.user();
    if auth.method.is_none() {
        return Err(DecodeError::AuthWithoutMethod);
    }
    body.end()?;
    Ok(auth)
}
