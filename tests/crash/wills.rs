//! Clients that leave wills, and one that reads them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portcullis_core::wire::{Delivery, Packet, QoS, Version};

use crate::END;
use crate::harness::{Broker, eventually};
use crate::link::{Got, Link, Who};
use crate::world::World;

/// A will that a broker left behind waits so long for its client.
const PATIENCE: Duration = Duration::from_secs(30);
/// Will Delay Interval of one of them.
const DELAY: Duration = Duration::from_secs(38);

/// See the module.
pub(crate) struct Wills {
    world: Arc<World>,
    /// What was published, and how long the broker had been running then.
    heard: Arc<Mutex<Vec<(String, Duration, Instant)>>>,
    /// When the one with the delay lost its connection.
    left: Mutex<Option<Instant>>,
    threads: Vec<JoinHandle<()>>,
}

impl Wills {
    pub(crate) fn begin(world: &Arc<World>, broker: &Broker) -> Self {
        let heard = Arc::default();
        let mut wills = Self {
            world: Arc::clone(world),
            heard: Arc::clone(&heard),
            left: Mutex::default(),
            threads: Vec::new(),
        };
        let (shared, mut subscribed) = (Arc::clone(world), false);
        let sink = Arc::clone(&heard);
        wills.threads.push(thread::spawn(move || {
            shared.again(|_| true, |at| watch(&shared, at, &mut subscribed, &sink));
        }));
        // Comes back after every crash.
        let shared = Arc::clone(world);
        wills.threads.push(thread::spawn(move || {
            shared.again(
                |_| true,
                |at| {
                    let (mut link, _) = Link::connect(at, &leaving(&shared, "returns", 0))?;
                    link.wait_for_end(|| shared.over.load(Ordering::SeqCst))
                },
            );
        }));
        let address = broker.address("local");
        let quiet = leaving(world, "says-goodbye", 0);
        let (link, _) = Link::connect(address, &quiet).unwrap();
        link.disconnect().unwrap();
        wills
    }

    /// Called before a crash; before the last one some leave what must come later.
    pub(crate) fn before(&self, last: bool, broker: &Broker) {
        if !last {
            return;
        }
        let address = broker.address("local");
        let connect = |name, delay| {
            let (link, _) = Link::connect(address, &leaving(&self.world, name, delay)).unwrap();
            link
        };
        // Ends with the broker.
        std::mem::forget(connect("stays-away", 0));
        drop(connect("delayed", u32::try_from(DELAY.as_secs()).unwrap()));
        *self.left.lock().unwrap() = Some(Instant::now());
        // That it left is on disk when something later is.
        eventually("the broker has seen it go", || {
            let connected = broker.ask(&["client", "list"]).succeeded().out;
            (!connected.contains("delayed")).then_some(())
        });
        Link::connect(address, &self.world.who("later", Version::V5)).unwrap();
    }

    /// Waits for the wills that must come.
    pub(crate) fn check(&self) {
        let named = |name: &str| {
            let heard = self.heard.lock().unwrap();
            let mut found = heard.iter().filter(|(text, ..)| text == name);
            let first = found.next().cloned();
            assert!(found.next().is_none(), "the will of {name} came twice");
            first
        };
        for name in ["stays-away", "delayed"] {
            // Twice the patience of a test.
            let found = (0..2).find_map(|_| crate::harness::poll(|| named(name)));
            let (_, running, at) = found.unwrap_or_else(|| panic!("the will of {name} is lost"));
            assert!(running >= PATIENCE, "the will of {name} after {running:?}");
            if name == "delayed" {
                let left = self.left.lock().unwrap().unwrap();
                assert!(at - left >= DELAY, "too early: {:?}", at - left);
            }
        }
        assert!(self.world.running() > PATIENCE);
        assert_eq!(named("returns"), None);
        assert_eq!(named("says-goodbye"), None);
    }

    /// Waits for the end of those who are still there.
    pub(crate) fn join(self) {
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn leaving<'a>(world: &World, name: &'a str, delay: u32) -> Who<'a> {
    Who {
        will: Some(delay),
        ..world.who(name, Version::V5)
    }
}

fn watch(
    world: &World,
    address: SocketAddr,
    subscribed: &mut bool,
    heard: &Mutex<Vec<(String, Duration, Instant)>>,
) -> io::Result<bool> {
    let (mut link, present) = Link::connect(address, &world.who("watcher", Version::V5))?;
    assert!(present || !*subscribed, "watcher: the session is lost");
    if !*subscribed {
        link.subscribe("lab/will/+", QoS::AtLeastOnce)?;
    }
    loop {
        match link.receive()? {
            Got::SubAck => *subscribed = true,
            Got::Message {
                payload, delivery, ..
            } => {
                if payload == END {
                    return Ok(true);
                }
                if let Delivery::AtLeastOnce { id, dup: false } = delivery {
                    let entry = (payload, world.running(), Instant::now());
                    heard.lock().unwrap().push(entry);
                    link.acknowledge(Packet::PubAck, id)?;
                }
            }
            _ => panic!("watcher: not for a subscriber"),
        }
    }
}
