//! A histogram of durations that many threads may read while one or more write.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets in seconds; the last bucket has none.
const BOUNDS_S: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 60.0, 300.0];

/// Counts of durations by bucket, and their sum.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_S.len() + 1],
    sum_us: AtomicU64,
    last_us: AtomicU64,
}

/// One reading of a [`Histogram`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// `(upper bound in seconds, durations at most that long)`, cumulative, without the unbounded bucket.
    pub buckets: Vec<(f64, u64)>,
    /// All durations.
    pub count: u64,
    /// Their sum, in seconds.
    pub sum_s: f64,
    /// The newest one, in seconds.
    pub last_s: f64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_S.len());
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        self.last_us.store(us, Ordering::Relaxed);
    }

    /// Reads it. Writers may come between the buckets: a sum can be one duration ahead or behind, never torn.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut total = 0;
        let mut buckets = Vec::with_capacity(BOUNDS_S.len());
        for (count, bound) in self.counts.iter().zip(BOUNDS_S) {
            total += count.load(Ordering::Relaxed);
            buckets.push((bound, total));
        }
        HistogramSnapshot {
            buckets,
            count: total + self.counts[BOUNDS_S.len()].load(Ordering::Relaxed),
            sum_s: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6,
            last_s: self.last_us.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}
