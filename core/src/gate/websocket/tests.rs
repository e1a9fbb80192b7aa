use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tungstenite::Message;
use tungstenite::protocol::{Role, frame::coding::CloseCode};

use super::frame::Violation;
use super::upgrade::{MAX_REQUEST, Rejection, WebSocketRules, judge};
use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame: first byte, payload, masked.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ ..126 => out.push(0x80 | u8::try_from(length).unwrap()),
        length @ ..0x1_0000 => {
            out.push(0xfe);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            out.push(0xff);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    out
}

fn decode(bytes: &[u8]) -> (Vec<u8>, Option<Ended>) {
    let mut bytes = bytes.to_vec();
    let decoded = Decoder::new(1 << 20).decode(&mut bytes);
    (bytes[..decoded.data].to_vec(), decoded.ended)
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_a_client_must_not_send_ends_the_connection_with_its_code() {
    let fragments = |count: usize| {
        let mut bytes = masked(0x02, b"x");
        bytes.extend(masked(0x00, b"y").repeat(count - 2));
        bytes.extend(masked(0x80, b"z"));
        bytes
    };
    let first = |first| masked(first, b"x");
    for (what, bytes, violation, code) in [
        ("text [MQTT-6.0.0-1]", first(0x81), Violation::Text, 1003),
        ("text in fragments", first(0x01), Violation::Text, 1003),
        ("a reserved bit", first(0xc2), Violation::ReservedBit, 1002),
        (
            "the last reserved bit",
            first(0x92),
            Violation::ReservedBit,
            1002,
        ),
        (
            "an unassigned opcode",
            first(0x83),
            Violation::Opcode(3),
            1002,
        ),
        (
            "an unassigned control opcode",
            first(0x8b),
            Violation::Opcode(0xb),
            1002,
        ),
        ("no mask", vec![0x82, 1, b'x'], Violation::Unmasked, 1002),
        (
            "a ping without mask",
            vec![0x89, 0],
            Violation::Unmasked,
            1002,
        ),
        (
            "125 in two bytes",
            vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0],
            Violation::Length,
            1002,
        ),
        (
            "65535 in eight bytes",
            [&[0x82, 0xff][..], &65_535_u64.to_be_bytes(), &MASK].concat(),
            Violation::Length,
            1002,
        ),
        (
            "the highest bit of a length",
            [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &MASK].concat(),
            Violation::Length,
            1002,
        ),
        ("a ping in fragments", first(0x09), Violation::Control, 1002),
        (
            "a long ping",
            masked(0x89, &[0; 126]),
            Violation::Control,
            1002,
        ),
        (
            "a continuation of nothing",
            first(0x80),
            Violation::Order,
            1002,
        ),
        (
            "a message in a message",
            [first(0x02), first(0x82)].concat(),
            Violation::Order,
            1002,
        ),
        (
            "many fragments",
            fragments(1025),
            Violation::Fragments,
            1008,
        ),
        (
            "a huge frame",
            [&[0x82, 0xff][..], &(1_u64 << 20 | 1).to_be_bytes(), &MASK].concat(),
            Violation::TooLarge((1 << 20) + 1),
            1009,
        ),
        (
            "a Close of one byte",
            masked(0x88, &[3]),
            Violation::Close,
            1002,
        ),
        (
            "a Close with a code that is never sent",
            masked(0x88, &1005_u16.to_be_bytes()),
            Violation::Close,
            1002,
        ),
        (
            "a Close with code 0",
            masked(0x88, &[0, 0]),
            Violation::Close,
            1002,
        ),
        (
            "a Close with a reason that is no UTF-8",
            masked(0x88, b"\x03\xe8\xff"),
            Violation::Close,
            1002,
        ),
    ] {
        let (_, ended) = decode(&bytes);
        assert_eq!(ended, Some(Ended::Broken(violation)), "{what}");
        assert_eq!(violation.code(), code, "{what}");
    }
    assert_eq!(decode(&fragments(1024)).1, None);
}

#[test]
fn a_packet_spans_frames_and_frames_hold_packets() {
    let bytes = [
        masked(0x02, b"\x10"),
        masked(0x89, b"are you there"),
        masked(0x00, b""),
        masked(0x80, b"\x0cab"),
        masked(0x82, &[7; 200]),
        masked(0x82, &vec![8; 70_000]),
        masked(0x8a, b"unasked"),
    ]
    .concat();
    let expected = [&b"\x10\x0cab"[..], &[7; 200], &vec![8; 70_000]].concat();
    assert_eq!(decode(&bytes), (expected, None));
}

#[test]
fn nothing_behind_a_close_is_believed() {
    let bytes = [
        masked(0x82, b"\xe0\x00"),
        masked(0x88, b"\x03\xe8bye"),
        masked(0x82, b"late"),
    ]
    .concat();
    let (data, ended) = decode(&bytes);
    assert_eq!(data, b"\xe0\x00");
    assert_eq!(ended, Some(Ended::Closed(Some(1000))));
    assert_eq!(decode(&masked(0x88, b"")).1, Some(Ended::Closed(None)));
}

proptest! {
    #[test]
    fn any_bytes_keep_the_promises(input in prop::collection::vec(any::<u8>(), 0..300)) {
        crate::fuzzing::websocket(&input);
    }

    #[test]
    fn frames_keep_the_promises(
        frames in prop::collection::vec(
            (prop::sample::select(vec![0x02, 0x00, 0x80, 0x82, 0x89, 0x8a, 0x88]), prop::collection::vec(any::<u8>(), 0..140)),
            0..12,
        ),
        flip in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(|(first, body)| masked(*first, body)).collect();
        if let Some(flip) = flip.filter(|_| !bytes.is_empty()) {
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        crate::fuzzing::websocket(&bytes);
    }

    /// Somebody else's client writes, in frames of any size; the payload comes out.
    #[test]
    fn what_tungstenite_sends_is_read(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..8)) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let expected = messages.concat();
        let writer = thread::spawn(move || {
            let mut socket = tungstenite::WebSocket::from_raw_socket(theirs, Role::Client, None);
            for message in messages {
                socket.send(Message::binary(message)).unwrap();
            }
            socket.close(None).unwrap();
            let _ = socket.flush();
        });
        let mut bytes = Vec::new();
        let mut ours = ours;
        writer.join().unwrap();
        ours.read_to_end(&mut bytes).unwrap();
        prop_assert_eq!(decode(&bytes), (expected, Some(Ended::Closed(None))));
    }
}

#[test]
fn frames_that_carry_nothing_are_limited() {
    let start = Instant::now();
    let mut meter = Meter::new();
    assert!(meter.admit(IDLE_BURST, start));
    assert!(!meter.admit(1, start), "the burst is used up");
    assert!(!meter.admit(1, start + IDLE_INTERVAL * 99 / 100));
    assert!(meter.admit(1, start + IDLE_INTERVAL));
    assert!(!meter.admit(1, start + IDLE_INTERVAL));
    let later = start + Duration::from_hours(24);
    assert!(meter.admit(IDLE_BURST, later));
    assert!(
        !meter.admit(1, later),
        "a long pause saves up no more than the burst"
    );
    let mut steady = Meter::new();
    assert!((0..1000).all(|count| steady.admit(1, start + IDLE_INTERVAL * count)));
}

/// Our end over a socket, and the other end of it.
fn pair() -> (WebSocket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let ours = tokio::net::UnixStream::from_std(ours).unwrap();
    let socket = WebSocket::new(Stream::Unix(ours), 1, Arc::default());
    (socket, theirs)
}

#[tokio::test]
async fn a_flood_of_pings_is_closed_with_1008() {
    let (mut ours, mut theirs) = pair();
    theirs
        .write_all(&masked(0x89, b"x").repeat(IDLE_BURST as usize + 1))
        .unwrap();
    let error = ours.read(&mut [0; 4096]).await.unwrap_err();
    assert!(error.to_string().contains("flood"), "{error}");
    ours.shutdown().await.unwrap();
    drop(ours);
    let mut bytes = Vec::new();
    theirs.read_to_end(&mut bytes).unwrap();
    assert!(bytes.ends_with(b"\x88\x02\x03\xf0"), "{bytes:?}");
}

#[tokio::test]
async fn the_newest_ping_is_answered_while_nothing_is_written() {
    let (mut ours, mut theirs) = pair();
    let pings = [masked(0x89, b"old"), masked(0x89, b"new")].concat();
    theirs
        .write_all(&[pings, masked(0x82, b"data")].concat())
        .unwrap();
    let mut data = [0; 64];
    assert_eq!(ours.read(&mut data).await.unwrap(), 4);
    let mut pong = [0; 5];
    theirs.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"\x8a\x03new");
}

#[tokio::test]
async fn data_in_front_of_a_violation_are_delivered_and_the_close_says_why() {
    let (mut ours, mut theirs) = pair();
    theirs
        .write_all(&[masked(0x82, b"good"), masked(0x81, b"text")].concat())
        .unwrap();
    let mut data = [0; 64];
    assert_eq!(ours.read(&mut data).await.unwrap(), 4);
    assert!(ours.read(&mut data).await.is_err());
    assert!(ours.is_closing());
    ours.write_all(b"no longer sent").await.unwrap();
    ours.shutdown().await.unwrap();
    // What still comes is thrown away, and the end is seen.
    theirs.write_all(b"anything").unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(ours.read(&mut data).await.unwrap(), 0);
    let mut bytes = Vec::new();
    theirs.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"\x88\x02\x03\xeb");
}

#[tokio::test]
async fn tungstenite_exchanges_messages_of_every_size_and_closes() {
    let (mut ours, theirs) = pair();
    let sizes = [0, 1, 125, 126, 65_535, 65_536, 300_000];
    let total: usize = sizes.iter().sum();
    let peer = thread::spawn(move || {
        let mut socket = tungstenite::WebSocket::from_raw_socket(theirs, Role::Client, None);
        for size in sizes {
            socket.send(Message::binary(vec![5; size])).unwrap();
        }
        let mut back = 0;
        loop {
            match socket.read().unwrap() {
                Message::Binary(bytes) => back += bytes.len(),
                Message::Close(frame) => {
                    assert_eq!(frame.unwrap().code, CloseCode::Normal);
                    return back;
                }
                other @ (Message::Text(_)
                | Message::Ping(_)
                | Message::Pong(_)
                | Message::Frame(_)) => {
                    panic!("{other:?}")
                }
            }
        }
    });
    let mut data = vec![0; total];
    ours.read_exact(&mut data).await.unwrap();
    assert!(data.iter().all(|byte| *byte == 5));
    for chunk in data.chunks(100_000) {
        ours.write_all(chunk).await.unwrap();
    }
    ours.shutdown().await.unwrap();
    assert_eq!(peer.join().unwrap(), total);
}

#[tokio::test]
async fn a_connection_that_waits_holds_no_buffer() {
    let (mut ours, mut theirs) = pair();
    theirs.write_all(&masked(0x82, &[1; 5000])).unwrap();
    let mut data = [0; 8192];
    let mut left = 5000;
    while left > 0 {
        left -= ours.read(&mut data).await.unwrap();
    }
    ours.write_all(&[2; 5000]).await.unwrap();
    ours.flush().await.unwrap();
    assert_eq!(ours.out.capacity(), 0);
    assert!(size_of::<WebSocket>() <= 320, "{}", size_of::<WebSocket>());
}

fn rules() -> WebSocketRules {
    WebSocketRules {
        path: "/mqtt".into(),
        origins: vec!["https://app.example".into()],
    }
}

/// The request of RFC 6455, section 1.3, for MQTT; a line that begins like one of `changed` is
/// replaced by it, others are added.
fn request(changed: &[&str]) -> String {
    let mut lines = vec![
        "GET /mqtt HTTP/1.1",
        "Host: broker.example",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: mqtt",
    ];
    for line in changed {
        let name = line.split([':', ' ']).next().unwrap();
        let same = |other: &&&str| other.split([':', ' ']).next() == Some(name);
        match lines.iter().position(|other| same(&other)) {
            Some(at) => lines[at] = line,
            None => lines.push(line),
        }
    }
    lines.retain(|line| !line.ends_with(':'));
    lines.join("\r\n") + "\r\n\r\n"
}

#[test]
fn the_request_of_the_rfc_is_granted() {
    let granted = judge(request(&[]).as_bytes(), 0, &rules())
        .unwrap()
        .unwrap();
    let response = String::from_utf8(granted.response).unwrap();
    assert!(response.starts_with("HTTP/1.1 101 "));
    assert!(response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(response.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"));
    assert!(!response.contains("Extensions"));
    assert!(granted.bearer.is_none());
}

/// Sub-protocol and token of a granted request.
type Answer = Result<(String, Option<String>), Rejection>;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn requests_are_granted_or_refused_as_the_listener_says() {
    use Rejection::{
        Bearer, Body, Key, Malformed, NotHttp, NotOnce, NotUpgrade, Origin, Path, Protocol, Version,
    };
    let granted =
        |protocol: &str, bearer: Option<&str>| Ok((protocol.to_owned(), bearer.map(str::to_owned)));
    let long = format!("Sec-WebSocket-Protocol: {}mqtt", "x, ".repeat(500));
    let long = [long.as_str()];
    #[rustfmt::skip]
    let table: Vec<(&[&str], Answer)> = vec![
        (&["GET /mqtt?client=7 HTTP/1.1"], granted("mqtt", None)),
        (&["Upgrade: h2c, WebSocket"], granted("mqtt", None)),
        (&["Connection: keep-alive, Upgrade"], granted("mqtt", None)),
        (
            &["Sec-WebSocket-Protocol: mqttv3.1"],
            granted("mqttv3.1", None),
        ),
        (
            &["Sec-WebSocket-Protocol: mqttv3.1, mqtt"],
            granted("mqtt", None),
        ),
        (
            &[
                "Sec-WebSocket-Protocol: chat",
                "sec-websocket-protocol: mqtt",
            ],
            granted("mqtt", None),
        ),
        (&long, granted("mqtt", None)),
        (
            &["Sec-WebSocket-Extensions: permessage-deflate"],
            granted("mqtt", None),
        ),
        (&["Origin: https://app.example"], granted("mqtt", None)),
        (&["Origin: HTTPS://APP.example"], granted("mqtt", None)),
        (&["Content-Length: 0"], granted("mqtt", None)),
        (
            &["Authorization: Bearer a.b-c_d~e+f/9=="],
            granted("mqtt", Some("a.b-c_d~e+f/9==")),
        ),
        (
            &["Authorization: bearer  abc"],
            granted("mqtt", Some("abc")),
        ),
        (&["Authorization: Basic YTpi"], granted("mqtt", None)),
        (&["Authorization: Bearers abc"], granted("mqtt", None)),
        (&["Authorization: Bearer"], Err(Bearer)),
        (&["Authorization: Bearer a b"], Err(Bearer)),
        (&["Authorization: Bearer a,b"], Err(Bearer)),
        (
            &["Authorization: Bearer a", "authorization: Bearer b"],
            Err(NotOnce("Authorization")),
        ),
        (&["Sec-WebSocket-Protocol:"], Err(Protocol)),
        (&["Sec-WebSocket-Protocol: MQTT"], Err(Protocol)),
        (&["Sec-WebSocket-Protocol: mqtt5, chat"], Err(Protocol)),
        (&["Origin: https://evil.example"], Err(Origin)),
        (&["Origin: https://app.example.evil.example"], Err(Origin)),
        (&["Origin: http://app.example"], Err(Origin)),
        (&["Origin: https://app.example:8443"], Err(Origin)),
        (&["Origin: null"], Err(Origin)),
        (
            &[
                "Origin: https://app.example",
                "origin: https://evil.example",
            ],
            Err(NotOnce("Origin")),
        ),
        (&["GET / HTTP/1.1"], Err(Path)),
        (&["GET /mqtt/ HTTP/1.1"], Err(Path)),
        (&["GET //mqtt HTTP/1.1"], Err(Path)),
        (&["GET /mqtt HTTP/1.0"], Err(Malformed)),
        (&["GET /mqtt"], Err(Malformed)),
        (&["GET  /mqtt HTTP/1.1"], Err(Malformed)),
        (&["Ho st: x"], Err(Malformed)),
        (&["X: a\nY: b"], Err(Malformed)),
        (&["X: a\0"], Err(Malformed)),
        (&["Host:"], Err(NotOnce("Host"))),
        (&["host: other"], Err(NotOnce("Host"))),
        (&["Content-Length: 5"], Err(Body)),
        (&["Transfer-Encoding: chunked"], Err(Body)),
        (&["Upgrade:"], Err(NotUpgrade)),
        (&["Upgrade: h2c"], Err(NotUpgrade)),
        (&["Connection: keep-alive"], Err(NotUpgrade)),
        (&["Sec-WebSocket-Version: 8"], Err(Version)),
        (&["Sec-WebSocket-Version:"], Err(Version)),
        (&["Sec-WebSocket-Key:"], Err(Key)),
        (&["Sec-WebSocket-Key: c2hvcnQ="], Err(Key)),
        (
            &["sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="],
            Err(NotOnce("Sec-WebSocket-Key")),
        ),
    ];
    for (changed, expected) in table {
        let text = request(changed);
        let judged = judge(text.as_bytes(), 0, &rules()).map(|granted| {
            let granted = granted.unwrap();
            let response = String::from_utf8(granted.response).unwrap();
            let protocol = response.split("Sec-WebSocket-Protocol: ").nth(1).unwrap();
            let bearer = granted
                .bearer
                .map(|token| String::from_utf8(token.into()).unwrap());
            (protocol.trim().to_owned(), bearer)
        });
        assert_eq!(judged, expected, "{text}");
    }
    for (bytes, expected) in [
        ("POST /mqtt HTTP/1.1\r\n", NotHttp),
        ("\x10\x0c", NotHttp),
        ("G\r", NotHttp),
        (&*(request(&[]) + "\x10"), Body),
    ] {
        assert!(
            judge(bytes.as_bytes(), 0, &rules()).err() == Some(expected),
            "{bytes:?}"
        );
    }
}

#[test]
fn without_a_list_every_page_is_foreign() {
    let closed = WebSocketRules {
        origins: Vec::new(),
        ..rules()
    };
    let text = request(&["Origin: https://broker.example"]);
    let judged = judge(text.as_bytes(), 0, &closed);
    assert!(judged.err() == Some(Rejection::Origin));
    assert!(judge(request(&[]).as_bytes(), 0, &closed).is_ok());
}

#[test]
fn a_request_ends_within_its_limit() {
    let filled = |size: usize| {
        let short = request(&["X: "]).len();
        request(&[&format!("X: {}", "x".repeat(size - short))])
    };
    assert!(judge(filled(MAX_REQUEST).as_bytes(), 0, &rules()).is_ok());
    let long = filled(MAX_REQUEST + 1);
    assert!(judge(long.as_bytes(), 0, &rules()).err() == Some(Rejection::TooLarge));
    let cut = &long.as_bytes()[..MAX_REQUEST];
    assert!(judge(cut, 0, &rules()).err() == Some(Rejection::TooLarge));
    let many: Vec<String> = (0..80).map(|number| format!("X{number}: 1")).collect();
    let many = request(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(judge(many.as_bytes(), 0, &rules()).err() == Some(Rejection::TooLarge));
}

#[test]
fn a_request_may_come_in_pieces() {
    let text = request(&["Origin: https://app.example"]);
    for cut in 1..text.len() {
        let (first, _) = text.as_bytes().split_at(cut);
        assert!(matches!(judge(first, 0, &rules()), Ok(None)), "{cut}");
        assert!(
            matches!(judge(text.as_bytes(), cut, &rules()), Ok(Some(_))),
            "{cut}"
        );
    }
    crate::fuzzing::websocket(text.as_bytes());
}
