//! The third stage: a reward model from rankings of K answers.
//!
//! It is trained twice. PPO moves a policy towards whatever the reward model overrates, which answers of the supervised
//! policy seldom show: InstructGPT therefore ranked some answers of PPO policies too (section 3.2). Here a scout, a first
//! reward model from some of the rankings, picks the best of many answers as it sees them; those are ranked as well, and
//! the reward model proper learns from all rankings.

mod answers;

use std::ops::ControlFlow;

use candle_core::Device;
use policy::{
    TokenId,
    checkpoint::{Checkpoint, WeightType},
    engine::Engine,
    scalar_model::ScalarModel,
};
use reward::{
    normalization::Normalization,
    ranking_trainer::{self, Ranking},
    reward_model::{RewardModel, raw_scores},
};

use self::answers::{Answered, answered, rankings, tempted};
use super::{recipe, supervised::seed_of};
use crate::demo::{
    encoder::Encoder,
    error::{DemoError, Result},
    progress::Progress,
    world::{Split, World, judge},
};

/// Validation prompts, and answers to each, on which the reward model is measured.
const MEASURED: (usize, u32) = (250, 4);
/// Training prompts whose answers set gain and bias.
const SCALED: usize = 1500;
/// Gold scores closer than this have no order worth finding.
const SAME: f64 = 0.05;

/// What the stage works with.
pub(super) struct Bench<'a> {
    /// The world.
    pub(super) world: &'a World,
    /// Its formats.
    pub(super) encoder: &'a Encoder<'a>,
    /// Holds the supervised policy as version 0 and the base model beside it.
    pub(super) engine: &'a Engine,
    /// Where progress is shown.
    pub(super) progress: &'a Progress,
}

/// The reward model and what it is good for.
pub(super) struct Judged {
    /// Trunk, head, gain and bias.
    pub(super) model: RewardModel,
    /// Numbers for the provenance.
    pub(super) numbers: Vec<(&'static str, f64)>,
}

/// Ranks answers to training prompts and trains on the rankings. Call it inside the learner's pool.
pub(super) fn train(bench: &Bench<'_>, sft: &Checkpoint) -> Result<Judged> {
    let mut rankings = rankings(bench)?;
    let scout = blank(bench, sft)?;
    fit(bench, "scout", &scout, &rankings[..recipe::SCOUT_PROMPTS])?;
    rankings.extend(tempted(bench, &scout)?);
    let held_out = answered(bench, Split::Validation, "reward/held-out", MEASURED.0, MEASURED.1)?;
    let reference = answered(bench, Split::Train, "reward/scale", SCALED, 1)?;
    let model = blank(bench, sft)?;
    let seen = fit(bench, "reward model", &model, &rankings)?;
    let raw = raw_scores(&model, &sequences(&reference))?;
    let scale = Normalization::standardised(&raw);
    let scale = scale.ok_or_else(|| DemoError::Reward("all of its scores are equal".to_owned()))?;
    let (accuracy, correlation) = agreement(&held_out, &raw_scores(&model, &sequences(&held_out))?);
    let numbers = vec![
        ("reward.rankings", rankings.len() as f64),
        ("reward.accuracy_on_noisy_labels", seen),
        ("reward.pair_accuracy", accuracy),
        ("reward.correlation_with_gold", correlation),
        ("reward.gain", scale.gain),
        ("reward.bias", scale.bias),
    ];
    let reward = |error: reward::reward_model::RewardModelError| DemoError::Reward(error.to_string());
    Ok(Judged { model: RewardModel::new(model, sft, &[scale], WeightType::F16).map_err(reward)?, numbers })
}

/// The supervised policy's trunk under a head that knows nothing.
fn blank(bench: &Bench<'_>, sft: &Checkpoint) -> Result<ScalarModel> {
    Ok(ScalarModel::from_policy(sft, seed_of(bench.world, "reward head"), &Device::Cpu)?)
}

/// One pass over the rankings. Returns the running pair accuracy on labels that the model had not seen yet.
fn fit(bench: &Bench<'_>, name: &'static str, model: &ScalarModel, rankings: &[Ranking]) -> Result<f64> {
    let bar = bench.progress.bar(name);
    let options = recipe::rankings(seed_of(bench.world, "reward order"));
    let mut accuracy = 0.5;
    ranking_trainer::train(model, rankings, &options, |now| {
        accuracy = 0.95 * accuracy + 0.05 * now.report.accuracy();
        bar.set(now.step as u64, now.n_steps as u64, &format!("pair accuracy {accuracy:.3}"));
        ControlFlow::Continue(())
    })?;
    bar.finish();
    Ok(accuracy)
}

/// Prompt and answer together, answer after answer.
fn sequences(answered: &[Answered]) -> Vec<Vec<TokenId>> {
    let joined = |one: &Answered| -> Vec<Vec<TokenId>> {
        let join = |tokens: &[TokenId]| one.tokens.iter().chain(tokens).copied().collect();
        one.answers.iter().map(|answer| join(&answer.tokens)).collect()
    };
    answered.iter().flat_map(joined).collect()
}

/// Share of pairs of answers to one prompt that are scored in the order of gold, and the correlation over all answers.
fn agreement(answered: &[Answered], scores: &[f64]) -> (f64, f64) {
    let (mut right, mut pairs) = (0usize, 0usize);
    let mut golds = Vec::with_capacity(scores.len());
    for one in answered {
        let own: Vec<f64> =
            one.answers.iter().map(|answer| judge(&one.prompt.wanted, &answer.text, answer.ended).total()).collect();
        let scores = &scores[golds.len()..golds.len() + own.len()];
        for i in 0..own.len() {
            for j in (0..own.len()).filter(|&j| own[i] > own[j] + SAME) {
                pairs += 1;
                right += usize::from(scores[i] > scores[j]);
            }
        }
        golds.extend(own);
    }
    (right as f64 / pairs.max(1) as f64, correlation(&golds, scores))
}

/// Pearson's correlation.
fn correlation(xs: &[f64], ys: &[f64]) -> f64 {
    let n = xs.len() as f64;
    let (mx, my) = (xs.iter().sum::<f64>() / n, ys.iter().sum::<f64>() / n);
    let covariance: f64 = xs.iter().zip(ys).map(|(x, y)| (x - mx) * (y - my)).sum();
    let spread = |values: &[f64], mean: f64| values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>().sqrt();
    covariance / (spread(xs, mx) * spread(ys, my)).max(1e-12)
}
