//! SIGHUP: every unit is taken over, or kept, by itself.
//!
//! The toml must parse; otherwise nothing changes. Then the configuration's own values, each
//! listener's certificates with CAs and CRLs, each issuer's keys, the password file and the policy
//! are units: a broken one keeps what it had, and the last line of the log names it.

use portcullis_auth::tls;
use portcullis_core::clock::Now;
use portcullis_core::hook::Event;

use crate::config::{Bind, Config, Learn, Listener};
use crate::run::Running;
use crate::wiring;

/// What a reload works on.
pub struct Live {
    /// The modules.
    pub modules: Running,
    /// The configuration in force.
    pub config: Config,
    /// The listeners as they were bound.
    bound: Vec<(String, Bind, bool, bool)>,
    /// What the listeners were last taught.
    taught: Vec<(String, Option<Learn>)>,
}

impl Live {
    /// What runs with the configuration that it was started with.
    #[must_use]
    pub fn new(modules: Running, config: Config) -> Self {
        let bound = config.listeners.iter().map(as_bound).collect();
        Self {
            bound,
            taught: lessons_of(&config),
            modules,
            config,
        }
    }

    /// Reads everything again. Blocks: not for the broker's own threads.
    pub fn reload(&mut self) {
        let mut failed = Vec::new();
        match Config::load(&self.config.file) {
            Ok(config) => {
                self.values(&config, &mut failed);
                self.listeners(&config, &mut failed);
                self.identities(&config, &mut failed);
                self.policy(&config, &mut failed);
                self.lessons(&config, &mut failed);
                self.config = config;
                // Returns when every session goes by what is new.
                self.modules.broker.sweep();
            }
            Err(problems) => {
                self.unit("configuration", Err(problems.to_string()), &mut failed);
            }
        }
        if failed.is_empty() {
            tracing::info!("reloaded");
        } else {
            let units = failed.join(", ");
            tracing::error!(
                units,
                "reload-failed: {units}; what failed is kept as it was"
            );
        }
    }

    fn values(&self, config: &Config, failed: &mut Vec<String>) {
        for (key, changed) in [
            ("data-dir", config.data_dir != self.config.data_dir),
            ("audit.path", config.audit != self.config.audit),
            ("durability", config.durability != self.config.durability),
            ("admin", config.admin != self.config.admin),
            ("listener", bindings(config) != bindings(&self.config)),
            (
                "limits.handshakes",
                config.limits.handshakes != self.config.limits.handshakes,
            ),
        ] {
            if changed {
                tracing::warn!("{key} has changed in the file; that needs a restart");
            }
        }
        self.modules
            .broker
            .replace_settings(wiring::core_settings(config));
        self.modules
            .keeper
            .set_threshold(config.acl.rollback_denials);
        self.modules
            .limiter
            .replace(wiring::limiter_settings(config), Now::read());
        self.unit("configuration", Ok(()), failed);
    }

    fn listeners(&self, config: &Config, failed: &mut Vec<String>) {
        for (name, settings) in wiring::tls_settings(config) {
            let result = tls::load(&settings, Now::read().wall)
                .map_err(|error| error.to_string())
                .map(|loaded| {
                    for warning in &loaded.warnings {
                        tracing::warn!("{warning}");
                    }
                    // Trust first: what is revoked is refused even if the old handshake lets it in.
                    self.modules.desk.set_listener(&name, &loaded);
                    self.modules.broker.replace_tls(&name, loaded.config);
                });
            self.unit(&format!("listener {name}"), result, failed);
        }
        self.modules.remind(Now::read());
    }

    fn identities(&self, config: &Config, failed: &mut Vec<String>) {
        for unit in self.modules.desk.reload(wiring::auth_settings(config)) {
            let result = unit.error.map_or(Ok(()), |error| Err(error.to_string()));
            self.unit(&unit.unit, result, failed);
        }
    }

    fn policy(&self, config: &Config, failed: &mut Vec<String>) {
        let result = wiring::load_policy(config)
            .map_err(|errors| errors.join("\n"))
            .map(|(policy, warnings)| {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                tracing::info!(
                    policy = policy.hash(),
                    rules = policy.counts().rules,
                    "policy loaded"
                );
                self.modules
                    .keeper
                    .install(&self.modules, policy, Now::read());
            });
        self.unit("policy", result, failed);
        let result = wiring::load_shadow(config)
            .map_err(|errors| errors.join("\n"))
            .map(|candidate| self.modules.acl.shadow(candidate.map(Into::into)));
        if !config.acl.shadow.is_empty() || result.is_err() {
            self.unit("shadow-policy", result, failed);
        }
    }

    /// A listener is taught only what the file allows to one that is bound and guarded like it.
    fn lessons(&mut self, config: &Config, failed: &mut Vec<String>) {
        let new = lessons_of(config);
        let unlike = config.listeners.iter().find(|listener| {
            let kept = failed.contains(&format!("listener {}", listener.name));
            listener.learn.is_some() && (kept || !self.bound.contains(&as_bound(listener)))
        });
        let result = match unlike {
            Some(listener) => Err(format!(
                "the listener {} does not run as the file says, so it is not taught; restart, or \
                 mend its unit",
                listener.name
            )),
            None => wiring::lessons(config, Now::read().wall),
        };
        let result = result.and_then(|(lessons, warnings)| {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            // What was noted stays noted while the lessons are the same.
            if new == self.taught {
                return Ok(());
            }
            self.modules.acl.teach(lessons)
        });
        if result.is_err() || new != self.taught {
            if result.is_ok() {
                self.taught = new;
            }
            self.unit("learning", result, failed);
        }
    }

    fn unit(&self, unit: &str, result: Result<(), String>, failed: &mut Vec<String>) {
        let error = result.err();
        if let Some(error) = &error {
            tracing::error!(unit, "kept as it was: {error}");
            failed.push(unit.to_owned());
        }
        self.modules.broker.observe(&Event::Reloaded {
            unit,
            error: error.as_deref(),
        });
    }
}

/// What of a listener needs a restart, as far as learning depends on it.
fn as_bound(listener: &Listener) -> (String, Bind, bool, bool) {
    (
        listener.name.clone(),
        listener.bind.clone(),
        listener.tls().is_some(),
        listener.trusted_proxies.is_some(),
    )
}

fn lessons_of(config: &Config) -> Vec<(String, Option<Learn>)> {
    let listeners = config.listeners.iter();
    listeners
        .map(|listener| (listener.name.clone(), listener.learn.clone()))
        .collect()
}

/// What a listener cannot change while it listens.
fn bindings(config: &Config) -> Vec<(&str, &crate::config::Bind, bool, Vec<&'static str>)> {
    config
        .listeners
        .iter()
        .map(|listener| {
            let methods = listener.methods.iter().map(|method| method.as_str());
            let tls = listener.tls().is_some();
            (
                listener.name.as_str(),
                &listener.bind,
                tls,
                methods.collect(),
            )
        })
        .collect()
}
