//! What a client sends, written: for tests, for fuzzing, and for a bridge.

use super::frame::kind;
use super::properties::{encode_message_properties, id};
use super::put::{self, PropertyWriter};
use super::{
    Ack, AckKind, Auth, Connect, Disconnect, Outbound, Packet, Publish, SecretBytes, Subscribe,
    SubscribeOptions, Unsubscribe, Version, encode,
};

/// Appends `packet` as a client of `version` would send it; a CONNECT knows its own version. What the
/// version has no field for is not sent. An AUTH in 3.x is not written.
pub fn encode_client(out: &mut Vec<u8>, version: Version, packet: &Packet<'_>) {
    match packet {
        Packet::Connect(packet) => connect(out, packet),
        Packet::Publish(packet) => publish(out, version, packet),
        Packet::PubAck(packet) => ack(out, version, AckKind::PubAck, packet),
        Packet::PubRec(packet) => ack(out, version, AckKind::PubRec, packet),
        Packet::PubRel(packet) => ack(out, version, AckKind::PubRel, packet),
        Packet::PubComp(packet) => ack(out, version, AckKind::PubComp, packet),
        Packet::Subscribe(packet) => subscribe(out, version, packet),
        Packet::Unsubscribe(packet) => unsubscribe(out, version, packet),
        Packet::PingReq => out.extend_from_slice(&[kind::PINGREQ << 4, 0]),
        Packet::Disconnect(packet) => disconnect(out, version, packet),
        Packet::Auth(packet) if version.is_v5() => auth(out, packet),
        Packet::Auth(_) => {}
    }
}

fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    put::packet(out, kind::CONNECT << 4, |body| {
        let (name, level) = match connect.version {
            Version::V3_1 => ("MQIsdp", 3),
            Version::V3_1_1 => ("MQTT", 4),
            Version::V5 => ("MQTT", 5),
        };
        put::string(body, name);
        body.extend_from_slice(&[level, connect_flags(connect)]);
        body.extend_from_slice(&connect.keep_alive.to_be_bytes());
        if connect.version.is_v5() {
            put::properties(body, |properties| connect_properties(properties, connect));
        }
        put::string(body, connect.client_id);
        if let Some(will) = &connect.will {
            if connect.version.is_v5() {
                put::properties(body, |properties| {
                    properties.u32(id::WILL_DELAY, (will.delay > 0).then_some(will.delay));
                    encode_message_properties(&mut properties.0, &will.properties);
                });
            }
            put::string(body, will.topic);
            put::binary(body, will.payload);
        }
        if let Some(username) = connect.username {
            put::string(body, username);
        }
        if let Some(password) = connect.password {
            put::binary(body, password.0.expose());
        }
    });
}

/// Section 3.1.2.3.
fn connect_flags(connect: &Connect<'_>) -> u8 {
    let mut flags = u8::from(connect.clean_start) << 1;
    if let Some(will) = &connect.will {
        flags |= 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    flags | u8::from(connect.password.is_some()) << 6 | u8::from(connect.username.is_some()) << 7
}

/// Section 3.1.2.11. What equals the value that silence means is not sent.
fn connect_properties(properties: &mut PropertyWriter, connect: &Connect<'_>) {
    let alias_max = (connect.topic_alias_max > 0).then_some(connect.topic_alias_max);
    properties.u32(id::SESSION_EXPIRY, connect.session_expiry);
    properties.u16(id::RECEIVE_MAXIMUM, connect.receive_maximum.map(Into::into));
    properties.u32(id::MAX_PACKET_SIZE, connect.max_packet_size.map(Into::into));
    properties.u16(id::TOPIC_ALIAS_MAX, alias_max);
    properties.byte(
        id::REQUEST_RESPONSE_INFO,
        connect.request_response_info.then_some(1),
    );
    properties.byte(
        id::REQUEST_PROBLEM_INFO,
        (!connect.request_problem_info).then_some(0),
    );
    properties.string(id::AUTH_METHOD, connect.auth_method);
    properties.binary(id::AUTH_DATA, exposed(connect.auth_data));
    properties.user(connect.user);
}

fn exposed(data: Option<SecretBytes<'_>>) -> Option<&[u8]> {
    data.map(|data| data.0.expose())
}

fn publish(out: &mut Vec<u8>, version: Version, publish: &Publish<'_>) {
    let message = Outbound {
        topic: publish.topic,
        alias: publish.alias,
        delivery: publish.delivery,
        retain: publish.retain,
        properties: publish.properties,
        subscription_ids: &[],
        payload: publish.payload,
    };
    encode::publish(out, version, &message);
}

fn ack(out: &mut Vec<u8>, version: Version, kind: AckKind, ack: &Ack<'_>) {
    if !version.is_v5() || ack.user.is_empty() {
        encode::ack(out, version, kind, ack.id, ack.reason, ack.reason_string);
        return;
    }
    put::packet(out, kind as u8, |body| {
        body.extend_from_slice(&ack.id.get().to_be_bytes());
        body.push(ack.reason as u8);
        put::properties(body, |properties| {
            properties.string(id::REASON_STRING, ack.reason_string);
            properties.user(ack.user);
        });
    });
}

fn subscribe(out: &mut Vec<u8>, version: Version, subscribe: &Subscribe<'_>) {
    put::packet(out, kind::SUBSCRIBE << 4 | 2, |body| {
        body.extend_from_slice(&subscribe.id.get().to_be_bytes());
        if version.is_v5() {
            put::properties(body, |properties| {
                if let Some(id) = subscribe.subscription_id {
                    properties.0.push(id::SUBSCRIPTION_ID);
                    put::varint(&mut properties.0, id.get() as usize);
                }
                properties.user(subscribe.user);
            });
        }
        for (filter, options) in &subscribe.filters {
            put::string(body, filter);
            body.push(options_byte(*options, version));
        }
    });
}

/// Section 3.8.3.1.
fn options_byte(options: SubscribeOptions, version: Version) -> u8 {
    if !version.is_v5() {
        return options.qos as u8;
    }
    options.qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}

fn unsubscribe(out: &mut Vec<u8>, version: Version, unsubscribe: &Unsubscribe<'_>) {
    put::packet(out, kind::UNSUBSCRIBE << 4 | 2, |body| {
        body.extend_from_slice(&unsubscribe.id.get().to_be_bytes());
        if version.is_v5() {
            put::properties(body, |properties| properties.user(unsubscribe.user));
        }
        for filter in &unsubscribe.filters {
            put::string(body, filter);
        }
    });
}

fn disconnect(out: &mut Vec<u8>, version: Version, disconnect: &Disconnect<'_>) {
    put::packet(out, kind::DISCONNECT << 4, |body| {
        if version.is_v5() {
            body.push(disconnect.reason as u8);
            put::properties(body, |properties| {
                properties.u32(id::SESSION_EXPIRY, disconnect.session_expiry);
                properties.string(id::REASON_STRING, disconnect.reason_string);
                properties.user(disconnect.user);
            });
        }
    });
}

fn auth(out: &mut Vec<u8>, auth: &Auth<'_>) {
    put::packet(out, kind::AUTH << 4, |body| {
        body.push(auth.reason as u8);
        put::properties(body, |properties| {
            properties.string(id::AUTH_METHOD, auth.method);
            properties.binary(id::AUTH_DATA, exposed(auth.data));
            properties.string(id::REASON_STRING, auth.reason_string);
            properties.user(auth.user);
        });
    });
}
