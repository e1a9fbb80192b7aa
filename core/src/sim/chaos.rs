//! Many clients that come, go, subscribe, publish, read slowly and acknowledge late and out of
//! order, over either bus, with an invented clock; and what must hold whatever they do:
//!
//! 1. no message that the broker took at `QoS` 1 or 2 is lost to a session that was entitled to it
//!    and still exists, but for what a full offline queue counted as dropped;
//! 2. no `QoS` 2 message reaches an application twice;
//! 3. what one client publishes to one topic arrives in its order;
//! 4. when everybody reads, everything comes to rest: nothing waits for anything;
//! 5. gauges say what is there, and when everybody has left nothing is;
//! 6. what waits for the sessions of a principal is counted exactly, and bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const CLIENTS: usize = 4;
const IDS: [&str; CLIENTS] = ["c0", "c1", "c2", "c3"];
const OWNERS: [&str; CLIENTS] = ["user:c0", "user:c1", "user:c2", "user:c3"];
const TOPICS: [&str; 4] = ["t/a", "t/bb", "u/long-topic", "s/shared"];
const FILTERS: [&str; 5] = ["t/+", "#", "t/a", "u/long-topic", "t/#"];
const SHARED: &str = "$share/g/s/shared";

#[derive(Clone, Debug)]
enum Step {
    Connect {
        who: usize,
        clean: bool,
        persistent: bool,
        window: Option<u16>,
    },
    Lose(usize),
    Goodbye(usize),
    Subscribe(usize, usize, QoS),
    Share(usize),
    Unsubscribe(usize, usize),
    Publish(usize, usize, QoS),
    Retain(usize, usize, bool),
    Read(usize),
    /// Sends so many of the acknowledgements that are due, chosen by a whim.
    Acknowledge(usize, usize, usize),
    Bus(usize),
    BusFails(usize),
    Later(u64),
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..CLIENTS;
    prop_oneof![
        3 => (who(), prop::bool::weighted(0.2), prop::bool::weighted(0.8), prop::option::of(1u16..4))
            .prop_map(|(who, clean, persistent, window)| Step::Connect { who, clean, persistent, window }),
        2 => who().prop_map(Step::Lose),
        1 => who().prop_map(Step::Goodbye),
        4 => (who(), 0..FILTERS.len(), qos()).prop_map(|(w, f, q)| Step::Subscribe(w, f, q)),
        2 => who().prop_map(Step::Share),
        1 => (who(), 0..=FILTERS.len()).prop_map(|(w, f)| Step::Unsubscribe(w, f)),
        14 => (who(), 0..TOPICS.len(), qos()).prop_map(|(w, t, q)| Step::Publish(w, t, q)),
        1 => (who(), 0..3usize, any::<bool>()).prop_map(|(w, t, keep)| Step::Retain(w, t, keep)),
        6 => who().prop_map(Step::Read),
        8 => (who(), 1..4usize, any::<usize>()).prop_map(|(w, n, whim)| Step::Acknowledge(w, n, whim)),
        5 => any::<usize>().prop_map(Step::Bus),
        1 => any::<usize>().prop_map(Step::BusFails),
        1 => (1u64..7).prop_map(Step::Later),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Terms {
    queue: usize,
    /// For all sessions of a principal, ...
    together: usize,
    /// ... of which it may have so many.
    sessions: usize,
    /// All clients are one principal.
    one: bool,
    inbound: u16,
    slow: bool,
    /// Tickets may fail: then a publisher is told so and gives up or tries anew.
    failing: bool,
    versions: [Version; CLIENTS],
}

fn terms() -> impl Strategy<Value = Terms> {
    let version = prop_oneof![3 => Just(Version::V5), 1 => Just(Version::V3_1_1)];
    (
        prop_oneof![Just(2usize), Just(1000)],
        (
            prop_oneof![Just(3usize), Just(9), Just(100_000)],
            prop_oneof![Just(CLIENTS), Just(1000)],
            any::<bool>(),
        ),
        2u16..6,
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::array::uniform4(version),
    )
        .prop_map(
            |(queue, (together, sessions, one), inbound, slow, failing, versions)| Terms {
                queue,
                together,
                sessions,
                one,
                inbound,
                slow,
                failing,
                versions,
            },
        )
}

/// A message as its readers can tell it: who, to what topic, which.
type Name = (usize, usize, u32);

fn payload((author, topic, number): Name) -> String {
    format!("{author} {topic} {number}")
}

fn name(payload: &str) -> Name {
    let mut parts = payload.split(' ').map(|part| part.parse::<u32>().unwrap());
    let mut next = || parts.next().unwrap();
    (next() as usize, next() as usize, next())
}

/// A publish that is not acknowledged to its end.
#[derive(Clone, Debug)]
struct Sent {
    id: u16,
    qos: QoS,
    name: Name,
    released: bool,
}

/// A client as a good library would be.
#[derive(Default)]
struct Peer {
    client: Option<Client>,
    persistent: bool,
    /// Whether the broker must have a session, and which; counts up.
    session: Option<usize>,
    epochs: usize,
    subscriptions: BTreeMap<usize, QoS>,
    shares: bool,
    sent: Vec<Sent>,
    last_id: u16,
    numbers: BTreeMap<usize, u32>,
    received: BTreeSet<u16>,
    due: Vec<Packet<'static>>,
    /// What the application saw in this session.
    seen: Vec<(Name, QoS)>,
    expected: BTreeSet<Name>,
}

struct Chaos {
    world: World,
    terms: Terms,
    peers: Vec<Peer>,
    /// Messages to the group, and whether a member's session has ended since.
    shared: BTreeMap<Name, (QoS, bool)>,
    shared_seen: BTreeMap<Name, usize>,
    lost: u64,
    resent: BTreeSet<Name>,
    retained: BTreeSet<usize>,
}

impl Chaos {
    fn new(terms: Terms) -> Self {
        let mut settings = Settings::default();
        settings.limits.queue_messages = terms.queue;
        settings.limits.queue_messages_per_principal = terms.together;
        settings.limits.sessions_per_principal = terms.sessions;
        settings.mqtt.receive_maximum = NonZeroU16::new(terms.inbound).unwrap();
        Self {
            world: World::over(settings, terms.slow),
            terms,
            peers: (0..CLIENTS).map(|_| Peer::default()).collect(),
            shared: BTreeMap::new(),
            shared_seen: BTreeMap::new(),
            lost: 0,
            resent: BTreeSet::new(),
            retained: BTreeSet::new(),
        }
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Connect {
                who,
                clean,
                persistent,
                window,
            } => self.connect(who, clean, persistent, window),
            Step::Lose(who) => {
                if let Some(client) = &mut self.peers[who].client {
                    client.lose(&self.world);
                }
                self.gone(who);
            }
            Step::Goodbye(who) => {
                if let Some(client) = &mut self.peers[who].client {
                    client.disconnect(&self.world);
                }
                self.gone(who);
            }
            Step::Subscribe(who, filter, qos) => {
                if let Some(client) = self.live(who) {
                    let code = client.quietly_subscribe(FILTERS[filter], qos);
                    if code {
                        self.peers[who].subscriptions.insert(filter, qos);
                    }
                }
            }
            Step::Share(who) => {
                if let Some(client) = self.live(who)
                    && client.quietly_subscribe(SHARED, QoS::ExactlyOnce)
                {
                    self.peers[who].shares = true;
                }
            }
            Step::Unsubscribe(who, filter) => {
                let text = FILTERS.get(filter).copied().unwrap_or(SHARED);
                if let Some(mut client) = self.live(who) {
                    client.quietly_unsubscribe(text);
                    let peer = &mut self.peers[who];
                    if text == SHARED {
                        peer.shares = false;
                    } else {
                        peer.subscriptions.remove(&filter);
                    }
                }
            }
            Step::Publish(who, topic, qos) => self.publish(who, topic, qos),
            Step::Retain(who, topic, keep) => {
                if let Some(client) = self.live(who) {
                    let text = if keep { "kept" } else { "" };
                    client.quietly_retain(&format!("retained/{topic}"), text);
                    if keep {
                        self.retained.insert(topic);
                    } else {
                        self.retained.remove(&topic);
                    }
                }
            }
            Step::Read(who) => {
                self.read(who);
            }
            Step::Acknowledge(who, count, whim) => self.acknowledge(who, count, whim),
            Step::Bus(whim) => {
                if let Some(slow) = &self.world.slow {
                    slow.complete(whim);
                }
            }
            Step::BusFails(whim) => {
                if let (Some(slow), true) = (&self.world.slow, self.terms.failing) {
                    slow.fail(whim);
                }
            }
            Step::Later(seconds) => {
                self.world.later(Duration::from_secs(seconds));
                for who in 0..CLIENTS {
                    let Some(client) = &mut self.peers[who].client else {
                        continue;
                    };
                    let due = client
                        .connection
                        .as_ref()
                        .map(|connection| connection.check_time(self.world.now));
                    if let Some(Err(end)) = due {
                        client.ended(&self.world, end);
                        self.gone(who);
                    }
                }
            }
        }
    }

    /// A connected client with the world, if there is one.
    fn live(&mut self, who: usize) -> Option<Live<'_>> {
        let client = self.peers[who].client.as_mut()?;
        client.connection.as_ref()?;
        Some(Live {
            client,
            world: &self.world,
        })
    }

    fn connect(&mut self, who: usize, clean: bool, persistent: bool, window: Option<u16>) {
        let version = self.terms.versions[who];
        let how = As {
            version,
            clean,
            expiry: if persistent { 3600 } else { 0 },
            receive_maximum: window.filter(|_| version.is_v5()),
            alias_max: if version.is_v5() { 2 } else { 0 },
            keep_alive: 0,
            ..As::new(OWNERS[if self.terms.one { 0 } else { who }])
        };
        let present = !clean && self.peers[who].session.is_some() && self.peers[who].persistent;
        let old = self.peers[who].client.take();
        let client = self.world.connect(IDS[who], &how);
        assert_eq!(client.session_present, present, "{who} session present");
        if let Some(mut old) = old {
            // Nobody reads what the old connection still had.
            old.read(&self.world);
            assert!(old.connection.is_none());
        }
        if !present {
            self.session_over(who);
        }
        let peer = &mut self.peers[who];
        peer.client = Some(client);
        peer.persistent = persistent;
        peer.due.clear();
        if peer.session.is_none() {
            peer.epochs += 1;
            peer.session = Some(peer.epochs);
        }
        for sent in peer.sent.clone() {
            if sent.released {
                self.transmit(who, &pubrel(sent.id));
            } else {
                self.send_publish(who, &sent, true);
            }
        }
    }

    /// The connection is gone; the session too, unless it is persistent.
    fn gone(&mut self, who: usize) {
        let peer = &mut self.peers[who];
        if peer.client.take().is_none() {
            return;
        }
        peer.due.clear();
        if !peer.persistent {
            self.session_over(who);
        }
    }

    fn session_over(&mut self, who: usize) {
        let peer = &mut self.peers[who];
        if peer.session.take().is_some() {
            // Whatever went through the group may have gone with it.
            for (_, over) in self.shared.values_mut() {
                *over = true;
            }
        }
        let (epochs, last_id) = (peer.epochs, peer.last_id);
        *peer = Peer {
            client: peer.client.take(),
            epochs,
            last_id,
            numbers: std::mem::take(&mut peer.numbers),
            ..Peer::default()
        };
    }

    fn transmit(&mut self, who: usize, packet: &Packet<'_>) {
        let Some(client) = &mut self.peers[who].client else {
            return;
        };
        client.send(&self.world, std::slice::from_ref(packet));
        if client.connection.is_none() {
            self.gone(who);
        }
    }

    fn publish(&mut self, who: usize, topic: usize, qos: QoS) {
        let peer = &mut self.peers[who];
        let open = peer.sent.len();
        if peer.client.is_none()
            || (qos > QoS::AtMostOnce && open >= usize::from(self.terms.inbound))
        {
            return;
        }
        let number = peer.numbers.entry(topic).or_default();
        *number += 1;
        let name = (who, topic, *number);
        peer.last_id = peer.last_id % 60_000 + 1;
        let sent = Sent {
            id: peer.last_id,
            qos,
            name,
            released: false,
        };
        if qos > QoS::AtMostOnce {
            peer.sent.push(sent.clone());
        }
        self.send_publish(who, &sent, false);
    }

    fn send_publish(&mut self, who: usize, sent: &Sent, dup: bool) {
        if dup {
            self.resent.insert(sent.name);
        }
        let id = NonZeroU16::new(sent.id).unwrap();
        let delivery = match sent.qos {
            QoS::AtMostOnce => Delivery::AtMostOnce,
            QoS::AtLeastOnce => Delivery::AtLeastOnce { id, dup },
            QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
        };
        let text = payload(sent.name);
        self.transmit(who, &publish(TOPICS[sent.name.1], &text, delivery, false));
        if self.peers[who].client.is_none() || (dup && sent.qos == QoS::ExactlyOnce) {
            // Perhaps the broker took it, perhaps not.
            return;
        }
        for peer in &mut self.peers {
            let granted = peer
                .subscriptions
                .iter()
                .filter(|(filter, _)| matches(FILTERS[**filter], TOPICS[sent.name.1]))
                .map(|(_, qos)| *qos)
                .max();
            if peer.session.is_some()
                && granted.is_some_and(|granted| granted.min(sent.qos) > QoS::AtMostOnce)
                && !peer.seen.iter().any(|(name, _)| *name == sent.name)
            {
                peer.expected.insert(sent.name);
            }
        }
        let members = self
            .peers
            .iter()
            .any(|peer| peer.shares && peer.session.is_some());
        if TOPICS[sent.name.1] == "s/shared" && members && sent.qos > QoS::AtMostOnce {
            self.shared.entry(sent.name).or_insert((sent.qos, false));
        }
    }

    /// Reads everything that there is; whether there was anything.
    fn read(&mut self, who: usize) -> bool {
        let Some(client) = &mut self.peers[who].client else {
            return false;
        };
        let got = client.read(&self.world);
        let alive = client.connection.is_some();
        let any = !got.is_empty();
        for packet in got {
            self.take(who, packet);
        }
        if !alive {
            self.gone(who);
        }
        any
    }

    fn take(&mut self, who: usize, packet: Got) {
        let peer = &mut self.peers[who];
        match packet {
            Got::Message {
                topic,
                payload,
                qos,
                id,
                ..
            } => {
                if let Some(id) = id {
                    peer.due.push(match qos {
                        QoS::ExactlyOnce => pubrec(id),
                        QoS::AtLeastOnce | QoS::AtMostOnce => puback(id),
                    });
                    if qos == QoS::ExactlyOnce && !peer.received.insert(id) {
                        return;
                    }
                }
                if topic.starts_with("retained/") {
                    return;
                }
                let name = name(&payload);
                assert_eq!(topic, TOPICS[name.1], "an alias that went wrong");
                self.seen(who, name, qos);
            }
            Got::PubRel(id, _) => {
                peer.received.remove(&id);
                peer.due.push(pubcomp(id));
            }
            Got::PubAck(id, _) => peer.sent.retain(|sent| sent.id != id),
            Got::PubRec(id, reason) => {
                if reason.is_error() {
                    peer.sent.retain(|sent| sent.id != id);
                    return;
                }
                for sent in peer.sent.iter_mut().filter(|sent| sent.id == id) {
                    sent.released = true;
                }
                self.transmit(who, &pubrel(id));
            }
            Got::PubComp(id, _) => {
                peer.sent.retain(|sent| sent.id != id);
            }
            Got::SubAck(..) | Got::UnsubAck(..) | Got::Pong | Got::Bye(_) => {}
        }
    }

    fn seen(&mut self, who: usize, name: Name, qos: QoS) {
        let peer = &mut self.peers[who];
        peer.expected.remove(&name);
        let grouped = TOPICS[name.1] == "s/shared";
        if grouped {
            *self.shared_seen.entry(name).or_default() += 1;
            if !peer.subscriptions.contains_key(&1) {
                return;
            }
        }
        if peer.seen.iter().any(|(known, _)| *known == name) {
            let twice = qos == QoS::ExactlyOnce && !grouped && !self.terms.failing;
            let first = peer.seen.iter().find(|(known, _)| *known == name).unwrap();
            assert!(
                !(twice && first.1 == QoS::ExactlyOnce),
                "{who} got {name:?} twice at QoS 2"
            );
            return;
        }
        let later = peer.seen.iter().any(|((author, topic, number), _)| {
            (*author, *topic) == (name.0, name.1) && *number > name.2
        });
        // A message that was sent again comes late to who was not there at first.
        let again = self.resent.contains(&name);
        assert!(
            grouped || again || !later,
            "{who} got {name:?} out of order"
        );
        peer.seen.push((name, qos));
    }

    fn acknowledge(&mut self, who: usize, count: usize, whim: usize) {
        for turn in 0..count {
            let due = &mut self.peers[who].due;
            if due.is_empty() {
                return;
            }
            let place = whim.wrapping_add(turn) % due.len();
            let packet = due.remove(place);
            self.transmit(who, &packet);
        }
    }

    fn gauges(&self) {
        let engine = &self.world.engine;
        let metrics = &engine.metrics;
        let views = engine
            .inspect(|view| Some((view.queued, view.subscriptions, view.connected.is_some())));
        let queued: usize = views.iter().map(|view| view.0).sum();
        for count in engine.counts() {
            assert_eq!(count.counted, count.there, "{:?}", count.principal);
            let parts = CLIENTS * (self.terms.together / self.terms.sessions);
            assert!(count.counted.0 <= self.terms.together + parts);
        }
        let subscriptions: usize = views.iter().map(|view| view.1).sum();
        assert_eq!(metrics.queued_messages.value(), queued as u64);
        assert_eq!(metrics.subscriptions.value(), subscriptions as u64);
        assert_eq!(metrics.sessions.value(), views.len() as u64);
        assert_eq!(
            metrics.retained_messages.value(),
            self.retained.len() as u64
        );
        let there = self.peers.iter().filter(|peer| peer.session.is_some());
        assert_eq!(views.len(), there.count());
        let clients = self.peers.iter().filter(|peer| peer.client.is_some());
        assert_eq!(metrics.clients.value(), clients.count() as u64);
        let mine: usize = self
            .peers
            .iter()
            .map(|peer| peer.subscriptions.len() + usize::from(peer.shares))
            .sum();
        assert_eq!(subscriptions, mine);
    }

    /// Everybody reads and acknowledges until nothing moves.
    fn drain(&mut self) {
        for _ in 0..2000 {
            if let Some(slow) = &self.world.slow {
                slow.settle();
            }
            let mut moved = false;
            for who in 0..CLIENTS {
                moved |= self.read(who);
                moved |= !self.peers[who].due.is_empty();
                self.acknowledge(who, usize::MAX, 0);
            }
            if !moved {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn end(mut self) {
        self.drain();
        // A failed ticket ends a 3.x connection, so once may not be enough.
        let away = |peer: &Peer| peer.client.is_none() && peer.session.is_some();
        for _ in 0..100 {
            for who in 0..CLIENTS {
                if away(&self.peers[who]) {
                    self.connect(who, false, true, None);
                }
            }
            self.drain();
            if !self.peers.iter().any(away) {
                break;
            }
        }
        self.gauges();
        assert_eq!(self.world.engine.metrics.queued_messages.value(), 0);
        assert_eq!(self.world.engine.metrics.queued_bytes.value(), 0);
        for (who, peer) in self.peers.iter().enumerate() {
            // A full offline queue may have dropped some; it counted them.
            self.lost += peer.expected.len() as u64;
            assert!(peer.sent.is_empty(), "{who} waits for {:?}", peer.sent);
        }
        for view in self.world.engine.inspect(|view| Some(view.in_flight)) {
            assert_eq!(view, 0);
        }
        for (name, (qos, over)) in &self.shared {
            let times = self.shared_seen.get(name).copied().unwrap_or(0);
            let listeners = self
                .peers
                .iter()
                .any(|peer| peer.subscriptions.contains_key(&1));
            if times == 0 && !over {
                self.lost += 1;
            }
            if *qos == QoS::ExactlyOnce && !listeners && !over && !self.terms.failing {
                assert!(times <= 1 + CLIENTS, "{name:?} {times} times");
            }
        }
        let dropped = self.world.engine.metrics.dropped_offline.value();
        assert!(
            self.lost <= dropped,
            "{} lost, {dropped} dropped",
            self.lost
        );
        // Everybody leaves for good.
        for who in 0..CLIENTS {
            if self.peers[who].session.is_some() {
                self.connect(who, true, false, None);
                self.act(&Step::Goodbye(who));
            }
        }
        self.gauges();
        let engine = &self.world.engine;
        assert_eq!(engine.metrics.sessions.value(), 0);
        assert_eq!(engine.subscription_nodes(), 0);
        assert_eq!(engine.deadlines(), 0);
        if let Some(slow) = &self.world.slow {
            assert_eq!(slow.wanted(), Vec::<String>::new());
        }
    }
}

/// A connected client that asks without taking what else there is.
struct Live<'a> {
    client: &'a mut Client,
    world: &'a World,
}

impl Live<'_> {
    fn quietly_subscribe(mut self, filter: &str, qos: QoS) -> bool {
        self.packet(&Packet::Subscribe(Subscribe {
            id: NonZeroU16::MAX,
            subscription_id: None,
            filters: vec![(
                filter,
                SubscribeOptions {
                    qos,
                    ..SubscribeOptions::default()
                },
            )],
            user: UserProperties::default(),
        }))
    }

    fn quietly_unsubscribe(&mut self, filter: &str) {
        self.packet(&Packet::Unsubscribe(Unsubscribe {
            id: NonZeroU16::MAX,
            filters: vec![filter],
            user: UserProperties::default(),
        }));
    }

    fn quietly_retain(mut self, topic: &str, text: &str) {
        self.packet(&publish(topic, text, Delivery::AtMostOnce, true));
    }

    fn packet(&mut self, packet: &Packet<'_>) -> bool {
        self.client.send(self.world, std::slice::from_ref(packet));
        self.client.connection.is_some()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_clients_do_nothing_is_lost_doubled_reordered_or_stuck(
        terms in terms(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut chaos = Chaos::new(terms);
        for step in &steps {
            chaos.act(step);
            chaos.gauges();
        }
        chaos.end();
    }
}
