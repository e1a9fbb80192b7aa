//! Bounds on messages: `qos <= 1 && payload <= '64 KiB'`.

use std::collections::BTreeSet;
use std::fmt;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

    /// Whether all messages within the others are within these.
    pub(crate) fn contain(self, others: Self) -> bool {
        self.and(others) == others
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

/// As a condition says it; nothing for all messages.
impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let qos = match self.qos {
            (0, 2) => String::new(),
            (0, most) => format!("qos <= {most}"),
            (least, most) if least == most => format!("qos == {least}"),
            (least, _) => format!("qos >= {least}"),
        };
        let below = |least: u32| text(least.saturating_sub(1));
        let payload = match self.payload {
            (0, u32::MAX) => String::new(),
            (0, most) => format!("payload <= '{}'", text(most)),
            (least, u32::MAX) => format!("payload > '{}'", below(least)),
            (least, most) if least == most => format!("payload == '{}'", text(most)),
            (least, most) => {
                format!(
                    "payload > '{}' && payload <= '{}'",
                    below(least),
                    text(most)
                )
            }
        };
        let joint = if qos.is_empty() || payload.is_empty() {
            ""
        } else {
            " && "
        };
        write!(f, "{qos}{joint}{payload}")
    }
}

/// A size as conditions write it, in the largest unit that fits.
fn text(bytes: u32) -> String {
    let units = UNITS.iter().rev();
    let fitting = units
        .map(|(name, scale)| (name, u64::from(bytes) / scale, u64::from(bytes) % scale))
        .find(|(name, count, rest)| (*count > 0 && *rest == 0) || **name == "B");
    fitting.map_or_else(String::new, |(name, count, _)| format!("{count} {name}"))
}

/// The kinds of messages that some bounds tell apart: a grid over `QoS` and sizes.
pub(crate) struct Kinds {
    /// Where the next kind begins; the first is 0.
    qos: Vec<u8>,
    /// The same, bytes.
    payload: Vec<u32>,
}

/// One of them, by its place in both directions.
pub(crate) type Kind = (usize, usize);

impl Kinds {
    pub(crate) fn of(bounds: impl IntoIterator<Item = Bounds>) -> Self {
        let (mut qos, mut payload) = (BTreeSet::from([0]), BTreeSet::from([0]));
        for bounds in bounds {
            qos.extend([bounds.qos.0, bounds.qos.1 + 1]);
            payload.insert(bounds.payload.0);
            payload.extend(bounds.payload.1.checked_add(1));
        }
        Self {
            qos: qos.into_iter().filter(|level| *level <= 2).collect(),
            payload: payload.into_iter().collect(),
        }
    }

    /// Each, and the bounds that hold for its messages and no others.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Kind, Bounds)> {
        let places = (0..self.qos.len()).flat_map(|q| (0..self.payload.len()).map(move |p| (q, p)));
        places.map(|(q, p)| ((q, p), self.span((q, q), (p, p))))
    }

    fn span(&self, qos: Kind, payload: Kind) -> Bounds {
        let level = |at: usize| self.qos.get(at).copied();
        let size = |at: usize| self.payload.get(at).copied();
        Bounds {
            qos: (
                level(qos.0).unwrap_or(0),
                level(qos.1 + 1).map_or(2, |next| next - 1),
            ),
            payload: (
                size(payload.0).unwrap_or(0),
                size(payload.1 + 1).map_or(u32::MAX, |next| next - 1),
            ),
        }
    }

    /// Some of them as bounds, few and without overlap.
    pub(crate) fn joined(&self, some: &BTreeSet<Kind>) -> Vec<Bounds> {
        let mut joined: Vec<(Kind, Kind)> = Vec::new();
        for q in 0..self.qos.len() {
            let mut run: Option<Kind> = None;
            for p in 0..=self.payload.len() {
                match (some.contains(&(q, p)), run) {
                    (true, None) => run = Some((p, p)),
                    (true, Some((first, _))) => run = Some((first, p)),
                    (false, None) => {}
                    (false, Some(sizes)) => {
                        let above = joined.iter_mut();
                        let mut above =
                            above.filter(|(qos, known)| *known == sizes && qos.1 + 1 == q);
                        match above.next() {
                            Some((qos, _)) => qos.1 = q,
                            None => joined.push(((q, q), sizes)),
                        }
                        run = None;
                    }
                }
            }
        }
        joined
            .into_iter()
            .map(|(qos, payload)| self.span(qos, payload))
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(qos: (u8, u8), payload: (u32, u32)) -> Bounds {
        Bounds { qos, payload }
    }

    #[test]
    fn bounds_are_written_as_conditions_are() {
        for (qos, payload, text) in [
            ((0, 2), (0, u32::MAX), ""),
            ((0, 1), (0, u32::MAX), "qos <= 1"),
            ((1, 2), (0, 1 << 16), "qos >= 1 && payload <= '64 KiB'"),
            ((1, 1), (1025, u32::MAX), "qos == 1 && payload > '1 KiB'"),
            (
                (0, 2),
                (11, 3 << 20),
                "payload > '10 B' && payload <= '3 MiB'",
            ),
            ((0, 0), (0, 0), "qos <= 0 && payload <= '0 B'"),
            ((2, 2), (7, 7), "qos == 2 && payload == '7 B'"),
        ] {
            let written = bounds(qos, payload);
            assert_eq!(written.to_string(), text);
            if !text.is_empty() {
                let mut conditions = crate::cond::Conditions::default();
                let number = conditions.number(text).map_err(|c| c.message).unwrap();
                assert_eq!(conditions.bounds(Some(number)), written, "and read");
            }
        }
    }

    #[test]
    fn kinds_part_all_messages_and_join_again() {
        let given = [
            bounds((0, 1), (0, u32::MAX)),
            bounds((0, 2), (0, 10)),
            bounds((2, 2), (21, u32::MAX)),
        ];
        let kinds = Kinds::of(given);
        let all: Vec<_> = kinds.all().collect();
        assert_eq!(all.len(), 2 * 3);
        for (_, kind) in &all {
            for given in given {
                let apart = given.and(*kind).is_empty();
                assert!(given.contain(*kind) || apart, "{kind} in {given}");
            }
        }
        let some = |chosen: fn(&Bounds) -> bool| {
            let some = all.iter().filter(|(_, kind)| chosen(kind));
            let some = some.map(|(place, _)| *place).collect();
            let joined = kinds.joined(&some).into_iter();
            joined.map(|bounds| bounds.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(some(|_| true), [""]);
        assert_eq!(some(|_| false), [""; 0]);
        assert_eq!(some(|kind| kind.payload.1 == 10), ["payload <= '10 B'"]);
        assert_eq!(
            some(|kind| kind.qos.1 == 1 || kind.payload.0 == 21),
            ["qos <= 1", "qos == 2 && payload > '20 B'"]
        );
    }
}
