//! What is wrong in a `portcullis.toml` is refused, with its place and a remedy.

#![expect(
    clippy::expect_used,
    reason = "what loads and should not is a failed test"
)]

use std::path::Path;

use portcullis::config::Config;

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
fn every_bad_value_is_refused_with_its_place_and_a_remedy() {
    for (added, place, says) in BAD_VALUES {
        refused(&format!("{LEAST}{added}\n"), place, says);
    }
}

#[test]
fn every_bad_listener_is_refused_with_its_place_and_a_remedy() {
    const TLS: &str = "[listener.tls]\ncertificate = 'c'\nkey = 'k'\n";
    for (listener, place, says) in BAD_LISTENERS {
        refused(
            &format!("[[listener]]\n{listener}\n[acl]\npolicy = ['p']\n"),
            place,
            says,
        );
    }
    for (tls, place, says) in BAD_TLS {
        let listener = format!("[[listener]]\nname = 'a'\nbind = '0.0.0.0:1'\n{TLS}{tls}");
        refused(&format!("{listener}\n[acl]\npolicy = ['p']\n"), place, says);
    }
}

#[test]
fn what_has_to_be_there_is_asked_for() {
    for (text, place, says) in MISSING {
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

#[test]
fn the_path_of_a_unix_socket_fits_into_its_address() {
    let long = LEAST.replace("127.0.0.1:1883", &format!("unix:{}", "x".repeat(120)));
    refused(&long, "3:8", "write a shorter path");
}

/// Exactly one problem, at `place`, with these words.
fn refused(text: &str, place: &str, says: &str) {
    let problems = parse(text).expect_err(text);
    assert_eq!(problems.lines().count(), 1, "{text}\n{problems}");
    assert!(
        problems.starts_with(&format!("{FILE}:{place}: ")),
        "{text}\n{problems}"
    );
    assert!(problems.contains(says), "{text}\n{problems}");
    assert!(problems.contains("; "), "no remedy: {problems}");
}

/// Added to the end of [`LEAST`], the place and the words of the one error.
#[rustfmt::skip]
const BAD_VALUES: &[(&str, &str, &str)] = &[
    // Unknown keys, in every kind of section.
    ("[mqtt]\nmax-paket-size = '1 MiB'", "8:1", "unknown key \"max-paket-size\" in [mqtt]; did you mean max-packet-size?"),
    ("[mqtt]\nmax_packet_size = '1 MiB'", "8:1", "did you mean max-packet-size?"),
    ("[limit]\nconnections = 1", "7:2", "unknown key \"limit\" in the top level; did you mean limits?"),
    ("[limits]\ncolour = 1", "8:1", "unknown key \"colour\" in [limits]; the keys here are connections, "),
    ("[auth]\nanonymus = true", "8:1", "did you mean anonymous?"),
    ("[auth.certificate]\nprinciple = 'cn'", "8:1", "unknown key \"principle\" in [auth.certificate]; did you mean principal?"),
    ("[admin]\nbind = '127.0.0.1:1'\nbnd = 1", "9:1", "did you mean bind?"),
    ("[audit]\nonfull = 'stop'", "8:1", "did you mean on-full?"),
    ("[durability]\nmode = 'memory'\nmod = 1", "9:1", "did you mean mode?"),
    ("[log]\nlevle = 'info'", "8:1", "did you mean level?"),
    ("[reload]\nwach = true", "8:1", "did you mean watch?"),
    // Kinds of values.
    ("[mqtt]\nmax-packet-size = 1048576", "8:19", "max-packet-size in [mqtt] is an integer; write a size with its unit"),
    ("[mqtt]\nmax-packet-size = '1 MB'", "8:19", "max-packet-size in [mqtt] is \"1 MB\"; write a size with its unit"),
    ("[mqtt]\nmax-packet-size = '1  MiB'", "8:19", "write a size with its unit"),
    ("[mqtt]\nmax-packet-size = '257 MiB'", "8:19", "out of range; write a size from 1 B to 268435460 B"),
    ("[mqtt]\nreceive-maximum = '64'", "8:19", "is a string; write a whole number, without quotes, from 1 to 65535"),
    ("[mqtt]\nreceive-maximum = 65536", "8:19", "receive-maximum in [mqtt] is 65536, out of range; write a whole number from 1 to 65535"),
    ("[mqtt]\nmax-qos = 3", "8:11", "write a whole number from 0 to 2"),
    ("[mqtt]\nmax-qos = -1", "8:11", "is -1, out of range"),
    ("[mqtt]\nmax-qos = 1.5", "8:11", "is a float"),
    ("[mqtt]\nkeep-alive-max = '20'", "8:18", "write a duration with its unit"),
    ("[mqtt]\nkeep-alive-max = '19 h'", "8:18", "to 65535 s"),
    ("[mqtt]\nkeep-alive-max = '1500 ms'", "8:18", "write whole seconds"),
    ("[mqtt]\nsession-expiry-max = '49711 d'", "8:22", "write a duration with its unit"),
    ("[mqtt]\nsession-expiry-max = 60", "8:22", "is an integer; write a duration with its unit"),
    ("[mqtt]\nmax-packet-size = '1 KiB'\nconnect-packet-size = '2 KiB'", "9:23", "more than max-packet-size, 1024 B"),
    ("[limits]\npublish-rate = '200/h'", "8:16", "write a rate, such as \"10/s\" or \"30/min\""),
    ("[limits]\npublish-bandwidth = '1 MiB'", "8:21", "write a size per second"),
    ("[acl2]\nx = 1", "7:2", "did you mean acl?"),
    ("[auth]\nclient-id = 'names'", "8:13", "client-id in [auth] is \"names\"; write \"any\" or \"name\""),
    ("[auth]\nanonymous = 'true'", "8:13", "anonymous in [auth] is a string; write true or false, without quotes"),
    ("[auth]\npassword-file = ''", "8:17", "password-file in [auth] is empty"),
    ("[auth]\npassword-file = [\"a\"]", "8:17", "is an array; write a string"),
    ("[auth.certificate]\nprincipal = 'dn'", "8:13", "\"cn\" or \"san-dns\" or \"san-uri\" or \"san-email\" or \"subject\" or \"fingerprint\""),
    // Zero is an error except where it means none.
    ("[mqtt]\nmax-packet-size = '0 B'", "8:19", "out of range"),
    ("[mqtt]\nreceive-maximum = 0", "8:19", "out of range"),
    ("[mqtt]\nkeep-alive-max = '0 s'", "8:18", "out of range"),
    ("[mqtt]\nkeep-alive-max = 0", "8:18", "is an integer"),
    ("[mqtt]\ntopic-levels = 0", "8:16", "out of range"),
    ("[mqtt]\ntopic-length = 0", "8:16", "out of range"),
    ("[mqtt]\nsys-interval = '500 ms'", "8:16", ""),
    ("[mqtt]\nsys-interval = '0 s'", "8:16", "out of range"),
    ("[mqtt]\nsys-interval = '2 h'", "8:16", "out of range"),
    ("[limits]\nconnections = 0", "8:15", "out of range"),
    ("[limits]\nqueue-bytes = '0 B'", "8:15", "out of range"),
    ("[limits]\nqueue-messages-per-principal = 0", "8:32", "out of range"),
    ("[limits]\nqueue-bytes-per-principal = '0 B'", "8:29", "out of range"),
    ("[limits]\nqueue-bytes-per-principals = '1 MiB'", "8:1", "did you mean queue-bytes-per-principal?"),
    ("[limits]\nmemory = '31 MiB'", "8:10", "write a size from 33554432 B"),
    ("[limits]\nidle = '0 s'", "8:8", "out of range"),
    ("[limits]\nconnect-deadline = '0 s'", "8:20", "out of range"),
    ("[limits]\npublish-rate = '0/s'", "8:16", "out of range"),
    ("[limits]\npublish-bandwidth = '0 B/s'", "8:21", "out of range"),
    ("[limits]\nfan-out-rate = '0/s'", "8:16", "out of range"),
    ("[limits]\nfan-out-bandwidth = '0 B/s'", "8:21", "out of range"),
    ("[limits]\nfan-out-rat = '5/s'", "8:1", "did you mean fan-out-rate?"),
    ("[limits]\nretained-messages-per-principal = 0", "8:35", "out of range"),
    ("[limits]\nretained-bytes-per-principals = '1 MiB'", "8:1", "did you mean retained-bytes-per-principal?"),
    // Not in this version.
    ("[durability]\nmode = 'disk'", "8:8", "write \"fsync\" or \"interval\" or \"memory\""),
    ("[reload]\nwatch = true", "8:9", "watch = true in [reload] is not supported yet"),
    ("[admin]\nbind = '0.0.0.0:9443'", "8:8", "not supported yet"),
    ("[admin]\nbind = 'localhost:9443'", "8:8", "write an IP address and a port"),
    ("[admin]", "7:1", "[admin] has no bind"),
    // Identity.
    ("[auth]\nrequire = ['certificate']", "8:11", "write [\"certificate\", \"jwt\"] for both together"),
    ("[auth]\nrequire = ['jwt', 'certificate']", "8:11", "no issuer is configured"),
    ("[auth]\nrequire = 'jwt'", "8:11", "write a list"),
    ("[auth.jwt]\nissuer = 'i'", "7:1", "jwt in [auth] is a table; write its header as [[auth.jwt]]"),
    ("[[auth.jwt]]\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'", "7:1", "[[auth.jwt]] has no issuer; add issuer = \"https://id.example\""),
    ("[[auth.jwt]]\nissuer = 'i'\nalgorithms = ['EdDSA']\nkey-file = 'k'", "7:1", "[[auth.jwt]] has no audience"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = []\nalgorithms = ['EdDSA']\nkey-file = 'k'", "9:12", "audience in [[auth.jwt]] is empty"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nkey-file = 'k'", "7:1", "has no algorithms"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['HS256', 'RS256']\nkey-file = 'k'", "10:14", "mixes HS with others"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['none']\nkey-file = 'k'", "10:15", "algorithm \"none\" in [[auth.jwt]] is unknown"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']", "7:1", "[[auth.jwt]] has no keys; write exactly one of jwks-url, jwks-file and key-file"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\njwks-file = 'j'", "11:12", "has jwks-file and key-file; write exactly one"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\njwks-url = 'http://x'", "11:12", "jwks-url is neither https nor on a loopback address"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\njwks-url = 'x'", "11:12", "jwks-url is \"x\": it does not begin with https://"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\ntimeout = '1 s'", "12:11", "timeout in [[auth.jwt]] without jwks-url"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\nrequire-claims = ['x']", "12:19", "require-claims has \"x\""),
    ("[[auth.introspection]]\nname = 'o'\nurl = 'https://x'", "7:1", "[[auth.introspection]] has no credential for the broker"),
    ("[[auth.introspection]]\nname = 'o'\nurl = 'https://x'\nclient-id = 'c'", "7:1", "only one of client-id and client-secret-file"),
    ("[[auth.introspection]]\nname = 'o'\nurl = 'https://x'\ntls-key = 'k'", "10:11", "only one of tls-certificate and tls-key"),
    ("[[auth.webhook]]\nname = 'h'\nurl = 'http://x'", "9:7", "url in [[auth.webhook]] is neither https"),
    ("[[auth.webhook]]\nname = 'a/b'\nurl = 'https://x'", "8:8", "name in [[auth.webhook]] is \"a/b\""),
    ("[[auth.webhook]]\nname = 'h'\nurl = 'https://x'\ncredentials = ['certificate']", "10:16", "write \"password\" or \"token\""),
    ("[[auth.webhook]]\nname = 'h'\nurl = 'https://x'\ncredentials = []", "10:15", "is empty"),
    ("[[auth.jwt]]\nname = 'a/b'\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'", "8:8", "name in [[auth.jwt]] is \"a/b\""),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\nallowed-roles = ['role:x']", "12:18", "write the plain role name"),
    ("[durability]\nsegment-size = '1 KiB'", "8:16", "out of range"),
    ("[[auth.jwt]]\nissuer = 'i'\naudience = ['a']\nalgorithms = ['EdDSA']\nkey-file = 'k'\nleeway = '0 s'", "12:10", "out of range"),
];

/// A listener's lines after its header, the place and the words of the one error.
#[rustfmt::skip]
const BAD_LISTENERS: &[(&str, &str, &str)] = &[
    ("bind = '127.0.0.1:1'\nplaintext = true", "1:1", "[[listener]] has no name; add name = \"internet\""),
    ("name = 'a'\nplaintext = true", "1:1", "[[listener]] has no bind"),
    ("name = 'a/b'\nbind = '127.0.0.1:1'\nplaintext = true", "2:8", "name in [[listener]] is \"a/b\""),
    ("name = '$a'\nbind = '127.0.0.1:1'\nplaintext = true", "2:8", "not beginning with $"),
    ("name = 'a'\nbind = 'localhost:1883'\nplaintext = true", "3:8", "write an IP address and a port"),
    ("name = 'a'\nbind = '127.0.0.1'\nplaintext = true", "3:8", "write an IP address and a port"),
    ("name = 'a'\nbind = 'unix:'\nplaintext = true", "3:8", "write a path"),
    ("name = 'a'\nbind = '127.0.0.1:1'", "1:1", "listener \"a\" has no [listener.tls]; add [listener.tls] with certificate and key, or say plaintext = true"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = false", "1:1", "or say plaintext = true"),
    ("name = 'a'\nbind = '0.0.0.0:1'\nplaintext = true", "3:8", "plaintext off loopback; add [listener.tls]"),
    ("name = 'a'\nbind = '[::]:1'\nplaintext = true", "3:8", "plaintext off loopback"),
    ("name = 'a'\nbind = '192.0.2.1:1'\nplaintext = true\nallow-remote-plaintext = false", "3:8", "plaintext off loopback"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nallow-remote-plaintext = true\n[listener.tls]\ncertificate = 'c'\nkey = 'k'", "4:26", "allow-remote-plaintext = true without plaintext = true"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[listener.tls]\ncertificate = 'c'\nkey = 'k'", "4:13", "plaintext = true and [listener.tls]; keep one of them"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\npath = '/mqtt'", "5:8", "path in [[listener]] without transport = \"websocket\""),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'tcp'\norigins = ['https://a.example']", "6:11", "origins in [[listener]] without transport = \"websocket\""),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\npath = 'mqtt'", "6:8", "path in [[listener]] is \"mqtt\"; write a path such as \"/mqtt\""),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\npath = '/mqtt?x'", "6:8", "without ? and #"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\npath = '/a b'", "6:8", "visible characters"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\norigins = []", "6:11", "names no origin"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\norigins = ['*']", "6:12", "origins in [[listener]] has \"*\"; write scheme and host"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\norigins = ['https://*.example']", "6:12", "without *"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\norigins = ['null']", "6:12", "write scheme and host"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\norigins = ['https://a.example', 'https://a.example/']", "6:33", "without a path"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\norigins = ['https://a.example:443']", "6:12", "leave the port out"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'websocket'\norigins = 'https://a.example'", "6:11", "is a string; write a list"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntransport = 'quic'", "5:13", "write \"tcp\" or \"websocket\""),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nproxy-protocol = true", "5:18", "proxy-protocol = true in [[listener]] without trusted-proxies; add trusted-proxies"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nproxy-protocol = true\ntrusted-proxies = []", "6:19", "names no address"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nproxy-protocol = true\ntrusted-proxies = ['::1', '10.0.0.1/8']", "6:27", "has \"10.0.0.1/8\"; write the first address of the range"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nproxy-protocol = true\ntrusted-proxies = ['0.0.0.0/0']", "6:20", "whoever is trusted can claim any address"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nproxy-protocol = true\ntrusted-proxies = ['proxy.example']", "6:20", "write addresses or ranges"),
    ("name = 'a'\nbind = 'unix:s'\nplaintext = true\nproxy-protocol = true\ntrusted-proxies = ['::1']", "3:8", "proxy-protocol on a Unix socket is not supported yet"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[listener.learn]\ntopics = ['a']", "5:1", "until"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[listener.learn]\nuntil = '2026-12-01T18:00:00Z'", "5:1", "topics"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[listener.learn]\nuntil = 'tonight'\ntopics = ['a']", "6:9", "write an instant with its zone"),
    ("name = 'a'\nbind = '0.0.0.0:1'\nplaintext = true\nallow-remote-plaintext = true\n[listener.learn]\nuntil = '2026-12-01T18:00:00Z'\ntopics = ['a']", "7:9", "learns from clients without certificates"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nproxy-protocol = true\ntrusted-proxies = ['127.0.0.1']\n[listener.learn]\nuntil = '2026-12-01T18:00:00Z'\ntopics = ['a']", "8:9", "learns from clients without certificates"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\ntrusted-proxies = ['10.0.0.0/8']", "5:19", "trusted-proxies in [[listener]] without proxy-protocol = true"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['certificate']", "5:9", "names \"certificate\", which is not configured; add client-ca to its [listener.tls]"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['jwt']", "5:9", "add a section [[auth.jwt]]"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['password']", "5:9", "add password-file to [auth]"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['anonymous']", "5:9", "add anonymous = true to [auth]"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = ['token']", "5:9", "auth in [[listener]] has \"token\""),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\nauth = []", "5:8", "auth in [[listener]] names no method"),
    ("name = 'a'\nbind = '127.0.0.1:1'\nplaintxt = true\nplaintext = true", "4:1", "unknown key \"plaintxt\" in [[listener]]; did you mean plaintext?"),
    ("name = 'a'\nbind = 'unix:s'\n[listener.tls]\ncertificate = 'c'\nkey = 'k'", "3:8", "TLS on a Unix socket is not supported yet"),
    ("name = 'a'\nbind = '127.0.0.1:1'\n[listener.tls]\nkey = 'k'", "4:1", "[listener.tls] has no certificate; add certificate = \"server.pem\""),
    ("name = 'a'\nbind = '127.0.0.1:1'\n[listener.tls]\ncertificate = 'c'", "4:1", "[listener.tls] has no key"),
];

/// The lines of `[listener.tls]` after certificate and key, from line 7 on.
#[rustfmt::skip]
const BAD_TLS: &[(&str, &str, &str)] = &[
    ("client-auth = 'required'", "7:15", "client-auth = \"required\" in [listener.tls] without client-ca"),
    ("client-auth = 'optional'", "7:15", "client-auth = \"optional\" in [listener.tls] without client-ca"),
    ("client-auth = 'yes'", "7:15", "write \"required\" or \"optional\" or \"none\""),
    ("crl = ['r']", "7:7", "crl in [listener.tls] without client-ca"),
    ("client-ca = 'a'\ncrl = []", "8:7", "crl in [listener.tls] names no file"),
    ("client-ca = 'a'\ncrl = ['r', 1]", "8:13", "has an entry that is no text"),
    ("client-ca = 'a'\ncrl-grace = '0 h'", "8:13", "out of range"),
    ("client-ca = 1", "7:13", "client-ca in [listener.tls] is an integer"),
    ("client-ca = []", "7:13", "client-ca in [listener.tls] names no file"),
    ("client-ca = ['a', 1]", "7:13", "write a file, such as client-ca = \"ca.pem\", or a list"),
    ("client-ca = [{ name = 'plant' }]", "7:14", "[listener.tls] has no file"),
    ("client-ca = [{ file = 'a' }]", "7:14", "[listener.tls] has no name"),
    ("client-ca = [{ name = 'a/b', file = 'a' }]", "7:23", "write letters, digits, hyphens"),
    ("client-ca = [{ name = 'a', file = 'a', crl = 'x' }]", "7:40", "unknown key \"crl\""),
    ("deny-fingerprints = 'd'", "7:21", "deny-fingerprints in [listener.tls] without client-ca"),
    ("certifcate = 'a'", "7:1", "unknown key \"certifcate\" in [listener.tls]; did you mean certificate?"),
];

/// A whole file, the place and the words of the one error.
#[rustfmt::skip]
const MISSING: &[(&str, &str, &str)] = &[
    ("[acl]\npolicy = ['p']", "1:1", "the top level has no [[listener]]; add a section [[listener]] with name and bind"),
    ("listener = []\n[acl]\npolicy = ['p']", "1:12", "listener in the top level is an empty list; write sections [[listener]]"),
    ("[listener]\nname = 'a'\n[acl]\npolicy = ['p']", "1:1", "listener in the top level is a table; write its header as [[listener]]"),
    ("[[listener]]\nname = 'a'\nbind = '127.0.0.1:1'\nplaintext = true", "1:1", "[acl] has no policy; add policy = [\"policies/policy.csv\"]"),
    ("[[listener]]\nname = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[acl]", "5:1", "[acl] has no policy"),
    ("[[listener]]\nname = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[acl]\npolicy = []", "6:10", "policy in [acl] names no file"),
    ("[[listener]]\nname = 'a'\nbind = '127.0.0.1:1'\nplaintext = true\n[acl]\npolicy = 'p'", "6:10", "policy in [acl] is a string; write a list"),
];
