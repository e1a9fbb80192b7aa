//! `portcullis.toml` against the operator's contract (DESIGN, section 5): what loads, with which
//! defaults, and what the operator is told of everything else.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis::config::{
    Algorithm, Bind, ByteRate, CertificateName, ClientAuth, ClientIdRule, Config, DeniedPublish,
    Durability, JwtKeys, Limits, LogFormat, LogLevel, Method, Mqtt, OnFull, OnRevoke, PartialCover,
    Rate, Require, Security,
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

[limits]
connections = 100000
connections-per-ip = 1000
connect-rate-per-ip = "10/s"
handshakes = 256
connect-deadline = "10 s"
auth-failures-per-ip = "30/min"
publish-rate = "200/s"
publish-bandwidth = "1 MiB/s"
sessions-per-principal = 1000
subscriptions-per-session = 1000
filters-per-subscribe = 100
queue-messages = 10000
queue-bytes = "16 MiB"
retained-messages = 1000000
retained-bytes = "1 GiB"

[durability]
mode = "memory"

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
    assert_eq!(client.ca.path, Path::new("/etc/portcullis/ca.pem"));
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
    assert_eq!(issuer.algorithms, [Algorithm::Es256]);
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
            keep_alive_max: Duration::from_secs(1200),
            session_expiry_max: Duration::from_secs(604_800),
            topic_alias_max: 32,
            topic_levels: 64,
            topic_length: 4096,
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
            sessions_per_principal: 1000,
            subscriptions_per_session: 1000,
            filters_per_subscribe: 100,
            queue_messages: 10_000,
            queue_bytes: 16_777_216,
            retained_messages: 1_000_000,
            retained_bytes: 1_073_741_824,
        }
    );
    assert_eq!(config.durability, Durability::Memory);
    assert_eq!(config.audit.path, Path::new("/etc/portcullis/audit"));
    assert_eq!(config.audit.on_full, OnFull::RefuseNew);
    assert_eq!(config.admin, None);
    assert_eq!(config.log.format, LogFormat::Human);
    assert_eq!(config.log.level, LogLevel::Info);
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
    assert_eq!(issuer.algorithms, [Algorithm::EdDsa, Algorithm::Rs256]);
}

/// Texts in place of `LEAST`'s top (before its first section), of its listener's tail and of the
/// end of the file; the place and the words of the one error.
#[test]
fn every_bad_value_is_refused_with_its_place_and_a_remedy() {
    for (added, place, says) in [
        // Unknown keys, in every kind of section.
        (
            "[mqtt]\nmax-paket-size = '1 MiB'",
            "8:1",
            "unknown key \"max-paket-size\" in [mqtt]; did you mean max-packet-size?",
        ),
        (
            "[mqtt]\nmax_packet_size = '1 MiB'",
            "8:1",
            "did you mean max-packet-size?",
        ),
        (
            "[limit]\nconnections = 1",
            "7:2",
            "unknown key \"limit\" in the top level; did you mean limits?",
        ),
        (
            "[limits]\ncolour = 1",
            "8:1",
            "unknown key \"colour\" in [limits]; the keys here are connections, ",
        ),
        ("[auth]\nanonymus = true", "8:1", "did you mean anonymous?"),
        (
            "[auth.certificate]\nprinciple = 'cn'",
            "8:1",
            "unknown key \"principle\" in [auth.certificate]; did you mean principal?",
        ),
        (
            "[admin]\nbind = '127.0.0.1:1'\nbnd = 1",
            "9:1",
            "did you mean bind?",
        ),
        ("[audit]\nonfull = 'stop'", "8:1", "did you mean on-full?"),
        (
            "[durability]\nmode = 'memory'\nmod = 1",
            "9:1",
            "did you mean mode?",
        ),
        ("[log]\nlevle = 'info'", "8:1", "did you mean level?"),
        ("[reload]\nwach = true", "8:1", "did you mean watch?"),
        // Kinds of values.
        (
            "[mqtt]\nmax-packet-size = 1048576",
            "8:19",
            "max-packet-size in [mqtt] is an integer; write a size with its unit",
        ),
        (
            "[mqtt]\nmax-packet-size = '1 MB'",
            "8:19",
            "max-packet-size in [mqtt] is \"1 MB\"; write a size with its unit",
        ),
        (
            "[mqtt]\nmax-packet-size = '1  MiB'",
            "8:19",
            "write a size with its unit",
        ),
        (
            "[mqtt]\nmax-packet-size = '257 MiB'",
            "8:19",
            "out of range; write a size from 1 B to 268435460 B",
        ),
        (
            "[mqtt]\nreceive-maximum = '64'",
            "8:19",
            "is a string; write a whole number, without quotes, from 1 to 65535",
        ),
        (
            "[mqtt]\nreceive-maximum = 65536",
            "8:19",
            "receive-maximum in [mqtt] is 65536, out of range; write a whole number from 1 to 65535",
        ),
        (
            "[mqtt]\nmax-qos = 3",
            "8:11",
            "write a whole number from 0 to 2",
        ),
        ("[mqtt]\nmax-qos = -1", "8:11", "is -1, out of range"),
        ("[mqtt]\nmax-qos = 1.5", "8:11", "is a float"),
        (
            "[mqtt]\nkeep-alive-max = '20'",
            "8:18",
            "write a duration with its unit",
        ),
        ("[mqtt]\nkeep-alive-max = '19 h'", "8:18", "to 65535 s"),
        (
            "[mqtt]\nkeep-alive-max = '1500 ms'",
            "8:18",
            "write whole seconds",
        ),
        (
            "[mqtt]\nsession-expiry-max = '49711 d'",
            "8:22",
            "write a duration with its unit",
        ),
        (
            "[mqtt]\nsession-expiry-max = 60",
            "8:22",
            "is an integer; write a duration with its unit",
        ),
        (
            "[mqtt]\nmax-packet-size = '1 KiB'\nconnect-packet-size = '2 KiB'",
            "9:23",
            "more than max-packet-size, 1024 B",
        ),
        (
            "[limits]\npublish-rate = '200/h'",
            "8:16",
            "write a rate, such as \"10/s\" or \"30/min\"",
        ),
        (
            "[limits]\npublish-bandwidth = '1 MiB'",
            "8:21",
            "write a size per second",
        ),
        ("[acl2]\nx = 1", "7:2", "did you mean acl?"),
        (
            "[auth]\nclient-id = 'names'",
            "8:13",
            "client-id in [auth] is \"names\"; write \"any\" or \"name\"",
        ),
        (
            "[auth]\nanonymous = 'true'",
            "8:13",
            "anonymous in [auth] is a string; write true or false, without quotes",
        ),
        (
            "[auth]\npassword-file = ''",
            "8:17",
            "password-file in [auth] is empty",
        ),
        (
            "[auth]\npassword-file = [\"a\"]",
            "8:17",
            "is an array; write a string",
        ),
        (
            "[auth.certificate]\nprincipal = 'dn'",
            "8:13",
            "\"cn\" or \"san-dns\" or \"san-uri\" or \"san-email\" or \"subject\" or \"fingerprint\"",
        ),
        // Zero is an error except where it means none.
        ("[mqtt]\nmax-packet-size = '0 B'", "8:19", "out of range"),
        ("[mqtt]\nreceive-maximum = 0", "8:19", "out of range"),
        ("[mqtt]\nkeep-alive-max = '0 s'", "8:18", "out of range"),
        ("[mqtt]\nkeep-alive-max = 0", "8:18", "is an integer"),
        ("[mqtt]\ntopic-levels = 0", "8:16", "out of range"),
        ("[mqtt]\ntopic-length = 0", "8:16", "out of range"),
        ("[limits]\nconnections = 0", "8:15", "out of range"),
        ("[limits]\nqueue-bytes = '0 B'", "8:15", "out of range"),
        ("[limits]\nconnect-deadline = '0 s'", "8:20", "out of range"),
        ("[limits]\npublish-rate = '0/s'", "8:16", "out of range"),
        (
            "[limits]\npublish-bandwidth = '0 B/s'",
            "8:21",
            "out of range",
        ),
        // Not in this version.
        (
            "[durability]\nmode = 'fsync'",
            "8:8",
            "mode = \"fsync\" in [durability] is not supported yet; write mode = \"memory\"",
        ),
        (
            "[durability]\nmode = 'interval'",
            "8:8",
            "not supported yet",
        ),
        (
            "[durability]\nmode = 'disk'",
            "8:8",
            "write \"fsync\" or \"interval\" or \"memory\"",
        ),
        (
            "[reload]\nwatch = true",
            "8:9",
            "watch = true in [reload] is not supported yet",
        ),
        ("[admin]\nbind = '0.0.0.0:9443'", "8:8", "not supported yet"),
        (
            "[admin]\nbind = 'localhost:9443'",
            "8:8",
            "write an IP address and a port",
        ),
        ("[admin]", "7:1", "[admin] has no bind"),
        // Identity.
        (
            "[auth]\nrequire = ['certificate']",
            "8:11",
            "write [\"certificate\", \"jwt\"] for both together",
        ),
        (
            "[auth]\nrequire = ['jwt', 'certificate']",
            "8:11",
            "no issuer is configured",
        ),
        ("[auth]\nrequire = 'jwt'", "8:11", "write a list"),
        (
            "[auth.jwt]\nissuer = 'i'",
            "7:1",
            "jwt in [auth] is a table; write its header as [[auth.jwt]]",
        ),
        (
            "[[auth.jwt]]\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'",
            "7:1",
            "[[auth.jwt]] has no issuer; add issuer = \"https://id.example\"",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\nalgorithms = ['EdDSA']\nkey-file = 'k'",
            "7:1",
            "[[auth.jwt]] has no audience",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = []\nalgorithms = ['EdDSA']\nkey-file = 'k'",
            "9:12",
            "audience in [[auth.jwt]] is empty",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nkey-file = 'k'",
            "7:1",
            "has no algorithms",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['HS256']\nkey-file = 'k'",
            "10:15",
            "algorithm \"HS256\" in [[auth.jwt]] is not supported yet",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['none']\nkey-file = 'k'",
            "10:15",
            "algorithm \"none\" in [[auth.jwt]] is unknown",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']",
            "7:1",
            "[[auth.jwt]] has no keys; write exactly one of jwks-file and key-file",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\njwks-file = 'j'",
            "11:12",
            "has jwks-file and key-file",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\njwks-url = 'https://x'",
            "11:12",
            "jwks-url in [[auth.jwt]] is not supported yet",
        ),
        (
            "[[auth.jwt]]\nname = 'a/b'\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'",
            "8:8",
            "name in [[auth.jwt]] is \"a/b\"",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\nallowed-roles = ['role:x']",
            "12:18",
            "write the plain role name",
        ),
        (
            "[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\nleeway = '0 s'",
            "12:10",
            "out of range",
        ),
    ] {
        refused(&format!("{LEAST}{added}\n"), place, says);
    }
}

#[test]
fn every_bad_listener_is_refused_with_its_place_and_a_remedy() {
    const TLS: &str = "[listener.tls]\ncertificate = 'c'\nkey = 'k'\n";
    for (listener, place, says) in [
        (
            "bind = '127.0.0.1:1'\nplaintext = true",
            "1:1",
            "[[listener]] has no name; add name = \"internet\"",
        ),
        (
            "name = 'a'\nplaintext = true",
            "1:1",
            "[[listener]] has no bind",
        ),
        (
            "name = 'a/b'\nbind = '127.0.0.1:1'\nplaintext = true",
            "2:8",
            "name in [[listener]] is \"a/b\"",
        ),
        (
            "name = '$a'\nbind = '127.0.0.1:1'\nplaintext = true",
            "2:8",
            "not beginning with $",
        ),
        (
            "name = 'a'\nbind = 'localhost:1883'\nplaintext = true",
            "3:8",
            "write an IP address and a port",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1'\nplaintext = true",
            "3:8",
            "write an IP address and a port",
        ),
        (
            "name = 'a'\nbind = 'unix:'\nplaintext = true",
            "3:8",
            "write a path",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'",
            "1:1",
            "listener \"a\" has no [listener.tls]; add [listener.tls] with certificate and key, or say plaintext = true",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = false",
            "1:1",
            "or say plaintext = true",
        ),
        (
            "name = 'a'\nbind = '0.0.0.0:1'\nplaintext = true",
            "3:8",
            "plaintext off loopback; add [listener.tls]",
        ),
        (
            "name = 'a'\nbind = '[::]:1'\nplaintext = true",
            "3:8",
            "plaintext off loopback",
        ),
        (
            "name = 'a'\nbind = '192.0.2.1:1'\nplaintext = true\nallow-remote-plaintext = false",
            "3:8",
            "plaintext off loopback",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nallow-remote-plaintext = true\n[listener.tls]\ncertificate = 'c'\nkey = 'k'",
            "4:26",
            "allow-remote-plaintext = true without plaintext = true",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[listener.tls]\ncertificate = 'c'\nkey = 'k'",
            "4:13",
            "plaintext = true and [listener.tls]; keep one of them",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'",
            "5:13",
            "transport = \"websocket\" in [[listener]] is not supported yet",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'quic'",
            "5:13",
            "write \"tcp\" or \"websocket\"",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nproxy-protocol = true",
            "5:18",
            "not supported yet",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntrusted-proxies = ['10.0.0.0/8']",
            "5:19",
            "not supported yet",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['certificate']",
            "5:9",
            "names \"certificate\", which is not configured; add client-ca to its [listener.tls]",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['jwt']",
            "5:9",
            "add a section [[auth.jwt]]",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['password']",
            "5:9",
            "add password-file to [auth]",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['anonymous']",
            "5:9",
            "add anonymous = true to [auth]",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['token']",
            "5:9",
            "auth in [[listener]] has \"token\"",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = []",
            "5:8",
            "auth in [[listener]] names no method",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\nplaintxt = true\nplaintext = true",
            "4:1",
            "unknown key \"plaintxt\" in [[listener]]; did you mean plaintext?",
        ),
        (
            "name = 'a'\nbind = 'unix:s'\n[listener.tls]\ncertificate = 'c'\nkey = 'k'",
            "3:8",
            "TLS on a Unix socket is not supported yet",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\n[listener.tls]\nkey = 'k'",
            "4:1",
            "[listener.tls] has no certificate; add certificate = \"server.pem\"",
        ),
        (
            "name = 'a'\nbind = '127.0.0.1:1'\n[listener.tls]\ncertificate = 'c'",
            "4:1",
            "[listener.tls] has no key",
        ),
    ] {
        refused(
            &format!("[[listener]]\n{listener}\n[acl]\npolicy = ['p']\n"),
            place,
            says,
        );
    }
    for (tls, place, says) in [
        (
            "client-auth = 'required'",
            "7:15",
            "client-auth = \"required\" in [listener.tls] without client-ca",
        ),
        (
            "client-auth = 'optional'",
            "7:15",
            "client-auth = \"optional\" in [listener.tls] without client-ca",
        ),
        (
            "client-auth = 'yes'",
            "7:15",
            "write \"required\" or \"optional\" or \"none\"",
        ),
        (
            "crl = ['r']",
            "7:7",
            "crl in [listener.tls] without client-ca",
        ),
        (
            "client-ca = 'a'\ncrl = []",
            "8:7",
            "crl in [listener.tls] names no file",
        ),
        (
            "client-ca = 'a'\ncrl = ['r', 1]",
            "8:13",
            "has an entry that is no text",
        ),
        ("client-ca = 'a'\ncrl-grace = '0 h'", "8:13", "out of range"),
        (
            "client-ca = 1",
            "7:13",
            "client-ca in [listener.tls] is an integer",
        ),
        (
            "certifcate = 'a'",
            "7:1",
            "unknown key \"certifcate\" in [listener.tls]; did you mean certificate?",
        ),
    ] {
        let listener = format!("[[listener]]\nname = 'a'\nbind = '0.0.0.0:1'\n{TLS}{tls}");
        refused(&format!("{listener}\n[acl]\npolicy = ['p']\n"), place, says);
    }
}

#[test]
fn what_has_to_be_there_is_asked_for() {
    for (text, place, says) in [
        (
            "[acl]\npolicy = ['p']",
            "1:1",
            "the top level has no [[listener]]; add a section [[listener]] with name and bind",
        ),
        (
            "listener = []\n[acl]\npolicy = ['p']",
            "1:12",
            "no [[listener]]",
        ),
        (
            "[listener]\nname = 'a'\n[acl]\npolicy = ['p']",
            "1:1",
            "listener in the top level is a table; write its header as [[listener]]",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '127.0.0.1:1'\nplaintext = true",
            "1:1",
            "[acl] has no policy; add policy = [\"policies/policy.csv\"]",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[acl]",
            "5:1",
            "[acl] has no policy",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[acl]\npolicy = []",
            "6:10",
            "policy in [acl] names no file",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[acl]\npolicy = 'p'",
            "6:10",
            "policy in [acl] is a string; write a list",
        ),
    ] {
        refused(text, place, says);
    }
}

#[test]
fn listeners_are_told_apart() {
    let two = |name: &str, bind: &str| {
        format!("{LEAST}[[listener]]\nname = '{name}'\nbind = '{bind}'\nplaintext = true\n")
    };
    refused(
        &two("local", "127.0.0.1:1884"),
        "8:8",
        "two listeners are named \"local\"",
    );
    refused(
        &two("other", "127.0.0.1:1883"),
        "9:8",
        "has the bind address of another",
    );
    assert!(parse(&two("other", "127.0.0.1:1884")).is_ok());
    // Port 0 is another port each time.
    let free = two("other", "127.0.0.1:0").replace("127.0.0.1:1883", "127.0.0.1:0");
    assert!(parse(&free).is_ok());
}

#[test]
fn issuers_are_told_apart() {
    let issuer = |name: &str, issuer: &str| {
        format!(
            "[[auth.jwt]]\nname = '{name}'\nissuer = '{issuer}'\naudience = ['a']\n\
             algorithms = ['EdDSA']\nkey-file = 'k'\nallowed-roles = []\n"
        )
    };
    let two = |a: &str, b: &str| format!("{LEAST}{a}{b}");
    assert!(parse(&two(&issuer("a", "x"), &issuer("b", "y"))).is_ok());
    let problem = "two issuers are named \"a\"";
    refused(&two(&issuer("a", "x"), &issuer("a", "y")), "15:8", problem);
    let problem = "two issuers have issuer = \"x\"";
    refused(&two(&issuer("a", "x"), &issuer("b", "x")), "16:10", problem);
    let open = issuer("b", "y").replace("allowed-roles = []\n", "");
    let problem = "[[auth.jwt]] has no allowed-roles";
    refused(&two(&issuer("a", "x"), &open), "14:1", problem);
    let unnamed = issuer("b", "y").replace("name = 'b'\n", "");
    refused(
        &two(&issuer("a", "x"), &unnamed),
        "14:1",
        "[[auth.jwt]] has no name",
    );
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
    let long = LEAST.replace("127.0.0.1:1883", &format!("unix:{}", "x".repeat(120)));
    refused(&long, "3:8", "write a shorter path");
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    let text = "[[listener]]\nname = 'a'\nbind = '1.2.3.4:1'\nplaintext = true\ncolor = 1\n\
                [mqtt]\nmax-qos = 9\n[acl]\npolicy = ['p']\nsubscribe = 'x'\n[zzz]\n";
    let problems = parse(text).unwrap_err();
    let places: Vec<_> = problems
        .lines()
        .map(|line| line.strip_prefix(FILE).unwrap().split(' ').next().unwrap())
        .collect();
    assert_eq!(places, [":3:8:", ":5:1:", ":7:11:", ":10:13:", ":11:2:"]);
}

#[test]
fn broken_toml_is_reported_with_its_line() {
    for (text, place) in [
        ("a = ", "1:"),
        ("a = 1\na = 2", "2:1"),
        ("[acl]\npolicy = ['p'", "2:"),
        ("x", "1:"),
    ] {
        let problems = parse(text).unwrap_err();
        assert!(
            problems.starts_with(&format!("{FILE}:{place}")),
            "{text}: {problems}"
        );
        assert!(problems.contains("; correct the TOML syntax"), "{problems}");
    }
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(parse(&format!("a{} = 1", ".a".repeat(100_000))).is_err());
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
    assert!(least.contains("durability is not supported yet"), "{least}");
    let small = warnings(&format!("{LEAST}[limits]\nqueue-bytes = '1 KiB'\n"));
    assert!(
        small.contains(":8:15: queue-bytes in [limits] is less than max-packet-size"),
        "{small}"
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

#[test]
fn a_file_that_is_no_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("portcullis.toml");
    let load = || Config::load(&file).unwrap_err().to_string();
    let missing = load();
    assert!(
        missing.contains("portcullis.toml: cannot be read: No such file"),
        "{missing}"
    );
    std::fs::write(&file, b"# caf\xe9\n").unwrap();
    let latin = load();
    assert!(
        latin.contains("portcullis.toml:1:6: the text is not UTF-8"),
        "{latin}"
    );
    std::fs::write(&file, vec![b'\n'; (4 << 20) + 1]).unwrap();
    let large = load();
    assert!(large.contains("is larger than 4194304 bytes"), "{large}");
}

/// Exactly one problem, at `place`, with these words.
fn refused(text: &str, place: &str, says: &str) {
    let problems = match parse(text) {
        Ok(_) => panic!("loads:\n{text}"),
        Err(problems) => problems,
    };
    assert_eq!(problems.lines().count(), 1, "{text}\n{problems}");
    assert!(
        problems.starts_with(&format!("{FILE}:{place}: ")),
        "{text}\n{problems}"
    );
    assert!(problems.contains(says), "{text}\n{problems}");
    assert!(problems.contains("; "), "no remedy: {problems}");
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
