//! Bounds on messages: `qos <= 1 && payload <= '64 KiB'`.

use portcullis_core::hook::MessageFacts;
use portcullis_core::wire::QoS;

use crate::error::Complaint;

const UNITS: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// The messages between two `QoS` and two sizes of payload, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    /// As numbers: 0 to 2.
    qos: (u8, u8),
    /// Bytes.
    payload: (u32, u32),
}

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ordering {
    AtMost,
    AtLeast,
    Below,
    Above,
    Equal,
}

impl Ordering {
    pub(super) fn of(sign: &str) -> Option<Self> {
        Some(match sign {
            "<=" => Self::AtMost,
            ">=" => Self::AtLeast,
            "<" => Self::Below,
            ">" => Self::Above,
            "==" => Self::Equal,
            _ => return None,
        })
    }

    /// The numbers from 0 to `top` that are so ordered; the range may be empty.
    fn range(self, than: u32, top: u32) -> (u32, u32) {
        match self {
            Self::AtMost => (0, than),
            Self::AtLeast => (than, top),
            Self::Below => than.checked_sub(1).map_or((1, 0), |most| (0, most)),
            Self::Above => than.checked_add(1).map_or((1, 0), |least| (least, top)),
            Self::Equal => (than, than),
        }
    }
}

impl Bounds {
    /// Every message.
    pub(crate) const ALL: Self = Self {
        qos: (0, 2),
        payload: (0, u32::MAX),
    };

    pub(super) fn qos(ordering: Ordering, word: &str) -> Result<Self, Complaint> {
        let number = match word {
            "0" => 0,
            "1" => 1,
            "2" => 2,
            _ => {
                let message = format!("`{word}` is not a QoS");
                return Err(Complaint::new(message, "write 0, 1 or 2: `qos <= 1`"));
            }
        };
        let (least, most) = ordering.range(number, 2);
        // Both are at most 3.
        let narrow = |number| u8::try_from(number).unwrap_or(u8::MAX);
        Ok(Self {
            qos: (narrow(least), narrow(most)),
            ..Self::ALL
        })
    }

    pub(super) fn payload(ordering: Ordering, text: &str) -> Result<Self, Complaint> {
        Ok(Self {
            payload: ordering.range(size(text)?, u32::MAX),
            ..Self::ALL
        })
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            qos: (self.qos.0.max(other.qos.0), self.qos.1.min(other.qos.1)),
            payload: (
                self.payload.0.max(other.payload.0),
                self.payload.1.min(other.payload.1),
            ),
        }
    }

    /// All other messages, where these are what is left on one side of one number.
    pub(super) fn others(self) -> Option<Self> {
        let qos = match self.qos {
            (0, most) => most.checked_add(1).map(|least| (least, 2)),
            (least, 2) => Some((0, least - 1)),
            _ => None,
        };
        let payload = match self.payload {
            (0, most) => most.checked_add(1).map(|least| (least, u32::MAX)),
            (least, u32::MAX) => Some((0, least - 1)),
            _ => None,
        };
        match (self.qos == Self::ALL.qos, self.payload == Self::ALL.payload) {
            (false, true) => Some(Self { qos: qos?, ..self }),
            (true, false) => Some(Self {
                payload: payload?,
                ..self
            }),
            (true, true) | (false, false) => None,
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.qos.0 > self.qos.1 || self.payload.0 > self.payload.1
    }

    /// Whether the smallest message is beyond the bounds, at every `QoS` or at `QoS` 0.
    pub(crate) fn excludes_the_smallest(self) -> bool {
        self.qos.0 > 0 || self.payload.0 > 0
    }

    /// Whether a message of this `QoS` and size is within.
    pub(crate) fn within(self, qos: QoS, payload: u32) -> bool {
        self.hold(&MessageFacts::new(qos, payload as usize))
    }

    /// Whether the message is within. Only what may be otherwise is asked.
    pub(crate) fn hold(self, message: &MessageFacts) -> bool {
        let (least, most) = self.payload;
        self.qos_within(message)
            && (most == u32::MAX || message.payload_at_most(most))
            && least
                .checked_sub(1)
                .is_none_or(|below| !message.payload_at_most(below))
    }

    fn qos_within(self, message: &MessageFacts) -> bool {
        self.reaches(message) && level(self.qos.1).is_none_or(|most| message.qos_at_most(most))
    }

    /// Whether some `QoS` up to the message's is within.
    fn reaches(self, message: &MessageFacts) -> bool {
        let below = self.qos.0.checked_sub(1).and_then(level);
        below.is_none_or(|below| !message.qos_at_most(below))
    }

    /// Whether all messages up to the `QoS` of this one are within, whatever their size.
    pub(crate) fn hold_all_up_to(self, message: &MessageFacts) -> bool {
        self.payload == Self::ALL.payload && self.qos.0 == 0 && self.qos_within(message)
    }

    /// Whether some message up to the `QoS` of this one is within, whatever its size.
    pub(crate) fn hold_any_up_to(self, message: &MessageFacts) -> bool {
        self.reaches(message)
    }
}

/// Bytes, written with a unit.
///
/// # Errors
///
/// It is not a size, or more than a packet can hold.
pub(crate) fn size(text: &str) -> Result<u32, Complaint> {
    let read = || {
        let (number, unit) = text.split_once(' ')?;
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let bytes = number.parse::<u64>().ok()?.checked_mul(*scale)?;
        u32::try_from(bytes).ok().filter(|bytes| *bytes < u32::MAX)
    };
    read().ok_or_else(|| {
        let message = format!("'{text}' is not a size");
        Complaint::new(
            message,
            "write a number and a unit: '0 B', '64 KiB', '1 MiB'",
        )
    })
}

/// A bound on `QoS`; `None` where it is none.
fn level(number: u8) -> Option<QoS> {
    match number {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        _ => None,
    }
}
