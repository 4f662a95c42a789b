//! Measurements that anybody can repeat; each prints one line of JSON.

mod child;
mod load;
mod ppo;
mod serve;
mod swap;
mod updates;

use clap::{Subcommand, ValueEnum};

use crate::cli::Outcome;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Tokens per second and latencies, alone and beside busy threads, or (--with-updates) beside the learner at work.
    Serve(serve::Args),
    /// One PPO update on random weights: the arguments and the keys of the PyTorch peer's script.
    Ppo(ppo::Args),
    /// Version swaps under live streams: the longest token gap, failed requests.
    Swap(swap::Args),
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Serve(args) if args.with_updates => updates::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Ppo(args) => ppo::run(&args),
        Command::Swap(args) => swap::run(&args),
    }
}

/// Where the tensors of a bench live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dtype {
    /// 32 bits.
    F32,
    /// bf16 products over f32 weights.
    Bf16,
}

impl Dtype {
    fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
        }
    }
}
