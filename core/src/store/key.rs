//! The key of an encrypted store, and what it seals.
//!
//! Each segment has a key of its own: HKDF-SHA-256 of the store's key with the segment's random
//! salt. The nonce is the number of the group in its segment. A segment is never appended to by
//! another process than the one that created it, so no nonce is ever used twice, not even after a
//! torn tail was cut off and written anew, or when a new store is made with the key of an old one.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::{Zeroize, Zeroizing};

use super::StoreError;

/// What AES-256-GCM appends to what it seals.
pub(super) const TAG: usize = 16;

/// Bytes of a key file that are looked at; more than a key has.
const LONGEST: usize = 128;

/// A key for AES-256-GCM. Cannot be printed; wiped when dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// Takes 32 bytes over.
    #[must_use]
    pub fn new(mut bytes: [u8; 32]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// Reads a key file: 32 bytes, or 64 hexadecimal digits and perhaps a line feed.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, that others than its owner may use, or that has another content.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::io(path, source);
        let mut file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StoreError::KeyMode {
                path: path.to_owned(),
                mode,
            });
        }
        let mut content = Zeroizing::new(Vec::with_capacity(LONGEST));
        let mut start = (&mut file).take(LONGEST as u64);
        start.read_to_end(&mut content).map_err(failed)?;
        if let Ok(bytes) = <[u8; 32]>::try_from(content.as_slice()) {
            return Ok(Self::new(bytes));
        }
        unhex(content.trim_ascii_end()).ok_or_else(|| StoreError::KeyFile {
            path: path.to_owned(),
        })
    }
}

fn unhex(digits: &[u8]) -> Option<Key> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut bytes = Zeroizing::new([0; 32]);
    if !rest.is_empty() || pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |text: u8| char::from(text).to_digit(16);
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(Key(bytes))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The key of one segment.
pub(super) struct Cipher {
    key: LessSafeKey,
    segment: u64,
}

impl Cipher {
    /// Derives the key of `segment`. `None` only if the cryptographic library fails.
    pub(super) fn new(key: &Key, segment: u64, salt: &[u8; 16]) -> Option<Self> {
        let secret = Salt::new(HKDF_SHA256, salt).extract(key.0.as_slice());
        let okm = secret.expand(&[b"portcullis store 1"], &AES_256_GCM).ok()?;
        Some(Self {
            key: LessSafeKey::new(UnboundKey::from(okm)),
            segment,
        })
    }

    /// Encrypts `body`, except for its last [`TAG`] bytes, and puts the tag there.
    pub(super) fn seal(&self, counter: u64, body: &mut [u8]) -> Option<()> {
        let (text, place) = body.split_last_chunk_mut::<TAG>()?;
        let aad = Aad::from(self.segment.to_le_bytes());
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter, 0), aad, text)
            .ok()?;
        place.copy_from_slice(tag.as_ref());
        Some(())
    }

    /// Decrypts in place; `None` if it is not what [`Self::seal`] made for this place.
    pub(super) fn open<'a>(&self, counter: u64, body: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let aad = Aad::from(self.segment.to_le_bytes());
        self.key.open_in_place(nonce(counter, 0), aad, body).ok()
    }

    /// A tag over `header`, by which a wrong key is recognised before anything is read with it.
    pub(super) fn check(&self, header: &[u8]) -> Option<[u8; TAG]> {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(0, u32::MAX), Aad::from(header), &mut [])
            .ok()?;
        tag.as_ref().try_into().ok()
    }
}

/// `space` keeps the nonce of the header apart from those of groups.
fn nonce(counter: u64, space: u32) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    let (low, high) = bytes.split_at_mut(8);
    low.copy_from_slice(&counter.to_le_bytes());
    high.copy_from_slice(&space.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
