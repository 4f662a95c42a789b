//! The rollout log: every exchange, from the moment it is answered to the moment it has trained or is given up.
//!
//! # What it promises
//!
//! 1. *Serving never waits.* [`RolloutLog::append`] puts the exchange into a bounded queue and returns; a full queue is an
//!    error and a counter, nothing else.
//! 2. *What was acknowledged survives.* Feedback, scores, claims and publications are answered after their transaction is
//!    committed. An exchange is committed at most `ppo.log.commit_ms` (≤ 100 ms) and one transaction after it was appended;
//!    `kill -9` can take only exchanges inside that window.
//! 3. *No rollout trains twice, none vanishes.* Each transition is one statement that names the old state; the rollouts of an
//!    update become `trained` in the very transaction that makes its version live; claims of a dead process are given back
//!    when the log is opened again, except those of the update that it died in: that one is repeated.
//! 4. *An update can be computed again.* Before it begins, its record is committed with its claim: everything that its
//!    result depends on beside the state before it ([`UpdateRow`]).
//!
//! # Why kill -9 cannot hurt
//!
//! SQLite in WAL mode appends a transaction's pages to the write-ahead log and ends them with a commit frame that carries a
//! running checksum. After `kill -9` the kernel still owns every page that was written, so a commit that returned is there,
//! and a commit that had not returned either has its valid frame or is ignored whole at the next open. That alone would hold
//! with `synchronous=NORMAL`, which syncs only at checkpoints. We use `FULL`: each commit syncs the log before it returns, so
//! the same holds when the power fails. Group commit makes that affordable: at most twenty syncs a second at the default.
//!
//! # Shape
//!
//! One writer thread owns the writing connection (`writer`); handles send commands through one bounded channel, so the
//! order of commands is the order of effects: feedback sent after the append of its rollout finds it, committed or not.
//! Readers have connections of their own (`read`). The log is the product (training data), and `honed rollouts export` is how
//! it leaves; it is bounded only where `ppo.log.keep_days` says so (`retention`).

mod answer;
mod audit;
mod blob;
mod database;
mod eligibility;
mod error;
mod feedback;
mod forget;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gone;
mod imports;
mod judges;
mod lock;
mod opening;
mod quarantine;
mod read;
mod record;
mod redaction;
mod retention;
mod schema;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod transaction;
mod transition;
mod update_row;
mod updates;
mod version_row;
mod versions;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{SendTimeoutError, Sender, bounded};
use policy::{Rollout, Vocabulary};

pub use audit::{Act, Action, AuditRow, Who, user_subject};
pub use database::has_log;
pub use eligibility::{KEPT_MASS_MIN, obstacle};
pub use error::{Full, LogError};
pub use feedback::{Feedback, FeedbackReceipt, label_word};
pub use forget::{FORGOTTEN, Forgotten};
pub use imports::{ImportOutcome, ImportRow, ImportSource};
pub use lock::LockHolder;
pub use quarantine::Quarantine;
pub(crate) use read::USER_PART;
pub use read::{Export, LogReader, LogStats, MadeVersion, Making, PageQuery, Sample, UsedByUpdate};
pub use record::{LoggedRollout, ScoreRecord, Seq, finish_word};
pub use retention::Retention;
pub use settings::LogSettings;
pub use state::{DropReason, RolloutState};
use transition::Heard;
pub use transition::{Claim, ClaimRequest, Outcome, Verdict};
pub use update_row::{Settlement, Start, StreakRow, UpdateChange, UpdateEnd, UpdateRow, UpdateStart, UsedRollout};
pub use version_row::{Averaged, VersionChange, VersionReport, VersionRow, VersionState};

use crate::stats::{LogCounters, LogCountersSnapshot};
use database::{database, open_for_writing};
#[cfg(test)]
pub(crate) use tests::rollout as exchange;
use writer::{Command, Reply, Writer};

/// How long a sender waits for room in the queue before it gets [`LogError::Busy`].
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Handle of the log; clones share it. The last one gone, or [`RolloutLog::close`], writes what is queued and ends.
#[derive(Clone)]
pub struct RolloutLog {
    shared: Arc<Shared>,
}

struct Shared {
    data_dir: PathBuf,
    /// `None` only while dropping.
    commands: Option<Sender<Command>>,
    counters: Arc<LogCounters>,
    quarantine: Quarantine,
    removals: forget::Removals,
    reader: Mutex<LogReader>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Released last, after the writer has ended.
    lock: lock::DirLock,
}

impl RolloutLog {
    /// Takes the data directory (created when absent, for its owner only), brings the schema up to date, gives back the
    /// claims of a process that died, and starts the writer.
    pub fn open(data_dir: &Path, settings: &LogSettings) -> Result<RolloutLog, LogError> {
        RolloutLog::open_with(data_dir, settings, Quarantine::default())
    }

    /// As [`RolloutLog::open`], with users whose exchanges never train.
    pub fn open_with(data_dir: &Path, settings: &LogSettings, quarantine: Quarantine) -> Result<RolloutLog, LogError> {
        let io = |source| LogError::Io { path: data_dir.to_path_buf(), source };
        database::make_folder(data_dir)?;
        let lock = lock::DirLock::take(data_dir)?;
        let path = database(data_dir);
        let damaged = |error: LogError| error.at(&path);
        let mut connection = open_for_writing(&path).map_err(damaged)?;
        let n_quarantined = opening::put_in_order(&mut connection, &quarantine).map_err(damaged)?;
        let reader = LogReader::open(data_dir).map_err(damaged)?;
        let (sender, commands) = bounded(settings.queue);
        let counters = Arc::new(LogCounters::default());
        counters.dropped.add(DropReason::Quarantined, n_quarantined);
        let writer = Writer {
            connection,
            commands,
            commit_every: Duration::from_millis(settings.commit_ms),
            rescore_on_feedback: settings.rescore_on_feedback,
            quarantine: quarantine.clone(),
            counters: Arc::clone(&counters),
            reward_model: None,
            vocabulary: None,
            carried: Vec::new(),
            due: None,
        };
        let thread =
            std::thread::Builder::new().name("rollout-log".to_string()).spawn(move || writer.run()).map_err(io)?;
        Ok(RolloutLog {
            shared: Arc::new(Shared {
                data_dir: data_dir.to_path_buf(),
                commands: Some(sender),
                counters,
                quarantine,
                removals: forget::Removals::default(),
                reader: Mutex::new(reader),
                writer: Mutex::new(Some(thread)),
                lock,
            }),
        })
    }

    /// Queues one answered exchange. Never blocks: with a full queue (or a closed log) the exchange is counted and gone.
    pub fn append(&self, rollout: Rollout) -> Result<(), Full> {
        self.shared.commands().try_send(Command::Append(Box::new(rollout))).map_err(|_| {
            self.shared.counters.overflow.fetch_add(1, Ordering::Relaxed);
            self.shared.counters.dropped.add(DropReason::QueueFull, 1);
            Full
        })
    }

    /// Records what one user says about a rollout; returns after the commit. Finds rollouts that were appended before it,
    /// committed or not; an unknown id is [`LogError::NotFound`].
    pub fn append_feedback(&self, feedback: Feedback) -> Result<FeedbackReceipt, LogError> {
        self.call(|reply| Command::Feedback(Box::new(feedback), reply))
    }

    /// From now on what looks like personal data is not written (`ppo.log.scrub_pii`); the vocabulary spells the exchanges.
    pub fn redact_with(&self, vocabulary: Arc<Vocabulary>) -> Result<(), LogError> {
        self.call(|reply| Command::Redact(vocabulary, reply))
    }

    /// Stores verdicts on `generated` rollouts; rows in another state keep what they have. Returns how many moved.
    pub fn score(&self, verdicts: Vec<(Seq, Verdict)>) -> Result<usize, LogError> {
        self.call(|reply| Command::Score(verdicts, Heard::new(), reply))
    }

    /// [`RolloutLog::score`] of verdicts that heard what people said about these `rows`: where somebody has spoken since
    /// they were read, the row stays `generated`, so that it is judged again.
    pub fn score_as_heard(&self, verdicts: Vec<(Seq, Verdict)>, rows: &[LoggedRollout]) -> Result<usize, LogError> {
        let heard = rows.iter().map(|row| (row.seq, row.feedback.iter().map(Feedback::said).collect())).collect();
        self.call(|reply| Command::Score(verdicts, heard, reply))
    }

    /// From now on only this reward model's scores are stored, `model@<digest>`; what another one judged and no update has
    /// claimed is `generated` again. Returns how many rows that were. Scores without a reward model are not concerned.
    pub fn seat_reward_model(&self, version: &str) -> Result<usize, LogError> {
        self.call(|reply| Command::Seat(version.to_owned(), reply))
    }

    /// Claims the oldest fresh rollouts for one update, all or none; stale ones expire on the way.
    pub fn claim(&self, request: ClaimRequest) -> Result<Claim, LogError> {
        self.call(|reply| Command::Claim(request, reply))
    }

    /// [`RolloutLog::claim`], with the record of the update that it is for: both are there, or neither.
    pub fn begin_update(&self, request: ClaimRequest, start: UpdateStart) -> Result<Claim, LogError> {
        self.call(|reply| Command::Begin(request, Box::new(start), reply))
    }

    /// What an update claimed that a process died in, in its order and with the scores of its record; counts the attempt.
    /// Rows that are no longer claimed are missing.
    pub fn repeat_update(&self, number: u64) -> Result<Vec<LoggedRollout>, LogError> {
        self.call(|reply| Command::Repeat(number, reply))
    }

    /// Ends claims outside a publication. Returns how many rows moved.
    pub fn settle(&self, settlement: impl Into<Settlement>) -> Result<usize, LogError> {
        let settlement = Box::new(settlement.into());
        self.call(|reply| Command::Settle(settlement, reply))
    }

    /// One step in the life of versions and its row in the audit log, as one transaction. For [`crate::registry`], which owns
    /// the files.
    pub fn change_version(&self, change: VersionChange, who: &Who) -> Result<(), LogError> {
        self.call(|reply| Command::Version(Box::new(change), who.clone(), reply))
    }

    /// Returns when everything appended before is committed.
    pub fn flush(&self) -> Result<(), LogError> {
        self.call(Command::Flush)
    }

    /// Writes what is queued and ends the writer. Later commands get [`LogError::Closed`]; reading still works.
    pub fn close(&self) {
        // An error means that the writer has already ended, which is what we want.
        let _ = self.shared.commands().send(Command::Close);
        self.shared.join();
    }

    /// The shared reader; it never waits for the writer, only for another reader of this process.
    pub fn reader(&self) -> MutexGuard<'_, LogReader> {
        // A reader that panicked changed nothing: its connection only reads.
        self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters since the process began.
    pub fn counters(&self) -> LogCountersSnapshot {
        self.shared.counters.snapshot(self.shared.commands().len())
    }

    /// Users whose exchanges never train.
    pub fn quarantine(&self) -> &Quarantine {
        &self.shared.quarantine
    }

    /// The folder that holds the log.
    pub fn data_dir(&self) -> &Path {
        &self.shared.data_dir
    }

    fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, LogError> {
        let (reply, answer) = bounded(1);
        self.shared.commands().send_timeout(command(reply), SEND_TIMEOUT).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => LogError::Busy,
            SendTimeoutError::Disconnected(_) => LogError::Closed,
        })?;
        answer.recv().map_err(|_| LogError::Closed)?
    }
}

impl Shared {
    fn commands(&self) -> &Sender<Command> {
        self.commands.as_ref().expect("taken only in drop")
    }

    fn join(&self) {
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the rollout log panicked");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.commands = None;
        self.join();
    }
}
