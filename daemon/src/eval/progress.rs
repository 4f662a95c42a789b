//! How far the whole evaluation is: one bar over all trainings, each with the same share of it.

use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::ProgressBar;

use crate::cli::{progress, say};

/// Steps of the bar that one training has.
const STEPS: u64 = 100;

/// The bar; also says in a line what was finished, on a terminal or not.
pub(super) struct Progress {
    bar: ProgressBar,
}

/// What one training has of the bar.
pub(super) struct Share<'a> {
    bar: &'a ProgressBar,
    done: AtomicU64,
}

impl Progress {
    /// A bar over so many trainings.
    pub(super) fn new(n_trainings: usize) -> Progress {
        Progress { bar: progress::bar(n_trainings as u64 * STEPS, "training") }
    }

    /// The share of a training that begins.
    pub(super) fn share(&self) -> Share<'_> {
        Share { bar: &self.bar, done: AtomicU64::new(0) }
    }

    /// Says something between two states of the bar.
    pub(super) fn line(&self, text: &str) {
        self.bar.suspend(|| say::tell(text));
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Share<'_> {
    /// The training has done so many of its steps.
    pub(super) fn at(&self, step: usize, n_steps: usize) {
        let now = STEPS * step as u64 / n_steps.max(1) as u64;
        let before = self.done.fetch_max(now, Ordering::Relaxed);
        self.bar.inc(now.saturating_sub(before));
    }
}
