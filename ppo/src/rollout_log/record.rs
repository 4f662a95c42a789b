//! Rows as values: what goes into the log and what comes out of it.

use policy::{FinishReason, PolicyVersion, Rollout, RolloutId};
use rusqlite::{Connection, Row};

use super::{
    blob,
    error::LogError,
    feedback::Feedback,
    state::{DropReason, RolloutState},
};

use crate::pii::RedactedText;

/// Position of a rollout in the log: the order in which exchanges were logged, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub i64);

/// What the reward side says about one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRecord {
    /// The normalised score.
    pub score: f64,
    /// Standard deviation between the members of an ensemble, when there is one.
    pub std: Option<f64>,
    /// Which judge: source and digest of its weights, or its address.
    pub reward_version: String,
}

/// One row, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedRollout {
    /// Its position.
    pub seq: Seq,
    /// The exchange.
    pub rollout: Rollout,
    /// Where it stands.
    pub state: RolloutState,
    /// Why it does not train, when `state` is expired or dropped.
    pub reason: Option<DropReason>,
    /// Its score, once judged.
    pub score: Option<ScoreRecord>,
    /// The version that it helped to train.
    pub trained_version: Option<PolicyVersion>,
    /// What people said about it, by user.
    pub feedback: Vec<Feedback>,
    /// Its text without personal data, where its token ids were not written for their sake.
    pub redacted: Option<RedactedText>,
}

/// Columns that [`read_row`] expects, in its order.
pub(super) const COLUMNS: &str = "seq, request, choice, version, state, reason, user, finish, created_ms, prompt, response, \
     log_probs, behavior, log_kept_mass, sampling, score, score_std, reward_version, trained_version";

/// Inserts one exchange in its first state. Returns whether it is new: a second one of the same id changes nothing.
pub(super) fn insert(
    connection: &Connection,
    rollout: &Rollout,
    obstacle: Option<DropReason>,
) -> Result<bool, LogError> {
    let state = if obstacle.is_some() { RolloutState::Dropped } else { RolloutState::Generated };
    let columns = blob::ResponseColumns::of(&rollout.response);
    let mut statement = connection.prepare_cached(
        "INSERT INTO rollouts (request, choice, version, state, reason, user, finish, created_ms, prompt, response,
            log_probs, behavior, log_kept_mass, sampling)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT (request, choice) DO NOTHING",
    )?;
    let inserted = statement.execute(rusqlite::params![
        rollout.id.request,
        rollout.id.index,
        rollout.version.0 as i64,
        state.as_str(),
        obstacle.map(DropReason::as_str),
        rollout.user,
        finish_word(rollout.finish),
        rollout.created_ms as i64,
        blob::token_ids(rollout.prompt.iter().copied()),
        columns.ids,
        columns.log_probs,
        columns.behavior,
        columns.log_kept_mass,
        blob::sampling(&rollout.sampling),
    ])?;
    Ok(inserted == 1)
}

/// One row of [`COLUMNS`], feedback still empty.
pub(super) fn read_row(row: &Row<'_>) -> Result<LoggedRollout, LogError> {
    let seq: i64 = row.get(0)?;
    let corrupt = |what: String| LogError::Corrupt { seq, what };
    let state: String = row.get(4)?;
    let reason: Option<String> = row.get(5)?;
    let finish: String = row.get(7)?;
    let columns = blob::ResponseColumns {
        ids: row.get(10)?,
        log_probs: row.get(11)?,
        behavior: row.get(12)?,
        log_kept_mass: row.get(13)?,
    };
    let rollout = Rollout {
        id: RolloutId { request: row.get(1)?, index: row.get(2)? },
        version: PolicyVersion(row.get::<_, i64>(3)? as u64),
        prompt: blob::parse_token_ids(row.get_ref(9)?.as_blob().map_err(rusqlite::Error::from)?).map_err(corrupt)?,
        response: columns.parse().map_err(corrupt)?,
        sampling: blob::parse_sampling(row.get_ref(14)?.as_blob().map_err(rusqlite::Error::from)?).map_err(corrupt)?,
        finish: parse_finish(&finish).ok_or_else(|| corrupt(format!("finish {finish:?} is unknown")))?,
        user: row.get(6)?,
        created_ms: row.get::<_, i64>(8)? as u64,
    };
    Ok(LoggedRollout {
        seq: Seq(seq),
        rollout,
        state: RolloutState::parse(&state).ok_or_else(|| corrupt(format!("state {state:?} is unknown")))?,
        reason: match reason {
            None => None,
            Some(word) => Some(DropReason::parse(&word).ok_or_else(|| corrupt(format!("reason {word:?} is unknown")))?),
        },
        score: read_score(row)?,
        trained_version: row.get::<_, Option<i64>>(18)?.map(|version| PolicyVersion(version as u64)),
        feedback: Vec::new(),
        redacted: None,
    })
}

fn read_score(row: &Row<'_>) -> Result<Option<ScoreRecord>, LogError> {
    let Some(score) = row.get::<_, Option<f64>>(15)? else {
        return Ok(None);
    };
    let reward_version = row.get::<_, Option<String>>(17)?.unwrap_or_default();
    Ok(Some(ScoreRecord { score, std: row.get(16)?, reward_version }))
}

/// The word of a finish reason in the column and in exports.
pub fn finish_word(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::EndToken => "end_token",
        FinishReason::Stop => "stop",
        FinishReason::ClientLimit => "client_limit",
        FinishReason::DaemonLimit => "daemon_limit",
        FinishReason::Cancelled => "cancelled",
    }
}

fn parse_finish(word: &str) -> Option<FinishReason> {
    use FinishReason::{Cancelled, ClientLimit, DaemonLimit, EndToken, Stop};
    [EndToken, Stop, ClientLimit, DaemonLimit, Cancelled].into_iter().find(|finish| finish_word(*finish) == word)
}
