//! HTTP to the few servers that the configuration names.
//!
//! What holds, against a server that is slow, wrong, huge or somebody else's: one deadline for the
//! whole request, a limit on the answer, no redirects, no proxies from the environment, no
//! cookies, no compression. HTTPS is verified against the CAs of `tls-ca`, else those of the
//! system. A connection serves one request. No error holds anything that was sent.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::trust::certificates;
use crate::{Ends, Error, Url, What, file};

/// Largest file of certificates or keys, in bytes.
const MAX_FILE: u64 = 16 << 20;
/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 32 << 10;

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `tls-ca`: CAs of its certificate, PEM; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// `tls-certificate` and `tls-key`: the certificate that the broker shows.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// For a whole request.
    pub timeout: Duration,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            ca: None,
            identity: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Speaks to one server.
pub(crate) struct Client {
    tls: Option<TlsConnector>,
    /// When the certificate that is shown ends.
    ends: Option<Ends>,
    timeout: Duration,
}

/// What is asked.
pub(crate) struct Ask<'a> {
    pub(crate) url: &'a Url,
    pub(crate) accept: &'static str,
    /// Content type and content of a POST; `None` is a GET.
    pub(crate) content: Option<(&'static str, Zeroizing<Vec<u8>>)>,
    /// The value of `Authorization`.
    pub(crate) authorization: Option<&'a str>,
    /// Largest answer accepted, in bytes.
    pub(crate) limit: usize,
}

/// Why there is no answer; for the operator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Client {
    /// Reads the files of `connection`; those for TLS only where `url` needs them.
    ///
    /// # Errors
    ///
    /// A file that is missing or broken, or a system without CAs.
    pub(crate) fn new(connection: &Connection, url: &Url) -> Result<Self, Error> {
        let (tls, ends) = if url.uses_tls() {
            let (config, ends) = tls(connection)?;
            (Some(TlsConnector::from(Arc::new(config))), ends)
        } else {
            (None, None)
        };
        Ok(Self {
            tls,
            ends,
            timeout: connection.timeout,
        })
    }

    /// When the certificate that is shown ends, if one is.
    pub(crate) fn ends(&self) -> Option<&Ends> {
        self.ends.as_ref()
    }

    /// Sends a request; gives the content of an answer with status 200.
    ///
    /// # Errors
    ///
    /// No answer within time and size, or another status.
    pub(crate) async fn send(&self, ask: Ask<'_>) -> Result<Bytes, Failure> {
        let url = ask.url;
        let failed = |why: String| Failure(format!("{url}: {why}"));
        let sent = tokio::time::timeout(self.timeout, self.exchange(ask)).await;
        match sent {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed(format!("no answer within {:?}", self.timeout))),
        }
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<Bytes, String> {
        let url = ask.url;
        let tcp = TcpStream::connect((url.host(), url.port()))
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        match &self.tls {
            None => speak(TokioIo::new(tcp), ask).await,
            Some(tls) => {
                let name = ServerName::try_from(url.host().to_owned())
                    .map_err(|_| "its host cannot be in a certificate".to_owned())?;
                let stream = tls
                    .connect(name, tcp)
                    .await
                    .map_err(|error| format!("TLS: {error}"))?;
                speak(TokioIo::new(stream), ask).await
            }
        }
    }
}

async fn speak<S>(stream: TokioIo<S>, ask: Ask<'_>) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let odd = |error: hyper::Error| format!("HTTP: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(stream)
        .await
        .map_err(odd)?;
    // Ends with this function, whatever the server does.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let limit = ask.limit;
    let answer = sender.send_request(request(ask)?).await.map_err(odd)?;
    let status = answer.status();
    if status != StatusCode::OK {
        let more = if status.is_redirection() {
            "; redirects are not followed"
        } else {
            ""
        };
        return Err(format!("it answers with status {}{more}", status.as_u16()));
    }
    Limited::new(answer.into_body(), limit)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                format!("its answer is larger than {limit} bytes")
            } else {
                format!("its answer breaks off: {error}")
            }
        })
}

fn request(ask: Ask<'_>) -> Result<Request<Full<Bytes>>, String> {
    let odd = |_| "the request cannot be written".to_owned();
    let mut request = Request::builder()
        .uri(ask.url.path())
        .header(HOST, ask.url.authority())
        .header(ACCEPT, ask.accept);
    if let Some(value) = ask.authorization {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| "the secret has a character that HTTP does not allow".to_owned())?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    match ask.content {
        None => request.method(Method::GET).body(Full::default()),
        Some((kind, content)) => request
            .method(Method::POST)
            .header(CONTENT_TYPE, kind)
            .body(Full::new(Bytes::from_owner(Wiped(content)))),
    }
    .map_err(odd)
}

/// What was sent is wiped when the request is over.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn tls(connection: &Connection) -> Result<(ClientConfig, Option<Ends>), Error> {
    let mut roots = RootCertStore::empty();
    match &connection.ca {
        Some(path) => {
            for der in certificates(path, MAX_FILE)? {
                roots.add(der).map_err(|error| {
                    let problem = format!("holds a certificate that is no CA: {error}");
                    Error::file(path, problem, "name the CA of the server's certificate")
                })?;
            }
        }
        None => {
            let (_, _) =
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(Error::setting(
            "this system has no CA certificates",
            "name the CA of the server's certificate in tls-ca",
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| Error::setting(format!("TLS: {error}"), "report this"))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &connection.identity else {
        return Ok((builder.with_no_client_auth(), None));
    };
    let chain = certificates(certificate, MAX_FILE)?;
    let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let ends = match X509Certificate::from_der(first) {
        Ok((_, first)) => Ends::of(What::Client, &first, certificate),
        Err(error) => {
            return Err(Error::file(
                certificate,
                format!("the first certificate is broken: {error}"),
                "put the broker's own certificate first, then the CAs between",
            ));
        }
    };
    let config = builder
        .with_client_auth_cert(chain, private_key(key)?)
        .map_err(|error| {
            let problem = format!("cannot be used with {}: {error}", certificate.display());
            Error::file(
                key,
                problem,
                "use the key that the certificate was made for",
            )
        })?;
    Ok((config, Some(ends)))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = Zeroizing::new(file::read(path, MAX_FILE)?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        Error::file(
            path,
            "holds no private key in PEM",
            "use a file with an unencrypted -----BEGIN PRIVATE KEY----- block",
        )
    })
}

/// A secret from a file: the whole content without the newline at its end.
///
/// # Errors
///
/// A file that is missing, empty or no text.
pub(crate) fn secret(path: &Path) -> Result<Zeroizing<String>, Error> {
    let bytes = Zeroizing::new(file::read(path, 64 << 10)?);
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let secret = text.strip_suffix('\n').unwrap_or(text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() || secret.chars().any(char::is_control) {
        return Err(Error::file(
            path,
            "is no secret: it is empty, not text, or has more than one line",
            "write the secret as one line",
        ));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}
