//! `POST /v1/feedback`: answered after the commit, so that what was acknowledged survives a crash.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use ppo::rollout_log::LogError;

use super::{
    blocking,
    body::JsonBytes,
    context::Context,
    error::ApiError,
    prompts::now_ms,
    wire::feedback::{self, FeedbackResponse},
};

/// Records one user's words about one response.
pub(crate) async fn post(State(context): State<Context>, JsonBytes(body): JsonBytes) -> Result<Response, ApiError> {
    let feedback = feedback::parse(&body, now_ms())?;
    let services = context.services()?;
    let id = feedback.id.clone();
    let receipt = blocking(move || services.log.append_feedback(feedback)).await?;
    let receipt = receipt.map_err(|error| match error {
        LogError::NotFound(id) => {
            ApiError::NotFound(format!("no exchange {:?} with choice {} is in the rollout log", id.request, id.index))
        }
        other => ApiError::not_recorded("feedback", &other),
    })?;
    let response = FeedbackResponse {
        object: "feedback",
        id: &id.request,
        index: id.index,
        applied: receipt.applied,
        state: receipt.state.as_str(),
    };
    Ok(Json(response).into_response())
}
