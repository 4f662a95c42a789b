//! Versions from outside: a file that somebody trained elsewhere becomes a candidate like any other.
//!
//! ```text
//! open       below the one folder, no link followed; a regular file of bounded size   nothing has happened yet
//! look       our own parser, version 0's tokenizer, names and shapes                  refused: nothing has happened yet
//! copy       aside, sync, rename; of safetensors, a GGUF with the same weights        a crash leaves an orphan with its mark
//! examine    the same again and every number, of the copy, and its digest             refused: the copy goes
//! register   one row, `candidate`                                                     a crash leaves a candidate nobody judges
//! judge      load, canary, what the live version said, a trial beside it              refused: row `rejected`, copy gone
//! keep       one row, `retained`                                                      may be activated from here on
//! promote    when asked, as every activation                                          it fails: retained, and may be tried again
//! ```
//! A judging that the daemon's end or a fault of ours cut short is no verdict: the candidate is given up, its row says that it was
//! not judged, and the same file may come again, also from the watched folder.
//!
//! What is examined is what is loaded: the copy lies in our own folder and never changes once it has its name. Only one file is
//! taken at a time: each costs a copy and a resident. An average of the learner's weights comes the same way, from our own
//! folder (`average`).

mod average;
mod ending;
mod error;
mod examination;
mod judging;
mod known;
mod loss;
mod reading;
mod registration;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
};

use policy::{
    PolicyVersion, TokenId,
    checkpoint::intake::Intake,
    engine::{Engine, EngineError},
    failpoint,
    model_error::ModelError,
};

use reward::Scorer;

pub use self::error::ImportError;
pub use self::judging::UNJUDGED;
use self::judging::want_of_a_verdict;
use crate::{
    clock::now_ms,
    learner::LearnerError,
    publish::place::Place,
    registry::{Registry, RegistryError},
    rollout_log::{Act, Action, ImportOutcome, ImportRow, ImportSource, RolloutLog, VersionRow, Who},
};

/// Which forms of a version can be made live here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// Nobody learns: whatever can be served.
    Both,
    /// The learner trains whole weights.
    Whole,
    /// The learner trains adapters.
    Adapters,
}

/// What an importer works with.
pub struct ImportSetup {
    /// Where outcomes are noted.
    pub log: RolloutLog,
    /// Where versions are kept.
    pub registry: Registry,
    /// Where they serve.
    pub engine: Engine,
    /// Where files may come from.
    pub intake: Intake,
    /// What the learner could go on from.
    pub accepts: Accepts,
    /// `daemon.import_loss_max`, nats per token; 0: no bound.
    pub loss_max: f64,
    /// Mode, questions and limits of the gate.
    pub gate: config::Ppo,
    /// Who judges the trial; nobody where scores come from people alone.
    pub scorer: Option<Scorer>,
    /// Questions beside those from traffic: tokenised prompts.
    pub questions: Arc<[Vec<TokenId>]>,
    /// `daemon.import_unjudged`: whether a file is refused that nobody could judge beside the live version.
    pub refuses_unjudged: bool,
}

/// Makes a version live: through the learner where there is one.
pub type Promote<'a> = &'a (dyn Fn(PolicyVersion) -> Result<(), LearnerError> + Sync);

/// A file that somebody wants taken in.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// Within the folder.
    pub path: &'a Path,
    /// How it came.
    pub source: ImportSource,
    /// Whose wish it is.
    pub who: &'a Who,
    /// Makes it live, where that is wanted too.
    pub promote: Option<Promote<'a>>,
}

/// Says why a candidate is not to be judged any longer. Asked all through the judging of what nobody has asked for: that makes way
/// for others, and is worth nothing unjudged.
pub(crate) type Obstacle<'a> = &'a (dyn Fn() -> Option<String> + Sync);

/// Takes files; clones share one turn.
#[derive(Clone)]
pub struct Importer {
    setup: Arc<ImportSetup>,
    turn: Arc<Mutex<()>>,
    counts: Arc<[AtomicU64; ImportOutcome::ALL.len()]>,
}

impl Importer {
    /// Nothing happens until a file is named.
    #[must_use]
    pub fn new(setup: ImportSetup) -> Importer {
        Importer { setup: Arc::new(setup), turn: Arc::default(), counts: Arc::default() }
    }

    /// Where files may come from.
    #[must_use]
    pub fn intake(&self) -> &Intake {
        &self.setup.intake
    }

    /// Files by what became of them, since the process began.
    pub fn counts(&self) -> impl Iterator<Item = (ImportOutcome, u64)> + '_ {
        ImportOutcome::ALL.into_iter().zip(self.counts.iter().map(|n| n.load(Ordering::Relaxed)))
    }

    /// Makes a file a version, and live if `promote` is given. Blocks until it is judged. The outcome is a row of the log, and
    /// one of the audit log.
    ///
    /// # Errors
    /// [`ImportError`]; the live version is what it was, but for an error of `promote`, which knows.
    pub fn load(&self, wish: Wish<'_>) -> Result<PolicyVersion, ImportError> {
        let Wish { path, source, promote, .. } = wish;
        let turn = self.turn.try_lock();
        let is_busy = matches!(turn, Err(TryLockError::WouldBlock));
        let obstacle = if is_busy { Err(ImportError::Busy) } else { self.may_begin() };
        // A watched folder asks again until it has its turn.
        obstacle.inspect_err(|obstacle| {
            if source == ImportSource::Api {
                self.refuse(wish, obstacle);
            }
        })?;
        let mut row = ImportRow {
            at_ms: now_ms(),
            source,
            path: path.to_string_lossy().into_owned(),
            outcome: ImportOutcome::Refused,
            digest: None,
            version: None,
            reason: None,
        };
        let result = self.take(wish, &mut row).and_then(|version| self.promote(version, promote, &mut row));
        row.reason = result.as_ref().err().map(ToString::to_string);
        if self.is_news(&row, result.as_ref().err()) {
            if let (ImportOutcome::Refused, Err(error)) = (row.outcome, &result) {
                self.refuse(wish, error);
            }
            self.counts[row.outcome as usize].fetch_add(1, Ordering::Relaxed);
            self.note(row);
        }
        self.setup.registry.keep_house(&self.setup.engine.in_memory());
        result
    }

    /// Before a number and a copy are spent on a file.
    pub(crate) fn may_begin(&self) -> Result<(), ImportError> {
        match () {
            () if self.setup.engine.is_shutting_down() => Err(ImportError::Stopping),
            () if self.setup.engine.is_full() => Err(ImportError::Full),
            () => Ok(()),
        }
    }

    /// A version's row is never without its words in the audit log; a file that did not become one has these.
    fn refuse(&self, wish: Wish<'_>, why: &ImportError) {
        let subject = wish.path.to_string_lossy().into_owned();
        self.setup.log.note(Act::new(wish.who, Action::Import, subject).refused(why));
    }

    fn note(&self, row: ImportRow) {
        let (path, outcome) = (row.path.clone(), row.outcome.as_str());
        match &row.reason {
            None => tracing::info!(path, outcome, version = row.version.map(|v| v.0), "a model from outside"),
            Some(reason) => tracing::warn!(path, outcome, reason, "a model from outside"),
        }
        if let Err(error) = self.setup.log.note_import(row) {
            tracing::error!(%error, path, "the outcome of an import could not be noted");
        }
    }

    /// Everything but the promotion; the version stays in memory for it where it is wanted.
    fn take(&self, wish: Wish<'_>, row: &mut ImportRow) -> Result<PolicyVersion, ImportError> {
        let registry = &self.setup.registry.on_behalf_of(wish.who);
        let version = match self.setup.engine.beside_serving(|| self.register(wish.path, registry, row)) {
            Err(ImportError::Known { version, .. }) if self.awaits_promotion(version, &wish)? => {
                row.version = Some(version);
                return Ok(version);
            }
            // Whatever failed then, failed for that: a file that was read no further is not a broken one.
            Err(_) if self.setup.engine.is_shutting_down() => return Err(ImportError::Stopping),
            registered => registered?,
        };
        let awaits_promotion = wish.promote.is_some() && wish.source == ImportSource::Folder;
        let marks = awaits_promotion.then(|| (VersionRow::AWAITS_PROMOTION.to_owned(), 1.0));
        let ended = self.try_out(registry, version, &marks.into_iter().collect(), None);
        if ended.is_err() || wish.promote.is_none() {
            self.forget(version);
        }
        if matches!(ended, Err(ImportError::Rejected { .. })) {
            row.outcome = ImportOutcome::Rejected;
        }
        ended.map(|()| version)
    }

    /// From a candidate to the end of its judging. What passes is kept with these marks, and stays in memory.
    fn try_out(
        &self,
        registry: &Registry,
        version: PolicyVersion,
        marks: &BTreeMap<String, f64>,
        obstacle: Option<Obstacle<'_>>,
    ) -> Result<(), ImportError> {
        failpoint::passed("import.registered");
        let _place = Place { engine: self.setup.engine.clone(), version };
        let judged = self.judge(version, obstacle);
        failpoint::passed("import.judged");
        let ended = match obstacle.and_then(|obstacle| want_of_a_verdict(&judged, obstacle)) {
            Some(why) => self.give_up(registry, version, why),
            None => self.end(registry, version, judged, marks),
        };
        failpoint::passed("import.kept");
        ended
    }

    /// Makes it live where that is wanted; what could not be made live leaves memory again.
    fn promote(
        &self,
        version: PolicyVersion,
        promote: Option<Promote<'_>>,
        row: &mut ImportRow,
    ) -> Result<PolicyVersion, ImportError> {
        row.outcome = ImportOutcome::Retained;
        let Some(promote) = promote else { return Ok(version) };
        if let Err(error) = promote(version) {
            // Unless its row says live already: then it must be there for whoever asks next.
            if !self.setup.registry.live().is_ok_and(|live| live.version == version) {
                self.forget(version);
            }
            return Err(error.into());
        }
        row.outcome = ImportOutcome::Promoted;
        Ok(version)
    }

    fn forget(&self, version: PolicyVersion) {
        match self.setup.engine.retire(version) {
            Ok(()) | Err(EngineError::NotResident(_)) => {}
            Err(error) => tracing::warn!(%version, %error, "a candidate stays in memory"),
        }
    }
}

fn io_error(path: &Path, source: std::io::Error) -> ImportError {
    RegistryError::Model(ModelError::Io { path: path.to_owned(), source }).into()
}
