//! `honed train`: the three stages of InstructGPT from files, without a daemon: a supervised model from demonstrations, a
//! reward model from rankings, a policy from prompts.
//!
//! Each stage's file is what the next one and `honed serve` take. All of them go the same way: look at the arguments and
//! read every line of data before anything is loaded; show what memory it will take and refuse when there is too little;
//! train; write a whole file or none.

mod base;
mod dataset;
mod encode;
mod error;
mod footprint;
mod interrupt;
mod lora;
mod options;
mod output;
mod ppo;
mod prompts;
mod resume;
mod reward;
mod sft;
mod split;
mod weights;

use clap::Subcommand;

#[cfg(test)]
pub(crate) use error::TrainError;
pub(crate) use prompts::prompts;

use crate::cli::Outcome;

/// What to train.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Fine-tune on demonstrations; the result serves, and is where `reward` and `ppo` start.
    ///
    /// One JSON object a line: {"prompt", "completion"}, {"messages": [...]} that end with the assistant's answer, or
    /// {"text"} for documents. A prompt may be a text or a list of messages. Further keys are ignored.
    ///
    /// The result is a whole model, also with --lora-rank: it becomes version 0 of a data folder, whatever adapters are learnt
    /// beside it later.
    Sft(Box<sft::Args>),
    /// Train a reward model on rankings; the result is what `honed serve --set reward.model=FILE` takes.
    ///
    /// One JSON object a line: {"prompt", "responses": [K], "ranks": [K]} with 1 for the best and equal ranks for ties, or
    /// {"prompt", "chosen", "rejected"}. Such a pair may say how far apart its scores ought to be: "margin", a number as in TRL,
    /// or "strength" (see --margin-scale). With a key "worker" the agreement of the workers is measured too. Further keys are
    /// ignored, the "confidence" of OpenAI's comparisons among them: its source does not say what 1 to 9 mean.
    Reward(Box<reward::Args>),
    /// Train a policy with PPO on a file of prompts: answers are drawn, scored and learnt from as in the daemon.
    ///
    /// One JSON object a line: {"prompt"} or {"messages": [...]}. The folder given to --out is a data folder as `honed
    /// serve --data-dir` has it: training goes on where it stopped, and serving goes on from its last version.
    Ppo(Box<ppo::Args>),
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Sft(args) => sft::run(&args)?,
        Command::Reward(args) => reward::run(&args)?,
        Command::Ppo(args) => ppo::run(&args)?,
    }
    Ok(())
}
