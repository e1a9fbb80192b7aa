//! The rules that always hold, each as a story.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::settings::{DeniedPublish, OnRevoke, PartlyCovered};

const PUBLISH: Option<Action> = Some(Action::Publish);
const RECEIVE: Option<Action> = Some(Action::Receive);
const RETAIN: Option<Action> = Some(Action::Retain);
const WILL: Option<Action> = Some(Action::Will);

#[test]
fn rule_1_without_an_authorizer_nothing_passes() {
    let world = World::new();
    world.policy.set(&[]);
    let mut client = world.connect("a", &As::new("user:a"));
    assert_eq!(client.subscribe(&world, "t", QoS::AtMostOnce), 0x87);
    client.publish(&world, "t", "x", qos1(1));
    assert_eq!(
        client.got(&world),
        [Got::PubAck(1, ReasonCode::NotAuthorized)]
    );
}

#[test]
fn rule_1_what_the_broker_itself_publishes_is_under_the_policy() {
    let world = World::new();
    world.policy.set(&[
        ("*", RECEIVE, "$SYS/a", true),
        ("*", RECEIVE, "$SYS/b", true),
        ("system:sys", PUBLISH, "$SYS/a", true),
    ]);
    let mut client = world.connect("a", &As::new("user:a"));
    for filter in ["$SYS/a", "$SYS/b"] {
        assert_eq!(client.subscribe(&world, filter, QoS::AtMostOnce), 0);
    }
    let author = Subject::system("sys", &world.engine.modules);
    for topic in ["$SYS/a", "$SYS/b"] {
        world
            .engine
            .publish_system(&author, topic, b"1", false, world.now);
    }
    assert_eq!(client.got(&world), [Got::message("$SYS/a", "1")]);
}

#[test]
fn rule_3_a_session_belongs_to_its_principal_offline_too() {
    let world = World::new();
    let mut owner = world.connect("pump", &As::persistent("user:ada"));
    assert_eq!(owner.subscribe(&world, "t", QoS::AtLeastOnce), 1);
    let refused = |how: &As| world.try_connect("pump", how).err().unwrap();
    let theirs = NotAttached::SomebodyElses(Principal::vouched("user", "ada").unwrap());
    assert_eq!(refused(&As::new("user:eve")), theirs);
    assert!(owner.got(&world).is_empty(), "the owner noticed nothing");
    owner.lose(&world);
    assert_eq!(refused(&As::persistent("user:eve")), theirs);
    assert!(
        world
            .connect("pump", &As::persistent("user:ada"))
            .session_present
    );
    assert!(world.engine.drop_session("pump", world.now));
    assert!(world.try_connect("pump", &As::new("user:eve")).is_ok());
}

#[test]
fn rule_4_a_retained_message_is_not_delivered_once_its_author_lost_the_right() {
    let world = World::new();
    let mut author = world.connect("a", &As::new("user:a"));
    author.retain(&world, "t/1", "old");
    author.disconnect(&world);
    world
        .policy
        .set(&[("*", RECEIVE, "#", true), ("user:a", PUBLISH, "#", true)]);
    let mut reader = world.connect("b", &As::new("user:b"));
    assert_eq!(reader.subscribe(&world, "t/1", QoS::AtMostOnce), 0);
    // Publishing is still allowed; retaining, which was asked at the time, is not.
    assert!(reader.got(&world).is_empty());
    assert!(world.noted("StoredWithheld"));
    world.policy.allow_all();
    assert_eq!(reader.subscribe(&world, "t/1", QoS::AtMostOnce), 0);
    assert_eq!(reader.payloads(&world), ["old"]);
}

#[test]
fn rule_4_a_ban_withholds_what_the_author_left_in_queues() {
    let world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    reader.lose(&world);
    let mut bad = world.connect("x", &As::new("user:x"));
    let mut good = world.connect("g", &As::new("user:g"));
    bad.publish(&world, "t", "bad", qos1(1));
    good.publish(&world, "t", "good", qos1(1));
    world.register.ban("user:x");
    let mut reader = world.connect("b", &As::persistent("user:b"));
    assert_eq!(reader.payloads(&world), ["good"]);
}

#[test]
fn rule_4_an_author_who_merely_left_is_delivered() {
    let world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    reader.lose(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t", "x", qos1(1));
    author.disconnect(&world);
    let mut reader = world.connect("b", &As::persistent("user:b"));
    assert_eq!(reader.payloads(&world), ["x"]);
}

#[test]
fn rule_5_partly_covered_is_refused_or_narrowed() {
    for (mode, code, seen) in [
        (PartlyCovered::Reject, 0x87, vec![]),
        (PartlyCovered::Narrow, 0, vec!["ok".to_owned()]),
    ] {
        let mut settings = Settings::default();
        settings.enforcement.subscribe = mode;
        let world = World::with(settings);
        world.policy.set(&[
            ("*", PUBLISH, "#", true),
            ("user:b", RECEIVE, "t/+", true),
            ("user:b", RECEIVE, "t/secret", false),
        ]);
        let mut reader = world.connect("b", &As::new("user:b"));
        assert_eq!(reader.subscribe(&world, "t/+", QoS::AtMostOnce), code);
        let mut author = world.connect("a", &As::new("user:a"));
        author.publish(&world, "t/secret", "no", Delivery::AtMostOnce);
        author.publish(&world, "t/open", "ok", Delivery::AtMostOnce);
        assert_eq!(reader.payloads(&world), seen);
    }
}

#[test]
fn rule_5_joining_a_group_is_a_right_of_its_own() {
    let world = World::new();
    world
        .policy
        .set(&[("*", RECEIVE, "#", true), ("user:b", None, "g", true)]);
    let mut reader = world.connect("b", &As::new("user:b"));
    assert_eq!(
        reader.subscribe(&world, "$share/h/t", QoS::AtMostOnce),
        0x87
    );
    assert_eq!(reader.subscribe(&world, "$share/g/t", QoS::AtMostOnce), 0);
}

#[test]
fn rule_6_a_revoked_subscription_is_suspended_and_resumes() {
    let world = World::new();
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "t/#", QoS::AtMostOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    world.policy.set(&[("*", PUBLISH, "#", true)]);
    // No tick in between: the delivery itself notices.
    author.publish(&world, "t/1", "no", Delivery::AtMostOnce);
    assert!(reader.got(&world).is_empty());
    assert!(world.noted("suspended: true"));
    world.policy.allow_all();
    author.publish(&world, "t/1", "yes", Delivery::AtMostOnce);
    assert_eq!(reader.payloads(&world), ["yes"]);
}

/// The generation is looked at before the grants: an old answer never passes for a new one.
#[test]
fn rule_6_a_policy_that_changes_while_it_is_asked_leaves_no_old_answer() {
    struct Changing(AtomicU64);
    struct Fixed(bool);
    impl Authorizer for Changing {
        fn name(&self) -> &'static str {
            "changing"
        }
        fn grants(&self, _: &Snapshot) -> Arc<dyn Grants> {
            // The first who asks gets the old policy, and meanwhile there is a new one.
            let old = self.0.swap(1, Ordering::SeqCst) == 0;
            Arc::new(Fixed(old))
        }
        fn generation(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
    }
    impl Grants for Fixed {
        fn decide(&self, _: Action, _: TopicName<'_>, _: &MessageFacts) -> Decision {
            if self.0 {
                Decision::Allow(Rule(0))
            } else {
                Decision::Silent
            }
        }
        fn share(&self, _: &str) -> Decision {
            Decision::Silent
        }
        fn cover(&self, _: TopicFilter<'_>, _: &MessageFacts, _: &Effort) -> Cover {
            Cover::Nothing(None)
        }
        fn describe(&self, _: Rule) -> String {
            String::new()
        }
    }
    let modules = Modules {
        authorizers: vec![Arc::new(Changing(AtomicU64::new(0)))],
        ..Modules::default()
    };
    let subject = Subject::system("sys", &modules);
    let topic = TopicName::new("t", Settings::default().mqtt.topic).unwrap();
    let message = MessageFacts::smallest(QoS::AtMostOnce);
    let rights = subject.rights(&modules);
    assert!(
        rights
            .decide(Action::Publish, topic, &message, &modules)
            .is_err()
    );
}

#[test]
fn rule_6_what_waits_in_a_queue_is_checked_by_the_present_policy() {
    let world = World::new();
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t/#", QoS::AtLeastOnce);
    reader.lose(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(&world, "t/1", "x", qos1(1));
    author.publish(&world, "t/2", "y", qos1(2));
    world
        .policy
        .set(&[("*", PUBLISH, "#", true), ("*", RECEIVE, "t/2", true)]);
    let mut reader = world.connect("b", &As::persistent("user:b"));
    assert_eq!(reader.payloads(&world), ["y"]);
}

#[test]
fn rule_6_on_revoke_disconnect_ends_the_connection_without_a_will() {
    let mut settings = Settings::default();
    settings.enforcement.on_revoke = OnRevoke::Disconnect;
    let mut world = World::with(settings);
    let how = As {
        will: Some(("t/will", 0)),
        ..As::new("user:b")
    };
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "t/will", QoS::AtMostOnce);
    let mut reader = world.connect("b", &how);
    reader.subscribe(&world, "t/#", QoS::AtMostOnce);
    world.policy.set(&[
        ("*", PUBLISH, "#", true),
        ("*", WILL, "#", true),
        ("user:w", RECEIVE, "#", true),
    ]);
    world.later(Duration::from_millis(200));
    assert_eq!(reader.got(&world), [Got::Bye(ReasonCode::NotAuthorized)]);
    assert!(watcher.got(&world).is_empty());
}

#[test]
fn rule_6_a_revoked_credential_ends_its_connection_and_its_will_is_not_published() {
    let mut world = World::new();
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "t/will", QoS::AtMostOnce);
    let how = As {
        will: Some(("t/will", 0)),
        ..As::new("user:x")
    };
    let mut client = world.connect("x", &how);
    world.register.revoke("x");
    world.later(Duration::from_millis(200));
    assert_eq!(client.got(&world), [Got::Bye(ReasonCode::NotAuthorized)]);
    assert!(watcher.got(&world).is_empty());
}

#[test]
fn rule_6_a_will_is_asked_about_when_it_fires() {
    let world = World::new();
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "t/will", QoS::AtMostOnce);
    let how = As {
        will: Some(("t/will", 0)),
        ..As::new("user:x")
    };
    let mut client = world.connect("x", &how);
    world
        .policy
        .set(&[("*", PUBLISH, "#", true), ("*", RECEIVE, "#", true)]);
    client.lose(&world);
    assert!(watcher.got(&world).is_empty());
    assert!(world.noted("its author may no longer will"));
}

#[test]
fn rule_9_an_offline_queue_that_is_full_drops_its_oldest_and_says_so() {
    let mut settings = Settings::default();
    settings.limits.queue_messages = 3;
    let world = World::with(settings);
    let mut reader = world.connect("b", &As::persistent("user:b"));
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    reader.lose(&world);
    let mut author = world.connect("a", &As::new("user:a"));
    for (id, payload) in [(1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5")] {
        author.publish(&world, "t", payload, qos1(id));
    }
    assert_eq!(author.got(&world).len(), 5, "all are acknowledged");
    let mut reader = world.connect("b", &As::persistent("user:b"));
    assert_eq!(reader.payloads(&world), ["3", "4", "5"]);
    assert!(world.noted("QueueDropped"));
    assert_eq!(world.engine.metrics.dropped_offline.value(), 2);
}

#[test]
fn rule_9_sessions_of_a_principal_are_bounded() {
    let mut settings = Settings::default();
    settings.limits.sessions_per_principal = 2;
    let world = World::with(settings);
    let how = As::persistent("user:a");
    let _kept = [world.connect("1", &how), world.connect("2", &how)];
    assert_eq!(
        world.try_connect("3", &how).err(),
        Some(NotAttached::TooMany(2))
    );
    assert!(
        world.try_connect("1", &how).is_ok(),
        "its own session again"
    );
    assert!(world.try_connect("3", &As::new("user:b")).is_ok());
}

#[test]
fn rule_9_subscriptions_and_retained_messages_are_bounded() {
    let mut settings = Settings::default();
    settings.limits.subscriptions_per_session = 1;
    settings.limits.retained_messages = 1;
    let world = World::with(settings);
    let mut client = world.connect("a", &As::new("user:a"));
    assert_eq!(client.subscribe(&world, "a", QoS::AtMostOnce), 0);
    assert_eq!(
        client.subscribe(&world, "a", QoS::AtMostOnce),
        0,
        "the same again"
    );
    assert_eq!(client.subscribe(&world, "b", QoS::AtMostOnce), 0x97);
    client.send(
        &world,
        &[
            publish("r/1", "x", qos1(1), true),
            publish("r/2", "x", qos1(2), true),
        ],
    );
    assert_eq!(
        client.got(&world),
        [
            Got::PubAck(1, ReasonCode::NoMatchingSubscribers),
            Got::PubAck(2, ReasonCode::QuotaExceeded)
        ]
    );
}

/// Some filters are work to judge. How much one packet, and what a session holds, may cause is bounded.
#[test]
fn rule_9_the_work_of_judging_filters_is_bounded() {
    let world = World::new();
    let mut client = world.connect("a", &As::new("user:a"));
    let filters = ["a", "b", "c", "d", "e", "f"];
    let all = |client: &mut Client| {
        let filters = filters.map(|filter| (filter, SubscribeOptions::default()));
        let packet = Subscribe {
            id: NonZeroU16::new(1).unwrap(),
            subscription_id: None,
            filters: filters.to_vec(),
            user: UserProperties::default(),
        };
        client.send(&world, &[Packet::Subscribe(packet)]);
        client.got(&world)
    };
    // One packet: what its filters take together.
    world.policy.steps(Effort::SUBSCRIBE / 4);
    let answered = |codes: [u8; 6]| [Got::SubAck(1, codes.to_vec())];
    let refused = answered([0, 0, 0, 0, 0x87, 0x87]);
    assert_eq!(all(&mut client), refused);
    assert_eq!(all(&mut client), refused, "and not less in the next one");
    assert_eq!(world.engine.metrics.subscriptions_unclear.value(), 4);
    assert!(world.noted("takes too much work"));
    // One session: what it would take to judge all that it holds anew.
    world.policy.steps(Effort::SESSION / 2 / 4);
    let mut heavy = world.connect("h", &As::new("user:h"));
    let mut ask = |filter| heavy.subscribe(&world, filter, QoS::AtMostOnce);
    assert_eq!(filters.map(&mut ask), [0, 0, 0, 0, 0x97, 0x97]);
    assert_eq!(ask("a"), 0, "what it has may be asked for again");
    heavy.unsubscribe(&world, "a");
    assert!(matches!(heavy.got(&world).as_slice(), [Got::UnsubAck(..)]));
    assert_eq!(heavy.subscribe(&world, "f", QoS::AtMostOnce), 0);
    // A change of policy judges them all; if that has become too much work, the rest is suspended.
    let mut author = world.connect("p", &As::new("user:p"));
    for (steps, heard) in [(Effort::SESSION / 2, 2), (Effort::SESSION / 8, 4)] {
        world.policy.steps(steps);
        for filter in filters {
            author.publish(&world, filter, "x", Delivery::AtMostOnce);
        }
        assert_eq!(heavy.payloads(&world).len(), heard, "{steps}");
    }
}

/// What a session may do is what the sum of its subscriptions' work says, however it came about.
#[test]
fn rule_9_the_work_that_a_session_holds_is_that_of_its_subscriptions() {
    const FILTERS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    #[derive(Clone, Debug)]
    enum Step {
        Subscribe(usize),
        Unsubscribe(usize),
        Policy(u32),
        Anew,
    }
    let steps = prop_oneof![
        6 => (0..FILTERS.len()).prop_map(Step::Subscribe),
        3 => (0..FILTERS.len()).prop_map(Step::Unsubscribe),
        2 => (16u32..20).prop_map(|power| Step::Policy(1 << power)),
        1 => Just(Step::Anew),
    ];
    proptest!(ProptestConfig::with_cases(200), |(steps in prop::collection::vec(steps, 1..60))| {
        let world = World::new();
        let mut client = world.connect("a", &As::new("user:a"));
        let (mut held, mut work) = (BTreeSet::new(), 1);
        world.policy.steps(work);
        for step in steps {
            match step {
                Step::Subscribe(filter) => {
                    let others = held.iter().filter(|known| **known != filter).count();
                    let count = u32::try_from(others + 1).unwrap();
                    let taken = work == 1 || count * work <= Effort::SESSION / 2;
                    let code = client.subscribe(&world, FILTERS[filter], QoS::AtMostOnce);
                    prop_assert_eq!(code, if taken { 0 } else { 0x97 });
                    if taken {
                        held.insert(filter);
                    }
                }
                Step::Unsubscribe(filter) => {
                    client.unsubscribe(&world, FILTERS[filter]);
                    let _ = client.got(&world);
                    held.remove(&filter);
                }
                Step::Policy(steps) => {
                    work = steps;
                    world.policy.steps(work);
                }
                Step::Anew => {
                    client = world.connect("a", &As::new("user:a"));
                    held.clear();
                }
            }
        }
    });
}

#[test]
fn rule_10_payloads_and_passwords_are_not_printable() {
    let world = World::new();
    let mut author = world.connect("a", &As::new("user:a"));
    author.retain(&world, "t", "canary-payload");
    author.lose(&world);
    assert!(!world.noted("canary-payload"));
}

#[test]
fn rule_13_a_full_receiver_slows_its_publisher_and_loses_nothing() {
    let mut settings = Settings::default();
    settings.limits.queue_messages = 2;
    let world = World::with(settings);
    let mut reader = world.connect(
        "b",
        &As {
            receive_maximum: Some(1),
            ..As::new("user:b")
        },
    );
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    for id in 1..=6 {
        author.publish(&world, "t", &id.to_string(), qos1(id));
    }
    // One is on its way, two wait within the bound; the others are taken, not acknowledged.
    let acked = author.got(&world);
    assert_eq!(acked.len(), 3, "{acked:?}");
    assert_eq!(reader.payloads(&world), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(author.got(&world).len(), 3);
}

#[test]
fn rule_13_acknowledgements_held_back_still_let_releases_and_acknowledgements_through() {
    // Two clients that publish to each other, each the other's full receiver: no deadlock.
    let mut settings = Settings::default();
    settings.limits.queue_messages = 1;
    let world = World::with(settings);
    let how = |principal| As {
        receive_maximum: Some(1),
        ..As::new(principal)
    };
    let (mut a, mut b) = (
        world.connect("a", &how("user:a")),
        world.connect("b", &how("user:b")),
    );
    a.subscribe(&world, "to/a", QoS::ExactlyOnce);
    b.subscribe(&world, "to/b", QoS::ExactlyOnce);
    for id in 1..=4 {
        a.publish(&world, "to/b", &id.to_string(), qos2(id));
        b.publish(&world, "to/a", &id.to_string(), qos2(id));
    }
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        to_a.append(&mut a.payloads(&world));
        to_b.append(&mut b.payloads(&world));
    }
    assert_eq!(to_a, ["1", "2", "3", "4"]);
    assert_eq!(to_b, ["1", "2", "3", "4"]);
}

#[test]
fn rule_13_a_receiver_without_progress_is_ended_after_five_seconds_and_keeps_its_session() {
    let mut settings = Settings::default();
    settings.limits.queue_messages = 1;
    let mut world = World::with(settings);
    let how = As {
        receive_maximum: Some(1),
        ..As::persistent("user:b")
    };
    let mut reader = world.connect("b", &how);
    reader.subscribe(&world, "t", QoS::AtLeastOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    for id in 1..=3 {
        author.publish(&world, "t", &id.to_string(), qos1(id));
    }
    let seen = reader.got(&world);
    assert_eq!(seen.len(), 1, "reads, does not acknowledge");
    world.later(Duration::from_secs(4));
    let connection = reader.connection.as_mut().unwrap();
    assert!(connection.check_time(world.now).is_ok());
    world.later(Duration::from_secs(2));
    let end = connection.check_time(world.now).unwrap_err();
    reader.ended(&world, end);
    assert_eq!(author.got(&world).len(), 3, "the publisher goes on");
    let mut reader = world.connect("b", &how);
    assert!(reader.session_present);
    assert_eq!(
        reader.payloads(&world),
        ["1", "3"],
        "offline, the oldest made room"
    );
}

#[test]
fn a_denied_publish_is_answered_as_configured() {
    let denied = ReasonCode::NotAuthorized;
    for (version, promise, mode, answer) in [
        (
            Version::V5,
            qos1(1),
            DeniedPublish::Acknowledge,
            vec![Got::PubAck(1, denied)],
        ),
        (
            Version::V5,
            qos2(1),
            DeniedPublish::Acknowledge,
            vec![Got::PubRec(1, denied)],
        ),
        (
            Version::V5,
            Delivery::AtMostOnce,
            DeniedPublish::Acknowledge,
            vec![],
        ),
        (
            Version::V3_1_1,
            qos1(1),
            DeniedPublish::Acknowledge,
            vec![Got::PubAck(1, ReasonCode::Success)],
        ),
        (
            Version::V3_1_1,
            qos2(1),
            DeniedPublish::Acknowledge,
            vec![Got::PubRec(1, ReasonCode::Success)],
        ),
        (
            Version::V5,
            Delivery::AtMostOnce,
            DeniedPublish::Disconnect,
            vec![Got::Bye(denied)],
        ),
        (Version::V3_1_1, qos1(1), DeniedPublish::Disconnect, vec![]),
    ] {
        let mut settings = Settings::default();
        settings.enforcement.denied_publish = mode;
        let world = World::with(settings);
        world.policy.set(&[("*", RECEIVE, "#", true)]);
        let mut reader = world.connect("b", &As::new("user:b"));
        reader.subscribe(&world, "#", QoS::AtMostOnce);
        let mut author = world.connect(
            "a",
            &As {
                version,
                ..As::new("user:a")
            },
        );
        author.publish(&world, "t", "x", promise);
        assert_eq!(
            author.got(&world),
            answer,
            "{version:?} {promise:?} {mode:?}"
        );
        assert_eq!(author.end.is_some(), mode == DeniedPublish::Disconnect);
        assert!(reader.got(&world).is_empty());
        assert!(world.noted("PublishDenied"));
    }
}

#[test]
fn retaining_is_a_right_of_its_own() {
    let world = World::new();
    world.policy.set(&[
        ("*", RECEIVE, "#", true),
        ("*", PUBLISH, "#", true),
        ("user:r", RETAIN, "#", true),
    ]);
    let mut plain = world.connect("a", &As::new("user:a"));
    plain.send(&world, &[publish("t", "x", qos1(1), true)]);
    assert_eq!(
        plain.got(&world),
        [Got::PubAck(1, ReasonCode::NotAuthorized)]
    );
    let mut other = world.connect("r", &As::new("user:r"));
    other.send(&world, &[publish("t", "x", qos1(1), true)]);
    assert_eq!(
        other.got(&world),
        [Got::PubAck(1, ReasonCode::NoMatchingSubscribers)]
    );
}

#[test]
fn a_response_topic_must_be_one_that_the_requester_may_receive() {
    let world = World::new();
    world
        .policy
        .set(&[("*", PUBLISH, "#", true), ("*", RECEIVE, "answers/#", true)]);
    let mut client = world.connect("a", &As::new("user:a"));
    for (response, code) in [
        ("answers/a", ReasonCode::NoMatchingSubscribers),
        ("secret/door", ReasonCode::NotAuthorized),
        ("answers/#", ReasonCode::NotAuthorized),
    ] {
        client.send(
            &world,
            &[Packet::Publish(Publish {
                topic: "request",
                alias: None,
                delivery: qos1(1),
                retain: false,
                properties: MessageProperties {
                    response_topic: Some(response),
                    ..MessageProperties::default()
                },
                payload: b"",
            })],
        );
        assert_eq!(client.got(&world), [Got::PubAck(1, code)], "{response}");
    }
}

#[test]
fn an_alias_is_authorized_by_the_name_it_stands_for() {
    let world = World::new();
    world
        .policy
        .set(&[("*", PUBLISH, "ok", true), ("*", RECEIVE, "#", true)]);
    let mut reader = world.connect("b", &As::new("user:b"));
    reader.subscribe(&world, "#", QoS::AtMostOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    let aliased = |topic, alias| {
        Packet::Publish(Publish {
            topic,
            alias: NonZeroU16::new(alias),
            delivery: Delivery::AtMostOnce,
            retain: false,
            properties: MessageProperties::default(),
            payload: b"x",
        })
    };
    author.send(
        &world,
        &[
            aliased("ok", 1),
            aliased("", 1),
            aliased("no", 2),
            aliased("", 2),
        ],
    );
    assert_eq!(reader.payloads(&world), ["x", "x"]);
    author.send(&world, &[aliased("", 3)]);
    assert_eq!(author.got(&world), [Got::Bye(ReasonCode::ProtocolError)]);
    let mut author = world.connect("a", &As::new("user:a"));
    author.send(&world, &[aliased("ok", 33)]);
    assert_eq!(
        author.got(&world),
        [Got::Bye(ReasonCode::TopicAliasInvalid)]
    );
}

#[test]
fn a_module_that_panics_is_a_refusal() {
    struct Broken;
    impl Authorizer for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }
        fn grants(&self, _: &Snapshot) -> Arc<dyn Grants> {
            panic!("a bug in a module")
        }
        fn generation(&self) -> u64 {
            0
        }
    }
    let policy = Arc::new(Table::default());
    policy.allow_all();
    let modules = Modules {
        authorizers: vec![policy, Arc::new(Broken)],
        ..Modules::default()
    };
    let author = Subject::system("sys", &modules);
    let topic = TopicName::new("t", Settings::default().mqtt.topic).unwrap();
    let rights = author.rights(&modules);
    assert!(
        rights
            .decide(
                Action::Publish,
                topic,
                &MessageFacts::smallest(QoS::AtMostOnce),
                &modules
            )
            .is_err()
    );
    assert_eq!(modules.metrics.modules_failed.value(), 1);
}
