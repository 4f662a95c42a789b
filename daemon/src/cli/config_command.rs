//! `honed config check|print`.

use clap::Subcommand;

use super::{ConfigArgs, Outcome, say};

/// What to do with the configuration.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Exit with 0 when the configuration is valid.
    Check(ConfigArgs),
    /// Print every knob with its value and who decided it.
    Print(ConfigArgs),
}

pub(super) fn run(command: Command) -> Outcome {
    match command {
        Command::Check(args) => {
            args.load()?;
            say::answer("the configuration is valid")?;
        }
        Command::Print(args) => say::answer(args.load()?.print().trim_end())?,
    }
    Ok(())
}
