//! From weights in the trainer's memory to weights that answer requests.
//!
//! ```text
//! write     aside, sync, rename, sync the folder                     a crash leaves nothing, or an orphan with its mark
//! register  one row, `candidate`                                     a crash leaves a candidate that nobody judges
//! load      once there is a place; canary: finite logits             serving goes on with the live version throughout
//! judge     parity with the trainer, then the gate                   refused: row `rejected`, file gone, live one untouched
//! commit    one transaction: rollouts trained, version live          the one moment of truth
//! promote   one pointer                                              requests from here on get the new version
//! step down the old one stays for a rollback, until another is loaded  then it finishes what it runs, and nobody waits
//! ```
//!
//! The row comes before the pointer: were it the other way round, a crash between the two would forget weights that clients
//! have already been answered with. A crash after the row serves the new version at the next start.
//!
//! All of it runs on the learner's thread. Whatever fails before the commit leaves the live version live.

mod canary;
mod examination;
mod loader;
pub(crate) mod place;
mod switch;
mod text;

use std::{collections::BTreeMap, time::Instant};

use policy::{
    PolicyVersion,
    checkpoint::{Checkpoint, Digest, WeightType},
    engine::{Engine, EngineError},
    model_error::ModelError,
    sequence_batch::Sequence,
    transformer::is_adapter,
};

pub use loader::Loader;
use place::Place;
use reward::Scorer;
pub use switch::{Switch, Switched};

use crate::{
    gate::{Lesson, Question, TrialError, Verdict},
    models::Models,
    parity::{ParityError, ParityLimits},
    registry::{Candidate, Registry, RegistryError},
    rollout_log::{Settlement, VersionReport},
    stats::LearnerCounters,
    sync_point,
    update::RoundStats,
};

/// Why nothing was published. The live version is what it was.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The registry or its log refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The engine could not load, score or promote.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The weights could not be written or read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Parity could not be measured.
    #[error("parity: {0}")]
    Parity(#[from] ParityError),
    /// The trial could not be held.
    #[error(transparent)]
    Trial(TrialError),
    /// Shutdown or an operator's command came first.
    #[error("the publication was interrupted")]
    Interrupted,
}

impl PublishError {
    /// Whether there was no room in memory for a version, which says nothing about it: there may be some later.
    #[must_use]
    pub fn lacks_room(&self) -> bool {
        matches!(self, PublishError::Engine(error) if error.lacks_room())
    }
}

impl From<TrialError> for PublishError {
    fn from(error: TrialError) -> PublishError {
        match error {
            TrialError::Interrupted => PublishError::Interrupted,
            error => PublishError::Trial(error),
        }
    }
}

/// What publishes.
pub struct Publisher<'a> {
    /// Where versions serve.
    pub engine: &'a Engine,
    /// Who loads them.
    pub loader: &'a Loader,
    /// Who puts them into service.
    pub switch: &'a Switch,
    /// Where versions are kept.
    pub registry: &'a Registry,
    /// Limits of the gate, type of weights.
    pub config: &'a config::Ppo,
    /// Where durations go.
    pub counters: &'a LearnerCounters,
    /// Who judges trials.
    pub scorer: Option<&'a Scorer>,
}

/// Weights that want to serve.
pub struct Proposal<'a> {
    /// Holds them.
    pub models: &'a Models,
    /// Version 0: metadata and, with `weight_type = "source"`, types of the file.
    pub source: &'a Checkpoint,
    /// The version that the round started from, which is live.
    pub parent: PolicyVersion,
    /// What the round measured.
    pub stats: &'a RoundStats,
    /// Sequences for the parity check.
    pub sequences: &'a [Sequence],
    /// What the update learnt from.
    pub lessons: &'a [Lesson],
    /// What candidate and live version are asked.
    pub questions: &'a [Question],
    /// Texts that the policy should not forget.
    pub measured_texts: &'a [Sequence],
    /// Rollouts that trained it.
    pub n_rollouts: usize,
}

/// A candidate in memory, and the gate's word on it.
pub struct Judged {
    /// Its number.
    pub version: PolicyVersion,
    /// Digest of its file.
    pub digest: Digest,
    /// The gate's word.
    pub verdict: Verdict,
    /// The version that was live when its round began.
    parent: PolicyVersion,
    started: Instant,
    _place: Place,
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The candidate's number.
    pub version: PolicyVersion,
    /// The gate's word.
    pub verdict: Verdict,
}

impl Publisher<'_> {
    /// Writes the weights, brings them into memory and has the gate judge them. Nothing that anybody sees has changed yet.
    /// `go_on` is asked while waiting.
    ///
    /// # Errors
    /// [`PublishError`]; the candidate is rejected, and the claim is as it was.
    pub fn judge(&self, proposal: &Proposal<'_>, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Judged, PublishError> {
        let version = self.registry.next_version()?;
        let (digest, limits) = self.write(version, proposal)?;
        self.tell_if_unchanged(version, digest, proposal.parent);
        sync_point::reached(self.registry.data_dir(), "registered");
        let started = Instant::now();
        let place = Place { engine: self.engine.clone(), version };
        match self.examine(version, proposal, limits, go_on) {
            Ok(verdict) => Ok(Judged { version, digest, verdict, parent: proposal.parent, started, _place: place }),
            Err(error) => {
                self.abandon(version, &error.to_string());
                Err(error)
            }
        }
    }

    /// Publishes what passed, refuses what did not: one transaction with the end of the round's claim.
    ///
    /// # Errors
    /// [`PublishError`]; the candidate is rejected, and the claim is as it was.
    pub fn commit(
        &self,
        judged: Judged,
        settlement: Settlement,
        mut numbers: BTreeMap<String, f64>,
    ) -> Result<Published, PublishError> {
        let Judged { version, verdict, parent, started, _place, .. } = judged;
        numbers.extend(verdict.numbers.clone());
        sync_point::reached(self.registry.data_dir(), "judged");
        if !verdict.is_pass() {
            self.switch.forget(version);
            self.registry.reject(version, &verdict.refusals.join("; "), settlement, numbers)?;
            return Ok(Published { version, verdict });
        }
        let turn = self.switch.turn();
        let report = VersionReport { numbers, remark: verdict.reason() };
        if let Err(error) =
            self.may_replace(parent).and_then(|()| Ok(self.registry.publish(version, settlement, report)?))
        {
            drop(turn);
            self.abandon(version, &error.to_string());
            return Err(error);
        }
        sync_point::reached(self.registry.data_dir(), "committed");
        // The row says live, and a restart would serve it: from here on there is no way back. The watch's thread goes on trying.
        if let Err(error) = self.switch.promote(version) {
            tracing::error!(%version, %error, "published, but not in service yet; it is tried again");
        }
        self.counters.swaps.record(started.elapsed());
        Ok(Published { version, verdict })
    }

    /// An operator or the watch may have made another version live than the one that this round improves on.
    fn may_replace(&self, parent: PolicyVersion) -> Result<(), PublishError> {
        match self.registry.live()?.version == parent {
            true => Ok(()),
            false => Err(PublishError::Interrupted),
        }
    }

    /// Brings a version that is to go live into memory, unless it is there.
    ///
    /// # Errors
    /// When the engine refuses the file.
    pub fn load_to_serve(&self, version: PolicyVersion) -> Result<(), PublishError> {
        Ok(self.load(Engine::load_to_serve, version)?)
    }

    fn load(&self, how: loader::How, version: PolicyVersion) -> Result<(), EngineError> {
        if !self.engine.is_ready(version) {
            let started = Instant::now();
            self.loader.load(how, version, self.registry.path(version))?;
            self.counters.loads.record(started.elapsed());
        }
        Ok(())
    }

    fn write(&self, version: PolicyVersion, proposal: &Proposal<'_>) -> Result<(Digest, ParityLimits), PublishError> {
        let weight_type =
            WeightType::parse(&self.config.weight_type).expect("config has checked the words of ppo.weight_type");
        let policy = &proposal.models.policy;
        let discard = |_: &ModelError| self.registry.discard(version);
        let checkpoint = policy.to_checkpoint(proposal.source, weight_type).inspect_err(discard)?;
        let digest = checkpoint.write(&self.registry.path(version)).inspect_err(discard)?;
        sync_point::reached(self.registry.data_dir(), "written");
        let candidate = Candidate { version, parent: proposal.parent, digest, n_rollouts: proposal.n_rollouts as u64 };
        if let Err(error) = self.registry.register(&candidate) {
            self.registry.discard(version);
            return Err(error.into());
        }
        // An adapter is served beside version 0's weights.
        let served = if is_adapter(&checkpoint.metadata) { proposal.source } else { &checkpoint };
        Ok((digest, ParityLimits::of(served, policy.exact().precision())))
    }

    /// An update whose steps are too small for the type of the file, or have a rate of 0, makes its parent's bits again. It is
    /// published all the same: its digest is what a replay of it must come to.
    fn tell_if_unchanged(&self, version: PolicyVersion, digest: Digest, parent: PolicyVersion) {
        let parent_row = self.registry.row(parent).ok().flatten();
        if parent_row.is_some_and(|row| row.digest == digest.to_string()) {
            tracing::warn!(
                %version,
                %parent,
                "the update changed no weight; look at ppo.policy_learning_rate and ppo.weight_type"
            );
        }
    }

    /// Gives a candidate up that came to nothing for no fault of its weights. The claim stays.
    pub fn abandon(&self, version: PolicyVersion, why: &str) {
        self.switch.forget(version);
        if let Err(error) = self.registry.give_up(version, why) {
            // The next open gives it up.
            tracing::warn!(%version, %error, "a candidate could not be marked as rejected");
        }
    }
}
