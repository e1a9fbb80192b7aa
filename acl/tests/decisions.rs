//! What a client may do: tables for the sentences of the design, and two oracles on random
//! policies - the plain reading of the lines, and the casbin crate itself.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::fmt::Write as _;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use casbin::{CoreApi, DefaultModel, Enforcer, StringAdapter, function_map::OperatorFunction};
use common::{acl, described, effort, filter, name, policy, small, who};
use portcullis_acl::tools::{Effective, effective};
use portcullis_acl::{Acl, Act, Effect, MODEL};
use portcullis_core::hook::{
    Action, Authorizer, Cover, Decision, Grants, Principal, Rule, Snapshot,
};
use portcullis_core::topic::matches;
use proptest::prelude::*;
use proptest::sample::select;

const WARD: &str = "\
p, role:infusion, ward/{cert.ou}/{name}/telemetry, publish, allow
p, role:infusion, ward/{cert.ou}/{name}/cmd, subscribe, allow
p, role:nurse, ward/+/vitals/#, subscribe, allow
p, role:nurse, ward/closed/#, subscribe, deny
p, role:head, ward/+/orders, publish, allow
p, role:head, ward/+/orders, retain, allow
p, user:anna, own/{username}/{principal}/{listener}, publish, allow
p, role:nurse, team, share, allow
p, *, notices, subscribe, allow
p, *, bad/{client_id}/#, publish, deny
p, *, bad/#, publish, allow
g, cert:pump-17, role:infusion
g, user:anna, role:head
g, role:head, role:nurse
";

fn pump(ou: &str) -> Snapshot {
    let mut pump = described("cert:pump-17", "pump-17", &[]);
    pump.attributes.insert("cert.ou".into(), ou.into());
    pump.snapshot().unwrap()
}

#[test]
fn decisions_follow_roles_placeholders_and_denies() {
    use Action::{Publish, Receive, Retain, Will};
    let acl = acl(WARD);
    let anna = who("user:anna", "tablet", &[]);
    let bea = who("jwt:bea", "tablet", &["nurse"]);
    for (client, action, topic, allowed) in [
        (&pump("icu"), Publish, "ward/icu/pump-17/telemetry", true),
        (&pump("icu"), Publish, "ward/icu/pump-18/telemetry", false),
        (&pump("icu"), Publish, "ward/er/pump-17/telemetry", false),
        (&pump("icu"), Retain, "ward/icu/pump-17/telemetry", false),
        (&pump("icu"), Will, "ward/icu/pump-17/telemetry", false),
        (&pump("icu"), Receive, "ward/icu/pump-17/cmd", true),
        (&pump("+"), Publish, "ward/icu/pump-17/telemetry", false),
        (&anna, Receive, "ward/3/vitals", true),
        (&anna, Receive, "ward/3/vitals/heart/rate", true),
        (&anna, Receive, "ward/closed/vitals", false),
        (&anna, Publish, "ward/3/orders", true),
        (&anna, Retain, "ward/3/orders", true),
        (&anna, Publish, "own/anna/user:anna/internet", true),
        (&bea, Receive, "ward/3/vitals", true),
        (&bea, Publish, "ward/3/orders", false),
        (&bea, Receive, "notices", true),
        (&bea, Publish, "bad/tablet/x", false),
        (&bea, Publish, "bad/other/x", true),
    ] {
        let decision = acl.grants(client).decide(action, name(topic), &small());
        assert_eq!(
            decision.is_allowed(),
            allowed,
            "{client:?} {action:?} {topic}"
        );
    }
    assert!(acl.grants(&bea).share("team").is_allowed());
    assert_eq!(acl.grants(&bea).share("other"), Decision::Silent);
    assert_eq!(acl.grants(&pump("icu")).share("team"), Decision::Silent);
}

#[test]
fn deny_beats_allow_in_either_order_and_from_any_subject() {
    for text in [
        "p, cert:a, t/#, publish, allow\np, role:x, t/x, publish, deny\ng, cert:a, role:x",
        "p, role:x, t/x, publish, deny\np, cert:a, t/#, publish, allow\ng, cert:a, role:x",
        "p, *, t/x, publish, deny\np, cert:a, t/x, publish, allow",
        "p, cert:a, +/x, publish, deny\np, *, t/x, publish, allow",
    ] {
        let grants = acl(text).grants(&who("cert:a", "c", &[]));
        let decision = grants.decide(Action::Publish, name("t/x"), &small());
        assert!(
            matches!(decision, Decision::Deny(_)),
            "{text}: {decision:?}"
        );
    }
}

/// Rule 7: an allow line with an unsafe value grants nothing, in a deny line it counts as `+`.
#[test]
fn an_unsafe_value_never_widens_an_allow_nor_narrows_a_deny() {
    let long = "x".repeat(129);
    let allow = acl("p, *, t/{client_id}, publish, allow\np, *, t/{client_id}, subscribe, allow");
    let deny = acl(
        "p, *, #, publish, allow\np, *, t/{client_id}/#, publish, deny\n\
                    p, *, #, subscribe, allow\np, *, t/{client_id}/#, subscribe, deny",
    );
    for unsafe_id in ["", "+", "#", "a/b", "a+", "$a", "a\u{1}", &long] {
        let client = who("cert:a", unsafe_id, &[]);
        let (allow, deny) = (allow.grants(&client), deny.grants(&client));
        for topic in ["t/b", "t/a/b", "t/x"] {
            let may = allow.decide(Action::Publish, name(topic), &small());
            assert_eq!(may, Decision::Silent, "{unsafe_id:?} {topic}");
            let may = deny.decide(Action::Publish, name(topic), &small());
            assert_eq!(may, Decision::Deny(Rule(1)), "{unsafe_id:?} {topic}");
        }
        assert_eq!(
            allow.cover(filter("t/+"), &small(), &effort()),
            Cover::Nothing(None),
            "{unsafe_id:?}"
        );
        assert_eq!(
            deny.cover(filter("t/+/x"), &small(), &effort()),
            Cover::Nothing(Some(Rule(3))),
            "{unsafe_id:?}"
        );
        assert_eq!(
            deny.cover(filter("t/#"), &small(), &effort()),
            Cover::Partial(Some(Rule(3))),
            "{unsafe_id:?}"
        );
        assert!(
            deny.decide(Action::Publish, name("u"), &small())
                .is_allowed()
        );
    }
    let client = who("cert:a", "dev", &[]);
    assert_eq!(
        allow
            .grants(&client)
            .cover(filter("t/dev"), &small(), &effort()),
        Cover::Full
    );
    assert_eq!(
        allow
            .grants(&client)
            .cover(filter("t/+"), &small(), &effort()),
        Cover::Partial(None)
    );
    assert_eq!(
        deny.grants(&client)
            .cover(filter("t/other/#"), &small(), &effort()),
        Cover::Full
    );
}

#[test]
fn topics_that_begin_with_a_dollar_need_rules_of_their_own() {
    let wide = acl("p, *, #, publish, allow\np, *, +/x, publish, allow\n\
                    p, cert:a, $SYS/#, publish, allow\np, cert:a, #, publish, deny");
    let [a, b] = ["cert:a", "cert:b"].map(|principal| wide.grants(&who(principal, "c", &[])));
    assert_eq!(
        b.decide(Action::Publish, name("$SYS/x"), &small()),
        Decision::Silent
    );
    assert!(
        b.decide(Action::Publish, name("t/x"), &small())
            .is_allowed()
    );
    assert!(
        a.decide(Action::Publish, name("$SYS/x"), &small())
            .is_allowed()
    );
    assert_eq!(
        a.decide(Action::Publish, name("t/x"), &small()),
        Decision::Deny(Rule(3))
    );
}

/// A deny whose first level is a placeholder without a safe value begins with `+`.
#[test]
fn an_unsafe_value_at_the_beginning_denies_nothing_that_begins_with_a_dollar() {
    let acl = acl("p, *, #, publish, allow\np, *, $SYS/#, publish, allow\n\
                   p, *, #, subscribe, allow\np, *, $SYS/#, subscribe, allow\n\
                   p, *, {cert.ou}/x, publish, deny\np, *, {cert.ou}/x, subscribe, deny");
    let grants = acl.grants(&who("cert:a", "c", &[]));
    for (topic, allowed) in [("$SYS/x", true), ("t/x", false), ("t/y", true)] {
        let decision = grants.decide(Action::Publish, name(topic), &small());
        assert_eq!(decision.is_allowed(), allowed, "{topic}");
        for filter in [topic.to_owned(), topic.replace("/x", "/+")] {
            let cover = grants.cover(common::filter(&filter), &small(), &effort());
            assert_eq!(cover == Cover::Full, allowed, "{filter}: {cover:?}");
        }
    }
}

/// Topics and names are compared byte for byte, level by level: nothing that looks alike is.
#[test]
fn what_only_looks_like_a_topic_or_a_name_has_none_of_its_rights() {
    let acl = acl("\
p, cert:caf\u{e9}, plant/caf\u{e9}, publish, allow
p, cert:caf\u{e9}, plant/+, subscribe, allow
p, cert:caf\u{e9}, own/{name}, publish, allow
p, cert:caf\u{e9}, g, share, allow
");
    let right = acl.grants(&who("cert:caf\u{e9}", "c", &[]));
    let may = |grants: &Arc<dyn Grants>, topic| {
        grants
            .decide(Action::Publish, name(topic), &small())
            .is_allowed()
    };
    assert!(may(&right, "plant/caf\u{e9}") && may(&right, "own/caf\u{e9}"));
    for topic in [
        "plant/cafe\u{301}",
        "plant/c\u{430}f\u{e9}",
        "Plant/caf\u{e9}",
        "plant/caf\u{c9}",
        "plant/caf\u{e9}/",
        "/plant/caf\u{e9}",
        "plant//caf\u{e9}",
        "plant/caf\u{e9} ",
        "plant/caf\u{e9}\u{200b}",
        "$share/g/plant/caf\u{e9}",
        "$plant/caf\u{e9}",
        "own/cafe\u{301}",
        "plant/%63af\u{e9}",
        "plant/./caf\u{e9}",
    ] {
        assert!(!may(&right, topic), "{topic:?}");
    }
    for (asked, cover) in [
        ("plant/+", Cover::Full),
        ("plant/", Cover::Full),
        ("plant", Cover::Nothing(None)),
        ("plant/+/", Cover::Nothing(None)),
        ("plant/#", Cover::Partial(None)),
        ("/plant/+", Cover::Nothing(None)),
        ("$plant/+", Cover::Nothing(None)),
        ("$share/g/plant/+", Cover::Full),
        ("$share/g/$plant/+", Cover::Nothing(None)),
        ("$share/g/plant/#", Cover::Partial(None)),
    ] {
        assert_eq!(
            right.cover(filter(asked), &small(), &effort()),
            cover,
            "{asked}"
        );
    }
    for group in ["G", "g ", "", "+", "#", "\u{ff47}"] {
        assert!(!right.share(group).is_allowed(), "{group:?}");
    }
    for other in [
        "cert:cafe\u{301}",
        "cert:Caf\u{e9}",
        "cert:caf\u{e9} ",
        "user:caf\u{e9}",
        "cert:x/caf\u{e9}",
    ] {
        let grants = acl.grants(&who(other, "c", &[]));
        assert!(!may(&grants, "plant/caf\u{e9}"), "{other:?}");
    }
}

/// Casbin's own trap: whoever is named like a role would have its rights.
#[test]
fn a_client_that_is_named_like_a_role_or_like_everybody_has_no_rights_from_it() {
    let acl = acl("p, role:x, t, publish, allow\ng, role:x, role:y\np, role:y, u, publish, allow");
    assert!(Principal::vouched("role", "x").is_err(), "nobody is a role");
    for client in [who("cert:role:x", "c", &[]), who("user:*", "c", &[])] {
        for topic in ["t", "u"] {
            let decision = acl
                .grants(&client)
                .decide(Action::Publish, name(topic), &small());
            assert_eq!(decision, Decision::Silent, "{client:?}");
        }
    }
}

#[test]
fn clients_that_no_rule_tells_apart_share_their_grants() {
    let acl = acl(WARD);
    let nurse = |name: &str| acl.client_grants(&who(name, "c", &["nurse"]));
    let first = nurse("jwt:a");
    assert!(
        Arc::ptr_eq(&first, &nurse("jwt:b")),
        "no rule for nurses names them"
    );
    let other = acl.client_grants(&who("jwt:b", "other", &["nurse"]));
    assert!(
        !Arc::ptr_eq(&first, &other),
        "bad/{{client_id}} tells them apart"
    );
}

#[test]
fn a_replaced_policy_moves_the_generation_and_old_grants_stay_as_they_were() {
    let acl = acl("p, cert:a, t, publish, allow");
    let client = who("cert:a", "c", &[]);
    let (old, generation) = (acl.grants(&client), acl.generation());
    let before = acl.policy().hash().to_owned();
    let replaced = acl.replace(policy("p, cert:a, u, publish, allow"));
    assert_eq!(replaced.hash(), before);
    assert_ne!(acl.generation(), generation);
    assert!(
        old.decide(Action::Publish, name("t"), &small())
            .is_allowed()
    );
    let new = acl.grants(&client);
    assert_eq!(
        new.decide(Action::Publish, name("t"), &small()),
        Decision::Silent
    );
    assert!(
        new.decide(Action::Publish, name("u"), &small())
            .is_allowed()
    );
}

/// Many threads ask while the policy is replaced again and again.
#[test]
fn who_sees_a_generation_finds_its_policy() {
    const CHANGES: u64 = 300;
    let only = |number: u64| policy(&format!("p, *, v/{number}, publish, allow"));
    let acl = Acl::new(only(0));
    let first = acl.generation();
    let client = who("cert:a", "c", &[]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut seen = 0;
                while seen < CHANGES {
                    let generation = acl.generation();
                    let grants = acl.grants(&client);
                    let least = generation - first;
                    let newest = (least..=CHANGES).find(|number| {
                        let topic = format!("v/{number}");
                        grants
                            .decide(Action::Publish, name(&topic), &small())
                            .is_allowed()
                    });
                    assert!(newest.is_some(), "an older policy than generation {least}");
                    seen = least;
                }
            });
        }
        for number in 1..=CHANGES {
            acl.replace(only(number));
        }
    });
}

#[test]
fn a_rule_is_described_with_file_and_line() {
    let acl = acl("# first\np, cert:a, t/#, publish, deny\np, \"cert:CN=a,O=b\", t, publish, deny");
    let rules = ["cert:a", "cert:CN=a,O=b"].map(|principal| {
        let grants = acl.grants(&who(principal, "c", &[]));
        match grants.decide(Action::Publish, name("t"), &small()) {
            Decision::Deny(rule) => grants.describe(rule),
            other @ (Decision::Allow(_) | Decision::Silent) => format!("{other:?}"),
        }
    });
    assert_eq!(
        rules,
        [
            "policy.csv:2 \"p, cert:a, t/#, publish, deny\"",
            "policy.csv:3 \"p, \"cert:CN=a,O=b\", t, publish, deny\"",
        ]
    );
}

/// Conditions, and what each says of a client and of the smallest message in plain Rust; `None` where
/// it asks for what is not there.
fn conditions() -> Vec<Condition> {
    fn ou(who: &Snapshot) -> Option<&str> {
        who.identity.attributes.get("cert.ou").map(|ou| &**ou)
    }
    fn id(who: &Snapshot) -> Option<&str> {
        Some(&*who.client_id).filter(|id| !id.is_empty())
    }
    vec![
        ("cert.ou == 'b'", |who| Some(ou(who)? == "b")),
        ("cert.ou != 'b'", |who| Some(ou(who)? != "b")),
        ("!(cert.ou in ['b', '#'])", |who| {
            Some(!["b", "#"].contains(&ou(who)?))
        }),
        ("client_id in ['a', '+'] || cert.ou == 'x'", |who| {
            match (
                id(who).map(|id| ["a", "+"].contains(&id)),
                ou(who).map(|ou| ou == "x"),
            ) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            }
        }),
        ("username == 'u' && listener == 'internet'", |who| {
            (who.principal().kind() == "user").then(|| who.principal().name() == "u")
        }),
        ("listener != 'internet'", |_| Some(false)),
        ("source in ['10.0.0.0/8']", |_| None),
        ("time before '2030-01-01T00:00:00Z'", |_| None),
        ("qos <= 0 && payload <= '1 KiB'", |_| Some(true)),
        ("payload > '0 B' && listener == 'internet'", |_| Some(false)),
    ]
}

type Condition = (&'static str, fn(&Snapshot) -> Option<bool>);

/// Random policies over few words, so that lines meet.
fn policies() -> impl Strategy<Value = String> {
    let subject = select(vec![
        "cert:a",
        "jwt:b",
        "user:u",
        "anonymous",
        "*",
        "role:1",
        "role:2",
        "role:3",
    ]);
    let level = select(vec![
        "a",
        "b",
        "+",
        "u",
        "x",
        "$s",
        "",
        "{name}",
        "{client_id}",
        "{cert.ou}",
        "{username}",
        "{principal}",
    ]);
    let topic = (prop::collection::vec(level, 1..4), any::<bool>()).prop_map(|(levels, hash)| {
        let topic = levels.join("/");
        match (topic.is_empty(), hash) {
            (true, _) => "#".to_owned(),
            (false, true) => topic + "/#",
            (false, false) => topic,
        }
    });
    let group = select(vec!["a", "b", "+", "#", "{name}", "{client_id}"]);
    let act = select(vec!["publish", "retain", "will", "subscribe"]);
    let effect = prop_oneof![3 => Just("allow"), 1 => Just("deny")];
    let cond =
        prop_oneof![2 => Just(None), 1 => select(conditions()).prop_map(|(text, _)| Some(text))];
    let line = (subject, topic, group, act, effect, cond, 0..8u8);
    let lines = prop::collection::vec(line, 1..14).prop_map(|lines| {
        let lines = lines.into_iter().map(|line| {
            let (subject, topic, group, act, effect, cond, share) = line;
            let cond = cond.map_or_else(String::new, |cond| format!(", \"{cond}\""));
            match share {
                0 => format!("p, {subject}, {group}, share, {effect}\n"),
                _ => format!("p, {subject}, {topic}, {act}, {effect}{cond}\n"),
            }
        });
        lines.collect::<String>()
    });
    // Upwards only: no cycles.
    let given = select(vec![
        "g, cert:a, role:1",
        "g, jwt:b, role:2",
        "g, anonymous, role:3",
        "g, role:1, role:2",
        "g, role:2, role:3",
        "g, role:1, role:3",
        "g, user:u, role:2",
    ]);
    (lines, prop::collection::vec(given, 0..5))
        .prop_map(|(lines, given)| lines + given.join("\n").as_str())
}

fn clients() -> impl Strategy<Value = Snapshot> {
    (
        select(vec!["cert:a", "jwt:b", "user:u", "user:x", "anonymous"]),
        select(vec!["a", "x", "", "+", "$s", "a/b"]),
        prop::option::of(select(vec!["b", "#", "x"])),
        select(vec![vec![], vec!["1"], vec!["3"], vec!["2", "3"]]),
    )
        .prop_map(|(principal, client_id, ou, roles)| {
            let mut who = described(principal, client_id, &roles);
            if let Some(ou) = ou {
                who.attributes.insert("cert.ou".into(), ou.into());
            }
            who.snapshot().unwrap()
        })
}

const TOPICS: [&str; 16] = [
    "a", "b", "u", "x", "/", "a/", "/a", "a/b", "a/a", "u/x", "x/b/a", "cert:a/a", "$s", "$s/a",
    "$s/b/x", "a/$s/b/a",
];
const GROUPS: [&str; 4] = ["a", "b", "u", "other"];

/// Asks everything: topics for the four topic actions, groups for `share`.
fn questions() -> impl Iterator<Item = (Act, &'static str)> {
    let topics = Act::ALL.into_iter().filter(|act| *act != Act::Share);
    topics
        .flat_map(|act| TOPICS.map(|topic| (act, topic)))
        .chain(GROUPS.map(|group| (Act::Share, group)))
}

fn compiled(grants: &dyn Grants, act: Act, topic: &str) -> Decision {
    match act {
        Act::Publish => grants.decide(Action::Publish, name(topic), &small()),
        Act::Retain => grants.decide(Action::Retain, name(topic), &small()),
        Act::Will => grants.decide(Action::Will, name(topic), &small()),
        Act::Subscribe => grants.decide(Action::Receive, name(topic), &small()),
        Act::Share => grants.share(topic),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn compiled_decisions_equal_the_plain_reading(text in policies(), client in clients()) {
        let policy = Arc::new(policy(&text));
        let grants = Acl::new(Arc::clone(&policy)).grants(&client);
        let rules = effective(&policy, &client, None);
        for (act, topic) in questions() {
            let of = |effect: Effect| {
                let fits = |r: &&Effective| r.act == act && r.effect == effect && r.matches(topic);
                rules.iter().filter(fits).map(|rule| rule.rule).collect::<Vec<Rule>>()
            };
            let (allows, denies) = (of(Effect::Allow), of(Effect::Deny));
            match compiled(&*grants, act, topic) {
                Decision::Deny(rule) => prop_assert!(denies.contains(&rule), "{act} {topic}"),
                Decision::Allow(rule) => {
                    prop_assert!(denies.is_empty() && allows.contains(&rule), "{act} {topic}");
                }
                Decision::Silent => {
                    prop_assert!(denies.is_empty() && allows.is_empty(), "{act} {topic}");
                }
            }
        }
    }

    #[test]
    fn compiled_decisions_equal_casbin(text in policies(), client in clients()) {
        let grants = acl(&text).grants(&client);
        let casbin = reference(&text, &client);
        for (act, topic) in questions() {
            let ours = compiled(&*grants, act, topic).is_allowed();
            let request = (client.principal().as_str(), topic, act.as_str());
            prop_assert_eq!(ours, casbin.enforce(request).unwrap(), "{} {}", act, topic);
        }
    }

    #[test]
    fn cover_of_a_concrete_topic_is_its_decision(text in policies(), client in clients()) {
        let grants = acl(&text).grants(&client);
        for topic in TOPICS {
            let decided = grants.decide(Action::Receive, name(topic), &small()).is_allowed();
            let cover = grants.cover(filter(topic), &small(), &effort());
            let covered = matches!(cover, Cover::Full | Cover::Bounded);
            prop_assert_eq!(decided, covered, "{}", topic);
        }
    }
}

/// The casbin crate over the same policy: values put in by plain text replacement, lines left out whose
/// condition does not hold, a `g` line for each role of the credential.
fn reference(text: &str, client: &Snapshot) -> Enforcer {
    let mut lines = String::from("p, role:nobody, unused, publish, deny\n");
    for line in text.lines() {
        let (line, cond) = match line.split_once(", \"") {
            Some((line, cond)) => (line, cond.strip_suffix('"')),
            None => (line, None),
        };
        let said = cond.and_then(|cond| {
            let (_, says) = conditions()
                .into_iter()
                .find(|(text, _)| *text == cond)
                .unwrap();
            says(client)
        });
        // An allow line needs a yes, a deny line holds unless there is a no.
        let idle = match (cond, said) {
            (None, _) | (_, Some(true)) => false,
            (Some(_), Some(false)) => true,
            (Some(_), None) => line.ends_with("allow"),
        };
        if idle {
            continue;
        }
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let &[kind, subject, topic, act, effect] = fields.as_slice() else {
            lines.push_str(line);
            lines.push('\n');
            continue;
        };
        if let Some(topic) = replaced(topic, effect == "deny", client) {
            let _ = writeln!(lines, "{kind}, {subject}, {topic}, {act}, {effect}");
        }
    }
    for role in &*client.identity.roles {
        let _ = writeln!(lines, "g, {}, role:{role}", client.principal());
    }
    let mut enforcer = at_once(async {
        let model = DefaultModel::from_str(MODEL).await.unwrap();
        Enforcer::new(model, StringAdapter::new(lines))
            .await
            .unwrap()
    });
    let function = |topic: casbin::rhai::Dynamic, filter: casbin::rhai::Dynamic| {
        let text = |value: casbin::rhai::Dynamic| value.into_string().unwrap_or_default();
        matches(&text(filter), &text(topic)).into()
    };
    enforcer.add_function("mqttMatch", OperatorFunction::Arg2(function));
    enforcer
}

fn replaced(topic: &str, deny: bool, client: &Snapshot) -> Option<String> {
    let principal = client.principal();
    let mut levels = Vec::new();
    for level in topic.split('/') {
        let value = match level {
            "{name}" => principal.name(),
            "{principal}" => principal.as_str(),
            "{client_id}" => &client.client_id,
            "{username}" if principal.kind() == "user" => principal.name(),
            "{username}" => "",
            "{cert.ou}" => client.identity.attributes.get("cert.ou").map_or("", |v| v),
            plain => {
                levels.push(plain);
                continue;
            }
        };
        let good = !value.is_empty() && !value.starts_with('$') && !value.contains(['+', '#', '/']);
        match (good, deny) {
            (true, _) => levels.push(value),
            (false, true) => levels.push("+"),
            (false, false) => return None,
        }
    }
    Some(levels.join("/"))
}

fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
