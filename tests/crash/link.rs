//! A connection of a test client: whole packets of either protocol version.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use portcullis_core::wire::{
    Ack, Connect, Delivery, Disconnect, Limits, MAX_PACKET_SIZE, MessageProperties, Packet,
    PacketId, Publish, QoS, ReasonCode, SecretBytes, ServerPacket, Subscribe, SubscribeOptions,
    Unsubscribe, UserProperties, Version, Will, decode_server, encode_client, split_frame,
};

use portcullis_core::secret::Secret;

use crate::harness;

/// Who connects, and how.
pub(crate) struct Who<'a> {
    pub(crate) name: &'a str,
    pub(crate) user: &'a str,
    pub(crate) password: String,
    pub(crate) version: Version,
    /// The session starts anew and ends with its connection.
    pub(crate) clean: bool,
    /// Delay in seconds of a will that says the name.
    pub(crate) will: Option<u32>,
}

/// What a server said, as far as it matters here.
pub(crate) enum Got {
    Ack(PacketId),
    Rec(PacketId),
    Rel(PacketId),
    Comp(PacketId),
    SubAck,
    UnsubAck,
    Message {
        topic: String,
        payload: String,
        delivery: Delivery,
        retain: bool,
    },
}

/// A connection of a client.
pub(crate) struct Link {
    stream: TcpStream,
    input: Vec<u8>,
    version: Version,
}

impl Link {
    /// Connects; whether the broker knew the session.
    pub(crate) fn connect(address: SocketAddr, who: &Who<'_>) -> io::Result<(Self, bool)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // Wills take their time, and those who wait for the end of the test with them.
        stream.set_read_timeout(Some(harness::PATIENCE * 3))?;
        let (input, version) = (Vec::new(), who.version);
        let mut link = Self {
            stream,
            input,
            version,
        };
        let will_topic = format!("lab/will/{}", who.name);
        let lasting = version == Version::V5 && !who.clean;
        link.send(&Packet::Connect(Box::new(Connect {
            version,
            clean_start: who.clean,
            keep_alive: 0,
            client_id: who.name,
            will: who.will.map(|delay| Will {
                topic: &will_topic,
                payload: who.name.as_bytes(),
                qos: QoS::AtLeastOnce,
                retain: false,
                delay,
                properties: MessageProperties::default(),
            }),
            username: Some(who.user),
            password: Some(SecretBytes(Secret::new(who.password.as_bytes()))),
            session_expiry: lasting.then_some(3600),
            receive_maximum: None,
            max_packet_size: None,
            topic_alias_max: 0,
            request_response_info: false,
            request_problem_info: true,
            auth_method: None,
            auth_data: None,
            user: UserProperties::default(),
        })))?;
        let present = link.next(|packet| match packet {
            ServerPacket::ConnAck(ack) if ack.reason == ReasonCode::Success => ack.session_present,
            other => panic!("{}: {other:?}", who.name),
        })?;
        Ok((link, present))
    }

    /// Says goodbye, so that there is no will.
    pub(crate) fn disconnect(mut self) -> io::Result<()> {
        self.send(&Packet::Disconnect(Disconnect {
            reason: ReasonCode::Success,
            session_expiry: None,
            reason_string: None,
            user: UserProperties::default(),
        }))?;
        // Until the broker has seen it.
        let ended = self.stream.read(&mut [0])?;
        assert_eq!(ended, 0, "more after DISCONNECT");
        Ok(())
    }

    fn send(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut out = Vec::new();
        encode_client(&mut out, self.version, packet);
        self.stream.write_all(&out)
    }

    pub(crate) fn acknowledge(
        &mut self,
        kind: impl Fn(Ack<'static>) -> Packet<'static>,
        id: PacketId,
    ) -> io::Result<()> {
        self.send(&kind(Ack {
            id,
            reason: ReasonCode::Success,
            reason_string: None,
            user: UserProperties::default(),
        }))
    }

    pub(crate) fn publish(
        &mut self,
        topic: &str,
        payload: &str,
        delivery: Delivery,
        retain: bool,
    ) -> io::Result<()> {
        self.send(&Packet::Publish(Publish {
            topic,
            alias: None,
            delivery,
            retain,
            properties: MessageProperties::default(),
            payload: payload.as_bytes(),
        }))
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) -> io::Result<()> {
        let options = SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        self.send(&Packet::Subscribe(Subscribe {
            id: PacketId::MIN,
            subscription_id: None,
            filters: vec![(filter, options)],
            user: UserProperties::default(),
        }))
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) -> io::Result<()> {
        self.send(&Packet::Unsubscribe(Unsubscribe {
            id: PacketId::MIN,
            filters: vec![filter],
            user: UserProperties::default(),
        }))
    }

    /// Waits for the end of the connection, or until `done`.
    pub(crate) fn wait_for_end(&mut self, done: impl Fn() -> bool) -> io::Result<bool> {
        let often = Duration::from_millis(200);
        self.stream.set_read_timeout(Some(often))?;
        while !done() {
            match self.stream.read(&mut [0; 64]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(true)
    }

    pub(crate) fn receive(&mut self) -> io::Result<Got> {
        self.next(|packet| match packet {
            ServerPacket::PubAck(ack) => Got::Ack(ack.id),
            ServerPacket::PubRec(ack) => Got::Rec(ack.id),
            ServerPacket::PubRel(ack) => Got::Rel(ack.id),
            ServerPacket::PubComp(ack) => Got::Comp(ack.id),
            ServerPacket::SubAck(ack) => {
                assert!(ack.codes.iter().all(|code| *code as u8 <= 2), "{ack:?}");
                Got::SubAck
            }
            ServerPacket::UnsubAck(_) => Got::UnsubAck,
            ServerPacket::Publish(publish, _) => Got::Message {
                topic: publish.topic.to_owned(),
                payload: String::from_utf8(publish.payload.to_vec()).unwrap(),
                delivery: publish.delivery,
                retain: publish.retain,
            },
            other => panic!("{other:?}"),
        })
    }

    fn next<T>(&mut self, mut take: impl FnMut(ServerPacket<'_>) -> T) -> io::Result<T> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = split_frame(&self.input, MAX_PACKET_SIZE).unwrap() {
                let size = frame.size;
                let taken = take(decode_server(frame, self.version, &Limits::default()).unwrap());
                self.input.drain(..size);
                return Ok(taken);
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&buffer[..count]),
            }
        }
    }
}
