//! `GET /v1/rollouts`: pages of the log, newest last.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use policy::PolicyVersion;
use ppo::rollout_log::{PageQuery, RolloutState, Seq};

use super::{blocking, context::Context, error::ApiError, query::Query, wire::rollout::RolloutPage};

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
