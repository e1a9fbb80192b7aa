//! Clients that send and clients that receive, and the applications behind them.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use portcullis_core::wire::{Delivery, Packet, PacketId, QoS, Version};

use crate::link::{Got, Link};
use crate::world::{Kept, World};
use crate::{END, PUBLISHERS, TOPIC, WINDOW};

/// One client that sends.
pub(crate) struct Publisher {
    world: Arc<World>,
    number: usize,
    /// Whether the broker has told of a session.
    known: bool,
    next: u32,
    /// In the order of their sending.
    flights: Vec<Flight>,
}

struct Flight {
    id: PacketId,
    qos: QoS,
    text: String,
    /// The number of the retained state, if it is one.
    kept: Option<u32>,
    /// PUBREC was seen: only PUBREL goes out from now on.
    received: bool,
}

impl Publisher {
    pub(crate) fn begin(world: &Arc<World>, number: usize) -> JoinHandle<()> {
        let world = Arc::clone(world);
        let mut publisher = Self {
            world: Arc::clone(&world),
            number,
            known: false,
            next: 0,
            flights: Vec::new(),
        };
        thread::spawn(move || world.again(|_| true, |address| publisher.session(address)))
    }

    fn session(&mut self, address: SocketAddr) -> io::Result<bool> {
        let name = format!("publisher-{}", self.number);
        let who = self.world.who(&name, Version::V3_1_1);
        let (mut link, present) = Link::connect(address, &who)?;
        assert!(present || !self.known, "{name}: the session is lost");
        self.known = true;
        for flight in &self.flights {
            self.send(&mut link, flight, true)?;
        }
        loop {
            let finish = self.world.finish.load(Ordering::SeqCst);
            while self.flights.len() < WINDOW && !finish {
                let flight = self.compose();
                // Remembered first: it may arrive although sending fails.
                self.flights.push(flight);
                self.send(&mut link, self.flights.last().unwrap(), false)?;
            }
            if self.flights.is_empty() {
                return Ok(true);
            }
            match link.receive()? {
                Got::Ack(id) => {
                    let flight = self.over(id);
                    assert_eq!(flight.qos, QoS::AtLeastOnce);
                    self.acknowledged(&flight);
                }
                Got::Rec(id) => {
                    let place = self
                        .flights
                        .iter()
                        .position(|flight| flight.id == id)
                        .unwrap();
                    self.flights[place].received = true;
                    self.acknowledged(&self.flights[place]);
                    link.acknowledge(Packet::PubRel, id)?;
                }
                Got::Comp(id) => assert!(self.over(id).received),
                _ => panic!("{name}: not an acknowledgement"),
            }
        }
    }

    fn compose(&mut self) -> Flight {
        self.next += 1;
        let used: HashSet<_> = self.flights.iter().map(|flight| flight.id).collect();
        let id = (1..=u16::MAX)
            .map(|id| PacketId::new(id).unwrap())
            .find(|id| !used.contains(id));
        let (qos, kept) = match self.next % 5 {
            // Of one QoS, so that resending cannot put them out of order for good.
            0 => (QoS::AtLeastOnce, Some(self.next / 5)),
            1 | 3 => (QoS::AtLeastOnce, None),
            _ => (QoS::ExactlyOnce, None),
        };
        if let Some(kept) = kept {
            self.world.retained.lock().unwrap()[self.number].sent = kept;
        }
        let text = match kept {
            Some(kept) if Kept::clears(kept) => String::new(),
            Some(kept) => kept.to_string(),
            None => format!("{} {} {}", self.number, self.next, qos as u8),
        };
        Flight {
            id: id.unwrap(),
            qos,
            text,
            kept,
            received: false,
        }
    }

    fn send(&self, link: &mut Link, flight: &Flight, dup: bool) -> io::Result<()> {
        let id = flight.id;
        if flight.received {
            return link.acknowledge(Packet::PubRel, id);
        }
        let delivery = match flight.qos {
            QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
            _ => Delivery::AtLeastOnce { id, dup },
        };
        match flight.kept {
            Some(_) => link.publish(
                &format!("lab/retained/{}", self.number),
                &flight.text,
                delivery,
                true,
            ),
            None => link.publish(TOPIC, &flight.text, delivery, false),
        }
    }

    fn acknowledged(&self, flight: &Flight) {
        match flight.kept {
            Some(kept) => self.world.retained.lock().unwrap()[self.number].acknowledged = kept,
            None => self.world.acknowledge(&flight.text),
        }
        self.world.progress();
    }

    fn over(&mut self, id: PacketId) -> Flight {
        let place = self.flights.iter().position(|flight| flight.id == id);
        self.flights.remove(place.unwrap())
    }
}

/// One client that receives, and the application behind it.
pub(crate) struct Subscriber {
    world: Arc<World>,
    name: &'static str,
    qos: QoS,
    subscribed: bool,
    /// Identifiers of `QoS` 2 messages that were taken and not yet released.
    taken: HashSet<PacketId>,
    /// The last `QoS` 2 message of each publisher.
    last: [u32; PUBLISHERS],
}

impl Subscriber {
    /// Begins one that connects at every `every`th start.
    pub(crate) fn begin(
        world: &Arc<World>,
        name: &'static str,
        qos: QoS,
        every: u64,
    ) -> JoinHandle<()> {
        let world = Arc::clone(world);
        let mut subscriber = Self {
            world: Arc::clone(&world),
            name,
            qos,
            subscribed: false,
            taken: HashSet::new(),
            last: [0; PUBLISHERS],
        };
        thread::spawn(move || {
            world.again(
                |start| start % every == 1 % every,
                |address| subscriber.session(address),
            );
        })
    }

    fn session(&mut self, address: SocketAddr) -> io::Result<bool> {
        let who = self.world.who(self.name, Version::V3_1_1);
        let (mut link, present) = Link::connect(address, &who)?;
        assert_eq!(present, self.subscribed, "{}: session present", self.name);
        if !self.subscribed {
            link.subscribe(TOPIC, self.qos)?;
        }
        loop {
            match link.receive()? {
                Got::SubAck => {
                    self.subscribed = true;
                    self.world.subscribed.fetch_add(1, Ordering::SeqCst);
                }
                Got::Message {
                    payload, delivery, ..
                } => match delivery {
                    Delivery::AtMostOnce => panic!("{payload}: not at QoS 0"),
                    Delivery::AtLeastOnce { id, .. } => {
                        let end = payload == END;
                        self.deliver(payload, false);
                        link.acknowledge(Packet::PubAck, id)?;
                        if end {
                            return Ok(true);
                        }
                    }
                    Delivery::ExactlyOnce { id, .. } => {
                        if self.taken.insert(id) {
                            self.deliver(payload, true);
                        }
                        link.acknowledge(Packet::PubRec, id)?;
                    }
                },
                Got::Rel(id) => {
                    self.taken.remove(&id);
                    link.acknowledge(Packet::PubComp, id)?;
                }
                _ => panic!("{}: not for a subscriber", self.name),
            }
        }
    }

    /// The application gets a message.
    fn deliver(&mut self, payload: String, once: bool) {
        if once {
            let mut words = payload.split(' ').map(|word| word.parse::<u32>().unwrap());
            let publisher = words.next().unwrap() as usize;
            let number = words.next().unwrap();
            let last = std::mem::replace(&mut self.last[publisher], number);
            assert!(
                number > last,
                "{}: {number} of publisher {publisher} after {last}",
                self.name
            );
        }
        self.world
            .got
            .lock()
            .unwrap()
            .entry(self.name)
            .or_default()
            .insert(payload);
        self.world.progress();
    }
}
