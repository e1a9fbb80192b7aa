//! A candidate beside the policy in force: it is counted and never decides.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use common::{acl, effort, filter, name, policy, small, who};
use std::time::{Duration, SystemTime};

use portcullis_acl::{Act, Lesson, MAX_DIFFERENCES};
use portcullis_core::hook::{Action, Authorizer, Cover};

const ACTIVE: &str =
    "p, *, t/#, publish, allow\np, *, t/#, subscribe, allow\np, *, g, share, allow";

#[test]
fn a_candidate_never_changes_an_answer() {
    let acl = acl(ACTIVE);
    acl.shadow(Some(
        policy("p, *, u/#, publish, allow\np, *, t/#, publish, deny").into(),
    ));
    let grants = acl.grants(&who("cert:a", "c", &[]));
    assert!(
        grants
            .decide(Action::Publish, name("t/x"), &small())
            .is_allowed()
    );
    assert!(
        !grants
            .decide(Action::Publish, name("u/x"), &small())
            .is_allowed()
    );
    assert_eq!(
        grants.cover(filter("t/#"), &small(), &effort()),
        Cover::Full
    );
    assert!(grants.share("g").is_allowed());
}

#[test]
fn differences_are_counted_by_principal_action_and_rule() {
    let acl = acl(ACTIVE);
    acl.shadow(Some(
        policy(
            "p, *, u/#, publish, allow\np, *, t/#, publish, allow\np, *, t/secret, publish, deny\n\
                p, *, t/+, subscribe, allow",
        )
        .into(),
    ));
    for (principal, topic, times) in [
        ("cert:a", "t/x", 3),
        ("cert:a", "t/secret", 2),
        ("cert:b", "t/secret", 1),
        ("cert:a", "u/y", 1),
    ] {
        let grants = acl.grants(&who(principal, "c", &[]));
        for _ in 0..times {
            let _ = grants.decide(Action::Publish, name(topic), &small());
        }
    }
    let _ = acl
        .grants(&who("cert:a", "c", &[]))
        .cover(filter("t/#"), &small(), &effort());
    let report = acl.differences().unwrap();
    assert_eq!((report.total, report.missed), (5, 0));
    let mut rows: Vec<_> = report
        .differences
        .iter()
        .map(|d| {
            (
                d.principal.as_str(),
                d.act,
                d.gains,
                d.example.as_str(),
                d.count,
            )
        })
        .collect();
    rows.sort();
    assert_eq!(
        rows,
        [
            ("cert:a", Act::Publish, false, "t/secret", 2),
            ("cert:a", Act::Publish, true, "u/y", 1),
            ("cert:a", Act::Subscribe, false, "t/#", 1),
            ("cert:b", Act::Publish, false, "t/secret", 1),
        ]
    );
    let first = report.differences.first().unwrap();
    assert_eq!(first.rule, "policy.csv:3 \"p, *, t/secret, publish, deny\"");
}

/// Of a narrowed subscription a part is left, and it may be lost.
#[test]
fn a_subscription_that_loses_what_was_left_of_it_differs() {
    let part = "p, *, t/#, subscribe, allow\np, *, t/a, subscribe, deny\n";
    let nothing = "p, *, t/#, subscribe, allow\np, *, t/#, subscribe, deny\n";
    for (active, candidate, gains) in [(part, nothing, false), (nothing, part, true)] {
        let acl = acl(active);
        acl.shadow(Some(policy(candidate).into()));
        let grants = acl.grants(&who("cert:a", "c", &[]));
        let _ = grants.cover(filter("t/+"), &small(), &effort());
        let report = acl.differences().unwrap();
        let said: Vec<_> = report.differences.iter().map(|d| d.gains).collect();
        assert_eq!(said, [gains]);
    }
}

/// What a draft still lacks: what a listener allows because it learns is compared, too.
#[test]
fn a_candidate_is_compared_with_what_a_listener_allows_that_learns() {
    let acl = acl(ACTIVE);
    let now = SystemTime::UNIX_EPOCH;
    acl.tick(now);
    acl.teach(vec![Lesson {
        listener: "internet".into(),
        until: now + Duration::from_hours(1),
        topics: vec!["line/#".into()],
    }])
    .unwrap();
    let draft =
        format!("{ACTIVE}\np, *, line/speed, publish, allow\np, *, line/a, subscribe, allow");
    acl.shadow(Some(policy(&draft).into()));
    let grants = acl.grants(&who("cert:a", "c", &[]));
    for topic in ["line/speed", "line/doors", "t/x"] {
        assert!(
            grants
                .decide(Action::Publish, name(topic), &small())
                .is_allowed(),
            "{topic}: it never decides"
        );
    }
    for wanted in ["line/a", "line/b"] {
        assert_eq!(
            grants.cover(filter(wanted), &small(), &effort()),
            Cover::Full
        );
    }
    let mut said: Vec<_> = acl
        .differences()
        .unwrap()
        .differences
        .into_iter()
        .map(|one| (one.act, one.gains, one.example, one.rule))
        .collect();
    said.sort();
    assert_eq!(
        said,
        [
            (
                Act::Publish,
                false,
                "line/doors".to_owned(),
                "the listener is learning".to_owned()
            ),
            (Act::Subscribe, false, "line/b".to_owned(), String::new()),
        ]
    );
    assert_eq!(acl.learned().len(), 4, "and it is noted as ever");
}

/// Rule 9: the table is bounded, and what does not fit is counted.
#[test]
fn more_differences_than_the_table_holds_are_counted() {
    let acl = acl(ACTIVE);
    acl.shadow(Some(policy("p, *, v, publish, allow").into()));
    for n in 0..MAX_DIFFERENCES + 10 {
        let grants = acl.grants(&who(&format!("cert:{n}"), "c", &[]));
        let _ = grants.decide(Action::Publish, name("t/x"), &small());
    }
    let report = acl.differences().unwrap();
    assert_eq!(report.differences.len(), MAX_DIFFERENCES);
    assert_eq!(report.missed, 10);
}

#[test]
fn promotion_puts_the_candidate_in_force_and_ends_the_count() {
    let acl = acl(ACTIVE);
    assert!(acl.promote().is_none() && acl.differences().is_none());
    let old = acl.policy().hash().to_owned();
    let candidate = policy("p, *, u/#, publish, allow");
    let new = candidate.hash().to_owned();
    let generation = acl.generation();
    acl.shadow(Some(candidate.into()));
    assert_ne!(
        acl.generation(),
        generation,
        "who is connected is asked again"
    );
    assert_eq!(acl.policy().hash(), old);
    let before = acl.promote().unwrap();
    assert_eq!(
        (before.hash(), acl.policy().hash()),
        (old.as_str(), new.as_str())
    );
    assert!(acl.differences().is_none());
    let grants = acl.grants(&who("cert:a", "c", &[]));
    assert!(
        grants
            .decide(Action::Publish, name("u/x"), &small())
            .is_allowed()
    );
}

#[test]
fn a_replaced_policy_keeps_the_candidate_and_counts_anew() {
    let acl = acl(ACTIVE);
    acl.shadow(Some(policy("p, *, v, publish, allow").into()));
    let client = who("cert:a", "c", &[]);
    let _ = acl
        .grants(&client)
        .decide(Action::Publish, name("t/x"), &small());
    acl.replace(policy("p, *, v, publish, allow"));
    assert_eq!(acl.differences().unwrap().total, 0);
    let _ = acl
        .grants(&client)
        .decide(Action::Publish, name("v"), &small());
    assert_eq!(acl.differences().unwrap().total, 0);
    acl.shadow(None);
    assert!(acl.differences().is_none());
}
