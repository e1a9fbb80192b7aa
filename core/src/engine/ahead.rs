//! Looking ahead in a batch: the messages of a client that publishes to ever other topics are each
//! looked up in the subscription tree, and among very many subscriptions each would wait for memory by
//! itself. So the tree reads what the next few will need before they are handled, for all of them at
//! once. Nothing is decided here, and nothing of it kept but in the processor's caches.

use smallvec::SmallVec;

use crate::wire::split_frame;

use super::Routing;
use super::tree::AHEAD;

/// When to look ahead in what one client sends.
#[derive(Default)]
pub(crate) struct Ahead {
    /// Packets handled since it last decided; at most [`AHEAD`].
    packets: u8,
    /// Whether most of those before them were messages to topics that had to be looked up.
    scattered: bool,
}

impl Ahead {
    /// Before the first packet of `rest` is handled.
    #[inline]
    pub(crate) fn step(&mut self, rest: &[u8], max_packet_size: u32, routing: &mut Routing<'_>) {
        if usize::from(self.packets) == AHEAD {
            self.end(routing);
        }
        if self.packets == 0 && self.scattered && routing.tree().is_large() {
            warm(rest, max_packet_size, routing);
        }
        self.packets += 1;
    }

    /// After the last packet of a batch.
    pub(crate) fn end(&mut self, routing: &mut Routing<'_>) {
        let lookups = std::mem::take(&mut routing.lookups);
        self.scattered = lookups * 2 > u32::from(self.packets);
        self.packets = 0;
    }
}

#[inline(never)]
fn warm(mut rest: &[u8], max_packet_size: u32, routing: &Routing<'_>) {
    let mut topics: SmallVec<[&[u8]; AHEAD]> = SmallVec::new();
    for _ in 0..AHEAD {
        let Ok(Some(frame)) = split_frame(rest, max_packet_size) else {
            break;
        };
        topics.extend(frame.topic());
        rest = rest.get(frame.size..).unwrap_or_default();
    }
    routing.tree().warm(&topics);
}
