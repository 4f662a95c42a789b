//! A version that answers a share of the traffic before it may answer all of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    engine::{Engine, EngineError, resident::Resident},
    version::PolicyVersion,
};

/// Who gets which share of the requests for the live policy.
pub(super) struct Canary {
    pub(super) resident: Arc<Resident>,
    share: f64,
    n_asked: AtomicU64,
}

impl Canary {
    /// Whether the next request is its: every so many-th, so that also few requests are shared as configured.
    pub(super) fn takes_next(&self) -> bool {
        let n = self.n_asked.fetch_add(1, Ordering::Relaxed) as f64;
        ((n + 1.0) * self.share).floor() > (n * self.share).floor()
    }
}

impl Engine {
    /// Gives this share of the new requests for the live policy to a version in memory, until [`Engine::end_canary`] or a
    /// promotion. One request still comes from one version, and its answer names it.
    ///
    /// # Errors
    /// [`EngineError::NotResident`] when it is not in memory or drains.
    pub fn begin_canary(&self, version: PolicyVersion, share: f64) -> Result<(), EngineError> {
        let resident = self.resident(version).filter(|resident| !resident.is_draining());
        let resident = resident.ok_or(EngineError::NotResident(version))?;
        self.0.canary.store(Some(Arc::new(Canary { resident, share, n_asked: AtomicU64::new(0) })));
        Ok(())
    }

    /// All new requests go to the live version again. Harmless when there is no canary.
    pub fn end_canary(&self) {
        self.0.canary.store(None);
    }
}
