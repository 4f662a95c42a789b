//! Words for whoever called: an answer on standard output, everything else on standard error.
//!
//! `println!` and its like panic once nobody reads any more, and `honed train … 2>&1 | head` would end a run of hours at its third
//! line. The crate denies them; what is lost with a line is for whoever writes it to say.

use std::{
    fmt::Display,
    io::{self, Write, stderr, stdout},
};

/// A line of the answer that a command is for. Where nobody takes it, the command has nothing left to do.
///
/// # Errors
/// Whatever standard output says; `main` takes a closed pipe for a good end.
pub(crate) fn answer(text: impl Display) -> io::Result<()> {
    writeln!(stdout().lock(), "{text}")
}

/// A line on standard output of work that goes on, or is done, whether anybody reads it or not.
pub(crate) fn show(text: impl Display) {
    // Nobody is left to be told that nobody reads.
    let _ = answer(text);
}

/// A line on standard error.
pub(crate) fn tell(text: impl Display) {
    // As above.
    let _ = writeln!(stderr().lock(), "{text}");
}
