//! Runs with messages: between a few clients, or over many subscriptions.

use std::io;
use std::time::{Duration, Instant};

use crate::cli::{Common, Mode, Pubsub, Subs};
use crate::net::{Client, Pool};
use crate::process::Usage;
use crate::report::{Report, float};
use crate::traffic::{Routes, Run, Traffic};
use crate::wire;

/// How long a phase before the first message may take: passwords are slow on purpose.
const SETUP: Duration = Duration::from_mins(2);

/// One turn waits so long for something to happen.
const POLL: Duration = Duration::from_millis(50);

/// Opens connections, so many at a time, until `count` are admitted or refused.
pub(crate) fn open(
    pool: &mut Pool,
    client: &mut impl Client,
    common: &Common,
    count: usize,
    login: impl Fn(&mut Pool, usize) -> io::Result<usize>,
) -> io::Result<()> {
    let end = Instant::now() + SETUP;
    let mut opened = 0;
    while opened < count || pool.pending() > 0 {
        while opened < count && pool.pending() < common.concurrency as usize {
            login(pool, opened)?;
            opened += 1;
        }
        pool.turn(POLL, client)?;
        if Instant::now() > end {
            return Err(io::Error::other("connections took too long"));
        }
    }
    if pool.up() < count {
        let failures = pool.failures();
        let why = failures.first.as_deref().unwrap_or_default();
        return Err(io::Error::other(format!(
            "{} of {count} connections stand: {why}",
            pool.up()
        )));
    }
    Ok(())
}

/// Waits until `filters` subscriptions are answered.
fn subscribed(pool: &mut Pool, traffic: &mut Traffic, filters: u64) -> io::Result<()> {
    let end = Instant::now() + SETUP;
    while traffic.subscribed < filters {
        if Instant::now() > end || pool.failures().first.is_some() {
            let why = pool.failures().first.as_deref().unwrap_or("too slow");
            return Err(io::Error::other(format!("subscribing: {why}")));
        }
        pool.turn(POLL, traffic)?;
    }
    if traffic.filters_refused > 0 {
        let refused = traffic.filters_refused;
        return Err(io::Error::other(format!(
            "{refused} subscriptions were refused"
        )));
    }
    Ok(())
}

/// `pubsub`.
pub(crate) fn pubsub(args: &Pubsub) -> io::Result<(Report, bool)> {
    let common = &args.common;
    let (publishers, subscribers) = match args.mode {
        Mode::Pairs => {
            let pairs = args.publishers.or(args.subscribers).unwrap_or(10);
            (pairs, args.subscribers.unwrap_or(pairs))
        }
        Mode::FanOut => (
            args.publishers.unwrap_or(1),
            args.subscribers.unwrap_or(100),
        ),
        Mode::FanIn => (
            args.publishers.unwrap_or(100),
            args.subscribers.unwrap_or(1),
        ),
    };
    let pairs = args.mode == Mode::Pairs;
    if publishers == 0 || subscribers == 0 || (pairs && publishers != subscribers) {
        let why = "at least one of each, and as many of each for 1:1";
        return Err(io::Error::other(why));
    }
    let routes = if pairs {
        Routes::Pairs
    } else {
        Routes::All(subscribers)
    };
    let topics = |number: usize| -> Vec<String> {
        let base = &common.topic;
        (0..args.topics)
            .map(|topic| {
                if pairs {
                    format!("{base}/{number}/{topic}")
                } else {
                    format!("{base}/all/{topic}")
                }
            })
            .collect()
    };

    let mut pool = common.pool()?;
    let mut traffic = Traffic::new(common.version(), args.sending.pace(), routes)?;
    (0..subscribers).for_each(|number| traffic.add_subscriber(number));
    (0..publishers).for_each(|number| traffic.add_publisher(&topics(number)));
    open(
        &mut pool,
        &mut traffic,
        common,
        subscribers + publishers,
        |pool, number| {
            let subscriber = number < subscribers;
            let purpose = if subscriber { "s" } else { "p" };
            let id = common.client_id(purpose, number);
            pool.open(&common.login(&id, subscriber && args.persistent))
        },
    )?;
    for number in 0..subscribers {
        let version = pool.version();
        if let Some(output) = pool.output(number) {
            for (id, filters) in (1..).zip(topics(number).chunks(100)) {
                wire::subscribe(output, version, id, filters, args.sending.qos);
            }
        }
        pool.flush(number);
    }
    let filters = subscribers as u64 * u64::from(args.topics);
    subscribed(&mut pool, &mut traffic, filters)?;

    let run = traffic.run(&mut pool, common.patience())?;
    let mut report = Report::default();
    report.put("publishers", publishers);
    report.put("subscribers", subscribers);
    let clean = messages(&mut report, args.sending.qos, &traffic, &run, &pool);
    let clean = clean && (args.persistent || traffic.stale == 0);
    (0..subscribers + publishers).for_each(|who| pool.close(who));
    Ok((report, clean))
}

/// What every run with messages reports, and whether all is as it should be.
fn messages(report: &mut Report, qos: u8, traffic: &Traffic, run: &Run, pool: &Pool) -> bool {
    let ledger = &traffic.ledger;
    let lost = run.expected - ledger.received;
    let seconds = run.wall.as_secs_f64();
    report.put("sent", run.sent);
    report.put("expected", run.expected);
    report.put("received", ledger.received);
    report.put("lost", lost);
    report.put("duplicates", ledger.duplicates);
    report.put("wrong", ledger.wrong);
    report.put("stale", traffic.stale);
    report.put("stalls", run.stalls);
    report.put("ended_by", run.ended_by);
    report.rate("seconds", seconds, 1.0);
    report.rate("received_per_s", float(ledger.received), seconds);
    let unacknowledged = if qos > 0 {
        report.put("acknowledged", traffic.acknowledged);
        report.put("unacknowledged", run.sent - traffic.acknowledged);
        report.put("publishes_refused", traffic.publishes_refused);
        report.put("stray_acknowledgements", traffic.stray);
        report.rate("acknowledged_per_s", float(traffic.acknowledged), seconds);
        run.sent - traffic.acknowledged
    } else {
        0
    };
    if let Some(broker) = run.broker {
        report.micros_each("broker_us_per_message", broker, ledger.received);
        report.rate("broker_cores", broker.as_secs_f64(), seconds);
    }
    report.micros_each("own_us_per_message", run.own, ledger.received);
    if !traffic.late.is_empty() {
        for (name, per_mille) in [("p50", 500), ("p90", 900), ("p99", 990), ("p999", 999)] {
            let micros = float(traffic.late.quantile(per_mille)) / 1000.0;
            report.rate(&format!("{name}_us"), micros, 1.0);
        }
        report.rate("max_us", float(traffic.late.max()) / 1000.0, 1.0);
    }
    report.failures(pool.failures());
    let failures = pool.failures().closed + pool.failures().refused;
    let troubles = lost + ledger.duplicates + ledger.wrong + unacknowledged + failures;
    troubles + traffic.publishes_refused + traffic.stray == 0
}

/// `subs`.
pub(crate) fn subs(args: &Subs) -> io::Result<(Report, bool)> {
    let common = &args.common;
    let Subs {
        subscriptions,
        clients,
        publishers,
        ..
    } = *args;
    if clients == 0 || publishers == 0 || args.plus + args.hash > 100 {
        return Err(io::Error::other(
            "at least one of each, and at most 100 in a hundred",
        ));
    }
    let mut pool = common.pool()?;
    let routes = Routes::Scattered {
        prefix: common.topic.clone(),
        subscriptions,
        clients,
    };
    let mut traffic = Traffic::new(common.version(), args.sending.pace(), routes)?;
    (0..clients).for_each(|number| traffic.add_subscriber(number));
    (0..publishers).for_each(|_| traffic.add_publisher(&[]));
    open(
        &mut pool,
        &mut traffic,
        common,
        clients + publishers,
        |pool, number| {
            let id = common.client_id("", number);
            pool.open(&common.login(&id, false))
        },
    )?;

    let usage = || common.pid.and_then(Usage::of);
    let (before, begun) = (usage(), Instant::now());
    let mut number = 0;
    while number < subscriptions {
        // A packet for each client, then its answer: nobody's buffers grow without bound.
        for client in 0..clients {
            number += subscribe(args, &mut pool, client, number)?;
        }
        subscribed(&mut pool, &mut traffic, number)?;
    }
    let (after, took) = (usage(), begun.elapsed());

    let run = traffic.run(&mut pool, common.patience())?;
    let mut report = Report::default();
    report.put("subscriptions", subscriptions);
    report.rate("subscribe_seconds", took.as_secs_f64(), 1.0);
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = after.cpu.saturating_sub(before.cpu);
        report.micros_each("broker_us_per_subscription", cpu, subscriptions);
        let memory = float(after.rss.saturating_sub(before.rss));
        report.rate("rss_per_subscription", memory, float(subscriptions));
    }
    let clean = messages(&mut report, args.sending.qos, &traffic, &run, &pool);
    (0..clients + publishers).for_each(|who| pool.close(who));
    Ok((report, clean && traffic.stale == 0))
}

/// Sends one SUBSCRIBE with the next filters of `client`, those from about `first` on; says how
/// many. Subscription n is client n's, modulo the number of clients.
fn subscribe(args: &Subs, pool: &mut Pool, client: usize, first: u64) -> io::Result<u64> {
    let clients = args.clients as u64;
    let round = u64::from(args.per_packet) * clients;
    let base = first / round * round + client as u64;
    let filters: Vec<String> = (0..u64::from(args.per_packet))
        .map(|place| base + place * clients)
        .filter(|number| *number < args.subscriptions)
        .map(|number| filter(args, number))
        .collect();
    if filters.is_empty() {
        return Ok(0);
    }
    let version = pool.version();
    let output = pool
        .output(client)
        .ok_or_else(|| io::Error::other("the broker does not read"))?;
    wire::subscribe(output, version, 1, &filters, args.sending.qos);
    pool.flush(client);
    Ok(filters.len() as u64)
}

/// The shares of wildcards are spread evenly.
fn filter(args: &Subs, number: u64) -> String {
    let topic = &args.common.topic;
    match number * 37 % 100 {
        share if share < args.plus => format!("{topic}/{number}/+"),
        share if share < args.plus + args.hash => format!("{topic}/{number}/#"),
        _ => format!("{topic}/{number}/cmd"),
    }
}
