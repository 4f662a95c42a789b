//! `GET /v1/policies`, `POST /v1/policies`, `GET /v1/policies/{n}`, `POST /v1/policies/{n}/activate`.

use std::{collections::BTreeMap, path::PathBuf};

use policy::{PolicyVersion, engine::ResidentState};
use ppo::rollout_log::VersionRow;
use serde::Serialize;
use utoipa::ToSchema;

use super::fields::{FieldError, Fields};

/// Every version.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PolicyList {
    pub(crate) object: &'static str,
    pub(crate) live: u64,
    pub(crate) data: Vec<PolicyRow>,
}

/// One version and how it came to be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PolicyRow {
    id: String,
    object: &'static str,
    version: u64,
    parent: Option<u64>,
    state: &'static str,
    digest: String,
    created_ms: u64,
    /// Rollouts that trained it.
    rollouts: u64,
    /// Why it was rejected, retired or rolled back; and what the gate objected to when it only observed.
    reason: Option<String>,
    /// What the update and the gate measured.
    numbers: BTreeMap<String, f64>,
    /// Whether it is in memory and may be addressed as `policy@N`.
    pub(crate) resident: bool,
}

impl PolicyRow {
    /// Its number.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// A row, and what the engine does with the version when it holds it.
    pub(crate) fn new(row: VersionRow, resident: Option<ResidentState>) -> PolicyRow {
        PolicyRow {
            id: row.version.to_string(),
            object: "policy",
            version: row.version.0,
            parent: row.parent.map(|parent| parent.0),
            state: row.state.as_str(),
            digest: row.digest,
            created_ms: row.created_ms,
            rollouts: row.n_rollouts,
            reason: row.reason,
            numbers: row.numbers,
            resident: resident.is_some_and(ResidentState::admits),
        }
    }
}

/// Characters of a path at most.
const PATH_CHARS_MAX: usize = 4096;

/// A file to be made a version.
#[derive(Debug)]
pub(crate) struct LoadRequest {
    /// Within the import folder.
    pub(crate) path: PathBuf,
    /// Whether it is to be live.
    pub(crate) promote: bool,
    /// Compare-and-set of that.
    pub(crate) expected_live: Option<PolicyVersion>,
}

impl LoadRequest {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8]) -> Result<LoadRequest, FieldError> {
        let mut fields = Fields::parse(body)?;
        let path = fields.text("path", PATH_CHARS_MAX)?.filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| fields.error("path", "is required, and must not be empty"))?;
        let promote = fields.boolean("promote")?.unwrap_or(false);
        let expected = fields.integer("expected_live", 0..=i64::MAX)?;
        if expected.is_some() && !promote {
            return Err(fields.error("expected_live", "is for `promote`: true"));
        }
        let expected_live = expected.map(|version| PolicyVersion(version.cast_unsigned()));
        Ok(LoadRequest { path: path.into(), promote, expected_live })
    }
}

/// The body of an activation.
pub(crate) fn activation(expected_live: Option<PolicyVersion>) -> String {
    serde_json::json!({"expected_live": expected_live.map(|version| version.0)}).to_string()
}

/// The `expected_live` of an activation; the body may be missing.
pub(crate) fn expected_live(body: &[u8]) -> Result<Option<PolicyVersion>, FieldError> {
    if body.is_empty() {
        return Ok(None);
    }
    let expected = Fields::parse(body)?.integer("expected_live", 0..=i64::MAX)?;
    Ok(expected.map(|version| PolicyVersion(version.cast_unsigned())))
}
