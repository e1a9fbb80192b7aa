//! `kill -9` at moments of a seed's choosing, under load, with the real binary.
//!
//! Publishers send `QoS` 1 and 2 messages and resend after each crash as the protocol says;
//! subscribers with persistent sessions come back, one of them only every other time. One client
//! changes its subscriptions all the time, others leave wills. They show tokens or a password. What
//! must be true in the end:
//!
//! - every message that was acknowledged reached every subscriber,
//! - no `QoS` 2 message reached an application twice, and those of one sender came in order,
//! - what is retained is the last acknowledged state, or a later one that was sent,
//! - a session whose CONNACK was seen is still there,
//! - a subscription is there if its SUBACK was seen, and not if its UNSUBACK was,
//! - a will is published once, half a minute after the last start at the earliest, and not at all if
//!   its client came back or had said goodbye,
//! - `store check` calls what a crash leaves sound.
//!
//! Once with the defaults; once encrypted and with small files, so that what is superfluous is let
//! go of all the time; and once with `mode = "interval"`, where all but the last interval must be
//! there, `QoS` 2 and what was acknowledged after the crash included.
//!
//! `PORTCULLIS_CRASHES` sets the number of crashes, `PORTCULLIS_CRASH_SEED` another choice of
//! moments.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "what is not as it should be is a failed test"
)]

mod chooser;
mod clients;
#[path = "../e2e/harness.rs"]
#[expect(dead_code, reason = "most of it is for other tests")]
mod harness;
mod link;
mod wills;
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use portcullis_core::wire::QoS;

use chooser::Chooser;
use clients::{Publisher, Subscriber};
use harness::{Broker, PORTCULLIS, Setup, eventually, launch};
use wills::Wills;
use world::World;

const PUBLISHERS: usize = 3;
/// Messages that a publisher has under way. Identifiers are few too, so that they are used again
/// at once: a broker that forgets that one is free, or remembers too long, loses messages.
const WINDOW: usize = 8;
/// A crash comes after at most this many acknowledgements since the start.
const CALM: u64 = 250;
/// The crash comes at most this long after the acknowledgement that it waits for.
const JITTER_MICROS: u64 = 3000;
const TOPIC: &str = "lab/crash";
const END: &str = "end";

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let broker = start("mode = \"fsync\"\n", |_| ());
    crash(broker, Duration::ZERO);
}

#[test]
fn so_it_does_encrypted_and_while_the_store_lets_go_of_what_is_superfluous() {
    let broker = start(
        "mode = \"fsync\"\nsegment-size = \"64 KiB\"\nkey-file = \"store.key\"\n",
        |setup| {
            let path = setup.path("store.key");
            fs::write(&path, "0f".repeat(32)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        },
    );
    let broker = crash(broker, Duration::ZERO);
    let segments = fs::read_dir(broker.setup.path("data/store")).unwrap();
    let first = segments
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".log")?.parse::<u64>().ok()
        })
        .min();
    assert!(first > Some(1), "nothing was ever let go of");
}

#[test]
fn in_interval_mode_a_kill_loses_the_last_interval_at_most() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let broker = start("mode = \"interval\"\ninterval = \"200 ms\"\n", |_| ());
    // Writing and syncing take their time too, and machines are slow at times.
    crash(broker, INTERVAL + Duration::from_secs(1));
}

fn start(durability: &str, change: impl FnOnce(&mut Setup)) -> Broker {
    Broker::start(|setup| {
        setup.limits += "publish-rate = \"100000/s\"\nqueue-messages = 100000\n";
        setup.more += &["[durability]\n", durability].concat();
        change(setup);
    })
}

/// Kills it again and again; `window`: how much that may lose.
fn crash(mut broker: Broker, window: Duration) -> Broker {
    let number =
        |name, default| std::env::var(name).map_or(default, |text| text.parse::<u64>().unwrap());
    let crashes = number("PORTCULLIS_CRASHES", 25);
    let seed = number("PORTCULLIS_CRASH_SEED", 0x5eed);
    println!("PORTCULLIS_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let world = Arc::new(World::new(&broker, window));
    world.up(&broker);
    let exact = window.is_zero();
    // With a window QoS 2 is exactly once for nobody.
    let (always, at_times) = if exact {
        (QoS::ExactlyOnce, QoS::ExactlyOnce)
    } else {
        (QoS::AtLeastOnce, QoS::AtLeastOnce)
    };
    let clients: Vec<_> = [
        ("always-2", always, 1),
        ("at-times-2", at_times, 2),
        ("always-1", QoS::AtLeastOnce, 1),
    ]
    .map(|(name, qos, every)| Subscriber::begin(&world, name, qos, every))
    .into();
    let subscribers = clients.len() as u64;
    eventually("all are subscribed", || {
        (world.subscribed.load(Ordering::SeqCst) == subscribers).then_some(())
    });
    let publishers = (0..PUBLISHERS).map(|number| Publisher::begin(&world, number));
    let publishers: Vec<_> = publishers.collect();
    let wills = exact.then(|| Wills::begin(&world, &broker));
    let chooser = exact.then(|| Chooser::begin(&world, seed));
    // Sessions are older than what may be lost.
    thread::sleep(window);

    for crash in 0..crashes {
        let target = world.progress.load(Ordering::SeqCst) + random.below(CALM);
        eventually("messages are acknowledged", || {
            let ended = |thread: &JoinHandle<()>| thread.is_finished();
            let mut all = clients.iter().chain(&publishers).chain(&chooser);
            assert!(!all.any(ended), "crash {crash}: a client failed");
            (world.progress.load(Ordering::SeqCst) >= target).then_some(())
        });
        if let Some(wills) = &wills {
            wills.before(crash + 1 == crashes, &broker);
        }
        thread::sleep(Duration::from_micros(random.below(JITTER_MICROS)));
        if crash % 5 == 0 {
            // So that not all that came after the crash before is in the window of this one.
            thread::sleep(window);
        }
        world.down();
        broker.kill();
        if random.below(4) == 0 {
            broker.ask(&["store", "check"]).succeeded();
        }
        if random.below(4) == 0 {
            let mut command = Command::new(PORTCULLIS);
            command.args(["run", "--config"]).arg(broker.setup.config());
            let (mut child, _) = launch(&mut command);
            thread::sleep(Duration::from_millis(random.below(200)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        broker.restart();
        let floors = *world.retained.lock().unwrap();
        world.up(&broker);
        if exact {
            world.check_retained(&broker, &floors);
        }
    }

    world.finish.store(true, Ordering::SeqCst);
    for client in publishers.into_iter().chain(chooser) {
        client.join().unwrap();
    }
    if let Some(wills) = &wills {
        wills.check();
    }
    world.over.store(true, Ordering::SeqCst);
    world.say_end(broker.address("local"));
    for client in clients {
        client.join().unwrap();
    }
    if let Some(wills) = wills {
        wills.join();
    }
    let count = world.acknowledged.lock().unwrap().len();
    println!("{crashes} crashes, {count} messages acknowledged");
    for (name, got) in &*world.got.lock().unwrap() {
        let lost = world.lost(got);
        let some = lost.iter().take(10).collect::<Vec<_>>();
        assert!(lost.is_empty(), "{name} never got {} {some:?}", lost.len());
    }
    let floors = *world.retained.lock().unwrap();
    if exact {
        world.check_retained(&broker, &floors);
    }
    broker
}

/// `SplitMix64`.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
