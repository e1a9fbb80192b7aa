//! The hot path without sockets: matching, authorizing, routing.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed bench")]

mod common;

use std::hint::black_box;

use common::{
    ThreadTime, client, criterion, identity, open_world, populate, publish, send, subscribe, topics,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis_core::benching::Client;
use portcullis_core::clock::Now;
use portcullis_core::topic::{TopicLimits, TopicName};

/// Messages in one read.
const BATCH: u16 = 64;

fn names(topics: &[String]) -> Vec<TopicName<'_>> {
    topics
        .iter()
        .map(|topic| TopicName::new(topic, TopicLimits::default()).unwrap())
        .collect()
}

/// A lookup in the tree, without any cache, by the number of filters; and what such a publish costs
/// as a whole, decoded and delivered.
fn matching(c: &mut Criterion<ThreadTime>) {
    for count in [1_000, 100_000, 1_000_000] {
        let world = open_world();
        let mut holders = populate(&world, count);
        let topics = topics(count, 4096);
        let names = names(&topics);
        let mut next = names.iter().cycle();
        let mut group = c.benchmark_group("match");
        group.bench_function(BenchmarkId::new("lookup", count), |bencher| {
            bencher.iter(|| {
                let found = world.matching(black_box(*next.next().unwrap()));
                assert_eq!(found, 1);
            });
        });
        let mut publisher = client(&world, "publisher");
        let packets: Vec<Vec<u8>> = topics.iter().map(|topic| publish(topic, None)).collect();
        let batches: Vec<Vec<u8>> = packets
            .chunks(usize::from(BATCH))
            .map(<[Vec<u8>]>::concat)
            .collect();
        let mut next = batches.iter().cycle();
        group.throughput(Throughput::Elements(BATCH.into()));
        group.bench_function(BenchmarkId::new("publish", count), |bencher| {
            bencher.iter_batched(
                || {
                    // Emptied outside of what is timed: most receivers got nothing.
                    let now = Now::read();
                    for holder in &mut holders {
                        holder.take(now);
                    }
                    next.next().unwrap()
                },
                |packets| publisher.send(packets, Now::read()),
                criterion::BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

/// The policy's decision as a publish meets it: cached, for a topic that the client published to
/// before, and asked for anew, of an authorizer that takes no time. What the answer of a real policy
/// takes is measured in `acl/benches`.
fn decision(c: &mut Criterion<ThreadTime>) {
    let world = open_world();
    let topics: Vec<String> = (0..1000).map(|n| format!("site/{n}/telemetry")).collect();
    let names = names(&topics);
    let mut group = c.benchmark_group("decision");
    for (name, count) in [("cached", 1), ("uncached", names.len())] {
        let mut guard = world.guard(identity("device"));
        let mut next = names.iter().take(count).cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| guard.passes(black_box(*next.next().unwrap())));
        });
    }
    group.finish();
}

/// A batch from one publisher to so many receivers, bytes in to bytes out, for each delivery.
fn route(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("route");
    for (qos, receivers) in [(0, 0), (0, 1), (0, 10), (0, 100), (1, 1), (1, 100)] {
        let world = open_world();
        let mut publisher = client(&world, "publisher");
        let mut subscribers: Vec<Client> = (0..receivers)
            .map(|number| {
                let mut subscriber = client(&world, &format!("subscriber-{number}"));
                send(&mut subscriber, &subscribe(&["t/#".to_owned()], qos));
                subscriber
            })
            .collect();
        let packets: Vec<u8> = (1..=BATCH)
            .flat_map(|id| publish("t/device-4711/telemetry", (qos > 0).then_some(id)))
            .collect();
        let deliveries = u64::from(BATCH) * receivers.max(1);
        group.throughput(Throughput::Elements(deliveries));
        let name = format!("QoS {qos}");
        group.bench_function(BenchmarkId::new(name, receivers), |bencher| {
            let mut acks = Vec::new();
            bencher.iter(|| {
                let now = Now::read();
                assert_eq!(publisher.send(&packets, now), Some(packets.len()));
                publisher.take(now);
                for subscriber in &mut subscribers {
                    let output = subscriber.take(now);
                    if qos > 0 {
                        acknowledge(output, &mut acks);
                        assert_eq!(acks.len(), 4 * usize::from(BATCH));
                        subscriber.send(&acks, now);
                    }
                }
            });
        });
    }
    group.finish();
}

/// PUBACKs for what came: packets with a length of one byte, topics as in [`route`].
fn acknowledge(mut output: &[u8], acks: &mut Vec<u8>) {
    acks.clear();
    while let Some((&[_, length, _, topic], _)) = output.split_first_chunk() {
        let at = 4 + usize::from(topic);
        acks.extend_from_slice(&[0x40, 2]);
        acks.extend_from_slice(output.get(at..at + 2).unwrap_or_default());
        output = output.get(2 + usize::from(length)..).unwrap_or_default();
    }
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = decision, route, matching
}
criterion_main!(benches);
