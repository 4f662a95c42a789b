//! One reward model at a time.
//!
//! A round whitens its advantages over all its scores, so scores of two reward models in one round would teach their difference
//! instead of the answers'. When another model takes over, every rollout that it finds judged and unclaimed is judged
//! again, and a verdict of the old one that comes late is not stored. What an update has claimed or trained on keeps the score
//! and the version that it had: the update's record names them.

use reward::model_of;
use rusqlite::{Connection, params};

use super::error::LogError;

/// Whether a score was given by another reward model than this one, alone or as a part of a sum.
pub(super) fn is_foreign(reward_version: &str, reward_model: &str) -> bool {
    model_of(reward_version).is_some_and(|model| model != reward_model)
}

/// Gives every `scored` rollout that another reward model judged back to the scorer, once it is known which one `sits`. Returns
/// how many.
pub(super) fn rejudge(connection: &Connection, sits: Option<&str>) -> Result<usize, LogError> {
    let Some(reward_model) = sits else { return Ok(0) };
    let versions: Vec<String> = connection
        .prepare_cached(
            "SELECT DISTINCT reward_version FROM rollouts WHERE state = 'scored' AND reward_version IS NOT NULL",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut give_back = connection.prepare_cached(
        "UPDATE rollouts SET state = 'generated', score = NULL, score_std = NULL, reward_version = NULL
         WHERE state = 'scored' AND reward_version = ?1",
    )?;
    let foreign = versions.iter().filter(|version| is_foreign(version, reward_model));
    foreign.map(|version| Ok(give_back.execute(params![version])?)).sum()
}

/// Gives every `scored` rollout that this user's words had a part in back to the scorer, before these words go or are heard no
/// longer. Returns how many.
pub(super) fn rejudge_without(connection: &Connection, user: &str) -> Result<usize, LogError> {
    Ok(connection.execute(
        "UPDATE rollouts SET state = 'generated', score = NULL, score_std = NULL, reward_version = NULL
         WHERE state = 'scored' AND seq IN (SELECT seq FROM feedback WHERE user = ?1)",
        [user],
    )?)
}

/// Gives every claimed rollout whose score heard this user back to the scorer, where the claim is one of a process that died.
/// Returns how many.
pub(super) fn unclaim_without(connection: &Connection, user: &str) -> Result<usize, LogError> {
    Ok(connection.execute(
        "UPDATE rollouts SET state = 'generated', score = NULL, score_std = NULL, reward_version = NULL
         WHERE state = 'claimed' AND seq IN (SELECT seq FROM feedback WHERE user = ?1 AND applied)",
        [user],
    )?)
}
