//! `GET /v1/models`: every name that the `model` field may hold, and what to say of one that it may not.
//!
//! A version is addressable while its weights exist: in memory it answers, on disk only (`retained`) it must be activated
//! first. Loading it because a request names it would let any client fill the memory with old versions.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use policy::{
    PolicyVersion,
    engine::{ResidentState, Target},
};
use ppo::rollout_log::{VersionRow, VersionState};

use super::{
    blocking,
    context::{Context, Services},
    error::ApiError,
    path::PathText,
    wire::model::{Model, ModelList},
};

/// The name under which clients ask whatever judges now.
const REWARD: &str = "reward";

/// All of them.
pub(crate) async fn list(State(context): State<Context>) -> Result<Json<ModelList>, ApiError> {
    Ok(Json(ModelList { object: "list", data: all(&context).await? }))
}

/// One of them.
pub(crate) async fn get(State(context): State<Context>, PathText(id): PathText) -> Result<Json<Model>, ApiError> {
    let found = all(&context).await?.into_iter().find(|model| model.id == id);
    found.map(Json).ok_or_else(|| unknown(&id))
}

/// Whether a name is one of those that judge.
pub(crate) fn is_reward(name: &str) -> bool {
    name.strip_prefix(REWARD).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
}

/// Refuses a `model` that is not whatever judges now: nothing, `reward`, or `reward@…` with the version that it has.
pub(crate) fn check_reward(model: Option<&str>, reward_version: &str) -> Result<(), ApiError> {
    match model.filter(|name| !name.is_empty() && *name != REWARD) {
        Some(name) if name != pinned(reward_version) => Err(unknown(name)),
        _ => Ok(()),
    }
}

/// What to say of a version that is not in memory: that it could be, or that there is no such thing. Reads the disk.
pub(crate) fn absent(services: &Services, version: PolicyVersion) -> ApiError {
    let row = tokio::task::block_in_place(|| services.registry.row(version));
    match row {
        Ok(Some(row)) if has_weights(&row) => ApiError::NotLoaded(version),
        Ok(_) => unknown(&version.to_string()),
        Err(error) => ApiError::internal("reading the versions", error),
    }
}

/// Refuses a version that is neither in memory nor on disk, to those who need only what all versions share: the tokenizer.
/// Reads the disk for one that is not in memory.
pub(crate) fn check_exists(services: &Services, target: Target) -> Result<(), ApiError> {
    match target {
        Target::Version(version) if services.engine.residents().iter().all(|resident| resident.version != version) => {
            match absent(services, version) {
                ApiError::NotLoaded(_) => Ok(()),
                refusal => Err(refusal),
            }
        }
        Target::Live | Target::Version(_) => Ok(()),
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::UnknownModel(name.chars().take(128).collect())
}

fn has_weights(row: &VersionRow) -> bool {
    matches!(row.state, VersionState::Live | VersionState::Draining | VersionState::Retained)
}

/// `model@1f2e3d4c5b6a` is addressed as `reward@1f2e3d4c5b6a`.
fn pinned(reward_version: &str) -> String {
    format!("{REWARD}@{}", reward_version.strip_prefix("model@").unwrap_or(reward_version))
}

async fn all(context: &Context) -> Result<Vec<Model>, ApiError> {
    let services = context.services()?;
    let reader: Arc<Services> = services.clone();
    let rows = blocking(move || reader.registry.rows()).await?;
    let rows = rows.map_err(|error| ApiError::internal("reading the versions", error))?;
    let mut models = policies(context.served_name(), &services, &rows);
    if let Some(scorer) = &services.scorer {
        let (version, window) = (scorer.reward_version(), services.engine.context_tokens() as usize);
        let reward = |id: &str| Model::reward(id, &version, context.started_s(), window);
        models.extend([reward(REWARD), reward(&pinned(&version))]);
    }
    Ok(models)
}

fn policies(served_name: &str, services: &Services, rows: &[VersionRow]) -> Vec<Model> {
    let residents: BTreeMap<_, _> = services.engine.residents().iter().map(|r| (r.version, r.state)).collect();
    let window = services.engine.context_tokens() as usize;
    let live = services.engine.live();
    let model = |id: &str, row: &VersionRow| Model::version(id, row, residents.get(&row.version).copied(), window);
    let mut models = Vec::new();
    if let Some(row) = rows.iter().find(|row| row.version == live) {
        models.push(model(served_name, row));
        if served_name != "policy" {
            models.push(model("policy", row));
        }
    }
    let answers = |version| residents.get(&version).is_some_and(|state: &ResidentState| state.admits());
    for row in rows.iter().rev().filter(|row| has_weights(row) || answers(row.version)) {
        models.push(model(&row.version.to_string(), row));
        if row.version == PolicyVersion::SFT {
            models.push(model("sft", row));
        }
    }
    models
}
