//! The pretraining half of a policy step: PPO-ptx.
//!
//! RLHF forgets what no reward asks for, and the KL penalty cannot see it, because it only looks where the traffic goes. So
//! every step of the policy may also take a step towards plain text: two gradients, added, then one step (InstructGPT
//! section 3.5 and C.4: "compute the PPO gradients and pretraining gradients in consecutive steps and accumulate them").
//!
//! `g = g_ppo + γ·g_ptx`, where `g_ptx` is the gradient of the mean negative log-likelihood per token.
//!
//! How large γ must be depends on how both losses are normalised, and the paper does not say: its 27.8 does not transfer. So
//! "auto" measures instead: at the first step at which both gradients point anywhere, γ = ‖g_ppo‖/‖g_ptx‖, and there it
//! stays. Were it measured at every step, the text's pull would grow exactly when the policy has nothing to learn.

use std::{ops::RangeInclusive, sync::Arc};

use policy::{optimizer::Gradients, sequence_batch::Sequence, sft};

use super::permutation::shuffled;
use crate::{
    control::ControlState,
    error::PpoError,
    experience::{Budget, Pace, go_on},
    models::Models,
};

/// One example of a text in so many is held out, as far as that is within [`HELD_OUT`].
const HELD_OUT_ONE_IN: usize = 16;
/// Examples that are held out: the mean over fewer says little, and the gate reads all of them for every candidate.
const HELD_OUT: RangeInclusive<usize> = 8..=64;

/// The examples of `ppo.ptx_file`: what was learnt by heart is no measure of what was forgotten.
#[derive(Clone, Debug)]
pub struct PretrainingTexts {
    /// What `ppo.ptx` mixes in.
    pub learnt: Arc<[Sequence]>,
    /// What the gate measures on.
    pub measured: Arc<[Sequence]>,
    /// Whether these are apart; of a short text they are not.
    pub is_held_out: bool,
}

impl PretrainingTexts {
    /// Holds out the end of the text, which stays the same whatever else is configured: an update that is computed again learns
    /// from the same examples. Where that would take more than half of them nothing is held out, and the first are measured.
    #[must_use]
    pub fn split(examples: &[Sequence]) -> PretrainingTexts {
        let n_measured = (examples.len() / HELD_OUT_ONE_IN).clamp(*HELD_OUT.start(), *HELD_OUT.end());
        let is_held_out = 2 * n_measured <= examples.len();
        let (learnt, measured) = match is_held_out {
            true => examples.split_at(examples.len() - n_measured),
            false => (examples, &examples[..n_measured.min(examples.len())]),
        };
        PretrainingTexts { learnt: learnt.into(), measured: measured.into(), is_held_out }
    }
}

/// Both gradients of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PtxStep {
    /// Mean negative log-likelihood of the examples before the step, nats a token.
    pub nll: f64,
    /// ‖g_ppo‖, before clipping.
    pub ppo_norm: f64,
    /// ‖g_ptx‖, without γ, before clipping.
    pub ptx_norm: f64,
    /// γ.
    pub coef: f64,
}

impl PtxStep {
    /// ‖γ·g_ptx‖/‖g_ppo‖; 0 when the rollouts pull nowhere.
    #[must_use]
    pub fn norm_ratio(&self) -> f64 {
        if self.ppo_norm == 0.0 { 0.0 } else { self.coef * self.ptx_norm / self.ppo_norm }
    }
}

/// Adds γ·g_ptx over the next examples to the gradients of a minibatch of `n_episodes`. `None` when no text is mixed in.
pub(super) fn mix(
    gradients: &mut Gradients,
    models: &mut Models,
    texts: &[Sequence],
    config: &config::Ppo,
    n_episodes: usize,
    pace: Pace<'_>,
) -> Result<Option<PtxStep>, PpoError> {
    if config.ptx == "off" || texts.is_empty() {
        return Ok(None);
    }
    let examples = next_examples(texts, &mut models.control, config, n_episodes);
    let (nll, mut ptx) = text_gradients(models, &examples, config, pace)?;
    let (ppo_norm, ptx_norm) = (gradients.global_norm()?, ptx.global_norm()?);
    let coef = coefficient(&mut models.control, config, ppo_norm, ptx_norm);
    ptx.scale(coef)?;
    gradients.merge(&ptx)?;
    let step = PtxStep { nll, ppo_norm, ptx_norm, coef };
    tracing::debug!(nll, ppo_norm, ptx_norm, coef, ratio = step.norm_ratio(), "pretraining text in a policy step");
    Ok(Some(step))
}

/// γ of this step. While one of the gradients is 0 or not a number there is nothing to compare, and nothing is mixed in.
fn coefficient(control: &mut ControlState, config: &config::Ppo, ppo_norm: f64, ptx_norm: f64) -> f64 {
    if config.ptx == "fixed" {
        return config.ptx_coef;
    }
    let ratio = ppo_norm / ptx_norm;
    if control.ptx_coef.is_none() && ratio.is_finite() && ratio > 0.0 {
        tracing::info!(coef = ratio, ppo_norm, ptx_norm, "the weight of the pretraining text is chosen");
        control.ptx_coef = Some(ratio);
    }
    control.ptx_coef.unwrap_or(0.0)
}

/// The next texts of the endless shuffle: each once a pass, in an order that depends on the seed and on nothing else.
pub(super) fn next_examples(
    texts: &[Sequence],
    control: &mut ControlState,
    config: &config::Ppo,
    n_episodes: usize,
) -> Vec<Sequence> {
    let n_texts = texts.len() as u64;
    let n_examples = (config.ptx_examples * n_episodes) as u64;
    let (mut pass, mut order) = (u64::MAX, Vec::new());
    let mut examples = Vec::with_capacity(n_examples as usize);
    for position in control.ptx_drawn..control.ptx_drawn + n_examples {
        if pass != position / n_texts {
            pass = position / n_texts;
            order = shuffled(config.seed, pass, 0, *b"ppo/ptx ", texts.len());
        }
        examples.push(texts[order[(position % n_texts) as usize]].clone());
    }
    control.ptx_drawn += n_examples;
    examples
}

/// Mean negative log-likelihood and its gradient, in pieces between which the learner may rest.
fn text_gradients(
    models: &Models,
    examples: &[Sequence],
    config: &config::Ppo,
    pace: Pace<'_>,
) -> Result<(f64, Gradients), PpoError> {
    let n_targets = |texts: &[Sequence]| texts.iter().map(|text| text.response().len()).sum::<usize>() as f64;
    let n_all = n_targets(examples);
    let budget = Budget::of(models, config);
    let (mut nll, mut gradients) = (0.0, Gradients::new());
    // Enough for every lane of a small model, and never as many as there are threads: sums depend on where they are cut.
    for piece in examples.chunks((budget.tokens / config.ptx_tokens).max(1) * budget.pieces_min) {
        go_on(pace)?;
        let (piece_nll, mut piece_gradients) = sft::loss_and_gradients(&models.policy, piece, budget.tokens)?;
        // Each piece is a mean over its own tokens.
        let share = n_targets(piece) / n_all;
        nll += share * piece_nll;
        piece_gradients.scale(share)?;
        gradients.merge(&piece_gradients)?;
    }
    Ok((nll, gradients))
}

/// Cuts tokenised documents into examples of at most `n_tokens`; what is left with a single token has nothing to predict and
/// is left out.
#[must_use]
pub fn pretraining_examples(documents: &[Vec<policy::TokenId>], n_tokens: usize) -> Vec<Sequence> {
    let pieces = documents.iter().flat_map(|document| document.chunks(n_tokens.max(2)));
    sft::texts(pieces.map(<[policy::TokenId]>::to_vec).collect())
}
