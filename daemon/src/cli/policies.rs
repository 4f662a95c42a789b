//! `honed policies list|show|diff|activate|export|prune`.

mod change;
mod export;
mod show;

use std::io::Write;

use clap::{Args, Subcommand};
use ppo::rollout_log::VersionRow;

use super::{ConfigArgs, Outcome, rollouts};
use crate::http::wire::{json, policy::PolicyRow};

/// What to do with the versions.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List every version with its state and what trained it.
    List(ListArgs),
    /// Show one version: where it comes from, its file, its numbers.
    Show(show::ShowArgs),
    /// Lay two versions side by side: their numbers, and the knobs that were not the same.
    Diff(show::DiffArgs),
    /// Make a retained version live; rollback. Where a daemon runs, it does so without dropping a request.
    Activate(change::ActivateArgs),
    /// Write one version as a whole model file; of an adapter, merged with version 0.
    Export(export::Args),
    /// Remove the files of old versions, where no daemon runs. Never version 0, never the live one.
    Prune(change::PruneArgs),
}

/// How to list.
#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// One line of JSON a version instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list(&args),
        Command::Show(args) => show::show(&args),
        Command::Diff(args) => show::diff(&args),
        Command::Activate(args) => change::activate(&args),
        Command::Export(args) => export::run(&args),
        Command::Prune(args) => change::prune(&args),
    }
}

fn list(args: &ListArgs) -> Outcome {
    let rows = rollouts::open(&args.config)?.versions()?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(out, "{:<12}{:<12}{:<12}{:>9}  {:<14}reason", "version", "state", "parent", "rollouts", "digest")?;
    }
    for row in rows {
        match args.json {
            true => writeln!(out, "{}", json(&PolicyRow::new(row, None)))?,
            false => writeln!(out, "{}", line(&row))?,
        }
    }
    Ok(())
}

fn line(row: &VersionRow) -> String {
    let parent = row.parent.map_or_else(|| "-".to_owned(), |parent| parent.to_string());
    let digest: String = row.digest.chars().take(12).collect();
    let reason = row.reason.as_deref().unwrap_or("");
    format!(
        "{:<12}{:<12}{parent:<12}{:>9}  {digest:<14}{reason}",
        row.version.to_string(),
        row.state.as_str(),
        row.n_rollouts
    )
    .trim_end()
    .to_owned()
}
