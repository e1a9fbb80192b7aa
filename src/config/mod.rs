//! `portcullis.toml`: the operator's file, checked once and turned into plain values.
//!
//! What holds for every [`Config`] that [`Config::load`] or [`Config::parse`] returns:
//!
//! 1. **Nothing is ignored.** An unknown key, a value of another kind, a quantity without unit and
//!    a feature that belongs to a later version are errors with file, line, column and remedy.
//! 2. **Everything is finite.** Each limit has a value and a maximum; sums with them do not
//!    overflow.
//! 3. **Closed by default.** Plaintext is said out loud and stays on loopback unless that is said
//!    too; anonymous clients are named; a method that a listener names is configured.
//! 4. **All at once.** Where possible every problem is reported, not only the first.
//!
//! Names, units and defaults are those of the operator's contract (DESIGN, section 5). The
//! settings types of the other packages are not known here: the wiring maps.
//!
//! Not here: whether the files that are named hold what they should (certificates, keys and
//! policies are checked by those who read them; [`Config::check_files`] only opens them).

mod identity;
mod limits;
mod listener;
mod problem;
mod remote;
mod section;
pub mod units;

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub use identity::{Auth, CertificateName, ClientIdRule, JwtIssuer, JwtKeys, Require};
pub use limits::{Limits, Mqtt};
pub use listener::{
    Bind, ClientAuth, ClientCa, Learn, Listener, Method, Security, Sni, Tls, Transport,
};
pub use problem::{Position, Problem, Problems};
pub use remote::{Connection, Introspection, JwksUrl, Webhook};
pub use units::{ByteRate, Rate};

use section::{Placed, Section, Source};
use units::MAX_BYTES;

/// The largest configuration file that is read.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from, as the operator spelled it.
    pub file: PathBuf,
    /// Where the broker keeps what it must keep, and its administration socket.
    pub data_dir: PathBuf,
    /// At least one; names and binds are unique.
    pub listeners: Vec<Listener>,
    /// `[auth]`: who is it?
    pub auth: Auth,
    /// `[acl]`: may it?
    pub acl: Acl,
    /// `[mqtt]`: what the protocol machine grants.
    pub mqtt: Mqtt,
    /// `[limits]`: what clients may cost.
    pub limits: Limits,
    /// `[durability]`: what survives a restart.
    pub durability: Durability,
    /// `[audit]`: the record.
    pub audit: Audit,
    /// `[admin]`: the HTTP endpoint for metrics and health; absent, there is none.
    pub admin: Option<Admin>,
    /// `[log]`: what the program says of itself.
    pub log: Log,
    /// What loads but is worth saying, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// `[acl]`: the policy and the answers when it says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// The Casbin model; `None` is the shipped one.
    pub model: Option<InputFile>,
    /// The policy files, or directories of them; at least one.
    pub policy: Vec<InputFile>,
    /// A candidate policy that is asked beside the one in force and never decides; empty: none.
    pub shadow: Vec<InputFile>,
    /// More denials than this after a change of policy put the old one back; `None`: never.
    pub rollback_denials: Option<Rate>,
    /// What happens to a subscription that is covered in part.
    pub subscribe: PartialCover,
    /// What a client is told of a publish that is denied.
    pub denied_publish: DeniedPublish,
    /// What happens to a subscription that is no longer covered.
    pub on_revoke: OnRevoke,
    /// Whether a response topic must be one that the requester may subscribe to.
    pub check_response_topic: bool,
}

/// `[acl] subscribe`: a subscription that the policy covers in part (DESIGN, rule 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartialCover {
    /// It is refused.
    Reject,
    /// It is granted, and each delivery is filtered by the present policy.
    Narrow,
}

/// `[acl] denied-publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedPublish {
    /// The flow is completed, in 5.0 with reason code 0x87, and the message dropped.
    Acknowledge,
    /// The connection ends.
    Disconnect,
}

/// `[acl] on-revoke`: a subscription that is no longer covered (DESIGN, rule 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRevoke {
    /// It is kept, delivers nothing, and resumes when it is covered again.
    Suspend,
    /// The connection ends, in 5.0 with reason code 0x87.
    Disconnect,
}

/// `[durability]`: what survives a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durability {
    /// Whether, and when, it is on disk.
    pub mode: DurabilityMode,
    /// With `mode = "interval"`: the window whose messages a crash may lose.
    pub interval: Duration,
    /// Disk space that the store may take, in bytes; from a third of it on nothing new is stored.
    pub max_bytes: u64,
    /// Bytes after which a file of the store is followed by the next; what is superfluous is let go
    /// of in files, and not before this much was written.
    pub segment_size: u64,
    /// A key (32 bytes, or 64 hex digits) that encrypts the store; `None` stores in the clear.
    pub key_file: Option<InputFile>,
}

/// `[durability] mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurabilityMode {
    /// On disk before it is acknowledged.
    Fsync,
    /// On disk within the interval.
    Interval,
    /// Sessions, retained messages and wills live as long as the process.
    Memory,
}

/// `[audit]`: the tamper-evident record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The directory of the record.
    pub path: PathBuf,
    /// What happens when `max_bytes` are used or the disk is full.
    pub on_full: OnFull,
    /// Space that the record may take, in bytes.
    pub max_bytes: u64,
}

/// `[audit] on-full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// Nobody new is admitted; who is connected is served.
    RefuseNew,
    /// The oldest records go.
    DropOldest,
    /// The broker stops.
    Stop,
}

/// `[admin]`: Prometheus text and health over HTTP, without authentication, hence on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// A loopback address.
    pub bind: SocketAddr,
    /// Where the address stands in the file.
    pub at: Position,
}

/// `[log]`: the program's log on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// The least severe lines that are written.
    pub level: LogLevel,
}

/// `[log] format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object for each line.
    Json,
}

/// `[log] level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What is wrong or weakens the broker, too.
    Warn,
    /// Life-cycle steps, too.
    Info,
    /// What helps to find a fault, too.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word for it, as in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// A file that the configuration names, and the place where it does.
///
/// Two are equal if their paths are: a reload compares what is used, not how it is laid out.
#[derive(Clone, Debug)]
pub struct InputFile {
    /// The path, seen from the working directory.
    pub path: PathBuf,
    /// Where it stands in the configuration.
    pub at: Position,
}

impl PartialEq for InputFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for InputFile {}

impl AsRef<Path> for InputFile {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl From<Placed<PathBuf>> for InputFile {
    fn from(path: Placed<PathBuf>) -> Self {
        Self {
            path: path.value,
            at: path.at,
        }
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is larger than [`MAX_FILE_BYTES`], is not UTF-8 or not TOML,
    /// and every problem that [`Config::parse`] finds.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        let bytes = read(file)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, file),
            Err(error) => {
                let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let text = String::from_utf8_lossy(valid);
                let source = Source::new(file, &text);
                let at = source.position(text.len());
                source.error(at, "the text is not UTF-8", "save the file as UTF-8");
                Err(Problems::new(source.into_problems().0))
            }
        }
    }

    /// Checks the text of a configuration; `file` names it, and paths are relative to its
    /// directory. Reads no file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, as far as it can be told at once: where the text is not TOML,
    /// only that.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Problems> {
        let source = Source::new(file, text);
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            source.error(source.position(at), message, "correct the TOML syntax");
        }
        let config = if errors.is_empty() {
            read_root(Section::root(&source, table.get_ref()))
        } else {
            None
        };
        let (problems, warnings) = source.into_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(Self {
                file: file.to_owned(),
                warnings: Problems::new(warnings).iter().cloned().collect(),
                ..config
            }),
            _ => Err(Problems::new(problems)),
        }
    }

    /// Opens every file that the configuration names.
    ///
    /// # Errors
    ///
    /// One problem for each file that is missing, cannot be read or is no file, at the place where
    /// it is named.
    pub fn check_files(&self) -> Result<(), Problems> {
        let problems: Vec<_> = self
            .input_files()
            .filter_map(|file| {
                let message = unreadable(&file.path)?;
                Some(self.problem(file.at, message, "correct the path or make the file"))
            })
            .chain(self.policy_files().filter_map(|file| {
                // What is in a directory is the loader's to judge.
                let message = (!file.path.is_dir()).then(|| unreadable(&file.path))??;
                Some(self.problem(file.at, message, "correct the path or make the file"))
            }))
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Problems::new(problems))
        }
    }

    /// A warning for each private key that others than its owner and group may read.
    #[must_use]
    pub fn exposed_keys(&self) -> Vec<Problem> {
        const OTHERS: u32 = 0o007;
        let tls = self.listeners.iter().filter_map(Listener::tls);
        let exposed = tls.map(|tls| &tls.key).filter(|key| {
            std::fs::metadata(key).is_ok_and(|metadata| metadata.mode() & OTHERS != 0)
        });
        let problem = |key: &InputFile| {
            let path = key.path.display();
            let message = format!("the private key {path} is open to every user of this machine");
            self.problem(key.at, message, format!("run: chmod 600 {path}"))
        };
        exposed.map(problem).collect()
    }

    /// A problem at a place of this configuration, for those who find out later: a certificate
    /// that has expired, an address that is in use.
    #[must_use]
    pub fn problem(
        &self,
        at: Position,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        Problem {
            file: self.file.clone(),
            at: Some(at),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    fn input_files(&self) -> impl Iterator<Item = &InputFile> {
        let listeners = self.listeners.iter().flat_map(Listener::input_files);
        let model = self.acl.model.iter();
        let key = self.durability.key_file.iter();
        let auth = self.auth.input_files();
        listeners.chain(auth).chain(model).chain(key)
    }

    /// Policies, which may be directories.
    fn policy_files(&self) -> impl Iterator<Item = &InputFile> {
        self.acl.policy.iter().chain(&self.acl.shadow)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    let problem = |message: String, remedy: &str| Problem {
        file: file.to_owned(),
        at: None,
        message,
        remedy: remedy.to_owned(),
    };
    let unreadable = |error: std::io::Error| {
        let remedy = "name a configuration with --config, or make one: portcullis quickstart";
        problem(format!("cannot be read: {error}"), remedy)
    };
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        let message = format!("is larger than {MAX_FILE_BYTES} bytes");
        return Err(problem(message, "name a configuration file"));
    }
    Ok(bytes)
}

/// Why a file cannot be used, or nothing.
fn unreadable(path: &Path) -> Option<String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Err(error) => Some(format!("{shown} cannot be read: {error}")),
        Ok(metadata) if !metadata.is_file() => Some(format!("{shown} is not a file")),
        Ok(_) => File::open(path)
            .err()
            .map(|error| format!("{shown} cannot be read: {error}")),
    }
}

/// Reads every section; `None` only after an error was recorded.
fn read_root(mut root: Section<'_>) -> Option<Config> {
    let source = root.source();
    let data_dir = root.path("data-dir", "data");
    let listeners = root.tables("listener", "[[listener]]");
    if listeners.is_empty() && root.place("listener").is_none() {
        root.missing("[[listener]]", "a section [[listener]] with name and bind");
    }
    let mut auth_section = root.table("auth", "[auth]");
    let auth_at = auth_section.at();
    let auth = identity::read(&mut auth_section);
    auth_section.finish();
    let listeners = listener::read(listeners, &auth, auth_at);
    let acl = read_acl(root.table("acl", "[acl]"));
    let mqtt = limits::read_mqtt(root.table("mqtt", "[mqtt]"));
    let limits = limits::read_limits(root.table("limits", "[limits]"), &mqtt);
    let durability = read_durability(root.table("durability", "[durability]"));
    let audit = read_audit(root.table("audit", "[audit]"));
    let admin = read_admin(root.table("admin", "[admin]"));
    let log = read_log(root.table("log", "[log]"));
    read_reload(root.table("reload", "[reload]"));
    root.finish();
    Some(Config {
        file: PathBuf::new(),
        data_dir: data_dir.map_or_else(|| source.resolve("data"), |path| path.value),
        listeners,
        auth,
        acl: acl?,
        mqtt,
        limits,
        durability,
        audit,
        admin,
        log,
        warnings: Vec::new(),
    })
}

fn read_acl(mut section: Section<'_>) -> Option<Acl> {
    const EXAMPLE: &str = "policies/policy.csv";
    let model = section.file("model", "policies/model.conf");
    let policy = section.files("policy", EXAMPLE);
    match &policy {
        None if section.place("policy").is_none() => {
            let add = format!("policy = [{EXAMPLE:?}]: without a policy nobody may do anything");
            section.missing("policy", add);
        }
        Some(files) if files.is_empty() => section.source().error(
            section.place("policy").unwrap_or(section.at()),
            "policy in [acl] names no file",
            format_args!("write policy = [{EXAMPLE:?}]: without a policy nobody may do anything"),
        ),
        None | Some(_) => (),
    }
    let shadow = section.files("shadow", "policies/candidate.csv");
    if shadow.as_ref().is_some_and(Vec::is_empty) {
        section.source().error(
            section.place("shadow").unwrap_or(section.at()),
            "shadow in [acl] names no file",
            "leave it out, or write shadow = [\"policies/candidate.csv\"]",
        );
    }
    // Asked only where it is there: the default has no meaning.
    let rollback = section.place("rollback-denials").is_some();
    let rollback_denials = section.rate("rollback-denials", Rate::per_minute(100));
    let acl = Acl {
        model,
        policy: policy.unwrap_or_default(),
        shadow: shadow.unwrap_or_default(),
        rollback_denials: rollback.then_some(rollback_denials),
        subscribe: section.choice(
            "subscribe",
            &[
                ("reject", PartialCover::Reject),
                ("narrow", PartialCover::Narrow),
            ],
            PartialCover::Reject,
        ),
        denied_publish: section.choice(
            "denied-publish",
            &[
                ("acknowledge", DeniedPublish::Acknowledge),
                ("disconnect", DeniedPublish::Disconnect),
            ],
            DeniedPublish::Acknowledge,
        ),
        on_revoke: section.choice(
            "on-revoke",
            &[
                ("suspend", OnRevoke::Suspend),
                ("disconnect", OnRevoke::Disconnect),
            ],
            OnRevoke::Suspend,
        ),
        check_response_topic: section.flag("check-response-topic", true).value,
    };
    section.finish();
    (!acl.policy.is_empty()).then_some(acl)
}

fn read_durability(mut section: Section<'_>) -> Durability {
    let mode = section.choice(
        "mode",
        &[
            ("fsync", DurabilityMode::Fsync),
            ("interval", DurabilityMode::Interval),
            ("memory", DurabilityMode::Memory),
        ],
        DurabilityMode::Fsync,
    );
    let interval = section.duration(
        "interval",
        Duration::from_millis(100),
        (Duration::from_millis(1), Duration::from_mins(1)),
    );
    let max_bytes = section.size("max-bytes", 8 << 30, MAX_BYTES);
    let segment_size = section.size_between("segment-size", 64 << 20, (64 << 10, 1 << 30));
    let key_file = section.file("key-file", "data/store.key");
    section.finish();
    Durability {
        mode,
        interval,
        max_bytes,
        segment_size,
        key_file,
    }
}

fn read_audit(mut section: Section<'_>) -> Audit {
    const MAX: u64 = 1 << 30;
    let path = section.path("path", "audit");
    let audit = Audit {
        path: path.map_or_else(|| section.source().resolve("audit"), |path| path.value),
        on_full: section.choice(
            "on-full",
            &[
                ("refuse-new", OnFull::RefuseNew),
                ("drop-oldest", OnFull::DropOldest),
                ("stop", OnFull::Stop),
            ],
            OnFull::RefuseNew,
        ),
        max_bytes: section.size("max-bytes", MAX, MAX_BYTES),
    };
    section.finish();
    audit
}

fn read_admin(mut section: Section<'_>) -> Option<Admin> {
    const EXAMPLE: &str = "127.0.0.1:9443";
    let bind = if section.is_present() {
        section.required("bind", EXAMPLE)
    } else {
        None
    };
    let source = section.source();
    section.finish();
    let bind = bind?;
    let Ok(address) = bind.value.parse::<SocketAddr>() else {
        source.error(
            bind.at,
            format_args!("bind in [admin] is {:?}", bind.value),
            format_args!("write an IP address and a port, such as {EXAMPLE:?}"),
        );
        return None;
    };
    if !is_loopback(address) {
        source.unsupported(
            bind.at,
            format_args!(
                "bind = {:?} in [admin], off loopback without mutual TLS or a token,",
                bind.value
            ),
            format_args!("write a loopback address, such as {EXAMPLE:?}"),
        );
    }
    Some(Admin {
        bind: address,
        at: bind.at,
    })
}

fn read_log(mut section: Section<'_>) -> Log {
    let log = Log {
        format: section.choice(
            "format",
            &[("human", LogFormat::Human), ("json", LogFormat::Json)],
            LogFormat::Human,
        ),
        level: section.choice(
            "level",
            &[
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
                ("trace", LogLevel::Trace),
            ],
            LogLevel::Info,
        ),
    };
    section.finish();
    log
}

fn read_reload(mut section: Section<'_>) {
    let watch = section.flag("watch", false);
    if watch.value {
        let remedy = "leave it out and send SIGHUP after a change";
        let source = section.source();
        source.unsupported(watch.at, "watch = true in [reload]", remedy);
    }
    section.finish();
}

/// Whether only this machine can reach the address.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
