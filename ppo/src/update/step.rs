//! One minibatch: gradients over its micro-batches, and one step of each optimiser.

use policy::{
    causal_lm::HeadSlopes,
    model_error::Result as ModelResult,
    optimizer::{Gradients, accumulate, clip_factor},
    sequence_batch::Sequence,
};

use super::{
    first_minibatch::{FirstMinibatch, Said},
    pretraining,
    progress::{Fault, Progress, fault_of},
    rates::LearningRates,
    tally::{PolicyTally, ValueTally},
    tokens::Tokens,
};
use crate::{
    error::PpoError,
    experience::{
        AdvantageEstimator, Ahead, Budget, Experience, Kept, MicroBatches, Pace, Proximal, batch_of, go_on,
        temperatures_of,
    },
    guard::{Guard, limit, spike},
    loss::{Aggregation, PolicyClip, value, value_loss},
    models::Models,
};

/// What all steps of a round have in common.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) config: &'a config::Ppo,
    pub(super) rates: LearningRates,
    /// Texts for `ppo.ptx`.
    pub(super) pretraining: &'a [Sequence],
    /// Only the value model learns (`ppo.value_warmup_updates`).
    pub(super) is_warming_up: bool,
}

/// Some episodes of a round and the coefficients of their tokens.
pub(super) struct Minibatch<'a> {
    experience: &'a Experience,
    /// Episodes that train, in the order of the epoch.
    members: Vec<usize>,
    /// c_t, flat over the whole round; 0 outside the minibatch.
    coefficients: Vec<f64>,
}

impl<'a> Minibatch<'a> {
    /// The coefficients count *all* tokens of the minibatch: filtering some never makes the others louder.
    pub(super) fn new(experience: &'a Experience, members: &[usize], aggregation: Aggregation) -> Self {
        let lengths: Vec<usize> = members.iter().map(|i| experience.lengths[*i]).collect();
        let everything = vec![true; lengths.iter().sum()];
        let flat = aggregation.coefficients(&everything, &lengths);
        let mut coefficients = vec![0.0; experience.n_tokens()];
        for (member, own) in members.iter().zip(crate::masked::split(&flat, &lengths)) {
            coefficients[experience.range(*member)].copy_from_slice(own);
        }
        let members = members.iter().copied().filter(|i| experience.is_kept(*i)).collect();
        Minibatch { experience, members, coefficients }
    }

    /// Steps the policy, while its KL budget lasts, and the value model.
    ///
    /// `ahead`: passes over this minibatch that these very weights have made.
    pub(super) fn step(
        &self,
        models: &mut Models,
        plan: Plan<'_>,
        ahead: Ahead,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<(), PpoError> {
        if self.members.is_empty() {
            return Ok(());
        }
        match progress.stopped || plan.is_warming_up {
            true => drop(ahead.policy),
            false => self.step_policy(models, plan, ahead.policy, progress, pace)?,
        }
        if progress.is_refused {
            return Ok(());
        }
        if AdvantageEstimator::of(plan.config).needs_values() {
            self.step_value(models, plan, ahead.value, progress, pace)?;
        }
        Ok(())
    }

    fn step_policy(
        &self,
        models: &mut Models,
        plan: Plan<'_>,
        ahead: Kept,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<(), PpoError> {
        let config = plan.config;
        let room = std::mem::take(&mut progress.gradients);
        let (mut gradients, mut tally) = self.policy_gradients(models, config, &ahead, room, pace)?;
        let said = std::mem::take(&mut tally.said);
        if self.is_log_linear() && progress.first.is_none() {
            let first = FirstMinibatch::of(self.experience, &said, config);
            progress.is_refused = !first.watch(config, &mut progress.trips);
            progress.first = Some(first);
            if progress.is_refused {
                return Ok(());
            }
        }
        progress.policy.merge(&tally);
        progress.watch_divergence(tally.approx_kl_k3(), config);
        if progress.stopped {
            return Ok(());
        }
        let n_episodes = self.members.len();
        let ptx = pretraining::mix(&mut gradients, models, plan.pretraining, config, n_episodes, pace)?;
        let norm = gradients.global_norm()?;
        let control = &mut models.control;
        let ratio_fault = || {
            let limit = spike(tally.ratio_max, &control.ratio_maxima, config.ratio_spike)?;
            Some(Fault { guard: Guard::RatioSpike, value: tally.ratio_max, limit })
        };
        let fault = fault_of(tally.loss, norm, &control.policy_grad_norms, config.grad_spike).or_else(ratio_fault);
        control.policy_grad_norms.push(norm);
        control.ratio_maxima.push(tally.ratio_max);
        if let Some(fault) = fault {
            progress.skip_policy_step(fault);
            return Ok(());
        }
        let factor = clip_factor(norm, limit(config.max_grad_norm));
        models.policy_optimizer.step_scaled(&gradients, factor, plan.rates.policy)?;
        progress.gradients = gradients;
        progress.policy_grad_norms.push(norm);
        progress.ptx.extend(ptx);
        progress.count_policy_step();
        Ok(())
    }

    fn step_value(
        &self,
        models: &mut Models,
        plan: Plan<'_>,
        ahead: Kept,
        progress: &mut Progress,
        pace: Pace<'_>,
    ) -> Result<(), PpoError> {
        let room = std::mem::take(&mut progress.gradients);
        let (mut gradients, tally) = self.value_gradients(models, plan.config, &ahead, room, pace)?;
        progress.value.merge(&tally);
        if plan.config.value_coef != 1.0 {
            gradients.scale(plan.config.value_coef)?;
        }
        let norm = gradients.global_norm()?;
        let usual = &mut models.control.value_grad_norms;
        let fault = fault_of(tally.loss, norm, usual, plan.config.grad_spike);
        usual.push(norm);
        if let Some(fault) = fault {
            progress.skip_step(fault);
            return Ok(());
        }
        let factor = clip_factor(norm, limit(plan.config.max_grad_norm));
        models.value_optimizer.step_grouped(&gradients, factor, |name| plan.rates.of_value(name))?;
        progress.gradients = gradients;
        progress.value_grad_norms.push(norm);
        progress.n_value_steps += 1;
        Ok(())
    }

    /// d policy loss / dθ over the minibatch, unclipped.
    pub(super) fn policy_gradients(
        &self,
        models: &Models,
        config: &config::Ppo,
        ahead: &Kept,
        room: Gradients,
        pace: Pace<'_>,
    ) -> Result<(Gradients, PolicyTally), PpoError> {
        let episodes = &self.experience.episodes;
        let clip = PolicyClip::of(config);
        let (gradients, tallies) = models.policy.open(|lm| {
            Ok(self.sum(room, Budget::of(models, config), pace, |members, gradients| {
                let (batch, temperatures) = (batch_of(episodes, members), temperatures_of(episodes, members));
                let tokens = self.tokens(members);
                let (mut tally, mut said) = (PolicyTally::default(), Said::default());
                lm.backward_from(ahead.take(members), &batch, &temperatures, gradients, |rows| {
                    let log_probs = floats(rows.log_probs);
                    let reading = tokens.read(&rows.range, &log_probs, clip);
                    tally.add(&reading);
                    if self.is_log_linear() {
                        said.log_probs.extend(log_probs);
                        said.entropies.extend(rows.entropies.iter().copied().map(f64::from));
                    }
                    let log_probs = slopes(&reading.loss.grad);
                    Ok(HeadSlopes { log_probs, entropies: tokens.bonus(&rows.range, config) })
                })?;
                if self.is_log_linear() {
                    tally.said.push(Said { members: members.to_vec(), ..said });
                }
                Ok(tally)
            }))
        })??;
        let mut tally = PolicyTally::default();
        tallies.into_iter().for_each(|part| tally.join(part));
        Ok((gradients, tally))
    }

    /// d value loss / dφ over the minibatch, unclipped.
    pub(super) fn value_gradients(
        &self,
        models: &Models,
        config: &config::Ppo,
        ahead: &Kept,
        room: Gradients,
        pace: Pace<'_>,
    ) -> Result<(Gradients, ValueTally), PpoError> {
        let episodes = &self.experience.episodes;
        let clip = value::clip_of(config);
        let (gradients, losses) = models.value.open(|model| {
            Ok(self.sum(room, Budget::of(models, config), pace, |members, gradients| {
                let tokens = self.tokens(members);
                let batch = batch_of(episodes, members);
                model.backward_at_response_from(ahead.take(members), &batch, gradients, |values| {
                    let loss = value_loss(tokens.value(&floats(values)), clip);
                    Ok((slopes(&loss.grad), (loss, tokens.mask.len())))
                })
            }))
        })??;
        let mut tally = ValueTally::default();
        losses.iter().for_each(|(loss, n_tokens)| tally.add(loss, *n_tokens));
        Ok((gradients, tally))
    }

    /// Backpropagates every micro-batch and adds the gradients in order, a wave of them at a time. `room`: the gradients of
    /// an earlier step, for their memory.
    fn sum<R: Send>(
        &self,
        room: Gradients,
        budget: Budget,
        pace: Pace<'_>,
        one: impl Fn(&[usize], &mut Gradients) -> ModelResult<R> + Sync,
    ) -> Result<(Gradients, Vec<R>), PpoError> {
        let (mut gradients, mut reports) = (room, Vec::new());
        gradients.reset();
        for wave in MicroBatches::of(&self.experience.episodes, &self.members, budget).waves() {
            go_on(pace)?;
            let one = |members: &Vec<usize>, gradients: &mut Gradients| one(members, gradients);
            reports.extend(accumulate(&mut gradients, wave, budget.lanes, one)?);
        }
        Ok((gradients, reports))
    }

    /// Whether ℓ_old is a guess of each minibatch.
    fn is_log_linear(&self) -> bool {
        matches!(self.experience.proximal, Proximal::LogLinear(_))
    }

    fn tokens(&self, members: &[usize]) -> Tokens {
        Tokens::gather(self.experience, &self.coefficients, members)
    }
}

fn floats(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn slopes(gradient: &[f64]) -> Vec<f32> {
    gradient.iter().map(|g| *g as f32).collect()
}
