//! Searching and converting a record. Neither proves anything: `verify` does.

use std::io::{self, Write};
use std::path::Path;

use portcullis_core::topic;
use serde_json::{Map, Value};

use crate::AuditError;
use crate::verify::{Lines, Next, Segment, segments};

/// Which records are wanted; every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not before this time: RFC 3339 in UTC, or its beginning (`2026-11-24T15`).
    pub since: Option<String>,
    /// Before this time, likewise.
    pub until: Option<String>,
    /// Exactly this principal (proven, or claimed in a refusal).
    pub principal: Option<String>,
    /// Exactly this client id.
    pub client_id: Option<String>,
    /// Exactly this event, for example `publish-denied`.
    pub event: Option<String>,
    /// An MQTT topic filter: records whose topic it matches, and records about exactly this
    /// subscription.
    pub topic: Option<String>,
}

/// One record, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The line as it stands in the file.
    pub line: String,
    /// Its fields.
    pub fields: Map<String, Value>,
}

impl Entry {
    fn text(&self, key: &str) -> Option<&str> {
        self.fields.get(key)?.as_str()
    }

    /// The texts of a list; none if there is no such list.
    pub fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        let list = self.fields.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str)
    }
}

impl Filter {
    fn wants(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, keys: &[&str]| {
            wanted
                .as_deref()
                .is_none_or(|wanted| keys.iter().any(|key| entry.text(key) == Some(wanted)))
        };
        // Times have one length and sort as text.
        let time = entry.text("time").unwrap_or_default();
        self.since.as_deref().is_none_or(|since| time >= since)
            && self.until.as_deref().is_none_or(|until| time < until)
            && is(&self.principal, &["principal", "claimed"])
            && is(&self.client_id, &["client_id"])
            && is(&self.event, &["event"])
            && self.topic.as_deref().is_none_or(|wanted| {
                entry.text("filter") == Some(wanted)
                    || entry.texts("filters").any(|filter| filter == wanted)
                    || entry
                        .text("topic")
                        .is_some_and(|name| topic::matches(wanted, name))
            })
    }
}

/// The records of a store that a filter wants, oldest first. A line that is being written, or that
/// is no record, is passed over.
pub struct Query {
    filter: Filter,
    files: std::vec::IntoIter<Segment>,
    lines: Option<Lines>,
    line: Vec<u8>,
}

/// Searches the store in `dir`, also that of a running broker.
///
/// # Errors
///
/// A directory that cannot be read.
pub fn query(dir: &Path, filter: Filter) -> Result<Query, AuditError> {
    Ok(Query {
        filter,
        files: segments(dir)?.into_iter(),
        lines: None,
        line: Vec::new(),
    })
}

impl Query {
    fn step(&mut self) -> Result<Option<Entry>, AuditError> {
        loop {
            let Some(lines) = &mut self.lines else {
                let Some(file) = self.files.next() else {
                    return Ok(None);
                };
                self.lines = Some(file.lines()?);
                continue;
            };
            match lines.next(&mut self.line)? {
                Next::Line => {
                    let entry = read(&self.line).filter(|entry| self.filter.wants(entry));
                    if entry.is_some() {
                        return Ok(entry);
                    }
                }
                Next::TooLong => {}
                Next::Torn | Next::End => self.lines = None,
            }
        }
    }
}

impl Iterator for Query {
    type Item = Result<Entry, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

fn read(line: &[u8]) -> Option<Entry> {
    let line = std::str::from_utf8(line).ok()?;
    let fields = serde_json::from_str(line).ok()?;
    Some(Entry {
        line: line.to_owned(),
        fields,
    })
}

/// A form that a record is exported in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The lines as they are: they can be verified again.
    Jsonl,
    /// RFC 4180, with a line of names; fields without a column of their own stand as JSON in the
    /// last. Text that a spreadsheet would take for a formula begins with an apostrophe.
    Csv,
}

const COLUMNS: [&str; 16] = [
    "seq",
    "time",
    "event",
    "principal",
    "claimed",
    "client_id",
    "peer",
    "listener",
    "topic",
    "filter",
    "rule",
    "code",
    "code_name",
    "reason",
    "count",
    "policy",
];
/// Of use to a verifier only.
const LINKS: [&str; 2] = ["prev", "hash"];

/// Writes the records of the store in `dir` that `filter` wants; says how many.
///
/// # Errors
///
/// A store that cannot be read, or an output that cannot be written.
pub fn export(
    dir: &Path,
    filter: Filter,
    format: Format,
    mut out: impl Write,
) -> Result<u64, AuditError> {
    let wrong = || AuditError::io("the output");
    let mut count = 0;
    if format == Format::Csv {
        let names: Vec<&str> = COLUMNS.into_iter().chain(["other"]).collect();
        write_row(&mut out, names.iter().map(|name| (*name).to_owned())).map_err(wrong())?;
    }
    for entry in query(dir, filter)? {
        let entry = entry?;
        match format {
            Format::Jsonl => writeln!(out, "{}", entry.line),
            Format::Csv => write_row(&mut out, row(entry.fields)),
        }
        .map_err(wrong())?;
        count += 1;
    }
    out.flush().map_err(wrong())?;
    Ok(count)
}

fn row(mut fields: Map<String, Value>) -> Vec<String> {
    let mut row: Vec<String> = COLUMNS
        .iter()
        .map(|name| match fields.remove(*name) {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        })
        .collect();
    fields.retain(|name, _| !LINKS.contains(&name.as_str()));
    row.push(if fields.is_empty() {
        String::new()
    } else {
        Value::Object(fields).to_string()
    });
    row
}

fn write_row(out: &mut impl Write, row: impl IntoIterator<Item = String>) -> io::Result<()> {
    let cells: Vec<String> = row.into_iter().map(|text| cell(&text)).collect();
    write!(out, "{}\r\n", cells.join(","))
}

fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_neither_two_nor_a_formula() {
        for (text, written) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("@a\nb", "\"'@a\nb\""),
            ("", ""),
        ] {
            assert_eq!(cell(text), written);
        }
    }
}
