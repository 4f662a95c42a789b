//! Metrics of the averages of weights that are judged beside the live version (`ppo.ema_judge_every`).

use ppo::averages::{AverageBoard, AverageOutcome};
use prometheus::{Gauge, IntCounterVec, Registry};

use super::registrar::{Registrar, raise};

/// Taken over from their board whenever somebody looks.
pub(super) struct AverageMetrics {
    outcomes: IntCounterVec,
    difference: Gauge,
    error: Gauge,
}

impl AverageMetrics {
    pub(super) fn register(registry: &Registry) -> AverageMetrics {
        let r = Registrar(registry);
        let outcomes = r.counters(
            "honed_averages_total",
            "Averages of the policy's weights that were judged beside the live version, by what became of them.",
            &["outcome"],
        );
        AverageOutcome::ALL.iter().for_each(|outcome| drop(outcomes.with_label_values(&[outcome.as_str()])));
        let metrics = AverageMetrics {
            outcomes,
            difference: r.ratio(
                "honed_average_reward_difference",
                "Mean reward of the last average of weights that was judged, minus the live version's on the same questions; not a \
                 number before the first, and where nobody compared them.",
            ),
            error: r.ratio("honed_average_reward_difference_error", "Its standard error."),
        };
        metrics.show(None);
        metrics
    }

    pub(super) fn set(&self, board: &AverageBoard) {
        for (outcome, n) in board.counts() {
            raise(&self.outcomes.with_label_values(&[outcome.as_str()]), n);
        }
        self.show(board.reward_difference());
    }

    fn show(&self, difference: Option<(f64, f64)>) {
        let (mean, error) = difference.unwrap_or((f64::NAN, f64::NAN));
        self.difference.set(mean);
        self.error.set(error);
    }
}
