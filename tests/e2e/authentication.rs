//! Who is it? Every kind of credential, and every way in which one fails.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime};
use std::{fs, thread};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::pki::{Pki, TokenIssuer};
use serde_json::{Value, json};

use crate::client::{V3, V5, VERSIONS};
use crate::harness::{ANNA, Broker, Setup, sign, unix_seconds, usual_claims};
use crate::raw::connect;

#[test]
fn a_certificate_a_token_and_a_password_each_name_their_principal() {
    let broker = Broker::start(|_| ());
    for version in VERSIONS {
        let token = broker.setup.token(&json!({}));
        let dial = |id| broker.dial(version, id);
        for (dial, principal) in [
            (
                dial("by-certificate").certificate("device-1"),
                "cert:device-1",
            ),
            (dial("by-token").token(&token), "jwt:device-3"),
            (dial("by-token-local").token(&token).local(), "jwt:device-3"),
            (dial("by-password").login(ANNA), "user:anna"),
            (dial("by-password-local").login(ANNA).local(), "user:anna"),
            // A password is judged before a certificate.
            (
                dial("by-both").certificate("device-1").login(ANNA),
                "user:anna",
            ),
        ] {
            let client = dial.connect();
            let list = broker.ask(&["client", "list"]).succeeded().out;
            assert!(list.contains(principal), "{principal}: {list}");
            client.disconnect();
        }
    }
    for (id, principal, method) in [
        ("by-certificate", "cert:device-1", "certificate"),
        ("by-token", "jwt:device-3", "jwt"),
        ("by-password", "user:anna", "password"),
    ] {
        let fields = [
            ("client_id", id),
            ("principal", principal),
            ("method", method),
        ];
        let record = broker.record("connect", &fields);
        assert_eq!(record["listener"], "main");
        assert!(record["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
        broker.record("disconnect", &[("client_id", id), ("principal", principal)]);
    }
}

#[test]
fn without_a_good_credential_nobody_gets_in_and_all_get_the_same_code() {
    let broker = Broker::start(|_| ());
    let now = unix_seconds();
    let token = |claims: Value| broker.setup.token(&claims);
    let stranger = TokenIssuer::open(&broker.setup.path("stranger")).unwrap();
    let stranger = fs::read(stranger.key_path()).unwrap();
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = |header| {
        let claims = Value::Object(usual_claims(&json!({})));
        format!("{}.{}.", encode(header), encode(claims))
    };
    let public = fs::read(broker.setup.path("tokens/issuer.pub")).unwrap();
    let confused = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
        &usual_claims(&json!({})),
        &jsonwebtoken::EncodingKey::from_secret(&public),
    );
    let mut tampered = token(json!({}));
    let end = tampered.pop().unwrap();
    tampered.push(if end == 'A' { 'Q' } else { 'A' });
    let logins: Vec<(&str, Option<(&str, String)>)> = vec![
        ("nothing", None),
        ("a wrong password", Some(("anna", "wrong".to_owned()))),
        ("an unknown user", Some(("nobody", ANNA.1.to_owned()))),
        ("an empty password", Some(("anna", String::new()))),
        (
            "an expired token",
            Some(("t", token(json!({"exp": now - 60})))),
        ),
        (
            "a token before its time",
            Some(("t", token(json!({"nbf": now + 600})))),
        ),
        (
            "another audience",
            Some(("t", token(json!({"aud": "elsewhere"})))),
        ),
        ("no audience", Some(("t", token(json!({"aud": null}))))),
        (
            "another issuer",
            Some(("t", token(json!({"iss": "https://evil.example"})))),
        ),
        ("no end", Some(("t", token(json!({"exp": null}))))),
        ("no name", Some(("t", token(json!({"sub": null}))))),
        (
            "a name that is no string",
            Some(("t", token(json!({"sub": 7})))),
        ),
        ("another key", Some(("t", sign(&stranger, &json!({}))))),
        ("a changed signature", Some(("t", tampered))),
        (
            "alg none",
            Some(("t", unsigned(json!({"alg": "none", "typ": "JWT"})))),
        ),
        ("alg None", Some(("t", unsigned(json!({"alg": "None"}))))),
        (
            "the public key as HMAC secret",
            Some(("t", confused.unwrap())),
        ),
    ];
    for (what, login) in &logins {
        for (version, code) in [(V3, 0x04), (V5, 0x86)] {
            for local in [false, true] {
                let mut dial = broker.dial(version, "stranger");
                if let Some((user, password)) = login {
                    dial = dial.login((user, password));
                }
                if local {
                    dial = dial.local();
                }
                assert_eq!(dial.refused(), code, "{what} {version:?}");
            }
        }
    }
    // Of equal refusals the first ten are records.
    let fields = [
        ("client_id", "stranger"),
        ("rule", "credential"),
        ("code", "0x86"),
    ];
    let record = broker.record("refuse", &fields);
    assert_eq!(record["code_name"].as_str().map(str::is_empty), Some(false));
    assert!(record["reason"].is_string());
}

#[test]
fn a_bad_credential_never_falls_through_to_a_good_one() {
    let broker = Broker::start(|_| ());
    let dial = broker.dial(V5, "device-1").certificate("device-1");
    assert_eq!(dial.clone().login(("anna", "wrong")).refused(), 0x86);
    let expired = broker.setup.token(&json!({"exp": 1}));
    assert_eq!(dial.token(&expired).refused(), 0x86);
}

#[test]
fn a_certificate_that_fails_ends_in_a_tls_alert_and_a_record() {
    let broker = Broker::start(|_| ());
    let setup = &broker.setup;
    // Another CA that calls its client by a name that we know.
    let at = setup.path("other");
    let other = at.to_str().unwrap();
    setup.portcullis(&["pki", "init", other]).succeeded();
    setup
        .portcullis(&["pki", "client", other, "device-1"])
        .succeeded();
    // Ours, from two years ago.
    let then = SystemTime::now() - Duration::from_hours(2 * 365 * 24);
    Pki::open(&setup.path("pki"), then)
        .unwrap()
        .client("late")
        .unwrap();
    for version in VERSIONS {
        for (directory, name, alert) in [
            ("other", "device-1", "AlertReceived("),
            ("pki", "late", "AlertReceived("),
        ] {
            let dial = broker.dial(version, name).certificate_in(directory, name);
            let how = dial.broken();
            assert!(how.contains(alert), "{name}: {how}");
        }
    }
    broker.record("refuse", &[("rule", "tls"), ("reason", "xpired")]);
    // A client that does not know our CA goes away by itself.
    assert_eq!(broker.dial(V5, "none").refused(), 0x86);
}

#[test]
fn a_listener_that_requires_certificates_ends_a_handshake_without_one() {
    let broker = Broker::start(|setup| {
        setup.listeners = setup.listeners.replace("\"optional\"", "\"required\"");
    });
    let how = broker.dial(V5, "none").broken();
    assert!(how.contains("CertificateRequired"), "{how}");
    broker.device(V5, "device-1").disconnect();
}

#[test]
fn a_listener_looks_only_at_the_methods_that_it_names() {
    let broker = Broker::start(|setup| {
        setup.listeners = setup
            .listeners
            .replace(r#"["jwt", "password"]"#, r#"["jwt"]"#);
    });
    let dial = broker.dial(V5, "anna");
    assert_eq!(dial.clone().login(ANNA).local().refused(), 0x86);
    dial.login(ANNA).connect().disconnect();
}

#[test]
fn a_client_is_called_what_its_credential_says() {
    let broker = Broker::start(|setup| setup.auth += "client-id = \"name\"\n");
    for (version, code) in [(V3, 0x05), (V5, 0x87)] {
        let dial = |id| broker.dial(version, id).certificate("device-1");
        for id in ["device-1", "device-1:second"] {
            dial(id).connect().disconnect();
        }
        for id in [
            "device-2",
            "device-10",
            "device-1-x",
            "Device-1",
            ":device-1",
        ] {
            assert_eq!(dial(id).refused(), code, "{id}");
        }
    }
    broker.record(
        "refuse",
        &[
            ("client_id", "device-2"),
            ("claimed", "cert:device-1"),
            ("code", "0x87"),
        ],
    );
}

#[test]
fn a_will_that_the_policy_forbids_refuses_the_connection() {
    let broker = Broker::start(|_| ());
    for (version, code) in [(V3, 0x05), (V5, 0x87)] {
        for topic in ["devices/device-1/telemetry", "lab/secret/will", "elsewhere"] {
            let dial = broker.dial(version, "device-1").certificate("device-1");
            assert_eq!(dial.will((topic, "", 0, false)).refused(), code, "{topic}");
        }
    }
}

#[test]
fn rule_6_a_token_that_ends_ends_the_connection() {
    let broker = Broker::start(|_| ());
    let connect = |version| {
        let token = broker.setup.token(&json!({"exp": unix_seconds() + 1}));
        broker.dial(version, "short").token(&token).connect()
    };
    assert_eq!(connect(V5).ended(), Some(0x87));
    assert_eq!(connect(V3).ended(), None);
    broker.record(
        "disconnect",
        &[("client_id", "short"), ("principal", "jwt:device-3")],
    );
}

/// Anonymous clients are off, even on loopback, until that is said.
#[test]
fn rule_8_nobody_is_anonymous_unless_the_configuration_says_so() {
    let broker = Broker::start(|_| ());
    assert_eq!(broker.dial(V5, "anyone").local().refused(), 0x86);
    let broker = Broker::start(|setup| {
        setup.auth += "anonymous = true\n";
        setup.listeners = setup.listeners.replace(
            r#"["jwt", "password"]"#,
            r#"["jwt", "password", "anonymous"]"#,
        );
    });
    let mut anyone = broker.dial(V5, "anyone").local().connect();
    assert_eq!(anyone.publish("lab/a", "", 1), 0x10);
    let list = broker.ask(&["client", "list"]).succeeded().out;
    assert!(list.contains(" anonymous "), "{list}");
    // A credential that fails does not make a client anonymous.
    let dial = broker.dial(V5, "anna").local();
    assert_eq!(dial.login(("anna", "wrong")).refused(), 0x86);
}

#[test]
fn a_crowd_whose_passwords_take_longer_to_hash_than_the_deadline_gets_in() {
    const CROWD: usize = 200;
    let broker = Broker::start(|setup| {
        setup.limits += "connect-deadline = \"1 s\"\n";
        // Each has a line of its own, so that each costs a hash.
        let text = fs::read_to_string(setup.path("users.passwd")).unwrap();
        let line = text.lines().find(|line| line.starts_with("anna:")).unwrap();
        let lines: String = (0..CROWD)
            .map(|at| line.replacen("anna:", &format!("anna-{at}:"), 1) + "\n")
            .collect();
        fs::write(setup.path("users.passwd"), text + lines.as_str()).unwrap();
    });
    let mut crowd: Vec<_> = (0..CROWD).map(|_| broker.wire()).collect();
    for (at, wire) in crowd.iter_mut().enumerate() {
        let user = format!("anna-{at}");
        wire.send(&connect(4, &user, 60, (&user, ANNA.1)));
    }
    for (at, wire) in crowd.iter_mut().enumerate() {
        assert_eq!(wire.receive(), Some((0x20, vec![0, 0])), "{at}");
    }
}

/// A server on loopback that thinks half a second about every request, however many there are.
fn thinks_about_it(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer_slowly(BufReader::new(stream.unwrap()), answer));
        }
    });
    address
}

fn answer_slowly(mut stream: BufReader<TcpStream>, answer: &str) -> io::Result<()> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    thread::sleep(Duration::from_millis(500));
    let head = "HTTP/1.1 200 OK\r\ncontent-length";
    let mut stream = stream.into_inner();
    write!(stream, "{head}: {}\r\n\r\n{answer}", answer.len())
}

/// A few are asked about at a time; who waits for that is not to blame for it.
#[test]
fn a_crowd_whose_tokens_take_a_server_longer_than_the_deadline_gets_in() {
    const CROWD: usize = 300;
    for (section, answer) in [
        (
            "[[auth.introspection]]\nname = \"oauth\"\nclient-id = \"id\"\n\
             client-secret-file = \"secret\"\n",
            r#"{"active": true, "sub": "anna"}"#,
        ),
        (
            "[[auth.webhook]]\nname = \"hook\"\ncredentials = [\"token\"]\n",
            r#"{"result": "allow", "principal": "anna"}"#,
        ),
    ] {
        let server = thinks_about_it(answer);
        let broker = Broker::start(|setup| {
            setup.limits += "connect-deadline = \"1 s\"\n";
            fs::write(setup.path("secret"), "secret").unwrap();
            let url = format!("url = \"http://{server}/\"\nallowed-roles = []\n");
            setup.more = [section, &*url].concat();
        });
        let mut crowd: Vec<_> = (0..CROWD).map(|_| broker.wire()).collect();
        for (at, wire) in crowd.iter_mut().enumerate() {
            let claims = json!({"iss": "https://else.example", "jti": at});
            let token = broker.setup.token(&claims);
            wire.send(&connect(4, &format!("c{at}"), 60, ("", &token)));
        }
        for (at, wire) in crowd.iter_mut().enumerate() {
            assert_eq!(wire.receive(), Some((0x20, vec![0, 0])), "{section} {at}");
        }
    }
}

fn two_cas_and_two_issuers(setup: &mut Setup) {
    for arguments in [
        &["pki", "init", "office"][..],
        &["pki", "client", "office", "device-1"],
    ] {
        setup.portcullis(arguments).succeeded();
    }
    let cas = "[{ name = \"plant\", file = \"pki/ca.pem\" }, \
               { name = \"office\", file = \"office/ca.pem\" }]";
    setup.listeners = setup.listeners.replace("\"pki/ca.pem\"", cas);
    setup.auth += "client-id = \"name\"\n";
    setup.more += "\
[[auth.jwt]]
name = \"second\"
issuer = \"https://second.example\"
audience = [\"portcullis\"]
algorithms = [\"EdDSA\"]
key-file = \"tokens/issuer.pub\"
allowed-roles = [\"device\"]
[admin]
bind = \"127.0.0.1:0\"
";
    setup.policy = "\
p, *, own/{name}/data, publish, allow
p, *, by/{cert.ca}/{name}, publish, allow
p, cert:plant/device-1, plant, publish, allow
"
    .into();
}

/// No matching subscribers: taken.
const ALLOWED: u8 = 0x10;

#[test]
fn the_name_is_the_same_whoever_vouches_for_it_and_the_principal_is_not() {
    let mut broker = Broker::start(two_cas_and_two_issuers);
    let publishes = |client: &mut crate::client::Client, topics: &[(&str, u8)]| {
        for (topic, code) in topics {
            assert_eq!(client.publish(topic, "", 1), *code, "{topic}");
        }
    };
    let mut plant = broker
        .dial(V5, "device-1")
        .certificate("device-1")
        .connect();
    publishes(
        &mut plant,
        &[
            ("own/device-1/data", ALLOWED),
            ("own/plant/data", 0x87),
            ("by/plant/device-1", ALLOWED),
            ("by/office/device-1", 0x87),
            ("plant", ALLOWED),
        ],
    );
    // Another's client id stays another's.
    let office = |id| broker.dial(V5, id).certificate_in("office", "device-1");
    assert_eq!(office("device-1").refused(), 0x87);
    assert_eq!(office("office/device-1").refused(), 0x87);
    publishes(
        &mut office("device-1:b").connect(),
        &[
            ("own/device-1/data", ALLOWED),
            ("by/office/device-1", ALLOWED),
            ("by/plant/device-1", 0x87),
            ("plant", 0x87),
        ],
    );
    for issuer in ["https://id.example", "https://second.example"] {
        let token = broker.setup.token(&json!({ "iss": issuer }));
        let mut client = broker.dial(V5, "device-3").token(&token).connect();
        publishes(&mut client, &[("own/device-3/data", ALLOWED)]);
        client.disconnect();
    }
    for principal in [
        "cert:plant/device-1",
        "cert:office/device-1",
        "jwt:example/device-3",
        "jwt:second/device-3",
    ] {
        broker.record("connect", &[("principal", principal)]);
        let name = principal.rsplit('/').next().unwrap();
        let topic = format!("own/{name}/data");
        let question = [
            "policy",
            "explain",
            "--config",
            "portcullis.toml",
            "--principal",
            principal,
            "publish",
            &topic,
        ];
        broker.setup.portcullis(&question).succeeded();
    }
    // Which CA that is explain reads from the principal, as it stands in no certificate.
    for (principal, topic, allowed) in [
        ("cert:plant/device-1", "by/plant/device-1", true),
        ("cert:office/device-1", "by/office/device-1", true),
        ("cert:office/device-1", "by/plant/device-1", false),
        ("jwt:second/device-3", "by/second/device-3", false),
    ] {
        let config = broker.setup.config();
        let question = ["policy", "explain", "--config", config.to_str().unwrap()];
        let question = [&question[..], &["--principal", principal, "publish", topic]].concat();
        let said = broker.setup.portcullis(&question);
        assert_eq!(
            said.code(),
            Some(i32::from(!allowed)),
            "{principal} {topic}: {said:?}"
        );
    }
    let said = broker
        .setup
        .portcullis(&["check", "--config", "portcullis.toml"]);
    assert!(
        said.all().contains("share what the line allows"),
        "{said:?}"
    );
    let metrics = broker.http("/metrics");
    let days = metrics.lines().filter(|line| {
        line.starts_with("portcullis_expiry_days{listener=\"main\",what=\"client-ca\",name=\"CN=")
    });
    assert_eq!(days.count(), 2, "{metrics}");
    let once = metrics.matches("TYPE portcullis_expiry_days gauge").count();
    assert_eq!(once, 1, "{metrics}");

    // Under another name it is another CA.
    broker.setup.listeners = broker.setup.listeners.replace("plant", "works");
    broker.setup.write();
    broker.reload().unwrap();
    assert_eq!(plant.ended(), Some(0x87));
}

#[test]
fn a_refused_certificate_is_told_why_by_its_alert_and_the_operator_in_words() {
    let broker = Broker::start(|setup| {
        setup
            .portcullis(&["pki", "revoke", "pki", "device-2"])
            .succeeded();
        let crl = "client-auth = \"optional\"\ncrl = [\"pki/ca.crl\"]";
        setup.listeners = setup.listeners.replace("client-auth = \"optional\"", crl);
    });
    let why = broker.dial(V5, "x").certificate("device-2").broken();
    assert!(why.contains("CertificateRevoked"), "{why}");
    let record = broker.record("refuse", &[("rule", "tls")]);
    let reason = record["reason"].as_str().unwrap();
    assert!(reason.contains("revoked by its CA's CRL"), "{record}");
    broker.device(V5, "device-1").disconnect();
}
