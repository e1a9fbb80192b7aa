//! `portcullis run`: start in order, serve, reload on SIGHUP, drain on SIGTERM.
//!
//! The order is: configuration and every file it names, data-dir and its lock, the audit record,
//! bans, listeners, administration. Nothing half-starts: the first step that fails ends the
//! program with a message, before a listener accepts.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use portcullis_acl::Acl;
use portcullis_anomaly::{Bans, Limiter};
use portcullis_audit::{Audit, AuditSettings};
use portcullis_auth::Desk;
use portcullis_core::broker::Broker;
use portcullis_core::clock::Now;
use rustix::fs::{FlockOperation, flock};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::config::Config;
use crate::control::{self, Control};
use crate::http;
use crate::keeper::{self, Keeper};
use crate::memory::Allocated;
use crate::numbers;
use crate::reload::Live;
use crate::wiring;

/// Told once when every listener accepts, with each listener's name and address.
pub type OnReady<'a> = &'a (dyn Fn(&Broker) + Sync);

/// Runs the broker until SIGTERM or SIGINT.
///
/// # Errors
///
/// Why it did not start, one text for each thing that is wrong; or that the record asked for the
/// end.
pub async fn run(config: Config, on_ready: OnReady<'_>) -> Result<(), Vec<String>> {
    let one = |error: String| vec![error];
    let now = Now::read();
    // The handlers first: a signal that comes early waits for them rather than ends the process.
    let mut signals = Signals::new().map_err(|error| one(error.to_string()))?;
    let loaded = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || wiring::load(&config, now.wall))
            .await
            .map_err(|error| one(error.to_string()))??
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match wiring::raise_file_limit(&config) {
        Ok(fits) => tracing::info!(connections = fits, "descriptors leave room"),
        Err(warning) => tracing::warn!("{warning}"),
    }
    match wiring::memory_budget(&config) {
        Ok(budget) => tracing::info!("{budget}"),
        Err(warning) => tracing::warn!("{warning}"),
    }
    if let Err(warning) = wiring::forbid_core_dumps() {
        tracing::warn!("{warning}");
    }
    let data_dir = config.data_dir.clone();
    let _lock = lock(&data_dir).map_err(one)?;
    let stop = Arc::new(Notify::new());
    let control_socket = control::bind(&config.data_dir).map_err(|error| {
        let path = control::socket_path(&config.data_dir);
        one(format!("{}: {error}", path.display()))
    })?;
    let admin_socket = match &config.admin {
        Some(admin) => Some(http::bind(admin.bind).await.map_err(|error| {
            let problem = format!("cannot listen on {}: {error}", admin.bind);
            let remedy = "choose another address, or leave [admin] out";
            one(config.problem(admin.at, problem, remedy).to_string())
        })?),
        None => None,
    };
    let running = start(&config, loaded, &stop, now).map_err(one)?;
    let mut tasks = vec![tokio::spawn(control::serve(
        control_socket,
        Arc::new(running.control()),
    ))];
    tasks.push(tokio::spawn(keeper::tend(running.clone())));
    if let Some(socket) = admin_socket {
        if let Ok(address) = socket.local_addr() {
            tracing::info!(%address, "metrics and health over HTTP");
        }
        let (source, healthy) = (numbers::source(&running), running.healthy());
        tasks.push(tokio::spawn(async move {
            if let Err(error) = http::serve(socket, source, healthy).await {
                tracing::error!(%error, "the HTTP endpoint ended");
            }
        }));
    }
    for (name, address) in running.broker.addresses() {
        if let Some(address) = address {
            tracing::info!(listener = &*name, %address, "listening");
        } else {
            tracing::info!(listener = &*name, "listening on a Unix socket");
        }
    }
    on_ready(&running.broker);
    tracing::info!("ready");

    let reason = running.serve(config, &mut signals, &stop).await;
    tracing::info!("draining");
    for task in &tasks {
        task.abort();
    }
    running.broker.stop().await;
    running.keeper.tell_lessons(&running);
    control::unbind(&data_dir);
    let audit = Arc::clone(&running.audit);
    // Blocks until the last record is on disk.
    let written = tokio::task::spawn_blocking(move || audit.stop(Now::read())).await;
    if let Err(error) = written {
        tracing::error!(%error, "the audit record did not end");
    }
    tracing::info!("stopped");
    reason
}

/// Starts the record, the modules and the broker with them.
fn start(
    config: &Config,
    loaded: wiring::Loaded,
    stop: &Arc<Notify>,
    now: Now,
) -> Result<Running, String> {
    let audit = Arc::new(start_audit(config, loaded.policy.hash(), stop)?);
    let bans = Bans::load(config.data_dir.join("bans.json"), now)
        .map(Arc::new)
        .map_err(|error| error.to_string())?;
    let limiter = Arc::new(Limiter::new(wiring::limiter_settings(config), now));

    let mut builder = Broker::builder()
        .settings(wiring::core_settings(config))
        .memory(Arc::new(Allocated));
    if let Some(options) = wiring::store_options(config)? {
        builder = builder.store(options);
    }
    for listener in wiring::listeners(config, &loaded) {
        builder = builder.listener(listener);
    }
    let (hash, counts) = (loaded.policy.hash().to_owned(), loaded.policy.counts());
    let (desk, acl) = (Arc::new(loaded.desk), Arc::new(Acl::new(loaded.policy)));
    // Before anybody asks: time windows are closed until then.
    acl.tick(now.wall);
    acl.shadow(loaded.shadow.map(Into::into));
    acl.teach(loaded.lessons)?;
    let keeper = Arc::new(Keeper::new(Arc::clone(&acl), config.acl.rollback_denials));
    let broker = builder
        .authenticator(Arc::clone(&desk) as _)
        .authorizer(Arc::clone(&acl) as _)
        .admission(Arc::clone(&bans) as _)
        .admission(Arc::clone(&limiter) as _)
        .observer(Arc::clone(&audit) as _)
        .observer(Arc::clone(&keeper) as _)
        .start()
        .map(Arc::new)
        .map_err(|error| {
            audit.stop(Now::read());
            error.to_string()
        })?;
    tracing::info!(
        policy = &*hash,
        rules = counts.rules,
        roles = counts.links,
        "policy in force"
    );
    // Keys and lists from other servers, from now on.
    desk.start(&tokio::runtime::Handle::current());
    Ok(Running {
        desk,
        acl,
        bans,
        limiter,
        audit,
        keeper,
        broker,
    })
}

/// Signals that the program answers.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// The modules of a running broker.
#[derive(Clone)]
pub struct Running {
    /// Who is it?
    pub desk: Arc<Desk>,
    /// May it?
    pub acl: Arc<Acl>,
    /// Who is kept out.
    pub bans: Arc<Bans>,
    /// Is it behaving?
    pub limiter: Arc<Limiter>,
    /// Can we prove it?
    pub audit: Arc<Audit>,
    /// Who changes the policy, and takes a change back.
    pub keeper: Arc<Keeper>,
    /// The broker.
    pub broker: Arc<Broker>,
}

impl Running {
    /// Serves until a signal or the record asks for the end.
    async fn serve(
        &self,
        config: Config,
        signals: &mut Signals,
        stop: &Notify,
    ) -> Result<(), Vec<String>> {
        let live = Arc::new(Mutex::new(Live::new(self.clone(), config)));
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                () = stop.notified() => {
                    return Err(vec!["[audit] on-full = \"stop\": the record takes nothing".to_owned()]);
                }
                _ = signals.hangup.recv() => {
                    let live = Arc::clone(&live);
                    let reloading = tokio::task::spawn_blocking(move || live.lock().reload());
                    if let Err(error) = reloading.await {
                        tracing::error!(%error, "reload-failed");
                    }
                }
            }
        }
    }

    /// Warns of what ends soon, each time once.
    pub fn remind(&self, now: Now) {
        for warning in self.desk.reminders(now.wall) {
            tracing::warn!("{warning}");
        }
    }

    fn control(&self) -> Control {
        let (acl, audit) = (Arc::clone(&self.acl), Arc::clone(&self.audit));
        Control {
            modules: self.clone(),
            broker: Arc::clone(&self.broker),
            bans: Arc::clone(&self.bans),
            status: Box::new(move || {
                let (policy, stats) = (acl.policy(), audit.stats());
                [
                    ("version", env!("CARGO_PKG_VERSION").to_owned()),
                    ("policy", policy.hash().to_owned()),
                    ("policy-rules", policy.counts().rules.to_string()),
                    ("audit-records", stats.records.to_string()),
                    ("audit-lost", stats.lost.to_string()),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .into()
            }),
        }
    }

    fn healthy(&self) -> Arc<dyn Fn() -> Result<(), String> + Send + Sync> {
        let (audit, broker) = (Arc::clone(&self.audit), Arc::clone(&self.broker));
        Arc::new(move || {
            use portcullis_core::hook::Observer as _;
            if let Some((_, Some(failure))) = broker.store() {
                return Err(format!("the store has failed: {failure}"));
            }
            if audit.can_record() {
                Ok(())
            } else {
                Err("the audit record takes nothing; new clients are refused".to_owned())
            }
        })
    }
}

/// Makes data-dir if it is not there and locks it for this process.
fn lock(data_dir: &Path) -> Result<File, String> {
    let shown = data_dir.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|error| format!("data-dir {shown}: {error}"))?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join("lock"))
        .map_err(|error| format!("data-dir {shown}: {error}"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        format!("data-dir {shown} is in use by another broker; stop it, or choose another data-dir")
    })?;
    Ok(lock)
}

fn start_audit(config: &Config, policy: &str, stop: &Arc<Notify>) -> Result<Audit, String> {
    let stop = Arc::clone(stop);
    let settings = AuditSettings {
        on_stop: Some(Arc::new(move |reason: &str| {
            tracing::error!(reason, "the audit record asks for the end");
            stop.notify_one();
        })),
        policy: Some(policy.to_owned()),
        ..wiring::audit_settings(config)
    };
    Audit::start(settings).map_err(|error| format!("[audit]: {error}"))
}
