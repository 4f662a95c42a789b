//! Whether there is memory for learning, asked once, before the models are made.

use policy::{
    PolicyVersion,
    architecture::Shape,
    checkpoint::{Checkpoint, shape_of_file},
};

use super::{
    LearnerSetup, ValueStart,
    trainer::{BuildError, form_of},
};
use crate::{form, plan::plan};

/// Says what learning will take, and refuses what does not fit: a process that is killed for its memory takes serving along.
pub(super) fn check(setup: &LearnerSetup) -> Result<(), BuildError> {
    let shape = shape_of_file(&setup.registry.path(PolicyVersion::SFT))?;
    let value = match &setup.value_start {
        ValueStart::RewardModel { checkpoint, .. } => shape_of(checkpoint, &shape),
        ValueStart::Policy => shape.clone(),
    };
    let longest = setup.engine.context_tokens() as usize;
    let file = policy::memory::weight_bytes(&shape);
    // What will be trained, which is not always what is configured.
    let config = form::configured(&setup.config, form_of(setup, &setup.registry.live()?)?);
    let candidate = setup.engine.bytes_of_another(config.lora_rank > 0);
    let caches = setup.engine.untaken_bytes();
    let others = [
        ("version 0 as a file", file),
        ("a candidate in the engine", candidate),
        ("caches of the engine that will fill", caches),
    ];
    let plan = plan(&shape, &value, None, &config, longest, &others)?;
    tracing::info!("{plan}");
    Ok(plan.check()?)
}

fn shape_of(checkpoint: &Checkpoint, otherwise: &Shape) -> Shape {
    let vocab_size = checkpoint.tensor(policy::architecture::llama::TOKEN_EMBEDDING).and_then(|t| Ok(t.dim(0)?));
    let shape = vocab_size.and_then(|n| Shape::from_metadata(&checkpoint.metadata, n, true));
    // One that cannot be trained is told of when it is built.
    shape.unwrap_or_else(|_| otherwise.clone())
}
