//! Progress for people: bars on a terminal, a plain line every few seconds elsewhere.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::say;

/// Seconds between two plain lines.
const EVERY: Duration = Duration::from_secs(5);

/// How to show progress.
pub(super) struct Progress {
    terminal: bool,
}

/// One thing that progresses.
pub(super) struct Bar {
    name: &'static str,
    bar: Option<ProgressBar>,
    /// When the last plain line was written; the first comes at once.
    last: Mutex<Option<Instant>>,
}

impl Progress {
    /// Bars when standard error is a terminal.
    pub(super) fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal() }
    }

    /// Starts a bar.
    pub(super) fn bar(&self, name: &'static str) -> Bar {
        let style = ProgressStyle::with_template("{prefix:>14} {bar:32.cyan/blue} {pos}/{len}  {msg}  {elapsed}")
            .expect("the template above is well-formed");
        let bar = self.terminal.then(|| ProgressBar::new(0).with_prefix(name).with_style(style));
        Bar { name, bar, last: Mutex::new(None) }
    }

    /// Says something.
    pub(super) fn line(&self, text: &str) {
        say::tell(text);
    }
}

impl Bar {
    /// Where it stands.
    pub(super) fn set(&self, position: u64, length: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(length);
            bar.set_position(position);
            bar.set_message(message.to_owned());
            return;
        }
        let mut last = self.last.lock().expect("no holder of this lock panics");
        if last.is_none_or(|at| at.elapsed() >= EVERY) || position >= length {
            say::tell(format_args!("{:>14} {position}/{length}  {message}", self.name));
            *last = Some(Instant::now());
        }
    }

    /// It is done.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
