//! What a listener's TLS accepts.
//!
//! TLS 1.3 and 1.2 with AEAD suites only, aws-lc-rs as the provider (hybrid X25519MLKEM768 key
//! exchange preferred), no 0-RTT. Where clients show certificates there is no resumption at all: a
//! resumed session would skip the CRL. Renegotiation does not exist in rustls.
//!
//! A client certificate that is not accepted ends the handshake with the alert that TLS has for its
//! kind: `certificate_expired`, `certificate_revoked`, `unknown_ca`, `unsupported_certificate` or
//! `bad_certificate`. The whole reason goes to the gate ([`note_reason`]), for log and record.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_core::gate::note_reason;
use portcullis_core::hook::ClientCertificate;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, UnixTime, pem::PemObject};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, ServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der::time;
use crate::trust::{NotTrusted, certificates};
use crate::{ClientCa, ClientTrust, Ends, Error, Revocation, What, file};

/// Largest certificate or key file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// `[listener.tls]` of portcullis.toml, with paths resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The server's certificate chain, PEM, its own first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// CAs of client certificates; several files and several in one file.
    pub client_ca: Vec<ClientCa>,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
    /// CRLs. With at least one file or address, a CA without CRL is refused.
    pub revocation: Revocation,
    /// `[[listener.tls.sni]]`: certificates for some of the server's names.
    pub sni: Vec<SniSettings>,
    /// Application protocols, for example `mqtt` or `http/1.1`. A client that offers none passes;
    /// one that offers only others is refused.
    pub alpn: Vec<Vec<u8>>,
}

/// `[[listener.tls.sni]]`: the certificate that is shown to clients which ask for one of these names
/// (RFC 6066, section 3). Others see the listener's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniSettings {
    /// Host names; `*.example.com` stands for one more label.
    pub names: Vec<String>,
    /// The chain, PEM, the server's own first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// `client-auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// The handshake fails without a certificate.
    Required,
    /// A certificate is asked for; one that is shown must be good.
    Optional,
    /// Not asked for.
    None,
}

/// What a listener needs, built from its files at one moment; swapped in whole on reload.
pub struct Loaded {
    /// For `tokio_rustls::TlsAcceptor`.
    pub config: Arc<ServerConfig>,
    /// For [`Desk::set_listener`](crate::Desk::set_listener); `None` with [`ClientAuth::None`].
    pub trust: Option<Arc<ClientTrust>>,
    /// When each of the server's certificates ends.
    pub ends: Vec<Ends>,
    /// What works but should be looked at.
    pub warnings: Vec<String>,
}

/// Reads and checks everything that `settings` name.
///
/// # Errors
///
/// A file that is missing or broken, a key that does not fit the certificate, a server certificate
/// or CA outside its validity at `now`, a CRL that no configured CA signed, `client-auth` without
/// `client-ca`.
pub fn load(settings: &TlsSettings, now: SystemTime) -> Result<Loaded, Error> {
    let mut warnings = Vec::new();
    let (own, end) = server_key(&settings.certificate, &settings.key, &mut warnings, now)?;
    let mut ends = vec![end];
    let mut resolver = Resolver {
        own,
        by_name: HashMap::new(),
    };
    for sni in &settings.sni {
        let (key, end) = server_key(&sni.certificate, &sni.key, &mut warnings, now)?;
        if !ends.contains(&end) {
            ends.push(end);
        }
        for name in &sni.names {
            let name = checked_name(name)?;
            if resolver
                .by_name
                .insert(name.clone(), Arc::clone(&key))
                .is_some()
            {
                return Err(Error::setting(
                    format!("listener.tls.sni: the name {name:?} is there twice"),
                    "name it once",
                ));
            }
        }
    }

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| Error::setting(format!("listener.tls: {error}"), "report this"))?;
    let (builder, trust) = match settings.client_auth {
        ClientAuth::None => (builder.with_no_client_auth(), None),
        ClientAuth::Required | ClientAuth::Optional => {
            if settings.client_ca.is_empty() {
                return Err(Error::setting(
                    "listener.tls: client-auth asks for certificates, but client-ca is not set",
                    "set client-ca to the CA that issues them, or client-auth to \"none\"",
                ));
            }
            let (trust, more) = ClientTrust::load(&settings.client_ca, &settings.revocation, now)?;
            warnings.extend(more);
            let verifier = Verifier {
                hints: trust.hints(),
                trust: Arc::clone(&trust),
                mandatory: settings.client_auth == ClientAuth::Required,
            };
            let builder = builder.with_client_cert_verifier(Arc::new(verifier));
            (builder, Some(trust))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols.clone_from(&settings.alpn);
    config.max_early_data_size = 0;
    if trust.is_some() {
        // A resumed session is not asked for its certificate again, so a CRL would not reach it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Loaded {
        config: Arc::new(config),
        trust,
        ends,
        warnings,
    })
}

/// The chain that the client has shown and the handshake has validated.
#[must_use]
pub fn client_certificate(connection: &ServerConnection) -> Option<ClientCertificate> {
    let chain = connection.peer_certificates()?;
    if chain.is_empty() {
        return None;
    }
    Some(ClientCertificate {
        chain: chain.iter().map(|der| Box::from(der.as_ref())).collect(),
    })
}

/// A certificate with its key, and when it ends.
fn server_key(
    certificate: &Path,
    key: &Path,
    warnings: &mut Vec<String>,
    now: SystemTime,
) -> Result<(Arc<CertifiedKey>, Ends), Error> {
    let chain = certificates(certificate, MAX_FILE)?;
    let ends = check_server_certificate(certificate, &chain, now)?;
    let der = private_key(key)?;
    warnings.extend(file::exposed(key));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, der, &provider).map_err(|error| {
        Error::file(
            key,
            format!(
                "cannot be used with the certificate {}: {error}",
                certificate.display()
            ),
            "use the private key that the certificate was made for",
        )
    })?;
    Ok((Arc::new(certified), ends))
}

/// A host name in lower case, with a wildcard only as its whole first label.
fn checked_name(name: &str) -> Result<String, Error> {
    let name = name.to_ascii_lowercase();
    let plain = name.strip_prefix("*.").unwrap_or(&name);
    if DnsName::try_from(plain).is_ok() && !plain.ends_with('.') {
        return Ok(name);
    }
    Err(Error::setting(
        format!("listener.tls.sni: {name:?} is no host name"),
        "write names such as broker.example or *.example; addresses are never asked for",
    ))
}

/// Picks the certificate by the name that the client asks for.
#[derive(Debug)]
struct Resolver {
    own: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let exact = self.by_name.get(&name);
            exact.or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            })
        });
        Some(Arc::clone(found.unwrap_or(&self.own)))
    }
}

fn check_server_certificate(
    path: &Path,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Ends, Error> {
    let broken = |problem: String, remedy| Err(Error::file(path, problem, remedy));
    let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let certificate = match X509Certificate::from_der(first) {
        Ok((_, certificate)) => certificate,
        Err(error) => {
            return broken(
                format!("the first certificate is broken: {error}"),
                "put the server's certificate first, then the CAs between",
            );
        }
    };
    let validity = certificate.validity();
    if time(validity.not_after) < now {
        return broken(
            format!("the server certificate expired on {}", validity.not_after),
            "renew it",
        );
    }
    if time(validity.not_before) > now {
        return broken(
            format!(
                "the server certificate is not valid before {}",
                validity.not_before
            ),
            "wait, or check this machine's clock",
        );
    }
    if certificate.is_ca() {
        return broken(
            format!(
                "{:?} is a CA certificate",
                certificate.subject().to_string()
            ),
            "put the server's own certificate first, then the CAs between",
        );
    }
    Ok(Ends::of(What::Server, &certificate, path))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = zeroize::Zeroizing::new(file::read(path, MAX_FILE)?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        // The parser's words, never the file's.
        let nothing = matches!(error, rustls::pki_types::pem::Error::NoItemsFound);
        let problem = if nothing {
            "holds no private key in PEM"
        } else {
            "is not a PEM file with a private key"
        };
        Error::file(
            path,
            problem,
            "use a file with an unencrypted -----BEGIN PRIVATE KEY----- block",
        )
    })
}

/// Asks [`ClientTrust`] in the handshake.
struct Verifier {
    trust: Arc<ClientTrust>,
    hints: Vec<DistinguishedName>,
    mandatory: bool,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("authorities", &self.trust.authorities())
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match self.trust.validate(end_entity, intermediates, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(NotTrusted { kind, why }) => {
                note_reason(why);
                Err(rustls::Error::InvalidCertificate(kind))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.trust.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.trust.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}
