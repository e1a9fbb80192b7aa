//! Decoding and encoding: what the bytes cost alone.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed bench")]

mod common;

use std::hint::black_box;
use std::num::NonZeroU16;

use common::{ThreadTime, criterion};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portcullis_core::wire::{
    self, Delivery, Limits, MAX_PACKET_SIZE, MessageProperties, Outbound, Packet, Publish, Version,
    decode, encode_client, split_frame,
};

const BATCH: u64 = 100;

/// A hundred PUBLISH packets, as one read brings them.
fn batch(version: Version, size: usize, with_id: bool) -> Vec<u8> {
    let payload = vec![b'x'; size];
    let mut bytes = Vec::new();
    for id in (1..=100).filter_map(NonZeroU16::new) {
        let delivery = if with_id {
            Delivery::AtLeastOnce { id, dup: false }
        } else {
            Delivery::AtMostOnce
        };
        let publish = Publish {
            topic: "site/17/device-4711/telemetry",
            alias: None,
            delivery,
            retain: false,
            properties: MessageProperties::default(),
            payload: &payload,
        };
        encode_client(&mut bytes, version, &Packet::Publish(publish));
    }
    bytes
}

fn decoding(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(BATCH));
    let limits = Limits::default();
    for (name, version, size, with_id) in [
        ("3.1.1 QoS 0, 64 B", Version::V3_1_1, 64, false),
        ("3.1.1 QoS 1, 64 B", Version::V3_1_1, 64, true),
        ("5.0 QoS 0, 64 B", Version::V5, 64, false),
        ("5.0 QoS 1, 1 KiB", Version::V5, 1024, true),
    ] {
        let bytes = batch(version, size, with_id);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(bytes.as_slice());
                while let Some(frame) = split_frame(rest, MAX_PACKET_SIZE).unwrap() {
                    rest = rest.get(frame.size..).unwrap();
                    black_box(decode(frame, version, &limits).unwrap());
                }
            });
        });
    }
    group.finish();
}

fn encoding(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(BATCH));
    let payload = [b'x'; 64];
    let id = NonZeroU16::MIN;
    for (name, version, delivery) in [
        ("3.1.1 QoS 0", Version::V3_1_1, Delivery::AtMostOnce),
        (
            "3.1.1 QoS 1",
            Version::V3_1_1,
            Delivery::AtLeastOnce { id, dup: false },
        ),
        ("5.0 QoS 0", Version::V5, Delivery::AtMostOnce),
    ] {
        let message = Outbound {
            topic: "site/17/device-4711/telemetry",
            alias: None,
            delivery,
            retain: false,
            properties: MessageProperties::default(),
            subscription_ids: &[],
            payload: &payload,
        };
        let mut out = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                for _ in 0..BATCH {
                    wire::publish(&mut out, version, black_box(&message));
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = criterion();
    targets = decoding, encoding
}
criterion_main!(benches);
