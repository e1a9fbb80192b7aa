//! Durable throughput and recovery, from socket to disk and back.
//!
//! A hundred publishers send a million `QoS` 1 messages of 64 bytes to ten persistent sessions whose
//! clients are away, and wait for each acknowledgement, which comes after the sync that covers its
//! message. Then the broker is ended and started again over its million queued messages. Printed
//! are the rate of acknowledgements, the syncs that the disk does alone, and how long starting took.
//!
//!     cargo bench --bench durable
//!
//! `PORTCULLIS_BENCH_DIR` chooses the disk; the default is the directory for temporary files.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a failed set-up is a failed benchmark; figures for people"
)]

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_acl::{Acl, Policy, Source, Sources};
use portcullis_auth::Desk;
use portcullis_core::broker::Broker;
use portcullis_core::gate::{Endpoint, Listener, Transport};
use portcullis_core::settings::Settings;
use portcullis_core::store::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PUBLISHERS: usize = 100;
const SESSIONS: usize = 10;
const EACH: usize = 10_000;
/// Messages that a publisher has unacknowledged.
const WINDOW: usize = 64;
const TOTAL: u64 = (PUBLISHERS * EACH) as u64;

fn main() {
    // What asks for a test of this target or a list gets none.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let parent = std::env::var_os("PORTCULLIS_BENCH_DIR");
    let parent = parent.map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent).unwrap();
    println!("the disk alone: {:.0} syncs/s", syncs(dir.path()));
    let broker_threads = runtime(2);
    let client_threads = runtime(1);

    let broker = broker_threads.block_on(async { start(dir.path()) });
    let address = address(&broker);
    let took = client_threads.block_on(publish(address));
    println!(
        "{TOTAL} messages acknowledged after sync in {:.2} s: {:.0}/s",
        took.as_secs_f64(),
        TOTAL as f64 / took.as_secs_f64()
    );
    assert_eq!(broker.metrics().queued_messages.value(), TOTAL);
    broker_threads.block_on(broker.stop());

    let begun = Instant::now();
    let broker = broker_threads.block_on(async { start(dir.path()) });
    println!(
        "started again over {} queued messages in {:.2} s",
        broker.metrics().queued_messages.value(),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(broker.metrics().queued_messages.value(), TOTAL);
    broker_threads.block_on(broker.stop());
}

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
}

/// How often in a second a small write is on the disk.
fn syncs(dir: &Path) -> f64 {
    let mut file = File::create(dir.join("probe")).unwrap();
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < Duration::from_secs(1) {
        file.write_all(&[0; 4096]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

fn start(dir: &Path) -> Broker {
    let policy = "p, *, lab/#, publish, allow\np, *, lab/#, subscribe, allow\n";
    let sources = Sources {
        policies: vec![Source::new("built in", policy)],
        ..Sources::default()
    };
    let policy = Policy::load(&sources).unwrap().policy;
    let identities = portcullis_auth::Settings {
        anonymous: true,
        ..portcullis_auth::Settings::default()
    };
    let (desk, _) = Desk::open(identities).unwrap();
    let mut settings = Settings::default();
    settings.limits.queue_messages = 1_000_000;
    settings.limits.queue_bytes = 1 << 30;
    settings.limits.queue_messages_per_principal = 1_000_000;
    settings.limits.queue_bytes_per_principal = 1 << 30;
    Broker::builder()
        .settings(settings)
        .store(Options::new(dir.join("store")))
        .listener(Listener {
            name: "lab".into(),
            endpoint: Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
            transport: Transport::Mqtt,
            trusted_proxies: None,
            tls: None,
            methods: None,
        })
        .authenticator(Arc::new(desk))
        .authorizer(Arc::new(Acl::new(policy)))
        .start()
        .unwrap()
}

fn address(broker: &Broker) -> SocketAddr {
    broker
        .addresses()
        .into_iter()
        .find_map(|(_, address)| address)
        .unwrap()
}

/// All publishers; how long it takes until the last acknowledgement.
async fn publish(address: SocketAddr) -> Duration {
    for session in 0..SESSIONS {
        let mut stream = connect(address, &format!("session-{session}"), false).await;
        let topic = topic(session);
        let mut body = vec![0, 1];
        string(&mut body, &topic);
        body.push(1);
        send(&mut stream, 0x82, &body).await;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x90, 3, 0, 1, 1]);
        send(&mut stream, 0xe0, &[]).await;
    }
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        let stream = connect(address, &format!("publisher-{number}"), true).await;
        publishers.push((stream, topic(number % SESSIONS)));
    }
    let begun = Instant::now();
    let tasks: Vec<_> = publishers
        .into_iter()
        .map(|(stream, topic)| tokio::spawn(flood(stream, topic)))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    begun.elapsed()
}

async fn flood(mut stream: TcpStream, topic: String) {
    let (mut sent, mut acknowledged) = (0, 0);
    let mut input = [0; 4096];
    let mut partial = 0;
    while acknowledged < EACH {
        let mut output = Vec::new();
        while sent < EACH && sent - acknowledged < WINDOW {
            let mut body = Vec::new();
            string(&mut body, &topic);
            body.extend(u16::try_from(sent % 60_000 + 1).unwrap().to_be_bytes());
            body.extend([b'x'; 64]);
            packet(&mut output, 0x32, &body);
            sent += 1;
        }
        stream.write_all(&output).await.unwrap();
        let count = stream.read(&mut input).await.unwrap();
        assert!(count > 0, "the broker ended the connection");
        // A PUBACK of 3.1.1 has four bytes.
        partial += count;
        acknowledged += partial / 4;
        partial %= 4;
    }
}

fn topic(session: usize) -> String {
    format!("lab/{session}")
}

async fn connect(address: SocketAddr, id: &str, clean: bool) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut body = Vec::new();
    string(&mut body, "MQTT");
    body.extend([4, if clean { 2 } else { 0 }, 0, 0]);
    string(&mut body, id);
    send(&mut stream, 0x10, &body).await;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    stream
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text.as_bytes());
}

/// Bodies here are shorter than 128 bytes.
fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.extend([first, u8::try_from(body.len()).unwrap()]);
    out.extend(body);
}

async fn send(stream: &mut TcpStream, first: u8, body: &[u8]) {
    let mut out = Vec::new();
    packet(&mut out, first, body);
    stream.write_all(&out).await.unwrap();
}
