//! What survives: the broker is stopped at any moment and started again from its disk.
//!
//! A crash is a copy of the store's directory, taken at a moment when nothing waits for the disk
//! and opened by another world; what happened after the copy never happened.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::Calendar;
use crate::engine::{NotAttached, Receipt, Watch};
use crate::journal::{Journal, Recovered, correct_clock};
use crate::store::{Disk, FileSystem, Mode, Options};

/// A world whose sessions live on disk.
pub(super) struct Durable {
    pub(super) world: World,
    pub(super) dir: TempDir,
    /// What the calendar had said last, milliseconds since the Unix epoch.
    clock: u64,
}

impl Durable {
    fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap(), Now::read())
    }

    fn open(dir: TempDir, now: Now) -> Self {
        Self::open_bounded(dir, now, 8 << 30)
    }

    /// `max_bytes`: three times as much as new messages may take.
    fn open_bounded(dir: TempDir, now: Now, max_bytes: u64) -> Self {
        let options = Options {
            segment_bytes: 1 << 16,
            max_bytes,
            ..Options::new(dir.path())
        };
        Self::on(Arc::new(FileSystem), dir, now, &options)
    }

    /// Over a disk of the test's own.
    pub(super) fn on(disk: Arc<dyn Disk>, dir: TempDir, now: Now, options: &Options) -> Self {
        let (journal, recovered) = Journal::open_on(disk, options).unwrap();
        let Recovered {
            sessions,
            retained,
            unrouted,
            clock,
        } = recovered;
        let journal = Arc::new(journal);
        let mut world = World::build(
            Settings::default(),
            Some(Arc::clone(&journal)),
            |settings, modules| {
                let metrics = Arc::clone(&modules.metrics);
                let native = Native::durable(settings, metrics, journal, retained);
                (None, Arc::new(native) as Arc<dyn Bus>)
            },
        );
        world.now = now;
        world.engine.restore(sessions, unrouted, now);
        Self { world, dir, clock }
    }

    /// `kill -9`, and a new start `span` later.
    fn crash(self, span: Duration) -> Self {
        let now = self.world.now.after(span);
        Self::open(self.copy(), now)
    }

    pub(super) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.dir.path(), copy.path());
        copy
    }

    fn size(&self) -> u64 {
        self.world.engine.journal.as_ref().unwrap().size()
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Takes what the broker has for a client, waiting for its disk.
pub(super) fn settled(client: &mut Client, world: &World, enough: usize) -> Vec<Got> {
    let mut all = Vec::new();
    for _ in 0..10_000 {
        all.append(&mut client.got(world));
        if all.len() >= enough {
            return all;
        }
        std::thread::yield_now();
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("waited for {enough} packets, got {all:?}")
}

pub(super) fn subscribed(world: &World, id: &str, how: &As, filter: &str, qos: QoS) -> Client {
    let mut client = world.connect(id, how);
    assert_eq!(client.subscribe(world, filter, qos), qos as u8);
    client
}

#[test]
fn rule_12_an_acknowledged_message_for_an_offline_session_survives() {
    let before = Durable::new();
    let how = As::persistent("user:b");
    subscribed(&before.world, "b", &how, "t/#", QoS::AtLeastOnce).lose(&before.world);
    let mut author = before.world.connect("a", &As::new("user:a"));
    author.publish(&before.world, "t/1", "kept", qos1(1));
    assert_eq!(
        settled(&mut author, &before.world, 1),
        [Got::PubAck(1, ReasonCode::Success)]
    );
    let after = before.crash(Duration::ZERO);
    let mut reader = after.world.connect("b", &how);
    assert!(reader.session_present);
    let got = settled(&mut reader, &after.world, 1);
    assert_eq!(got[0].payload(), Some("kept"));
}

/// A limit is no way round: what was retained before a restart counts after it, for whom it did.
#[test]
fn what_an_author_has_retained_counts_after_a_restart() {
    let before = Durable::new();
    let world = &before.world;
    let mut clients =
        [("a", "user:a"), ("b", "user:b")].map(|(id, owner)| world.connect(id, &As::new(owner)));
    let retain = |world: &World, client: &mut Client, topic: &str, payload: &str| {
        client.send(world, &[publish(topic, payload, qos1(1), true)]);
        match settled(client, world, 1).as_slice() {
            [Got::PubAck(1, code)] => !code.is_error(),
            other => panic!("{other:?}"),
        }
    };
    for (client, topic, payload) in [
        (0, "r/1", "a's"),
        (0, "r/2", "a's"),
        (0, "r/3", "a's"),
        (1, "r/2", "b's now"),
        (1, "r/3", ""),
    ] {
        assert!(retain(world, &mut clients[client], topic, payload));
    }
    let after = before.crash(Duration::ZERO);
    let world = &after.world;
    let mut settings = Settings::default();
    settings.limits.retained_messages_per_principal = 2;
    world.engine.settings.store(Arc::new(settings));
    // Each has one, and so may have one more.
    for (id, how) in [("a", "user:a"), ("b", "user:b")] {
        let mut client = world.connect(id, &As::new(how));
        assert!(retain(world, &mut client, &format!("q/{id}/1"), "x"));
        assert!(!retain(world, &mut client, &format!("q/{id}/2"), "x"));
    }
}

/// What waited for a principal's sessions before a restart counts after it.
#[test]
fn what_waits_for_a_principal_counts_after_a_restart() {
    let before = Durable::new();
    let how = As::persistent("user:b");
    let mut author = before.world.connect("a", &As::new("user:a"));
    for id in ["one", "two"] {
        subscribed(&before.world, id, &how, id, QoS::AtLeastOnce).lose(&before.world);
        for number in 1..4 {
            author.publish(&before.world, id, &number.to_string(), qos1(number));
        }
    }
    settled(&mut author, &before.world, 6);
    let counted = |world: &World| {
        let counts = world.engine.counts();
        let mine = counts
            .iter()
            .find(|count| count.principal.as_str() == "user:b");
        let mine = mine.unwrap();
        assert_eq!(mine.counted, mine.there);
        mine.counted.0
    };
    assert_eq!(counted(&before.world), 6);
    let after = before.crash(Duration::ZERO);
    let world = &after.world;
    assert_eq!(counted(world), 6);
    let mut settings = Settings::default();
    settings.limits.queue_messages_per_principal = 6;
    world.engine.settings.store(Arc::new(settings));
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(world, "one", "4", qos1(1));
    settled(&mut author, world, 1);
    assert_eq!(counted(world), 6);
    for (id, expected) in [("one", ["2", "3", "4"]), ("two", ["1", "2", "3"])] {
        let mut reader = world.connect(id, &how);
        let got = settled(&mut reader, world, 3);
        let payloads: Vec<_> = got.iter().filter_map(Got::payload).collect();
        assert_eq!(payloads, expected);
    }
    assert_eq!(counted(world), 0);
}

#[test]
fn rule_12_subscriptions_survive_and_so_does_giving_them_up() {
    let before = Durable::new();
    let how = As::persistent("user:b");
    let mut reader = subscribed(&before.world, "b", &how, "kept", QoS::AtLeastOnce);
    reader.subscribe(&before.world, "gone", QoS::AtLeastOnce);
    reader.unsubscribe(&before.world, "gone");
    settled(&mut reader, &before.world, 1);
    let after = before.crash(Duration::ZERO);
    let mut author = after.world.connect("a", &As::new("user:a"));
    author.publish(&after.world, "kept", "yes", qos1(1));
    author.publish(&after.world, "gone", "no", qos1(2));
    settled(&mut author, &after.world, 2);
    let mut reader = after.world.connect("b", &how);
    let got = settled(&mut reader, &after.world, 1);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].payload(), Some("yes"));
}

#[test]
fn rule_12_a_qos_2_message_is_not_published_twice_across_a_crash() {
    let before = Durable::new();
    let reader_is = As::persistent("user:b");
    let author_is = As::persistent("user:a");
    subscribed(&before.world, "b", &reader_is, "t", QoS::ExactlyOnce).lose(&before.world);
    let mut author = before.world.connect("a", &author_is);
    author.publish(&before.world, "t", "once", qos2(7));
    assert_eq!(
        settled(&mut author, &before.world, 1),
        [Got::PubRec(7, ReasonCode::Success)]
    );
    let after = before.crash(Duration::ZERO);
    let mut author = after.world.connect("a", &author_is);
    author.publish(&after.world, "t", "once", qos2(7));
    author.send(&after.world, &[pubrel(7)]);
    settled(&mut author, &after.world, 2);
    let mut reader = after.world.connect("b", &reader_is);
    let got = settled(&mut reader, &after.world, 1);
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(matches!(
        &got[0],
        Got::Message {
            qos: QoS::ExactlyOnce,
            ..
        }
    ));
}

/// A crash may take along that an identifier was released. What comes under it afterwards, said to be
/// repeated or not, may be another message: it is published.
#[test]
fn in_interval_mode_a_restart_takes_no_message_for_a_repetition_of_one_before_it() {
    let mut before = Durable::new();
    let author_is = As::persistent("user:a");
    let mut author = before.world.connect("a", &author_is);
    author.publish(&before.world, "t", "before", qos2(7));
    settled(&mut author, &before.world, 1);
    for (start, dup) in [false, true].into_iter().enumerate() {
        let dir = before.copy();
        let options = Options {
            mode: Mode::Interval(Duration::from_millis(1)),
            ..Options::new(dir.path())
        };
        let after = Durable::on(Arc::new(FileSystem), dir, before.world.now, &options);
        let world = &after.world;
        let mut reader = subscribed(world, "b", &As::new("user:b"), "t", QoS::AtMostOnce);
        let mut author = world.connect("a", &author_is);
        assert!(author.session_present);
        let id = NonZeroU16::new(7).unwrap();
        author.publish(world, "t", "after", Delivery::ExactlyOnce { id, dup });
        // Within one life of the broker a repetition is one.
        let again = Delivery::ExactlyOnce { id, dup: true };
        author.publish(world, "t", "after", again);
        assert_eq!(author.got(world).len(), 2);
        assert_eq!(reader.payloads(world), ["after"], "start {start}");
        if dup {
            author.send(world, &[pubrel(7)]);
            assert_eq!(author.got(world), [Got::PubComp(7, ReasonCode::Success)]);
        }
        world.engine.journal.as_ref().unwrap().stop();
        before = after;
    }
}

// A compaction comes between the identifier of a message and its record, and then the crash: whoever
// repeats the message must find it unknown.
#[test]
fn rule_12_a_qos_2_message_that_a_compaction_meets_half_received_is_not_lost() {
    let before = Durable::new();
    let author_is = As::persistent("user:a");
    let author = before.world.connect("a", &author_is);
    let attached = author.connection.as_ref().unwrap().attached();
    assert!(matches!(attached.receive(7), Receipt::New));
    before.world.engine.compact(before.world.now);
    before.world.engine.journal.as_ref().unwrap().stop();
    let after = before.crash(Duration::ZERO);
    let mut reader = subscribed(&after.world, "b", &As::new("user:b"), "t", QoS::AtMostOnce);
    let mut author = after.world.connect("a", &author_is);
    author.publish(&after.world, "t", "repeated", qos2(7));
    settled(&mut author, &after.world, 1);
    assert_eq!(reader.payloads(&after.world), ["repeated"]);
}

#[test]
fn rule_12_what_was_sent_is_sent_again_under_its_identifier_or_released() {
    let before = Durable::new();
    let how = As::persistent("user:b");
    let mut reader = subscribed(&before.world, "b", &how, "t", QoS::ExactlyOnce);
    let mut author = before.world.connect("a", &As::new("user:a"));
    for id in 1..=2 {
        author.publish(&before.world, "t", &id.to_string(), qos2(id));
    }
    assert_eq!(settled(&mut reader, &before.world, 2).len(), 2);
    reader.send(&before.world, &[pubrec(1)]);
    assert_eq!(
        settled(&mut reader, &before.world, 1),
        [Got::PubRel(1, ReasonCode::Success)]
    );
    let after = before.crash(Duration::ZERO);
    let mut reader = after.world.connect("b", &how);
    let got = settled(&mut reader, &after.world, 2);
    assert_eq!(got[0], Got::PubRel(1, ReasonCode::Success));
    assert!(
        matches!(&got[1], Got::Message { payload, id: Some(2), dup: true, .. } if payload == "2"),
        "{got:?}"
    );
}

#[test]
fn rule_12_retained_messages_survive_with_their_author() {
    let before = Durable::new();
    let mut author = before.world.connect("a", &As::new("user:a"));
    author.send(
        &before.world,
        &[
            publish("r/1", "x", qos1(1), true),
            publish("r/2", "y", qos1(2), true),
            publish("r/2", "", qos1(3), true),
        ],
    );
    settled(&mut author, &before.world, 3);
    let after = before.crash(Duration::ZERO);
    assert_eq!(after.world.engine.metrics.retained_messages.value(), 1);
    after.world.register.ban("user:a");
    let mut reader = after.world.connect("b", &As::new("user:b"));
    reader.subscribe(&after.world, "r/#", QoS::AtMostOnce);
    assert!(reader.got(&after.world).is_empty(), "the author is banned");
}

#[test]
fn a_will_waits_half_a_minute_for_its_client_after_a_restart() {
    let before = Durable::new();
    let how = As {
        will: Some(("will", 0)),
        ..As::persistent("user:b")
    };
    let mut client = before.world.connect("b", &how);
    // Something must have been written before the crash.
    client.subscribe(&before.world, "t", QoS::AtMostOnce);
    settled(&mut client, &before.world, 0);
    let mut other = subscribed(
        &before.world,
        "o",
        &As::persistent("user:o"),
        "x",
        QoS::AtLeastOnce,
    );
    other.publish(&before.world, "x", "sync", qos1(1));
    settled(&mut other, &before.world, 2);
    let mut after = before.crash(Duration::from_secs(1));
    let mut watcher = after.world.connect("w", &As::new("user:w"));
    watcher.subscribe(&after.world, "will", QoS::AtMostOnce);
    after.world.later(Duration::from_secs(34));
    assert!(watcher.payloads(&after.world).is_empty());
    after.world.later(Duration::from_secs(1));
    assert_eq!(watcher.payloads(&after.world), ["will"]);
}

#[test]
fn a_session_that_expired_while_the_broker_was_away_is_gone() {
    let before = Durable::new();
    let how = As::persistent("user:b");
    let mut reader = subscribed(&before.world, "b", &how, "t", QoS::AtLeastOnce);
    settled(&mut reader, &before.world, 0);
    reader.lose(&before.world);
    let mut other = subscribed(
        &before.world,
        "o",
        &As::persistent("user:o"),
        "x",
        QoS::AtLeastOnce,
    );
    other.publish(&before.world, "x", "sync", qos1(1));
    settled(&mut other, &before.world, 2);
    let mut after = before.crash(Duration::from_secs(3599));
    after.world.later(Duration::from_secs(2));
    assert!(!after.world.connect("b", &how).session_present);
}

#[test]
fn compaction_keeps_what_lives_and_lets_go_of_the_rest() {
    let before = Durable::new();
    let how = As::persistent("user:b");
    subscribed(&before.world, "b", &how, "t", QoS::AtLeastOnce).lose(&before.world);
    let mut author = before.world.connect("a", &As::new("user:a"));
    author.retain(&before.world, "r", "retained");
    for round in 0..10 {
        for id in 1..=50 {
            author.publish(&before.world, "t", &"x".repeat(500), qos1(round * 50 + id));
        }
        settled(&mut author, &before.world, 50);
    }
    let mut reader = before.world.connect("b", &how);
    let mut seen = 0;
    while seen < 490 {
        for got in settled(&mut reader, &before.world, 1) {
            if let Got::Message { id: Some(id), .. } = got {
                seen += 1;
                if seen <= 490 {
                    reader.send(&before.world, &[puback(id)]);
                }
            }
        }
    }
    reader.lose(&before.world);
    let large = before.world.engine.journal.as_ref().unwrap().size();
    before.world.engine.compact(before.world.now);
    author.publish(&before.world, "t", "last", qos1(1));
    settled(&mut author, &before.world, 1);
    let journal = Arc::clone(before.world.engine.journal.as_ref().unwrap());
    for _ in 0..1000 {
        if journal.size() < large / 4 {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(journal.size() < large / 4, "{} of {large}", journal.size());
    let after = before.crash(Duration::ZERO);
    let mut reader = after.world.connect("b", &how);
    assert_eq!(settled(&mut reader, &after.world, 11).len(), 11);
    assert_eq!(after.world.engine.metrics.retained_messages.value(), 1);
}

#[test]
fn a_refusal_that_a_subscription_left_is_not_the_answer_to_the_next_publish() {
    let before = Durable::new();
    let mut author = before.world.connect("a", &As::new("user:a"));
    for id in 1..=60 {
        let topic = format!("r/{id}");
        author.send(&before.world, &[publish(&topic, "x", qos1(id), true)]);
    }
    settled(&mut author, &before.world, 60);
    let before = before.crash(Duration::ZERO);
    // Room for the subscription and some of what it brings, not for all.
    let (now, room) = (before.world.now, before.size() + 1000);
    let after = Durable::open_bounded(before.copy(), now, 3 * room);
    let mut reader = after.world.connect("b", &As::persistent("user:b"));
    let options = SubscribeOptions {
        qos: QoS::AtLeastOnce,
        ..SubscribeOptions::default()
    };
    reader.send(
        &after.world,
        &[
            Packet::Subscribe(Subscribe {
                id: NonZeroU16::MIN,
                subscription_id: None,
                filters: vec![("r/#", options)],
                user: UserProperties::default(),
            }),
            publish("elsewhere", "x", qos1(2), false),
        ],
    );
    let got = settled(&mut reader, &after.world, 3);
    assert!(got.contains(&Got::SubAck(1, vec![1])), "{got:?}");
    assert!(after.world.engine.metrics.store_refused.value() > 0);
    let answer = Got::PubAck(2, ReasonCode::NoMatchingSubscribers);
    assert!(got.contains(&answer), "{got:?}");
}

#[test]
fn a_store_that_takes_nothing_new_is_told_and_so_is_its_end() {
    let full = Durable::open_bounded(tempfile::tempdir().unwrap(), Now::read(), 12_000);
    let (world, calendar) = (&full.world, Calendar::new());
    let mut watch = Watch::default();
    let how = As::persistent("user:b");
    subscribed(world, "b", &how, "t", QoS::AtLeastOnce).lose(world);
    watch.look(&world.engine, &calendar, world.now);
    assert!(!world.noted("durability"));
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(world, "t", &"x".repeat(4000), qos1(1));
    author.publish(world, "t", "y", qos1(2));
    let got = settled(&mut author, world, 2);
    assert!(
        got.contains(&Got::PubAck(2, ReasonCode::QuotaExceeded)),
        "{got:?}"
    );
    // What needs no store is served.
    let mut other = world.connect("o", &As::new("user:o"));
    other.subscribe(world, "u", QoS::AtLeastOnce);
    author.publish(world, "u", "z", qos1(3));
    assert_eq!(other.payloads(world), ["z"]);
    watch.look(&world.engine, &calendar, world.now);
    assert!(world.noted("durability"));
    assert_eq!(world.engine.metrics.store_full.value(), 1);
    // Taken by its receiver and written anew, it makes room.
    let mut reader = world.connect("b", &how);
    settled(&mut reader, world, 1);
    reader.send(world, &[puback(1)]);
    world.engine.compact(world.now);
    let journal = world.engine.journal.as_ref().unwrap();
    for _ in 0..1000 {
        if journal.full().is_none() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    watch.look(&world.engine, &calendar, world.now);
    assert!(world.noted("takes messages again"));
    assert_eq!(world.engine.metrics.store_full.value(), 0);
}

/// Who comes back takes what waits for it; a large will takes more than that gives.
#[test]
fn a_full_store_lets_a_known_session_in_but_not_with_a_large_will() {
    let full = Durable::open_bounded(tempfile::tempdir().unwrap(), Now::read(), 12_000);
    let world = &full.world;
    let how = As::persistent("user:b");
    subscribed(world, "b", &how, "t", QoS::AtLeastOnce).lose(world);
    let mut author = world.connect("a", &As::new("user:a"));
    author.publish(world, "t", &"x".repeat(4000), qos1(1));
    author.publish(world, "t", "y", qos1(2));
    let got = settled(&mut author, world, 2);
    let refused = Got::PubAck(2, ReasonCode::QuotaExceeded);
    assert!(got.contains(&refused), "{got:?}");

    let with_will = |topic: &'static str| As {
        will: Some((topic, 0)),
        ..As::persistent("user:b")
    };
    let large = with_will("w".repeat(1024).leak());
    let refused = world.try_connect("b", &large).err();
    assert_eq!(refused, Some(NotAttached::StoreFull));
    world.connect("b", &with_will("w")).lose(world);
    let mut reader = world.connect("b", &how);
    assert_eq!(
        settled(&mut reader, world, 1).len(),
        1,
        "its session is whole"
    );
}

#[test]
fn a_restart_knows_what_the_calendar_said_and_a_jump_is_told() {
    let before = Durable::new();
    let (calendar, now) = (Calendar::new(), before.world.now);
    let mut watch = Watch::default();
    calendar.reading(now.wall, now.mono);
    watch.look(&before.world.engine, &calendar, now);
    assert!(!before.world.noted("calendar"));
    let back = now.wall - Duration::from_hours(2);
    let later = now.mono + Duration::from_secs(5);
    assert_eq!(
        calendar.reading(back, later),
        now.wall + Duration::from_secs(5)
    );
    watch.look(&before.world.engine, &calendar, now);
    assert!(before.world.noted("went back by 7205 s"));
    assert_eq!(before.world.engine.metrics.clock_jumps.value(), 1);
    let mut any = subscribed(
        &before.world,
        "b",
        &As::persistent("user:b"),
        "t",
        QoS::AtLeastOnce,
    );
    settled(&mut any, &before.world, 0);
    before
        .world
        .engine
        .compact(now.after(Duration::from_secs(7)));
    any.publish(&before.world, "t", "sync", qos1(1));
    settled(&mut any, &before.world, 2);
    let after = before.crash(Duration::ZERO);
    assert_eq!(after.clock, now.after(Duration::from_secs(7)).unix_millis());
}

/// A clock that stood in the future for a while is put right, deliberately, and nothing lives again.
#[test]
fn a_corrected_calendar_goes_back_and_what_has_expired_stays_expired() {
    const YEARS: Duration = Duration::from_hours(24 * 365 * 10);
    const HOUR: Duration = Duration::from_hours(1);
    let retain = |world: &World, client: &mut Client, topic: &str, expiry: Duration| {
        let mut message = publish(topic, topic, qos1(1), true);
        if let Packet::Publish(publish) = &mut message {
            publish.properties.expiry = u32::try_from(expiry.as_secs()).ok();
        }
        client.send(world, &[message]);
        settled(client, world, 1);
    };
    let present = Durable::new();
    let now = present.world.now;
    let mut author = present.world.connect("a", &As::new("user:a"));
    let how = As::persistent("user:b");
    subscribed(&present.world, "b", &how, "t", QoS::AtLeastOnce).lose(&present.world);
    retain(&present.world, &mut author, "r/gone", HOUR);
    retain(&present.world, &mut author, "r/kept", YEARS + HOUR * 2);

    // Ten years later, says the clock; then somebody looks at it.
    let future = present.crash(YEARS);
    let mut author = future.world.connect("a", &As::new("user:a"));
    retain(&future.world, &mut author, "r/new", HOUR);
    future.world.engine.compact(future.world.now);
    retain(&future.world, &mut author, "r/sync", HOUR * 3);
    // Gone before the calendar is written down again, a minute after the last time.
    retain(
        &future.world,
        &mut author,
        "r/late",
        Duration::from_secs(50),
    );
    assert!(future.world.now.unix_millis() > now.after(YEARS / 2).unix_millis());

    let dir = future.copy();
    let options = Options {
        segment_bytes: 1 << 16,
        ..Options::new(dir.path())
    };
    let correction = correct_clock(&options, now.unix_millis()).unwrap().unwrap();
    assert_eq!(correction.to, now.unix_millis());
    correction.make().unwrap();
    let again = correct_clock(&options, now.unix_millis()).unwrap();
    assert!(again.is_none(), "corrected already");

    let mut corrected = Durable::open(dir, now);
    corrected.world.later(Duration::ZERO);
    let mut late = corrected.world.connect("b", &how);
    assert!(!late.session_present, "expired");
    late.disconnect(&corrected.world);
    // Across a compaction and a restart as well.
    for _ in 0..2 {
        let world = &corrected.world;
        assert!(corrected.clock <= world.now.unix_millis());
        let mut reader = world.connect("c", &As::new("user:c"));
        reader.subscribe(world, "r/#", QoS::AtMostOnce);
        assert_eq!(reader.payloads(world), ["r/kept", "r/new", "r/sync"]);
        world.engine.compact(world.now);
        let mut author = world.connect("a", &As::new("user:a"));
        retain(world, &mut author, "r/sync", HOUR * 3);
        corrected = corrected.crash(Duration::ZERO);
    }
    // What was retained in the future has what it had left: an hour.
    let corrected = corrected.crash(HOUR);
    let world = &corrected.world;
    let mut reader = world.connect("c", &As::new("user:c"));
    reader.subscribe(world, "r/#", QoS::AtMostOnce);
    assert_eq!(reader.payloads(world), ["r/kept", "r/sync"]);
}
