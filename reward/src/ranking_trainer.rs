//! Training a reward model on rankings.
//!
//! All responses to one prompt stay in one batch element: one forward pass each, every pair of them in one loss
//! (InstructGPT section 3.5). The loss and its gradient per score come from [`crate::ranking`]; the model carries it on. The
//! loss of a step is the mean over the prompts of the global batch, however it is cut into micro-batches.

mod report;

use std::ops::ControlFlow;

use policy::{
    TokenId,
    model_error::{ModelError, Result},
    optimizer::{AdamConfig, AdamW, Gradients, accumulate},
    scalar_model::ScalarModel,
    sequence_batch::{Sequence, SequenceBatch},
    sft::{IsStopped, Resumed, Schedule, Shuffled, balance, check_step},
    threads::{lanes_of, pieces_min_of},
};

pub use report::RankingReport;

use crate::{
    ensemble::{ensemble_ranking_loss, resampling_weight},
    margin::Margin,
    ranking::{RankingLoss, RankingOptions, ranking_loss},
    reward_model::raw_scores,
};

/// K responses to one prompt in an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    /// Prompt and response together, the end token included, one row a response.
    pub sequences: Vec<Vec<TokenId>>,
    /// 1 is best; equal ranks are a tie.
    pub ranks: Vec<u32>,
    /// Its own [`RankingOptions::margin_per_rank`]; `None`: that of all.
    pub margin: Option<Margin>,
}

impl Ranking {
    /// Joins a prompt with each of its responses.
    #[must_use]
    pub fn new(prompt: &[TokenId], responses: &[Vec<TokenId>], ranks: &[u32]) -> Ranking {
        let sequences = responses.iter().map(|response| [prompt, response].concat()).collect();
        Ranking { sequences, ranks: ranks.to_vec(), margin: None }
    }

    /// The variant of the loss that is its own.
    fn options(&self, of_all: &RankingOptions) -> RankingOptions {
        let margin_per_rank = self.margin.map_or(of_all.margin_per_rank, Margin::get);
        RankingOptions { margin_per_rank, ..*of_all }
    }

    fn n_tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// Whether any response is better than another.
    fn has_pair(&self) -> bool {
        self.ranks.windows(2).any(|pair| pair[0] != pair[1])
    }
}

/// How to train. Defaults are InstructGPT's C.2.
#[derive(Clone, Debug, PartialEq)]
pub struct RankingTrainOptions {
    /// Passes over the rankings; more than one overfits (InstructGPT C.2).
    pub epochs: usize,
    /// Prompts in one optimiser step; the last step of an epoch takes what is left of it.
    pub batch: usize,
    /// Tokens in one forward and backward pass; bounds memory, changes no gradient.
    pub micro_batch_tokens: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises from 0.
    pub warmup_steps: usize,
    /// Share of the highest rate at the end of the cosine.
    pub final_share: f64,
    /// Global gradient norm.
    pub max_grad_norm: f64,
    /// Constants of Adam.
    pub adam: AdamConfig,
    /// Variants of the loss.
    pub loss: RankingOptions,
    /// Order of the rankings.
    pub seed: u64,
}

impl Default for RankingTrainOptions {
    fn default() -> Self {
        RankingTrainOptions {
            epochs: 1,
            batch: 64,
            micro_batch_tokens: 2048,
            learning_rate: 9e-6,
            warmup_steps: 0,
            final_share: 0.1,
            max_grad_norm: 1.0,
            adam: AdamConfig::default(),
            loss: RankingOptions::default(),
            seed: 0,
        }
    }
}

impl RankingTrainOptions {
    /// Steps of a run over so many rankings.
    #[must_use]
    pub fn n_steps(&self, n_rankings: usize) -> usize {
        n_rankings.div_ceil(self.batch.max(1)).saturating_mul(self.epochs)
    }
}

/// Where a run stands, after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankingProgress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub n_steps: usize,
    /// Of this step's batch before the step.
    pub report: RankingReport,
    /// Rate of this step.
    pub learning_rate: f64,
    /// Global norm before clipping.
    pub grad_norm: f64,
}

/// Trains `model` on `rankings`; `progress` may end the run early. Call it inside the learner's pool.
///
/// # Errors
/// When there are no rankings, a loss or gradient is not finite ([`ModelError::Diverged`]; the weights are then those before
/// that step), or the device fails.
pub fn train(
    model: &ScalarModel,
    rankings: &[Ranking],
    options: &RankingTrainOptions,
    mut progress: impl FnMut(&RankingProgress) -> ControlFlow<()>,
) -> Result<()> {
    train_until(model, rankings, options, None, &|| false, |now, _| progress(now)).map(drop)
}

/// As [`train`]; `is_stopped` is asked before every micro-batch. A step that it ends is given up: the weights, and the optimiser
/// that is returned, are those after the last step of which `progress` was told. `resumed`: where an earlier run was left, of
/// the same rankings and options, which then goes on bit for bit.
///
/// # Errors
/// As [`train`], and as [`Resumed::begin`].
pub fn train_until(
    model: &ScalarModel,
    rankings: &[Ranking],
    options: &RankingTrainOptions,
    resumed: Option<Resumed>,
    is_stopped: IsStopped<'_>,
    mut progress: impl FnMut(&RankingProgress, &AdamW) -> ControlFlow<()>,
) -> Result<AdamW> {
    if rankings.is_empty() || options.batch == 0 {
        return Err(ModelError::Batch("no rankings to learn from".to_owned()));
    }
    let n_steps = options.n_steps(rankings.len());
    let RankingTrainOptions { learning_rate: peak, final_share, warmup_steps, .. } = *options;
    let schedule = Schedule { peak, final_share, warmup_steps, n_steps };
    let mut shuffled = Shuffled::new(rankings, options.seed);
    let mut adam = AdamW::new(model.parameters(), options.adam)?.keeping(model.rounded());
    let n_done = Resumed::begin(resumed, &mut adam, n_steps)?;
    for _ in 0..n_done {
        shuffled.draw_batch(options.batch);
    }
    for step in n_done..n_steps {
        let batch = shuffled.draw_batch(options.batch);
        let Some((report, mut gradients)) = loss_and_gradients_until(model, &batch, options, is_stopped)? else {
            break;
        };
        let grad_norm = gradients.clip(options.max_grad_norm)?;
        check_step(step + 1, n_steps, report.loss, grad_norm)?;
        let learning_rate = schedule.at(step);
        adam.step(&gradients, learning_rate)?;
        if progress(&RankingProgress { step: step + 1, n_steps, report, learning_rate, grad_norm }, &adam).is_break() {
            break;
        }
    }
    Ok(adam)
}

/// Mean loss over the prompts of `batch` and its gradient.
///
/// # Errors
/// When the device fails.
pub fn loss_and_gradients(
    model: &ScalarModel,
    batch: &[&Ranking],
    options: &RankingTrainOptions,
) -> Result<(RankingReport, Gradients)> {
    Ok(loss_and_gradients_until(model, batch, options, &|| false)?.expect("nobody stops it"))
}

/// `None` when it was stopped between two micro-batches.
fn loss_and_gradients_until(
    model: &ScalarModel,
    batch: &[&Ranking],
    options: &RankingTrainOptions,
    is_stopped: IsStopped<'_>,
) -> Result<Option<(RankingReport, Gradients)>> {
    let n_prompts = batch.iter().filter(|r| r.has_pair()).count().max(1) as f64;
    let n_parameters = model.trunk().shape().n_parameters();
    let lanes = lanes_of(n_parameters, rayon::current_num_threads());
    let micro = balance(batch, |r| r.n_tokens(), options.micro_batch_tokens, pieces_min_of(n_parameters));
    let mut gradients = Gradients::new();
    let n_heads = model.n_heads();
    let losses = model.open(|model| {
        accumulate(&mut gradients, &micro, lanes, |rankings, gradients| {
            if is_stopped() {
                return Ok(None);
            }
            let rows = rankings.iter().flat_map(|r| &r.sequences);
            let rows = rows.map(|tokens| Sequence { tokens: tokens.clone(), prompt_len: 0 }).collect();
            let losses = model.backward_at_last(&SequenceBatch::new(rows), gradients, |scores| {
                let losses = losses_of(scores, n_heads, rankings, options);
                let slopes = losses.iter().flat_map(|l| &l.grad_scores).map(|g| (g / n_prompts) as f32);
                Ok((slopes.collect(), losses))
            })?;
            Ok(Some(losses))
        })
    })?;
    let Some(losses) = losses.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
    let mut report = RankingReport::default();
    losses.iter().flatten().for_each(|loss| report.add(loss));
    Ok(Some((report.mean(), gradients)))
}

/// The loss of each ranking, with its gradients per score.
///
/// - `scores`: `[responses of all rankings, heads]` row by row, raw outputs.
///
/// With several heads each sees its own resampling of the rankings ([`resampling_weight`], seeded by `options.seed`); one
/// head sees every ranking once.
fn losses_of(
    scores: &[f32],
    n_heads: usize,
    rankings: &[&&Ranking],
    options: &RankingTrainOptions,
) -> Vec<RankingLoss> {
    let values: Vec<f64> = scores.iter().copied().map(f64::from).collect();
    let mut rest = values.as_slice();
    let mut losses = Vec::with_capacity(rankings.len());
    for ranking in rankings {
        let (own, after) = rest.split_at(ranking.ranks.len() * n_heads);
        rest = after;
        let weights: Vec<f64> = match n_heads {
            1 => vec![1.0],
            n => (0..n).map(|member| resampling_weight(options.seed, member, ranking)).collect(),
        };
        losses.push(ensemble_ranking_loss(own, &ranking.ranks, &weights, &ranking.options(&options.loss)));
    }
    losses
}

/// Loss and pair accuracy without training; of an ensemble, those of the members' mean.
///
/// # Errors
/// When the device fails.
pub fn evaluate(model: &ScalarModel, rankings: &[Ranking], options: &RankingOptions) -> Result<RankingReport> {
    let sequences: Vec<Vec<TokenId>> = rankings.iter().flat_map(|r| r.sequences.iter().cloned()).collect();
    let scores = raw_scores(model, &sequences)?;
    let mut rest = scores.as_slice();
    let mut report = RankingReport::default();
    for ranking in rankings {
        let (own, after) = rest.split_at(ranking.ranks.len());
        rest = after;
        report.add(&ranking_loss(own, &ranking.ranks, &ranking.options(options)));
    }
    Ok(report.mean())
}

#[cfg(test)]
mod tests;
