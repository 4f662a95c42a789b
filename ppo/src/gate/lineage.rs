//! What the trials of a version and its ancestors said, read back from their rows.

use policy::PolicyVersion;

use super::{drift, names};
use crate::registry::{Registry, RegistryError};

/// Newest first, at most [`drift::RUNGS_MAX`] versions back; a version without a judged trial has none.
///
/// # Errors
/// When the log cannot be read.
pub fn rungs(registry: &Registry, version: PolicyVersion) -> Result<Vec<drift::Rung>, RegistryError> {
    let mut rungs = Vec::new();
    for version in registry.lineage(version, drift::RUNGS_MAX as u64)? {
        let numbers = registry.row(version)?.map(|row| row.numbers).unwrap_or_default();
        let number = |name: &str| numbers.get(name).copied();
        let measured = number(names::REWARD_DIFFERENCE).zip(number(names::REWARD_DIFFERENCE_ERROR));
        rungs.extend(measured.map(|(mean, standard_error)| drift::Rung { mean, standard_error }));
    }
    Ok(rungs)
}
