//! Files that are written whole or not at all, and with their mode from the first moment.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::Error;

/// Makes a directory, with the ones above it, readable by its owner alone; one that is there
/// stays as it is.
///
/// # Errors
///
/// What the system says.
pub fn make_directory(path: &Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(io_error(path))
}

/// Mode of a file that others may read.
pub const PUBLIC: u32 = 0o644;

/// Mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;

/// Writes a file that is not there yet: whole or not at all, on disk when this returns, and with
/// its mode from the first moment.
///
/// # Errors
///
/// What the system says; nothing is left behind.
pub fn write_new(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    // What a killed run of the same process number left behind.
    let _ = fs::remove_file(&temporary);
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        io_error(path)(error)
    })
}

/// Writes a file that others may read in place of one that may be there, in one step.
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<(), Error> {
    write_new(path, contents, PUBLIC)
}

/// Holds a directory of keys while something is made in it. Two commands at once would otherwise lose
/// a revocation, or leave the certificate of one beside the key of the other.
///
/// # Errors
///
/// What the system says.
pub(super) fn lock(directory: &Path) -> Result<File, Error> {
    let locked = File::open(directory).and_then(|handle| handle.lock().map(|()| handle));
    locked.map_err(io_error(directory))
}

/// Whether there is a file; what cannot be told is an error, lest it be overwritten.
///
/// # Errors
///
/// What the system says.
pub fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(io_error(path))
}

pub(super) fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(io_error(path))
}

pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(io_error(path))
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
