//! Evaluations that say whether the learner behaves as the literature says it must.

mod arm;
mod corpus;
mod crew;
mod experiment;
mod figure;
mod judge;
mod lines;
mod measure;
mod outcome;
mod progress;
mod recipe;
mod sampler;
mod shapes;
mod start;
mod table;
mod verdict;
mod world;

use clap::Subcommand;

use crate::cli::Outcome;

/// What to evaluate.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Six shapes of RLHF in a toy world, made by the production code: a table, a chart, and a verdict each.
    Shapes(shapes::Args),
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Shapes(args) => shapes::run(&args),
    }
}

/// Short for results here.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
