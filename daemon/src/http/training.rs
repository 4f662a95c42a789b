//! `GET /v1/training`, `POST /v1/training/{pause,resume,step}`.

use axum::{Extension, Json, extract::State};
use ppo::{
    Learner,
    learner::LearnerError,
    rollout_log::{Act, Action, Who},
};

use super::{blocking, context::Context, error::ApiError, wire::training::Training};

/// What the learner does. Never waits for it.
pub(crate) async fn get(State(context): State<Context>) -> Result<Json<Training>, ApiError> {
    let services = context.services()?;
    Ok(Json(match &services.learning {
        Some(learning) => Training::of(learning.learner.status(), learning.learner.history()),
        None => Training::disabled(services.engine.live().0),
    }))
}

/// No further update begins.
pub(crate) async fn pause(state: State<Context>, who: Extension<Who>) -> Result<Json<Training>, ApiError> {
    command(state, who, Action::Pause, |learner| learner.pause().map_err(told)).await
}

/// Updates begin again.
pub(crate) async fn resume(state: State<Context>, who: Extension<Who>) -> Result<Json<Training>, ApiError> {
    command(state, who, Action::Resume, |learner| learner.resume().map_err(told)).await
}

/// While paused: one update, as soon as enough rollouts can be claimed.
pub(crate) async fn step(state: State<Context>, who: Extension<Who>) -> Result<Json<Training>, ApiError> {
    command(state, who, Action::Step, |learner| match learner.status().is_paused {
        true => learner.step().map_err(told),
        false => Err(ApiError::Conflict("the learner is not paused; a step is one update while it is".to_owned())),
    })
    .await
}

async fn command(
    State(context): State<Context>,
    Extension(who): Extension<Who>,
    action: Action,
    tell: fn(&Learner) -> Result<(), ApiError>,
) -> Result<Json<Training>, ApiError> {
    let services = context.admit()?;
    blocking(move || {
        let told = match &services.learning {
            Some(learning) => tell(&learning.learner),
            None => {
                Err(ApiError::Conflict("this daemon serves without learning (ppo.enabled, reward.source)".to_owned()))
            }
        };
        let act = Act::new(&who, action, None);
        services.log.note(match &told {
            Ok(()) => act.done(),
            Err(error) => act.refused(error),
        });
        told
    })
    .await??;
    get(State(context)).await
}

fn told(error: LearnerError) -> ApiError {
    match error {
        LearnerError::Busy => ApiError::QueueFull,
        LearnerError::Closed => ApiError::Unavailable("the learner has ended"),
        other => ApiError::internal("a command to the learner", other),
    }
}
