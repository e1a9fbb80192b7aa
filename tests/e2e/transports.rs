//! Other ways in than TCP and TLS: WebSocket, behind a proxy, IPv6, and a bridge of another broker.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::client::{V3, V5};
use crate::harness::{ANNA, Broker, Lines, Setup, launch, run_to_end};
use crate::raw;

/// Listeners for WebSocket: `ws` in plaintext, `wss` with TLS.
fn websocket(setup: &mut Setup) {
    setup.listeners += r#"
[[listener]]
name = "ws"
bind = "127.0.0.1:0"
transport = "websocket"
origins = ["https://app.example"]
plaintext = true
auth = ["jwt", "password"]
[[listener]]
name = "wss"
bind = "127.0.0.1:0"
transport = "websocket"
[listener.tls]
certificate = "pki/server.pem"
key = "pki/server.key"
"#;
}

/// A listener behind a proxy on this machine.
fn proxied(setup: &mut Setup, trusted: &str) {
    let listener = format!(
        "[[listener]]\nname = \"proxied\"\nbind = \"127.0.0.1:0\"\nplaintext = true\n\
         auth = [\"password\"]\nproxy-protocol = true\ntrusted-proxies = [\"{trusted}\"]\n"
    );
    setup.listeners += &listener;
}

/// Runs a client of `tests/clients` over this listener.
fn client(broker: &Broker, mut command: Command, script: &str, listener: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let port = broker.address(listener).port();
    let scheme = if listener == "wss" { "wss" } else { "ws" };
    command
        .arg(root.join("tests/clients").join(script))
        .env("WS_URL", format!("{scheme}://localhost:{port}/mqtt"))
        .env("MQTT_PORT", port.to_string());
    if listener == "wss" {
        command.env("MQTT_CA", broker.setup.path("pki/ca.pem"));
    }
    let said = run_to_end(command, "").succeeded();
    assert!(said.out.ends_with("ok\n"), "{said:?}");
}

fn node() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = std::env::var_os("PORTCULLIS_TEST_NODE_MODULES")
        .map_or_else(|| root.join("target/test-node/node_modules"), PathBuf::from);
    let mut command = Command::new("node");
    command.env("NODE_PATH", modules);
    command
}

fn with_password(mut command: Command) -> Command {
    command
        .env("MQTT_USER", ANNA.0)
        .env("MQTT_PASSWORD", ANNA.1);
    command
}

#[test]
fn mqtt_js_exchanges_messages_over_websocket_with_and_without_tls() {
    let broker = Broker::start(websocket);
    for listener in ["ws", "wss"] {
        client(&broker, with_password(node()), "ws_exchange.js", listener);
    }
}

#[test]
fn the_bearer_token_of_an_upgrade_is_a_credential() {
    let broker = Broker::start(websocket);
    let mut command = node();
    command.env("MQTT_TOKEN", broker.setup.token(&json!({})));
    client(&broker, command, "ws_exchange.js", "ws");
    broker.record("connect", &[("principal", "jwt:device-3")]);
}

#[test]
fn paho_exchanges_messages_over_websocket_with_and_without_tls() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("PORTCULLIS_TEST_PYTHON")
        .map_or_else(|| root.join("target/test-venv/bin/python"), PathBuf::from);
    let broker = Broker::start(websocket);
    for listener in ["ws", "wss"] {
        let command = with_password(Command::new(&python));
        client(&broker, command, "ws_exchange.py", listener);
    }
    broker.record(
        "refuse",
        &[
            ("rule", "websocket"),
            ("reason", "not in the listener's origins"),
        ],
    );
}

/// Sends an upgrade with these further headers; the head of the answer.
fn upgrade(stream: &mut TcpStream, more: &str) -> String {
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

const MQTT: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

/// A client's frame; its mask is zeros, which changes nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

#[test]
fn an_upgrade_without_what_it_needs_is_refused() {
    let broker = Broker::start(websocket);
    let big = format!("{MQTT}X: {}\r\n", "x".repeat(9000));
    for (more, status) in [
        ("", "400"),
        ("Sec-WebSocket-Protocol: chat\r\n", "400"),
        (&*format!("{MQTT}Origin: https://evil.example\r\n"), "403"),
        // A page from a file, or in a sandbox.
        (&*format!("{MQTT}Origin: null\r\n"), "403"),
        (&*big, "431"),
    ] {
        let head = upgrade(&mut broker.tcp("ws"), more);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    let own = format!("{MQTT}Origin: https://app.example\r\n");
    let head = upgrade(&mut broker.tcp("ws"), &own);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    broker.record("refuse", &[("listener", "ws"), ("reason", "Origin")]);
    assert_eq!(broker.number("refused-upgrades"), 5);
}

#[test]
fn packets_may_be_cut_into_frames_and_nothing_but_frames_is_taken() {
    let broker = Broker::start(websocket);
    let connect = raw::connect(4, "cut", 60, ANNA);
    // Each byte in a frame of its own, then two packets in one (CVE-2026-25627).
    let mut stream = broker.tcp("ws");
    upgrade(&mut stream, MQTT);
    let frames: Vec<u8> = connect
        .iter()
        .flat_map(|byte| frame(0x82, &[*byte]))
        .collect();
    stream.write_all(&frames).unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x82\x04\x20\x02\x00\x00");
    stream.write_all(&frame(0x82, b"\xc0\x00\xe0\x00")).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(b"\x82\x02\xd0\x00"), "{rest:?}");

    for (bytes, code) in [
        (frame(0x81, b"text"), 1003_u16),
        (frame(0x89, b"").repeat(50), 1008),
        (
            [frame(0x02, b"\xc0"), frame(0x00, b"").repeat(50)].concat(),
            1008,
        ),
        (b"\x82\x02\xc0\x00".to_vec(), 1002),
        (connect, 1002),
    ] {
        let mut stream = broker.tcp("ws");
        upgrade(&mut stream, MQTT);
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let close = [&[0x88, 2][..], &code.to_be_bytes()].concat();
        assert!(answer.ends_with(&close), "{code}: {answer:?}");
    }
}

#[test]
fn the_address_that_a_trusted_proxy_names_is_the_clients() {
    let broker = Broker::start(|setup| {
        proxied(setup, "127.0.0.0/8");
        setup.limits += "connections-per-ip = 1\n";
    });
    let connect = |header: &[u8], id: &str| {
        let mut stream = broker.tcp("proxied");
        let hello = raw::connect(4, id, 60, ANNA);
        stream.write_all(&[header, &hello].concat()).unwrap();
        let mut answer = Vec::new();
        // Refused: closed without a byte.
        let _ = (&stream).take(4).read_to_end(&mut answer);
        (stream, answer)
    };
    let line = |ip: &str| format!("PROXY TCP4 {ip} 192.0.2.250 4711 8883\r\n").into_bytes();
    let accepted = b"\x20\x02\x00\x00";
    let (first, answer) = connect(&line("192.0.2.1"), "one");
    assert_eq!(answer, accepted);
    broker.record(
        "connect",
        &[("client_id", "one"), ("peer", "192.0.2.1:4711")],
    );
    // The limit is that of the client's address, not of the proxy's.
    assert!(connect(&line("192.0.2.1"), "two").1.is_empty());
    let (second, answer) = connect(&binary_header([192, 0, 2, 2]), "three");
    assert_eq!(answer, accepted);
    broker.record(
        "connect",
        &[("client_id", "three"), ("peer", "192.0.2.2:4711")],
    );
    // Without a header, or with a broken one, nothing is believed.
    for header in [&b""[..], b"PROXY TCP4 192.0.2.3 x 1 2\r\n"] {
        assert!(connect(header, "four").1.is_empty());
    }
    broker.record("refuse", &[("rule", "proxy")]);
    assert_eq!(broker.number("untrusted-proxies"), 2);
    drop((first, second));
}

#[test]
fn a_header_from_somebody_else_is_not_believed() {
    let broker = Broker::start(|setup| proxied(setup, "192.0.2.0/24"));
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.250 4711 8883\r\n".to_vec();
    for header in [line, binary_header([192, 0, 2, 1])] {
        let mut stream = broker.tcp("proxied");
        let _ = stream.write_all(&[header, raw::connect(4, "x", 60, ANNA)].concat());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }
    broker.record(
        "refuse",
        &[("rule", "proxy"), ("reason", "trusted-proxies")],
    );
    assert_eq!(broker.number("untrusted-proxies"), 2);
}

/// A header of version 2 that says: a TCP connection from this IPv4 address and port 4711.
fn binary_header(ip: [u8; 4]) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&signature[..], &ip, b"\xc0\0\x02\xfa\x12\x67\x22\xb3"].concat()
}

#[test]
fn a_ban_behind_a_proxy_hits_the_address_that_the_header_names() {
    let broker = Broker::start(|setup| proxied(setup, "127.0.0.0/8"));
    let connect = |header: &[u8], id: &str| {
        let mut stream = broker.tcp("proxied");
        let hello = raw::connect(4, id, 60, ANNA);
        let _ = stream.write_all(&[header, &hello].concat());
        let mut answer = [0; 4];
        let taken = stream.read_exact(&mut answer).is_ok();
        (taken && answer == *b"\x20\x02\x00\x00").then_some(stream)
    };
    let line = |ip: &str| format!("PROXY TCP4 {ip} 192.0.2.250 4711 8883\r\n").into_bytes();
    let mut bad = connect(&line("192.0.2.66"), "bad").unwrap();
    let mut good = connect(&binary_header([192, 0, 2, 7]), "good").unwrap();
    broker
        .ask(&["ban", "add", "--address", "192.0.2.66", "--for", "10 min"])
        .succeeded();
    // The connection that is there ends, and in neither version is there another.
    assert_eq!(bad.read(&mut [0]).unwrap(), 0);
    assert!(connect(&line("192.0.2.66"), "bad").is_none());
    assert!(connect(&binary_header([192, 0, 2, 66]), "bad").is_none());
    // Who else comes through the same proxy is not concerned.
    good.write_all(b"\xc0\x00").unwrap();
    let mut pong = [0; 2];
    good.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"\xd0\x00");
    assert!(connect(&line("192.0.2.67"), "other").is_some());
    // And a ban on the proxy's own address is not one on its clients.
    broker
        .ask(&["ban", "add", "--address", "127.0.0.1", "--for", "10 min"])
        .succeeded();
    assert!(connect(&binary_header([192, 0, 2, 68]), "another").is_some());
}

/// Where a client comes from is asked of the client, not of its proxy.
#[test]
fn a_condition_on_the_source_is_about_the_address_that_the_proxy_names() {
    let broker = Broker::start(|setup| {
        proxied(setup, "127.0.0.0/8");
        setup.policy = "p, *, t, subscribe, allow, source in ['192.0.2.0/24']\n\
                        p, *, u, subscribe, allow, source in ['127.0.0.0/8']\n"
            .to_owned();
    });
    for (header, id, codes) in [
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.250 4711 8883\r\n".to_vec(),
            "in",
            [0, 0x80],
        ),
        (binary_header([198, 51, 100, 1]), "out", [0x80, 0x80]),
    ] {
        let mut stream = broker.tcp("proxied");
        let subscribe = b"\x82\x0a\0\x01\0\x01t\0\0\x01u\0";
        let hello = raw::connect(4, id, 60, ANNA);
        stream
            .write_all(&[&*header, &hello, subscribe].concat())
            .unwrap();
        // CONNACK and SUBACK.
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[8..], codes, "{id}");
    }
}

#[test]
fn tls_behind_a_proxy_ends_here_certificates_included() {
    let broker = Broker::start(|setup| {
        setup.listeners += "\
[[listener]]
name = \"proxied\"
bind = \"127.0.0.1:0\"
proxy-protocol = true
trusted-proxies = [\"127.0.0.1\"]
[listener.tls]
certificate = \"pki/server.pem\"
key = \"pki/server.key\"
client-ca = \"pki/ca.pem\"
";
    });
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.250 4711 8883\r\n".to_vec();
    for (id, header) in [("v1", line), ("v2", binary_header([192, 0, 2, 2]))] {
        let mut tcp = broker.tcp("proxied");
        tcp.write_all(&header).unwrap();
        let mut stream = broker.tls_over(tcp, Some("device-1"));
        // No user name: the certificate says who it is.
        let connect = [
            &b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02"[..],
            id.as_bytes(),
        ];
        stream.write_all(&connect.concat()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\x20\x02\x00\x00");
        let peer = format!("192.0.2.{}:4711", if id == "v1" { 1 } else { 2 });
        broker.record(
            "connect",
            &[
                ("client_id", id),
                ("principal", "cert:device-1"),
                ("peer", &peer),
            ],
        );
    }
    // TLS without the header in front of it is not a header.
    let mut stream = broker.tls_over(broker.tcp("proxied"), Some("device-1"));
    assert!(stream.write_all(b"\xc0\x00").is_err() || stream.read(&mut [0]).unwrap_or(0) == 0);
    broker.record("refuse", &[("listener", "proxied"), ("rule", "proxy")]);
}

#[test]
fn ipv6_is_served() {
    let broker = Broker::start(|setup| {
        setup.listeners += "[[listener]]\nname = \"six\"\nbind = \"[::1]:0\"\nplaintext = true\n";
    });
    let mut stream = broker.tcp("six");
    stream.write_all(&raw::connect(5, "six", 60, ANNA)).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 0x20);
    assert_eq!(answer[3], 0, "{answer:?}");
    broker.record("connect", &[("client_id", "six"), ("peer", "[::1]:")]);
}

#[test]
fn an_unknown_protocol_level_is_answered_with_1() {
    let broker = Broker::start(|_| ());
    // 0x83 and 0x84 mark a bridge in Mosquitto's own dialect.
    for level in [0, 2, 6, 0x83, 0x84, 0xff] {
        let mut stream = broker.tcp("local");
        stream
            .write_all(&raw::connect(level, "x", 60, ANNA))
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"\x20\x02\x00\x01", "level {level}");
    }
}

/// A process that is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mosquitto_bridge_carries_messages_both_ways() {
    let broker = Broker::start(|_| ());
    // A port that was free a moment ago: mosquitto cannot choose one itself.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = broker.setup.path("bridge.conf");
    let (user, password) = ANNA;
    fs::write(
        &config,
        format!(
            "log_dest stderr\nlog_type all\nlistener {port} 127.0.0.1\nallow_anonymous true\nconnection portcullis\n\
             address {}\nremote_clientid bridge\nremote_username {user}\n\
             remote_password {password}\ntry_private true\nnotifications false\nrestart_timeout 1\n\
             topic out/# out 1 \"\" lab/\ntopic in/# in 1 \"\" lab/\n",
            broker.address("local")
        ),
    )
    .unwrap();
    let mosquitto = if Path::new("/usr/sbin/mosquitto").exists() {
        "/usr/sbin/mosquitto"
    } else {
        "mosquitto"
    };
    let (bridge, log) = launch(Command::new(mosquitto).arg("-c").arg(&config));
    let _bridge = Killed(bridge);
    // It tried its own dialect first, was refused, and came back.
    broker.record(
        "subscribe",
        &[("client_id", "bridge"), ("filters", "lab/in/#")],
    );
    broker.record("refuse", &[("listener", "local"), ("rule", "protocol")]);

    let mut here = broker.user(V5, "here", ANNA);
    here.subscribe(&["lab/out/#"], 1);
    let there = |command: &str, arguments: &[&str]| {
        let mut command = Command::new(command);
        command
            .args(["-h", "127.0.0.1", "-p", &port.to_string()])
            .args(arguments);
        command
    };
    let publish = ["-t", "out/x", "-m", "from there", "-q", "1"];
    run_to_end(there("mosquitto_pub", &publish), "").succeeded();
    assert_eq!(here.payload(), "from there", "{}", log.text());

    let mut sub = there(
        "mosquitto_sub",
        &["-i", "there", "-t", "in/#", "-q", "1", "-C", "1"],
    )
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let lines = Lines::of(sub.stdout.take().unwrap());
    let _sub = Killed(sub);
    let subscribed = log.find(0, |line| line.contains("Sending SUBACK to there"));
    assert!(subscribed.is_some(), "{}", log.text());
    let mut other = broker.user(V3, "other", ANNA);
    other.publish("lab/in/x", "from here", 1);
    assert!(
        lines.find(0, |line| line == "from here").is_some(),
        "{}",
        log.text()
    );
}
