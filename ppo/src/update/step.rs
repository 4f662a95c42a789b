//! One minibatch: gradients over its micro-batches, and one step of each optimiser.

use std::ops::Range;

use policy::{
    causal_lm::HeadSlopes,
    model_error::Result as ModelResult,
    optimizer::{Gradients, accumulate},
    sequence_batch::Sequence,
};

use super::{
    pretraining::{self, PtxStep},
    tally::{PolicyTally, ValueTally},
};
use crate::{
    error::PpoError,
    experience::{Budget, Experience, MicroBatches, Pace, batch_of, go_on, temperatures_of},
    loss::{Aggregation, PolicyClip, PolicyTokens, ValueTokens, policy_loss, value_loss},
    models::Models,
};

/// Adam step sizes of this round.
#[derive(Clone, Copy, Debug)]
pub(super) struct LearningRates {
    pub(super) policy: f64,
    pub(super) value: f64,
}

/// What all steps of a round have in common.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) config: &'a config::Ppo,
    pub(super) rates: LearningRates,
    /// Texts for `ppo.ptx`.
    pub(super) pretraining: &'a [Sequence],
}

/// What the steps of a round came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) n_policy_steps: usize,
    pub(super) n_value_steps: usize,
    pub(super) n_skipped_steps: usize,
    /// The KL budget is spent: no more policy steps.
    pub(super) stopped: bool,
    /// The policy is so far from where it began that the round must be taken back.
    pub(super) ran_away: bool,
    pub(super) policy: PolicyTally,
    pub(super) value: ValueTally,
    pub(super) policy_grad_norms: Vec<f64>,
    pub(super) value_grad_norms: Vec<f64>,
    /// One for each policy step into which text was mixed.
    pub(super) ptx: Vec<PtxStep>,
}

/// Some episodes of a round and the coefficients of their tokens.
pub(super) struct Minibatch<'a> {
    experience: &'a Experience,
    /// Episodes that train, in the order of the epoch.
    members: Vec<usize>,
    /// c_t, flat over the whole round; 0 outside the minibatch.
    coefficients: Vec<f64>,
}

/// The tokens of one micro-batch, gathered from the flat vectors of the round.
struct Tokens {
    old: Vec<f64>,
    advantages: Vec<f64>,
    weights: Vec<f64>,
    old_values: Vec<f64>,
    returns: Vec<f64>,
    coefficients: Vec<f64>,
    mask: Vec<bool>,
}

impl<'a> Minibatch<'a> {
    /// The coefficients count *all* tokens of the minibatch: filtering some never makes the others louder.
    pub(super) fn new(experience: &'a Experience, members: &[usize]) -> Self {
        let lengths: Vec<usize> = members.iter().map(|i| experience.lengths[*i]).collect();
        let everything = vec![true; lengths.iter().sum()];
        let flat = Aggregation::TokenMean.coefficients(&everything, &lengths);
        let mut coefficients = vec![0.0; experience.n_tokens()];
        for (member, own) in members.iter().zip(crate::masked::split(&flat, &lengths)) {
            coefficients[experience.range(*member)].copy_from_slice(own);
        }
        let members = members.iter().copied().filter(|i| experience.is_kept(*i)).collect();
        Minibatch { experience, members, coefficients }
    }

    /// Steps the policy, while its KL budget lasts, and the value model.
    pub(super) fn step(
        &self,
        models: &mut Models,
        plan: Plan<'_>,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<(), PpoError> {
        if self.members.is_empty() {
            return Ok(());
        }
        if !progress.stopped {
            self.step_policy(models, plan, progress, pace)?;
        }
        self.step_value(models, plan, progress, pace)
    }

    fn step_policy(
        &self,
        models: &mut Models,
        plan: Plan<'_>,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<(), PpoError> {
        let config = plan.config;
        let (mut gradients, tally) = self.policy_gradients(models, config, pace)?;
        progress.policy.merge(&tally);
        progress.ran_away |= tally.approx_kl_k3() > config.skip_kl;
        progress.stopped |= progress.ran_away || tally.approx_kl_k3() > config.stop_kl;
        if progress.stopped {
            return Ok(());
        }
        let n_episodes = self.members.len();
        let ptx = pretraining::mix(&mut gradients, models, plan.pretraining, config, n_episodes, pace)?;
        let norm = gradients.clip(config.max_grad_norm)?;
        if !(norm.is_finite() && tally.loss.is_finite()) {
            progress.n_skipped_steps += 1;
            return Ok(());
        }
        models.policy_optimizer.step(&gradients, plan.rates.policy)?;
        progress.policy_grad_norms.push(norm);
        progress.ptx.extend(ptx);
        progress.n_policy_steps += 1;
        Ok(())
    }

    fn step_value(
        &self,
        models: &mut Models,
        plan: Plan<'_>,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<(), PpoError> {
        let (mut gradients, tally) = self.value_gradients(models, plan.config, pace)?;
        progress.value.merge(&tally);
        let norm = gradients.clip(plan.config.max_grad_norm)?;
        if !(norm.is_finite() && tally.loss.is_finite()) {
            progress.n_skipped_steps += 1;
            return Ok(());
        }
        models.value_optimizer.step(&gradients, plan.rates.value)?;
        progress.value_grad_norms.push(norm);
        progress.n_value_steps += 1;
        Ok(())
    }

    /// d policy loss / dθ over the minibatch, unclipped.
    pub(super) fn policy_gradients(
        &self,
        models: &Models,
        config: &config::Ppo,
        pace: Pace<'_>,
    ) -> Result<(Gradients, PolicyTally), PpoError> {
        let episodes = &self.experience.episodes;
        let clip = PolicyClip { low: config.clip_low, high: config.clip_high, dual: None };
        let (gradients, tallies) = models.policy.open(|lm| {
            Ok(self.sum(Budget::of(models, config), pace, |members, gradients| {
                let (batch, temperatures) = (batch_of(episodes, members), temperatures_of(episodes, members));
                let tokens = self.tokens(members);
                let mut tally = PolicyTally::default();
                lm.backward(&batch, &temperatures, gradients, |rows| {
                    let loss = policy_loss(tokens.policy(&rows.range, &floats(rows.log_probs)), clip);
                    tally.add(&loss);
                    Ok(HeadSlopes { log_probs: slopes(&loss.grad), entropies: Vec::new() })
                })?;
                Ok(tally)
            }))
        })??;
        let mut tally = PolicyTally::default();
        tallies.iter().for_each(|part| tally.join(part));
        Ok((gradients, tally))
    }

    /// d value loss / dφ over the minibatch, unclipped.
    pub(super) fn value_gradients(
        &self,
        models: &Models,
        config: &config::Ppo,
        pace: Pace<'_>,
    ) -> Result<(Gradients, ValueTally), PpoError> {
        let episodes = &self.experience.episodes;
        let (gradients, losses) = models.value.open(|model| {
            Ok(self.sum(Budget::of(models, config), pace, |members, gradients| {
                let tokens = self.tokens(members);
                model.backward_at_response(&batch_of(episodes, members), gradients, |values| {
                    let loss = value_loss(tokens.value(&floats(values)), Some(config.value_clip));
                    Ok((slopes(&loss.grad), (loss, tokens.mask.len())))
                })
            }))
        })??;
        let mut tally = ValueTally::default();
        losses.iter().for_each(|(loss, n_tokens)| tally.add(loss, *n_tokens));
        Ok((gradients, tally))
    }

    /// Backpropagates every micro-batch and adds the gradients in order, a wave of them at a time.
    fn sum<R: Send>(
        &self,
        budget: Budget,
        pace: Pace<'_>,
        one: impl Fn(&[usize], &mut Gradients) -> ModelResult<R> + Sync,
    ) -> Result<(Gradients, Vec<R>), PpoError> {
        let (mut gradients, mut reports) = (Gradients::new(), Vec::new());
        for wave in MicroBatches::of(&self.experience.episodes, &self.members, budget).waves() {
            go_on(pace)?;
            let one = |members: &Vec<usize>, gradients: &mut Gradients| one(members, gradients);
            reports.extend(accumulate(&mut gradients, wave, budget.lanes, one)?);
        }
        Ok((gradients, reports))
    }

    fn tokens(&self, members: &[usize]) -> Tokens {
        let experience = self.experience;
        let gather =
            |x: &[f64]| -> Vec<f64> { members.iter().flat_map(|i| x[experience.range(*i)].iter().copied()).collect() };
        let coefficients = gather(&self.coefficients);
        Tokens {
            old: gather(&experience.passes.old),
            advantages: gather(&experience.whitened),
            weights: gather(&experience.importance.weights),
            old_values: gather(&experience.passes.values),
            returns: gather(&experience.returns),
            mask: vec![true; coefficients.len()],
            coefficients,
        }
    }
}

impl Tokens {
    /// Some of them, with their log-probs now.
    fn policy<'a>(&'a self, range: &Range<usize>, log_probs: &'a [f64]) -> PolicyTokens<'a> {
        PolicyTokens {
            log_probs,
            old: &self.old[range.clone()],
            advantages: &self.advantages[range.clone()],
            weights: &self.weights[range.clone()],
            coefficients: &self.coefficients[range.clone()],
            mask: &self.mask[range.clone()],
        }
    }

    fn value<'a>(&'a self, values: &'a [f64]) -> ValueTokens<'a> {
        ValueTokens {
            values,
            old: &self.old_values,
            returns: &self.returns,
            coefficients: &self.coefficients,
            mask: &self.mask,
        }
    }
}

fn floats(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn slopes(gradient: &[f64]) -> Vec<f32> {
    gradient.iter().map(|g| *g as f32).collect()
}
