//! From the first byte to CONNACK, over a real socket: what is answered, what is not, and what is
//! read of what comes behind.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_core::broker::Broker;
use portcullis_core::clock::Now;
use portcullis_core::gate::{Endpoint, Listener, Transport};
use portcullis_core::hook::{
    Accepted, Action, Admission, Arrival, Attempt, Authenticator, Authorizer, BatchFacts,
    BoxFuture, Cover, Credential, Decision, Effort, Grants, Identity, Lease, MessageFacts, Meter,
    Outcome, Principal, Refusal, RefusalKind, Rule, Snapshot, Standing, Use, Verdict,
};
use portcullis_core::settings::Settings;
use portcullis_core::topic::{TopicFilter, TopicName};
use portcullis_core::wire::QoS;

/// Lets everybody in as `user:u`, but not the user `bad`; the method `ECHO` takes two steps, and
/// one more for each `more`.
struct Door;

impl Authenticator for Door {
    fn name(&self) -> &'static str {
        "door"
    }

    fn authenticate<'a>(&'a self, attempt: &'a Attempt<'a>) -> BoxFuture<'a, Outcome> {
        let data = attempt
            .enhanced
            .map(|(method, data)| (method, data.map(|data| data.expose().to_vec())));
        let outcome = match data {
            Some(("ECHO", _)) if attempt.step == 0 && attempt.current.is_none() => {
                Outcome::Continue(b"?".to_vec())
            }
            Some(("ECHO", Some(answer))) if answer == b"ok" => accepted(),
            Some(("ECHO", Some(answer))) if answer == b"more" => Outcome::Continue(b"?".to_vec()),
            Some(("ECHO", Some(answer))) if answer == b"long" => Outcome::Continue(vec![b'?'; 99]),
            Some(("ECHO", _)) => refused(RefusalKind::BadCredential),
            Some(_) => refused(RefusalKind::BadMethod),
            None if attempt.username == Some("bad") => refused(RefusalKind::BadCredential),
            None => accepted(),
        };
        Box::pin(async { outcome })
    }

    fn standing(&self, _: &Credential, _: Use) -> Standing {
        Standing::Good
    }

    fn generation(&self) -> u64 {
        0
    }
}

fn accepted() -> Outcome {
    Outcome::Accepted(Accepted {
        identity: Identity::new(Principal::vouched("user", "u").unwrap()),
        lease: Lease {
            until: None,
            credential: Credential::new("door", ""),
        },
        data: None,
    })
}

fn refused(kind: RefusalKind) -> Outcome {
    Outcome::Refused(Refusal::new(kind, "not like this"))
}

/// Admits everybody, and counts whose credentials were bad.
#[derive(Default)]
struct Count(AtomicUsize);

impl Admission for Count {
    fn name(&self) -> &'static str {
        "count"
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

    fn failed(&self, arrival: &Arrival<'_>, _: Option<&Principal>, _: Now) {
        assert_eq!(
            (arrival.address, arrival.listener),
            (Some([127, 0, 0, 1].into()), "test")
        );
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn watch(&self, _: &Snapshot, _: Now) -> Box<dyn Meter> {
        Box::new(Free)
    }

    fn in_good_standing(&self, _: &Snapshot, _: Now) -> bool {
        true
    }

    fn generation(&self) -> u64 {
        0
    }
}

struct Free;

impl Meter for Free {
    fn batch(&mut self, _: &BatchFacts, _: Now) -> Verdict {
        Verdict::Admit
    }
}

/// Allows everything but to receive what is published to `secret`.
struct Everything;

impl Authorizer for Everything {
    fn name(&self) -> &'static str {
        "everything"
    }

    fn grants(&self, _: &Snapshot) -> Arc<dyn Grants> {
        Arc::new(Everything)
    }

    fn generation(&self) -> u64 {
        0
    }
}

impl Grants for Everything {
    fn decide(&self, action: Action, topic: TopicName<'_>, _: &MessageFacts) -> Decision {
        if action == Action::Receive && topic.as_str() == "secret" {
            Decision::Deny(Rule(0))
        } else {
            Decision::Allow(Rule(0))
        }
    }

    fn share(&self, _: &str) -> Decision {
        Decision::Allow(Rule(0))
    }

    fn cover(&self, _: TopicFilter<'_>, _: &MessageFacts, _: &Effort) -> Cover {
        Cover::Full
    }

    fn describe(&self, _: Rule) -> String {
        "everything".to_owned()
    }
}

/// A broker for the length of a test.
struct Running {
    runtime: tokio::runtime::Runtime,
    broker: Broker,
    address: SocketAddr,
    failures: Arc<Count>,
}

impl Running {
    fn new(settings: Settings) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let failures = Arc::new(Count::default());
        let broker = runtime.block_on(async {
            Broker::builder()
                .settings(settings)
                .listener(Listener {
                    name: "test".into(),
                    endpoint: Endpoint::Tcp("127.0.0.1:0".parse().unwrap()),
                    transport: Transport::Mqtt,
                    trusted_proxies: None,
                    tls: None,
                    methods: None,
                })
                .authenticator(Arc::new(Door))
                .authorizer(Arc::new(Everything))
                .admission(Arc::clone(&failures) as Arc<dyn Admission>)
                .start()
                .unwrap()
        });
        let address = broker.addresses().first().unwrap().1.unwrap();
        Self {
            runtime,
            broker,
            address,
            failures,
        }
    }

    fn open(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        // Only a failed test waits for it.
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// Everything that is answered to `bytes` up to the close, which must come.
    fn to_the_end(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.open();
        stream.write_all(bytes).unwrap();
        rest(&mut stream)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runtime.block_on(self.broker.stop());
    }
}

fn next(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; head[1].into()];
    stream.read_exact(&mut body).unwrap();
    [&head[..], &body].concat()
}

/// All that comes up to the close, which must come.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(body.len()).unwrap()], body].concat()
}

const GOODBYE: &[u8] = b"\xe0\x00";
const LATE: &[u8] = b"\x31\x04\x00\x01tx";

/// A 5.0 CONNECT with flags, properties and payload.
fn v5(flags: u8, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).unwrap();
    let head = [b"\x00\x04MQTT\x05", &[flags, 0, 60, length][..]].concat();
    packet(0x10, &[&head, properties, payload].concat())
}

fn v4(flags: u8, payload: &[u8]) -> Vec<u8> {
    packet(
        0x10,
        &[&b"\x00\x04MQTT\x04"[..], &[flags, 0, 60], payload].concat(),
    )
}

fn v3(flags: u8, payload: &[u8]) -> Vec<u8> {
    packet(
        0x10,
        &[&b"\x00\x06MQIsdp\x03"[..], &[flags, 0, 60], payload].concat(),
    )
}

#[test]
fn a_refusal_is_the_one_answer_and_nothing_behind_it_is_processed() {
    let running = Running::new(Settings::default());
    let cases: Vec<(&str, Vec<u8>, &[u8])> = vec![
        ("MQTT-3.1.0-1", b"\xc0\x00".to_vec(), b""),
        (
            "MQTT-3.1.2-2 of 3.1.1",
            packet(0x10, b"\x00\x04MQTT\x06\x02\x00\x3c\x00\x00"),
            b"\x20\x02\x00\x01",
        ),
        (
            "a Mosquitto bridge",
            packet(0x10, b"\x00\x04MQTT\x84\x02\x00\x3c\x00\x01c"),
            b"\x20\x02\x00\x01",
        ),
        ("MQTT-3.1.2-3 of 3.1.1", v4(3, b"\x00\x01c"), b""),
        (
            "MQTT-3.1.2-3",
            v5(3, b"", b"\x00\x01c"),
            b"\x20\x03\x00\x81\x00",
        ),
        (
            "MQTT-3.1.3-8 of 3.1.1",
            v4(0, b"\x00\x00"),
            b"\x20\x02\x00\x02",
        ),
        (
            "an empty client id in 3.1",
            v3(2, b"\x00\x00"),
            b"\x20\x02\x00\x02",
        ),
        (
            "MQTT-3.1.3-8",
            v5(2, b"", b"\x00\x01\x07"),
            b"\x20\x03\x00\x85\x00",
        ),
        (
            "MQTT-3.1.4-2",
            v5(0x82, b"", b"\x00\x01c\x00\x03bad"),
            b"\x20\x03\x00\x86\x00",
        ),
        (
            "MQTT-3.1.4-2 of 3.1.1",
            v4(0x82, b"\x00\x01c\x00\x03bad"),
            b"\x20\x02\x00\x04",
        ),
        (
            "MQTT-4.12.0-1",
            v5(2, b"\x15\x00\x01X", b"\x00\x01c"),
            b"\x20\x03\x00\x8c\x00",
        ),
        (
            "a client that takes no CONNACK",
            v5(2, b"\x27\x00\x00\x00\x08", b"\x00\x01c"),
            b"\x20\x03\x00\x95\x00",
        ),
        (
            "MQTT-3.1.2-24",
            v5(2, b"\x27\x00\x00\x00\x04", b"\x00\x01c"),
            b"",
        ),
        ("AUTH in place of CONNECT", b"\xf0\x00".to_vec(), b""),
    ];
    for (name, connect, answer) in cases {
        let bytes = [&connect, LATE, GOODBYE].concat();
        assert_eq!(running.to_the_end(&bytes), answer, "{name}");
    }
    let metrics = running.broker.metrics();
    assert_eq!(metrics.messages_received.value(), 0);
    assert_eq!(metrics.packets_received.value(), 0);
    assert_eq!(metrics.sessions.value(), 0);
}

#[test]
fn each_version_is_greeted_once_and_in_its_own_words() {
    let running = Running::new(Settings::default());
    // What comes with the CONNECT is processed after it.
    let ping = b"\xc0\x00";
    let with_ping = |connect: Vec<u8>| [&connect, &ping[..], GOODBYE].concat();
    let old = b"\x20\x02\x00\x00\xd0\x00";
    assert_eq!(running.to_the_end(&with_ping(v3(2, b"\x00\x01c"))), old);
    assert_eq!(running.to_the_end(&with_ping(v4(2, b"\x00\x01c"))), old);
    assert_eq!(running.to_the_end(&with_ping(v4(2, b"\x00\x00"))), old);
    let text = b"0123456789abcdefghijklm";
    let id = [&[0, 23][..], text].concat();
    assert_eq!(
        running.to_the_end(&with_ping(v4(2, &id))),
        old,
        "MQTT-3.1.3-5"
    );
    let new = running.to_the_end(&with_ping(v5(2, b"", &id)));
    assert_eq!(new.get(..1), Some(&b"\x20"[..]));
    assert_eq!(new.get(2..4), Some(&[0, 0][..]));
    assert!(new.ends_with(ping_response()), "{new:02x?}");
    assert!(
        !new.contains(&0x15),
        "MQTT-4.12.0-6: no method where there was none"
    );
}

fn ping_response() -> &'static [u8] {
    b"\xd0\x00"
}

#[test]
fn session_present_says_whether_there_is_one() {
    let running = Running::new(Settings::default());
    let expiry = b"\x11\x00\x00\x00\x3c";
    for (connect, flag) in [
        (v5(0, expiry, b"\x00\x01c"), 0),
        (v5(0, expiry, b"\x00\x01c"), 1),
        (v4(0, b"\x00\x01c"), 1),
        // 3.1 has no such flag: the byte is reserved.
        (v3(0, b"\x00\x01c"), 0),
        (v5(2, expiry, b"\x00\x01c"), 0),
        (v4(2, b"\x00\x01c"), 0),
        (v4(0, b"\x00\x01c"), 0),
    ] {
        let mut stream = running.open();
        stream.write_all(&connect).unwrap();
        let connack = next(&mut stream);
        assert_eq!(connack.get(2..4), Some(&[flag, 0][..]), "{connect:02x?}");
        stream.write_all(GOODBYE).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn an_empty_client_id_gets_one_of_its_own() {
    let running = Running::new(Settings::default());
    let mut ids = Vec::new();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = running.open();
        stream.write_all(&v5(2, b"", b"\x00\x00")).unwrap();
        let connack = next(&mut stream);
        let at = connack
            .windows(2)
            .position(|pair| pair == [0x12, 0])
            .unwrap();
        let length = usize::from(connack[at + 2]);
        ids.push(String::from_utf8(connack[at + 3..at + 3 + length].to_vec()).unwrap());
        open.push(stream);
    }
    assert_ne!(ids[0], ids[1]);
    for id in &ids {
        assert!(running.broker.client(id).is_some(), "{id}");
    }
}

#[test]
fn what_is_granted_is_announced() {
    let mut settings = Settings::default();
    settings.mqtt.max_qos = QoS::AtLeastOnce;
    settings.mqtt.keep_alive_max = Duration::from_secs(30);
    settings.mqtt.session_expiry_max = Duration::from_secs(7);
    let running = Running::new(settings);
    let mut stream = running.open();
    stream
        .write_all(&v5(2, b"\x11\x00\x00\x00\x3c", b"\x00\x01c"))
        .unwrap();
    let connack = next(&mut stream);
    for (what, bytes) in [
        ("Session Expiry Interval", &b"\x11\x00\x00\x00\x07"[..]),
        ("Receive Maximum", b"\x21\x00\x40"),
        ("Maximum QoS", b"\x24\x01"),
        ("Server Keep Alive", b"\x13\x00\x1e"),
        ("Topic Alias Maximum", b"\x22\x00\x20"),
        ("Maximum Packet Size", b"\x27\x00\x10\x00\x00"),
    ] {
        assert!(
            connack.windows(bytes.len()).any(|part| part == bytes),
            "{what}"
        );
    }
    // MQTT-3.1.2-28 and 3.2.2-22: neither Response Information nor a keep alive that is the same.
    assert!(!connack.contains(&0x1a));
    // MQTT-3.2.2-12
    let will = v5(0x16, b"", b"\x00\x01c\x00\x00\x01w\x00\x01x");
    assert_eq!(running.to_the_end(&will), b"\x20\x03\x00\x9b\x00");
}

#[test]
fn a_will_asks_for_answers_only_where_its_author_may_receive_them() {
    let running = Running::new(Settings::default());
    let will = |response: &[u8]| {
        let length = u8::try_from(response.len()).unwrap();
        let properties = [&[length + 3, 0x08, 0, length][..], response].concat();
        let payload = [&b"\x00\x01c"[..], &properties, b"\x00\x01w\x00\x01x"].concat();
        v5(6, b"", &payload)
    };
    for refused in [&b"secret"[..], b"answers/#", b""] {
        assert_eq!(
            running.to_the_end(&will(refused)),
            b"\x20\x03\x00\x87\x00",
            "{refused:?}"
        );
    }
    let connack = running.to_the_end(&[&will(b"answers/c"), GOODBYE].concat());
    assert_eq!(connack.get(3), Some(&0));
}

/// An AUTH with a method and data.
fn auth(reason: u8, method: &[u8], data: &[u8]) -> Vec<u8> {
    let method = [&[0x15, 0, u8::try_from(method.len()).unwrap()], method].concat();
    let data = [&[0x16, 0, u8::try_from(data.len()).unwrap()], data].concat();
    let length = u8::try_from(method.len() + data.len()).unwrap();
    packet(0xf0, &[&[reason, length][..], &method, &data].concat())
}

/// A client that was asked for the next step after its CONNECT.
fn asked(running: &Running) -> TcpStream {
    let mut stream = running.open();
    stream
        .write_all(&v5(2, b"\x15\x00\x04ECHO", b"\x00\x01c"))
        .unwrap();
    // MQTT-4.12.0-2 and 4.12.0-5
    assert_eq!(next(&mut stream), auth(0x18, b"ECHO", b"?"));
    stream
}

/// One that has answered, and is in.
fn let_in(running: &Running) -> TcpStream {
    let mut stream = asked(running);
    stream.write_all(&auth(0x18, b"ECHO", b"ok")).unwrap();
    let connack = next(&mut stream);
    assert_eq!(connack.get(..1), Some(&b"\x20"[..]));
    assert!(connack.windows(4).any(|part| part == b"ECHO"));
    stream
}

#[test]
fn an_exchange_of_credentials_takes_its_steps() {
    let running = Running::new(Settings::default());
    let mut stream = let_in(&running);
    for (what, begin, steps) in [
        (
            "MQTT-4.12.1-1: once more, by the same method",
            &b"ok"[..],
            0,
        ),
        ("in several steps", b"more", 2),
        ("and again, after those", b"ok", 0),
    ] {
        stream.write_all(&auth(0x19, b"ECHO", begin)).unwrap();
        for step in 1..=steps {
            assert_eq!(next(&mut stream), auth(0x18, b"ECHO", b"?"), "{what}");
            let answer: &[u8] = if step == steps { b"ok" } else { b"more" };
            stream.write_all(&auth(0x18, b"ECHO", answer)).unwrap();
        }
        let renewed = next(&mut stream);
        assert_eq!(renewed.get(..3), Some(&[0xf0, renewed[1], 0][..]), "{what}");
    }
    // MQTT-4.12.1-2
    stream.write_all(&auth(0x19, b"ECHO", b"no")).unwrap();
    assert_eq!(next(&mut stream), b"\xe0\x02\x87\x00");
    for (what, answer, code) in [
        ("MQTT-4.12.0-4", auth(0x18, b"ECHO", b"no"), 0x86),
        ("MQTT-4.12.0-5", auth(0x18, b"OTHER", b"ok"), 0x82),
        ("MQTT-4.12.0-3", auth(0x19, b"ECHO", b"ok"), 0x82),
        ("MQTT-3.1.2-30", b"\x31\x05\x00\x01t\x00x".to_vec(), 0x82),
        ("MQTT-3.15.2-1", auth(0x00, b"ECHO", b"ok"), 0x81),
        ("3.15.2.2.2", packet(0xf0, b"\x18\x00"), 0x82),
    ] {
        let mut stream = asked(&running);
        stream.write_all(&answer).unwrap();
        assert_eq!(rest(&mut stream), [0x20, 3, 0, code, 0], "{what}");
    }
    // MQTT-3.1.2-30: a goodbye may come at any time, and is not answered.
    let mut stream = asked(&running);
    stream.write_all(GOODBYE).unwrap();
    assert_eq!(rest(&mut stream), b"");
}

/// One that is in without an Authentication Method.
fn plain(running: &Running) -> TcpStream {
    let mut stream = running.open();
    stream.write_all(&v5(2, b"", b"\x00\x01c")).unwrap();
    next(&mut stream);
    stream
}

/// One that has begun to renew, and was asked for the next step.
fn begun(running: &Running) -> TcpStream {
    let mut stream = let_in(running);
    stream.write_all(&auth(0x19, b"ECHO", b"more")).unwrap();
    assert_eq!(next(&mut stream), auth(0x18, b"ECHO", b"?"));
    stream
}

/// One that has.
fn renewed(running: &Running) -> TcpStream {
    let mut stream = begun(running);
    stream.write_all(&auth(0x18, b"ECHO", b"ok")).unwrap();
    assert_eq!(next(&mut stream).get(2), Some(&0));
    stream
}

#[test]
fn an_auth_that_is_not_the_next_step_ends_the_connection() {
    type State = fn(&Running) -> TcpStream;
    let running = Running::new(Settings::default());
    for (what, state, said, code) in [
        (
            "MQTT-4.12.0-7",
            plain as State,
            auth(0x19, b"ECHO", b"ok"),
            0x82,
        ),
        ("MQTT-4.12.0-7", plain, auth(0x18, b"ECHO", b"ok"), 0x82),
        (
            "4.12.1: nothing is under way",
            let_in,
            auth(0x18, b"ECHO", b"ok"),
            0x82,
        ),
        ("MQTT-4.12.1-1", let_in, auth(0x19, b"OTHER", b"ok"), 0x82),
        ("MQTT-3.15.2-1", let_in, auth(0x00, b"ECHO", b"ok"), 0x81),
        ("3.15.2.2.2", let_in, packet(0xf0, b"\x19\x00"), 0x82),
        ("MQTT-4.12.0-3", begun, auth(0x19, b"ECHO", b"ok"), 0x82),
        ("MQTT-4.12.1-1", begun, auth(0x18, b"OTHER", b"ok"), 0x82),
        ("MQTT-3.15.2-1", begun, auth(0x00, b"ECHO", b"ok"), 0x81),
        (
            "4.12.1: it is over",
            renewed,
            auth(0x18, b"ECHO", b"ok"),
            0x82,
        ),
    ] {
        let mut stream = state(&running);
        stream.write_all(&said).unwrap();
        assert_eq!(rest(&mut stream), [0xe0, 2, code, 0], "{what}: {said:x?}");
    }
    // Nobody has been asked about the first, and there is a second.
    let mut stream = let_in(&running);
    stream
        .write_all(&auth(0x19, b"ECHO", b"more").repeat(2))
        .unwrap();
    assert_eq!(rest(&mut stream), b"\xe0\x02\x82\x00");
}

#[test]
fn a_bad_credential_counts_against_its_address_at_connect_and_at_renewal() {
    let running = Running::new(Settings::default());
    let counted = |running: &Running| {
        let counted = running.failures.0.load(Ordering::SeqCst) as u64;
        assert_eq!(
            running.broker.metrics().refused_credentials.value(),
            counted
        );
        counted
    };
    let mut stream = asked(&running);
    stream.write_all(&auth(0x18, b"ECHO", b"no")).unwrap();
    rest(&mut stream);
    assert_eq!(counted(&running), 1);
    let mut stream = let_in(&running);
    stream.write_all(&auth(0x19, b"ECHO", b"ok")).unwrap();
    next(&mut stream);
    assert_eq!(counted(&running), 1);
    stream.write_all(&auth(0x19, b"ECHO", b"no")).unwrap();
    assert_eq!(rest(&mut stream), b"\xe0\x02\x87\x00");
    assert_eq!(counted(&running), 2);
    // A protocol error is no guess.
    let mut stream = let_in(&running);
    stream.write_all(&auth(0x18, b"ECHO", b"no")).unwrap();
    rest(&mut stream);
    assert_eq!(counted(&running), 2);
}

#[test]
fn an_auth_that_is_too_large_for_the_client_is_not_sent() {
    let running = Running::new(Settings::default());
    let connect = |max: u8| {
        let properties = [&b"\x15\x00\x04ECHO\x27\x00\x00\x00"[..], &[max]].concat();
        v5(2, &properties, b"\x00\x01c")
    };
    // MQTT-3.1.2-24: the first challenge takes fifteen bytes.
    assert_eq!(running.to_the_end(&connect(4)), b"");
    assert_eq!(running.to_the_end(&connect(14)), b"\x20\x03\x00\x95\x00");
    let told = running.to_the_end(&[connect(15), auth(0x18, b"ECHO", b"no")].concat());
    assert_eq!(told.get(..15), Some(&*auth(0x18, b"ECHO", b"?")));
    let mut stream = running.open();
    stream.write_all(&connect(99)).unwrap();
    next(&mut stream);
    stream.write_all(&auth(0x18, b"ECHO", b"ok")).unwrap();
    next(&mut stream);
    stream.write_all(&auth(0x19, b"ECHO", b"long")).unwrap();
    assert_eq!(rest(&mut stream), b"\xe0\x02\x95\x00");
}

#[test]
fn a_new_connection_ends_the_old_one_with_its_reason() {
    let running = Running::new(Settings::default());
    for (connect, farewell) in [
        (v5(2, b"", b"\x00\x01c"), &b"\xe0\x02\x8e\x00"[..]),
        (v4(2, b"\x00\x01c"), b""),
    ] {
        let mut old = running.open();
        old.write_all(&connect).unwrap();
        next(&mut old);
        let mut new = running.open();
        new.write_all(&connect).unwrap();
        next(&mut new);
        assert_eq!(rest(&mut old), farewell);
        new.write_all(b"\xc0\x00").unwrap();
        assert_eq!(next(&mut new), b"\xd0\x00");
    }
}
