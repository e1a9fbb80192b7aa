//! Looking at a store that does not open, and making the best of it.
//!
//! Repairing never changes a damaged file: it is moved aside, and what can be read of it is written
//! anew under its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{FileSystem, Locked, segment_path};
use super::format::{BATCH, BadHeader, Codec, GROUP, Header, Scan};
use super::open::{Found, Inventory, lost};
use super::segment::{Place, random};
use super::{Key, StoreError};

/// What [`check`] and [`repair`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments that count.
    pub segments: usize,
    /// Groups of records that can be read.
    pub groups: u64,
    /// Records that can be read.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// What is wrong, in order. Empty: the store opens.
    pub problems: Vec<Problem>,
    /// The torn end of the last write, which opening cuts off without being told: file and offset.
    pub torn: Option<(PathBuf, u64)>,
    /// What [`repair`] did, in words.
    pub done: Vec<String>,
}

/// Takes a record: its kind and its bytes.
pub(crate) type Each<'a> = dyn FnMut(u8, &[u8]) + 'a;

/// One damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The segment.
    pub file: PathBuf,
    /// The first byte that makes no sense.
    pub offset: u64,
    /// What is wrong, and what is lost.
    pub text: String,
}

/// Reads a whole store without changing it. The broker must not be running on it.
///
/// # Errors
///
/// The store is in use, cannot be read, is of another version, or `key` is not its key.
pub fn check(dir: &Path, key: Option<&Key>) -> Result<Report, StoreError> {
    check_with(dir, key, &mut |_, _| ())
}

/// [`check`], which hands over every record that can be read: its kind and its bytes.
pub(crate) fn check_with(
    dir: &Path,
    key: Option<&Key>,
    record: &mut Each<'_>,
) -> Result<Report, StoreError> {
    let _locked = Locked::new(dir)?;
    let inventory = Inventory::read(dir, key)?;
    let mut report = Report::default();
    let mut expected = inventory.base;
    let count = inventory.live.len();
    for (place, found) in inventory.live.iter().enumerate() {
        while expected < found.number {
            report.missing(&segment_path(dir, expected));
            expected += 1;
        }
        expected += 1;
        let is_last = place + 1 == count;
        let _ = examine(found, inventory.store, key, is_last, &mut report, record)?;
    }
    Ok(report)
}

/// Makes a store open again: what can be read of a damaged segment is written anew under its name,
/// the damaged file is kept beside it with `.damaged` at its end, and in place of a missing segment
/// an empty one is made. The report says what is lost. A store without damage is left as it is.
///
/// # Errors
///
/// As of [`check`], and where the directory cannot be written.
pub fn repair(dir: &Path, key: Option<&Key>) -> Result<Report, StoreError> {
    let _locked = Locked::new(dir)?;
    let inventory = Inventory::read(dir, key)?;
    let failed = |source| StoreError::io(dir, source);
    let mut report = Report::default();
    let place = Place {
        disk: Arc::new(FileSystem),
        dir: dir.to_owned(),
        store: match inventory.store {
            Some(store) => store,
            None => random().map_err(failed)?,
        },
        key: key.cloned(),
    };
    let mut expected = inventory.base;
    let count = inventory.live.len();
    for (index, found) in inventory.live.iter().enumerate() {
        while expected < found.number {
            let path = segment_path(dir, expected);
            report.missing(&path);
            let none = Salvaged::default();
            rewrite(&place, expected, inventory.base, none)?;
            let text = format!("{}: an empty segment was made", path.display());
            report.done.push(text);
            expected += 1;
        }
        expected += 1;
        let is_last = index + 1 == count;
        let nobody = &mut |_: u8, _: &[u8]| ();
        let salvaged = examine(found, inventory.store, key, is_last, &mut report, nobody)?;
        if let Some(salvaged) = salvaged {
            let aside = aside(&found.path);
            place.disk.rename(&found.path, &aside).map_err(failed)?;
            let kept = salvaged.groups;
            rewrite(&place, found.number, inventory.base, salvaged)?;
            report.done.push(format!(
                "{}: {kept} groups of records were kept; the damaged file is {}",
                found.path.display(),
                aside.display()
            ));
        }
    }
    Ok(report)
}

impl Report {
    /// Whether the store opens without losing anything that was acknowledged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn missing(&mut self, file: &Path) {
        self.problems.push(Problem {
            file: file.to_owned(),
            offset: 0,
            text: "the segment is missing, with all its records".to_owned(),
        });
    }

    fn problem(&mut self, file: &Path, offset: u64, text: String) {
        self.problems.push(Problem {
            file: file.to_owned(),
            offset,
            text,
        });
    }
}

/// The readable groups of a damaged segment, as the writer's buffer holds them.
#[derive(Default)]
struct Salvaged {
    buffer: Vec<u8>,
    groups: u64,
}

impl Salvaged {
    fn push(&mut self, group: &[u8], encrypted: bool) {
        if self.buffer.is_empty() {
            self.buffer.resize(BATCH, 0);
        }
        let trailer = Codec::trailer(encrypted);
        let length = u32::try_from(group.len() + trailer).unwrap_or(u32::MAX);
        self.buffer.extend(length.to_le_bytes());
        self.buffer.extend([0; GROUP - 4]);
        self.buffer.extend(group);
        self.buffer.resize(self.buffer.len() + trailer, 0);
        self.groups += 1;
    }
}

/// Reads one segment into the report. If it is damaged, returns what can be read of it.
fn examine(
    found: &Found,
    store: Option<[u8; 16]>,
    key: Option<&Key>,
    is_last: bool,
    report: &mut Report,
    record: &mut Each<'_>,
) -> Result<Option<Salvaged>, StoreError> {
    let mut content = found.content()?;
    let length = content.len() as u64;
    report.segments += 1;
    report.bytes += length;
    let copy;
    let mut damaged = false;
    let codec = match found.header(store) {
        Ok((_, codec)) => codec,
        Err(StoreError::Corrupt { .. })
            if is_last && matches!(found.header, Err(BadHeader::Short)) =>
        {
            report.torn = Some((found.path.clone(), 0));
            return Ok(None);
        }
        Err(StoreError::Corrupt { what, .. }) => {
            damaged = true;
            match Header::salvage(&content, key) {
                Ok((header, codec))
                    if header.segment == found.number
                        && store.is_none_or(|store| store == header.store) =>
                {
                    let text = format!("{what}; a copy of it is whole, so nothing is lost by this");
                    report.problem(&found.path, 0, text);
                    copy = codec;
                    &copy
                }
                Ok(_) | Err(_) => {
                    let text = format!("{what}; all {length} bytes of the segment are lost");
                    report.problem(&found.path, 0, text);
                    return Ok(Some(Salvaged::default()));
                }
            }
        }
        Err(other) => return Err(other),
    };
    let mut salvaged = Salvaged::default();
    let mut scan = Scan::new(codec, &mut content);
    loop {
        match scan.next_group() {
            Ok(true) => {
                let records = scan.records();
                salvaged.push(records.bytes(), key.is_some());
                report.groups += 1;
                for (kind, bytes) in scan.records() {
                    report.records += 1;
                    record(kind, bytes);
                }
            }
            Ok(false) if is_last || scan.sealed() => break,
            Ok(false) => {
                damaged = true;
                let text = "the segment is not complete; an unknown number of groups is lost";
                report.problem(&found.path, length, text.to_owned());
                break;
            }
            Err(damage) if is_last && scan.is_torn(&damage) => {
                report.torn = Some((found.path.clone(), damage.at as u64));
                break;
            }
            Err(damage) => {
                damaged = true;
                let (lost, more) = lost(&mut scan, &damage, length);
                let text = format!("{}; {lost}", damage.what);
                report.problem(&found.path, damage.at as u64, text);
                if !more {
                    break;
                }
            }
        }
    }
    Ok(damaged.then_some(salvaged))
}

/// Writes a segment with these groups, complete.
fn rewrite(
    place: &Place,
    number: u64,
    base: u64,
    mut salvaged: Salvaged,
) -> Result<(), StoreError> {
    let path = segment_path(&place.dir, number);
    let mut write = || {
        let mut segment = place.create(number, base, &mut || false)?;
        let mut at = BATCH;
        while let Some(group) = salvaged
            .buffer
            .get_mut(at..)
            .filter(|rest| !rest.is_empty())
        {
            at += segment.seal(group)?;
        }
        if at > BATCH {
            segment.write(&mut salvaged.buffer, &mut || false)?;
        }
        segment.finish(&mut || false)
    };
    write().map_err(|source| StoreError::io(&path, source))
}

/// A name beside `path` that is free.
fn aside(path: &Path) -> PathBuf {
    let names = (0_u32..).map(|again| match again {
        0 => path.with_extension("log.damaged"),
        again => path.with_extension(format!("log.damaged-{again}")),
    });
    let mut free = names.filter(|name| !name.exists());
    free.next()
        .unwrap_or_else(|| path.with_extension("log.damaged"))
}
