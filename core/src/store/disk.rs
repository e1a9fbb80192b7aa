//! What the log asks of a file system. A trait, so that tests can make every step of it fail.
//!
//! Reading happens only at start and goes to `std::fs` directly: what a broken disk can do there
//! is a wrong byte, and tests write those into files.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::StoreError;

/// Writing, as the log needs it.
pub trait Disk: Send + Sync {
    /// Creates a file, or empties one that is there. Others than the owner cannot read it.
    ///
    /// # Errors
    ///
    /// As of the operating system.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for appending after cutting it to `length` bytes.
    ///
    /// # Errors
    ///
    /// As of the operating system.
    fn cut(&self, path: &Path, length: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what has that name.
    ///
    /// # Errors
    ///
    /// As of the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    ///
    /// As of the operating system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in `dir` durable.
    ///
    /// # Errors
    ///
    /// As of the operating system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// One file that the log writes, from front to end.
pub trait DiskFile: Send {
    /// Writes some of `bytes` at the end and says how many.
    ///
    /// # Errors
    ///
    /// As of the operating system.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Returns when all that was written would survive a loss of power.
    ///
    /// # Errors
    ///
    /// As of the operating system; after one, nobody knows what is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSystem;

impl Disk for FileSystem {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(options.open(path)?))
    }

    fn cut(&self, path: &Path, length: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().append(true).open(path)?;
        file.set_len(length)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Writes all of `bytes`. Where the disk is full, `wait` is asked: `true` is "try again".
pub(super) fn write_all(
    file: &mut dyn DiskFile,
    mut bytes: &[u8],
    wait: &mut dyn FnMut() -> bool,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_full(&error) && wait() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the error goes away when somebody makes room.
pub(super) fn is_full(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::StorageFull || kind == io::ErrorKind::QuotaExceeded
}

/// A directory that no other process has. The lock goes with the process, however it ends.
#[derive(Debug)]
pub(super) struct Locked {
    _file: File,
}

impl Locked {
    /// Creates the directory if need be, and locks it.
    pub(super) fn new(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::io(dir, source);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir).map_err(failed)?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked {
                    dir: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::io(&path, source)),
        }
        // For people only.
        let _ = file.set_len(0);
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Self { _file: file })
    }
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:012}.log"))
}

/// The segments in `dir`, in order. Half-made ones of a process that died are removed.
pub(super) fn segments(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let failed = |source| StoreError::io(dir, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(number) = name.and_then(|name| name.strip_suffix(".log")) {
            if let Ok(number) = number.parse() {
                found.push(number);
            }
        } else if name.is_some_and(|name| name.ends_with(".log.new")) {
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    found.sort_unstable();
    Ok(found)
}
