//! Metrics of the reward model's seat: who judges, and what became of orders to replace it.

use std::sync::{Mutex, PoisonError, atomic::Ordering};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Registry};

use super::registrar::{Registrar, raise};
use crate::reward_seat::SeatCounters;

/// Taken over from the scorer and the seat whenever somebody looks.
pub struct RewardMetrics {
    info: IntGaugeVec,
    shown: Mutex<String>,
    loads: IntCounterVec,
    rejudged: IntCounter,
}

impl RewardMetrics {
    pub(super) fn register(registry: &Registry) -> RewardMetrics {
        let r = Registrar(registry);
        let loads = r.counters(
            "honed_reward_model_loads_total",
            "Orders to replace the reward model, by what became of them.",
            &["outcome"],
        );
        for outcome in ["seated", "unchanged", "refused"] {
            loads.with_label_values(&[outcome]);
        }
        RewardMetrics {
            info: r.gauges("honed_reward_version_info", "Constant 1: who judges, as scores name it.", &["version"]),
            shown: Mutex::default(),
            loads,
            rejudged: r.counter(
                "honed_rollouts_rejudged_total",
                "Unclaimed rollouts given back because another reward model took over.",
            ),
        }
    }

    /// Shows who judges; the one before disappears.
    pub(super) fn set_version(&self, version: String) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != version {
            self.info.reset();
            self.info.with_label_values(&[version.as_str()]).set(1);
            *shown = version;
        }
    }

    /// Takes over the seat's counters.
    pub(super) fn set_seat(&self, seat: &SeatCounters) {
        let outcomes = [("seated", &seat.seated), ("unchanged", &seat.unchanged), ("refused", &seat.refused)];
        for (outcome, n) in outcomes {
            raise(&self.loads.with_label_values(&[outcome]), n.load(Ordering::Relaxed));
        }
        raise(&self.rejudged, seat.rejudged.load(Ordering::Relaxed));
    }
}
