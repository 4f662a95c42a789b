//! `honed eval shapes`: the command.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use super::{Result, experiment, figure, lines, outcome::SeedOutcome, recipe::Recipe, table, verdict};
use crate::{
    cli::{Misuse, Outcome, say},
    writable::check_writable,
};

/// Share of the full sizes that `--quick` takes.
const QUICK: f64 = 0.1;

/// Six shapes of RLHF in a toy world.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seeds of world, weights and dice; a shape holds when it holds in every one of them.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    first_seed: u64,
    /// A tenth of everything, to see that it works: most shapes need more.
    #[arg(long)]
    quick: bool,
    /// This share of everything, in (0, 1].
    #[arg(long, default_value_t = 1.0, conflicts_with = "quick", value_parser = share)]
    share: f64,
    /// Folder of the chart, shapes.svg.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Write a line of JSON for each model, reward model and shape to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let in_range = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    in_range.ok_or_else(|| "expected a number above 0, at most 1".to_owned())
}

pub(super) fn run(args: &Args) -> Outcome {
    let share = if args.quick { QUICK } else { args.share };
    let last_seed = args.first_seed.checked_add(args.seeds - 1);
    let last_seed = last_seed.ok_or_else(|| Misuse("--first-seed is too large".to_owned()))?;
    // What cannot be written is found out before, not after a quarter of an hour.
    let at = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(&args.out).map_err(|error| at(&args.out, error))?;
    let chart = args.out.join("shapes.svg");
    for path in std::iter::once(&chart).chain(&args.json) {
        check_writable(path).map_err(|error| at(path, error))?;
    }
    let started = Instant::now();
    let seeds: Vec<u64> = (args.first_seed..=last_seed).collect();
    let outcomes: Vec<SeedOutcome> = experiment::run(&seeds, &Recipe::of_share(share))?;
    let verdicts = verdict::all(&outcomes);
    let seconds = started.elapsed().as_secs_f64();
    // First: it is all that is left where a file cannot be written any more.
    say::show(table::render(&seeds, &verdicts).trim_end());
    write(&chart, &figure::render(&outcomes, &verdicts))?;
    if let Some(path) = &args.json {
        write(path, &lines::render(&outcomes, &verdicts, seconds))?;
    }
    say::show(format_args!("{seconds:.0} s; chart: {}", chart.display()));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?)
}
