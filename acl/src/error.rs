//! What is wrong with a policy, for the person who wrote it: where, what, and what to do.

use std::fmt;
use std::sync::Arc;

/// A mistake that keeps a policy from being loaded. Displays as `file:line: message; remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The file, as it was named to the loader.
    pub file: Arc<str>,
    /// The line, counted from 1; 0 when the mistake is the file's as a whole.
    pub line: u32,
    /// Where on the line, in characters counted from 1, if one place is to blame.
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Something in a policy that is allowed but probably not meant. Displays like a [`PolicyError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyWarning {
    /// The file, as it was named to the loader.
    pub file: Arc<str>,
    /// The line, counted from 1; 0 when it is about the file as a whole.
    pub line: u32,
    /// What is odd.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.file, self.line, &self.message, &self.remedy)
    }
}

impl std::error::Error for PolicyError {}

impl fmt::Display for PolicyWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.file, self.line, &self.message, &self.remedy)
    }
}

fn show(
    f: &mut fmt::Formatter<'_>,
    file: &str,
    line: u32,
    message: &str,
    remedy: &str,
) -> fmt::Result {
    match line {
        0 => write!(f, "{file}: {message}; {remedy}"),
        _ => write!(f, "{file}:{line}: {message}; {remedy}"),
    }
}

/// A complaint that does not know its place yet.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub(crate) message: String,
    pub(crate) remedy: String,
}

impl Complaint {
    pub(crate) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn at(self, file: &Arc<str>, line: u32, column: Option<u32>) -> PolicyError {
        PolicyError {
            file: Arc::clone(file),
            line,
            column,
            message: self.message,
            remedy: self.remedy,
        }
    }
}
