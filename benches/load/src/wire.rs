//! The few packets that a load generator needs: encoded once and copied often; decoded borrowing.
//!
//! Independent of `portcullis-core` on purpose: a mistake in its encoder must not hide itself.

/// MQTT version spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V3_1_1,
    V5,
}

/// What a CONNECT says.
#[derive(Clone, Debug)]
pub(crate) struct Login<'a> {
    pub(crate) id: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    /// The session outlives the connection, and one that is there is resumed.
    pub(crate) persistent: bool,
    /// Seconds; 0 for none.
    pub(crate) keep_alive: u16,
}

/// How long a persistent session of a 5.0 client lives on, seconds.
const SESSION_EXPIRY: u32 = 3600;

/// DISCONNECT without a reason.
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

pub(crate) fn connect(out: &mut Vec<u8>, version: Version, login: &Login<'_>) {
    let mut body = Vec::with_capacity(64);
    text(&mut body, "MQTT");
    body.push(if version == Version::V5 { 5 } else { 4 });
    let mut flags = u8::from(!login.persistent) << 1;
    flags |= u8::from(login.user.is_some()) << 7;
    flags |= u8::from(login.password.is_some()) << 6;
    body.push(flags);
    body.extend_from_slice(&login.keep_alive.to_be_bytes());
    if version == Version::V5 {
        if login.persistent {
            body.extend_from_slice(&[5, 0x11]);
            body.extend_from_slice(&SESSION_EXPIRY.to_be_bytes());
        } else {
            body.push(0);
        }
    }
    text(&mut body, login.id);
    for field in [login.user, login.password].into_iter().flatten() {
        text(&mut body, field);
    }
    packet(out, 0x10, &body);
}

pub(crate) fn subscribe(out: &mut Vec<u8>, version: Version, id: u16, filters: &[String], qos: u8) {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        text(&mut body, filter);
        body.push(qos);
    }
    packet(out, 0x82, &body);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
pub(crate) fn acknowledge(out: &mut Vec<u8>, kind: Acknowledge, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[kind as u8, 2, high, low]);
}

/// The first bytes of acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the names of the standard")]
pub(crate) enum Acknowledge {
    PubAck = 0x40,
    PubRec = 0x50,
    PubRel = 0x62,
    PubComp = 0x70,
}

/// Appends a PUBLISH whose payload is a stamp and padding.
pub(crate) fn publish(
    out: &mut Vec<u8>,
    version: Version,
    topic: &str,
    qos: u8,
    id: u16,
    stamp: &Stamp,
    size: usize,
) {
    let head = 2 + topic.len() + usize::from(qos > 0) * 2 + usize::from(version == Version::V5);
    out.push(0x30 | qos << 1);
    length(out, head + size);
    text(out, topic);
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    if version == Version::V5 {
        out.push(0);
    }
    let end = out.len() + size;
    out.extend_from_slice(&stamp.encode());
    out.resize(end, b'.');
}

/// A PUBLISH that is sent again and again with another stamp.
pub(crate) struct Template {
    bytes: Vec<u8>,
    /// Where the packet identifier stands, where there is one.
    id: Option<usize>,
    stamp: usize,
}

impl Template {
    pub(crate) fn new(version: Version, topic: &str, qos: u8, size: usize) -> Self {
        let mut bytes = Vec::new();
        publish(&mut bytes, version, topic, qos, 1, &Stamp::default(), size);
        let stamp = bytes.len() - size;
        let properties = usize::from(version == Version::V5);
        Self {
            id: (qos > 0).then_some(stamp - properties - 2),
            stamp,
            bytes,
        }
    }

    pub(crate) fn append(&self, out: &mut Vec<u8>, id: u16, stamp: &Stamp) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let Some(packet) = out.get_mut(start..) else {
            return;
        };
        let patch = |place: Option<&mut [u8]>, bytes: &[u8]| {
            if let Some(place) = place {
                place.copy_from_slice(bytes);
            }
        };
        if let Some(at) = self.id {
            patch(packet.get_mut(at..at + 2), &id.to_be_bytes());
        }
        patch(
            packet.get_mut(self.stamp..self.stamp + Stamp::SIZE),
            &stamp.encode(),
        );
    }
}

/// What a payload begins with: enough to say of each message whose it is and whether it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The run; what another one left behind is told apart.
    pub(crate) run: u32,
    pub(crate) publisher: u32,
    /// The how-manieth of its publisher, from 0.
    pub(crate) sequence: u64,
    /// When it was due, nanoseconds since the run began.
    pub(crate) due: u64,
}

impl Stamp {
    pub(crate) const SIZE: usize = 24;

    fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let fields = self.run.to_le_bytes().into_iter();
        let fields = fields
            .chain(self.publisher.to_le_bytes())
            .chain(self.sequence.to_le_bytes())
            .chain(self.due.to_le_bytes());
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        bytes
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (run, rest) = payload.split_first_chunk()?;
        let (publisher, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (due, _) = rest.split_first_chunk()?;
        Some(Self {
            run: u32::from_le_bytes(*run),
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            due: u64::from_le_bytes(*due),
        })
    }
}

/// A packet from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    ConnAck {
        code: u8,
        receive_maximum: u16,
    },
    Publish {
        qos: u8,
        id: u16,
        payload: &'a [u8],
    },
    PubAck {
        id: u16,
        code: u8,
    },
    PubRec {
        id: u16,
        code: u8,
    },
    PubRel {
        id: u16,
    },
    PubComp {
        id: u16,
    },
    /// Of so many filters so many were refused.
    SubAck {
        filters: usize,
        refused: usize,
    },
    Disconnect {
        code: u8,
    },
    Other,
}

/// Bytes that are no MQTT, or cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent a malformed packet")]
pub(crate) struct Malformed;

/// The first packet of `input` and its size; `None` if it is not whole yet.
pub(crate) fn split(
    input: &[u8],
    version: Version,
) -> Result<Option<(Incoming<'_>, usize)>, Malformed> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(None);
    };
    let Some((size, body)) = varint(rest)? else {
        return Ok(None);
    };
    let head = input.len() - body.len();
    match body.get(..size) {
        Some(body) => Ok(Some((decode(first, body, version)?, head + size))),
        None => Ok(None),
    }
}

fn decode(first: u8, body: &[u8], version: Version) -> Result<Incoming<'_>, Malformed> {
    let v5 = version == Version::V5;
    // Acknowledgements may end behind the identifier, which then means success.
    let code = || body.get(2).copied().unwrap_or_default();
    Ok(match first >> 4 {
        2 => Incoming::ConnAck {
            code: body.get(1).copied().ok_or(Malformed)?,
            receive_maximum: if v5 {
                receive_maximum(body.get(2..).unwrap_or_default())?
            } else {
                u16::MAX
            },
        },
        3 => {
            let qos = (first >> 1) & 3;
            let (topic, mut rest) = u16_at(body)?;
            rest = rest.get(usize::from(topic)..).ok_or(Malformed)?;
            let mut id = 0;
            if qos > 0 {
                (id, rest) = u16_at(rest)?;
            }
            if v5 {
                let (size, after) = varint(rest)?.ok_or(Malformed)?;
                rest = after.get(size..).ok_or(Malformed)?;
            }
            Incoming::Publish {
                qos,
                id,
                payload: rest,
            }
        }
        4 => Incoming::PubAck {
            id: u16_at(body)?.0,
            code: code(),
        },
        5 => Incoming::PubRec {
            id: u16_at(body)?.0,
            code: code(),
        },
        6 => Incoming::PubRel {
            id: u16_at(body)?.0,
        },
        7 => Incoming::PubComp {
            id: u16_at(body)?.0,
        },
        9 => {
            let (_, mut rest) = u16_at(body)?;
            if v5 {
                let (size, after) = varint(rest)?.ok_or(Malformed)?;
                rest = after.get(size..).ok_or(Malformed)?;
            }
            Incoming::SubAck {
                filters: rest.len(),
                refused: rest.iter().filter(|code| **code >= 0x80).count(),
            }
        }
        14 => Incoming::Disconnect {
            code: body.first().copied().unwrap_or_default(),
        },
        _ => Incoming::Other,
    })
}

/// Reads the properties of a CONNACK as far as Receive Maximum.
fn receive_maximum(block: &[u8]) -> Result<u16, Malformed> {
    let (size, rest) = varint(block)?.ok_or(Malformed)?;
    let mut rest = rest.get(..size).ok_or(Malformed)?;
    while let Some((&kind, value)) = rest.split_first() {
        let width = match kind {
            0x21 => return u16_at(value).map(|(maximum, _)| maximum),
            0x24 | 0x25 | 0x28..=0x2a => 1,
            0x13 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => 2 + usize::from(u16_at(value)?.0),
            0x26 => {
                let (name, after) = u16_at(value)?;
                let after = after.get(usize::from(name)..).ok_or(Malformed)?;
                4 + usize::from(name) + usize::from(u16_at(after)?.0)
            }
            _ => return Err(Malformed),
        };
        rest = value.get(width..).ok_or(Malformed)?;
    }
    Ok(u16::MAX)
}

fn u16_at(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Malformed)?;
    Ok((u16::from_be_bytes(*number), rest))
}

/// A variable byte integer, and what is behind it.
fn varint(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Malformed> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let rest = bytes.get(place + 1..).unwrap_or_default();
            return Ok(Some((value, rest)));
        }
    }
    if bytes.len() < 4 {
        Ok(None)
    } else {
        Err(Malformed)
    }
}

fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    length(out, body.len());
    out.extend_from_slice(body);
}

/// A variable byte integer; packets of a load stay far below its end.
fn length(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let [low, ..] = (value & 0x7f).to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// A string behind its length. Texts of a load are short; a longer one is cut.
fn text(out: &mut Vec<u8>, value: &str) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(
        value
            .as_bytes()
            .get(..usize::from(length))
            .unwrap_or_default(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_back_as_it_was_written() {
        for version in [Version::V3_1_1, Version::V5] {
            for qos in 0..3 {
                for size in [24, 64, 200, 20_000] {
                    let stamp = Stamp {
                        run: 1,
                        publisher: 2,
                        sequence: 3,
                        due: 4,
                    };
                    let mut out = b"before".to_vec();
                    Template::new(version, "a/b", qos, size).append(&mut out, 7, &stamp);
                    let mut plain = Vec::new();
                    publish(&mut plain, version, "a/b", qos, 7, &stamp, size);
                    assert_eq!(out[6..], plain);
                    let (packet, used) = split(&plain, version).unwrap().unwrap();
                    assert_eq!(used, plain.len());
                    let Incoming::Publish {
                        qos: got,
                        id,
                        payload,
                    } = packet
                    else {
                        panic!("{packet:?}");
                    };
                    assert_eq!((got, id), (qos, if qos > 0 { 7 } else { 0 }));
                    assert_eq!(payload.len(), size);
                    assert_eq!(Stamp::decode(payload), Some(stamp));
                }
            }
        }
    }

    #[test]
    fn a_packet_that_is_not_whole_is_waited_for() {
        let mut plain = Vec::new();
        let stamp = Stamp::default();
        publish(&mut plain, Version::V5, "topic", 1, 7, &stamp, 300);
        for cut in 0..plain.len() {
            assert_eq!(split(&plain[..cut], Version::V5), Ok(None), "{cut}");
        }
        assert_eq!(
            split(&[0x30, 0xff, 0xff, 0xff, 0xff], Version::V5),
            Err(Malformed)
        );
    }

    #[test]
    fn the_receive_maximum_is_found_behind_other_properties() {
        let properties = b"\x12\x00\x02id\x26\x00\x01a\x00\x01b\x24\x01\x21\x00\x2a";
        let mut body = vec![0, 0, u8::try_from(properties.len()).unwrap()];
        body.extend_from_slice(properties);
        let mut bytes = Vec::new();
        packet(&mut bytes, 0x20, &body);
        let (packet, _) = split(&bytes, Version::V5).unwrap().unwrap();
        let receive_maximum = 42;
        assert_eq!(
            packet,
            Incoming::ConnAck {
                code: 0,
                receive_maximum
            }
        );
    }

    #[test]
    fn refused_filters_are_counted() {
        let packet = split(b"\x90\x05\x00\x01\x01\x80\x00", Version::V3_1_1);
        let answer = Incoming::SubAck {
            filters: 3,
            refused: 1,
        };
        assert_eq!(packet, Ok(Some((answer, 7))));
    }
}
