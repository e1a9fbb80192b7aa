//! The broker's account of itself.

use std::time::Duration;

use super::*;
use crate::sys::Sys;

#[test]
fn the_sys_tree_says_what_is_and_repeats_only_what_changed() {
    let mut world = World::new();
    world.policy.set(&[
        ("system:sys", Some(Action::Publish), "$SYS/#", true),
        ("system:sys", Some(Action::Retain), "$SYS/#", true),
        ("user:w", Some(Action::Receive), "$SYS/broker/#", true),
    ]);
    let author = Subject::system("sys", &world.engine.modules);
    let mut sys = Sys::new(author, world.now);
    let mut watcher = world.connect("w", &As::new("user:w"));
    let options = SubscribeOptions {
        retain_as_published: true,
        ..SubscribeOptions::default()
    };
    watcher.subscribe_with(&world, "$SYS/broker/#", options, None);
    sys.tend(&world.engine, world.now);
    let said = |watcher: &mut Client, world: &World| -> HashMap<String, String> {
        let got = watcher.got(world).into_iter();
        got.map(|got| match got {
            Got::Message {
                topic,
                payload,
                retain: true,
                ..
            } => (topic.replace("$SYS/broker/", ""), payload),
            other => panic!("{other:?}"),
        })
        .collect()
    };
    let first = said(&mut watcher, &world);
    assert_eq!(first.len(), 20);
    assert_eq!(first["clients/connected"], "1");
    assert_eq!(first["subscriptions/count"], "1");
    assert_eq!(first["store/full"], "0");
    assert_eq!(first["retained messages/count"], "0");
    let offline = As::persistent("user:a");
    world.connect("a", &offline).lose(&world);
    world.later(Duration::from_secs(9));
    sys.tend(&world.engine, world.now);
    assert!(said(&mut watcher, &world).is_empty(), "before its time");
    world.later(Duration::from_secs(1));
    sys.tend(&world.engine, world.now);
    let second = said(&mut watcher, &world);
    assert_eq!(second["clients/total"], "2");
    assert_eq!(second["clients/disconnected"], "1");
    assert_eq!(second["uptime"], "10 seconds");
    assert_eq!(second["publish/messages/sent"], "20");
    assert!(!second.contains_key("version") && !second.contains_key("clients/connected"));
}

#[test]
fn without_a_row_in_the_policy_the_broker_says_nothing() {
    let world = World::new();
    world
        .policy
        .set(&[("*", Some(Action::Receive), "$SYS/#", true)]);
    let author = Subject::system("sys", &world.engine.modules);
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "$SYS/#", QoS::AtMostOnce);
    Sys::new(author, world.now).tend(&world.engine, world.now);
    assert!(watcher.got(&world).is_empty());
    assert_eq!(world.engine.metrics.retained_messages.value(), 0);
}

#[test]
fn what_the_policy_held_back_is_said_once_it_allows_it() {
    let mut world = World::new();
    let read = ("user:w", Some(Action::Receive), "$SYS/broker/version", true);
    world.policy.set(&[read]);
    let author = Subject::system("sys", &world.engine.modules);
    let mut sys = Sys::new(author, world.now);
    let mut watcher = world.connect("w", &As::new("user:w"));
    watcher.subscribe(&world, "$SYS/broker/version", QoS::AtMostOnce);
    sys.tend(&world.engine, world.now);
    assert!(watcher.got(&world).is_empty());
    world.policy.set(&[
        read,
        ("system:sys", Some(Action::Publish), "$SYS/#", true),
        ("system:sys", Some(Action::Retain), "$SYS/#", true),
    ]);
    world.later(Duration::from_secs(10));
    sys.tend(&world.engine, world.now);
    assert_eq!(watcher.payloads(&world).len(), 1, "it never changes");
    world.later(Duration::from_secs(10));
    sys.tend(&world.engine, world.now);
    assert!(watcher.got(&world).is_empty(), "and is said once");
}
