//! What becomes of a candidate: kept, refused, or given up without a verdict.

use std::collections::BTreeMap;

use policy::PolicyVersion;

use super::{ImportError, Importer};
use crate::{gate::Verdict, registry::Registry, rollout_log::VersionReport};

/// Why a candidate is given up that the daemon's end overtook.
const STOPPED: &str = "the daemon stopped before the gate's verdict";

impl Importer {
    /// Writes down how the judging ended; what passed is kept with these marks.
    ///
    /// # Errors
    /// [`ImportError::Rejected`], [`ImportError::Unjudged`], or that the log refuses: then the next start gives it up.
    pub(super) fn end(
        &self,
        registry: &Registry,
        version: PolicyVersion,
        judged: Result<Verdict, ImportError>,
        marks: &BTreeMap<String, f64>,
    ) -> Result<(), ImportError> {
        // Every version leaves memory then, and whatever failed for that, or could not be promoted any more, is no fault of it.
        let is_stopping = self.setup.engine.is_shutting_down();
        let (reason, numbers) = match judged {
            _ if is_stopping => return self.give_up(registry, version, STOPPED.to_owned()),
            Ok(verdict) if verdict.refusals.is_empty() => {
                let remark = verdict.reason();
                let mut numbers = verdict.numbers;
                numbers.extend(marks.clone());
                return match registry.keep(version, VersionReport { numbers, remark }) {
                    Ok(()) => Ok(()),
                    Err(error) => self.give_up(registry, version, error.to_string()),
                };
            }
            Ok(verdict) => (verdict.refusals.join("; "), verdict.numbers),
            // A check that could not be made is no pass, and where its weights made it fail, a verdict.
            Err(error) if error.is_about(version) => (error.to_string(), Default::default()),
            Err(error) => return self.give_up(registry, version, error.to_string()),
        };
        registry.reject(version, &reason, Vec::new(), numbers)?;
        Err(ImportError::Rejected { version, reason })
    }

    /// There is no verdict, and the same weights may come again.
    pub(super) fn give_up(
        &self,
        registry: &Registry,
        version: PolicyVersion,
        reason: String,
    ) -> Result<(), ImportError> {
        tracing::warn!(%version, reason, "a model that no update made was not judged; the same file may come again");
        registry.give_up(version, &reason)?;
        Err(ImportError::Unjudged { version, reason })
    }
}
