//! A disk that fails under sessions and connections: what was not written is acknowledged to nobody,
//! and what was acknowledged is there after a restart.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::durable::{Durable, settled, subscribed};
use super::*;
use crate::clock::Calendar;
use crate::engine::Watch;
use crate::store::{Disk, DiskFile, FileSystem, Key, Options};

/// What goes wrong from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A write is refused.
    Write,
    /// A write takes so many bytes, and the next is refused.
    Short(usize),
    /// What was written cannot be synced.
    Sync,
}

#[derive(Clone, Default)]
struct Failing(Arc<Mutex<Option<Fault>>>);

struct FailingFile(Failing, Box<dyn DiskFile>);

fn broken() -> io::Error {
    const EIO: i32 = 5;
    io::Error::from_raw_os_error(EIO)
}

impl Disk for Failing {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FailingFile(
            self.clone(),
            FileSystem.create(path)?,
        )))
    }

    fn cut(&self, path: &Path, length: u64) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FailingFile(
            self.clone(),
            FileSystem.cut(path, length)?,
        )))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        FileSystem.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        FileSystem.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        FileSystem.sync_dir(dir)
    }
}

impl DiskFile for FailingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut fault = self.0.0.lock();
        match *fault {
            Some(Fault::Write) => Err(broken()),
            Some(Fault::Short(some)) => {
                *fault = Some(Fault::Write);
                self.1.write(bytes.get(..some).unwrap_or(bytes))
            }
            Some(Fault::Sync) | None => self.1.write(bytes),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        match *self.0.0.lock() {
            Some(Fault::Sync) => Err(broken()),
            Some(Fault::Write | Fault::Short(_)) | None => self.1.sync(),
        }
    }
}

fn options(dir: &Path, key: Option<&Key>) -> Options {
    Options {
        segment_bytes: 1 << 16,
        key: key.cloned(),
        ..Options::new(dir)
    }
}

/// A broker over a disk that can be broken; the session `b` of `user:b` waits for `t/#`.
fn start(key: Option<&Key>) -> (Durable, Failing) {
    let (disk, dir) = (Failing::default(), tempfile::tempdir().unwrap());
    let options = options(dir.path(), key);
    let durable = Durable::on(Arc::new(disk.clone()), dir, Now::read(), &options);
    let how = As::persistent("user:b");
    subscribed(&durable.world, "b", &how, "t/#", QoS::ExactlyOnce).lose(&durable.world);
    (durable, disk)
}

/// The payloads that the session has after a restart over what is on the disk.
fn after_a_restart(before: &Durable, key: Option<&Key>) -> Vec<String> {
    let dir = before.copy();
    let options = options(dir.path(), key);
    let after = Durable::on(Arc::new(FileSystem), dir, before.world.now, &options);
    let mut reader = after.world.connect("b", &As::persistent("user:b"));
    assert!(reader.session_present);
    let mut author = after.world.connect("a", &As::new("user:a"));
    author.publish(&after.world, "t/1", "the end", qos1(1));
    let mut all = Vec::new();
    for _ in 0..10_000 {
        all.append(&mut reader.payloads(&after.world));
        if all.last().is_some_and(|last| last == "the end") {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(all.pop().as_deref(), Some("the end"));
    all
}

const FAULTS: [Fault; 5] = [
    Fault::Sync,
    Fault::Write,
    Fault::Short(1),
    Fault::Short(40),
    Fault::Short(100),
];

fn keys() -> [Option<Key>; 2] {
    [None, Some(Key::new([3; 32]))]
}

#[test]
fn rule_12_after_a_failed_write_or_sync_nothing_is_acknowledged_and_nothing_acknowledged_is_lost() {
    for (fault, key) in FAULTS
        .iter()
        .flat_map(|fault| keys().map(|key| (*fault, key)))
    {
        let (durable, disk) = start(key.as_ref());
        let world = &durable.world;
        let mut author = world.connect("a", &As::new("user:a"));
        author.publish(world, "t/1", "kept", qos1(1));
        assert_eq!(
            settled(&mut author, world, 1),
            [Got::PubAck(1, ReasonCode::Success)]
        );

        *disk.0.lock() = Some(fault);
        author.publish(world, "t/1", "not written", qos1(2));
        author.publish(world, "t/1", "not written", qos2(3));
        let got = settled(&mut author, world, 2);
        assert!(
            matches!(got[0], Got::PubAck(2, code) if code.is_error()),
            "{fault:?}: {got:?}"
        );
        assert!(
            matches!(got[1], Got::PubRec(3, code) if code.is_error()),
            "{fault:?}: {got:?}"
        );
        // A disk that works again changes nothing: nobody knows what is on it.
        *disk.0.lock() = None;
        author.publish(world, "t/1", "refused", qos1(4));
        author.send(world, &[publish("r", "refused", qos1(5), true)]);
        assert_eq!(
            settled(&mut author, world, 2),
            [
                Got::PubAck(4, ReasonCode::QuotaExceeded),
                Got::PubAck(5, ReasonCode::QuotaExceeded)
            ],
            "{fault:?}"
        );
        let kept = after_a_restart(&durable, key.as_ref());
        assert_eq!(kept.first().map(String::as_str), Some("kept"), "{fault:?}");
        let unsure = |payload: &String| payload == "not written";
        assert!(kept.iter().skip(1).all(unsure), "{fault:?}: {kept:?}");
        // Of what was cut short nothing is left.
        assert!(
            fault == Fault::Sync || kept.len() == 1,
            "{fault:?}: {kept:?}"
        );
    }
}

/// 3.x has no word for it: the connection ends, and no acknowledgement is a lie.
#[test]
fn rule_12_a_3_x_publisher_is_cut_off_without_an_acknowledgement() {
    for promise in [qos1(1), qos2(1)] {
        let (durable, disk) = start(None);
        let how = As {
            version: Version::V3_1_1,
            ..As::new("user:a")
        };
        let mut author = durable.world.connect("a", &how);
        *disk.0.lock() = Some(Fault::Sync);
        author.publish(&durable.world, "t/1", "not written", promise);
        for _ in 0..10_000 {
            assert_eq!(author.got(&durable.world), []);
            if author.connection.is_none() {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        assert!(author.connection.is_none());
    }
}

/// A client with a persistent session that has sent `packet`, which the disk has refused since.
fn refused_by_the_disk(version: Version, packet: &Packet<'_>) -> (Durable, Client) {
    let (durable, disk) = start(None);
    let world = &durable.world;
    let how = As {
        version,
        ..As::persistent("user:c")
    };
    let mut client = world.connect("c", &how);
    client.send(world, &[Packet::PingReq]);
    assert_eq!(settled(&mut client, world, 1), [Got::Pong]);
    *disk.0.lock() = Some(Fault::Sync);
    client.send(world, std::slice::from_ref(packet));
    let journal = world.engine.journal.as_ref().unwrap();
    for _ in 0..10_000 {
        if journal.failed().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(journal.failed().is_some());
    (durable, client)
}

fn a_subscribe() -> Packet<'static> {
    Packet::Subscribe(Subscribe {
        id: NonZeroU16::new(9).unwrap(),
        subscription_id: None,
        filters: vec![("t/#", SubscribeOptions::default())],
        user: UserProperties::default(),
    })
}

/// The disk may fail before the connection has its turn, or after.
#[test]
fn rule_12_what_the_disk_has_refused_before_it_is_written_to_a_client_is_not_written() {
    let (durable, mut client) = refused_by_the_disk(Version::V5, &a_subscribe());
    let goodbye = [Got::Bye(ReasonCode::UnspecifiedError)];
    assert_eq!(client.got(&durable.world), goodbye);
    let (durable, mut client) = refused_by_the_disk(Version::V3_1_1, &a_subscribe());
    assert_eq!(client.got(&durable.world), []);
    assert!(client.connection.is_none());
}

#[test]
fn rule_12_no_goodbye_brings_what_is_not_on_the_disk() {
    let (durable, mut client) = refused_by_the_disk(Version::V5, &a_subscribe());
    let world = &durable.world;
    // PINGRESP, which is not for a client to send.
    client.send_bytes(world, &[0xd0, 0]);
    assert_eq!(client.got(world), [Got::Bye(ReasonCode::ProtocolError)]);
}

#[test]
fn a_failed_disk_is_told_and_who_needs_nothing_stored_is_served() {
    let (durable, disk) = start(None);
    let world = &durable.world;
    let mut live = world.connect("l", &As::new("user:l"));
    live.subscribe(world, "live", QoS::AtLeastOnce);
    let mut author = world.connect("a", &As::new("user:a"));
    *disk.0.lock() = Some(Fault::Sync);
    author.publish(world, "t/1", "not written", qos1(1));
    settled(&mut author, world, 1);

    Watch::default().look(&world.engine, &Calendar::new(), world.now);
    assert_eq!(world.engine.metrics.store_full.value(), 1);
    assert!(world.noted("durability") && world.noted("the store has failed"));
    author.publish(world, "live", "served", qos1(2));
    assert_eq!(author.got(world), [Got::PubAck(2, ReasonCode::Success)]);
    assert_eq!(live.payloads(world), ["served"]);
    assert!(
        world.try_connect("new", &As::persistent("user:n")).is_err(),
        "a session that a restart would not know"
    );
}
