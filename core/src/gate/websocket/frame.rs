//! WebSocket framing (RFC 6455, section 5), the server's side: bytes in, the bytes they carry out.
//!
//! Pure: no socket, no clock, no buffer for data. MQTT is a byte stream in here (MQTT-6.0.0-2: a
//! packet may span frames and share them), so a message is never collected: the payload moves to
//! the front of the very buffer that it was read into, and what one frame may cost is a header and
//! a control payload of at most 125 bytes. The MQTT decoder behind it applies its own limits to
//! the bytes and never sees where a frame ends: a frame that is shorter than the packet inside it
//! says nothing (CVE-2026-25627).
//!
//! Promises for *every* byte string (the fuzz target `websocket` checks them):
//!
//! 1. **Total and linear.** Decoding returns, in one pass over the bytes.
//! 2. **Independent of cuts.** However the bytes are cut into reads, the same data come out, and
//!    the same end.
//! 3. **Nothing after the end.** Behind a Close or a violation no byte is believed.
//!
//! Strict where the text says MUST: every frame masked, no reserved bit or opcode, lengths in
//! their shortest form, control frames whole and short, fragments in order. Text frames end the
//! connection (MQTT-6.0.0-1).

use thiserror::Error;

/// Bytes of the longest header of a client: two, eight of length, four of mask.
const MAX_HEADER: usize = 14;

/// Payload of a control frame, bytes (section 5.5).
const MAX_CONTROL: usize = 125;

/// Fragments of one message. Nothing is collected, so this bounds the work that one message makes
/// and not its size.
const MAX_FRAGMENTS: u32 = 1024;

/// A frame's last fragment, or only one.
const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What a client did that ends the connection.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// A reserved bit: no extension was agreed upon.
    #[error("a reserved bit in a WebSocket frame")]
    ReservedBit,
    /// An opcode that means nothing.
    #[error("WebSocket opcode {0:#x}")]
    Opcode(u8),
    /// A text frame [MQTT-6.0.0-1].
    #[error("a WebSocket text frame")]
    Text,
    /// A frame of a client without a mask (section 5.1).
    #[error("a WebSocket frame without a mask")]
    Unmasked,
    /// A length that fits into a shorter form, or has its highest bit set.
    #[error("a WebSocket length that is not in its shortest form")]
    Length,
    /// A control frame in fragments, or longer than 125 bytes.
    #[error("a WebSocket control frame that is fragmented or long")]
    Control,
    /// A Close whose body is a single byte, no valid code, or no UTF-8 (sections 5.5.1, 7.4).
    #[error("a malformed WebSocket Close")]
    Close,
    /// A continuation of nothing, or a new message within another.
    #[error("WebSocket fragments out of order")]
    Order,
    /// More than `MAX_FRAGMENTS`.
    #[error("a WebSocket message of more than {MAX_FRAGMENTS} fragments")]
    Fragments,
    /// A frame longer than the limit.
    #[error("a WebSocket frame of {0} bytes")]
    TooLarge(u64),
    /// More control frames and empty frames than the rate allows.
    #[error("a flood of WebSocket frames that carry nothing")]
    Flood,
}

impl Violation {
    /// The status code of the Close that the client gets (section 7.4.1).
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::ReservedBit
            | Self::Opcode(_)
            | Self::Unmasked
            | Self::Length
            | Self::Control
            | Self::Close
            | Self::Order => 1002,
            Self::Text => 1003,
            Self::Fragments | Self::Flood => 1008,
            Self::TooLarge(_) => 1009,
        }
    }
}

/// How the stream of a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed, with this code if it gave one.
    Closed(Option<u16>),
    /// The client broke a rule.
    Broken(Violation),
}

impl Ended {
    /// The status code of the Close that answers it.
    #[must_use]
    pub const fn answer(self) -> u16 {
        match self {
            Self::Closed(Some(code)) => code,
            Self::Closed(None) => NORMAL,
            Self::Broken(violation) => violation.code(),
        }
    }
}

/// Status code of a connection that ends as it should.
pub const NORMAL: u16 = 1000;

/// What a buffer of bytes held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of data, now at the front of the buffer.
    pub data: usize,
    /// Control frames and frames without payload: they carry nothing and cost something.
    pub idle_frames: u32,
    /// Whether the stream ended behind those data.
    pub ended: Option<Ended>,
}

/// Takes the bytes of one client apart. Its memory is its own size, and the payload of a control
/// frame while one is on its way or waits for its answer.
#[derive(Debug)]
pub struct Decoder {
    max_frame: u64,
    state: State,
    header: [u8; MAX_HEADER],
    /// Whether a message is open: more fragments follow, so many came.
    fragments: Option<u32>,
    control: Vec<u8>,
    /// The payload of the newest Ping that was not answered yet; earlier ones need no answer
    /// (section 5.5.3).
    ping: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes of a header are there.
    Header(usize),
    /// So many bytes of a payload are still to come, and the mask for the next of them.
    Payload {
        left: u64,
        mask: [u8; 4],
        of: Of,
    },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Data,
    Ping,
    Pong,
    Close,
}

impl Decoder {
    /// A decoder for a new connection; a frame has at most `max_frame` bytes of payload.
    #[must_use]
    pub fn new(max_frame: u64) -> Self {
        Self {
            max_frame,
            state: State::Header(0),
            header: [0; MAX_HEADER],
            fragments: None,
            control: Vec::new(),
            ping: None,
        }
    }

    /// The payload that the next Pong has to carry.
    pub fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// Takes the next bytes and leaves the data that they carry at the front of `bytes`.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Decoded {
        let mut decoded = Decoded::default();
        let mut at = 0;
        while at < bytes.len() {
            let step = match self.state {
                State::Ended => break,
                State::Header(have) => self.header_bytes(bytes, &mut at, have, &mut decoded),
                State::Payload { left, mask, of } => {
                    let rest = bytes.len() - at;
                    let count = usize::try_from(left).map_or(rest, |left| left.min(rest));
                    let to = match of {
                        Of::Data => decoded.data,
                        Of::Ping | Of::Pong | Of::Close => at,
                    };
                    bytes.copy_within(at..at + count, to);
                    let payload = bytes.get_mut(to..to + count).unwrap_or_default();
                    unmask(payload, mask);
                    match of {
                        Of::Data => decoded.data += count,
                        Of::Ping | Of::Pong | Of::Close => self.control.extend_from_slice(payload),
                    }
                    at += count;
                    let mut mask = mask;
                    mask.rotate_left(count % 4);
                    let left = left - count as u64;
                    self.state = State::Payload { left, mask, of };
                    self.end_of_frame()
                }
            };
            if let Err(ended) = step {
                self.state = State::Ended;
                decoded.ended = Some(ended);
            }
        }
        decoded
    }

    /// Collects a header, and begins its frame when it is whole.
    fn header_bytes(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        mut have: usize,
        decoded: &mut Decoded,
    ) -> Result<(), Ended> {
        while let Some(byte) = bytes.get(*at) {
            if let Some(slot) = self.header.get_mut(have) {
                *slot = *byte;
            }
            (have, *at) = (have + 1, *at + 1);
            self.state = State::Header(have);
            let header = self.header.get(..have).unwrap_or_default();
            if let Some(frame) = read_header(header).map_err(Ended::Broken)? {
                if frame.of != Of::Data || frame.length == 0 {
                    decoded.idle_frames = decoded.idle_frames.saturating_add(1);
                }
                self.begin(frame).map_err(Ended::Broken)?;
                self.state = State::Payload {
                    left: frame.length,
                    mask: frame.mask,
                    of: frame.of,
                };
                return self.end_of_frame();
            }
        }
        Ok(())
    }

    /// Checks a frame against those before it.
    fn begin(&mut self, frame: FrameHeader) -> Result<(), Violation> {
        if frame.of != Of::Data {
            return Ok(());
        }
        if frame.length > self.max_frame {
            return Err(Violation::TooLarge(frame.length));
        }
        self.fragments = match (self.fragments, frame.continues) {
            (None, true) | (Some(_), false) => return Err(Violation::Order),
            (Some(MAX_FRAGMENTS..), true) => return Err(Violation::Fragments),
            (_, _) if frame.last => None,
            (None, false) => Some(1),
            (Some(count), true) => Some(count + 1),
        };
        Ok(())
    }

    /// Does what a frame says once all of it is there.
    fn end_of_frame(&mut self) -> Result<(), Ended> {
        let State::Payload { left: 0, of, .. } = self.state else {
            return Ok(());
        };
        self.state = State::Header(0);
        match of {
            Of::Data => Ok(()),
            Of::Ping => {
                self.ping = Some(std::mem::take(&mut self.control));
                Ok(())
            }
            Of::Pong => {
                self.control = Vec::new();
                Ok(())
            }
            Of::Close => Err(close_code(&self.control).map_or_else(Ended::Broken, Ended::Closed)),
        }
    }
}

/// A header that is complete and fine by itself.
#[derive(Clone, Copy)]
struct FrameHeader {
    of: Of,
    /// The last fragment of its message, or the only one.
    last: bool,
    continues: bool,
    length: u64,
    mask: [u8; 4],
}

/// Reads a header; `None` wants another byte. What is wrong is refused at its first byte.
fn read_header(header: &[u8]) -> Result<Option<FrameHeader>, Violation> {
    let Some((&first, rest)) = header.split_first() else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(Violation::ReservedBit);
    }
    let last = first & FIN != 0;
    let of = match first & 0x0f {
        CONTINUATION | BINARY => Of::Data,
        TEXT => return Err(Violation::Text),
        CLOSE => Of::Close,
        PING => Of::Ping,
        PONG => Of::Pong,
        opcode => return Err(Violation::Opcode(opcode)),
    };
    if of != Of::Data && !last {
        return Err(Violation::Control);
    }
    let Some((&second, rest)) = rest.split_first() else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(Violation::Unmasked);
    }
    let short = second & 0x7f;
    if of != Of::Data && usize::from(short) > MAX_CONTROL {
        return Err(Violation::Control);
    }
    let (length, mask) = match short {
        126 => {
            let Some((length, mask)) = rest.split_first_chunk() else {
                return Ok(None);
            };
            let length = u64::from(u16::from_be_bytes(*length));
            (Some(length).filter(|length| *length >= 126), mask)
        }
        127 => {
            let Some((length, mask)) = rest.split_first_chunk() else {
                return Ok(None);
            };
            let length = u64::from_be_bytes(*length);
            let fits = length > u64::from(u16::MAX) && length >> 63 == 0;
            (Some(length).filter(|_| fits), mask)
        }
        short => (Some(u64::from(short)), rest),
    };
    let length = length.ok_or(Violation::Length)?;
    Ok(mask.first_chunk().map(|mask| FrameHeader {
        of,
        last,
        continues: first & 0x0f == CONTINUATION,
        length,
        mask: *mask,
    }))
}

/// The status code in the body of a Close (section 7.4); the text behind it is for people.
fn close_code(body: &[u8]) -> Result<Option<u16>, Violation> {
    if body.is_empty() {
        return Ok(None);
    }
    let (code, text) = body.split_first_chunk().ok_or(Violation::Close)?;
    match u16::from_be_bytes(*code) {
        code @ (1000..=1003 | 1007..=1014 | 3000..=4999) if str::from_utf8(text).is_ok() => {
            Ok(Some(code))
        }
        _ => Err(Violation::Close),
    }
}

/// Section 5.3: each byte is combined with the next of the mask's four.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

/// Appends a binary frame; a server does not mask (section 5.1).
pub fn put_data(out: &mut Vec<u8>, payload: &[u8]) {
    put(out, BINARY, payload);
}

/// Appends the answer to a Ping.
pub fn put_pong(out: &mut Vec<u8>, payload: &[u8]) {
    put(out, PONG, payload);
}

/// Appends a Close with a status code.
pub fn put_close(out: &mut Vec<u8>, code: u16) {
    put(out, CLOSE, &code.to_be_bytes());
}

fn put(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.reserve(10 + payload.len());
    out.push(FIN | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => out.push(short),
        (_, Ok(length)) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}
