//! Metrics of learning: TRL's names under our prefix (`objective/kl` is `honed_objective_kl`), and what only an
//! asynchronous trainer has: staleness, effective sample size, the log-prob difference between the two engines.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use ppo::{
    Learner,
    learner::LearnerState,
    stats::{LearnerCountersSnapshot, LogCountersSnapshot},
};
use prometheus::{Counter, Gauge, IntCounter, IntCounterVec, IntGauge, Registry};
use reward::ScorerStats;

use super::{
    foreign::ForeignHistogram,
    registrar::{Registrar, raise},
};

/// What happens between the rollout log and new weights.
pub struct LearningMetrics {
    registry: Registry,
    logged: IntCounter,
    dropped: IntCounterVec,
    write_errors: IntCounter,
    audit_failures: IntCounter,
    log_queue: IntGauge,
    commit_s: ForeignHistogram,
    scored: IntCounter,
    score_failures: IntCounter,
    score_refused: IntCounter,
    score_non_finite: IntCounter,
    score_abandoned: IntCounter,
    score_batches: IntCounter,
    score_batch_tokens: IntCounter,
    score_busy_s: Counter,
    remote_calls: IntCounter,
    remote_failures: IntCounter,
    score_queue: IntGauge,
    update_s: ForeignHistogram,
    swap_s: ForeignHistogram,
    load_s: ForeignHistogram,
    promotion_s: ForeignHistogram,
    updates: IntCounterVec,
    activations: IntCounter,
    rollbacks: IntCounter,
    trained: IntCounter,
    trained_tokens: IntCounter,
    rests: IntCounter,
    replayed: IntCounter,
    resets: IntCounter,
    trips: IntCounterVec,
    restorations: IntCounter,
    waiting_scored: IntGauge,
    waiting_generated: IntGauge,
    learning: IntGauge,
    /// The newest update's numbers, by name. What an update measures is `ppo`'s business, so the set is open.
    numbers: Mutex<BTreeMap<String, Gauge>>,
}

impl LearningMetrics {
    pub(super) fn register(registry: &Registry) -> LearningMetrics {
        let r = Registrar(registry);
        let histogram = |name: &str, help: &str| ForeignHistogram::register(registry, name, help);
        LearningMetrics {
            registry: registry.clone(),
            logged: r.counter("honed_rollouts_logged_total", "Exchanges committed to the rollout log."),
            dropped: r.counters("honed_rollouts_dropped_total", "Rollouts that will not train.", &["reason"]),
            write_errors: r
                .counter("honed_rollout_log_write_errors_total", "Transactions of the rollout log that failed."),
            audit_failures: r.counter(
                "honed_audit_failures_total",
                "Rows of the audit log that could not be written; the process's log has their words.",
            ),
            log_queue: r.gauge("honed_rollout_log_queue_depth", "Commands that wait for the log's writer."),
            commit_s: histogram("honed_rollout_log_commit_seconds", "Transactions of the rollout log."),
            scored: r.counter("honed_responses_scored_total", "Responses that got a score."),
            score_failures: r
                .counter("honed_score_failures_total", "Responses whose scoring failed; never counted as 0."),
            score_refused: r.counter("honed_score_refused_total", "Scoring jobs refused because of a full queue."),
            score_non_finite: r.counter(
                "honed_score_non_finite_total",
                "Responses that got NaN, an infinity or no number; each is a failure, never a score.",
            ),
            score_abandoned: r
                .counter("honed_score_abandoned_total", "Responses not judged because their caller had left."),
            score_batches: r.counter("honed_score_batches_total", "Batches judged."),
            score_batch_tokens: r
                .counter("honed_score_batch_tokens_total", "Tokens in all batches judged, prompts included."),
            score_busy_s: r.seconds("honed_score_busy_seconds_total", "Time spent judging, both lanes together."),
            remote_calls: r.counter("honed_reward_server_calls_total", "Calls to the reward server, retries included."),
            remote_failures: r.counter("honed_reward_server_failures_total", "Calls that gave nothing usable."),
            score_queue: r.gauge("honed_score_queue_depth", "Scoring jobs that wait."),
            update_s: histogram("honed_update_seconds", "Whole updates: experience, minibatches, gate, publication."),
            swap_s: histogram("honed_swap_seconds", "From a version's file to its first request."),
            load_s: histogram("honed_version_load_seconds", "Loading a version into memory, canary included."),
            promotion_s: histogram("honed_version_promotion_seconds", "Moving the pointer to the live version."),
            rollbacks: r.counter(
                "honed_policy_rollbacks_total",
                "Live versions that the watch took back because what users got became worse.",
            ),
            activations: r
                .counter("honed_version_activations_total", "Versions activated by hand; rollbacks among them."),
            trained: r.counter("honed_rollouts_trained_total", "Rollouts that trained."),
            trained_tokens: r.counter("honed_response_tokens_trained_total", "Response tokens that trained."),
            trips: r.counters("honed_guard_trips_total", "Trips of the learner's guard rails.", &["guard", "action"]),
            restorations: r.counter(
                "honed_learner_restorations_total",
                "Times that the learner went back to an earlier state after rounds that taught nothing.",
            ),
            rests: r.counter("honed_serving_rests_total", "Times that serving rested to give the learner its share."),
            replayed: r
                .counter("honed_updates_replayed_total", "Updates computed again at a start, from their records."),
            resets: r.counter("honed_learner_resets_total", "Times that moments and value model began anew."),
            waiting_scored: r.gauge("honed_rollouts_scored_waiting", "Judged rollouts that could be claimed, capped."),
            waiting_generated: r.gauge("honed_rollouts_unscored_waiting", "Rollouts that wait to be judged, capped."),
            updates: r.counters("honed_updates_total", "Updates by what became of them.", &["outcome"]),
            learning: r.gauge("honed_learning", "1 while the learner runs, 0 while it is paused, failed or absent."),
            numbers: Mutex::default(),
        }
    }

    /// Takes over the log's counters.
    pub fn set_log(&self, log: &LogCountersSnapshot) {
        raise(&self.logged, log.committed);
        raise(&self.write_errors, log.write_errors);
        raise(&self.audit_failures, log.audit_failures);
        for (reason, n) in &log.dropped {
            raise(&self.dropped.with_label_values(&[reason.as_str()]), *n);
        }
        self.log_queue.set(log.queue_depth as i64);
        self.commit_s.set(&log.commits);
    }

    /// Takes over the scorer's counters.
    pub fn set_scorer(&self, scorer: &ScorerStats) {
        raise(&self.scored, scorer.scored);
        raise(&self.score_failures, scorer.failed);
        raise(&self.score_refused, scorer.refused);
        raise(&self.score_non_finite, scorer.non_finite);
        raise(&self.score_abandoned, scorer.abandoned);
        raise(&self.score_batches, scorer.batches);
        raise(&self.score_batch_tokens, scorer.batch_tokens);
        self.score_busy_s.inc_by((scorer.busy_s - self.score_busy_s.get()).max(0.0));
        raise(&self.remote_calls, scorer.remote_calls);
        raise(&self.remote_failures, scorer.remote_failures);
        self.score_queue.set(scorer.queued as i64);
    }

    /// Takes over the learner's counters and the newest update's numbers.
    pub fn set_learner(&self, learner: &Learner) {
        let counters = learner.counters();
        for (outcome, n) in &counters.outcomes {
            raise(&self.updates.with_label_values(&[outcome.as_str()]), *n);
        }
        self.set_switches(&counters);
        raise(&self.rollbacks, counters.rollbacks);
        raise(&self.trained, counters.trained);
        raise(&self.trained_tokens, counters.trained_tokens);
        raise(&self.rests, counters.rests);
        raise(&self.replayed, counters.replayed);
        raise(&self.resets, counters.resets);
        for (guard, n) in &counters.trips {
            raise(&self.trips.with_label_values(&[guard.as_str(), guard.action().as_str()]), *n);
        }
        raise(&self.restorations, counters.restorations);
        self.update_s.set(&counters.updates);
        self.swap_s.set(&counters.swaps);
        let status = learner.status();
        let runs = matches!(status.state, LearnerState::Waiting | LearnerState::Updating | LearnerState::Publishing);
        self.learning.set(i64::from(runs));
        self.waiting_scored.set(status.n_scored.cast_signed());
        self.waiting_generated.set(status.n_generated.cast_signed());
        if let Some(latest) = &status.latest {
            // A judge's name in a metric's would stay there when another one judges.
            let numbers = latest.numbers.iter().filter(|(name, _)| !name.starts_with(ppo::gate::names::JUDGE));
            self.set_numbers(numbers.map(|(name, value)| (name.as_str(), *value)));
        }
    }

    /// Takes over what was counted of versions that were made live, by a learner or without one.
    pub fn set_switches(&self, counters: &LearnerCountersSnapshot) {
        raise(&self.activations, counters.activations);
        self.load_s.set(&counters.loads);
        self.promotion_s.set(&counters.promotions);
    }

    /// Takes over the newest update's numbers. What that has not measured is not there any more, or an old number would pass for its
    /// own; but what the last candidate was judged by stays until there is another one, and all of them where an update failed.
    fn set_numbers<'a>(&self, numbers: impl IntoIterator<Item = (&'a str, f64)>) {
        let mut gauges = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers: BTreeMap<&str, f64> = numbers.into_iter().collect();
        let is_of_a_candidate = |name: &str| name.starts_with("gate/") || name.starts_with("parity/");
        gauges.retain(|name, gauge| {
            let stays = numbers.is_empty() || numbers.contains_key(name.as_str()) || is_of_a_candidate(name);
            if !stays {
                let _ = self.registry.unregister(Box::new(gauge.clone()));
            }
            stays
        });
        for (name, value) in numbers {
            if let Some(gauge) = gauges.get(name) {
                gauge.set(value);
            } else if let Ok(gauge) = Gauge::new(metric_name(name), format!("{name} of the newest update.")) {
                gauge.set(value);
                // Two names that differ in punctuation only would collide; the first one keeps the metric.
                let _ = self.registry.register(Box::new(gauge.clone()));
                gauges.insert(name.to_owned(), gauge);
            }
        }
    }
}

/// `objective/kl` is `honed_objective_kl`.
fn metric_name(name: &str) -> String {
    let word = |c: char| {
        if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }
    };
    let name: String = name.chars().map(word).collect();
    // These endings promise a counter or a histogram, which these are not.
    let name =
        ["_total", "_count", "_sum", "_bucket"].iter().fold(name, |name, end| name.trim_end_matches(end).to_owned());
    match name.strip_suffix("_s") {
        Some(name) => format!("honed_{name}_seconds"),
        None => format!("honed_{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_promise_what_a_gauge_keeps() {
        assert_eq!(metric_name("objective/kl"), "honed_objective_kl");
        assert_eq!(metric_name("time/experience_s"), "honed_time_experience_seconds");
        assert_eq!(metric_name("dropped/total"), "honed_dropped");
    }

    /// Goal: no number of an older update passes for one of the newest. Method: an update that knows its effective sample size, one
    /// that does not, and one that failed.
    #[test]
    fn what_the_newest_update_has_not_measured_is_not_there() {
        let registry = Registry::new();
        let metrics = LearningMetrics::register(&registry);
        let shown = || {
            let families = registry.gather();
            let names = families.iter().map(|family| family.name().to_owned());
            let of_updates = ["honed_sampling_ess", "honed_objective_kl", "honed_parity_max"];
            names.filter(|name| of_updates.contains(&name.as_str())).collect::<Vec<_>>()
        };
        metrics.set_numbers([("sampling/ess", 0.9), ("objective/kl", 1.0), ("parity/max", 1e-3)]);
        assert_eq!(shown(), ["honed_objective_kl", "honed_parity_max", "honed_sampling_ess"]);
        metrics.set_numbers([("objective/kl", 2.0)]);
        assert_eq!(shown(), ["honed_objective_kl", "honed_parity_max"], "and no candidate");
        metrics.set_numbers([]);
        assert_eq!(shown(), ["honed_objective_kl", "honed_parity_max"], "it failed");
        metrics.set_numbers([("sampling/ess", 0.8), ("objective/kl", 3.0)]);
        assert_eq!(shown(), ["honed_objective_kl", "honed_parity_max", "honed_sampling_ess"]);
    }
}
