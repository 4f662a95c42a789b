//! `honed rollouts stats|export|forget`. The first two read beside a running daemon, without its lock.

mod forget;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use policy::PolicyVersion;
use ppo::rollout_log::{LogReader, LogStats, PageQuery, RolloutState};

use super::{ConfigArgs, Outcome, progress};
use crate::http::wire::{
    json,
    rollout::{RolloutRow, RolloutStats},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What to do with the log.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Count rollouts by state, version and reason, those included that had not trained when they left the log. What never reached
    /// it (`not_stored`, `queue_full`, `write_failed`) is counted by each daemon for itself, in `/metrics` only.
    Stats(StatsArgs),
    /// Write rollouts as JSON lines.
    Export(ExportArgs),
    /// Remove every exchange of a user and everything that they said; versions remember how much of what trained them is gone.
    Forget(forget::Args),
}

/// How to count.
#[derive(Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What to write, and where.
#[derive(Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// File to write, one that is there is not touched; standard output when absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only this version's.
    #[arg(long = "version", id = "of_version", value_name = "N")]
    of_version: Option<u64>,
    /// Only rollouts in this state.
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<RolloutState>,
}

fn state(word: &str) -> Result<RolloutState, String> {
    let states = || RolloutState::ALL.map(RolloutState::as_str).join(", ");
    RolloutState::parse(word).ok_or_else(|| format!("expected one of {}", states()))
}

pub(super) fn run(command: Command) -> Outcome {
    match command {
        Command::Stats(args) => stats(&args),
        Command::Export(args) => export(&args),
        Command::Forget(args) => forget::run(&args),
    }
}

/// The reader of the configured folder, or an error that names it.
pub(super) fn open(config: &ConfigArgs) -> Result<LogReader, Failure> {
    let data_dir = config.load()?.daemon.data_dir;
    if !Path::new(&data_dir).is_dir() {
        return Err(format!("there is no data directory {data_dir:?}; name it with --data-dir").into());
    }
    Ok(LogReader::open(Path::new(&data_dir))?)
}

fn stats(args: &StatsArgs) -> Outcome {
    let stats = open(&args.config)?.stats()?;
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", json(&RolloutStats::from(&stats)))?,
        false => table(&mut out, &stats)?,
    }
    Ok(())
}

fn table(out: &mut impl Write, stats: &LogStats) -> std::io::Result<()> {
    writeln!(out, "rollouts  {:>10}", stats.n_rollouts)?;
    writeln!(out, "feedback  {:>10}", stats.n_feedback)?;
    writeln!(out, "\nby state")?;
    for (state, n) in &stats.by_state {
        writeln!(out, "  {:<16}{n:>10}", state.as_str())?;
    }
    writeln!(out, "\nby version")?;
    for (version, n) in &stats.by_version {
        writeln!(out, "  {:<16}{n:>10}", version.to_string())?;
    }
    writeln!(out, "\nnot trained, by reason")?;
    for (reason, n) in &stats.dropped {
        writeln!(out, "  {:<16}{n:>10}", reason.as_str())?;
    }
    Ok(())
}

fn export(args: &ExportArgs) -> Outcome {
    let reader = open(&args.config)?;
    let bar = progress::bar(reader.stats()?.n_rollouts, "exporting rollouts");
    let query = PageQuery { version: args.of_version.map(PolicyVersion), state: args.state, ..PageQuery::default() };
    // Of standard output it stays bare, so that a closed pipe is known for what it is.
    let told = |error: io::Error| match &args.out {
        Some(path) => format!("{}: {error}", path.display()).into(),
        None => Failure::from(error),
    };
    let mut out: Box<dyn Write> = match &args.out {
        Some(path) if path.is_file() || path.is_dir() => {
            return Err(format!("{} exists already", path.display()).into());
        }
        // A pipe or a device is there to be written to.
        Some(path) if path.exists() => Box::new(BufWriter::new(File::options().write(true).open(path).map_err(told)?)),
        Some(path) => Box::new(BufWriter::new(File::create_new(path).map_err(told)?)),
        None => Box::new(BufWriter::new(io::stdout().lock())),
    };
    for row in reader.export(query) {
        writeln!(out, "{}", json(&RolloutRow::from(row?))).map_err(told)?;
        bar.inc(1);
    }
    out.flush().map_err(told)?;
    bar.finish_and_clear();
    Ok(())
}
