//! An OAuth 2.0 server that others wrote (Authlib): its tokens, its keys, its introspection, over HTTPS.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;

use crate::client::{self, Dialed, V3, V5, VERSIONS};
use crate::harness::{Broker, PATIENCE, Setup, eventually};

/// Runs until it is dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// With the certificate for `localhost` of this set-up.
    fn start(setup: &Setup) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(root.join("target/test-venv/bin/python"))
            .arg(root.join("tests/clients/oauth_server.py"))
            .args([setup.path("pki/server.pem"), setup.path("pki/server.key")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("no target/test-venv; run scripts/setup-tests");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let port = line.trim().parse();
        let port = port.expect("the server does not start; run scripts/setup-tests");
        Self { child, port }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// What it answers to such a request.
    fn ask(&self, setup: &Setup, head: &str, form: &str) -> Value {
        let config = client::tls(&setup.path("trusted.pem"), None);
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = StreamOwned::new(connection, tcp);
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Basic ZGV2aWNlLTc6ZGV2aWNlcy1vd24tc2VjcmV0\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        )
        .unwrap();
        let mut text = Vec::new();
        // The end comes with or without a goodbye.
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{text}");
        serde_json::from_str(body).unwrap()
    }

    /// A token for `device-7`.
    fn token(&self, setup: &Setup, path: &str) -> String {
        let form = "grant_type=client_credentials&scope=device+other";
        let answer = self.ask(setup, &format!("POST {path}"), form);
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

#[test]
fn tokens_of_an_oauth_server_are_believed_by_their_keys_or_by_its_word() {
    let mut server = None;
    let broker = Broker::start(|setup| {
        let made = Server::start(setup);
        std::fs::write(setup.path("oauth.secret"), "brokers-own-secret\n").unwrap();
        setup.issuer = format!(
            "\
name = \"signed\"
issuer = \"https://id.example\"
audience = [\"portcullis\"]
algorithms = [\"ES256\"]
jwks-url = \"{}\"
tls-ca = \"trusted.pem\"
roles = \"scope\"
allowed-roles = [\"device\"]
[[auth.introspection]]
name = \"asked\"
url = \"{}\"
tls-ca = \"trusted.pem\"
client-id = \"portcullis\"
client-secret-file = \"oauth.secret\"
username = \"oauth2\"
roles = \"scope\"
allowed-roles = [\"device\"]
cache = \"1 s\"
",
            made.url("/jwks.json"),
            made.url("/introspect"),
        );
        server = Some(made);
    });
    let server = server.unwrap();
    let signed = server.token(&broker.setup, "/token");
    let opaque = server.token(&broker.setup, "/opaque");
    assert_eq!(signed.matches('.').count(), 2);
    assert_eq!(opaque.matches('.').count(), 0);
    for version in VERSIONS {
        for (id, login, principal) in [
            ("signed", ("any", &*signed), "jwt:signed/device-7"),
            ("opaque", ("oauth2", &*opaque), "jwt:asked/device-7"),
        ] {
            let mut client = broker.dial(version, id).login(login).connect();
            // A role from the scope; {name} is the name that the server gave.
            let code = client.publish("devices/device-7/telemetry", "", 1);
            assert!(version == V3 || code == 0x10, "{code:#x}");
            broker.record("connect", &[("client_id", id), ("principal", principal)]);
            client.disconnect();
        }
    }
    // Not what the server gave, and not what it has forgotten.
    let mut tampered = signed.clone();
    let end = tampered.pop().unwrap();
    tampered.push(if end == 'A' { 'Q' } else { 'A' });
    for login in [("any", &*tampered), ("oauth2", "x"), ("oauth2", &*tampered)] {
        assert_eq!(broker.dial(V5, "bad").login(login).refused(), 0x86);
    }
    server.ask(&broker.setup, "GET /revoke", "");
    eventually("the token is no longer believed", || {
        let dialed = broker.dial(V5, "opaque").login(("oauth2", &opaque)).dial();
        (!matches!(dialed, Dialed::Connected(_))).then_some(())
    });
}

#[test]
fn an_oauth_server_whose_certificate_is_from_another_ca_gives_no_keys() {
    let mut server = None;
    let broker = Broker::start(|setup| {
        let made = Server::start(setup);
        setup.portcullis(&["pki", "init", "other"]).succeeded();
        let keys = "key-file = \"tokens/issuer.pub\"";
        let from = format!(
            "jwks-url = \"{}\"\ntls-ca = \"other/ca.pem\"",
            made.url("/jwks.json")
        );
        setup.issuer = setup.issuer.replace(keys, &from).replace("EdDSA", "ES256");
        server = Some(made);
    });
    let signed = server.unwrap().token(&broker.setup, "/token");
    // Unavailable: nobody can say whether the token is good.
    assert_eq!(broker.dial(V5, "x").token(&signed).refused(), 0x88);
    assert_eq!(broker.dial(V3, "x").token(&signed).refused(), 0x03);
    let said = broker.log.find(0, |line| line.contains("not fetched"));
    assert!(said.unwrap().contains("UnknownIssuer"));
}
