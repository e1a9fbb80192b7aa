//! The HTTP request that becomes a WebSocket (RFC 6455, section 4.2), judged.
//!
//! Pure: the bytes of a request in, the answer out. There is no HTTP server here: one request of at
//! most [`MAX_REQUEST`] bytes, no body, nothing behind it, and either it is the upgrade that this
//! listener serves or the connection ends with a status that says what is missing.
//!
//! Against whom: a web page of somebody else's, which may make any browser connect and send the
//! browser's certificate along, is known by its `Origin` and refused unless it is listed; a request
//! that smuggles another one is refused for its body or for bytes behind it.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use thiserror::Error;

/// Bytes of the longest request.
pub const MAX_REQUEST: usize = 8 << 10;

/// Header lines of a request.
const MAX_HEADERS: usize = 64;

/// The end of every request that is served.
const END: &[u8] = b"\r\n\r\n";

/// Section 1.3: the server proves that it read the key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The sub-protocols that are spoken, the better one first \[MQTT-6.0.0-4\].
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a WebSocket listener serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketRules {
    /// The path of the request, such as `/mqtt`; what follows a `?` is not looked at.
    pub path: Box<str>,
    /// The origins whose pages may connect, as browsers write them (`https://app.example`, lower
    /// case, no path). A request without `Origin` comes from no page and needs none.
    pub origins: Vec<Box<str>>,
}

/// A request that is granted.
#[derive(PartialEq, Eq)]
pub struct Upgrade {
    /// The answer, ready to be sent.
    pub response: Vec<u8>,
    /// The token of `Authorization: Bearer`: a secret.
    pub bearer: Option<Box<[u8]>>,
}

/// Why a request is not granted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Rejection {
    /// The first bytes are not those of a GET request; whoever it is gets no answer.
    #[error("not a WebSocket request")]
    NotHttp,
    /// More than [`MAX_REQUEST`] bytes or `MAX_HEADERS` lines.
    #[error("a request of more than {MAX_REQUEST} bytes or {MAX_HEADERS} headers")]
    TooLarge,
    /// Not HTTP/1.1 as RFC 9112 writes it.
    #[error("a malformed HTTP request")]
    Malformed,
    /// A header that may stand there once is missing or repeated.
    #[error("{0} is missing or repeated")]
    NotOnce(&'static str),
    /// A body, or bytes behind the request.
    #[error("a request with a body, or bytes behind it")]
    Body,
    /// Another path than the listener's.
    #[error("another path")]
    Path,
    /// A page that is not listed in `origins`.
    #[error("an Origin that is not in the listener's origins")]
    Origin,
    /// A plain HTTP request.
    #[error("not an upgrade to WebSocket")]
    NotUpgrade,
    /// Another version of the WebSocket protocol.
    #[error("a WebSocket version other than 13")]
    Version,
    /// A key that is not 16 bytes in base64.
    #[error("a malformed Sec-WebSocket-Key")]
    Key,
    /// Neither `mqtt` nor `mqttv3.1` is offered \[MQTT-6.0.0-3\].
    #[error("no sub-protocol mqtt")]
    Protocol,
    /// A bearer token with bytes that no token has.
    #[error("a malformed bearer token")]
    Bearer,
}

impl Rejection {
    /// The answer that the client gets; empty for who does not speak HTTP.
    #[must_use]
    pub const fn response(self) -> &'static [u8] {
        match self {
            Self::NotHttp => b"",
            Self::TooLarge => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::Malformed
            | Self::NotOnce(_)
            | Self::Body
            | Self::Key
            | Self::Protocol
            | Self::Bearer => {
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::Path => {
                b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::Origin => {
                b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 48\r\n\r\nOrigin not listed: see origins of this listener\n"
            }
            Self::NotUpgrade => {
                b"HTTP/1.1 426 Upgrade Required\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"
            }
            Self::Version => {
                b"HTTP/1.1 426 Upgrade Required\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n"
            }
        }
    }
}

/// Judges a request from the bytes that have come so far, of which the last call saw `seen`;
/// `None` wants more.
///
/// # Errors
///
/// The request is not one that `rules` serve.
pub fn judge(
    request: &[u8],
    seen: usize,
    rules: &WebSocketRules,
) -> Result<Option<Upgrade>, Rejection> {
    let begins = request.iter().zip(b"GET ").all(|(a, b)| a == b);
    if !begins {
        return Err(Rejection::NotHttp);
    }
    // Only what is new is searched: bytes that come one by one cost no more than all at once.
    let from = seen.min(request.len()).saturating_sub(END.len() - 1);
    let fresh = request.get(from..).unwrap_or_default();
    let end = fresh.windows(END.len()).position(|window| window == END);
    let Some(end) = end.map(|end| from + end + END.len()) else {
        if request.len() >= MAX_REQUEST {
            return Err(Rejection::TooLarge);
        }
        return Ok(None);
    };
    if end > MAX_REQUEST {
        return Err(Rejection::TooLarge);
    }
    // The client has to wait for the answer (section 4.1).
    if end != request.len() {
        return Err(Rejection::Body);
    }
    grant(request, rules).map(Some)
}

fn grant(request: &[u8], rules: &WebSocketRules) -> Result<Upgrade, Rejection> {
    // A line that ends without CR is read differently by different programs.
    let bare = |pair: &[u8]| matches!(pair, [before, b'\n'] if *before != b'\r');
    if request.windows(2).any(bare) {
        return Err(Rejection::Malformed);
    }
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut lines);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(size)) if size == request.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Rejection::TooLarge),
        Ok(_) | Err(_) => return Err(Rejection::Malformed),
    }
    if parsed.version != Some(1) {
        return Err(Rejection::Malformed);
    }
    let headers = Headers(parsed.headers);
    headers.once("Host")?.ok_or(Rejection::NotOnce("Host"))?;
    let path = parsed.path.unwrap_or_default();
    if path.split_once('?').map_or(path, |(path, _)| path) != &*rules.path {
        return Err(Rejection::Path);
    }
    let length = headers.once("Content-Length")?;
    if length.is_some_and(|length| length != b"0") || headers.has("Transfer-Encoding") {
        return Err(Rejection::Body);
    }
    if let Some(origin) = headers.once("Origin")? {
        let mut listed = rules.origins.iter().map(|own| own.as_bytes());
        if !listed.any(|own| own.eq_ignore_ascii_case(origin)) {
            return Err(Rejection::Origin);
        }
    }
    let lists = |name, word| {
        headers
            .words(name)
            .any(|own| own.eq_ignore_ascii_case(word))
    };
    if !lists("Upgrade", b"websocket") || !lists("Connection", b"upgrade") {
        return Err(Rejection::NotUpgrade);
    }
    if headers.once("Sec-WebSocket-Version")? != Some(b"13") {
        return Err(Rejection::Version);
    }
    let key = headers.once("Sec-WebSocket-Key")?.ok_or(Rejection::Key)?;
    if !BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
        return Err(Rejection::Key);
    }
    let offers = |protocol: &&str| {
        let mut words = headers.words("Sec-WebSocket-Protocol");
        words.any(|word| word == protocol.as_bytes())
    };
    let protocol = PROTOCOLS.into_iter().find(offers);
    let protocol = protocol.ok_or(Rejection::Protocol)?;
    Ok(Upgrade {
        response: response(key, protocol),
        bearer: bearer(headers.once("Authorization")?)?,
    })
}

fn response(key: &[u8], protocol: &str) -> Vec<u8> {
    // SHA-1 is what the text asks for, and nothing rests on it.
    let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    let accept = BASE64.encode(proof);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
    .into_bytes()
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1). Other schemes are not looked
/// at: MQTT has its own place for a user name and a password.
fn bearer(authorization: Option<&[u8]>) -> Result<Option<Box<[u8]>>, Rejection> {
    let Some((scheme, token)) =
        authorization.and_then(|value| value.split_at_checked("Bearer".len()))
    else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case(b"Bearer") || token.first().is_some_and(|byte| *byte != b' ') {
        return Ok(None);
    }
    let token = token.trim_ascii();
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if token.is_empty() || !token.iter().all(fits) {
        return Err(Rejection::Bearer);
    }
    Ok(Some(token.into()))
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = |header: &&httparse::Header<'a>| header.name.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|header| header.value)
    }

    fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of a header that may stand there once.
    fn once(&self, name: &'static str) -> Result<Option<&'a [u8]>, Rejection> {
        let mut all = self.all(name);
        let first = all.next();
        match all.next() {
            None => Ok(first.map(<[u8]>::trim_ascii)),
            Some(_) => Err(Rejection::NotOnce(name)),
        }
    }

    /// The members of a header that is a list, over all its lines.
    fn words(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lists = self.all(name);
        lists.flat_map(|list| list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
    }
}
