//! How a segment is written, and how it is read again. Pure: bytes in, groups out.
//!
//! ```text
//! segment = header header batch* seal?       every segment but the last ends with a seal
//! header  = magic version flags number base store salt check crc      (84 bytes, twice)
//! batch   = marker first-counter synced length crc group*            (one write)
//! seal    = a batch of length 0
//! group   = length crc body                  one call of `append`: recovered whole or not at all
//! body    = record*, with a key: encrypted, and the tag of AES-GCM
//! record  = kind length bytes
//! ```
//!
//! All numbers are little endian. Checksums are CRC-32, started from the segment's salt and the
//! number of the group, so that bytes of another place do not pass here.
//!
//! **Torn or corrupt.** A crash leaves the end of the last segment in any state: pages reach the
//! disk in any order. Damage elsewhere is the disk's fault, and hiding it would lose what was
//! acknowledged. `synced` tells them apart: each batch says up to where the segment had been
//! synced when it was written. Damage before a point that a later batch calls synced is corruption;
//! damage that no later batch speaks of is the torn tail of a write that nobody was promised. It is
//! cut behind the last whole group, and a seal takes its place, perhaps within the batch.

use std::ops::Range;

use crc32fast::Hasher;

use super::key::{Cipher, Key, TAG};

/// The format that this version writes and reads.
pub(super) const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"PORTCLOG";
const ENCRYPTED: u32 = 1;

const HEADER: usize = 84;
/// What stands before the first batch: the header, and its copy for repair.
pub(super) const PREAMBLE: usize = 2 * HEADER;
/// Size of a batch header.
pub(super) const BATCH: usize = 32;
/// Size of what stands before the body of a group.
pub(super) const GROUP: usize = 8;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Its number; the first is 1.
    pub(super) segment: u64,
    /// The oldest segment that still counted when this one was made.
    pub(super) base: u64,
    /// Random, the same in all segments of a store.
    pub(super) store: [u8; 16],
    /// Random, of this segment alone.
    pub(super) salt: [u8; 16],
    /// Whether bodies are encrypted.
    pub(super) encrypted: bool,
    check: [u8; TAG],
}

/// Why a header was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// The file ends within it.
    Short,
    /// Not a segment, or damaged.
    Damaged,
    /// A segment of another version of the program.
    Version(u32),
    /// Encrypted, and there is no key.
    NeedsKey,
    /// Not encrypted, and there is a key: what is in it could be anybody's.
    NotEncrypted,
    /// Encrypted with another key.
    WrongKey,
}

impl Header {
    /// A header with its key check. `None` only if the cryptographic library fails.
    pub(super) fn new(
        segment: u64,
        base: u64,
        store: [u8; 16],
        salt: [u8; 16],
        key: Option<&Key>,
    ) -> Option<(Self, Codec)> {
        let mut header = Self {
            segment,
            base,
            store,
            salt,
            encrypted: key.is_some(),
            check: [0; TAG],
        };
        let cipher = match key {
            Some(key) => {
                let cipher = Cipher::new(key, segment, &salt)?;
                header.check = cipher.check(&header.claims())?;
                Some(cipher)
            }
            None => None,
        };
        Some((header, Codec::new(&header, cipher)))
    }

    /// Everything before the key check.
    fn claims(&self) -> Vec<u8> {
        let flags = if self.encrypted { ENCRYPTED } else { 0 };
        let mut out = Vec::with_capacity(PREAMBLE);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(flags.to_le_bytes());
        out.extend(self.segment.to_le_bytes());
        out.extend(self.base.to_le_bytes());
        out.extend(self.store);
        out.extend(self.salt);
        out
    }

    /// The beginning of the file.
    pub(super) fn preamble(&self) -> Vec<u8> {
        let mut out = self.claims();
        out.extend(self.check);
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out.extend_from_within(..);
        out
    }

    /// Reads the header and demands that its copy agrees.
    pub(super) fn read(bytes: &[u8], key: Option<&Key>) -> Result<(Self, Codec), BadHeader> {
        let preamble = bytes.get(..PREAMBLE).ok_or(BadHeader::Short)?;
        let (first, second) = preamble.split_at(HEADER);
        // The layout behind the version is only that of our own version.
        match (version(first), version(second)) {
            (Some(VERSION), Some(VERSION)) => {}
            (Some(one), Some(two)) if one == two => return Err(BadHeader::Version(one)),
            _ => return Err(BadHeader::Damaged),
        }
        if first != second {
            return Err(BadHeader::Damaged);
        }
        Self::read_copy(first, key)
    }

    /// Reads whichever copy is whole. For repair.
    pub(super) fn salvage(bytes: &[u8], key: Option<&Key>) -> Result<(Self, Codec), BadHeader> {
        let first = Self::read_copy(bytes.get(..HEADER).unwrap_or_default(), key);
        first.or_else(|_| Self::read_copy(bytes.get(HEADER..PREAMBLE).unwrap_or_default(), key))
    }

    fn read_copy(copy: &[u8], key: Option<&Key>) -> Result<(Self, Codec), BadHeader> {
        let (header, flags) = Self::parse(copy).ok_or(BadHeader::Damaged)?;
        if flags & !ENCRYPTED != 0 {
            return Err(BadHeader::Version(VERSION));
        }
        let cipher = match (header.encrypted, key) {
            (false, None) => None,
            (false, Some(_)) => return Err(BadHeader::NotEncrypted),
            (true, None) => return Err(BadHeader::NeedsKey),
            (true, Some(key)) => {
                let cipher = Cipher::new(key, header.segment, &header.salt);
                let cipher = cipher.ok_or(BadHeader::WrongKey)?;
                if cipher.check(&header.claims()) != Some(header.check) {
                    return Err(BadHeader::WrongKey);
                }
                Some(cipher)
            }
        };
        let codec = Codec::new(&header, cipher);
        Ok((header, codec))
    }

    fn parse(copy: &[u8]) -> Option<(Self, u32)> {
        let (claims, crc) = copy.split_last_chunk::<4>()?;
        if crc32fast::hash(claims) != u32::from_le_bytes(*crc) || version(copy)? != VERSION {
            return None;
        }
        let flags = u32_at(copy, 12)?;
        let header = Self {
            segment: u64_at(copy, 16)?,
            base: u64_at(copy, 24)?,
            store: copy.get(32..48)?.try_into().ok()?,
            salt: copy.get(48..64)?.try_into().ok()?,
            encrypted: flags & ENCRYPTED != 0,
            check: copy.get(64..80)?.try_into().ok()?,
        };
        Some((header, flags))
    }
}

fn version(copy: &[u8]) -> Option<u32> {
    copy.strip_prefix(&MAGIC).and_then(|rest| u32_at(rest, 0))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*field))
}

/// What is needed to write and read the batches and groups of one segment.
pub(super) struct Codec {
    marker: [u8; 8],
    seed: u32,
    cipher: Option<Cipher>,
}

/// What stands before the groups of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    /// The number of the first group in the segment.
    pub(super) first: u64,
    /// Up to which byte the segment was synced before this was written.
    pub(super) synced: u64,
    /// Bytes of the groups; 0 is the seal.
    pub(super) length: u32,
}

impl Codec {
    fn new(header: &Header, cipher: Option<Cipher>) -> Self {
        let (marker, rest) = header.salt.split_at(8);
        Self {
            marker: marker.try_into().unwrap_or_default(),
            seed: u32_at(rest, 0).unwrap_or_default(),
            cipher,
        }
    }

    /// Bytes that a group needs behind its records.
    pub(super) fn trailer(encrypted: bool) -> usize {
        if encrypted { TAG } else { 0 }
    }

    pub(super) fn batch(&self, header: BatchHeader) -> [u8; BATCH] {
        let mut out = [0; BATCH];
        let fields = self
            .marker
            .into_iter()
            .chain(header.first.to_le_bytes())
            .chain(header.synced.to_le_bytes())
            .chain(header.length.to_le_bytes());
        out.iter_mut()
            .zip(fields)
            .for_each(|(place, byte)| *place = byte);
        if let Some((fields, crc)) = out.split_last_chunk_mut::<4>() {
            *crc = self.crc(0, 0, fields).to_le_bytes();
        }
        out
    }

    /// The batch header at the front of `bytes`, if a valid one is there.
    fn read_batch(&self, bytes: &[u8]) -> Option<BatchHeader> {
        let (fields, crc) = bytes.first_chunk::<BATCH>()?.split_last_chunk::<4>()?;
        if !fields.starts_with(&self.marker) || self.crc(0, 0, fields) != u32::from_le_bytes(*crc) {
            return None;
        }
        Some(BatchHeader {
            first: u64_at(fields, 8)?,
            synced: u64_at(fields, 16)?,
            length: u32_at(fields, 24)?,
        })
    }

    /// Encrypts and checksums the group that `bytes` begins with, and says where it ends. Its
    /// length is there already, and room for the tag. `None`: that is not a group.
    pub(super) fn seal(&self, counter: u64, bytes: &mut [u8]) -> Option<usize> {
        let length = u32_at(bytes, 0)?;
        let end = GROUP.checked_add(length as usize)?;
        let (head, body) = bytes.get_mut(..end)?.split_at_mut(GROUP);
        if let Some(cipher) = &self.cipher {
            cipher.seal(counter, body)?;
        }
        let crc = self.crc(counter, length, body).to_le_bytes();
        head.get_mut(4..)?.copy_from_slice(&crc);
        Some(end)
    }

    /// CRC-32 of `bytes` in this place.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half of the counter is enough to tell places apart"
    )]
    fn crc(&self, counter: u64, length: u32, bytes: &[u8]) -> u32 {
        let start = self.seed.wrapping_add(counter as u32) ^ length;
        let mut hasher = Hasher::new_with_initial(start);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// Where a segment stops making sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The first byte that could not be read.
    pub(super) at: usize,
    /// What is wrong there.
    pub(super) what: &'static str,
    /// Not explained by a crash, wherever it is.
    pub(super) certain: bool,
}

/// Reads the groups of a segment, in order.
pub(super) struct Scan<'a> {
    codec: &'a Codec,
    bytes: &'a mut [u8],
    at: usize,
    /// Where the current batch ends.
    end: usize,
    counter: u64,
    sealed: bool,
    /// The records of the group that was read last.
    records: Range<usize>,
}

impl<'a> Scan<'a> {
    /// A scan of a whole segment, whose header has been read. Bodies are decrypted in place.
    pub(super) fn new(codec: &'a Codec, bytes: &'a mut [u8]) -> Self {
        Self {
            codec,
            bytes,
            at: PREAMBLE,
            end: PREAMBLE,
            counter: 0,
            sealed: false,
            records: 0..0,
        }
    }

    /// Reads the next group, for [`Self::records`]; `false` at the end.
    pub(super) fn next_group(&mut self) -> Result<bool, Damage> {
        while self.at == self.end {
            if self.at >= self.bytes.len() {
                return Ok(false);
            }
            if self.sealed {
                return Err(Damage {
                    certain: true,
                    ..self.damage("bytes behind the seal")
                });
            }
            self.enter_batch()?;
        }
        let body = match self.check_group() {
            Ok(body) => body,
            Err(_) if self.is_cut_here() => {
                self.at = self.bytes.len();
                self.end = self.at;
                self.sealed = true;
                return Ok(false);
            }
            Err(damage) => return Err(damage),
        };
        let damage = Damage {
            certain: true,
            ..self.damage("a group with a good checksum that this program did not write")
        };
        let bytes = self.bytes.get_mut(body.clone()).ok_or(damage)?;
        let plain = match &self.codec.cipher {
            None => &*bytes,
            Some(cipher) => cipher.open(self.counter, bytes).ok_or(damage)?,
        };
        if !Records(plain).are_whole() {
            return Err(damage);
        }
        self.records = body.start..body.start + plain.len();
        self.counter += 1;
        self.at = body.end;
        Ok(true)
    }

    /// The records of the group that was read last.
    pub(super) fn records(&self) -> Records<'_> {
        Records(self.bytes.get(self.records.clone()).unwrap_or_default())
    }

    fn enter_batch(&mut self) -> Result<(), Damage> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let header = self.codec.read_batch(rest);
        let header = header.ok_or_else(|| self.damage("no batch begins here"))?;
        if header.first != self.counter {
            return Err(Damage {
                certain: true,
                ..self.damage("groups are missing before this batch")
            });
        }
        self.sealed = header.length == 0;
        self.at += BATCH;
        self.end = self.at.saturating_add(header.length as usize);
        Ok(())
    }

    /// Whether an earlier start has cut a torn batch here, and put a seal where the next group was to
    /// be. It was the last write, so the seal is the end of the file.
    fn is_cut_here(&self) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let seal = self.codec.read_batch(rest);
        rest.len() == BATCH
            && seal.is_some_and(|seal| seal.length == 0 && seal.first == self.counter)
    }

    /// The bytes of the next body, if its checksum holds.
    fn check_group(&self) -> Result<Range<usize>, Damage> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let broken = || self.damage("a group is cut off or its checksum is wrong");
        let length = u32_at(rest, 0).ok_or_else(broken)?;
        let crc = u32_at(rest, 4).ok_or_else(broken)?;
        let start = self.at + GROUP;
        let end = start.checked_add(length as usize);
        let end = end.filter(|end| *end <= self.end).ok_or_else(broken)?;
        let body = self.bytes.get(start..end).ok_or_else(broken)?;
        if self.codec.crc(self.counter, length, body) != crc {
            return Err(broken());
        }
        Ok(start..end)
    }

    fn damage(&self, what: &'static str) -> Damage {
        Damage {
            at: self.at,
            what,
            certain: false,
        }
    }

    /// Groups read so far, those that were skipped included.
    pub(super) fn counter(&self) -> u64 {
        self.counter
    }

    /// Whether the seal has been read.
    pub(super) fn sealed(&self) -> bool {
        self.sealed
    }

    /// Whether `damage` is only the torn tail of the last write: nothing after it says that it
    /// had been synced.
    pub(super) fn is_torn(&self, damage: &Damage) -> bool {
        !damage.certain
            && self
                .batches_after(damage.at)
                .all(|(_, batch)| batch.synced <= damage.at as u64)
    }

    /// Goes on at the next batch after `damage`, for repair. Returns how many bytes and groups
    /// were skipped; `None` if no batch follows, and all the rest is lost.
    pub(super) fn skip(&mut self, damage: &Damage) -> Option<(usize, u64)> {
        let counter = self.counter;
        let next = self
            .batches_after(damage.at)
            .find(|(_, batch)| batch.first >= counter);
        let (at, batch) = next?;
        let skipped = (at - damage.at, batch.first - counter);
        self.at = at;
        self.end = at;
        self.counter = batch.first;
        self.sealed = false;
        Some(skipped)
    }

    /// Everything that looks like a batch header behind `at`.
    fn batches_after(&self, at: usize) -> impl Iterator<Item = (usize, BatchHeader)> {
        let from = at + 1;
        let rest = self.bytes.get(from..).unwrap_or_default();
        let windows = rest.windows(BATCH).enumerate();
        windows.filter_map(move |(offset, window)| {
            let batch = self.codec.read_batch(window)?;
            Some((from + offset, batch))
        })
    }
}

/// The records of one group.
#[derive(Debug)]
pub(super) struct Records<'a>(&'a [u8]);

impl Records<'_> {
    fn are_whole(&self) -> bool {
        let mut rest = Records(self.0);
        rest.by_ref().for_each(drop);
        rest.0.is_empty() && !self.0.is_empty()
    }

    /// The group as it was written, without what protects it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, rest) = self.0.split_first()?;
        let length = u32_at(rest, 0)? as usize;
        let (record, rest) = rest.get(4..)?.split_at_checked(length)?;
        self.0 = rest;
        Some((*kind, record))
    }
}
