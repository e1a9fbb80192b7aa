//! A broker without sockets for tests: engine and connections driven by hand, with an invented
//! clock and a policy that a test can change.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it expects and panics over the rest"
)]

mod answers;
mod bounds;
mod bus;
mod chaos;
mod conformance;
mod durable;
mod endings;
mod fan_out;
mod faults;
mod flows;
mod matching;
mod pressure;
mod quota;
mod retained;
mod rules;
mod sessions;
mod shared;
mod sys;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::bus::{Bus, Native};
use crate::clock::Now;
use crate::connection::{Connection, End, Terms};
use crate::engine::{Admitted, Engine, NewLink, NotAttached, Will};
use crate::guard::{self, Subject};
use crate::hook::{
    Action, Admission, Arrival, Attempt, Authenticator, Authorizer, BatchFacts, Begun, BoxFuture,
    Cover, Credential, Decision, Effort, Event, Grants, Identity, MessageFacts, Meter, Modules,
    Observer, Outcome, Principal, Rule, Snapshot, Standing, Tally, Use, Verdict,
};
use crate::journal::Journal;
use crate::message::{Asked, Publication};
use crate::settings::Settings;
use crate::topic::{TopicFilter, TopicName, matches};
use crate::wire::{
    Ack, Delivery, Disconnect, Limits, MessageProperties, Packet, Publish, QoS, ReasonCode,
    ServerPacket, Subscribe, SubscribeOptions, Unsubscribe, UserProperties, Version, decode_server,
    encode_client, split_frame,
};

/// A policy of plain lines: who (`*` for everybody), action (`None` for share), filter or group,
/// allow or deny; and bounds on the messages that allow lines are about.
#[derive(Default)]
pub(crate) struct Table {
    lines: Mutex<Vec<Line>>,
    limit: Mutex<Option<Limit>>,
    steps: AtomicU32,
    generation: AtomicU64,
}

/// The messages for which allow lines about an action count.
pub(crate) type Limit = fn(Action, &MessageFacts) -> bool;

#[derive(Clone)]
struct Line {
    who: &'static str,
    action: Option<Action>,
    filter: &'static str,
    allow: bool,
}

struct Rows {
    lines: Vec<Line>,
    limit: Option<Limit>,
    steps: u32,
}

impl Table {
    pub(crate) fn set(&self, lines: &[(&'static str, Option<Action>, &'static str, bool)]) {
        *self.lines.lock() = lines
            .iter()
            .map(|(who, action, filter, allow)| Line {
                who,
                action: *action,
                filter,
                allow: *allow,
            })
            .collect();
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Allow lines count for these messages only.
    pub(crate) fn limit(&self, limit: Option<Limit>) {
        *self.limit.lock() = limit;
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Judging a filter takes so many steps.
    pub(crate) fn steps(&self, steps: u32) {
        self.steps.store(steps, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn allow_all(&self) {
        self.set(&[
            ("*", Some(Action::Publish), "#", true),
            ("*", Some(Action::Retain), "#", true),
            ("*", Some(Action::Will), "#", true),
            ("*", Some(Action::Receive), "#", true),
            ("*", None, "", true),
        ]);
    }
}

impl Authorizer for Table {
    fn name(&self) -> &'static str {
        "table"
    }

    fn grants(&self, who: &Snapshot) -> Arc<dyn Grants> {
        let mine = |line: &&Line| line.who == "*" || line.who == who.principal().as_str();
        Arc::new(Rows {
            lines: self.lines.lock().iter().filter(mine).cloned().collect(),
            limit: *self.limit.lock(),
            steps: self.steps.load(Ordering::SeqCst),
        })
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

impl Rows {
    fn verdict(&self, fits: impl Fn(&Line) -> bool) -> Decision {
        let found = |allow| {
            self.lines
                .iter()
                .position(|line| line.allow == allow && fits(line))
                .map(|place| Rule(u32::try_from(place).unwrap()))
        };
        match (found(false), found(true)) {
            (Some(rule), _) => Decision::Deny(rule),
            (None, Some(rule)) => Decision::Allow(rule),
            (None, None) => Decision::Silent,
        }
    }
}

impl Grants for Rows {
    fn decide(&self, action: Action, topic: TopicName<'_>, message: &MessageFacts) -> Decision {
        let within = self.limit.is_none_or(|within| within(action, message));
        self.verdict(|line| {
            line.action == Some(action)
                && matches(line.filter, topic.as_str())
                && (within || !line.allow)
        })
    }

    fn share(&self, group: &str) -> Decision {
        self.verdict(|line| {
            line.action.is_none() && (line.filter.is_empty() || line.filter == group)
        })
    }

    /// Coarse on purpose: the exact algebra is `acl`'s. Equal or `#` covers; anything else that
    /// shares a first level is a part.
    fn cover(&self, filter: TopicFilter<'_>, message: &MessageFacts, effort: &Effort) -> Cover {
        if effort.left() < self.steps {
            return Cover::Unclear;
        }
        effort.spend(self.steps);
        let text = filter.filter();
        let receive = |allow: bool| {
            self.lines
                .iter()
                .filter(move |line| line.allow == allow && line.action == Some(Action::Receive))
        };
        let first = |text: &str| text.split('/').next().unwrap().to_owned();
        let near = |line: &&Line| {
            let (a, b) = (first(line.filter), first(text));
            a == b || a == "#" || b == "#" || a == "+" || b == "+"
        };
        let denied = receive(false).any(|line| near(&line));
        let whole = receive(true).any(|line| line.filter == "#" || line.filter == text);
        let part = receive(true).any(|line| near(&line));
        let within = self
            .limit
            .is_none_or(|within| within(Action::Receive, message));
        if !within {
            return Cover::Nothing(None);
        }
        match (whole, denied, part) {
            (true, false, _) if self.limit.is_some() => Cover::Bounded,
            (true, false, _) => Cover::Full,
            (_, _, true) => Cover::Partial(None),
            (_, _, false) => Cover::Nothing(None),
        }
    }

    fn describe(&self, rule: Rule) -> String {
        format!("line {}", rule.0)
    }
}

/// Vouches for everybody who is not in the list of revoked names; bans those in the other.
#[derive(Default)]
pub(crate) struct Register {
    pub(crate) revoked: Mutex<Vec<String>>,
    pub(crate) banned: Mutex<Vec<String>>,
    pub(crate) generation: AtomicU64,
    pub(crate) scales: Arc<Mutex<Scales>>,
}

/// What the meters of all clients see and say.
#[derive(Default)]
pub(crate) struct Scales {
    /// Of the last batch that had packets.
    pub(crate) facts: BatchFacts,
    /// How long everybody waits.
    pub(crate) wait: Option<Duration>,
}

impl Register {
    pub(crate) fn revoke(&self, name: &str) {
        self.revoked.lock().push(name.to_owned());
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn ban(&self, name: &str) {
        self.banned.lock().push(name.to_owned());
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

impl Authenticator for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn authenticate<'a>(&'a self, _: &'a Attempt<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async { Outcome::NotMine })
    }

    fn standing(&self, credential: &Credential, _: Use) -> Standing {
        if self
            .revoked
            .lock()
            .iter()
            .any(|name| **name == *credential.reference)
        {
            Standing::Revoked("revoked".to_owned())
        } else {
            Standing::Good
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

struct Scale(Arc<Mutex<Scales>>);

impl Meter for Scale {
    fn batch(&mut self, facts: &BatchFacts, _: Now) -> Verdict {
        let mut scales = self.0.lock();
        if facts.packets > 0 {
            scales.facts = *facts;
        }
        scales.wait.map_or(Verdict::Admit, Verdict::Slow)
    }

    fn begun(&self) -> Option<Begun> {
        Some(Begun {
            limit: "limits.scales",
            reason: "too heavy".to_owned(),
        })
    }
}

impl Admission for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn arrive(&self, _: &Arrival<'_>, _: Now) -> Verdict {
        Verdict::Admit
    }

    fn attempt(&self, _: &Arrival<'_>, _: Option<&str>, _: Now) -> Verdict {
        Verdict::Admit
    }

    fn admit(&self, _: &Snapshot, _: Now) -> Verdict {
        Verdict::Admit
    }

    fn failed(&self, _: &Arrival<'_>, _: Option<&Principal>, _: Now) {}

    fn watch(&self, _: &Snapshot, _: Now) -> Box<dyn Meter> {
        Box::new(Scale(Arc::clone(&self.scales)))
    }

    fn in_good_standing(&self, author: &Snapshot, _: Now) -> bool {
        !self
            .banned
            .lock()
            .iter()
            .any(|name| *name == author.principal().as_str())
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

/// Writes down what it is told.
#[derive(Default)]
pub(crate) struct Notes(pub(crate) Mutex<Vec<String>>);

impl Observer for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn event(&self, event: &Event<'_>, _: Now) {
        self.0.lock().push(format!("{event:?}"));
    }

    fn tally(&self, _: &Snapshot) -> Option<Box<dyn Tally>> {
        None
    }
}

/// A broker without sockets.
pub(crate) struct World {
    pub(crate) engine: Arc<Engine>,
    pub(crate) policy: Arc<Table>,
    pub(crate) register: Arc<Register>,
    pub(crate) notes: Arc<Notes>,
    /// What the process has, bytes.
    pub(crate) memory: Arc<AtomicU64>,
    /// Where the bus is the slow one.
    pub(crate) slow: Option<Arc<bus::Slow>>,
    pub(crate) now: Now,
}

/// How a test client connects.
#[derive(Clone)]
pub(crate) struct As {
    pub(crate) principal: &'static str,
    pub(crate) version: Version,
    pub(crate) clean: bool,
    pub(crate) expiry: u32,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) max_packet: Option<u32>,
    pub(crate) alias_max: u16,
    pub(crate) keep_alive: u16,
    pub(crate) will: Option<(&'static str, u32)>,
    pub(crate) will_retain: bool,
    /// Message Expiry Interval of the will, seconds.
    pub(crate) will_expiry: Option<u32>,
    /// Over a Unix socket.
    pub(crate) local: bool,
}

impl As {
    /// A 5.0 client with a clean session.
    pub(crate) fn new(principal: &'static str) -> Self {
        Self {
            principal,
            version: Version::V5,
            clean: true,
            expiry: 0,
            receive_maximum: None,
            max_packet: None,
            alias_max: 0,
            keep_alive: 60,
            will: None,
            will_retain: false,
            will_expiry: None,
            local: false,
        }
    }

    /// One whose session outlives its connection.
    pub(crate) fn persistent(principal: &'static str) -> Self {
        Self {
            clean: false,
            expiry: 3600,
            ..Self::new(principal)
        }
    }
}

/// What a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Message {
        topic: String,
        payload: String,
        qos: QoS,
        id: Option<u16>,
        dup: bool,
        retain: bool,
        ids: Vec<u32>,
        expiry: Option<u32>,
    },
    PubAck(u16, ReasonCode),
    PubRec(u16, ReasonCode),
    PubRel(u16, ReasonCode),
    PubComp(u16, ReasonCode),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    Pong,
    Bye(ReasonCode),
}

impl Got {
    pub(crate) fn message(topic: &str, payload: &str) -> Self {
        Self::Message {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            qos: QoS::AtMostOnce,
            id: None,
            dup: false,
            retain: false,
            ids: vec![],
            expiry: None,
        }
    }

    pub(crate) fn payload(&self) -> Option<&str> {
        match self {
            Self::Message { payload, .. } => Some(payload),
            _ => None,
        }
    }
}

/// A client of the world.
pub(crate) struct Client {
    pub(crate) connection: Option<Connection>,
    pub(crate) version: Version,
    pub(crate) session_present: bool,
    /// How the broker ended it.
    pub(crate) end: Option<End>,
    /// Messages that came with an alias in place of their topic.
    pub(crate) aliased: usize,
    alias_max: u16,
    aliases: HashMap<u16, String>,
    farewell: Vec<u8>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self::over(settings, bus::is_slow())
    }

    pub(crate) fn over(settings: Settings, slow: bool) -> Self {
        Self::build(settings, None, |settings, modules| {
            let native = Native::new(settings, Arc::clone(&modules.metrics));
            if slow {
                let slow = Arc::new(bus::Slow::new(native));
                (Some(Arc::clone(&slow)), slow as Arc<dyn Bus>)
            } else {
                (None, Arc::new(native) as Arc<dyn Bus>)
            }
        })
    }

    fn build(
        settings: Settings,
        journal: Option<Arc<Journal>>,
        bus: impl FnOnce(Arc<ArcSwap<Settings>>, &Modules) -> (Option<Arc<bus::Slow>>, Arc<dyn Bus>),
    ) -> Self {
        let (policy, register, notes) = (
            Arc::new(Table::default()),
            Arc::new(Register::default()),
            Arc::new(Notes::default()),
        );
        policy.allow_all();
        let modules = Modules {
            authenticators: vec![Arc::clone(&register) as _],
            authorizers: vec![Arc::clone(&policy) as _],
            admissions: vec![Arc::clone(&register) as _],
            observers: vec![Arc::clone(&notes) as _],
            ..Modules::default()
        };
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let (slow, bus) = bus(Arc::clone(&settings), &modules);
        let memory = Arc::new(AtomicU64::default());
        Self {
            engine: Arc::new(Engine::new(
                Arc::new(modules),
                settings,
                bus,
                journal,
                Arc::clone(&memory) as _,
            )),
            memory,
            policy,
            register,
            notes,
            slow,
            now: Now::read(),
        }
    }

    pub(crate) fn later(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.engine.tick(self.now);
    }

    pub(crate) fn connect(&self, id: &str, how: &As) -> Client {
        self.try_connect(id, how).unwrap()
    }

    pub(crate) fn try_connect(&self, id: &str, how: &As) -> Result<Client, NotAttached> {
        let (kind, name) = how.principal.split_once(':').unwrap();
        let snapshot = Snapshot {
            identity: Identity::new(Principal::vouched(kind, name).unwrap()),
            credential: Credential::new("test", name),
            client_id: id.into(),
            listener: "test".into(),
            address: (!how.local).then_some(Ipv4Addr::LOCALHOST.into()),
        };
        let modules = &self.engine.modules;
        let subject = Subject::new(snapshot, None, modules);
        let settings = self.engine.settings.load_full();
        let block = UserProperties::block([("z", "1"), ("a", "2"), ("z", "1")]);
        let will = how.will.map(|(topic, delay)| {
            let publication = Publication::new(
                TopicName::new(topic, settings.mqtt.topic).unwrap(),
                b"will",
                QoS::AtLeastOnce,
                Asked {
                    retain: how.will_retain,
                    will: true,
                },
                MessageProperties {
                    user: UserProperties::from_block(&block).unwrap(),
                    ..MessageProperties::default()
                },
                &subject,
                self.now.unix_millis(),
            );
            let stored = guard::will(&publication, &subject.rights(modules), modules).unwrap();
            Box::new(Will::new(stored, delay, how.will_expiry))
        });
        let (attached, session_present) = self.engine.attach(
            &id.into(),
            Admitted {
                subject: Arc::clone(&subject),
                clean_start: how.clean,
                expiry: how.expiry,
                will,
                link: NewLink {
                    version: how.version,
                    receive_maximum: how.receive_maximum.and_then(NonZeroU16::new),
                    max_packet: how.max_packet.and_then(NonZeroU32::new),
                    topic_alias_max: how.alias_max,
                },
            },
            self.now,
        )?;
        let watch = modules.watch(subject.snapshot(), self.now).unwrap();
        let terms = Terms {
            version: how.version,
            keep_alive: how.keep_alive,
            until: None,
            has_expiry: how.expiry > 0,
            auth_method: None,
            max_packet: how.max_packet.and_then(NonZeroU32::new),
        };
        let connection = Connection::new(
            Arc::clone(&self.engine),
            attached,
            subject,
            watch,
            terms,
            self.now,
        );
        Ok(Client {
            connection: Some(connection),
            version: how.version,
            session_present,
            end: None,
            aliased: 0,
            alias_max: how.alias_max,
            aliases: HashMap::new(),
            farewell: Vec::new(),
        })
    }

    pub(crate) fn noted(&self, text: &str) -> bool {
        self.notes.0.lock().iter().any(|note| note.contains(text))
    }
}

impl Client {
    /// Sends packets; the broker may end the connection over them.
    pub(crate) fn send(&mut self, world: &World, packets: &[Packet<'_>]) {
        let mut bytes = Vec::new();
        for packet in packets {
            encode_client(&mut bytes, self.version, packet);
        }
        self.send_bytes(world, &bytes);
    }

    pub(crate) fn send_bytes(&mut self, world: &World, bytes: &[u8]) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        match connection.receive(bytes, Waker::noop(), world.now) {
            Ok(consumed) => assert_eq!(consumed, bytes.len(), "whole packets were sent"),
            Err(end) => self.ended(world, end),
        }
    }

    fn ended(&mut self, world: &World, end: End) {
        if let Some(mut connection) = self.connection.take() {
            self.farewell = connection.finish(&end, world.now);
            self.end = Some(end);
        }
    }

    /// The network connection goes away.
    pub(crate) fn lose(&mut self, world: &World) {
        self.ended(world, End::Lost("cut".to_owned()));
    }

    pub(crate) fn disconnect(&mut self, world: &World) {
        self.send(
            world,
            &[Packet::Disconnect(Disconnect {
                reason: ReasonCode::Success,
                session_expiry: None,
                reason_string: None,
                user: UserProperties::default(),
            })],
        );
    }

    /// Everything that the broker has for this client, which reads it all. A slow bus has had the
    /// time that it needs.
    pub(crate) fn got(&mut self, world: &World) -> Vec<Got> {
        if let Some(slow) = &world.slow {
            slow.settle();
        }
        self.read(world)
    }

    /// What the broker has for this client at this moment.
    pub(crate) fn read(&mut self, world: &World) -> Vec<Got> {
        let (mut all, mut output) = (Vec::new(), Vec::new());
        while let Some(connection) = &mut self.connection {
            output.clear();
            match connection.take_output(&mut output, Waker::noop(), world.now) {
                Ok(()) if output.is_empty() => break,
                Ok(()) => {
                    connection.wrote(output.len(), world.now);
                    all.append(&mut self.parse(&output));
                }
                Err(end) => {
                    // As the driver does: what was to be written goes before the goodbye.
                    all.append(&mut self.parse(&output));
                    self.ended(world, end);
                }
            }
        }
        let farewell = std::mem::take(&mut self.farewell);
        all.append(&mut self.parse(&farewell));
        all
    }

    /// The payloads of the messages that the broker has for this client; `QoS` 1 and 2 are
    /// acknowledged to their end.
    pub(crate) fn payloads(&mut self, world: &World) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let got = self.got(world);
            if got.is_empty() {
                return all;
            }
            for packet in got {
                match &packet {
                    Got::Message { qos, id, .. } => {
                        all.extend(packet.payload().map(str::to_owned));
                        match (qos, id) {
                            (QoS::AtLeastOnce, Some(id)) => self.send(world, &[puback(*id)]),
                            (QoS::ExactlyOnce, Some(id)) => self.send(world, &[pubrec(*id)]),
                            _ => {}
                        }
                    }
                    Got::PubRel(id, _) => self.send(world, &[pubcomp(*id)]),
                    _ => {}
                }
            }
        }
    }

    pub(crate) fn subscribe(&mut self, world: &World, filter: &str, qos: QoS) -> u8 {
        self.subscribe_with(
            world,
            filter,
            SubscribeOptions {
                qos,
                ..SubscribeOptions::default()
            },
            None,
        )
    }

    pub(crate) fn subscribe_with(
        &mut self,
        world: &World,
        filter: &str,
        options: SubscribeOptions,
        id: Option<u32>,
    ) -> u8 {
        self.send(
            world,
            &[Packet::Subscribe(Subscribe {
                id: NonZeroU16::new(9).unwrap(),
                subscription_id: id.and_then(NonZeroU32::new),
                filters: vec![(filter, options)],
                user: UserProperties::default(),
            })],
        );
        // Look at the answer without taking what else there is.
        let connection = self.connection.as_mut().unwrap();
        let answers = connection.take_replies();
        match self.parse(&answers).as_slice() {
            [Got::SubAck(9, codes)] => codes[0],
            other => panic!("not one SUBACK: {other:?}"),
        }
    }

    pub(crate) fn unsubscribe(&mut self, world: &World, filter: &str) {
        self.send(
            world,
            &[Packet::Unsubscribe(Unsubscribe {
                id: NonZeroU16::new(9).unwrap(),
                filters: vec![filter],
                user: UserProperties::default(),
            })],
        );
    }

    pub(crate) fn publish(&mut self, world: &World, topic: &str, payload: &str, promise: Delivery) {
        self.send(world, &[publish(topic, payload, promise, false)]);
    }

    pub(crate) fn retain(&mut self, world: &World, topic: &str, payload: &str) {
        self.send(
            world,
            &[publish(topic, payload, Delivery::AtMostOnce, true)],
        );
    }
}

pub(crate) fn qos1(id: u16) -> Delivery {
    Delivery::AtLeastOnce {
        id: NonZeroU16::new(id).unwrap(),
        dup: false,
    }
}

pub(crate) fn qos2(id: u16) -> Delivery {
    Delivery::ExactlyOnce {
        id: NonZeroU16::new(id).unwrap(),
        dup: false,
    }
}

pub(crate) fn publish<'a>(
    topic: &'a str,
    payload: &'a str,
    delivery: Delivery,
    retain: bool,
) -> Packet<'a> {
    Packet::Publish(Publish {
        topic,
        alias: None,
        delivery,
        retain,
        properties: MessageProperties::default(),
        payload: payload.as_bytes(),
    })
}

fn ack(id: u16) -> Ack<'static> {
    Ack {
        id: NonZeroU16::new(id).unwrap(),
        reason: ReasonCode::Success,
        reason_string: None,
        user: UserProperties::default(),
    }
}

pub(crate) fn puback(id: u16) -> Packet<'static> {
    Packet::PubAck(ack(id))
}

pub(crate) fn pubrec(id: u16) -> Packet<'static> {
    Packet::PubRec(ack(id))
}

pub(crate) fn pubrel(id: u16) -> Packet<'static> {
    Packet::PubRel(ack(id))
}

pub(crate) fn pubcomp(id: u16) -> Packet<'static> {
    Packet::PubComp(ack(id))
}

impl Client {
    fn parse(&mut self, mut bytes: &[u8]) -> Vec<Got> {
        let mut all = Vec::new();
        while let Some(frame) = split_frame(bytes, u32::MAX).unwrap() {
            bytes = &bytes[frame.size..];
            let packet = decode_server(frame, self.version, &Limits::default()).unwrap();
            all.push(self.understand(packet));
        }
        all
    }

    /// The topic of a message, whether it is spelled out or stands for an alias.
    fn topic_of(&mut self, publish: &Publish<'_>) -> String {
        let Some(alias) = publish.alias else {
            return publish.topic.to_owned();
        };
        assert!(alias.get() <= self.alias_max, "an alias over the maximum");
        if publish.topic.is_empty() {
            self.aliased += 1;
        } else {
            self.aliases.insert(alias.get(), publish.topic.to_owned());
        }
        self.aliases[&alias.get()].clone()
    }

    fn understand(&mut self, packet: ServerPacket<'_>) -> Got {
        match packet {
            ServerPacket::Publish(publish, ids) => Got::Message {
                topic: self.topic_of(&publish),
                payload: String::from_utf8(publish.payload.to_vec()).unwrap(),
                qos: publish.delivery.qos(),
                id: match publish.delivery {
                    Delivery::AtMostOnce => None,
                    Delivery::AtLeastOnce { id, .. } | Delivery::ExactlyOnce { id, .. } => {
                        Some(id.get())
                    }
                },
                dup: matches!(
                    publish.delivery,
                    Delivery::AtLeastOnce { dup: true, .. }
                        | Delivery::ExactlyOnce { dup: true, .. }
                ),
                retain: publish.retain,
                ids: ids.iter().map(|id| id.get()).collect(),
                expiry: publish.properties.expiry,
            },
            ServerPacket::PubAck(ack) => Got::PubAck(ack.id.get(), ack.reason),
            ServerPacket::PubRec(ack) => Got::PubRec(ack.id.get(), ack.reason),
            ServerPacket::PubRel(ack) => Got::PubRel(ack.id.get(), ack.reason),
            ServerPacket::PubComp(ack) => Got::PubComp(ack.id.get(), ack.reason),
            ServerPacket::SubAck(ack) => Got::SubAck(ack.id.get(), codes(&ack.codes)),
            ServerPacket::UnsubAck(ack) => Got::UnsubAck(ack.id.get(), codes(&ack.codes)),
            ServerPacket::PingResp => Got::Pong,
            ServerPacket::Disconnect(disconnect) => Got::Bye(disconnect.reason),
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn codes(codes: &[ReasonCode]) -> Vec<u8> {
    codes.iter().map(|code| *code as u8).collect()
}
