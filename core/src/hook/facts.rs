//! What a policy may ask about a message, and for which other messages the answer holds too.

use std::cell::Cell;

use crate::wire::QoS;

/// A message as far as a policy may look at it: its `QoS` and the size of its payload.
///
/// It cannot be read, only asked, and each question is remembered in [`alike`](Self::alike). So an
/// answer that is kept is used again for messages that would have been answered alike, and for no
/// others: nobody warms a cache with a small message and then sends a large one.
#[derive(Debug)]
pub struct MessageFacts {
    qos: QoS,
    payload: u32,
    alike: Cell<Alike>,
}

impl MessageFacts {
    /// A message of this `QoS` with a payload of so many bytes.
    #[must_use]
    pub fn new(qos: QoS, payload: usize) -> Self {
        Self {
            qos,
            // No packet is larger than 256 MiB.
            payload: u32::try_from(payload).unwrap_or(u32::MAX),
            alike: Cell::new(Alike::ALL),
        }
    }

    /// The smallest message of this `QoS`: what a subscription is judged by.
    #[must_use]
    pub fn smallest(qos: QoS) -> Self {
        Self::new(qos, 0)
    }

    /// Whether the `QoS` is not above `most`.
    pub fn qos_at_most(&self, most: QoS) -> bool {
        let mut alike = self.alike.get();
        let holds = self.qos <= most;
        if holds {
            alike.qos.1 = alike.qos.1.min(most);
        } else {
            alike.qos.0 = alike.qos.0.max(above(most));
        }
        self.alike.set(alike);
        holds
    }

    /// Whether the payload is not longer than `most` bytes.
    pub fn payload_at_most(&self, most: u32) -> bool {
        let mut alike = self.alike.get();
        let holds = self.payload <= most;
        if holds {
            alike.payload.1 = alike.payload.1.min(most);
        } else {
            alike.payload.0 = alike.payload.0.max(most.saturating_add(1));
        }
        self.alike.set(alike);
        holds
    }

    /// The messages that have got the same answers so far.
    #[must_use]
    pub fn alike(&self) -> Alike {
        self.alike.get()
    }
}

/// The next `QoS`; the highest has none.
const fn above(qos: QoS) -> QoS {
    match qos {
        QoS::AtMostOnce => QoS::AtLeastOnce,
        QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

/// Messages that a policy does not tell apart: between two `QoS` and two sizes, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alike {
    qos: (QoS, QoS),
    payload: (u32, u32),
}

impl Alike {
    /// Every message.
    pub const ALL: Self = Self {
        qos: (QoS::AtMostOnce, QoS::ExactlyOnce),
        payload: (0, u32::MAX),
    };

    /// No message at all.
    pub const NONE: Self = Self {
        qos: (QoS::AtMostOnce, QoS::ExactlyOnce),
        payload: (1, 0),
    };

    /// Whether a message is one of them.
    #[must_use]
    pub fn holds(&self, qos: QoS, payload: usize) -> bool {
        let (least, most) = self.payload;
        self.qos.0 <= qos
            && qos <= self.qos.1
            && least as usize <= payload
            && payload <= most as usize
    }

    /// The highest `QoS` below all of them: the next at which the answer may be another.
    #[must_use]
    pub fn lower_qos(&self) -> Option<QoS> {
        match self.qos.0 {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(QoS::AtMostOnce),
            QoS::ExactlyOnce => Some(QoS::AtLeastOnce),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

    #[test]
    fn an_answer_holds_for_the_messages_that_would_get_it_and_no_others() {
        let ask = |qos, payload| {
            let facts = MessageFacts::new(qos, payload);
            let answer = (
                facts.qos_at_most(QoS::AtLeastOnce),
                facts.payload_at_most(10),
                facts.payload_at_most(1000),
            );
            (answer, facts.alike())
        };
        let sizes = [0, 9, 10, 11, 999, 1000, 1001, 1 << 28];
        let all = LEVELS.iter().flat_map(|qos| sizes.map(|size| (*qos, size)));
        let all: Vec<_> = all.collect();
        for (qos, size) in &all {
            let (answer, alike) = ask(*qos, *size);
            for (other, length) in &all {
                let same = ask(*other, *length).0 == answer;
                assert_eq!(
                    alike.holds(*other, *length),
                    same,
                    "{qos:?} {size} {other:?} {length}"
                );
            }
        }
    }

    #[test]
    fn what_was_not_asked_does_not_bound_the_answer() {
        let facts = MessageFacts::new(QoS::ExactlyOnce, 7);
        assert_eq!(facts.alike(), Alike::ALL);
        assert!(facts.alike().holds(QoS::AtMostOnce, 1 << 28));
        assert!(!Alike::NONE.holds(QoS::AtMostOnce, 0));
        assert!(!Alike::NONE.holds(QoS::ExactlyOnce, 1));
        assert_eq!(facts.alike().lower_qos(), None);
        assert!(!facts.qos_at_most(QoS::AtMostOnce));
        assert_eq!(facts.alike().lower_qos(), Some(QoS::AtMostOnce));
    }
}
