//! Two clients of one broker, driven by bytes: a small interpreter over connections, the guard and
//! the engine, with an invented clock and small limits.
//!
//! Whatever the bytes say: nothing panics, what goes out decodes and keeps to what the client asked
//! for, limits hold, gauges say what is there, and nothing is left when everybody has left.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::Choices;
use crate::bus::Native;
use crate::clock::Now;
use crate::connection::{Connection, End, Terms};
use crate::engine::{Admitted, Close, Engine, NewLink};
use crate::guard::Subject;
use crate::hook::{
    Action, Authorizer, Cover, Credential, Decision, Effort, Grants, Identity, MessageFacts,
    Modules, Principal, Rule, Snapshot,
};
use crate::settings::Settings;
use crate::topic::{TopicFilter, TopicName};
use crate::wire::{
    self, Ack, Delivery, Disconnect, MessageProperties, Packet, Publish, QoS, ReasonCode,
    RetainHandling, ServerPacket, Subscribe, SubscribeOptions, Unsubscribe, UserProperties,
    Version, decode, decode_server, encode_client, split_frame,
};

const TOPICS: [&str; 5] = ["a", "a/b", "long/topic/name", "$x", "no"];
const FILTERS: [&str; 7] = ["a", "a/+", "#", "$share/g/a", "$share/g/#", "+/b", "no"];

/// Messages that may wait for one session.
const QUEUE: usize = 4;

/// Subscriptions of one session.
const SUBSCRIPTIONS: usize = 5;

/// Retained messages in all.
const RETAINED: usize = 3;

/// Everything is allowed; in odd generations nothing that touches the topic `no`, or begins with a
/// wildcard, may be received.
#[derive(Default)]
struct Policy(AtomicU64);

struct Open {
    strict: bool,
}

impl Authorizer for Policy {
    fn name(&self) -> &'static str {
        "open"
    }

    fn grants(&self, _: &Snapshot) -> Arc<dyn Grants> {
        let strict = self.generation() % 2 == 1;
        Arc::new(Open { strict })
    }

    fn generation(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Grants for Open {
    fn decide(&self, _: Action, topic: TopicName<'_>, _: &MessageFacts) -> Decision {
        if self.strict && topic.as_str() == "no" {
            Decision::Deny(Rule(0))
        } else {
            Decision::Allow(Rule(1))
        }
    }

    fn share(&self, _: &str) -> Decision {
        Decision::Allow(Rule(1))
    }

    fn cover(&self, filter: TopicFilter<'_>, _: &MessageFacts, _: &Effort) -> Cover {
        if self.strict && (filter.filter() == "no" || filter.filter().starts_with(['+', '#'])) {
            Cover::Partial(Some(Rule(0)))
        } else {
            Cover::Full
        }
    }

    fn describe(&self, rule: Rule) -> String {
        format!("rule {}", rule.0)
    }
}

/// What one client asked for, and its connection.
struct Client {
    connection: Connection,
    version: Version,
    max_packet: Option<NonZeroU32>,
    alias_max: u16,
    window: Option<NonZeroU16>,
    /// What the connection did not consume yet.
    pending: Vec<u8>,
    /// Acknowledgements since the client last read: each may have made room for one more message,
    /// even for one that still waits to be read.
    acknowledged: usize,
}

struct World {
    engine: Arc<Engine>,
    policy: Arc<Policy>,
    now: Now,
    clients: [Option<Client>; 2],
}

/// Runs `input` as a sequence of steps of two clients.
///
/// # Panics
///
/// When a promise is broken.
pub fn sequence(input: &[u8]) {
    let mut choices = Choices(input);
    let mut world = World::new();
    while !choices.0.is_empty() {
        world.step(&mut choices);
        world.check();
    }
    world.end();
}

impl World {
    fn new() -> Self {
        let policy = Arc::new(Policy::default());
        let modules = Modules {
            authorizers: vec![Arc::clone(&policy) as _],
            ..Modules::default()
        };
        let mut settings = Settings::default();
        settings.limits.queue_messages = QUEUE;
        settings.limits.subscriptions_per_session = SUBSCRIPTIONS;
        settings.limits.retained_messages = RETAINED;
        settings.mqtt.receive_maximum = NonZeroU16::MIN.saturating_add(3);
        settings.mqtt.max_packet_size = 300;
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let bus = Native::new(Arc::clone(&settings), Arc::clone(&modules.metrics));
        let now = Now {
            mono: Instant::now(),
            wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        };
        Self {
            engine: Arc::new(Engine::new(
                Arc::new(modules),
                settings,
                Arc::new(bus),
                None,
                Arc::new(AtomicU64::default()),
            )),
            policy,
            now,
            clients: [None, None],
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let code = choices.byte();
        let who = usize::from(code >> 7);
        match code & 0x7f {
            0..10 => self.connect(who, choices),
            10..14 => self.end_with(who, &End::Lost("cut".to_owned())),
            14..24 => self.time(choices.byte()),
            24..28 => {
                self.policy.0.fetch_add(1, Ordering::SeqCst);
                self.engine.tick(self.now);
            }
            28..40 => self.take(who),
            40..48 => {
                let (bytes, rest) = choices
                    .0
                    .split_at(usize::from(choices.byte() % 32).min(choices.0.len()));
                choices.0 = rest;
                self.feed(who, bytes);
            }
            _ => self.packet(who, choices),
        }
    }

    fn connect(&mut self, who: usize, choices: &mut Choices<'_>) {
        let [flags, window, packet, alias] = choices.array();
        let version = match flags & 3 {
            0 => Version::V3_1,
            1 => Version::V3_1_1,
            _ => Version::V5,
        };
        let v5 = version.is_v5();
        let window = NonZeroU16::new(u16::from(window) % 6).filter(|_| v5);
        // As the handshake does: who cannot take a CONNACK gets no session.
        let max_packet = NonZeroU32::new(u32::from(packet)).filter(|max| v5 && max.get() > 20);
        let alias_max = if v5 { u16::from(alias) % 3 } else { 0 };
        let expiry = if flags & 4 == 0 { 0 } else { 100 };
        let id = if who == 0 { "a" } else { "b" };
        let Ok(principal) = Principal::vouched("user", id) else {
            return;
        };
        let snapshot = Snapshot {
            identity: Identity::new(principal),
            credential: Credential::new("fuzz", id),
            client_id: id.into(),
            listener: "fuzz".into(),
            address: None,
        };
        let modules = &self.engine.modules;
        let subject = Subject::new(snapshot, None, modules);
        let attached = self.engine.attach(
            &id.into(),
            Admitted {
                subject: Arc::clone(&subject),
                clean_start: flags & 8 != 0,
                expiry,
                will: None,
                link: NewLink {
                    version,
                    receive_maximum: window,
                    max_packet,
                    topic_alias_max: alias_max,
                },
            },
            self.now,
        );
        let watch = modules.watch(subject.snapshot(), self.now);
        let (Ok((attached, _)), Ok(watch)) = (attached, watch) else {
            return;
        };
        let terms = Terms {
            version,
            keep_alive: 30,
            until: None,
            has_expiry: expiry > 0,
            auth_method: None,
            max_packet,
        };
        let connection = Connection::new(
            Arc::clone(&self.engine),
            attached,
            subject,
            watch,
            terms,
            self.now,
        );
        let new = Client {
            connection,
            version,
            max_packet,
            alias_max,
            window,
            pending: Vec::new(),
            acknowledged: 0,
        };
        let old = self.clients.get_mut(who).and_then(|slot| slot.replace(new));
        if let Some(mut old) = old {
            let close = Close {
                code: ReasonCode::SessionTakenOver,
                reason: "its client connected again".to_owned(),
                will: true,
            };
            old.connection.finish(&End::Server(close), self.now);
        }
    }

    fn end_with(&mut self, who: usize, end: &End) {
        let client = self.clients.get_mut(who).and_then(Option::take);
        if let Some(mut client) = client {
            let farewell = client.connection.finish(end, self.now);
            client.understand(&farewell);
        }
    }

    fn time(&mut self, seconds: u8) {
        self.now = self.now.after(Duration::from_secs(seconds.into()));
        self.engine.tick(self.now);
        for who in 0..self.clients.len() {
            let client = self.clients.get(who).and_then(Option::as_ref);
            let late = client.map(|client| client.connection.check_time(self.now));
            if let Some(Err(end)) = late {
                self.end_with(who, &end);
            }
        }
    }

    fn take(&mut self, who: usize) {
        let Some(client) = self.clients.get_mut(who).and_then(Option::as_mut) else {
            return;
        };
        let mut output = Vec::new();
        let taken = client
            .connection
            .take_output(&mut output, Waker::noop(), self.now);
        client.connection.wrote(output.len(), self.now);
        client.understand(&output);
        client.acknowledged = 0;
        if let Err(end) = taken {
            self.end_with(who, &end);
        }
    }

    fn feed(&mut self, who: usize, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(who).and_then(Option::as_mut) else {
            return;
        };
        client.pending.extend_from_slice(bytes);
        let received = client
            .connection
            .receive(&client.pending, Waker::noop(), self.now);
        match received {
            Ok(consumed) => {
                client.acknowledged += client.acknowledgements(consumed);
                client.pending.drain(..consumed);
                assert!(client.pending.len() <= 300, "undecided beyond the limit");
            }
            Err(end) => self.end_with(who, &end),
        }
    }

    /// A packet that is well formed, and mostly sensible.
    fn packet(&mut self, who: usize, choices: &mut Choices<'_>) {
        let Some(client) = self.clients.get(who).and_then(Option::as_ref) else {
            return;
        };
        let version = client.version;
        let [kind, what, how, id] = choices.array();
        let id = NonZeroU16::MIN.saturating_add(u16::from(id) % 6);
        let topic = TOPICS.get(usize::from(what) % TOPICS.len()).copied();
        let filter = FILTERS.get(usize::from(what) % FILTERS.len()).copied();
        let (topic, filter) = (topic.unwrap_or("a"), filter.unwrap_or("a"));
        let user = UserProperties::default();
        let qos = QoS::from_bits(how).unwrap_or_default();
        let ack = Ack {
            id,
            reason: if how & 0x80 != 0 && version.is_v5() {
                ReasonCode::UnspecifiedError
            } else {
                ReasonCode::Success
            },
            reason_string: None,
            user,
        };
        let packet = match kind % 16 {
            0..6 => {
                let dup = how & 8 != 0;
                let alias = NonZeroU16::new(u16::from(how >> 5)).filter(|_| version.is_v5());
                Packet::Publish(Publish {
                    topic: if alias.is_some() && how & 16 != 0 {
                        ""
                    } else {
                        topic
                    },
                    alias,
                    delivery: match qos {
                        QoS::AtMostOnce => Delivery::AtMostOnce,
                        QoS::AtLeastOnce => Delivery::AtLeastOnce { id, dup },
                        QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
                    },
                    retain: how & 4 != 0,
                    properties: MessageProperties {
                        expiry: (version.is_v5() && how & 64 != 0).then_some(5),
                        ..MessageProperties::default()
                    },
                    payload: input_payload(what),
                })
            }
            6 | 7 => Packet::PubAck(ack),
            8 | 9 => Packet::PubRec(ack),
            10 => Packet::PubRel(Ack {
                reason: ReasonCode::Success,
                ..ack
            }),
            11 => Packet::PubComp(Ack {
                reason: ReasonCode::Success,
                ..ack
            }),
            12 | 13 => Packet::Subscribe(Subscribe {
                id,
                subscription_id: None,
                filters: vec![(
                    filter,
                    SubscribeOptions {
                        qos,
                        no_local: version.is_v5() && how & 4 != 0 && !filter.starts_with("$share"),
                        retain_as_published: version.is_v5() && how & 8 != 0,
                        retain_handling: RetainHandling::Send,
                    },
                )],
                user,
            }),
            14 => Packet::Unsubscribe(Unsubscribe {
                id,
                filters: vec![filter],
                user,
            }),
            _ if how.trailing_zeros() >= 3 => Packet::Disconnect(Disconnect {
                reason: ReasonCode::Success,
                session_expiry: None,
                reason_string: None,
                user,
            }),
            _ => Packet::PingReq,
        };
        let mut bytes = Vec::new();
        encode_client(&mut bytes, version, &packet);
        self.feed(who, &bytes);
    }

    /// What holds after every step.
    fn check(&self) {
        let metrics = &self.engine.metrics;
        let views = self.engine.inspect(|view| {
            let waits = view.queued;
            assert!(
                view.connected.is_some() || waits <= QUEUE,
                "{waits} wait for who is away"
            );
            assert!(view.subscriptions <= SUBSCRIPTIONS);
            assert!(view.in_flight <= 256);
            Some((waits as u64, view.subscriptions as u64))
        });
        let queued: u64 = views.iter().map(|view| view.0).sum();
        let subscriptions: u64 = views.iter().map(|view| view.1).sum();
        assert_eq!(metrics.queued_messages.value(), queued);
        assert_eq!(metrics.subscriptions.value(), subscriptions);
        assert_eq!(metrics.sessions.value(), views.len() as u64);
        assert!(metrics.retained_messages.value() <= RETAINED as u64);
        let connected = self.clients.iter().flatten().count() as u64;
        assert_eq!(metrics.clients.value(), connected);
        assert_eq!(metrics.modules_failed.value(), 0, "a panic was caught");
    }

    /// Everybody leaves; nothing may be left but what is retained.
    fn end(mut self) {
        for (who, id) in ["a", "b"].into_iter().enumerate() {
            self.end_with(who, &End::Lost("the end".to_owned()));
            self.engine.drop_session(id, self.now);
        }
        self.check();
        let metrics = &self.engine.metrics;
        assert_eq!(metrics.sessions.value(), 0);
        assert_eq!(metrics.queued_bytes.value(), 0);
    }
}

fn input_payload(what: u8) -> &'static [u8] {
    match what >> 5 {
        0 => b"",
        1..6 => b"payload",
        _ => &[b'x'; 200],
    }
}

impl Client {
    /// What comes out decodes, and is what the client said that it takes.
    fn understand(&self, mut bytes: &[u8]) {
        let limits = wire::Limits::default();
        let mut sent = 0;
        while let Ok(Some(frame)) = split_frame(bytes, wire::MAX_PACKET_SIZE) {
            bytes = bytes.get(frame.size..).unwrap_or_default();
            if let Some(max) = self.max_packet {
                assert!(
                    frame.size <= max.get() as usize,
                    "a packet over the maximum"
                );
            }
            let packet = decode_server(frame, self.version, &limits);
            match packet {
                Ok(ServerPacket::Publish(publish, _)) => {
                    let alias = publish.alias.map_or(0, NonZeroU16::get);
                    assert!(alias <= self.alias_max, "an alias over the maximum");
                    sent += usize::from(publish.delivery.qos() > QoS::AtMostOnce);
                }
                other => assert!(other.is_ok(), "{other:?}"),
            }
        }
        assert!(bytes.is_empty(), "half a packet");
        if let Some(window) = self.window {
            let room = usize::from(window.get()) + self.acknowledged;
            assert!(sent <= room, "over Receive Maximum");
        }
    }

    /// Acknowledgements in the first `consumed` bytes of what the client sent.
    fn acknowledgements(&self, consumed: usize) -> usize {
        let mut bytes = self.pending.get(..consumed).unwrap_or_default();
        let mut count = 0;
        while let Ok(Some(frame)) = split_frame(bytes, wire::MAX_PACKET_SIZE) {
            bytes = bytes.get(frame.size..).unwrap_or_default();
            let packet = decode(frame, self.version, &wire::Limits::default());
            count += usize::from(matches!(
                packet,
                Ok(Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubComp(_))
            ));
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn any_sequence_keeps_the_promises(input in prop::collection::vec(any::<u8>(), 0..800)) {
            super::sequence(&input);
        }
    }
}
