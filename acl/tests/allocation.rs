//! The hot path allocates nothing.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use common::{acl, described, filter, name, small};
use portcullis_core::hook::{Action, Authorizer};

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
        let _ = grants.cover(filter("devices/+/x"), &small());
    });
    assert!(counted.count_total > 0);
}
