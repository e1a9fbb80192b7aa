//! What a certificate must be by itself, and why a path was not found.

use std::path::Path;
use std::time::SystemTime;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use webpki::anchor_from_trusted_cert;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use super::AnchorId;
use crate::der::time;
use crate::{Error, file};

/// Why a certificate is not accepted.
#[derive(Clone, Debug)]
pub(crate) struct NotTrusted {
    /// Picks the alert that the client gets (RFC 8446, section 6.2). What rustls has no word for is
    /// `BadEncoding`, the alert `bad_certificate`, or for a key `InvalidPurpose`, which becomes
    /// `unsupported_certificate`.
    pub(crate) kind: CertificateError,
    /// For the operator.
    pub(crate) why: String,
}

impl NotTrusted {
    pub(super) fn new(kind: CertificateError, why: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
        }
    }
}

/// Smallest RSA key accepted, in bits (NIST SP 800-57, 112 bits of strength).
const MIN_RSA: usize = 2048;

/// Largest RSA key accepted: verification cost grows with the square.
const MAX_RSA: usize = 8192;

/// The certificates in a PEM file; at least one.
///
/// # Errors
///
/// A file that is missing, not PEM, or without a certificate.
pub(crate) fn certificates(path: &Path, limit: u64) -> Result<Vec<CertificateDer<'static>>, Error> {
    let remedy = "use a file with -----BEGIN CERTIFICATE----- blocks (openssl x509 -inform der converts DER)";
    let bytes = file::read(path, limit)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::file(path, format!("is not a PEM file: {error}"), remedy))?;
    if found.is_empty() {
        return Err(Error::file(path, "holds no certificate in PEM", remedy));
    }
    Ok(found)
}

pub(super) fn check_authority(
    path: &Path,
    der: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<AnchorId, Error> {
    let broken = |problem: String| Error::file(path, problem, "replace this CA certificate");
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| broken(format!("holds a broken certificate: {error}")))?;
    let subject = certificate.subject().to_string();
    if !certificate.is_ca() {
        return Err(Error::file(
            path,
            format!("{subject:?} is not a CA certificate (basicConstraints)"),
            "name the CA that issues the client certificates, not one of them",
        ));
    }
    anchor_from_trusted_cert(der)
        .map_err(|error| broken(format!("{subject:?} cannot be used as a CA: {error}")))?;
    check_strength(&certificate).map_err(|why| broken(format!("{subject:?}: {why}")))?;
    let validity = certificate.validity();
    if time(validity.not_after) < now {
        return Err(broken(format!(
            "{subject:?} expired on {}",
            validity.not_after
        )));
    }
    if time(validity.not_before) > now {
        return Err(broken(format!(
            "{subject:?} is not valid before {}",
            validity.not_before
        )));
    }
    Ok(AnchorId::of(&certificate))
}

/// The clientAuth purpose must be written down. Path building accepts a certificate without the
/// extension for every purpose, a web server's among them.
pub(super) fn check_purpose(certificate: &X509Certificate<'_>) -> Result<(), NotTrusted> {
    let refuse = |why: String| NotTrusted::new(CertificateError::InvalidPurpose, why);
    match certificate.extended_key_usage() {
        Ok(Some(usage)) if usage.value.client_auth => Ok(()),
        Ok(Some(_)) => Err(refuse(
            "the client certificate's extended key usage lacks clientAuth".into(),
        )),
        Ok(None) => Err(refuse(
            "the client certificate has no extended key usage (clientAuth)".into(),
        )),
        Err(error) => Err(refuse(format!(
            "the extended key usage cannot be read: {error}"
        ))),
    }
}

pub(super) fn check_strength(certificate: &X509Certificate<'_>) -> Result<(), String> {
    let spki = certificate.public_key();
    let algorithm = spki.algorithm.algorithm.to_id_string();
    match (spki.parsed(), algorithm.as_str()) {
        (Ok(PublicKey::RSA(key)), _) => match key.key_size() {
            MIN_RSA..=MAX_RSA => Ok(()),
            bits => Err(format!(
                "the RSA key has {bits} bits; accepted are {MIN_RSA} to {MAX_RSA}"
            )),
        },
        (Ok(PublicKey::EC(_)), _) => {
            let curve = spki
                .algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok())
                .map(|oid| oid.to_id_string());
            match curve.as_deref() {
                // P-256, P-384, P-521
                Some("1.2.840.10045.3.1.7" | "1.3.132.0.34" | "1.3.132.0.35") => Ok(()),
                other => Err(format!(
                    "the curve {:?} is not P-256, P-384 or P-521",
                    other.unwrap_or("explicit")
                )),
            }
        }
        (_, "1.3.101.112") => Ok(()), // Ed25519
        (_, other) => Err(format!("a key of algorithm {other} is not accepted")),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's list is open; whatever it says is a refusal with its own words"
)]
pub(super) fn explain(error: &webpki::Error, leaf: &X509Certificate<'_>) -> NotTrusted {
    let subject = leaf.subject().to_string();
    let date = |time: &UnixTime| {
        i64::try_from(time.as_secs())
            .ok()
            .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
            .map_or_else(String::new, |time| time.to_string())
    };
    let (kind, why) = match error {
        webpki::Error::UnknownIssuer => (
            CertificateError::UnknownIssuer,
            format!(
                "no configured client CA issued the certificate of {subject:?} (issuer {:?})",
                leaf.issuer().to_string()
            ),
        ),
        webpki::Error::CertExpired { not_after, .. } => (
            CertificateError::Expired,
            format!(
                "the certificate of {subject:?}, or a CA on its path, expired on {}",
                date(not_after)
            ),
        ),
        webpki::Error::CertNotValidYet { not_before, .. } => (
            CertificateError::NotValidYet,
            format!(
                "the certificate of {subject:?}, or a CA on its path, is not valid before {}",
                date(not_before)
            ),
        ),
        other => (
            CertificateError::BadEncoding,
            format!("the certificate of {subject:?} is not valid: {other}"),
        ),
    };
    NotTrusted::new(kind, why)
}
