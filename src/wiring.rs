//! From a checked configuration to modules: the one place where all packages meet.
//!
//! [`load`] reads every file that the configuration names and reports everything that is wrong at
//! once; `check` stops there, `run` goes on with the result. Nothing here opens a socket.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use portcullis_acl::{Lesson, Policy, Sources};
use portcullis_anomaly as anomaly;
use portcullis_audit::{AuditSettings, OnFull};
use portcullis_auth::{self as auth, Desk, tls};
use portcullis_core::gate::{Endpoint, Listener, Transport};
use portcullis_core::settings::{self as core, Settings};
use portcullis_core::store;
use portcullis_core::topic::TopicLimits;
use portcullis_core::wire::QoS;

use crate::config::{self, Bind, CertificateName, ClientAuth, Config, DurabilityMode, Method};
use crate::memory;

/// Descriptors that the program needs besides its connections: files, listeners, the runtime's.
const OWN_DESCRIPTORS: u64 = 64;

/// Longest time that a listener may learn: who needs more says so again.
const LONGEST_LESSON: Duration = Duration::from_hours(7 * 24);

/// Everything that the files say, ready to be used.
pub struct Loaded {
    /// Who is it?
    pub desk: Desk,
    /// May it?
    pub policy: Policy,
    /// The candidate that is asked beside it.
    pub shadow: Option<Policy>,
    /// Each TLS listener by name, with what it needs.
    pub tls: Vec<(String, tls::Loaded)>,
    /// The listeners that learn, or did until their time was over.
    pub lessons: Vec<Lesson>,
    /// What loads but is worth saying.
    pub warnings: Vec<String>,
}

/// Reads everything that `config` names.
///
/// # Errors
///
/// Everything that is wrong, one text each: file, line where there is one, message, remedy.
pub fn load(config: &Config, now: SystemTime) -> Result<Loaded, Vec<String>> {
    // A file that is not there is named with the line that names it.
    config
        .check_files()
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let mut errors = Vec::new();
    let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let mut listeners = Vec::new();
    for (name, settings) in tls_settings(config) {
        match tls::load(&settings, now) {
            Ok(loaded) => {
                warnings.extend(loaded.warnings.iter().cloned());
                listeners.push((name, loaded));
            }
            Err(error) => errors.push(format!("listener {name:?}: {error}")),
        }
    }
    let desk = match Desk::open(auth_settings(config)) {
        Ok((desk, more)) => {
            warnings.extend(more);
            Some(desk)
        }
        Err(more) => {
            errors.extend(more.iter().map(ToString::to_string));
            None
        }
    };
    let policy = match load_policy(config) {
        Ok((policy, more)) => {
            warnings.extend(more);
            Some(policy)
        }
        Err(more) => {
            errors.extend(more);
            None
        }
    };
    let shadow = load_shadow(config).unwrap_or_else(|more| {
        errors.extend(
            more.into_iter()
                .map(|error| format!("shadow policy: {error}")),
        );
        None
    });
    let lessons = match lessons(config, now) {
        Ok((lessons, more)) => {
            warnings.extend(more);
            lessons
        }
        Err(error) => {
            errors.push(error);
            Vec::new()
        }
    };
    if let Err(error) = store_options(config) {
        errors.push(format!("[durability] key-file: {error}"));
    }
    match (desk, policy) {
        (Some(desk), Some(policy)) if errors.is_empty() => {
            for (name, loaded) in &listeners {
                desk.set_listener(name, loaded);
            }
            warnings.extend(desk.reminders(now));
            Ok(Loaded {
                desk,
                policy,
                shadow,
                tls: listeners,
                lessons,
                warnings,
            })
        }
        _ => Err(errors),
    }
}

/// The listeners that learn, and a warning for each.
///
/// # Errors
///
/// One would learn for too long.
pub fn lessons(config: &Config, now: SystemTime) -> Result<(Vec<Lesson>, Vec<String>), String> {
    let mut lessons = Vec::new();
    let mut warnings = Vec::new();
    for listener in &config.listeners {
        let Some(learn) = &listener.learn else {
            continue;
        };
        let name = &listener.name;
        let end = time::OffsetDateTime::from(learn.until);
        if learn.until > now + LONGEST_LESSON {
            let problem = format!("the listener {name:?} would learn for more than seven days");
            let remedy = "choose an earlier end, and a later one when it is near";
            return Err(config.problem(learn.at, problem, remedy).to_string());
        }
        let (problem, remedy) = if learn.until <= now {
            (
                format!("the listener {name:?} learns no more: its time ended at {end}"),
                "remove [listener.learn]".to_owned(),
            )
        } else {
            (
                format!(
                    "the listener {name:?} LEARNS until {end}: its clients may do what no line of \
                     the policy denies in {}",
                    learn.topics.join(", ")
                ),
                "remove [listener.learn] as soon as a draft has been made of it".to_owned(),
            )
        };
        warnings.push(config.problem(learn.at, problem, &remedy).to_string());
        let lesson = Lesson {
            listener: name.clone(),
            until: learn.until,
            topics: learn.topics.clone(),
        };
        // A topic that is none keeps everything out.
        lesson.check().map_err(|problem| {
            let remedy = "write filters, such as \"line-3/#\"";
            config.problem(learn.at, problem, remedy).to_string()
        })?;
        lessons.push(lesson);
    }
    Ok((lessons, warnings))
}

/// Reads the policy; the texts are warnings.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load_policy(config: &Config) -> Result<(Policy, Vec<String>), Vec<String>> {
    let loaded = read_policy(config)
        .and_then(|sources| Policy::load(&sources))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    Ok((loaded.policy, warnings))
}

/// The policy's files, and what the configuration says about its clients.
///
/// # Errors
///
/// Every file that cannot be read.
pub fn read_policy(config: &Config) -> Result<Sources, Vec<portcullis_acl::PolicyError>> {
    read_sources(config, &config.acl.policy)
}

/// Reads the candidate policy, if there is one.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load_shadow(config: &Config) -> Result<Option<Policy>, Vec<String>> {
    if config.acl.shadow.is_empty() {
        return Ok(None);
    }
    read_sources(config, &config.acl.shadow)
        .and_then(|sources| Policy::load(&sources))
        .map(|loaded| Some(loaded.policy))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn read_sources(
    config: &Config,
    files: &[config::InputFile],
) -> Result<Sources, Vec<portcullis_acl::PolicyError>> {
    let model = config.acl.model.as_ref().map(|file| file.path.as_path());
    let policies: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let mut sources = Sources::read(model, &policies)?;
    let auth = &config.auth;
    let webhooks = auth.webhooks.iter();
    sources.client_id_is_free = auth.client_id == config::ClientIdRule::Any;
    sources.roles_from_credentials =
        !auth.jwt.is_empty() || !auth.introspection.is_empty() || !auth.webhooks.is_empty();
    sources.several_cas = several_cas(config);
    let listeners = config.listeners.iter();
    sources.listeners = listeners.map(|listener| listener.name.clone()).collect();
    sources.several_issuers = auth.token_sources().count() > 1;
    let carried = (auth.jwt.iter().map(|issuer| &issuer.allowed_roles))
        .chain(
            auth.introspection
                .iter()
                .map(|server| &server.allowed_roles),
        )
        .chain(webhooks.map(|webhook| &webhook.allowed_roles));
    let mut carried: Vec<_> = carried.flatten().flatten().collect();
    carried.sort_unstable();
    let shared = carried.array_windows().filter(|[one, next]| one == next);
    sources.shared_roles = shared.map(|[role, _]| (*role).clone()).collect();
    Ok(sources)
}

/// Whether clients of different CAs may have the same NAME and still be different principals.
fn several_cas(config: &Config) -> bool {
    let names: BTreeSet<_> = client_cas(config).map(|(name, _)| name).collect();
    names.len() > 1
}

fn client_cas(config: &Config) -> impl Iterator<Item = &(Option<String>, config::InputFile)> {
    let tls = config.listeners.iter().filter_map(config::Listener::tls);
    let cas = tls.filter_map(|tls| tls.client_auth.ca());
    cas.flat_map(|ca| &ca.ca)
}

/// The NAME of a principal as `{name}` has it: without the CA or the issuer that vouches for it, where
/// this configuration gives principals one. That one comes first.
#[must_use]
pub fn own_name<'a>(config: &Config, principal: &'a str) -> (Option<&'a str>, &'a str) {
    let (kind, name) = principal.split_once(':').unwrap_or(("", principal));
    let auth = &config.auth;
    let sources: Vec<&str> = match kind {
        "cert" => client_cas(config)
            .filter_map(|(name, _)| name.as_deref())
            .collect(),
        "jwt" if auth.token_sources().count() > 1 => auth.token_sources().collect(),
        "user" if auth.password_sources() > 1 => auth
            .webhooks
            .iter()
            .filter(|webhook| webhook.passwords)
            .map(|webhook| webhook.name.as_str())
            .collect(),
        _ => Vec::new(),
    };
    match name.split_once('/') {
        Some((source, own)) if sources.contains(&source) => (Some(source), own),
        Some(_) | None => (None, name),
    }
}

/// The TLS settings of each listener that has them, by name.
#[must_use]
pub fn tls_settings(config: &Config) -> Vec<(String, tls::TlsSettings)> {
    config
        .listeners
        .iter()
        .filter_map(|listener| {
            let tls = listener.tls()?;
            let (client_auth, ca) = match &tls.client_auth {
                ClientAuth::None => (tls::ClientAuth::None, None),
                ClientAuth::Optional(ca) => (tls::ClientAuth::Optional, Some(ca)),
                ClientAuth::Required(ca) => (tls::ClientAuth::Required, Some(ca)),
            };
            let settings = tls::TlsSettings {
                certificate: tls.certificate.path.clone(),
                key: tls.key.path.clone(),
                client_ca: ca
                    .iter()
                    .flat_map(|ca| &ca.ca)
                    .map(|(name, file)| auth::ClientCa {
                        name: name.clone(),
                        file: file.path.clone(),
                    })
                    .collect(),
                client_auth,
                revocation: ca.map(revocation).unwrap_or_default(),
                sni: tls
                    .sni
                    .iter()
                    .map(|sni| tls::SniSettings {
                        names: sni.names.clone(),
                        certificate: sni.certificate.path.clone(),
                        key: sni.key.path.clone(),
                    })
                    .collect(),
                alpn: vec![match &listener.transport {
                    config::Transport::Tcp => b"mqtt".to_vec(),
                    config::Transport::WebSocket(_) => b"http/1.1".to_vec(),
                }],
            };
            Some((listener.name.clone(), settings))
        })
        .collect()
}

/// The listeners for the broker.
#[must_use]
pub fn listeners(config: &Config, loaded: &Loaded) -> Vec<Listener> {
    let tls = |name: &str| {
        loaded
            .tls
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, tls)| tls.config.clone())
    };
    config
        .listeners
        .iter()
        .map(|listener| Listener {
            name: listener.name.as_str().into(),
            endpoint: match &listener.bind {
                Bind::Tcp(address) => Endpoint::Tcp(*address),
                Bind::Unix(path) => Endpoint::Unix(path.clone()),
            },
            transport: match &listener.transport {
                config::Transport::Tcp => Transport::Mqtt,
                config::Transport::WebSocket(rules) => Transport::WebSocket(rules.clone()),
            },
            trusted_proxies: listener.trusted_proxies.clone(),
            tls: tls(&listener.name),
            methods: Some(methods(&listener.methods)),
        })
        .collect()
}

fn methods<'a>(methods: impl IntoIterator<Item = &'a Method>) -> Vec<Box<str>> {
    methods
        .into_iter()
        .map(|method| method.as_str().into())
        .collect()
}

/// `[auth]` for the desk.
#[must_use]
pub fn auth_settings(config: &Config) -> auth::Settings {
    let from = &config.auth;
    auth::Settings {
        anonymous: from.anonymous,
        password_file: from.password_file.as_ref().map(|file| file.path.clone()),
        require: match from.require {
            config::Require::One => Vec::new(),
            config::Require::CertificateAndJwt => {
                vec![auth::Method::Certificate, auth::Method::Jwt]
            }
        },
        certificate: match from.certificate_name {
            CertificateName::CommonName => auth::CertificateName::Cn,
            CertificateName::SanDns => auth::CertificateName::SanDns,
            CertificateName::SanUri => auth::CertificateName::SanUri,
            CertificateName::SanEmail => auth::CertificateName::SanEmail,
            CertificateName::Subject => auth::CertificateName::Subject,
            CertificateName::Fingerprint => auth::CertificateName::Fingerprint,
        },
        issuers: from.jwt.iter().map(issuer_settings).collect(),
        introspection: from.introspection.iter().map(introspection).collect(),
        webhooks: from.webhooks.iter().map(webhook).collect(),
        order: from.order.clone(),
        deny_fingerprints: path(from.deny_fingerprints.as_ref()),
    }
}

fn path(file: Option<&config::InputFile>) -> Option<PathBuf> {
    file.map(|file| file.path.clone())
}

fn connection(from: &config::Connection) -> auth::Connection {
    let identity = from.identity.as_ref();
    auth::Connection {
        ca: path(from.ca.as_ref()),
        identity: identity.map(|(certificate, key)| (certificate.path.clone(), key.path.clone())),
        timeout: from.timeout,
    }
}

fn revocation(ca: &config::ClientCa) -> auth::Revocation {
    auth::Revocation {
        files: ca.crl.iter().map(|file| file.path.clone()).collect(),
        urls: ca.crl_url.clone(),
        tls_ca: path(ca.crl_tls_ca.as_ref()),
        refresh: ca.crl_refresh,
        grace: ca.crl_grace,
        deny: path(ca.deny_fingerprints.as_ref()),
    }
}

fn issuer_settings(issuer: &config::JwtIssuer) -> auth::IssuerSettings {
    auth::IssuerSettings {
        name: issuer.name.clone(),
        issuer: issuer.issuer.clone(),
        audience: issuer.audience.clone(),
        algorithms: issuer
            .algorithms
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
        source: match &issuer.keys {
            config::JwtKeys::JwksFile(file) => auth::KeySource::JwksFile(file.path.clone()),
            config::JwtKeys::KeyFile(file) => auth::KeySource::KeyFile(file.path.clone()),
            config::JwtKeys::JwksUrl(from) => auth::KeySource::JwksUrl(auth::JwksUrl {
                url: from.url.clone(),
                connection: connection(&from.connection),
                refresh: from.refresh,
                stale: from.stale,
            }),
        },
        principal: issuer.principal_claim.clone(),
        roles: Some(issuer.roles_claim.clone()),
        allowed_roles: issuer.allowed_roles.clone(),
        leeway: issuer.leeway,
        require_claims: issuer.require_claims.clone(),
        one_connection_per_jti: issuer.one_connection_per_jti,
    }
}

fn introspection(from: &config::Introspection) -> auth::IntrospectionSettings {
    let client = from.client.as_ref();
    auth::IntrospectionSettings {
        name: from.name.clone(),
        url: from.url.clone(),
        client: client.map(|(id, secret)| (id.clone(), secret.path.clone())),
        connection: connection(&from.connection),
        username: from.username.clone(),
        audience: from.audience.clone(),
        principal: from.principal_claim.clone(),
        roles: Some(from.roles_claim.clone()),
        allowed_roles: from.allowed_roles.clone(),
        require_claims: from.require_claims.clone(),
        cache: from.cache,
        lifetime: from.lifetime,
        leeway: from.leeway,
    }
}

fn webhook(from: &config::Webhook) -> auth::WebhookSettings {
    auth::WebhookSettings {
        name: from.name.clone(),
        url: from.url.clone(),
        secret_file: path(from.secret_file.as_ref()),
        connection: connection(&from.connection),
        passwords: from.passwords,
        tokens: from.tokens,
        allowed_roles: from.allowed_roles.clone(),
        lifetime: from.lifetime,
    }
}

/// `[mqtt]`, `[limits]` and `[acl]` for the core.
#[must_use]
pub fn core_settings(config: &Config) -> Settings {
    let defaults = Settings::default();
    let (mqtt, limits) = (&config.mqtt, &config.limits);
    Settings {
        mqtt: core::Mqtt {
            max_packet_size: mqtt.max_packet_size,
            connect_packet_size: mqtt.connect_packet_size,
            // The configuration refuses 0.
            receive_maximum: NonZeroU16::new(mqtt.receive_maximum)
                .unwrap_or(defaults.mqtt.receive_maximum),
            max_qos: QoS::from_bits(mqtt.max_qos).unwrap_or_default(),
            keep_alive_max: mqtt.keep_alive_max,
            session_expiry_max: mqtt.session_expiry_max,
            topic_alias_max: mqtt.topic_alias_max,
            sys_interval: mqtt.sys_interval,
            topic: TopicLimits {
                length: mqtt.topic_length.into(),
                levels: mqtt.topic_levels.into(),
            },
            ..defaults.mqtt
        },
        limits: core::Limits {
            connections: limits.connections as usize,
            connections_per_ip: limits.connections_per_ip as usize,
            handshakes: limits.handshakes as usize,
            connect_deadline: limits.connect_deadline,
            sessions_per_principal: limits.sessions_per_principal as usize,
            subscriptions_per_session: limits.subscriptions_per_session as usize,
            filters_per_subscribe: limits.filters_per_subscribe as usize,
            queue_messages: limits.queue_messages as usize,
            queue_bytes: size(limits.queue_bytes),
            queue_messages_per_principal: limits.queue_messages_per_principal as usize,
            queue_bytes_per_principal: size(limits.queue_bytes_per_principal),
            retained_messages: limits.retained_messages as usize,
            retained_bytes: size(limits.retained_bytes),
            retained_messages_per_principal: limits.retained_messages_per_principal as usize,
            retained_bytes_per_principal: size(limits.retained_bytes_per_principal),
            memory: limits.memory.unwrap_or_else(memory::share),
            idle: limits.idle,
        },
        enforcement: core::Enforcement {
            subscribe: match config.acl.subscribe {
                config::PartialCover::Reject => core::PartlyCovered::Reject,
                config::PartialCover::Narrow => core::PartlyCovered::Narrow,
            },
            denied_publish: match config.acl.denied_publish {
                config::DeniedPublish::Acknowledge => core::DeniedPublish::Acknowledge,
                config::DeniedPublish::Disconnect => core::DeniedPublish::Disconnect,
            },
            on_revoke: match config.acl.on_revoke {
                config::OnRevoke::Suspend => core::OnRevoke::Suspend,
                config::OnRevoke::Disconnect => core::OnRevoke::Disconnect,
            },
            check_response_topic: config.acl.check_response_topic,
        },
        client_id: match config.auth.client_id {
            config::ClientIdRule::Any => core::ClientIdRule::Any,
            config::ClientIdRule::Name => core::ClientIdRule::Name,
        },
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The rates of `[limits]` for the limiter.
#[must_use]
pub fn limiter_settings(config: &Config) -> anomaly::Settings {
    let defaults = anomaly::Settings::default();
    let rate = |rate: config::Rate, default| {
        anomaly::Rate::new(rate.count, rate.period).unwrap_or(default)
    };
    let byte_rate = |rate: config::ByteRate, default| {
        anomaly::Rate::new(rate.0, Duration::from_secs(1)).unwrap_or(default)
    };
    let limits = &config.limits;
    anomaly::Settings {
        connect_rate_per_ip: rate(limits.connect_rate_per_ip, defaults.connect_rate_per_ip),
        auth_failures_per_ip: rate(limits.auth_failures_per_ip, defaults.auth_failures_per_ip),
        publish_rate: rate(limits.publish_rate, defaults.publish_rate),
        publish_bandwidth: byte_rate(limits.publish_bandwidth, defaults.publish_bandwidth),
        fan_out_rate: rate(limits.fan_out_rate, defaults.fan_out_rate),
        fan_out_bandwidth: byte_rate(limits.fan_out_bandwidth, defaults.fan_out_bandwidth),
        max_packet_size: config.mqtt.max_packet_size.into(),
        // Whoever may have so many may bring them at once: all sessions of a principal after an
        // outage, all filters of a session.
        connects_per_principal: anomaly::Rate::new(
            u64::from(limits.sessions_per_principal) * 3,
            Duration::from_mins(1),
        )
        .unwrap_or(defaults.connects_per_principal),
        filter_rate: anomaly::Rate::new(
            limits.subscriptions_per_session.into(),
            Duration::from_secs(10),
        )
        .unwrap_or(defaults.filter_rate),
        ..defaults
    }
}

/// `[audit]` for the record.
#[must_use]
pub fn audit_settings(config: &Config) -> AuditSettings {
    AuditSettings {
        on_full: match config.audit.on_full {
            config::OnFull::RefuseNew => OnFull::RefuseNew,
            config::OnFull::DropOldest => OnFull::DropOldest,
            config::OnFull::Stop => OnFull::Stop,
        },
        max_bytes: config.audit.max_bytes,
        ..AuditSettings::new(&config.audit.path)
    }
}

/// `[durability]` for the broker; `None` keeps everything in memory.
///
/// # Errors
///
/// The key file cannot be used.
pub fn store_options(config: &Config) -> Result<Option<store::Options>, String> {
    let durability = &config.durability;
    let mode = match durability.mode {
        DurabilityMode::Memory => return Ok(None),
        DurabilityMode::Fsync => store::Mode::Fsync,
        DurabilityMode::Interval => store::Mode::Interval(durability.interval),
    };
    Ok(Some(store::Options {
        mode,
        max_bytes: durability.max_bytes,
        segment_bytes: durability.segment_size,
        max_waiting: (core_settings(config).limits.memory / 16).min(64 << 20),
        key: store_key(config)?,
        ..store::Options::new(store_path(config))
    }))
}

/// What the store is encrypted with; `None` where no key is configured.
///
/// # Errors
///
/// The key file cannot be used.
pub fn store_key(config: &Config) -> Result<Option<store::Key>, String> {
    let file = config.durability.key_file.as_ref();
    let key = file.map(|file| store::Key::read(&file.path)).transpose();
    key.map_err(|error| error.to_string())
}

/// Where the store of this configuration lies.
#[must_use]
pub fn store_path(config: &Config) -> PathBuf {
    config.data_dir.join("store")
}

/// Says that this process leaves no core dump: keys and payloads would be in it.
///
/// # Errors
///
/// A warning: the system does not take it.
pub fn forbid_core_dumps() -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)
        .map_err(|error| format!("a crash may leave keys in a core dump: {error}"))
}

/// How much memory the process may have, in words.
///
/// # Errors
///
/// A warning: it is more than there is.
pub fn memory_budget(config: &Config) -> Result<String, String> {
    let budget = core_settings(config).limits.memory;
    let mib = budget >> 20;
    match memory::given() {
        Some(given) if given < budget => Err(format!(
            "limits.memory = {mib} MiB, but the machine or its cgroup gives {} MiB: the system would \
             kill the broker before it sheds anybody; lower it",
            given >> 20
        )),
        _ => Ok(format!("the process may have {mib} MiB of memory")),
    }
}

/// Raises the limit of open files to the hard one and says what fits.
///
/// # Errors
///
/// A warning: fewer connections fit than `limits.connections` says.
pub fn raise_file_limit(config: &Config) -> Result<u64, String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Where that is not allowed, the present limit stands.
    let _ = setrlimit(Resource::Nofile, raised);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fits = files.saturating_sub(OWN_DESCRIPTORS);
    let wanted = u64::from(config.limits.connections);
    if fits < wanted {
        return Err(format!(
            "limits.connections = {wanted}, but {files} open files leave room for {fits}; raise the \
             hard limit (LimitNOFILE= in a systemd unit, ulimit -Hn in a shell) or lower the number; \
             what does not fit is shed"
        ));
    }
    Ok(fits)
}
