//! What a model is worth: answers to held-out prompts judged by gold, and loss on held-out text.

use std::cmp::Ordering;

use policy::{
    FinishReason, PolicyVersion, Rollout,
    causal_lm::CausalLm,
    sequence_batch::{Sequence, SequenceBatch},
    sft,
};
use ppo::metrics::{self, WinRate};
use reward::RewardModel;

use super::{
    Result, arm, corpus,
    recipe::Recipe,
    sampler,
    world::{Prompt, Split, gold, stream},
};

/// Tokens in one frozen pass; bounds memory.
const PASS_TOKENS: usize = 4096;

/// What all models of a seed are asked.
pub(super) struct Exam {
    seed: u64,
    prompts: Vec<Prompt>,
    documents: Vec<Sequence>,
}

/// What came out.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Gold of each answer, in the order of the prompts.
    pub(super) golds: Vec<f64>,
    /// Mean score by a reward model, where one was asked.
    pub(super) score: Option<f64>,
    /// Nats an answer from the supervised policy, Σ_t k1.
    pub(super) kl: f64,
    /// Mean tokens of an answer, the end token included.
    pub(super) length: f64,
    /// Share of answers that ended by themselves.
    pub(super) eos_rate: f64,
    /// Held-out pretraining text, nats a token.
    pub(super) nll: f64,
}

impl Measured {
    /// Mean gold.
    pub(super) fn gold(&self) -> f64 {
        mean(&self.golds)
    }

    /// Win rate of these answers against others to the same prompts.
    pub(super) fn against(&self, other: &Measured) -> WinRate {
        let count = |wanted| {
            let pairs = self.golds.iter().zip(&other.golds);
            pairs.filter(|(own, other)| own.total_cmp(other) == wanted).count()
        };
        let rate = metrics::win_rate(count(Ordering::Greater), count(Ordering::Equal), count(Ordering::Less));
        rate.expect("an exam has prompts")
    }
}

impl Exam {
    /// Held-out prompts and text of a seed.
    pub(super) fn new(seed: u64, recipe: &Recipe) -> Exam {
        let mut dice = stream(seed, "exam");
        let prompts = (0..recipe.held_out_prompts).map(|_| Prompt::draw(Split::HeldOut, &mut dice)).collect();
        Exam { seed, prompts, documents: corpus::documents(seed, "held-out", recipe.held_out_documents) }
    }

    /// Examines a model; `reference` is what KL is measured from. Call it inside a pool.
    pub(super) fn measure(
        &self,
        model: &CausalLm,
        reference: &CausalLm,
        judge: Option<&RewardModel>,
    ) -> Result<Measured> {
        let rollouts = sampler::draw(model, PolicyVersion::SFT, &self.prompts, &mut stream(self.seed, "exam/answers"))?;
        let n = rollouts.len() as f64;
        let pairs = self.prompts.iter().zip(&rollouts);
        let texts: Vec<_> = rollouts.iter().map(arm::text).collect();
        let score = judge.map(|judge| judge.score(&texts)).transpose()?.map(|scores| mean(&scores));
        Ok(Measured {
            golds: pairs.map(|(prompt, rollout)| gold(*prompt, &sampler::answer(rollout))).collect(),
            score,
            kl: kl(&rollouts, reference)?,
            length: rollouts.iter().map(|r| r.response.len() as f64).sum::<f64>() / n,
            eos_rate: rollouts.iter().filter(|r| r.finish == FinishReason::EndToken).count() as f64 / n,
            nll: sft::mean_nll(model, &self.documents, PASS_TOKENS)?,
        })
    }
}

/// Mean over the answers of Σ_t (ℓ_behavior − ℓ_ref), nats.
fn kl(rollouts: &[Rollout], reference: &CausalLm) -> Result<f64> {
    let sequences = rollouts.iter().map(|r| Sequence::new(&r.prompt, &sampler::answer(r))).collect();
    let said = reference.frozen_log_probs(&SequenceBatch::new(sequences), &vec![1.0; rollouts.len()])?;
    let behavior = rollouts.iter().flat_map(|r| &r.response).map(|token| token.behavior.0);
    let sum: f64 = behavior.zip(said.log_probs).map(|(own, reference)| f64::from(own - reference)).sum();
    Ok(sum / rollouts.len() as f64)
}

pub(super) fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}
