//! What a run leaves behind: everything that the table, the JSON file and the report are made from.

use std::collections::BTreeMap;

use super::{evaluation::Level, traffic::Seen, world::Kind};
use crate::http::wire::demo::{DemoKind, DemoSummary, DemoVersion};

/// A version as it was met on the way.
#[derive(Clone, Debug)]
pub(super) struct Station {
    /// Its number.
    pub(super) version: u64,
    /// Seconds since the start at which it was found live; 0 for version 0.
    pub(super) seconds: f64,
    /// Gold on held-out prompts, where it was measured.
    pub(super) gold: Option<Level>,
    /// What its update measured, by the learner's names.
    pub(super) numbers: BTreeMap<String, f64>,
}

/// A held-out prompt, answered by the first and by the last version.
#[derive(Clone, Debug)]
pub(super) struct SideBySide {
    /// What sort of prompt.
    pub(super) kind: Kind,
    /// The prompt.
    pub(super) instruction: String,
    /// (answer, gold) of version 0.
    pub(super) before: (String, f64),
    /// (answer, gold) of the last version.
    pub(super) after: (String, f64),
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct Story {
    /// Seed of traffic and learner.
    pub(super) seed: u64,
    /// Versions in order, version 0 first.
    pub(super) stations: Vec<Station>,
    /// Gold of version 0 and of the last version on all held-out prompts.
    pub(super) gold: (Level, Level),
    /// Win rate of the last version against version 0, and its 95 % interval.
    pub(super) win_rate: (f64, f64, f64),
    /// Versions that went live.
    pub(super) promoted: u64,
    /// What users saw.
    pub(super) seen: Seen,
    /// Pretraining loss of version 0 and of the last one, nats a token.
    pub(super) pretraining_nll: (f64, f64),
    /// Share of pairs of fresh answers that the reward model orders as gold does, and how many pairs.
    pub(super) rm_accuracy: (f64, usize),
    /// Held-out prompts of the last comparison.
    pub(super) n_held_out: usize,
    /// All of them, for the report.
    pub(super) answers: Vec<SideBySide>,
    /// From the start of the daemon to the last measurement.
    pub(super) seconds: f64,
}

impl Story {
    /// A number of the last version's update; 0 when there was none.
    pub(super) fn last_number(&self, name: &str) -> f64 {
        self.stations.iter().rev().find_map(|station| station.numbers.get(name)).copied().unwrap_or(0.0)
    }

    /// Quantile of a latency series, milliseconds; 0 when there is nothing.
    pub(super) fn quantile(series: &[(f64, f64)], q: f64) -> f64 {
        let mut values: Vec<f64> = series.iter().map(|(_, ms)| *ms).collect();
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        values.get((last as f64 * q).round() as usize).copied().unwrap_or(0.0)
    }

    /// Gold of the first and the last version for each sort of prompt that there was.
    pub(super) fn by_kind(&self) -> Vec<DemoKind> {
        let kinds = Kind::SHARES.iter().filter_map(|(kind, _)| {
            let own: Vec<&SideBySide> = self.answers.iter().filter(|answer| answer.kind == *kind).collect();
            let mean = |of: fn(&SideBySide) -> f64| own.iter().map(|one| of(one)).sum::<f64>() / own.len() as f64;
            (!own.is_empty()).then(|| DemoKind {
                kind: format!("{kind:?}").to_lowercase(),
                prompts: own.len(),
                gold_first: mean(|one| one.before.1),
                gold_last: mean(|one| one.after.1),
            })
        });
        kinds.collect()
    }

    /// The JSON file.
    pub(super) fn json(&self) -> String {
        let seen = &self.seen;
        let summary = DemoSummary {
            seed: self.seed,
            gold_first: self.gold.0.mean,
            gold_last: self.gold.1.mean,
            win_rate: self.win_rate.0,
            win_rate_low: self.win_rate.1,
            win_rate_high: self.win_rate.2,
            held_out_prompts: self.n_held_out,
            versions_promoted: self.promoted,
            requests: seen.answered + seen.failed,
            failed_requests: seen.failed,
            failures: &seen.reasons,
            kl: self.last_number("objective/kl"),
            score_last: self.last_number("objective/scores"),
            pretraining_nll_first: self.pretraining_nll.0,
            pretraining_nll_last: self.pretraining_nll.1,
            rm_accuracy: self.rm_accuracy.0,
            rm_pairs: self.rm_accuracy.1,
            first_token_ms_p50: Self::quantile(&seen.first_ms, 0.5),
            first_token_ms_p99: Self::quantile(&seen.first_ms, 0.99),
            token_gap_ms_p50: Self::quantile(&seen.gap_ms, 0.5),
            token_gap_ms_p99: Self::quantile(&seen.gap_ms, 0.99),
            token_gap_ms_max: Self::quantile(&seen.gap_ms, 1.0),
            seconds: self.seconds,
            kinds: self.by_kind(),
            versions: self.stations.iter().map(version).collect(),
        };
        summary.render()
    }

    /// The table at the end of the run.
    pub(super) fn table(&self) -> String {
        let (first, last) = self.gold;
        let (rate, low, high) = self.win_rate;
        let seen = &self.seen;
        let rows = [
            (
                "gold score, held-out prompts",
                format!(
                    "{:.3} ± {:.3}  →  {:.3} ± {:.3}   (1 is perfect)",
                    first.mean, first.error, last.mean, last.error
                ),
            ),
            ("win rate against sft", format!("{rate:.3}   (95 %: {low:.3} to {high:.3}, {} prompts)", self.n_held_out)),
            ("versions promoted under load", format!("{}", self.promoted)),
            ("requests, failed", format!("{}, {}", seen.answered + seen.failed, seen.failed)),
            ("KL to sft", format!("{:.2} nats an answer", self.last_number("objective/kl"))),
            (
                "pretraining loss",
                format!("{:.3}  →  {:.3} nats a token", self.pretraining_nll.0, self.pretraining_nll.1),
            ),
            (
                "reward model, fresh answers",
                format!("{:.3} of {} pairs in gold's order", self.rm_accuracy.0, self.rm_accuracy.1),
            ),
            (
                "first token",
                format!(
                    "{} median, {} p99",
                    in_ms(Self::quantile(&seen.first_ms, 0.5)),
                    in_ms(Self::quantile(&seen.first_ms, 0.99))
                ),
            ),
            (
                "between tokens",
                format!(
                    "{} median, {} p99, {} longest",
                    in_ms(Self::quantile(&seen.gap_ms, 0.5)),
                    in_ms(Self::quantile(&seen.gap_ms, 0.99)),
                    in_ms(Self::quantile(&seen.gap_ms, 1.0))
                ),
            ),
            ("time", format!("{:.0} s", self.seconds)),
        ];
        rows.iter().map(|(name, value)| format!("  {name:<30} {value}\n")).collect()
    }
}

fn version(station: &Station) -> DemoVersion<'_> {
    DemoVersion {
        version: station.version,
        seconds: station.seconds,
        gold: station.gold.map(|level| level.mean),
        gold_error: station.gold.map(|level| level.error),
        numbers: &station.numbers,
    }
}

/// Milliseconds; below one in hundredths, so that what is fast is not shown as nothing.
fn in_ms(ms: f64) -> String {
    if ms < 1.0 { format!("{ms:.2} ms") } else { format!("{ms:.1} ms") }
}

#[cfg(test)]
mod tests {
    use super::in_ms;

    #[test]
    fn what_is_fast_is_not_nothing() {
        assert_eq!([0.044, 0.96, 1.0, 14.03].map(in_ms), ["0.04 ms", "0.96 ms", "1.0 ms", "14.0 ms"]);
    }
}
