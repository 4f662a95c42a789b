//! The scale of a new reward model: which answers get mean 0 and standard deviation 1.

use std::time::Duration;

use policy::{PolicyVersion, TokenId, engine::Engine, scalar_model::ScalarModel, sft::Shuffled};
use reward::{RewardModel, normalization::Normalization, preference::Preference, reward_model::member_scores};

use super::Args;
use crate::{
    cli::say,
    http::wire::dataset::{Example, Record},
    sampling::{Draw, draw},
    train::{
        base::Base,
        dataset::read,
        encode::Encoder,
        error::{Result, TrainError},
    },
};

/// Sequences that set the scale.
pub(super) struct Samples {
    /// Answers of the supervised model; empty when nothing is asked of them.
    pub(super) reference: Vec<Vec<TokenId>>,
    /// Answers that people wrote.
    pub(super) demonstrations: Option<Vec<Vec<TokenId>>>,
}

/// Reads the demonstrations, if there are some.
pub(super) fn demonstrations(args: &Args, base: &Base) -> Result<Option<Vec<Vec<TokenId>>>> {
    let Some(path) = &args.demonstrations else { return Ok(None) };
    let mut lines = read(path, Record::example)?;
    // A document answers nobody.
    lines.retain(|line| matches!(line.record.content, Example::Exchange { .. }));
    let vocabulary = base.vocabulary()?;
    let mut encoder = Encoder::new(&vocabulary, path, args.fit.tokens_max(base.shape.context));
    let sequences = encoder.examples(&lines, false)?;
    say::tell(encoder.tally.line(path));
    match sequences.is_empty() {
        true => Err(TrainError::Data { path: path.clone(), reason: "no demonstration is left".to_owned() }),
        false => Ok(Some(sequences.into_iter().map(|sequence| sequence.tokens).collect())),
    }
}

/// Draws answers of the supervised model to prompts of the rankings, and frees the engine again.
pub(super) fn reference(args: &Args, base: &Base, rankings: &[Preference]) -> Result<Vec<Vec<TokenId>>> {
    if args.no_gain && args.demonstrations.is_some() {
        return Ok(Vec::new());
    }
    let config = config::Policy {
        max_queue: args.reference_samples,
        max_queue_sequences: args.reference_samples,
        max_queue_tokens: usize::MAX,
        threads: usize::from(args.fit.threads),
        ..config::Config::default().policy
    };
    let engine = Engine::start(&config, &base.path)?;
    let mut shuffled = Shuffled::new(rankings, args.fit.seed);
    let window = engine.context_tokens() as usize;
    let prompts: Vec<Vec<TokenId>> = (0..args.reference_samples)
        .map(|_| shuffled.draw().prompt().to_vec())
        .filter(|prompt| !prompt.is_empty() && prompt.len() < window)
        .collect();
    say::tell(format_args!("drawing {} answers that set the scale", prompts.len()));
    let what = Draw {
        version: PolicyVersion::SFT,
        n: 1,
        max_tokens: args.reference_tokens,
        temperature: 1.0,
        seed: args.fit.seed,
    };
    let answers = draw(&engine, &prompts, what)?;
    engine.shutdown(Duration::from_secs(5));
    let drawn = prompts.iter().zip(&answers);
    Ok(drawn.flat_map(|(prompt, all)| all.iter().map(|one| [prompt.as_slice(), &one.tokens].concat())).collect())
}

impl Samples {
    /// One map for each head.
    pub(super) fn normalizations(&self, model: &ScalarModel, with_gain: bool) -> Result<Vec<Normalization>> {
        let reference = member_scores(model, &self.reference)?;
        let demonstrations = self.demonstrations.as_ref().map(|all| member_scores(model, all)).transpose()?;
        let mut all = reference.iter().chain(demonstrations.iter().flatten()).flatten();
        if let Some(score) = all.find(|score| !score.is_finite()) {
            let reason =
                format!("after the last step a score is {score}, which is not finite; lower the learning rate");
            return Err(TrainError::Normalization(reason));
        }
        let column = |rows: &[Vec<f64>], member: usize| rows.iter().map(|row| row[member]).collect::<Vec<f64>>();
        let map = |member: usize| {
            let reference = column(&reference, member);
            let spread =
                if with_gain { Normalization::standardised(&reference) } else { Normalization::centred(&reference) };
            let map = match &demonstrations {
                None => spread,
                Some(rows) if with_gain => {
                    let centred = Normalization::centred(&column(rows, member));
                    spread.zip(centred).map(|(spread, centred)| spread.shifted_to(centred))
                }
                Some(rows) => Normalization::centred(&column(rows, member)),
            };
            map.ok_or_else(|| {
                let reason = format!("head {member} gives every answer the same score; a lower learning rate may help");
                TrainError::Normalization(reason)
            })
        };
        (0..model.n_heads()).map(map).collect()
    }

    /// Mean standard deviation of an ensemble's members on the reference answers, score units.
    pub(super) fn spread(&self, model: &RewardModel) -> Result<f64> {
        let sequences =
            if self.reference.is_empty() { self.demonstrations.as_deref().unwrap_or(&[]) } else { &self.reference };
        let judgements = model.judge(sequences)?;
        let stds: Vec<f64> = judgements.iter().filter_map(|judgement| judgement.std).collect();
        Ok(stds.iter().sum::<f64>() / stds.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use policy::{architecture::Shape, transformer::random_checkpoint};

    use super::*;

    fn model() -> ScalarModel {
        let checkpoint = random_checkpoint(&Shape::llama(11, 16, 2, 4, 2, 24), 3).expect("a model");
        ScalarModel::from_policy_with_heads(&checkpoint, 3, 1, &Device::Cpu).expect("heads")
    }

    fn sequences(from: u32) -> Vec<Vec<TokenId>> {
        (0..9).map(|i| vec![TokenId((from + i) % 11), TokenId((3 * i + from) % 11), TokenId(0)]).collect()
    }

    /// Mean and standard deviation of each head's scores.
    fn moments(model: &ScalarModel, maps: &[Normalization], sequences: &[Vec<TokenId>]) -> Vec<(f64, f64)> {
        let raw = member_scores(model, sequences).expect("scores");
        let of = |head: usize| {
            let scores: Vec<f64> = raw.iter().map(|row| maps[head].apply(row[head])).collect();
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / scores.len() as f64;
            (mean, variance.sqrt())
        };
        (0..maps.len()).map(of).collect()
    }

    #[test]
    fn every_head_gets_a_scale_of_its_own() {
        let model = model();
        let samples = Samples { reference: sequences(1), demonstrations: None };
        let maps = samples.normalizations(&model, true).expect("maps");
        for (mean, std) in moments(&model, &maps, &samples.reference) {
            assert!(mean.abs() < 1e-9 && (std - 1.0).abs() < 1e-9, "{mean} {std}");
        }
        let maps = samples.normalizations(&model, false).expect("maps");
        assert!(maps.iter().all(|map| map.gain == 1.0));
        assert!(moments(&model, &maps, &samples.reference).iter().all(|(mean, _)| mean.abs() < 1e-9));
    }

    /// Goal: the zero is at what people wrote, the unit is the model's own spread (InstructGPT 3.5 and Ziegler et al.).
    #[test]
    fn demonstrations_set_the_zero_and_samples_the_unit() {
        let model = model();
        let demonstrations = sequences(5)[..4].to_vec();
        let samples = Samples { reference: sequences(1), demonstrations: Some(demonstrations.clone()) };
        for (with_gain, unit) in [(true, Some(1.0)), (false, None)] {
            let maps = samples.normalizations(&model, with_gain).expect("maps");
            assert!(moments(&model, &maps, &demonstrations).iter().all(|(mean, _)| mean.abs() < 1e-9));
            let stds = moments(&model, &maps, &samples.reference);
            assert!(unit.is_none_or(|unit: f64| stds.iter().all(|(_, std)| (std - unit).abs() < 1e-9)));
        }
    }

    #[test]
    fn a_model_that_sees_no_difference_has_no_scale() {
        let samples = Samples { reference: vec![sequences(1)[0].clone(); 3], demonstrations: None };
        let refused = samples.normalizations(&model(), true).expect_err("no spread").to_string();
        assert!(refused.contains("the same score"), "{refused}");
    }

    #[test]
    fn scores_that_are_none_are_not_called_equal() {
        let model = model();
        let head = &model.parameters()["reward_head.bias"];
        head.set(&(head.as_tensor() + f64::NAN).expect("a sum")).expect("set");
        let samples = Samples { reference: sequences(1), demonstrations: None };
        let refused = samples.normalizations(&model, true).expect_err("no scores").to_string();
        assert!(refused.contains("a score is NaN") && refused.contains("lower the learning rate"), "{refused}");
    }
}
