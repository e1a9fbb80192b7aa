//! Bytes that must not reach a log.

use std::fmt;

/// Borrowed secret bytes: a password or a token. Cannot be printed or serialised by accident;
/// [`Secret::expose`] is the one way to the content, so one search finds every use.
#[derive(Clone, Copy)]
pub struct Secret<'a>(&'a [u8]);

impl<'a> Secret<'a> {
    /// Marks `bytes` as secret.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the code that compares or verifies them.
    #[must_use]
    pub fn expose(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
