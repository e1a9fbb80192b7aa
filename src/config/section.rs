//! A typed reader over the parsed TOML: each value with its place, every problem collected.
//!
//! A [`Section`] knows which keys were asked for; what is left at [`Section::finish`] is unknown
//! and an error that names the nearest key. A value that is wrong is reported where it stands and
//! replaced by its default, so that reading goes on and finds the other problems too.

use std::cell::RefCell;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::InputFile;
use super::problem::{Position, Problem};
use super::units::{self, ByteRate, Rate};

/// The text, its file, and what was found wrong so far.
pub(super) struct Source<'a> {
    file: &'a Path,
    text: &'a str,
    /// The byte after each newline.
    lines: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            lines: text.match_indices('\n').map(|(at, _)| at + 1).collect(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// Records an error.
    pub(super) fn error(&self, at: Position, message: impl Display, remedy: impl Display) {
        let problem = self.problem(at, &message, &remedy);
        self.problems.borrow_mut().push(problem);
    }

    /// Records something that loads, but that the operator should know.
    pub(super) fn warn(&self, at: Position, message: impl Display, remedy: impl Display) {
        let problem = self.problem(at, &message, &remedy);
        self.warnings.borrow_mut().push(problem);
    }

    /// Records what belongs to a later version. Never ignored: the operator relies on it.
    pub(super) fn unsupported(&self, at: Position, what: impl Display, remedy: impl Display) {
        self.error(at, format_args!("{what} is not supported yet"), remedy);
    }

    /// The line and column of a byte of the text.
    pub(super) fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let lines = self.lines.partition_point(|start| *start <= offset);
        let earlier = self.lines.get(..lines).unwrap_or_default();
        let start = earlier.last().copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        Position {
            line: lines + 1,
            column: before.chars().count() + 1,
        }
    }

    /// `path` seen from the directory of the file.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// The errors and the warnings.
    pub(super) fn into_problems(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.problems.into_inner(), self.warnings.into_inner())
    }

    fn problem(&self, at: Position, message: &dyn Display, remedy: &dyn Display) -> Problem {
        Problem {
            file: self.file.to_owned(),
            at: Some(at),
            message: message.to_string(),
            remedy: remedy.to_string(),
        }
    }
}

/// A value with the place where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) at: Position,
}

/// One table of the file, or the absence of one: every key of an absent table is absent.
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    title: &'static str,
    table: Option<&'a DeTable<'a>>,
    at: Position,
    known: Vec<&'static str>,
}

/// An entry of a list that may hold both.
pub(super) enum FileOrTable<'a> {
    /// A file.
    File(InputFile),
    /// A table in one line.
    Table(Section<'a>),
}

impl<'a> Section<'a> {
    /// The top level of the file.
    pub(super) fn root(source: &'a Source<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(source, "the top level", Some(table), Position::START)
    }

    fn new(
        source: &'a Source<'a>,
        title: &'static str,
        table: Option<&'a DeTable<'a>>,
        at: Position,
    ) -> Self {
        Self {
            source,
            title,
            table,
            at,
            known: Vec::new(),
        }
    }

    /// Where the section begins.
    pub(super) fn at(&self) -> Position {
        self.at
    }

    /// Its header, as the file has it.
    pub(super) fn title(&self) -> &'static str {
        self.title
    }

    /// The collector of problems.
    pub(super) fn source(&self) -> &'a Source<'a> {
        self.source
    }

    /// Whether the section is in the file.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The table under `key`; absent if it is not there.
    pub(super) fn table(&mut self, key: &'static str, title: &'static str) -> Self {
        let Some(entry) = self.take(key) else {
            return Self::new(self.source, title, None, self.at);
        };
        let table = entry.value.as_table();
        if table.is_none() {
            entry.wrong(format_args!("write a section {title}"));
        }
        Self::new(self.source, title, table, entry.at)
    }

    /// The array of tables under `key`; none if it is not there.
    pub(super) fn tables(&mut self, key: &'static str, title: &'static str) -> Vec<Self> {
        let Some(entry) = self.take(key) else {
            return Vec::new();
        };
        let Some(array) = entry.value.as_array() else {
            entry.wrong(format_args!("write its header as {title}"));
            return Vec::new();
        };
        if array.is_empty() {
            let message = format_args!("{key} in {} is an empty list", self.title);
            let remedy = format_args!("write sections {title}, or leave it out");
            self.source.error(entry.at, message, remedy);
        }
        let mut sections = Vec::with_capacity(array.len());
        for element in array {
            let at = self.source.position(element.span().start);
            match element.get_ref().as_table() {
                Some(table) => sections.push(Self::new(self.source, title, Some(table), at)),
                None => entry.wrong(format_args!("write each as a section {title}")),
            }
        }
        sections
    }

    /// A string.
    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Option<Placed<&'a str>> {
        let entry = self.take(key)?;
        let Some(value) = entry.value.as_str() else {
            entry.wrong(format_args!("write a string, such as {key} = {example:?}"));
            return None;
        };
        if value.is_empty() {
            self.source.error(
                entry.at,
                format_args!("{key} in {} is empty", self.title),
                format_args!("write a string, such as {key} = {example:?}"),
            );
            return None;
        }
        Some(Placed {
            value,
            at: entry.at,
        })
    }

    /// A string that has to be there.
    pub(super) fn required(&mut self, key: &'static str, example: &str) -> Option<Placed<&'a str>> {
        if self.has(key) {
            return self.text(key, example);
        }
        self.known.push(key);
        self.missing(key, format_args!("{key} = {example:?}"));
        None
    }

    /// Reports that `key` has to be there.
    pub(super) fn missing(&self, key: &str, example: impl Display) {
        self.source.error(
            self.at,
            format_args!("{} has no {key}", self.title),
            format_args!("add {example}"),
        );
    }

    /// A path, seen from the directory of the file.
    pub(super) fn path(&mut self, key: &'static str, example: &str) -> Option<Placed<PathBuf>> {
        let text = self.text(key, example)?;
        self.resolved(key, text)
    }

    /// A file that has to exist when it is used.
    pub(super) fn file(&mut self, key: &'static str, example: &str) -> Option<InputFile> {
        self.path(key, example).map(InputFile::from)
    }

    /// A file whose key has to be there.
    pub(super) fn required_file(&mut self, key: &'static str, example: &str) -> Option<InputFile> {
        let text = self.required(key, example)?;
        self.resolved(key, text).map(InputFile::from)
    }

    /// Files that have to exist when they are used.
    pub(super) fn files(&mut self, key: &'static str, example: &str) -> Option<Vec<InputFile>> {
        let list = self.list(key, example)?;
        let paths = list.into_iter().filter_map(|text| self.resolved(key, text));
        Some(paths.map(InputFile::from).collect())
    }

    /// A file, or a list of files and tables.
    pub(super) fn files_or_tables(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<Vec<FileOrTable<'a>>> {
        let entry = self.take(key)?;
        let single = entry.value.as_str();
        let remedy = format!("write a file, such as {key} = {example:?}, or a list");
        let Some(array) = entry.value.as_array() else {
            let Some(value) = single else {
                entry.wrong(remedy);
                return None;
            };
            let path = self.resolved(
                key,
                Placed {
                    value,
                    at: entry.at,
                },
            )?;
            return Some(vec![FileOrTable::File(path.into())]);
        };
        let mut items = Vec::with_capacity(array.len());
        for element in array {
            let at = self.source.position(element.span().start);
            match (element.get_ref().as_str(), element.get_ref().as_table()) {
                (Some(value), _) => {
                    let path = self.resolved(key, Placed { value, at });
                    items.extend(path.map(|path| FileOrTable::File(path.into())));
                }
                (None, Some(table)) => {
                    let table = Self::new(self.source, self.title, Some(table), at);
                    items.push(FileOrTable::Table(table));
                }
                (None, None) => entry.wrong(&remedy),
            }
        }
        Some(items)
    }

    /// A list of strings, each not empty; `None` if it is not there.
    /// A list of strings, each not empty; `None` if it is not there.
    pub(super) fn list(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<Vec<Placed<&'a str>>> {
        let entry = self.take(key)?;
        let Some(array) = entry.value.as_array() else {
            entry.wrong(format_args!("write a list, such as {key} = [{example:?}]"));
            return None;
        };
        let mut list = Vec::with_capacity(array.len());
        for element in array {
            let at = self.source.position(element.span().start);
            match element.get_ref().as_str() {
                Some(value) if !value.is_empty() => list.push(Placed { value, at }),
                _ => self.source.error(
                    at,
                    format_args!("{key} in {} has an entry that is no text", self.title),
                    format_args!("write strings, such as {key} = [{example:?}]"),
                ),
            }
        }
        Some(list)
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Placed<bool> {
        let at = self.at;
        let Some(entry) = self.take(key) else {
            return Placed { value: default, at };
        };
        let value = entry.value.as_bool().unwrap_or_else(|| {
            entry.wrong("write true or false, without quotes");
            default
        });
        Placed {
            value,
            at: entry.at,
        }
    }

    /// One word of `words`.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        default: T,
    ) -> T {
        self.optional_choice(key, words)
            .map_or(default, |choice| choice.value)
    }

    /// One word of `words`, or nothing.
    pub(super) fn optional_choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Option<Placed<T>> {
        let entry = self.take(key)?;
        let Some(text) = entry.value.as_str() else {
            entry.wrong(format_args!("write {}", one_of(words)));
            return None;
        };
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            entry.bad_value(text, format_args!("write {}", one_of(words)));
        }
        found.map(|(_, value)| Placed {
            value: *value,
            at: entry.at,
        })
    }

    /// A whole number from `least` to `most`.
    pub(super) fn count<T>(&mut self, key: &'static str, default: T, least: T, most: T) -> T
    where
        T: TryFrom<u64> + PartialOrd + Display + Copy,
    {
        let Some(entry) = self.take(key) else {
            return default;
        };
        let Some(integer) = entry.value.as_integer() else {
            entry.wrong(format_args!(
                "write a whole number, without quotes, from {least} to {most}"
            ));
            return default;
        };
        u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| (least..=most).contains(number))
            .unwrap_or_else(|| {
                let remedy = format_args!("write a whole number from {least} to {most}");
                entry.out_of_range(integer.as_str(), remedy);
                default
            })
    }

    /// A size in bytes, from 1 to `most`.
    pub(super) fn size(&mut self, key: &'static str, default: u64, most: u64) -> u64 {
        self.size_between(key, default, (1, most))
    }

    /// A size from `least` to `most`.
    pub(super) fn size_between(
        &mut self,
        key: &'static str,
        default: u64,
        (least, most): (u64, u64),
    ) -> u64 {
        let Some(entry) = self.take(key) else {
            return default;
        };
        let remedy = "write a size with its unit (B, KiB, MiB or GiB), such as \"1 MiB\"";
        let Some(bytes) = entry.quantity(units::size, remedy) else {
            return default;
        };
        if bytes < least || bytes > most {
            let remedy = format_args!("write a size from {least} B to {most} B");
            entry.out_of_range(bytes, remedy);
            return default;
        }
        bytes
    }

    /// A duration from `least` to `most`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        (least, most): (Duration, Duration),
    ) -> Duration {
        let Some(entry) = self.take(key) else {
            return default;
        };
        if least.is_zero() && entry.value.as_integer().is_some_and(|i| i.as_str() == "0") {
            return Duration::ZERO;
        }
        let remedy = "write a duration with its unit (ms, s, min, h or d), such as \"10 s\"";
        let Some(duration) = entry.quantity(units::duration, remedy) else {
            return default;
        };
        if duration < least || duration > most {
            let remedy = format_args!("write a duration from {least:?} to {} s", most.as_secs());
            entry.out_of_range(format_args!("{duration:?}"), remedy);
            return default;
        }
        duration
    }

    /// A number of events per second or minute, at least one.
    pub(super) fn rate(&mut self, key: &'static str, default: Rate) -> Rate {
        let Some(entry) = self.take(key) else {
            return default;
        };
        let remedy = "write a rate, such as \"10/s\" or \"30/min\"";
        match entry.quantity(units::rate, remedy) {
            Some(rate) if rate.count > 0 => rate,
            Some(_) => {
                entry.out_of_range(0, "write a rate of at least 1: no limit means no service");
                default
            }
            None => default,
        }
    }

    /// A number of bytes per second, at least one.
    pub(super) fn byte_rate(&mut self, key: &'static str, default: ByteRate) -> ByteRate {
        let Some(entry) = self.take(key) else {
            return default;
        };
        let remedy = "write a size per second, such as \"1 MiB/s\"";
        match entry.quantity(units::byte_rate, remedy) {
            Some(rate) if rate.0 > 0 => rate,
            Some(_) => {
                entry.out_of_range(0, "write a rate of at least \"1 B/s\"");
                default
            }
            None => default,
        }
    }

    /// Whether `key` is there, and where. Does not count as asking for it.
    pub(super) fn place(&self, key: &str) -> Option<Position> {
        let (_, value) = self.find(key)?;
        Some(self.source.position(value.span().start))
    }

    /// Every key that nobody asked for is an error.
    pub(super) fn finish(self) {
        for (key, _) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                self.source.error(
                    self.source.position(key.span().start),
                    format_args!("unknown key {name:?} in {}", self.title),
                    nearest(name, &self.known).map_or_else(
                        || format!("the keys here are {}", self.known.join(", ")),
                        |key| format!("did you mean {key}?"),
                    ),
                );
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &str) -> Option<(&'a str, &'a Spanned<DeValue<'a>>)> {
        let mut entries = self.table?.iter();
        entries.find_map(|(name, value)| {
            let name = name.get_ref().as_ref();
            (name == key).then_some((name, value))
        })
    }

    fn take(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.known.push(key);
        let (_, value) = self.find(key)?;
        Some(Entry {
            source: self.source,
            section: self.title,
            key,
            value: value.get_ref(),
            at: self.source.position(value.span().start),
        })
    }

    fn resolved(&self, key: &str, text: Placed<&str>) -> Option<Placed<PathBuf>> {
        if text.value.contains('\0') {
            self.source.error(
                text.at,
                format_args!("{key} in {} contains a NUL", self.title),
                "write a path",
            );
            return None;
        }
        Some(Placed {
            value: self.source.resolve(text.value),
            at: text.at,
        })
    }
}

/// A key that was found.
struct Entry<'a> {
    source: &'a Source<'a>,
    section: &'static str,
    key: &'static str,
    value: &'a DeValue<'a>,
    at: Position,
}

impl Entry<'_> {
    /// Reports a value of the wrong kind.
    fn wrong(&self, remedy: impl Display) {
        let (key, section, kind) = (self.key, self.section, self.value.type_str());
        let article = if kind.starts_with(['a', 'i']) {
            "an"
        } else {
            "a"
        };
        let message = format_args!("{key} in {section} is {article} {kind}");
        self.source.error(self.at, message, remedy);
    }

    /// Reports a text that is not one of those understood.
    fn bad_value(&self, text: &str, remedy: impl Display) {
        let message = format_args!("{} in {} is {text:?}", self.key, self.section);
        self.source.error(self.at, message, remedy);
    }

    fn out_of_range(&self, value: impl Display, remedy: impl Display) {
        let message = format_args!("{} in {} is {value}, out of range", self.key, self.section);
        self.source.error(self.at, message, remedy);
    }

    fn quantity<T>(&self, read: impl Fn(&str) -> Option<T>, remedy: &str) -> Option<T> {
        let Some(text) = self.value.as_str() else {
            self.wrong(remedy);
            return None;
        };
        let quantity = read(text);
        if quantity.is_none() {
            self.bad_value(text, remedy);
        }
        quantity
    }
}

fn one_of<T>(words: &[(&str, T)]) -> String {
    let quoted: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    quoted.join(" or ")
}

/// The key that was most probably meant: at most a third of its letters differ.
fn nearest<'k>(name: &str, keys: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_ascii_lowercase().replace('_', "-");
    let distances = keys.iter().map(|key| (distance(&name, key), *key));
    let (distance, key) = distances.min()?;
    (distance <= (key.len() / 3).max(1)).then_some(key)
}

/// Letters to insert, delete, replace or swap with their neighbour to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(above.len());
        let mut left = i + 1;
        row.push(left);
        for (j, (y, diagonal)) in b.iter().zip(&above).enumerate() {
            let up = above.get(j + 1).copied().unwrap_or(usize::MAX);
            let replaced = diagonal + usize::from(x != y);
            left = replaced.min(left + 1).min(up.saturating_add(1));
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if let Some(twice) = before.get(j.wrapping_sub(1)).filter(|_| swapped) {
                left = left.min(twice + 1);
            }
            row.push(left);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_slips() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("bind", "bind", 0),
            ("bind", "bnd", 1),
            ("bind", "binnd", 1),
            ("bind", "bond", 1),
            ("bind", "bidn", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_key_is_named_only_when_it_is_near() {
        let keys = ["max-packet-size", "max-qos", "bind"];
        for (name, expected) in [
            ("max_packet_size", Some("max-packet-size")),
            ("max-paket-size", Some("max-packet-size")),
            ("maxqos", Some("max-qos")),
            ("Bind", Some("bind")),
            ("colour", None),
        ] {
            assert_eq!(nearest(name, &keys), expected, "{name}");
        }
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let source = Source::new(Path::new("f"), "a\nbö= 1\n");
        let at = |offset| source.position(offset).to_string();
        assert_eq!(at(0), "1:1");
        assert_eq!(at(2), "2:1");
        assert_eq!(at(5), "2:3");
        assert_eq!(at(99), "3:1");
    }
}
