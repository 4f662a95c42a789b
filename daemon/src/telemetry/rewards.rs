//! Metrics of the reward model's seat: who judges, how well it did where that was measured, and what became of orders to
//! replace it.

use std::sync::{Mutex, PoisonError, atomic::Ordering};

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Registry};
use reward::reward_model::HeldOut;

use super::registrar::{Registrar, raise};
use crate::reward_seat::{SeatCounters, Seated};

/// Taken over from the scorer and the seat whenever somebody looks.
pub struct RewardMetrics {
    info: OfVersion,
    accuracy: OfVersion,
    loads: IntCounterVec,
    rejudged: IntCounter,
}

/// A number of one version: when another one is there, the one before disappears.
struct OfVersion {
    gauge: GaugeVec,
    shown: Mutex<String>,
}

impl OfVersion {
    /// Changes nothing while the version is the same: somebody may read meanwhile.
    fn set(&self, version: &str, value: Option<f64>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != version {
            self.gauge.reset();
            if let Some(value) = value {
                self.gauge.with_label_values(&[version]).set(value);
            }
            version.clone_into(&mut shown);
        }
    }
}

impl RewardMetrics {
    pub(super) fn register(registry: &Registry) -> RewardMetrics {
        let r = Registrar(registry);
        let of_version = |name, help| OfVersion { gauge: r.ratios(name, help, &["version"]), shown: Mutex::default() };
        let loads = r.counters(
            "honed_reward_model_loads_total",
            "Orders to replace the reward model, by what became of them.",
            &["outcome"],
        );
        for outcome in ["seated", "unchanged", "refused"] {
            loads.with_label_values(&[outcome]);
        }
        RewardMetrics {
            info: of_version("honed_reward_version_info", "Constant 1: who judges, as scores name it."),
            accuracy: of_version(
                "honed_reward_accuracy",
                "Share of held-out pairs that the reward model which judges puts in people's order, 0 to 1, as honed train reward \
                 measured it and wrote it into the file; not there where the file does not say.",
            ),
            loads,
            rejudged: r.counter(
                "honed_rollouts_rejudged_total",
                "Unclaimed rollouts given back because another reward model took over.",
            ),
        }
    }

    /// Shows who judges.
    pub(super) fn set_version(&self, version: &str) {
        self.info.set(version, Some(1.0));
    }

    /// Takes over who sits, and the seat's counters.
    pub(super) fn set_seat(&self, seated: &Seated, counters: &SeatCounters) {
        self.accuracy.set(&seated.version, seated.model.held_out().map(|HeldOut { accuracy, .. }| accuracy));
        let SeatCounters { seated, unchanged, refused, rejudged } = counters;
        for (outcome, n) in [("seated", seated), ("unchanged", unchanged), ("refused", refused)] {
            raise(&self.loads.with_label_values(&[outcome]), n.load(Ordering::Relaxed));
        }
        raise(&self.rejudged, rejudged.load(Ordering::Relaxed));
    }
}
