//! Does a credential that was accepted before still stand?

use std::sync::Arc;

use portcullis_core::hook::{Credential, Standing, Use};

use super::judge::first_part;
use super::{BOTH, State};
use crate::introspection::Introspector;
use crate::jwt::{self, Issuer, Once};
use crate::likeness::Likeness;
use crate::webhook::Webhook;
use crate::{ClientTrust, certificate, password};

impl State {
    pub(super) fn issuer(&self, name: &str) -> Option<&Arc<Issuer>> {
        self.issuers
            .iter()
            .find(|issuer| issuer.settings.name == name)
    }

    /// Puts the issuers into the order of the configuration.
    pub(super) fn sort_issuers(&mut self) {
        let Self {
            issuers, settings, ..
        } = self;
        let place = |name: &str| {
            settings
                .issuers
                .iter()
                .position(|issuer| issuer.name == name)
        };
        issuers.sort_by_key(|issuer| place(&issuer.settings.name));
    }

    pub(super) fn introspector(&self, at: usize) -> Option<&Arc<Introspector>> {
        let name = &self.settings.introspection.get(at)?.name;
        self.introspectors
            .iter()
            .find(|server| server.settings.name == *name)
    }

    pub(super) fn webhook(&self, at: usize) -> Option<&Arc<Webhook>> {
        let name = &self.settings.webhooks.get(at)?.name;
        self.webhooks
            .iter()
            .find(|webhook| webhook.settings.name == *name)
    }

    /// `is_present`: whether a use of a token is its present one.
    pub(super) fn standing(
        &self,
        credential: &Credential,
        purpose: Use,
        is_present: &dyn Fn(&Once) -> bool,
    ) -> Standing {
        let reference = &*credential.reference;
        let first = first_part(reference);
        let stands = match &*credential.method {
            certificate::Reference::METHOD => self.certificate_standing(reference, purpose),
            jwt::Reference::METHOD => self.token_standing(first, purpose, is_present),
            Introspector::METHOD => self.still_asked(first, purpose, |name| {
                let mut servers = self.introspectors.iter();
                servers.any(|server| server.settings.name == *name)
            }),
            Webhook::METHOD => self.still_asked(first, purpose, |name| {
                let mut webhooks = self.webhooks.iter();
                webhooks.any(|webhook| webhook.settings.name == *name)
            }),
            password::Reference::METHOD => match password::Reference::parse(reference) {
                Some(reference) => self.password_standing(&reference, purpose),
                None => Err(unreadable()),
            },
            "anonymous" => Ok(()),
            _ => return Standing::NotMine,
        };
        let with = match &*credential.method {
            jwt::Reference::METHOD | Introspector::METHOD | Webhook::METHOD => reference
                .split_once(BOTH)
                .map(|(_, certificate)| certificate),
            _ => None,
        };
        let stands = stands
            .and_then(|()| with.map_or(Ok(()), |text| self.certificate_standing(text, purpose)));
        match stands {
            Ok(()) => Standing::Good,
            Err(why) => Standing::Revoked(why),
        }
    }

    /// The CA, or the source of tokens or passwords, whose names look like this.
    pub(super) fn source_like(&self, like: &Likeness) -> Option<&str> {
        let cas = self.trusts.values().flat_map(|trust| trust.names());
        let settings = &self.settings;
        let cas = cas.map(|name| (certificate::Reference::KIND, name));
        cas.chain(settings.named_sources())
            .find_map(|(kind, name)| (Likeness::of(kind, name) == *like).then_some(name))
    }

    /// Nobody may speak for a source that is named in its principals; see [`Likeness`].
    fn is_like_nobodys(&self, like: Option<&Likeness>) -> Result<(), String> {
        match like.and_then(|like| self.source_like(like)) {
            None => Ok(()),
            Some(source) => Err(format!(
                "the name begins like those from {source:?}, and somebody else vouched for it"
            )),
        }
    }

    /// A connection lives on a server's word as long as that server is configured.
    fn still_asked(
        &self,
        reference: &str,
        purpose: Use,
        is_there: impl FnOnce(&str) -> bool,
    ) -> Result<(), String> {
        let (reference, like) = Likeness::split(reference);
        let name = reference.strip_prefix("server=").ok_or_else(unreadable)?;
        self.is_like_nobodys(like.as_ref())?;
        match purpose {
            Use::Stored => Ok(()),
            Use::Live if is_there(name) => Ok(()),
            Use::Live => Err(format!("the server {name} is no longer configured")),
        }
    }

    fn certificate_standing(&self, text: &str, purpose: Use) -> Result<(), String> {
        let reference = certificate::Reference::parse(text).ok_or_else(unreadable)?;
        if let Some(list) = &self.denied
            && list.has_hex(&reference.fingerprint)
        {
            return Err("the certificate is on the list deny-fingerprints".to_owned());
        }
        self.is_like_nobodys(reference.like.as_ref())?;
        let own = self.trusts.get(&reference.listener);
        if own.is_some_and(|trust| trust.denies_hex(&reference.fingerprint)) {
            return Err("the certificate is on the listener's list deny-fingerprints".to_owned());
        }
        let check = |trust: &ClientTrust| {
            reference
                .links
                .iter()
                .try_for_each(|link| trust.revocation(link))
        };
        match purpose {
            Use::Live => {
                let trust = own
                    .filter(|trust| trust.knows(&reference.anchor))
                    .ok_or("the certificate's CA is no longer configured")?;
                // The nearest one with a name may be another now, whichever of them it was.
                if trust.called() != *reference.called {
                    return Err("the listener's CAs are called otherwise now".to_owned());
                }
                check(trust)
            }
            // An author may have written through a listener that is gone, and a CA of the same name
            // elsewhere must not speak for this one; but where nobody knows the CA any more,
            // every list counts.
            Use::Stored => {
                let known = |trust: &&Arc<ClientTrust>| trust.knows(&reference.anchor);
                let anybody = self.trusts.values().any(|trust| known(&trust));
                self.trusts
                    .values()
                    .filter(|trust| !anybody || known(trust))
                    .try_for_each(|trust| check(trust))
            }
        }
    }

    fn token_standing(
        &self,
        text: &str,
        purpose: Use,
        is_present: &dyn Fn(&Once) -> bool,
    ) -> Result<(), String> {
        let reference = jwt::Reference::parse(text).ok_or_else(unreadable)?;
        self.is_like_nobodys(reference.like.as_ref())?;
        if purpose == Use::Stored {
            return Ok(());
        }
        if reference
            .once
            .as_ref()
            .is_some_and(|once| !is_present(once))
        {
            return Err("the same token (jti) was used for a newer connection".to_owned());
        }
        let issuer = self
            .issuer(&reference.issuer)
            .ok_or_else(|| format!("the issuer {} is no longer configured", reference.issuer))?;
        if issuer.has_key(&reference.key) {
            Ok(())
        } else {
            Err(format!(
                "the key {} of issuer {} was withdrawn",
                reference.key, reference.issuer
            ))
        }
    }

    pub(super) fn password_standing(
        &self,
        reference: &password::Reference,
        purpose: Use,
    ) -> Result<(), String> {
        let users = self
            .users
            .as_ref()
            .ok_or("there is no password file any more")?;
        let user = &*reference.user;
        self.is_like_nobodys(Likeness::found("user", user).as_ref())?;
        match (users.line(user), purpose) {
            (None, _) => Err(format!("the user {user:?} was removed")),
            (Some(line), Use::Live) if line.digest != reference.digest => {
                Err(format!("the password of {user:?} was changed"))
            }
            (Some(_), Use::Live | Use::Stored) => Ok(()),
        }
    }
}

fn unreadable() -> String {
    "the credential's reference cannot be read".to_owned()
}
