//! The one thread that writes.
//!
//! Group commit: the first exchange of a batch starts a clock of `ppo.log.commit_ms`; whatever else arrives before it rings
//! goes into the same transaction, so a thousand exchanges a second cost twenty syncs a second and not a thousand. A command
//! whose sender waits for the answer cuts the clock short as soon as the queue is empty. Answers are sent after the commit,
//! never before: what was acknowledged is on the disk.
//!
//! When the disk refuses (full, read-only, gone), the transaction is rolled back, waiting senders get the error, and the
//! exchanges of the batch are carried into the next attempt, at most [`BATCH_MAX`] of them; the queue behind fills up and its
//! overflow is counted. Serving notices none of it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use policy::{Rollout, Vocabulary};
use rusqlite::{Connection, Transaction};

use super::{
    answer::{Listening, Pending, Tally, answer, insert, refuse},
    audit::{AuditRow, Who},
    database,
    error::LogError,
    feedback::{Feedback, FeedbackReceipt},
    forget::Forgotten,
    imports::ImportRow,
    quarantine::Quarantine,
    record::{LoggedRollout, Seq},
    retention::{Due, Retention},
    state::DropReason,
    transaction::{begin, commit},
    transition::{Claim, ClaimRequest, Heard, Verdict},
    update_row::{Settlement, UpdateStart},
    version_row::VersionChange,
};
use crate::stats::LogCounters;

/// Commands in one transaction at most.
pub(super) const BATCH_MAX: usize = 1024;
/// Pause after a failed transaction before its exchanges are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where an answer goes, once it is true.
pub(super) type Reply<T> = Sender<Result<T, LogError>>;

/// Everything that changes the log.
pub(super) enum Command {
    Append(Box<Rollout>),
    Feedback(Box<Feedback>, Reply<FeedbackReceipt>),
    Score(Vec<(Seq, Verdict)>, Heard, Reply<usize>),
    Seat(String, Reply<usize>),
    Forget(String, Who, Reply<Forgotten>),
    Claim(ClaimRequest, Reply<Claim>),
    Begin(ClaimRequest, Box<UpdateStart>, Reply<Claim>),
    Repeat(u64, Reply<Vec<LoggedRollout>>),
    Settle(Box<Settlement>, Reply<usize>),
    Version(Box<VersionChange>, Who, Reply<()>),
    Import(Box<ImportRow>, Reply<()>),
    Audit(Box<AuditRow>, Reply<()>),
    Redact(Arc<Vocabulary>, Reply<()>),
    Keep(Retention, Reply<()>),
    Flush(Reply<()>),
    Close,
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) commands: Receiver<Command>,
    pub(super) commit_every: Duration,
    pub(super) rescore_on_feedback: bool,
    pub(super) quarantine: Quarantine,
    pub(super) counters: Arc<LogCounters>,
    /// The reward model whose scores are stored; `None` until one was named: everybody's.
    pub(super) reward_model: Option<String>,
    /// Spells token ids, once personal data are to be redacted.
    pub(super) vocabulary: Option<Arc<Vocabulary>>,
    /// Exchanges of a transaction that failed.
    pub(super) carried: Vec<Rollout>,
    /// When old exchanges are removed, if ever.
    pub(super) due: Option<Due>,
}

impl Writer {
    /// Runs until closed or until the last handle is gone; whatever was accepted before that is written.
    pub(super) fn run(mut self) {
        loop {
            let (batch, closing) = self.gather();
            let committed = self.carried.is_empty() && batch.is_empty() || self.commit(batch);
            if closing {
                self.counters.dropped.add(DropReason::WriteFailed, self.carried.len() as u64);
                return;
            }
            if !committed {
                // The one pause of this thread; the channel keeps what arrives meanwhile.
                std::thread::sleep(RETRY);
            } else {
                self.remove_old();
            }
        }
    }

    /// The next batch, and whether it is the last one.
    fn gather(&self) -> (Vec<Command>, bool) {
        let mut batch = Vec::new();
        let mut deadline = Instant::now() + RETRY;
        let mut somebody_waits = false;
        while batch.len() < BATCH_MAX {
            let received = if batch.is_empty() && self.carried.is_empty() {
                match &self.due {
                    Some(due) => self.commands.recv_deadline(due.at),
                    None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                }
            } else if somebody_waits || !self.carried.is_empty() {
                self.commands.try_recv().map_err(|error| match error {
                    crossbeam_channel::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    crossbeam_channel::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            } else {
                self.commands.recv_deadline(deadline)
            };
            let command = match received {
                Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
                Err(RecvTimeoutError::Timeout) => break,
                Ok(command) => command,
            };
            if batch.is_empty() {
                deadline = Instant::now() + self.commit_every;
            }
            somebody_waits |= !matches!(command, Command::Append(_));
            batch.push(command);
        }
        (batch, false)
    }

    /// One transaction; answers follow it. Returns whether it is on the disk.
    ///
    /// Exchanges go in before everything else of the batch: so feedback that overtook its rollout still finds it.
    pub(super) fn commit(&mut self, batch: Vec<Command>) -> bool {
        let started = Instant::now();
        let mut exchanges = std::mem::take(&mut self.carried);
        let mut calls = Vec::new();
        for command in batch {
            match command {
                Command::Append(rollout) => exchanges.push(*rollout),
                // For all exchanges of this batch already, whatever comes of it.
                Command::Redact(vocabulary, reply) => {
                    self.vocabulary = Some(vocabulary);
                    calls.push(Command::Flush(reply));
                }
                Command::Keep(retention, reply) => {
                    self.due = Some(Due::now(retention));
                    calls.push(Command::Flush(reply));
                }
                call => calls.push(call),
            }
        }
        let mut calls = calls.into_iter();
        let mut pending = Vec::new();
        let mut tally = Tally { reward_model: self.reward_model.clone(), ..Tally::default() };
        let result = transact(
            &mut self.connection,
            &exchanges,
            calls.by_ref(),
            Listening {
                rescore: self.rescore_on_feedback,
                quarantine: &self.quarantine,
                vocabulary: self.vocabulary.as_deref(),
            },
            &mut pending,
            &mut tally,
        );
        let failure = result.err().map(|error| error.to_string());
        match &failure {
            None => {
                self.count(&tally, started.elapsed());
                self.reward_model = tally.reward_model;
                if tally.has_forgotten
                    && let Err(error) = database::leave_no_copy(&self.connection)
                {
                    tracing::warn!(%error, "what was forgotten may stay in the file until somebody is forgotten again");
                }
            }
            Some(why) => self.carry(exchanges, why),
        }
        pending.extend(calls.map(refuse));
        for answer in pending {
            answer(failure.as_deref());
        }
        failure.is_none()
    }

    fn count(&self, tally: &Tally, elapsed: Duration) {
        self.counters.commits.record(elapsed);
        self.counters.committed.fetch_add(tally.n_inserted, Ordering::Relaxed);
        for (reason, n) in &tally.dropped {
            self.counters.dropped.add(*reason, *n);
        }
    }

    fn carry(&mut self, mut exchanges: Vec<Rollout>, why: &str) {
        self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
        tracing::error!(error = why, n_exchanges = exchanges.len(), "rollout log cannot be written; serving goes on");
        let n_lost = exchanges.len().saturating_sub(BATCH_MAX);
        self.counters.dropped.add(DropReason::WriteFailed, n_lost as u64);
        exchanges.drain(..n_lost);
        self.carried = exchanges;
    }
}

/// Everything of one batch, or nothing of it. Calls that it did not reach stay in the iterator.
fn transact(
    connection: &mut Connection,
    exchanges: &[Rollout],
    calls: impl Iterator<Item = Command>,
    listening: Listening<'_>,
    pending: &mut Vec<Pending>,
    tally: &mut Tally,
) -> Result<(), LogError> {
    let mut transaction = begin(connection)?;
    for rollout in exchanges {
        insert(&transaction, rollout, listening, tally)?;
    }
    for call in calls {
        pending.push(answer(call, &mut transaction, listening, tally));
        still_one(&transaction)?;
    }
    commit(transaction, "log.commit")
}

/// A command that finds the disk full or broken has SQLite take everything back that came before it, in the middle of the batch.
/// Each command after that would be a transaction of its own, there for good although its sender hears that it failed.
fn still_one(transaction: &Transaction<'_>) -> Result<(), LogError> {
    match transaction.is_autocommit() {
        true => {
            Err(LogError::Commit("the disk refused a command of the batch, and all of it was taken back".to_string()))
        }
        false => Ok(()),
    }
}
