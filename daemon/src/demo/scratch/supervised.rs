//! The first two stages: a base model from text, and a supervised policy from demonstrations.

use std::ops::ControlFlow;

use candle_core::Device;
use policy::{
    byte_pair::CHAT_TEMPLATE,
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, WeightType},
    sequence_batch::Sequence,
    sft::{self, SftOptions, mean_nll},
    transformer::random_checkpoint,
};

use super::{MEASURE_TOKENS, provenance::Provenance, recipe};
use crate::demo::{encoder::Encoder, error::Result, progress::Progress, world::World};

/// What comes out, as files would hold it.
pub(super) struct Trained {
    /// The base model.
    pub(super) base: Checkpoint,
    /// The supervised policy.
    pub(super) sft: Checkpoint,
}

/// Trains both. Call it inside the learner's pool.
pub(super) fn train(
    world: &World,
    encoder: &Encoder<'_>,
    held_out: &[Sequence],
    progress: &Progress,
    story: &mut Provenance,
) -> Result<Trained> {
    let shape = recipe::shape();
    let mut blank = random_checkpoint(&shape, seed_of(world, "weights"))?;
    blank.metadata.extend(encoder.0.metadata(CHAT_TEMPLATE));
    let model = CausalLm::from_checkpoint(&blank, &Device::Cpu)?;
    story.note("parameters", shape.n_parameters() as f64);

    let documents = encoded(world.documents("pretraining").take(recipe::DOCUMENTS), |text| encoder.document(&text))?;
    let options = recipe::pretraining(seed_of(world, "pretraining"));
    fit("pretraining", &model, &documents, &[], &options, progress, story)?;
    story.note("base.pretraining_nll", mean_nll(&model, held_out, MEASURE_TOKENS)?);
    let base = model.to_checkpoint(&blank, WeightType::F16)?;

    let demonstrations = encoded(world.demonstrations("sft").take(recipe::DEMONSTRATIONS), |demonstration| {
        let prompt = encoder.prompt(&demonstration.prompt.instruction, demonstration.chat)?;
        Ok(Sequence::new(&prompt, &encoder.answer(&demonstration.answer)?))
    })?;
    let options = recipe::supervised(seed_of(world, "supervised"));
    fit("supervised", &model, &demonstrations, &documents, &options, progress, story)?;
    story.note("sft.pretraining_nll", mean_nll(&model, held_out, MEASURE_TOKENS)?);
    Ok(Trained { base, sft: model.to_checkpoint(&blank, WeightType::F16)? })
}

/// A seed of its own for each use.
pub(super) fn seed_of(world: &World, name: &str) -> u64 {
    use rand::RngCore;
    world.stream(name).next_u64()
}

fn encoded<T>(items: impl Iterator<Item = T>, encode: impl FnMut(T) -> Result<Sequence>) -> Result<Vec<Sequence>> {
    items.map(encode).collect()
}

fn fit(
    name: &'static str,
    model: &CausalLm,
    examples: &[Sequence],
    mix: &[Sequence],
    options: &SftOptions,
    progress: &Progress,
    story: &mut Provenance,
) -> Result<()> {
    let started = std::time::Instant::now();
    let bar = progress.bar(name);
    let mut loss = f64::NAN;
    let last = sft::train(model, examples, mix, options, |now| {
        loss = if loss.is_nan() { now.loss } else { 0.95 * loss + 0.05 * now.loss };
        bar.set(now.step as u64, now.n_steps as u64, &format!("loss {loss:.3}, {:.0} tokens/s", now.tokens_per_s));
        ControlFlow::Continue(())
    })?;
    bar.finish();
    story.note(&format!("{name}.tokens"), last.n_tokens as f64);
    story.note(&format!("{name}.loss"), loss);
    story.note(&format!("{name}.seconds"), started.elapsed().as_secs_f64());
    Ok(())
}
