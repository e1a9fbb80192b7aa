//! An `Admission` module of one's own: a maintenance window in which nobody new comes in, and a
//! meter that ends clients which send more than a megabyte between two pings.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_core::clock::Now;
use portcullis_core::hook::{Admission, Arrival, BatchFacts, Meter, Principal, Snapshot, Verdict};
use portcullis_core::wire::ReasonCode;

#[derive(Default)]
struct Maintenance {
    closed: AtomicBool,
}

/// Watches one connection; called once per read batch, by the connection's own task.
struct Appetite {
    bytes: u64,
}

impl Meter for Appetite {
    fn batch(&mut self, facts: &BatchFacts, _: Now) -> Verdict {
        self.bytes = if facts.pings > 0 {
            0
        } else {
            self.bytes + facts.bytes
        };
        if self.bytes <= 1 << 20 {
            return Verdict::Admit;
        }
        Verdict::Refuse {
            code: ReasonCode::QuotaExceeded,
            reason: format!("{} bytes without a ping", self.bytes),
            will: true,
        }
    }
}

impl Admission for Maintenance {
    fn name(&self) -> &'static str {
        "maintenance"
    }

    fn arrive(&self, _: &Arrival<'_>, _: Now) -> Verdict {
        if !self.closed.load(Ordering::Relaxed) {
            return Verdict::Admit;
        }
        Verdict::Refuse {
            code: ReasonCode::ServerUnavailable,
            reason: "maintenance".to_owned(),
            will: true,
        }
    }

    fn attempt(&self, _: &Arrival<'_>, _: Option<&str>, _: Now) -> Verdict {
        Verdict::Admit
    }

    fn admit(&self, _: &Snapshot, _: Now) -> Verdict {
        Verdict::Admit
    }

    fn failed(&self, _: &Arrival<'_>, _: Option<&Principal>, _: Now) {}

    fn watch(&self, _: &Snapshot, _: Now) -> Box<dyn Meter> {
        Box::new(Appetite { bytes: 0 })
    }

    fn in_good_standing(&self, _: &Snapshot, _: Now) -> bool {
        true
    }

    fn generation(&self) -> u64 {
        0
    }
}

fn main() {
    let module = Maintenance::default();
    let arrival = Arrival {
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        listener: "internet",
        proven: false,
    };
    println!("{:?}", module.arrive(&arrival, Now::read()));
    module.closed.store(true, Ordering::Relaxed);
    println!("{:?}", module.arrive(&arrival, Now::read()));
    println!("register it with Broker::builder().admission(..)");
}
