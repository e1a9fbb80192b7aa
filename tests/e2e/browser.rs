//! mqtt.js in a page, in a real browser (Chromium), which also shows what other pages cannot do.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::harness::{ANNA, Broker, PATIENCE};

/// A web server with the page, mqtt.js, and a place where the page says how it went.
struct Site {
    address: SocketAddr,
    said: Receiver<String>,
}

impl Site {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (says, said) = channel();
        // Ends with the process; it holds no more than a socket.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = says.clone();
                // A browser opens connections that it does not use.
                thread::spawn(move || answer(&stream, &says));
            }
        });
        Self { address, said }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Answers one request.
fn answer(stream: &TcpStream, says: &Sender<String>) -> Option<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let request = line()?;
    let mut length = 0;
    while let Some(header) = line().filter(|header| !header.is_empty()) {
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let path = target.split('?').next()?;
    let (status, kind, body) = match (method, path) {
        ("GET", "/") => {
            let page = root.join("tests/clients/browser.html");
            ("200 OK", "text/html", fs::read(page).unwrap())
        }
        ("GET", "/mqtt.js") => {
            let library = modules().join("mqtt/dist/mqtt.min.js");
            let text = fs::read(library).expect("mqtt.js; run scripts/setup-tests");
            ("200 OK", "text/javascript", text)
        }
        ("POST", "/said") => {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            says.send(String::from_utf8(body).ok()?).ok()?;
            ("200 OK", "text/plain", Vec::new())
        }
        _ => ("404 Not Found", "text/plain", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}

fn modules() -> PathBuf {
    std::env::var_os("PORTCULLIS_TEST_NODE_MODULES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-node/node_modules"),
        PathBuf::from,
    )
}

/// A browser with one page open; ended when dropped.
struct Browser(Child);

impl Browser {
    /// Opens a page. `trusted` is a certificate that the browser takes although it does not know
    /// its issuer; no other.
    fn open(profile: &Path, page: &str, trusted: &Path) -> Self {
        let program = std::env::var_os("PORTCULLIS_TEST_CHROMIUM");
        let child = Command::new(program.unwrap_or_else(|| "chromium".into()))
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!(
                "--ignore-certificate-errors-spki-list={}",
                key_hash(trusted)
            ))
            // Without it a headless browser ends with its page loaded.
            .arg("--remote-debugging-port=0")
            .arg(page)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium; run scripts/setup-tests");
        Self(child)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The hash of a certificate's public key, as Chromium takes it.
fn key_hash(certificate: &Path) -> String {
    let der = CertificateDer::from_pem_file(certificate).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    BASE64_STANDARD.encode(digest(&SHA256, parsed.public_key().raw))
}

/// A broker with both kinds of WebSocket listeners, for pages of this site.
fn broker(site: &Site) -> Broker {
    Broker::start(|setup| {
        for (name, tls) in [("ws", false), ("wss", true)] {
            let how = if tls {
                "[listener.tls]\ncertificate = \"pki/server.pem\"\nkey = \"pki/server.key\"\n"
            } else {
                "plaintext = true\n"
            };
            let listener = format!(
                "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\ntransport = \"websocket\"\n\
                 origins = [\"{}\"]\nauth = [\"password\"]\n{how}",
                site.origin()
            );
            setup.listeners += &listener;
        }
    })
}

/// What a page of `site` says of both listeners.
fn visit(site: &Site, broker: &Broker, query: &str) -> String {
    let url = |scheme| format!("{scheme}://{}/mqtt", broker.address(scheme));
    let password = ANNA.1.replace(' ', "+");
    let page = format!(
        "{}/?url={}&url={}&user={}&password={password}{query}",
        site.origin(),
        url("ws"),
        url("wss"),
        ANNA.0
    );
    let profile = tempfile::tempdir().unwrap();
    let server = broker.setup.path("pki/server.pem");
    let _browser = Browser::open(profile.path(), &page, &server);
    // A browser starts slowly on a busy machine.
    let said = site.said.recv_timeout(PATIENCE * 4);
    said.expect("the page says how it went")
}

#[test]
fn mqtt_js_in_a_browser_exchanges_messages_with_and_without_tls() {
    let site = Site::start();
    let broker = broker(&site);
    assert_eq!(visit(&site, &broker, ""), "ok");
    for listener in ["ws", "wss"] {
        broker.record(
            "connect",
            &[("listener", listener), ("client_id", "page-5")],
        );
    }
}

#[test]
fn a_page_of_another_origin_cannot_connect_from_a_browser() {
    let (own, foreign) = (Site::start(), Site::start());
    let broker = broker(&own);
    assert_eq!(visit(&foreign, &broker, "&refused"), "ok");
    for listener in ["ws", "wss"] {
        broker.record("refuse", &[("listener", listener), ("reason", "Origin")]);
    }
    assert_eq!(broker.number("refused-upgrades"), 2);
}
