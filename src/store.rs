//! `store`: looking at what durability has written, and making it open again, without a broker.

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
    let report = match command {
        cli::Store::Check(_) => check(&path, key.as_ref()),
        cli::Store::Repair(_) => repair(&path, key.as_ref()),
    };
    let report = report.map_err(|error| error.to_string())?;
    print!("{}", words(&report));
    let after = match command {
        cli::Store::Repair(_) if !report.is_sound() => {
            check(&path, key.as_ref()).map_err(|error| error.to_string())?
        }
        cli::Store::Repair(_) | cli::Store::Check(_) => report,
    };
    let (exit, verdict) = match (command, after.is_sound()) {
        (_, true) => (Exit::Success, "sound"),
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
