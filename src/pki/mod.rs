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

mod files;
#[cfg(test)]
mod tests;
mod token;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use zeroize::Zeroizing;

pub use files::{PRIVATE, PUBLIC, exists, make_directory, write_new};
use files::{lock, read_bytes, read_text, replace};
use token::unix_seconds;
pub use token::{TokenIssuer, random_jti, token_end};

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
        let _lock = lock(&self.directory)?;
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
    /// No such certificate, one of another CA, a CA that is missing or broken, files that cannot be
    /// written.
    pub fn revoke(&self, name: &str) -> Result<Made, Error> {
        if !is_name(name) {
            return Err(Error::Name(name.to_owned()));
        }
        let _lock = lock(&self.directory)?;
        let serial = self.issued_serial(name)?;
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
        self.make_crl()?;
        Ok(made)
    }

    /// The serial number of the certificate of `name`, if this CA issued it: the number of another
    /// CA's would revoke somebody else, or nobody.
    fn issued_serial(&self, name: &str) -> Result<Vec<u8>, Error> {
        const REMEDY: &str = "ask the CA that issued it to revoke it";
        let path = self.certificate_path(name);
        let ca = self.certificate_path("ca");
        let subject = first_certificate(&ca, |ca| ca.subject().as_raw().to_vec())?;
        let (issuer, serial) = first_certificate(&path, |leaf| {
            (leaf.issuer().as_raw().to_vec(), leaf.raw_serial().to_vec())
        })?;
        if issuer == subject {
            Ok(serial)
        } else {
            let why = format!("not a certificate of {}", ca.display());
            Err(broken(&path, why, REMEDY))
        }
    }

    /// Makes `ca.crl`, signed by the CA, with everything that was revoked; it counts for
    /// [`CRL_LIFETIME`]. Gives how many certificates are on it.
    ///
    /// # Errors
    ///
    /// A CA that is missing or broken, files that cannot be read or written.
    pub fn crl(&self) -> Result<usize, Error> {
        let _lock = lock(&self.directory)?;
        self.make_crl()
    }

    fn make_crl(&self) -> Result<usize, Error> {
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
        let _lock = lock(&self.directory)?;
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

/// When the first certificate in a PEM file ends.
///
/// # Errors
///
/// A file that cannot be read or does not begin with a certificate.
pub fn certificate_end(path: &Path) -> Result<SystemTime, Error> {
    first_certificate(path, |certificate| {
        certificate.validity().not_after.to_datetime().into()
    })
}

/// What the first certificate in a PEM file says.
fn first_certificate<T>(
    path: &Path,
    look: impl FnOnce(&X509Certificate<'_>) -> T,
) -> Result<T, Error> {
    const REMEDY: &str = "name a PEM file with a certificate";
    let bytes = read_bytes(path)?;
    let no_certificate = || broken(path, "not a certificate".to_owned(), REMEDY);
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| no_certificate())?;
    let certificate = pem.parse_x509().map_err(|_| no_certificate())?;
    Ok(look(&certificate))
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

fn random() -> Result<u32, Error> {
    getrandom::u32().map_err(|error| Error::Crypto {
        what: "a random name",
        why: error.to_string(),
    })
}

fn signed(duration: Duration) -> time::Duration {
    time::Duration::try_from(duration).unwrap_or(time::Duration::MAX)
}

fn broken(path: &Path, why: String, remedy: &'static str) -> Error {
    Error::Broken {
        path: path.to_owned(),
        why,
        remedy,
    }
}

fn crypto(what: &'static str) -> impl FnOnce(rcgen::Error) -> Error {
    move |error| Error::Crypto {
        what,
        why: error.to_string(),
    }
}
