//! `honed bench ppo`: one PPO update on a random-weight model of a real shape, to be held against the PyTorch peer's script.
//!
//! The same work: old and reference log-probs and values of B ragged episodes, then epochs of minibatches over clipped
//! losses, clipping of norms and Adam on both models. No episode is filtered and no guard stops early, so nothing is saved.

use std::{ops::ControlFlow, time::Instant};

use ::ppo::{Models, Round, models::frozen, value_model};
use candle_core::Device;
use policy::{
    FinishReason, LogProb, PolicyVersion, Rollout, RolloutId, SampledToken, SamplingParams, TokenId,
    architecture::{Shape, llama},
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, WeightType},
    kernels,
    sequence_batch::{Sequence, SequenceBatch},
    threads,
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use reward::{Score, Scored, ScoredRollout};

use super::Dtype;
use crate::{
    cli::{Misuse, Outcome, progress, say},
    http::wire::{json, measurement},
};

/// The peer's arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Shape of policy, reference and value model.
    #[arg(long, value_enum, default_value = "smol135")]
    shape: Named,
    /// Episodes in the update.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Episodes in one optimiser step.
    #[arg(long, default_value_t = 4)]
    minibatch: usize,
    /// Passes over the episodes.
    #[arg(long, default_value_t = 1)]
    epochs: u32,
    /// Longest prompt; lengths are spread evenly from half of it to all of it.
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Longest response; its lengths likewise.
    #[arg(long, default_value_t = 64)]
    response: usize,
    /// Rank of low-rank adapters (LoRA) in place of full fine-tuning; 0: full.
    #[arg(long, default_value_t = 0)]
    lora_rank: usize,
    /// Type of the arithmetic.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// Where it runs: cpu, or with the feature `cuda` cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Updates measured, after one that warms up; the fastest counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Seed of weights and episodes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Another knob of the learner; may be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

/// The shapes of the peer's script: SmolLM2-135M, SmolLM2-360M, Llama-3.2-1B and a toy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Named {
    Tiny,
    Smol135,
    Smol360,
    Llama1b,
}

impl Named {
    fn name(self) -> &'static str {
        match self {
            Named::Tiny => "tiny",
            Named::Smol135 => "smol135",
            Named::Smol360 => "smol360",
            Named::Llama1b => "llama1b",
        }
    }

    fn shape(self) -> Shape {
        match self {
            Named::Tiny => Shape::llama(2048, 128, 4, 4, 2, 384),
            Named::Smol135 => Shape::llama(49152, 576, 30, 9, 3, 1536),
            Named::Smol360 => Shape::llama(49152, 960, 32, 15, 5, 2560),
            Named::Llama1b => Shape::llama(128_256, 2048, 16, 32, 8, 8192),
        }
    }
}

pub(super) fn run(args: &Args) -> Outcome {
    let lengths_fit = args.prompt > 0 && args.response > 0;
    if args.minibatch == 0 || args.batch == 0 || !args.batch.is_multiple_of(args.minibatch) || !lengths_fit {
        let rule = "--batch must be a multiple of --minibatch, and no length may be 0";
        return Err(Misuse(rule.to_owned()).into());
    }
    let pool = threads::pool("bench", args.threads, || ())?;
    let report = pool.install(|| measure(args))?;
    Ok(say::answer(json(&report))?)
}

fn measure(args: &Args) -> Result<measurement::Ppo, Box<dyn std::error::Error + Send + Sync>> {
    let (shape, device) = (args.shape.shape(), kernels::device(&args.device)?);
    let like = Checkpoint { metadata: llama::metadata(&shape), ..Checkpoint::default() };
    let policy = CausalLm::random(&shape, args.seed, &Device::Cpu)?;
    let checkpoint = policy.to_checkpoint(&like, WeightType::F32)?;
    let config = config_of(args)?;
    let rollouts = rollouts(args, &shape, &policy)?;
    drop(policy);
    let mut models = match args.lora_rank {
        0 => {
            let value = value_model::from_policy(&checkpoint, &device)?;
            Models::new(&checkpoint, &checkpoint, value, &config, &device)?
        }
        _ => Models::beside(frozen(&checkpoint, &config, &device)?, &checkpoint, None, &config)?,
    };
    drop(checkpoint);
    let bar = progress::bar(args.repeat as u64 + 1, "updating");
    let mut best: Option<(f64, f64, f64)> = None;
    for repeat in 0..=args.repeat {
        let round = Round { config: &config, update: 0, lineage: &[PolicyVersion::SFT], pretraining: &[] };
        let started = Instant::now();
        let outcome = round.run(&mut models, &rollouts, &mut || ControlFlow::Continue(()))?;
        let seconds = started.elapsed().as_secs_f64();
        bar.inc(1);
        let expected = args.batch / args.minibatch * args.epochs as usize;
        if outcome.stats.n_policy_steps as usize != expected {
            return Err(format!("expected {expected} steps, got {}", outcome.stats.n_policy_steps).into());
        }
        if repeat > 0 && best.is_none_or(|(fastest, ..)| seconds < fastest) {
            best = Some((seconds, outcome.stats.experience_s, outcome.stats.update_s));
        }
    }
    bar.finish_and_clear();
    let best = best.ok_or("--repeat must be at least 1")?;
    Ok(report(args, &rollouts, best))
}

fn report(
    args: &Args,
    rollouts: &[ScoredRollout],
    (seconds, experience_s, update_s): (f64, f64, f64),
) -> measurement::Ppo {
    let response_tokens: usize = rollouts.iter().map(|r| r.rollout().response.len()).sum();
    let prompt_tokens: usize = rollouts.iter().map(|r| r.rollout().prompt.len()).sum();
    let round = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    measurement::Ppo {
        peer: "honed",
        shape: args.shape.name(),
        batch: args.batch,
        minibatch: args.minibatch,
        epochs: args.epochs,
        lora_rank: args.lora_rank,
        prompt: args.prompt,
        response: args.response,
        dtype: args.dtype.name(),
        device: args.device.clone(),
        threads: args.threads,
        set: args.set.clone(),
        response_tokens,
        total_tokens: prompt_tokens + response_tokens,
        seconds: round(seconds),
        experience_s: round(experience_s),
        update_s: round(update_s),
        response_tokens_per_s: (response_tokens as f64 / seconds * 100.0).round() / 100.0,
        peak_rss_mib: peak_rss_mib(),
        peak_gpu_mib: None,
    }
}

/// The defaults, with the peer's sizes and step, guards so wide that none stops early, and what the caller names.
fn config_of(args: &Args) -> Result<config::Ppo, config::ConfigError> {
    let mut sets = vec![
        format!("ppo.rollouts_per_update={}", args.batch),
        format!("ppo.minibatch={}", args.minibatch),
        format!("ppo.dtype={}", args.dtype.name()),
        format!("ppo.lora_rank={}", args.lora_rank),
        format!("ppo.epochs={}", args.epochs),
        format!("ppo.threads={}", args.threads),
        "ppo.policy_learning_rate=1e-6".to_owned(),
        "ppo.value_learning_rate=1e-6".to_owned(),
        "ppo.stop_kl=1000".to_owned(),
        // The peer watches nothing: neither does this look where its last step has led.
        "ppo.skip_kl=0".to_owned(),
        "ppo.gate=off".to_owned(),
        "ppo.grad_spike=0".to_owned(),
        "ppo.ratio_spike=0".to_owned(),
        "ppo.is_geo_low=0".to_owned(),
        "ppo.is_geo_high=1000".to_owned(),
    ];
    sets.extend(args.set.iter().cloned());
    let sources = config::Sources { file: None, env: Vec::new(), sets };
    Ok(config::Config::load(sources)?.ppo)
}

/// Ragged random episodes, each token with the log-prob that the policy gives it, as if it had been drawn.
fn rollouts(
    args: &Args,
    shape: &Shape,
    policy: &CausalLm,
) -> Result<Vec<ScoredRollout>, Box<dyn std::error::Error + Send + Sync>> {
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    // As ragged as lengths drawn at random, but the same amount of work whatever the seed.
    let (prompts, responses) =
        (lengths(args.prompt, args.batch, &mut random), lengths(args.response, args.batch, &mut random));
    let mut tokens = |n: usize| -> Vec<TokenId> {
        (0..n).map(|_| TokenId(random.random_range(5..shape.vocab_size as u32))).collect()
    };
    let mut all = Vec::with_capacity(args.batch);
    for i in 0..args.batch {
        let (prompt, response) = (tokens(prompts[i]), tokens(responses[i]));
        let batch = SequenceBatch::new(vec![Sequence::new(&prompt, &response)]);
        let log_probs = policy.frozen_log_probs(&batch, &[1.0])?.log_probs;
        let sampled = |(id, log_prob): (TokenId, f32)| SampledToken {
            id,
            log_prob: LogProb(log_prob),
            behavior: LogProb(log_prob),
            log_kept_mass: 0.0,
        };
        let rollout = Rollout {
            id: RolloutId { request: format!("bench-{i}"), index: 0 },
            version: PolicyVersion::SFT,
            prompt,
            response: response.into_iter().zip(log_probs).map(sampled).collect(),
            sampling: SamplingParams { max_tokens: args.response as u32, ..SamplingParams::default() },
            finish: FinishReason::EndToken,
            user: None,
            created_ms: 0,
        };
        let scored = Scored { score: Score((i % 3) as f64 - 1.0), std: None, reward_version: "bench".to_owned() };
        all.push(ScoredRollout::new(rollout, scored)?);
    }
    Ok(all)
}

/// From half of the longest to all of it in even steps, shuffled.
fn lengths(longest: usize, n: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let least = longest.div_ceil(2);
    let mut lengths: Vec<usize> = (0..n).map(|i| least + (longest - least) * i / (n - 1).max(1)).collect();
    lengths.shuffle(random);
    lengths
}

/// As the peer reports it: the process's high-water mark.
fn peak_rss_mib() -> i64 {
    // SAFETY: getrusage fills the struct that it is given, which lives on this stack.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    usage.ru_maxrss / 1024
}
