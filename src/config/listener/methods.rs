//! Which credentials a listener looks at.

use std::collections::BTreeSet;

use super::super::identity::{Auth, Require};
use super::super::problem::Position;
use super::super::section::{Placed, Section};
use super::{Bind, Method, Security};

/// What is configured for such a listener: the default of `auth`.
pub(super) fn offered(bind: &Bind, security: &Security, auth: &Auth) -> BTreeSet<Method> {
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

pub(super) fn read_methods(
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
pub(super) fn warn_of_nobody(
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
