//! The first two stages: a base model from text, and a supervised policy from demonstrations.

use std::ops::ControlFlow;

use candle_core::Device;
use policy::{
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, WeightType},
    sequence_batch::Sequence,
    sft::{self, SftOptions},
    transformer::random_checkpoint,
};

use super::{
    Result, corpus,
    progress::Progress,
    recipe::{self, Recipe, Size},
    world::seed_of,
};

/// The mix of pretraining text under what PPO starts from (InstructGPT C.3).
const MIX_SHARE: f64 = 0.1;

/// What one width of model came to.
pub(super) struct Start {
    /// After pretraining.
    pub(super) base: CausalLm,
    /// After demonstrations alone: it shows what the mix is for.
    pub(super) unmixed: CausalLm,
    /// After demonstrations with a tenth of pretraining text: the policy that PPO starts from, and its reference.
    pub(super) sft: CausalLm,
    /// The same, as a checkpoint.
    pub(super) checkpoint: Checkpoint,
}

/// Trains all three. Call it inside a pool.
pub(super) fn train(seed: u64, size: Size, recipe: &Recipe, progress: &Progress) -> Result<Start> {
    let blank = random_checkpoint(&size.shape(), seed_of(seed, "weights"))?;
    let documents = corpus::documents(seed, "pretraining", recipe.documents);
    let base = CausalLm::from_checkpoint(&blank, &Device::Cpu)?;
    fit(&base, &documents, &[], &recipe::pretraining(size, seed_of(seed, "pretraining")), progress)?;
    let pretrained = base.to_checkpoint(&blank, WeightType::F32)?;
    let demonstrations = corpus::demonstrations(seed, recipe.demonstrations);
    let supervised = |mix_share| -> Result<CausalLm> {
        let model = CausalLm::from_checkpoint(&pretrained, &Device::Cpu)?;
        let options = recipe::supervised(size, mix_share, seed_of(seed, "supervised"));
        fit(&model, &demonstrations, &documents, &options, progress)?;
        Ok(model)
    };
    let (unmixed, sft) = (supervised(0.0)?, supervised(MIX_SHARE)?);
    let checkpoint = sft.to_checkpoint(&blank, WeightType::F32)?;
    Ok(Start { base, unmixed, sft, checkpoint })
}

fn fit(
    model: &CausalLm,
    examples: &[Sequence],
    mix: &[Sequence],
    options: &SftOptions,
    progress: &Progress,
) -> Result<()> {
    let share = progress.share();
    sft::train(model, examples, mix, options, |now| {
        share.at(now.step, now.n_steps);
        ControlFlow::Continue(())
    })?;
    Ok(())
}
