//! `[[listener]]`: where clients come in, over what, and with which credentials.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_auth::Url;

use portcullis_core::gate::{Prefix, PrefixError, WebSocketRules};

use super::identity::{Auth, Require};
use super::problem::Position;
use super::remote::any_url;
use super::section::{Placed, Section, Source};
use super::units::MAX_DURATION;
use super::{InputFile, is_loopback};

/// `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in logs, metrics and policies (`{listener}`); unique.
    pub name: String,
    /// Where it listens; unique.
    pub bind: Bind,
    /// What it speaks.
    pub transport: Transport,
    /// The proxies that tell whose connections they carry; nobody else may connect then. `None`:
    /// clients connect directly.
    pub trusted_proxies: Option<Vec<Prefix>>,
    /// What protects it.
    pub security: Security,
    /// The credentials that are looked at; all of them are configured.
    pub methods: BTreeSet<Method>,
    /// Where the bind address stands in the file.
    pub at: Position,
}

impl Listener {
    /// The TLS settings, if it has TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        match &self.security {
            Security::Plaintext => None,
            Security::Tls(tls) => Some(tls),
        }
    }

    pub(super) fn input_files(&self) -> impl Iterator<Item = &InputFile> {
        let client_ca = self.tls().and_then(|tls| tls.client_auth.ca());
        let client_ca = client_ca.into_iter();
        let client = client_ca.flat_map(|client| {
            let lists = client.crl.iter().chain(&client.crl_tls_ca);
            std::iter::once(&client.ca).chain(lists)
        });
        let server = self.tls().into_iter();
        server
            .flat_map(|tls| {
                let sni = tls.sni.iter().flat_map(|sni| [&sni.certificate, &sni.key]);
                [&tls.certificate, &tls.key].into_iter().chain(sni)
            })
            .chain(client)
    }
}

/// `transport`, with the keys that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// MQTT over the connection itself.
    Tcp,
    /// MQTT over WebSocket, with `path` and `origins`.
    WebSocket(WebSocketRules),
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// TCP. Port 0 is a free port of the system's choice.
    Tcp(SocketAddr),
    /// A Unix socket, for clients on this machine; always plaintext.
    Unix(PathBuf),
}

impl Bind {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => is_loopback(*address),
            Self::Unix(_) => true,
        }
    }
}

/// What protects a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Nothing, and the file says so.
    Plaintext,
    /// TLS 1.3 or 1.2.
    Tls(Box<Tls>),
}

/// `[listener.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate chain, PEM.
    pub certificate: InputFile,
    /// Its private key, PEM.
    pub key: InputFile,
    /// Whether clients show certificates.
    pub client_auth: ClientAuth,
    /// `[[listener.tls.sni]]`: certificates for some of the server's names.
    pub sni: Vec<Sni>,
}

/// `[[listener.tls.sni]]`: what clients see that ask for one of these names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sni {
    /// Host names; `*.example` stands for one more label.
    pub names: Vec<String>,
    /// The chain, PEM.
    pub certificate: InputFile,
    /// Its private key, PEM.
    pub key: InputFile,
}

/// `[listener.tls] client-auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked for a certificate.
    None,
    /// A client may show a certificate; one that does not verify ends the handshake.
    Optional(ClientCa),
    /// Without a certificate that verifies there is no connection.
    Required(ClientCa),
}

impl ClientAuth {
    /// Who signs the clients' certificates; `None` where there are none.
    #[must_use]
    pub fn ca(&self) -> Option<&ClientCa> {
        match self {
            Self::None => None,
            Self::Optional(ca) | Self::Required(ca) => Some(ca),
        }
    }
}

/// Who signs the clients' certificates, and which are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// The certificate authorities, PEM.
    pub ca: InputFile,
    /// Revocation lists. Empty: nothing is revoked. Otherwise a CA without one is refused.
    pub crl: Vec<InputFile>,
    /// How long a list counts after its `nextUpdate`.
    pub crl_grace: Duration,
    /// Addresses of revocation lists, which count as `crl` does.
    pub crl_url: Vec<Url>,
    /// How often they are asked.
    pub crl_refresh: Duration,
    /// The CAs of their servers; `None`: those of the system.
    pub crl_tls_ca: Option<InputFile>,
}

/// A kind of credential that a listener looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// A client certificate.
    Certificate,
    /// A token.
    Jwt,
    /// A user name and a password.
    Password,
    /// No credential.
    Anonymous,
}

impl Method {
    const ALL: [Self; 4] = [
        Self::Certificate,
        Self::Jwt,
        Self::Password,
        Self::Anonymous,
    ];

    /// The word for it, as in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::Password => "password",
            Self::Anonymous => "anonymous",
        }
    }
}

/// Reads the listeners; one with an error is left out, the error is recorded.
pub(super) fn read(sections: Vec<Section<'_>>, auth: &Auth, auth_at: Position) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::with_capacity(sections.len());
    for mut section in sections {
        if let Some(listener) = read_listener(&mut section, auth, auth_at) {
            check_unique(&section, &listener, &listeners);
            listeners.push(listener);
        }
        section.finish();
    }
    listeners
}

fn read_listener(section: &mut Section<'_>, auth: &Auth, auth_at: Position) -> Option<Listener> {
    let name = section.required("name", "internet");
    let name = name.filter(|name| check_name(section.source(), *name));
    let bind = section.required("bind", "127.0.0.1:1883");
    let bind = bind.and_then(|bind| read_bind(section.source(), bind));
    let transport = read_transport(section);
    let trusted_proxies = read_proxies(section);
    let methods = section.list("auth", "certificate");
    let plaintext = section.flag("plaintext", false);
    let remote = section.flag("allow-remote-plaintext", false);
    let mut tls_section = section.table("tls", "[listener.tls]");
    let has_tls = tls_section.is_present();
    let tls = if has_tls {
        read_tls(&mut tls_section)
    } else {
        None
    };
    tls_section.finish();

    let (name, bind) = (name?, bind?);
    if remote.value && !plaintext.value {
        section.source().error(
            remote.at,
            "allow-remote-plaintext = true without plaintext = true",
            "add plaintext = true to send everything unprotected, or leave it out",
        );
    }
    let security = match (has_tls, plaintext.value) {
        (true, true) => {
            section.source().error(
                plaintext.at,
                format_args!(
                    "listener {:?} has plaintext = true and [listener.tls]",
                    name.value
                ),
                "keep one of them",
            );
            return None;
        }
        (true, false) => Security::Tls(Box::new(tls?)),
        (false, true) => Security::Plaintext,
        (false, false) => {
            section.source().error(
                section.at(),
                format_args!("listener {:?} has no [listener.tls]", name.value),
                "add [listener.tls] with certificate and key, or say plaintext = true",
            );
            return None;
        }
    };
    if trusted_proxies.is_some() && matches!(bind.value, Bind::Unix(_)) {
        section.source().unsupported(
            bind.at,
            "proxy-protocol on a Unix socket",
            "bind to an address, or leave proxy-protocol out",
        );
    }
    check_security(section, &bind, &security, remote.value);
    let offered = offered(&bind.value, &security, auth);
    let methods = match methods {
        None => offered,
        Some(words) => read_methods(section, &words, &security, auth),
    };
    warn_of_nobody(section, &methods, auth, auth_at, name.value);
    Some(Listener {
        name: name.value.to_owned(),
        bind: bind.value,
        transport,
        trusted_proxies,
        security,
        methods,
        at: bind.at,
    })
}

/// A listener's name stands for one literal topic level in policies (DESIGN, rule 7).
fn check_name(source: &Source<'_>, name: Placed<&str>) -> bool {
    const MAX_NAME: usize = 128;
    let odd = |c: char| matches!(c, '+' | '#' | '/') || c.is_control();
    let fits = name.value.len() <= MAX_NAME && !name.value.starts_with('$');
    if fits && !name.value.contains(odd) {
        return true;
    }
    source.error(
        name.at,
        format_args!("name in [[listener]] is {:?}", name.value),
        "write at most 128 bytes without + # / and control characters, not beginning with $",
    );
    false
}

fn read_bind(source: &Source<'_>, bind: Placed<&str>) -> Option<Placed<Bind>> {
    // The longest path that fits into a socket address on Linux, its final NUL included.
    const SUN_PATH: usize = 108;
    let placed = |value| Placed { value, at: bind.at };
    let wrong = |remedy: &str| {
        source.error(
            bind.at,
            format_args!("bind in [[listener]] is {:?}", bind.value),
            remedy,
        );
    };
    if let Some(path) = bind.value.strip_prefix("unix:") {
        let path = source.resolve(path);
        if bind.value == "unix:" || bind.value.contains('\0') {
            wrong("write a path, such as \"unix:portcullis.sock\"");
            return None;
        }
        if path.as_os_str().len() >= SUN_PATH {
            wrong("write a shorter path: the system takes 107 bytes");
            return None;
        }
        return Some(placed(Bind::Unix(path)));
    }
    let Ok(address) = bind.value.parse() else {
        wrong(
            "write an IP address and a port, such as \"127.0.0.1:1883\" or \"[::1]:1883\", or \
             \"unix:PATH\"",
        );
        return None;
    };
    Some(placed(Bind::Tcp(address)))
}

fn read_transport(section: &mut Section<'_>) -> Transport {
    let websocket = section.optional_choice("transport", &[("tcp", false), ("websocket", true)]);
    let path = section.text("path", "/mqtt");
    let origins = section.list("origins", "https://app.example");
    let source = section.source();
    if !websocket.is_some_and(|websocket| websocket.value) {
        for key in ["path", "origins"] {
            if let Some(at) = section.place(key) {
                source.error(
                    at,
                    format_args!("{key} in [[listener]] without transport = \"websocket\""),
                    "add transport = \"websocket\", or leave it out",
                );
            }
        }
        return Transport::Tcp;
    }
    if origins.as_ref().is_some_and(Vec::is_empty) {
        source.error(
            section.place("origins").unwrap_or(section.at()),
            "origins in [[listener]] names no origin",
            "write origins = [\"https://app.example\"], or leave it out to serve no web page",
        );
    }
    let path = path.filter(|path| {
        let fits = check_path(path.value);
        if !fits {
            source.error(
                path.at,
                format_args!("path in [[listener]] is {:?}", path.value),
                "write a path such as \"/mqtt\": a slash and visible characters without ? and #",
            );
        }
        fits
    });
    let origins = origins.unwrap_or_default().into_iter().filter_map(|text| {
        let origin = read_origin(text.value);
        if let Err(remedy) = origin {
            source.error(
                text.at,
                format_args!("origins in [[listener]] has {:?}", text.value),
                remedy,
            );
        }
        origin.ok()
    });
    Transport::WebSocket(WebSocketRules {
        path: path.map_or("/mqtt", |path| path.value).into(),
        origins: origins.collect(),
    })
}

fn check_path(path: &str) -> bool {
    const MAX_PATH: usize = 256;
    let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    path.starts_with('/') && path.len() <= MAX_PATH && path.bytes().all(visible)
}

/// An origin as browsers write it (RFC 6454, section 6.2), or what to write.
fn read_origin(text: &str) -> Result<Box<str>, &'static str> {
    const SUCH_AS: &str = "write scheme and host, such as \"https://app.example\" or \
                           \"https://app.example:8443\", without a path and without *";
    let text = text.to_ascii_lowercase();
    let (scheme, host) = text.split_once("://").ok_or(SUCH_AS)?;
    let in_scheme = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let in_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._:[]".contains(c);
    let named = scheme.starts_with(|c: char| c.is_ascii_lowercase()) && !host.starts_with(':');
    if !named || host.is_empty() || !scheme.chars().all(in_scheme) || !host.chars().all(in_host) {
        return Err(SUCH_AS);
    }
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Ok(text.into()),
    };
    if host.ends_with(usual) {
        return Err("leave the port out: browsers leave out the usual one");
    }
    Ok(text.into())
}

/// Who is believed about the client's address; `None`: clients connect directly.
fn read_proxies(section: &mut Section<'_>) -> Option<Vec<Prefix>> {
    let proxy = section.flag("proxy-protocol", false);
    let trusted = section.list("trusted-proxies", "10.0.0.0/8");
    let source = section.source();
    let place = section.place("trusted-proxies");
    if !proxy.value {
        if let Some(at) = place {
            source.error(
                at,
                "trusted-proxies in [[listener]] without proxy-protocol = true",
                "add proxy-protocol = true, or leave it out",
            );
        }
        return None;
    }
    let Some(at) = place else {
        source.error(
            proxy.at,
            "proxy-protocol = true in [[listener]] without trusted-proxies",
            "add trusted-proxies = [\"10.0.0.0/8\"], the addresses of the proxies",
        );
        return None;
    };
    let trusted = trusted?;
    if trusted.is_empty() {
        source.error(
            at,
            "trusted-proxies in [[listener]] names no address",
            "write trusted-proxies = [\"10.0.0.0/8\"], the addresses of the proxies",
        );
    }
    let read = |text: Placed<&str>| {
        let range = text.value.parse::<Prefix>();
        if let Err(error) = range {
            source.error(
                text.at,
                format_args!("trusted-proxies in [[listener]] has {:?}", text.value),
                match error {
                    PrefixError::NotARange => {
                        "write addresses or ranges, such as \"10.0.0.5\" or \"10.0.0.0/8\""
                    }
                    PrefixError::HostBits => {
                        "write the first address of the range, such as \"10.0.0.0/8\", or one \
                         address without the number of bits"
                    }
                    PrefixError::Everybody => {
                        "write the addresses of the proxies: whoever is trusted can claim any \
                         address"
                    }
                },
            );
        }
        range.ok()
    };
    Some(trusted.into_iter().filter_map(read).collect())
}

fn read_tls(section: &mut Section<'_>) -> Option<Tls> {
    const GRACE: Duration = Duration::from_hours(24);
    let certificate = section.required_file("certificate", "server.pem");
    let key = section.required_file("key", "server.key");
    let ca = section.file("client-ca", "ca.pem");
    let client_auth = section.optional_choice(
        "client-auth",
        &[
            ("required", Wish::Required),
            ("optional", Wish::Optional),
            ("none", Wish::None),
        ],
    );
    let crl = section.files("crl", "ca.crl");
    let crl_grace = section.duration("crl-grace", GRACE, (Duration::from_millis(1), MAX_DURATION));
    let crl_refresh = section.duration(
        "crl-refresh",
        Duration::from_hours(1),
        (Duration::from_mins(1), MAX_DURATION),
    );
    let crl_tls_ca = section.file("crl-tls-ca", "ca.pem");
    let crl_url = section
        .list("crl-url", "http://ca.example/ca.crl")
        .unwrap_or_default();
    let crl_url: Vec<Url> = crl_url
        .into_iter()
        .filter_map(|url| any_url(section, "crl-url", url))
        .collect();
    let sni = section
        .tables("sni", "[[listener.tls.sni]]")
        .into_iter()
        .filter_map(read_sni)
        .collect();
    let source = section.source();
    if crl.as_ref().is_some_and(Vec::is_empty) {
        source.error(
            section.place("crl").unwrap_or(section.at()),
            "crl in [listener.tls] names no file",
            "write crl = [\"ca.crl\"], or leave it out to check no revocation",
        );
    }
    // A client-ca that is there and wrong was reported already.
    let ca_named = section.place("client-ca").is_some();
    for key in ["crl", "crl-url"] {
        if let Some(at) = section.place(key).filter(|_| !ca_named) {
            source.error(
                at,
                format_args!("{key} in [listener.tls] without client-ca"),
                "add client-ca = \"ca.pem\", the CA that signs the list",
            );
        }
    }
    let client_ca = ca.map(|ca| ClientCa {
        ca,
        crl: crl.unwrap_or_default(),
        crl_grace,
        crl_url,
        crl_refresh,
        crl_tls_ca,
    });
    let client_auth = match (client_ca, client_auth) {
        (Some(ca), None) => ClientAuth::Required(ca),
        (Some(ca), Some(wish)) => match wish.value {
            Wish::Required => ClientAuth::Required(ca),
            Wish::Optional => ClientAuth::Optional(ca),
            Wish::None => {
                source.warn(
                    wish.at,
                    "client-auth = \"none\" beside client-ca: no certificate is asked for",
                    "write \"optional\" or \"required\", or leave client-ca out",
                );
                ClientAuth::None
            }
        },
        (None, Some(wish)) if wish.value != Wish::None && !ca_named => {
            source.error(
                wish.at,
                format_args!(
                    "client-auth = {:?} in [listener.tls] without client-ca",
                    wish.value.as_str()
                ),
                "add client-ca = \"ca.pem\", the CA of the clients",
            );
            ClientAuth::None
        }
        (None, _) => ClientAuth::None,
    };
    Some(Tls {
        certificate: certificate?,
        key: key?,
        client_auth,
        sni,
    })
}

fn read_sni(mut section: Section<'_>) -> Option<Sni> {
    let names = section.list("names", "broker.example");
    let certificate = section.required_file("certificate", "broker.pem");
    let key = section.required_file("key", "broker.key");
    if names.as_ref().is_none_or(Vec::is_empty) {
        section.missing("names", "names = [\"broker.example\"]");
    }
    section.finish();
    Some(Sni {
        names: names?.iter().map(|name| name.value.to_owned()).collect(),
        certificate: certificate?,
        key: key?,
    })
}

/// `client-auth` as written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Required,
    Optional,
    None,
}

impl Wish {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::None => "none",
        }
    }
}

/// Plaintext stays on this machine unless the file says otherwise twice (DESIGN, rule 8).
fn check_security(section: &Section<'_>, bind: &Placed<Bind>, security: &Security, remote: bool) {
    match (&bind.value, security) {
        (Bind::Unix(_), Security::Tls(_)) => section.source().unsupported(
            bind.at,
            "TLS on a Unix socket",
            "say plaintext = true in place of [listener.tls]",
        ),
        (bound, Security::Plaintext) if !bound.is_local() && !remote => section.source().error(
            bind.at,
            "plaintext off loopback",
            "add [listener.tls], bind to 127.0.0.1, or say allow-remote-plaintext = true",
        ),
        (Bind::Tcp(_) | Bind::Unix(_), Security::Plaintext | Security::Tls(_)) => (),
    }
}

/// What is configured for such a listener: the default of `auth`.
fn offered(bind: &Bind, security: &Security, auth: &Auth) -> BTreeSet<Method> {
    let configured = |method: &Method| match method {
        Method::Anonymous => auth.anonymous && bind.is_local(),
        Method::Certificate | Method::Jwt | Method::Password => {
            lacking(*method, security, auth).is_none()
        }
    };
    Method::ALL.into_iter().filter(configured).collect()
}

/// What a method needs and does not have.
fn lacking(method: Method, security: &Security, auth: &Auth) -> Option<&'static str> {
    let client_ca = match security {
        Security::Plaintext => None,
        Security::Tls(tls) => tls.client_auth.ca(),
    };
    let (there, remedy) = match method {
        Method::Certificate => (client_ca.is_some(), "add client-ca to its [listener.tls]"),
        Method::Jwt => (auth.judges_tokens(), "add a section [[auth.jwt]]"),
        Method::Password => (auth.judges_passwords(), "add password-file to [auth]"),
        Method::Anonymous => (auth.anonymous, "add anonymous = true to [auth]"),
    };
    (!there).then_some(remedy)
}

fn read_methods(
    section: &Section<'_>,
    words: &[Placed<&str>],
    security: &Security,
    auth: &Auth,
) -> BTreeSet<Method> {
    let source = section.source();
    let mut methods = BTreeSet::new();
    for word in words {
        let method = Method::ALL
            .into_iter()
            .find(|method| method.as_str() == word.value);
        let Some(method) = method else {
            source.error(
                word.at,
                format_args!("auth in [[listener]] has {:?}", word.value),
                "write \"certificate\", \"jwt\", \"password\" or \"anonymous\"",
            );
            continue;
        };
        if let Some(remedy) = lacking(method, security, auth) {
            source.error(
                word.at,
                format_args!(
                    "auth in [[listener]] names {:?}, which is not configured",
                    word.value
                ),
                format_args!("{remedy}, or leave it out here"),
            );
        }
        methods.insert(method);
    }
    if words.is_empty() {
        source.error(
            section.place("auth").unwrap_or(section.at()),
            "auth in [[listener]] names no method",
            "write auth = [\"certificate\"], or leave it out for all that are configured",
        );
    }
    methods
}

/// A listener that refuses everybody is safe, and hardly what was meant.
fn warn_of_nobody(
    section: &Section<'_>,
    methods: &BTreeSet<Method>,
    auth: &Auth,
    auth_at: Position,
    name: &str,
) {
    let source = section.source();
    match auth.require {
        Require::One if methods.is_empty() => source.warn(
            section.at(),
            format_args!(
                "listener {name:?} admits nobody: no method of authentication is configured"
            ),
            "add client-ca, password-file or [[auth.jwt]]",
        ),
        Require::CertificateAndJwt
            if !methods.contains(&Method::Certificate) || !methods.contains(&Method::Jwt) =>
        {
            source.warn(
                section.at(),
                format_args!("listener {name:?} admits nobody: require in [auth] (line {}) wants a certificate and a token", auth_at.line),
                "add client-ca to its [listener.tls], and \"certificate\" and \"jwt\" to its auth",
            );
        }
        Require::One | Require::CertificateAndJwt => (),
    }
}

fn check_unique(section: &Section<'_>, listener: &Listener, others: &[Listener]) {
    let source = section.source();
    if others.iter().any(|other| other.name == listener.name) {
        source.error(
            section.place("name").unwrap_or(section.at()),
            format_args!("two listeners are named {:?}", listener.name),
            "give each a name of its own",
        );
    }
    let free_port = matches!(&listener.bind, Bind::Tcp(address) if address.port() == 0);
    if !free_port && others.iter().any(|other| other.bind == listener.bind) {
        source.error(
            listener.at,
            format_args!(
                "listener {:?} has the bind address of another",
                listener.name
            ),
            "give each an address or port of its own",
        );
    }
}
