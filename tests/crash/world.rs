//! What the clients and the one who kills share, and what must be true between them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_core::wire::{Delivery, PacketId, QoS, Version};
use serde_json::json;

use crate::harness::{self, ANNA, Broker, eventually};
use crate::link::{Got, Link, Who};
use crate::{END, PUBLISHERS, TOPIC};

/// What a publisher knows of its retained topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) sent: u32,
    pub(crate) acknowledged: u32,
}

impl Kept {
    /// Every fourth state is "nothing".
    pub(crate) fn clears(number: u32) -> bool {
        number.is_multiple_of(4)
    }
}

/// See the module.
pub(crate) struct World {
    /// Signs tokens.
    key: Vec<u8>,
    /// How much a crash may lose; nothing, unless the mode says otherwise.
    pub(crate) window: Duration,
    place: Mutex<Place>,
    /// Acknowledgements and deliveries so far.
    pub(crate) progress: AtomicU64,
    pub(crate) subscribed: AtomicU64,
    /// No more load.
    pub(crate) finish: AtomicBool,
    /// Nothing more to wait for.
    pub(crate) over: AtomicBool,
    /// When.
    pub(crate) acknowledged: Mutex<BTreeMap<String, Instant>>,
    /// By subscriber.
    pub(crate) got: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
    pub(crate) retained: Mutex<[Kept; PUBLISHERS]>,
}

/// Where the broker is.
#[derive(Default)]
struct Place {
    /// How often it was started.
    starts: u64,
    /// When it was started last.
    since: Option<Instant>,
    /// Where it is if it runs.
    address: Option<SocketAddr>,
    crashes: Vec<Instant>,
}

impl World {
    pub(crate) fn new(broker: &Broker, window: Duration) -> Self {
        Self {
            key: std::fs::read(broker.setup.path("tokens/issuer.key")).unwrap(),
            window,
            place: Mutex::default(),
            progress: AtomicU64::new(0),
            subscribed: AtomicU64::new(0),
            finish: AtomicBool::new(false),
            over: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            got: Mutex::default(),
            retained: Mutex::default(),
        }
    }

    /// One with a password, the others with tokens.
    pub(crate) fn who<'a>(&self, name: &'a str, version: Version) -> Who<'a> {
        let (user, password) = if name == "always-1" {
            (ANNA.0, ANNA.1.to_owned())
        } else {
            ("", harness::sign(&self.key, &json!({ "sub": name })))
        };
        Who {
            name,
            user,
            password,
            version,
            clean: false,
            will: None,
        }
    }

    fn passing<'a>(&self, name: &'a str) -> Who<'a> {
        Who {
            clean: true,
            ..self.who(name, Version::V3_1_1)
        }
    }

    pub(crate) fn up(&self, broker: &Broker) {
        let mut place = self.place.lock().unwrap();
        place.starts += 1;
        place.since = Some(Instant::now());
        place.address = Some(broker.address("local"));
    }

    pub(crate) fn down(&self) {
        let mut place = self.place.lock().unwrap();
        place.address = None;
        place.crashes.push(Instant::now());
    }

    /// How long the broker has been running.
    pub(crate) fn running(&self) -> Duration {
        let since = self.place.lock().unwrap().since;
        since.unwrap().elapsed()
    }

    /// What was acknowledged and never got to `name`, unless a crash may have lost it.
    pub(crate) fn lost(&self, got: &BTreeSet<String>) -> Vec<String> {
        let place = self.place.lock().unwrap();
        let forgiven = |at: &Instant| {
            let mut crashes = place.crashes.iter();
            !self.window.is_zero()
                && crashes.any(|crash| at <= crash && *at + self.window >= *crash)
        };
        let acknowledged = self.acknowledged.lock().unwrap();
        let missing = acknowledged.iter().filter(|(text, _)| !got.contains(*text));
        missing
            .filter(|(_, at)| !forgiven(at))
            .map(|(text, _)| text.clone())
            .collect()
    }

    pub(crate) fn acknowledge(&self, text: &str) {
        let place = self.place.lock().unwrap();
        // What is read after a crash was sent before it.
        let crash = place.crashes.last().filter(|_| place.address.is_none());
        let at = crash.copied().unwrap_or_else(Instant::now);
        let mut acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.insert(text.to_owned(), at);
    }

    pub(crate) fn progress(&self) {
        self.progress.fetch_add(1, Ordering::SeqCst);
    }

    /// Runs `session` again and again, at most once for each start of the broker that `takes` takes,
    /// until it says that it is done.
    pub(crate) fn again(
        &self,
        takes: impl Fn(u64) -> bool,
        mut session: impl FnMut(SocketAddr) -> io::Result<bool>,
    ) {
        let mut last = 0;
        loop {
            let (start, address) = eventually("a broker to connect to", || {
                let place = self.place.lock().unwrap();
                let start = place.starts;
                let wanted = start > last && (takes(start) || self.finish.load(Ordering::SeqCst));
                Some((start, place.address.filter(|_| wanted)?))
            });
            match session(address) {
                Ok(true) => return,
                Ok(false) => last = start,
                Err(error) => {
                    let place = self.place.lock().unwrap();
                    // The broker says goodbye only when it is killed.
                    assert!(
                        place.starts > start || place.address.is_none(),
                        "{error}, and nobody was killed"
                    );
                    last = start;
                }
            }
        }
    }

    /// What is retained lies between what was acknowledged before and what was sent after.
    pub(crate) fn check_retained(&self, broker: &Broker, floors: &[Kept; PUBLISHERS]) {
        let who = self.passing("checker");
        let (mut link, _) = Link::connect(broker.address("local"), &who).unwrap();
        link.subscribe("lab/retained/+", QoS::AtLeastOnce).unwrap();
        // Comes after what is retained; an answer to PINGREQ may overtake messages.
        let end = Delivery::AtLeastOnce {
            id: PacketId::MIN,
            dup: false,
        };
        link.publish("lab/retained/end", END, end, false).unwrap();
        let mut found = [None; PUBLISHERS];
        loop {
            match link.receive().unwrap() {
                Got::Message {
                    topic,
                    payload,
                    retain: true,
                    ..
                } => {
                    let publisher: usize = topic.rsplit('/').next().unwrap().parse().unwrap();
                    found[publisher] = Some(payload.parse::<u32>().unwrap());
                }
                Got::Message { payload, .. } if payload == END => break,
                _ => {}
            }
        }
        let now = *self.retained.lock().unwrap();
        for publisher in 0..PUBLISHERS {
            let mut possible = floors[publisher].acknowledged..=now[publisher].sent;
            let fits = match found[publisher] {
                Some(number) => possible.contains(&number) && !Kept::clears(number),
                // Number 0 stands for the time before the first.
                None => possible.any(Kept::clears),
            };
            assert!(
                fits,
                "retained: {:?}, not in {possible:?}",
                found[publisher]
            );
        }
    }

    /// A last message, which comes to every subscriber after all others.
    pub(crate) fn say_end(&self, address: SocketAddr) {
        let (mut link, _) = Link::connect(address, &self.passing("last")).unwrap();
        for topic in [TOPIC, "lab/will/end"] {
            let id = PacketId::MIN;
            let delivery = Delivery::AtLeastOnce { id, dup: false };
            link.publish(topic, END, delivery, false).unwrap();
            while !matches!(link.receive().unwrap(), Got::Ack(_)) {}
        }
    }
}
