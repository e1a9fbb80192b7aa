//! `portcullis passwd`: the password file, edited with passwords that are never echoed.
//!
//! A password comes from the terminal, typed twice without echo, or is the first line of standard
//! input where that is no terminal. It never is an argument: those are visible to every user of
//! the machine and stay in the shell's history.
//!
//! The file itself, its format and its hashes: `portcullis_auth::password`.

use std::io::{self, BufRead, IsTerminal as _, Read as _, Write as _};

use portcullis_auth::password;
use portcullis_core::secret::Secret;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::cli::Passwd;

/// The longest password in bytes.
pub const MAX_PASSWORD: usize = 1024;

/// Why a password file was not changed.
#[derive(Debug, Error)]
pub enum Error {
    /// The file, its name for a user or its directory is not as it should be.
    #[error(transparent)]
    File(#[from] portcullis_auth::Error),
    /// The terminal or standard input cannot be read.
    #[error("the password cannot be read: {0}")]
    Input(#[from] io::Error),
    /// Nothing was typed.
    #[error("the password is empty; nothing is changed")]
    Empty,
    /// More than [`MAX_PASSWORD`] bytes.
    #[error("the password is longer than {MAX_PASSWORD} bytes; nothing is changed")]
    TooLong,
    /// The second entry was another.
    #[error("the two passwords differ; nothing is changed")]
    Different,
    /// Interrupted.
    #[error("interrupted; nothing is changed")]
    Interrupted,
}

/// Does what `portcullis passwd` was asked for; gives the text for standard output.
///
/// # Errors
///
/// Nothing is changed, and why.
pub fn run(arguments: &Passwd) -> Result<String, Error> {
    let file = &arguments.file;
    let Some(user) = arguments.user.as_deref() else {
        let users = password::list(file)?;
        let lines = users.iter().flat_map(|user| [user.as_str(), "\n"]);
        return Ok(lines.collect());
    };
    let done = if arguments.delete {
        password::delete(file, user)?;
        "removed"
    } else {
        let password = read(user)?;
        password::set(file, user, Secret::new(&password))?;
        "set"
    };
    Ok(format!(
        "{user:?} is {done}; a running broker takes it up on SIGHUP\n"
    ))
}

fn read(user: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let input = io::stdin();
    if !input.is_terminal() {
        return line(&mut input.lock());
    }
    let quiet = Quiet::start(&input)?;
    let ask = |prompt: String| {
        let mut screen = io::stderr();
        write!(screen, "{prompt}: ")?;
        screen.flush()?;
        let answer = line(&mut input.lock());
        // The newline was not echoed either.
        writeln!(screen)?;
        answer
    };
    let first = ask(format!("Password for {user}"))?;
    let second = ask("The same again".to_owned())?;
    drop(quiet);
    same(first, &second)
}

/// The next line, without its end.
fn line(input: &mut impl BufRead) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Room from the start: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD + 2));
    for byte in input.bytes() {
        match byte? {
            b'\n' => break,
            INTERRUPT => return Err(Error::Interrupted),
            byte if line.len() <= MAX_PASSWORD => line.push(byte),
            _ => return Err(Error::TooLong),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    match line.len() {
        0 => Err(Error::Empty),
        length if length > MAX_PASSWORD => Err(Error::TooLong),
        _ => Ok(line),
    }
}

fn same(first: Zeroizing<Vec<u8>>, second: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    if first.as_slice() == second {
        Ok(first)
    } else {
        Err(Error::Different)
    }
}

/// Ctrl-C as a character.
const INTERRUPT: u8 = 0x03;

/// A terminal without echo, until this is dropped.
///
/// Signals from the keyboard are off too, since one would end the process and leave the terminal
/// silent; Ctrl-C ends the line instead, and [`line`] sees it.
struct Quiet<'a> {
    terminal: &'a io::Stdin,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn start(terminal: &'a io::Stdin) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes &= !(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG);
        silent.local_modes |= LocalModes::ICANON;
        silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // Nothing better can be done with a terminal that refuses.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(input: &[u8]) -> Result<Vec<u8>, String> {
        let mut input = input;
        line(&mut input)
            .map(|line| line.to_vec())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_password_is_the_first_line_without_its_end() {
        for (input, password) in [
            (&b"secret\n"[..], &b"secret"[..]),
            (b"secret", b"secret"),
            (b"secret\r\n", b"secret"),
            (b"secret\nmore\n", b"secret"),
            (b" with blanks \n", b" with blanks "),
            (b"\xff\x00\n", b"\xff\x00"),
        ] {
            assert_eq!(read_line(input).as_deref(), Ok(password), "{input:?}");
        }
        let longest = [b'x'; MAX_PASSWORD];
        assert_eq!(read_line(&longest).as_deref(), Ok(&longest[..]));
    }

    #[test]
    fn what_is_no_password_is_refused() {
        for (input, error) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"\r\n", "is empty"),
            (b"se\x03", "interrupted"),
            (&[b'x'; MAX_PASSWORD + 1], "longer than 1024 bytes"),
            (&[b'x'; 8 * MAX_PASSWORD], "longer than 1024 bytes"),
        ] {
            let refused = read_line(input).unwrap_err();
            assert!(refused.contains(error), "{refused}");
        }
    }

    #[test]
    fn both_entries_have_to_be_the_same() {
        let typed = || Zeroizing::new(b"secret".to_vec());
        assert!(same(typed(), b"secret").is_ok());
        assert!(matches!(same(typed(), b"Secret"), Err(Error::Different)));
    }

    #[test]
    fn users_are_listed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("users.passwd");
        for user in ["anna", "ben"] {
            password::set(&file, user, Secret::new(b"secret")).unwrap();
        }
        let ask = |user: Option<&str>, delete| Passwd {
            file: file.clone(),
            user: user.map(str::to_owned),
            delete,
            list: user.is_none(),
        };
        assert_eq!(run(&ask(None, false)).unwrap(), "anna\nben\n");
        let removed = run(&ask(Some("anna"), true)).unwrap();
        assert!(removed.starts_with("\"anna\" is removed"), "{removed}");
        assert_eq!(run(&ask(None, false)).unwrap(), "ben\n");
    }
}
