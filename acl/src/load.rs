//! From files to a [`Policy`]: every line checked, every mistake reported, or nothing loaded.
//!
//! Casbin forgives what an access policy must not: an effect with a typo is ignored (so that a deny
//! becomes an allow), a short line fails when it is first asked, an empty policy may allow. Here
//! each of these is an error with file, line and remedy, and the errors come all at once. What the
//! lines say is in `row`, how roles hang together in `roles`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::csv;
use crate::error::{Complaint, PolicyError, PolicyWarning};
use crate::model::{self, CasbinRows};
use crate::policy::Policy;
use crate::roles;
use crate::row::{self, Row};

/// The most bytes that a file of a policy may have: some ten times what a hundred thousand lines
/// take.
pub const MAX_FILE: u64 = 128 << 20;
/// The most mistakes that are reported one by one. Who separates by semicolons has one on each line.
const MAX_ERRORS: usize = 100;

/// A file that has been read.
#[derive(Clone, Debug)]
pub struct Source {
    /// What errors call it.
    pub name: Arc<str>,
    /// What is in it.
    pub text: String,
}

impl Source {
    /// A text under a name.
    #[must_use]
    pub fn new(name: &str, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

/// Everything that a policy is loaded from.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the configuration by itself"
)]
pub struct Sources {
    /// The model file; `None` for the shipped model.
    pub model: Option<Source>,
    /// The policy files, in any order.
    pub policies: Vec<Source>,
    /// Whether clients choose their client id (`client-id = "any"`); then a `{client_id}` in an
    /// allow line is warned of.
    pub client_id_is_free: bool,
    /// Whether credentials bring roles (a JWT issuer with `roles`); then a role that no `g` line
    /// gives is not warned of.
    pub roles_from_credentials: bool,
    /// Whether there is more than one JWT issuer: then two of them may give the same `{name}`, which
    /// is warned of in an allow line that both kinds of tokens may hold.
    pub several_issuers: bool,
    /// The same for client CAs with names.
    pub several_cas: bool,
    /// The roles that tokens of more than one issuer may carry (`allowed-roles`), without the `role:`
    /// prefix.
    pub shared_roles: Vec<String>,
    /// The names of all listeners, where they are known: a condition that asks for another one is
    /// warned of.
    pub listeners: Vec<String>,
    /// What is odd about the files themselves.
    pub warnings: Vec<PolicyWarning>,
}

impl Sources {
    /// Reads the files. A directory stands for the `*.csv` files in it, in order of their names; those
    /// whose names begin with a dot are an editor's, and directories in it are not looked into.
    ///
    /// # Errors
    ///
    /// Every file that cannot be read or is not UTF-8.
    pub fn read(model: Option<&Path>, policies: &[PathBuf]) -> Result<Self, Vec<PolicyError>> {
        let mut errors = Vec::new();
        let mut read = |path: &Path| match read(path) {
            Ok(source) => Some(source),
            Err(error) => {
                errors.push(error);
                None
            }
        };
        let model = model.and_then(&mut read);
        let mut sources = Vec::new();
        let mut broken = Vec::new();
        let mut warnings = Vec::new();
        for path in policies {
            match expand(path, &mut warnings) {
                Ok(paths) => sources.extend(paths.iter().filter_map(|path| read(path))),
                Err(error) => broken.push(error),
            }
        }
        errors.extend(broken);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            model,
            policies: sources,
            warnings,
            ..Self::default()
        })
    }
}

fn expand(path: &Path, warnings: &mut Vec<PolicyWarning>) -> Result<Vec<PathBuf>, PolicyError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(path, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let ending = path.extension().map(|ending| ending.to_string_lossy());
        let warning = match ending.as_deref() {
            Some("csv") if path.is_dir() || path.is_file() || !path.exists() => {
                paths.push(path);
                continue;
            }
            Some("csv") => "it is no file, and not read",
            Some(ending) if ending.eq_ignore_ascii_case("csv") => {
                "only *.csv is read, in small letters"
            }
            _ if path.is_dir() => "directories within the directory are not read",
            _ => continue,
        };
        warnings.push(PolicyWarning {
            file: path.display().to_string().into(),
            line: 0,
            message: warning.into(),
            remedy: "name it under policy, or move it away".into(),
        });
    }
    paths.sort();
    if paths.is_empty() {
        let complaint = Complaint::new(
            "the directory has no policy file",
            "name a directory with *.csv files",
        );
        return Err(complaint.at(&path.display().to_string().into(), 0, None));
    }
    Ok(paths)
}

fn read(path: &Path) -> Result<Source, PolicyError> {
    let name: Arc<str> = path.display().to_string().into();
    let bytes = match whole(path) {
        Ok(Whole::Read(bytes)) => bytes,
        Ok(Whole::TooLarge) => {
            let mebibytes = MAX_FILE >> 20;
            let message = format!("the file has more than {mebibytes} MiB");
            return Err(Complaint::new(message, "split it, or check the path").at(&name, 0, None));
        }
        Ok(Whole::Moving) => {
            let complaint = Complaint::new(
                "the file was written while it was read",
                "write the new one beside it, rename it over the old one, and then reload",
            );
            return Err(complaint.at(&name, 0, None));
        }
        Err(error) => return Err(unreadable(path, &error)),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let lines = error.as_bytes().iter().take(good).filter(|b| **b == b'\n');
            let line = u32::try_from(lines.count() + 1).unwrap_or(u32::MAX);
            let complaint = Complaint::new("the line is not UTF-8", "save the file as UTF-8");
            Err(complaint.at(&name, line, None))
        }
    }
}

enum Whole {
    Read(Vec<u8>),
    TooLarge,
    /// Half a policy may allow what the whole one denies.
    Moving,
}

/// Reads a file as it is at one time, and no more of it than [`MAX_FILE`].
fn whole(path: &Path) -> io::Result<Whole> {
    whole_while(path, || ())
}

/// The same, with something that happens meanwhile: for tests.
fn whole_while(path: &Path, meanwhile: impl FnOnce()) -> io::Result<Whole> {
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    let mut bytes = Vec::new();
    (&mut file).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    meanwhile();
    let after = file.metadata()?;
    let length = bytes.len() as u64;
    if length > MAX_FILE {
        return Ok(Whole::TooLarge);
    }
    let same = before.modified().ok() == after.modified().ok() && after.len() == length;
    // A pipe has no length.
    if after.is_file() && !same {
        return Ok(Whole::Moving);
    }
    Ok(Whole::Read(bytes))
}

fn unreadable(path: &Path, error: &std::io::Error) -> PolicyError {
    let complaint = Complaint::new(
        format!("cannot read it: {error}"),
        "check the path and its permissions",
    );
    complaint.at(&path.display().to_string().into(), 0, None)
}

/// What [`Policy::load`] gives.
#[derive(Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What is probably not meant, in order of files and lines.
    pub warnings: Vec<PolicyWarning>,
}

impl Policy {
    /// Loads a policy: all of it or nothing. Takes some seconds per million lines; not for the
    /// async threads.
    ///
    /// # Errors
    ///
    /// Every mistake that was found, in order of files and lines.
    pub fn load(sources: &Sources) -> Result<Loaded, Vec<PolicyError>> {
        let mut loader = Loader::default();
        if let Some(model) = &sources.model {
            model::check(&model.name, &model.text, &mut loader.errors);
        }
        for (number, source) in (0..).zip(&sources.policies) {
            loader.file(number, source);
        }
        let links = &loader.policy.links;
        let broken = roles::check(&loader.policy, links);
        loader.errors.extend(broken);
        loader.is_not_empty(sources);
        if loader.errors.is_empty() {
            loader.casbin_agrees(sources);
        }
        if !loader.errors.is_empty() {
            return Err(loader.told());
        }
        loader.policy.seal();
        let mut warnings = loader.warnings;
        warnings.extend(sources.warnings.iter().cloned());
        row::warnings(&loader.policy, sources, &mut warnings);
        roles::warnings(&loader.policy, sources, &mut warnings);
        let order = |file: &Arc<str>| loader.policy.files.iter().position(|f| f == file);
        warnings.sort_by_key(|warning| (order(&warning.file), warning.line));
        Ok(Loaded {
            policy: loader.policy,
            warnings,
        })
    }
}

#[derive(Default)]
struct Loader {
    policy: Policy,
    errors: Vec<PolicyError>,
    warnings: Vec<PolicyWarning>,
    /// Where each row was first seen.
    seen: HashMap<Vec<String>, (u32, u32)>,
}

impl Loader {
    fn file(&mut self, number: u32, source: &Source) {
        self.policy.files.push(Arc::clone(&source.name));
        if source.text.starts_with('\u{feff}') {
            let complaint = Complaint::new(
                "the file begins with a byte order mark",
                "save it as UTF-8 without one",
            );
            self.errors.push(complaint.at(&source.name, 1, Some(1)));
            return;
        }
        // Like casbin: only a line feed ends a line.
        for (line, text) in (1..).zip(source.text.split('\n')) {
            if let Err(error) = self.line(number, line, text) {
                let (complaint, column) = error;
                self.errors
                    .push(complaint.at(&source.name, line, Some(column)));
            }
        }
    }

    fn line(&mut self, file: u32, line: u32, text: &str) -> Result<(), (Complaint, u32)> {
        if let Some(hidden) = text.chars().find(|c| csv::is_hidden(*c)) {
            self.warnings.push(PolicyWarning {
                file: self.policy.file(file).into(),
                line,
                message: format!(
                    "the line has a character that cannot be seen ({}): it may mean something else \
                     than it shows",
                    hidden.escape_unicode()
                ),
                remedy: "remove it, unless a name really has it".into(),
            });
        }
        let Some(fields) = csv::fields(text)? else {
            return Ok(());
        };
        let Policy {
            slots, conditions, ..
        } = &mut self.policy;
        let row = row::parse(&fields, slots, conditions)?;
        let key: Vec<String> = fields.iter().map(|f| f.text.to_string()).collect();
        if let Some((first_file, first_line)) = self.seen.get(&key) {
            self.warnings.push(PolicyWarning {
                file: self.policy.file(file).into(),
                line,
                message: "the line is there twice".into(),
                remedy: format!(
                    "remove it; the first one is {}",
                    self.policy.place(*first_file, *first_line)
                ),
            });
            return Ok(());
        }
        self.seen.insert(key, (file, line));
        match row {
            Row::Rule(raw) => {
                let placed = raw.place(&mut self.policy.subjects, file, line);
                self.policy.rules.push(placed);
            }
            Row::Link(raw) => {
                let placed = raw.place(&mut self.policy.subjects, file, line);
                self.policy.links.push(placed);
            }
        }
        Ok(())
    }

    /// The mistakes, as many as somebody reads.
    fn told(mut self) -> Vec<PolicyError> {
        let more = self.errors.len().saturating_sub(MAX_ERRORS);
        let next = self
            .errors
            .get(MAX_ERRORS)
            .map(|next| (Arc::clone(&next.file), next.line));
        self.errors.truncate(MAX_ERRORS);
        if let Some((file, line)) = next {
            let message = format!("this and {} further mistakes are not told", more - 1);
            let complaint = Complaint::new(message, "begin with the first ones");
            self.errors.push(complaint.at(&file, line, None));
        }
        self.errors
    }

    /// An empty policy is a broken file, not a policy that denies everything (rule 8).
    fn is_not_empty(&mut self, sources: &Sources) {
        if !self.errors.is_empty() || !self.policy.rules.is_empty() {
            return;
        }
        let name = sources
            .policies
            .first()
            .map_or_else(|| "policy".into(), |source| Arc::clone(&source.name));
        let complaint = Complaint::new(
            "the policy has no p line",
            "write at least one, for example `p, role:device, devices/{name}/#, publish, allow`",
        );
        self.errors.push(complaint.at(&name, 0, None));
    }

    fn casbin_agrees(&mut self, sources: &Sources) {
        let mut whole = String::new();
        for source in &sources.policies {
            whole.push_str(&source.text);
            whole.push('\n');
        }
        let rows = CasbinRows::read(&whole);
        let complain = |file: u32, line: u32| {
            let complaint = Complaint::new(
                "the casbin crate reads this line in another way",
                "simplify its quoting and spacing",
            );
            complaint.at(&self.policy.file(file).into(), line, None)
        };
        let Some(rows) = rows else {
            self.errors.push(complain(0, 0));
            return;
        };
        let mut differing: Vec<(u32, u32)> = Vec::new();
        for (row, place) in &self.seen {
            if let Some((kind, columns)) = row.split_first()
                && !rows.has(kind, columns)
            {
                differing.push(*place);
            }
        }
        if differing.is_empty() && rows.len("p") + rows.len("g") != self.seen.len() {
            differing.push((0, 0));
        }
        differing.sort_unstable();
        self.errors.extend(
            differing
                .into_iter()
                .map(|(file, line)| complain(file, line)),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_file_that_is_written_while_it_is_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.csv");
        let text = "p, role:x, a, publish, allow\n";
        let read = |meanwhile: &dyn Fn()| {
            fs::write(&path, text).unwrap();
            matches!(whole_while(&path, meanwhile), Ok(Whole::Read(bytes)) if bytes == text.as_bytes())
        };
        assert!(read(&|| ()));
        assert!(!read(&|| fs::write(&path, "p").unwrap()), "it is shorter");
        let later = SystemTime::now() + Duration::from_secs(2);
        let touch = || {
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(later)
                .unwrap();
        };
        assert!(!read(&touch), "it is as long, and another one");
        let other = directory.path().join("new.csv");
        let rename = || {
            fs::write(&other, "p, role:y, b, publish, deny\n").unwrap();
            fs::rename(&other, &path).unwrap();
        };
        assert!(read(&rename), "the old one is whole");
    }

    /// Whoever smuggles a line past one of the two readers is stopped by the other.
    #[test]
    fn a_line_that_casbin_reads_otherwise_keeps_the_policy_out() {
        const TEXT: &str = "p, cert:a, a, publish, allow\np, cert:b, b, publish, deny\n";
        let otherwise = |theirs: &str| {
            let mut loader = Loader::default();
            loader.file(0, &Source::new("policy.csv", TEXT));
            loader.casbin_agrees(&Sources {
                policies: vec![Source::new("policy.csv", theirs)],
                ..Sources::default()
            });
            let said = loader.errors.iter();
            said.map(|error| (error.line, error.message.clone()))
                .collect::<Vec<_>>()
        };
        let message = "the casbin crate reads this line in another way".to_owned();
        assert_eq!(otherwise(TEXT), []);
        assert_eq!(
            otherwise(&TEXT.replace("deny", "allow")),
            [(2, message.clone())]
        );
        let more = format!("{TEXT}p, *, #, publish, allow\n");
        assert_eq!(otherwise(&more), [(0, message)]);
    }
}
