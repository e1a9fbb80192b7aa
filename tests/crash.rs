//! `kill -9` at moments of a seed's choosing, under load, with the real binary.
//!
//! Publishers send `QoS` 1 and 2 messages and resend after each crash as the protocol says;
//! subscribers with persistent sessions come back, one of them only every other time. What must be
//! true in the end:
//!
//! - every message that was acknowledged reached every subscriber,
//! - no `QoS` 2 message reached an application twice, and those of one sender came in order,
//! - what is retained is the last acknowledged state, or a later one that was sent,
//! - a session whose CONNACK was seen is still there,
//! - `store check` calls what a crash leaves sound.
//!
//! `PORTCULLIS_CRASHES` sets the number of crashes, `PORTCULLIS_CRASH_SEED` another choice of
//! moments.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "what is not as it should be is a failed test"
)]

#[path = "e2e/harness.rs"]
#[expect(dead_code, reason = "most of it is for other tests")]
mod harness;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use portcullis_core::wire::{
    Ack, Connect, Delivery, Limits, MAX_PACKET_SIZE, MessageProperties, Packet, PacketId, Publish,
    QoS, ReasonCode, ServerPacket, Subscribe, SubscribeOptions, UserProperties, Version,
    decode_server, encode_client, split_frame,
};

use harness::{Broker, PORTCULLIS, eventually, launch};

const V3: Version = Version::V3_1_1;
const PUBLISHERS: usize = 3;
/// Messages that a publisher has under way. Identifiers are few too, so that they are used again
/// at once: a broker that forgets that one is free, or remembers too long, loses messages.
const WINDOW: usize = 8;
/// A crash comes after at most this many acknowledgements since the start.
const CALM: u64 = 250;
/// The crash comes at most this long after the acknowledgement that it waits for.
const JITTER_MICROS: u64 = 3000;
const TOPIC: &str = "lab/crash";
const END: &str = "end";

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let number =
        |name, default| std::env::var(name).map_or(default, |text| text.parse::<u64>().unwrap());
    let crashes = number("PORTCULLIS_CRASHES", 25);
    let seed = number("PORTCULLIS_CRASH_SEED", 0x5eed);
    println!("PORTCULLIS_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let mut broker = Broker::start(|setup| {
        setup.auth += "anonymous = true\n";
        setup.listeners = setup.listeners.replace(
            r#"["jwt", "password"]"#,
            r#"["jwt", "password", "anonymous"]"#,
        );
        setup.limits += "publish-rate = \"100000/s\"\nqueue-messages = 100000\n";
        setup.more += "[durability]\nmode = \"fsync\"\n";
    });
    let world = Arc::new(World::default());
    world.up(&broker);
    let subscribers: Vec<_> = [
        ("always-2", QoS::ExactlyOnce, 1),
        ("at-times-2", QoS::ExactlyOnce, 2),
        ("always-1", QoS::AtLeastOnce, 1),
    ]
    .map(|(name, qos, every)| Subscriber::begin(&world, name, qos, every))
    .into();
    eventually("all are subscribed", || {
        (world.subscribed.load(Ordering::SeqCst) == subscribers.len() as u64).then_some(())
    });
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| Publisher::begin(&world, number))
        .collect();

    for crash in 0..crashes {
        let target = world.progress.load(Ordering::SeqCst) + random.below(CALM);
        eventually("messages are acknowledged", || {
            let ended = |thread: &JoinHandle<()>| thread.is_finished();
            let failed = publishers.iter().any(ended) || subscribers.iter().any(ended);
            assert!(!failed, "crash {crash}: a client failed");
            (world.progress.load(Ordering::SeqCst) >= target).then_some(())
        });
        thread::sleep(Duration::from_micros(random.below(JITTER_MICROS)));
        world.down();
        broker.kill();
        if random.below(4) == 0 {
            broker.ask(&["store", "check"]).succeeded();
        }
        if random.below(4) == 0 {
            let mut command = Command::new(PORTCULLIS);
            command.args(["run", "--config"]).arg(broker.setup.config());
            let (mut child, _) = launch(&mut command);
            thread::sleep(Duration::from_millis(random.below(200)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        broker.restart();
        let floors = *world.retained.lock().unwrap();
        world.up(&broker);
        world.check_retained(&broker, &floors);
    }

    world.finish.store(true, Ordering::SeqCst);
    for publisher in publishers {
        publisher.join().unwrap();
    }
    World::say_end(broker.address("local"));
    for subscriber in subscribers {
        subscriber.join().unwrap();
    }
    let acknowledged = world.acknowledged.lock().unwrap();
    println!(
        "{crashes} crashes, {} messages acknowledged",
        acknowledged.len()
    );
    for (name, got) in &*world.got.lock().unwrap() {
        let lost: Vec<_> = acknowledged.difference(got).take(10).collect();
        assert!(lost.is_empty(), "{name} never got {lost:?}");
    }
    let floors = *world.retained.lock().unwrap();
    world.check_retained(&broker, &floors);
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What a publisher knows of its retained topic.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    sent: u32,
    acknowledged: u32,
}

impl Kept {
    /// Every fourth state is "nothing".
    fn clears(number: u32) -> bool {
        number.is_multiple_of(4)
    }
}

/// What the clients and the one who kills share.
#[derive(Default)]
struct World {
    /// How often the broker was started, and where it is if it runs.
    place: Mutex<(u64, Option<SocketAddr>)>,
    /// Acknowledgements and deliveries so far.
    progress: AtomicU64,
    subscribed: AtomicU64,
    finish: AtomicBool,
    acknowledged: Mutex<BTreeSet<String>>,
    /// By subscriber.
    got: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
    retained: Mutex<[Kept; PUBLISHERS]>,
}

impl World {
    fn up(&self, broker: &Broker) {
        let mut place = self.place.lock().unwrap();
        *place = (place.0 + 1, Some(broker.address("local")));
    }

    fn down(&self) {
        self.place.lock().unwrap().1 = None;
    }

    fn progress(&self) {
        self.progress.fetch_add(1, Ordering::SeqCst);
    }

    /// Runs `session` again and again, at most once for each start of the broker that `takes` takes,
    /// until it says that it is done.
    fn again(
        &self,
        takes: impl Fn(u64) -> bool,
        mut session: impl FnMut(SocketAddr) -> io::Result<bool>,
    ) {
        let mut last = 0;
        loop {
            let (start, address) = eventually("a broker to connect to", || {
                let (start, address) = *self.place.lock().unwrap();
                let wanted = start > last && (takes(start) || self.finish.load(Ordering::SeqCst));
                Some((start, address.filter(|_| wanted)?))
            });
            match session(address) {
                Ok(true) => return,
                Ok(false) => last = start,
                Err(error) => {
                    let (now, address) = *self.place.lock().unwrap();
                    // The broker says goodbye only when it is killed.
                    assert!(
                        now > start || address.is_none(),
                        "{error}, and nobody was killed"
                    );
                    last = start;
                }
            }
        }
    }

    /// What is retained lies between what was acknowledged before and what was sent after.
    fn check_retained(&self, broker: &Broker, floors: &[Kept; PUBLISHERS]) {
        let mut link = Link::connect(broker.address("local"), "checker", true)
            .unwrap()
            .0;
        link.subscribe("lab/retained/+", QoS::AtLeastOnce).unwrap();
        // Comes after what is retained; an answer to PINGREQ may overtake messages.
        let end = Delivery::AtLeastOnce {
            id: PacketId::MIN,
            dup: false,
        };
        link.publish("lab/retained/end", END, end, false).unwrap();
        let mut found = [None; PUBLISHERS];
        loop {
            match link.receive().unwrap() {
                Got::Message {
                    topic,
                    payload,
                    retain: true,
                    ..
                } => {
                    let publisher: usize = topic.rsplit('/').next().unwrap().parse().unwrap();
                    found[publisher] = Some(payload.parse::<u32>().unwrap());
                }
                Got::Message { payload, .. } if payload == END => break,
                _ => {}
            }
        }
        let now = *self.retained.lock().unwrap();
        for publisher in 0..PUBLISHERS {
            let mut possible = floors[publisher].acknowledged..=now[publisher].sent;
            let fits = match found[publisher] {
                Some(number) => possible.contains(&number) && !Kept::clears(number),
                // Number 0 stands for the time before the first.
                None => possible.any(Kept::clears),
            };
            assert!(
                fits,
                "retained: {:?}, not in {possible:?}",
                found[publisher]
            );
        }
    }

    /// A last message, which comes to every subscriber after all others.
    fn say_end(address: SocketAddr) {
        let mut link = Link::connect(address, "last", true).unwrap().0;
        let id = PacketId::MIN;
        link.publish(TOPIC, END, Delivery::AtLeastOnce { id, dup: false }, false)
            .unwrap();
        while !matches!(link.receive().unwrap(), Got::Ack(_)) {}
    }
}

/// What a server said, as far as it matters here.
enum Got {
    Ack(PacketId),
    Rec(PacketId),
    Rel(PacketId),
    Comp(PacketId),
    SubAck,
    Message {
        topic: String,
        payload: String,
        delivery: Delivery,
        retain: bool,
    },
}

/// A connection of a client.
struct Link {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Link {
    /// Connects; whether the broker knew the session.
    fn connect(address: SocketAddr, client_id: &str, clean: bool) -> io::Result<(Self, bool)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(harness::PATIENCE))?;
        let input = Vec::new();
        let mut link = Self { stream, input };
        link.send(&Packet::Connect(Box::new(Connect {
            version: V3,
            clean_start: clean,
            keep_alive: 0,
            client_id,
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
        })))?;
        let present = link.next(|packet| match packet {
            ServerPacket::ConnAck(ack) if ack.reason == ReasonCode::Success => ack.session_present,
            other => panic!("{other:?}"),
        })?;
        Ok((link, present))
    }

    fn send(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut out = Vec::new();
        encode_client(&mut out, V3, packet);
        self.stream.write_all(&out)
    }

    fn acknowledge(
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

    fn publish(
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

    fn subscribe(&mut self, filter: &str, qos: QoS) -> io::Result<()> {
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

    fn receive(&mut self) -> io::Result<Got> {
        self.next(|packet| match packet {
            ServerPacket::PubAck(ack) => Got::Ack(ack.id),
            ServerPacket::PubRec(ack) => Got::Rec(ack.id),
            ServerPacket::PubRel(ack) => Got::Rel(ack.id),
            ServerPacket::PubComp(ack) => Got::Comp(ack.id),
            ServerPacket::SubAck(ack) => {
                assert!(ack.codes.iter().all(|code| *code as u8 <= 2), "{ack:?}");
                Got::SubAck
            }
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
                let taken = take(decode_server(frame, V3, &Limits::default()).unwrap());
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

/// One client that sends.
struct Publisher {
    world: Arc<World>,
    number: usize,
    /// Whether the broker has told of a session.
    known: bool,
    next: u32,
    /// In the order of their sending.
    flights: Vec<Flight>,
}

struct Flight {
    id: PacketId,
    qos: QoS,
    text: String,
    /// The number of the retained state, if it is one.
    kept: Option<u32>,
    /// PUBREC was seen: only PUBREL goes out from now on.
    received: bool,
}

impl Publisher {
    fn begin(world: &Arc<World>, number: usize) -> JoinHandle<()> {
        let world = Arc::clone(world);
        let mut publisher = Self {
            world: Arc::clone(&world),
            number,
            known: false,
            next: 0,
            flights: Vec::new(),
        };
        thread::spawn(move || world.again(|_| true, |address| publisher.session(address)))
    }

    fn session(&mut self, address: SocketAddr) -> io::Result<bool> {
        let name = format!("publisher-{}", self.number);
        let (mut link, present) = Link::connect(address, &name, false)?;
        assert!(present || !self.known, "{name}: the session is lost");
        self.known = true;
        for flight in &self.flights {
            self.send(&mut link, flight, true)?;
        }
        loop {
            let finish = self.world.finish.load(Ordering::SeqCst);
            while self.flights.len() < WINDOW && !finish {
                let flight = self.compose();
                // Remembered first: it may arrive although sending fails.
                self.flights.push(flight);
                self.send(&mut link, self.flights.last().unwrap(), false)?;
            }
            if self.flights.is_empty() {
                return Ok(true);
            }
            match link.receive()? {
                Got::Ack(id) => {
                    let flight = self.over(id);
                    assert_eq!(flight.qos, QoS::AtLeastOnce);
                    self.acknowledged(&flight);
                }
                Got::Rec(id) => {
                    let place = self
                        .flights
                        .iter()
                        .position(|flight| flight.id == id)
                        .unwrap();
                    self.flights[place].received = true;
                    self.acknowledged(&self.flights[place]);
                    link.acknowledge(Packet::PubRel, id)?;
                }
                Got::Comp(id) => assert!(self.over(id).received),
                _ => panic!("{name}: not an acknowledgement"),
            }
        }
    }

    fn compose(&mut self) -> Flight {
        self.next += 1;
        let used: HashSet<_> = self.flights.iter().map(|flight| flight.id).collect();
        let id = (1..=u16::MAX)
            .map(|id| PacketId::new(id).unwrap())
            .find(|id| !used.contains(id));
        let (qos, kept) = match self.next % 5 {
            // Of one QoS, so that resending cannot put them out of order for good.
            0 => (QoS::AtLeastOnce, Some(self.next / 5)),
            1 | 3 => (QoS::AtLeastOnce, None),
            _ => (QoS::ExactlyOnce, None),
        };
        if let Some(kept) = kept {
            self.world.retained.lock().unwrap()[self.number].sent = kept;
        }
        let text = match kept {
            Some(kept) if Kept::clears(kept) => String::new(),
            Some(kept) => kept.to_string(),
            None => format!("{} {} {}", self.number, self.next, qos as u8),
        };
        Flight {
            id: id.unwrap(),
            qos,
            text,
            kept,
            received: false,
        }
    }

    fn send(&self, link: &mut Link, flight: &Flight, dup: bool) -> io::Result<()> {
        let id = flight.id;
        if flight.received {
            return link.acknowledge(Packet::PubRel, id);
        }
        let delivery = match flight.qos {
            QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
            _ => Delivery::AtLeastOnce { id, dup },
        };
        match flight.kept {
            Some(_) => link.publish(
                &format!("lab/retained/{}", self.number),
                &flight.text,
                delivery,
                true,
            ),
            None => link.publish(TOPIC, &flight.text, delivery, false),
        }
    }

    fn acknowledged(&self, flight: &Flight) {
        match flight.kept {
            Some(kept) => self.world.retained.lock().unwrap()[self.number].acknowledged = kept,
            None => drop(
                self.world
                    .acknowledged
                    .lock()
                    .unwrap()
                    .insert(flight.text.clone()),
            ),
        }
        self.world.progress();
    }

    fn over(&mut self, id: PacketId) -> Flight {
        let place = self.flights.iter().position(|flight| flight.id == id);
        self.flights.remove(place.unwrap())
    }
}

/// One client that receives, and the application behind it.
struct Subscriber {
    world: Arc<World>,
    name: &'static str,
    qos: QoS,
    subscribed: bool,
    /// Identifiers of `QoS` 2 messages that were taken and not yet released.
    taken: HashSet<PacketId>,
    /// The last `QoS` 2 message of each publisher.
    last: [u32; PUBLISHERS],
}

impl Subscriber {
    /// Begins one that connects at every `every`th start.
    fn begin(world: &Arc<World>, name: &'static str, qos: QoS, every: u64) -> JoinHandle<()> {
        let world = Arc::clone(world);
        let mut subscriber = Self {
            world: Arc::clone(&world),
            name,
            qos,
            subscribed: false,
            taken: HashSet::new(),
            last: [0; PUBLISHERS],
        };
        thread::spawn(move || {
            world.again(
                |start| start % every == 1 % every,
                |address| subscriber.session(address),
            );
        })
    }

    fn session(&mut self, address: SocketAddr) -> io::Result<bool> {
        let (mut link, present) = Link::connect(address, self.name, false)?;
        assert_eq!(present, self.subscribed, "{}: session present", self.name);
        if !self.subscribed {
            link.subscribe(TOPIC, self.qos)?;
        }
        loop {
            match link.receive()? {
                Got::SubAck => {
                    self.subscribed = true;
                    self.world.subscribed.fetch_add(1, Ordering::SeqCst);
                }
                Got::Message {
                    payload, delivery, ..
                } => match delivery {
                    Delivery::AtMostOnce => panic!("{payload}: not at QoS 0"),
                    Delivery::AtLeastOnce { id, .. } => {
                        let end = payload == END;
                        self.deliver(payload, false);
                        link.acknowledge(Packet::PubAck, id)?;
                        if end {
                            return Ok(true);
                        }
                    }
                    Delivery::ExactlyOnce { id, .. } => {
                        if self.taken.insert(id) {
                            self.deliver(payload, true);
                        }
                        link.acknowledge(Packet::PubRec, id)?;
                    }
                },
                Got::Rel(id) => {
                    self.taken.remove(&id);
                    link.acknowledge(Packet::PubComp, id)?;
                }
                _ => panic!("{}: not for a subscriber", self.name),
            }
        }
    }

    /// The application gets a message.
    fn deliver(&mut self, payload: String, once: bool) {
        if once {
            let mut words = payload.split(' ').map(|word| word.parse::<u32>().unwrap());
            let publisher = words.next().unwrap() as usize;
            let number = words.next().unwrap();
            let last = std::mem::replace(&mut self.last[publisher], number);
            assert!(
                number > last,
                "{}: {number} of publisher {publisher} after {last}",
                self.name
            );
        }
        self.world
            .got
            .lock()
            .unwrap()
            .entry(self.name)
            .or_default()
            .insert(payload);
        self.world.progress();
    }
}
