//! What a validated certificate says: the principal's name, attributes, and a reference by which
//! it can be asked about later.

use std::str::FromStr;
use std::sync::Arc;

use portcullis_core::hook::{Attributes, Credential, Identity};
use x509_parser::asn1_rs::Oid;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use crate::Error;
use crate::crl::IssuerId;
use crate::der::{hex, serial, sha256};
use crate::likeness::Likeness;
use crate::names::{Only, only, rfc4514};
use crate::trust::{AnchorId, Link, Path};

/// Longest attribute value, in bytes; a longer one is left out.
const MAX_ATTRIBUTE: usize = 1024;

/// Which name of a certificate is the principal's: `[auth.certificate] principal`. There must be
/// exactly one value of that kind, or the client is refused: of two names nobody can say which one
/// the CA checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum CertificateName {
    /// The subject's common name.
    #[default]
    Cn,
    /// The DNS name among the subject alternative names.
    SanDns,
    /// The URI, for example a SPIFFE id.
    SanUri,
    /// The e-mail address.
    SanEmail,
    /// The whole subject, as RFC 4514 writes it.
    Subject,
    /// SHA-256 of the DER, 64 lower-case hexadecimal digits.
    Fingerprint,
}

impl CertificateName {
    const ALL: [(&'static str, Self); 6] = [
        ("cn", Self::Cn),
        ("san-dns", Self::SanDns),
        ("san-uri", Self::SanUri),
        ("san-email", Self::SanEmail),
        ("subject", Self::Subject),
        ("fingerprint", Self::Fingerprint),
    ];

    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(word, _)| word)
    }
}

impl FromStr for CertificateName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, kind)| *kind)
            .ok_or_else(|| {
                Error::setting(
                    format!("auth.certificate: principal {text:?} is not known"),
                    "use cn, san-dns, san-uri, san-email, subject or fingerprint",
                )
            })
    }
}

/// What a certificate says about its holder.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) attributes: Attributes,
    pub(crate) fingerprint: [u8; 32],
    name: Result<String, String>,
}

impl Facts {
    /// Reads a certificate that was validated before.
    ///
    /// # Errors
    ///
    /// What cannot be parsed.
    pub(crate) fn read(leaf: &[u8], kind: CertificateName) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(leaf)
            .map_err(|error| format!("the certificate cannot be parsed: {error}"))?;
        let fingerprint = sha256(leaf);
        Ok(Self {
            attributes: attributes(&certificate, &fingerprint),
            name: name(&certificate, &fingerprint, kind),
            fingerprint,
        })
    }

    /// The name.
    ///
    /// # Errors
    ///
    /// Why the certificate names nobody.
    pub(crate) fn name(&self) -> Result<&str, String> {
        let name = self.name.as_deref().map_err(Clone::clone)?;
        if name.contains('*') {
            return Err(format!("the name {name:?} has a wildcard"));
        }
        Ok(name)
    }

    /// Who that is; `ca` is the name of the CA that says so, where it has one.
    ///
    /// # Errors
    ///
    /// Why the certificate names nobody.
    pub(crate) fn identity(&self, ca: Option<&str>) -> Result<Identity, String> {
        let mut attributes = self.attributes.clone();
        if let Some(ca) = ca {
            attributes.insert("cert.ca".into(), ca.into());
        }
        Identity::vouched_by(Reference::KIND, ca, self.name()?, Arc::from([]), attributes)
            .map_err(|error| format!("the certificate's name is not accepted: {error}"))
    }
}

/// The attributes (`cert.cn`, ...) that the first certificate of a PEM file would bring, for tools
/// that explain policies. Nothing is validated.
///
/// # Errors
///
/// A file that cannot be read or holds no certificate.
pub fn certificate_attributes(path: &std::path::Path) -> Result<Attributes, crate::Error> {
    let chain = crate::trust::certificates(path, 1 << 20)?;
    let leaf = chain.first().map_or(&[][..], |leaf| leaf.as_ref());
    Facts::read(leaf, CertificateName::Cn)
        .map(|facts| facts.attributes)
        .map_err(|why| crate::Error::file(path, why, "use a PEM certificate"))
}

fn name(
    certificate: &X509Certificate<'_>,
    fingerprint: &[u8; 32],
    kind: CertificateName,
) -> Result<String, String> {
    let word = kind.as_str();
    match kind {
        CertificateName::Cn => match only(certificate.subject(), &OID_X509_COMMON_NAME) {
            Only::One(name) => Ok(name.to_owned()),
            Only::None => Err("the certificate has no common name (principal = \"cn\")".into()),
            Only::Unreadable => Err("the common name is not text".into()),
            Only::Several(count) => {
                Err(format!("the certificate has {count} common names, not one"))
            }
        },
        CertificateName::SanDns | CertificateName::SanUri | CertificateName::SanEmail => {
            let names = alternative_names(certificate, kind)?;
            match names.as_slice() {
                [name] => Ok((*name).to_owned()),
                [] => Err(format!(
                    "the certificate has no such name (principal = {word:?})"
                )),
                several => Err(format!(
                    "the certificate has {} names of kind {word}, not one",
                    several.len()
                )),
            }
        }
        CertificateName::Subject => match rfc4514(certificate.subject()) {
            Some(name) if !name.is_empty() => Ok(name),
            _ => Err("the certificate's subject is empty".into()),
        },
        CertificateName::Fingerprint => Ok(hex(fingerprint)),
    }
}

fn alternative_names<'a>(
    certificate: &'a X509Certificate<'_>,
    kind: CertificateName,
) -> Result<Vec<&'a str>, String> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| format!("the subject alternative names cannot be read: {error}"))?;
    let mut found = Vec::new();
    for name in extension
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match (name, kind) {
            (GeneralName::DNSName(text), CertificateName::SanDns)
            | (GeneralName::URI(text), CertificateName::SanUri)
            | (GeneralName::RFC822Name(text), CertificateName::SanEmail) => found.push(*text),
            // It may be one more of the kind that is asked for.
            (GeneralName::Invalid(..), _) => {
                return Err("a subject alternative name is not valid".into());
            }
            _ => {}
        }
    }
    Ok(found)
}

fn attributes(certificate: &X509Certificate<'_>, fingerprint: &[u8; 32]) -> Attributes {
    let subject = certificate.subject();
    let alternative = |kind| match alternative_names(certificate, kind).as_deref() {
        Ok([one]) => Some((*one).to_owned()),
        _ => None,
    };
    [
        ("cert.cn", one(subject, &OID_X509_COMMON_NAME)),
        ("cert.ou", one(subject, &OID_X509_ORGANIZATIONAL_UNIT)),
        ("cert.o", one(subject, &OID_X509_ORGANIZATION_NAME)),
        ("cert.serial", Some(serial(certificate.raw_serial()))),
        ("cert.san-dns", alternative(CertificateName::SanDns)),
        ("cert.san-uri", alternative(CertificateName::SanUri)),
        ("cert.san-email", alternative(CertificateName::SanEmail)),
        ("cert.fingerprint", Some(hex(fingerprint))),
        ("cert.subject", rfc4514(subject)),
        ("cert.issuer", rfc4514(certificate.issuer())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .filter(|(_, value)| is_attribute(value))
    .map(|(key, value)| (key.into(), value.into()))
    .collect()
}

fn one(name: &X509Name<'_>, oid: &Oid<'static>) -> Option<String> {
    match only(name, oid) {
        Only::One(value) => Some(value.to_owned()),
        Only::None | Only::Unreadable | Only::Several(_) => None,
    }
}

/// Whether a value may become an attribute. One that may not is left out, so that a policy line
/// which needs it grants nothing.
pub(crate) fn is_attribute(value: &str) -> bool {
    !value.is_empty() && value.len() <= MAX_ATTRIBUTE && !value.chars().any(char::is_control)
}

/// Names a certificate for later questions: the client's fingerprint, the CA, issuer and serial of
/// each certificate on the path, and the listener whose CAs and CRLs it was judged by.
///
/// `fp=HEX ca=HEX path=HEX/SERIAL,HEX/SERIAL called=HEX [like=HEX] listener=NAME`
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) fingerprint: Box<str>,
    pub(crate) anchor: AnchorId,
    pub(crate) links: Vec<Link>,
    /// What the CAs of the listener were called, by [`ClientTrust::called`].
    pub(crate) called: Box<str>,
    /// Whose name the client's looks like, where its CA has none.
    pub(crate) like: Option<Likeness>,
    pub(crate) listener: Box<str>,
}

impl Reference {
    pub(crate) const METHOD: &'static str = "certificate";
    /// Of the principals.
    pub(crate) const KIND: &'static str = "cert";

    /// `name`: what the client is called by it, where that counts.
    pub(crate) fn new(
        fingerprint: &[u8; 32],
        path: &Path,
        called: String,
        name: Option<&str>,
        listener: &str,
    ) -> Self {
        let name = name.filter(|_| path.named.is_none());
        Self {
            fingerprint: hex(fingerprint).into(),
            anchor: path.anchor.clone(),
            links: path.links.clone(),
            called: called.into(),
            like: name.and_then(|name| Likeness::found(Self::KIND, name)),
            listener: listener.into(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let links: Vec<_> = self
            .links
            .iter()
            .map(|link| format!("{}/{}", hex(&link.issuer.0), link.serial))
            .collect();
        format!(
            "fp={} ca={} path={} called={}{} listener={}",
            self.fingerprint,
            self.anchor.0,
            links.join(","),
            self.called,
            Likeness::text(self.like.as_ref()),
            self.listener
        )
    }

    pub(crate) fn credential(&self) -> Credential {
        Credential::new(Self::METHOD, &self.text())
    }

    /// Reads [`text`](Self::text).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (fingerprint, rest) = text.strip_prefix("fp=")?.split_once(" ca=")?;
        let (anchor, rest) = rest.split_once(" path=")?;
        let (path, listener) = rest.split_once(" listener=")?;
        let (path, called) = path.split_once(" called=")?;
        let (called, like) = Likeness::split(called);
        let links = path.split(',').map(|link| {
            let (issuer, serial) = link.split_once('/')?;
            Some(Link {
                issuer: IssuerId(unhex(issuer)?),
                serial: serial.into(),
            })
        });
        Some(Self {
            fingerprint: fingerprint.into(),
            anchor: AnchorId(anchor.into()),
            links: links.collect::<Option<_>>()?,
            called: called.into(),
            like,
            listener: listener.into(),
        })
    }
}

/// 32 hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_survives_being_written_and_read() {
        for like in [None, Some(Likeness::of("cert", "plant"))] {
            survives(like);
        }
    }

    fn survives(like: Option<Likeness>) {
        let reference = Reference {
            fingerprint: "ab".repeat(32).into(),
            anchor: AnchorId("0123".into()),
            links: vec![
                Link {
                    issuer: IssuerId([7; 16]),
                    serial: "8f01".into(),
                },
                Link {
                    issuer: IssuerId([0xfe; 16]),
                    serial: "00".into(),
                },
            ],
            called: "00ff".into(),
            like,
            listener: "a name = with blanks".into(),
        };
        assert_eq!(Reference::parse(&reference.text()), Some(reference));
        for broken in [
            "",
            "fp=",
            "fp=a ca=b path=c listener=d",
            "fp=a ca=b path=/ listener=d",
            "fp=a ca=b path=/ called= listener=d",
        ] {
            assert_eq!(Reference::parse(broken), None, "{broken:?}");
        }
    }
}
