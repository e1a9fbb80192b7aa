//! What is revoked, or ends, while a client is being judged: nobody gets in, or stays, by it. Time
//! moves only when the test says so, so that no sweep looks again by chance.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use portcullis_core::broker::Broker;
use portcullis_core::gate::{Endpoint, Listener, Transport};
use portcullis_core::hook::{
    Accepted, Attempt, Authenticator, BoxFuture, Credential, Identity, Lease, Outcome, Principal,
    Standing, Use,
};
use portcullis_core::settings::Settings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

const SECOND: Duration = Duration::from_secs(1);
/// A failed test ends then.
const PATIENCE: Duration = Duration::from_secs(20);
const REFUSED: &[u8] = b"\x20\x03\x00\x86\x00";
const NOT_AUTHORIZED: &[u8] = b"\xe0\x02\x87\x00";

/// Lets in as `user:u` whoever shows a credential, each when the test says so.
struct Slow {
    known: Mutex<Known>,
    generation: AtomicU64,
    let_on: Semaphore,
    judging: AtomicUsize,
    asked: AtomicUsize,
}

#[derive(Default)]
struct Known {
    revoked: BTreeSet<String>,
    /// Revoked as soon as they have been called good once more.
    soon: BTreeSet<String>,
    /// When what is shown from now on ends.
    until: Option<SystemTime>,
}

impl Slow {
    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap());
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn revoke(&self, shown: &str) {
        self.change(|known| assert!(known.revoked.insert(shown.into())));
    }
}

impl Authenticator for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn authenticate<'a>(&'a self, attempt: &'a Attempt<'a>) -> BoxFuture<'a, Outcome> {
        let (_, shown) = attempt.enhanced.unwrap();
        let shown = String::from_utf8(shown.unwrap().expose().to_vec()).unwrap();
        Box::pin(async move {
            self.judging.fetch_add(1, Ordering::Release);
            self.let_on.acquire().await.unwrap().forget();
            Outcome::Accepted(Accepted {
                identity: Identity::new(Principal::vouched("user", "u").unwrap()),
                lease: Lease {
                    until: self.known.lock().unwrap().until,
                    credential: Credential::new("slow", &shown),
                },
                data: None,
            })
        })
    }

    fn standing(&self, credential: &Credential, _: Use) -> Standing {
        self.asked.fetch_add(1, Ordering::Release);
        let mut known = self.known.lock().unwrap();
        let name = &*credential.reference;
        if known.revoked.contains(name) {
            return Standing::Revoked("revoked".to_owned());
        }
        if known.soon.remove(name) {
            known.revoked.insert(name.to_owned());
            self.generation.fetch_add(1, Ordering::Release);
        }
        Standing::Good
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// A broker in time that stands still.
struct Still {
    slow: Arc<Slow>,
    broker: Broker,
    address: SocketAddr,
    /// Dropped, it lets time move by itself.
    _standstill: mpsc::Sender<()>,
    /// Time has moved by itself: what has come since then may have come of a sweep.
    moved: Arc<AtomicBool>,
}

impl Still {
    fn new() -> Self {
        // As long as there is blocking work, paused time does not move by itself.
        let (still, wait) = mpsc::channel::<()>();
        let moved = Arc::new(AtomicBool::new(false));
        let late = Arc::clone(&moved);
        tokio::task::spawn_blocking(move || {
            let ended = wait.recv_timeout(PATIENCE);
            late.store(ended == Err(RecvTimeoutError::Timeout), Ordering::Release);
        });
        let slow = Arc::new(Slow {
            known: Mutex::default(),
            generation: AtomicU64::new(0),
            let_on: Semaphore::new(0),
            judging: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
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
            .authenticator(Arc::clone(&slow) as Arc<dyn Authenticator>)
            .start()
            .unwrap();
        let address = broker.addresses().first().unwrap().1.unwrap();
        Self {
            slow,
            broker,
            address,
            _standstill: still,
            moved,
        }
    }

    /// A client that has sent its CONNECT with this credential, which is being judged.
    async fn comes(&self, shown: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let properties = shows(shown);
        let length = u8::try_from(properties.len()).unwrap();
        let head = [b"\x00\x04MQTT\x05", &[2, 0, 60, length][..]].concat();
        let connect = [&head, &properties, &b"\x00\x01c"[..]].concat();
        self.says(&mut stream, 0x10, &connect).await;
        stream
    }

    /// One that is in by it.
    async fn is_in_by(&self, shown: &str) -> TcpStream {
        let mut stream = self.comes(shown).await;
        self.slow.let_on.add_permits(1);
        assert_eq!(next(&mut stream).await.get(3), Some(&0), "{shown}");
        stream
    }

    /// It shows another one, which is being judged.
    async fn renews_by(&self, stream: &mut TcpStream, shown: &str) {
        self.says(stream, 0xf0, &auth(0x19, shown)).await;
    }

    async fn says(&self, stream: &mut TcpStream, first: u8, body: &[u8]) {
        let judging = self.slow.judging.load(Ordering::Acquire);
        let length = u8::try_from(body.len()).unwrap();
        let packet = [&[first, length], body].concat();
        stream.write_all(&packet).await.unwrap();
        while self.slow.judging.load(Ordering::Acquire) == judging {
            yield_now().await;
        }
    }

    /// The sweep after a change asks about who is connected.
    async fn is_swept(&self) {
        let asked = self.slow.asked.load(Ordering::Acquire);
        tokio::time::advance(SECOND).await;
        while self.slow.asked.load(Ordering::Acquire) == asked {
            yield_now().await;
        }
    }
}

/// The body of an AUTH.
fn auth(reason: u8, shown: &str) -> Vec<u8> {
    let properties = shows(shown);
    let length = u8::try_from(properties.len()).unwrap();
    [&[reason, length], &properties[..]].concat()
}

/// Authentication Method and Data.
fn shows(credential: &str) -> Vec<u8> {
    let length = u8::try_from(credential.len()).unwrap();
    [
        &b"\x15\x00\x04SLOW\x16\x00"[..],
        &[length],
        credential.as_bytes(),
    ]
    .concat()
}

async fn next(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    let mut body = vec![0; head[1].into()];
    stream.read_exact(&mut body).await.unwrap();
    [&head[..], &body].concat()
}

/// All that comes up to the close, which must come.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    rest
}

async fn is_alive(stream: &mut TcpStream) -> bool {
    stream.write_all(b"\xc0\x00").await.unwrap();
    next(stream).await == b"\xd0\x00"
}

fn in_still_time(test: impl AsyncFnOnce(&Still)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let still = Still::new();
        let test = async { test(&still).await };
        tokio::time::timeout(1000 * SECOND, test).await.unwrap();
        assert!(!still.moved.load(Ordering::Acquire), "nothing came in time");
        drop(still.broker);
    });
    runtime.shutdown_background();
}

#[test]
fn a_credential_that_is_revoked_while_it_is_judged_lets_nobody_in_and_touches_nothing() {
    in_still_time(async |still| {
        let mut owner = still.is_in_by("old").await;
        let mut stream = still.comes("new").await;
        still.slow.revoke("new");
        still.is_swept().await;
        still.slow.let_on.add_permits(1);
        assert_eq!(rest(&mut stream).await, REFUSED);
        assert!(is_alive(&mut owner).await);
    });
}

#[test]
fn a_credential_that_ends_while_it_is_judged_lets_nobody_in() {
    in_still_time(async |still| {
        still
            .slow
            .change(|known| known.until = Some(SystemTime::now()));
        let mut stream = still.comes("new").await;
        still.slow.let_on.add_permits(1);
        assert_eq!(rest(&mut stream).await, REFUSED);
    });
}

#[test]
fn a_credential_that_is_revoked_the_moment_after_it_was_asked_about_ends_its_client_at_once() {
    in_still_time(async |still| {
        let mut stream = still.comes("new").await;
        still
            .slow
            .change(|known| assert!(known.soon.insert("new".into())));
        still.slow.let_on.add_permits(1);
        let told = rest(&mut stream).await;
        assert!(told.ends_with(NOT_AUTHORIZED), "{told:x?}");
    });
}

#[test]
fn a_renewal_by_a_credential_that_is_revoked_while_it_is_judged_ends_the_connection() {
    in_still_time(async |still| {
        let mut stream = still.is_in_by("old").await;
        still.renews_by(&mut stream, "new").await;
        still.slow.revoke("new");
        // Nobody asks about it again afterwards.
        still.is_swept().await;
        still.slow.let_on.add_permits(1);
        assert_eq!(rest(&mut stream).await, NOT_AUTHORIZED);
    });
}

#[test]
fn a_renewal_by_a_credential_that_ends_while_it_is_judged_ends_the_connection() {
    in_still_time(async |still| {
        let mut stream = still.is_in_by("old").await;
        still.renews_by(&mut stream, "new").await;
        still.slow.known.lock().unwrap().until = Some(SystemTime::now());
        still.slow.let_on.add_permits(1);
        assert_eq!(rest(&mut stream).await, NOT_AUTHORIZED);
    });
}

#[test]
fn a_renewal_that_is_revoked_the_moment_after_it_was_asked_about_ends_the_connection_at_once() {
    in_still_time(async |still| {
        let mut stream = still.is_in_by("old").await;
        still.renews_by(&mut stream, "new").await;
        still
            .slow
            .change(|known| assert!(known.soon.insert("new".into())));
        still.slow.let_on.add_permits(1);
        let told = rest(&mut stream).await;
        assert!(told.ends_with(NOT_AUTHORIZED), "{told:x?}");
    });
}

#[test]
fn after_a_renewal_the_new_credential_counts_and_the_old_one_no_more() {
    in_still_time(async |still| {
        let mut stream = still.is_in_by("old").await;
        still.renews_by(&mut stream, "new").await;
        still.slow.let_on.add_permits(1);
        assert_eq!(next(&mut stream).await.get(..1).unwrap(), b"\xf0");
        still.slow.revoke("old");
        still.is_swept().await;
        assert!(is_alive(&mut stream).await);
        still.slow.revoke("new");
        still.is_swept().await;
        assert_eq!(rest(&mut stream).await, NOT_AUTHORIZED);
    });
}

#[test]
fn an_auth_while_the_one_before_it_is_judged_ends_the_connection() {
    in_still_time(async |still| {
        for reason in [0x18, 0x19] {
            let mut stream = still.is_in_by("old").await;
            still.renews_by(&mut stream, "new").await;
            let body = auth(reason, "newer");
            let length = u8::try_from(body.len()).unwrap();
            let packet = [&[0xf0, length], &body[..]].concat();
            stream.write_all(&packet).await.unwrap();
            assert_eq!(rest(&mut stream).await, b"\xe0\x02\x82\x00", "{reason:x}");
        }
    });
}
