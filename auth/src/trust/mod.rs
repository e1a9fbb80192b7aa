//! Which client certificates a listener believes: its CAs, and what they revoked.
//!
//! The path from the client's certificate to a CA is built by `rustls-webpki`, with its limits on
//! work. It is used directly rather than through rustls' own verifier, because that one does not
//! say which path it found: revocation is looked up for every certificate on it, and a connection
//! must end when *its* CA is no longer configured.
//!
//! The same object answers twice: in the TLS handshake, and again at CONNECT, when it may already
//! have been swapped for one with a newer CRL. A path that it has found is remembered, so that the
//! signatures on it are checked once and not at each connection; whether a certificate on it is
//! revoked, denied or expired is asked every time. That the client has the key is not its business:
//! rustls checks it in each handshake.

mod checks;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_core::clock::Now;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, DistinguishedName};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bounded::Bounded;
use crate::crl::{Authorities, IssuerId, Lists, Role};
use crate::crl_url::RemoteList;
use crate::deny::{Denied, denied};
use crate::der::{hex, is_signed_by, serial, sha256, time};
use crate::ends::{Ends, What};
use crate::{Error, Url};

pub(crate) use checks::{NotTrusted, certificates};
use checks::{check_authority, check_purpose, check_strength, explain};

/// Most certificates that a client may present. Path building refuses chains of more than six CAs;
/// this bounds the parsing before it.
const MAX_PRESENTED: usize = 10;
/// Largest file of CA certificates, in bytes.
const MAX_CA_FILE: u64 = 16 << 20;

/// Most paths that are remembered for a listener; some 300 bytes each.
const MAX_REMEMBERED: usize = 4096;

/// The client CAs of one listener and their revocation lists, frozen; a reload makes a new one.
pub struct ClientTrust {
    anchors: Vec<Anchor>,
    for_path: Vec<TrustAnchor<'static>>,
    /// CAs from the configuration that another configured CA issued. They help to build paths and
    /// sign CRLs, but are no end of trust: their issuer can revoke them.
    between: Vec<CertificateDer<'static>>,
    /// From files; `None` where there are none.
    lists: Option<Lists>,
    /// From addresses.
    remote: Vec<Arc<RemoteList>>,
    /// Every CA of the configuration: they may sign lists.
    authorities: Vec<CertificateDer<'static>>,
    grace: Duration,
    algorithms: WebPkiSupportedAlgorithms,
    /// What CAs are called in the configuration.
    names: BTreeMap<AnchorId, Arc<str>>,
    denied: Option<Denied>,
    /// Paths that were found, by the SHA-256 of all that the client presented, until they end.
    found: Bounded<Presented, Arc<Path>, SystemTime>,
}

/// What a client presents: the SHA-256 of each certificate, its own first.
type Presented = Box<[[u8; 32]]>;

/// CAs that issue client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// What they are called: the principals are then `cert:CANAME/NAME`.
    pub name: Option<String>,
    /// Their certificates, PEM.
    pub file: PathBuf,
}

impl From<PathBuf> for ClientCa {
    /// CAs without a name.
    fn from(file: PathBuf) -> Self {
        Self { name: None, file }
    }
}

/// Where revocation lists come from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Revocation {
    /// `crl`: files, PEM or DER.
    pub files: Vec<PathBuf>,
    /// `crl-url`.
    pub urls: Vec<Url>,
    /// `crl-tls-ca`: CAs of the servers at `urls`; `None`: those of the system.
    pub tls_ca: Option<PathBuf>,
    /// `crl-refresh`: how often `urls` are asked.
    pub refresh: Duration,
    /// `crl-grace`: how long after nextUpdate a list is still believed.
    pub grace: Duration,
    /// `deny-fingerprints`: certificates that are refused whatever their CA says.
    pub deny: Option<PathBuf>,
}

struct Anchor {
    id: AnchorId,
    subject: String,
    not_after: SystemTime,
}

/// Names a CA by subject and key: a renewed certificate of the same CA is the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AnchorId(pub(crate) Box<str>);

impl AnchorId {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut named = certificate.subject().as_raw().to_vec();
        named.extend_from_slice(certificate.public_key().raw);
        Self(hex(sha256(&named).get(..16).unwrap_or_default()).into())
    }
}

/// A validated path, from the client's certificate to below the CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Issuer and serial of each certificate, the client's first.
    pub(crate) links: Vec<Link>,
    /// The CA at its end.
    pub(crate) anchor: AnchorId,
    /// The nearest CA above the client that has a name.
    pub(crate) named: Option<Arc<str>>,
    /// The latest notBefore on it. That of the CA does not count.
    since: SystemTime,
    /// The earliest notAfter on it, the CA's included.
    pub(crate) until: SystemTime,
}

/// One certificate as revocation knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) issuer: IssuerId,
    pub(crate) serial: Box<str>,
}

impl ClientTrust {
    /// Reads CA and CRL files. With at least one CRL file or address, a certificate is accepted only if each
    /// CA on its path has a CRL that is not older than `nextUpdate` and `crl-grace`. Warnings come
    /// back as text.
    ///
    /// # Errors
    ///
    /// A file that is missing, broken or empty; a CA that is no CA, has a weak key or is expired;
    /// a CRL that no configured CA signed.
    pub fn load(
        client_ca: &[ClientCa],
        revocation: &Revocation,
        now: SystemTime,
    ) -> Result<(Arc<Self>, Vec<String>), Error> {
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let mut ders = Vec::new();
        let mut names = BTreeMap::new();
        for ClientCa { name, file } in client_ca {
            for der in certificates(file, MAX_CA_FILE)? {
                let id = check_authority(file, &der, now)?;
                let name: Option<Arc<str>> = name.as_deref().map(Arc::from);
                match names.insert(id, name.clone()) {
                    Some(other) if other != name => {
                        return Err(Error::file(
                            file,
                            "has a CA that another file of client-ca has too, under another name",
                            "keep it in one of them: its certificates name one principal each",
                        ));
                    }
                    Some(_) | None => {}
                }
                ders.push(der);
            }
        }
        let names = names
            .into_iter()
            .filter_map(|(id, name)| Some((id, name?)))
            .collect();
        let parsed: Vec<_> = ders
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .map(|(_, certificate)| certificate)
            .collect();
        let mut trust = Self {
            anchors: Vec::new(),
            for_path: Vec::new(),
            between: Vec::new(),
            lists: None,
            remote: Vec::new(),
            authorities: ders.clone(),
            grace: revocation.grace,
            algorithms,
            names,
            denied: revocation.deny.as_deref().map(Denied::load).transpose()?,
            found: Bounded::new(MAX_REMEMBERED),
        };
        for (der, certificate) in ders.iter().zip(&parsed) {
            let issued_by = |other: &X509Certificate<'_>| {
                other.subject().as_raw() == certificate.issuer().as_raw()
                    && other.subject().as_raw() != certificate.subject().as_raw()
                    && is_signed_by(der, other.public_key().raw, algorithms.all)
            };
            if parsed.iter().any(issued_by) {
                trust.between.push(der.clone());
            } else {
                trust.add_anchor(der, certificate);
            }
        }
        let mut warnings = Vec::new();
        for url in &revocation.urls {
            let ca = revocation.tls_ca.as_deref();
            let list = RemoteList::new(url, ca, revocation.refresh)?;
            trust.remote.push(Arc::new(list));
        }
        if !revocation.files.is_empty() {
            let authorities = Authorities {
                certificates: &parsed,
                algorithms: algorithms.all,
                grace: revocation.grace,
            };
            let (lists, old) = Lists::load(&revocation.files, &authorities, now)?;
            warnings.extend(old);
            for anchor in &parsed {
                let id = IssuerId::of(anchor.subject().as_raw());
                if trust.remote.is_empty() && lists.until(id, Role::User).is_none() {
                    warnings.push(format!(
                        "client CA {:?} has no CRL: its certificates are refused while crl is set",
                        anchor.subject().to_string()
                    ));
                }
            }
            trust.lists = Some(lists);
        }
        Ok((Arc::new(trust), warnings))
    }

    /// Takes over the lists that `old` has fetched from the same addresses, if they are signed by
    /// one of this one's CAs.
    pub(crate) fn inherit(&self, old: &Self) {
        self.with_authorities(|authorities| {
            for list in &self.remote {
                let same = |before: &&Arc<RemoteList>| before.url() == list.url();
                if let Some(before) = old.remote.iter().find(same) {
                    list.inherit(before, authorities);
                }
            }
        });
    }

    /// The addresses that are to be asked at `now`.
    pub(crate) fn due(&self, now: Instant) -> Vec<Arc<RemoteList>> {
        let due = self.remote.iter().filter(|list| list.is_due(now));
        due.cloned().collect()
    }

    /// Asks one of them. Gives whether there is another list now.
    ///
    /// # Errors
    ///
    /// No answer, or no list that counts; the old one stays.
    pub(crate) async fn refresh(&self, list: &RemoteList, now: Now) -> Result<bool, String> {
        let Some(bytes) = list.fetch(now.mono).await? else {
            return Ok(false);
        };
        self.with_authorities(|authorities| list.take(bytes, authorities, now.wall))
    }

    fn with_authorities<T>(&self, look: impl FnOnce(&Authorities<'_>) -> T) -> T {
        let certificates: Vec<_> = self
            .authorities
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .map(|(_, certificate)| certificate)
            .collect();
        look(&Authorities {
            certificates: &certificates,
            algorithms: self.algorithms.all,
            grace: self.grace,
        })
    }

    /// Asks each list that there is.
    fn lists<T>(&self, look: impl Fn(&Lists) -> T) -> impl Iterator<Item = T> {
        let files = self.lists.as_ref().map(&look);
        let remote: Vec<T> = self
            .remote
            .iter()
            .filter_map(|list| list.with(&look))
            .collect();
        files.into_iter().chain(remote)
    }

    fn add_anchor(&mut self, der: &CertificateDer<'static>, certificate: &X509Certificate<'_>) {
        let Ok(anchor) = anchor_from_trusted_cert(der) else {
            return; // `check_authority` has parsed it.
        };
        let id = AnchorId::of(certificate);
        let not_after = time(certificate.validity().not_after);
        // The same CA twice, renewed: the later end counts.
        if let Some(known) = self.anchors.iter_mut().find(|known| known.id == id) {
            known.not_after = known.not_after.max(not_after);
            return;
        }
        self.for_path.push(anchor.to_owned());
        self.anchors.push(Anchor {
            id,
            subject: certificate.subject().to_string(),
            not_after,
        });
    }

    /// How many CAs paths may end at.
    #[must_use]
    pub fn authorities(&self) -> usize {
        self.anchors.len()
    }

    /// How many certificates the CRLs revoke; `None` without CRLs.
    #[must_use]
    pub fn revoked(&self) -> Option<usize> {
        let checked = self.lists.is_some() || !self.remote.is_empty();
        checked.then(|| self.lists(Lists::len).sum())
    }

    /// When each CA and each list ends; a list that was fetched as it is now. The end of a list is
    /// its `nextUpdate`, not that of `crl-grace`.
    #[must_use]
    pub fn ends(&self) -> Vec<Ends> {
        let mut ends: Vec<_> = self
            .authorities
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .map(|(_, ca)| Ends {
                what: What::ClientCa,
                name: ca.subject().to_string(),
                since: time(ca.validity().not_before),
                until: time(ca.validity().not_after),
            })
            .collect();
        for lists in self.lists(Lists::ends) {
            ends.extend(lists);
        }
        ends
    }

    /// Subjects of the CAs, for the certificate request in the handshake.
    pub(crate) fn hints(&self) -> Vec<DistinguishedName> {
        self.for_path
            .iter()
            .map(|anchor| DistinguishedName::in_sequence(&anchor.subject))
            .collect()
    }

    /// The signature algorithms of the provider.
    pub(crate) fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.algorithms
    }

    /// Validates a chain: the client's certificate, then what else it presented in any order.
    ///
    /// # Errors
    ///
    /// Which check failed, in words for the operator.
    pub(crate) fn validate(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Arc<Path>, NotTrusted> {
        if presented.len() >= MAX_PRESENTED {
            return Err(bad(format!(
                "the client presents {} certificates; the limit is {MAX_PRESENTED}",
                presented.len() + 1
            )));
        }
        let fingerprint = sha256(leaf);
        if self.denies(&fingerprint) {
            let why = denied(&fingerprint);
            return Err(NotTrusted::new(CertificateError::Revoked, why));
        }
        let others = presented.iter().map(|der| sha256(der));
        let shown: Presented = [fingerprint].into_iter().chain(others).collect();
        let remembered = self.found.get(&shown, now);
        let path = if let Some(path) = remembered.filter(|path| path.since <= now) {
            path
        } else {
            let path = Arc::new(self.find(leaf, presented, now)?);
            self.found.insert(shown, Arc::clone(&path), path.until, now);
            path
        };
        self.check_revocation(&path.links, now)?;
        Ok(path)
    }

    /// Finds the path from a certificate to a CA, and checks everything but revocation.
    fn find(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Path, NotTrusted> {
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| bad(format!("the client certificate cannot be parsed: {error}")))?;
        check_purpose(&parsed)?;
        check_strength(&parsed)
            .map_err(|why| NotTrusted::new(CertificateError::InvalidPurpose, why))?;

        let candidates: Vec<CertificateDer<'_>> = presented
            .iter()
            .chain(&self.between)
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let certificate = EndEntityCert::try_from(leaf)
            .map_err(|error| bad(format!("the client certificate cannot be used: {error}")))?;
        let found = certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.for_path,
                &candidates,
                UnixTime::since_unix_epoch(seconds),
                KeyUsage::client_auth(),
                None, // Revocation is looked up, without a signature check per handshake.
                None,
            )
            .map_err(|error| explain(&error, &parsed))?;
        let anchor = self
            .for_path
            .iter()
            .zip(&self.anchors)
            .find_map(|(for_path, anchor)| (for_path == found.anchor()).then_some(anchor))
            .ok_or_else(|| bad("the path ends at no configured CA".to_owned()))?;
        if anchor.not_after < now {
            let why = format!("the client CA {:?} is expired", anchor.subject);
            return Err(NotTrusted::new(CertificateError::Expired, why));
        }

        let mut path = Path {
            links: Vec::new(),
            anchor: anchor.id.clone(),
            named: None,
            since: UNIX_EPOCH,
            until: anchor.not_after,
        };
        path.push(&parsed);
        for der in found.intermediate_certificates().map(webpki::Cert::der) {
            let (_, parsed) = X509Certificate::from_der(&der)
                .map_err(|error| bad(format!("an intermediate CA cannot be parsed: {error}")))?;
            path.push(&parsed);
            let id = AnchorId::of(&parsed);
            path.named = path.named.or_else(|| self.names.get(&id).cloned());
        }
        path.named = path.named.or_else(|| self.names.get(&anchor.id).cloned());
        Ok(path)
    }

    /// Whether a certificate with this SHA-256 is on the listener's `deny-fingerprints`.
    fn denies(&self, fingerprint: &[u8; 32]) -> bool {
        let list = self.denied.as_ref();
        list.is_some_and(|list| list.has(fingerprint))
    }

    /// The same for 64 lower-case digits.
    pub(crate) fn denies_hex(&self, fingerprint: &str) -> bool {
        let list = self.denied.as_ref();
        list.is_some_and(|list| list.has_hex(fingerprint))
    }

    /// Stands for what the CAs are called: the same as long as each has the name that it has.
    pub(crate) fn called(&self) -> String {
        let mut text = String::new();
        for (id, name) in &self.names {
            // Neither has a line end.
            text.push_str(&id.0);
            text.push('\n');
            text.push_str(name);
            text.push('\n');
        }
        hex(sha256(text.as_bytes()).get(..8).unwrap_or_default())
    }

    /// What CAs are called.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.values().map(|name| &**name)
    }

    fn check_revocation(&self, links: &[Link], now: SystemTime) -> Result<(), NotTrusted> {
        if self.lists.is_none() && self.remote.is_empty() {
            return Ok(());
        }
        for (at, link) in links.iter().enumerate() {
            let role = if at == 0 { Role::User } else { Role::Authority };
            self.revocation(link)
                .map_err(|why| NotTrusted::new(CertificateError::Revoked, why))?;
            // Of two lists of one issuer the older one decides how long both are believed.
            let until = self.lists(|lists| lists.until(link.issuer, role));
            let why = match until.flatten().min() {
                None => "there is no CRL of that CA",
                Some(until) if until < now => {
                    "the CRL of that CA is older than its nextUpdate and crl-grace allow"
                }
                Some(_) => continue,
            };
            return Err(NotTrusted::new(
                CertificateError::UnknownRevocationStatus,
                format!(
                    "the certificate with serial {} (number {at} on the path) cannot be checked: {why}",
                    link.serial
                ),
            ));
        }
        Ok(())
    }

    /// Whether a certificate is on a list.
    ///
    /// # Errors
    ///
    /// That it is, in words.
    pub(crate) fn revocation(&self, link: &Link) -> Result<(), String> {
        if self
            .lists(|lists| lists.is_revoked(link.issuer, &link.serial))
            .any(|revoked| revoked)
        {
            return Err(format!(
                "the certificate with serial {} is revoked by its CA's CRL",
                link.serial
            ));
        }
        Ok(())
    }

    /// Whether this CA is (still) one of the listener's.
    pub(crate) fn knows(&self, anchor: &AnchorId) -> bool {
        self.anchors.iter().any(|known| known.id == *anchor)
    }
}

impl Path {
    fn push(&mut self, certificate: &X509Certificate<'_>) {
        self.links.push(Link {
            issuer: IssuerId::of(certificate.issuer().as_raw()),
            serial: serial(certificate.raw_serial()).into(),
        });
        let validity = certificate.validity();
        self.since = self.since.max(time(validity.not_before));
        self.until = self.until.min(time(validity.not_after));
    }
}

fn bad(why: String) -> NotTrusted {
    NotTrusted::new(CertificateError::BadEncoding, why)
}
