//! `honed train ppo`: PPO over a file of prompts, with the daemon's own engine, log, scorer, learner and publisher.
//!
//! Only the traffic is different: instead of clients, a driver draws answers to the file's prompts, one round at a time, and
//! waits for the learner to publish before it draws the next. So nothing is ever stale, and what is left behind is a
//! data folder like any other. Which prompt comes next, and with which seed, follows from what is in that folder, so that a run
//! in pieces is the run in one (`position`).

mod driver;
mod ended;
mod halt;
mod handover;
mod position;
mod settings;
mod table;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use config::Config;
use policy::{
    TokenId,
    memory::{MemoryPlan, weight_bytes},
};
use ppo::replay::Archive;
use reward::Rules;

use self::{driver::Driver, ended::Ended};
use super::{
    base::Base,
    error::{Result, TrainError},
    footprint::{cache_bytes, judge_shape},
    interrupt::Interrupt,
    options::{count, not_greedy},
    output::folder_of,
};
use crate::{app, cli::say, shutdown::Deadline, telemetry};

/// `honed train ppo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// GGUF file of the supervised model (Llama architecture): where the policy starts, and the reference of its KL
    /// penalty. Without it, the built-in one, judged by the built-in reward model unless one is named.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Reward model, as `honed train reward` writes it.
    #[arg(long, value_name = "FILE", conflicts_with = "reward_url")]
    reward_model: Option<PathBuf>,
    /// Reward server that speaks OpenRLHF's shape.
    #[arg(long, value_name = "URL")]
    reward_url: Option<String>,
    /// Prompts.
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Data folder of the log and the versions.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on where a guard rail has halted learning in an earlier run.
    #[arg(long)]
    resume: bool,
    /// Updates after which the run ends, beside those that the folder has seen already.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count)]
    updates: usize,
    /// Answers to each prompt of a round; ppo.rollouts_per_update, a multiple of it, says how many answers a round has in
    /// all.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    samples: u32,
    /// Tokens of an answer at most; what is cut off there gets ppo.missing_eos_score.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Sampling temperature, from 0.00001 on: below it answers are greedy, and have no probability to learn from
    /// (InstructGPT C.4: 1).
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = not_greedy)]
    temperature: f64,
    /// Configuration file (TOML) for the knobs of [policy], [reward] and [ppo]; of [daemon] only drain_s and log_format count
    /// here.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any knob; may be repeated, for example --set ppo.kl_coef=0.02.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    policy::threads::serve_nobody();
    let config = settings::of(args)?;
    telemetry::init_logging(&config.daemon.log_format, "warn");
    check_folder(&args.out)?;
    let model = &config.policy.model;
    let base = Base::open((!model.is_empty()).then_some(Path::new(model)))?;
    let prompts = prompts(args, &base, &config)?;
    let plan = plan(args, &base, &config, &prompts)?;
    say::tell(&plan);
    plan.check()?;
    let interrupt = Interrupt::listen().map_err(TrainError::io(&args.out))?;
    let newest = Ended::newest(&args.out);
    let services = app::services(&config).map_err(Box::new)?;
    let ended = Driver::new(args, &config, &services, &prompts, &interrupt)?.after(newest).run();
    let deadline = Deadline::after(Duration::from_secs(config.daemon.drain_s));
    services.engine.shutdown(deadline.drain());
    app::close(&services, deadline);
    ended
}

fn check_folder(folder: &Path) -> Result<()> {
    let parent = folder_of(folder);
    let refuse = |reason: String| Err(TrainError::Output { path: folder.to_owned(), reason });
    if folder.is_file() {
        return refuse("it is a file, and a data folder is needed".to_owned());
    }
    if !folder.exists() && !parent.is_dir() {
        return refuse(format!("there is no folder {}", parent.display()));
    }
    Ok(())
}

fn prompts(args: &Args, base: &Base, config: &Config) -> Result<Vec<Vec<TokenId>>> {
    let vocabulary = base.vocabulary()?;
    let window = match config.policy.context_tokens as usize {
        0 => base.shape.context,
        configured => configured,
    };
    let room = window.saturating_sub(args.max_tokens as usize);
    if room < 2 {
        let reason = format!("--max-tokens {} leaves no room for a prompt in {window} tokens", args.max_tokens);
        return Err(TrainError::Data { path: args.prompts.clone(), reason });
    }
    let (prompts, tally) = super::prompts(&args.prompts, &vocabulary, room)?;
    say::tell(&tally);
    Ok(prompts)
}

/// Policy, reference, value and reward model, the copies that an update may have to go back to, and the engine.
fn plan(args: &Args, base: &Base, config: &Config, prompts: &[Vec<TokenId>]) -> Result<MemoryPlan> {
    let shape = &base.shape;
    let judges = Rules::new(&config.reward).needs_model();
    let judge = Some(Path::new(&config.reward.model)).filter(|path| judges && !path.as_os_str().is_empty());
    let value = match judge {
        Some(path) => judge_shape(path, shape)?,
        None => shape.clone(),
    };
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + args.max_tokens as usize;
    let file = std::fs::metadata(&base.path).map_err(TrainError::io(&base.path))?.len();
    // The live version, version 0 and a candidate, each with its cache of keys and values in 16 bits.
    let served = 3 * (file + cache_bytes(shape, &config.policy));
    let others = [
        ("version 0 and the reward model as files", weight_bytes(shape) + weight_bytes(&value)),
        ("engine: three versions with their caches", served),
    ];
    let reward = judges.then_some(&value);
    // A folder that is there already may go on with another rank than is configured; what is wrong with it is told when it opens.
    let archive = Archive::open(&args.out).ok();
    let knobs = archive.and_then(|archive| archive.knobs(&config.ppo).ok()).unwrap_or_else(|| config.ppo.clone());
    Ok(::ppo::plan::plan(shape, &value, reward, &knobs, longest, &others)?)
}
