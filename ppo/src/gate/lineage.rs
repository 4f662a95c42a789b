//! What the trials of a version and its ancestors said, read back from their rows.

use policy::PolicyVersion;

use super::{drift, names};
use crate::registry::{Registry, RegistryError};

/// Newest first, at most [`drift::RUNGS_MAX`] versions back; a version without a judged trial has none, nor has one of which
/// it is not known who judged it.
///
/// # Errors
/// When the log cannot be read.
pub fn rungs(registry: &Registry, version: PolicyVersion) -> Result<Vec<drift::Rung>, RegistryError> {
    let mut rungs = Vec::new();
    for version in registry.lineage(version, drift::RUNGS_MAX as u64)? {
        let numbers = registry.row(version)?.map(|row| row.numbers).unwrap_or_default();
        let number = |name: &str| numbers.get(name).copied();
        let measured = number(names::REWARD_DIFFERENCE).zip(number(names::REWARD_DIFFERENCE_ERROR));
        let judge = numbers.keys().find_map(|name| name.strip_prefix(names::JUDGE));
        rungs.extend(measured.zip(judge).map(|((mean, standard_error), judge)| drift::Rung {
            judge: judge.to_owned(),
            mean,
            standard_error,
        }));
    }
    Ok(rungs)
}
