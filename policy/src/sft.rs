//! Supervised fine-tuning and pretraining: one loop, because pretraining is fine-tuning on texts without a prompt.
//!
//! The loss is the mean negative log-likelihood over the response tokens of the *global* batch (the end token included):
//! every micro-batch divides by the whole batch's token count, so how a batch is cut changes nothing. Averaging
//! micro-batch means instead would weigh tokens of short answers more. Batches are packed, so lengths need no bucketing.

mod finite;
mod micro_batches;
mod resumed;
mod schedule;
mod shuffled;

use std::{ops::ControlFlow, time::Instant};

pub use finite::{check_after, check_step};
pub use micro_batches::{balance, micro_batches};
pub use resumed::Resumed;
pub use schedule::Schedule;
pub use shuffled::Shuffled;

use crate::{
    causal_lm::{CausalLm, HeadSlopes},
    model_error::{ModelError, Result},
    optimizer::{AdamConfig, AdamW, Gradients, accumulate},
    sequence_batch::{Sequence, SequenceBatch},
    threads::{is_small_of, lanes_of, pieces_min_of},
};

/// Whether somebody wants a run to end; asked from any thread of the pool.
pub type IsStopped<'a> = &'a (dyn Fn() -> bool + Sync);

/// How to train. Defaults are InstructGPT's C.1 where it names them.
#[derive(Clone, Debug, PartialEq)]
pub struct SftOptions {
    /// Passes over the examples.
    pub epochs: usize,
    /// Sequences in one optimiser step, mixed ones included; the last step of an epoch takes what is left of it.
    pub batch: usize,
    /// Tokens in one forward and backward pass; bounds memory, changes no gradient.
    pub micro_batch_tokens: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises from 0.
    pub warmup_steps: usize,
    /// Share of the highest rate at the end of the cosine.
    pub final_share: f64,
    /// Share of each batch that is drawn from the mixed-in texts, `[0, 1)`: pretraining text against forgetting.
    pub mix_share: f64,
    /// Global gradient norm.
    pub max_grad_norm: f64,
    /// Constants of Adam.
    pub adam: AdamConfig,
    /// Order of the examples.
    pub seed: u64,
}

impl Default for SftOptions {
    fn default() -> Self {
        SftOptions {
            epochs: 2,
            batch: 32,
            micro_batch_tokens: 1024,
            learning_rate: 1e-5,
            warmup_steps: 0,
            final_share: 0.1,
            mix_share: 0.0,
            max_grad_norm: 1.0,
            adam: AdamConfig { eps: 1e-8, ..AdamConfig::default() },
            seed: 0,
        }
    }
}

/// Where a run stands, after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SftProgress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub n_steps: usize,
    /// Mean negative log-likelihood of this step's batch before the step, nats a token.
    pub loss: f64,
    /// Rate of this step.
    pub learning_rate: f64,
    /// Global norm before clipping.
    pub grad_norm: f64,
    /// Tokens read so far, prompts included.
    pub n_tokens: usize,
    /// Of this step.
    pub tokens_per_s: f64,
}

/// Trains on `examples`, with a share of `mix` in every batch; `progress` may end the run early. Returns the last step's
/// progress. Call it inside the learner's pool.
///
/// # Errors
/// When there are no examples, an example has no response, a loss or gradient is not finite ([`ModelError::Diverged`]; the
/// weights are then those before that step), or the device fails.
pub fn train(
    model: &CausalLm,
    examples: &[Sequence],
    mix: &[Sequence],
    options: &SftOptions,
    mut progress: impl FnMut(&SftProgress) -> ControlFlow<()>,
) -> Result<SftProgress> {
    let ended = train_until(model, examples, mix, options, None, &|| false, |now, _| progress(now));
    Ok(ended?.0)
}

/// As [`train`]; `is_stopped` is asked before every micro-batch, since a step may take minutes. A step that it ends is given
/// up: the weights are those after the step that is returned, and so is the optimiser beside it. `resumed`: where an earlier
/// run was left, of the same examples and options, which then goes on bit for bit.
///
/// # Errors
/// As [`train`], and as [`Resumed::begin`].
pub fn train_until(
    model: &CausalLm,
    examples: &[Sequence],
    mix: &[Sequence],
    options: &SftOptions,
    resumed: Option<Resumed>,
    is_stopped: IsStopped<'_>,
    mut progress: impl FnMut(&SftProgress, &AdamW) -> ControlFlow<()>,
) -> Result<(SftProgress, AdamW)> {
    let mut batches = Batches::new(examples, mix, options)?;
    let n_steps = batches.n_steps(options.epochs);
    let SftOptions { learning_rate: peak, final_share, warmup_steps, .. } = *options;
    let schedule = Schedule { peak, final_share, warmup_steps, n_steps };
    let mut adam = AdamW::new(model.parameters(), options.adam)?.keeping(model.rounded());
    let n_done = Resumed::begin(resumed, &mut adam, n_steps)?;
    let mut now = SftProgress {
        step: n_done,
        n_steps,
        loss: f64::NAN,
        learning_rate: 0.0,
        grad_norm: 0.0,
        n_tokens: (0..n_done).map(|_| n_tokens_of(&batches.next_batch())).sum(),
        tokens_per_s: 0.0,
    };
    for step in n_done..n_steps {
        let started = Instant::now();
        let batch = batches.next_batch();
        let computed = loss_and_gradients_until(model, &batch, options.micro_batch_tokens, is_stopped)?;
        let Some((loss, mut gradients)) = computed else { break };
        now.grad_norm = gradients.clip(options.max_grad_norm)?;
        check_step(step + 1, n_steps, loss, now.grad_norm)?;
        now.learning_rate = schedule.at(step);
        adam.step(&gradients, now.learning_rate)?;
        let n_tokens = n_tokens_of(&batch);
        now.step = step + 1;
        now.loss = loss;
        now.n_tokens += n_tokens;
        now.tokens_per_s = n_tokens as f64 / started.elapsed().as_secs_f64();
        if progress(&now, &adam).is_break() {
            break;
        }
    }
    Ok((now, adam))
}

fn n_tokens_of(batch: &[Sequence]) -> usize {
    batch.iter().map(|s| s.tokens.len()).sum()
}

/// Mean negative log-likelihood over the response tokens of `batch` and its gradient, micro-batch by micro-batch.
///
/// # Errors
/// When no sequence has a response or the device fails.
pub fn loss_and_gradients(model: &CausalLm, batch: &[Sequence], micro_batch_tokens: usize) -> Result<(f64, Gradients)> {
    let computed = loss_and_gradients_until(model, batch, micro_batch_tokens, &|| false)?;
    Ok(computed.expect("nobody stops it"))
}

/// `None` when it was stopped between two micro-batches.
fn loss_and_gradients_until(
    model: &CausalLm,
    batch: &[Sequence],
    micro_batch_tokens: usize,
    is_stopped: IsStopped<'_>,
) -> Result<Option<(f64, Gradients)>> {
    let n: usize = batch.iter().map(|s| s.response().len()).sum();
    if n == 0 {
        return Err(ModelError::Batch("no response tokens to learn from".to_owned()));
    }
    let lanes = lanes_of(model.trunk().shape().n_parameters(), rayon::current_num_threads());
    let mut gradients = Gradients::new();
    let micro = cut(model, batch, micro_batch_tokens);
    let sums = model.open(|lm| {
        accumulate(&mut gradients, &micro, lanes, |micro, gradients| {
            if is_stopped() {
                return Ok(None);
            }
            let mut sum = 0.0;
            lm.backward(micro, &vec![1.0; micro.sequences.len()], gradients, |rows| {
                sum += rows.log_probs.iter().map(|&l| f64::from(l)).sum::<f64>();
                Ok(HeadSlopes { log_probs: vec![-1.0 / n as f32; rows.log_probs.len()], entropies: Vec::new() })
            })?;
            Ok(Some(sum))
        })
    })?;
    let sums: Option<Vec<f64>> = sums.into_iter().collect();
    Ok(sums.map(|sums| (-sums.iter().sum::<f64>() / n as f64, gradients)))
}

/// The micro-batches of a batch, as many as suit the size of the model, of which an adapter is but a small part.
fn cut(model: &CausalLm, batch: &[Sequence], micro_batch_tokens: usize) -> Vec<SequenceBatch> {
    micro_batches(batch, micro_batch_tokens, pieces_min_of(model.trunk().shape().n_parameters()))
}

/// Mean negative log-likelihood over all response tokens, without gradients: the pretraining loss that the gate watches.
///
/// # Errors
/// When no sequence has a response or the device fails.
pub fn mean_nll(model: &CausalLm, sequences: &[Sequence], micro_batch_tokens: usize) -> Result<f64> {
    use rayon::prelude::*;
    let n: usize = sequences.iter().map(|s| s.response().len()).sum();
    if n == 0 {
        return Err(ModelError::Batch("no response tokens to measure".to_owned()));
    }
    let micro = cut(model, sequences, micro_batch_tokens);
    let sums: Vec<Result<f64>> = model.open(|lm| {
        let sum = |micro: &SequenceBatch| {
            let out = lm.log_probs(micro, &vec![1.0; micro.sequences.len()])?;
            Ok(out.log_probs.iter().map(|&l| f64::from(l)).sum())
        };
        Ok(match is_small_of(model.trunk().shape().n_parameters()) {
            true => micro.par_iter().map(sum).collect(),
            false => micro.iter().map(sum).collect(),
        })
    })?;
    let total: f64 = sums.into_iter().sum::<Result<f64>>()?;
    Ok(-total / n as f64)
}

/// Shuffled examples, epoch after epoch, with mixed-in texts from a second shuffle.
///
/// No example comes twice in a batch, however large it may be. Mixed-in texts keep their share of it instead: where there are
/// few of them they come more often.
struct Batches<'a> {
    examples: Shuffled<'a, Sequence>,
    mix: Shuffled<'a, Sequence>,
    n_examples: usize,
    n_mixed: usize,
}

impl<'a> Batches<'a> {
    fn new(examples: &'a [Sequence], mix: &'a [Sequence], options: &SftOptions) -> Result<Batches<'a>> {
        let share = if mix.is_empty() { 0.0 } else { options.mix_share };
        let n_mixed = (options.batch as f64 * share).round() as usize;
        let n_examples = options.batch.saturating_sub(n_mixed);
        if examples.is_empty() {
            return Err(ModelError::Batch("no examples to learn from".to_owned()));
        }
        if n_examples == 0 {
            let rule = format!("a share of {share} leaves no room for an example among {}", options.batch);
            return Err(ModelError::Batch(rule));
        }
        let examples = Shuffled::new(examples, options.seed);
        // Another stream for the mix, so that changing its share leaves the examples' order alone.
        Ok(Batches { examples, mix: Shuffled::new(mix, options.seed ^ u64::MAX), n_examples, n_mixed })
    }

    fn n_steps(&self, epochs: usize) -> usize {
        self.examples.n_batches(self.n_examples).saturating_mul(epochs)
    }

    fn next_batch(&mut self) -> Vec<Sequence> {
        let mut batch: Vec<Sequence> = self.examples.draw_batch(self.n_examples).into_iter().cloned().collect();
        let share = batch.len() as f64 / self.n_examples as f64;
        let n_mixed = (self.n_mixed as f64 * share).round() as usize;
        batch.extend((0..n_mixed).map(|_| self.mix.draw().clone()));
        batch
    }
}

/// A batch of texts as sequences that are targets from their second token on.
#[must_use]
pub fn texts(documents: Vec<Vec<crate::token::TokenId>>) -> Vec<Sequence> {
    documents.into_iter().filter(|d| d.len() > 1).map(Sequence::text).collect()
}

#[cfg(test)]
mod tests;
