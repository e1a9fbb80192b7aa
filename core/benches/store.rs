//! What a record of 64 bytes costs in the log: all the work of both threads, by the size of the
//! group that shares a sync. The processor time is printed beside the wall time of criterion.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed benchmark")]

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis_core::store::{Key, Log, Options};
use portcullis_core::ticket::Progress;

fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    group
        .measurement_time(Duration::from_secs(3))
        .sample_size(20);
    for (name, key) in [("plain", None), ("encrypted", Some(Key::new([1; 32])))] {
        for size in [1_u64, 256, 2048] {
            let dir = tempfile::tempdir().unwrap();
            let options = Options {
                key: key.clone(),
                max_bytes: u64::MAX,
                ..Options::new(dir.path())
            };
            let log = Log::open(&options, &mut |_, _| Ok(())).unwrap();
            group.throughput(Throughput::Elements(size));
            let (mut records, start) = (0, processor_time());
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    records += size;
                    batch(&log, size);
                });
            });
            let spent = processor_time().saturating_sub(start);
            println!(
                "{name}/{size}: {:.3} us of processor time for each record",
                spent.as_secs_f64() * 1e6 / f64::from(u32::try_from(records).unwrap_or(u32::MAX))
            );
            // Frees the disk before the next one.
            log.stop();
        }
    }
    group.finish();
}

/// Appends `size` records one by one and waits until the last is safe.
fn batch(log: &Log, size: u64) {
    let mut last = None;
    for _ in 0..size {
        last = log
            .append(&mut |batch| batch.record(1, |out| out.extend(black_box([7; 64]))))
            .unwrap();
    }
    let ticket = last.unwrap();
    let waker = std::sync::Arc::new(Unpark(thread::current())).into();
    while ticket.poll(Some(&waker)) == Progress::Open {
        thread::park();
    }
}

struct Unpark(thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// User and system time of all threads of this process.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

criterion_group!(benches, commit);
criterion_main!(benches);
