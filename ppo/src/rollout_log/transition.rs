//! Every step of a rollout's life after it is logged: score, claim, settle. One statement a transition, with the old state
//! in its condition.

use std::collections::BTreeMap;

use policy::PolicyVersion;
use reward::Opinion;
use rusqlite::{Connection, params};

use super::{
    error::LogError,
    feedback, judges,
    record::{self, LoggedRollout, ScoreRecord, Seq},
    state::DropReason,
    update_row::{Settlement, UpdateStart},
    updates,
};

/// The scorer's word on one `generated` rollout.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Judged.
    Scored(ScoreRecord),
    /// Never to be judged.
    Dropped(DropReason),
}

/// What the learner asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRequest {
    /// Rollouts of one update; all or none are claimed.
    pub n_rollouts: usize,
    /// Versions that may have drawn them: the trainer's own and its ancestors up to `ppo.max_staleness` publications back.
    /// In a history without rollback and without refused candidates these are exactly the versions of number
    /// ≥ trainer − max_staleness.
    pub lineage: Vec<PolicyVersion>,
    /// Share of the claim that one named user may fill, in (0, 1].
    pub user_share_max: f64,
}

/// What the learner gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// Exactly the number asked for, oldest first.
    Granted(Vec<LoggedRollout>),
    /// Too few; nothing was claimed.
    Short {
        /// Rollouts that could be claimed now.
        n_ready: usize,
    },
}

/// The end of a claim, rollout by rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Part of the update that made this version.
    Trained(PolicyVersion),
    /// Not used, and never will be.
    Dropped(DropReason),
    /// Given back: it may be claimed again.
    Released,
}

/// The judgements that a verdict was made on, by row, each with its user's name; rows that are not in here were not asked
/// about.
pub(super) type Heard = BTreeMap<Seq, Vec<(String, Opinion)>>;

/// What a verdict did to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nothing: the row is no longer `generated`, or the verdict no longer holds.
    Not,
    /// It is `scored`.
    Scored,
    /// It is `dropped`.
    Dropped(DropReason),
}

/// Stores verdicts and returns what each did. Rows that are no longer `generated` keep what they have. And they stay
/// `generated`, to be judged again, where the verdict no longer holds: it comes from another reward model than the one that
/// `sits`, or somebody spoke while it was made.
pub(super) fn score(
    connection: &Connection,
    verdicts: &[(Seq, Verdict)],
    heard: &Heard,
    sits: Option<&str>,
) -> Result<Vec<Moved>, LogError> {
    let mut scored = connection.prepare_cached(
        "UPDATE rollouts SET state = 'scored', score = ?2, score_std = ?3, reward_version = ?4
         WHERE seq = ?1 AND state = 'generated'",
    )?;
    let mut dropped = connection
        .prepare_cached("UPDATE rollouts SET state = 'dropped', reason = ?2 WHERE seq = ?1 AND state = 'generated'")?;
    let mut moved = Vec::with_capacity(verdicts.len());
    for (seq, verdict) in verdicts {
        let holds = match (heard.get(seq), verdict) {
            (Some(heard), _) if *heard != feedback::opinions(connection, *seq)? => false,
            (_, Verdict::Scored(record)) => !sits.is_some_and(|sits| judges::is_foreign(&record.reward_version, sits)),
            (_, Verdict::Dropped(_)) => true,
        };
        let (n_rows, becomes) = match verdict {
            _ if !holds => (0, Moved::Not),
            // SQLite stores NaN as NULL, which would read as "not scored": it is a reason to drop, not a value.
            Verdict::Scored(record) if !record.score.is_finite() => {
                let reason = DropReason::NonFinite;
                (dropped.execute(params![seq.0, reason.as_str()])?, Moved::Dropped(reason))
            }
            Verdict::Scored(record) => {
                (scored.execute(params![seq.0, record.score, record.std, record.reward_version])?, Moved::Scored)
            }
            Verdict::Dropped(reason) => (dropped.execute(params![seq.0, reason.as_str()])?, Moved::Dropped(*reason)),
        };
        moved.push(if n_rows == 0 { Moved::Not } else { becomes });
    }
    Ok(moved)
}

/// Claims the oldest fresh rollouts, at most its share per named user; what is too old becomes `expired` on the way.
///
/// Anonymous rollouts are not capped: nothing tells their users apart.
///
/// Returns the claim and how many rows expired.
pub(super) fn claim(connection: &Connection, request: &ClaimRequest) -> Result<(Claim, usize), LogError> {
    let n_expired = expire(connection, &request.lineage)?;
    let cap = ((request.user_share_max * request.n_rollouts as f64).floor() as i64).max(1);
    let ready: Vec<i64> = connection
        .prepare_cached(
            "SELECT seq FROM (
                SELECT seq, user, ROW_NUMBER() OVER (PARTITION BY user ORDER BY seq) AS nth FROM rollouts WHERE state = 'scored'
             ) WHERE user IS NULL OR nth <= ?1 ORDER BY seq LIMIT ?2",
        )?
        .query_map(params![cap, request.n_rollouts as i64], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if ready.len() < request.n_rollouts {
        return Ok((Claim::Short { n_ready: ready.len() }, n_expired));
    }
    let mut claim =
        connection.prepare_cached("UPDATE rollouts SET state = 'claimed' WHERE seq = ?1 AND state = 'scored'")?;
    let sql = format!("SELECT {} FROM rollouts WHERE seq = ?1 AND state = 'claimed'", record::COLUMNS);
    let mut read = connection.prepare_cached(&sql)?;
    let mut granted = Vec::with_capacity(ready.len());
    for seq in ready {
        claim.execute([seq])?;
        let mut rows = read.query([seq])?;
        let row = rows.next()?.ok_or(LogError::Corrupt { seq, what: "claimed row vanished".to_string() })?;
        granted.push(record::read_row(row)?);
    }
    Ok((Claim::Granted(granted), n_expired))
}

/// [`claim`], and in the same breath the record of the update that it is for.
pub(super) fn begin(
    connection: &Connection,
    request: &ClaimRequest,
    start: &UpdateStart,
) -> Result<(Claim, usize), LogError> {
    let claimed = claim(connection, request)?;
    if let (Claim::Granted(rows), _) = &claimed {
        updates::begin(connection, start, &request.lineage, rows)?;
    }
    Ok(claimed)
}

/// Rows that can never be fresh again leave the queue. Versions only move on, so a row outside the lineage stays outside;
/// the one exception, a rollback to its version, would make it on-policy again, and is rare enough to lose it.
fn expire(connection: &Connection, lineage: &[PolicyVersion]) -> Result<usize, LogError> {
    // SQLite has no array parameter; numbers, and only numbers, may stand in the statement's text.
    let fresh: Vec<String> = lineage.iter().map(|version| (version.0 as i64).to_string()).collect();
    let sql = format!(
        "UPDATE rollouts SET state = 'expired', reason = ?1 WHERE state IN ('generated', 'scored') AND version NOT IN ({})",
        fresh.join(", ")
    );
    Ok(connection.execute(&sql, [DropReason::Stale.as_str()])?)
}

/// Ends claims; rows that are not `claimed` keep what they have. Returns how many moved.
pub(super) fn settle(connection: &Connection, settlement: &Settlement) -> Result<usize, LogError> {
    if let Some(change) = &settlement.update {
        updates::change(connection, change)?;
    }
    let mut trained = connection.prepare_cached(
        "UPDATE rollouts SET state = 'trained', trained_version = ?2 WHERE seq = ?1 AND state = 'claimed'",
    )?;
    let mut dropped = connection
        .prepare_cached("UPDATE rollouts SET state = 'dropped', reason = ?2 WHERE seq = ?1 AND state = 'claimed'")?;
    let mut released =
        connection.prepare_cached("UPDATE rollouts SET state = 'scored' WHERE seq = ?1 AND state = 'claimed'")?;
    let mut n_moved = 0;
    for (seq, outcome) in &settlement.outcomes {
        n_moved += match outcome {
            Outcome::Trained(version) => trained.execute(params![seq.0, version.0 as i64])?,
            Outcome::Dropped(reason) => dropped.execute(params![seq.0, reason.as_str()])?,
            Outcome::Released => released.execute([seq.0])?,
        };
    }
    Ok(n_moved)
}

/// At open: whoever claimed is gone, since the folder's lock is ours. What an open update claimed stays claimed: the learner
/// repeats that update with these very rollouts, or gives them back.
pub(super) fn release_all(connection: &Connection) -> Result<usize, LogError> {
    Ok(connection.execute(
        "UPDATE rollouts SET state = 'scored' WHERE state = 'claimed' AND seq NOT IN (
            SELECT seq FROM update_rollouts JOIN updates USING (number) WHERE outcome = 'open')",
        [],
    )?)
}
