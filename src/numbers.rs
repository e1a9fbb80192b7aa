//! Every number that the program exports.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::http::{Sample, Source};
use crate::run::Running;

/// Reads the numbers of a running broker: the core's, then the modules'.
#[must_use]
pub fn source(running: &Running) -> Source {
    let running = running.clone();
    Arc::new(move || {
        let core = running.broker.metrics().list().into_iter();
        let core = core.map(|(name, kind, help, value)| {
            let counter = kind == "counter";
            sample(name, counter, help, value)
        });
        core.chain(modules(&running))
            .chain([policy(&running)])
            .chain(expiries(&running, SystemTime::now()))
            .collect()
    })
}

fn sample(name: &str, counter: bool, help: &str, value: u64) -> Sample {
    Sample {
        name: name.to_owned(),
        counter,
        help: help.trim_end_matches('.').replace('`', ""),
        value,
        labels: Vec::new(),
    }
}

/// Which policy is in force: always 1, with its hash as label.
fn policy(running: &Running) -> Sample {
    let hash = running.acl.policy().hash().to_owned();
    Sample {
        labels: vec![("hash", hash)],
        ..sample("policy_info", false, "The policy in force", 1)
    }
}

/// Days until certificates, client CAs and revocation lists end. The first label is the part of the
/// configuration, with its name.
fn expiries(running: &Running, now: SystemTime) -> Vec<Sample> {
    let mut expiries = running.desk.expiries();
    // One that is there twice counts as the earlier.
    expiries.sort_by_key(|one| one.ends.until);
    let mut seen = HashSet::new();
    expiries.retain(|one| {
        let ends = (one.ends.what, one.ends.name.clone());
        seen.insert((one.part, one.name.clone(), ends))
    });
    let help = "Days until this ends; 0 when it is over";
    let days = expiries.into_iter().map(|expiry| Sample {
        labels: vec![
            (expiry.part.as_str(), expiry.name.into()),
            ("what", expiry.ends.what.as_str().to_owned()),
            ("name", expiry.ends.name.clone()),
        ],
        ..sample("expiry_days", false, help, expiry.ends.days(now))
    });
    days.collect()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn modules(running: &Running) -> impl Iterator<Item = Sample> {
    let (limits, record) = (running.limiter.stats(), running.audit.stats());
    let rules = running.acl.policy().counts().rules as u64;
    let sweep = u64::try_from(running.broker.last_sweep().as_millis()).unwrap_or(u64::MAX);
    let hashes = running.desk.password_hashes();
    let (store_bytes, store_failed) = running.broker.store().unwrap_or_default();
    let gauges = [
        ("store_bytes", "Bytes in the durable store", store_bytes),
        (
            "store_failed",
            "1 when the durable store has failed: nothing is stored or acknowledged",
            store_failed.is_some().into(),
        ),
        (
            "policy_learning_listeners",
            "Listeners that learn: they allow what no line of the policy denies",
            running.acl.lessons().len() as u64,
        ),
        ("policy_rules", "Rules of the policy in force", rules),
        (
            "policy_sweep_milliseconds",
            "How long the last change of policy took to reach every session",
            sweep,
        ),
        ("audit_bytes", "Bytes of audit records kept", record.bytes),
        (
            "audit_full",
            "1 when the record is full",
            record.full.into(),
        ),
        (
            "audit_failing",
            "1 when the record cannot be written",
            record.failing.into(),
        ),
    ];
    let counters = [
        (
            "policy_rollbacks",
            "Changes of policy that were taken back because denials jumped",
            running.keeper.rollbacks(),
        ),
        (
            "policy_learned",
            "Actions allowed for the first time by a listener that learns",
            running.keeper.learned(),
        ),
        (
            "policy_shadow_differences",
            "Answers of the candidate policy that differ from those in force",
            running.acl.difference_count(),
        ),
        ("password_hashes", "Password hashes computed", hashes),
        (
            "token_roles_ignored",
            "Role values in tokens that cannot be role names",
            running.desk.ignored_roles(),
        ),
        (
            "bans_refused",
            "Refusals because of a ban",
            running.bans.refused(),
        ),
        (
            "limit_arrivals_refused",
            "Connections refused for their address's rate",
            limits.arrivals_refused,
        ),
        (
            "limit_attempts_delayed",
            "Authentication attempts delayed",
            limits.attempts_delayed,
        ),
        (
            "limit_attempts_refused",
            "Authentication attempts refused",
            limits.attempts_refused,
        ),
        (
            "limit_connects_delayed",
            "Connects delayed for flapping",
            limits.connects_delayed,
        ),
        (
            "limit_connects_refused",
            "Connects refused for flapping",
            limits.connects_refused,
        ),
        (
            "limit_batches_slowed",
            "Read batches slowed by a rate limit",
            limits.batches_slowed,
        ),
        (
            "limit_fan_outs_slowed",
            "Read batches slowed because of the deliveries that their principal causes",
            limits.fan_outs_slowed,
        ),
        (
            "limit_floods_ended",
            "Connections ended for a flood",
            limits.floods_ended,
        ),
        ("audit_records", "Audit records on disk", record.records),
        (
            "audit_lost",
            "Events that could not be recorded",
            record.lost,
        ),
        (
            "audit_counted",
            "Events counted into summaries",
            record.counted,
        ),
    ];
    let gauges = gauges.map(|(name, help, value)| sample(name, false, help, value));
    let counters = counters.map(|(name, help, value)| sample(name, true, help, value));
    gauges.into_iter().chain(counters)
}
