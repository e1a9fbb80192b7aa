//! What is wrong with a file or a setting, for the person who has to mend it.

use std::fmt;
use std::path::{Path, PathBuf};

/// A broken file or setting: where, what, and what to do about it. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    file: Option<PathBuf>,
    line: Option<usize>,
    problem: String,
    remedy: &'static str,
}

impl Error {
    /// A problem with a whole file.
    pub(crate) fn file(file: &Path, problem: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            file: Some(file.to_owned()),
            line: None,
            problem: problem.into(),
            remedy,
        }
    }

    /// A problem with one line of a file, counted from 1.
    pub(crate) fn line(
        file: &Path,
        line: usize,
        problem: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self {
            line: Some(line),
            ..Self::file(file, problem, remedy)
        }
    }

    /// A problem with a setting; `problem` begins with its key.
    pub(crate) fn setting(problem: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            file: None,
            line: None,
            problem: problem.into(),
            remedy,
        }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The line in it, counted from 1, where there is one.
    #[must_use]
    pub fn line_number(&self) -> Option<usize> {
        self.line
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        self.remedy
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

impl std::error::Error for Error {}
