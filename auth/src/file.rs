//! Reading configured files: bounded, and with errors that say what to do.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::Error;

/// Reads a file of at most `limit` bytes.
///
/// # Errors
///
/// Missing, unreadable, not a regular file, or larger.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let failed = |error: &std::io::Error| {
        let kind = error.kind();
        if kind == ErrorKind::NotFound {
            Error::file(
                path,
                "there is no such file",
                "correct the path (relative ones start at the configuration file)",
            )
        } else if kind == ErrorKind::PermissionDenied {
            Error::file(
                path,
                "permission denied",
                "make it readable for the user that runs the broker",
            )
        } else {
            Error::file(path, format!("cannot be read: {error}"), "correct the path")
        }
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        return Err(Error::file(path, "is a directory", "name a file in it"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::file(
            path,
            format!("is larger than {limit} bytes"),
            "use a smaller file",
        ));
    }
    Ok(bytes)
}

/// A warning for a file of secrets that others may read or write; `None` where that is not so or
/// cannot be told.
pub(crate) fn exposed(path: &Path) -> Option<String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
        (mode & 0o007 != 0).then(|| {
            format!(
                "{}: everybody on this machine may open it (mode {mode:04o}); chmod 600 it",
                path.display()
            )
        })
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
