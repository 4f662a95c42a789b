//! One update, computed again from its record.

use std::{collections::BTreeMap, ops::ControlFlow, sync::atomic::Ordering};

use policy::{checkpoint::WeightType, threads::learner_pool};

use super::{
    ReplayError,
    run::{Reached, Replay, with_constants},
};
use crate::{
    error::PpoError,
    form::configured,
    rollout_log::{Start, UpdateRow},
    state::{self, StateHead},
    stats::{UpdateOutcome, named},
    update::Round,
};

/// An update computed again.
pub(super) struct Repeated {
    pub(super) numbers: BTreeMap<String, f64>,
    /// Digest of the weights that it made, if it made any.
    pub(super) digest: Option<String>,
}

impl Replay<'_> {
    /// One update from the state before it. The result stands where the record says that it ended, compared with nothing.
    pub(super) fn repeat(&self, before: Option<Reached>, row: &UpdateRow) -> Result<(Reached, Repeated), ReplayError> {
        let number = row.start.number;
        let rollouts = self.archive.rollouts(number)?;
        let mut reached = self.begin(before, row)?;
        let (config, models) = (&reached.config, &mut reached.models);
        let pretraining = self.beginning.pretraining();
        let round = Round { config, update: number, lineage: &row.lineage, pretraining };
        let interrupt = self.interrupt;
        let own_pool = match self.pool.current_num_threads() == row.start.n_threads {
            true => None,
            false => Some(learner_pool(row.start.n_threads)?),
        };
        let pool = own_pool.as_ref().unwrap_or(self.pool);
        let outcome = row.end.as_ref().map(|end| end.outcome);
        let source = self.beginning.source();
        let (repeated, fingerprint) = pool.install(|| -> Result<_, PpoError> {
            let mut pace = || match interrupt.load(Ordering::Acquire) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let snapshot = models.snapshot(config)?;
            let done = round.run_from(&snapshot, models, &rollouts, &mut pace)?;
            let kind = WeightType::parse(&config.weight_type).expect("config has checked the words");
            let digest = match done.has_new_policy() {
                true => Some(models.policy.to_checkpoint(source, kind)?.digest()?.to_string()),
                false => None,
            };
            if outcome == Some(UpdateOutcome::Rejected) {
                models.restore_policy(&snapshot)?;
            }
            let fingerprint = state::fingerprint(models, number + 1)?.to_string();
            Ok((Repeated { numbers: named(&done.stats), digest }, fingerprint))
        })?;
        let promoted = row.end.as_ref().filter(|end| end.outcome == UpdateOutcome::Promoted);
        let version = promoted.and_then(|end| Some((end.version?, end.digest.clone()?)));
        let (version, digest) = version.unwrap_or_else(|| (row.start.parent, row.start.parent_digest.clone()));
        reached.head = StateHead { update: number + 1, start: Start::Continued, version, digest, fingerprint };
        reached.n_replayed += 1;
        Ok((reached, repeated))
    }

    /// The state that an update began with, ready for its round: the same as recorded, prepared by its configuration.
    pub(super) fn begin(&self, before: Option<Reached>, row: &UpdateRow) -> Result<Reached, ReplayError> {
        let config = self.config_of(row)?;
        let texts = self.beginning.pretraining_digest(&config);
        if texts != row.start.pretraining {
            return Err(self.different(row, "the pretraining text", &row.start.pretraining, &texts));
        }
        let mut reached = self.start(before, row, config)?;
        if reached.head.fingerprint != row.start.state_before {
            return Err(self.other_beginning(row, &reached.head.fingerprint)?);
        }
        reached.models.prepare(&reached.config);
        Ok(reached)
    }

    /// Why the state before an update may have come out differently. Whatever a fresh start is made from beside the weights and
    /// the recorded configuration is the word of whoever asks, and scores tell whether it is the word of the run.
    fn other_beginning(&self, row: &UpdateRow, rebuilt: &str) -> Result<ReplayError, ReplayError> {
        let mut error = self.different(row, "the state before it", &row.start.state_before, rebuilt);
        if let (ReplayError::Different { hint, .. }, Start::Fresh) = (&mut error, row.start.start) {
            *hint = format!(
                "; the record does not say where the value model started: here it starts {}, and what the update learnt \
                 from was judged by {}; give the flags of the run: --model, --reward-model, and every reward.* and \
                 ppo.device that it was given",
                self.beginning.value_start(),
                self.archive.judges(row.start.number)?
            )
            .into();
        }
        Ok(error)
    }

    /// The state that an update began with.
    fn start(&self, before: Option<Reached>, row: &UpdateRow, config: config::Ppo) -> Result<Reached, ReplayError> {
        let (saved, n_replayed) = before.as_ref().map_or((None, 0), |before| (before.saved, before.n_replayed));
        let models = match (row.start.start, before) {
            (Start::Continued, Some(before)) => return with_constants(self.beginning, before, config),
            (Start::Continued | Start::Rebased, None) => return Err(ReplayError::Nothing),
            // A state that was saved after another version was activated has that behind it already.
            (Start::Rebased, Some(before))
                if (before.head.start, before.head.version) == (Start::Rebased, row.start.parent)
                    // Before another rank or alpha was configured, at version 0.
                    && configured(&config, before.models.form()) == config =>
            {
                return with_constants(self.beginning, before, config);
            }
            (Start::Rebased, Some(before)) => {
                self.beginning.rebased(before.models, &self.archive.weights(row)?, &config)?
            }
            (Start::Fresh, before) => {
                drop(before);
                self.beginning.models(&self.archive.weights(row)?, &config)?
            }
        };
        let head = self.head(&models, row.start.number, row.start.start, row.start.parent, &row.start.parent_digest)?;
        Ok(Reached { models, head, saved, n_replayed, config })
    }

    fn config_of(&self, row: &UpdateRow) -> Result<config::Ppo, ReplayError> {
        if row.start.config == self.config.assignments() {
            return Ok(self.config.clone());
        }
        let refused = |source| ReplayError::Config { update: row.start.number, source: Box::new(source) };
        config::Ppo::from_assignments(&row.start.config).map_err(refused)
    }
}
