//! The command line: words in, checked arguments out. What the commands do lives elsewhere.
//!
//! Exit codes: 0 success, 1 refused or failed, 2 usage (DESIGN, section 5). Usage errors end the
//! process in [`Cli::parse`]; everything else is an [`Exit`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_acl::tools::payload_size;
use portcullis_core::wire::QoS;

use crate::config::{LogFormat, LogLevel, units};
use crate::quickstart;

/// How a command ends, short of a usage error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for was done, or the answer is yes.
    Success,
    /// It was not, or the answer is no.
    Failed,
}

impl Exit {
    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    about = "A security-hardened MQTT broker and policy framework"
)]
pub struct Cli {
    /// Log for people or for machines, whatever the configuration says.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Log lines of this severity and above, whatever the configuration says.
    #[arg(long, global = true, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a locked-down set-up in DIR and run it; prints commands to paste.
    Quickstart(Quickstart),
    /// Run the broker.
    Run(ConfigArg),
    /// Validate configuration, certificates, keys and policies; exit 0 or 1.
    Check(ConfigArg),
    /// Ask policies: why, do they hold, what differs, what smells.
    #[command(subcommand)]
    Policy(Policy),
    /// Prove, search and convert the audit record.
    #[command(subcommand)]
    Audit(Audit),
    /// Show how a running broker is doing.
    Status(Broker),
    /// List, show and disconnect the clients of a running broker.
    #[command(subcommand)]
    Client(Client),
    /// Disconnect a client of a running broker; it may come back.
    Kick(Kick),
    /// Keep clients out of a running broker for a time.
    #[command(subcommand)]
    Ban(Ban),
    /// List and drop the sessions of a running broker.
    #[command(subcommand)]
    Session(Session),
    /// Look at what durability has written, or make it open again; no broker may be running.
    #[command(subcommand)]
    Store(Store),
    /// Set a password: from the terminal, or the first line of standard input.
    Passwd(Passwd),
    /// A starter CA, certificates and CRLs: for a first set-up and for tests.
    #[command(subcommand)]
    Pki(Pki),
    /// Tokens of a starter issuer: for tests.
    #[command(subcommand)]
    Token(Token),
}

/// `quickstart`.
#[derive(Debug, Args)]
pub struct Quickstart {
    /// Where the set-up goes; what is there is kept.
    #[arg(value_name = "DIR", default_value = quickstart::DIRECTORY)]
    pub directory: PathBuf,
    /// Where it listens: an IP address, with or without a port [default: 127.0.0.1:8883].
    #[arg(long, value_name = "ADDR", value_parser = parse_bind)]
    pub bind: Option<SocketAddr>,
}

/// The configuration to work with.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "portcullis.toml")]
    pub config: PathBuf,
}

/// How to find a running broker.
#[derive(Debug, Args)]
pub struct Broker {
    /// Its configuration file.
    #[arg(long, value_name = "FILE", default_value = "portcullis.toml")]
    pub config: PathBuf,
    /// Its administration socket, in place of the one in the configuration's data-dir.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
}

/// `policy`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Why may somebody do something, or not? Exit 0 if it may, 1 if not.
    Explain(Explain),
    /// Run the unit tests beside policies.
    Test(PolicyTest),
    /// Who gains or loses what from one policy to another?
    Diff(PolicyDiff),
    /// Point out lines that cannot be meant.
    Lint(ConfigArg),
    /// Show what the candidate policy of a running broker would have answered differently.
    Shadow(Broker),
    /// Put the candidate policy in force until the next reload; no file is changed.
    Promote(Broker),
    /// Draft a policy from the audit record, for review.
    Learn(Learn),
}

/// `policy learn`.
#[derive(Debug, Args)]
pub struct Learn {
    /// The configuration whose record it is.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Not before this time: RFC 3339 in UTC, or its beginning.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, likewise.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// `policy explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The configuration whose policy is asked.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Who: cert:NAME, jwt:NAME, user:NAME, anonymous or system:NAME.
    #[arg(long, value_name = "P")]
    pub principal: String,
    /// A role that its token gives it; may be repeated.
    #[arg(long = "role", value_name = "R")]
    pub roles: Vec<String>,
    /// Its client id [default: NAME].
    #[arg(long, value_name = "C")]
    pub client_id: Option<String>,
    /// The listener that it uses [default: the first of the configuration].
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// A claim of its token; may be repeated.
    #[arg(long = "claim", value_name = "PATH=VALUE", value_parser = parse_pair)]
    pub claims: Vec<(String, String)>,
    /// Its certificate, for the placeholders that name one of its fields.
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Where it comes from, for conditions.
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// When, for conditions: RFC 3339 [default: now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub at: Option<SystemTime>,
    /// Quality of service of the message, or the one that a subscription asks for, for conditions.
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse_qos)]
    pub qos: QoS,
    /// The size of the message's payload, for conditions: "64 KiB".
    #[arg(long, value_name = "SIZE", default_value = "0 B", value_parser = payload_size)]
    pub payload: u32,
    /// What it does.
    #[arg(value_enum)]
    pub action: Action,
    /// The topic; for subscribe a filter, for share a group.
    pub topic: String,
}

/// An action of the policy language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Send a message.
    Publish,
    /// Have a message retained.
    Retain,
    /// Leave a will.
    Will,
    /// Subscribe.
    Subscribe,
    /// Join a group of shared subscriptions.
    Share,
}

/// `policy test`.
#[derive(Debug, Args)]
pub struct PolicyTest {
    /// Files with expectations, TOML.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Also write the results as XML that CI servers read.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// `policy diff`.
#[derive(Debug, Args)]
pub struct PolicyDiff {
    /// The policy as it is: a CSV file, a directory of them, or a configuration (*.toml).
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The policy as it would be, likewise.
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// Ask the running broker for its principals, and say who of them gains or loses what now.
    #[arg(long)]
    pub live: bool,
    /// The broker that is asked.
    #[command(flatten)]
    pub broker: Broker,
}

/// `audit`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Prove that no record was changed, added or taken away; exit 0 or 1.
    Verify(AuditVerify),
    /// Print the records that fit.
    Query(AuditQuery),
    /// Convert the records that fit.
    Export(AuditExport),
}

/// `audit verify`.
#[derive(Debug, Args)]
pub struct AuditVerify {
    /// The configuration whose record it is.
    #[command(flatten)]
    pub config: ConfigArg,
    /// A copy of the record's public key that was kept elsewhere.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// `audit query`.
#[derive(Debug, Args)]
pub struct AuditQuery {
    /// The configuration whose record it is.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Which records.
    #[command(flatten)]
    pub filter: AuditFilter,
}

/// `audit export`.
#[derive(Debug, Args)]
pub struct AuditExport {
    /// The configuration whose record it is.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Which records.
    #[command(flatten)]
    pub filter: AuditFilter,
    /// The form.
    #[arg(long, value_enum, default_value = "jsonl")]
    pub format: ExportFormat,
}

/// Which records; every condition that is given must hold.
#[derive(Debug, Args)]
pub struct AuditFilter {
    /// Not before this time: RFC 3339 in UTC, or its beginning.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, likewise.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Of exactly this principal.
    #[arg(long, value_name = "P")]
    pub principal: Option<String>,
    /// Of exactly this client id.
    #[arg(long, value_name = "C")]
    pub client_id: Option<String>,
    /// Exactly this event.
    #[arg(long, value_name = "EVENT")]
    pub event: Option<String>,
    /// About topics that this filter matches.
    #[arg(long, value_name = "FILTER")]
    pub topic: Option<String>,
}

/// The form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The lines as they are: they can be verified again.
    Jsonl,
    /// A table for spreadsheets (RFC 4180).
    Csv,
}

/// `client`.
#[derive(Debug, Subcommand)]
pub enum Client {
    /// List the clients that are connected.
    List(Broker),
    /// Show one of them.
    Show(Kick),
    /// Disconnect one of them; it may come back.
    Kick(Kick),
}

/// A client of a running broker.
#[derive(Debug, Args)]
pub struct Kick {
    /// Its client id.
    #[arg(value_name = "ID")]
    pub client_id: String,
    /// The broker.
    #[command(flatten)]
    pub broker: Broker,
}

/// `ban`.
#[derive(Debug, Subcommand)]
pub enum Ban {
    /// Keep somebody out; who is connected is disconnected.
    Add(BanAdd),
    /// List who is kept out, and until when.
    List(Broker),
    /// Let somebody in again.
    Remove(BanRemove),
}

/// `ban add`.
#[derive(Debug, Args)]
pub struct BanAdd {
    /// Who.
    #[command(flatten)]
    pub target: BanTarget,
    /// How long; a ban always ends.
    #[arg(long = "for", value_name = "DURATION", default_value = "1 h", value_parser = parse_duration)]
    pub duration: Duration,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The broker.
    #[command(flatten)]
    pub broker: Broker,
}

/// `ban remove`.
#[derive(Debug, Args)]
pub struct BanRemove {
    /// Who.
    #[command(flatten)]
    pub target: BanTarget,
    /// The broker.
    #[command(flatten)]
    pub broker: Broker,
}

/// Whom a ban is about: exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct BanTarget {
    /// A principal: cert:NAME, jwt:NAME, user:NAME or anonymous.
    #[arg(long, value_name = "P")]
    pub principal: Option<String>,
    /// A client id.
    #[arg(long, value_name = "C")]
    pub client_id: Option<String>,
    /// An address; an IPv6 address stands for its /64.
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
}

/// `session`.
#[derive(Debug, Subcommand)]
pub enum Session {
    /// List the sessions, offline ones included.
    List(Broker),
    /// End a session and free its client id.
    Drop(Kick),
}

/// `store`.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Read all of it and change nothing; exit 0 if it is sound, 1 if not.
    Check(ConfigArg),
    /// Keep what can be read of damaged files, and the files beside it; says what is lost.
    Repair(ConfigArg),
    /// Go back to the system's clock, where the store was written in the future; what has expired
    /// stays expired.
    CorrectClock(ConfigArg),
}

/// `passwd`.
#[derive(Debug, Args)]
pub struct Passwd {
    /// The password file; made if it is not there.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The user.
    #[arg(value_name = "USER", required_unless_present = "list")]
    pub user: Option<String>,
    /// Remove the user.
    #[arg(long, conflicts_with = "list")]
    pub delete: bool,
    /// List the users.
    #[arg(long, conflicts_with = "user")]
    pub list: bool,
}

/// `pki`.
#[derive(Debug, Subcommand)]
pub enum Pki {
    /// Make a CA in DIR.
    Init(PkiDirectory),
    /// Make a server certificate, for this machine's names and those given.
    Server(PkiServer),
    /// Make a client certificate.
    Client(PkiClient),
    /// Revoke a client's certificate and make a new ca.crl.
    Revoke(PkiClient),
    /// Make a new ca.crl; it counts for a month.
    Crl(PkiDirectory),
    /// Show whom a certificate names and until when it counts.
    Show(PkiShow),
}

/// `token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token, signed with a key in DIR that is made if it is not there; prints it.
    Issue(TokenIssue),
    /// Show what a token says. Nothing is verified.
    Inspect(TokenInspect),
}

/// `token issue`.
#[derive(Debug, Args)]
pub struct TokenIssue {
    /// The directory with issuer.key and issuer.pub.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Whom it names: the claim sub.
    #[arg(value_name = "NAME")]
    pub subject: String,
    /// The claim iss.
    #[arg(long, value_name = "ISS", default_value = "https://issuer.invalid")]
    pub issuer: String,
    /// The claim aud.
    #[arg(long, value_name = "AUD", default_value = "portcullis")]
    pub audience: String,
    /// The claim jti, which tells this token from others (RFC 7519, section 4.1.7); left out: random.
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub jti: Option<String>,
    /// A role; may be repeated.
    #[arg(long = "role", value_name = "R")]
    pub roles: Vec<String>,
    /// A further claim, a string; may be repeated.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub claims: Vec<(String, String)>,
    /// How long it counts.
    #[arg(long = "for", value_name = "DURATION", default_value = "1 h", value_parser = parse_duration)]
    pub lifetime: Duration,
}

/// `token inspect`.
#[derive(Debug, Args)]
pub struct TokenInspect {
    /// A file with a token; left out: the first line of standard input.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Where a starter PKI is.
#[derive(Debug, Args)]
pub struct PkiDirectory {
    /// The directory with ca.pem and ca.key.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// `pki server`.
#[derive(Debug, Args)]
pub struct PkiServer {
    /// Where.
    #[command(flatten)]
    pub pki: PkiDirectory,
    /// More host names and IP addresses of the server.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `pki client`.
#[derive(Debug, Args)]
pub struct PkiClient {
    /// Where.
    #[command(flatten)]
    pub pki: PkiDirectory,
    /// The client's name, which becomes the common name.
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `pki show`.
#[derive(Debug, Args)]
pub struct PkiShow {
    /// A certificate, PEM.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// An IP address with or without a port.
fn parse_bind(text: &str) -> Result<SocketAddr, String> {
    let port = quickstart::BIND.port();
    let address = text.parse();
    address
        .or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, port)))
        .map_err(|_| "write an IP address, with a port or without: 0.0.0.0:8883".to_owned())
}

/// A duration with its unit, as in the configuration; not zero.
fn parse_duration(text: &str) -> Result<Duration, String> {
    units::duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| {
            "write a duration with its unit (ms, s, min, h or d), such as 10min".to_owned()
        })
}

fn parse_time(text: &str) -> Result<SystemTime, String> {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map(Into::into)
        .map_err(|_| "write an instant with its zone, such as 2026-12-01T06:00:00Z".to_owned())
}

fn parse_qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("write 0, 1 or 2".to_owned()),
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("write PATH=VALUE")?;
    Ok((path.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("portcullis").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_command_is_understood() {
        for line in [
            "quickstart",
            "quickstart demo --bind 0.0.0.0:8883",
            "quickstart --bind ::1",
            "run --config p.toml",
            "run --config p.toml --log-format json --log-level debug",
            "--log-level warn run",
            "check --config p.toml",
            "policy explain --config p.toml --principal cert:a publish a/b",
            "policy explain --principal jwt:a --role r --role s --client-id c --claim a.b=c=d --cert f subscribe a/#",
            "policy test a.toml b.toml --junit out.xml",
            "policy diff old.csv new.csv",
            "policy lint --config p.toml",
            "policy explain --principal cert:a --address 10.1.2.3 --at 2026-12-01T06:00:00Z publish a",
            "policy shadow --config p.toml",
            "policy promote --config p.toml",
            "policy learn --config p.toml --since 2026-11-24",
            "audit verify --config p.toml",
            "audit query --config p.toml --principal cert:a --since 2026-11-24",
            "audit export --config p.toml --format csv",
            "status --config p.toml",
            "status --socket s",
            "client list --config p.toml",
            "client show c --config p.toml",
            "client kick c --config p.toml",
            "kick c --config p.toml",
            "ban add --principal cert:a --for 10min --reason x --config p.toml",
            "ban add --client-id c",
            "ban add --address 192.0.2.1 --for 1d",
            "ban list --config p.toml",
            "ban remove --address 2001:db8::1",
            "session list --config p.toml",
            "session drop c --config p.toml",
            "store check --config p.toml",
            "store repair --config p.toml",
            "store correct-clock --config p.toml",
            "passwd users.passwd anna",
            "passwd users.passwd anna --delete",
            "passwd users.passwd --list",
            "pki init pki",
            "pki server pki broker.example 192.0.2.1",
            "pki client pki device-7",
            "pki show pki/ca.pem",
            "pki revoke pki device-7",
            "pki crl pki",
            "token issue tokens anna --issuer https://id --role nurse --claim tenant=acme --for 5min",
            "token inspect anna.jwt",
            "token inspect",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_a_usage_error() {
        for line in [
            "",
            "walk",
            "run --confg p.toml",
            "quickstart --bind localhost",
            "policy explain --principal cert:a fly a/b",
            "policy explain publish a/b",
            "policy explain --principal a --claim x publish a/b",
            "policy test",
            "ban add",
            "ban add --principal cert:a --client-id c",
            "ban add --principal cert:a --for 10",
            "ban add --principal cert:a --for 0s",
            "ban add --address somewhere",
            "session drop",
            "store",
            "status --socket s --config p.toml",
            "passwd users.passwd",
            "passwd users.passwd anna --list",
            "passwd users.passwd --delete",
            "--log-level loud run",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert_eq!(parse("--help").unwrap_err().exit_code(), 0);
        assert_eq!(parse("--version").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let Command::Quickstart(quickstart) = parse("quickstart").unwrap().command else {
            panic!("not quickstart");
        };
        assert_eq!(quickstart.directory, Path::new("portcullis-demo"));
        assert_eq!(quickstart.bind, None);
        let Command::Quickstart(quickstart) = parse("quickstart --bind ::1").unwrap().command
        else {
            panic!("not quickstart");
        };
        assert_eq!(quickstart.bind, Some("[::1]:8883".parse().unwrap()));
        let Command::Run(run) = parse("run").unwrap().command else {
            panic!("not run");
        };
        assert_eq!(run.config, Path::new("portcullis.toml"));
        let Command::Ban(Ban::Add(ban)) = parse("ban add --client-id c").unwrap().command else {
            panic!("not ban add");
        };
        assert_eq!(ban.duration, Duration::from_hours(1));
    }
}
