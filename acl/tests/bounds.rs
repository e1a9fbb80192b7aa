//! Lines about some messages only: `qos <= 1`, `payload <= '64 KiB'`.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::fmt::Write as _;
use std::sync::Arc;

use common::{acl, described, effort, filter, name, policy, small, who};
use portcullis_acl::tools::{
    Change, Circumstances, Kind, diff, diff_live, effective, expect, explain,
};
use portcullis_acl::{Acl, Act, Effect, Policy, Source, Sources};
use portcullis_core::hook::{Action, Authorizer, Cover, Decision, Grants, MessageFacts, Rule};
use portcullis_core::wire::QoS;
use proptest::prelude::*;
use proptest::sample::select;

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

const CAMERAS: &str = "\
p, role:camera, cam/{name}/state,  publish,   allow, qos <= 1 && payload <= '1 KiB'
p, role:camera, cam/{name}/image,  publish,   allow, \"payload <= '256 KiB'\"
p, role:camera, cam/{name}/state,  retain,    allow, payload <= '100 B'
p, *,           cam/+/image,       publish,   deny,  payload > '128 KiB' && listener == 'internet'
p, role:viewer, cam/#,             subscribe, allow, qos <= 1
p, role:thin,   cam/#,             subscribe, allow, payload <= '1 KiB'
";

fn at(qos: u8, payload: usize) -> MessageFacts {
    MessageFacts::new(QoS::from_bits(qos).unwrap(), payload)
}

#[test]
fn a_bounded_line_is_about_messages_within_its_bounds() {
    let acl = acl(CAMERAS);
    let camera = acl.grants(&who("cert:c1", "c1", &["camera"]));
    for (action, topic, qos, payload, allowed) in [
        (Action::Publish, "cam/c1/state", 0, 0, true),
        (Action::Publish, "cam/c1/state", 1, 1024, true),
        (Action::Publish, "cam/c1/state", 1, 1025, false),
        (Action::Publish, "cam/c1/state", 2, 10, false),
        (Action::Retain, "cam/c1/state", 1, 100, true),
        (Action::Retain, "cam/c1/state", 1, 101, false),
        (Action::Publish, "cam/c2/state", 0, 0, false),
        (Action::Publish, "cam/c1/image", 2, 128 << 10, true),
        (Action::Publish, "cam/c1/image", 2, (128 << 10) + 1, false),
    ] {
        let decision = camera.decide(action, name(topic), &at(qos, payload));
        assert_eq!(decision.is_allowed(), allowed, "{topic} {qos} {payload}");
    }
    let mut inside = described("cert:c1", "c1", &["camera"]);
    inside.listener = "inside".into();
    let inside = acl.grants(&inside.snapshot().unwrap());
    let image = name("cam/c1/image");
    let decide = |payload| inside.decide(Action::Publish, image, &at(0, payload));
    assert!(
        decide(256 << 10).is_allowed(),
        "the deny is about another listener"
    );
    assert_eq!(decide((256 << 10) + 1), Decision::Silent);
}

/// An answer holds for messages that no line tells from this one, and for no others.
#[test]
fn a_decision_says_for_which_messages_it_holds() {
    let acl = acl(CAMERAS);
    let camera = acl.grants(&who("cert:c1", "c1", &["camera"]));
    let message = at(1, 1000);
    let _ = camera.decide(Action::Publish, name("cam/c1/state"), &message);
    let alike = message.alike();
    assert!(alike.holds(QoS::AtMostOnce, 1024) && alike.holds(QoS::AtLeastOnce, 0));
    assert!(!alike.holds(QoS::ExactlyOnce, 0) && !alike.holds(QoS::AtMostOnce, 1025));
    // Lines that do not match do not matter: everything that is said of this topic is said always.
    let free = common::acl(&format!("{CAMERAS}p, *, free, publish, allow\n"));
    let message = at(0, 10);
    let grants = free.grants(&who("cert:c1", "c1", &["camera"]));
    assert!(
        grants
            .decide(Action::Publish, name("free"), &message)
            .is_allowed()
    );
    assert!(message.alike().holds(QoS::ExactlyOnce, 1 << 28));
}

/// A subscription is judged by the smallest message at its `QoS`.
#[test]
fn a_subscription_is_bounded_in_qos_and_its_deliveries_in_size() {
    let acl = acl(CAMERAS);
    let viewer = acl.grants(&who("user:v", "v", &["viewer"]));
    let cover = |qos| viewer.cover(filter("cam/#"), &at(qos, 0), &effort());
    assert_eq!((cover(0), cover(1)), (Cover::Full, Cover::Full));
    assert_eq!(cover(2), Cover::Nothing(None));
    let thin = acl.grants(&who("user:t", "t", &["thin"]));
    assert_eq!(
        thin.cover(filter("cam/#"), &at(2, 0), &effort()),
        Cover::Bounded
    );
    assert_eq!(
        thin.cover(filter("#"), &at(2, 0), &effort()),
        Cover::Partial(None)
    );
    let decide = |payload| thin.decide(Action::Receive, name("cam/x"), &at(2, payload));
    assert!(decide(1024).is_allowed() && !decide(1025).is_allowed());
    // Bounds on publishing cost a subscriber nothing.
    let plain = common::acl(&format!(
        "{CAMERAS}p, role:camera, all/#, subscribe, allow\n"
    ));
    let camera = plain.grants(&who("cert:c1", "c1", &["camera"]));
    assert_eq!(
        camera.cover(filter("all/#"), &small(), &effort()),
        Cover::Full
    );
}

#[test]
fn the_tools_know_messages() {
    let policy = policy(CAMERAS);
    let camera = who("cert:c1", "c1", &["camera"]);
    let ask = |qos: QoS, payload| {
        let circumstances = Circumstances {
            at: None,
            qos,
            payload,
            lessons: &[],
        };
        explain(
            &policy,
            &camera,
            circumstances,
            Act::Publish,
            "cam/c1/state",
        )
        .unwrap()
    };
    assert!(ask(QoS::AtLeastOnce, 1024).allowed);
    let viewer = who("user:v", "v", &["viewer"]);
    let less = Circumstances {
        qos: QoS::ExactlyOnce,
        ..Circumstances::from(None)
    };
    for filter in ["cam/#", "cam/x"] {
        let said = explain(&policy, &viewer, less, Act::Subscribe, filter).unwrap();
        assert!(!said.allowed, "{said}");
        assert!(
            said.to_string()
                .contains("if QoS 1 is enough: that is granted"),
            "{said}"
        );
    }
    let refused = ask(QoS::AtLeastOnce, 1025);
    assert!(!refused.allowed);
    let said = refused.to_string();
    assert!(said.contains("policy.csv:1"), "{said}");
    assert!(said.contains("its condition does not hold"), "{said}");
    let tests = "\
[[test]]
name = \"small\"
principal = \"cert:c1\"
roles = [\"camera\"]
qos = 1
payload = \"1 KiB\"
allow = [\"publish cam/c1/state\"]
[[test]]
name = \"large\"
principal = \"cert:c1\"
roles = [\"camera\"]
payload = \"2 KiB\"
deny = [\"publish cam/c1/state\"]
";
    let report = expect::check("t.toml", tests, &policy);
    assert!(report.passed(), "{report}");
    for (from, to, says) in [
        ("qos = 1", "qos = 3", "t.toml:5: qos is not 0, 1 or 2"),
        ("\"2 KiB\"", "\"2 kb\"", "t.toml:12: '2 kb' is not a size"),
    ] {
        let report = expect::check("t.toml", &tests.replace(from, to), &policy);
        assert!(report.to_string().contains(says), "{report}");
    }
    let wider = common::policy(&CAMERAS.replace("256 KiB", "512 KiB"));
    let changes: Vec<String> = diff(&policy, &wider)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        changes,
        [
            "role:camera gains publish cam/{name}/image, when payload > '256 KiB' && payload <= '512 KiB'",
        ]
    );
}

fn changes(found: &[Change]) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

/// For live clients a diff names the messages that it is about.
#[test]
fn a_live_diff_says_for_which_messages_a_right_changes() {
    let mut inside = described("cert:c1", "c1", &["camera"]);
    inside.listener = "inside".into();
    let clients = [
        inside.snapshot().unwrap(),
        who("cert:c2", "c2", &["camera"]),
        who("user:v", "v", &["viewer"]),
    ];
    let old = policy(CAMERAS);
    let live = |new: &str| {
        let new = policy(new);
        changes(&diff_live(&old, &new, &clients, std::time::UNIX_EPOCH))
    };
    assert_eq!(live(CAMERAS), [""; 0]);
    assert_eq!(
        live(&CAMERAS.replace("256 KiB", "512 KiB")),
        ["cert:c1 gains publish cam/c1/image, when payload > '256 KiB' && payload <= '512 KiB'"],
        "c2 is on the internet, where the deny line holds"
    );
    assert_eq!(
        live(&CAMERAS.replace(
            "cam/#,             subscribe, allow, qos <= 1",
            "cam/#, subscribe, allow"
        )),
        ["user:v gains subscribe cam/#, when qos == 2"]
    );
    assert_eq!(
        live(&CAMERAS.replace(
            "qos <= 1 && payload <= '1 KiB'",
            "qos <= 0 && payload <= '512 B'"
        )),
        [
            "cert:c1 loses publish cam/c1/state, when qos <= 0 && payload > '512 B' && payload <= '1 KiB'",
            "cert:c1 loses publish cam/c1/state, when qos == 1 && payload <= '1 KiB'",
            "cert:c2 loses publish cam/c2/state, when qos <= 0 && payload > '512 B' && payload <= '1 KiB'",
            "cert:c2 loses publish cam/c2/state, when qos == 1 && payload <= '1 KiB'",
        ]
    );
}

/// Bounds are parted from what a condition asks of the client.
#[test]
fn a_diff_over_all_topics_keeps_bounds_and_other_conditions_apart() {
    let diffs = |old: &str, new: &str| changes(&diff(&policy(old), &policy(new)));
    let line = |cond: &str| format!("p, role:x, t/#, publish, allow, \"{cond}\"");
    assert_eq!(
        diffs(
            &line("listener == 'a' && payload <= '1 KiB'"),
            &line("payload <= '2 KiB' && listener == 'a'"),
        ),
        [
            "role:x gains publish t/#, when listener == 'a' && payload > '1 KiB' && payload <= '2 KiB'"
        ]
    );
    assert_eq!(
        diffs(&line("qos <= 1"), &line("listener == 'a' || name == 'b'")),
        [
            "role:x gains publish t/#, when (listener == 'a' || name == 'b') && qos == 2",
            "role:x loses publish t/#, when qos <= 1",
        ]
    );
    assert_eq!(diffs(&line("qos <= 1"), &line("!(qos > 1)")), [""; 0]);
}

#[test]
fn a_subscription_that_no_small_message_gets_is_warned_of() {
    for (line, warned) in [
        ("p, cert:a, t, subscribe, allow, qos >= 1", true),
        ("p, cert:a, t, subscribe, allow, payload > '1 KiB'", true),
        ("p, cert:a, t, subscribe, allow, qos <= 1", false),
        ("p, cert:a, t, subscribe, deny, payload > '1 KiB'", false),
        ("p, cert:a, t, publish, allow, payload > '1 KiB'", false),
    ] {
        let sources = Sources {
            policies: vec![Source::new("policy.csv", line)],
            ..Sources::default()
        };
        let loaded = Policy::load(&sources).unwrap();
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let found = warnings
            .iter()
            .any(|w| w.contains("judged by the smallest message"));
        assert_eq!(found, warned, "{line}: {warnings:?}");
    }
}

fn line() -> impl Strategy<Value = String> {
    (
        select(vec!["*", "cert:a", "role:x"]),
        select(vec!["t", "t/+", "t/#", "+/a", "t/{client_id}"]),
        select(vec!["publish", "subscribe"]),
        select(vec!["allow", "allow", "deny"]),
        select(vec![
            "",
            "qos <= 1",
            "qos == 0",
            "qos > 0",
            "payload <= '10 B'",
            "payload <= '20 B' && listener == 'internet'",
            "payload > '10 B' && claim.s == 'n'",
            "qos <= 1 && payload <= '20 B'",
            "!(payload <= '20 B')",
        ]),
    )
        .prop_map(|(subject, topic, act, effect, cond)| match cond {
            "" => format!("p, {subject}, {topic}, {act}, {effect}"),
            _ => format!("p, {subject}, {topic}, {act}, {effect}, \"{cond}\""),
        })
}

const TOPICS: [&str; 5] = ["t", "t/a", "t/c", "u/a", "t/a/b"];
const SIZES: [u32; 5] = [0, 10, 11, 20, 21];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// What is compiled says of every message what the lines say, and a remembered answer holds.
    #[test]
    fn compiled_bounds_equal_the_plain_reading(
        lines in prop::collection::vec(line(), 1..10),
        claim in select(vec![None, Some("n"), Some("s")]),
        roles in select(vec![vec![], vec!["x"]]),
    ) {
        let mut text = String::new();
        for line in &lines {
            writeln!(text, "{line}").unwrap();
        }
        let policy = Arc::new(policy(&text));
        let mut client = described("cert:a", "c", &roles);
        client.attributes.extend(claim.map(|value| ("claim.s".to_owned(), value.to_owned())));
        let client = client.snapshot().unwrap();
        let grants = Acl::new(Arc::clone(&policy)).grants(&client);
        for (act, action) in [(Act::Publish, Action::Publish), (Act::Subscribe, Action::Receive)] {
            for topic in TOPICS {
                let mut answers = Vec::new();
                for (qos, payload) in LEVELS.iter().flat_map(|q| SIZES.map(|size| (*q, size))) {
                    let circumstances = Circumstances { at: None, qos, payload, lessons: &[] };
                    let rules = effective(&policy, &client, circumstances);
                    let of = |effect| {
                        let fits = |r: &&portcullis_acl::tools::Effective| {
                            r.act == act && r.effect == effect && r.matches(topic)
                        };
                        rules.iter().filter(fits).map(|r| r.rule).collect::<Vec<Rule>>()
                    };
                    let message = MessageFacts::new(qos, payload as usize);
                    let got = grants.decide(action, name(topic), &message);
                    let (allows, denies) = (of(Effect::Allow), of(Effect::Deny));
                    let right = match got {
                        Decision::Deny(rule) => denies.contains(&rule),
                        Decision::Allow(rule) => denies.is_empty() && allows.contains(&rule),
                        Decision::Silent => denies.is_empty() && allows.is_empty(),
                    };
                    prop_assert!(right, "{text} {act} {topic} {qos:?} {payload} {got:?}");
                    answers.push((qos, payload, got.is_allowed(), message.alike()));
                }
                for (.., answer, alike) in &answers {
                    for (qos, payload, other, _) in &answers {
                        let same = !alike.holds(*qos, *payload as usize) || other == answer;
                        prop_assert!(same, "{text} {act} {topic} {alike:?} {qos:?} {payload}");
                    }
                }
            }
        }
    }

    /// What a live diff says changes does, and what changes it says.
    #[test]
    fn a_live_diff_is_exact_about_topics_and_messages(
        old in prop::collection::vec(line(), 1..7),
        new in prop::collection::vec(line(), 1..7),
    ) {
        let policies = [old, new].map(|lines| Arc::new(policy(&lines.join("\n"))));
        let client = who("cert:a", "c", &["x"]);
        let [before, after] =
            policies.each_ref().map(|policy| Acl::new(Arc::clone(policy)).grants(&client));
        let [old, new] = &policies;
        let live = std::slice::from_ref(&client);
        let changes = diff_live(old, new, live, std::time::UNIX_EPOCH);
        for (act, action) in [(Act::Publish, Action::Publish), (Act::Subscribe, Action::Receive)] {
            let of_act = || changes.iter().filter(|change| change.act == act);
            for (qos, payload) in LEVELS.iter().flat_map(|q| SIZES.map(|size| (*q, size))) {
                let moved = |topic: &str| {
                    let message = MessageFacts::new(qos, payload as usize);
                    let may = |grants: &Arc<dyn Grants>| {
                        grants.decide(action, name(topic), &message).is_allowed()
                    };
                    match (may(&before), may(&after)) {
                        (false, true) => Some(Kind::Gains),
                        (true, false) => Some(Kind::Loses),
                        (false, false) | (true, true) => None,
                    }
                };
                let about = |change: &Change| {
                    let when = change.when.iter().map(|when| format!(", \"{when}\""));
                    let asked = format!("p, *, x, publish, allow{}", when.collect::<String>());
                    let message = Circumstances { at: None, qos, payload, lessons: &[] };
                    !effective(&policy(&asked), &client, message).is_empty()
                };
                for change in of_act().filter(|change| about(change)) {
                    // In an example `+` is a level that no line names.
                    let topic = change.example.replace(['+', '#'], "z");
                    prop_assert_eq!(moved(&topic), Some(change.kind), "{} {:?} {}", change, qos, payload);
                }
                for topic in TOPICS {
                    let said = of_act().any(|change| {
                        Some(change.kind) == moved(topic)
                            && portcullis_core::topic::matches(&change.pattern, topic)
                            && about(change)
                    });
                    prop_assert_eq!(said, moved(topic).is_some(), "{:?} {}", changes, topic);
                }
            }
        }
    }

    /// In full: every message up to the `QoS`. Bounded: the smallest, of every topic.
    #[test]
    fn cover_says_what_deliveries_will_be_told(
        lines in prop::collection::vec(line(), 1..8),
        asked in select(vec!["t", "t/a", "t/+", "t/#", "+/a"]),
    ) {
        let mut text = String::new();
        for line in &lines {
            writeln!(text, "{line}").unwrap();
        }
        let grants = acl(&text).grants(&who("cert:a", "c", &["x"]));
        let topics = || TOPICS.iter().filter(|topic| portcullis_core::topic::matches(asked, topic));
        let may = |topic: &str, qos: QoS, size: u32| {
            let message = MessageFacts::new(qos, size as usize);
            grants.decide(Action::Receive, name(topic), &message).is_allowed()
        };
        for qos in LEVELS {
            let message = MessageFacts::smallest(qos);
            let cover = grants.cover(filter(asked), &message, &effort());
            let smallest = topics().all(|topic| may(topic, qos, 0));
            let every = topics().all(|topic| {
                let below = LEVELS.iter().filter(|level| **level <= qos);
                below.flat_map(|q| SIZES.map(|size| (*q, size))).all(|(q, size)| may(topic, q, size))
            });
            match cover {
                Cover::Full => prop_assert!(every, "{text} {qos:?}"),
                Cover::Bounded => prop_assert!(smallest, "{text} {qos:?}"),
                Cover::Nothing(_) => {
                    prop_assert!(!topics().any(|topic| may(topic, qos, 0)), "{text} {qos:?}");
                }
                Cover::Partial(_) | Cover::Unclear => {}
            }
            // The answer is the same at every QoS that it holds for.
            for other in LEVELS.iter().filter(|other| message.alike().holds(**other, 0)) {
                let again = grants.cover(filter(asked), &MessageFacts::smallest(*other), &effort());
                let short = |cover| match cover {
                    Cover::Full | Cover::Bounded => 2,
                    Cover::Partial(_) | Cover::Unclear => 1,
                    Cover::Nothing(_) => 0,
                };
                prop_assert_eq!(short(cover), short(again), "{} {:?} {:?}", text, qos, other);
            }
        }
    }
}
