//! Waiting for one's turn, in time that only the test moves: what counts against the connect
//! deadline, and what does not.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use portcullis_core::broker::Broker;
use portcullis_core::gate::{Endpoint, Listener, Transport};
use portcullis_core::hook::{
    Accepted, Attempt, Authenticator, BoxFuture, Credential, Identity, Lease, Outcome, Principal,
    Standing, StopClock, Use,
};
use portcullis_core::settings::Settings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};

const SECOND: Duration = Duration::from_secs(1);
/// Of work for each login.
const WORK: Duration = Duration::from_secs(3);
const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];

/// One login at a time. The others wait, and stop the clock meanwhile or not.
struct Turnstile {
    slot: Semaphore,
    asked: AtomicUsize,
    stops_the_clock: bool,
}

impl Authenticator for Turnstile {
    fn name(&self) -> &'static str {
        "turnstile"
    }

    fn authenticate<'a>(&'a self, attempt: &'a Attempt<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let stopped = self.stops_the_clock.then(|| attempt.clock.stop());
            let _slot = self.slot.acquire().await.unwrap();
            drop(stopped);
            tokio::time::sleep(WORK).await;
            Outcome::Accepted(Accepted {
                identity: Identity::new(Principal::vouched("user", "u").unwrap()),
                lease: Lease {
                    until: None,
                    credential: Credential::new("turnstile", ""),
                },
                data: None,
            })
        })
    }

    fn standing(&self, _: &Credential, _: Use) -> Standing {
        Standing::Good
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// What a client with this id is told; nothing where the connection just ends.
async fn log_in(address: SocketAddr, id: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let id = format!("{id:04}");
    let mut connect = vec![0x10, 16, 0, 4];
    connect.extend_from_slice(b"MQTT\x04\x02\0\x3c\0\x04");
    connect.extend_from_slice(id.as_bytes());
    stream.write_all(&connect).await.unwrap();
    let mut answer = [0; 4];
    match stream.read(&mut answer).await {
        Ok(count) => answer.get(..count).unwrap().to_vec(),
        Err(_) => Vec::new(),
    }
}

/// So many clients come at once; after how many seconds each was told what.
async fn come_at_once(clients: usize, stops_the_clock: bool) -> Vec<(u64, Vec<u8>)> {
    // As long as there is blocking work, paused time does not move by itself.
    let (done, wait) = mpsc::channel::<()>();
    let standstill = tokio::task::spawn_blocking(move || wait.recv().is_ok());
    let turnstile = Arc::new(Turnstile {
        slot: Semaphore::new(1),
        asked: AtomicUsize::new(0),
        stops_the_clock,
    });
    let broker = Broker::builder()
        .settings(Settings::default())
        .listener(Listener {
            name: "test".into(),
            endpoint: Endpoint::Tcp("127.0.0.1:0".parse().unwrap()),
            transport: Transport::Mqtt,
            trusted_proxies: None,
            tls: None,
            methods: None,
        })
        .authenticator(Arc::clone(&turnstile) as Arc<dyn Authenticator>)
        .start()
        .unwrap();
    let address = broker.addresses().first().unwrap().1.unwrap();
    let mut logins = JoinSet::new();
    for id in 0..clients {
        logins.spawn(log_in(address, id));
    }
    while turnstile.asked.load(Ordering::Relaxed) < clients {
        yield_now().await;
    }
    let mut told = Vec::new();
    for second in 0..1000 {
        // What has happened reaches the clients over sockets.
        for _ in 0..200 {
            yield_now().await;
            while let Some(answer) = logins.try_join_next() {
                told.push((second, answer.unwrap()));
            }
        }
        if told.len() == clients {
            break;
        }
        tokio::time::advance(SECOND).await;
    }
    drop(done);
    standstill.await.unwrap();
    told
}

/// So many who begin a handshake and say no more stand before somebody in the queue for the one
/// place that there is; after how many seconds that one is told what.
async fn behind_strangers(strangers: usize) -> (u64, Vec<u8>) {
    let (done, wait) = mpsc::channel::<()>();
    let standstill = tokio::task::spawn_blocking(move || wait.recv().is_ok());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    let mut settings = Settings::default();
    settings.limits.handshakes = 1;
    let broker = Broker::builder()
        .settings(settings)
        .listener(Listener {
            name: "test".into(),
            endpoint: Endpoint::Tcp("127.0.0.1:0".parse().unwrap()),
            transport: Transport::Mqtt,
            trusted_proxies: None,
            tls: Some(Arc::new(tls)),
            methods: None,
        })
        .start()
        .unwrap();
    let address = broker.addresses().first().unwrap().1.unwrap();
    let mut held = Vec::new();
    let begin = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // It is in the queue before the next one comes.
        for _ in 0..200 {
            yield_now().await;
        }
        stream
    };
    for _ in 0..strangers {
        held.push(begin(&[0x16]).await);
    }
    // What is no TLS is told so, when it is looked at.
    let mut stream = begin(b"GET / HTTP/1.1\r\n\r\n").await;
    let mut answer = [0; 64];
    let mut told = None;
    for second in 0..1000 {
        for _ in 0..200 {
            yield_now().await;
            if let Ok(count) = stream.try_read(&mut answer) {
                told = Some((second, answer.get(..count).unwrap().to_vec()));
                break;
            }
        }
        if told.is_some() {
            break;
        }
        tokio::time::advance(SECOND).await;
    }
    let _ = stream.shutdown().await;
    drop(done);
    standstill.await.unwrap();
    told.unwrap()
}

/// For listeners whose handshakes do not come so far.
#[derive(Debug)]
struct NoCertificate;

impl rustls::server::ResolvesServerCert for NoCertificate {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

#[test]
fn waiting_for_a_place_in_the_handshake_does_not_count() {
    // Each stranger holds the place for ten seconds, which is also the deadline.
    let (second, told) = in_paused_time(behind_strangers(3));
    assert!((29..=32).contains(&second), "{second}");
    assert_eq!(told.first(), Some(&0x15), "an alert: {told:x?}");
}

fn in_paused_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let result = runtime.block_on(test);
    runtime.shutdown_background();
    result
}

#[test]
fn who_waits_for_a_slot_is_let_in_however_long_the_work_of_the_others_takes() {
    // A minute of work, with ten seconds from accept to CONNACK.
    let told = in_paused_time(come_at_once(20, true));
    assert!(
        told.iter().all(|(_, answer)| *answer == ACCEPTED),
        "{told:?}"
    );
    assert_eq!(told.len(), 20);
    assert!(told.last().unwrap().0 >= 57, "{told:?}");
}

#[test]
fn waiting_that_is_not_declared_counts() {
    let told = in_paused_time(come_at_once(20, false));
    let let_in = told
        .iter()
        .filter(|(_, answer)| *answer == ACCEPTED)
        .count();
    assert_eq!((let_in, told.len()), (3, 20), "{told:?}");
    assert!(told.last().unwrap().0 <= 11, "{told:?}");
}

#[test]
fn nobody_waits_for_ever() {
    // Ten minutes of work.
    let told = in_paused_time(come_at_once(200, true));
    let most = StopClock::MOST.as_secs();
    let last = told.last().unwrap().0;
    assert!((most..most + 15).contains(&last), "{last}");
    assert!(told.iter().any(|(_, answer)| answer.is_empty()));
    let let_in = told.iter().filter(|(_, answer)| *answer == ACCEPTED);
    assert!(let_in.count() >= 40, "{told:?}");
}
