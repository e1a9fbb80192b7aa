//! The few steps into DER that the X.509 libraries do not offer, and hashes in hexadecimal.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::SignatureVerificationAlgorithm;
use x509_parser::asn1_rs::{Any, FromDer};
use x509_parser::time::ASN1Time;

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A serial number without the zeros that DER puts in front, in lower-case hexadecimal; two
/// encodings of one number compare equal.
pub(crate) fn serial(raw: &[u8]) -> String {
    let start = raw
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(raw.len().saturating_sub(1));
    hex(raw.get(start..).unwrap_or_default())
}

/// A time from a certificate or CRL.
pub(crate) fn time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let span = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        UNIX_EPOCH.checked_sub(span).unwrap_or(UNIX_EPOCH)
    } else {
        // Four-digit years fit.
        UNIX_EPOCH.checked_add(span).unwrap_or(UNIX_EPOCH)
    }
}

/// Whether `signed` (a certificate or a CRL: a sequence of content, algorithm and signature) was
/// signed with this public key, by one of `algorithms`. Both algorithm identifiers are compared
/// byte by byte with the ones that the implementation stands for.
pub(crate) fn is_signed_by(
    signed: &[u8],
    spki: &[u8],
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> bool {
    let Some((content, algorithm, signature)) = signed_parts(signed) else {
        return false;
    };
    let Some((key_algorithm, key)) = spki_parts(spki) else {
        return false;
    };
    algorithms
        .iter()
        .filter(|known| known.signature_alg_id().as_ref() == algorithm)
        .filter(|known| known.public_key_alg_id().as_ref() == key_algorithm)
        .any(|known| known.verify_signature(key, content, signature).is_ok())
}

/// Content (with its header), the algorithm identifier's content, and the signature.
fn signed_parts(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (_, outer) = Any::from_der(der).ok()?;
    let (behind, _) = Any::from_der(outer.data).ok()?;
    let content = outer.data.get(..outer.data.len() - behind.len())?;
    let (behind, algorithm) = Any::from_der(behind).ok()?;
    let (_, signature) = Any::from_der(behind).ok()?;
    Some((content, algorithm.data, bits(signature.data)?))
}

/// The algorithm identifier's content and the key of a `SubjectPublicKeyInfo`.
fn spki_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, outer) = Any::from_der(der).ok()?;
    let (behind, algorithm) = Any::from_der(outer.data).ok()?;
    let (_, key) = Any::from_der(behind).ok()?;
    Some((algorithm.data, bits(key.data)?))
}

/// The bytes of a bit string that has no unused bits.
fn bits(content: &[u8]) -> Option<&[u8]> {
    match content.split_first() {
        Some((0, bytes)) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_one_text_whatever_its_encoding() {
        for (raw, text) in [
            (&[0x00, 0x8f, 0x01][..], "8f01"),
            (&[0x8f, 0x01], "8f01"),
            (&[0x0a], "0a"),
            (&[0x00], "00"),
            (&[], ""),
        ] {
            assert_eq!(serial(raw), text, "{raw:?}");
        }
    }
}
