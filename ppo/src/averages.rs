//! The average of the policy's weights as a candidate: judged from time to time, kept, and never live by itself.
//!
//! With `ppo.ema_decay` each published version has the [average](crate::averaging) of the weights up to its own beside it. Every
//! `ppo.ema_judge_every` versions that becomes a version too: it stands the trial beside the live version as a file from outside
//! does, and is kept with its report, or refused. It costs a copy of the file and, while it is judged, a place in memory, which
//! the learner's next candidate may have to wait for. It is nobody's ancestor until an operator activates it; then the learner
//! goes on from it with fresh moments, and with an average that begins there.
//!
//! Whose turn it is follows from the log alone: from the live version back along the updates that continued each other, as far as
//! an average that has had its verdict. So a judging that was cut short, or for which there was no room, costs nothing: the
//! average of the next version has its turn, or after a restart that of the live one.

mod board;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use policy::{PolicyVersion, checkpoint::intake::Intake, engine::Engine};

pub use board::{AverageBoard, AverageOutcome};

use crate::{
    averaging::FILE_SUFFIX,
    import::{Accepts, ImportError, ImportSetup, Importer},
    learner::{LearnerSetup, is_halted},
    registry::{Registry, RegistryError, versions_folder},
    rollout_log::{Averaged, RolloutLog, Start, UpdateRow, VersionRow},
};

/// Judges averages beside the live version.
pub struct Averages {
    importer: Importer,
    registry: Registry,
    engine: Engine,
    log: RolloutLog,
    /// `ppo.ema_judge_every`.
    every: u64,
    /// The live version of the last look that came to its end: whatever came of that, nobody looks at it again.
    seen: Option<PolicyVersion>,
    board: Arc<AverageBoard>,
}

impl Averages {
    /// Of the learner with this setup; `None` where it keeps no average, or nobody wants it judged.
    ///
    /// # Errors
    /// When the folder of versions or the log cannot be read.
    pub fn new(setup: &LearnerSetup) -> Result<Option<Averages>, RegistryError> {
        let LearnerSetup { config, log, registry, engine, scorer, questions, .. } = setup;
        if config.ema_decay == 0.0 || config.ema_judge_every == 0 {
            return Ok(None);
        }
        let folder = versions_folder(registry.data_dir());
        let intake = Intake::new(&folder, u64::MAX).map_err(|source| RegistryError::Io { path: folder, source })?;
        let importer = Importer::new(ImportSetup {
            log: log.clone(),
            registry: registry.clone(),
            engine: engine.clone(),
            intake,
            // It has the form of the learner's own versions.
            accepts: Accepts::Both,
            loss_max: 0.0,
            gate: config.clone(),
            scorer: scorer.clone(),
            questions: Arc::clone(questions),
            refuses_unjudged: false,
        });
        let board = AverageBoard::default();
        if let Some(last) = registry.rows()?.iter().rev().find(|row| row.averaged().is_some() && row.has_verdict()) {
            board.show(last);
        }
        let (registry, log) = (registry.clone(), log.clone());
        Ok(Some(Averages {
            importer,
            registry,
            engine: engine.clone(),
            log,
            every: config.ema_judge_every,
            seen: None,
            board: Arc::new(board),
        }))
    }

    /// What came of those that were judged.
    #[must_use]
    pub fn board(&self) -> Arc<AverageBoard> {
        Arc::clone(&self.board)
    }

    /// Has the average beside the live version judged, if its turn has come. Blocks until then; what fails is logged.
    pub fn look(&mut self) {
        if let Err(error) = self.look_at_live() {
            tracing::warn!(%error, "it is not known whether an average of weights is to be judged; it is looked at again");
        }
    }

    fn look_at_live(&mut self) -> Result<(), RegistryError> {
        let live = self.registry.live()?.version;
        if self.seen == Some(live) || self.importer.may_begin().is_err() {
            return Ok(());
        }
        let obstacle = || self.obstacle(live);
        if obstacle().is_some() {
            return Ok(());
        }
        if let Some(of) = self.due(live)? {
            let file = self.registry.companion(live, FILE_SUFFIX);
            let name = file.file_name().map(Path::new).expect("a file of a version has a name");
            match self.importer.load_average(name, of, &obstacle) {
                // Somebody else came first: nothing was spent on it.
                Err(ImportError::Full | ImportError::Stopping) => return Ok(()),
                ended => self.note(of, ended)?,
            }
        }
        self.seen = Some(live);
        Ok(())
    }

    /// What ends the judging of the average beside a version: that another one is live, and would be what it is held against; and
    /// that learning is halted, for then a rollback may want the place in memory.
    fn obstacle(&self, live: PolicyVersion) -> Option<String> {
        // Either may be first: a row whose version does not serve yet, or a version that serves although its row failed.
        match self.registry.live() {
            Err(error) => Some(error.to_string()),
            Ok(row) if row.version != live || self.engine.live() != live => {
                Some(format!("{live} is live no longer, beside which it was to be judged"))
            }
            Ok(_) => is_halted(self.registry.data_dir()).then(|| "learning was halted, and it made way".to_owned()),
        }
    }

    /// What the average beside a version is of, if its turn has come.
    fn due(&self, version: PolicyVersion) -> Result<Option<Averaged>, RegistryError> {
        let rows = self.registry.rows()?;
        let judged = rows.iter().filter(|row| row.has_verdict()).filter_map(VersionRow::averaged);
        let judged: BTreeMap<PolicyVersion, Averaged> = judged.map(|of| (of.last, of)).collect();
        let reader = self.log.reader();
        let (mut at, mut n_versions, mut decay) = (version, 0, None);
        let first = loop {
            if let Some(before) = judged.get(&at) {
                break before.first;
            }
            let Some(update) = reader.update_of(at)?.filter(|update| decay_of(update) > 0.0) else { break at };
            decay = decay.or(Some(decay_of(&update)));
            n_versions += 1;
            at = update.start.parent;
            if update.start.start != Start::Continued {
                break at;
            }
        };
        let is_due = n_versions >= self.every;
        Ok(decay.filter(|_| is_due).map(|decay| Averaged { first, last: version, decay }))
    }

    fn note(&self, of: Averaged, ended: Result<PolicyVersion, ImportError>) -> Result<(), RegistryError> {
        let (version, outcome) = match &ended {
            Ok(version) => {
                tracing::info!(%version, %of, "kept; `honed policies activate {}` makes it live", version.0);
                (Some(*version), AverageOutcome::Retained)
            }
            Err(ImportError::Rejected { version, reason }) => {
                tracing::warn!(%version, %of, reason, "an average of weights is refused");
                (Some(*version), AverageOutcome::Rejected)
            }
            Err(error @ ImportError::Known { .. }) => {
                tracing::info!(%of, %error, "nothing to judge");
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%of, %error, "it was not judged; the next version's has its turn");
                (None, AverageOutcome::Unjudged)
            }
        };
        self.board.count(outcome);
        if let Some(row) = version.map(|version| self.registry.row(version)).transpose()?.flatten() {
            self.board.show(&row);
        }
        Ok(())
    }
}

/// Of the average that an update kept; 0 where it kept none, or its record is another honed's.
fn decay_of(update: &UpdateRow) -> f64 {
    config::Ppo::from_assignments(&update.start.config).map_or(0.0, |knobs| knobs.ema_decay)
}
