//! What one address, one client and one identity may cost. Time is simulated.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use portcullis_anomaly::{Limiter, Rate, Settings};
use portcullis_core::clock::Now;
use portcullis_core::hook::{
    Admission, Arrival, BatchFacts, Credential, Identity, Meter, Principal, Snapshot, Verdict,
};
use portcullis_core::wire::ReasonCode;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn from(address: &str) -> Arrival<'static> {
    Arrival {
        address: Some(address.parse().unwrap()),
        listener: "internet",
        proven: false,
    }
}

fn client(principal: Principal, client_id: &str, address: &str) -> Snapshot {
    Snapshot {
        identity: Identity::new(principal),
        credential: Credential::new("certificate", "serial 1"),
        client_id: client_id.into(),
        listener: Arc::from("internet"),
        address: Some(address.parse().unwrap()),
    }
}

fn pump() -> Snapshot {
    client(
        Principal::vouched("cert", "pump-17").unwrap(),
        "pump-17",
        "192.0.2.7",
    )
}

fn per_second(count: u64) -> Rate {
    Rate::new(count, SECOND).unwrap()
}

fn code(verdict: &Verdict) -> Option<ReasonCode> {
    match verdict {
        Verdict::Refuse { code, .. } => Some(*code),
        Verdict::Admit | Verdict::Slow(_) => None,
    }
}

fn admitted(limiter: &Limiter, addresses: impl IntoIterator<Item = String>, now: Now) -> usize {
    addresses
        .into_iter()
        .filter(|address| limiter.arrive(&from(address), now) == Verdict::Admit)
        .count()
}

// Attack A5: an authentication storm.
#[test]
fn one_address_connects_at_its_rate_and_its_neighbours_are_not_touched() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let storm = || (0..1000).map(|_| "192.0.2.1".to_owned());
    assert_eq!(admitted(&limiter, storm(), start), 100, "10 s of 10/s");
    let refused = limiter.arrive(&from("192.0.2.1"), start);
    assert_eq!(code(&refused), Some(ReasonCode::ConnectionRateExceeded));
    assert_eq!(limiter.arrive(&from("192.0.2.2"), start), Verdict::Admit);
    assert_eq!(admitted(&limiter, storm(), start.after(SECOND)), 10);
    assert_eq!(limiter.stats().arrivals_refused, 900 + 1 + 990);
}

// Attack E42: distributed low-and-slow, and rotation within an IPv6 /64.
#[test]
fn many_addresses_of_one_neighbourhood_share_a_budget() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let spread = (0..256).flat_map(|host| (0..50).map(move |_| format!("198.51.100.{host}")));
    assert_eq!(admitted(&limiter, spread, start), 1000);
    let rotated = (0..1000).map(|host| format!("2001:db8:0:1::{host:x}"));
    assert_eq!(admitted(&limiter, rotated, start), 100);
    let prefixes = (0..5000).map(|net| format!("2001:db8:1:{net:x}::1"));
    assert_eq!(admitted(&limiter, prefixes, start), 1000);
}

#[test]
fn sockets_without_an_address_are_exempt() {
    let now = Now::read();
    let limiter = Limiter::new(Settings::default(), now);
    let local = Arrival {
        address: None,
        listener: "local",
        proven: false,
    };
    for _ in 0..1000 {
        assert_eq!(limiter.arrive(&local, now), Verdict::Admit);
        limiter.failed(&local, None, now);
        assert_eq!(limiter.attempt(&local, None, now), Verdict::Admit);
    }
}

#[test]
fn a_full_table_of_sources_refuses_strangers_only() {
    let now = Now::read();
    let settings = Settings {
        tracked_sources: 10,
        ..Settings::default()
    };
    let limiter = Limiter::new(settings, now);
    let hosts = (0..100).map(|net| format!("10.0.{net}.1"));
    assert_eq!(admitted(&limiter, hosts, now), 10);
    assert_eq!(limiter.arrive(&from("10.0.3.1"), now), Verdict::Admit);
    assert!(limiter.stats().sources <= 10);
}

// Attack A8: guessing passwords, and hashing as a weapon.
#[test]
fn an_address_with_bad_credentials_is_delayed_then_refused_for_a_minute() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let eve = from("203.0.113.9");
    for _ in 0..30 {
        assert_eq!(limiter.attempt(&eve, None, start), Verdict::Admit);
        limiter.failed(&eve, None, start);
    }
    assert_eq!(
        limiter.attempt(&eve, None, start),
        Verdict::Admit,
        "the limit is not passed yet"
    );
    let mut delays = Vec::new();
    let refused = loop {
        limiter.failed(&eve, None, start);
        match limiter.attempt(&eve, None, start) {
            Verdict::Slow(delay) => delays.push(delay),
            verdict @ (Verdict::Admit | Verdict::Refuse { .. }) => break verdict,
        }
    };
    assert_eq!(code(&refused), Some(ReasonCode::ConnectionRateExceeded));
    assert_eq!(delays.len(), 8);
    assert!(delays.is_sorted());
    assert_eq!(delays.last(), Some(&Duration::from_secs(2)));
    assert!(code(&limiter.attempt(&eve, None, start.after(Duration::from_secs(59)))).is_some());
    assert_eq!(
        limiter.attempt(&eve, None, start.after(Duration::from_secs(61))),
        Verdict::Admit
    );
    assert_eq!(
        limiter.attempt(&from("203.0.113.10"), None, start),
        Verdict::Admit,
        "its neighbour"
    );
}

#[test]
fn somebody_who_waits_out_each_delay_gets_the_rate_and_eight_before_each_minute_of_refusal() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let eve = from("203.0.113.9");
    let mut now = start;
    let mut failures = 0;
    while now.mono < start.after(Duration::from_mins(30)).mono {
        match limiter.attempt(&eve, None, now) {
            Verdict::Admit => {}
            Verdict::Slow(delay) => now = now.after(delay),
            Verdict::Refuse { .. } => {
                now = now.after(SECOND);
                continue;
            }
        }
        limiter.failed(&eve, None, now);
        failures += 1;
        now = now.after(Duration::from_millis(20));
    }
    assert!(failures <= 30 * (30 + 8) + 30, "{failures}");
}

#[test]
fn guesses_against_a_name_do_not_lock_out_who_proves_it_elsewhere() {
    let now = Now::read();
    let limiter = Limiter::new(Settings::default(), now);
    let pump = pump();
    for _ in 0..1000 {
        limiter.failed(&from("203.0.113.9"), Some(pump.principal()), now);
        let _ = limiter.attempt(&from("203.0.113.9"), Some("pump-17"), now);
    }
    assert_eq!(limiter.arrive(&from("192.0.2.7"), now), Verdict::Admit);
    assert_eq!(
        limiter.attempt(&from("192.0.2.7"), Some("pump-17"), now),
        Verdict::Admit
    );
    assert_eq!(limiter.admit(&pump, now), Verdict::Admit);
}

/// Behind one address may be a whole site, its devices and a guesser.
#[test]
fn who_has_proved_a_certificate_does_not_answer_for_guesses_behind_its_address() {
    let now = Now::read();
    let limiter = Limiter::new(Settings::default(), now);
    let stranger = from("203.0.113.9");
    let device = Arrival {
        proven: true,
        ..stranger
    };
    let mut refused = 0;
    for _ in 0..1000 {
        limiter.failed(&stranger, None, now);
        refused += u32::from(code(&limiter.attempt(&stranger, None, now)).is_some());
        assert_eq!(limiter.attempt(&device, None, now), Verdict::Admit);
    }
    assert!(refused > 0);
}

#[test]
fn guesses_from_a_whole_neighbourhood_are_delayed_but_its_devices_get_in() {
    let now = Now::read();
    let limiter = Limiter::new(Settings::default(), now);
    for host in 0..=255 {
        for _ in 0..20 {
            limiter.failed(&from(&format!("198.51.100.{host}")), None, now);
        }
    }
    assert_eq!(
        limiter.attempt(&from("198.51.100.7"), None, now),
        Verdict::Slow(Duration::from_secs(2))
    );
    assert_eq!(
        limiter.attempt(&from("198.51.101.7"), None, now),
        Verdict::Admit
    );
}

// Attack D27: two devices that take each other's session over.
#[test]
fn a_client_id_that_flaps_is_delayed_then_refused_and_recovers() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let verdicts: Vec<Verdict> = (0..40).map(|_| limiter.admit(&pump(), start)).collect();
    let kinds: String = verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::Admit => 'a',
            Verdict::Slow(_) => 's',
            Verdict::Refuse { .. } => 'r',
        })
        .collect();
    assert_eq!(
        kinds,
        format!("{}{}{}", "a".repeat(20), "s".repeat(10), "r".repeat(10))
    );
    let Some(Verdict::Refuse { code, reason, will }) = verdicts.last() else {
        unreachable!("checked above");
    };
    assert_eq!((*code, *will), (ReasonCode::ConnectionRateExceeded, true));
    assert!(
        reason.contains("pump-17") && reason.contains("20/min"),
        "{reason}"
    );
    assert!(matches!(
        limiter.admit(&pump(), start.after(SECOND * 4)),
        Verdict::Slow(_)
    ));
    assert_eq!(
        limiter.admit(&pump(), start.after(Duration::from_mins(2))),
        Verdict::Admit
    );
    let stats = limiter.stats();
    assert_eq!((stats.connects_delayed, stats.connects_refused), (11, 10));
}

#[test]
fn nobody_can_spend_somebody_elses_connects() {
    let now = Now::read();
    let limiter = Limiter::new(Settings::default(), now);
    let eve = client(
        Principal::vouched("user", "eve").unwrap(),
        "pump-17",
        "203.0.113.9",
    );
    let stranger = client(Principal::anonymous(), "sensor", "203.0.113.9");
    for _ in 0..100 {
        let _ = limiter.admit(&eve, now);
        let _ = limiter.admit(&stranger, now);
    }
    assert!(code(&limiter.admit(&eve, now)).is_some());
    assert!(code(&limiter.admit(&stranger, now)).is_some());
    assert_eq!(limiter.admit(&pump(), now), Verdict::Admit);
    let sensor = client(Principal::anonymous(), "sensor", "192.0.2.7");
    assert_eq!(
        limiter.admit(&sensor, now),
        Verdict::Admit,
        "anonymous, from elsewhere"
    );
}

#[test]
fn a_principal_that_rotates_client_ids_meets_its_own_limit() {
    let now = Now::read();
    let limiter = Limiter::new(
        Settings {
            connects_per_principal: Rate::new(60, Duration::from_mins(1)).unwrap(),
            ..Settings::default()
        },
        now,
    );
    let eve = |n: u32| {
        client(
            Principal::vouched("user", "eve").unwrap(),
            &format!("id-{n}"),
            "203.0.113.9",
        )
    };
    let refused = (0..200)
        .filter(|n| code(&limiter.admit(&eve(*n), now)).is_some())
        .count();
    assert_eq!(refused, 200 - 60 - 30);
}

fn publishes(count: u32, bytes: u64) -> BatchFacts {
    BatchFacts {
        packets: count,
        bytes,
        publishes: count,
        publish_bytes: bytes,
        ..BatchFacts::default()
    }
}

// Attack E41: a PUBLISH flood.
#[test]
fn a_publisher_over_its_rate_is_read_more_slowly_and_never_dropped() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let mut meter = limiter.watch(&pump(), start);
    assert_eq!(
        meter.batch(&publishes(2000, 100_000), start),
        Verdict::Admit,
        "the burst"
    );
    assert_eq!(
        meter.batch(&publishes(200, 10_000), start),
        Verdict::Slow(SECOND)
    );
    let later = start.after(SECOND);
    assert_eq!(
        meter.batch(&BatchFacts::default(), later),
        Verdict::Admit,
        "the pause is over"
    );
    let flood = meter.batch(&publishes(1_000_000, 1 << 30), later);
    assert_eq!(
        flood,
        Verdict::Slow(Duration::from_secs(10)),
        "bounded, and never a refusal"
    );
    let again = meter.batch(&BatchFacts::default(), later.after(SECOND * 10));
    assert_eq!(
        again,
        Verdict::Slow(Duration::from_secs(10)),
        "asked again, it still owes"
    );
}

#[test]
fn one_packet_of_the_largest_size_is_always_within_the_burst() {
    let start = Now::read();
    let limiter = Limiter::new(
        Settings {
            publish_bandwidth: per_second(1024),
            max_packet_size: 1 << 20,
            ..Settings::default()
        },
        start,
    );
    let mut meter = limiter.watch(&pump(), start);
    assert_eq!(meter.batch(&publishes(1, 1 << 20), start), Verdict::Admit);
    assert_eq!(
        meter.batch(&publishes(1, 1024), start),
        Verdict::Slow(SECOND)
    );
}

/// One publish in each of so many messages, each of 100 bytes to so many receivers.
fn causes(messages: u32, receivers: u64) -> BatchFacts {
    let fan_out = u64::from(messages) * receivers;
    BatchFacts {
        fan_out,
        fan_out_bytes: fan_out * 100,
        ..publishes(messages, u64::from(messages) * 100)
    }
}

fn watch(limiter: &Limiter, who: &str, id: &str, now: Now) -> Box<dyn Meter> {
    let principal = Principal::vouched("cert", who).unwrap();
    limiter.watch(&client(principal, id, "192.0.2.7"), now)
}

// Attack E41: fan-out amplification, one to 100 000.
#[test]
fn what_publishes_cause_is_priced_to_their_principal() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let mut one = watch(&limiter, "pump-17", "a", start);
    for _ in 0..5 {
        assert_eq!(one.batch(&causes(1, 100_000), start), Verdict::Admit);
        assert_eq!(one.begun(), None);
    }
    // Another client id, and a new connection, buy nothing.
    let mut two = watch(&limiter, "pump-17", "b", start);
    assert_eq!(
        two.batch(&causes(1, 100_000), start),
        Verdict::Slow(SECOND * 2)
    );
    let begun = two.begun().unwrap();
    assert_eq!(begun.limit, "limits.fan-out-rate");
    assert!(begun.reason.contains("50000/s"), "{}", begun.reason);
    let later = start.after(SECOND);
    assert_eq!(
        two.batch(&BatchFacts::default(), later),
        Verdict::Slow(SECOND)
    );
    assert_eq!(two.begun(), None, "told once");
    assert_eq!(limiter.stats().fan_outs_slowed, 2);
    drop((one, two));
    let mut again = watch(&limiter, "pump-17", "a", later);
    assert_eq!(
        again.batch(&causes(1, 1), later),
        Verdict::Slow(SECOND + SECOND / 50_000)
    );
    // Who causes nothing does not wait for its relatives; others have budgets of their own.
    let mut quiet = watch(&limiter, "pump-17", "c", later);
    assert_eq!(quiet.batch(&publishes(1, 100), later), Verdict::Admit);
    let mut other = watch(&limiter, "pump-18", "a", later);
    assert_eq!(other.batch(&causes(5, 100_000), later), Verdict::Admit);
    let paid = later.after(SECOND * 2);
    assert_eq!(again.batch(&BatchFacts::default(), paid), Verdict::Admit);
    assert_eq!(again.begun(), None);
}

#[test]
fn an_alarm_to_a_hundred_receivers_at_the_full_publish_rate_never_waits() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let mut meter = watch(&limiter, "station", "a", start);
    for n in 0..600 {
        assert_eq!(
            meter.batch(&causes(200, 100), start.after(SECOND * n)),
            Verdict::Admit
        );
    }
}

#[test]
fn the_bytes_that_publishes_cause_are_priced_as_well() {
    let start = Now::read();
    let limiter = Limiter::new(
        Settings {
            fan_out_bandwidth: per_second(1000),
            max_packet_size: 20_000,
            ..Settings::default()
        },
        start,
    );
    let mut meter = watch(&limiter, "pump-17", "a", start);
    assert_eq!(
        meter.batch(&causes(1, 200), start),
        Verdict::Admit,
        "a largest packet"
    );
    assert_eq!(meter.batch(&causes(1, 10), start), Verdict::Slow(SECOND));
}

#[test]
fn anonymous_clients_are_told_apart_by_address_when_they_cause_deliveries() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let anonymous = |address: &str| client(Principal::anonymous(), "a", address);
    let mut loud = limiter.watch(&anonymous("192.0.2.7"), start);
    let slowed = Verdict::Slow(Duration::from_secs(10));
    assert_eq!(loud.batch(&causes(1, 10_000_000), start), slowed);
    let mut same = limiter.watch(&anonymous("192.0.2.7"), start);
    assert_eq!(same.batch(&causes(1, 1), start), slowed);
    let mut other = limiter.watch(&anonymous("192.0.2.8"), start);
    assert_eq!(other.batch(&causes(1, 1), start), Verdict::Admit);
}

type Fill = fn(u32) -> BatchFacts;

const FLOODS: [(&str, Fill, u32); 4] = [
    (
        "filters",
        |n| BatchFacts {
            filters: n,
            packets: n,
            ..BatchFacts::default()
        },
        1000,
    ),
    (
        "PINGREQ",
        |n| BatchFacts {
            pings: n,
            packets: n,
            ..BatchFacts::default()
        },
        100,
    ),
    (
        "acknowledgements of nothing",
        |n| BatchFacts {
            stray: n,
            packets: n,
            ..BatchFacts::default()
        },
        1000,
    ),
    (
        "refused",
        |n| BatchFacts {
            refused: n,
            packets: n,
            ..BatchFacts::default()
        },
        100,
    ),
];

// Attack E41: SUBSCRIBE/UNSUBSCRIBE churn, PINGREQ floods, stray acknowledgements, refused actions.
#[test]
fn what_has_no_use_is_slowed_then_ends_the_connection_with_its_will() {
    for (what, facts, burst) in FLOODS {
        let start = Now::read();
        let limiter = Limiter::new(Settings::default(), start);
        let mut meter = limiter.watch(&pump(), start);
        assert_eq!(
            meter.batch(&facts(burst), start),
            Verdict::Admit,
            "{what}: the burst"
        );
        let mut now = start;
        let ended = loop {
            match meter.batch(&facts(burst / 10), now) {
                Verdict::Admit => unreachable!("{what}: over the limit"),
                Verdict::Slow(pause) => now = now.after(pause),
                refuse @ Verdict::Refuse { .. } => break refuse,
            }
            assert!(
                now.mono < start.after(Duration::from_mins(2)).mono,
                "{what}: never ended"
            );
        };
        let Verdict::Refuse { code, reason, will } = ended else {
            unreachable!("matched above")
        };
        assert_eq!(
            (code, will),
            (ReasonCode::MessageRateTooHigh, true),
            "{what}"
        );
        assert!(reason.contains(what), "{reason}");
        assert!(
            now.mono >= start.after(Duration::from_secs(59)).mono,
            "{what}: a minute of patience"
        );
        let mut meter = limiter.watch(&pump(), start);
        let far = meter.batch(&facts(burst * 10 + 1), start);
        assert!(
            matches!(far, Verdict::Refuse { .. }),
            "{what}: far over, at once"
        );
        assert_eq!(limiter.stats().floods_ended, 2);
    }
}

#[test]
fn a_client_within_its_limits_never_waits() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let mut meter = limiter.watch(&pump(), start);
    let second = BatchFacts {
        filters: 100,
        pings: 10,
        stray: 100,
        refused: 10,
        ..publishes(200, 1 << 20)
    };
    for n in 1..600 {
        assert_eq!(
            meter.batch(&second, start.after(SECOND * n)),
            Verdict::Admit
        );
    }
}

#[test]
fn new_limits_reach_live_connections_with_their_next_batch() {
    let start = Now::read();
    let limiter = Limiter::new(Settings::default(), start);
    let mut meter = limiter.watch(&pump(), start);
    assert_eq!(meter.batch(&publishes(100, 100), start), Verdict::Admit);
    limiter.replace(
        Settings {
            publish_rate: per_second(5),
            ..Settings::default()
        },
        start,
    );
    assert_eq!(
        meter.batch(&publishes(5, 5), start),
        Verdict::Slow(Duration::from_secs(10))
    );
    limiter.replace(
        Settings {
            publish_rate: per_second(100_000),
            ..Settings::default()
        },
        start,
    );
    assert_eq!(meter.batch(&publishes(1000, 1000), start), Verdict::Admit);
    let fan_out = |count| Settings {
        fan_out_rate: per_second(count),
        ..Settings::default()
    };
    assert_eq!(meter.batch(&causes(1, 1), start), Verdict::Admit);
    limiter.replace(fan_out(5), start);
    assert_eq!(meter.batch(&causes(1, 55), start), Verdict::Slow(SECOND));
    // What did not change is not forgiven.
    limiter.replace(fan_out(5), start);
    assert_eq!(meter.batch(&causes(1, 5), start), Verdict::Slow(SECOND * 2));
    limiter.replace(fan_out(50), start);
    assert_eq!(meter.batch(&causes(1, 5), start), Verdict::Admit);
}

#[test]
fn replacing_settings_keeps_the_history_of_limits_that_did_not_change() {
    let now = Now::read();
    let limiter = Limiter::new(Settings::default(), now);
    let storm = || (0..1000).map(|_| "192.0.2.1".to_owned());
    assert_eq!(admitted(&limiter, storm(), now), 100);
    limiter.replace(
        Settings {
            publish_rate: per_second(5),
            ..Settings::default()
        },
        now,
    );
    assert_eq!(admitted(&limiter, storm(), now), 0);
    limiter.replace(
        Settings {
            connect_rate_per_ip: per_second(1),
            ..Settings::default()
        },
        now,
    );
    assert_eq!(admitted(&limiter, storm(), now), 10);
}

proptest! {
    /// A client that obeys its pauses is never given more than rate * time + burst, and one batch.
    #[test]
    fn an_obedient_flood_gets_the_rate(sizes in prop::collection::vec(1_u32..3000, 1..100)) {
        let start = Now::read();
        let limiter = Limiter::new(Settings::default(), start);
        let mut meter = limiter.watch(&pump(), start);
        let (mut now, mut sent) = (start, 0_u64);
        for size in sizes {
            let elapsed = now.mono.duration_since(start.mono).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let before = sent as f64;
            prop_assert!(before <= 200.0 * elapsed + 2000.0 + 1e-6);
            let mut verdict = meter.batch(&publishes(size, 0), now);
            sent += u64::from(size);
            while let Verdict::Slow(pause) = verdict {
                prop_assert!(pause <= Duration::from_secs(10));
                now = now.after(pause);
                verdict = meter.batch(&BatchFacts::default(), now);
            }
            prop_assert_eq!(verdict, Verdict::Admit);
        }
    }
}
