//! `GET /v1/policies`, `GET /v1/policies/{n}`, `POST /v1/policies/{n}/activate`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Extension, Json, extract::State};
use policy::PolicyVersion;
use ppo::{
    learner::LearnerError,
    registry::RegistryError,
    rollout_log::{LogError, MadeVersion, Who},
};

use super::{
    blocking,
    body::OptionalJsonBytes,
    context::{Context, Services},
    error::ApiError,
    path::PathText,
    wire::policy::{self as wire, PolicyList, PolicyRow},
};

/// Every version, oldest first.
pub(crate) async fn list(State(context): State<Context>) -> Result<Json<PolicyList>, ApiError> {
    let services = context.services()?;
    let live = services.engine.live().0;
    Ok(Json(PolicyList { object: "list", live, data: rows(services).await? }))
}

/// One version.
pub(crate) async fn get(
    State(context): State<Context>,
    PathText(version): PathText,
) -> Result<Json<PolicyRow>, ApiError> {
    let version = parse(&version)?;
    one(context.services()?, version).await.map(Json)
}

/// Promotes a retained version: rollback. `expected_live` makes it compare-and-set.
pub(crate) async fn activate(
    State(context): State<Context>,
    Extension(who): Extension<Who>,
    PathText(version): PathText,
    OptionalJsonBytes(body): OptionalJsonBytes,
) -> Result<Json<PolicyRow>, ApiError> {
    let version = parse(&version)?;
    let expected_live = wire::expected_live(&body)?;
    let services = context.admit()?;
    let worker = services.clone();
    blocking(move || {
        let activator = worker.activator();
        let row = worker.registry.row(version).map_err(|error| ApiError::internal("reading a version", error))?;
        if row.is_none() {
            activator.refuse(version, &who, "there is no such version");
            return Err(unknown(&version.0.to_string()));
        }
        activator.activate(version, expected_live, &who).map_err(refusal)
    })
    .await??;
    tracing::info!(%version, "activated by an administrator");
    one(services, version).await.map(Json)
}

fn parse(version: &str) -> Result<PolicyVersion, ApiError> {
    let number = version.strip_prefix("policy@").unwrap_or(version);
    let number = if number.bytes().all(|b| b.is_ascii_digit()) { number.parse().ok() } else { None };
    number.map(PolicyVersion).ok_or_else(|| unknown(version))
}

fn unknown(version: &str) -> ApiError {
    ApiError::NotFound(format!("there is no version {:?}", version.chars().take(64).collect::<String>()))
}

async fn rows(services: Arc<Services>) -> Result<Vec<PolicyRow>, ApiError> {
    let states: BTreeMap<_, _> = services.engine.residents().iter().map(|r| (r.version, r.state)).collect();
    let rows = blocking(move || services.registry.described()).await?;
    let rows = rows.map_err(|error| ApiError::internal("reading the versions", error))?;
    let shown = |version: MadeVersion| {
        let state = states.get(&version.row.version).copied();
        PolicyRow::new(version, state)
    };
    Ok(rows.into_iter().map(shown).collect())
}

/// One row as clients see it.
pub(super) async fn one(services: Arc<Services>, version: PolicyVersion) -> Result<PolicyRow, ApiError> {
    let found = rows(services).await?.into_iter().find(|row| row.version() == version.0);
    found.ok_or_else(|| unknown(&version.0.to_string()))
}

/// The answer to an activation that did not happen.
pub(super) fn refusal(error: LearnerError) -> ApiError {
    match error {
        LearnerError::Registry(RegistryError::Log(
            error @ (LogError::LiveChanged { .. } | LogError::VersionState { .. }),
        )) => ApiError::Conflict(error.to_string()),
        LearnerError::Registry(RegistryError::Log(error)) => ApiError::not_recorded("an activation", &error),
        // What retention does is no fault of anything.
        LearnerError::Registry(error @ RegistryError::Retired { .. }) => ApiError::Conflict(error.to_string()),
        LearnerError::Registry(error @ RegistryError::Damaged { .. }) => {
            tracing::error!(%error, "a version cannot be activated");
            ApiError::Conflict("the version's file is missing or damaged".to_owned())
        }
        LearnerError::Publish(error) if error.lacks_room() => {
            tracing::warn!(%error, "a version cannot be activated now");
            ApiError::Unavailable(
                "there is no room in memory for another version now; the daemon's log has the numbers",
            )
        }
        LearnerError::Busy => ApiError::QueueFull,
        LearnerError::Closed => ApiError::ShuttingDown,
        other => ApiError::internal("activation", other),
    }
}

#[cfg(test)]
mod tests {
    use policy::engine::EngineError;
    use ppo::publish::PublishError;

    use super::{ApiError, LearnerError, LogError, PolicyVersion, RegistryError, refusal};

    /// Goal: who is told what does not depend on whether somebody learns. Method: each refusal of the log as it comes from the
    /// registry, and as it comes from the learner's switch.
    #[test]
    fn a_refusal_of_the_log_is_told_alike_whichever_way_it_came() {
        let both = |error: fn() -> LogError| {
            let switched = PublishError::from(RegistryError::from(error()));
            [LearnerError::from(error()), LearnerError::from(switched)].map(refusal)
        };
        let lost = || LogError::LiveChanged { expected: PolicyVersion(1), found: PolicyVersion(2) };
        assert!(both(lost).iter().all(|told| matches!(told, ApiError::Conflict(_))));
        let full = || LogError::Commit("database or disk is full".to_owned());
        assert!(both(full).iter().all(|told| matches!(told, ApiError::Unavailable(_))));
    }

    /// Goal: an activation that found no room may be tried again, and one that failed otherwise is our fault. Method: each lack of
    /// room, and a thread that there was not.
    #[test]
    fn whoever_finds_no_room_in_memory_is_told_to_come_back() {
        let told = |error: EngineError| refusal(LearnerError::from(PublishError::from(error)));
        let version = PolicyVersion(3);
        let crowded = EngineError::Crowded { version, places: 2, residents: vec![PolicyVersion(1), PolicyVersion(2)] };
        let memory =
            EngineError::Memory { version, needed: 9, parts: "weights 9".to_owned(), room: 8, limit: "the machine" };
        for error in [crowded, memory] {
            assert!(matches!(told(error), ApiError::Unavailable(_)));
        }
        let thread = EngineError::Thread(version, std::io::Error::other("no threads"));
        assert!(matches!(told(thread), ApiError::Internal));
    }
}
