//! Histograms that a crate below keeps as plain atomics, shown as if they were ours.

use std::sync::{Arc, Mutex, PoisonError};

use policy::engine::{EngineStats, STEP_SIZES};
use ppo::stats::HistogramSnapshot;
use prometheus::{
    Registry,
    core::{Collector, Desc},
    proto,
};

/// Shows the newest snapshot.
#[derive(Clone)]
pub(super) struct ForeignHistogram {
    desc: Desc,
    newest: Arc<Mutex<HistogramSnapshot>>,
}

impl ForeignHistogram {
    pub(super) fn register(registry: &Registry, name: &str, help: &str) -> ForeignHistogram {
        let desc = Desc::new(name.into(), help.into(), Vec::new(), Default::default()).expect("metric names are valid");
        let histogram = ForeignHistogram { desc, newest: Arc::default() };
        registry.register(Box::new(histogram.clone())).expect("metric names are used once");
        histogram
    }

    pub(super) fn set(&self, snapshot: &HistogramSnapshot) {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone_from(snapshot);
    }
}

/// The engine's forward passes by how many tokens they had; their sum is in tokens.
pub(super) fn step_sizes(stats: &EngineStats) -> HistogramSnapshot {
    let cumulative = stats.step_sizes.iter().scan(0, |sum, n| {
        *sum += n;
        Some(*sum)
    });
    let buckets = STEP_SIZES.iter().map(|&end| end as f64).zip(cumulative).collect();
    HistogramSnapshot { buckets, count: stats.step_sizes.iter().sum(), sum_s: stats.step_tokens as f64, last_s: 0.0 }
}

impl Collector for ForeignHistogram {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(newest.count);
        histogram.set_sample_sum(newest.sum_s);
        let buckets = newest.buckets.iter().map(|(bound, cumulative)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*cumulative);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        let mut metric = proto::Metric::default();
        metric.set_histogram(histogram);
        let mut family = proto::MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}
