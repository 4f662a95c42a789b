//! What each command does inside the writer's transaction, and what its sender hears after the commit.

use std::borrow::Cow;

use policy::{Rollout, Vocabulary};
use rusqlite::{Connection, ErrorCode, Transaction};

use super::{
    audit::{self, Who},
    eligibility,
    error::LogError,
    feedback, forget, imports, judges,
    quarantine::Quarantine,
    record,
    record::Seq,
    redaction,
    state::DropReason,
    transition::{self, Claim, Moved, Outcome},
    update_row::Settlement,
    updates,
    version_row::VersionChange,
    versions,
    writer::{Command, Reply},
};

/// An answer that waits for the commit; it gets the commit's error, if there is one.
pub(super) type Pending = Box<dyn FnOnce(Option<&str>)>;

/// What a row becomes beyond what it says, and whose feedback is heard.
#[derive(Clone, Copy)]
pub(super) struct Listening<'a> {
    /// The reward source listens, so feedback on a scored rollout has it scored again.
    pub(super) rescore: bool,
    /// To everybody but these.
    pub(super) quarantine: &'a Quarantine,
    /// Spells token ids, where what looks like personal data is not to be written.
    pub(super) vocabulary: Option<&'a Vocabulary>,
}

/// What a transaction will have changed, once it is committed.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) n_inserted: u64,
    pub(super) dropped: Vec<(DropReason, u64)>,
    /// Something was removed for good.
    pub(super) has_forgotten: bool,
    /// The reward model that sits.
    pub(super) reward_model: Option<String>,
}

/// Inserts one exchange. Only an error of the storage fails the batch; a row that SQLite refuses for itself is counted.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    rollout: &Rollout,
    listening: Listening<'_>,
    tally: &mut Tally,
) -> Result<(), LogError> {
    let (rollout, text) = match listening.vocabulary {
        Some(vocabulary) => {
            let (written, text) = redaction::of_exchange(rollout, vocabulary);
            (Cow::Owned(written), text)
        }
        None => (Cow::Borrowed(rollout), None),
    };
    let is_quarantined = listening.quarantine.holds(rollout.user.as_deref());
    let obstacle = match text {
        Some(_) => Some(DropReason::Pii),
        None => eligibility::obstacle(&rollout).or(is_quarantined.then_some(DropReason::Quarantined)),
    };
    let inserted = record::insert(transaction, &rollout, obstacle).and_then(|is_new| {
        if let (true, Some(text)) = (is_new, &text) {
            redaction::insert(transaction, text)?;
        }
        Ok(is_new)
    });
    match inserted {
        Ok(true) => {
            tally.n_inserted += 1;
            tally.dropped.extend(obstacle.map(|reason| (reason, 1)));
            Ok(())
        }
        Ok(false) => {
            tracing::warn!(
                request = rollout.id.request,
                index = rollout.id.index,
                "rollout logged twice; kept the first"
            );
            Ok(())
        }
        Err(error) if storage_failed(&error) => Err(error),
        Err(error) => {
            tracing::error!(request = rollout.id.request, %error, "rollout cannot be logged");
            tally.dropped.push((DropReason::WriteFailed, 1));
            Ok(())
        }
    }
}

fn storage_failed(error: &LogError) -> bool {
    let LogError::Sqlite(error) = error else {
        return false;
    };
    !matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}

/// Runs a command that has a waiting sender; the answer goes out after the commit.
pub(super) fn answer(
    command: Command,
    transaction: &mut Transaction<'_>,
    listening: Listening<'_>,
    tally: &mut Tally,
) -> Pending {
    match command {
        Command::Append(_) | Command::Redact(..) | Command::Keep(..) | Command::Close => {
            unreachable!("handled where batches are gathered")
        }
        Command::Flush(reply) => reply_with(reply, Ok(())),
        Command::Feedback(words, reply) => {
            let rescore = listening.rescore && !listening.quarantine.holds(words.user.as_deref());
            let words = if listening.vocabulary.is_some() { redaction::of_feedback(*words) } else { *words };
            reply_with(reply, atomically(transaction, |connection| feedback::insert(connection, &words, rescore)))
        }
        Command::Score(verdicts, heard, reply) => {
            let sits = tally.reward_model.as_deref();
            let moved = atomically(transaction, |connection| transition::score(connection, &verdicts, &heard, sits));
            let n_moved = moved.map(|moved| {
                tally.dropped.extend(moved.iter().filter_map(|moved| match moved {
                    Moved::Dropped(reason) => Some((*reason, 1)),
                    Moved::Not | Moved::Scored => None,
                }));
                moved.iter().filter(|moved| **moved != Moved::Not).count()
            });
            reply_with(reply, n_moved)
        }
        Command::Seat(version, reply) => {
            let given_back = atomically(transaction, |connection| judges::rejudge(connection, Some(&version)));
            if given_back.is_ok() {
                tally.reward_model = Some(version);
            }
            reply_with(reply, given_back)
        }
        Command::Forget(user, who, reply) => {
            let is_heard = listening.rescore;
            let forgotten = atomically(transaction, |connection| forget::forget(connection, &user, &who, is_heard));
            if let Ok(forgotten) = &forgotten {
                tally.has_forgotten = true;
                tally.dropped.push((DropReason::Forgotten, forgotten.n_untrained));
            }
            reply_with(reply, forgotten)
        }
        Command::Claim(request, reply) => {
            let claimed = atomically(transaction, |connection| transition::claim(connection, &request));
            reply_with(reply, tally.claimed(claimed))
        }
        Command::Begin(request, start, reply) => {
            let claimed = atomically(transaction, |connection| transition::begin(connection, &request, &start));
            reply_with(reply, tally.claimed(claimed))
        }
        Command::Repeat(number, reply) => {
            reply_with(reply, atomically(transaction, |connection| updates::repeat(connection, number)))
        }
        Command::Settle(settlement, reply) => reply_with(reply, settle(transaction, &settlement, tally)),
        Command::Import(row, reply) => {
            reply_with(reply, atomically(transaction, |connection| imports::insert(connection, &row)))
        }
        Command::Audit(row, reply) => {
            reply_with(reply, atomically(transaction, |connection| audit::insert(connection, &row)))
        }
        Command::Version(change, who, reply) => {
            let changed = change_version(transaction, &change, &who, tally);
            reply_with(reply, changed)
        }
    }
}

fn settle(transaction: &mut Transaction<'_>, settlement: &Settlement, tally: &mut Tally) -> Result<usize, LogError> {
    let moved = atomically(transaction, |connection| {
        let n_moved = transition::settle(connection, settlement)?;
        // A claim that outlived a reward model gives back rollouts that it judged.
        judges::rejudge(connection, tally.reward_model.as_deref())?;
        Ok(n_moved)
    });
    if moved.is_ok() {
        tally.settled(&settlement.outcomes);
    }
    moved
}

fn change_version(
    transaction: &mut Transaction<'_>,
    change: &VersionChange,
    who: &Who,
    tally: &mut Tally,
) -> Result<(), LogError> {
    let changed = atomically(transaction, |connection| {
        versions::apply(connection, change)?;
        audit::of_change(change, who).iter().try_for_each(|row| audit::insert(connection, row))?;
        judges::rejudge(connection, tally.reward_model.as_deref()).map(drop)
    });
    if let (Ok(()), VersionChange::Publish { settlement, .. } | VersionChange::Reject { settlement, .. }) =
        (&changed, change)
    {
        tally.settled(&settlement.outcomes);
    }
    changed
}

impl Tally {
    fn claimed(&mut self, claimed: Result<(Claim, usize), LogError>) -> Result<Claim, LogError> {
        claimed.map(|(claim, n_expired)| {
            self.dropped.push((DropReason::Stale, n_expired as u64));
            claim
        })
    }

    fn settled(&mut self, outcomes: &[(Seq, Outcome)]) {
        self.dropped.extend(outcomes.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Dropped(reason) => Some((*reason, 1)),
            Outcome::Trained(_) | Outcome::Released => None,
        }));
    }
}

/// A command inside its own savepoint: when it fails, it leaves nothing, and its neighbours keep what they did.
fn atomically<T>(
    transaction: &mut Transaction<'_>,
    run: impl FnOnce(&Connection) -> Result<T, LogError>,
) -> Result<T, LogError> {
    let savepoint = transaction.savepoint()?;
    let value = run(&savepoint).inspect_err(|error| {
        if savepoint.is_autocommit() {
            // Its sender hears what became of the batch; the cause is told here.
            tracing::error!(%error, "the disk refused a command");
        }
    })?;
    savepoint.commit()?;
    Ok(value)
}

fn reply_with<T: 'static>(reply: Reply<T>, value: Result<T, LogError>) -> Pending {
    Box::new(move |failure| {
        let answer = match failure {
            None => value,
            Some(why) => Err(LogError::Commit(why.to_string())),
        };
        // The sender may have given up waiting; what was committed stays committed.
        let _ = reply.send(answer);
    })
}

/// The transaction failed before this command's turn.
pub(super) fn refuse(command: Command) -> Pending {
    let never = || LogError::Commit("no transaction".to_string());
    match command {
        Command::Append(_) | Command::Redact(..) | Command::Keep(..) | Command::Close => {
            unreachable!("handled where batches are gathered")
        }
        Command::Flush(reply)
        | Command::Version(_, _, reply)
        | Command::Import(_, reply)
        | Command::Audit(_, reply) => reply_with(reply, Err(never())),
        Command::Feedback(_, reply) => reply_with(reply, Err(never())),
        Command::Score(_, _, reply) | Command::Seat(_, reply) | Command::Settle(_, reply) => {
            reply_with(reply, Err(never()))
        }
        Command::Claim(_, reply) | Command::Begin(_, _, reply) => reply_with(reply, Err(never())),
        Command::Repeat(_, reply) => reply_with(reply, Err(never())),
        Command::Forget(_, _, reply) => reply_with(reply, Err(never())),
    }
}
