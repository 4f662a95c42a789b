//! Counters of the rollout log.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use super::histogram::{Histogram, HistogramSnapshot};
use crate::rollout_log::DropReason;

/// Rollouts that will not train, by reason, since the process began.
#[derive(Debug, Default)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl DropCounters {
    /// Counts `n` more of this reason.
    pub fn add(&self, reason: DropReason, n: u64) {
        self.0[reason as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// All counts; every reason has an entry.
    pub fn snapshot(&self) -> BTreeMap<DropReason, u64> {
        DropReason::ALL.into_iter().map(|reason| (reason, self.0[reason as usize].load(Ordering::Relaxed))).collect()
    }
}

/// What the writer counts.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Exchanges committed.
    pub committed: AtomicU64,
    /// Exchanges refused because the queue was full.
    pub overflow: AtomicU64,
    /// Transactions that failed.
    pub write_errors: AtomicU64,
    /// Rows of the audit log that could not be written.
    pub audit_failures: AtomicU64,
    /// Durations of transactions.
    pub commits: Histogram,
    /// Rollouts that will not train.
    pub dropped: DropCounters,
}

/// One reading of [`LogCounters`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogCountersSnapshot {
    /// Exchanges committed.
    pub committed: u64,
    /// Exchanges refused because the queue was full.
    pub overflow: u64,
    /// Transactions that failed.
    pub write_errors: u64,
    /// Rows of the audit log that could not be written.
    pub audit_failures: u64,
    /// Commands that wait for the writer now.
    pub queue_depth: usize,
    /// Durations of transactions.
    pub commits: HistogramSnapshot,
    /// Rollouts that will not train, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl LogCounters {
    /// Reads all counters beside the depth of the queue.
    pub fn snapshot(&self, queue_depth: usize) -> LogCountersSnapshot {
        LogCountersSnapshot {
            committed: self.committed.load(Ordering::Relaxed),
            overflow: self.overflow.load(Ordering::Relaxed),
            write_errors: self.write_errors.load(Ordering::Relaxed),
            audit_failures: self.audit_failures.load(Ordering::Relaxed),
            queue_depth,
            commits: self.commits.snapshot(),
            dropped: self.dropped.snapshot(),
        }
    }
}
