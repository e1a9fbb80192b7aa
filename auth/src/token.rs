//! Ed25519 keys and tokens for a starter set-up. A real deployment has an issuer of its own.

use std::fmt::Write as _;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::Error;

const REMEDY: &str = "use an Ed25519 key: openssl genpkey -algorithm ed25519";

/// A new key, as PKCS #8 PEM. Keep it secret.
///
/// # Errors
///
/// The random source of the system fails.
pub fn generate_ed25519() -> Result<Zeroizing<String>, Error> {
    let failed = |_| Error::setting("no Ed25519 key could be made", "try again");
    let pair = Ed25519KeyPair::generate().map_err(failed)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
    Ok(Zeroizing::new(pem("PRIVATE KEY", der.as_ref())))
}

/// The public half of a PKCS #8 PEM key, as PEM for `key-file`.
///
/// # Errors
///
/// Not an Ed25519 private key.
pub fn ed25519_public_pem(key_pem: &str) -> Result<String, Error> {
    // RFC 8410: the algorithm has no parameters, so everything before the key is fixed.
    const PREFIX: [u8; 12] = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    let pair = key_pair(key_pem)?;
    let der = [&PREFIX, pair.public_key().as_ref()].concat();
    Ok(pem("PUBLIC KEY", &der))
}

/// Signs `claims` with an Ed25519 key (PKCS #8 PEM) as a compact JWS (RFC 7515), with `kid` in the
/// header where given.
///
/// # Errors
///
/// Not an Ed25519 private key.
pub fn issue_ed25519(
    key_pem: &str,
    kid: Option<&str>,
    claims: &Map<String, Value>,
) -> Result<String, Error> {
    let pair = key_pair(key_pem)?;
    let mut header = json!({"alg": "EdDSA", "typ": "JWT"});
    if let (Some(kid), Some(header)) = (kid, header.as_object_mut()) {
        header.insert("kid".to_owned(), kid.into());
    }
    let claims = Value::Object(claims.clone());
    let mut token = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
        .join(".");
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(token.as_bytes()));
    token.push('.');
    token.push_str(&signature);
    Ok(token)
}

fn key_pair(key_pem: &str) -> Result<Ed25519KeyPair, Error> {
    let broken = || Error::setting("the token key is not an Ed25519 key in PKCS #8 PEM", REMEDY);
    let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| broken())?;
    Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der())
        .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()))
        .map_err(|_| broken())
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, char) in body.chars().enumerate() {
        if at != 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(char);
    }
    // Writing to a String cannot fail.
    let _ = write!(text, "\n-----END {label}-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_signs_and_its_public_half_verifies() {
        let key = generate_ed25519().unwrap();
        let mut claims = Map::new();
        claims.insert("sub".into(), "device-3".into());
        let token = issue_ed25519(&key, Some("k1"), &claims).unwrap();

        let public = ed25519_public_pem(&key).unwrap();
        let decoding = jsonwebtoken::DecodingKey::from_ed_pem(public.as_bytes()).unwrap();
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        let data = jsonwebtoken::decode::<Value>(&token, &decoding, &validation).unwrap();
        assert_eq!(data.claims["sub"], "device-3");
        assert_eq!(data.header.kid.as_deref(), Some("k1"));
    }

    #[test]
    fn another_kind_of_key_is_refused() {
        for pem in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(issue_ed25519(pem, None, &Map::new()).is_err());
        }
    }
}
