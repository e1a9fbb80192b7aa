//! The form of a line and of the head, byte for byte: hashes, links, signature.
//!
//! A line is `BODY,"hash":"H"}` where H is the SHA-256 of the bytes of BODY in lower-case hex, and
//! BODY is `{"seq":N,...,"prev":"P"` with P the hash of the line before. A head is
//! `BODY,"signature":"S"}` where S signs [`HEAD_CONTEXT`] and BODY. Reading is as strict as
//! writing: there is one way to write each value, so no byte can change unseen.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Longest line, its end included. Writing stays far below; reading refuses more, so that a
/// verifier's memory is bounded.
pub(crate) const MAX_LINE: usize = 64 << 10;

/// Signed in front of a head, so that the signature means nothing else.
const HEAD_CONTEXT: &[u8] = b"portcullis-audit-head-v1\n";

/// SHA-256 of a line's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash([u8; 32]);

impl Hash {
    /// The link of the very first record.
    pub(crate) const ZERO: Self = Self([0; 32]);

    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(hash)
    }

    pub(crate) fn hex(self) -> String {
        self.digits().map(char::from).iter().collect()
    }

    /// Lower-case hex, as it is written.
    fn digits(self) -> [u8; 64] {
        let mut digits = [0; 64];
        let (pairs, _) = digits.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(self.0) {
            *pair = [byte >> 4, byte & 0xf]
                .map(|nibble| nibble + if nibble < 10 { b'0' } else { b'a' - 10 });
        }
        digits
    }

    /// Reads what [`hex`](Self::hex) writes; capitals are another text.
    pub(crate) fn read(hex: &[u8]) -> Option<Self> {
        let mut hash = [0; 32];
        let (pairs, rest) = hex.as_chunks::<2>();
        if pairs.len() != hash.len() || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = (nibble(*high)? << 4) | nibble(*low)?;
        }
        Some(Self(hash))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Writes a line with its end. `facts` is `,"event":"...",...`, without the links.
pub(crate) fn seal(seq: u64, facts: &str, prev: Hash, into: &mut Vec<u8>) -> Hash {
    let start = into.len();
    into.extend_from_slice(b"{\"seq\":");
    into.extend_from_slice(seq.to_string().as_bytes());
    into.extend_from_slice(facts.as_bytes());
    into.extend_from_slice(b",\"prev\":\"");
    into.extend_from_slice(&prev.digits());
    into.push(b'"');
    let hash = Hash::of(into.get(start..).unwrap_or_default());
    into.extend_from_slice(b",\"hash\":\"");
    into.extend_from_slice(&hash.digits());
    into.extend_from_slice(b"\"}\n");
    hash
}

/// What links a line to its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) prev: Hash,
    pub(crate) hash: Hash,
}

/// Reads a line without its end and checks its hash.
pub(crate) fn unseal(line: &[u8]) -> Result<Link, &'static str> {
    const NO_LINE: &str = "not an audit record";
    let rest = line.strip_suffix(b"\"}").ok_or(NO_LINE)?;
    let (rest, hash) = rest.split_last_chunk::<64>().ok_or(NO_LINE)?;
    let body = rest.strip_suffix(b",\"hash\":\"").ok_or(NO_LINE)?;
    let hash = Hash::read(hash).ok_or(NO_LINE)?;
    if Hash::of(body) != hash {
        return Err("the record does not have the hash that it states");
    }
    let rest = body.strip_suffix(b"\"").ok_or(NO_LINE)?;
    let (rest, prev) = rest.split_last_chunk::<64>().ok_or(NO_LINE)?;
    rest.strip_suffix(b",\"prev\":\"").ok_or(NO_LINE)?;
    let prev = Hash::read(prev).ok_or(NO_LINE)?;
    let digits = body.strip_prefix(b"{\"seq\":").ok_or(NO_LINE)?;
    let end = digits.iter().position(|b| *b == b',').ok_or(NO_LINE)?;
    let digits = digits.get(..end).ok_or(NO_LINE)?;
    let seq = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(NO_LINE)?;
    Ok(Link { seq, prev, hash })
}

/// The statement of how far the record goes, signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Number of the last record; counts from 1, removed ones included.
    pub(crate) count: u64,
    /// Hash of the last record; zero where there is none.
    pub(crate) last: Hash,
    /// Number of the first record that is kept.
    pub(crate) first: u64,
    /// The link of the first record that is kept.
    pub(crate) first_prev: Hash,
    /// When it was signed, RFC 3339.
    pub(crate) time: String,
    /// Whether the broker ended in good order after it.
    pub(crate) closed: bool,
}

/// The file's shape.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHead {
    count: u64,
    last: String,
    first: u64,
    first_prev: String,
    time: String,
    closed: bool,
    signature: String,
}

impl Head {
    /// The head of a store without records.
    pub(crate) fn empty(time: String) -> Self {
        Self {
            count: 0,
            last: Hash::ZERO,
            first: 1,
            first_prev: Hash::ZERO,
            time,
            closed: false,
        }
    }

    fn body(&self) -> String {
        format!(
            "{{\"count\":{},\"last\":\"{}\",\"first\":{},\"first_prev\":\"{}\",\"time\":\"{}\",\"closed\":{}",
            self.count,
            self.last.hex(),
            self.first,
            self.first_prev.hex(),
            self.time,
            self.closed
        )
    }

    /// The whole file.
    pub(crate) fn sign(&self, key: &SigningKey) -> String {
        let body = self.body();
        let signature = BASE64.encode(key.sign(&body));
        format!("{body},\"signature\":\"{signature}\"}}\n")
    }

    /// Reads a file; accepts only the bytes that [`sign`](Self::sign) writes.
    pub(crate) fn read(text: &[u8], key: &PublicKey) -> Result<Self, &'static str> {
        const NO_HEAD: &str = "not an audit head";
        let raw: RawHead = serde_json::from_slice(text).map_err(|_| NO_HEAD)?;
        let head = Self {
            count: raw.count,
            last: Hash::read(raw.last.as_bytes()).ok_or(NO_HEAD)?,
            first: raw.first,
            first_prev: Hash::read(raw.first_prev.as_bytes()).ok_or(NO_HEAD)?,
            time: raw.time,
            closed: raw.closed,
        };
        let body = head.body();
        if text != format!("{body},\"signature\":\"{}\"}}\n", raw.signature).as_bytes() {
            return Err(NO_HEAD);
        }
        let signature = BASE64.decode(&raw.signature).map_err(|_| NO_HEAD)?;
        if !key.verifies(&body, &signature) {
            return Err("the head is not signed with the key in audit.pub");
        }
        // Only a holder of the key gets here; a head that contradicts itself is still refused.
        if head.first == 0 || head.first > head.count.saturating_add(1) {
            return Err(NO_HEAD);
        }
        Ok(head)
    }
}

/// DER before the 32 bytes of an Ed25519 public key (RFC 8410, section 4).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The key that heads are checked with: `audit.pub`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads the PEM text of `audit.pub` (`SubjectPublicKeyInfo`, Ed25519); `None` for anything
    /// else.
    #[must_use]
    pub fn from_pem(text: &str) -> Option<Self> {
        let der = unarmor("PUBLIC KEY", text)?;
        let key = der.strip_prefix(&SPKI)?;
        Some(Self(key.try_into().ok()?))
    }

    /// The PEM text, as in `audit.pub`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        armor("PUBLIC KEY", &[SPKI.as_slice(), &self.0].concat())
    }

    /// SHA-256 of the key in hex, to compare by eye.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Hash::of(&self.0).hex()
    }

    fn verifies(&self, body: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(&[HEAD_CONTEXT, body.as_bytes()].concat(), signature)
            .is_ok()
    }
}

/// The key that heads are signed with: `audit.key`. Has no `Debug` and no way to text but
/// [`generate`](Self::generate).
pub(crate) struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new key and its PEM text (PKCS #8); `None` where the system has no randomness.
    pub(crate) fn generate() -> Option<(Self, Zeroizing<String>)> {
        let pair = Ed25519KeyPair::generate().ok()?;
        let document = pair.to_pkcs8().ok()?;
        Some((
            Self(pair),
            Zeroizing::new(armor("PRIVATE KEY", document.as_ref())),
        ))
    }

    pub(crate) fn from_pem(text: &str) -> Option<Self> {
        let der = Zeroizing::new(unarmor("PRIVATE KEY", text)?);
        Ed25519KeyPair::from_pkcs8(&der).ok().map(Self)
    }

    pub(crate) fn public(&self) -> Option<PublicKey> {
        let key = self.0.public_key().as_ref().try_into().ok()?;
        Some(PublicKey(key))
    }

    fn sign(&self, body: &str) -> Vec<u8> {
        let message = [HEAD_CONTEXT, body.as_bytes()].concat();
        self.0.sign(&message).as_ref().to_vec()
    }
}

fn armor(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = BASE64.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

fn unarmor(label: &str, text: &str) -> Option<Vec<u8>> {
    let inner = text
        .trim()
        .strip_prefix(&format!("-----BEGIN {label}-----"))?
        .strip_suffix(&format!("-----END {label}-----"))?;
    let inner: String = inner.split_ascii_whitespace().collect();
    BASE64.decode(inner).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_it_was_sealed() {
        let mut text = Vec::new();
        let hash = seal(7, ",\"event\":\"start\"", Hash::ZERO, &mut text);
        let link = unseal(text.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((link.seq, link.prev, link.hash), (7, Hash::ZERO, hash));
    }

    #[test]
    fn keys_survive_their_pem_files_and_nothing_else_is_a_key() {
        let (key, pem) = SigningKey::generate().unwrap();
        let public = key.public().unwrap();
        assert_eq!(
            SigningKey::from_pem(&pem).unwrap().public().unwrap(),
            public
        );
        assert_eq!(PublicKey::from_pem(&public.to_pem()).unwrap(), public);
        assert!(PublicKey::from_pem(&pem).is_none());
        assert!(SigningKey::from_pem(&public.to_pem()).is_none());
    }

    #[test]
    fn no_byte_of_a_head_can_change() {
        let (key, _) = SigningKey::generate().unwrap();
        let public = key.public().unwrap();
        let head = Head::empty("2026-01-01T00:00:00.000Z".to_owned());
        let text = head.sign(&key).into_bytes();
        assert_eq!(Head::read(&text, &public), Ok(head));
        for place in 0..text.len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut changed = text.clone();
                changed[place] ^= flip;
                assert!(Head::read(&changed, &public).is_err(), "byte {place}");
            }
        }
        let (stranger, _) = SigningKey::generate().unwrap();
        assert!(Head::read(&text, &stranger.public().unwrap()).is_err());
    }
}
