//! The PROXY protocol, versions 1 and 2: a trusted proxy says whose connection it carries.
//!
//! Pure: bytes in, an answer out; the socket is read elsewhere (`handshake`). The header is
//! believed only because of where it comes from, so a listener asks for it of its trusted proxies
//! alone and of nobody else, and then it is obligatory: there is no guessing whether one is there.
//!
//! Promises for *every* byte string (the fuzz target `proxy` checks them):
//!
//! 1. **Total and bounded.** A v1 header ends within 107 bytes, a v2 header within 536.
//! 2. **Decided early.** What cannot become a header any more is refused at once and stays
//!    refused; a header is complete at exactly one length.
//! 3. **Never too far.** [`Progress::More`] asks only for bytes that belong to the header: what
//!    follows it (TLS, MQTT) stays in the socket.
//!
//! Strict where the text says MUST: one space between fields, no leading zeros, no unassigned
//! command or family, no datagram family on a stream, TLVs that fill their space exactly, and a
//! checksum that is right where there is one.
//!
//! Source: "The PROXY protocol, versions 1 & 2", Willy Tarreau, `HAProxy` Technologies.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// Bytes of the longest v1 header, its line end included (section 2.1).
pub const MAX_V1: usize = 107;

/// Bytes of the longest v2 header that is accepted: room for 520 bytes of addresses and TLVs.
pub const MAX_V2: usize = 536;

/// The first bytes of a v2 header; no other protocol begins like this (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// The first bytes of a v1 header.
const PREFIX: &[u8] = b"PROXY ";

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// At least so many further bytes belong to the header; at least 1.
    More(usize),
    /// The header is complete and took all the bytes.
    Done(Header),
}

/// What a complete header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection is this client's.
    Client(SocketAddr),
    /// The header names nobody (`LOCAL`, `UNKNOWN`, an unspecified or Unix family): the connection
    /// is the proxy's own, such as a health check.
    Proxy,
}

/// What is wrong with a header. The peer is told nothing; the connection is closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProxyError {
    /// Neither version begins like this.
    #[error("not a PROXY header")]
    NotAHeader,
    /// A v1 line that does not end in time, or a v2 length over the limit.
    #[error("a PROXY header over the limit")]
    TooLong,
    /// A v1 line with a control character, a byte beyond ASCII, or a line end that is not CR LF.
    #[error("a PROXY line with a control character")]
    ControlCharacter,
    /// A v1 line that is not `TCP4` or `TCP6`, two addresses, two ports.
    #[error("a PROXY line that is not two addresses and two ports")]
    BadLine,
    /// A v2 version other than 2.
    #[error("PROXY version {0}")]
    BadVersion(u8),
    /// A v2 command other than `LOCAL` and `PROXY`.
    #[error("PROXY command {0}")]
    BadCommand(u8),
    /// A v2 family and protocol that is not a stream's.
    #[error("PROXY family {0:#04x}")]
    BadFamily(u8),
    /// Less space than the family's addresses take.
    #[error("a PROXY header too short for its addresses")]
    ShortAddresses,
    /// TLVs that do not fill their space, or one whose value breaks its own rule.
    #[error("a PROXY TLV of type {0:#04x} that is malformed")]
    BadTlv(u8),
    /// The checksum is not that of the header.
    #[error("a PROXY header whose checksum is wrong")]
    BadChecksum,
}

/// Reads a header from the bytes that have come so far.
///
/// # Errors
///
/// The bytes are not the beginning of a valid header, or more than one.
pub fn parse(input: &[u8]) -> Result<Progress, ProxyError> {
    let begins = |with: &[u8]| input.iter().zip(with).all(|(a, b)| a == b);
    if begins(&SIGNATURE) && !input.is_empty() {
        version_2(input)
    } else if begins(PREFIX) {
        version_1(input)
    } else {
        Err(ProxyError::NotAHeader)
    }
}

/// A line: `PROXY TCP4 192.0.2.1 198.51.100.2 56324 8883` (section 2.1).
fn version_1(input: &[u8]) -> Result<Progress, ProxyError> {
    // No line is shorter.
    const SHORTEST: usize = b"PROXY UNKNOWN\r\n".len();
    let odd = input.iter().position(|byte| !(b' '..=b'~').contains(byte));
    let Some(end) = odd else {
        if input.len() > MAX_V1 - 2 {
            return Err(ProxyError::TooLong);
        }
        return Ok(Progress::More(SHORTEST.saturating_sub(input.len()).max(2)));
    };
    let (line, rest) = input.split_at_checked(end).unwrap_or((input, &[]));
    if line.len() > MAX_V1 - 2 {
        return Err(ProxyError::TooLong);
    }
    if !rest.starts_with(b"\r") {
        return Err(ProxyError::ControlCharacter);
    }
    // The line is judged before its last byte is there: it cannot become better.
    let header = line_fields(line)?;
    match rest {
        b"\r" => Ok(Progress::More(1)),
        b"\r\n" => Ok(Progress::Done(header)),
        [b'\r', b'\n', ..] => Err(ProxyError::TooLong),
        _ => Err(ProxyError::ControlCharacter),
    }
}

fn line_fields(line: &[u8]) -> Result<Header, ProxyError> {
    let text = str::from_utf8(line).map_err(|_| ProxyError::BadLine)?;
    let fields = text.strip_prefix("PROXY ").ok_or(ProxyError::BadLine)?;
    // What follows UNKNOWN must be ignored.
    if fields == "UNKNOWN" || fields.starts_with("UNKNOWN ") {
        return Ok(Header::Proxy);
    }
    let fields: Vec<&str> = fields.split(' ').collect();
    let &[family, source, destination, source_port, destination_port] = fields.as_slice() else {
        return Err(ProxyError::BadLine);
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse().ok().map(IpAddr::V4),
        "TCP6" => text.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let read = || {
        let client = SocketAddr::new(address(source)?, port(source_port)?);
        address(destination)?;
        port(destination_port)?;
        Some(client)
    };
    read().map(Header::Client).ok_or(ProxyError::BadLine)
}

/// A decimal number without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| plain)
}

/// A binary header (section 2.2).
fn version_2(input: &[u8]) -> Result<Progress, ProxyError> {
    let command = input.get(12).copied();
    if let Some(byte) = command {
        match (byte >> 4, byte & 0x0f) {
            (2, 0 | 1) => {}
            (2, command) => return Err(ProxyError::BadCommand(command)),
            (version, _) => return Err(ProxyError::BadVersion(version)),
        }
    }
    // The family of a LOCAL header is to be ignored.
    let local = command == Some(0x20);
    let family = input.get(13).copied();
    let addresses = match family {
        _ if local => 0,
        None | Some(0x00) => 0,
        Some(0x11) => 12,
        Some(0x21) => 36,
        Some(0x31) => 216,
        Some(other) => return Err(ProxyError::BadFamily(other)),
    };
    let length = match (input.get(14), input.get(15)) {
        (Some(high), Some(low)) => usize::from(u16::from_be_bytes([*high, *low])),
        // The high byte alone may say enough.
        (Some(high), None) if usize::from(*high) << 8 > MAX_V2 - FIXED => {
            return Err(ProxyError::TooLong);
        }
        _ => return Ok(Progress::More(FIXED - input.len())),
    };
    if length > MAX_V2 - FIXED {
        return Err(ProxyError::TooLong);
    }
    if length < addresses {
        return Err(ProxyError::ShortAddresses);
    }
    let body = input.get(FIXED..).unwrap_or_default();
    if body.len() < length {
        return Ok(Progress::More(length - body.len()));
    }
    if body.len() > length {
        return Err(ProxyError::TooLong);
    }
    if local {
        return Ok(Progress::Done(Header::Proxy));
    }
    let (addresses, tlvs) = body
        .split_at_checked(addresses)
        .ok_or(ProxyError::ShortAddresses)?;
    if checked_tlvs(tlvs)? {
        verify(input, length - tlvs.len())?;
    }
    Ok(Progress::Done(source(addresses)))
}

/// The first of the two addresses, with its port.
fn source(addresses: &[u8]) -> Header {
    let ip4 = || addresses.first_chunk::<4>().map(|ip| IpAddr::from(*ip));
    let ip6 = || addresses.first_chunk::<16>().map(|ip| IpAddr::from(*ip));
    let (ip, port) = match addresses.len() {
        12 => (ip4(), addresses.get(8..10)),
        36 => (ip6(), addresses.get(32..34)),
        // Nobody, or paths of Unix sockets, which say nothing about a client.
        _ => (None, None),
    };
    let port = port.and_then(<[u8]>::first_chunk);
    ip.zip(port).map_or(Header::Proxy, |(ip, port)| {
        Header::Client(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    })
}

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;

/// Checks the form of the TLVs; says whether there is a checksum.
fn checked_tlvs(tlvs: &[u8]) -> Result<bool, ProxyError> {
    let mut checksum = false;
    for tlv in Tlvs(tlvs) {
        let (kind, value) = tlv?;
        let fits = match kind {
            CRC32C => !std::mem::replace(&mut checksum, true) && value.len() == 4,
            AUTHORITY => str::from_utf8(value).is_ok_and(|name| !name.contains(char::is_control)),
            ALPN => !value.is_empty(),
            UNIQUE_ID => value.len() <= 128,
            // One byte of flags, four of the verification's result, TLVs.
            SSL => value
                .get(5..)
                .is_some_and(|inner| Tlvs(inner).all(|tlv| tlv.is_ok())),
            _ => true,
        };
        if !fits {
            return Err(ProxyError::BadTlv(kind));
        }
    }
    Ok(checksum)
}

/// Type, length (2 bytes), value, one after the other.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u8, &'a [u8]), ProxyError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.0.split_first()?;
        let read = || {
            let (length, rest) = rest.split_first_chunk()?;
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        };
        let tlv = read();
        self.0 = tlv.map_or(&[], |(_, rest)| rest);
        Some(
            tlv.map(|(value, _)| (kind, value))
                .ok_or(ProxyError::BadTlv(kind)),
        )
    }
}

/// Compares the checksum, taken over the whole header with zeros in the checksum's own place
/// (section 2.2.4); the TLVs begin `addresses` bytes after the fixed part.
fn verify(header: &[u8], addresses: usize) -> Result<(), ProxyError> {
    let start = FIXED + addresses;
    let mut at = start;
    for tlv in Tlvs(header.get(start..).unwrap_or_default()) {
        let (kind, value) = tlv?;
        let place = at + 3..at + 3 + value.len();
        if kind == CRC32C {
            let mut zeroed = header.to_vec();
            if let Some(bytes) = zeroed.get_mut(place) {
                bytes.fill(0);
            }
            return if value == crc32c(&zeroed).to_be_bytes() {
                Ok(())
            } else {
                Err(ProxyError::BadChecksum)
            };
        }
        at = place.end;
    }
    Ok(())
}

/// CRC-32C (Castagnoli), bit by bit: a header is short.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}

/// A range of addresses, as in `10.0.0.0/8`; a single address stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

/// What is wrong with the text of a [`Prefix`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PrefixError {
    /// Not an address, or not a number of bits that its family has.
    #[error("not an address range")]
    NotARange,
    /// `10.0.0.1/8`: which of the two is meant?
    #[error("the address has bits beyond its prefix")]
    HostBits,
    /// `0.0.0.0/0`: then everybody could claim any address.
    #[error("everybody")]
    Everybody,
}

impl Prefix {
    /// Whether the range contains `address`; an IPv4 address may come mapped into IPv6.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (u32::from(own) ^ u32::from(other)) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.bits))
                    .unwrap_or(0);
                (u128::from(own) ^ u128::from(other)) & mask == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(port(bits).ok_or(PrefixError::NotARange)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::NotARange)?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(0) => return Err(PrefixError::Everybody),
            Some(bits) => u8::try_from(bits)
                .ok()
                .filter(|bits| *bits <= most)
                .ok_or(PrefixError::NotARange)?,
        };
        let host_bits = match address {
            IpAddr::V4(v4) => u32::from(v4).checked_shl(bits.into()).unwrap_or(0) != 0,
            IpAddr::V6(v6) => u128::from(v6).checked_shl(bits.into()).unwrap_or(0) != 0,
        };
        if host_bits {
            return Err(PrefixError::HostBits);
        }
        // No client ever has such an address: it is compared as IPv4.
        if address.to_canonical() != address {
            return Err(PrefixError::NotARange);
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests;
