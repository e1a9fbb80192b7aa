//! `[[listener]]`: where clients come in, over what, and with which credentials.

mod bind;
mod learn;
mod methods;
mod tls;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use portcullis_core::gate::{Prefix, WebSocketRules};

use super::identity::Auth;
use super::problem::Position;
use super::section::{Placed, Section, Source};
use super::{InputFile, is_loopback};

use bind::{read_bind, read_proxies, read_transport};
pub use learn::Learn;
use learn::{check_learn, read_learn};
use methods::{offered, read_methods, warn_of_nobody};
use tls::read_tls;
pub use tls::{ClientAuth, ClientCa, Sni, Tls};

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
    /// Until when, and within which topics, it learns; `None`: it does not.
    pub learn: Option<Learn>,
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
            let cas = client.ca.iter().map(|(_, file)| file);
            cas.chain(lists).chain(&client.deny_fingerprints)
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
    let learn = read_learn(section);

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
    let local = bind.value.is_local() && trusted_proxies.is_none();
    check_learn(section, learn.as_ref(), local, &security);
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
        learn,
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
