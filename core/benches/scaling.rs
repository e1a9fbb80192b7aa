//! Two targets that are ratios: what a second thread adds, and what a client that subscribes in a
//! loop takes from one that publishes. Prints them; processor time is taken where it is enough, so
//! that other work on the machine does not blur it.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed bench")]

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{client, open_world, publish, send, subscribe, thread_time, unsubscribe};
use portcullis_core::benching::{Client, World};
use portcullis_core::clock::Now;

/// One round is so long.
const ROUND: Duration = Duration::from_millis(100);

/// So many rounds; the best counts.
const ROUNDS: usize = 25;

const BATCH: u16 = 64;

/// A publisher and its receiver, and the packets that it sends again and again.
struct Pair {
    publisher: Client,
    subscriber: Client,
    packets: Vec<u8>,
}

impl Pair {
    fn new(world: &World, number: usize) -> Self {
        let topic = format!("site/{number}/telemetry");
        let mut subscriber = client(world, &format!("s{number}"));
        send(&mut subscriber, &subscribe(std::slice::from_ref(&topic), 0));
        Self {
            publisher: client(world, &format!("p{number}")),
            subscriber,
            packets: (0..BATCH).flat_map(|_| publish(&topic, None)).collect(),
        }
    }

    fn step(&mut self) {
        let now = Now::read();
        self.publisher.send(&self.packets, now).unwrap();
        self.publisher.take(now);
        assert!(!self.subscriber.take(now).is_empty());
    }

    /// Messages a second of wall time, and of processor time, in one round.
    fn round(&mut self) -> [f64; 2] {
        let (begun, used) = (Instant::now(), thread_time());
        let mut messages = 0.0;
        while begun.elapsed() < ROUND {
            for _ in 0..10 {
                self.step();
                messages += f64::from(BATCH);
            }
        }
        let used = thread_time().saturating_sub(used);
        [begun.elapsed(), used].map(|time| messages / time.as_secs_f64())
    }
}

/// The best round of so many threads, all together.
fn best(world: &World, threads: usize) -> [f64; 2] {
    let barrier = Barrier::new(threads);
    let rounds: Vec<Vec<[f64; 2]>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| {
                let mut pair = Pair::new(world, number);
                let barrier = &barrier;
                scope.spawn(move || {
                    let round = |_| {
                        barrier.wait();
                        pair.round()
                    };
                    (0..ROUNDS).map(round).collect()
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut best = [0.0_f64; 2];
    for round in 0..ROUNDS {
        for (place, best) in best.iter_mut().enumerate() {
            let together: f64 = rounds
                .iter()
                .filter_map(|thread| thread.get(round)?.get(place))
                .sum();
            *best = best.max(together);
        }
    }
    best
}

/// Nanoseconds of processor time for a message, in the best round.
fn cost(pair: &mut Pair) -> f64 {
    let rounds = (0..ROUNDS).map(|_| pair.round()[1]);
    1e9 / rounds.fold(0.0, f64::max)
}

fn main() {
    let world = open_world();
    let (one, two) = (best(&world, 1), best(&world, 2));
    println!(
        "one thread routes {:.0} messages a second; two do {:.2} times as much (target: 1.6), {:.2} \
         times for each second of processor time of both",
        one[0],
        two[0] / one[0],
        two[1] / one[1],
    );

    // In the same part of the tree as the publisher's topic: the worst place.
    let world = open_world();
    let mut pair = Pair::new(&world, 0);
    let alone = cost(&mut pair);
    let done = AtomicBool::new(false);
    let (disturbed, subscribed) = thread::scope(|scope| {
        let subscribing = scope.spawn(|| subscribe_in_a_loop(&world, &done));
        let disturbed = cost(&mut pair);
        done.store(true, Ordering::Relaxed);
        (disturbed, subscribing.join().unwrap())
    });
    println!(
        "a message costs {alone:.0} ns, and {disturbed:.0} ns while another client sends \
         {subscribed:.0} SUBSCRIBE a second: {:.2} times (target: 1.2)",
        disturbed / alone
    );
}

/// A thousand SUBSCRIBE a second, and as many UNSUBSCRIBE; says how many it came to.
fn subscribe_in_a_loop(world: &World, done: &AtomicBool) -> f64 {
    let mut client = client(world, "restless");
    let begun = Instant::now();
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let due = begun + Duration::from_millis(count.into());
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let filter = format!("site/other-{}/#", count % 100);
        send(&mut client, &subscribe(std::slice::from_ref(&filter), 0));
        send(&mut client, &unsubscribe(&filter));
        count += 1_u32;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}
