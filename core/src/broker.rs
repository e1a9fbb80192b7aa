//! The broker as a library: built from settings, listeners and modules, then running.
//!
//! ```no_run
//! # async fn example(modules: portcullis_core::broker::Builder) -> Result<(), portcullis_core::broker::StartError> {
//! let broker = modules.start()?;
//! println!("{:?}", broker.addresses());
//! broker.stop().await;
//! # Ok(())
//! # }
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::budget::{self, Memory};
use crate::bus::{Bus, Native};
use crate::clock::{CALENDAR, Now};
use crate::engine::{Close, Engine, Watch};
use crate::gate::{self, Bound, Endpoint, Gate, Listener};
use crate::guard::Subject;
use crate::hook::{Admission, Authenticator, Authorizer, Event, Modules, Observer, Snapshot};
use crate::journal::{Journal, Recovered};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::store;
use crate::sys::Sys;
use crate::wire::{ReasonCode, Version};

/// How often deadlines of sessions and changes of policy are looked at.
const TICK: Duration = Duration::from_millis(200);

/// How long connections may take to end when the broker stops.
const DRAIN: Duration = Duration::from_secs(3);

/// Collects what a broker is made of. Without an authenticator nobody gets in; without an
/// authorizer nothing is allowed.
#[derive(Default)]
pub struct Builder {
    settings: Settings,
    listeners: Vec<Listener>,
    modules: Modules,
    bus: Option<Arc<dyn Bus>>,
    store: Option<store::Options>,
    memory: Option<Arc<dyn Memory>>,
}

/// Why a broker did not start. Nothing runs then.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is nothing to listen on.
    #[error("no listener; add a [[listener]]")]
    NoListener,
    /// A listener cannot be bound.
    #[error("listener {name:?} cannot listen on {endpoint}: {error}")]
    Bind {
        /// The listener's name.
        name: String,
        /// Where.
        endpoint: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The memory of the process cannot be told.
    #[error("the memory of the process cannot be read ({0}); /proc must be there")]
    Memory(String),
    /// The store cannot be used.
    #[error("the store: {0}")]
    Store(#[from] store::StoreError),
}

impl Builder {
    /// The settings; they can be replaced while the broker runs.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds a listener.
    #[must_use]
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Adds an authenticator behind those already there.
    #[must_use]
    pub fn authenticator(mut self, module: Arc<dyn Authenticator>) -> Self {
        self.modules.authenticators.push(module);
        self
    }

    /// Adds an authorizer.
    #[must_use]
    pub fn authorizer(mut self, module: Arc<dyn Authorizer>) -> Self {
        self.modules.authorizers.push(module);
        self
    }

    /// Adds an admission module.
    #[must_use]
    pub fn admission(mut self, module: Arc<dyn Admission>) -> Self {
        self.modules.admissions.push(module);
        self
    }

    /// Adds an observer.
    #[must_use]
    pub fn observer(mut self, module: Arc<dyn Observer>) -> Self {
        self.modules.observers.push(module);
        self
    }

    /// Keeps persistent sessions, their messages, retained messages and wills on disk. Without it
    /// they live as long as the process.
    #[must_use]
    pub fn store(mut self, options: store::Options) -> Self {
        self.store = Some(options);
        self
    }

    /// Asks another about the memory that `limits.memory` bounds than [`budget::Process`]; for a
    /// broker inside another program.
    #[must_use]
    pub fn memory(mut self, memory: Arc<dyn Memory>) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Uses another bus than the native one.
    #[must_use]
    pub fn bus(mut self, bus: Arc<dyn Bus>) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Binds every listener, then accepts on all of them. When this returns, every listener
    /// accepts.
    ///
    /// # Errors
    ///
    /// The first listener that cannot be bound; nothing is left running.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(self) -> Result<Broker, StartError> {
        if self.listeners.is_empty() {
            return Err(StartError::NoListener);
        }
        let bound = self
            .listeners
            .iter()
            .map(|listener| {
                gate::bind(listener).map_err(|error| StartError::Bind {
                    name: listener.name.to_string(),
                    endpoint: match &listener.endpoint {
                        Endpoint::Tcp(address) => address.to_string(),
                        Endpoint::Unix(path) => format!("unix:{}", path.display()),
                    },
                    error,
                })
            })
            .collect::<Result<Vec<Bound>, _>>()?;
        let modules = Arc::new(self.modules);
        let settings = Arc::new(ArcSwap::from_pointee(self.settings));
        let (journal, recovered) = match &self.store {
            Some(options) => {
                let (journal, recovered) = Journal::open(options)?;
                (Some(Arc::new(journal)), recovered)
            }
            None => (None, Recovered::default()),
        };
        let Recovered {
            sessions,
            retained,
            unrouted,
            clock,
        } = recovered;
        CALENDAR.not_before(clock, (SystemTime::now(), Instant::now()));
        let bus = self.bus.unwrap_or_else(|| {
            let (settings, metrics) = (Arc::clone(&settings), Arc::clone(&modules.metrics));
            Arc::new(match &journal {
                Some(journal) => Native::durable(settings, metrics, Arc::clone(journal), retained),
                None => Native::new(settings, metrics),
            })
        });
        let memory = self.memory.unwrap_or_else(|| Arc::new(budget::Process));
        let engine = Engine::new(modules, settings, Arc::clone(&bus), journal, memory);
        if let Some(error) = engine.budget.failed() {
            return Err(StartError::Memory(error));
        }
        let engine = Arc::new(engine);
        engine.restore(sessions, unrouted, Now::read());
        let (stop, stopping) = watch::channel(false);
        let gate = Arc::new(Gate::new(Arc::clone(&engine), stopping.clone()));
        let mut listeners = Vec::new();
        let mut tasks = Vec::new();
        for listener in bound {
            listeners.push((Arc::clone(&listener.shared), listener.address));
            tasks.push(tokio::spawn(listener.accept(Arc::clone(&gate))));
        }
        let system = Subject::system("sys", &engine.modules);
        let sys = Sys::new(Arc::clone(&system), Now::read());
        tasks.push(tokio::spawn(tend(Arc::clone(&engine), bus, sys, stopping)));
        engine.modules.observe(&Event::Started, Now::read());
        Ok(Broker {
            system,
            engine,
            listeners,
            stop,
            tasks: Mutex::new(tasks),
        })
    }
}

/// Does what the clock says until the broker stops.
async fn tend(
    engine: Arc<Engine>,
    bus: Arc<dyn Bus>,
    mut sys: Sys,
    mut stopping: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    for count in 0u64.. {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        let now = Now::read();
        if engine.wants_compaction() {
            let engine = Arc::clone(&engine);
            // Walks over everything that lives: not for the threads of the connections.
            if let Err(error) = tokio::task::spawn_blocking(move || engine.compact(now)).await {
                tracing::error!(%error, "compaction of the store failed");
            }
        }
        engine.tick(now);
        watch.look(&engine, &CALENDAR, now);
        sys.tend(&engine, now);
        if count.is_multiple_of(5) {
            bus.tend(now);
        }
    }
}

/// A running broker. Dropping it does not stop it; [`Broker::stop`] does.
pub struct Broker {
    engine: Arc<Engine>,
    listeners: Vec<(Arc<gate::Shared>, Option<SocketAddr>)>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    system: Arc<Subject>,
}

/// A client as an operator sees it.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client identifier.
    pub client_id: String,
    /// Who owns the session.
    pub principal: String,
    /// The listener it came through.
    pub listener: String,
    /// Peer, protocol version, and for how long; `None` for an offline session.
    pub connected: Option<(Option<SocketAddr>, Version, Duration)>,
    /// Role names of its credential.
    pub roles: Vec<String>,
    /// Number of subscriptions.
    pub subscriptions: usize,
    /// Messages that wait.
    pub queued: usize,
    /// Messages on their way.
    pub in_flight: usize,
    /// Seconds that the session outlives its connection.
    pub expiry: u32,
    /// Filters with granted `QoS` and whether they are suspended; for one client only.
    pub filters: Vec<(String, u8, bool)>,
}

impl Broker {
    /// Begins to build one.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where each listener listens, by name; `None` for a Unix socket.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, Option<SocketAddr>)> {
        self.listeners
            .iter()
            .map(|(shared, address)| (shared.name.to_string(), *address))
            .collect()
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.engine.metrics
    }

    /// Replaces the settings; live connections follow with their next packets. Addresses of
    /// listeners and the number of handshakes in flight stay as they were at the start.
    pub fn replace_settings(&self, settings: Settings) {
        self.engine.settings.store(Arc::new(settings));
    }

    /// Replaces a listener's TLS configuration for new connections; `false` if there is no such
    /// listener or it does not use TLS.
    pub fn replace_tls(&self, listener: &str, tls: Arc<ServerConfig>) -> bool {
        let found = self
            .listeners
            .iter()
            .find(|(shared, _)| *shared.name == *listener && shared.tls.load().is_some());
        if let Some((shared, _)) = found {
            shared.tls.store(Some(tls));
        }
        found.is_some()
    }

    /// Tells the observers of something that the program did.
    pub fn observe(&self, event: &Event<'_>) {
        self.engine.modules.observe(event, Now::read());
    }

    /// Looks at policies and standings now rather than at the next tick; returns when every
    /// session is up to date.
    pub fn sweep(&self) {
        self.engine.tick(Now::read());
    }

    /// How long the last walk over all sessions after a change took.
    #[must_use]
    pub fn last_sweep(&self) -> Duration {
        self.engine.last_sweep()
    }

    /// Bytes in the store, and why it has failed, if so; `None` where everything lives in memory.
    #[must_use]
    pub fn store(&self) -> Option<(u64, Option<String>)> {
        let journal = self.engine.journal.as_ref()?;
        Some((journal.size(), journal.failed()))
    }

    /// Publishes for the broker itself, as `system:sys`, under the policy like everybody.
    pub fn publish_system(&self, topic: &str, payload: &[u8], retain: bool) {
        self.engine
            .publish_system(&self.system, topic, payload, retain, Now::read());
    }

    /// All sessions, in the order of their client ids.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientInfo> {
        let mut all = self.list(|_| true, false);
        all.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        all
    }

    /// One session with its filters.
    #[must_use]
    pub fn client(&self, client_id: &str) -> Option<ClientInfo> {
        self.list(|id| id == client_id, true).pop()
    }

    fn list(&self, chosen: impl Fn(&str) -> bool, filters: bool) -> Vec<ClientInfo> {
        self.engine.inspect(|view| {
            chosen(view.client_id).then(|| ClientInfo {
                client_id: view.client_id.to_owned(),
                principal: view.owner.as_str().to_owned(),
                listener: view.who.listener.to_string(),
                connected: view
                    .connected
                    .map(|(peer, version, since)| (peer, version, since.elapsed())),
                roles: view
                    .who
                    .identity
                    .roles
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                subscriptions: view.subscriptions,
                queued: view.queued,
                in_flight: view.in_flight,
                expiry: view.expiry,
                filters: if filters {
                    (view.filters)()
                        .into_iter()
                        .map(|(filter, qos, suspended)| (filter, qos as u8, suspended))
                        .collect()
                } else {
                    Vec::new()
                },
            })
        })
    }

    /// Who has a session, connected or not: what the policy knows of each.
    #[must_use]
    pub fn identities(&self) -> Vec<Snapshot> {
        self.engine.inspect(|view| Some(view.who.clone()))
    }

    /// Ends connections; their sessions stay, their wills are published. Returns how many.
    pub fn kick(&self, chosen: impl Fn(&Snapshot) -> bool) -> usize {
        let close = Close {
            code: ReasonCode::AdministrativeAction,
            reason: "kicked by an operator".to_owned(),
            will: true,
        };
        self.engine.close_where(chosen, &close, Now::read())
    }

    /// Ends a session and its connection for good, so that anybody may have the client id.
    pub fn drop_session(&self, client_id: &str) -> bool {
        self.engine.drop_session(client_id, Now::read())
    }

    /// Stops accepting, ends every connection with `ServerShuttingDown`, and returns when they
    /// are gone or three seconds have passed.
    pub async fn stop(&self) {
        self.engine.modules.observe(&Event::Stopping, Now::read());
        // Nobody is left to hear it only if every task has ended already.
        let _ = self.stop.send(true);
        let close = Close {
            code: ReasonCode::ServerShuttingDown,
            reason: "the broker stops".to_owned(),
            will: false,
        };
        self.engine.close_where(|_| true, &close, Now::read());
        let deadline = Now::read().mono + DRAIN;
        while self.engine.metrics.connections.value() > 0 && Now::read().mono < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A panic in there was logged when it happened.
            let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
        }
        if let Some(journal) = self.engine.journal.clone() {
            // Blocks until the last record is on disk.
            let _ = tokio::task::spawn_blocking(move || journal.stop()).await;
        }
    }
}
