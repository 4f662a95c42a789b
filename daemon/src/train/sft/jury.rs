//! A reward model that chooses among epochs, by what it says of their answers to prompts that were held back.
//!
//! The loss on held-back answers is lowest after an epoch or two, while people like the answers better for many more; the
//! score of a reward model follows people, so InstructGPT chose by it (section 3.5, C.1). Each epoch's file is what the engine
//! draws from, with the same prompts and seeds, so that epochs differ by their weights alone.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use candle_core::Device;
use policy::{
    PolicyVersion, TokenId,
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, copy_durably, rename_durably},
    engine::Engine,
    sft::Shuffled,
};
use reward::{
    Combination, RewardModel,
    sources::model::{ModelFile, load},
};
use serde::{Deserialize, Serialize};

use crate::{
    app::AppError,
    sampling::{Draw, draw},
    train::{
        base::Base,
        error::{Result, TrainError},
        options::count,
    },
};

/// How epochs are judged.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct JudgeOptions {
    /// Reward model that chooses among the epochs: --out becomes the one whose answers to prompts of the validation records it
    /// scores highest, not the last one (InstructGPT C.1). The best so far lies in OUT.epoch-N.gguf.
    #[arg(long, value_name = "FILE")]
    pub(super) reward_model: Option<PathBuf>,
    /// Prompts that are answered for it after each epoch, at most.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count, requires = "reward_model")]
    reward_prompts: usize,
    /// Tokens of each of these answers at most.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..),
        requires = "reward_model")]
    pub(super) reward_tokens: u32,
}

impl JudgeOptions {
    /// The engine that answers `prompts`, with a window that holds the longest of them.
    pub(super) fn engine(&self, prompts: &[Vec<TokenId>], n_threads: usize) -> config::Policy {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) as u32;
        config::Policy {
            max_queue: prompts.len(),
            max_queue_sequences: prompts.len().max(1),
            max_queue_tokens: usize::MAX,
            context_tokens: longest.saturating_add(self.reward_tokens),
            prefix_cache_tokens: 0,
            threads: n_threads,
            ..config::Config::default().policy
        }
    }

    /// As many of these prompts as are asked for, each once.
    pub(super) fn choose(&self, mut prompts: Vec<Vec<TokenId>>, seed: u64) -> Vec<Vec<TokenId>> {
        prompts.sort_unstable();
        prompts.dedup();
        Shuffled::new(&prompts, seed).draw_batch(self.reward_prompts).into_iter().cloned().collect()
    }
}

/// What the reward model says of the answers of one file.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Liked {
    pub(super) mean: f64,
    standard_error: f64,
    ended_share: f64,
}

impl fmt::Display for Liked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Liked { mean, standard_error, ended_share } = self;
        write!(f, "reward {mean:.4} ± {standard_error:.4}, {:.0} % of the answers ended", 100.0 * ended_share)
    }
}

/// A reward model and what is answered for it.
pub(super) struct Jury<'a> {
    path: &'a Path,
    model: Arc<RewardModel>,
    prompts: &'a [Vec<TokenId>],
    engine: config::Policy,
    max_tokens: u32,
    seed: u64,
}

impl<'a> Jury<'a> {
    /// Loads the reward model, where one was named. `source`: what training starts from, beside which an adapter judges.
    pub(super) fn load(
        args: &'a super::Args,
        base: &Base,
        source: &Checkpoint,
        prompts: &'a [Vec<TokenId>],
    ) -> Result<Option<Jury<'a>>> {
        let Some(path) = &args.judge.reward_model else { return Ok(None) };
        let weights = || Ok(CausalLm::from_checkpoint(source, &Device::Cpu)?);
        let combination = Combination::configured(&config::Config::default().reward);
        let loaded = load(ModelFile::At(path), combination, base.vocabulary()?.digest(), weights);
        let (model, _) = loaded.map_err(|error| unusable(path, error.to_string()))?;
        Ok(Some(Jury {
            path,
            model,
            prompts,
            engine: args.judge.engine(prompts, usize::from(args.fit.threads)),
            max_tokens: args.judge.reward_tokens,
            seed: args.fit.seed,
        }))
    }

    /// Answers every prompt from the model in this file and has the answers scored as they are.
    pub(super) fn ask(&self, file: &Path) -> Result<Liked> {
        let engine = Engine::start(&self.engine, file)?;
        let (version, n, max_tokens, seed) = (PolicyVersion::SFT, 1, self.max_tokens, self.seed);
        let answers = draw(&engine, self.prompts, Draw { version, n, max_tokens, temperature: 1.0, seed });
        engine.shutdown(Duration::from_secs(5));
        let answers = answers?.concat();
        let pairs = self.prompts.iter().zip(&answers);
        let sequences: Vec<Vec<TokenId>> = pairs.map(|(prompt, one)| [&prompt[..], &one.tokens].concat()).collect();
        let scores = self.model.score(&sequences)?;
        if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
            return Err(unusable(self.path, format!("an answer's score is {score}, which is not finite")));
        }
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let ended_share = answers.iter().filter(|one| one.ended).count() as f64 / n;
        Ok(Liked { mean, standard_error: (variance / n).sqrt(), ended_share })
    }
}

fn unusable(path: &Path, reason: String) -> TrainError {
    Box::new(AppError::RewardModel { path: path.display().to_string(), reason }).into()
}

/// The epoch that is liked best so far; of equals, the first.
#[derive(Serialize, Deserialize)]
pub(super) struct Best {
    pub(super) epoch: usize,
    /// Loss on the records that were held back, nats a token.
    pub(super) nll: Option<f64>,
    pub(super) liked: Liked,
}

impl Best {
    /// The better of two epochs, and the other one.
    pub(super) fn of(earlier: Option<Best>, now: Best) -> (Best, Option<Best>) {
        match earlier {
            None => (now, None),
            Some(earlier) if now.liked.mean > earlier.liked.mean => (now, Some(earlier)),
            Some(earlier) => (earlier, Some(now)),
        }
    }
}

/// Puts the weights of the best epoch where the run's are to be.
pub(super) fn become_result(from: &Path, to: &Path, keeps_all: bool) -> Result<()> {
    if !keeps_all {
        return Ok(rename_durably(from, to)?);
    }
    let mut file = std::fs::File::open(from).map_err(TrainError::io(from))?;
    let len = file.metadata().map_err(TrainError::io(from))?.len();
    Ok(copy_durably(&mut file, len, to)?)
}
