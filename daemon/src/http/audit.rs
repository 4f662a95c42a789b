//! `GET /v1/audit`: who did what, newest last.

use axum::{
    Json,
    extract::{RawQuery, State},
};

use super::{
    blocking,
    context::Context,
    error::ApiError,
    query::Query,
    wire::audit::{AuditPage, AuditRow},
};

/// Rows of a page at most, and when nothing is said.
const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 50;

/// One page.
pub(crate) async fn list(
    State(context): State<Context>,
    RawQuery(query): RawQuery,
) -> Result<Json<AuditPage>, ApiError> {
    let query = Query::parse(query.as_deref().unwrap_or(""));
    let after = query.number("after", 0..=i64::MAX.cast_unsigned())?.unwrap_or(0);
    let limit = query.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT) as usize;
    let services = context.services()?;
    let rows = blocking(move || services.log.reader().audit(after, limit)).await?;
    let rows = rows.map_err(|error| ApiError::internal("reading the audit log", error))?;
    let data: Vec<AuditRow> = rows.into_iter().map(Into::into).collect();
    let next_after = data.last().map(AuditRow::number);
    Ok(Json(AuditPage { object: "list", data, next_after }))
}
