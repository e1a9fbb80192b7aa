//! Connections alone: what opening one costs, and what holding one takes.

use std::io;
use std::time::{Duration, Instant};

use crate::cli::{Connect, interval};
use crate::net::{Client, Pool};
use crate::process::Usage;
use crate::report::{Report, float};
use crate::wire::{self, Incoming, Stamp};

/// Counts what comes.
#[derive(Default)]
struct Counts {
    admitted: Vec<usize>,
    subscribed: usize,
    messages: usize,
}

impl Client for Counts {
    fn packet(&mut self, who: usize, packet: Incoming<'_>, _: &mut Vec<u8>, _: Instant) {
        match packet {
            Incoming::ConnAck { .. } => self.admitted.push(who),
            Incoming::SubAck { .. } => self.subscribed += 1,
            Incoming::Publish { .. } => self.messages += 1,
            Incoming::PubAck { .. }
            | Incoming::PubRec { .. }
            | Incoming::PubRel { .. }
            | Incoming::PubComp { .. }
            | Incoming::Disconnect { .. }
            | Incoming::Other => {}
        }
    }
}

/// `connect`.
pub(crate) fn connect(args: &Connect) -> io::Result<(Report, bool)> {
    let common = &args.common;
    let usage = || common.pid.and_then(Usage::of);
    let mut pool = common.pool()?;
    let mut counts = Counts::default();
    let mut report = Report::default();
    report.put("connections", args.connections);

    let before = usage();
    let begun = Instant::now();
    let admitted = storm(args, &mut pool, &mut counts)?;
    let took = begun.elapsed();
    let opened = usage();
    let seconds = took.as_secs_f64();
    report.put("admitted", admitted);
    report.rate("seconds", seconds, 1.0);
    report.rate("connects_per_s", float(admitted as u64), seconds);
    if let (Some(before), Some(opened)) = (before, opened) {
        let cpu = opened.cpu.saturating_sub(before.cpu);
        report.micros_each("broker_us_per_connect", cpu, admitted as u64);
    }
    let mut memory = |name: &str| {
        if let (Some(before), Some(now)) = (before, usage()) {
            let grown = float(now.rss.saturating_sub(before.rss));
            report.rate(name, grown, float(admitted as u64));
        }
    };
    if !args.close {
        idle(&mut pool, &mut counts, args.hold)?;
        memory("rss_per_connection");
    }
    let mut exchanged = admitted;
    if let Some(size) = args.exchange {
        exchanged = exchange(args, &mut pool, &mut counts, size)?;
        idle(&mut pool, &mut counts, args.rest)?;
        memory("rss_per_used_connection");
        report.put("exchanged", exchanged);
    }
    report.failures(pool.failures());
    let failures = pool.failures().closed + pool.failures().refused;
    let clean = failures == 0 && admitted == args.connections && exchanged == admitted;
    (0..args.connections).for_each(|who| pool.close(who));
    Ok((report, clean))
}

/// Opens all connections at the pace that was asked for; says how many were admitted.
fn storm(args: &Connect, pool: &mut Pool, counts: &mut Counts) -> io::Result<usize> {
    let common = &args.common;
    let interval = interval(args.rate);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(common.max_secs);
    let (mut opened, mut admitted) = (0, 0);
    while (opened < args.connections || pool.pending() > 0) && Instant::now() < end {
        while opened < args.connections && pool.pending() < common.concurrency as usize {
            let due = interval.saturating_mul(u32::try_from(opened).unwrap_or(u32::MAX));
            if begun.elapsed() < due {
                break;
            }
            let id = common.client_id("", opened);
            pool.open(&common.login(&id, args.persistent))?;
            opened += 1;
        }
        pool.turn(Duration::from_millis(1), counts)?;
        admitted += counts.admitted.len();
        for who in counts.admitted.drain(..).filter(|_| args.close) {
            pool.close(who);
        }
    }
    Ok(admitted)
}

/// Each connection subscribes to a topic of its own and sends one message there.
fn exchange(
    args: &Connect,
    pool: &mut Pool,
    counts: &mut Counts,
    size: usize,
) -> io::Result<usize> {
    let version = pool.version();
    let end = Instant::now() + Duration::from_secs(args.common.max_secs);
    let stamp = Stamp::default();
    for who in 0..args.connections {
        let topic = format!("{}/{who}", args.common.topic);
        if let Some(output) = pool.output(who) {
            wire::subscribe(output, version, 1, std::slice::from_ref(&topic), 0);
            wire::publish(output, version, &topic, 0, 0, &stamp, size);
        }
        pool.flush(who);
        // No more at a time than would open at a time.
        while counts.messages + (args.common.concurrency as usize) < who && Instant::now() < end {
            pool.turn(Duration::from_millis(10), counts)?;
        }
    }
    while counts.messages < pool.up() && Instant::now() < end {
        pool.turn(Duration::from_millis(10), counts)?;
    }
    Ok(counts.messages.min(counts.subscribed))
}

/// Lets time go by; who is closed meanwhile is noticed.
fn idle(pool: &mut Pool, counts: &mut Counts, seconds: u64) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        pool.turn(Duration::from_millis(100), counts)?;
    }
    Ok(())
}
