//! A client that changes its subscriptions all the time, and looks which of them are there.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use portcullis_core::wire::{Delivery, Packet, PacketId, QoS, Version};

use crate::link::{Got, Link};
use crate::world::World;
use crate::{END, Random};

const NAME: &str = "chooser";
const FILTERS: usize = 6;
/// So many changes between two looks.
const CHANGES: u64 = 20;

/// See the module.
pub(crate) struct Chooser {
    world: Arc<World>,
    random: Random,
    known: bool,
    /// What was acknowledged last; `None`: a change is under way.
    subscribed: [Option<bool>; FILTERS],
    looks: u32,
}

impl Chooser {
    pub(crate) fn begin(world: &Arc<World>, seed: u64) -> JoinHandle<()> {
        let world = Arc::clone(world);
        let mut chooser = Self {
            world: Arc::clone(&world),
            random: Random(seed ^ 1),
            known: false,
            subscribed: [Some(false); FILTERS],
            looks: 0,
        };
        thread::spawn(move || world.again(|_| true, |address| chooser.session(address)))
    }

    fn session(&mut self, address: SocketAddr) -> io::Result<bool> {
        let who = self.world.who(NAME, Version::V5);
        let (mut link, present) = Link::connect(address, &who)?;
        assert!(present || !self.known, "{NAME}: the session is lost");
        self.known = true;
        link.subscribe("lab/choice/end", QoS::AtLeastOnce)?;
        acknowledged(&mut link)?;
        loop {
            self.look(&mut link)?;
            if self.world.finish.load(Ordering::SeqCst) {
                return Ok(true);
            }
            for _ in 0..CHANGES {
                let filter = usize::try_from(self.random.below(FILTERS as u64)).unwrap();
                let subscribe = self.random.below(2) == 0;
                let text = format!("lab/choice/{filter}");
                self.subscribed[filter] = None;
                if subscribe {
                    link.subscribe(&text, QoS::AtLeastOnce)?;
                } else {
                    link.unsubscribe(&text)?;
                }
                acknowledged(&mut link)?;
                self.subscribed[filter] = Some(subscribe);
            }
        }
    }

    /// Publishes to every topic and sees which messages come back.
    fn look(&mut self, link: &mut Link) -> io::Result<()> {
        self.looks += 1;
        let payload = self.looks.to_string();
        let topics = (0..FILTERS).map(|filter| filter.to_string());
        for (topic, id) in topics.chain([END.to_owned()]).zip(1..) {
            let id = PacketId::new(id).unwrap();
            let delivery = Delivery::AtLeastOnce { id, dup: false };
            link.publish(&format!("lab/choice/{topic}"), &payload, delivery, false)?;
        }
        let mut found = BTreeSet::new();
        loop {
            if let Got::Message {
                topic,
                payload: of,
                delivery,
                ..
            } = link.receive()?
            {
                let Delivery::AtLeastOnce { id, .. } = delivery else {
                    panic!("{topic}: {delivery:?}");
                };
                link.acknowledge(Packet::PubAck, id)?;
                let topic = topic.rsplit('/').next().unwrap().to_owned();
                // Of an earlier look that a crash has ended.
                if of != payload {
                    continue;
                }
                if topic == END {
                    break;
                }
                found.insert(topic);
            }
        }
        for (filter, subscribed) in self.subscribed.iter_mut().enumerate() {
            let found = found.contains(&filter.to_string());
            let was = *subscribed.get_or_insert(found);
            assert_eq!(found, was, "{NAME}: subscribed to {filter}");
        }
        Ok(())
    }
}

/// Waits for SUBACK or UNSUBACK; messages of a look that a crash has ended may come first.
fn acknowledged(link: &mut Link) -> io::Result<()> {
    loop {
        match link.receive()? {
            Got::SubAck | Got::UnsubAck => return Ok(()),
            Got::Message {
                delivery: Delivery::AtLeastOnce { id, .. },
                ..
            } => link.acknowledge(Packet::PubAck, id)?,
            _ => {}
        }
    }
}
