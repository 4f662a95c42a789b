//! `GET /v1/policies`, `POST /v1/policies`, `GET /v1/policies/{n}`, `POST /v1/policies/{n}/activate`.

use std::{collections::BTreeMap, path::PathBuf};

use policy::{PolicyVersion, engine::ResidentState};
use ppo::rollout_log::{Averaged, MadeVersion, RolloutState, UsedByUpdate};
use serde::Serialize;
use utoipa::ToSchema;

use super::fields::{FieldError, Fields};

/// Every version.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PolicyList {
    pub(crate) object: &'static str,
    pub(crate) live: u64,
    pub(crate) data: Vec<PolicyRow>,
}

/// One version and how it came to be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PolicyRow {
    id: String,
    object: &'static str,
    version: u64,
    parent: Option<u64>,
    state: &'static str,
    digest: String,
    /// Bytes of its file; null when that is gone.
    bytes: Option<u64>,
    created_ms: u64,
    /// What it is the average of; null unless it is an average of weights.
    average: Option<AverageOf>,
    /// Number of the update that made it; null for version 0, for what was brought from outside, and for averages.
    update: Option<u64>,
    /// Digest of the configuration that this update ran with.
    config_digest: Option<String>,
    /// Rollouts that trained it.
    rollouts: u64,
    /// Who had given these rollouts their scores: a reward model by its digest, or another source.
    reward_versions: Vec<String>,
    /// Why it was rejected, retired or rolled back; and what the gate objected to when it only observed.
    reason: Option<String>,
    /// What the update and the gate measured.
    numbers: BTreeMap<String, f64>,
    /// Whether it is in memory and may be addressed as `policy@N`.
    pub(crate) resident: bool,
}

/// The versions whose weights are averaged, from the first to the last along the lineage.
#[derive(Debug, Serialize, ToSchema)]
struct AverageOf {
    /// The one that the average began with.
    first: u64,
    /// The newest, its parent.
    last: u64,
    /// What was left of each version's weight with every one that came after it (`ppo.ema_decay`).
    decay: f64,
}

impl From<Averaged> for AverageOf {
    fn from(of: Averaged) -> AverageOf {
        AverageOf { first: of.first.0, last: of.last.0, decay: of.decay }
    }
}

impl PolicyRow {
    /// Its number.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// A version, and what the engine does with it when it holds it.
    pub(crate) fn new(version: impl Into<MadeVersion>, resident: Option<ResidentState>) -> PolicyRow {
        let MadeVersion { row, bytes, making } = version.into();
        let (update, config_digest, reward_versions) = match making {
            Some(making) => (Some(making.update), Some(making.config_digest), making.reward_versions),
            None => (None, None, Vec::new()),
        };
        let average = row.averaged().map(AverageOf::from);
        PolicyRow {
            id: row.version.to_string(),
            object: "policy",
            version: row.version.0,
            parent: row.parent.map(|parent| parent.0),
            state: row.state.as_str(),
            digest: row.digest,
            bytes,
            created_ms: row.created_ms,
            average,
            update,
            config_digest,
            rollouts: row.n_rollouts,
            reward_versions,
            reason: row.reason,
            numbers: row.numbers,
            resident: resident.is_some_and(ResidentState::admits),
        }
    }
}

/// A version with the rollouts of the update that made it, for `honed policies show --json --rollouts`.
#[derive(Debug, Serialize)]
pub(crate) struct PolicyWithRollouts {
    #[serde(flatten)]
    policy: PolicyRow,
    used: Vec<UsedRow>,
}

/// One rollout of an update; of what has left the log, only its place.
#[derive(Debug, Serialize)]
struct UsedRow {
    seq: i64,
    id: Option<String>,
    index: Option<u32>,
    state: Option<&'static str>,
}

impl PolicyWithRollouts {
    /// In the order in which the update used them.
    pub(crate) fn new(policy: PolicyRow, used: Vec<UsedByUpdate>) -> PolicyWithRollouts {
        let used = used.into_iter().map(|rollout| {
            let (id, state) = rollout.row.unzip();
            let (id, index) = id.map(|id| (id.request, id.index)).unzip();
            UsedRow { seq: rollout.seq.0, id, index, state: state.map(RolloutState::as_str) }
        });
        PolicyWithRollouts { policy, used: used.collect() }
    }
}

/// Characters of a path at most.
const PATH_CHARS_MAX: usize = 4096;

/// A file to be made a version.
#[derive(Debug)]
pub(crate) struct LoadRequest {
    /// Within the import folder.
    pub(crate) path: PathBuf,
    /// Whether it is to be live.
    pub(crate) promote: bool,
    /// Compare-and-set of that.
    pub(crate) expected_live: Option<PolicyVersion>,
}

impl LoadRequest {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8]) -> Result<LoadRequest, FieldError> {
        let mut fields = Fields::parse(body)?;
        let path = fields.text("path", PATH_CHARS_MAX)?.filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| fields.error("path", "is required, and must not be empty"))?;
        let promote = fields.boolean("promote")?.unwrap_or(false);
        let expected = fields.integer("expected_live", 0..=i64::MAX)?;
        if expected.is_some() && !promote {
            return Err(fields.error("expected_live", "is for `promote`: true"));
        }
        let expected_live = expected.map(|version| PolicyVersion(version.cast_unsigned()));
        Ok(LoadRequest { path: path.into(), promote, expected_live })
    }
}

/// The body of an activation.
pub(crate) fn activation(expected_live: Option<PolicyVersion>) -> String {
    serde_json::json!({"expected_live": expected_live.map(|version| version.0)}).to_string()
}

/// The `expected_live` of an activation; the body may be missing.
pub(crate) fn expected_live(body: &[u8]) -> Result<Option<PolicyVersion>, FieldError> {
    if body.is_empty() {
        return Ok(None);
    }
    let expected = Fields::parse(body)?.integer("expected_live", 0..=i64::MAX)?;
    Ok(expected.map(|version| PolicyVersion(version.cast_unsigned())))
}

#[cfg(test)]
mod tests {
    use policy::RolloutId;
    use ppo::rollout_log::{Making, Seq, VersionRow, VersionState};
    use serde_json::{Value, json};

    use super::*;

    /// Goal: whoever reads a version's row learns what trained it. Method: one that an update made, and one that was brought.
    #[test]
    fn a_row_says_what_made_its_version() {
        let row = VersionRow {
            version: PolicyVersion(3),
            parent: Some(PolicyVersion(2)),
            state: VersionState::Live,
            digest: "d".to_owned(),
            path: "policy-3.gguf".into(),
            created_ms: 1,
            n_rollouts: 2,
            reason: None,
            numbers: BTreeMap::new(),
        };
        let making = Making { update: 9, config_digest: "c".to_owned(), reward_versions: vec!["model@ab".to_owned()] };
        let made = MadeVersion { row: row.clone(), bytes: Some(7), making: Some(making) };
        let told = |row: &PolicyRow| serde_json::to_value(row).unwrap();
        let keys = ["bytes", "update", "config_digest", "reward_versions", "rollouts"];
        let of = |told: &Value| keys.map(|key| told[key].clone());
        let told_of_made = told(&PolicyRow::new(made.clone(), None));
        assert_eq!(of(&told_of_made), [json!(7), json!(9), json!("c"), json!(["model@ab"]), json!(2)]);
        assert_eq!(of(&told(&PolicyRow::new(row, None))), [json!(null), json!(null), json!(null), json!([]), json!(2)]);

        let id = RolloutId { request: "cmpl-1".to_owned(), index: 4 };
        let used = vec![
            UsedByUpdate { seq: Seq(5), row: Some((id, RolloutState::Trained)) },
            UsedByUpdate { seq: Seq(6), row: None },
        ];
        let with_rollouts = PolicyWithRollouts::new(PolicyRow::new(made, None), used);
        let mut expected = told_of_made;
        expected["used"] = json!([
            {"seq": 5, "id": "cmpl-1", "index": 4, "state": "trained"},
            {"seq": 6, "id": null, "index": null, "state": null},
        ]);
        assert_eq!(serde_json::to_value(with_rollouts).unwrap(), expected);
    }
}
