//! Who judges, and how another takes over while requests run.

use std::sync::Arc;

use crate::sources::NamedJudge;

/// The reward model of one moment, or that there is none. A job belongs to the sitting in which it was handed over: whatever
/// takes the seat meanwhile, all its responses are judged by one model, which stays in memory for so long.
#[derive(Clone, Default)]
pub struct Sitting(pub(super) Option<Arc<NamedJudge>>);

impl Sitting {
    /// `model@<digest>` of the reward model; empty where there is none.
    #[must_use]
    pub fn model_version(&self) -> &str {
        self.0.as_ref().map_or("", |judge| &judge.version)
    }

    /// Whether the same model sits.
    pub(super) fn is(&self, other: &Sitting) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}
