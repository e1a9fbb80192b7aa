//! The sixth column: conditional lines against the plain reading, time windows by the clock, and
//! the tools.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{acl, described, effort, filter, name, policy, small, who};
use portcullis_acl::tools::{diff, effective, expect, explain, lint};
use portcullis_acl::{Act, Effect, Policy, Source, Sources};
use portcullis_core::hook::{Action, Authorizer, Cover, Decision, Rule};
use proptest::prelude::*;
use proptest::sample::select;

const PLANT: &str = "\
p, role:maintenance, plant/#, publish, allow, \"time in 'Mon-Fri 08:00-18:00 UTC'\"
p, role:maintenance, plant/#, subscribe, allow, time in 'Mon-Fri 08:00-18:00 UTC'
p, role:vendor, vendor/#, publish, allow, \"source in ['10.0.0.0/8', '192.0.2.7']\"
p, role:vendor, vendor/secret/#, publish, deny, listener != 'inside'
p, *, open/#, publish, allow
p, *, open/#, publish, deny, !(cert.ou == 'icu')
";

/// A Tuesday at this hour, UTC.
fn tuesday(hour: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_478_400 + hour * 3600)
}

#[test]
fn a_condition_is_asked_of_the_client() {
    let acl = acl(PLANT);
    let mut vendor = described("jwt:v", "v", &["vendor"]);
    for (address, listener, topic, allowed) in [
        (Some("10.9.9.9"), "internet", "vendor/x", true),
        (Some("192.0.2.7"), "internet", "vendor/x", true),
        (Some("192.0.2.8"), "internet", "vendor/x", false),
        (None, "internet", "vendor/x", false),
        (Some("10.9.9.9"), "internet", "vendor/secret/x", false),
        (Some("10.9.9.9"), "inside", "vendor/secret/x", true),
    ] {
        vendor.address = address.map(|text| text.parse().unwrap());
        vendor.listener = listener.into();
        let decision =
            acl.grants(&vendor.snapshot().unwrap())
                .decide(Action::Publish, name(topic), &small());
        assert_eq!(
            decision.is_allowed(),
            allowed,
            "{address:?} {listener} {topic}"
        );
    }
}

/// Closed: what is not there grants nothing and lifts no deny.
#[test]
fn a_condition_over_a_missing_fact_is_read_strictly() {
    let acl = acl(PLANT);
    let mut client = described("cert:a", "c", &[]);
    let decide = |client: &portcullis_acl::tools::Who| {
        acl.grants(&client.snapshot().unwrap())
            .decide(Action::Publish, name("open/x"), &small())
    };
    assert_eq!(
        decide(&client),
        Decision::Deny(Rule(5)),
        "no cert.ou at all"
    );
    client.attributes.insert("cert.ou".into(), "er".into());
    assert_eq!(decide(&client), Decision::Deny(Rule(5)));
    client.attributes.insert("cert.ou".into(), "icu".into());
    assert!(decide(&client).is_allowed());
    let negated = common::acl("p, *, t, publish, allow, !(claim.x == 'y')");
    let decision =
        negated
            .grants(&who("cert:a", "c", &[]))
            .decide(Action::Publish, name("t"), &small());
    assert_eq!(decision, Decision::Silent);
}

#[test]
fn a_window_opens_and_closes_by_the_clock_and_moves_the_generation() {
    let acl = acl(PLANT);
    let client = who("jwt:m", "m", &["maintenance"]);
    let may = || {
        let grants = acl.grants(&client);
        let publish = grants
            .decide(Action::Publish, name("plant/x"), &small())
            .is_allowed();
        assert_eq!(
            grants.cover(filter("plant/#"), &small(), &effort()) == Cover::Full,
            publish
        );
        publish
    };
    assert!(!may(), "closed before the first tick");
    let mut generation = acl.generation();
    for (hour, open, moves) in [
        (7, false, true),
        (8, true, true),
        (12, true, false),
        (17, true, false),
        (18, false, true),
        (7, false, false),
        (9, true, true),
    ] {
        let at = tuesday(hour);
        assert_eq!(acl.tick(at), moves, "{hour}");
        assert_eq!(may(), open, "{hour}");
        assert_eq!(acl.generation() != generation, moves, "{hour}");
        generation = acl.generation();
    }
    acl.replace(policy(PLANT));
    assert!(may(), "a new policy is judged by the same clock");
}

#[test]
fn a_policy_without_windows_is_left_alone_by_the_clock() {
    let acl = acl("p, *, t, publish, allow, listener == 'internet'");
    let generation = acl.generation();
    assert!(!acl.tick(tuesday(3)) && !acl.tick(tuesday(15)));
    assert_eq!(acl.generation(), generation);
}

#[test]
fn clients_that_no_condition_tells_apart_share_their_grants() {
    let acl = acl(PLANT);
    let from = |address: &str| {
        let mut vendor = described("jwt:v", "v", &["vendor"]);
        vendor.address = Some(address.parse().unwrap());
        acl.client_grants(&vendor.snapshot().unwrap())
    };
    let inside = from("10.0.0.1");
    assert!(Arc::ptr_eq(&inside, &from("10.0.0.2")));
    assert!(!Arc::ptr_eq(&inside, &from("11.0.0.1")));
}

#[test]
fn a_wrong_condition_keeps_the_policy_out_with_its_line() {
    for (line, says) in [
        (
            "p, *, t, publish, allow, listner == 'x'",
            "policy.csv:2: `listner` is not a word of conditions; did you mean `listener`?",
        ),
        (
            "p, *, t, publish, allow, max-qos == 1",
            "policy.csv:2: `max-qos` is not a word of conditions; write `qos <= 1`",
        ),
        (
            "p, *, t, publish, allow, qos <= 1 || name == 'a'",
            "policy.csv:2: qos and payload bound a whole line",
        ),
        (
            "p, *, g, share, allow, qos <= 1",
            "policy.csv:2: a share line is about a group",
        ),
        (
            "p, *, t, publish, allow, \"\"",
            "policy.csv:2: the condition is empty",
        ),
        (
            "p, *, t, publish, allow,",
            "policy.csv:2: the condition is empty",
        ),
        (
            "p, *, t, publish, allow, name in ['a', 'b']",
            "policy.csv:2: a p line has five columns, or six",
        ),
        (
            "p, *, t, publish, allow, name == \"x\"",
            "policy.csv:2: a quote stands inside a field",
        ),
    ] {
        let sources = Sources {
            policies: vec![Source::new(
                "policy.csv",
                format!("p, *, a, publish, allow\n{line}\n"),
            )],
            ..Sources::default()
        };
        let errors = Policy::load(&sources).unwrap_err();
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            said.iter().any(|error| error.starts_with(says)),
            "{line}: {said:?}"
        );
    }
}

#[test]
fn a_condition_is_part_of_the_hash_and_of_the_words() {
    let plain = policy("p, *, t, publish, allow");
    let bound = policy("p, *, t, publish, allow, \"name in ['a', 'b']\"");
    assert_ne!(plain.hash(), bound.hash());
    assert_eq!(
        bound.describe(Rule(0)),
        "policy.csv:1 \"p, *, t, publish, allow, \"name in ['a', 'b']\"\""
    );
}

#[test]
fn explain_says_which_condition_keeps_a_line_out() {
    let client = who("jwt:m", "m", &["maintenance"]);
    let policy = policy(PLANT);
    let ask = |at, act, topic| explain(&policy, &client, at, act, topic).unwrap();
    let open = ask(Some(tuesday(9)), Act::Publish, "plant/x");
    assert!(open.allowed && open.rule.unwrap().starts_with("policy.csv:1"));
    for (act, topic) in [(Act::Publish, "plant/x"), (Act::Subscribe, "plant/#")] {
        let closed = ask(Some(tuesday(20)), act, topic);
        assert!(!closed.allowed);
        let said = closed.to_string();
        assert!(
            said.contains("would allow it, but its condition does not hold"),
            "{said}"
        );
    }
    assert!(!ask(None, Act::Publish, "plant/x").allowed);
}

#[test]
fn expectations_have_an_address_and_a_time() {
    let policy = policy(PLANT);
    let text = "\
[[test]]
name = \"maintenance at noon\"
principal = \"jwt:m\"
roles = [\"maintenance\"]
time = \"2026-11-24T12:00:00Z\"
allow = [\"publish plant/x\"]
full = [\"plant/#\"]
[[test]]
name = \"maintenance at night\"
principal = \"jwt:m\"
roles = [\"maintenance\"]
time = \"2026-11-24T22:00:00Z\"
deny = [\"publish plant/x\"]
[[test]]
name = \"a vendor at home\"
principal = \"jwt:v\"
roles = [\"vendor\"]
address = \"10.1.1.1\"
allow = [\"publish vendor/x\"]
";
    let report = expect::check("t.toml", text, &policy);
    assert!(report.passed(), "{report}");
    let broken = text.replace("2026-11-24T22:00:00Z", "tonight");
    let report = expect::check("t.toml", &broken, &policy);
    assert!(
        report.to_string().contains("time is not an instant"),
        "{report}"
    );
}

/// A conditional deny may not count, so it makes nothing superfluous; an unconditional one does.
#[test]
fn lint_does_not_take_a_condition_for_granted() {
    let smells = |text: &str| {
        let sources = Sources {
            policies: vec![Source::new("policy.csv", text)],
            ..Sources::default()
        };
        let loaded = Policy::load(&sources).unwrap();
        let smells: Vec<String> = lint(&loaded).iter().map(ToString::to_string).collect();
        smells.join("\n")
    };
    let text = "p, cert:a, t/x, publish, allow\np, cert:a, t/#, publish, deny, listener == 'x'\n";
    assert_eq!(smells(text), "");
    assert!(smells(&text.replace(", listener == 'x'", "")).contains("denies it all"));
    let text = "p, cert:a, t/x, publish, allow\np, cert:a, t/#, publish, allow, listener == 'x'\n";
    assert_eq!(smells(text), "");
    let text = "p, cert:a, t/x, publish, allow, listener == 'x'\np, cert:a, t/#, publish, allow\n";
    assert!(smells(text).contains("say the same and more"));
}

#[test]
fn diff_says_when() {
    let changes = |old: &str, new: &str| {
        let changes = diff(&policy(old), &policy(new));
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        changes.join("\n")
    };
    let plain = "p, role:x, t/#, publish, allow";
    let bound = "p, role:x, t/#, publish, allow, listener == 'a'";
    assert_eq!(changes(plain, bound), "role:x loses publish t/#");
    assert_eq!(
        changes(
            "p, role:x, u, publish, allow",
            &format!("p, role:x, u, publish, allow\n{bound}")
        ),
        "role:x gains publish t/#, when listener == 'a'"
    );
    assert_eq!(
        changes(
            plain,
            &format!("{plain}\np, role:x, t/y, publish, deny, listener == 'a'")
        ),
        "role:x loses publish t/#, for example t/y, when listener == 'a'"
    );
    assert_eq!(changes(bound, bound), "");
}

fn line() -> impl Strategy<Value = String> {
    (
        select(vec!["*", "cert:a", "role:x", "role:y"]),
        select(vec!["t", "t/+", "t/#", "t/{client_id}", "u/#"]),
        select(vec!["publish", "subscribe"]),
        select(vec!["allow", "allow", "deny"]),
        select(vec![
            "",
            "listener == 'internet'",
            "listener != 'internet'",
            "claim.s == 'n'",
            "!(claim.s == 'n')",
            "source in ['10.0.0.0/8']",
            "time in '08:00-18:00 UTC' || claim.s == 'n'",
            "time in 'Sat,Sun 00:00-24:00 UTC' && source == '10.0.0.0/8'",
        ]),
    )
        .prop_map(|(subject, topic, act, effect, cond)| match cond {
            "" => format!("p, {subject}, {topic}, {act}, {effect}"),
            _ => format!("p, {subject}, {topic}, {act}, {effect}, \"{cond}\""),
        })
}

proptest! {
    /// What is compiled says what the lines say, one by one.
    #[test]
    fn compiled_conditions_equal_the_plain_reading(
        lines in prop::collection::vec(line(), 1..10),
        hour in 0..24_u64,
        claim in select(vec![None, Some("n"), Some("s")]),
        address in select(vec![None, Some("10.1.1.1"), Some("2001:db8::1")]),
        roles in select(vec![vec![], vec!["x"], vec!["x", "y"]]),
    ) {
        let mut text = String::new();
        for line in &lines {
            writeln!(text, "{line}").unwrap();
        }
        let policy = Arc::new(policy(&text));
        let acl = portcullis_acl::Acl::new(Arc::clone(&policy));
        acl.tick(tuesday(hour));
        let mut client = described("cert:a", "t", &roles);
        client.address = address.map(|text| text.parse().unwrap());
        client.attributes.extend(claim.map(|value| ("claim.s".to_owned(), value.to_owned())));
        let client = client.snapshot().unwrap();
        let rules = effective(&policy, &client, Some(tuesday(hour)));
        let grants = acl.grants(&client);
        for topic in ["t", "t/a", "t/t", "u/a/b", "v"] {
            for (act, action) in [(Act::Publish, Action::Publish), (Act::Subscribe, Action::Receive)] {
                let of = |effect| rules.iter().any(|rule| {
                    rule.act == act && rule.effect == effect && rule.matches(topic)
                });
                let expected = of(Effect::Allow) && !of(Effect::Deny);
                let got = grants.decide(action, name(topic), &small()).is_allowed();
                prop_assert_eq!(got, expected, "{} {} {:?}", text, topic, act);
            }
        }
    }
}
