//! Builds the default model from nothing: text → vocabulary → base model → supervised policy → rankings → reward model.
//!
//! The recipe is InstructGPT's at the size of a tiny world. Each stage measures itself on validation prompts, and what was
//! done (command, seed, times, numbers, digests) is written beside the artefacts, so that a stranger can repeat it.

mod judging;
mod provenance;
mod recipe;
mod supervised;

use std::{path::Path, time::Instant};

use policy::{
    PolicyVersion,
    byte_pair::{Bpe, SPECIAL_TOKENS},
    checkpoint::{self, Checkpoint},
    engine::Engine,
    sequence_batch::Sequence,
};

pub(super) use recipe::{ANSWER_TOKENS, HELD_OUT_DOCUMENTS};

use self::{judging::Bench, provenance::Provenance};
use super::{
    encoder::Encoder,
    error::{DemoError, Result},
    progress::Progress,
    world::{Gold, Kind, Prompt, Split, World, judge},
};
use crate::sampling::{Draw, draw};

/// Version number under which the base model is loaded beside the supervised policy.
const BASE: PolicyVersion = PolicyVersion(1);
/// Tokens that go through the model at once when nothing is learnt.
pub(super) const MEASURE_TOKENS: usize = 2048;

/// What a stage is good for, on validation prompts in chat format at temperature 1.
#[derive(Clone, Debug)]
struct Measured {
    gold: f64,
    parts: Gold,
    perfect: f64,
    n_tokens: f64,
    by_kind: Vec<(Kind, f64)>,
}

/// Builds everything into `folder`, with work files in `folder/work`. A build that was interrupted after the supervised
/// stage goes on from there: seeds name every stream, so the result is the same.
///
/// # Errors
/// When a stage fails or a file cannot be written.
pub(super) fn build(seed: u64, folder: &Path, progress: &Progress) -> Result<()> {
    let started = Instant::now();
    let world = World::new(seed);
    let work = folder.join("work");
    std::fs::create_dir_all(&work).map_err(DemoError::io(&work))?;
    // Nobody is served meanwhile, so these threads need not give way as a learner's do.
    let pool = rayon::ThreadPoolBuilder::new().build().map_err(|error| DemoError::Daemon(error.to_string()))?;
    let mut story = Provenance::new(seed);

    let documents = world.documents("vocabulary").take(recipe::VOCABULARY_DOCUMENTS);
    let bpe = Bpe::learn(documents.collect::<Vec<_>>().into_iter(), recipe::VOCABULARY, &SPECIAL_TOKENS)?;
    let encoder = Encoder(&bpe);
    let held_out = held_out(&world, &encoder)?;
    let (base, sft) = (work.join("base.gguf"), folder.join("policy.gguf"));
    let notes = work.join("notes.txt");
    let resumed = base.exists() && sft.exists() && story.resume(&notes);
    if !resumed {
        let trained = pool.install(|| supervised::train(&world, &encoder, &held_out, progress, &mut story))?;
        trained.base.write(&base)?;
        trained.sft.write(&sft)?;
    }
    let policy = Checkpoint::read(&sft)?;
    story.digest("policy.gguf", checkpoint::digest(&sft)?);

    let engine = Engine::start(&serving(), &sft)?;
    engine.load(BASE, &base)?;
    for (name, version) in [("base", BASE), ("sft", PolicyVersion::SFT)] {
        story.measured(name, &measure(&engine, &world, &encoder, version)?);
    }
    std::fs::write(&notes, story.summary()).map_err(DemoError::io(&notes))?;
    progress.line(&story.summary());
    let bench = Bench { world: &world, encoder: &encoder, engine: &engine, progress };
    let judged = pool.install(|| judging::train(&bench, &policy))?;
    story.numbers(judged.numbers);
    let digest = judged.model.save(&folder.join("reward.gguf"));
    story.digest("reward.gguf", digest.map_err(|error| DemoError::Reward(error.to_string()))?);
    engine.shutdown(std::time::Duration::from_secs(5));
    story.finish(started.elapsed());
    let path = folder.join("PROVENANCE.md");
    std::fs::write(&path, story.render()).map_err(DemoError::io(&path))?;
    std::fs::remove_dir_all(&work).map_err(DemoError::io(&work))?;
    progress.line(&story.render());
    Ok(())
}

/// The engine as the build uses it: a queue that holds whole batches.
fn serving() -> config::Policy {
    let policy = config::Config::default().policy;
    let (max_queue_sequences, max_queue_tokens) = (100_000_000, 1_000_000_000_000);
    config::Policy { parallel: 64, max_queue: 100_000, max_queue_sequences, max_queue_tokens, ..policy }
}

/// Pretraining text that no stage learns from; the demo and the gate regenerate the same from the world's seed.
fn held_out(world: &World, encoder: &Encoder<'_>) -> Result<Vec<Sequence>> {
    let documents = world.documents("held-out").take(recipe::HELD_OUT_DOCUMENTS);
    documents.map(|document| encoder.document(&document)).collect()
}

fn measure(engine: &Engine, world: &World, encoder: &Encoder<'_>, version: PolicyVersion) -> Result<Measured> {
    let prompts: Vec<Prompt> = world.prompts(Split::Validation, "measure").take(recipe::VALIDATION_PROMPTS).collect();
    let tokens = prompts.iter().map(|p| encoder.prompt(&p.instruction, true)).collect::<Result<Vec<_>>>()?;
    let answers = draw(engine, &tokens, Draw { version, n: 1, max_tokens: ANSWER_TOKENS, temperature: 1.0, seed: 1 })?;
    let golds: Vec<(Kind, Gold)> = prompts
        .iter()
        .zip(&answers)
        .map(|(prompt, drawn)| (prompt.kind, judge(&prompt.wanted, &drawn[0].text, drawn[0].ended)))
        .collect();
    let mean = |of: &dyn Fn(&Gold) -> f64| golds.iter().map(|(_, gold)| of(gold)).sum::<f64>() / golds.len() as f64;
    let of_kind = |kind: Kind| {
        let own: Vec<f64> = golds.iter().filter(|(k, _)| *k == kind).map(|(_, gold)| gold.total()).collect();
        (kind, own.iter().sum::<f64>() / own.len().max(1) as f64)
    };
    Ok(Measured {
        gold: mean(&Gold::total),
        parts: Gold {
            helpful: mean(&|gold| gold.helpful),
            honest: mean(&|gold| gold.honest),
            harmless: mean(&|gold| gold.harmless),
            ends: mean(&|gold| gold.ends),
        },
        perfect: mean(&|gold| f64::from(u8::from(gold.total() > 0.999))),
        n_tokens: answers.iter().map(|drawn| drawn[0].tokens.len()).sum::<usize>() as f64 / answers.len() as f64,
        by_kind: Kind::SHARES.iter().map(|(kind, _)| of_kind(*kind)).collect(),
    })
}
