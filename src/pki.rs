//! A starter PKI: one certificate authority, server and client certificates, and an issuer of
//! tokens, for a first set-up and for tests.
//!
//! What holds:
//!
//! 1. **What exists is kept.** Nothing here overwrites a file. A certificate that is missing
//!    beside its key is made for that key; with the CA's key taken away (a good idea), everything
//!    that is complete goes on working.
//! 2. **A private key is never readable by others**, not for a moment: it is written under
//!    another name, created with mode 0600, and renamed when it is complete.
//! 3. **Everything ends**: the CA after ten years, certificates after one year, tokens when their
//!    maker says.
//!
//! Revoking is a line in `revoked.txt` and a new `ca.crl`: the one thing here that is replaced. There
//! is no renewal and no protection of the CA's key beyond file modes: for more than a start, bring
//! certificates of a real CA.
//!
//! Keys are ECDSA P-256 (certificates) and Ed25519 (tokens). Time is an argument.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use portcullis_auth::{ed25519_public_pem, generate_ed25519, issue_ed25519};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// How long the CA's certificate counts: ten years.
pub const CA_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// How long a server's or client's certificate counts: one year.
pub const LEAF_LIFETIME: Duration = Duration::from_hours(365 * 24);
/// How long a revocation list counts: a month. The broker refuses all clients when it is over (and
/// `crl-grace` too), so a timer must make a new one before.
pub const CRL_LIFETIME: Duration = Duration::from_hours(30 * 24);
/// Clocks may differ: certificates count from an hour before they are made.
const BACKDATED: Duration = Duration::from_hours(1);

/// Whether a file is there because it was made now or because it was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was made.
    New,
    /// It was there.
    Kept,
}

/// Why a key, a certificate or a token cannot be made or read.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or directory that cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{path}: {why}; {remedy}", path = .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A name that cannot be a certificate's.
    #[error(
        "{0:?} cannot be the name of a certificate; use 1 to 64 letters, digits, hyphens, dots and underscores, \
         beginning with a letter or digit, and not \"ca\""
    )]
    Name(String),
    /// A key or signature that could not be made.
    #[error("cannot make {what}: {why}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// What the library said.
        why: String,
    },
}

/// A directory with `ca.pem` and `ca.key`, and `NAME.pem` and `NAME.key` for everybody else.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    now: OffsetDateTime,
}

impl Pki {
    /// Opens `directory`; makes it, with mode 0700, if it is not there. Certificates made count
    /// from `now`.
    ///
    /// # Errors
    ///
    /// A directory that cannot be made.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, Error> {
        make_directory(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            now: now.into(),
        })
    }

    /// Makes the CA unless it is there.
    ///
    /// # Errors
    ///
    /// Files that cannot be written.
    pub fn ca(&self) -> Result<Made, Error> {
        let certificate = self.certificate_path("ca");
        if exists(&certificate)? {
            return Ok(Made::Kept);
        }
        let key = self.key("ca")?;
        let mut params = CertificateParams::default();
        // Two starter CAs on one machine must not be taken for each other.
        let name = format!("Portcullis starter CA {:08x}", random()?);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        self.set_validity(&mut params, CA_LIFETIME);
        let made = params.self_signed(&key).map_err(crypto("the CA"))?;
        write_new(&certificate, made.pem().as_bytes(), PUBLIC)?;
        Ok(Made::New)
    }

    /// Makes the certificate `server` for `names`, host names and IP addresses, unless it is
    /// there.
    ///
    /// # Errors
    ///
    /// A CA that is missing or broken, a name that is no host name, files that cannot be written.
    pub fn server(&self, names: &[String]) -> Result<Made, Error> {
        let purpose = ExtendedKeyUsagePurpose::ServerAuth;
        self.leaf("server", purpose, || {
            CertificateParams::new(names)
                .map(|params| params.subject_alt_names)
                .map_err(crypto("the server certificate"))
        })
    }

    /// Makes a client certificate with `name` as its common name, unless it is there.
    ///
    /// # Errors
    ///
    /// A name that cannot be a file and a topic level, a CA that is missing or broken, files that
    /// cannot be written.
    pub fn client(&self, name: &str) -> Result<Made, Error> {
        if !is_name(name) {
            return Err(Error::Name(name.to_owned()));
        }
        self.leaf(name, ExtendedKeyUsagePurpose::ClientAuth, || Ok(Vec::new()))
    }

    /// The path of a certificate.
    #[must_use]
    pub fn certificate_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    /// The path of a private key.
    #[must_use]
    pub fn key_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    /// Revokes the certificate of `name` and makes a new list. Once is enough: `Kept` says that it
    /// was revoked before.
    ///
    /// # Errors
    ///
    /// No such certificate, a CA that is missing or broken, files that cannot be written.
    pub fn revoke(&self, name: &str) -> Result<Made, Error> {
        if !is_name(name) {
            return Err(Error::Name(name.to_owned()));
        }
        let serial = certificate_serial(&self.certificate_path(name))?;
        let mut revoked = self.revoked()?;
        let made = if revoked.iter().any(|known| known.serial == serial) {
            Made::Kept
        } else {
            revoked.push(Revoked {
                serial,
                time: self.now,
                name: name.to_owned(),
            });
            let lines: String = revoked.iter().map(Revoked::line).collect();
            replace(&self.revoked_path(), lines.as_bytes())?;
            Made::New
        };
        self.crl()?;
        Ok(made)
    }

    /// Makes `ca.crl`, signed by the CA, with everything that was revoked; it counts for
    /// [`CRL_LIFETIME`]. Gives how many certificates are on it.
    ///
    /// # Errors
    ///
    /// A CA that is missing or broken, files that cannot be read or written.
    pub fn crl(&self) -> Result<usize, Error> {
        let revoked = self.revoked()?;
        let certificate = |entry: &Revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&entry.serial),
            revocation_time: entry.time,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: self.now.saturating_sub(signed(BACKDATED)),
            next_update: self.now.saturating_add(signed(CRL_LIFETIME)),
            // Numbers must grow; time does.
            crl_number: SerialNumber::from(unix_seconds(self.now.into())),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(certificate).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let made = list.signed_by(&self.issuer()?).map_err(crypto("a CRL"))?;
        let pem = made.pem().map_err(crypto("a CRL"))?;
        replace(&self.crl_path(), pem.as_bytes())?;
        Ok(revoked.len())
    }

    /// The path of the revocation list.
    #[must_use]
    pub fn crl_path(&self) -> PathBuf {
        self.directory.join("ca.crl")
    }

    fn revoked_path(&self) -> PathBuf {
        self.directory.join("revoked.txt")
    }

    /// What was revoked, in order.
    fn revoked(&self) -> Result<Vec<Revoked>, Error> {
        let path = self.revoked_path();
        if !exists(&path)? {
            return Ok(Vec::new());
        }
        let text = read_text(&path)?;
        let lines = text.lines().enumerate();
        lines
            .map(|(at, line)| {
                Revoked::parse(line).ok_or_else(|| {
                    let why = format!("line {} is not SERIAL TIME NAME", at + 1);
                    broken(&path, why, "restore it: what it lists must stay revoked")
                })
            })
            .collect()
    }

    fn leaf(
        &self,
        name: &str,
        purpose: ExtendedKeyUsagePurpose,
        alternative_names: impl FnOnce() -> Result<Vec<SanType>, Error>,
    ) -> Result<Made, Error> {
        let certificate = self.certificate_path(name);
        if exists(&certificate)? {
            return Ok(Made::Kept);
        }
        let issuer = self.issuer()?;
        let key = self.key(name)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = alternative_names()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        self.set_validity(&mut params, LEAF_LIFETIME);
        let made = params
            .signed_by(&key, &issuer)
            .map_err(crypto("a certificate"))?;
        write_new(&certificate, made.pem().as_bytes(), PUBLIC)?;
        Ok(Made::New)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        const REMEDY: &str = "restore it, or start over in another directory";
        let path = self.certificate_path("ca");
        let key = read_key(&self.key_path("ca"))?;
        let text = read_text(&path)?;
        let issuer = Issuer::from_ca_cert_pem(&text, key);
        issuer.map_err(|error| broken(&path, format!("not a CA certificate: {error}"), REMEDY))
    }

    /// The key of `name`; made if it is not there. A certificate that has lost its key is of no
    /// use, but is not this function's business: it is not called then.
    fn key(&self, name: &str) -> Result<KeyPair, Error> {
        let path = self.key_path(name);
        if exists(&path)? {
            return read_key(&path);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto("a key"))?;
        write_new(
            &path,
            Zeroizing::new(key.serialize_pem()).as_bytes(),
            PRIVATE,
        )?;
        Ok(key)
    }

    fn set_validity(&self, params: &mut CertificateParams, lifetime: Duration) {
        params.not_before = self.now.saturating_sub(signed(BACKDATED));
        params.not_after = self.now.saturating_add(signed(lifetime));
    }
}

/// A line of `revoked.txt`.
struct Revoked {
    serial: Vec<u8>,
    time: OffsetDateTime,
    name: String,
}

impl Revoked {
    fn line(&self) -> String {
        let mut serial = String::new();
        for byte in &self.serial {
            // Writing to a String cannot fail.
            let _ = write!(serial, "{byte:02x}");
        }
        format!("{serial} {} {}\n", self.time.unix_timestamp(), self.name)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (serial, time, name) = (words.next()?, words.next()?, words.next()?);
        let digits = serial.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair)
                .ok()
                .filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        let serial: Vec<u8> = digits.collect::<Option<_>>()?;
        let time = OffsetDateTime::from_unix_timestamp(time.parse().ok()?).ok()?;
        (!serial.is_empty() && words.next().is_none()).then(|| Self {
            serial,
            time,
            name: name.to_owned(),
        })
    }
}

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

/// When the first certificate in a PEM file ends.
///
/// # Errors
///
/// A file that cannot be read or does not begin with a certificate.
pub fn certificate_end(path: &Path) -> Result<SystemTime, Error> {
    const REMEDY: &str = "name a PEM file with a certificate";
    let bytes = read_bytes(path)?;
    let no_certificate = || broken(path, "not a certificate".to_owned(), REMEDY);
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| no_certificate())?;
    let certificate = pem.parse_x509().map_err(|_| no_certificate())?;
    Ok(certificate.validity().not_after.to_datetime().into())
}

/// The serial number of the first certificate in a PEM file.
fn certificate_serial(path: &Path) -> Result<Vec<u8>, Error> {
    const REMEDY: &str = "name a client that pki client has made";
    let bytes = read_bytes(path)?;
    let no_certificate = || broken(path, "not a certificate".to_owned(), REMEDY);
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| no_certificate())?;
    let certificate = pem.parse_x509().map_err(|_| no_certificate())?;
    Ok(certificate.raw_serial().to_vec())
}

/// When the token in a file ends, by its own word: the signature is not looked at.
///
/// # Errors
///
/// A file that cannot be read or does not hold a token with `exp`.
pub fn token_end(path: &Path) -> Result<SystemTime, Error> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

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

/// The names by which clients on this machine and around it may call the server: `localhost`, the
/// host name, both loopback addresses, and `bind` unless it stands for all addresses.
#[must_use]
pub fn server_names(bind: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if is_name(host) {
        names.push(host.to_owned());
    }
    names.extend(["127.0.0.1".to_owned(), "::1".to_owned()]);
    if !bind.is_unspecified() {
        names.push(bind.to_string());
    }
    names.sort_unstable();
    names.dedup();
    names
}

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
fn replace(path: &Path, contents: &[u8]) -> Result<(), Error> {
    write_new(path, contents, PUBLIC)
}

/// Whether there is a file; what cannot be told is an error, lest it be overwritten.
///
/// # Errors
///
/// What the system says.
pub fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(io_error(path))
}

const REMAKE: &str = "remove it to have another made";

/// A name that is safe as a file name, a topic level and a common name (X.520 ends that at 64).
fn is_name(name: &str) -> bool {
    const MAX: usize = 64;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    starts && name.len() <= MAX && name.chars().all(fits) && name != "ca"
}

fn read_key(path: &Path) -> Result<KeyPair, Error> {
    let pem = Zeroizing::new(read_text(path)?);
    KeyPair::from_pem(&pem)
        .map_err(|error| broken(path, format!("not a private key: {error}"), REMAKE))
}

fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(io_error(path))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(io_error(path))
}

fn random() -> Result<u32, Error> {
    getrandom::u32().map_err(|error| Error::Crypto {
        what: "a random name",
        why: error.to_string(),
    })
}

fn signed(duration: Duration) -> time::Duration {
    time::Duration::try_from(duration).unwrap_or(time::Duration::MAX)
}

fn unix_seconds(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn no_token_key(path: &Path) -> Error {
    broken(path, "not an Ed25519 key in PKCS #8 PEM".to_owned(), REMAKE)
}

fn broken(path: &Path, why: String, remedy: &'static str) -> Error {
    Error::Broken {
        path: path.to_owned(),
        why,
        remedy,
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

fn crypto(what: &'static str) -> impl FnOnce(rcgen::Error) -> Error {
    move |error| Error::Crypto {
        what,
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::json;
    use x509_parser::extensions::GeneralName;
    use x509_parser::prelude::*;

    use super::*;

    fn day(day: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(24 * (20_000 + day))
    }

    fn with<T>(path: &Path, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
        let bytes = fs::read(path).unwrap();
        let (_, pem) = parse_x509_pem(&bytes).unwrap();
        look(&pem.parse_x509().unwrap())
    }

    fn made() -> (tempfile::TempDir, Pki) {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(&directory.path().join("pki"), day(0)).unwrap();
        assert_eq!(pki.ca().unwrap(), Made::New);
        (directory, pki)
    }

    #[test]
    fn leaves_are_signed_by_the_ca_and_say_what_they_are_for() {
        let (_directory, pki) = made();
        let names = server_names("192.0.2.7".parse().unwrap());
        assert_eq!(pki.server(&names).unwrap(), Made::New);
        assert_eq!(pki.client("device-1").unwrap(), Made::New);
        with(&pki.certificate_path("ca"), |ca| {
            assert!(ca.is_ca());
            ca.verify_signature(None).unwrap();
            for (name, server) in [("server", true), ("device-1", false)] {
                with(&pki.certificate_path(name), |leaf| {
                    leaf.verify_signature(Some(ca.public_key())).unwrap();
                    assert_eq!(leaf.issuer(), ca.subject());
                    assert!(!leaf.is_ca());
                    let common_name = leaf.subject().iter_common_name().next().unwrap();
                    assert_eq!(common_name.as_str().unwrap(), name);
                    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
                    assert_eq!((usage.server_auth, usage.client_auth), (server, !server));
                });
            }
        });
        let found = with(&pki.certificate_path("server"), |leaf| {
            let names = leaf.subject_alternative_name().unwrap().unwrap();
            let names = names.value.general_names.iter();
            let text = |name: &GeneralName<'_>| {
                if let GeneralName::DNSName(name) = name {
                    return (*name).to_owned();
                }
                let GeneralName::IPAddress(bytes) = name else {
                    panic!("{name:?}");
                };
                match <[u8; 4]>::try_from(*bytes) {
                    Ok(v4) => IpAddr::from(v4).to_string(),
                    Err(_) => IpAddr::from(<[u8; 16]>::try_from(*bytes).unwrap()).to_string(),
                }
            };
            names.map(text).collect::<Vec<_>>()
        });
        assert_eq!(found, names);
        for name in ["localhost", "127.0.0.1", "::1", "192.0.2.7"] {
            assert!(found.iter().any(|found| found == name), "{name}");
        }
    }

    #[test]
    fn certificates_count_from_the_given_time_for_a_year() {
        let (_directory, pki) = made();
        pki.client("device-1").unwrap();
        let end = |name| certificate_end(&pki.certificate_path(name)).unwrap();
        assert_eq!(end("device-1"), day(365));
        assert_eq!(end("ca"), day(3650));
    }

    #[test]
    fn private_keys_are_for_their_owner_alone() {
        let (directory, pki) = made();
        pki.client("device-1").unwrap();
        let issuer = TokenIssuer::open(&directory.path().join("tokens")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&pki.key_path("ca")), 0o600);
        assert_eq!(mode(&pki.key_path("device-1")), 0o600);
        assert_eq!(mode(&issuer.key_path()), 0o600);
        assert_eq!(mode(&directory.path().join("pki")), 0o700);
        assert_eq!(mode(&directory.path().join("tokens")), 0o700);
        let left: Vec<_> = fs::read_dir(directory.path().join("pki"))
            .unwrap()
            .collect();
        assert_eq!(left.len(), 4, "temporary files stay: {left:?}");
    }

    #[test]
    fn what_exists_is_kept() {
        let (directory, pki) = made();
        pki.client("device-1").unwrap();
        let read = |name: &str| {
            let pem = fs::read(pki.certificate_path(name)).unwrap();
            (pem, fs::read(pki.key_path(name)).unwrap())
        };
        let before = (read("ca"), read("device-1"));
        let again = Pki::open(&directory.path().join("pki"), day(9)).unwrap();
        assert_eq!(again.ca().unwrap(), Made::Kept);
        assert_eq!(again.client("device-1").unwrap(), Made::Kept);
        assert_eq!((read("ca"), read("device-1")), before);
        // New ones come from the same CA.
        assert_eq!(again.client("device-9").unwrap(), Made::New);
        with(&pki.certificate_path("ca"), |ca| {
            with(&again.certificate_path("device-9"), |leaf| {
                leaf.verify_signature(Some(ca.public_key())).unwrap();
            });
        });
    }

    #[test]
    fn a_certificate_that_is_removed_is_made_again_for_the_same_key() {
        let (_directory, pki) = made();
        pki.client("device-1").unwrap();
        let key = || {
            with(&pki.certificate_path("device-1"), |leaf| {
                leaf.public_key().raw.to_vec()
            })
        };
        let before = key();
        fs::remove_file(pki.certificate_path("device-1")).unwrap();
        assert_eq!(pki.client("device-1").unwrap(), Made::New);
        assert_eq!(key(), before);
    }

    #[test]
    fn without_the_key_of_the_ca_what_is_complete_still_works() {
        let (_directory, pki) = made();
        pki.client("device-1").unwrap();
        fs::remove_file(pki.key_path("ca")).unwrap();
        assert_eq!(pki.ca().unwrap(), Made::Kept);
        assert_eq!(pki.client("device-1").unwrap(), Made::Kept);
        let error = pki.client("device-2").unwrap_err().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }

    #[test]
    fn a_client_name_is_a_file_name_and_a_topic_level() {
        let (_directory, pki) = made();
        let long = "x".repeat(65);
        for name in [
            "", "..", ".x", "a/b", "a+b", "a#", "$x", "a b", "-a", "ca", "é", "a\n", &long,
        ] {
            assert!(matches!(pki.client(name), Err(Error::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn what_is_revoked_stays_on_every_later_list_and_the_broker_goes_by_it() {
        let (_directory, pki) = made();
        assert_eq!(pki.crl().unwrap(), 0);
        for name in ["a", "b", "c"] {
            pki.client(name).unwrap();
        }
        assert_eq!(pki.revoke("a").unwrap(), Made::New);
        assert_eq!(pki.revoke("a").unwrap(), Made::Kept);
        let later = Pki::open(&pki.directory, day(20)).unwrap();
        assert_eq!(later.revoke("b").unwrap(), Made::New);
        assert_eq!(later.crl().unwrap(), 2);
        // Signed by the CA, due in a month; the broker's own loader takes it.
        let revocation = portcullis_auth::Revocation {
            files: vec![pki.crl_path()],
            ..portcullis_auth::Revocation::default()
        };
        let ca = [pki.certificate_path("ca")];
        let load = |at| portcullis_auth::ClientTrust::load(&ca, &revocation, at).unwrap();
        let (trust, warnings) = load(day(49));
        assert_eq!(trust.revoked(), Some(2));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(
            load(day(51))
                .1
                .iter()
                .any(|text| text.contains("nextUpdate"))
        );
        for name in ["nobody", "ca", "../ca"] {
            assert!(pki.revoke(name).is_err(), "{name}");
        }
        fs::write(pki.revoked_path(), "x\n").unwrap();
        let error = pki.revoke("c").unwrap_err().to_string();
        assert!(error.contains("revoked.txt: line 1"), "{error}");
    }

    #[test]
    fn a_token_verifies_with_the_public_key_and_says_who_for_whom_and_until_when() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::open(directory.path()).unwrap();
        let file = directory.path().join("device-3.jwt");
        let names = ("issuer", "portcullis", "device-3");
        let month = Duration::from_hours(30 * 24);
        assert_eq!(
            issuer.issue_file(&file, names, day(0), month).unwrap(),
            Made::New
        );
        assert_eq!(
            issuer.issue_file(&file, names, day(9), month).unwrap(),
            Made::Kept
        );
        assert_eq!(token_end(&file).unwrap(), day(30));
        let key = fs::read(issuer.public_key_path()).unwrap();
        let key = DecodingKey::from_ed_pem(&key).unwrap();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.set_audience(&["portcullis"]);
        let token = fs::read_to_string(&file).unwrap();
        let token = jsonwebtoken::decode::<Value>(token.trim(), &key, &validation).unwrap();
        let expected = json!({
            "iss": "issuer",
            "aud": ["portcullis"],
            "sub": "device-3",
            "iat": unix_seconds(day(0)),
            "exp": unix_seconds(day(30)),
        });
        assert_eq!(token.claims, expected);
    }

    #[test]
    fn a_broken_file_is_named() {
        let (directory, pki) = made();
        let path = directory.path().join("x");
        fs::write(&path, "x").unwrap();
        for error in [
            certificate_end(&path).unwrap_err(),
            token_end(&path).unwrap_err(),
        ] {
            assert!(error.to_string().contains("/x: not a "), "{error}");
        }
        fs::write(directory.path().join("issuer.key"), "x").unwrap();
        let error = TokenIssuer::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("issuer.key: not an Ed25519 key"), "{error}");
        fs::write(pki.key_path("ca"), "x").unwrap();
        let error = pki.client("device-1").unwrap_err().to_string();
        assert!(error.contains("ca.key: not a private key"), "{error}");
    }
}
