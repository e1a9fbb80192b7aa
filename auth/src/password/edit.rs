//! Editing a password file in one step: a new file beside it, synced, then renamed over it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Version};
use aws_lc_rs::rand;
use portcullis_core::secret::Secret;
use zeroize::Zeroizing;

use crate::scram::Verifier;

use super::{Cost, MAX_FILE, Users, check_user, unmarked};
use crate::der::hex;
use crate::{Error, file};

/// Gives `user` this password, as a new user or instead of the old one. The file is made if it is
/// not there, and readable by its owner alone; one that is there keeps its owner and group.
///
/// # Errors
///
/// An impossible user name, an empty password, another line that is broken, or a directory that
/// cannot be written to.
pub fn set(path: &Path, user: &str, password: Secret<'_>) -> Result<(), Error> {
    check_user(user).map_err(|(problem, remedy)| Error::setting(problem, remedy))?;
    if password.expose().is_empty() {
        return Err(Error::setting("the password is empty", "choose one"));
    }
    let line = format!("{user}:{}:{}", hash(password)?, verifier(password)?.text());
    edit(path, true, |lines| {
        let of_user = |line: &&mut String| name(line) == Some(user);
        match lines.iter_mut().find(of_user) {
            Some(old) => *old = line,
            None => lines.push(line),
        }
        Ok(())
    })
}

/// Removes `user`.
///
/// # Errors
///
/// There is no such user, it is the last one (a file without users is a broken file, and a broker
/// would keep the old one), or the file cannot be replaced.
pub fn delete(path: &Path, user: &str) -> Result<(), Error> {
    edit(path, false, |lines| {
        let before = lines.len();
        lines.retain(|line| name(line) != Some(user));
        if lines.len() == before {
            return Err(Error::file(
                path,
                format!("has no user {user:?}"),
                "list the users to see the names",
            ));
        }
        if !lines.iter().any(|line| name(line).is_some()) {
            return Err(Error::file(
                path,
                format!(
                    "{user:?} is the last user, and a broker keeps its old users when the file is empty"
                ),
                "add another user first, or remove password-file from the configuration",
            ));
        }
        Ok(())
    })
}

/// The users, in the order of the file.
///
/// # Errors
///
/// A broken file.
pub fn list(path: &Path) -> Result<Vec<String>, Error> {
    let bytes = file::read(path, MAX_FILE)?;
    Users::parse(path, &bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(unmarked(&text)
        .split('\n')
        .filter_map(name)
        .map(str::to_owned)
        .collect())
}

/// The user of a line; `None` for comments and blank lines.
fn name(line: &str) -> Option<&str> {
    if line.starts_with('#') {
        return None;
    }
    line.split_once(':').map(|(user, _)| user)
}

fn edit(
    path: &Path,
    create: bool,
    change: impl FnOnce(&mut Vec<String>) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |error: &io::Error| {
        Error::file(
            path,
            format!("cannot be replaced: {error}"),
            "check the rights on its directory",
        )
    };
    // Through a symbolic link the file itself is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let directory_handle = File::open(&directory).map_err(|error| failed(&error))?;
    // Two edits at once would lose one. The lock ends with the handle.
    directory_handle.lock().map_err(|error| failed(&error))?;

    let before = match fs::metadata(&target) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(Error::file(
                path,
                "is not a regular file",
                "name another one",
            ));
        }
        Ok(metadata) => Some(metadata),
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It says what to do.
            return file::read(&target, MAX_FILE).map(drop);
        }
        Err(error) => return Err(failed(&error)),
    };
    let old = match before {
        None => Vec::new(),
        Some(_) => file::read(&target, MAX_FILE)?,
    };
    let text = String::from_utf8(old)
        .map_err(|_| Error::file(path, "is not UTF-8", "write it with portcullis passwd"))?;
    let text = unmarked(&text);
    let mut lines: Vec<String> = text
        .strip_suffix('\n')
        .unwrap_or(text)
        .split('\n')
        .map(str::to_owned)
        .collect();
    if text.is_empty() {
        lines.clear();
    }
    change(&mut lines)?;
    let mut text = lines.join("\n");
    text.push('\n');
    Users::parse(path, text.as_bytes())?;
    replace(&target, before.as_ref(), &directory, text.as_bytes()).map_err(|why| match why {
        Unreplaced::Owner(error) => Error::file(
            path,
            format!("the new file cannot be given to the old one's owner and group: {error}"),
            "run this as root, or as the file's owner and a member of its group",
        ),
        Unreplaced::Other(error) => failed(&error),
    })?;
    directory_handle.sync_all().map_err(|error| failed(&error))
}

/// Why a file was not replaced.
enum Unreplaced {
    /// The new one cannot be given to whom the old one belongs.
    Owner(io::Error),
    Other(io::Error),
}

impl From<io::Error> for Unreplaced {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

fn replace(
    target: &Path,
    before: Option<&Metadata>,
    directory: &Path,
    bytes: &[u8],
) -> Result<(), Unreplaced> {
    let mut random = [0; 8];
    rand::fill(&mut random).map_err(|_| io::Error::other("no random name"))?;
    let mut new = directory.join(format!(".passwd-{}.new", hex(&random)));
    if new == target {
        new.set_extension("newer");
    }
    let written = write_new(&new, before, bytes).and_then(|()| Ok(fs::rename(&new, target)?));
    if written.is_err() {
        // Nothing more can be done; the first error is the one that matters.
        let _ = fs::remove_file(&new);
    }
    written
}

/// The new file belongs to whom the old one belonged, and its group may read it if it could: a
/// broker that runs as another user than the one who edits must not lose its users by that.
fn write_new(path: &Path, before: Option<&Metadata>, bytes: &[u8]) -> Result<(), Unreplaced> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    #[cfg(unix)]
    if let Some(before) = before {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (before.uid(), before.gid()) {
            fchown(&file, Some(before.uid()), Some(before.gid())).map_err(Unreplaced::Owner)?;
        }
        let group = before.mode() & 0o040;
        file.set_permissions(fs::Permissions::from_mode(0o600 | group))?;
    }
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

/// A SCRAM verifier with a new salt.
fn verifier(password: Secret<'_>) -> Result<Verifier, Error> {
    let failed = || Error::setting("the password could not be hashed", "try again");
    let mut salt = [0; Verifier::SALT];
    rand::fill(&mut salt).map_err(|_| failed())?;
    Verifier::make(password.expose(), &salt, Verifier::ITERATIONS).ok_or_else(failed)
}

/// A PHC string with a new salt.
fn hash(password: Secret<'_>) -> Result<String, Error> {
    let failed = || Error::setting("the password could not be hashed", "try again");
    let params = Cost::DEFAULT.params(32).ok_or_else(failed)?;
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| failed())?;
    let mut output = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into(password.expose(), &salt, output.as_mut())
        .map_err(|_| failed())?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.into(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|_| failed())?,
        salt: Some(Salt::new(&salt).map_err(|_| failed())?),
        hash: Some(Output::new(output.as_ref()).map_err(|_| failed())?),
    };
    Ok(hash.to_string())
}
