//! More than the broker can hold, from many sides at once, over real sockets and with a small budget.

use std::fs;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Client, Dialed, V3, V5};
use crate::harness::{ANNA, BOB, Broker, eventually};
use crate::raw::{self, Wire};

const BUDGET: u64 = 128 << 20;

/// Ends what runs until then, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A number of the process in /proc, bytes.
fn process(broker: &Broker, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", broker.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}

/// A client made by hand, connected.
fn wire(broker: &Broker, id: &str) -> Wire {
    let mut wire = broker.wire();
    wire.send(&raw::connect(5, id, 600, BOB));
    assert_eq!(wire.receive().unwrap().1[1], 0, "{id}");
    wire
}

fn publish(topic: &str, qos: u8, retain: bool, payload: &[u8]) -> Vec<u8> {
    let id: &[u8] = if qos == 0 { &[] } else { &[0, 1] };
    let body = [&raw::string(topic)[..], id, &[0], payload].concat();
    raw::packet(0x30 | qos << 1 | u8::from(retain), &body)
}

/// Publishes large messages to these topics in turn until it has often been told that there is no
/// room; how many.
fn fill(mut wire: Wire, topic: impl Fn(usize) -> String, retain: bool) -> usize {
    let payload = vec![b'x'; 60_000];
    let mut refused = 0;
    for n in 0..20_000 {
        wire.send(&publish(&topic(n), 1, retain, &payload));
        let (first, body) = wire.receive().unwrap();
        assert_eq!(first, 0x40);
        match body.get(2) {
            None | Some(0x00 | 0x10) => {}
            Some(0x97) => refused += 1,
            Some(code) => panic!("{code:#04x}"),
        }
        if refused == 100 {
            return n;
        }
    }
    panic!("there is room without end");
}

/// Two who behave: `QoS` 1 from one to the other, each message answered before the next.
fn exchange(mut sender: Client, mut receiver: Client, topic: &str, stop: &AtomicBool) -> u32 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let text = count.to_string();
        assert_eq!(sender.publish(topic, &text, 1), 0);
        assert_eq!(receiver.payload(), text);
        count += 1;
        // They are slower than they could be.
        thread::sleep(Duration::from_millis(2));
    }
    count
}

/// Strangers that connect as fast as they can.
fn storm(broker: &Broker, name: usize, stop: &AtomicBool) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mut wire = broker.wire();
        wire.send(&raw::connect(5, &format!("new-{name}-{n}"), 60, BOB));
        // Refused, closed, or let in while there was room.
        let _ = wire.receive();
    }
}

fn limits(memory: &str) -> String {
    format!(
        "memory = \"{memory}\"\nconnect-rate-per-ip = \"100000/s\"\n\
         auth-failures-per-ip = \"1000/s\"\npublish-rate = \"100000/s\"\n\
         publish-bandwidth = \"1 GiB/s\"\nfan-out-bandwidth = \"100 GiB/s\"\n"
    )
}

fn start(memory: &str, more: &str) -> Broker {
    Broker::start(|setup| {
        setup.limits = limits(memory) + more;
        setup.more += "[admin]\nbind = \"127.0.0.1:0\"\n";
    })
}

/// Sessions with a subscription whose clients are away; they are called by their topics.
fn leave_sessions(broker: &Broker) -> Vec<String> {
    let topics: Vec<String> = (0..10).map(|n| format!("lab/away/{n}")).collect();
    for topic in &topics {
        let dial = broker.dial(V5, topic).login(BOB).local().persistent();
        let mut client = dial.connect();
        assert_eq!(client.subscribe(&[topic], 1), [1]);
        client.disconnect();
    }
    topics
}

/// Two who behave, and their topic.
fn pair(broker: &Broker, n: usize) -> (Client, Client, String) {
    let topic = format!("lab/well/{n}");
    let mut receiver = broker.user(V5, &format!("receiver-{n}"), ANNA);
    receiver.subscribe(&[&topic], 1);
    let version = if n == 0 { V3 } else { V5 };
    let sender = broker.user(version, &format!("sender-{n}"), ANNA);
    (sender, receiver, topic)
}

/// A reader that does not read.
fn slow(broker: &Broker, n: usize) -> Wire {
    reads_nothing(broker, &format!("slow-{n}"), 0)
}

fn reads_nothing(broker: &Broker, id: &str, qos: u8) -> Wire {
    let mut wire = wire(broker, id);
    let body = [&[0, 1, 0][..], &raw::string("lab/slow"), &[qos]].concat();
    wire.send(&raw::packet(0x82, &body));
    wire
}

/// What is answered and told when the broker is as full as it gets.
fn assert_full(broker: &Broker) {
    eventually("the storm is over", || {
        let number = |name| broker.metric(name);
        (number("connections") == number("clients")).then_some(())
    });
    for (version, code) in [(V5, 0x89), (V3, 0x03)] {
        let new = broker.dial(version, "new").login(ANNA).local();
        assert_eq!(new.refused(), code);
    }
    broker.record("refuse", &[("rule", "limit"), ("reason", "limits.memory")]);
    broker.record("limit", &[("rule", "limits.memory"), ("reason", "full: ")]);
    let peak = process(broker, "VmHWM:");
    println!("at most {} MiB of {}", peak >> 20, BUDGET >> 20);
    assert!(peak < BUDGET);
    for name in [
        "memory_clients_shed_total",
        "memory_messages_refused_total",
        "memory_retained_refused_total",
    ] {
        assert!(broker.metric(name) > 0, "{name}");
    }
}

#[test]
fn a_client_that_reads_nothing_can_be_kicked_and_holds_nobody_for_ever() {
    let broker = start("512 MiB", "queue-bytes = \"1 MiB\"\n");
    let payload = vec![b'x'; 60_000];
    let mut author = wire(&broker, "author");
    let _deaf = reads_nothing(&broker, "deaf", 0);
    let full = || broker.metric("queued_messages") > 0;
    let fills = (0..2_000).any(|_| {
        author.send(&publish("lab/slow", 0, false, &payload));
        full()
    });
    assert!(fills, "there is room without end");
    broker.ask(&["kick", "deaf"]).succeeded();
    broker.record("disconnect", &[("client_id", "deaf")]);
    // A message that it does not acknowledge waits in its queue; then publishers wait for it.
    let _slow = reads_nothing(&broker, "slow", 1);
    for _ in 0..400 {
        author.send(&publish("lab/slow", 1, false, &payload));
        assert_eq!(author.receive().unwrap().0, 0x40);
    }
    let ended = [("client_id", "slow"), ("code_name", "QuotaExceeded")];
    broker.record("disconnect", &ended);
}

#[test]
fn overloaded_the_broker_serves_who_is_in_sheds_who_is_new_and_stays_within_its_budget() {
    let broker = start("128 MiB", "");
    let level = || broker.metric("memory_level");
    assert_eq!(level(), 0);
    let away = leave_sessions(&broker);
    let pairs: Vec<_> = (0..3).map(|n| pair(&broker, n)).collect();
    let (storming, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let ends = Stop(&stop);
        let calms = Stop(&storming);
        let stop = &stop;
        let served: Vec<_> = pairs
            .into_iter()
            .map(|(sender, receiver, topic)| {
                scope.spawn(move || exchange(sender, receiver, &topic, stop))
            })
            .collect();
        let unread: Vec<Wire> = (0..20).map(|n| slow(&broker, n)).collect();
        let mut flood = wire(&broker, "flood");
        let queues = wire(&broker, "queues");
        let retained = wire(&broker, "retained");
        for name in 0..2 {
            let (broker, storming) = (&broker, &storming);
            scope.spawn(move || storm(broker, name, storming));
        }
        let fills = [
            scope.spawn(|| fill(queues, |n| away[n % away.len()].clone(), false)),
            scope.spawn(|| fill(retained, |n| format!("lab/kept/{n}"), true)),
        ];
        let message = publish("lab/slow", 0, false, &vec![b'x'; 30_000]);
        let mut send = |count| {
            for _ in 0..count {
                flood.send(&message);
            }
            flood.send(&[0xc0, 0]);
            assert_eq!(flood.receive(), Some((0xd0, Vec::new())));
        };
        send(500);
        // All the time: those that read nothing are ended soon after memory is short.
        while !fills.iter().all(thread::ScopedJoinHandle::is_finished) {
            send(10);
        }
        let [_, kept] = fills.map(|fill| fill.join().unwrap());
        assert!(level() >= 2);
        eventually("what nobody reads is dropped", || {
            send(50);
            (broker.metric("memory_dropped_qos0_total") > 0).then_some(())
        });
        drop(calms);
        assert_full(&broker);

        // Who comes back makes room, and so does an operator.
        let back = broker.dial(V5, &away[0]).login(BOB).local().persistent();
        assert!(back.connect().session_present);
        drop(unread);
        for id in &away {
            broker.ask(&["session", "drop", id]).succeeded();
        }
        // What is retained stays, and may be nearly all of it, if it was faster than the queues.
        for n in 0..kept {
            flood.send(&publish(&format!("lab/kept/{n}"), 1, true, &[]));
            assert_eq!(flood.receive().unwrap().0, 0x40);
        }
        assert_eq!(broker.metric("retained_bytes"), 0);
        eventually("memory is there again", || (level() == 0).then_some(()));
        eventually("newcomers are let in", || {
            let new = broker.dial(V5, "new").login(ANNA).local();
            matches!(new.dial(), Dialed::Connected(_)).then_some(())
        });
        broker.record("limit", &[("reason", "everybody is let in")]);
        drop(ends);
        for served in served {
            let count = served.join().unwrap();
            println!("{count} messages between two who behave");
            assert!(count > 100, "{count}");
        }
    });
}

/// The allocator would keep it for whoever comes next, and with it the level.
#[test]
fn what_a_burst_took_is_given_back_though_nobody_does_anything() {
    let broker = start("512 MiB", "");
    let away = leave_sessions(&broker);
    let resident = || process(&broker, "VmRSS:");
    let before = resident();
    let mut author = wire(&broker, "author");
    for n in 0..2_000 {
        let topic = &away[n % away.len()];
        author.send(&publish(topic, 1, false, &vec![b'x'; 60_000]));
        assert_eq!(author.receive().unwrap().0, 0x40);
    }
    let burst = resident() - before;
    assert!(burst > 100 << 20, "{burst}");
    for id in &away {
        broker.ask(&["session", "drop", id]).succeeded();
    }
    eventually("it is given back", || {
        (resident() < before + burst / 4).then_some(())
    });
}

const IDLE: &str = "idle = \"1 s\"\n";

/// Chooses the budget so that what the process has is so much of it.
fn steer(broker: &mut Broker, percent: u64, level: u64) {
    let memory = broker.metric("memory_used") * 100 / percent;
    broker.setup.limits = limits(&format!("{} KiB", memory >> 10)) + IDLE;
    broker.setup.write();
    broker.reload().unwrap();
    eventually("the level", || {
        (broker.metric("memory_level") == level).then_some(())
    });
}

/// Packets of a client made by hand until its connection ends: the code of the last DISCONNECT.
fn farewell(mut wire: Wire) -> Option<u8> {
    let mut code = None;
    while let Some((first, body)) = wire.receive() {
        if first == 0xe0 {
            code = body.first().copied();
        }
    }
    code
}

/// Takes memory and gives none back: each message in a topic of its own.
fn keep(broker: &Broker, megabytes: usize) {
    let mut keeper = wire(broker, "keeper");
    for n in 0..megabytes * 1000 / 60 {
        let topic = format!("lab/kept/{n}");
        keeper.send(&publish(&topic, 1, true, &vec![b'x'; 60_000]));
        assert_eq!(keeper.receive().unwrap().0, 0x40);
    }
}

/// Sends to who does not read, until more waits for it than the kernel may take yet.
fn stuff(broker: &Broker) {
    let mut flood = wire(broker, "flood");
    let message = publish("lab/slow", 0, false, &vec![b'x'; 30_000]);
    eventually("its queue is full", || {
        for _ in 0..50 {
            flood.send(&message);
        }
        flood.send(&[0xc0, 0]);
        assert_eq!(flood.receive(), Some((0xd0, Vec::new())));
        (broker.metric("dropped_qos0_total") > 0).then_some(())
    });
}

fn assert_pressed(broker: &Broker, idle: Wire, away: &str) {
    for (version, code) in [(V5, 0x89), (V3, 0x03)] {
        let new = broker.dial(version, "new").login(ANNA).local();
        assert_eq!(new.refused(), code);
    }
    assert_eq!(farewell(idle), Some(0x89));
    assert!(broker.metric("memory_evicted_total") > 0);
    // Who has a session is no newcomer, and nobody idle.
    let back = broker.dial(V5, away).login(BOB).local().persistent();
    let mut back = back.connect();
    assert!(back.session_present);
    assert_eq!(back.publish("lab/nobody", "", 1) & 0x80, 0);
    back.disconnect();
}

fn assert_kept_is_refused(broker: &Broker, inside: &mut Client, away: &str) {
    assert_eq!(inside.publish(away, "kept", 1), 0x97);
    assert_eq!(inside.retain("lab/new", "kept", 1), 0x97);
    assert_eq!(inside.subscribe(&["lab/new"], 1), [0x97]);
    let said = [("filter", "lab/new"), ("code_name", "QuotaExceeded")];
    broker.record("subscribe-denied", &said);
    for name in ["messages", "retained", "subscriptions"] {
        let refused = broker.metric(&format!("memory_{name}_refused_total"));
        assert!(refused > 0, "{name}");
    }
}

/// All but a few are closed without a word.
fn assert_closed_at_accept(broker: &Broker) {
    let silent: Vec<_> = (0..16).map(|_| broker.tcp("local")).collect();
    eventually("newcomers are closed at accept", || {
        let mut new = broker.tcp("local");
        new.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        matches!(new.read(&mut [0]), Ok(0)).then_some(())
    });
    assert!(broker.metric("memory_arrivals_shed_total") > 0);
    drop(silent);
}

#[test]
fn each_level_of_short_memory_ends_whom_it_says_and_nobody_who_behaves() {
    let mut broker = start("1 GiB", IDLE);
    let away = leave_sessions(&broker).swap_remove(0);
    let (mut sender, receiver, topic) = pair(&broker, 1);
    // Whoever subscribes is never idle.
    sender.subscribe(&["lab/sender"], 0);
    let mut inside = broker.user(V5, "inside", ANNA);
    inside.subscribe(&["lab/inside"], 1);
    let unread = slow(&broker, 0);
    keep(&broker, 60);
    stuff(&broker);
    let idle = wire(&broker, "idle");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = Stop(&stop);
        let stop = &stop;
        let served = scope.spawn(move || exchange(sender, receiver, &topic, stop));
        steer(&mut broker, 80, 1);
        assert_pressed(&broker, idle, &away);

        steer(&mut broker, 87, 2);
        assert_kept_is_refused(&broker, &mut inside, &away);
        broker.record(
            "disconnect",
            &[("client_id", "slow-0"), ("reason", "no progress")],
        );
        drop(unread);

        steer(&mut broker, 99, 3);
        assert_closed_at_accept(&broker);
        let sent = inside.publish("lab/inside", "served", 1);
        assert_eq!((sent, inside.payload()), (0, "served".to_owned()));

        steer(&mut broker, 20, 0);
        broker.user(V5, "new", ANNA).disconnect();
        assert_eq!(inside.publish(&away, "kept", 1), 0);
        drop(ends);
        let count = served.join().unwrap();
        assert!(count > 100, "{count}");
    });
}
