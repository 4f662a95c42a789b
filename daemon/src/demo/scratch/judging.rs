//! The third stage: a reward model from rankings of K answers.
//!
//! Most answers are the supervised policy's own, because those are what it will have to judge; some are the base model's
//! and some are staged (good ones, and one flaw each), so that it has seen better and worse than the policy writes.

use candle_core::{Device, Tensor};
use policy::{
    PolicyVersion, TokenId,
    checkpoint::{Checkpoint, WeightType},
    engine::Engine,
    model_error::ModelError,
    optimizer::{AdamConfig, AdamW, Gradients, accumulate},
    scalar_model::ScalarModel,
    sequence_batch::{Sequence, SequenceBatch},
    transformer::Pass,
};
use rand::{Rng, seq::SliceRandom};
use reward::ranking::{RankingOptions, ranking_loss};

use super::{ANSWER_TOKENS, BASE, recipe, supervised::seed_of};
use crate::demo::{
    encoder::Encoder,
    error::{DemoError, Result},
    progress::Progress,
    sampling::{Draw, Drawn, draw},
    world::{self, ANSWERS, Prompt, Split, World, judge, rank},
};

/// The reward model and what it is good for.
pub(super) struct Judged {
    /// Trunk, head, gain and bias.
    pub(super) checkpoint: Checkpoint,
    /// Numbers for the provenance.
    pub(super) numbers: Vec<(&'static str, f64)>,
}

/// A prompt, its answers, and their ranks.
struct Ranking {
    sequences: Vec<Sequence>,
    ranks: Vec<u32>,
}

/// Prompts with the tokens that the model sees, and answers of the supervised policy.
struct Sampled {
    prompts: Vec<(Prompt, Vec<TokenId>)>,
    answers: Vec<Vec<Drawn>>,
}

/// Ranks answers to training prompts and trains on the rankings.
pub(super) fn train(
    world: &World,
    encoder: &Encoder<'_>,
    engine: &Engine,
    sft: &Checkpoint,
    pool: &rayon::ThreadPool,
    progress: &Progress,
) -> Result<Judged> {
    let rankings = rankings(world, encoder, engine, progress)?;
    let held_out = sampled(world, encoder, engine, Split::Validation, 250, 4)?;
    let reference = sampled(world, encoder, engine, Split::Train, 1500, 1)?;
    pool.install(|| {
        let model = ScalarModel::from_policy(sft, seed_of(world, "reward head"), &Device::Cpu)?;
        let train_accuracy = fit(&model, &rankings, world, progress)?;
        let raw = |sampled: &Sampled| scores(&model, sampled);
        let scale = reward::normalization::Normalization::standardised(&raw(&reference)?.concat())
            .ok_or_else(|| DemoError::Reward("all of its scores are equal".to_owned()))?;
        let (accuracy, correlation) = agreement(&held_out, &raw(&held_out)?);
        let mut checkpoint = model.to_checkpoint(sft, WeightType::F16)?;
        supervised_metadata(&mut checkpoint, scale);
        let numbers = vec![
            ("reward.rankings", rankings.len() as f64),
            ("reward.last_train_accuracy", train_accuracy),
            ("reward.pair_accuracy", accuracy),
            ("reward.correlation_with_gold", correlation),
            ("reward.gain", scale.gain),
            ("reward.bias", scale.bias),
        ];
        Ok(Judged {
            checkpoint,
            numbers,
        })
    })
}

fn supervised_metadata(checkpoint: &mut Checkpoint, scale: reward::normalization::Normalization) {
    use candle_core::quantized::gguf_file::Value;
    checkpoint
        .metadata
        .set("honed.reward.gain", Value::F64(scale.gain));
    checkpoint
        .metadata
        .set("honed.reward.bias", Value::F64(scale.bias));
}

fn sampled(
    world: &World,
    encoder: &Encoder<'_>,
    engine: &Engine,
    split: Split,
    n_prompts: usize,
    n: u32,
) -> Result<Sampled> {
    let mut rng = world.stream("reward formats");
    let prompts = world
        .prompts(split, "reward")
        .take(n_prompts)
        .map(|prompt| {
            let tokens = encoder.prompt(&prompt.instruction, rng.random_bool(world::CHAT))?;
            Ok((prompt, tokens))
        });
    let prompts: Vec<_> = prompts.collect::<Result<_>>()?;
    let tokens: Vec<Vec<TokenId>> = prompts.iter().map(|(_, tokens)| tokens.clone()).collect();
    let what = Draw {
        version: PolicyVersion::SFT,
        n,
        max_tokens: ANSWER_TOKENS,
        seed: seed_of(world, "reward"),
    };
    Ok(Sampled {
        answers: draw(engine, &tokens, what)?,
        prompts,
    })
}

fn rankings(
    world: &World,
    encoder: &Encoder<'_>,
    engine: &Engine,
    progress: &Progress,
) -> Result<Vec<Ranking>> {
    let most = *ANSWERS.end() as u32 - 2;
    let bar = progress.bar("rankings");
    let Sampled { prompts, answers } = sampled(
        world,
        encoder,
        engine,
        Split::Train,
        recipe::RANKED_PROMPTS,
        most,
    )?;
    let tokens: Vec<Vec<TokenId>> = prompts.iter().map(|(_, tokens)| tokens.clone()).collect();
    let what = Draw {
        version: BASE,
        n: 1,
        max_tokens: ANSWER_TOKENS,
        seed: seed_of(world, "base answers"),
    };
    let base = draw(engine, &tokens, what)?;
    let mut rng = world.stream("rankings");
    let others: Vec<String> = prompts
        .iter()
        .map(|(prompt, _)| prompt.instruction.clone())
        .collect();
    let mut all = Vec::with_capacity(prompts.len());
    for (((prompt, tokens), own), base) in prompts.iter().zip(answers).zip(base) {
        let k = rng.random_range(ANSWERS);
        let mut candidates: Vec<(Vec<TokenId>, String, bool)> = own
            .into_iter()
            .take(k - 2)
            .chain(base)
            .map(|drawn| (drawn.tokens, drawn.text, drawn.ended))
            .collect();
        let question = others[rng.random_range(0..others.len())].clone();
        let staged = world::staged_answer(prompt, &[question], &mut rng);
        candidates.push((encoder.answer(&staged)?, staged, true));
        let golds: Vec<_> = candidates
            .iter()
            .map(|(_, text, ended)| judge(&prompt.wanted, text, *ended))
            .collect();
        let ranks = rank(&golds, recipe::LABEL_NOISE, &mut rng);
        let sequences = candidates
            .iter()
            .map(|(answer, ..)| Sequence::new(tokens, answer))
            .collect();
        all.push(Ranking { sequences, ranks });
        bar.set(all.len() as u64, prompts.len() as u64, "");
    }
    bar.finish();
    Ok(all)
}

fn fit(
    model: &ScalarModel,
    rankings: &[Ranking],
    world: &World,
    progress: &Progress,
) -> Result<f64> {
    let bar = progress.bar("reward model");
    let adam = AdamConfig {
        eps: 1e-8,
        ..AdamConfig::default()
    };
    let mut adam = AdamW::new(model.parameters(), adam)?;
    let mut order: Vec<usize> = (0..rankings.len()).collect();
    order.shuffle(&mut world.stream("reward order"));
    let batch = 32;
    let n_steps = order.len().div_ceil(batch);
    let mut accuracy = 0.5;
    for (step, chunk) in order.chunks(batch).enumerate() {
        let micro: Vec<Vec<usize>> = chunk.chunks(8).map(<[usize]>::to_vec).collect();
        let n = chunk.len() as f64;
        let mut gradients = Gradients::new();
        let reports = accumulate(
            &mut gradients,
            model.parameters(),
            &micro,
            rayon::current_num_threads(),
            |micro| {
                let sequences = micro
                    .iter()
                    .flat_map(|&i| rankings[i].sequences.clone())
                    .collect();
                let scores = model.scores_at_last(&SequenceBatch::new(sequences), Pass::Train)?;
                let values: Vec<f64> = scores
                    .to_vec1::<f32>()?
                    .into_iter()
                    .map(f64::from)
                    .collect();
                let (mut at, mut weights, mut right, mut pairs) = (0, Vec::new(), 0, 0);
                for &i in micro {
                    let ranks = &rankings[i].ranks;
                    let loss = ranking_loss(
                        &values[at..at + ranks.len()],
                        ranks,
                        &RankingOptions::default(),
                    );
                    at += ranks.len();
                    weights.extend(loss.grad_scores.iter().map(|g| (g / n) as f32));
                    right += loss.n_correct;
                    pairs += loss.n_pairs;
                }
                let weights = Tensor::from_vec(weights, values.len(), &Device::Cpu)?;
                let objective = (scores * weights)?.sum_all()?;
                Ok::<_, ModelError>((objective, (right, pairs)))
            },
        )?;
        gradients.clip(1.0)?;
        let rate = recipe::reward_rate(step, n_steps);
        adam.step(&gradients, rate)?;
        let (right, pairs) = reports
            .iter()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        accuracy = 0.95 * accuracy + 0.05 * right as f64 / pairs.max(1) as f64;
        bar.set(
            step as u64 + 1,
            n_steps as u64,
            &format!("pair accuracy {accuracy:.3}"),
        );
    }
    bar.finish();
    Ok(accuracy)
}

/// Raw scores, prompt by prompt.
fn scores(model: &ScalarModel, sampled: &Sampled) -> Result<Vec<Vec<f64>>> {
    let mut all = Vec::with_capacity(sampled.prompts.len());
    for ((_, prompt), answers) in sampled.prompts.iter().zip(&sampled.answers) {
        let sequences = answers
            .iter()
            .map(|drawn| Sequence::new(prompt, &drawn.tokens))
            .collect();
        let scores = model.scores_at_last(&SequenceBatch::new(sequences), Pass::Frozen)?;
        let scores = scores.to_vec1::<f32>().map_err(ModelError::from)?;
        all.push(scores.into_iter().map(f64::from).collect());
    }
    Ok(all)
}

/// Share of pairs of answers to one prompt that are scored in the order of gold, and the correlation over all answers.
fn agreement(sampled: &Sampled, scores: &[Vec<f64>]) -> (f64, f64) {
    let (mut right, mut pairs) = (0usize, 0usize);
    let (mut xs, mut ys) = (Vec::new(), Vec::new());
    for (((prompt, _), answers), scores) in sampled.prompts.iter().zip(&sampled.answers).zip(scores)
    {
        let golds: Vec<f64> = answers
            .iter()
            .map(|drawn| judge(&prompt.wanted, &drawn.text, drawn.ended).total())
            .collect();
        for i in 0..golds.len() {
            for j in 0..golds.len() {
                if golds[i] > golds[j] + 0.05 {
                    pairs += 1;
                    right += usize::from(scores[i] > scores[j]);
                }
            }
        }
        xs.extend(golds);
        ys.extend(scores);
    }
    (right as f64 / pairs.max(1) as f64, correlation(&xs, &ys))
}

/// Pearson's correlation.
fn correlation(xs: &[f64], ys: &[f64]) -> f64 {
    let n = xs.len() as f64;
    let (mx, my) = (xs.iter().sum::<f64>() / n, ys.iter().sum::<f64>() / n);
    let covariance: f64 = xs.iter().zip(ys).map(|(x, y)| (x - mx) * (y - my)).sum();
    let spread = |values: &[f64], mean: f64| {
        values
            .iter()
            .map(|v| (v - mean) * (v - mean))
            .sum::<f64>()
            .sqrt()
    };
    covariance / (spread(xs, mx) * spread(ys, my)).max(1e-12)
}
