//! From the nearest state forwards.

use std::sync::atomic::AtomicBool;

use policy::{PolicyVersion, checkpoint::Checkpoint};

use super::{Archive, ReplayError};
use crate::{
    arithmetic::arithmetic,
    beginning::Beginning,
    error::PpoError,
    form::configured,
    models::Models,
    rollout_log::{Start, UpdateRow, VersionRow},
    snapshot::Snapshot,
    state::{self, StateFile, StateHead},
};

/// What replays work with.
#[derive(Clone, Copy)]
pub(crate) struct Replay<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) beginning: &'a Beginning,
    /// Of today; each update is computed with its own.
    pub(crate) config: &'a config::Ppo,
    pub(crate) pool: &'a rayon::ThreadPool,
    /// Ends the replay with [`PpoError::Interrupted`].
    pub(crate) interrupt: &'a AtomicBool,
}

/// A state, and what it is the state of.
pub(crate) struct Reached {
    pub(crate) models: Models,
    pub(crate) head: StateHead,
    /// The newest file on the way: what of this state is on disk.
    pub(crate) saved: Option<u64>,
    pub(crate) n_replayed: u64,
    /// Whose constants the optimisers hold.
    pub(super) config: config::Ppo,
}

/// One step of a replay.
enum Step {
    /// An update is computed.
    Update(UpdateRow),
    /// Rounds that taught nothing were taken back: the state after this update is the one before the other, the first of them.
    Back(UpdateRow, Box<UpdateRow>),
}

impl Replay<'_> {
    /// The state that the update before this one left.
    ///
    /// # Errors
    /// When what it takes is not there, or comes out differently than recorded.
    pub(crate) fn reach(&self, update: u64) -> Result<Reached, ReplayError> {
        let mut steps = Vec::new();
        let mut reached = None;
        let mut at = Some(update);
        while let Some(now) = at.filter(|_| reached.is_none()) {
            reached = self.read_state(now)?;
            if reached.is_none() {
                let row = self.archive.ended(now.checked_sub(1).ok_or(ReplayError::Nothing)?)?;
                let back = row.end.as_ref().and_then(|end| end.streak).filter(|streak| streak.went_back);
                let first = back.map(|streak| self.archive.ended(streak.first)).transpose()?;
                let began = &first.as_ref().unwrap_or(&row).start;
                // A fresh start is where every history ends.
                at = (began.start != Start::Fresh).then_some(began.number);
                steps.push(match first {
                    Some(first) => Step::Back(row, Box::new(first)),
                    None => Step::Update(row),
                });
            }
        }
        while let Some(step) = steps.pop() {
            tracing::info!(n_left = steps.len(), "computing an update again");
            reached = Some(match step {
                Step::Update(row) => self.advance(reached, &row)?,
                Step::Back(row, first) => self.go_back(self.begin(reached, &first)?, &row)?,
            });
        }
        reached.ok_or(ReplayError::Nothing)
    }

    /// As [`Replay::reach`], by way of the state that update `first` began with, of which it takes a snapshot if that is whole.
    ///
    /// # Errors
    /// As [`Replay::reach`].
    pub(crate) fn reach_through(&self, first: u64, update: u64) -> Result<(Reached, Option<Snapshot>), ReplayError> {
        let row = self.archive.ended(first)?;
        let mut reached = self.before(&row)?;
        let snapshot = Some(reached.models.snapshot(&reached.config)?).filter(Snapshot::is_whole);
        for number in first..update {
            reached = self.advance(Some(reached), &self.archive.ended(number)?)?;
        }
        Ok((reached, snapshot))
    }

    /// What an update began with, ready for its round.
    pub(super) fn before(&self, row: &UpdateRow) -> Result<Reached, ReplayError> {
        let left = match row.start.start {
            Start::Fresh => None,
            Start::Continued | Start::Rebased => Some(self.reach(row.start.number)?),
        };
        self.begin(left, row)
    }

    /// One update that has ended, compared with its record.
    fn advance(&self, left: Option<Reached>, row: &UpdateRow) -> Result<Reached, ReplayError> {
        let (reached, repeated) = self.repeat(left, row)?;
        let end = row.end.as_ref().ok_or(ReplayError::NotEnded(row.start.number))?;
        if repeated.digest != end.digest {
            let word = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "none".to_string());
            return Err(self.different(row, "the digest", &word(&end.digest), &word(&repeated.digest)));
        }
        self.check_after(row, reached)
    }

    /// The state after rounds that were taken back, from the one before the first of them.
    pub(super) fn go_back(&self, mut before: Reached, row: &UpdateRow) -> Result<Reached, ReplayError> {
        before.models.control.forget_steps();
        let (number, version, digest) = (row.start.number, row.start.parent, &row.start.parent_digest);
        before.head = self.head(&before.models, number + 1, Start::Continued, version, digest)?;
        self.check_after(row, before)
    }

    fn check_after(&self, row: &UpdateRow, reached: Reached) -> Result<Reached, ReplayError> {
        match &row.end {
            Some(end) if end.state_after != reached.head.fingerprint => {
                Err(self.different(row, "the state after it", &end.state_after, &reached.head.fingerprint))
            }
            _ => Ok(reached),
        }
    }

    /// The state in a file, if there is one that can be used. One that cannot be is a reason to begin further back.
    fn read_state(&self, update: u64) -> Result<Option<Reached>, ReplayError> {
        let file = self.archive.states().file(update);
        if !file.path().exists() {
            return Ok(None);
        }
        let restored = self.blank(&file).and_then(|mut models| {
            let head = self.pool.install(|| file.restore(&mut models))?;
            Ok((models, head))
        });
        let (models, head) = match restored {
            Ok(restored) => restored,
            Err(ReplayError::Model(error)) => {
                tracing::error!(update, %error, "a state of the learner cannot be used");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let before = update.checked_sub(1).map(|before| self.archive.update(before)).transpose()?.flatten();
        let recorded = before.and_then(|row| row.end).map(|end| end.state_after);
        if let Some(recorded) = recorded.filter(|_| head.start == Start::Continued)
            && recorded != head.fingerprint
        {
            tracing::error!(update, recorded, found = head.fingerprint, "a state of the learner is of another history");
            return Ok(None);
        }
        let config = self.config.clone();
        Ok(Some(Reached { models, head, saved: Some(update), n_replayed: 0, config }))
    }

    /// Models of the form that a state has, whatever is configured by now.
    fn blank(&self, file: &StateFile) -> Result<Models, ReplayError> {
        if let Some(forms) = file.forms()? {
            return Ok(self.beginning.blank(forms, self.config)?);
        }
        // The version that it stands at says what its policy is; of its value model there is no more than the configuration.
        let form = self.archive.form(file.head()?.version, self.config)?;
        Ok(self.beginning.models(self.beginning.source(), &configured(self.config, form))?)
    }

    /// What models that no update led to are the state of.
    pub(crate) fn head(
        &self,
        models: &Models,
        update: u64,
        start: Start,
        version: PolicyVersion,
        digest: &str,
    ) -> Result<StateHead, PpoError> {
        let fingerprint = self.pool.install(|| state::fingerprint(models, update))?.to_string();
        Ok(StateHead { update, start, version, digest: digest.to_string(), fingerprint })
    }

    pub(super) fn different(&self, row: &UpdateRow, what: &'static str, recorded: &str, rebuilt: &str) -> ReplayError {
        ReplayError::Different {
            update: row.start.number,
            what,
            recorded: recorded.into(),
            rebuilt: rebuilt.into(),
            then: row.start.arithmetic.as_str().into(),
            now: arithmetic(self.config).into(),
            hint: "".into(),
        }
    }
}

impl Reached {
    /// The same with the weights of another version and fresh moments.
    pub(crate) fn rebased(self, replay: &Replay<'_>, row: &VersionRow) -> Result<Reached, ReplayError> {
        let weights = Checkpoint::read(&row.path)?;
        let models = replay.pool.install(|| replay.beginning.rebased(self.models, &weights, replay.config))?;
        let head = replay.head(&models, self.head.update, Start::Rebased, row.version, &row.digest)?;
        // What is on disk of this state, nobody has written yet.
        Ok(Reached { models, head, saved: None, config: replay.config.clone(), ..self })
    }

    /// The models, in the precision of this configuration and with its constants.
    pub(crate) fn into_models(self, beginning: &Beginning, config: &config::Ppo) -> Result<Models, ReplayError> {
        Ok(with_constants(beginning, self, config.clone())?.models)
    }
}

/// The same state as an update of this configuration computes with it: in its precision, with its constants of Adam.
pub(super) fn with_constants(
    beginning: &Beginning,
    reached: Reached,
    config: config::Ppo,
) -> Result<Reached, ReplayError> {
    let constants = |config: &config::Ppo| (config.adam_beta1, config.adam_beta2, config.adam_eps);
    let has_constants = constants(&reached.config) == constants(&config);
    let mut models = beginning.in_precision(reached.models, &config)?;
    if !has_constants {
        models.set_adam(&config)?;
    }
    Ok(Reached { models, config, ..reached })
}
