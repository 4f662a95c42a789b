//! What can be seen of the learner before it has done anything: the log knows of the time before this process.
//!
//! Updates that failed or were interrupted leave no row, and what was measured of a round without a version is not all kept: a
//! restart shows what there is, and makes nothing up.

use super::{HISTORY_MAX, LearnerSetup, claiming::backlog, no_step::Idle, trainer::next_update};
use crate::{
    rollout_log::{FORGOTTEN, LogError, LogReader, UpdateEnd, UpdateRow, VersionRow},
    stats::{UpdateOutcome, UpdateRecord},
};

/// Numbers of a version's row that its update did not measure.
const NOT_MEASURED: [&str; 2] = ["update", FORGOTTEN];

/// The time before this process.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Number of the update that would begin now.
    pub(super) n_updates: u64,
    /// Rollouts that are judged, and those that wait for it.
    pub(super) backlog: (u64, u64),
    /// The newest updates, oldest first.
    pub(super) history: Vec<UpdateRecord>,
}

impl Past {
    /// As far as it can be read: that nobody can look at it is no reason not to learn.
    pub(super) fn of(setup: &LearnerSetup, live: &VersionRow) -> Past {
        Past::read(setup, live).unwrap_or_else(|error| {
            tracing::warn!(%error, "earlier updates cannot be read; the learner's history begins empty");
            Past::default()
        })
    }

    fn read(setup: &LearnerSetup, live: &VersionRow) -> Result<Past, LogError> {
        let backlog = backlog(setup)?;
        let reader = setup.log.reader();
        let mut rows = reader.newest_updates(HISTORY_MAX)?;
        let n_updates = next_update(rows.first(), live);
        rows.reverse();
        let records = rows.into_iter().map(|row| record_of(&reader, row));
        let history = records.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        Ok(Past { n_updates, backlog, history })
    }
}

/// An update as its process told of it, as far as the log has it; `None` of one that has not ended.
fn record_of(reader: &LogReader, row: UpdateRow) -> Result<Option<UpdateRecord>, LogError> {
    let UpdateRow { start, n_attempts, claimed_ms, ended_ms: Some(ended_ms), end: Some(end), .. } = row else {
        return Ok(None);
    };
    let made = end.version.map(|version| reader.version(version)).transpose()?.flatten();
    let reason = reason(reader, &end, made.as_ref())?;
    let mut numbers = end.numbers;
    // With what the gate measured.
    let measured = made.into_iter().flat_map(|made| made.numbers);
    numbers.extend(measured.filter(|(name, _)| !NOT_MEASURED.contains(&name.as_str())));
    Ok(Some(UpdateRecord {
        update: start.number,
        ended_ms,
        parent: start.parent,
        version: end.version,
        outcome: end.outcome,
        reason,
        numbers,
        seconds: (n_attempts <= 1).then(|| ended_ms.saturating_sub(claimed_ms) as f64 / 1000.0),
    }))
}

fn reason(reader: &LogReader, end: &UpdateEnd, made: Option<&VersionRow>) -> Result<Option<String>, LogError> {
    Ok(match end.outcome {
        UpdateOutcome::Rejected => made.and_then(|made| made.reason.clone()),
        // Whatever became of it since is the version's story.
        UpdateOutcome::Promoted => {
            let objections = made.and_then(VersionRow::objections);
            objections.map(|objections| format!("{}{objections}", VersionRow::OBSERVED))
        }
        UpdateOutcome::NoStep => {
            let (dropped, n_rollouts) = (reader.drops_of_update(end.number)?, reader.used_rollouts(end.number)?.len());
            Some(Idle { numbers: &end.numbers, dropped: &dropped, n_rollouts }.reason())
        }
        UpdateOutcome::Failed | UpdateOutcome::Interrupted => None,
    })
}
