//! The administration socket: a running broker answers its operator.
//!
//! A Unix socket in data-dir that only the broker's own user may open (mode 0600); no other way to
//! administrate exists. One JSON object a line in, one out; a connection serves one request. What
//! changes something is written to the audit record by the broker.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portcullis_acl::tools::Who;
use portcullis_anomaly::{Ban, Bans, Network, Target};
use portcullis_core::broker::{Broker, ClientInfo};
use portcullis_core::clock::{Now, unix_millis};
use portcullis_core::hook::{Event, Snapshot};
use portcullis_core::wire::Version;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use crate::run::Running;
use crate::shadow;

/// The socket's name in data-dir.
const NAME: &str = "control.sock";

/// Longest request, bytes.
const MAX_REQUEST: u64 = 64 << 10;
/// Longest answer that a client takes, bytes.
const MAX_ANSWER: u64 = 256 << 20;
/// How long an operator's client may take to ask, and waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Numbers.
    Status,
    /// All sessions; with `connected` those with a connection alone.
    Sessions {
        /// Leave offline sessions out.
        connected: bool,
    },
    /// Who has a session, with everything that a policy may look at.
    Identities,
    /// One session with its subscriptions.
    Session {
        /// Its client id.
        client_id: String,
    },
    /// End a connection.
    Kick {
        /// Its client id.
        client_id: String,
    },
    /// End a session for good.
    Drop {
        /// Its client id.
        client_id: String,
    },
    /// Keep somebody out.
    Ban {
        /// Whom.
        target: BanTarget,
        /// How long, milliseconds.
        millis: u64,
        /// Why.
        reason: String,
    },
    /// Who is kept out.
    Bans,
    /// Let somebody in again.
    Unban {
        /// Whom.
        target: BanTarget,
    },
    /// What the candidate policy would have answered differently.
    Shadow,
    /// Put the candidate policy in force until the next reload.
    Promote,
}

/// Whom a ban is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BanTarget {
    /// A principal with its kind.
    Principal(String),
    /// A client id.
    ClientId(String),
    /// An address; an IPv6 address stands for its /64.
    Address(IpAddr),
}

impl From<&BanTarget> for Target {
    fn from(target: &BanTarget) -> Self {
        match target {
            BanTarget::Principal(name) => Self::Principal(name.clone()),
            BanTarget::ClientId(id) => Self::ClientId(id.clone()),
            BanTarget::Address(address) => {
                let address = address.to_canonical();
                let length = if address.is_ipv4() { 32 } else { 64 };
                Network::new(address, length).map_or_else(
                    // Not reached: both lengths fit their addresses.
                    || Self::ClientId(address.to_string()),
                    Self::Network,
                )
            }
        }
    }
}

/// What the broker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// Names and values, in an order for people.
    Status {
        /// The numbers.
        values: Vec<(String, String)>,
    },
    /// Sessions.
    Sessions {
        /// In the order of their client ids.
        sessions: Vec<SessionInfo>,
    },
    /// Who has a session.
    Identities {
        /// Each session's owner.
        identities: Vec<IdentityInfo>,
    },
    /// Bans that have not ended.
    Bans {
        /// Each.
        bans: Vec<BanInfo>,
    },
    /// What the candidate policy would have answered differently.
    Shadow(shadow::Report),
    /// It was done.
    Done {
        /// What, in words.
        message: String,
    },
    /// It was not.
    Failed {
        /// Why, in words.
        message: String,
    },
}

/// The owner of a session, as a policy sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityInfo {
    /// With its kind.
    pub principal: String,
    /// Role names of its credential.
    pub roles: Vec<String>,
    /// The client identifier.
    pub client_id: String,
    /// The listener it came through.
    pub listener: String,
    /// The peer's address.
    pub address: Option<IpAddr>,
    /// `cert.FIELD` and `claim.PATH` with their values.
    pub attributes: BTreeMap<String, String>,
}

impl From<Snapshot> for IdentityInfo {
    fn from(who: Snapshot) -> Self {
        let attributes = who.identity.attributes.iter();
        Self {
            principal: who.principal().to_string(),
            roles: who.identity.roles.iter().map(ToString::to_string).collect(),
            client_id: who.client_id.to_string(),
            listener: who.listener.to_string(),
            address: who.address,
            attributes: attributes
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
        }
    }
}

impl From<IdentityInfo> for Who {
    fn from(info: IdentityInfo) -> Self {
        Self {
            principal: info.principal,
            roles: info.roles,
            client_id: info.client_id,
            listener: info.listener,
            attributes: info.attributes,
            address: info.address,
        }
    }
}

/// A session as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The client identifier.
    pub client_id: String,
    /// Its owner.
    pub principal: String,
    /// The listener it came through.
    pub listener: String,
    /// Whether it has a connection.
    pub connected: bool,
    /// The peer's address.
    pub peer: Option<String>,
    /// The protocol version.
    pub version: Option<String>,
    /// Seconds since CONNACK.
    pub seconds: Option<u64>,
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
    /// Filters with granted `QoS`, and whether they are suspended; for one session only.
    pub filters: Vec<(String, u8, bool)>,
}

/// A ban as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanInfo {
    /// Whom it keeps out.
    pub target: String,
    /// Why.
    pub reason: String,
    /// Seconds until it ends.
    pub seconds_left: u64,
}

impl From<ClientInfo> for SessionInfo {
    fn from(info: ClientInfo) -> Self {
        let (peer, version, seconds) = match info.connected {
            Some((peer, version, since)) => (
                peer.map(|peer| peer.to_string()),
                Some(
                    match version {
                        Version::V3_1 => "3.1",
                        Version::V3_1_1 => "3.1.1",
                        Version::V5 => "5.0",
                    }
                    .to_owned(),
                ),
                Some(since.as_secs()),
            ),
            None => (None, None, None),
        };
        Self {
            client_id: info.client_id,
            principal: info.principal,
            listener: info.listener,
            connected: seconds.is_some(),
            peer,
            version,
            seconds,
            roles: info.roles,
            subscriptions: info.subscriptions,
            queued: info.queued,
            in_flight: info.in_flight,
            expiry: info.expiry,
            filters: info.filters,
        }
    }
}

/// Where the socket of a broker with this data-dir is.
#[must_use]
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

/// What the socket can reach.
pub struct Control {
    /// The modules.
    pub modules: Running,
    /// The broker.
    pub broker: Arc<Broker>,
    /// The visible, expiring layer of bans.
    pub bans: Arc<Bans>,
    /// More values for `status`.
    pub status: Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>,
}

impl Control {
    /// Answers a request.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Answer {
        let done = |message: String| Answer::Done { message };
        let failed = |message: String| Answer::Failed { message };
        match request {
            Request::Status => {
                let mut values = (self.status)();
                let metrics = self.broker.metrics().list();
                let metrics = metrics
                    .into_iter()
                    .map(|(name, _, _, value)| (name.replace('_', "-"), value.to_string()));
                values.extend(metrics);
                Answer::Status { values }
            }
            Request::Sessions { connected } => {
                let sessions = self.broker.clients().into_iter().map(SessionInfo::from);
                Answer::Sessions {
                    sessions: sessions
                        .filter(|session| session.connected || !connected)
                        .collect(),
                }
            }
            Request::Identities => {
                let identities = self.broker.identities().into_iter();
                Answer::Identities {
                    identities: identities.map(IdentityInfo::from).collect(),
                }
            }
            Request::Session { client_id } => match self.broker.client(client_id) {
                Some(info) => Answer::Sessions {
                    sessions: vec![info.into()],
                },
                None => failed(format!("there is no session {client_id:?}")),
            },
            Request::Kick { client_id } => {
                self.note(&format!("kick of {client_id:?}"));
                match self.broker.kick(|who| *who.client_id == **client_id) {
                    0 => failed(format!("{client_id:?} is not connected")),
                    _ => done(format!("{client_id:?} is disconnected")),
                }
            }
            Request::Drop { client_id } => {
                self.note(&format!("drop of session {client_id:?}"));
                if self.broker.drop_session(client_id) {
                    done(format!("the session {client_id:?} is dropped"))
                } else {
                    failed(format!("there is no session {client_id:?}"))
                }
            }
            Request::Ban {
                target,
                millis,
                reason,
            } => self.ban(&target.into(), Duration::from_millis(*millis), reason),
            Request::Bans => {
                let now = Now::read();
                let bans = self.bans.list(now).into_iter().map(|ban| BanInfo {
                    target: ban.target.to_string(),
                    reason: ban.reason,
                    seconds_left: unix_millis(ban.until).saturating_sub(now.unix_millis()) / 1000,
                });
                Answer::Bans {
                    bans: bans.collect(),
                }
            }
            Request::Shadow => match self.modules.acl.differences() {
                Some(report) => Answer::Shadow(report.into()),
                None => failed("there is no candidate: name one with shadow in [acl]".to_owned()),
            },
            Request::Promote => {
                let Some(hash) = self.modules.keeper.promote(&self.modules, Now::read()) else {
                    return failed("there is no candidate to promote".to_owned());
                };
                self.note(&format!("promotion of the candidate policy {hash}"));
                // Returns when every session goes by it.
                self.broker.sweep();
                done(format!(
                    "policy {hash} is in force until the next reload or restart; no file was \
                     changed: name it under policy in [acl] to keep it"
                ))
            }
            Request::Unban { target } => {
                let target = Target::from(target);
                self.note(&format!("unban of {target}"));
                match self.bans.remove(&target, Now::read()) {
                    Ok(true) => done(format!("the ban of {target} is lifted")),
                    Ok(false) => failed(format!("there is no ban of {target}")),
                    Err(error) => failed(error.to_string()),
                }
            }
        }
    }

    fn ban(&self, target: &Target, span: Duration, reason: &str) -> Answer {
        let now = Now::read();
        self.note(&format!(
            "ban of {target} for {} s: {reason}",
            span.as_secs()
        ));
        let Some(until) = now.wall.checked_add(span) else {
            return Answer::Failed {
                message: "that is too long".to_owned(),
            };
        };
        let ban = Ban {
            target: target.clone(),
            reason: reason.to_owned(),
            created: now.wall,
            until,
        };
        let added = self.bans.add(ban, now);
        // Live connections are asked again at once.
        self.broker.sweep();
        match added {
            Ok(()) => Answer::Done {
                message: format!("{target} is banned for {} s", span.as_secs()),
            },
            Err(error) => Answer::Failed {
                message: error.to_string(),
            },
        }
    }

    fn note(&self, action: &str) {
        tracing::info!(action, "administration");
        self.broker.observe(&Event::Administration { action });
    }
}

/// Removes the socket: nobody answers there any more.
pub fn unbind(data_dir: &Path) {
    // One that stays is replaced at the next start.
    let _ = std::fs::remove_file(socket_path(data_dir));
}

/// Binds the socket.
///
/// # Errors
///
/// It cannot be bound.
pub fn bind(data_dir: &Path) -> io::Result<UnixListener> {
    let path = socket_path(data_dir);
    // data-dir is locked by this process, so a socket that is there was left by a dead one.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket for ever; the caller ends the task.
pub async fn serve(listener: UnixListener, control: Arc<Control>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = Arc::clone(&control);
                tokio::spawn(tokio::time::timeout(PATIENCE, serve_one(stream, control)));
            }
            Err(error) => {
                tracing::warn!(%error, "the administration socket cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(stream: tokio::net::UnixStream, control: Arc<Control>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read)
        .take(MAX_REQUEST)
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        // Walks over many sessions do not hold up the broker's own tasks.
        Ok(request) => tokio::task::spawn_blocking(move || control.answer(&request))
            .await
            .map_err(io::Error::other)?,
        Err(error) => Answer::Failed {
            message: format!("not a request: {error}"),
        },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

/// Asks a running broker.
///
/// # Errors
///
/// No broker answers at the socket, or not with an answer.
pub fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream)
        .take(MAX_ANSWER)
        .read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::from)
}
