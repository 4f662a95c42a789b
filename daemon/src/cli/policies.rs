//! `honed policies list|show|diff|activate|export|prune`.

mod change;
mod export;
mod show;

use std::{io::Write, path::Path};

use clap::{Args, Subcommand};
use ppo::{
    registry::versions_folder,
    rollout_log::{MadeVersion, Making, VersionRow},
};

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
    let reader = rollouts::open(&args.config)?;
    let folder = versions_folder(Path::new(&args.config.load()?.daemon.data_dir));
    let mut out = std::io::stdout().lock();
    if !args.json {
        let head = ["version", "state", "parent", "rollouts", "bytes", "digest", "config", "scores", "reason"];
        writeln!(out, "{}", columns(head.map(str::to_owned)))?;
    }
    for row in reader.versions()? {
        let version = reader.describe(row, &folder)?;
        match args.json {
            true => writeln!(out, "{}", json(&PolicyRow::new(version, None)))?,
            false => writeln!(out, "{}", columns(cells(version)))?,
        }
    }
    Ok(())
}

fn cells(version: MadeVersion) -> [String; 9] {
    let MadeVersion { row, bytes, making } = version;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let short = |digest: &str| -> String { digest.chars().take(12).collect() };
    [
        row.version.to_string(),
        row.state.as_str().to_owned(),
        or_none(row.parent.map(|parent| parent.to_string())),
        row.n_rollouts.to_string(),
        or_none(bytes.map(|bytes| bytes.to_string())),
        short(&row.digest),
        or_none(making.as_ref().map(|making| short(&making.config_digest))),
        or_none(making.as_ref().and_then(judges)),
        remarks(&row),
    ]
}

/// What it averages, where it does, and the reason of its row.
fn remarks(row: &VersionRow) -> String {
    let averaged = row.averaged().map(|of| of.to_string());
    averaged.into_iter().chain(row.reason.clone()).collect::<Vec<_>>().join("; ")
}

/// Who judged, the first by name; it is one reward model, or one source of scores, in almost every round.
fn judges(making: &Making) -> Option<String> {
    let first = making.reward_versions.first()?;
    match making.reward_versions.len() {
        1 => Some(first.clone()),
        n => Some(format!("{first}+{}", n - 1)),
    }
}

/// At least two spaces apart, whatever is in them.
fn columns([version, state, parent, rollouts, bytes, digest, config, scores, reason]: [String; 9]) -> String {
    let line = format!(
        "{version:<12}{state:<12}{parent:<12}{rollouts:>9}{bytes:>14}  {digest:<14}{config:<14}{scores:<20}  {reason}"
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_judge_is_told() {
        let making = |names: &[&str]| Making {
            update: 1,
            config_digest: String::new(),
            reward_versions: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let told = [&[][..], &["feedback"], &["feedback", "model@ab"]].map(|names| judges(&making(names)));
        assert_eq!(told, [None, Some("feedback".to_owned()), Some("feedback+1".to_owned())]);
    }
}
