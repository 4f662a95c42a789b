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
    command(state, |learner| learner.pause().map_err(told)).await
}

/// Updates begin again.
pub(crate) async fn resume(state: State<Context>) -> Result<Json<Training>, ApiError> {
    command(state, |learner| learner.resume().map_err(told)).await
}

/// While paused: one update, as soon as enough rollouts can be claimed.
pub(crate) async fn step(state: State<Context>) -> Result<Json<Training>, ApiError> {
    command(state, |learner| match learner.status().is_paused {
        true => learner.step().map_err(told),
        false => Err(ApiError::Conflict("the learner is not paused; a step is one update while it is".to_owned())),
    })
    .await
}

async fn command(
    State(context): State<Context>,
    tell: fn(&Learner) -> Result<(), ApiError>,
) -> Result<Json<Training>, ApiError> {
    let services = context.admit()?;
    let Some(learning) = &services.learning else {
        return Err(ApiError::Conflict("this daemon serves without learning (ppo.enabled, reward.source)".to_owned()));
    };
    tell(&learning.learner)?;
    get(State(context)).await
}

fn told(error: LearnerError) -> ApiError {
    match error {
        LearnerError::Busy => ApiError::QueueFull,
        LearnerError::Closed => ApiError::Unavailable("the learner has ended"),
        other => ApiError::internal("a command to the learner", other),
    }
}
