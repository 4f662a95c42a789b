//! `GET /v1/models`, `GET /v1/models/{id}`.

use policy::engine::ResidentState;
use ppo::rollout_log::{VersionRow, VersionState};
use serde::Serialize;
use utoipa::ToSchema;

/// Every addressable model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    pub(crate) object: &'static str,
    /// The live policy first, then its versions from the newest on, then the reward model.
    pub(crate) data: Vec<Model>,
}

/// One of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    /// What the `model` field of a request may hold.
    pub(crate) id: String,
    /// `model`.
    pub(crate) object: &'static str,
    /// When it came to be, seconds since the Unix epoch.
    pub(crate) created: u64,
    /// `honed`.
    pub(crate) owned_by: &'static str,
    /// Tokens of prompt and response together.
    pub(crate) max_model_len: usize,
    /// The frozen start that all versions of the policy come from; null for the reward model.
    pub(crate) root: Option<&'static str>,
    /// The version whose weights it was trained from.
    pub(crate) parent: Option<String>,
    /// Which weights answer under this name now; null for the reward model.
    pub(crate) version: Option<u64>,
    /// `candidate`, `live`, `draining`, `retained`; of the reward model `live`.
    pub(crate) state: &'static str,
    /// Whether it is in memory and stays there; one that is not must be activated before it answers.
    pub(crate) resident: bool,
    /// Who judges now; null for versions of the policy.
    pub(crate) reward_version: Option<String>,
}

impl Model {
    /// A version under one of its names.
    pub(crate) fn version(id: &str, row: &VersionRow, resident: Option<ResidentState>, window: usize) -> Model {
        Model {
            id: id.to_owned(),
            object: "model",
            created: row.created_ms / 1000,
            owned_by: "honed",
            max_model_len: window,
            root: Some("sft"),
            parent: row.parent.map(|parent| parent.to_string()),
            version: Some(row.version.0),
            state: row.state.as_str(),
            resident: resident.is_some_and(ResidentState::admits),
            reward_version: None,
        }
    }

    /// What judges, under one of its names.
    pub(crate) fn reward(id: &str, reward_version: &str, created: u64, window: usize) -> Model {
        Model {
            id: id.to_owned(),
            object: "model",
            created,
            owned_by: "honed",
            max_model_len: window,
            root: None,
            parent: None,
            version: None,
            state: VersionState::Live.as_str(),
            resident: true,
            reward_version: Some(reward_version.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use policy::PolicyVersion;

    use super::*;
    use crate::http::wire::policy::PolicyRow;

    /// Goal: what is told of a version is what a request for it finds. Method: each state in memory, and none.
    #[test]
    fn a_version_on_its_way_out_is_no_longer_resident() {
        let row = VersionRow {
            version: PolicyVersion(3),
            parent: None,
            state: VersionState::Draining,
            digest: String::new(),
            path: "policy-3.gguf".into(),
            created_ms: 0,
            n_rollouts: 0,
            reason: None,
            numbers: BTreeMap::new(),
        };
        let states = [Some(ResidentState::Live), Some(ResidentState::Ready), Some(ResidentState::Draining), None];
        for (state, expected) in states.into_iter().zip([true, true, false, false]) {
            assert_eq!(Model::version("policy@3", &row, state, 1).resident, expected, "{state:?}");
            assert_eq!(PolicyRow::new(row.clone(), state).resident, expected, "{state:?}");
        }
    }
}
