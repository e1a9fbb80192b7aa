//! What several benchmarks share: a policy that allows all, packets, and processor time.
#![allow(dead_code, reason = "no benchmark uses all of it")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use portcullis_core::benching::{Chains, Client, World};
use portcullis_core::clock::Now;
use portcullis_core::hook::{
    Action, Attempt, Authenticator, Authorizer, BoxFuture, Cover, Credential, Decision, Effort,
    Grants, Identity, MessageFacts, Outcome, Principal, Rule, Snapshot, Standing, Use,
};
use portcullis_core::settings::Settings;
use portcullis_core::topic::{TopicFilter, TopicName};
use portcullis_core::wire::Version;
use rustix::time::{ClockId, clock_gettime};

/// Vouches for everybody, and allows everything.
pub(crate) struct Open;

impl Authenticator for Open {
    fn name(&self) -> &'static str {
        "open"
    }

    fn authenticate<'a>(&'a self, _: &'a Attempt<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(async { Outcome::NotMine })
    }

    fn standing(&self, _: &Credential, _: Use) -> Standing {
        Standing::Good
    }

    fn generation(&self) -> u64 {
        0
    }
}

impl Authorizer for Open {
    fn name(&self) -> &'static str {
        "open"
    }

    fn grants(&self, _: &Snapshot) -> Arc<dyn Grants> {
        Arc::new(Self)
    }

    fn generation(&self) -> u64 {
        0
    }
}

impl Grants for Open {
    fn decide(&self, _: Action, _: TopicName<'_>, _: &MessageFacts) -> Decision {
        Decision::Allow(Rule(0))
    }

    fn share(&self, _: &str) -> Decision {
        Decision::Allow(Rule(0))
    }

    fn cover(&self, _: TopicFilter<'_>, _: &MessageFacts, _: &Effort) -> Cover {
        Cover::Full
    }

    fn describe(&self, _: Rule) -> String {
        "everything".to_owned()
    }
}

/// A broker that allows everything, without limits that a benchmark would meet.
pub(crate) fn open_world() -> World {
    let mut settings = Settings::default();
    settings.limits.subscriptions_per_session = usize::MAX;
    settings.limits.sessions_per_principal = usize::MAX;
    settings.limits.filters_per_subscribe = 10_000;
    World::new(
        settings,
        Chains {
            authenticators: vec![Arc::new(Open)],
            authorizers: vec![Arc::new(Open)],
            ..Chains::default()
        },
    )
}

pub(crate) fn identity(name: &str) -> Identity {
    Identity::new(Principal::vouched("user", name).unwrap())
}

pub(crate) fn client(world: &World, name: &str) -> Client {
    world
        .connect(identity(name), name, Version::V3_1_1)
        .unwrap()
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
    out.extend_from_slice(value.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left % 128).unwrap();
        left /= 128;
        if left == 0 {
            out.push(byte);
            break;
        }
        out.push(byte | 0x80);
    }
    out.extend_from_slice(body);
    out
}

/// A PUBLISH of 3.1.1 with 64 bytes of payload; with `id` it is `QoS` 1.
pub(crate) fn publish(topic: &str, id: Option<u16>) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    if let Some(id) = id {
        body.extend_from_slice(&id.to_be_bytes());
    }
    body.extend_from_slice(&[b'x'; 64]);
    packet(if id.is_some() { 0x32 } else { 0x30 }, &body)
}

/// A SUBSCRIBE of 3.1.1.
pub(crate) fn subscribe(filters: &[String], qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    for filter in filters {
        text(&mut body, filter);
        body.push(qos);
    }
    packet(0x82, &body)
}

/// An UNSUBSCRIBE of 3.1.1.
pub(crate) fn unsubscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    text(&mut body, filter);
    packet(0xa2, &body)
}

/// Sends all of it, and throws away what comes back.
pub(crate) fn send(client: &mut Client, packets: &[u8]) {
    let now = Now::read();
    assert_eq!(client.send(packets, now), Some(packets.len()));
    client.take(now);
}

/// Subscribes clients of a thousand filters each to `count` filters: a tenth end in `+`, a tenth in
/// `#`. Topic n is `site/N/cmd`.
pub(crate) fn populate(world: &World, count: u32) -> Vec<Client> {
    let numbers: Vec<u32> = (0..count).collect();
    let filter = |number: &u32| match number % 10 {
        0 => format!("site/{number}/+"),
        1 => format!("site/{number}/#"),
        _ => format!("site/{number}/cmd"),
    };
    (0..)
        .zip(numbers.chunks(1000))
        .map(|(place, chunk): (u32, _)| {
            let mut client = client(world, &format!("holder-{place}"));
            let filters: Vec<String> = chunk.iter().map(filter).collect();
            send(&mut client, &subscribe(&filters, 0));
            client
        })
        .collect()
}

/// Scattered topics that each match one subscription of [`populate`].
pub(crate) fn topics(count: u32, of: usize) -> Vec<String> {
    (0..of)
        .map(|place| {
            let mixed = (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let mut topic = String::new();
            let _ = write!(topic, "site/{}/cmd", mixed % u64::from(count));
            topic
        })
        .collect()
}

/// Time that the calling thread has spent on a processor: what other work on the machine takes away
/// does not count.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

/// The same as what criterion measures.
pub(crate) struct ThreadTime;

impl Measurement for ThreadTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        thread_time()
    }

    fn end(&self, begun: Duration) -> Duration {
        thread_time().saturating_sub(begun)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Criterion over the processor time of its thread.
pub(crate) fn criterion() -> Criterion<ThreadTime> {
    Criterion::default()
        .with_measurement(ThreadTime)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50)
}
