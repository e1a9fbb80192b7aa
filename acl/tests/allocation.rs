//! The hot path allocates nothing, and what is kept is small.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{acl, described, effort, filter, name, small, who};
use portcullis_acl::Acl;
use portcullis_core::hook::{Action, Authorizer, Grants, Snapshot};

#[test]
fn a_decision_allocates_nothing() {
    let acl = acl("\
p, role:device, devices/{name}/telemetry, publish, allow
p, role:device, +/{cert.ou}/secret/#, publish, deny
p, role:device, lab/#, publish, allow, listener == 'internet'
p, cert:device-7, own/#, publish, allow
p, role:device, workers, share, allow
p, role:device, sized/#, publish, allow, qos <= 1 && payload <= '1 KiB'
p, role:device, sized/x, publish, deny, payload > '100 B'
");
    let mut device = described("cert:device-7", "c", &["device"]);
    device.attributes.insert("cert.ou".into(), "icu".into());
    let grants = acl.grants(&device.snapshot().unwrap());
    for topic in [
        "devices/device-7/telemetry",
        "devices/device-8/telemetry",
        "ward/icu/secret/a/b/c",
        "lab/x",
        "own/x/y",
        "$SYS/x",
        "sized/a",
        "sized/x",
    ] {
        let topic = name(topic);
        let counted = allocation_counter::measure(|| {
            for action in [
                Action::Publish,
                Action::Retain,
                Action::Will,
                Action::Receive,
            ] {
                let _ = grants.decide(action, topic, &small());
            }
            let _ = grants.share("workers");
        });
        assert_eq!(counted.count_total, 0, "{topic:?}");
    }
    // The counter counts.
    let counted = allocation_counter::measure(|| {
        let _ = grants.cover(filter("devices/+/x"), &small(), &effort());
    });
    assert!(counted.count_total > 0);
}

/// A line of a policy costs at most 1 KiB, compiled for a client that holds them all; a client
/// costs at most 1 KiB, with a role that thousands share and values of its own.
#[test]
fn a_line_and_a_connection_cost_at_most_a_kibibyte_each() {
    const LINES: usize = 5_000;
    const CLIENTS: usize = 2_000;
    let mut text = String::new();
    for line in 0..LINES - 1 {
        let _ = writeln!(
            text,
            "p, role:device, site-{}/line-{line}/m-{line}/data/+, publish, allow",
            line % 97
        );
    }
    text.push_str("p, role:device, devices/{name}/#, publish, allow\n");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| who(&format!("cert:device-{number}"), "c", &["device"]))
        .collect();
    let (acl, _) = lines_cost(LINES, || {
        let acl = acl(&text);
        let grants = acl.grants(&clients[0]);
        (acl, grants)
    });
    connections_cost(&acl, &clients);
}

/// Bounds, time windows and many roles cost a connection nothing more: what they have in common is kept
/// once. A line with a condition of its own is within the same kibibyte.
#[test]
fn conditions_and_many_roles_leave_a_line_and_a_connection_within_a_kibibyte() {
    const ROLES: usize = 12;
    const LINES: usize = 400;
    const CLIENTS: usize = 1_000;
    let mut text = String::new();
    for line in 0..LINES {
        for role in 0..ROLES {
            let cond = match line % 4 {
                0 => format!("payload <= '{} KiB' && qos <= {}", line % 10 + 1, line % 3),
                1 => "time in 'Mon-Fri 08:00-18:00 Europe/Berlin'".to_owned(),
                2 => format!("claim.line in ['{line}', 'all']"),
                _ => "source in ['10.0.0.0/8']".to_owned(),
            };
            let topic = format!("site-{role}/line-{line}/{{name}}/+");
            let _ = writeln!(text, "p, role:r{role}, {topic}, publish, allow, \"{cond}\"");
        }
    }
    for client in 0..CLIENTS {
        let _ = writeln!(
            text,
            "p, cert:d-{client}, own/{client}, publish, allow, qos <= 1"
        );
    }
    let roles: Vec<String> = (0..ROLES).map(|role| format!("r{role}")).collect();
    let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = described(&format!("cert:d-{number}"), "c", &roles);
            client.attributes.insert("claim.line".into(), "all".into());
            client.address = Some([10, 0, 0, 1].into());
            client.snapshot().unwrap()
        })
        .collect();
    let (acl, first) = lines_cost(ROLES * LINES + CLIENTS, || {
        let acl = acl(&text);
        // A Tuesday at noon.
        acl.tick(SystemTime::UNIX_EPOCH + Duration::from_hours(498_756));
        let grants = acl.grants(&clients[0]);
        (acl, grants)
    });
    for topic in [
        "site-3/line-1/d-0/x",
        "site-3/line-2/d-0/x",
        "site-3/line-3/d-0/x",
        "own/0",
    ] {
        let decision = first.decide(Action::Publish, name(topic), &small());
        assert!(decision.is_allowed(), "{topic}");
    }
    connections_cost(&acl, &clients);
}

/// Loads a policy of so many lines and compiles it for a client; each line keeps a kibibyte at most.
fn lines_cost(
    lines: usize,
    load: impl FnOnce() -> (Acl, Arc<dyn Grants>),
) -> (Acl, Arc<dyn Grants>) {
    let mut kept = None;
    let counted = allocation_counter::measure(|| kept = Some(load()));
    let line = counted.bytes_current / i64::try_from(lines).unwrap();
    assert!(line > 0 && line <= 1024, "{line} bytes for a line");
    say(&format!("{line} bytes for a line"));
    kept.unwrap()
}

/// The grants of each client keep a kibibyte at most.
fn connections_cost(acl: &Acl, clients: &[Snapshot]) {
    let mut held: Vec<Arc<dyn Grants>> = Vec::with_capacity(clients.len());
    let counted = allocation_counter::measure(|| {
        held.extend(clients.iter().map(|client| acl.grants(client)));
    });
    let connection = counted.bytes_current / i64::try_from(clients.len()).unwrap();
    assert!(
        connection > 0 && connection <= 1024,
        "{connection} bytes for a connection"
    );
    say(&format!(
        "{connection} bytes for the grants of a connection"
    ));
}

/// With the test's name: tests run side by side.
fn say(cost: &str) {
    println!(
        "{}: {cost}",
        std::thread::current().name().unwrap_or_default()
    );
}
