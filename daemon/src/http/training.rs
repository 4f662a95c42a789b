//! `GET /v1/training`, `POST /v1/training/{pause,resume,step}`.

use axum::{Json, extract::State};
use ppo::{Learner, learner::LearnerError};

use super::{context::Context, error::ApiError, wire::training::Training};

/// What the learner does. Never waits for it.
pub(crate) async fn get(State(context): State<Context>) -> Result<Json<Training>, ApiError> {
    let services = context.services()?;
    Ok(Json(match &services.learning {
        Some(learning) => Training::of(learning.learner.status(), learning.learner.history()),
        None => Training::disabled(services.engine.live().0),
    }))
}

/// No further update begins.
pub(crate) async fn pause(state: State<Context>) -> Result<Json<Training>, ApiError> {
    command(state, Learner::pause).await
}

/// Updates begin again.
pub(crate) async fn resume(state: State<Context>) -> Result<Json<Training>, ApiError> {
    command(state, Learner::resume).await
}

/// While paused: one update, as soon as enough rollouts can be claimed.
pub(crate) async fn step(state: State<Context>) -> Result<Json<Training>, ApiError> {
    command(state, Learner::step).await
}

async fn command(
    State(context): State<Context>,
    tell: fn(&Learner) -> Result<(), LearnerError>,
) -> Result<Json<Training>, ApiError> {
    let services = context.admit()?;
    let Some(learning) = &services.learning else {
        return Err(ApiError::Conflict("this daemon serves without learning (ppo.enabled, reward.source)".to_owned()));
    };
    tell(&learning.learner).map_err(|error| match error {
        LearnerError::Busy => ApiError::QueueFull,
        LearnerError::Closed => ApiError::Unavailable("the learner has ended"),
        other => ApiError::internal("a command to the learner", other),
    })?;
    get(State(context)).await
}
