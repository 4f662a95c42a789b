//! The third stage: reward models from rankings, of which the weak ones have seen little.

use std::ops::ControlFlow;

use candle_core::Device;
use policy::{PolicyVersion, TokenId, causal_lm::CausalLm, checkpoint::WeightType, scalar_model::ScalarModel};
use rand::Rng;
use reward::{
    Preference,
    normalization::Normalization,
    ranking_trainer::{self, Ranking, RankingReport},
    reward_model::{RewardModel, raw_scores},
};

use super::{
    Result,
    progress::Progress,
    recipe::{self, Recipe},
    sampler,
    start::Start,
    world::{Prompt, Split, gold, seed_of, stream},
};
use crate::demo::world::{ANSWERS, standard_normal};

/// Standard deviation of the labelers' grades around gold.
const LABEL_NOISE: f64 = 0.35;
/// Answers of the supervised policy that set gain and bias.
const SCALED: usize = 512;

/// Everything that reward models of one seed are trained and measured on.
pub(super) struct Labels {
    train: Vec<Ranking>,
    held_out: Vec<Ranking>,
    /// Prompts and answers of the supervised policy.
    reference: Vec<Vec<TokenId>>,
    /// Share of the held-out pairs that gold itself puts in the labelers' order, ties half: no reward model can be better.
    pub(super) ceiling: f64,
}

/// A reward model and how good it is.
pub(super) struct Judge {
    /// Trunk, head, gain and bias.
    pub(super) model: RewardModel,
    /// Ranked prompts that it has seen.
    pub(super) n_prompts: usize,
    /// Share of held-out pairs in the labelers' order.
    pub(super) accuracy: f64,
}

/// Has labelers rank answers of the supervised policy. Call it inside a pool.
pub(super) fn label(seed: u64, recipe: &Recipe, start: &Start) -> Result<Labels> {
    let most = recipe.rankings.into_iter().max().unwrap_or_default();
    let (train, _) = rankings(seed, Split::Train, most, &start.sft)?;
    let (held_out, ceiling) = rankings(seed, Split::HeldOut, recipe.held_out_rankings, &start.sft)?;
    let mut dice = stream(seed, "scale");
    let prompts: Vec<Prompt> = (0..SCALED).map(|_| Prompt::draw(Split::Train, &mut dice)).collect();
    let rollouts = sampler::draw(&start.sft, PolicyVersion::SFT, &prompts, &mut dice)?;
    let reference = rollouts.iter().map(|r| [r.prompt.as_slice(), &sampler::answer(r)].concat()).collect();
    Ok(Labels { train, held_out, reference, ceiling })
}

/// `n` rankings of K = 4 to 9 answers each, and how often gold agrees with a pair of them.
fn rankings(seed: u64, split: Split, n: usize, policy: &CausalLm) -> Result<(Vec<Ranking>, f64)> {
    let mut dice = stream(seed, &format!("rankings/{split:?}"));
    let asked: Vec<(Prompt, usize)> =
        (0..n).map(|_| (Prompt::draw(split, &mut dice), dice.random_range(ANSWERS))).collect();
    let prompts: Vec<Prompt> = asked.iter().flat_map(|(prompt, k)| std::iter::repeat_n(*prompt, *k)).collect();
    let rollouts = sampler::draw(policy, PolicyVersion::SFT, &prompts, &mut dice)?;
    let mut rest = rollouts.as_slice();
    let (mut rankings, mut agreed, mut n_pairs) = (Vec::with_capacity(n), 0.0, 0.0);
    for (prompt, k) in asked {
        let (own, after) = rest.split_at(k);
        rest = after;
        let answers: Vec<Vec<TokenId>> = own.iter().map(sampler::answer).collect();
        let golds: Vec<f64> = answers.iter().map(|answer| gold(prompt, answer)).collect();
        let grades: Vec<f64> = golds.iter().map(|g| g + LABEL_NOISE * standard_normal(&mut dice)).collect();
        for (i, j) in (0..k).flat_map(|i| (0..i).map(move |j| (i, j))) {
            n_pairs += 1.0;
            agreed += agreement(golds[i] - golds[j], grades[i] - grades[j]);
        }
        let mut best_first: Vec<usize> = (0..k).collect();
        best_first.sort_by(|i, j| grades[*j].total_cmp(&grades[*i]));
        let order: Vec<Vec<usize>> = best_first.into_iter().map(|i| vec![i]).collect();
        rankings.push(Ranking::from(&Preference::from_order(prompt.tokens(), answers, &order)?));
    }
    Ok((rankings, agreed / f64::max(n_pairs, 1.0)))
}

/// 1 when both gaps have one sign, ½ when gold has none.
fn agreement(gold_gap: f64, grade_gap: f64) -> f64 {
    if gold_gap == 0.0 { 0.5 } else { f64::from(u8::from(gold_gap * grade_gap > 0.0)) }
}

/// Trains a reward model on the first `n_prompts` rankings. Call it inside a pool.
pub(super) fn train(seed: u64, n_prompts: usize, start: &Start, labels: &Labels, progress: &Progress) -> Result<Judge> {
    let model = ScalarModel::from_policy(&start.checkpoint, seed_of(seed, "reward head"), &Device::Cpu)?;
    let options = recipe::rankings(seed_of(seed, "reward order"));
    let share = progress.share();
    ranking_trainer::train(&model, &labels.train[..n_prompts], &options, |now| {
        share.at(now.step, now.n_steps);
        ControlFlow::Continue(())
    })?;
    let report: RankingReport = ranking_trainer::evaluate(&model, &labels.held_out, &options.loss)?;
    let scale = Normalization::standardised(&raw_scores(&model, &labels.reference)?);
    let scale = scale.ok_or("a reward model gives every answer the same score")?;
    let model = RewardModel::new(model, &start.checkpoint, &[scale], WeightType::F32)?;
    Ok(Judge { model, n_prompts, accuracy: report.accuracy() })
}
