//! What clients may cost, and the answer when they cost more.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use serde_json::json;

use crate::client::{Dialed, V3, V5, VERSIONS};
use crate::harness::{ANNA, BOB, Broker, PORTCULLIS, Setup, eventually};
use crate::raw;

/// HTTP, for metrics.
const ADMIN: &str = "[admin]\nbind = \"127.0.0.1:0\"\n";

/// Whether the broker has closed a connection on which nothing was sent.
fn is_closed(mut stream: &TcpStream) -> bool {
    // An error: it was reset.
    !matches!(stream.read(&mut [0]), Ok(count) if count > 0)
}

#[test]
fn rule_9_connections_per_ip_are_bounded() {
    let broker = Broker::start(|setup| setup.limits += "connections-per-ip = 3\n");
    let held: Vec<_> = (0..3)
        .map(|id| broker.user(V5, &id.to_string(), ANNA))
        .collect();
    assert!(is_closed(&broker.tcp("local")));
    assert!(is_closed(&broker.tcp("main")));
    broker.record(
        "refuse",
        &[("rule", "limit"), ("reason", "connections-per-ip")],
    );
    drop(held);
    eventually("room again", || {
        (broker.number("connections") == 0).then_some(())
    });
    broker.user(V5, "next", ANNA).disconnect();
}

#[test]
fn rule_9_connections_are_bounded_in_sum() {
    let broker = Broker::start(|setup| setup.limits += "connections = 2\n");
    let _held = [broker.user(V5, "1", ANNA), broker.user(V3, "2", BOB)];
    assert!(is_closed(&broker.tcp("local")));
    broker.record("refuse", &[("rule", "limit")]);
}

#[test]
fn rule_9_the_rate_of_connections_of_an_address_is_bounded() {
    let broker = Broker::start(|setup| {
        setup.limits = "connect-rate-per-ip = \"30/min\"\n".to_owned();
    });
    // A burst is ten seconds of the rate.
    for id in 0..5 {
        broker.user(V5, &id.to_string(), ANNA).disconnect();
    }
    let refused = (0..5).filter(|_| is_closed(&broker.tcp("local"))).count();
    assert!(refused > 0);
    broker.record("refuse", &[("reason", "connect-rate-per-ip")]);
}

#[test]
fn rule_9_guessing_is_slowed() {
    let broker = Broker::start(|setup| {
        setup.limits =
            "connect-rate-per-ip = \"1000/s\"\nauth-failures-per-ip = \"2/min\"\n".to_owned();
        setup.more += ADMIN;
    });
    let mut good = broker.device(V5, "device-1");
    // A burst of two, then delays, then refusals; the code tells a guesser nothing.
    for _ in 0..4 {
        let guess = broker.dial(V5, "guess").login(("anna", "guess")).local();
        assert!(matches!(guess.dial(), Dialed::Refused(_)));
    }
    assert!(broker.metric("limit_attempts_delayed_total") > 0);
    // Who is connected is not touched, nor who proves itself by a certificate behind the same address;
    // whoever brings a password waits.
    assert_eq!(good.publish("lab/a", "", 1), 0x10);
    let held_up = || {
        let metric = |name| broker.metric(name);
        metric("limit_attempts_delayed_total") + metric("limit_attempts_refused_total")
    };
    let before = held_up();
    broker.device(V5, "device-2").disconnect();
    assert_eq!(held_up(), before);
    let guess = broker.dial(V5, "guess").certificate("device-2");
    assert!(matches!(
        guess.login(("anna", "guess")).dial(),
        Dialed::Refused(_)
    ));
    assert!(held_up() > before);
}

#[test]
fn over_the_publish_rate_the_broker_reads_more_slowly_and_loses_nothing() {
    for (limit, payload) in [
        ("publish-rate = \"20/s\"\n", "x".to_owned()),
        ("publish-bandwidth = \"20 KiB/s\"\n", "x".repeat(2000)),
    ] {
        let broker = Broker::start(|setup| {
            setup.limits += limit;
            setup.more += ADMIN;
            setup.mqtt += "max-packet-size = \"8 KiB\"\nconnect-packet-size = \"8 KiB\"\n";
        });
        let mut receiver = broker.device(V5, "device-1");
        receiver.subscribe(&["lab/a"], 1);
        let sender = broker.device(V3, "device-2");
        let count = 230;
        for _ in 0..count {
            sender.send("lab/a", &payload, 1, false);
        }
        for _ in 0..count {
            assert_eq!(receiver.payload(), payload);
        }
        assert!(broker.metric("limit_batches_slowed_total") > 0, "{limit}");
    }
}

#[test]
fn what_publishes_cause_slows_who_publishes_and_loses_nothing() {
    let broker = Broker::start(|setup| {
        setup.limits += "fan-out-rate = \"20/s\"\n";
        setup.more += ADMIN;
    });
    let mut receivers: Vec<_> = (0..10)
        .map(|n| broker.user(V5, &format!("receiver-{n}"), BOB))
        .collect();
    for receiver in &mut receivers {
        receiver.subscribe(&["lab/a"], 1);
    }
    // 230 deliveries: a burst of 200, and 30 in a second and a half.
    let sender = broker.user(V3, "sender", ANNA);
    for n in 0..23 {
        sender.send("lab/a", &n.to_string(), 1, false);
    }
    for receiver in &mut receivers {
        for n in 0..23 {
            assert_eq!(receiver.payload(), n.to_string());
        }
    }
    // The last batch may have been read before the first was paid for.
    sender.send("lab/a", "more", 1, false);
    for receiver in &mut receivers {
        assert_eq!(receiver.payload(), "more");
    }
    assert!(broker.metric("limit_fan_outs_slowed_total") > 0);
    broker.record(
        "limit",
        &[("rule", "limits.fan-out-rate"), ("principal", "user:anna")],
    );
}

/// One read may hold more than is routed at once: the rest waits in the broker, not for the client.
#[test]
fn a_batch_that_is_cut_short_goes_on_by_itself() {
    const MESSAGES: usize = 3000;
    let broker = Broker::start(|setup| {
        setup.limits += "publish-rate = \"100000/s\"\nfan-out-rate = \"10000000/s\"\n";
    });
    let receivers: Vec<_> = (0..60)
        .map(|n| {
            let mut wire = broker.wire();
            wire.send(&raw::connect(4, &format!("receiver-{n}"), 60, BOB));
            assert_eq!(wire.receive().unwrap().0, 0x20);
            let filter = [&[0, 1][..], &raw::string("lab/a"), &[0]].concat();
            wire.send(&raw::packet(0x82, &filter));
            assert_eq!(wire.receive().unwrap().0, 0x90);
            std::thread::spawn(move || {
                for _ in 0..MESSAGES {
                    assert_eq!(wire.receive().unwrap().0 & 0xf0, 0x30);
                }
            })
        })
        .collect();
    let mut sender = broker.wire();
    sender.send(&raw::connect(4, "sender", 60, ANNA));
    assert_eq!(sender.receive().unwrap().0, 0x20);
    let one = raw::packet(0x32, &[&raw::string("lab/a")[..], &[0, 1]].concat());
    sender.send(&one.repeat(MESSAGES));
    for _ in 0..MESSAGES {
        assert_eq!(sender.receive().unwrap().0, 0x40);
    }
    for receiver in receivers {
        receiver.join().unwrap();
    }
}

#[test]
fn rule_9_one_deadline_holds_from_accept_to_connack() {
    let broker = Broker::start(|setup| setup.limits += "connect-deadline = \"300 ms\"\n");
    // Silent, before and after TLS; half a CONNECT; half a TLS record.
    assert!(is_closed(&broker.tcp("local")));
    assert!(is_closed(&broker.tcp("main")));
    let mut tls = broker.tls_stream(Some("device-1"));
    tls.flush().unwrap();
    assert!(matches!(tls.read(&mut [0]), Err(_) | Ok(0)));
    let mut half = broker.tcp("local");
    half.write_all(&raw::connect(5, "half", 60, ANNA)[..10])
        .unwrap();
    assert!(is_closed(&half));
    let mut half = broker.tcp("main");
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
        .unwrap();
    assert!(is_closed(&half));
    broker.record("refuse", &[("reason", "connect-deadline")]);
    // Who is in stays in.
    let mut client = broker.device(V5, "device-1");
    assert!(is_closed(&broker.tcp("local")));
    assert_eq!(client.publish("lab/a", "", 1), 0x10);
}

#[test]
fn what_is_no_connect_or_too_large_a_one_is_closed_from_its_first_bytes() {
    let broker = Broker::start(|setup| {
        setup.mqtt += "connect-packet-size = \"1 KiB\"\n";
    });
    for (what, bytes) in [
        (
            "a CONNECT of 256 MiB, in its header",
            vec![0x10, 0xff, 0xff, 0xff, 0x7f],
        ),
        (
            "a CONNECT over the limit, in its header",
            vec![0x10, 0x81, 0x08],
        ),
        (
            "a length of five bytes",
            vec![0x10, 0x80, 0x80, 0x80, 0x80, 0x01],
        ),
        ("PINGREQ first", vec![0xc0, 0x00]),
        ("PUBLISH first", raw::packet(0x30, &raw::string("lab/a"))),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (
            "TLS on the plaintext listener",
            vec![0x16, 0x03, 0x01, 0x00, 0x10, 0x01],
        ),
    ] {
        let mut wire = broker.wire();
        wire.send(&bytes);
        let answer = wire.receive();
        // 5.0 has codes for some; no session comes of it.
        let refused = answer.is_none_or(|(first, body)| first == 0x20 && body[1] != 0);
        assert!(refused, "{what}");
    }
    let mut wire = broker.wire();
    wire.send(&raw::connect(5, &"x".repeat(900), 60, ANNA));
    assert_eq!(
        wire.receive().unwrap().1[1],
        0,
        "one below the limit is fine"
    );
}

#[test]
fn a_flood_of_acknowledgements_of_nothing_ends_the_connection() {
    let broker = Broker::start(|_| ());
    let mut wire = broker.wire();
    wire.send(&raw::connect(5, "pump", 60, ANNA));
    assert_eq!(wire.receive().unwrap().1[1], 0);
    // A window's worth, as after a lost connection, is nothing.
    wire.send(&raw::packet(0x40, &[0, 7]).repeat(256));
    wire.send(&raw::packet(0xc0, &[]));
    assert_eq!(wire.receive(), Some((0xd0, Vec::new())), "PINGRESP");
    wire.send(&raw::packet(0x40, &[0, 7]).repeat(20_000));
    let (first, body) = wire.receive().unwrap();
    assert_eq!((first, body[0]), (0xe0, 0x96), "Message rate too high");
}

#[test]
fn rule_9_a_packet_over_the_limit_ends_the_connection_with_its_code() {
    let broker = Broker::start(|setup| {
        setup.mqtt += "max-packet-size = \"2 KiB\"\nconnect-packet-size = \"2 KiB\"\n";
    });
    let mut wire = broker.wire();
    wire.send(&raw::connect(5, "large", 60, ANNA));
    assert_eq!(wire.receive().unwrap().1[1], 0);
    // PUBLISH of 128 MiB, of which only the header comes.
    wire.send(&[0x30, 0x80, 0x80, 0x80, 0x40]);
    let (first, body) = wire.receive().unwrap();
    assert_eq!((first, body[0]), (0xe0, 0x95));
    assert_eq!(wire.receive(), None);
}

#[test]
fn rule_9_sessions_subscriptions_and_retained_messages_are_bounded() {
    let broker = Broker::start(|setup| {
        setup.limits += "sessions-per-principal = 2\nsubscriptions-per-session = 2\n\
                         filters-per-subscribe = 3\nretained-messages = 2\n";
    });
    for (version, code, full) in [(V3, 0x05, 0x80), (V5, 0x97, 0x97)] {
        let mut one = broker.user(version, "1", ANNA);
        let two = broker.user(version, "2", ANNA);
        let third = broker.dial(version, "3").login(ANNA).refused();
        assert!([code, 0x03, 0x87].contains(&third), "{third:#x}");
        broker.user(version, "3", BOB).disconnect();
        assert_eq!(one.subscribe(&["lab/a", "lab/b", "lab/c"], 1), [1, 1, full]);
        for topic in ["lab/r/1", "lab/r/2"] {
            assert_ne!(one.retain(topic, "kept", 1), 0x97);
        }
        // 3.1.1 cannot say no to a publish, and what is not taken is not acknowledged.
        one.send("lab/r/3", "one too many", 1, true);
        match version {
            V3 => assert_eq!(one.ended(), None),
            V5 => assert_eq!(one.acknowledged(1), 0x97),
        }
        let mut reader = broker.device(version, "device-1");
        reader.subscribe(&["lab/r/+"], 1);
        let mut kept = [reader.message().topic, reader.message().topic];
        kept.sort();
        assert_eq!(kept, ["lab/r/1", "lab/r/2"]);
        reader.subscribe(&["lab/end"], 1);
        reader.publish("lab/end", "end", 1);
        assert_eq!(reader.payload(), "end");
        for client in [two, reader] {
            client.disconnect();
        }
    }
}

/// Out of descriptors the broker sheds, serves who is in, writes one line for each that it sheds,
/// and takes clients again when there is room.
#[test]
fn rule_9_without_file_descriptors_the_broker_sheds_and_recovers() {
    let setup = Setup::new();
    setup.write();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -n 40; exec \"$0\" run --config \"$1\"")
        .arg(PORTCULLIS)
        .arg(setup.config());
    let broker = Broker::spawn(setup, command);
    assert!(broker.log.text().contains("raise the hard limit"));
    let mut inside = broker.user(V5, "inside", ANNA);
    let crowd: Vec<_> = (0..60).map(|_| broker.tcp("local")).collect();
    let shed = || broker.log.text().matches("no file descriptor left").count();
    eventually("shedding", || (shed() > 0).then_some(()));
    for _ in 0..3 {
        assert_eq!(inside.publish("lab/a", "", 1), 0x10, "who is in is served");
    }
    // At most one line for each connection: it waits for the next, it does not spin.
    let lines = shed();
    assert!(lines <= crowd.len(), "{lines}");
    drop(crowd);
    eventually("recovery", || {
        let dialed = broker.dial(V5, "later").login(BOB).local().dial();
        matches!(dialed, Dialed::Connected(_)).then_some(())
    });
    broker.device(V3, "device-1").disconnect();
}

#[test]
fn metrics_and_health_are_served_over_http_if_configured() {
    let broker = Broker::start(|setup| setup.more += ADMIN);
    let get = |path: &str| broker.http(path);
    let mut client = broker.device(V5, "device-1");
    client.publish("elsewhere", "", 1);
    let health = get("/health");
    assert!(
        health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"),
        "{health}"
    );
    let metrics = get("/metrics");
    assert!(
        metrics.contains("application/openmetrics-text"),
        "{metrics}"
    );
    for line in ["portcullis_connections 1", "# EOF"] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
    // Names of clients are not for everybody on this machine.
    assert!(!metrics.contains("device-1"));
    for path in ["/", "/admin", "/metrics/../health", "/config"] {
        assert!(get(path).starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[test]
fn rule_8_without_admin_there_is_no_http() {
    let broker = Broker::start(|_| ());
    assert!(!broker.log.text().contains("HTTP"));
}

#[test]
fn a_unix_socket_is_a_listener_too() {
    let broker = Broker::start(|setup| {
        setup.listeners += "[[listener]]\nname = \"here\"\nbind = \"unix:here.sock\"\n\
                            plaintext = true\nauth = [\"password\", \"jwt\"]\n";
    });
    let socket = broker.setup.path("here.sock");
    let mut wire = raw::Wire::unix(&socket);
    wire.send(&raw::connect(4, "here", 60, ("anna", "wrong")));
    assert_eq!(wire.receive(), Some((0x20, vec![0, 0x04])));
    assert_eq!(wire.receive(), None);
    let token = broker.setup.token(&json!({}));
    for login in [ANNA, ("", &*token)] {
        let mut wire = raw::Wire::unix(&socket);
        wire.send(&raw::connect(4, "here", 60, login));
        assert_eq!(wire.receive(), Some((0x20, vec![0, 0])));
        let publish = [&raw::string("lab/a")[..], &[0, 9], b"hello"].concat();
        wire.send(&raw::packet(0x32, &publish));
        assert_eq!(wire.receive(), Some((0x40, vec![0, 9])));
        wire.send(&[0xe0, 0]);
        assert_eq!(wire.receive(), None);
    }
    broker.record(
        "connect",
        &[("listener", "here"), ("principal", "user:anna")],
    );
}

/// Every packet that only a server sends, and others that no client may: the connection ends.
#[test]
fn what_no_client_may_send_ends_the_connection_and_nothing_else() {
    let broker = Broker::start(|_| ());
    let mut bystander = broker.device(V5, "device-1");
    for level in [4, 5] {
        for (what, bytes) in [
            ("a second CONNECT", raw::connect(level, "again", 60, ANNA)),
            ("CONNACK", raw::packet(0x20, &[0, 0])),
            ("SUBACK", raw::packet(0x90, &[0, 1, 0])),
            ("PINGRESP", vec![0xd0, 0]),
            ("type 0", vec![0x00, 0]),
            ("PUBLISH with QoS 3", raw::packet(0x36, &[0, 1, b'a', 0, 1])),
            ("an empty SUBSCRIBE", raw::packet(0x82, &[0, 1])),
            (
                "SUBSCRIBE with wrong flags",
                raw::packet(0x80, &[0, 1, 0, 1, b'a', 0]),
            ),
            (
                "PUBLISH to a wildcard",
                raw::packet(0x30, &[0, 3, b'a', b'/', b'#', 0]),
            ),
        ] {
            let mut wire = broker.wire();
            wire.send(&raw::connect(level, "bad", 60, BOB));
            assert_eq!(wire.receive().unwrap().1[1], 0);
            wire.send(&bytes);
            match wire.receive() {
                Some((first, body)) => {
                    assert_eq!((first, level), (0xe0, 5), "{what}");
                    assert!(body[0] >= 0x80, "{what}");
                    assert_eq!(wire.receive(), None, "{what}");
                }
                None => assert_eq!(level, 4, "{what}: 5.0 is told why"),
            }
        }
    }
    assert_eq!(bystander.publish("lab/a", "", 1), 0x10);
    for version in VERSIONS {
        broker.user(version, "after", ANNA).disconnect();
    }
}
