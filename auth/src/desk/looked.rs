//! An attempt, seen through what its listener looks at: which credential counts?

use std::sync::Arc;

use portcullis_core::hook::{Accepted, Attempt, ClientCertificate, Lease, Principal, Refusal};
use portcullis_core::secret::Secret;
use rustls::pki_types::CertificateDer;

use super::{State, bad};
use crate::certificate::{self, Facts};
use crate::deny::denied;
use crate::der::sha256;
use crate::likeness::Likeness;
use crate::trust::Path;
use crate::{ClientTrust, Method, jwt};

/// The credential that is judged.
pub(super) enum First<'a> {
    Token(&'a [u8]),
    Password(&'a [u8]),
    Certificate(&'a ClientCertificate),
    Nothing,
}

/// An attempt, seen through what its listener looks at.
pub(crate) struct Looked<'a> {
    pub(crate) attempt: &'a Attempt<'a>,
    pub(crate) state: &'a State,
}

impl<'a> Looked<'a> {
    /// Whether the listener looks at this method: it names it, or it names none and the method is
    /// configured.
    pub(crate) fn at(&self, method: Method) -> bool {
        match self.attempt.methods {
            Some(methods) => methods.iter().any(|named| **named == *method.as_str()),
            None => match method {
                Method::Certificate => true,
                Method::Jwt => self.state.settings.token_sources() > 0,
                Method::Password => self.state.settings.password_sources() > 0,
                Method::Anonymous => self.state.settings.anonymous && self.attempt.loopback,
            },
        }
    }

    pub(super) fn first(&self) -> Result<First<'a>, Refusal> {
        let attempt = self.attempt;
        if let Some(password) = attempt.password.map(Secret::expose) {
            let token = jwt::is_token(password) || self.says_token();
            if token && self.at(Method::Jwt) {
                return Ok(First::Token(password));
            }
            if !token && self.at(Method::Password) {
                return self.alone(Method::Password, First::Password(password));
            }
        }
        let certificate = attempt.certificate.filter(|_| self.at(Method::Certificate));
        if attempt.username.is_some() && attempt.password.is_none() && certificate.is_none() {
            return Err(bad(
                "there is a user name without a password, and no certificate beside it".to_owned(),
            ));
        }
        if let Some(bearer) = attempt.bearer.filter(|_| self.at(Method::Jwt)) {
            return Ok(First::Token(bearer.expose()));
        }
        if let Some(certificate) = certificate {
            return self.alone(Method::Certificate, First::Certificate(certificate));
        }
        if self.at(Method::Anonymous) {
            return self.alone(Method::Anonymous, First::Nothing);
        }
        Err(bad(self.nothing()))
    }

    /// Whether the user name says that the password is a token, whatever its form.
    fn says_token(&self) -> bool {
        let username = self.attempt.username;
        username.is_some()
            && self
                .state
                .settings
                .introspection
                .iter()
                .any(|server| server.username.as_deref() == username)
    }

    /// The SHA-256 of the client's certificate. Whether that is good is not asked here.
    pub(super) fn fingerprint(&self) -> Option<[u8; 32]> {
        let leaf = self.attempt.certificate?.chain.first()?;
        Some(sha256(leaf))
    }

    /// Only a token may stand where a certificate and a token are required together.
    pub(crate) fn alone<T>(&self, method: Method, first: T) -> Result<T, Refusal> {
        if self.state.settings.require.is_empty() {
            return Ok(first);
        }
        Err(bad(format!(
            "{}: auth.require asks for a certificate and a JWT, and there is no JWT",
            method.as_str()
        )))
    }

    /// Why there is nothing to judge.
    fn nothing(&self) -> String {
        let sent: Vec<_> = [
            ("a password", self.attempt.password.is_some()),
            ("a bearer token", self.attempt.bearer.is_some()),
            ("a certificate", self.attempt.certificate.is_some()),
        ]
        .into_iter()
        .filter_map(|(what, is)| is.then_some(what))
        .collect();
        let looked: Vec<_> = [Method::Certificate, Method::Jwt, Method::Password]
            .into_iter()
            .filter(|method| self.at(*method))
            .map(Method::as_str)
            .collect();
        let sent = if sent.is_empty() {
            "no credential".to_owned()
        } else {
            format!("only {}", sent.join(" and "))
        };
        format!(
            "there is {sent}; the listener looks at {}",
            looked.join(", ")
        )
    }

    pub(super) fn certificate(&self, certificate: &ClientCertificate) -> Result<Accepted, Refusal> {
        let refuse = |reason: String| bad(format!("certificate: {reason}"));
        let (facts, path, trust) = self.validated(certificate)?;
        let claimed = self.claimed(&facts);
        let unclaimed = refuse;
        let refuse = |reason: String| Refusal {
            claimed: claimed.clone(),
            ..refuse(reason)
        };
        let name = facts.name().map_err(refuse)?;
        let ca = path.named.clone();
        let like = Likeness::found(certificate::Reference::KIND, name).filter(|_| ca.is_none());
        if let Some(other) = like.and_then(|like| self.state.source_like(&like)) {
            let why = format!(
                "the name {name:?} begins like those from the CA {other:?}, and another CA issued it"
            );
            return Err(unclaimed(why));
        }
        let identity = facts.identity(ca.as_deref()).map_err(refuse)?;
        Ok(Accepted {
            identity,
            lease: self.lease(&facts, &path, trust, Some(name)),
            data: None,
        })
    }

    /// The client's certificate, as far as it is good; TLS may have judged it by older lists.
    fn validated(
        &self,
        certificate: &ClientCertificate,
    ) -> Result<(Facts, Arc<Path>, &'a ClientTrust), Refusal> {
        let refuse = |reason: String| bad(format!("certificate: {reason}"));
        let listener = self.attempt.listener;
        let Some((leaf, others)) = certificate.chain.split_first() else {
            return Err(refuse("the chain is empty".into()));
        };
        let facts = Facts::read(leaf, self.state.settings.certificate).map_err(refuse)?;
        let refuse = |reason: String| Refusal {
            claimed: self.claimed(&facts),
            ..refuse(reason)
        };
        if let Some(list) = &self.state.denied
            && list.has(&facts.fingerprint)
        {
            return Err(refuse(denied(&facts.fingerprint)));
        }
        let Some(trust) = self.state.trusts.get(listener) else {
            return Err(refuse(format!(
                "the listener {listener:?} has no client CA"
            )));
        };
        let others: Vec<_> = others
            .iter()
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        let path = trust
            .validate(
                &CertificateDer::from(leaf.as_ref()),
                &others,
                self.attempt.now.wall,
            )
            .map_err(|refused| refuse(refused.why))?;
        Ok((facts, path, trust))
    }

    /// TLS has proved that the client has the key, so the name is known even if it is refused; but
    /// not whose it is, where CAs have names and the path was not looked at.
    fn claimed(&self, facts: &Facts) -> Option<Principal> {
        let trust = self.state.trusts.get(self.attempt.listener);
        if trust.is_some_and(|trust| trust.names().next().is_some()) {
            return None;
        }
        facts.identity(None).ok().map(|identity| identity.principal)
    }

    fn lease(&self, facts: &Facts, path: &Path, trust: &ClientTrust, name: Option<&str>) -> Lease {
        let reference = certificate::Reference::new(
            &facts.fingerprint,
            path,
            trust.called(),
            name,
            self.attempt.listener,
        );
        Lease {
            until: Some(path.until),
            credential: reference.credential(),
        }
    }

    /// The certificate that a token is bound to: it lends its name to nobody, but the token is worth
    /// nothing without it (RFC 8705, section 3).
    pub(super) fn bound_certificate(&self) -> Result<Lease, Refusal> {
        let shown = self.attempt.certificate.ok_or_else(|| {
            bad("jwt: the token is bound to a certificate (cnf), and there is none".to_owned())
        })?;
        let (facts, path, trust) = self.validated(shown)?;
        Ok(self.lease(&facts, &path, trust, None))
    }

    pub(super) fn required_certificate(&self) -> Result<Accepted, Refusal> {
        match self.attempt.certificate {
            Some(certificate) if self.at(Method::Certificate) => self.certificate(certificate),
            Some(_) => Err(bad(
                "jwt: auth.require asks for a certificate too, and the listener does not look at it"
                    .to_owned(),
            )),
            None => Err(bad(
                "jwt: auth.require asks for a certificate too, and there is none".to_owned(),
            )),
        }
    }
}
