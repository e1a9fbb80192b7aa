//! The keys of an issuer, from a JWKS file (RFC 7517) or PEM.
//!
//! A key is bound to the algorithms it may be used with when it is loaded: those that the
//! configuration names, that fit the key's type and, where a JWK says `alg`, only that one. A
//! token's header merely chooses among these, so that neither an RSA key as an HMAC secret nor
//! `none` can be written down.

use std::path::Path;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use crate::der::sha256;
use crate::settings::is_hmac;
use crate::{Error, IssuerSettings, KeySource, file};

/// Largest key file, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 20;
/// Most keys in one file.
const MAX_KEYS: usize = 256;
/// RSA moduli accepted, in bytes: 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// Shortest HMAC secret, in bytes, whatever the hash; each hash also asks for its own length (RFC
/// 7518, section 3.2).
const MIN_SECRET: usize = 32;

/// One key.
pub(crate) struct Key {
    /// `kid`; a PEM key has none.
    pub(crate) id: Option<Box<str>>,
    /// RFC 7638: names the key in credentials.
    pub(crate) thumbprint: Box<str>,
    /// What it may be used with; never empty.
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) decoding: DecodingKey,
}

/// The keys of one issuer.
pub(crate) struct Keys {
    all: Vec<Key>,
    /// Whether keys have names, so that a `kid` must be one of them.
    named: bool,
}

impl Keys {
    /// Reads the issuer's file. The texts are warnings about keys that are not used.
    ///
    /// # Errors
    ///
    /// A file that is missing, broken, holds a private key, or has no key that can be used.
    pub(crate) fn load(issuer: &IssuerSettings) -> Result<(Self, Vec<String>), Error> {
        let algorithms = issuer.algorithms()?;
        match &issuer.source {
            KeySource::JwksFile(path) => {
                Self::from_jwks(path, &file::read(path, MAX_FILE)?, &algorithms)
            }
            KeySource::JwksUrl(from) => Err(Error::setting(
                format!("auth.jwt {:?}: {} was not fetched", issuer.name, from.url),
                "report this",
            )),
            KeySource::KeyFile(path) if algorithms.iter().all(|alg| is_hmac(*alg)) => {
                let secret = Zeroizing::new(file::read(path, MAX_FILE)?);
                let keys = Self::from_secret(path, &secret, &algorithms)?;
                Ok((keys, file::exposed(path).into_iter().collect()))
            }
            KeySource::KeyFile(path) => Self::from_pem(path, &algorithms),
        }
    }

    /// The one key that a header with this `kid` and algorithm means.
    ///
    /// # Errors
    ///
    /// None fits, or more than one does; in words.
    pub(crate) fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, String> {
        let fitting = |key: &&Key| key.algorithms.contains(&algorithm);
        // Keys from PEM have no names, so there is nothing to compare a `kid` with.
        let kid = kid.filter(|_| self.named);
        let found: Vec<_> = match kid {
            Some(kid) => self
                .all
                .iter()
                .filter(|key| key.id.as_deref() == Some(kid))
                .collect(),
            None => self.all.iter().collect(),
        };
        let known = !found.is_empty();
        let mut found = found.into_iter().filter(fitting);
        match (found.next(), found.next(), kid) {
            (Some(key), None, _) => Ok(key),
            (Some(_), Some(_), Some(_)) => {
                Err("more than one key has this kid and fits the algorithm".into())
            }
            (Some(_), Some(_), None) => {
                Err("the header has no kid, and more than one key fits the algorithm".into())
            }
            (None, _, Some(_)) if known => Err(format!(
                "the key with this kid may not be used with {algorithm:?}"
            )),
            (None, _, Some(_)) => Err("the issuer has no key with this kid".into()),
            (None, _, None) => Err(format!("the issuer has no key for {algorithm:?}")),
        }
    }

    /// Whether a key has this name.
    pub(crate) fn names(&self, kid: &str) -> bool {
        self.all.iter().any(|key| key.id.as_deref() == Some(kid))
    }

    /// Whether both have the same keys.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let within =
            |one: &Self, other: &Self| one.all.iter().all(|key| other.has(&key.thumbprint));
        within(self, other) && within(other, self)
    }

    /// Whether a key with this thumbprint is (still) among them.
    pub(crate) fn has(&self, thumbprint: &str) -> bool {
        self.all.iter().any(|key| &*key.thumbprint == thumbprint)
    }

    /// Reads a key set; `path` says where it comes from. The texts are warnings.
    ///
    /// # Errors
    ///
    /// A set that is broken, holds a private key, or has no key that can be used.
    pub(crate) fn from_jwks(
        path: &Path,
        bytes: &[u8],
        algorithms: &[Algorithm],
    ) -> Result<(Self, Vec<String>), Error> {
        let remedy = "use the key set that the issuer publishes: {\"keys\": [...]}";
        let set: Value = serde_json::from_slice(bytes).map_err(|error| {
            Error::line(path, error.line(), format!("is not JSON: {error}"), remedy)
        })?;
        let Some(list) = set.get("keys").and_then(Value::as_array) else {
            return Err(Error::file(path, "has no list \"keys\"", remedy));
        };
        if list.len() > MAX_KEYS {
            return Err(Error::file(
                path,
                format!("has more than {MAX_KEYS} keys"),
                remedy,
            ));
        }
        let mut all: Vec<Key> = Vec::new();
        let mut warnings = Vec::new();
        for (at, jwk) in list.iter().enumerate() {
            let Some(jwk) = jwk.as_object() else {
                return Err(Error::file(
                    path,
                    format!("key {at} is not an object"),
                    remedy,
                ));
            };
            if ["d", "p", "q", "dp", "dq", "qi", "oth"]
                .iter()
                .any(|part| jwk.contains_key(*part))
            {
                return Err(Error::file(
                    path,
                    format!("key {at} is a private key"),
                    "remove it from this machine, replace it, and put public keys here",
                ));
            }
            match from_jwk(jwk, algorithms) {
                Ok(key) => {
                    let twin = |other: &Key| {
                        other.id == key.id
                            && other
                                .algorithms
                                .iter()
                                .any(|alg| key.algorithms.contains(alg))
                    };
                    if key.id.is_some() && all.iter().any(twin) {
                        return Err(Error::file(
                            path,
                            format!("key {at} has the kid of another one"),
                            "give each key its own kid",
                        ));
                    }
                    all.push(key);
                }
                Err(why) => {
                    warnings.push(format!("{}: key {at} is not used: {why}", path.display()));
                }
            }
        }
        if all.is_empty() {
            let why = warnings.first().map_or("it is empty", String::as_str);
            return Err(Error::file(
                path,
                format!("has no key that can be used ({why})"),
                "check the issuer's algorithms setting and its key set",
            ));
        }
        Ok((Self { all, named: true }, warnings))
    }

    fn from_pem(path: &Path, algorithms: &[Algorithm]) -> Result<(Self, Vec<String>), Error> {
        let remedy =
            "use -----BEGIN PUBLIC KEY----- blocks (openssl pkey -pubout, openssl x509 -pubkey)";
        let bytes = Zeroizing::new(file::read(path, MAX_FILE)?);
        if bytes.windows(12).any(|window| window == b"PRIVATE KEY-") {
            return Err(Error::file(
                path,
                "is a private key; the broker needs the public one",
                remedy,
            ));
        }
        let ders: Vec<_> = SubjectPublicKeyInfoDer::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .map_err(|_| Error::file(path, "is not a PEM file", remedy))?;
        if ders.is_empty() {
            return Err(Error::file(path, "holds no public key in PEM", remedy));
        }
        let mut all = Vec::new();
        let mut warnings = Vec::new();
        for (at, der) in ders.iter().take(MAX_KEYS).enumerate() {
            match material_of(der).and_then(|material| material.key(None, algorithms)) {
                Ok(key) => all.push(key),
                Err(why) => {
                    warnings.push(format!("{}: key {at} is not used: {why}", path.display()));
                }
            }
        }
        if all.is_empty() {
            let why = warnings.first().map(String::as_str).unwrap_or_default();
            return Err(Error::file(
                path,
                format!("has no key that can be used ({why})"),
                "check the issuer's algorithms setting",
            ));
        }
        Ok((Self { all, named: false }, warnings))
    }

    fn from_secret(path: &Path, secret: &[u8], algorithms: &[Algorithm]) -> Result<Self, Error> {
        let remedy = "write 64 random bytes: openssl rand 64 > FILE; chmod 600 FILE";
        if secret.windows(5).any(|window| window == b"-----") {
            // The classic confusion: a public key that everybody knows, taken as the secret.
            return Err(Error::file(
                path,
                "is a PEM file, not an HMAC secret",
                remedy,
            ));
        }
        let needed = |algorithm: &Algorithm| {
            if *algorithm == Algorithm::HS512 {
                64
            } else if *algorithm == Algorithm::HS384 {
                48
            } else {
                MIN_SECRET
            }
        };
        let needed = algorithms.iter().map(needed).max().unwrap_or(MIN_SECRET);
        if secret.len() < needed {
            return Err(Error::file(
                path,
                format!("is a secret of {} bytes; {needed} are needed", secret.len()),
                remedy,
            ));
        }
        let mut labelled = Zeroizing::new(b"portcullis hmac secret\0".to_vec());
        labelled.extend_from_slice(secret);
        Ok(Self {
            all: vec![Key {
                id: None,
                thumbprint: URL_SAFE_NO_PAD.encode(sha256(&labelled)).into(),
                algorithms: algorithms.to_vec(),
                decoding: DecodingKey::from_secret(secret),
            }],
            named: false,
        })
    }
}

/// A public key in parts.
#[derive(Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256 { x: Vec<u8>, y: Vec<u8> },
    P384 { x: Vec<u8>, y: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

impl Material {
    fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        match self {
            Self::Rsa { .. } => matches!(
                algorithm,
                A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512
            ),
            Self::P256 { .. } => algorithm == A::ES256,
            Self::P384 { .. } => algorithm == A::ES384,
            Self::Ed25519 { .. } => algorithm == A::EdDSA,
        }
    }

    /// RFC 7638: SHA-256 over the required members in lexicographic order.
    fn thumbprint(&self) -> Box<str> {
        let base = |bytes: &Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |curve, x, y| {
            format!(
                r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#,
                base(x),
                base(y)
            )
        };
        let json = match self {
            Self::Rsa { n, e } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, base(e), base(n))
            }
            Self::P256 { x, y } => ec("P-256", x, y),
            Self::P384 { x, y } => ec("P-384", x, y),
            Self::Ed25519 { x } => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, base(x))
            }
        };
        URL_SAFE_NO_PAD.encode(sha256(json.as_bytes())).into()
    }

    fn key(&self, id: Option<Box<str>>, allowed: &[Algorithm]) -> Result<Key, String> {
        let point = |x: &[u8], y: &[u8]| [&[4], x, y].concat();
        let off_curve = |_| "it is not a point of its curve".to_owned();
        let decoding = match self {
            Self::Rsa { n, e } => {
                let odd = e.last().is_some_and(|byte| byte & 1 == 1);
                if !RSA_BYTES.contains(&n.len()) || !odd || e.len() > 4 || e.as_slice() == [1] {
                    return Err("it is an RSA key of less than 2048 or more than 8192 bits, or with an unusual exponent".into());
                }
                DecodingKey::from_rsa_raw_components(n, e)
            }
            Self::P256 { x, y } => {
                let point = point(x, y);
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(off_curve)?;
                DecodingKey::from_ec_der(&point)
            }
            Self::P384 { x, y } => {
                let point = point(x, y);
                ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point).map_err(off_curve)?;
                DecodingKey::from_ec_der(&point)
            }
            Self::Ed25519 { x } => {
                ParsedPublicKey::new(&ED25519, x).map_err(off_curve)?;
                DecodingKey::from_ed_der(x)
            }
        };
        let algorithms: Vec<_> = allowed
            .iter()
            .copied()
            .filter(|algorithm| self.fits(*algorithm))
            .collect();
        if algorithms.is_empty() {
            return Err(format!(
                "it fits none of the configured algorithms {allowed:?}"
            ));
        }
        Ok(Key {
            id,
            thumbprint: self.thumbprint(),
            algorithms,
            decoding,
        })
    }
}

fn from_jwk(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Key, String> {
    if jwk.get("use").is_some_and(|usage| usage != "sig") {
        return Err("its use is not \"sig\"".into());
    }
    if let Some(operations) = jwk.get("key_ops") {
        let verify = |operations: &Vec<Value>| operations.iter().any(|op| op == "verify");
        if !operations.as_array().is_some_and(verify) {
            return Err("its key_ops lack \"verify\"".into());
        }
    }
    let id = match jwk.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.as_str().into()),
        Some(_) => return Err("its kid is not a string".into()),
    };
    let allowed: Vec<_> = match jwk.get("alg") {
        None => allowed.to_vec(),
        Some(alg) => allowed
            .iter()
            .copied()
            .filter(|allowed| alg.as_str() == Some(&format!("{allowed:?}")))
            .collect(),
    };
    if allowed.is_empty() {
        return Err("its alg is not one of the configured algorithms".into());
    }
    let kind = |name: &str| jwk.get(name).and_then(Value::as_str).unwrap_or_default();
    let material = match (kind("kty"), kind("crv")) {
        ("RSA", _) => Material::Rsa {
            n: number(jwk, "n")?,
            e: number(jwk, "e")?,
        },
        ("EC", "P-256") => Material::P256 {
            x: octets(jwk, "x", 32)?,
            y: octets(jwk, "y", 32)?,
        },
        ("EC", "P-384") => Material::P384 {
            x: octets(jwk, "x", 48)?,
            y: octets(jwk, "y", 48)?,
        },
        ("OKP", "Ed25519") => Material::Ed25519 {
            x: octets(jwk, "x", 32)?,
        },
        ("oct", _) => return Err("it is a shared secret, which belongs into a key-file".into()),
        (kty, crv) => return Err(format!("its type {kty:?} {crv:?} is not supported")),
    };
    material.key(id, &allowed)
}

fn octets(jwk: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, String> {
    let bytes = base64url(jwk, name)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(format!(
            "its {name} has {} bytes, not {length}",
            bytes.len()
        ))
    }
}

/// An integer without leading zeros (RFC 7518, section 2: `Base64urlUInt`); some issuers write one.
fn number(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    Ok(trim(&base64url(jwk, name)?))
}

fn trim(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .copied()
        .skip_while(|byte| *byte == 0)
        .collect()
}

fn base64url(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    jwk.get(name)
        .and_then(Value::as_str)
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .ok_or_else(|| format!("its {name} is missing or not base64url"))
}

fn material_of(spki: &[u8]) -> Result<Material, String> {
    let (_, info) =
        SubjectPublicKeyInfo::from_der(spki).map_err(|error| format!("it is broken: {error}"))?;
    let key = info.subject_public_key.data.as_ref();
    let algorithm = info.algorithm.algorithm.to_id_string();
    let curve = info
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok())
        .map(|oid| oid.to_id_string());
    let halves = |length: usize| match key.split_first() {
        Some((4, point)) if point.len() == 2 * length => Ok(point.split_at(length)),
        _ => Err("its point is compressed or of wrong length".to_owned()),
    };
    match (algorithm.as_str(), curve.as_deref()) {
        ("1.2.840.113549.1.1.1", _) => match info.parsed() {
            Ok(PublicKey::RSA(rsa)) => Ok(Material::Rsa {
                n: trim(rsa.modulus),
                e: trim(rsa.exponent),
            }),
            _ => Err("its RSA key is broken".into()),
        },
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => {
            let (x, y) = halves(32)?;
            Ok(Material::P256 {
                x: x.to_vec(),
                y: y.to_vec(),
            })
        }
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => {
            let (x, y) = halves(48)?;
            Ok(Material::P384 {
                x: x.to_vec(),
                y: y.to_vec(),
            })
        }
        ("1.3.101.112", _) if key.len() == 32 => Ok(Material::Ed25519 { x: key.to_vec() }),
        (other, curve) => Err(format!(
            "its algorithm {other} {} is not supported",
            curve.unwrap_or_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_7638_and_rfc_8037() {
        let rsa = r#"{"kty":"RSA","e":"AQAB","alg":"RS256","kid":"2011-04-29","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}"#;
        let ed =
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        for (jwk, algorithm, thumbprint) in [
            (
                rsa,
                Algorithm::RS256,
                "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
            ),
            (
                ed,
                Algorithm::EdDSA,
                "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            ),
        ] {
            let jwk: Map<String, Value> = serde_json::from_str(jwk).unwrap();
            let key = from_jwk(&jwk, &[algorithm]).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(&*key.thumbprint, thumbprint);
        }
    }

    #[test]
    fn a_key_is_bound_to_the_algorithms_that_fit_it() {
        let ed = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"EXTRA}"#;
        for (extra, allowed, word) in [
            ("", Algorithm::ES256, Some("fits none")),
            (r#","alg":"EdDSA""#, Algorithm::EdDSA, None),
            (r#","alg":"HS256""#, Algorithm::EdDSA, Some("alg")),
            (r#","use":"sig""#, Algorithm::EdDSA, None),
            (r#","use":"enc""#, Algorithm::EdDSA, Some("use")),
            (r#","key_ops":["verify"]"#, Algorithm::EdDSA, None),
            (r#","key_ops":["sign"]"#, Algorithm::EdDSA, Some("key_ops")),
            (r#","kid":7"#, Algorithm::EdDSA, Some("kid")),
        ] {
            let jwk: Map<String, Value> =
                serde_json::from_str(&ed.replace("EXTRA", extra)).unwrap();
            match (from_jwk(&jwk, &[allowed]), word) {
                (Ok(key), None) => assert_eq!(key.algorithms, [allowed]),
                (Err(why), Some(word)) => assert!(why.contains(word), "{why}"),
                (result, _) => panic!("{extra}: {:?}", result.err()),
            }
        }
    }
}
