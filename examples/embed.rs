//! A broker inside another program, with a module of its own: every refusal is printed.
//!
//! Run it, then: `mosquitto_sub -p 18830 -t 'lab/#'` and `mosquitto_pub -p 18830 -t lab/x -m 1`

use std::sync::Arc;

use portcullis_acl::{Acl, Policy, Source, Sources};
use portcullis_auth::{Desk, Settings};
use portcullis_core::broker::Broker;
use portcullis_core::clock::Now;
use portcullis_core::gate::{Endpoint, Listener, Transport};
use portcullis_core::hook::{Event, Observer, Snapshot, Tally};

/// Our module: an observer of what happens.
struct Alarm;

impl Observer for Alarm {
    fn name(&self) -> &'static str {
        "alarm"
    }
    fn event(&self, event: &Event<'_>, _: Now) {
        println!("{event:?}");
    }
    fn tally(&self, _: &Snapshot) -> Option<Box<dyn Tally>> {
        None
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = "p, *, lab/#, publish, allow\np, *, lab/#, subscribe, allow\n";
    let sources = Sources {
        policies: vec![Source::new("built in", policy)],
        ..Sources::default()
    };
    let policy = Policy::load(&sources).map_err(|errors| format!("{errors:?}"))?;
    let settings = Settings {
        anonymous: true,
        ..Settings::default()
    };
    let (desk, _) = Desk::open(settings).map_err(|errors| format!("{errors:?}"))?;
    let broker = Broker::builder()
        .listener(Listener {
            name: "lab".into(),
            endpoint: Endpoint::Tcp("127.0.0.1:18830".parse()?),
            transport: Transport::Mqtt,
            trusted_proxies: None,
            tls: None,
            methods: None,
        })
        .authenticator(Arc::new(desk))
        .authorizer(Arc::new(Acl::new(policy.policy)))
        .observer(Arc::new(Alarm))
        .start()?;
    tokio::signal::ctrl_c().await?;
    broker.stop().await;
    Ok(())
}
