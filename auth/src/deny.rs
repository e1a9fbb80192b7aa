//! `deny-fingerprints`: certificates that are refused whatever their CA says, until its CRL does.
//!
//! One SHA-256 of a certificate's DER on a line, 64 hexadecimal digits, with or without colons; `#`
//! begins a comment. A file without any is broken: what was denied must not come back because a
//! file was emptied.

use std::collections::HashSet;
use std::path::Path;

use crate::der::hex;
use crate::{Error, file};

/// Largest file, in bytes: some four million fingerprints.
const MAX_FILE: u64 = 256 << 20;

/// The list, frozen; a reload makes a new one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denied(HashSet<[u8; 32]>);

impl Denied {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// A file that is missing, empty or has a broken line.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(path, &file::read(path, MAX_FILE)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let remedy =
            "write 64 hexadecimal digits: openssl x509 -noout -fingerprint -sha256 -in FILE";
        let text =
            std::str::from_utf8(bytes).map_err(|_| Error::file(path, "is not text", remedy))?;
        let mut denied = HashSet::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let fingerprint = unhex(&line.replace(':', ""))
                .ok_or_else(|| Error::line(path, at + 1, "is no SHA-256 fingerprint", remedy))?;
            denied.insert(fingerprint);
        }
        if denied.is_empty() {
            return Err(Error::file(
                path,
                "has no fingerprints",
                "leave deny-fingerprints out of the configuration if nothing is denied",
            ));
        }
        Ok(Self(denied))
    }

    /// Whether a certificate with this SHA-256 is refused.
    pub(crate) fn has(&self, fingerprint: &[u8; 32]) -> bool {
        self.0.contains(fingerprint)
    }

    /// The same for 64 lower-case digits.
    pub(crate) fn has_hex(&self, fingerprint: &str) -> bool {
        unhex(fingerprint).is_some_and(|fingerprint| self.has(&fingerprint))
    }
}

/// 64 hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let (high, low) = text.split_at_checked(32)?;
    let half = |text: &str| {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(u128::to_be_bytes)
    };
    let mut out = [0; 32];
    let bytes = half(high)?.into_iter().chain(half(low)?);
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = from;
    }
    Some(out)
}

/// What a refusal says.
pub(crate) fn denied(fingerprint: &[u8; 32]) -> String {
    format!(
        "the certificate {} is on the list deny-fingerprints",
        hex(fingerprint)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_tools_write_them() {
        let parse = |text: &str| Denied::parse(Path::new("deny"), text.as_bytes());
        let digits = "0aF1".repeat(16);
        let colons: Vec<_> = (0..32).map(|_| "ab").collect();
        let text = format!("# lost\n{digits} # pump\n\n {} \n", colons.join(":"));
        let denied = parse(&text).unwrap();
        assert!(denied.has(&[0xab; 32]));
        assert!(denied.has_hex(&digits.to_lowercase()));
        assert!(!denied.has(&[0; 32]) && !denied.has_hex("x") && !denied.has_hex(""));
        for (text, line) in [
            ("", None),
            ("# nothing\n", None),
            ("#\nab\n", Some(2)),
            (&format!("{digits}0\n"), Some(1)),
            (&format!("+{}\n", &digits[1..]), Some(1)),
        ] {
            assert_eq!(parse(text).unwrap_err().line_number(), line, "{text:?}");
        }
    }
}
