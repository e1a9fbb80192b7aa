//! Packets made from arbitrary bytes: every kind, every optional field, sizes around the borders of
//! the length encodings.

use std::num::{NonZeroU16, NonZeroU32};

use crate::secret::Secret;
use crate::wire::{
    self, Ack, AckKind, Auth, ConnAck, Connect, Delivery, Disconnect, EncodedPublish,
    MessageProperties, Outbound, Packet, PacketId, Publish, QoS, ReasonCode, RetainHandling,
    SecretBytes, ServerPacket, SubAck, Subscribe, SubscribeOptions, Unsubscribe, UserProperties,
    Version, Will,
};

/// What the fields of packets borrow from.
pub(super) struct Material {
    texts: Vec<String>,
    blocks: Vec<Vec<u8>>,
    rest: Vec<u8>,
}

impl Material {
    pub(super) fn new(input: &[u8]) -> Self {
        let mut choices = Choices(input);
        let texts: Vec<String> = (0..6).map(|_| choices.text()).collect();
        let blocks = (0..3)
            .map(|_| {
                let pairs = 0..choices.byte() % 4;
                let pairs: Vec<(String, String)> =
                    pairs.map(|_| (choices.text(), choices.text())).collect();
                UserProperties::block(pairs.iter().map(|(name, value)| (&**name, &**value)))
            })
            .collect();
        Self {
            texts,
            blocks,
            rest: choices.0.to_vec(),
        }
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source {
            material: self,
            choices: Choices(&self.rest),
        }
    }
}

/// Bytes that decide; zeros when they are used up.
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// Mostly short; now and then as long as a string can be.
    fn text(&mut self) -> String {
        let length = self.byte();
        if length == u8::MAX {
            let border = [127, 128, 16_383, 16_384, 65_534, 65_535];
            let length = border.get(usize::from(self.byte()) % border.len());
            return "x".repeat(length.copied().unwrap_or(1));
        }
        let (bytes, rest) = self.0.split_at(usize::from(length % 24).min(self.0.len()));
        self.0 = rest;
        String::from_utf8_lossy(bytes).replace('\0', "0")
    }
}

/// Makes packets.
pub(super) struct Source<'a> {
    material: &'a Material,
    choices: Choices<'a>,
}

impl<'a> Source<'a> {
    fn flag(&mut self) -> bool {
        self.choices.byte() & 1 == 1
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn one_of<T: Copy>(&mut self, first: T, others: &[T]) -> T {
        let at = usize::from(self.choices.byte()) % (others.len() + 1);
        others.get(at).copied().unwrap_or(first)
    }

    fn text(&mut self) -> &'a str {
        let at = usize::from(self.choices.byte()) % self.material.texts.len().max(1);
        self.material.texts.get(at).map_or("", String::as_str)
    }

    fn bytes(&mut self) -> &'a [u8] {
        self.text().as_bytes()
    }

    fn secret(&mut self) -> SecretBytes<'a> {
        SecretBytes(Secret::new(self.bytes()))
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.choices.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.choices.array())
    }

    fn nonzero_u16(&mut self) -> NonZeroU16 {
        NonZeroU16::new(self.u16()).unwrap_or(NonZeroU16::MIN)
    }

    fn nonzero_u32(&mut self) -> NonZeroU32 {
        NonZeroU32::new(self.u32()).unwrap_or(NonZeroU32::MIN)
    }

    /// One to four bytes long on the wire.
    fn subscription_id(&mut self) -> NonZeroU32 {
        let id = self.u32() >> self.one_of(4, &[11, 18, 25]);
        NonZeroU32::new(id).unwrap_or(NonZeroU32::MIN)
    }

    fn user(&mut self, version: Version) -> UserProperties<'a> {
        let at = usize::from(self.choices.byte()) % (self.material.blocks.len() + 1);
        let block = self.material.blocks.get(at).filter(|_| version.is_v5());
        let user = block.and_then(|block| UserProperties::from_block(block));
        user.unwrap_or_default()
    }

    fn qos(&mut self) -> QoS {
        self.one_of(QoS::AtMostOnce, &[QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    pub(super) fn version(&mut self) -> Version {
        self.one_of(Version::V5, &[Version::V3_1_1, Version::V3_1, Version::V5])
    }

    fn delivery(&mut self) -> Delivery {
        let (id, dup) = (self.nonzero_u16(), self.flag());
        match self.qos() {
            QoS::AtMostOnce => Delivery::AtMostOnce,
            QoS::AtLeastOnce => Delivery::AtLeastOnce { id, dup },
            QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
        }
    }

    pub(super) fn message_properties(&mut self, version: Version) -> MessageProperties<'a> {
        if !version.is_v5() {
            return MessageProperties::default();
        }
        MessageProperties {
            payload_is_utf8: self.flag(),
            expiry: self.maybe(Self::u32),
            content_type: self.maybe(Self::text),
            response_topic: self.maybe(Self::text),
            correlation_data: self.maybe(Self::bytes),
            user: self.user(version),
        }
    }

    pub(super) fn client_packet(&mut self, version: Version) -> Packet<'a> {
        match self.choices.byte() % 11 {
            0 => Packet::Connect(Box::new(self.connect(version))),
            1 => Packet::Publish(self.publish(version)),
            2 => Packet::PubAck(self.ack(version, ReasonCode::QuotaExceeded)),
            3 => Packet::PubRec(self.ack(version, ReasonCode::NotAuthorized)),
            4 => Packet::PubRel(self.ack(version, ReasonCode::PacketIdentifierNotFound)),
            5 => Packet::PubComp(self.ack(version, ReasonCode::PacketIdentifierNotFound)),
            6 => Packet::Subscribe(self.subscribe(version)),
            7 => Packet::Unsubscribe(Unsubscribe {
                id: self.nonzero_u16(),
                filters: (0..=self.choices.byte() % 3).map(|_| self.text()).collect(),
                user: self.user(version),
            }),
            8 if version.is_v5() => {
                let others = [ReasonCode::DisconnectWithWill, ReasonCode::QuotaExceeded];
                Packet::Disconnect(Disconnect {
                    reason: self.one_of(ReasonCode::Success, &others),
                    session_expiry: self.maybe(Self::u32),
                    reason_string: self.maybe(Self::text),
                    user: self.user(version),
                })
            }
            8 => Packet::Disconnect(Disconnect {
                reason: ReasonCode::Success,
                session_expiry: None,
                reason_string: None,
                user: UserProperties::default(),
            }),
            9 if version.is_v5() => Packet::Auth(self.auth(ReasonCode::ReAuthenticate)),
            _ => Packet::PingReq,
        }
    }

    /// What the broker's encoder can send.
    pub(super) fn server_packet(&mut self, version: Version) -> ServerPacket<'a> {
        let plain = UserProperties::default();
        let ack = |source: &mut Self, failure| Ack {
            user: plain,
            ..source.ack(version, failure)
        };
        match self.choices.byte() % 11 {
            0 => ServerPacket::ConnAck(Box::new(self.connack(version))),
            1 => {
                let ids = if version.is_v5() {
                    self.choices.byte() % 4
                } else {
                    0
                };
                let ids = (0..ids).map(|_| self.subscription_id()).collect();
                ServerPacket::Publish(self.publish(version), ids)
            }
            2 => ServerPacket::PubAck(ack(self, ReasonCode::NotAuthorized)),
            3 => ServerPacket::PubRec(ack(self, ReasonCode::QuotaExceeded)),
            4 => ServerPacket::PubRel(ack(self, ReasonCode::PacketIdentifierNotFound)),
            5 => ServerPacket::PubComp(ack(self, ReasonCode::PacketIdentifierNotFound)),
            6 => ServerPacket::SubAck(self.suback(version)),
            7 => {
                let codes = if version.is_v5() {
                    1 + self.choices.byte() % 3
                } else {
                    0
                };
                let others = [
                    ReasonCode::NoSubscriptionExisted,
                    ReasonCode::TopicFilterInvalid,
                ];
                let code = |_| self.one_of(ReasonCode::Success, &others);
                ServerPacket::UnsubAck(SubAck {
                    codes: (0..codes).map(code).collect(),
                    id: self.nonzero_u16(),
                    reason_string: self.maybe(Self::text).filter(|_| version.is_v5()),
                    user: plain,
                })
            }
            8 if version.is_v5() => {
                let others = [ReasonCode::NotAuthorized, ReasonCode::SessionTakenOver];
                ServerPacket::Disconnect(Disconnect {
                    reason: self.one_of(ReasonCode::AdministrativeAction, &others),
                    session_expiry: None,
                    reason_string: self.maybe(Self::text),
                    user: plain,
                })
            }
            9 if version.is_v5() => ServerPacket::Auth(Auth {
                user: plain,
                ..self.auth(ReasonCode::Success)
            }),
            _ => ServerPacket::PingResp,
        }
    }

    fn connect(&mut self, version: Version) -> Connect<'a> {
        let v5 = version.is_v5();
        let username = self.maybe(Self::text);
        let auth_method = self.maybe(Self::text).filter(|_| v5);
        Connect {
            version,
            clean_start: self.flag(),
            keep_alive: self.u16(),
            client_id: self.text(),
            will: self.maybe(|source| Will {
                topic: source.text(),
                payload: source.bytes(),
                qos: source.qos(),
                retain: source.flag(),
                delay: if v5 { source.u32() } else { 0 },
                properties: source.message_properties(version),
            }),
            username,
            password: self
                .maybe(Self::secret)
                .filter(|_| v5 || username.is_some()),
            session_expiry: self.maybe(Self::u32).filter(|_| v5),
            receive_maximum: self.maybe(Self::nonzero_u16).filter(|_| v5),
            max_packet_size: self.maybe(Self::nonzero_u32).filter(|_| v5),
            topic_alias_max: if v5 { self.u16() } else { 0 },
            request_response_info: v5 && self.flag(),
            request_problem_info: !v5 || self.flag(),
            auth_method,
            auth_data: self.maybe(Self::secret).filter(|_| auth_method.is_some()),
            user: self.user(version),
        }
    }

    fn publish(&mut self, version: Version) -> Publish<'a> {
        Publish {
            topic: self.text(),
            alias: self.maybe(Self::nonzero_u16).filter(|_| version.is_v5()),
            delivery: self.delivery(),
            retain: self.flag(),
            properties: self.message_properties(version),
            payload: self.bytes(),
        }
    }

    fn ack(&mut self, version: Version, failure: ReasonCode) -> Ack<'a> {
        let v5 = version.is_v5();
        Ack {
            id: self.nonzero_u16(),
            reason: if v5 && self.flag() {
                failure
            } else {
                ReasonCode::Success
            },
            reason_string: self.maybe(Self::text).filter(|_| v5),
            user: self.user(version),
        }
    }

    fn subscribe(&mut self, version: Version) -> Subscribe<'a> {
        let v5 = version.is_v5();
        let handling = [RetainHandling::SendIfNew, RetainHandling::DoNotSend];
        let filter = |source: &mut Self| {
            let filter = source.text();
            let options = SubscribeOptions {
                qos: source.qos(),
                no_local: v5 && source.flag() && !filter.starts_with("$share/"),
                retain_as_published: v5 && source.flag(),
                retain_handling: if v5 {
                    source.one_of(RetainHandling::Send, &handling)
                } else {
                    RetainHandling::Send
                },
            };
            (filter, options)
        };
        Subscribe {
            id: self.nonzero_u16(),
            subscription_id: self.maybe(Self::subscription_id).filter(|_| v5),
            filters: (0..=self.choices.byte() % 3)
                .map(|_| filter(self))
                .collect(),
            user: self.user(version),
        }
    }

    fn auth(&mut self, other: ReasonCode) -> Auth<'a> {
        Auth {
            reason: self.one_of(ReasonCode::ContinueAuthentication, &[other]),
            method: Some(self.text()),
            data: self.maybe(Self::secret),
            reason_string: self.maybe(Self::text),
            user: self.user(Version::V5),
        }
    }

    fn suback(&mut self, version: Version) -> SubAck<'a> {
        let codes = [
            ReasonCode::GrantedQoS1,
            ReasonCode::GrantedQoS2,
            ReasonCode::UnspecifiedError,
        ];
        SubAck {
            id: self.nonzero_u16(),
            codes: (0..=self.choices.byte() % 3)
                .map(|_| self.one_of(ReasonCode::Success, &codes))
                .collect(),
            reason_string: self.maybe(Self::text).filter(|_| version.is_v5()),
            user: UserProperties::default(),
        }
    }

    fn connack(&mut self, version: Version) -> ConnAck<'a> {
        let refusals = [
            ReasonCode::UnsupportedProtocolVersion,
            ReasonCode::ClientIdentifierNotValid,
            ReasonCode::ServerUnavailable,
            ReasonCode::BadUserNameOrPassword,
            ReasonCode::NotAuthorized,
        ];
        let reason = self.one_of(ReasonCode::Success, &refusals);
        let connack = ConnAck {
            session_present: reason == ReasonCode::Success
                && self.flag()
                && version != Version::V3_1,
            ..ConnAck::refusal(reason)
        };
        if !version.is_v5() {
            return connack;
        }
        let auth_method = self.maybe(Self::text);
        ConnAck {
            session_expiry: self.maybe(Self::u32),
            receive_maximum: self.maybe(Self::nonzero_u16),
            max_qos: self.one_of(None, &[Some(QoS::AtMostOnce), Some(QoS::AtLeastOnce)]),
            max_packet_size: self.maybe(Self::nonzero_u32).map(Into::into),
            assigned_client_id: self.maybe(Self::text),
            topic_alias_max: self.u16(),
            reason_string: self.maybe(Self::text),
            server_keep_alive: self.maybe(Self::u16),
            response_info: self.maybe(Self::text),
            auth_method,
            auth_data: self.maybe(Self::bytes).filter(|_| auth_method.is_some()),
            ..connack
        }
    }
}

/// Appends `packet` with the broker's own encoder, and checks what that promises besides: a PUBLISH
/// is as long as announced, and a copy of an encoded one is the same bytes.
pub(super) fn encode_server(out: &mut Vec<u8>, version: Version, packet: &ServerPacket<'_>) {
    match packet {
        ServerPacket::ConnAck(connack) => wire::connack(out, version, connack),
        ServerPacket::Publish(publish, subscription_ids) => {
            encode_publish(out, version, publish, subscription_ids);
        }
        ServerPacket::PubAck(ack) => encode_ack(out, version, AckKind::PubAck, ack),
        ServerPacket::PubRec(ack) => encode_ack(out, version, AckKind::PubRec, ack),
        ServerPacket::PubRel(ack) => encode_ack(out, version, AckKind::PubRel, ack),
        ServerPacket::PubComp(ack) => encode_ack(out, version, AckKind::PubComp, ack),
        ServerPacket::SubAck(ack) => {
            wire::suback(out, version, ack.id, &ack.codes, ack.reason_string);
        }
        ServerPacket::UnsubAck(ack) => {
            wire::unsuback(out, version, ack.id, &ack.codes, ack.reason_string);
        }
        ServerPacket::PingResp => wire::pingresp(out),
        ServerPacket::Disconnect(bye) => wire::disconnect(out, bye.reason, bye.reason_string),
        ServerPacket::Auth(auth) => {
            let data = auth.data.map(|data| data.0.expose());
            let method = auth.method.unwrap_or_default();
            wire::auth(out, auth.reason, method, data, auth.reason_string);
        }
    }
}

fn encode_ack(out: &mut Vec<u8>, version: Version, kind: AckKind, ack: &Ack<'_>) {
    wire::ack(out, version, kind, ack.id, ack.reason, ack.reason_string);
}

fn encode_publish(
    out: &mut Vec<u8>,
    version: Version,
    publish: &Publish<'_>,
    subscription_ids: &[NonZeroU32],
) {
    let message = Outbound {
        topic: publish.topic,
        alias: publish.alias,
        delivery: publish.delivery,
        retain: publish.retain,
        properties: publish.properties,
        subscription_ids,
        payload: publish.payload,
    };
    let start = out.len();
    wire::publish(out, version, &message);
    assert_eq!(out.len() - start, wire::publish_size(version, &message));

    let (template, id) = match publish.delivery {
        Delivery::AtMostOnce => (Delivery::AtMostOnce, PacketId::MIN),
        Delivery::AtLeastOnce { id, dup } => {
            let other = PacketId::MAX;
            (Delivery::AtLeastOnce { id: other, dup }, id)
        }
        Delivery::ExactlyOnce { id, dup } => {
            let other = PacketId::MAX;
            (Delivery::ExactlyOnce { id: other, dup }, id)
        }
    };
    let template = Outbound {
        delivery: template,
        ..message
    };
    let mut copy = Vec::new();
    EncodedPublish::new(version, &template).append(&mut copy, id);
    assert_eq!(out.get(start..), Some(copy.as_slice()));
}
