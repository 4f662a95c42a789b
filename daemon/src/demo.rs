//! The demonstration: a tiny world, a small model built from nothing in it, and a run in which PPO improves that model
//! while it serves.
//!
//! The run is a client like any other: it starts the daemon on a free port and speaks HTTP with it. Nothing about the
//! result is fixed in code; what it reports it has measured.

mod args;
pub mod artefacts;
mod client;
mod encoder;
mod error;
mod evaluation;
mod progress;
pub(crate) mod report;
mod run;
mod scratch;
mod story;
mod traffic;
pub mod world;

use std::path::{Path, PathBuf};

pub use args::Args;
pub use error::DemoError;

use self::{error::Result, progress::Progress};
use crate::{cli::say, writable::check_writable};

/// Where `--from-scratch` writes when nothing else is said.
const BUILT: &str = "honed-artefacts";

/// Runs the demonstration and writes what was asked for.
///
/// # Errors
/// When the daemon does not start, a request of the demonstration itself fails, or a file cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    let built = args.from_scratch.then(|| PathBuf::from(BUILT));
    let artefacts = args.artefacts.clone().or(built);
    if let (true, Some(folder)) = (args.from_scratch, &artefacts) {
        scratch::build(args.seed, folder, &progress)?;
        if args.build_only {
            return Ok(());
        }
    }
    // Before minutes of work.
    for path in std::iter::once(&args.report).chain(&args.json) {
        check_writable(path).map_err(DemoError::io(path))?;
    }
    let story = run::run(args, artefacts.as_deref(), &progress)?;
    // First: it is all that is left where a file cannot be written any more.
    say::show(format_args!("\n{}", story.table()));
    write(&args.report, &report::render(&story))?;
    if let Some(path) = &args.json {
        write(path, &story.json())?;
    }
    say::show(format_args!("  report: {}", args.report.display()));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(DemoError::io(path))
}
