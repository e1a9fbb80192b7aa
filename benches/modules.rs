//! What policy, limits, bans, record and observation cost together: a message through the engine
//! with all of them, and with none. Prints both and the difference; processor time is taken, and
//! the two take turns, so that other work on the machine does not blur it.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed bench")]

#[path = "../core/benches/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{identity, open_world, publish, send, subscribe, thread_time};
use portcullis::keeper::Keeper;
use portcullis_acl::{Acl, Policy, Source, Sources};
use portcullis_anomaly::{Bans, Limiter, Rate, Settings as Limits};
use portcullis_audit::{Audit, AuditSettings};
use portcullis_core::benching::{Chains, Client, World};
use portcullis_core::clock::Now;
use portcullis_core::settings::Settings;
use portcullis_core::wire::Version;

/// Messages in one read.
const BATCH: u16 = 64;

/// Batches in one round.
const BATCHES: u32 = 2000;

/// Rounds of each; the best counts.
const ROUNDS: usize = 25;

const POLICY: &str = "\
p, role:device, devices/{name}/telemetry, publish, allow
p, role:device, devices/{name}/secret/#, publish, deny
p, role:device, devices/+/admin/#, publish, deny
p, role:watcher, devices/+/telemetry, subscribe, allow
g, user:device, role:device
g, user:watcher, role:watcher
";

/// A broker with everything that the program registers, and limits that are not met.
fn locked_down(directory: &std::path::Path, now: Now) -> (World, Arc<Audit>) {
    let sources = Sources {
        policies: vec![Source::new("policy.csv", POLICY)],
        ..Sources::default()
    };
    let acl = Arc::new(Acl::new(Policy::load(&sources).unwrap().policy));
    acl.tick(now.wall);
    let rate = Rate::new(1_000_000_000_000, Duration::from_secs(1)).unwrap();
    let limits = Limits {
        publish_rate: rate,
        publish_bandwidth: rate,
        fan_out_rate: rate,
        fan_out_bandwidth: rate,
        ..Limits::default()
    };
    let audit = Audit::start(AuditSettings::new(directory.join("audit"))).unwrap();
    let audit = Arc::new(audit);
    let chains = Chains {
        authenticators: vec![Arc::new(common::Open)],
        authorizers: vec![Arc::clone(&acl) as _],
        admissions: vec![
            Arc::new(Bans::load(directory.join("bans.json"), now).unwrap()),
            Arc::new(Limiter::new(limits, now)),
        ],
        observers: vec![Arc::clone(&audit) as _, Arc::new(Keeper::new(acl, None))],
    };
    (World::new(Settings::default(), chains), audit)
}

/// A device and who watches it.
struct Pair {
    device: Client,
    watcher: Client,
    packets: Vec<u8>,
}

impl Pair {
    fn new(world: &World) -> Self {
        let connect = |name| {
            world
                .connect(identity(name), name, Version::V3_1_1)
                .unwrap()
        };
        let mut watcher = connect("watcher");
        send(
            &mut watcher,
            &subscribe(&["devices/+/telemetry".to_owned()], 0),
        );
        Self {
            device: connect("device"),
            watcher,
            packets: (0..BATCH)
                .flat_map(|_| publish("devices/device/telemetry", None))
                .collect(),
        }
    }

    /// Processor time of one message.
    fn round(&mut self) -> Duration {
        let used = thread_time();
        for _ in 0..BATCHES {
            let now = Now::read();
            self.device.send(&self.packets, now).unwrap();
            self.device.take(now);
            assert!(self.watcher.take(now).len() > self.packets.len() / 2);
        }
        thread_time().saturating_sub(used) / (BATCHES * u32::from(BATCH))
    }
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let (with, audit) = locked_down(directory.path(), Now::read());
    let without = open_world();
    let (mut with, mut without) = (Pair::new(&with), Pair::new(&without));
    let (mut on, mut off) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        on = on.min(with.round());
        off = off.min(without.round());
    }
    audit.stop(Now::read());
    let more = on.saturating_sub(off);
    println!(
        "a message costs {} ns with policy, limits, bans, record and observation, {} ns without: \
         {} ns or {:.1} % more (target: 60 ns or 10 %, whichever is more)",
        on.as_nanos(),
        off.as_nanos(),
        more.as_nanos(),
        more.as_secs_f64() / off.as_secs_f64() * 100.0
    );
}
