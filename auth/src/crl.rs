//! Certificate revocation lists (RFC 5280, section 5) as sets in memory.
//!
//! The signature of a list is checked once, when it is loaded; a handshake then costs a lookup per
//! certificate, whatever the size of the list. Checked inside path validation instead, a list of
//! 100 000 entries costs two milliseconds of CPU per handshake.
//!
//! A list that says less than its issuer knows is refused or counted for that part only: delta and
//! indirect lists, lists of some reasons or of attribute certificates are errors; one of user (or
//! CA) certificates only covers just these. A list behind one distribution point is taken as whole.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::pki_types::{
    CertificateRevocationListDer, SignatureVerificationAlgorithm, pem::PemObject,
};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::der::{is_signed_by, serial, sha256, time};
use crate::{Ends, Error, What, file};

/// Largest CRL file, in bytes: some three million entries.
const MAX_FILE: u64 = 128 << 20;

/// Names an issuer: the first half of the SHA-256 of its distinguished name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IssuerId(pub(crate) [u8; 16]);

impl IssuerId {
    /// Of a DER name, its header included.
    pub(crate) fn of(name: &[u8]) -> Self {
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(sha256(name)) {
            *to = from;
        }
        Self(id)
    }
}

/// What a certificate is within its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The client's own.
    User,
    /// One that issued another.
    Authority,
}

/// Who may sign lists.
pub(crate) struct Authorities<'a> {
    pub(crate) certificates: &'a [X509Certificate<'a>],
    pub(crate) algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    /// `crl-grace`.
    pub(crate) grace: Duration,
}

/// Revocation lists of one listener, from files or from one address.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    by_issuer: HashMap<IssuerId, Issuer>,
    /// The latest thisUpdate.
    made: Option<SystemTime>,
}

#[derive(Debug, Default)]
struct Issuer {
    /// Its distinguished name, as text.
    name: Box<str>,
    /// The earliest nextUpdate, and thisUpdate of the same list.
    next: Option<(SystemTime, SystemTime)>,
    revoked: HashSet<Box<str>>,
    users_until: Option<SystemTime>,
    authorities_until: Option<SystemTime>,
}

impl Lists {
    /// Reads every file; each list must be signed by one of `authorities`. Lists of the same
    /// issuer add up. The texts are warnings: a list that is already too old refuses its issuer's
    /// certificates, and that is worth knowing before the first client complains.
    ///
    /// # Errors
    ///
    /// A file that is missing or not a CRL, a list that nobody signed, or one of partial content.
    pub(crate) fn load(
        files: &[PathBuf],
        authorities: &Authorities<'_>,
        now: SystemTime,
    ) -> Result<(Self, Vec<String>), Error> {
        let mut lists = Self::default();
        let mut warnings = Vec::new();
        for path in files {
            let bytes = file::read(path, MAX_FILE)?;
            lists.add_all(path, &bytes, authorities, now, &mut warnings)?;
        }
        Ok((lists, warnings))
    }

    /// Reads lists that are there, PEM or DER; `path` says where they come from.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub(crate) fn parse(
        path: &Path,
        bytes: &[u8],
        authorities: &Authorities<'_>,
        now: SystemTime,
    ) -> Result<(Self, Vec<String>), Error> {
        let (mut lists, mut warnings) = (Self::default(), Vec::new());
        lists.add_all(path, bytes, authorities, now, &mut warnings)?;
        Ok((lists, warnings))
    }

    fn add_all(
        &mut self,
        path: &Path,
        bytes: &[u8],
        authorities: &Authorities<'_>,
        now: SystemTime,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        read(path, bytes)?
            .iter()
            .try_for_each(|der| self.add(path, der, authorities, now, warnings))
    }

    /// When the newest of the lists was made.
    pub(crate) fn made(&self) -> Option<SystemTime> {
        self.made
    }

    fn add(
        &mut self,
        path: &Path,
        der: &[u8],
        authorities: &Authorities<'_>,
        now: SystemTime,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        // The strict parser first: unknown critical extensions, delta and indirect lists and a
        // missing nextUpdate are errors in it.
        let entries = webpki::BorrowedCertRevocationList::from_der(der).map_err(|error| {
            Error::file(
                path,
                format!("is not a usable CRL: {error}"),
                "write a full version 2 CRL with nextUpdate (for example openssl ca -gencrl)",
            )
        })?;
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| {
            Error::file(path, format!("is not a CRL: {error}"), "write it again")
        })?;
        let signer = authorities.certificates.iter().find(|authority| {
            authority.subject().as_raw() == list.issuer().as_raw()
                && may_sign_lists(authority)
                && is_signed_by(der, authority.public_key().raw, authorities.algorithms)
        });
        if signer.is_none() {
            return Err(Error::file(
                path,
                format!(
                    "the CRL of {:?} is not signed by any certificate in client-ca",
                    list.issuer().to_string()
                ),
                "add the CA that signed it to client-ca, or remove the CRL",
            ));
        }
        if time(list.last_update()) > now {
            return Err(Error::file(
                path,
                format!("thisUpdate is in the future ({})", list.last_update()),
                "check the clocks of this machine and of the CA",
            ));
        }
        let Some(next) = list.next_update() else {
            return Err(Error::file(
                path,
                "has no nextUpdate",
                "write it again with one",
            ));
        };
        let until = time(next)
            .checked_add(authorities.grace)
            .unwrap_or_else(|| time(next));
        if until < now {
            warnings.push(format!(
                "{}: nextUpdate of the CRL of {:?} was {next}, and crl-grace is over: its certificates are refused; publish a new one",
                path.display(),
                list.issuer().to_string(),
            ));
        } else if time(next) < now {
            warnings.push(format!(
                "{}: nextUpdate of the CRL of {:?} was {next}; it counts on for crl-grace only: publish a new one",
                path.display(),
                list.issuer().to_string(),
            ));
        }
        self.made = self.made.max(Some(time(list.last_update())));
        let scope = scope(path, &list)?;
        let issuer = self
            .by_issuer
            .entry(IssuerId::of(list.issuer().as_raw()))
            .or_default();
        issuer.name = list.issuer().to_string().into();
        let spans = (time(list.last_update()), time(next));
        if issuer.next.is_none_or(|(_, have)| spans.1 < have) {
            issuer.next = Some(spans);
        }
        // Of two lists of one issuer the older one decides how long both are believed.
        let earliest = |have: Option<SystemTime>| Some(have.map_or(until, |have| have.min(until)));
        if scope.users {
            issuer.users_until = earliest(issuer.users_until);
        }
        if scope.authorities {
            issuer.authorities_until = earliest(issuer.authorities_until);
        }
        for entry in &entries {
            let entry = entry.map_err(|error| {
                Error::file(
                    path,
                    format!("has a broken entry: {error}"),
                    "write it again",
                )
            })?;
            issuer.revoked.insert(serial(entry.serial_number).into());
        }
        Ok(())
    }

    /// Whether this certificate is on a list.
    pub(crate) fn is_revoked(&self, issuer: IssuerId, serial: &str) -> bool {
        self.by_issuer
            .get(&issuer)
            .is_some_and(|lists| lists.revoked.contains(serial))
    }

    /// Until when a list that speaks about such certificates of this issuer is believed; `None`:
    /// there is none.
    pub(crate) fn until(&self, issuer: IssuerId, role: Role) -> Option<SystemTime> {
        let lists = self.by_issuer.get(&issuer)?;
        match role {
            Role::User => lists.users_until,
            Role::Authority => lists.authorities_until,
        }
    }

    /// For each issuer the earliest `nextUpdate` of its lists.
    pub(crate) fn ends(&self) -> Vec<Ends> {
        let ends = |issuer: &Issuer| {
            let (since, until) = issuer.next?;
            Some(Ends {
                what: What::Crl,
                name: issuer.name.clone().into(),
                since,
                until,
            })
        };
        self.by_issuer.values().filter_map(ends).collect()
    }

    /// How many certificates are revoked.
    pub(crate) fn len(&self) -> usize {
        self.by_issuer
            .values()
            .map(|lists| lists.revoked.len())
            .sum()
    }
}

/// The lists in a file, PEM or DER.
fn read(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let not_pem = "write it as PEM (X509 CRL) or DER";
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        if bytes.first() != Some(&0x30) {
            return Err(Error::file(
                path,
                "is neither a PEM nor a DER file",
                not_pem,
            ));
        }
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::file(path, format!("is not a PEM file: {error}"), not_pem))?;
    if lists.is_empty() {
        return Err(Error::file(path, "holds no CRL", not_pem));
    }
    Ok(lists)
}

struct Scope {
    users: bool,
    authorities: bool,
}

/// Which certificates a list speaks about; RFC 5280, section 5.2.5.
fn scope(path: &Path, list: &CertificateRevocationList<'_>) -> Result<Scope, Error> {
    let mut scope = Scope {
        users: true,
        authorities: true,
    };
    for extension in list.extensions() {
        let ParsedExtension::IssuingDistributionPoint(point) = extension.parsed_extension() else {
            continue;
        };
        if point.indirect_crl
            || point.only_some_reasons.is_some()
            || point.only_contains_attribute_certs
        {
            return Err(Error::file(
                path,
                "is an indirect CRL, or one of some reasons or attribute certificates only",
                "publish a full CRL",
            ));
        }
        scope.users &= !point.only_contains_ca_certs;
        scope.authorities &= !point.only_contains_user_certs;
    }
    Ok(scope)
}

/// Whether the key usage of a CA, where it has one, allows it to sign lists.
fn may_sign_lists(authority: &X509Certificate<'_>) -> bool {
    authority
        .key_usage()
        .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()))
}
