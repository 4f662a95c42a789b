//! Progress on standard error, for everything that takes longer than two seconds; nothing when it is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `len` steps.
pub(crate) fn bar(len: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<28} {wide_bar} {pos}/{len} {elapsed_precise} eta {eta}");
    // indicatif draws to standard error and stays silent when that is not a terminal.
    ProgressBar::new(len).with_style(style.expect("the template is a constant")).with_message(what)
}
