//! The passes over a round that record no gradient.

use super::{
    AdvantageEstimator, Ahead, Episode,
    episode::bootstraps,
    micro_batches::{Budget, MicroBatches, Pace, batch_of, temperatures_of},
};
use crate::{error::PpoError, models::Models, off_policy::LogLinear};

/// What the policy said at the start of the update, flat, episode after episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyPass {
    /// ℓ_old, nats.
    pub old: Vec<f64>,
    /// Entropy before each token, nats.
    pub entropies: Vec<f64>,
}

/// What the frozen models said about every response token, flat, episode after episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passes {
    /// `None` with `ppo.proximal = "log_linear"`, which spares this pass.
    pub policy: Option<PolicyPass>,
    /// ℓ_ref: version 0, nats.
    pub reference: Vec<f64>,
    /// V_old, before each token, score units; 0 where the estimator asks no value model.
    pub values: Vec<f64>,
    /// V_old after the last token, one an *episode*, score units; 0 but for answers that were cut off and whose rest the value
    /// model guesses.
    pub last_values: Vec<f64>,
}

impl Passes {
    /// Runs the policy where it is asked, the reference, and the value model where advantages need it, over all episodes, one
    /// model after the other: in bf16 only one rounded copy is alive. The value model is opened again where it is asked for the
    /// rest of answers that were cut off. Of the models that learn comes along what the step on `first` need not compute again.
    ///
    /// # Errors
    /// When a pass fails, or `pace` says stop.
    pub(crate) fn run(
        episodes: &[Episode],
        first: &[usize],
        models: &Models,
        config: &config::Ppo,
        pace: Pace<'_>,
    ) -> Result<(Passes, Ahead), PpoError> {
        let ahead = Ahead::default();
        let (pieces, beginning) = MicroBatches::beginning_with(episodes, first, Budget::of(models, config));
        let is_first = |members: &[usize]| beginning.iter().any(|piece| piece == members);
        let input = |members: &[usize]| (batch_of(episodes, members), temperatures_of(episodes, members));
        let flat = Flat::new(episodes, &pieces);
        let policy = match LogLinear::is_asked(config) {
            true => None,
            false => {
                let said = models.policy.open(|lm| {
                    Ok(pieces.map(pace, |members| {
                        let (batch, temperatures) = input(members);
                        if !is_first(members) {
                            return lm.log_probs(&batch, &temperatures);
                        }
                        let (said, kept) = lm.log_probs_ahead(&batch, &temperatures)?;
                        ahead.policy.keep(members, kept);
                        Ok(said)
                    }))
                })??;
                let (old, entropies) = said.into_iter().map(|out| (out.log_probs, out.entropies)).unzip();
                Some(PolicyPass { old: flat.scatter(old), entropies: flat.scatter(entropies) })
            }
        };
        let reference = models.reference.open(|lm| {
            Ok(pieces.map(pace, |members| {
                let (batch, temperatures) = input(members);
                Ok(lm.log_probs(&batch, &temperatures)?.log_probs)
            }))
        })??;
        let values = match AdvantageEstimator::of(config).needs_values() {
            true => flat.scatter(models.value.open(|model| {
                Ok(pieces.map(pace, |members| {
                    let batch = batch_of(episodes, members);
                    if !is_first(members) {
                        return model.values_at_response(&batch);
                    }
                    let (values, kept) = model.values_at_response_ahead(&batch)?;
                    ahead.value.keep(members, kept);
                    Ok(values)
                }))
            })??),
            false => vec![0.0; flat.n_tokens()],
        };
        let passes = Passes {
            policy,
            reference: flat.scatter(reference),
            values,
            last_values: last_values(episodes, models, config, pace)?,
        };
        Ok((passes, ahead))
    }
}

/// One an episode, from a pass over those alone that need it.
fn last_values(
    episodes: &[Episode],
    models: &Models,
    config: &config::Ppo,
    pace: Pace<'_>,
) -> Result<Vec<f64>, PpoError> {
    let cut: Vec<usize> = (0..episodes.len()).filter(|&i| bootstraps(&episodes[i], config)).collect();
    let mut last = vec![0.0; episodes.len()];
    if cut.is_empty() {
        return Ok(last);
    }
    let pieces = MicroBatches::of(episodes, &cut, Budget::of(models, config));
    let values = models
        .value
        .open(|model| Ok(pieces.map(pace, |members| model.scores_at_last(&batch_of(episodes, members)))))??;
    for (members, values) in pieces.pieces().iter().zip(values) {
        members.iter().zip(values).for_each(|(&i, value)| last[i] = f64::from(value));
    }
    Ok(last)
}

/// Where the tokens of each piece belong among those of all episodes.
struct Flat<'a> {
    starts: Vec<usize>,
    lengths: Vec<usize>,
    pieces: &'a MicroBatches,
}

impl Flat<'_> {
    fn new<'a>(episodes: &[Episode], pieces: &'a MicroBatches) -> Flat<'a> {
        let lengths: Vec<usize> = episodes.iter().map(Episode::n_tokens).collect();
        let mut starts = vec![0];
        lengths.iter().for_each(|n| starts.push(starts[starts.len() - 1] + n));
        Flat { starts, lengths, pieces }
    }

    fn n_tokens(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// From one vector a piece to one for all, in the order of the episodes.
    fn scatter(&self, pieces: Vec<Vec<f32>>) -> Vec<f64> {
        let mut all = vec![0.0; self.n_tokens()];
        for (members, values) in self.pieces.pieces().iter().zip(pieces) {
            let mut rest = values.as_slice();
            for &i in members {
                let (own, after) = rest.split_at(self.lengths[i]);
                rest = after;
                let place = &mut all[self.starts[i]..][..own.len()];
                place.iter_mut().zip(own).for_each(|(place, &x)| *place = f64::from(x));
            }
        }
        all
    }
}

impl Passes {
    /// Takes out the episodes for which some model said a number that is none: one of them would poison the whitening of
    /// all. Returns the rest, and where the others stand among the rollouts of the round.
    pub(super) fn without_broken(mut self, episodes: Vec<Episode>) -> (Vec<Episode>, Passes, Vec<usize>) {
        let (mut whole, mut broken, mut is_kept) = (Vec::new(), Vec::new(), Vec::new());
        let (mut last_values, mut start) = (Vec::new(), 0);
        for (episode, last_value) in episodes.into_iter().zip(std::mem::take(&mut self.last_values)) {
            let range = start..start + episode.n_tokens();
            start = range.end;
            let is_whole = last_value.is_finite()
                && self.per_token().iter().all(|numbers| numbers[range.clone()].iter().all(|x| x.is_finite()));
            is_kept.extend(std::iter::repeat_n(is_whole, range.len()));
            if !is_whole {
                broken.push(episode.index);
                continue;
            }
            last_values.push(last_value);
            whole.push(episode);
        }
        for numbers in self.per_token() {
            let mut kept = is_kept.iter();
            numbers.retain(|_| *kept.next().expect("one a token"));
        }
        (whole, Passes { last_values, ..self }, broken)
    }

    /// All that there is one of for each token.
    fn per_token(&mut self) -> Vec<&mut Vec<f64>> {
        let policy = self.policy.iter_mut().flat_map(|pass| [&mut pass.old, &mut pass.entropies]);
        policy.chain([&mut self.reference, &mut self.values]).collect()
    }
}
