//! The command line of `honed demo`.

use std::path::PathBuf;

/// Watch a small model get better under live traffic.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Seed of traffic, sampling and learner; with --from-scratch, of the world and the weights.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Versions to promote before the run ends.
    #[arg(long, default_value_t = 45)]
    pub updates: u64,
    /// Seconds of live traffic after which the run ends whatever has been promoted.
    #[arg(long, default_value_t = 230)]
    pub seconds: u64,
    /// Write the summary to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report to this file.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub report: PathBuf,
    /// Keep the rollout log and the versions in this folder (default: a temporary one, removed at the end).
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Build the default model from nothing into --artefacts first, and run the demonstration with it.
    #[arg(long)]
    pub from_scratch: bool,
    /// Folder of the default model's policy.gguf and reward.gguf: --from-scratch writes it (default: honed-artefacts); without
    /// --from-scratch it takes the place of the built-in model.
    #[arg(long, value_name = "DIR")]
    pub artefacts: Option<PathBuf>,
    /// Stop after --from-scratch.
    #[arg(long, requires = "from_scratch")]
    pub build_only: bool,
    /// Measure on validation instead of test prompts: for choosing settings, so that the test prompts stay unseen.
    #[arg(long)]
    pub validate: bool,
    /// Change one knob of the daemon, for example ppo.kl_coef=0.1; repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}
