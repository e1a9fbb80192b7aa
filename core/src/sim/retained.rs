//! What one author may have retained, and when it counts no longer.

use super::*;

/// A world whose authors have a share of two retained messages, and its bus.
fn shares(change: impl FnOnce(&mut Settings)) -> (World, Arc<Native>) {
    let mut settings = Settings::default();
    settings.limits.retained_messages = 5;
    settings.limits.retained_messages_per_principal = 2;
    change(&mut settings);
    let mut bus = None;
    let world = World::build(settings, None, |settings, modules| {
        let native = Arc::new(Native::new(settings, Arc::clone(&modules.metrics)));
        bus = Some(Arc::clone(&native));
        (None, native as Arc<dyn Bus>)
    });
    (world, bus.unwrap())
}

/// Whether the broker takes a message to be retained.
fn takes(world: &World, client: &mut Client, topic: &str, payload: &str) -> bool {
    client.send(world, &[publish(topic, payload, qos1(1), true)]);
    match client.got(world).as_slice() {
        [Got::PubAck(1, ReasonCode::NoMatchingSubscribers)] => true,
        [Got::PubAck(1, ReasonCode::QuotaExceeded)] => false,
        other => panic!("{other:?}"),
    }
}

fn refused(world: &World) -> (u64, u64) {
    let metrics = &world.engine.metrics;
    let (all, one) = (&metrics.retained_refused, &metrics.retained_over_quota);
    (all.value(), one.value())
}

#[test]
fn one_author_cannot_fill_the_retained_store() {
    let (world, _) = shares(|_| ());
    let mut a = world.connect("a", &As::new("user:a"));
    assert!(takes(&world, &mut a, "r/1", "x"));
    assert!(takes(&world, &mut a, "r/2", "x"));
    assert!(!takes(&world, &mut a, "r/3", "x"));
    assert!(takes(&world, &mut a, "r/2", "in its own place"));
    let mut again = world.connect("other", &As::new("user:a"));
    assert!(!takes(&world, &mut again, "q/1", "x"), "another client id");
    assert_eq!(refused(&world), (0, 2));
    assert!(world.noted("limits.retained-messages-per-principal"));
    assert!(world.noted("user:a") && world.noted("q/1"));

    let mut b = world.connect("b", &As::new("user:b"));
    assert!(takes(&world, &mut b, "r/3", "x"));
    assert!(takes(&world, &mut b, "r/4", "x"));
    assert!(!takes(&world, &mut b, "r/1", "x"), "a's place is no room");
    let mut c = world.connect("c", &As::new("user:c"));
    assert!(takes(&world, &mut c, "r/5", "x"));
    assert!(!takes(&world, &mut c, "r/6", "x"), "the store is full");
    assert_eq!(refused(&world), (1, 3));
    assert!(world.noted("\"limits.retained-messages\""));
}

#[test]
fn a_share_has_bytes_too() {
    // Topic, payload, and what keeping a message costs.
    let weight = |payload: usize| 3 + payload + 64;
    let (world, _) = shares(|settings| {
        settings.limits.retained_bytes_per_principal = weight(100);
        settings.limits.retained_bytes = weight(100) + weight(50);
    });
    let mut a = world.connect("a", &As::new("user:a"));
    assert!(!takes(&world, &mut a, "r/1", &"x".repeat(101)));
    assert!(takes(&world, &mut a, "r/1", &"x".repeat(100)));
    assert!(!takes(&world, &mut a, "r/2", "x"));
    assert!(world.noted("limits.retained-bytes-per-principal"));
    assert_eq!(refused(&world), (0, 2));
    let mut b = world.connect("b", &As::new("user:b"));
    assert!(!takes(&world, &mut b, "r/2", &"x".repeat(51)));
    assert!(world.noted("\"limits.retained-bytes\""));
    assert!(takes(&world, &mut b, "r/2", &"x".repeat(50)));
}

#[test]
fn a_share_is_given_back_when_what_is_retained_is_cleared_replaced_or_expires() {
    let (mut world, bus) = shares(|_| ());
    let mut a = world.connect("a", &As::new("user:a"));
    let mut b = world.connect("b", &As::new("user:b"));
    assert!(takes(&world, &mut a, "r/1", "x"));
    assert!(takes(&world, &mut a, "r/2", "x"));
    assert!(!takes(&world, &mut a, "r/3", "x"));

    assert!(
        takes(&world, &mut b, "r/1", ""),
        "cleared, by somebody else"
    );
    assert!(takes(&world, &mut a, "r/3", "x"));
    assert!(!takes(&world, &mut a, "r/4", "x"));

    assert!(takes(&world, &mut b, "r/2", "b's now"), "replaced");
    assert!(takes(&world, &mut b, "r/1", "x"));
    assert!(!takes(&world, &mut b, "r/4", "x"), "and b pays for it");
    let mut expiring = publish("r/4", "x", qos1(1), true);
    if let Packet::Publish(publish) = &mut expiring {
        publish.properties.expiry = Some(10);
    }
    a.send(&world, &[expiring]);
    a.got(&world);
    assert!(!takes(&world, &mut a, "r/5", "x"));

    world.later(Duration::from_secs(11));
    bus.tend(world.now);
    assert!(takes(&world, &mut a, "r/5", "x"), "expired");
    assert!(!takes(&world, &mut a, "r/6", "x"));
    assert_eq!(world.engine.metrics.retained_messages.value(), 4);
}

/// The broker says little of itself, and nobody else can be it.
#[test]
fn the_broker_itself_has_no_share() {
    let (world, _) = shares(|_| ());
    let snapshot = Snapshot {
        identity: Identity::new(Principal::system("sys")),
        credential: Credential::new(Modules::SYSTEM, "sys"),
        client_id: "".into(),
        listener: "".into(),
        address: None,
    };
    let author = Subject::new(snapshot, None, &world.engine.modules);
    for topic in ["s/1", "s/2", "s/3"] {
        let engine = &world.engine;
        assert!(engine.publish_system(&author, topic, b"x", true, world.now));
    }
}
