//! What the commands print.
//!
//! Who reads it may stop before the end: `portcullis status | head -3`. Then the command ends, without
//! a word, as one whose answer did not arrive.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};

use crate::cli::Exit;

/// Prints a line on standard output, as `println!` does; see [`console`](crate::console).
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::console::print(::std::format_args!("{}\n", ::std::format_args!($($text)*)))
    };
}

/// Prints on standard output. Where that is closed or broken, the process ends with
/// [`Exit::Failed`].
pub fn print(text: Arguments<'_>) {
    if let Err(error) = io::stdout().lock().write_fmt(text) {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: standard output: {error}");
        }
        std::process::exit(Exit::Failed.code().into());
    }
}
