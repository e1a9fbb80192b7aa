//! `store`: looking at what durability has written, and making it open again, without a broker.

use std::path::Path;

use portcullis_audit::Audit;
use portcullis_core::clock::Now;
use portcullis_core::hook::{Event, Observer as _};
use portcullis_core::journal::{Contents, SessionContents, correct_clock, inspect};
use portcullis_core::store::{Key, Report, check, repair};
use time::format_description::well_known::Rfc3339;

use crate::cli::{self, Exit};
use crate::config::Config;
use crate::console;
use crate::say;
use crate::wiring;

/// Checks or repairs the store of a configuration, or corrects its calendar, and prints what was
/// found. Success means that a broker would open it; the broker itself must not be running.
///
/// # Errors
///
/// There is no store, a broker has it open, it cannot be read, or the key is not its key; a correction
/// cannot be recorded.
pub fn run(command: &cli::Store) -> Result<Exit, String> {
    let (cli::Store::Check(argument)
    | cli::Store::Repair(argument)
    | cli::Store::CorrectClock(argument)) = command;
    let config = Config::load(&argument.config).map_err(|problems| problems.to_string())?;
    let path = wiring::store_path(&config);
    // Looking must not make one: a data-dir that is misspelt would look sound.
    if !path.is_dir() {
        return Err(format!("{}: there is no store", path.display()));
    }
    let key =
        || wiring::store_key(&config).map_err(|error| format!("[durability] key-file: {error}"));
    match command {
        cli::Store::Check(_) => look(&path, key()?.as_ref()),
        cli::Store::Repair(_) => mend(&path, key()?.as_ref()),
        cli::Store::CorrectClock(_) => correct(&config, &path),
    }
}

fn look(path: &Path, key: Option<&Key>) -> Result<Exit, String> {
    let (report, contents) = inspect(path, key).map_err(|error| error.to_string())?;
    console::print(format_args!("{}{}", words(&report), meaning(&contents)));
    let (exit, verdict) = match (report.is_sound(), contents.is_understood()) {
        (true, true) => (Exit::Success, "sound"),
        (true, false) => (Exit::Failed, "not understood; a broker would not start"),
        (false, _) => (Exit::Failed, "damaged; see portcullis store repair"),
    };
    say!("{}: {verdict}", path.display());
    Ok(exit)
}

fn mend(path: &Path, key: Option<&Key>) -> Result<Exit, String> {
    let report = repair(path, key).map_err(|error| error.to_string())?;
    console::print(format_args!("{}", words(&report)));
    let after = check(path, key).map_err(|error| error.to_string())?;
    let (exit, verdict) = if after.is_sound() {
        (Exit::Success, "sound")
    } else {
        (Exit::Failed, "still damaged")
    };
    say!("{}: {verdict}", path.display());
    Ok(exit)
}

/// Nothing is corrected that is not on record.
fn correct(config: &Config, path: &Path) -> Result<Exit, String> {
    let options = wiring::store_options(config)?
        .ok_or("[durability] mode = \"memory\": a broker with this configuration uses no store")?;
    let now = Now::read();
    let found = correct_clock(&options, now.unix_millis()).map_err(|error| error.to_string())?;
    let shown = path.display();
    let Some(correction) = found else {
        say!("{shown}: its calendar is not ahead of the system's; nothing to correct");
        return Ok(Exit::Success);
    };
    let said = format!(
        "the calendar of the store goes back from {} to {}",
        moment(correction.from),
        moment(correction.to)
    );
    let audit = Audit::start(wiring::audit_settings(config))
        .map_err(|error| format!("[audit]: {error}; nothing was corrected"))?;
    let action = format!("store correct-clock: {said}");
    audit.event(&Event::Administration { action: &action }, now);
    audit.stop(now);
    if audit.stats().lost > 0 {
        return Err("[audit]: the correction cannot be recorded; nothing was corrected".to_owned());
    }
    correction.make().map_err(|error| error.to_string())?;
    say!("{shown}: {said}");
    Ok(Exit::Success)
}

/// RFC 3339, to the second.
fn moment(millis: u64) -> String {
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

fn words(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} segments with {} bytes; {} records in {} groups can be read",
        report.segments, report.bytes, report.records, report.groups
    )];
    lines.extend(report.torn.iter().map(|(file, offset)| {
        format!(
            "{}: the last write was interrupted at byte {offset}; the broker cuts it off when it \
             starts, and nothing that was acknowledged is lost by that",
            file.display()
        )
    }));
    lines.extend(report.problems.iter().map(|problem| {
        let file = problem.file.display();
        format!("damaged: {file}, byte {}: {}", problem.offset, problem.text)
    }));
    lines.extend(report.done.iter().map(|done| format!("repaired: {done}")));
    lines.join("\n") + "\n"
}

/// What the records amount to, session by session.
fn meaning(contents: &Contents) -> String {
    let mut lines: Vec<_> = contents.sessions.iter().map(session).collect();
    lines.push(format!(
        "{} persistent sessions, {} retained messages, {} messages whose routing a start completes",
        contents.sessions.len(),
        contents.retained,
        contents.unrouted
    ));
    lines.extend(
        contents
            .unreadable
            .iter()
            .map(|problem| format!("not understood: {problem}")),
    );
    if contents.dangling > 0 {
        lines.push(format!(
            "lost: {} records depend on others that are not there",
            contents.dangling
        ));
    }
    lines.join("\n") + "\n"
}

fn session(session: &SessionContents) -> String {
    // A client chose the id.
    let mut line = format!(
        "session {:?} of {}: {} subscriptions, {} queued, {} in flight, {} being received",
        session.client_id,
        session.owner,
        session.subscriptions.len(),
        session.queued,
        session.in_flight,
        session.received
    );
    if session.will {
        line += ", a will";
    }
    if session.lost > 0 {
        let lost = format!("; {} queued messages are lost", session.lost);
        line.push_str(&lost);
    }
    line
}
