//! `docs/authentication.md`, as far as a machine can hold it to its word: its commands run, its
//! configuration loads, and the running broker speaks what it says.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portcullis::config::Config;
use portcullis_auth::Link;

const DOC: &str = include_str!("../docs/authentication.md");
const PORTCULLIS: &str = env!("CARGO_BIN_EXE_portcullis");

/// The code blocks with this word behind the fence.
fn blocks(kind: &str) -> Vec<&'static str> {
    let fence = format!("```{kind}\n");
    let rest = DOC.split(fence.as_str()).skip(1);
    rest.map(|block| block.split("```").next().unwrap())
        .collect()
}

fn shell(directory: &Path, script: &str) -> String {
    let bin = Path::new(PORTCULLIS).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .env("PATH", path)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A directory in which every command of the documentation was run.
fn documented() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let scripts = blocks("sh");
    assert!(scripts.len() >= 4);
    for script in scripts {
        shell(directory.path(), script);
    }
    directory
}

#[test]
fn the_documented_commands_make_what_they_say() {
    let directory = documented();
    let there = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    assert!(there("pki/ca.crl").contains("X509 CRL"));
    assert!(there("users.passwd").contains(":scram-sha-256$50000$"));
    let shown = shell(directory.path(), "portcullis token inspect anna.jwt");
    assert!(shown.contains("\"tenant\": \"acme\""), "{shown}");
    assert!(there("pki/revoked.txt").ends_with(" pump-17\n"));
    assert_eq!(there("denied.txt").matches(':').count(), 31);
    let shown = shell(directory.path(), "portcullis pki show pki/pump-17.pem");
    assert!(shown.contains("pump-17"), "{shown}");
}

#[test]
fn the_documented_configuration_loads_and_its_units_are_in_order() {
    let file = Path::new("portcullis.toml");
    let end = "[acl]\npolicy = ['policy.csv']\n";
    let (listener, auth) = (blocks("toml listener"), blocks("toml"));
    assert!(listener.len() == 3 && auth.len() >= 6);
    let plain = "[[listener]]\nname = 'l'\nbind = '127.0.0.1:0'\nplaintext = true\n";
    let tls = "[[listener]]\nname = 'l'\nbind = '127.0.0.1:0'\n";
    let texts = listener
        .iter()
        .map(|block| format!("{tls}{block}{end}"))
        .chain(auth.iter().map(|block| format!("{plain}{block}{end}")));
    for text in texts {
        Config::parse(&text, file).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
    }

    let find = |words: &str| auth.iter().find(|block| block.contains(words)).unwrap();
    let text = format!(
        "{plain}{}{}{}{}{end}",
        find("password-file"),
        find("[[auth.webhook]]"),
        find("key-file"),
        find("[[auth.introspection]]"),
    );
    let config = Config::parse(&text, file).unwrap_or_else(|problems| panic!("{problems}"));
    let expected = [
        Link::Passwords,
        Link::Webhook(0),
        Link::Issuer(0),
        Link::Introspection(0),
    ];
    assert_eq!(config.auth.order, expected);
}

/// The broker, with a plaintext listener on a free port.
struct Broker {
    child: Child,
    address: String,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    fn start(directory: &Path) -> Self {
        let config = "\
data-dir = 'data'
[[listener]]
name = 'local'
bind = '127.0.0.1:0'
plaintext = true
[auth]
password-file = 'users.passwd'
[[auth.jwt]]
issuer = 'https://id.example'
audience = ['portcullis']
algorithms = ['EdDSA']
key-file = 'tokens/issuer.pub'
[acl]
policy = ['policy.csv']
[durability]
mode = 'memory'
[audit]
path = 'audit'
";
        fs::write(directory.join("portcullis.toml"), config).unwrap();
        fs::write(directory.join("policy.csv"), "p, *, a/#, publish, allow\n").unwrap();
        let mut child = Command::new(PORTCULLIS)
            .args(["run", "--log-format", "json"])
            .current_dir(directory)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = String::new();
        for line in &mut lines {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("127.0.0.1:") {
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                address = format!("127.0.0.1:{port}");
            }
            if line.contains("\"ready\"") {
                break;
            }
        }
        // Whatever else it says is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        assert!(!address.is_empty(), "the broker did not start");
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(value % 128).unwrap();
        value /= 128;
        out.push(if value > 0 { byte | 128 } else { byte });
        if value == 0 {
            return out;
        }
    }
}

/// Authentication Method and Data.
fn properties(method: &str, data: &[u8]) -> Vec<u8> {
    let mut properties = vec![0x15];
    text(&mut properties, method.as_bytes());
    properties.push(0x16);
    text(&mut properties, data);
    let mut out = varint(properties.len());
    out.extend(properties);
    out
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(varint(body.len()));
    out.extend(body);
    out
}

fn connect(method: &str, data: &[u8]) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x3c".to_vec();
    body.extend(properties(method, data));
    text(&mut body, b"client");
    packet(0x10, &body)
}

fn auth(code: u8, method: &str, data: &[u8]) -> Vec<u8> {
    let mut body = vec![code];
    body.extend(properties(method, data));
    packet(0xf0, &body)
}

/// The next packet: its first byte and its body.
fn read(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    let (first, mut length, mut shift) = (byte[0], 0usize, 0);
    loop {
        stream.read_exact(&mut byte).unwrap();
        length |= usize::from(byte[0] & 127) << shift;
        shift += 7;
        if byte[0] < 128 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (first, body)
}

#[test]
fn a_token_by_oauthbearer_connects_and_is_renewed_and_a_bad_one_is_told_one_error() {
    let directory = documented();
    let broker = Broker::start(directory.path());
    let token = fs::read_to_string(directory.path().join("anna.jwt")).unwrap();
    let message = format!("n,,\x01auth=Bearer {}\x01\x01", token.trim());
    let mut client = broker.connect();
    client
        .write_all(&connect("OAUTHBEARER", message.as_bytes()))
        .unwrap();
    let (first, body) = read(&mut client);
    assert_eq!((first, body[1]), (0x20, 0x00), "CONNACK");
    client
        .write_all(&auth(0x19, "OAUTHBEARER", message.as_bytes()))
        .unwrap();
    let (first, body) = read(&mut client);
    assert_eq!(first, 0xf0, "AUTH");
    assert!(body.first().is_none_or(|code| *code == 0x00), "{body:?}");

    let bad = format!("n,,\x01auth=Bearer {}x\x01\x01", token.trim());
    let mut client = broker.connect();
    client
        .write_all(&connect("OAUTHBEARER", bad.as_bytes()))
        .unwrap();
    let (first, body) = read(&mut client);
    assert_eq!((first, body[0]), (0xf0, 0x18));
    assert!(body.ends_with(br#"{"status":"invalid_token"}"#));
    client
        .write_all(&auth(0x18, "OAUTHBEARER", b"\x01"))
        .unwrap();
    let (first, body) = read(&mut client);
    assert_eq!((first, body[1]), (0x20, 0x86));
}

#[test]
fn scram_challenges_a_user_and_a_stranger_alike_and_other_methods_are_named_bad() {
    let directory = documented();
    let broker = Broker::start(directory.path());
    let mut salts = Vec::new();
    for user in ["anna", "nobody"] {
        let mut client = broker.connect();
        let first = format!("n,,n={user},r=abcdefghijkl");
        client
            .write_all(&connect("SCRAM-SHA-256", first.as_bytes()))
            .unwrap();
        let (first, body) = read(&mut client);
        assert_eq!((first, body[0]), (0xf0, 0x18));
        let challenge = String::from_utf8_lossy(&body).into_owned();
        assert!(challenge.ends_with(",i=50000"), "{challenge}");
        salts.push(challenge.len());
        let proof = "c=biws,r=abcdefghijkl,p=AAAA";
        client
            .write_all(&auth(0x18, "SCRAM-SHA-256", proof.as_bytes()))
            .unwrap();
        let (first, body) = read(&mut client);
        assert_eq!((first, body[1]), (0x20, 0x86), "{user}");
    }
    assert_eq!(salts[0], salts[1]);
    let mut client = broker.connect();
    client
        .write_all(&connect("SCRAM-SHA-1", b"n,,n=anna,r=abcdefghijkl"))
        .unwrap();
    let (first, body) = read(&mut client);
    assert_eq!((first, body[1]), (0x20, 0x8c));
}
