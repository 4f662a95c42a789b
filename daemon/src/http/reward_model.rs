//! `GET /v1/rewards/model`, `POST /v1/rewards/model`: which reward model judges, and another one in its place.

use axum::{Extension, Json, extract::State};
use ppo::rollout_log::{Act, Action, Who};

use super::{
    blocking,
    body::OptionalJsonBytes,
    context::{Context, Services},
    error::ApiError,
    wire::{
        error::{INVALID_MODEL, INVALID_PATH},
        reward_model::{self as wire, RewardModelCard},
    },
};
use crate::reward_seat::{Change, Order, SeatError};

/// Who judges.
pub(crate) async fn get(State(context): State<Context>) -> Result<Json<RewardModelCard>, ApiError> {
    let services = context.services()?;
    let seat = services.seat.as_ref().ok_or_else(|| refusal(SeatError::NoSeat, false))?;
    Ok(Json(RewardModelCard::of(&seat.seated())))
}

/// Reads the configured file again, or another one, and has it judge from the next request on.
pub(crate) async fn post(
    State(context): State<Context>,
    Extension(who): Extension<Who>,
    OptionalJsonBytes(body): OptionalJsonBytes,
) -> Result<Json<RewardModelCard>, ApiError> {
    let order = wire::order(&body)?;
    let services = context.admit()?;
    let names_a_file = order.path.is_some();
    let change = blocking(move || replace(&services, &order, &who)).await?;
    let change = change.map_err(|error| refusal(error, names_a_file))?;
    Ok(Json(RewardModelCard::after(&change)))
}

/// Carries out somebody's order, and notes what came of it; blocks. SIGHUP does this too.
///
/// # Errors
/// [`SeatError`]; whoever judges goes on.
pub(crate) fn replace(services: &Services, order: &Order, who: &Who) -> Result<Change, SeatError> {
    let change = match (&services.seat, &services.scorer) {
        (Some(seat), Some(scorer)) => seat.replace(order, scorer, &services.log),
        _ => Err(SeatError::NoSeat),
    };
    let of = |subject: Option<String>| Act::new(who, Action::RewardModel, subject);
    services.log.note(match &change {
        Ok(Change { seated, replaced: Some(old), n_rejudged }) => of(Some(seated.version.clone()))
            .done_with(format!("in place of {old}; {n_rejudged} rollouts are judged again")),
        Ok(Change { seated, .. }) => of(Some(seated.version.clone())).done_with("the file is the same"),
        Err(error) => of(order.path.clone()).refused(error),
    });
    change
}

fn refusal(error: SeatError, names_a_file: bool) -> ApiError {
    let message = error.to_string();
    match error {
        SeatError::NoSeat => ApiError::NotFound(message),
        SeatError::Busy | SeatError::Changed { .. } => ApiError::Conflict(message),
        SeatError::NoFolder => ApiError::ForbiddenPath(message),
        SeatError::Outside => ApiError::coded(INVALID_PATH, "path", message),
        SeatError::Refused(_) if names_a_file => ApiError::coded(INVALID_MODEL, "path", message),
        SeatError::Refused(_) => ApiError::Conflict(format!("{message} (reward.model)")),
        SeatError::Log(error) => ApiError::not_recorded("the reward model", &error),
    }
}
