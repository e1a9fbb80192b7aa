//! Publishers and subscribers: what is sent when, and whether it came.

use std::io;
use std::time::{Duration, Instant};

use crate::net::{Client, Pool};
use crate::process::Usage;
use crate::tally::{Histogram, Ledger};
use crate::wire::{self, Acknowledge, Incoming, Stamp, Template, Version};

/// A publisher's output is filled up to so much before it is written.
const BATCH: usize = 32 << 10;

/// Without progress for so long, a full window is taken for lost and opened again.
const REOPEN: Duration = Duration::from_millis(500);

/// How messages are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) qos: u8,
    /// Payload, bytes.
    pub(crate) size: usize,
    /// Of each publisher so many may be without acknowledgement (`QoS` 1 and 2).
    pub(crate) inflight: u16,
    /// Of each publisher so many may be on their way to each receiver; `None` for no bound.
    pub(crate) window: Option<u64>,
    /// Between two messages of all publishers together; zero for as fast as it goes.
    pub(crate) interval: Duration,
    /// Over all publishers.
    pub(crate) messages: u64,
}

/// Who gets what.
pub(crate) enum Routes {
    /// Publisher n sends to subscriber n.
    Pairs,
    /// Everybody sends to all of so many subscribers.
    All(usize),
    /// Each message goes to one of many subscriptions, in scattered order; subscription n belongs
    /// to client n modulo `clients`.
    Scattered {
        prefix: String,
        subscriptions: u64,
        clients: usize,
    },
}

impl Routes {
    fn receivers(&self) -> u64 {
        match self {
            Self::All(count) => *count as u64,
            Self::Pairs | Self::Scattered { .. } => 1,
        }
    }

    fn lanes(&self, publishers: usize) -> usize {
        match self {
            Self::All(count) => *count * publishers,
            Self::Pairs | Self::Scattered { .. } => publishers,
        }
    }

    /// The account for a message that `subscriber` got; `None` if it should not have come there.
    fn lane(&self, subscriber: usize, stamp: &Stamp, publishers: usize) -> Option<usize> {
        let publisher = usize::try_from(stamp.publisher).ok()?;
        let right = match self {
            Self::Pairs => publisher == subscriber,
            Self::All(_) => return Some(subscriber * publishers + publisher),
            Self::Scattered {
                subscriptions,
                clients,
                ..
            } => {
                let target = scattered(stamp.publisher, stamp.sequence, *subscriptions);
                target % (*clients as u64) == subscriber as u64
            }
        };
        right.then_some(publisher)
    }
}

/// The subscription that a message is for.
fn scattered(publisher: u32, sequence: u64, subscriptions: u64) -> u64 {
    let mixed = (sequence << 8 | u64::from(publisher)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 24) % subscriptions.max(1)
}

/// What a connection is there for.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Subscriber(usize),
    Publisher(usize),
}

struct Publisher {
    connection: usize,
    quota: u64,
    sent: u64,
    /// Deliveries of its messages, over all receivers, the first time each.
    delivered: u64,
    /// Deliveries that are not waited for any more.
    given_up: u64,
    /// Free packet identifiers.
    ids: Vec<u16>,
    /// Whether an identifier is in use.
    used: Vec<bool>,
    templates: Vec<Template>,
}

/// A run with messages.
pub(crate) struct Traffic {
    version: Version,
    run: u32,
    begun: Instant,
    pace: Pace,
    routes: Routes,
    roles: Vec<Role>,
    publishers: Vec<Publisher>,
    pub(crate) ledger: Ledger,
    /// From the time a message was due to its receipt.
    pub(crate) late: Histogram,
    /// Filters that were answered, and those of them that were refused.
    pub(crate) subscribed: u64,
    pub(crate) filters_refused: u64,
    /// Publishes that were acknowledged to the end, and those of them with an error.
    pub(crate) acknowledged: u64,
    pub(crate) publishes_refused: u64,
    /// Acknowledgements that nobody waited for.
    pub(crate) stray: u64,
    /// Messages that an earlier run left behind.
    pub(crate) stale: u64,
}

/// How a run went.
pub(crate) struct Run {
    /// From the first publish to the last progress.
    pub(crate) wall: Duration,
    /// Used by the broker, if it was named, meanwhile.
    pub(crate) broker: Option<Duration>,
    /// Used by the generator meanwhile.
    pub(crate) own: Duration,
    pub(crate) sent: u64,
    pub(crate) expected: u64,
    /// Times that a full window was opened again because nothing moved.
    pub(crate) stalls: u64,
    pub(crate) ended_by: &'static str,
}

/// When a run ends though it is not complete.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// Of publishing.
    pub(crate) whole: Duration,
    /// Without any progress.
    pub(crate) still: Duration,
    pub(crate) broker: Option<u32>,
}

impl Traffic {
    pub(crate) fn new(version: Version, pace: Pace, routes: Routes) -> io::Result<Self> {
        let mut run = [0; 4];
        getrandom::fill(&mut run).map_err(io::Error::other)?;
        Ok(Self {
            version,
            run: u32::from_le_bytes(run),
            begun: Instant::now(),
            pace,
            routes,
            roles: Vec::new(),
            publishers: Vec::new(),
            ledger: Ledger::default(),
            late: Histogram::default(),
            subscribed: 0,
            filters_refused: 0,
            acknowledged: 0,
            publishes_refused: 0,
            stray: 0,
            stale: 0,
        })
    }

    /// The next connection is a subscriber.
    pub(crate) fn add_subscriber(&mut self, number: usize) {
        self.roles.push(Role::Subscriber(number));
    }

    /// The next connection is a publisher; it goes through `topics` in turn (none where the
    /// routes say where to).
    pub(crate) fn add_publisher(&mut self, topics: &[String]) {
        let number = self.publishers.len();
        self.publishers.push(Publisher {
            connection: self.roles.len(),
            quota: 0,
            sent: 0,
            delivered: 0,
            given_up: 0,
            ids: Vec::new(),
            used: Vec::new(),
            templates: topics
                .iter()
                .map(|topic| Template::new(self.version, topic, self.pace.qos, self.pace.size))
                .collect(),
        });
        self.roles.push(Role::Publisher(number));
    }

    /// Sends and receives until everything has come, or patience is at an end.
    pub(crate) fn run(&mut self, pool: &mut Pool, patience: Patience) -> io::Result<Run> {
        self.prepare(pool);
        let usage = |pid: Option<u32>| pid.and_then(Usage::of).map(|usage| usage.cpu);
        let (before, own) = (usage(patience.broker), Usage::own().cpu);
        self.begun = Instant::now();
        let (mut moved, mut last) = ((0, 0, 0), self.begun);
        let (mut stalls, mut ended_by) = (0, "all there");
        let mut opened = self.begun;
        let wait = if self.pace.interval.is_zero() {
            Duration::from_millis(20)
        } else {
            // A sleep would end late and count as the broker's latency.
            Duration::ZERO
        };
        loop {
            let now = Instant::now();
            if now - self.begun > patience.whole && ended_by == "all there" {
                ended_by = "time limit";
                for publisher in &mut self.publishers {
                    publisher.quota = publisher.sent;
                }
            }
            self.pump(pool, now);
            if self.is_complete() {
                break;
            }
            pool.turn(wait, self)?;
            let now = Instant::now();
            let progress = (self.sent(), self.ledger.received, self.acknowledged);
            if progress != moved {
                (moved, last) = (progress, now);
            } else if now - last > patience.still {
                ended_by = "no progress";
                break;
            } else if now - last.max(opened) > REOPEN && self.reopen() {
                opened = now;
                stalls += 1;
            }
        }
        Ok(Run {
            wall: last - self.begun,
            broker: before
                .zip(usage(patience.broker))
                .map(|(before, after)| after.saturating_sub(before)),
            own: Usage::own().cpu.saturating_sub(own),
            sent: self.sent(),
            expected: self.sent() * self.routes.receivers(),
            stalls,
            ended_by,
        })
    }

    fn prepare(&mut self, pool: &Pool) {
        self.ledger = Ledger::new(self.routes.lanes(self.publishers.len()));
        let count = self.publishers.len().max(1) as u64;
        let (each, more) = (self.pace.messages / count, self.pace.messages % count);
        for (number, publisher) in (0..).zip(&mut self.publishers) {
            publisher.quota = each + u64::from(number < more);
            if self.pace.qos > 0 {
                let most = self.pace.inflight;
                let most = most.min(pool.receive_maximum(publisher.connection));
                publisher.ids = (1..=most).rev().collect();
                publisher.used = vec![false; usize::from(most) + 1];
            }
        }
    }

    fn sent(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.sent).sum()
    }

    fn is_complete(&self) -> bool {
        let receivers = self.routes.receivers();
        let taken = self.pace.qos == 0 || self.acknowledged == self.sent();
        taken
            && self.publishers.iter().all(|publisher| {
                publisher.sent == publisher.quota
                    && publisher.delivered == publisher.sent * receivers
            })
    }

    /// Gives up what is on its way, so that a full window opens; says whether there was one.
    fn reopen(&mut self) -> bool {
        let receivers = self.routes.receivers();
        let mut any = false;
        for publisher in &mut self.publishers {
            let missing = publisher.sent * receivers - publisher.delivered;
            if publisher.sent < publisher.quota && missing > publisher.given_up {
                publisher.given_up = missing;
                any = true;
            }
        }
        any && self.pace.window.is_some()
    }

    fn pump(&mut self, pool: &mut Pool, now: Instant) {
        let now = nanos(now - self.begun);
        let interval = nanos(self.pace.interval);
        let count = self.publishers.len() as u64;
        let receivers = self.routes.receivers();
        let window = self
            .pace
            .window
            .map_or(u64::MAX, |window| window * receivers);
        for (number, publisher) in (0..).zip(&mut self.publishers) {
            if publisher.sent == publisher.quota {
                continue;
            }
            let Some(output) = pool.output(publisher.connection) else {
                continue;
            };
            let before = output.len();
            while publisher.sent < publisher.quota && output.len() < BATCH {
                let due = (publisher.sent * count + u64::from(number)) * interval;
                let waiting = publisher.sent * receivers;
                let waiting = waiting.saturating_sub(publisher.delivered + publisher.given_up);
                if due > now || waiting >= window {
                    break;
                }
                let id = if self.pace.qos == 0 {
                    0
                } else if let Some(id) = publisher.ids.pop() {
                    id
                } else {
                    break;
                };
                if let Some(used) = publisher.used.get_mut(usize::from(id)) {
                    *used = true;
                }
                let stamp = Stamp {
                    run: self.run,
                    publisher: number,
                    sequence: publisher.sent,
                    due: if interval == 0 { now } else { due },
                };
                publisher.append(output, id, &stamp, &self.routes, self.pace, self.version);
                publisher.sent += 1;
            }
            if output.len() > before {
                pool.flush(publisher.connection);
            }
        }
    }

    fn publish_arrived(&mut self, subscriber: usize, payload: &[u8], at: Instant) {
        let Some(stamp) = Stamp::decode(payload).filter(|_| payload.len() == self.pace.size) else {
            self.ledger.wrong += 1;
            return;
        };
        if stamp.run != self.run {
            self.stale += 1;
            return;
        }
        let lane = self.routes.lane(subscriber, &stamp, self.publishers.len());
        let publisher = usize::try_from(stamp.publisher)
            .ok()
            .and_then(|number| self.publishers.get_mut(number));
        let (Some(lane), Some(publisher)) = (lane, publisher) else {
            self.ledger.wrong += 1;
            return;
        };
        if self.ledger.note(lane, stamp.sequence, publisher.sent) {
            publisher.delivered += 1;
            self.late
                .record(nanos(at - self.begun).saturating_sub(stamp.due));
        }
    }

    /// The flow of a publish is over.
    fn acknowledged(&mut self, role: Role, id: u16, code: u8) {
        let publisher = match role {
            Role::Publisher(number) => self.publishers.get_mut(number),
            Role::Subscriber(_) => None,
        };
        let used = publisher.and_then(|publisher| {
            let used = publisher.used.get_mut(usize::from(id))?;
            std::mem::take(used).then(|| publisher.ids.push(id))
        });
        if used.is_none() {
            self.stray += 1;
            return;
        }
        self.acknowledged += 1;
        self.publishes_refused += u64::from(code >= 0x80);
    }
}

impl Publisher {
    fn append(
        &self,
        output: &mut Vec<u8>,
        id: u16,
        stamp: &Stamp,
        routes: &Routes,
        pace: Pace,
        version: Version,
    ) {
        if let Routes::Scattered {
            prefix,
            subscriptions,
            ..
        } = routes
        {
            let number = scattered(stamp.publisher, stamp.sequence, *subscriptions);
            let topic = format!("{prefix}/{number}/cmd");
            wire::publish(output, version, &topic, pace.qos, id, stamp, pace.size);
            return;
        }
        let turn = stamp.sequence % (self.templates.len().max(1) as u64);
        let turn = usize::try_from(turn).unwrap_or_default();
        if let Some(template) = self.templates.get(turn) {
            template.append(output, id, stamp);
        }
    }
}

impl Client for Traffic {
    fn packet(&mut self, who: usize, packet: Incoming<'_>, reply: &mut Vec<u8>, at: Instant) {
        let Some(role) = self.roles.get(who).copied() else {
            return;
        };
        match packet {
            Incoming::Publish { qos, id, payload } => {
                match qos {
                    0 => {}
                    1 => wire::acknowledge(reply, Acknowledge::PubAck, id),
                    _ => wire::acknowledge(reply, Acknowledge::PubRec, id),
                }
                match role {
                    Role::Subscriber(number) => self.publish_arrived(number, payload, at),
                    Role::Publisher(_) => self.ledger.wrong += 1,
                }
            }
            Incoming::PubAck { id, code } => self.acknowledged(role, id, code),
            Incoming::PubRec { id, code } if code >= 0x80 => self.acknowledged(role, id, code),
            Incoming::PubRec { id, .. } => wire::acknowledge(reply, Acknowledge::PubRel, id),
            Incoming::PubRel { id } => wire::acknowledge(reply, Acknowledge::PubComp, id),
            Incoming::PubComp { id } => self.acknowledged(role, id, 0),
            Incoming::SubAck { filters, refused } => {
                self.subscribed += filters as u64;
                self.filters_refused += refused as u64;
            }
            Incoming::ConnAck { .. } | Incoming::Disconnect { .. } | Incoming::Other => {}
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_the_wrong_place_has_no_lane() {
        let stamp = Stamp {
            publisher: 2,
            sequence: 9,
            ..Stamp::default()
        };
        assert_eq!(Routes::Pairs.lane(2, &stamp, 10), Some(2));
        assert_eq!(Routes::Pairs.lane(3, &stamp, 10), None);
        assert_eq!(Routes::All(4).lane(3, &stamp, 10), Some(32));
        let scattered_routes = Routes::Scattered {
            prefix: "t".to_owned(),
            subscriptions: 1000,
            clients: 10,
        };
        let right = usize::try_from(scattered(2, 9, 1000) % 10).unwrap();
        for client in 0..10 {
            let lane = (client == right).then_some(2);
            assert_eq!(scattered_routes.lane(client, &stamp, 10), lane);
        }
    }

    #[test]
    fn an_acknowledgement_counts_once() {
        let pace = Pace {
            qos: 1,
            size: 64,
            inflight: 2,
            window: None,
            interval: Duration::ZERO,
            messages: 2,
        };
        let mut traffic = Traffic::new(Version::V5, pace, Routes::Pairs).unwrap();
        traffic.add_publisher(&["t".to_owned()]);
        let publisher = &mut traffic.publishers[0];
        publisher.used = vec![false, true, false];
        let mut reply = Vec::new();
        for id in [1, 1, 2, 9] {
            let packet = Incoming::PubAck { id, code: 0x87 };
            traffic.packet(0, packet, &mut reply, Instant::now());
        }
        assert_eq!((traffic.acknowledged, traffic.stray), (1, 3));
        assert_eq!(traffic.publishes_refused, 1);
        assert_eq!(traffic.publishers[0].ids, [1]);
    }
}
