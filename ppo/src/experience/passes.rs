//! The passes over a round that record no graph.

use std::ops::ControlFlow;

use policy::{model_error::ModelError, sequence_batch::SequenceBatch, threads::lanes, transformer::Pass};
use rayon::prelude::*;

use super::{AdvantageEstimator, Episode};
use crate::{error::PpoError, models::Models};

/// Called between micro-batches: may sleep to leave the processor to serving, and says whether to go on.
pub type Pace<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// What the frozen models said about every response token, flat, episode after episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passes {
    /// ℓ_old: the policy at the start of the update, nats.
    pub old: Vec<f64>,
    /// Entropy of the policy at the start of the update, nats.
    pub entropies: Vec<f64>,
    /// ℓ_ref: version 0, nats.
    pub reference: Vec<f64>,
    /// V_old, before each token, score units; 0 where the estimator asks no value model.
    pub values: Vec<f64>,
}

impl Passes {
    /// Runs the policy, the reference, and the value model where advantages need it, over all episodes.
    ///
    /// # Errors
    /// When a pass fails, or `pace` says stop.
    pub fn run(
        episodes: &[Episode],
        models: &Models,
        config: &config::Ppo,
        pace: Pace<'_>,
    ) -> Result<Passes, PpoError> {
        let order: Vec<usize> = (0..episodes.len()).collect();
        let micro_batches = MicroBatches::of(&order, config.micro_batch);
        let needs_values = AdvantageEstimator::of(config).needs_values();
        let results = micro_batches.map(lanes(models.policy.parameters()), pace, |members| {
            let batch = batch_of(episodes, members);
            let temperatures = temperatures_of(episodes, members);
            let old = models.policy.frozen_log_probs(&batch, &temperatures)?;
            let reference = models.reference.frozen_log_probs(&batch, &temperatures)?;
            let values = match needs_values {
                true => models.value.values_at_response(&batch, Pass::Frozen)?.to_vec1::<f32>()?,
                false => vec![0.0; old.log_probs.len()],
            };
            Ok((old, reference.log_probs, values))
        })?;
        let mut passes = Passes::default();
        for (old, reference, values) in results {
            passes.old.extend(old.log_probs.into_iter().map(f64::from));
            passes.entropies.extend(old.entropies.into_iter().map(f64::from));
            passes.reference.extend(reference.into_iter().map(f64::from));
            passes.values.extend(values.into_iter().map(f64::from));
        }
        Ok(passes)
    }
}

impl Passes {
    /// Takes out the episodes for which some model said a number that is none: one of them would poison the whitening of
    /// all. Returns the rest, and where the others stand among the rollouts of the round.
    pub(super) fn without_broken(self, episodes: Vec<Episode>) -> (Vec<Episode>, Passes, Vec<usize>) {
        let (mut whole, mut rest, mut broken) = (Vec::new(), Passes::default(), Vec::new());
        let mut start = 0;
        for episode in episodes {
            let range = start..start + episode.n_tokens();
            start = range.end;
            let own = [&self.old, &self.entropies, &self.reference, &self.values].map(|x| &x[range.clone()]);
            if !own.iter().all(|x| x.iter().all(|v| v.is_finite())) {
                broken.push(episode.index);
                continue;
            }
            let kept = [&mut rest.old, &mut rest.entropies, &mut rest.reference, &mut rest.values];
            kept.into_iter().zip(own).for_each(|(all, own)| all.extend_from_slice(own));
            whole.push(episode);
        }
        (whole, rest, broken)
    }
}

/// The sequences of some episodes as one batch.
pub(crate) fn batch_of(episodes: &[Episode], members: &[usize]) -> SequenceBatch {
    SequenceBatch::new(members.iter().map(|i| episodes[*i].sequence.clone()).collect())
}

/// Their temperatures.
pub(crate) fn temperatures_of(episodes: &[Episode], members: &[usize]) -> Vec<f32> {
    members.iter().map(|i| episodes[*i].temperature).collect()
}

/// Episodes cut into pieces that go through a model together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MicroBatches<'a> {
    order: &'a [usize],
    size: usize,
}

impl<'a> MicroBatches<'a> {
    /// `order`: indices of episodes; `size`: episodes of one pass.
    pub(crate) fn of(order: &'a [usize], size: usize) -> Self {
        MicroBatches { order, size: size.max(1) }
    }

    /// The pieces, in order.
    pub(crate) fn pieces(&self) -> Vec<&'a [usize]> {
        self.order.chunks(self.size).collect()
    }

    /// Computes every piece, `lanes` at once, and returns the results in order.
    ///
    /// # Errors
    /// The first error of a piece, or [`PpoError::Interrupted`].
    pub(crate) fn map<R: Send>(
        &self,
        lanes: usize,
        pace: Pace<'_>,
        compute: impl Fn(&[usize]) -> Result<R, ModelError> + Sync,
    ) -> Result<Vec<R>, PpoError> {
        let mut results = Vec::new();
        for wave in self.pieces().chunks(lanes.max(1)) {
            go_on(pace)?;
            let computed: Result<Vec<R>, ModelError> = wave.par_iter().map(|piece| compute(piece)).collect();
            results.extend(computed?);
        }
        Ok(results)
    }
}

/// Asks the pace.
pub(crate) fn go_on(pace: Pace<'_>) -> Result<(), PpoError> {
    match pace() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PpoError::Interrupted),
    }
}
