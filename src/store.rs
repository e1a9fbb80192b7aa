//! `store`: looking at what durability has written, and making it open again, without a broker.

use portcullis_core::journal::{Contents, SessionContents, inspect};
use portcullis_core::store::{Report, check, repair};

use crate::cli::{self, Exit};
use crate::config::Config;
use crate::wiring;

/// Checks or repairs the store of a configuration and prints what was found. Success means that a
/// broker would open it; the broker itself must not be running.
///
/// # Errors
///
/// There is no store, a broker has it open, it cannot be read, or the key is not its key.
pub fn run(command: &cli::Store) -> Result<Exit, String> {
    let (cli::Store::Check(argument) | cli::Store::Repair(argument)) = command;
    let config = Config::load(&argument.config).map_err(|problems| problems.to_string())?;
    let key =
        wiring::store_key(&config).map_err(|error| format!("[durability] key-file: {error}"))?;
    let path = wiring::store_path(&config);
    // Looking must not make one: a data-dir that is misspelt would look sound.
    if !path.is_dir() {
        return Err(format!("{}: there is no store", path.display()));
    }
    let said = |report: &Report| print!("{}", words(report));
    let (sound, understood) = match command {
        cli::Store::Check(_) => {
            let (report, contents) = inspect(&path, key.as_ref()).map_err(|e| e.to_string())?;
            said(&report);
            print!("{}", meaning(&contents));
            (report.is_sound(), contents.is_understood())
        }
        cli::Store::Repair(_) => {
            let report = repair(&path, key.as_ref()).map_err(|e| e.to_string())?;
            said(&report);
            let after = check(&path, key.as_ref()).map_err(|e| e.to_string())?;
            (after.is_sound(), true)
        }
    };
    let (exit, verdict) = match (command, sound) {
        (_, true) if understood => (Exit::Success, "sound"),
        (_, true) => (Exit::Failed, "not understood; a broker would not start"),
        (cli::Store::Check(_), false) => (Exit::Failed, "damaged; see portcullis store repair"),
        (cli::Store::Repair(_), false) => (Exit::Failed, "still damaged"),
    };
    println!("{}: {verdict}", path.display());
    Ok(exit)
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
