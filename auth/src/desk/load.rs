//! Reading what the settings name, each unit by itself.

use std::sync::Arc;

use super::{Reloaded, State};
use crate::deny::Denied;
use crate::introspection::Introspector;
use crate::jwt::Issuer;
use crate::password::Users;
use crate::webhook::Webhook;
use crate::{Error, Settings, file};

impl State {
    /// Reads everything that `settings` name; what is broken stays as `old` has it. The second is
    /// what came of each unit.
    pub(super) fn load(
        settings: Settings,
        old: &Self,
        warnings: &mut Vec<String>,
    ) -> (Self, Vec<Reloaded>) {
        let mut units = Vec::new();
        let mut note = |unit: String, error: Option<Error>| units.push(Reloaded { unit, error });
        let mut next = Self {
            chain: settings.chain(),
            trusts: old.trusts.clone(),
            servers: old.servers.clone(),
            settings,
            ..Self::default()
        };
        if let Some(path) = &next.settings.password_file {
            let error = match Users::load(path) {
                Ok((users, more)) => {
                    warnings.extend(more);
                    if let Some(old) = &old.users {
                        users.inherit(old);
                    }
                    next.users = Some(Arc::new(users));
                    None
                }
                Err(error) => {
                    next.users.clone_from(&old.users);
                    Some(error)
                }
            };
            note("password-file".to_owned(), error);
        }
        if let Some(path) = &next.settings.deny_fingerprints {
            let error = match Denied::load(path) {
                Ok(denied) => {
                    next.denied = Some(Arc::new(denied));
                    None
                }
                Err(error) => {
                    next.denied.clone_from(&old.denied);
                    Some(error)
                }
            };
            note("deny-fingerprints".to_owned(), error);
        }
        warnings.extend(next.settings.unseen());
        warnings.extend(next.settings.secret_files().filter_map(file::exposed));
        for settings in &next.settings.issuers {
            let before = old.issuer(&settings.name);
            let error = match Issuer::load(settings, before.map(Arc::as_ref)) {
                Ok((issuer, more)) => {
                    warnings.extend(more);
                    next.issuers.push(Arc::new(issuer));
                    None
                }
                Err(error) => {
                    next.issuers.extend(before.cloned());
                    Some(error)
                }
            };
            note(format!("issuer {}", settings.name), error);
        }
        for settings in &next.settings.introspection {
            let named = |server: &&Arc<Introspector>| server.settings.name == settings.name;
            let error = match Introspector::load(settings) {
                Ok(server) => {
                    next.introspectors.push(Arc::new(server));
                    None
                }
                Err(error) => {
                    let before = old.introspectors.iter().find(named);
                    next.introspectors.extend(before.cloned());
                    Some(error)
                }
            };
            note(format!("introspection {}", settings.name), error);
        }
        for settings in &next.settings.webhooks {
            let named = |webhook: &&Arc<Webhook>| webhook.settings.name == settings.name;
            let error = match Webhook::load(settings) {
                Ok(webhook) => {
                    next.webhooks.push(Arc::new(webhook));
                    None
                }
                Err(error) => {
                    let before = old.webhooks.iter().find(named);
                    next.webhooks.extend(before.cloned());
                    Some(error)
                }
            };
            note(format!("webhook {}", settings.name), error);
        }
        (next, units)
    }
}
