//! The promises of the format, as a property that the fuzz target and the tests check.

use super::Key;
use super::format::{BATCH, BatchHeader, Codec, Damage, GROUP, Header, PREAMBLE, Scan};

/// A segment that was written as `input` says, and what was then done to it.
struct Case {
    bytes: Vec<u8>,
    /// The records of each group, as they stand in it.
    groups: Vec<Vec<u8>>,
    /// Where each batch begins, and the end.
    batches: Vec<usize>,
    codec: Codec,
}

/// A segment is written as `input` says, damaged in one place and read again, as it is at start and
/// as repair does it; and then a segment whose batches are `input` itself. Reading is total. What
/// is read is a prefix of what was written. Damage is never called a torn tail if a later write says
/// that it had been synced, and after damage only groups are found that were written.
///
/// # Panics
///
/// When a promise is broken.
pub fn log(input: &[u8]) {
    let (flags, rest) = input.split_first().unwrap_or((&0, &[]));
    let encrypted = flags & 1 != 0;
    let mut case = Case::write(rest, encrypted);
    let whole = read(&case.codec, &mut case.bytes.clone());
    assert_eq!((whole.0, whole.1), (case.groups.clone(), None));
    case.damage(input);

    let mut raw = header(encrypted).0.preamble();
    raw.extend(rest);
    let codec = header(encrypted).1;
    read(&codec, &mut raw);
}

fn header(encrypted: bool) -> (Header, Codec) {
    let key = Key::new([7; 32]);
    let key = encrypted.then_some(&key);
    // A marker of zeros, which the fuzzer finds.
    let salt = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let made = Header::new(1, 1, [9; 16], salt, key);
    #[expect(clippy::expect_used, reason = "a property may panic")]
    made.expect("the cipher works")
}

impl Case {
    /// Each byte of `script` is a record of that many bytes; some also end a group or a batch.
    fn write(script: &[u8], encrypted: bool) -> Self {
        let (header, codec) = header(encrypted);
        let mut case = Self {
            bytes: header.preamble(),
            groups: Vec::new(),
            batches: Vec::new(),
            codec,
        };
        for batch in script.chunks(5) {
            let start = case.bytes.len();
            case.batches.push(start);
            let first = case.groups.len() as u64;
            case.bytes.resize(start + BATCH, 0);
            for group in batch.chunks(2) {
                let mut body = Vec::new();
                for &byte in group {
                    let length = usize::from(byte % 61);
                    body.push(byte);
                    body.extend(u32::from(byte % 61).to_le_bytes());
                    body.resize(body.len() + length, byte);
                }
                case.push(&body, encrypted);
                case.groups.push(body);
            }
            let length = case.bytes.len() - start - BATCH;
            let header = case.codec.batch(BatchHeader {
                first,
                synced: start as u64,
                length: u32::try_from(length).unwrap_or(u32::MAX),
            });
            if let Some(place) = case.bytes.get_mut(start..start + BATCH) {
                place.copy_from_slice(&header);
            }
        }
        case.batches.push(case.bytes.len());
        case
    }

    fn push(&mut self, body: &[u8], encrypted: bool) {
        let at = self.bytes.len();
        let trailer = Codec::trailer(encrypted);
        let length = u32::try_from(body.len() + trailer).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend([0; GROUP - 4]);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len() + trailer, 0);
        let group = self.bytes.get_mut(at..).unwrap_or_default();
        assert!(self.codec.seal(self.groups.len() as u64, group).is_some());
    }

    /// Damages one place behind the header, chosen by `input`, and reads.
    fn damage(&mut self, input: &[u8]) {
        let sum = input.iter().fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add((*byte).into())
        });
        let room = self.bytes.len() - PREAMBLE;
        if room == 0 {
            return;
        }
        let at = PREAMBLE + sum % room;
        let cut = sum % 3 == 0;
        if cut {
            self.bytes.truncate(at);
        } else if let Some(byte) = self.bytes.get_mut(at) {
            *byte ^= 1 << (sum % 8);
        }
        let (groups, damage, torn, later) = read(&self.codec, &mut self.bytes.clone());
        assert!(self.groups.starts_with(&groups), "not a prefix");
        for (counter, group) in later {
            let original = usize::try_from(counter).ok();
            let original = original.and_then(|counter| self.groups.get(counter));
            assert_eq!(original, Some(&group), "never written");
        }
        if cut {
            assert_eq!(damage.is_none(), self.batches.contains(&at));
            assert!(damage.is_none() || torn, "a cut at the end is a torn tail");
            self.resume(damage.map_or(at, |damage| damage.at), &groups);
        } else {
            assert!(damage.is_some_and(|damage| damage.at <= at), "not noticed");
            let last = self.batches.iter().nth_back(1);
            let in_last = last.is_some_and(|last| at >= *last);
            assert_eq!(torn, in_last, "synced or not");
        }
    }
}

impl Case {
    /// What start makes of a torn tail is a whole segment with the same groups.
    fn resume(&self, at: usize, groups: &[Vec<u8>]) {
        let mut bytes = self.bytes.get(..at).unwrap_or_default().to_vec();
        bytes.extend(self.codec.batch(BatchHeader {
            first: groups.len() as u64,
            synced: at as u64,
            length: 0,
        }));
        let (again, damage, ..) = read(&self.codec, &mut bytes);
        assert_eq!((again.as_slice(), damage), (groups, None), "cut and sealed");
    }
}

/// The groups up to the first damage, the damage, whether it is a torn tail, and what can be read
/// after it.
#[expect(clippy::type_complexity, reason = "used in two places, above")]
fn read(
    codec: &Codec,
    bytes: &mut [u8],
) -> (Vec<Vec<u8>>, Option<Damage>, bool, Vec<(u64, Vec<u8>)>) {
    let (mut before, mut first, mut torn, mut after) = (Vec::new(), None, false, Vec::new());
    let mut scan = Scan::new(codec, bytes);
    loop {
        let counter = scan.counter();
        match scan.next_group() {
            Ok(false) => break,
            Ok(true) if first.is_none() => before.push(scan.records().bytes().to_vec()),
            Ok(true) => after.push((counter, scan.records().bytes().to_vec())),
            Err(damage) => {
                if first.is_none() {
                    first = Some(damage);
                    torn = scan.is_torn(&damage);
                }
                if scan.skip(&damage).is_none() {
                    break;
                }
            }
        }
    }
    (before, first, torn, after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::log;

    proptest! {
        #[test]
        fn whatever_is_damaged_what_is_read_was_written(input in proptest::collection::vec(any::<u8>(), 0..60)) {
            log(&input);
        }
    }

    #[test]
    fn every_place_of_a_small_segment_may_be_damaged() {
        for first in 0..=255 {
            for second in (0..=255).step_by(23) {
                log(&[first, 3, 0, 5, second, 1, 9, 0, 2]);
            }
        }
    }
}
