//! An issuer of tokens for a first set-up and for tests.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_auth::{ed25519_public_pem, generate_ed25519, issue_ed25519};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::files::{PRIVATE, PUBLIC, exists, lock, make_directory, read_text, write_new};
use super::{Error, Made, REMAKE, broken};

/// An issuer of tokens: `issuer.key` (Ed25519, PKCS#8) and `issuer.pub` in a directory.
#[derive(Debug)]
pub struct TokenIssuer {
    directory: PathBuf,
}

impl TokenIssuer {
    /// Opens `directory`; makes it, the key and the public key if they are not there.
    ///
    /// # Errors
    ///
    /// Files that cannot be read or written, or a key that is none.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        make_directory(directory)?;
        let issuer = Self {
            directory: directory.to_owned(),
        };
        let _lock = lock(directory)?;
        let key_path = issuer.key_path();
        if !exists(&key_path)? {
            let key = generate_ed25519().map_err(|error| Error::Crypto {
                what: "a key",
                why: error.to_string(),
            })?;
            write_new(&key_path, key.as_bytes(), PRIVATE)?;
        }
        let public = issuer.public_key_path();
        if !exists(&public)? {
            let key = Zeroizing::new(read_text(&key_path)?);
            let key = ed25519_public_pem(&key).map_err(|_| no_token_key(&key_path))?;
            write_new(&public, key.as_bytes(), PUBLIC)?;
        }
        Ok(issuer)
    }

    /// The path of the private key.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.directory.join("issuer.key")
    }

    /// The path of the public key, for `key-file` in `[[auth.jwt]]`.
    #[must_use]
    pub fn public_key_path(&self) -> PathBuf {
        self.directory.join("issuer.pub")
    }

    /// Makes a token for `subject`, signed with `EdDSA`, that counts from `now` for `lifetime`.
    ///
    /// # Errors
    ///
    /// A key that is missing or none.
    pub fn issue(
        &self,
        (issuer, audience, subject): (&str, &str, &str),
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Zeroizing<String>, Error> {
        let path = self.key_path();
        let key = Zeroizing::new(read_text(&path)?);
        let iat = unix_seconds(now);
        let exp = iat.saturating_add(lifetime.as_secs());
        let claims = Map::from_iter([
            ("iss".to_owned(), Value::from(issuer)),
            ("aud".to_owned(), Value::from(vec![audience])),
            ("sub".to_owned(), Value::from(subject)),
            ("jti".to_owned(), Value::from(random_jti()?)),
            ("iat".to_owned(), Value::from(iat)),
            ("exp".to_owned(), Value::from(exp)),
        ]);
        issue_ed25519(&key, None, &claims)
            .map(Zeroizing::new)
            .map_err(|_| no_token_key(&path))
    }

    /// Makes a token as [`TokenIssuer::issue`] does and keeps it in `FILE`, readable by its owner
    /// alone, unless there is one.
    ///
    /// # Errors
    ///
    /// A key that is missing or none, or a file that cannot be written.
    pub fn issue_file(
        &self,
        file: &Path,
        names: (&str, &str, &str),
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Made, Error> {
        if exists(file)? {
            return Ok(Made::Kept);
        }
        let mut line = self.issue(names, now, lifetime)?;
        line.push('\n');
        write_new(file, line.as_bytes(), PRIVATE)?;
        Ok(Made::New)
    }
}

/// A claim `jti` that no other token has and nobody guesses (RFC 7519, section 4.1.7): 128 random
/// bits.
///
/// # Errors
///
/// The system gives no random numbers.
pub fn random_jti() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Crypto {
        what: "a random jti",
        why: error.to_string(),
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// When the token in a file ends, by its own word: the signature is not looked at.
///
/// # Errors
///
/// A file that cannot be read or does not hold a token with `exp`.
pub fn token_end(path: &Path) -> Result<SystemTime, Error> {
    #[derive(Deserialize)]
    struct End {
        exp: u64,
    }

    let text = Zeroizing::new(read_text(path)?);
    let claims = text.trim().split('.').nth(1);
    let end = claims
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|claims| serde_json::from_slice::<End>(&claims).ok())
        .and_then(|end| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end.exp)));
    end.ok_or_else(|| broken(path, "not a token".to_owned(), REMAKE))
}

fn no_token_key(path: &Path) -> Error {
    broken(path, "not an Ed25519 key in PKCS #8 PEM".to_owned(), REMAKE)
}

pub(super) fn unix_seconds(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
