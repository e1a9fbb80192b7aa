//! What is on the disk at start: which segments count, what is in them, and whether to believe it.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, Locked, segment_path, segments};
use super::format::{BadHeader, Codec, Damage, Header, PREAMBLE, Scan};
use super::segment::{Place, Segment, random};
use super::writer::{Shared, Writer};
use super::{Key, Options, Replay, StoreError};

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments read.
    pub segments: usize,
    /// Records replayed.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What was cut off.
    pub torn: Option<Torn>,
}

/// The end of a write that a crash interrupted, which nobody was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The last segment.
    pub file: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes were cut off.
    pub bytes: u64,
}

/// One segment of a store, by its header.
pub(super) struct Found {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) header: Result<(Header, Codec), BadHeader>,
}

/// The segments of a store that count, in order.
pub(super) struct Inventory {
    pub(super) base: u64,
    pub(super) store: Option<[u8; 16]>,
    pub(super) live: Vec<Found>,
    /// Left over from a finished round.
    pub(super) superfluous: Vec<PathBuf>,
}

impl Inventory {
    pub(super) fn read(dir: &Path, key: Option<&Key>) -> Result<Self, StoreError> {
        let mut found = Vec::new();
        for number in segments(dir)? {
            let path = segment_path(dir, number);
            let header = Header::read(&beginning(&path)?, key);
            found.push(Found {
                number,
                path,
                header,
            });
        }
        let headers = || found.iter().filter_map(|found| found.header.as_ref().ok());
        // Segments go only after a later one says on disk that they may.
        let base = headers().map(|(header, _)| header.base).max().unwrap_or(1);
        let store = headers().map(|(header, _)| header.store).next_back();
        let (live, superfluous) = found.into_iter().partition(|found| found.number >= base);
        let superfluous: Vec<Found> = superfluous;
        Ok(Self {
            base,
            store,
            live,
            superfluous: superfluous.into_iter().map(|found| found.path).collect(),
        })
    }

    /// The first number that should be there and is not.
    pub(super) fn gap(&self) -> Option<u64> {
        let numbers = self.live.iter().map(|found| found.number);
        numbers
            .zip(self.base..)
            .find_map(|(number, expected)| (number != expected).then_some(expected))
    }
}

impl Found {
    /// The header, if it is that of this segment of this store.
    pub(super) fn header(&self, store: Option<[u8; 16]>) -> Result<(&Header, &Codec), StoreError> {
        let file = || self.path.clone();
        match &self.header {
            Ok((header, codec)) if header.segment == self.number && Some(header.store) == store => {
                Ok((header, codec))
            }
            Ok(_) => Err(self.corrupt(0, "the header is that of another segment", String::new())),
            Err(BadHeader::Short) => Err(self.corrupt(0, "the file is too short", String::new())),
            Err(BadHeader::Damaged) => Err(self.corrupt(0, "the header is damaged", String::new())),
            Err(BadHeader::Version(found)) => Err(StoreError::Version {
                file: file(),
                found: *found,
            }),
            Err(BadHeader::NeedsKey) => Err(StoreError::NeedsKey { file: file() }),
            Err(BadHeader::NotEncrypted) => Err(StoreError::NotEncrypted { file: file() }),
            Err(BadHeader::WrongKey) => Err(StoreError::WrongKey { file: file() }),
        }
    }

    pub(super) fn corrupt(&self, offset: u64, what: &'static str, lost: String) -> StoreError {
        let lost = if lost.is_empty() {
            "all its records are lost unless the store can be repaired".to_owned()
        } else {
            lost
        };
        StoreError::Corrupt {
            file: self.path.clone(),
            offset,
            what,
            lost,
        }
    }

    pub(super) fn content(&self) -> Result<Vec<u8>, StoreError> {
        fs::read(&self.path).map_err(|source| StoreError::io(&self.path, source))
    }
}

fn beginning(path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |source| StoreError::io(path, source);
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::with_capacity(PREAMBLE);
    let mut head = file.take(PREAMBLE as u64);
    head.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// How the last segment ended, where that matters for going on.
struct Tail {
    /// Where to cut; `None` where it is whole.
    cut: Option<u64>,
    length: u64,
    groups: u64,
    sealed: bool,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: &Options,
    replay: &mut Replay<'_>,
) -> Result<(Writer, Arc<Shared>, Recovered), StoreError> {
    let dir = &options.dir;
    let failed = |source| StoreError::io(dir, source);
    let locked = Locked::new(dir)?;
    let mut inventory = Inventory::read(dir, options.key.as_ref())?;
    let last = inventory.live.pop_if(|found| {
        // Cannot come from a crash where renames are atomic, but holds nothing either.
        matches!(found.header, Err(BadHeader::Short))
    });
    if let Some(missing) = inventory.gap() {
        let file = segment_path(dir, missing);
        return Err(StoreError::Missing { file });
    }
    let mut recovered = Recovered::default();
    if let Some(headless) = &last {
        recovered.torn = Some(Torn {
            file: headless.path.clone(),
            offset: 0,
            bytes: headless.content()?.len() as u64,
        });
    }
    let mut old = Vec::new();
    let mut tail = None;
    let count = inventory.live.len();
    for (place, found) in inventory.live.iter().enumerate() {
        let is_last = place + 1 == count;
        let may_be_torn = is_last && last.is_none();
        let end = replay_segment(found, inventory.store, may_be_torn, &mut recovered, replay)?;
        old.push((found.number, end.cut.unwrap_or(end.length)));
        if is_last {
            tail = Some(end);
        }
    }

    // From here on the disk is changed.
    let place = Place {
        disk,
        dir: dir.clone(),
        store: match inventory.store {
            Some(store) => store,
            None => random().map_err(failed)?,
        },
        key: options.key.clone(),
    };
    for path in &inventory.superfluous {
        let removed = place.disk.remove(path);
        removed.map_err(|source| StoreError::io(path, source))?;
    }
    let mut number = inventory.base;
    if let (Some(found), Some(tail)) = (inventory.live.pop(), tail) {
        if tail.groups == 0 {
            // Replaced, so that a broker that starts often does not leave a trail.
            number = found.number;
            old.pop();
        } else {
            number = found.number + 1;
            if let (false, Some(last)) = (tail.sealed, old.last_mut()) {
                last.1 = finish(&place, found, &tail)?;
            }
        }
    }
    let segment = place
        .create(number, inventory.base, &mut || false)
        .map_err(failed)?;
    let on_disk = old.iter().map(|(_, length)| length).sum::<u64>() + segment.length();
    let shared = Arc::new(Shared::new(options, on_disk));
    let writer = Writer::new(
        Arc::clone(&shared),
        place,
        options.segment_bytes,
        segment,
        inventory.base,
        old,
        locked,
    );
    if let Some(torn) = &recovered.torn {
        tracing::warn!(file = %torn.file.display(), offset = torn.offset, bytes = torn.bytes,
            "the end of a write that was interrupted has been cut off");
    }
    Ok((writer, shared, recovered))
}

fn replay_segment(
    found: &Found,
    store: Option<[u8; 16]>,
    may_be_torn: bool,
    recovered: &mut Recovered,
    replay: &mut Replay<'_>,
) -> Result<Tail, StoreError> {
    let (_, codec) = found.header(store)?;
    let mut content = found.content()?;
    let length = content.len() as u64;
    let mut scan = Scan::new(codec, &mut content);
    recovered.segments += 1;
    recovered.bytes += length;
    let cut = loop {
        let group = scan.counter();
        match scan.next_group() {
            Ok(true) => {
                for (kind, bytes) in scan.records() {
                    recovered.records += 1;
                    replay(kind, bytes).map_err(|reason| StoreError::Refused {
                        file: found.path.clone(),
                        group,
                        reason,
                    })?;
                }
            }
            Ok(false) => break None,
            Err(damage) if may_be_torn && scan.is_torn(&damage) => {
                let offset = damage.at as u64;
                recovered.torn = Some(Torn {
                    file: found.path.clone(),
                    offset,
                    bytes: length - offset,
                });
                break Some(offset);
            }
            Err(damage) => {
                let (lost, _) = lost(&mut scan, &damage, length);
                return Err(found.corrupt(damage.at as u64, damage.what, lost));
            }
        }
    };
    if !may_be_torn && !scan.sealed() {
        let lost = "an unknown number of groups is lost".to_owned();
        return Err(found.corrupt(length, "the segment is not complete", lost));
    }
    Ok(Tail {
        cut,
        length,
        groups: scan.counter(),
        sealed: scan.sealed() && cut.is_none(),
    })
}

/// What of a segment cannot be read because of `damage`, and whether more can be read after it.
pub(super) fn lost(scan: &mut Scan<'_>, damage: &Damage, length: u64) -> (String, bool) {
    if let Some((bytes, groups)) = scan.skip(damage) {
        let text = format!("{bytes} bytes with {groups} groups of records are lost there");
        return (text, true);
    }
    let bytes = length.saturating_sub(damage.at as u64);
    let text = format!("the last {bytes} bytes of the segment are lost");
    (text, false)
}

/// Cuts the last segment to what was read, and ends it as the writer ends one.
fn finish(place: &Place, found: Found, tail: &Tail) -> Result<u64, StoreError> {
    let failed = |source| StoreError::io(&found.path, source);
    let length = tail.cut.unwrap_or(tail.length);
    let file = place.disk.cut(&found.path, length).map_err(failed)?;
    if let Ok((_, codec)) = found.header {
        let mut segment = Segment::resumed(found.number, file, codec, length, tail.groups);
        segment.finish(&mut || false).map_err(failed)?;
        return Ok(segment.length());
    }
    Ok(length)
}
