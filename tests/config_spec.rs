//! `portcullis.toml` against the operator's contract (DESIGN, section 5): what loads, with which
//! defaults, and what the operator is told of everything else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis::config::{
    Bind, ByteRate, CertificateName, ClientAuth, ClientIdRule, Config, DeniedPublish, Durability,
    DurabilityMode, JwtKeys, Limits, LogFormat, LogLevel, Method, Mqtt, OnFull, OnRevoke,
    PartialCover, Rate, Require, Security,
};
use proptest::prelude::*;

/// The example of the contract, without what belongs to later issues.
const DOCUMENTED: &str = r#"
data-dir = "data"

[[listener]]
name = "internet"
bind = "0.0.0.0:8883"
transport = "tcp"
proxy-protocol = false
auth = ["certificate", "jwt", "password"]
[listener.tls]
certificate = "server.pem"
key = "server.key"
client-ca = "ca.pem"
client-auth = "required"
crl = ["ca.crl"]

[[listener]]
name = "local"
bind = "127.0.0.1:1883"
plaintext = true

[auth]
anonymous = false
password-file = "users.passwd"
require = []
client-id = "any"
[auth.certificate]
principal = "cn"
[[auth.jwt]]
name = "id"
issuer = "https://id.example"
audience = ["portcullis"]
algorithms = ["ES256"]
jwks-file = "jwks.json"
principal = "sub"
roles = "roles"
allowed-roles = ["nurse"]
leeway = "10 s"

[acl]
model = "policies/model.conf"
policy = ["policies/policy.csv"]
subscribe = "reject"
denied-publish = "acknowledge"
on-revoke = "suspend"
check-response-topic = true

[mqtt]
max-packet-size = "1 MiB"
connect-packet-size = "64 KiB"
receive-maximum = 64
max-qos = 2
keep-alive-max = "20 min"
session-expiry-max = "7 d"
topic-alias-max = 32
topic-levels = 64
topic-length = 4096
sys-interval = "10 s"

[limits]
connections = 100000
connections-per-ip = 1000
connect-rate-per-ip = "10/s"
handshakes = 256
connect-deadline = "10 s"
auth-failures-per-ip = "30/min"
publish-rate = "200/s"
publish-bandwidth = "1 MiB/s"
fan-out-rate = "50000/s"
fan-out-bandwidth = "128 MiB/s"
sessions-per-principal = 1000
subscriptions-per-session = 1000
filters-per-subscribe = 100
queue-messages = 10000
queue-bytes = "16 MiB"
queue-messages-per-principal = 100000
queue-bytes-per-principal = "160 MiB"
retained-messages = 1000000
retained-bytes = "1 GiB"
retained-messages-per-principal = 100000
retained-bytes-per-principal = "128 MiB"
idle = "10 min"

[durability]
mode = "fsync"
interval = "100 ms"
max-bytes = "8 GiB"
segment-size = "64 MiB"

[audit]
path = "audit"
on-full = "refuse-new"

[admin]
bind = "127.0.0.1:9443"
"#;

/// The least that loads.
const LEAST: &str = r#"[[listener]]
name = "local"
bind = "127.0.0.1:1883"
plaintext = true
[acl]
policy = ["policy.csv"]
"#;

const FILE: &str = "/etc/portcullis/portcullis.toml";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new(FILE)).map_err(|problems| problems.to_string())
}

#[test]
fn the_documented_example_loads_as_documented() {
    let config = parse(DOCUMENTED).unwrap();
    assert_eq!(config.file, Path::new(FILE));
    assert_eq!(config.data_dir, Path::new("/etc/portcullis/data"));
    assert_eq!(config.warnings, []);

    let [internet, local] = config.listeners.as_slice() else {
        panic!("two listeners");
    };
    assert_eq!(internet.name, "internet");
    assert_eq!(internet.bind, Bind::Tcp("0.0.0.0:8883".parse().unwrap()));
    let methods = [Method::Certificate, Method::Jwt, Method::Password];
    assert_eq!(internet.methods, methods.into());
    let tls = internet.tls().unwrap();
    assert_eq!(
        tls.certificate.path,
        Path::new("/etc/portcullis/server.pem")
    );
    assert_eq!(tls.key.path, Path::new("/etc/portcullis/server.key"));
    let ClientAuth::Required(client) = &tls.client_auth else {
        panic!("required where client-ca is set");
    };
    let [(None, ca)] = client.ca.as_slice() else {
        panic!("one CA without a name");
    };
    assert_eq!(ca.path, Path::new("/etc/portcullis/ca.pem"));
    assert_eq!(client.crl.len(), 1);
    assert_eq!(client.crl_grace, Duration::from_hours(24));
    assert_eq!(local.bind, Bind::Tcp("127.0.0.1:1883".parse().unwrap()));
    assert_eq!(local.security, Security::Plaintext);
    // All that are configured; a plaintext listener has no certificates.
    assert_eq!(local.methods, [Method::Jwt, Method::Password].into());

    let [issuer] = config.auth.jwt.as_slice() else {
        panic!("one issuer");
    };
    assert_eq!(issuer.name, "id");
    assert_eq!(issuer.issuer, "https://id.example");
    assert_eq!(issuer.audience, ["portcullis"]);
    assert_eq!(issuer.algorithms, ["ES256"]);
    assert!(matches!(&issuer.keys, JwtKeys::JwksFile(file) if file.path.ends_with("jwks.json")));
    assert_eq!(issuer.allowed_roles, Some(vec!["nurse".to_owned()]));
    let password_file = config.auth.password_file.unwrap().path;
    assert_eq!(password_file, Path::new("/etc/portcullis/users.passwd"));
    let model = config.acl.model.unwrap().path;
    assert_eq!(model, Path::new("/etc/portcullis/policies/model.conf"));
    assert_eq!(config.mqtt, Mqtt::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(
        config.admin.unwrap().bind,
        "127.0.0.1:9443".parse().unwrap()
    );
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/portcullis/data"));
    assert!(!config.auth.anonymous);
    assert_eq!(config.auth.require, Require::One);
    assert_eq!(config.auth.client_id, ClientIdRule::Any);
    assert_eq!(config.auth.certificate_name, CertificateName::CommonName);
    assert_eq!(config.auth.password_file, None);
    assert_eq!(config.auth.jwt, []);
    assert_eq!(config.acl.model, None);
    assert_eq!(config.acl.policy.len(), 1);
    assert_eq!(config.acl.subscribe, PartialCover::Reject);
    assert_eq!(config.acl.denied_publish, DeniedPublish::Acknowledge);
    assert_eq!(config.acl.on_revoke, OnRevoke::Suspend);
    assert!(config.acl.check_response_topic);
    assert_eq!(
        config.mqtt,
        Mqtt {
            max_packet_size: 1_048_576,
            connect_packet_size: 65_536,
            receive_maximum: 64,
            max_qos: 2,
            keep_alive_max: Duration::from_mins(20),
            session_expiry_max: Duration::from_hours(168),
            topic_alias_max: 32,
            topic_levels: 64,
            topic_length: 4096,
            sys_interval: Duration::from_secs(10),
        }
    );
    assert_eq!(
        config.limits,
        Limits {
            connections: 100_000,
            connections_per_ip: 1000,
            connect_rate_per_ip: Rate::per_second(10),
            handshakes: 256,
            connect_deadline: Duration::from_secs(10),
            auth_failures_per_ip: Rate::per_minute(30),
            publish_rate: Rate::per_second(200),
            publish_bandwidth: ByteRate(1_048_576),
            fan_out_rate: Rate::per_second(50_000),
            fan_out_bandwidth: ByteRate(134_217_728),
            sessions_per_principal: 1000,
            subscriptions_per_session: 1000,
            filters_per_subscribe: 100,
            queue_messages: 10_000,
            queue_bytes: 16_777_216,
            queue_messages_per_principal: 100_000,
            queue_bytes_per_principal: 167_772_160,
            retained_messages: 1_000_000,
            retained_bytes: 1_073_741_824,
            retained_messages_per_principal: 100_000,
            retained_bytes_per_principal: 134_217_728,
            memory: None,
            idle: Duration::from_mins(10),
        }
    );
    let durability = Durability {
        mode: DurabilityMode::Fsync,
        interval: Duration::from_millis(100),
        max_bytes: 8 << 30,
        segment_size: 64 << 20,
        key_file: None,
    };
    assert_eq!(config.durability, durability);
    assert_eq!(config.audit.path, Path::new("/etc/portcullis/audit"));
    assert_eq!(config.audit.on_full, OnFull::RefuseNew);
    assert_eq!(config.admin, None);
    assert_eq!(config.log.format, LogFormat::Human);
    assert_eq!(config.log.level, LogLevel::Info);
}

/// Whoever lets a client publish more has not forgotten that somebody receives it.
#[test]
fn what_publishes_may_cause_grows_with_what_may_be_published() {
    let limits = |text: &str| parse(&format!("{LEAST}[limits]\n{text}")).unwrap().limits;
    let more = limits("publish-rate = '1000000/s'\npublish-bandwidth = '1 GiB/s'");
    assert_eq!(more.fan_out_rate, Rate::per_second(250_000_000));
    assert_eq!(more.fan_out_bandwidth, ByteRate(128 << 30));
    let by_minute = limits("publish-rate = '60000/min'");
    assert_eq!(by_minute.fan_out_rate, Rate::per_minute(15_000_000));
    // One alarm to everybody is as large as before.
    let less = limits("publish-rate = '1/min'\npublish-bandwidth = '1 KiB/s'");
    assert_eq!(less.fan_out_rate, Limits::default().fan_out_rate);
    assert_eq!(less.fan_out_bandwidth, Limits::default().fan_out_bandwidth);
    let said = limits("publish-rate = '1000000/s'\nfan-out-rate = '5/s'");
    assert_eq!(said.fan_out_rate, Rate::per_second(5));
}

/// Whoever lets a session have more has not forgotten that a principal has several.
#[test]
fn what_waits_for_a_principal_grows_with_what_may_wait_for_a_session() {
    let limits = |text: &str| {
        let limits = parse(&format!("{LEAST}[limits]\n{text}")).unwrap().limits;
        let bytes = limits.queue_bytes_per_principal;
        (limits.queue_messages_per_principal, bytes)
    };
    let more = limits("queue-messages = 1000000\nqueue-bytes = '1 GiB'");
    assert_eq!(more, (10_000_000, 10 << 30));
    let most = limits("queue-messages = 4294967295\nqueue-bytes = '262144 GiB'");
    assert_eq!(most, (u32::MAX, 262_144 << 30));
    // Many sessions with little each have as much together as before.
    let less = limits("queue-messages = 10\nqueue-bytes = '1 MiB'");
    assert_eq!(less, (100_000, 160 << 20));
    let said = limits("queue-messages-per-principal = 20000\nqueue-bytes-per-principal = '20 MiB'");
    assert_eq!(said, (20_000, 20 << 20));
}

#[test]
fn an_issuer_has_the_documented_defaults() {
    let text = format!(
        "{LEAST}[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA', 'RS256']\n\
         key-file = 'k.pem'\n"
    );
    let issuer = parse(&text).unwrap().auth.jwt.remove(0);
    assert_eq!(issuer.principal_claim, "sub");
    assert_eq!(issuer.roles_claim, "roles");
    assert_eq!(issuer.allowed_roles, None);
    assert_eq!(issuer.leeway, Duration::from_secs(10));
    assert_eq!(issuer.algorithms, ["EdDSA", "RS256"]);
}

#[test]
fn anonymous_clients_are_admitted_on_loopback_and_elsewhere_only_by_name() {
    let text = |bind: &str, auth: &str| {
        format!(
            "[[listener]]\nname = 'a'\nbind = '{bind}'\nplaintext = true\n\
             allow-remote-plaintext = true\n{auth}\n[auth]\nanonymous = true\n\
             password-file = 'u'\n[acl]\npolicy = ['p']\n"
        )
    };
    let both = [Method::Password, Method::Anonymous];
    for (bind, auth, methods) in [
        ("127.0.0.1:1", "", both.as_slice()),
        ("[::1]:1", "", &both),
        ("[::ffff:127.0.0.1]:1", "", &both),
        ("unix:s", "", &both),
        ("0.0.0.0:1", "", &[Method::Password]),
        ("192.0.2.1:1", "", &[Method::Password]),
        ("0.0.0.0:1", "auth = ['anonymous']", &[Method::Anonymous]),
        ("127.0.0.1:1", "auth = ['password']", &[Method::Password]),
    ] {
        let config = parse(&text(bind, auth)).unwrap();
        let listener = config.listeners.first().unwrap();
        let expected = methods.iter().copied().collect();
        assert_eq!(listener.methods, expected, "{bind} {auth}");
    }
}

#[test]
fn none_is_said_by_zero_where_the_contract_has_it() {
    for zero in ["'0 s'", "'0d'", "0"] {
        let text = format!(
            "{LEAST}[mqtt]\nmax-qos = 0\ntopic-alias-max = 0\nsession-expiry-max = {zero}\n"
        );
        let mqtt = parse(&text).unwrap().mqtt;
        assert_eq!((mqtt.max_qos, mqtt.topic_alias_max), (0, 0));
        assert_eq!(mqtt.session_expiry_max, Duration::ZERO);
    }
}

#[test]
fn a_client_ca_makes_certificates_required_unless_the_file_says_otherwise() {
    let text = |tail: &str| {
        format!(
            "[[listener]]\nname = 'a'\nbind = '0.0.0.0:1'\n[listener.tls]\ncertificate = 'c'\n\
             key = 'k'\n{tail}\n[acl]\npolicy = ['p']\n"
        )
    };
    let client_auth = |tail: &str| {
        let config = parse(&text(tail)).unwrap();
        let auth = &config.listeners.first().unwrap().tls().unwrap().client_auth;
        match auth {
            ClientAuth::None => "none",
            ClientAuth::Optional(_) => "optional",
            ClientAuth::Required(_) => "required",
        }
    };
    assert_eq!(client_auth(""), "none");
    assert_eq!(client_auth("client-auth = 'none'"), "none");
    assert_eq!(client_auth("client-ca = 'a'"), "required");
    assert_eq!(
        client_auth("client-ca = 'a'\nclient-auth = 'required'"),
        "required"
    );
    assert_eq!(
        client_auth("client-ca = 'a'\nclient-auth = 'optional'"),
        "optional"
    );
    assert_eq!(client_auth("client-ca = 'a'\nclient-auth = 'none'"), "none");
}

#[test]
fn a_lower_packet_limit_lowers_the_one_before_authentication() {
    let text = format!("{LEAST}[mqtt]\nmax-packet-size = '4 KiB'\n");
    assert_eq!(parse(&text).unwrap().mqtt.connect_packet_size, 4096);
}

#[test]
fn paths_are_relative_to_the_file() {
    let at = |file: &str| {
        let text = format!("data-dir = '/var/lib/p'\n{LEAST}");
        let config = Config::parse(&text, Path::new(file)).unwrap();
        assert_eq!(config.data_dir, Path::new("/var/lib/p"));
        (
            config.acl.policy.first().unwrap().path.clone(),
            config.audit.path,
        )
    };
    let paths = |policy: &str, audit: &str| (PathBuf::from(policy), PathBuf::from(audit));
    assert_eq!(at("portcullis.toml"), paths("policy.csv", "audit"));
    assert_eq!(
        at("demo/portcullis.toml"),
        paths("demo/policy.csv", "demo/audit")
    );
    assert_eq!(at("/etc/p.toml"), paths("/etc/policy.csv", "/etc/audit"));
}

#[test]
fn a_unix_socket_is_a_plaintext_listener_of_this_machine() {
    let text = LEAST.replace("127.0.0.1:1883", "unix:run/mqtt.sock");
    let bind = parse(&text).unwrap().listeners.remove(0).bind;
    assert_eq!(bind, Bind::Unix("/etc/portcullis/run/mqtt.sock".into()));
}

#[test]
fn what_weakens_or_surprises_is_a_warning() {
    let warnings = |text: &str| {
        let config = parse(text).unwrap();
        config
            .warnings
            .iter()
            .fold(String::new(), |mut all, warning| {
                let _ = writeln!(all, "{warning}");
                all
            })
    };
    let least = warnings(LEAST);
    assert!(
        least.contains(":1:1: listener \"local\" admits nobody"),
        "{least}"
    );
    let small = warnings(&format!("{LEAST}[limits]\nqueue-bytes = '1 KiB'\n"));
    assert!(
        small.contains(":8:15: queue-bytes in [limits] is less than max-packet-size"),
        "{small}"
    );
    let together = warnings(&format!(
        "{LEAST}[limits]\nqueue-messages-per-principal = 9999\nqueue-bytes-per-principal = '1 KiB'\n"
    ));
    for expected in [
        ":8:32: queue-messages-per-principal in [limits] is less than queue-messages",
        ":9:29: queue-bytes-per-principal in [limits] is less than queue-bytes",
        ":9:29: queue-bytes-per-principal in [limits] is less than max-packet-size",
    ] {
        assert!(together.contains(expected), "{together}");
    }
    let queued = warnings(&format!("{LEAST}[limits]\nmemory = '319 MiB'\n"));
    let expected = ":8:10: queue-bytes-per-principal in [limits] is more than half of memory";
    assert!(queued.contains(expected), "{queued}");
    let enough = warnings(&format!("{LEAST}[limits]\nmemory = '320 MiB'\n"));
    assert!(!enough.contains("queue-bytes"), "{enough}");
    let retained = warnings(&format!("{LEAST}[limits]\nmemory = '1 GiB'\n"));
    assert!(
        retained.contains(":8:10: retained-bytes in [limits] is more than half of memory"),
        "{retained}"
    );
    let both = warnings(&format!(
        "{LEAST}[auth]\nrequire = ['certificate', 'jwt']\n[[auth.jwt]]\nissuer = 'i'\n\
         audience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\n"
    ));
    assert!(both.contains("wants a certificate and a token"), "{both}");
}

#[test]
fn files_that_are_missing_are_named_where_they_stand() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("portcullis.toml");
    let text = format!("{LEAST}[auth]\npassword-file = 'sub'\n");
    std::fs::write(&file, text).unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let config = Config::load(&file).unwrap();
    let problems = config.check_files().unwrap_err().to_string();
    let [policy, password] = problems.lines().collect::<Vec<_>>()[..] else {
        panic!("two problems: {problems}");
    };
    assert!(policy.contains("portcullis.toml:6:11: "), "{policy}");
    assert!(
        policy.contains("policy.csv cannot be read: No such file"),
        "{policy}"
    );
    assert!(password.contains(":8:17: "), "{password}");
    assert!(password.contains("sub is not a file"), "{password}");
    std::fs::write(directory.path().join("policy.csv"), "").unwrap();
    std::fs::remove_dir(directory.path().join("sub")).unwrap();
    std::fs::write(directory.path().join("sub"), "").unwrap();
    config.check_files().unwrap();
}

proptest! {
    /// An edited byte loads or is a problem with words, and never a panic.
    #[test]
    fn a_random_edit_never_panics(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = DOCUMENTED.as_bytes().to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut end = cut.index(text.len() + 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        for text in [&text[..], &text[..end]] {
            if let Err(problems) = parse(text) {
                prop_assert!(problems.starts_with(FILE), "{}", problems);
            }
        }
    }

    /// A value of any kind under any key loads or is a problem, and never a panic.
    #[test]
    fn any_value_under_any_key_never_panics(
        line in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just("-9223372036854775808".to_owned()),
            Just("0xffffffffffffffff".to_owned()),
            Just("nan".to_owned()),
            Just("1979-05-27".to_owned()),
            Just("[[[]]]".to_owned()),
            Just("{a = {b = 1}}".to_owned()),
            Just("true".to_owned()),
            "[0-9]{1,20} ?(B|KiB|GiB|ms|s|d|/s|/min|B/s)?".prop_map(|text| format!("'{text}'")),
            "\\PC{0,12}".prop_map(|text| format!("{text:?}")),
        ],
    ) {
        let keyed: Vec<_> = DOCUMENTED.lines().filter(|line| line.contains(" = ")).collect();
        let chosen = keyed[line.index(keyed.len())];
        let key = chosen.split(" = ").next().unwrap();
        let text = DOCUMENTED.replacen(chosen, &format!("{key} = {value}"), 1);
        if let Err(problems) = parse(&text) {
            prop_assert!(problems.starts_with(FILE), "{}", problems);
        }
    }
}

#[test]
fn a_websocket_listener_behind_proxies_loads() {
    use portcullis::config::Transport;
    use portcullis_core::gate::WebSocketRules;
    let load = |more: &str| {
        let text = LEAST.replace("plaintext = true", &format!("plaintext = true\n{more}"));
        parse(&text).unwrap().listeners.remove(0)
    };
    let websocket = |path: &str, origins: &[&str]| {
        Transport::WebSocket(WebSocketRules {
            path: path.into(),
            origins: origins.iter().map(|origin| (*origin).into()).collect(),
        })
    };
    let plain = load("transport = 'tcp'\nproxy-protocol = false");
    assert_eq!(plain.transport, Transport::Tcp);
    assert_eq!(plain.trusted_proxies, None);
    let least = load("transport = 'websocket'");
    assert_eq!(least.transport, websocket("/mqtt", &[]));
    let full = load(
        "transport = 'websocket'\npath = '/'\n\
         origins = ['https://App.example', 'http://localhost:8080', 'app://own']\n\
         proxy-protocol = true\ntrusted-proxies = ['10.0.0.0/8', '::1']",
    );
    let origins = ["https://app.example", "http://localhost:8080", "app://own"];
    assert_eq!(full.transport, websocket("/", &origins));
    let ranges = ["10.0.0.0/8", "::1/128"].map(|range| range.parse().unwrap());
    assert_eq!(full.trusted_proxies, Some(ranges.into()));
}
