//! The commands that talk to a running broker: status, client, kick, ban, session.

use std::path::PathBuf;

use portcullis_acl::tools::Who;

use crate::cli::{self, Exit};
use crate::config::Config;
use crate::console;
use crate::control::{self, Answer, BanTarget, Request, SessionInfo};
use crate::say;

/// Asks the broker and prints what it says; a text for standard error where it fails.
///
/// # Errors
///
/// What was asked for was not done, and why.
pub fn run(broker: &cli::Broker, request: &Request) -> Result<Exit, String> {
    match ask(broker, request)? {
        Answer::Status { values } => {
            for (name, value) in values {
                say!("{name:<24} {value}");
            }
        }
        Answer::Sessions { sessions } => match (request, sessions.as_slice()) {
            (Request::Session { .. }, [session]) => show(session),
            _ => list(&sessions),
        },
        Answer::Identities { identities } => {
            for who in identities {
                say!("{}", who.principal.escape_debug());
            }
        }
        Answer::Bans { bans } => {
            say!("{:<48} {:>12}  REASON", "TARGET", "SECONDS LEFT");
            for ban in bans {
                say!(
                    "{:<48} {:>12}  {:?}",
                    ban.target,
                    ban.seconds_left,
                    ban.reason
                );
            }
        }
        Answer::Shadow(report) => console::print(format_args!("{report}")),
        Answer::Done { message } => say!("{message}"),
        Answer::Failed { message } => return Err(message),
    }
    Ok(Exit::Success)
}

/// Who has a session of a running broker.
///
/// # Errors
///
/// No broker answers, or it says why not.
pub fn identities(broker: &cli::Broker) -> Result<Vec<Who>, String> {
    match ask(broker, &Request::Identities)? {
        Answer::Identities { identities } => Ok(identities.into_iter().map(Who::from).collect()),
        Answer::Failed { message } => Err(message),
        Answer::Status { .. }
        | Answer::Sessions { .. }
        | Answer::Bans { .. }
        | Answer::Shadow(_)
        | Answer::Done { .. } => Err("the broker answers another question".to_owned()),
    }
}

fn ask(broker: &cli::Broker, request: &Request) -> Result<Answer, String> {
    let socket = socket(broker)?;
    control::ask(&socket, request).map_err(|error| {
        format!(
            "no broker answers at {}: {error}; is it running, and are you its user?",
            socket.display()
        )
    })
}

fn socket(broker: &cli::Broker) -> Result<PathBuf, String> {
    if let Some(socket) = &broker.socket {
        return Ok(socket.clone());
    }
    let config = Config::load(&broker.config).map_err(|problems| problems.to_string())?;
    Ok(control::socket_path(&config.data_dir))
}

fn list(sessions: &[SessionInfo]) {
    say!(
        "{:<32} {:<32} {:<9} {:<24} {:>5} {:>7}",
        "CLIENT ID",
        "PRINCIPAL",
        "CONNECTED",
        "PEER",
        "SUBS",
        "QUEUED"
    );
    for session in sessions {
        // Names come from clients: escaped.
        say!(
            "{:<32} {:<32} {:<9} {:<24} {:>5} {:>7}",
            session.client_id.escape_debug().to_string(),
            session.principal.escape_debug().to_string(),
            if session.connected { "yes" } else { "no" },
            session.peer.as_deref().unwrap_or("-"),
            session.subscriptions,
            session.queued,
        );
    }
}

fn show(session: &SessionInfo) {
    let text = |text: &str| text.escape_debug().to_string();
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for (name, value) in [
        ("client-id", text(&session.client_id)),
        ("principal", text(&session.principal)),
        ("roles", text(&session.roles.join(" "))),
        ("listener", text(&session.listener)),
        ("connected", session.connected.to_string()),
        ("peer", optional(session.peer.clone())),
        ("protocol", optional(session.version.clone())),
        (
            "connected-seconds",
            optional(session.seconds.map(|n| n.to_string())),
        ),
        ("session-expiry-seconds", session.expiry.to_string()),
        ("queued", session.queued.to_string()),
        ("in-flight", session.in_flight.to_string()),
        ("subscriptions", session.subscriptions.to_string()),
    ] {
        say!("{name:<24} {value}");
    }
    for (filter, qos, suspended) in &session.filters {
        let mark = if *suspended { "  suspended" } else { "" };
        say!("  {}  qos {qos}{mark}", text(filter));
    }
}

/// The request of a `ban` command.
#[must_use]
pub fn ban(ban: &cli::Ban) -> (&cli::Broker, Request) {
    match ban {
        cli::Ban::Add(add) => (
            &add.broker,
            Request::Ban {
                target: target(&add.target),
                millis: u64::try_from(add.duration.as_millis()).unwrap_or(u64::MAX),
                reason: add.reason.clone().unwrap_or_default(),
            },
        ),
        cli::Ban::List(broker) => (broker, Request::Bans),
        cli::Ban::Remove(remove) => (
            &remove.broker,
            Request::Unban {
                target: target(&remove.target),
            },
        ),
    }
}

fn target(target: &cli::BanTarget) -> BanTarget {
    match (&target.principal, &target.client_id, target.address) {
        (Some(principal), _, _) => BanTarget::Principal(principal.clone()),
        (None, Some(id), _) => BanTarget::ClientId(id.clone()),
        (None, None, Some(address)) => BanTarget::Address(address),
        // The command line demands one of them.
        (None, None, None) => BanTarget::ClientId(String::new()),
    }
}
