//! `honed eval shapes`: the command.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use super::{Result, experiment, figure, lines, outcome::SeedOutcome, recipe::Recipe, table, verdict};
use crate::cli::Outcome;

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
    #[arg(long, default_value_t = 1.0, conflicts_with = "quick")]
    share: f64,
    /// Folder of the chart, shapes.svg.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Write a line of JSON for each model, reward model and shape to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let share = if args.quick { QUICK } else { args.share };
    if !(share > 0.0 && share <= 1.0) {
        return Err(format!("--share must lie in (0, 1], got {share}").into());
    }
    // A folder that cannot be written is found out before, not after a quarter of an hour.
    std::fs::create_dir_all(&args.out).map_err(|error| format!("{}: {error}", args.out.display()))?;
    let started = Instant::now();
    let last_seed = args.first_seed.checked_add(args.seeds - 1).ok_or("--first-seed is too large")?;
    let seeds: Vec<u64> = (args.first_seed..=last_seed).collect();
    let outcomes: Vec<SeedOutcome> = experiment::run(&seeds, &Recipe::of_share(share))?;
    let verdicts = verdict::all(&outcomes);
    let seconds = started.elapsed().as_secs_f64();
    let chart = args.out.join("shapes.svg");
    write(&chart, &figure::render(&outcomes, &verdicts))?;
    if let Some(path) = &args.json {
        write(path, &lines::render(&outcomes, &verdicts, seconds))?;
    }
    print!("{}", table::render(&seeds, &verdicts));
    println!("{seconds:.0} s; chart: {}", chart.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?)
}
