//! What a decision costs, by size of the policy; what loading and a subscription cost. The cached
//! decision, which a device meets that publishes to few topics, is in `core/benches/engine.rs`.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed bench")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portcullis_acl::tools::Who;
use portcullis_acl::{Acl, Policy, Source, Sources};
use portcullis_core::hook::{Action, Authorizer, Effort, MessageFacts, Snapshot};
use portcullis_core::topic::{TopicFilter, TopicLimits, TopicName};
use portcullis_core::wire::QoS;

fn load(text: &str) -> Policy {
    let sources = Sources {
        policies: vec![Source::new("policy.csv", text)],
        roles_from_credentials: true,
        ..Sources::default()
    };
    Policy::load(&sources).unwrap().policy
}

/// One role with `rules` lines, a tenth of them denies, over a tree of sites, lines and machines.
fn rules(rules: u32) -> String {
    let mut text = String::new();
    for n in 0..rules {
        let (site, line) = (n % 97, n / 97);
        let _ = match n % 10 {
            0 => writeln!(
                text,
                "p, role:device, site-{site}/line-{line}/+/secret/#, publish, deny"
            ),
            1 => writeln!(
                text,
                "p, role:device, site-{site}/+/{{name}}/data, publish, allow"
            ),
            _ => writeln!(
                text,
                "p, role:device, site-{site}/line-{line}/m-{n}/data/+, publish, allow"
            ),
        };
    }
    text.push_str("p, role:device, devices/{name}/telemetry, publish, allow\n");
    text.push_str("p, role:device, devices/{name}/#, subscribe, allow\n");
    text
}

fn small() -> MessageFacts {
    MessageFacts::smallest(QoS::AtMostOnce)
}

fn device(name: &str) -> Snapshot {
    let who = Who {
        principal: format!("cert:{name}"),
        roles: vec!["device".into()],
        client_id: name.into(),
        ..Who::default()
    };
    who.snapshot().unwrap()
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for size in [10, 200, 2_000, 20_000, 100_000] {
        let grants = Acl::new(load(&rules(size))).grants(&device("device-7"));
        for (kind, topic) in [
            ("allowed", "devices/device-7/telemetry"),
            ("silent", "site-3/line-0/unknown/data/x"),
            ("denied", "site-0/line-0/m-1/secret/a/b"),
            ("by-line", "site-5/line-0/m-5/data/temperature"),
        ] {
            let topic = TopicName::new(topic, TopicLimits::default()).unwrap();
            group.bench_function(BenchmarkId::new(kind, size), |b| {
                b.iter(|| grants.decide(Action::Publish, black_box(topic), &small()));
            });
        }
    }
    group.finish();
}

/// Every question about another topic, as when a client never publishes to one twice: what a
/// cache in front of this does not help.
fn decide_uncached(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide-rotating");
    for size in [20_000, 100_000] {
        let grants = Acl::new(load(&rules(size))).grants(&device("device-7"));
        let topics: Vec<String> = (0..4096_u32)
            .map(|n| format!("site-{}/line-{}/m-{n}/data/t", n % 97, n / 97))
            .collect();
        let topics: Vec<TopicName<'_>> = topics
            .iter()
            .map(|topic| TopicName::new(topic, TopicLimits::default()).unwrap())
            .collect();
        let mut next = topics.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| grants.decide(Action::Publish, black_box(*next.next().unwrap()), &small()));
        });
    }
    group.finish();
}

fn effort() -> Effort {
    Effort::new(Effort::SESSION)
}

fn subscribe(c: &mut Criterion) {
    let grants = Acl::new(load(&rules(20_000))).grants(&device("device-7"));
    let mut group = c.benchmark_group("cover");
    for filter in [
        "devices/device-7/commands",
        "devices/device-7/#",
        "devices/+/x",
        "#",
    ] {
        let topic = TopicFilter::new(filter, TopicLimits::default()).unwrap();
        group.bench_function(filter, |b| {
            b.iter(|| grants.cover(black_box(topic), &small(), &effort()));
        });
    }
    group.finish();
}

fn connect(c: &mut Criterion) {
    let acl = Acl::new(load(&rules(20_000)));
    let kept = acl.grants(&device("device-7"));
    let mut group = c.benchmark_group("grants");
    let (known, other) = (device("device-7"), device("device-8"));
    group.bench_function("known", |b| b.iter(|| acl.grants(black_box(&known))));
    group.bench_function("of-a-known-role", |b| {
        b.iter(|| acl.grants(black_box(&other)));
    });
    group.finish();
    drop(kept);
}

/// Rule 6: a new policy and everybody's rights under it, 10 000 clients with ten filters each. The
/// policy's part of a sweep; the rest is a lock for each session.
fn sweep(c: &mut Criterion) {
    let acl = Acl::new(load(&rules(200)));
    let policies = [rules(200), rules(201)].map(|text| Arc::new(load(&text)));
    let clients: Vec<Snapshot> = (0..10_000).map(|n| device(&format!("d-{n}"))).collect();
    let filters: Vec<String> = (0..10_000)
        .flat_map(|n| (0..10).map(move |filter| format!("devices/d-{n}/{filter}")))
        .collect();
    let filters: Vec<TopicFilter<'_>> = filters
        .iter()
        .map(|filter| TopicFilter::new(filter, TopicLimits::default()).unwrap())
        .collect();
    let mut next = policies.iter().cycle();
    let mut group = c.benchmark_group("sweep");
    group.sample_size(10);
    group.bench_function("10000 clients with 10 filters", |b| {
        b.iter(|| {
            acl.replace(Arc::clone(next.next().unwrap()));
            for (client, filters) in clients.iter().zip(filters.chunks(10)) {
                let grants = acl.grants(client);
                for filter in filters {
                    let _ = black_box(grants.cover(*filter, &small(), &effort()));
                }
            }
        });
    });
    group.finish();
}

/// Lines about some messages only, beside others.
fn bounded(c: &mut Criterion) {
    let text = rules(2_000)
        + "p, role:device, sized/{name}/#, publish, allow, payload <= '64 KiB' && qos <= 1\n\
           p, role:device, sized/+/x, publish, deny, payload > '1 KiB'\n";
    let grants = Acl::new(load(&text)).grants(&device("device-7"));
    let mut group = c.benchmark_group("decide-bounded");
    for topic in ["devices/device-7/telemetry", "sized/device-7/a"] {
        let name = TopicName::new(topic, TopicLimits::default()).unwrap();
        group.bench_function(topic, |b| {
            b.iter(|| grants.decide(Action::Publish, black_box(name), &small()));
        });
    }
    group.finish();
}

fn loading(c: &mut Criterion) {
    let text = rules(100_000);
    let mut group = c.benchmark_group("load");
    group.sample_size(10);
    group.bench_function("100000 lines", |b| b.iter(|| load(black_box(&text))));
    group.finish();
}

criterion_group!(
    benches,
    decide,
    decide_uncached,
    subscribe,
    connect,
    sweep,
    bounded,
    loading
);
criterion_main!(benches);
