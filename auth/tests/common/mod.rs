//! A certificate authority, an issuer of tokens, and attempts to identify, for the tests.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::panic, reason = "a failed set-up is a failed test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_auth::{
    ClientCa, ClientTrust, Connection, Desk, IntrospectionSettings, IssuerSettings, KeySource,
    Revocation, Settings, Url, WebhookSettings,
};
use portcullis_core::clock::Now;
use portcullis_core::hook::{
    Accepted, Attempt, Authenticator, ClientCertificate, Outcome, Refusal, StopClock,
};
use portcullis_core::secret::Secret;
use portcullis_core::wire::Version;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, NameConstraints, PublicKeyData, RevokedCertParams, SerialNumber,
    SignatureAlgorithm,
};
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// 2026-01-01; every test happens then.
pub(crate) const START: u64 = 1_767_225_600;

/// A moment, in days after the start.
pub(crate) fn day(days: i64) -> SystemTime {
    let seconds = START.cast_signed() + days * 86_400;
    UNIX_EPOCH + Duration::from_secs(seconds.cast_unsigned())
}

pub(crate) fn now() -> Now {
    Now {
        mono: Instant::now(),
        wall: day(0),
    }
}

/// A certificate authority. Serials count from 1.
pub(crate) struct Ca {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) der: Box<[u8]>,
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_until(name, 3650)
    }

    pub(crate) fn root_until(name: &str, days: i64) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name, days);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: Box::from(certificate.der().as_ref()),
            issuer: Issuer::new(params, key),
        }
    }

    /// A CA that this one issued, with this serial.
    pub(crate) fn below(&self, name: &str, serial: u64) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(name, 3650);
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: certificate.pem(),
            der: Box::from(certificate.der().as_ref()),
            issuer: Issuer::new(params, key),
        }
    }

    /// A client certificate for `name`, after `change`.
    pub(crate) fn client(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = client_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            der: Box::from(certificate.der().as_ref()),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// A certificate for a key whose private half nobody has.
    pub(crate) fn for_key(&self, name: &str, key: &impl PublicKeyData) -> Box<[u8]> {
        let certificate = client_params(name).signed_by(key, &self.issuer).unwrap();
        Box::from(certificate.der().as_ref())
    }

    /// A CRL with these serials, made yesterday, next due on this day.
    pub(crate) fn crl(&self, serials: &[u64], next: i64) -> String {
        crl_params(serials, next)
            .signed_by(&self.issuer)
            .unwrap()
            .pem()
            .unwrap()
    }
}

/// What [`Ca::crl`] signs.
pub(crate) fn crl_params(serials: &[u64], next: i64) -> CertificateRevocationListParams {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: at(-1),
        reason_code: None,
        invalidity_date: None,
    };
    CertificateRevocationListParams {
        this_update: at(-100),
        next_update: at(next),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// A client certificate with its key.
pub(crate) struct Leaf {
    pub(crate) der: Box<[u8]>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
}

impl Leaf {
    pub(crate) fn shown(&self) -> ClientCertificate {
        chain(&[&self.der])
    }
}

pub(crate) fn chain(ders: &[&[u8]]) -> ClientCertificate {
    ClientCertificate {
        chain: ders.iter().map(|der| Box::from(*der)).collect(),
    }
}

pub(crate) fn at(days: i64) -> OffsetDateTime {
    OffsetDateTime::from(day(days))
}

/// A CA below this one that may name clients under `domain` only.
pub(crate) fn constrained(ca: &Ca, domain: &str) -> Ca {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = named("constrained");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.not_before = at(-1);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.into())],
        excluded_subtrees: vec![],
    });
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca.issuer).unwrap();
    Ca {
        pem: certificate.pem(),
        der: Box::from(certificate.der().as_ref()),
        issuer: Issuer::new(params, key),
    }
}

/// A public key of 1024 bits.
pub(crate) struct Rsa1024(Vec<u8>);

impl Rsa1024 {
    /// Of an odd number and 65537.
    pub(crate) fn new() -> Self {
        let mut key = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
        key.extend([0xff; 128]);
        key.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        Self(key)
    }
}

impl PublicKeyData for Rsa1024 {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn ca_params(name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = named(name);
    params.not_before = at(-365);
    params.not_after = at(days);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn client_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = named(name);
    params.not_before = at(-30);
    params.not_after = at(365);
    params.serial_number = Some(SerialNumber::from(7));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub(crate) fn named(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

/// Writes a file into a directory and gives its path.
pub(crate) fn file(directory: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// The trust in these CAs, each with its name or without one.
pub(crate) fn named_trust(cas: &[(Option<&str>, &str)]) -> Result<Arc<ClientTrust>, String> {
    let directory = tempfile::tempdir().unwrap();
    let ca = |(at, (name, pem)): (usize, &(Option<&str>, &str))| ClientCa {
        name: name.map(str::to_owned),
        file: file(directory.path(), &format!("{at}.pem"), pem),
    };
    let cas: Vec<_> = cas.iter().enumerate().map(ca).collect();
    ClientTrust::load(&cas, &revocation(vec![]), day(0))
        .map(|(trust, _)| trust)
        .map_err(|error| error.to_string())
}

/// The trust in these CAs and CRLs, with a day of grace.
pub(crate) fn trust(cas: &[&str], crls: &[&str]) -> Result<Arc<ClientTrust>, String> {
    let directory = tempfile::tempdir().unwrap();
    let write = |kind: &str, texts: &[&str]| -> Vec<PathBuf> {
        texts
            .iter()
            .enumerate()
            .map(|(at, text)| file(directory.path(), &format!("{at}.{kind}"), text))
            .collect()
    };
    let (cas, crls) = (write("pem", cas), write("crl", crls));
    let cas: Vec<_> = cas.into_iter().map(ClientCa::from).collect();
    ClientTrust::load(&cas, &revocation(crls), day(0))
        .map(|(trust, _)| trust)
        .map_err(|error| error.to_string())
}

/// Lists from files, with a day of grace.
pub(crate) fn revocation(files: Vec<PathBuf>) -> Revocation {
    Revocation {
        files,
        grace: Duration::from_hours(24),
        refresh: Duration::from_hours(1),
        ..Revocation::default()
    }
}

/// An attempt with nothing in it, on a listener `internet` off loopback.
pub(crate) fn attempt() -> Attempt<'static> {
    Attempt {
        listener: "internet",
        methods: None,
        loopback: false,
        peer: None,
        version: Version::V5,
        client_id: "c",
        username: None,
        password: None,
        enhanced: None,
        bearer: None,
        certificate: None,
        now: now(),
        step: 0,
        exchange: 0,
        current: None,
        clock: StopClock::new(Duration::from_secs(10)),
    }
}

pub(crate) fn with_password<'a>(user: Option<&'a str>, password: &'a str) -> Attempt<'a> {
    Attempt {
        username: user,
        password: Some(Secret::new(password.as_bytes())),
        ..attempt()
    }
}

pub(crate) fn with_certificate(certificate: &ClientCertificate) -> Attempt<'_> {
    Attempt {
        certificate: Some(certificate),
        ..attempt()
    }
}

/// What the desk says.
pub(crate) async fn judge(desk: &Desk, attempt: &Attempt<'_>) -> Result<Accepted, Refusal> {
    match desk.authenticate(attempt).await {
        Outcome::Accepted(accepted) => Ok(accepted),
        Outcome::Refused(refusal) => Err(refusal),
        other @ (Outcome::NotMine | Outcome::Continue(_)) => panic!("{other:?}"),
    }
}

pub(crate) fn ask(desk: &Desk, attempt: &Attempt<'_>) -> Result<Accepted, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(judge(desk, attempt))
}

pub(crate) fn principal(desk: &Desk, attempt: &Attempt<'_>) -> Result<String, String> {
    ask(desk, attempt)
        .map(|accepted| accepted.identity.principal.to_string())
        .map_err(|refusal| refusal.reason)
}

pub(crate) fn desk(settings: Settings) -> Desk {
    Desk::open(settings)
        .unwrap_or_else(|errors| panic!("{errors:?}"))
        .0
}

/// An Ed25519 issuer with its JWKS.
pub(crate) struct TokenIssuer {
    pub(crate) key: String,
    pub(crate) public: String,
    pub(crate) kid: String,
}

impl TokenIssuer {
    pub(crate) fn new(kid: &str) -> Self {
        let key = portcullis_auth::generate_ed25519().unwrap();
        Self {
            public: portcullis_auth::ed25519_public_pem(&key).unwrap(),
            key: key.to_string(),
            kid: kid.to_owned(),
        }
    }

    /// The key's raw 32 bytes in base64url.
    pub(crate) fn x(&self) -> String {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let body: String = self
            .public
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect();
        let der = STANDARD.decode(body).unwrap();
        URL_SAFE_NO_PAD.encode(der.get(der.len() - 32..).unwrap())
    }

    pub(crate) fn jwk(&self) -> Value {
        serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "x": self.x(), "kid": self.kid, "use": "sig"
        })
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        let claims = claims.as_object().unwrap();
        portcullis_auth::issue_ed25519(&self.key, Some(&self.kid), claims).unwrap()
    }
}

pub(crate) fn jwks(keys: &[Value]) -> String {
    serde_json::json!({ "keys": keys }).to_string()
}

/// Claims that are good for an hour.
pub(crate) fn claims(change: impl FnOnce(&mut Map<String, Value>)) -> Value {
    let mut claims = Map::new();
    claims.insert("iss".into(), "https://id.example".into());
    claims.insert("aud".into(), "portcullis".into());
    claims.insert("sub".into(), "anna".into());
    claims.insert("exp".into(), (START + 3600).into());
    change(&mut claims);
    Value::Object(claims)
}

pub(crate) fn issuer_settings(name: &str, source: KeySource) -> IssuerSettings {
    IssuerSettings::new(name, "https://id.example", "portcullis", "EdDSA", source)
}

/// A server that is asked what tokens are worth; with a file of a secret, or without any.
pub(crate) fn introspection(name: &str, url: Url, secret: Option<&Path>) -> IntrospectionSettings {
    IntrospectionSettings {
        name: name.to_owned(),
        url,
        client: secret.map(|path| ("id".to_owned(), path.to_owned())),
        connection: Connection::default(),
        username: Some("oauth2".into()),
        audience: vec![],
        principal: "sub".into(),
        roles: None,
        allowed_roles: None,
        require_claims: vec![],
        cache: Duration::from_mins(1),
        lifetime: Duration::from_hours(1),
        leeway: Duration::from_secs(10),
    }
}

/// A service that judges passwords.
pub(crate) fn webhook(name: &str, url: Url) -> WebhookSettings {
    WebhookSettings {
        name: name.to_owned(),
        url,
        secret_file: None,
        connection: Connection::default(),
        passwords: true,
        tokens: false,
        allowed_roles: None,
        lifetime: Duration::from_hours(1),
    }
}

/// The fingerprint of a certificate.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
