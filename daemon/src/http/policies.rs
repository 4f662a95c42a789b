//! `GET /v1/policies`, `GET /v1/policies/{n}`, `POST /v1/policies/{n}/activate`.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use policy::PolicyVersion;
use ppo::rollout_log::{LogError, VersionRow};

use super::{
    blocking,
    body::OptionalJsonBytes,
    context::{Context, Services},
    error::ApiError,
    wire::policy::{self as wire, PolicyList, PolicyRow},
};

/// Every version, oldest first.
pub(crate) async fn list(State(context): State<Context>) -> Result<Json<PolicyList>, ApiError> {
    let services = context.services()?;
    let live = services.engine.live().0;
    Ok(Json(PolicyList { object: "list", live, data: rows(services).await? }))
}

/// One version.
pub(crate) async fn get(State(context): State<Context>, Path(version): Path<String>) -> Result<Json<PolicyRow>, ApiError> {
    let version = parse(&version)?;
    one(context.services()?, version).await.map(Json)
}

/// Promotes a retained version: rollback. `expected_live` makes it compare-and-set.
pub(crate) async fn activate(
    State(context): State<Context>,
    Path(version): Path<String>,
    OptionalJsonBytes(body): OptionalJsonBytes,
) -> Result<Json<PolicyRow>, ApiError> {
    let version = parse(&version)?;
    let expected_live = wire::expected_live(&body)?;
    let services = context.admit()?;
    let before = one(services.clone(), version).await?;
    let worker = services.clone();
    let activated = blocking(move || worker.activate(version, expected_live)).await?;
    activated.map_err(|error| refusal(error, &before))?;
    tracing::info!(%version, "activated by an administrator");
    one(services, version).await.map(Json)
}
