//! `GET /v1/rollouts`: pages of the log, newest last. `POST /v1/rollouts/forget`: everything of one user goes.

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
};
use policy::PolicyVersion;
use ppo::rollout_log::{Act, Action, LogError, PageQuery, RolloutState, Seq, Who, user_subject};

use super::{
    blocking,
    body::JsonBytes,
    context::Context,
    error::ApiError,
    query::Query,
    wire::{
        forget::{self, ForgottenReport},
        rollout::RolloutPage,
    },
};

/// Rows of a page at most, and when nothing is said.
const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 50;

/// One page.
pub(crate) async fn list(
    State(context): State<Context>,
    RawQuery(query): RawQuery,
) -> Result<Json<RolloutPage>, ApiError> {
    let query = page(&Query::parse(query.as_deref().unwrap_or("")))?;
    let services = context.services()?;
    let rows = blocking(move || services.log.reader().page(&query)).await?;
    let rows = rows.map_err(|error| ApiError::internal("reading the rollout log", error))?;
    let next_after = rows.last().map(|row| row.seq.0);
    Ok(Json(RolloutPage { object: "list", data: rows.into_iter().map(Into::into).collect(), next_after }))
}

/// Removes every exchange of a user and everything that they said, but for what an update holds.
pub(crate) async fn forget(
    State(context): State<Context>,
    Extension(who): Extension<Who>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<ForgottenReport>, ApiError> {
    let user = forget::user(&body)?;
    let services = context.admit()?;
    let forgotten = blocking(move || {
        let refused = |why: &LogError| {
            services.log.note(Act::new(&who, Action::Forget, user_subject(&user)).refused(why));
        };
        services.log.forget_user(&user, &who).inspect_err(refused)
    });
    let forgotten = forgotten.await?;
    let forgotten = forgotten.map_err(|error| ApiError::not_recorded("that a user is forgotten", &error))?;
    let (n_rollouts, n_feedback) = (forgotten.n_rollouts, forgotten.n_feedback);
    tracing::info!(n_rollouts, n_feedback, "a user was forgotten, by an administrator");
    Ok(Json(ForgottenReport::from(&forgotten)))
}

fn page(query: &Query) -> Result<PageQuery, ApiError> {
    let state = match query.get("state") {
        None => None,
        Some(word) => {
            let states = RolloutState::ALL.map(RolloutState::as_str).join(", ");
            Some(
                RolloutState::parse(word)
                    .ok_or_else(|| ApiError::invalid("state", format!("`state` must be one of {states}")))?,
            )
        }
    };
    Ok(PageQuery {
        after: query.number("after", 0..=i64::MAX.cast_unsigned())?.map(|seq| Seq(seq.cast_signed())),
        limit: query.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT) as usize,
        version: query.number("version", 0..=i64::MAX.cast_unsigned())?.map(PolicyVersion),
        state,
    })
}
