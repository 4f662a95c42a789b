//! `GET /health` and `GET /version`.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

/// llama-server's word, and what a load balancer may want beside it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: &'static str,
    version: u64,
    running: u64,
    waiting: u64,
}

/// All is well.
pub(crate) fn ok(version: u64, running: u64, waiting: u64) -> Json<Health> {
    Json(Health { status: "ok", version, running, waiting })
}

/// Which program this is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    version: &'static str,
}

/// Of this build.
pub(crate) fn version(version: &'static str) -> Json<Version> {
    Json(Version { version })
}
