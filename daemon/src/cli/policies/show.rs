//! `honed policies show N` and `honed policies diff A B`.

use std::{collections::BTreeSet, io::Write, path::Path};

use policy::PolicyVersion;
use ppo::{
    registry::versions_folder,
    rollout_log::{MadeVersion, UpdateRow, UsedByUpdate},
};

use crate::{
    cli::{ConfigArgs, Outcome, clock::utc, rollouts},
    http::wire::{
        json,
        policy::{PolicyRow, PolicyWithRollouts},
    },
};

/// Which version.
#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// Number of the version.
    version: u64,
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Name each rollout of the update that made it.
    #[arg(long)]
    rollouts: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Which two.
#[derive(clap::Args)]
pub(crate) struct DiffArgs {
    /// Number of the one.
    from: u64,
    /// Number of the other.
    to: u64,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A version, where its file lies, the update that made it, and what that used.
struct Known {
    version: MadeVersion,
    update: Option<UpdateRow>,
    used: Vec<UsedByUpdate>,
}

pub(super) fn show(args: &ShowArgs) -> Outcome {
    let known = known(&args.config, args.version)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let row = PolicyRow::new(known.version, None);
        match args.rollouts {
            true => writeln!(out, "{}", json(&PolicyWithRollouts::new(row, known.used)))?,
            false => writeln!(out, "{}", json(&row))?,
        }
        return Ok(());
    }
    for (name, value) in known.facts() {
        writeln!(out, "{name:<12}{value}")?;
    }
    for (name, value) in &known.version.row.numbers {
        writeln!(out, "  {name:<44}{:>16}", readable(*value))?;
    }
    for rollout in known.used.iter().filter(|_| args.rollouts) {
        writeln!(out, "{}", told(rollout))?;
    }
    Ok(())
}

pub(super) fn diff(args: &DiffArgs) -> Outcome {
    let (from, to) = (known(&args.config, args.from)?, known(&args.config, args.to)?);
    let mut out = std::io::stdout().lock();
    for ((name, a), (_, b)) in from.facts().into_iter().zip(to.facts()) {
        writeln!(out, "{name:<12}{a:<36}{b}{}", if a == b { "  (the same)" } else { "" })?;
    }
    let [a, b] = [&from, &to].map(|known| &known.version.row);
    let names: BTreeSet<&String> = a.numbers.keys().chain(b.numbers.keys()).collect();
    writeln!(out, "\n{:<46}{:>14}{:>14}{:>14}", "", a.version.to_string(), b.version.to_string(), "change")?;
    for name in names {
        let [a, b] = [&from, &to].map(|known| known.version.row.numbers.get(name).copied());
        let shown = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), readable);
        let change = a.zip(b).map(|(a, b)| b - a);
        writeln!(out, "  {name:<44}{:>14}{:>14}{:>14}", shown(a), shown(b), shown(change))?;
    }
    let configs = [&from, &to].map(|known| known.update.as_ref().map_or("", |update| update.start.config.as_str()));
    for line in changed_knobs(configs) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Six decimals, or what would be lost behind them (a learning rate, say) as a power of ten.
fn readable(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 { format!("{x:.4e}") } else { format!("{x:.6}") }
}

/// Knobs that were not the same when the two were trained.
fn changed_knobs([a, b]: [&str; 2]) -> Vec<String> {
    if a.is_empty() || b.is_empty() {
        return Vec::new();
    }
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.split_once('=').filter(|(name, _)| *name == key));
        line.map_or_else(|| "-".to_owned(), |(_, value)| value.to_owned())
    };
    let keys: BTreeSet<&str> =
        [a, b].iter().flat_map(|text| text.lines()).filter_map(|l| Some(l.split_once('=')?.0)).collect();
    let changed = keys.into_iter().map(|key| (key, value(a, key), value(b, key))).filter(|(_, a, b)| a != b);
    changed.map(|(key, a, b)| format!("{key:<46}{a:>14}{b:>14}")).collect()
}

fn known(config: &ConfigArgs, version: u64) -> Result<Known, Box<dyn std::error::Error + Send + Sync>> {
    let reader = rollouts::open(config)?;
    let version = PolicyVersion(version);
    let row = reader.version(version)?;
    let row = row.ok_or_else(|| format!("there is no {version}; `honed policies list` shows what there is"))?;
    let folder = versions_folder(Path::new(&config.load()?.daemon.data_dir));
    let update = reader.update_of(version)?;
    let used = match &update {
        Some(update) => reader.used_by(update.start.number)?,
        None => Vec::new(),
    };
    Ok(Known { version: reader.describe(row, &folder)?, update, used })
}

/// The id of a rollout and what became of it.
fn told(rollout: &UsedByUpdate) -> String {
    match &rollout.row {
        Some((id, state)) => format!("  rollout {:>8}  {}-{}  {state}", rollout.seq.0, id.request, id.index),
        None => format!("  rollout {:>8}  it has left the log", rollout.seq.0),
    }
}

impl Known {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let MadeVersion { row, bytes, making } = &self.version;
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            ("version", row.version.to_string()),
            ("state", row.state.as_str().to_owned()),
            ("parent", or_none(row.parent.map(|parent| parent.to_string()))),
            ("created", utc(row.created_ms)),
            ("file", or_none(bytes.map(|bytes| format!("{} ({bytes} bytes)", row.path.display())))),
            ("digest", row.digest.chars().take(32).collect()),
            (
                "average",
                or_none(row.averaged().map(|of| format!("of {} to {}, decay {}", of.first, of.last, of.decay))),
            ),
            ("update", or_none(self.update.as_ref().map(|update| update.start.number.to_string()))),
            ("config", or_none(making.as_ref().map(|making| making.config_digest.chars().take(32).collect()))),
            ("rollouts", row.n_rollouts.to_string()),
            ("scores", or_none(making.as_ref().map(|making| making.reward_versions.join(", ")))),
            ("reason", or_none(row.reason.clone())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_keep_their_digits() {
        let told = [2e-7, -1.25e-5, 1e-3, 0.0, 1.5, f64::INFINITY].map(readable);
        assert_eq!(told, ["2.0000e-7", "-1.2500e-5", "0.001000", "0.000000", "1.500000", "inf"]);
    }

    #[test]
    fn only_knobs_that_differ_are_told() {
        let changed = changed_knobs(["ppo.a=1\nppo.b=2\n", "ppo.b=3\nppo.a=1\nppo.c=4\n"]);
        assert_eq!(changed.len(), 2);
        assert!(changed[0].starts_with("ppo.b ") && changed[0].ends_with(" 3") && changed[1].starts_with("ppo.c "));
        assert!(changed_knobs(["", "ppo.a=1"]).is_empty(), "nothing is known of the one");
    }
}
