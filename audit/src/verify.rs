//! Is the record whole? Reads a store, also that of a running broker, and changes nothing.
//!
//! The head is read first, then the list of files with their lengths, so what a running broker
//! writes meanwhile is not looked at. Where the head moved during a check that failed, the check
//! is repeated.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::AuditError;
use crate::chain::{self, Head, Link, MAX_LINE, PublicKey};

/// How long a time the records that the head does not cover may span. The head is at most a second
/// behind the records; the rest is for slow disks and small steps of the clock.
const HEAD_LAG_MILLIS: i128 = 10_000;
/// How often a check is repeated when the head moved under it.
const ATTEMPTS: u32 = 5;

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The answer.
    pub status: Status,
    /// How many records are kept and verified.
    pub records: u64,
    /// Number of the first record kept; more than 1 where old ones were dropped by
    /// `on-full = "drop-oldest"`.
    pub first: u64,
    /// Number of the last record.
    pub last: u64,
    /// Records that are younger than the signed head.
    pub after_head: u64,
    /// Files of records.
    pub files: usize,
    /// When the head was signed, RFC 3339; `None` where there is no valid head.
    pub head_time: Option<String>,
    /// SHA-256 of the key that the head was checked with.
    pub key: Option<String>,
    /// What is wrong, where something is.
    pub fault: Option<Fault>,
}

/// The answer of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Status {
    /// Every record is as it was written, and none is missing.
    Ok,
    /// The same, and the last line is incomplete: it is being written, or was when the broker
    /// ended.
    Open,
    /// Something was changed, added or removed.
    Broken,
}

/// Where the record is broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file's name.
    pub file: String,
    /// The line, counted from 1; 0 for a whole file.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.reason),
            line => write!(f, "{}, line {line}: {}", self.file, self.reason),
        }
    }
}

/// Verifies the store in `dir` with the `audit.pub` that lies there.
///
/// # Errors
///
/// Files that cannot be read. A broken record is not an error but a [`Report`].
pub fn verify(dir: &Path) -> Result<Report, AuditError> {
    let path = dir.join(PUBLIC_KEY);
    match fs::read_to_string(&path) {
        Ok(text) => match PublicKey::from_pem(&text) {
            Some(key) if key.to_pem() == text => verify_with(dir, &key),
            Some(_) | None => Ok(Report::broken(PUBLIC_KEY, 0, "not an Ed25519 public key")),
        },
        Err(error) if absent_or_text(&error) => Ok(Report::broken(
            PUBLIC_KEY,
            0,
            "missing or not text: nothing proves the head",
        )),
        Err(error) => Err(AuditError::io(path)(error)),
    }
}

/// Verifies the store in `dir` with a key that was kept elsewhere: so nobody who can write to the
/// directory can replace the whole history.
///
/// # Errors
///
/// Files that cannot be read. A broken record is not an error but a [`Report`].
pub fn verify_with(dir: &Path, key: &PublicKey) -> Result<Report, AuditError> {
    let mut before = read_head(dir)?;
    for _ in 1..ATTEMPTS {
        let report = verify_once(dir, key, before.as_deref());
        let after = read_head(dir)?;
        if before == after || report.as_ref().is_ok_and(|r| r.status != Status::Broken) {
            return report;
        }
        before = after;
    }
    verify_once(dir, key, before.as_deref())
}

impl Report {
    fn broken(file: &str, line: u64, reason: impl Into<String>) -> Self {
        Self {
            status: Status::Broken,
            records: 0,
            first: 0,
            last: 0,
            after_head: 0,
            files: 0,
            head_time: None,
            key: None,
            fault: Some(Fault {
                file: file.to_owned(),
                line,
                reason: reason.into(),
            }),
        }
    }
}

fn verify_once(dir: &Path, key: &PublicKey, head: Option<&[u8]>) -> Result<Report, AuditError> {
    let segments = segments(dir)?;
    let Some(head) = head else {
        return Ok(Report::broken(
            HEAD,
            0,
            "missing: nothing says how many records there were",
        ));
    };
    let head = match Head::read(head, key) {
        Ok(head) => head,
        Err(reason) => return Ok(Report::broken(HEAD, 0, reason)),
    };
    let mut scan = Scan::new(&head, true);
    let outcome = scan.segments(&segments)?.and_then(|()| scan.end(&segments));
    Ok(Report {
        status: match &outcome {
            Err(_) => Status::Broken,
            Ok(()) if scan.torn > 0 => Status::Open,
            Ok(()) => Status::Ok,
        },
        records: scan.records,
        first: scan.first.map_or(0, |link| link.seq),
        last: scan.last.map_or(0, |link| link.seq),
        after_head: scan.after_head,
        files: segments.len(),
        head_time: Some(head.time.clone()),
        key: Some(key.fingerprint()),
        fault: outcome.err(),
    })
}

/// The files of a store.
pub(crate) const HEAD: &str = "head.json";
pub(crate) const PUBLIC_KEY: &str = "audit.pub";

/// `Ok(None)` where there is none. A head is a few hundred bytes; more is not read.
pub(crate) fn read_head(dir: &Path) -> Result<Option<Vec<u8>>, AuditError> {
    let path = dir.join(HEAD);
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_LINE as u64).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AuditError::io(path)(error)),
    }
}

fn absent_or_text(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData
    )
}

/// One file of records.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) index: u32,
    pub(crate) path: PathBuf,
    /// Its length when the list was made.
    pub(crate) bytes: u64,
}

impl Segment {
    /// A file without records.
    pub(crate) fn new(dir: &Path, index: u32) -> Self {
        let path = dir.join(Self::name(index));
        Self {
            index,
            path,
            bytes: 0,
        }
    }

    pub(crate) fn name(index: u32) -> String {
        format!("audit-{index:06}.jsonl")
    }

    fn fault(&self, line: u64, reason: impl Into<String>) -> Fault {
        Fault {
            file: Self::name(self.index),
            line,
            reason: reason.into(),
        }
    }

    pub(crate) fn lines(&self) -> Result<Lines, AuditError> {
        let file = File::open(&self.path).map_err(AuditError::io(&self.path))?;
        Ok(Lines {
            reader: BufReader::with_capacity(1 << 16, file.take(self.bytes)),
            path: self.path.clone(),
        })
    }
}

/// The files of a store, oldest first.
pub(crate) fn segments(dir: &Path) -> Result<Vec<Segment>, AuditError> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).map_err(AuditError::io(dir))? {
        let entry = entry.map_err(AuditError::io(dir))?;
        let name = entry.file_name();
        let index = name.to_str().and_then(|name| {
            name.strip_prefix("audit-")?
                .strip_suffix(".jsonl")?
                .parse()
                .ok()
        });
        let Some(index) = index.filter(|index| name.to_str() == Some(&Segment::name(*index)))
        else {
            continue;
        };
        match entry.metadata() {
            Ok(meta) => segments.push(Segment {
                index,
                path: entry.path(),
                bytes: meta.len(),
            }),
            // Removed by a running broker between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(AuditError::io(entry.path())(error)),
        }
    }
    segments.sort_unstable_by_key(|segment| segment.index);
    Ok(segments)
}

/// Reads a file line by line in bounded memory.
pub(crate) struct Lines {
    reader: BufReader<io::Take<File>>,
    path: PathBuf,
}

/// What stands next in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A line that ended; without its end.
    Line,
    /// The file ended within a line.
    Torn,
    /// More than [`MAX_LINE`] bytes without an end.
    TooLong,
    /// Nothing.
    End,
}

impl Lines {
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> Result<Next, AuditError> {
        line.clear();
        (&mut self.reader)
            .take(MAX_LINE as u64)
            .read_until(b'\n', line)
            .map_err(AuditError::io(&self.path))?;
        Ok(match line.last() {
            None => Next::End,
            Some(b'\n') => {
                line.pop();
                Next::Line
            }
            Some(_) if line.len() >= MAX_LINE => Next::TooLong,
            Some(_) => Next::Torn,
        })
    }
}

/// A walk over records that checks every link against its neighbours and the head.
pub(crate) struct Scan<'a> {
    head: &'a Head,
    /// From the first record that is kept; else from the middle, whose first link is trusted.
    whole: bool,
    pub(crate) first: Option<Link>,
    pub(crate) last: Option<Link>,
    pub(crate) records: u64,
    pub(crate) after_head: u64,
    /// Time of the first record that the head does not cover.
    uncovered_since: Option<i128>,
    /// Bytes of an incomplete last line.
    pub(crate) torn: u64,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(head: &'a Head, whole: bool) -> Self {
        Self {
            head,
            whole,
            first: None,
            last: None,
            records: 0,
            after_head: 0,
            uncovered_since: None,
            torn: 0,
        }
    }

    pub(crate) fn segments(
        &mut self,
        segments: &[Segment],
    ) -> Result<Result<(), Fault>, AuditError> {
        let mut expected = None;
        for (place, segment) in segments.iter().enumerate() {
            if expected.is_some_and(|expected| expected != segment.index) {
                return Ok(Err(segment.fault(0, "the file before it is missing")));
            }
            expected = segment.index.checked_add(1);
            let is_last = place + 1 == segments.len();
            if let Err(fault) = self.segment(segment, is_last)? {
                return Ok(Err(fault));
            }
        }
        Ok(Ok(()))
    }

    fn segment(
        &mut self,
        segment: &Segment,
        is_last: bool,
    ) -> Result<Result<(), Fault>, AuditError> {
        let mut lines = segment.lines()?;
        let mut line = Vec::new();
        for number in 1.. {
            let checked = match lines.next(&mut line)? {
                Next::Line => self.line(&line),
                Next::Torn if is_last => {
                    self.torn = line.len() as u64;
                    return Ok(Ok(()));
                }
                Next::Torn => Err("incomplete, and not the last of the record"),
                Next::TooLong => Err("longer than any record"),
                Next::End if number == 1 && !is_last => {
                    Err("empty, and not the last of the record")
                }
                Next::End => return Ok(Ok(())),
            };
            if let Err(reason) = checked {
                return Ok(Err(segment.fault(number, reason)));
            }
        }
        Ok(Ok(()))
    }

    fn line(&mut self, text: &[u8]) -> Result<(), &'static str> {
        let link = chain::unseal(text)?;
        match self.last {
            Some(last) if last.seq.checked_add(1) != Some(link.seq) => {
                return Err("not the number that follows: records are missing, repeated or moved");
            }
            Some(last) if last.hash != link.prev => {
                return Err("not linked to the record before");
            }
            Some(_) => {}
            None if self.whole && link.seq > self.head.first => {
                return Err("records before this one are missing");
            }
            None => self.first = Some(link),
        }
        if link.seq == self.head.first && link.prev != self.head.first_prev {
            return Err("not the record that the head states as the first");
        }
        if link.seq == self.head.count && link.hash != self.head.last {
            return Err("not the record that the head states as the last");
        }
        if link.seq > self.head.count {
            self.beyond_head(text)?;
        }
        self.records += 1;
        self.last = Some(link);
        Ok(())
    }

    /// A record that the head does not cover: there is at most what a broker writes between two
    /// heads, and none after the last head of a broker that ended in good order.
    fn beyond_head(&mut self, line: &[u8]) -> Result<(), &'static str> {
        if self.head.closed {
            return Err("added after the broker had closed the record");
        }
        let time = millis_of(line).ok_or("without a time")?;
        let since = *self.uncovered_since.get_or_insert(time);
        if self.whole && time > since + HEAD_LAG_MILLIS {
            return Err("too long after the last record that a head covers");
        }
        self.after_head += 1;
        Ok(())
    }

    /// Whether all that the head states was there.
    pub(crate) fn end(&self, segments: &[Segment]) -> Result<(), Fault> {
        let last = self.last.map_or(0, |link| link.seq);
        if last >= self.head.count {
            return Ok(());
        }
        let file = segments
            .last()
            .map_or_else(|| HEAD.to_owned(), |last| Segment::name(last.index));
        Err(Fault {
            file,
            line: 0,
            reason: format!(
                "ends with record {last}; the head states {}",
                self.head.count
            ),
        })
    }
}

/// The time of a record, in milliseconds since the Unix epoch.
fn millis_of(line: &[u8]) -> Option<i128> {
    let (_, rest) = std::str::from_utf8(line).ok()?.split_once(",\"time\":\"")?;
    let time = OffsetDateTime::parse(rest.split_once('"')?.0, &Rfc3339).ok()?;
    Some(time.unix_timestamp_nanos() / 1_000_000)
}
