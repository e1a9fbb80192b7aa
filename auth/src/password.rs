//! The password file: `USER:PHC-string` or `USER:PHC-string:SCRAM-verifier`, one user on a line; `#`
//! begins a comment.
//!
//! The PHC string is argon2id. The verifier, for clients that prove their password with
//! SCRAM-SHA-256, is `scram-sha-256$ITERATIONS$SALT$STORED-KEY$SERVER-KEY` with the last three in
//! base64; [`set`] writes both. A line without one serves plain passwords only.
//!
//! The loader is strict, because a line that is nearly right becomes a user that nobody meant:
//! an empty name, a name twice, a control character, a hash with weak parameters or one that would
//! take minutes are errors with file and line, and a file without users is a broken file.
//!
//! Editing ([`set`], [`delete`]) replaces the file in one step and keeps everybody else's lines
//! and all comments. A change that would leave a broken file is not made.

mod edit;
mod hasher;

pub use edit::{delete, list, set};
pub(crate) use hasher::{Check, Hasher};

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use aws_lc_rs::hmac;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::der::{hex, sha256};
use crate::scram::Verifier;
use crate::{Error, file};

/// Largest password file, in bytes: some half a million users.
const MAX_FILE: u64 = 64 << 20;
/// Longest user name, in bytes.
const MAX_USER: usize = 256;

/// The byte order mark.
const MARK: &str = "\u{feff}";

/// What one hash costs: the parameters of argon2id (RFC 9106, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cost {
    /// Memory in KiB.
    memory: u32,
    /// Passes.
    time: u32,
    /// Lanes.
    lanes: u32,
}

impl Cost {
    /// What [`set`] uses: 19 MiB in two passes, OWASP's first recommendation for servers.
    const DEFAULT: Self = Self {
        memory: 19_456,
        time: 2,
        lanes: 1,
    };
    /// Least memory, in KiB, and least memory times passes: the cheapest of OWASP's equivalents.
    const MIN_MEMORY: u32 = 7_168;
    const MIN_WORK: u64 = 35_840;
    /// Most memory, in KiB, passes and lanes: four hashes run at a time and must fit.
    const MAX: Self = Self {
        memory: 262_144,
        time: 64,
        lanes: 16,
    };

    fn is_weak(self) -> bool {
        let work = u64::from(self.memory) * u64::from(self.time);
        self.memory < Self::MIN_MEMORY || work < Self::MIN_WORK
    }

    fn is_too_much(self) -> bool {
        let Self {
            memory,
            time,
            lanes,
        } = Self::MAX;
        self.memory > memory || self.time > time || self.lanes > lanes
    }
}

/// One user.
#[derive(Debug)]
pub(crate) struct Line {
    /// Names the line in credentials; changes with the password.
    pub(crate) digest: Box<str>,
    cost: Cost,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
    /// For SCRAM.
    pub(crate) scram: Option<Verifier>,
    /// The last password that was right, as an HMAC under a key of this process.
    remembered: Mutex<Option<[u8; 32]>>,
}

/// A password file, frozen; a reload makes a new one.
#[derive(Debug)]
pub(crate) struct Users {
    lines: HashMap<Box<str>, Arc<Line>>,
    /// Stands for everybody who is not in the file: costs the same and is never right.
    stranger: Arc<Line>,
    /// What most of its SCRAM verifiers ask for.
    scram_iterations: u32,
    /// Salts of strangers come from it. A key of the process would change them with each restart, and
    /// those of users stay: so it comes from what nobody is sent of the first line, which is edited in
    /// place and seldom.
    strangers: hmac::Key,
}

impl Users {
    /// Reads a file. The texts are warnings.
    ///
    /// # Errors
    ///
    /// A file that is missing, empty or has a broken line.
    pub(crate) fn load(path: &Path) -> Result<(Self, Vec<String>), Error> {
        let bytes = file::read(path, MAX_FILE)?;
        let users = Self::parse(path, &bytes)?;
        let mut warnings: Vec<_> = file::exposed(path).into_iter().collect();
        if bytes.starts_with(MARK.as_bytes()) {
            warnings.push(format!(
                "{}: begins with a byte order mark, which is not read; save it as UTF-8 without one",
                path.display()
            ));
        }
        if users
            .lines
            .values()
            .any(|line| line.cost != users.stranger.cost)
        {
            warnings.push(format!(
                "{}: the hashes do not all cost the same, so that the time of a refusal tells users apart; set the odd passwords again",
                path.display()
            ));
        }
        let odd = |verifier: &Verifier| {
            verifier.iterations != users.scram_iterations || verifier.salt.len() != Verifier::SALT
        };
        let mut verifiers = users.lines.values().filter_map(|line| line.scram.as_ref());
        if verifiers.any(odd) {
            warnings.push(format!(
                "{}: the SCRAM verifiers do not all have the same iterations and length of salt, so that a challenge tells users apart; set the odd passwords again",
                path.display()
            ));
        }
        Ok((users, warnings))
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| Error::file(path, "is not UTF-8", "write it with portcullis passwd"))?;
        // It would be the beginning of somebody's name.
        let text = unmarked(text);
        let mut lines: HashMap<Box<str>, Arc<Line>> = HashMap::new();
        let mut costs: HashMap<Cost, usize> = HashMap::new();
        let mut iterations: HashMap<u32, usize> = HashMap::new();
        let mut strangers = None;
        for (number, content) in text
            .split('\n')
            .enumerate()
            .map(|(at, line)| (at + 1, line))
        {
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let (user, line) = parse_line(content)
                .map_err(|(problem, remedy)| Error::line(path, number, problem, remedy))?;
            *costs.entry(line.cost).or_default() += 1;
            strangers.get_or_insert_with(|| line.key());
            if let Some(verifier) = &line.scram {
                *iterations.entry(verifier.iterations).or_default() += 1;
            }
            if lines.insert(user.into(), Arc::new(line)).is_some() {
                return Err(Error::line(
                    path,
                    number,
                    format!("the user {user:?} is there twice"),
                    "remove one of the lines",
                ));
            }
        }
        let (Some(cost), Some(strangers)) = (usual(costs), strangers) else {
            return Err(Error::file(
                path,
                "has no users",
                "add one with portcullis passwd, or remove password-file from the configuration",
            ));
        };
        let scram_iterations = usual(iterations).unwrap_or(Verifier::ITERATIONS);
        Ok(Self {
            lines,
            scram_iterations,
            strangers,
            stranger: Arc::new(Line {
                digest: "".into(),
                cost,
                salt: Box::from(*b"nobody's salt..."),
                hash: Box::from([0; 32]),
                scram: None,
                remembered: Mutex::new(None),
            }),
        })
    }

    /// Takes over what `old` remembers about lines that did not change.
    pub(crate) fn inherit(&self, old: &Self) {
        for (user, line) in &self.lines {
            if let Some(before) = old.lines.get(user)
                && before.digest == line.digest
            {
                *line.remembered.lock() = *before.remembered.lock();
            }
        }
    }

    /// What a stranger of this name is challenged with: the same as long as the file is, also after a
    /// restart.
    pub(crate) fn scram_of_stranger(&self, name: &str) -> Verifier {
        Verifier::of_stranger(&self.strangers, name, self.scram_iterations)
    }

    /// The user's line, if there is one.
    pub(crate) fn line(&self, user: &str) -> Option<&Arc<Line>> {
        self.lines.get(user)
    }
}

/// What is there most often. Of two that are so the greater one: it must not change with a restart,
/// or strangers are those for whom it does.
fn usual<T: Copy + Ord>(counts: HashMap<T, usize>) -> Option<T> {
    let most = counts
        .into_iter()
        .max_by_key(|&(value, count)| (count, value));
    most.map(|(value, _)| value)
}

/// The text without the byte order mark that some editors begin it with.
fn unmarked(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// What is wrong with a line, and what to do.
type Problem = (String, &'static str);

/// Checks a user name; used for lines and for new users.
fn check_user(user: &str) -> Result<(), Problem> {
    let remedy = "choose another name";
    if user.is_empty() {
        return Err(("the user name is empty".into(), remedy));
    }
    if user.len() > MAX_USER {
        return Err((
            format!("the user name is longer than {MAX_USER} bytes"),
            remedy,
        ));
    }
    if user.chars().any(char::is_control) {
        return Err((
            format!("the user name {user:?} has a control character"),
            remedy,
        ));
    }
    if user.trim() != user {
        return Err((
            format!("the user name {user:?} begins or ends with a blank"),
            remedy,
        ));
    }
    if user.contains([':', '*']) || user.starts_with('#') {
        return Err((
            format!("the user name {user:?} has a ':' or '*', or begins with '#'"),
            remedy,
        ));
    }
    Ok(())
}

fn parse_line(content: &str) -> Result<(&str, Line), Problem> {
    let set_again = "set the password again with portcullis passwd";
    let Some((user, phc)) = content.split_once(':') else {
        return Err(("there is no ':' between user and hash".into(), set_again));
    };
    check_user(user)?;
    if content.chars().any(char::is_control) {
        return Err((
            "the line has a control character (a carriage return?)".into(),
            "end lines with a line feed only",
        ));
    }
    let broken = |what: &str| (format!("the hash of {user:?} {what}"), set_again);
    let (phc, scram) = match phc.split_once(':') {
        Some((phc, verifier)) => {
            let verifier = Verifier::parse(verifier)
                .map_err(|what| (format!("the SCRAM verifier of {user:?} {what}"), set_again))?;
            (phc, Some(verifier))
        }
        None => (phc, None),
    };
    let hash = PasswordHash::new(phc).map_err(|_| broken("is not a PHC string"))?;
    if hash.algorithm.as_str() != "argon2id" || hash.version != Some(19) {
        return Err(broken("is not argon2id, version 19"));
    }
    if hash
        .params
        .iter()
        .any(|(name, _)| !matches!(name.as_str(), "m" | "t" | "p"))
    {
        return Err(broken("has a parameter other than m, t and p"));
    }
    let parameter = |name: &str| hash.params.get_decimal(name);
    let (Some(memory), Some(time), Some(lanes)) = (parameter("m"), parameter("t"), parameter("p"))
    else {
        return Err(broken("lacks one of the parameters m, t and p"));
    };
    let cost = Cost {
        memory,
        time,
        lanes,
    };
    if cost.is_weak() {
        return Err(broken(&format!(
            "is too weak (m={memory}, t={time}); at least m=7168 and m*t=35840 are needed"
        )));
    }
    if cost.is_too_much() {
        return Err(broken(&format!(
            "costs too much (m={memory}, t={time}, p={lanes}); at most m=262144, t=64, p=16"
        )));
    }
    let (Some(salt), Some(output)) = (hash.salt, hash.hash) else {
        return Err(broken("lacks salt or output"));
    };
    if salt.as_ref().len() < argon2::MIN_SALT_LEN || output.len() < 16 {
        return Err(broken("has less than 8 bytes of salt or 16 of output"));
    }
    // The library's own limits, so that verifying cannot fail later.
    cost.params(output.len())
        .ok_or_else(|| broken("has impossible parameters"))?;
    let line = Line {
        digest: hex(sha256(content.as_bytes()).get(..16).unwrap_or_default()).into(),
        cost,
        salt: salt.as_ref().into(),
        hash: output.as_bytes().into(),
        scram,
        remembered: Mutex::new(None),
    };
    Ok((user, line))
}

impl Line {
    /// A key that only who has read the line knows. Its SCRAM salt is sent to everybody who asks.
    fn key(&self) -> hmac::Key {
        let secret = Zeroizing::new([&*self.salt, &*self.hash].concat());
        hmac::Key::new(hmac::HMAC_SHA256, &secret)
    }
}

impl Cost {
    fn params(self, output: usize) -> Option<argon2::Params> {
        argon2::Params::new(self.memory, self.time, self.lanes, Some(output)).ok()
    }
}

/// Names a user and the line that proved it: `line=HEX user=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) digest: Box<str>,
    pub(crate) user: Box<str>,
}

impl Reference {
    pub(crate) const METHOD: &'static str = "password";

    pub(crate) fn text(&self) -> String {
        format!("line={} user={}", self.digest, self.user)
    }

    /// Reads [`text`](Self::text).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (digest, user) = text.strip_prefix("line=")?.split_once(" user=")?;
        Some(Self {
            digest: digest.into(),
            user: user.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI";

    fn parse(text: &str) -> Result<Users, Error> {
        Users::parse(Path::new("users.passwd"), text.as_bytes())
    }

    #[test]
    fn lines_that_are_nearly_right_are_errors_with_their_number() {
        let good = format!("anna:$argon2id$v=19$m=19456,t=2,p=1${TAIL}");
        parse(&format!("# users\n\n{good}\n")).unwrap();
        for (line, word) in [
            ("anna".into(), "':'"),
            (":".into(), "empty"),
            (format!(":$argon2id$v=19$m=19456,t=2,p=1${TAIL}"), "empty"),
            ("anna:".into(), "PHC"),
            ("anna:secret".into(), "PHC"),
            (good.clone(), "twice"),
            (
                format!("{good}\r").replace("anna", "otto"),
                "carriage return",
            ),
            (format!(" anna{}", &good[4..]), "blank"),
            (format!("an\u{7}na{}", &good[4..]), "control"),
            (format!("*{}", &good[4..]), "'*'"),
            (
                good.replace("argon2id", "argon2i").replace("anna", "b"),
                "argon2id",
            ),
            (
                good.replace("v=19", "v=16").replace("anna", "b"),
                "version 19",
            ),
            (good.replace("v=19$", "").replace("anna", "b"), "version 19"),
            (
                good.replace("m=19456", "m=1024").replace("anna", "b"),
                "too weak",
            ),
            (good.replace("t=2", "t=1").replace("anna", "b"), "too weak"),
            (
                good.replace("m=19456", "m=4000000").replace("anna", "b"),
                "too much",
            ),
            (
                good.replace("t=2", "t=1000").replace("anna", "b"),
                "too much",
            ),
            (format!("b{}:", &good[4..]), "SCRAM verifier"),
            (
                format!("b{}:scram-sha-256$1$a$b$c", &good[4..]),
                "iteration",
            ),
            (good.replace(",p=1", "").replace("anna", "b"), "lacks"),
            (
                good.replace("p=1", "p=1,data=AAAA").replace("anna", "b"),
                "parameter",
            ),
            (
                good.replace("c29tZXNhbHRzb21lc2FsdA", "c2E")
                    .replace("anna", "b"),
                "",
            ),
        ] {
            let error = parse(&format!("{good}\n{line}")).expect_err(&line);
            assert_eq!(error.line_number(), Some(2), "{line:?}: {error}");
            assert!(error.to_string().contains(word), "{line:?}: {error}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_nobodys_name() {
        let good = format!("anna:$argon2id$v=19$m=19456,t=2,p=1${TAIL}");
        let users = parse(&format!("\u{feff}{good}")).unwrap();
        assert!(users.line("anna").is_some());
    }

    /// Each map has another seed, as each process has.
    #[test]
    fn what_strangers_cost_is_the_same_after_a_restart() {
        let key = format!("{}=", "A".repeat(43));
        let user = |name, time, iterations| {
            let verifier = format!("scram-sha-256${iterations}$AAAAAAAAAAA=${key}${key}");
            format!("{name}:$argon2id$v=19$m=19456,t={time},p=1${TAIL}:{verifier}\n")
        };
        let file = user("anna", 2, 50_000) + &user("otto", 3, 60_000);
        for _ in 0..64 {
            let users = parse(&file).unwrap();
            assert_eq!(users.stranger.cost.time, 3);
            assert_eq!(users.scram_iterations, 60_000);
        }
    }

    #[test]
    fn a_file_without_users_is_broken() {
        for text in ["", "\n", "# nobody\n"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("no users"), "{error}");
        }
    }

    #[test]
    fn a_reference_survives_being_written_and_read() {
        let reference = Reference {
            digest: "00ff".into(),
            user: "anna line= user=x".into(),
        };
        assert_eq!(Reference::parse(&reference.text()), Some(reference));
        assert_eq!(Reference::parse("anna"), None);
    }
}
