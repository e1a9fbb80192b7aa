//! A listener that learns: what it allows, what it never does, and how it ends.
#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{acl, described, effort, filter, name, policy, small};
use portcullis_acl::tools::{Circumstances, Who, explain};
use portcullis_acl::{Acl, Act, Lesson, MAX_LEARNED};
use portcullis_core::hook::{Action, Authorizer, Cover, Decision, Grants};

const POLICY: &str = "\
p, *, line/own,       publish, allow
p, *, line/doors/#,   publish, deny
p, *, line/doors/#,   subscribe, deny
";

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(498_744)
}

/// Learns for an hour within `line/#`, on the listener `bench`.
fn school() -> Acl {
    let acl = acl(POLICY);
    acl.tick(start());
    acl.teach(vec![Lesson {
        listener: "bench".into(),
        until: start() + Duration::from_hours(1),
        topics: vec!["line/#".into()],
    }])
    .unwrap();
    acl
}

fn on(acl: &Acl, listener: &str) -> Arc<dyn Grants> {
    let mut who = described("cert:a", "c", &[]);
    who.listener = listener.into();
    acl.grants(&who.snapshot().unwrap())
}

fn learned(acl: &Acl) -> Vec<String> {
    let learned = acl.learned().into_iter();
    let mut learned: Vec<String> = learned
        .map(|one| format!("{} {} {}", one.who.principal(), one.act, one.topic))
        .collect();
    learned.sort();
    learned
}

#[test]
fn what_no_line_speaks_of_is_allowed_within_the_topics_and_noted_once() {
    let acl = school();
    let client = on(&acl, "bench");
    for (action, topic, allowed) in [
        (Action::Publish, "line/speed", true),
        (Action::Publish, "line/speed", true),
        (Action::Retain, "line/speed", true),
        (Action::Will, "line/gone", true),
        (Action::Publish, "line/own", true),
        // A deny line holds, what is not named is refused, and so is what begins with `$`.
        (Action::Publish, "line/doors/1", false),
        (Action::Publish, "elsewhere", false),
        (Action::Publish, "$SYS/x", false),
    ] {
        let decision = client.decide(action, name(topic), &small());
        assert_eq!(decision.is_allowed(), allowed, "{action:?} {topic}");
    }
    assert_eq!(
        client.cover(filter("line/speed"), &small(), &effort()),
        Cover::Full
    );
    assert!(matches!(
        client.cover(filter("line/#"), &small(), &effort()),
        Cover::Partial(Some(_))
    ));
    assert!(matches!(
        client.cover(filter("#"), &small(), &effort()),
        Cover::Partial(_)
    ));
    assert_eq!(
        client.cover(filter("$SYS/#"), &small(), &effort()),
        Cover::Nothing(None)
    );
    assert_eq!(client.share("any"), Decision::Silent);
    assert_eq!(
        learned(&acl),
        [
            "cert:a publish line/speed",
            "cert:a retain line/speed",
            "cert:a subscribe line/speed",
            "cert:a will line/gone",
        ]
    );
    assert_eq!(learned(&acl), [""; 0], "told once");
}

#[test]
fn another_listener_learns_nothing() {
    let acl = school();
    let client = on(&acl, "internet");
    let decision = client.decide(Action::Publish, name("line/speed"), &small());
    assert_eq!(decision, Decision::Silent);
    assert_eq!(
        client.cover(filter("line/speed"), &small(), &effort()),
        Cover::Nothing(None)
    );
    assert_eq!(learned(&acl), [""; 0]);
}

/// When the time is over the generation moves, so that everything that rested on it is asked again.
#[test]
fn it_ends_by_the_clock_whatever_the_policy_does_meanwhile() {
    let acl = school();
    let may = || {
        let decision = on(&acl, "bench").decide(Action::Publish, name("line/x"), &small());
        decision.is_allowed()
    };
    assert!(may());
    acl.replace(policy(POLICY));
    assert!(may(), "a reload does not end it");
    assert!(!acl.tick(start() + Duration::from_mins(59)));
    assert_eq!(acl.lessons().len(), 1);
    let generation = acl.generation();
    assert!(acl.tick(start() + Duration::from_hours(1)));
    assert_ne!(acl.generation(), generation);
    assert!(!may());
    assert!(acl.lessons().is_empty());
    acl.replace(policy(POLICY));
    assert!(!may());
}

#[test]
fn explain_tells_what_learning_allows_and_until_when() {
    let lessons = [Lesson {
        listener: "bench".into(),
        until: start() + Duration::from_hours(1),
        topics: vec!["line/#".into()],
    }];
    let mut who = described("cert:a", "c", &[]);
    who.listener = "bench".into();
    let policy = policy(POLICY);
    let ask = |who: &Who, at, act, topic: &str| {
        let circumstances = Circumstances {
            lessons: &lessons,
            ..Circumstances::from(Some(at))
        };
        explain(&policy, &who.snapshot().unwrap(), circumstances, act, topic).unwrap()
    };
    let end = start() + Duration::from_hours(1);
    // As the compiled grants answer, and by the same reason.
    let acl = school();
    let grants = on(&acl, "bench");
    for (act, topic, taught) in [
        (Act::Publish, "line/speed", true),
        (Act::Publish, "line/own", false),
        (Act::Publish, "line/doors/1", false),
        (Act::Publish, "$SYS/x", false),
        (Act::Subscribe, "line/speed", true),
        (Act::Subscribe, "line/+/set", false),
        (Act::Subscribe, "line/a/#", true),
        (Act::Subscribe, "#", false),
        (Act::Share, "line", false),
    ] {
        let said = ask(&who, start(), act, topic);
        assert_eq!(said.lesson.is_some(), taught, "{said}");
        let allowed = match act {
            Act::Subscribe => grants.cover(filter(topic), &small(), &effort()) == Cover::Full,
            Act::Share => grants.share(topic).is_allowed(),
            Act::Publish | Act::Retain | Act::Will => grants
                .decide(Action::Publish, name(topic), &small())
                .is_allowed(),
        };
        assert_eq!(said.allowed, allowed, "{said}");
        if taught {
            assert!(said.allowed, "{said}");
            let said = said.to_string();
            assert!(
                said.contains("the listener learns until 2026-11-24T01:00:00Z"),
                "{said}"
            );
            assert!(said.contains("it is refused afterwards: "), "{said}");
        }
        assert_eq!(ask(&who, end, act, topic).lesson, None, "it is over");
    }
    who.listener = "internet".into();
    assert_eq!(ask(&who, start(), Act::Publish, "line/speed").lesson, None);
}

/// Before the first look at the clock nobody knows whether it is over.
#[test]
fn without_a_clock_nothing_is_learned() {
    let acl = acl(POLICY);
    acl.teach(vec![Lesson {
        listener: "bench".into(),
        until: start(),
        topics: vec!["line/#".into()],
    }])
    .unwrap();
    let decision = on(&acl, "bench").decide(Action::Publish, name("line/x"), &small());
    assert_eq!(decision, Decision::Silent);
}

/// Rule 9, and the promise that what is allowed is on record.
#[test]
fn what_cannot_be_noted_is_not_allowed() {
    let acl = school();
    let client = on(&acl, "bench");
    for number in 0..MAX_LEARNED {
        let topic = format!("line/{number}");
        assert!(
            client
                .decide(Action::Publish, name(&topic), &small())
                .is_allowed()
        );
    }
    let more = client.decide(Action::Publish, name("line/more"), &small());
    assert_eq!(more, Decision::Silent);
    assert_eq!(
        client.cover(filter("line/more"), &small(), &effort()),
        Cover::Nothing(None)
    );
    assert!(
        client
            .decide(Action::Publish, name("line/7"), &small())
            .is_allowed()
    );
    assert_eq!(acl.learned().len(), MAX_LEARNED);
    assert!(acl.learned().iter().all(|one| one.act == Act::Publish));
}

#[test]
fn a_lesson_names_filters_without_placeholders() {
    for topic in ["line/#/x", "line/{name}", "", "a+"] {
        let lesson = Lesson {
            listener: "bench".into(),
            until: start(),
            topics: vec![topic.into()],
        };
        assert!(lesson.check().is_err(), "{topic}");
        assert!(acl(POLICY).teach(vec![lesson]).is_err(), "{topic}");
    }
}

// A filter that reaches beyond the topics is granted in part, and each delivery is judged by itself.
#[test]
fn what_a_narrowed_subscription_receives_is_noted_topic_by_topic() {
    let acl = school();
    let client = on(&acl, "bench");
    assert!(matches!(
        client.cover(filter("#"), &small(), &effort()),
        Cover::Partial(_)
    ));
    let receive = |topic| client.decide(Action::Receive, name(topic), &small());
    assert!(receive("line/speed").is_allowed());
    assert!(receive("line/speed").is_allowed());
    assert!(!receive("elsewhere").is_allowed());
    assert_eq!(learned(&acl), ["cert:a subscribe line/speed"]);
}

// The operator ends the lesson: what it allowed in the last second is still told.
#[test]
fn what_was_not_told_yet_outlives_its_lesson() {
    let acl = school();
    let client = on(&acl, "bench");
    assert!(
        client
            .decide(Action::Publish, name("line/a"), &small())
            .is_allowed()
    );
    acl.teach(Vec::new()).unwrap();
    assert_eq!(learned(&acl), ["cert:a publish line/a"]);
}
