//! The files: records in segments, a head that follows them, a key.
//!
//! Used by one thread. Records are sealed into a buffer and committed in groups: written, synced,
//! and only then covered by a new head. A commit that fails changes nothing: what was written of
//! it is cut off, the buffer stays, and the next commit tries again.
//!
//! After a crash at any moment the directory verifies: records may be younger than the head, the
//! last line may be incomplete. [`Store::open`] cuts such a line off, which a `recovered` record
//! then states with its length and hash.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use portcullis_core::clock::Now;
use zeroize::Zeroizing;

use crate::AuditError;
use crate::chain::{self, Hash, Head, PublicKey, SigningKey};
use crate::record::{Facts, Kind, Record, rfc3339};
use crate::verify::{self, HEAD, Next, PUBLIC_KEY, Scan, Segment};
use crate::writer::OnFull;

/// Room for lines that is kept between commits, bytes.
const SPARE: usize = 64 << 10;

const KEY: &str = "audit.key";
/// A PEM key has some hundred bytes; more is not read.
const MAX_KEY: usize = 4096;
const LOCK: &str = "audit.lock";
const RESERVE: &str = "audit.reserve";
/// Given back to the file system when it is full, so that the head can still be replaced.
const RESERVE_BYTES: usize = 64 << 10;
/// What number, links and punctuation add to a record's text, at most.
const LINE_OVERHEAD: u64 = 192;

/// How large a store may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) max_bytes: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) on_full: OnFull,
}

impl Bounds {
    /// Kept free for what matters when strangers have filled the rest.
    fn vital_bytes(self) -> u64 {
        (self.max_bytes / 8).min(1 << 20)
    }
}

/// An open store.
pub(crate) struct Store {
    dir: PathBuf,
    key: SigningKey,
    bounds: Bounds,
    /// Segments that are finished, oldest first.
    old: VecDeque<Finished>,
    /// The segment that is written to.
    file: File,
    current: Segment,
    current_first: (u64, Hash),
    /// Sealed lines that are not on disk yet. They all go into the current segment.
    buffer: Vec<u8>,
    /// The file may be longer than `current.bytes`: a write failed.
    untidy: bool,
    seq: u64,
    last: Hash,
    /// As it stands on disk.
    head: Head,
    _lock: File,
}

/// Stands for the first record of a file that has none.
const NO_FIRST: (u64, Hash) = (u64::MAX, Hash::ZERO);

struct Finished {
    segment: Segment,
    first: (u64, Hash),
}

impl Store {
    /// Opens or makes a store; writes a `recovered` record where the last broker did not end in
    /// good order.
    pub(crate) fn open(
        dir: &Path,
        bounds: Bounds,
        policy: Option<&str>,
        now: Now,
    ) -> Result<Self, AuditError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(AuditError::io(dir))?;
        let lock = lock(dir)?;
        let mut segments = verify::segments(dir)?;
        let head = verify::read_head(dir)?;
        let is_new = head.is_none() && segments.iter().all(|segment| segment.bytes == 0);
        let key = open_key(dir, is_new)?;
        let public = public_key(dir, &key)?;
        let head = match head {
            Some(text) => Head::read(&text, &public).map_err(|reason| broken(HEAD, reason))?,
            None if is_new => {
                let head = Head::empty(rfc3339(now.wall));
                replace(dir, HEAD, head.sign(&key).as_bytes())
                    .map_err(AuditError::io(dir.join(HEAD)))?;
                head
            }
            None => return Err(broken(HEAD, "missing, but there are records")),
        };
        let firsts = first_links(&segments)?;
        let mut files: VecDeque<Finished> = segments
            .drain(..)
            .zip(firsts)
            .map(|(segment, first)| Finished {
                segment,
                first: first.unwrap_or(NO_FIRST),
            })
            .collect();
        // A crash between the head that dropped them and their removal.
        while files.get(1).is_some_and(|next| next.first.0 <= head.first) {
            if let Some(gone) = files.pop_front() {
                fs::remove_file(&gone.segment.path).map_err(AuditError::io(&gone.segment.path))?;
            }
        }
        let tail = check_tail(&files, &head)?;
        let (seq, last) = tail.last.unwrap_or((head.count, head.last));
        let newest = files.pop_back();
        let current_first = newest
            .as_ref()
            .map(|newest| newest.first)
            .filter(|first| *first != NO_FIRST)
            .unwrap_or((seq + 1, last));
        let mut current = newest.map_or_else(|| Segment::new(dir, 1), |newest| newest.segment);
        let file = open_append(&current.path).map_err(AuditError::io(&current.path))?;
        let torn = cut_torn(&file, &mut current, tail.torn)?;
        let crashed = !is_new && (!head.closed || torn.is_some() || tail.after_head > 0);
        let mut store = Self {
            dir: dir.to_owned(),
            key,
            bounds,
            old: files,
            file,
            current,
            current_first,
            buffer: Vec::new(),
            untidy: false,
            seq,
            last,
            head,
            _lock: lock,
        };
        let report =
            crashed.then(|| recovered(&store.head, tail.after_head, torn, now).under(policy));
        // The store is in use before it has a record of this broker.
        store.cover(false, now).map_err(AuditError::io(dir))?;
        if let Some(record) = report {
            store
                .append(record.as_ref(), now)
                .map_err(AuditError::io(dir))?;
            store.commit(false, now).map_err(AuditError::io(dir))?;
        }
        Ok(store)
    }

    /// Makes room in the buffer, once, for so many records with so many bytes of text, which are
    /// about to be appended.
    pub(crate) fn expect(&mut self, records: usize, bytes: usize) {
        let overhead = usize::try_from(LINE_OVERHEAD).unwrap_or(0);
        self.buffer
            .reserve(bytes.saturating_add(records.saturating_mul(overhead)));
    }

    /// Seals a record into the buffer; `false` where the store is full and the record is lost.
    ///
    /// An error leaves everything as it was, so that the record can be given again.
    pub(crate) fn append(&mut self, record: Record<&str>, now: Now) -> io::Result<bool> {
        // At most.
        let size = record.text.len() as u64 + LINE_OVERHEAD;
        if !self.make_room(size, record.vital, now)? {
            return Ok(false);
        }
        let filled = self.current.bytes + self.buffer.len() as u64;
        if filled > 0 && filled + size > self.bounds.segment_bytes {
            self.commit(false, now)?;
            self.rotate()?;
        }
        self.seq += 1;
        self.last = chain::seal(self.seq, record.text, self.last, &mut self.buffer);
        Ok(true)
    }

    /// Brings the buffer to disk, then a head that covers it.
    pub(crate) fn commit(&mut self, closed: bool, now: Now) -> io::Result<()> {
        if !self.buffer.is_empty() {
            if self.untidy {
                self.file.set_len(self.current.bytes)?;
            }
            self.untidy = true;
            self.file.write_all(&self.buffer)?;
            // A failed sync says nothing about what is on disk: all of it is written again.
            self.file.sync_data()?;
            self.untidy = false;
            self.current.bytes += self.buffer.len() as u64;
            self.buffer.clear();
            // A storm of connects leaves megabytes behind otherwise.
            self.buffer.shrink_to(SPARE);
        }
        if self.head.count != self.seq || self.head.closed != closed {
            self.cover(closed, now)?;
            self.keep_reserve();
        }
        Ok(())
    }

    /// Writes a head that covers all records; they are on disk.
    fn cover(&mut self, closed: bool, now: Now) -> io::Result<()> {
        self.write_head(Head {
            count: self.seq,
            last: self.last,
            time: rfc3339(now.wall),
            closed,
            ..self.head.clone()
        })
    }

    /// Bytes of all records, those in the buffer included.
    pub(crate) fn bytes(&self) -> u64 {
        let old: u64 = self.old.iter().map(|old| old.segment.bytes).sum();
        old + self.current.bytes + self.buffer.len() as u64
    }

    /// Number of the last record.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether an ordinary record no longer fits.
    pub(crate) fn is_full(&self) -> bool {
        match self.bounds.on_full {
            OnFull::DropOldest => false,
            OnFull::RefuseNew | OnFull::Stop => {
                self.bytes() + 2 * LINE_OVERHEAD > self.bounds.max_bytes - self.bounds.vital_bytes()
            }
        }
    }

    fn make_room(&mut self, size: u64, vital: bool, now: Now) -> io::Result<bool> {
        match self.bounds.on_full {
            OnFull::RefuseNew | OnFull::Stop => {
                let reserved = if vital { 0 } else { self.bounds.vital_bytes() };
                Ok(self.bytes() + size <= self.bounds.max_bytes - reserved)
            }
            OnFull::DropOldest => {
                while self.bytes() + size > self.bounds.max_bytes && !self.old.is_empty() {
                    self.drop_oldest(now)?;
                }
                Ok(true)
            }
        }
    }

    /// Removes the oldest segment. The head says so first, and durably, so a crash in between
    /// leaves too much, never a gap.
    pub(crate) fn drop_oldest(&mut self, now: Now) -> io::Result<()> {
        let (first, first_prev) = self
            .old
            .get(1)
            .map_or(self.current_first, |next| next.first);
        let Some(oldest) = self.old.front() else {
            return Ok(());
        };
        let path = oldest.segment.path.clone();
        self.write_head(Head {
            first,
            first_prev,
            time: rfc3339(now.wall),
            closed: false,
            ..self.head.clone()
        })?;
        File::open(&self.dir)?.sync_all()?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => {
                self.old.pop_front();
                Ok(())
            }
        }
    }

    /// Starts a new segment; everything before it is on disk.
    fn rotate(&mut self) -> io::Result<()> {
        let next = Segment::new(&self.dir, self.current.index.saturating_add(1));
        let file = open_append(&next.path)?;
        File::open(&self.dir)?.sync_all()?;
        self.file = file;
        let segment = std::mem::replace(&mut self.current, next);
        let first = std::mem::replace(&mut self.current_first, (self.seq + 1, self.last));
        self.old.push_back(Finished { segment, first });
        Ok(())
    }

    fn write_head(&mut self, head: Head) -> io::Result<()> {
        let text = head.sign(&self.key);
        let mut written = replace(&self.dir, HEAD, text.as_bytes());
        if written.as_ref().is_err_and(is_disk_full) {
            // Best effort: without a reserve the second try fails like the first.
            let _ = fs::remove_file(self.dir.join(RESERVE));
            written = replace(&self.dir, HEAD, text.as_bytes());
        }
        written?;
        self.head = head;
        Ok(())
    }

    /// Makes the reserve again where it was used. A disk that has no room for it is no error yet.
    fn keep_reserve(&self) {
        let path = self.dir.join(RESERVE);
        if !path.exists() && fs::write(&path, vec![0; RESERVE_BYTES]).is_err() {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Whether an error says that space is what is missing.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn broken(file: &str, reason: &str) -> AuditError {
    AuditError::Broken(verify::Fault {
        file: file.to_owned(),
        line: 0,
        reason: reason.to_owned(),
    })
}

fn lock(dir: &Path) -> Result<File, AuditError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(AuditError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AuditError::InUse {
            path: dir.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(AuditError::io(path)(error)),
    }
}

/// Reads the key; makes one only for a new store.
fn open_key(dir: &Path, is_new: bool) -> Result<SigningKey, AuditError> {
    let path = dir.join(KEY);
    let wrong = |reason| AuditError::Key {
        path: path.clone(),
        reason,
    };
    match File::open(&path) {
        Ok(file) => {
            let mode = file
                .metadata()
                .map_err(AuditError::io(&path))?
                .permissions()
                .mode();
            if mode & 0o077 != 0 {
                return Err(wrong("others may read it: chmod 600"));
            }
            let mut text = Zeroizing::new(String::with_capacity(MAX_KEY));
            file.take(MAX_KEY as u64)
                .read_to_string(&mut text)
                .map_err(AuditError::io(&path))?;
            SigningKey::from_pem(&text)
                .ok_or_else(|| wrong("not an Ed25519 private key (PKCS #8, PEM)"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_new => {
            let (key, pem) =
                SigningKey::generate().ok_or_else(|| wrong("no randomness for a new key"))?;
            let write = || {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)?;
                file.write_all(pem.as_bytes())?;
                file.sync_all()
            };
            write().map_err(AuditError::io(&path))?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(wrong(
            "missing, so the record cannot be continued: restore it, or give [audit] path another directory",
        )),
        Err(error) => Err(AuditError::io(&path)(error)),
    }
}

/// The public part, written where it is missing; it must be that of the key.
fn public_key(dir: &Path, key: &SigningKey) -> Result<PublicKey, AuditError> {
    let path = dir.join(PUBLIC_KEY);
    let wrong = |reason| AuditError::Key {
        path: path.clone(),
        reason,
    };
    let public = key
        .public()
        .ok_or_else(|| wrong("the key has no public part"))?;
    match fs::read_to_string(&path) {
        Ok(text) if text == public.to_pem() => Ok(public),
        Ok(_) => Err(wrong("not the public part of audit.key")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace(dir, PUBLIC_KEY, public.to_pem().as_bytes()).map_err(AuditError::io(&path))?;
            Ok(public)
        }
        Err(error) => Err(AuditError::io(&path)(error)),
    }
}

/// Number and link of each file's first record; `None` for a file without a complete line.
fn first_links(segments: &[Segment]) -> Result<Vec<Option<(u64, Hash)>>, AuditError> {
    let mut text = Vec::new();
    segments
        .iter()
        .map(|segment| match segment.lines()?.next(&mut text)? {
            Next::Line => {
                let link = chain::unseal(&text)
                    .map_err(|reason| broken(&Segment::name(segment.index), reason))?;
                Ok(Some((link.seq, link.prev)))
            }
            Next::Torn | Next::TooLong | Next::End => Ok(None),
        })
        .collect()
}

/// What the end of an existing store looks like.
struct Tail {
    last: Option<(u64, Hash)>,
    torn: u64,
    after_head: u64,
}

/// Verifies from the file that holds the head's last record to the end; `portcullis audit verify`
/// looks at the whole.
fn check_tail(files: &VecDeque<Finished>, head: &Head) -> Result<Tail, AuditError> {
    let from = files
        .iter()
        .rposition(|file| file.first.0 <= head.count.max(1))
        .unwrap_or_default();
    let tail: Vec<Segment> = files
        .iter()
        .skip(from)
        .map(|file| file.segment.clone())
        .collect();
    let mut scan = Scan::new(head, false);
    scan.segments(&tail)?
        .and_then(|()| scan.end(&tail))
        .map_err(AuditError::Broken)?;
    Ok(Tail {
        last: scan.last.map(|link| (link.seq, link.hash)),
        torn: scan.torn,
        after_head: scan.after_head,
    })
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Cuts an incomplete last line off; says how long it was and its hash.
fn cut_torn(
    file: &File,
    current: &mut Segment,
    torn: u64,
) -> Result<Option<(u64, Hash)>, AuditError> {
    if torn == 0 {
        return Ok(None);
    }
    let whole = current.bytes.saturating_sub(torn);
    let cut = || {
        let mut reader = file;
        let mut bytes = Vec::new();
        reader.seek(SeekFrom::Start(whole))?;
        reader.take(torn).read_to_end(&mut bytes)?;
        file.set_len(whole)?;
        file.sync_all()?;
        Ok(Hash::of(&bytes))
    };
    let hash = cut().map_err(AuditError::io(&current.path))?;
    current.bytes = whole;
    Ok(Some((torn, hash)))
}

fn recovered(head: &Head, after_head: u64, torn: Option<(u64, Hash)>, now: Now) -> Record {
    let mut facts = Facts::new(Kind::Recovered, now.wall);
    facts
        .text(
            "reason",
            "the broker before this one did not end in good order",
        )
        .text("head_time", &head.time)
        .number("head_count", head.count)
        .number("after_head", after_head);
    if let Some((bytes, hash)) = torn {
        facts
            .number("cut_bytes", bytes)
            .text("cut_sha256", &hash.hex());
    }
    facts.finish()
}

/// Replaces a file as a whole: after a crash there is the old one or the new one.
fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(new, dir.join(name))
}
