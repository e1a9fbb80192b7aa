//! Commands that answer questions without a running broker: check, policy, audit, pki.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use portcullis_acl::tools::{self, Circumstances, Who, explain, lint};
use portcullis_acl::{Act, Policy, Sources};
use portcullis_audit::{self as audit, Filter, Format, PublicKey, Status};

use crate::cli::{self, Exit};
use crate::config::Config;
use crate::console;
use crate::control::Request;
use crate::pki::{self, Made, Pki};
use crate::say;
use crate::{learn, operate, wiring};

type Outcome = Result<Exit, String>;

fn joined<T: ToString>(errors: &[T]) -> String {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn config(argument: &cli::ConfigArg) -> Result<Config, String> {
    Config::load(&argument.config).map_err(|problems| problems.to_string())
}

/// `check`: everything that `run` would read, and nothing else.
///
/// # Errors
///
/// Everything that is wrong.
pub fn check(argument: &cli::ConfigArg) -> Outcome {
    let config = config(argument)?;
    let loaded = wiring::load(&config, SystemTime::now()).map_err(|errors| joined(&errors))?;
    for warning in &loaded.warnings {
        say!("warning: {warning}");
    }
    match wiring::raise_file_limit(&config) {
        Ok(fits) => say!("open files leave room for {fits} connections"),
        Err(warning) => say!("warning: {warning}"),
    }
    match wiring::memory_budget(&config) {
        Ok(budget) => say!("{budget}"),
        Err(warning) => say!("warning: {warning}"),
    }
    let counts = loaded.policy.counts();
    say!(
        "policy {}: {} rules, {} role lines, {} subjects",
        loaded.policy.hash(),
        counts.rules,
        counts.links,
        counts.subjects
    );
    say!("{}: ok", argument.config.display());
    Ok(Exit::Success)
}

/// `policy`.
///
/// # Errors
///
/// The question cannot be answered, and why.
pub fn policy(command: &cli::Policy) -> Outcome {
    match command {
        cli::Policy::Explain(question) => explain_policy(question),
        cli::Policy::Test(test) => test_policies(test),
        cli::Policy::Diff(diff) => {
            let (old, new) = (any_policy(&diff.old)?, any_policy(&diff.new)?);
            let changes = if diff.live {
                let clients = operate::identities(&diff.broker)?;
                let clients: Result<Vec<_>, _> = clients.iter().map(Who::snapshot).collect();
                tools::diff_live(&old, &new, &clients?, SystemTime::now())
            } else {
                tools::diff(&old, &new)
            };
            for change in &changes {
                say!("{change}");
            }
            if changes.is_empty() {
                say!("nobody gains or loses anything");
            }
            Ok(Exit::Success)
        }
        cli::Policy::Lint(argument) => {
            let config = config(argument)?;
            let loaded = wiring::read_policy(&config)
                .and_then(|sources| Policy::load(&sources))
                .map_err(|errors| joined(&errors))?;
            let warnings = lint(&loaded);
            for warning in &warnings {
                say!("{warning}");
            }
            if warnings.is_empty() {
                say!("nothing to point out");
                return Ok(Exit::Success);
            }
            Ok(Exit::Failed)
        }
        cli::Policy::Shadow(broker) => operate::run(broker, &Request::Shadow),
        cli::Policy::Promote(broker) => operate::run(broker, &Request::Promote),
        cli::Policy::Learn(arguments) => learn::run(arguments),
    }
}

/// A policy from CSV files (one, or a directory) or from the configuration that names it.
fn any_policy(path: &Path) -> Result<Policy, String> {
    let sources = if path.extension().is_some_and(|ending| ending == "toml") {
        let config = Config::load(path).map_err(|problems| problems.to_string())?;
        wiring::read_policy(&config)
    } else {
        Sources::read(None, &[path.to_owned()])
    };
    sources
        .and_then(|sources| Policy::load(&sources))
        .map(|loaded| loaded.policy)
        .map_err(|errors| joined(&errors))
}

fn explain_policy(question: &cli::Explain) -> Outcome {
    let config = config(&question.config)?;
    let (policy, _) = wiring::load_policy(&config).map_err(|errors| joined(&errors))?;
    let mut attributes: BTreeMap<String, String> = question
        .claims
        .iter()
        .map(|(path, value)| (format!("claim.{path}"), value.clone()))
        .collect();
    if let Some(path) = &question.cert {
        let fields =
            portcullis_auth::certificate_attributes(path).map_err(|error| error.to_string())?;
        attributes.extend(
            fields
                .into_iter()
                .map(|(key, value)| (key.into(), value.into())),
        );
    }
    let (source, name) = wiring::own_name(&config, &question.principal);
    attributes.insert("name".to_owned(), name.to_owned());
    if let (Some(ca), true) = (source, question.principal.starts_with("cert:")) {
        attributes.insert("cert.ca".to_owned(), ca.to_owned());
    }
    let who = Who {
        principal: question.principal.clone(),
        roles: question.roles.clone(),
        // By the rule client-id = "name" a client may always use its own name.
        client_id: question
            .client_id
            .clone()
            .unwrap_or_else(|| name.to_owned()),
        listener: question.listener.clone().unwrap_or_else(|| {
            config
                .listeners
                .first()
                .map(|listener| listener.name.clone())
                .unwrap_or_default()
        }),
        attributes,
        address: question.address,
    };
    let act = match question.action {
        cli::Action::Publish => Act::Publish,
        cli::Action::Retain => Act::Retain,
        cli::Action::Will => Act::Will,
        cli::Action::Subscribe => Act::Subscribe,
        cli::Action::Share => Act::Share,
    };
    if !config
        .listeners
        .iter()
        .any(|known| known.name == who.listener)
    {
        let names: Vec<&str> = config.listeners.iter().map(|known| &*known.name).collect();
        return Err(format!(
            "--listener {:?} is none of the configuration's: {}",
            who.listener,
            names.join(", ")
        ));
    }
    let snapshot = who.snapshot()?;
    let (lessons, _) = wiring::lessons(&config, SystemTime::now())?;
    let answer = explain(
        &policy,
        &snapshot,
        Circumstances {
            at: Some(question.at.unwrap_or_else(SystemTime::now)),
            qos: question.qos,
            payload: question.payload,
            lessons: &lessons,
        },
        act,
        &question.topic,
    )?;
    console::print(format_args!("{answer}"));
    Ok(if answer.allowed {
        Exit::Success
    } else {
        Exit::Failed
    })
}

fn test_policies(test: &cli::PolicyTest) -> Outcome {
    let reports: Vec<_> = test
        .files
        .iter()
        .map(|file| tools::expect::run(file))
        .collect();
    for report in &reports {
        console::print(format_args!("{report}"));
    }
    if let Some(path) = &test.junit {
        std::fs::write(path, tools::junit(&reports))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(if reports.iter().all(tools::Report::passed) {
        Exit::Success
    } else {
        Exit::Failed
    })
}

/// `audit`.
///
/// # Errors
///
/// The record cannot be read, and why.
pub fn audit(command: &cli::Audit) -> Outcome {
    match command {
        cli::Audit::Verify(verify) => verify_record(verify),
        cli::Audit::Query(query) => {
            let dir = config(&query.config)?.audit.path;
            let stdout = std::io::stdout().lock();
            audit::export(&dir, filter(&query.filter), Format::Jsonl, stdout)
                .map_err(|error| error.to_string())?;
            Ok(Exit::Success)
        }
        cli::Audit::Export(export) => {
            let dir = config(&export.config)?.audit.path;
            let format = match export.format {
                cli::ExportFormat::Jsonl => Format::Jsonl,
                cli::ExportFormat::Csv => Format::Csv,
            };
            let stdout = std::io::stdout().lock();
            audit::export(&dir, filter(&export.filter), format, stdout)
                .map_err(|error| error.to_string())?;
            Ok(Exit::Success)
        }
    }
}

fn filter(from: &cli::AuditFilter) -> Filter {
    Filter {
        since: from.since.clone(),
        until: from.until.clone(),
        principal: from.principal.clone(),
        client_id: from.client_id.clone(),
        event: from.event.clone(),
        topic: from.topic.clone(),
    }
}

fn verify_record(verify: &cli::AuditVerify) -> Outcome {
    let dir = config(&verify.config)?.audit.path;
    let report = match &verify.key {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            let key = PublicKey::from_pem(&text)
                .ok_or_else(|| format!("{}: not an Ed25519 public key", path.display()))?;
            audit::verify_with(&dir, &key)
        }
        None => audit::verify(&dir),
    }
    .map_err(|error| error.to_string())?;
    say!(
        "{} records ({} to {}) in {} files, {} after the signed head",
        report.records,
        report.first,
        report.last,
        report.files,
        report.after_head
    );
    if report.status != Status::Broken && report.first > 1 {
        say!(
            "records 1 to {} were dropped (on-full = \"drop-oldest\"): the signed head says so",
            report.first - 1
        );
    }
    if let (Some(time), Some(key)) = (&report.head_time, &report.key) {
        say!("head of {time}, key {key}");
    }
    match (report.status, &report.fault) {
        (Status::Ok, _) => say!("ok"),
        (Status::Open, _) => say!("open: the last line is incomplete"),
        (Status::Broken, Some(fault)) => return Err(format!("broken: {fault}")),
        (Status::Broken, None) => return Err("broken".to_owned()),
    }
    Ok(Exit::Success)
}

/// `pki`.
///
/// # Errors
///
/// Nothing was made, and why.
pub fn pki(command: &cli::Pki) -> Outcome {
    let open = |directory: &PathBuf| Pki::open(directory, SystemTime::now());
    let failed = |error: pki::Error| error.to_string();
    let said = |made, path: PathBuf| match made {
        Made::New => say!("made {}", path.display()),
        Made::Kept => say!("kept {}, which was there", path.display()),
    };
    match command {
        cli::Pki::Init(init) => {
            let pki = open(&init.directory).map_err(failed)?;
            said(pki.ca().map_err(failed)?, pki.certificate_path("ca"));
        }
        cli::Pki::Server(server) => {
            let pki = open(&server.pki.directory).map_err(failed)?;
            pki.ca().map_err(failed)?;
            let mut names = pki::server_names(std::net::Ipv4Addr::LOCALHOST.into());
            names.extend(server.names.iter().cloned());
            said(
                pki.server(&names).map_err(failed)?,
                pki.certificate_path("server"),
            );
        }
        cli::Pki::Client(client) => {
            let pki = open(&client.pki.directory).map_err(failed)?;
            pki.ca().map_err(failed)?;
            said(
                pki.client(&client.name).map_err(failed)?,
                pki.certificate_path(&client.name),
            );
        }
        cli::Pki::Revoke(client) => {
            let pki = open(&client.pki.directory).map_err(failed)?;
            match pki.revoke(&client.name).map_err(failed)? {
                Made::New => say!("revoked {}", client.name),
                Made::Kept => say!("{} was revoked before", client.name),
            }
            say!(
                "made {}; a running broker takes it up on SIGHUP",
                pki.crl_path().display()
            );
        }
        cli::Pki::Crl(directory) => {
            let pki = open(&directory.directory).map_err(failed)?;
            let count = pki.crl().map_err(failed)?;
            say!("made {} with {count} entries", pki.crl_path().display());
        }
        cli::Pki::Show(show) => {
            let end = pki::certificate_end(&show.file).map_err(failed)?;
            let fields = portcullis_auth::certificate_attributes(&show.file)
                .map_err(|error| error.to_string())?;
            for (key, value) in fields {
                say!("{key:<20} {}", value.escape_debug());
            }
            let end = time::OffsetDateTime::from(end);
            say!("{:<20} {end}", "ends");
        }
    }
    Ok(Exit::Success)
}
