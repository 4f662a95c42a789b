//! The reward model in this process as a source of scores.
//!
//! candle splits its products over the rayon pool that they are called from. Each owner of this source brings its own pool,
//! whose threads have the owner's priority, so that judging never runs at normal priority beside the engine.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use candle_core::Device;
use policy::{
    TokenId,
    causal_lm::CausalLm,
    checkpoint::{self, Digest},
    failpoint,
};
use rayon::ThreadPool;

use crate::{
    ensemble::Combination,
    reward_model::{RewardModel, RewardModelError},
    score::{Judgement, ScoreError},
    scorer::ScoreRequest,
};

/// Judgements of whole sequences, prompt and response together, in their order.
pub type Judge = Arc<dyn Fn(&[Vec<TokenId>]) -> Result<Vec<Judgement>, String> + Send + Sync>;

/// A reward model as the scorer takes it.
#[derive(Clone)]
pub struct NamedJudge {
    /// `model@<digest>`, of an ensemble `model@<digest>/<combination>`: what scores are stamped with.
    pub version: String,
    /// The model.
    pub judge: Judge,
}

/// Hex digits of a file's digest that name it in a score's version.
const DIGEST_DIGITS: usize = 12;

impl NamedJudge {
    /// The model of a file with this digest.
    #[must_use]
    pub fn new(model: Arc<RewardModel>, digest: &Digest) -> NamedJudge {
        let digits: String = digest.to_string().chars().take(DIGEST_DIGITS).collect();
        let version = match model.n_members() {
            1 => format!("model@{digits}"),
            _ => format!("model@{digits}/{}", model.combination().name()),
        };
        let judge: Judge = Arc::new(move |sequences| {
            let judgements = model.judge(sequences);
            judgements.map_err(|error| error.to_string())
        });
        NamedJudge { version, judge }
    }
}

/// Where a reward model lies.
#[derive(Clone, Copy, Debug)]
pub enum ModelFile<'a> {
    /// Inside the binary.
    BuiltIn(&'a [u8]),
    /// On the disk.
    At(&'a Path),
}

impl<'a> ModelFile<'a> {
    /// The one that `reward.model` names, or the built-in one.
    #[must_use]
    pub fn configured(reward: &'a config::Reward, built_in: &'a [u8]) -> ModelFile<'a> {
        if reward.model.is_empty() { ModelFile::BuiltIn(built_in) } else { ModelFile::At(Path::new(&reward.model)) }
    }
}

/// Loads a reward model for a policy with this vocabulary and has it judge two short texts. `base`: version 0's weights, in
/// case the file is an adapter.
///
/// # Errors
/// When the file is no reward model, lacks its gain or bias, is of another vocabulary or other weights, changes while it is
/// read, or gives a score that is not finite.
pub fn load(
    file: ModelFile<'_>,
    combination: Combination,
    policy_vocabulary: &str,
    base: impl FnOnce() -> Result<CausalLm, RewardModelError>,
) -> Result<(Arc<RewardModel>, NamedJudge), RewardModelError> {
    let (model, digest) = match file {
        ModelFile::BuiltIn(bytes) => (RewardModel::from_bytes(bytes, &Device::Cpu)?, Digest::of(bytes)),
        ModelFile::At(path) => {
            failpoint::reached("reward.load").map_err(|error| RewardModelError::Weights(error.to_string()))?;
            let before = checkpoint::digest(path)?;
            let model = RewardModel::load_beside(path, base)?;
            // The digest is the model's name: scores must not carry that of other bytes.
            match checkpoint::digest(path)? == before {
                true => (model, before),
                false => return Err(RewardModelError::Changed),
            }
        }
    };
    model.check_vocabulary(policy_vocabulary)?;
    model.check_scores()?;
    let model = Arc::new(model.combined(combination));
    let judge = NamedJudge::new(model.clone(), &digest);
    Ok((model, judge))
}

/// The threads that a reward model computes on.
pub(crate) struct ModelSource {
    pool: ThreadPool,
}

impl ModelSource {
    pub(crate) fn new(pool: ThreadPool) -> ModelSource {
        ModelSource { pool }
    }

    /// One outcome per item. When a batch fails, its items are judged one by one, so that only the guilty ones fail.
    pub(crate) fn score(&self, judge: &Judge, items: &[&ScoreRequest]) -> Vec<Result<Judgement, ScoreError>> {
        let sequences: Vec<Vec<TokenId>> =
            items.iter().map(|item| [&item.prompt[..], &item.response].concat()).collect();
        match self.ask(judge, &sequences) {
            Ok(judgements) => judgements.into_iter().map(checked).collect(),
            Err(error) if sequences.len() == 1 => vec![Err(error)],
            Err(_) => {
                let alone = |sequence| checked(self.ask(judge, std::slice::from_ref(sequence))?[0]);
                sequences.iter().map(alone).collect()
            }
        }
    }

    fn ask(&self, judge: &Judge, sequences: &[Vec<TokenId>]) -> Result<Vec<Judgement>, ScoreError> {
        // A panic in the tensor library must cost one batch, not the scorer.
        let asked = catch_unwind(AssertUnwindSafe(|| self.pool.install(|| judge(sequences))));
        let judgements = match asked {
            Ok(judgements) => judgements.map_err(ScoreError::Model)?,
            Err(_) => return Err(ScoreError::Model("it panicked".to_owned())),
        };
        if judgements.len() != sequences.len() {
            let counts = format!("expected {} scores, got {}", sequences.len(), judgements.len());
            return Err(ScoreError::Model(counts));
        }
        Ok(judgements)
    }
}

fn checked(judgement: Judgement) -> Result<Judgement, ScoreError> {
    ScoreError::check("model", judgement.score).map(|_| judgement)
}

#[cfg(test)]
mod tests;
