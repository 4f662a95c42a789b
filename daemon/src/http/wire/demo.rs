//! The summary of `honed demo --json FILE`: what scripts read.

use std::collections::BTreeMap;

use serde::Serialize;

/// Everything, one key a number.
#[derive(Debug, Serialize)]
pub(crate) struct DemoSummary<'a> {
    /// Seed of traffic and learner.
    pub(crate) seed: u64,
    /// Mean gold of `sft` on held-out prompts.
    pub(crate) gold_first: f64,
    /// Mean gold of the last version on the same prompts.
    pub(crate) gold_last: f64,
    /// Of the last version against `sft`, ties half.
    pub(crate) win_rate: f64,
    /// Lower end of its 95 % interval.
    pub(crate) win_rate_low: f64,
    /// Upper end.
    pub(crate) win_rate_high: f64,
    /// Prompts of that comparison.
    pub(crate) held_out_prompts: usize,
    /// Versions that went live under load.
    pub(crate) versions_promoted: u64,
    /// Requests of the live traffic.
    pub(crate) requests: u64,
    /// Those without a whole answer.
    pub(crate) failed_requests: u64,
    /// Why, for the first few.
    pub(crate) failures: &'a [String],
    /// Nats an answer from `sft`, in the last round.
    pub(crate) kl: f64,
    /// Mean score of the last round.
    pub(crate) score_last: f64,
    /// Held-out pretraining text under `sft`, nats a token.
    pub(crate) pretraining_nll_first: f64,
    /// Under the last version.
    pub(crate) pretraining_nll_last: f64,
    /// Share of pairs of fresh answers that the reward model orders as gold does.
    pub(crate) rm_accuracy: f64,
    /// Pairs of that share.
    pub(crate) rm_pairs: usize,
    /// Client-side, streaming requests.
    pub(crate) first_token_ms_p50: f64,
    /// Client-side, streaming requests.
    pub(crate) first_token_ms_p99: f64,
    /// Between two pieces of a stream.
    pub(crate) token_gap_ms_p50: f64,
    /// Between two pieces of a stream.
    pub(crate) token_gap_ms_p99: f64,
    /// The longest.
    pub(crate) token_gap_ms_max: f64,
    /// From the start of the daemon to the last measurement.
    pub(crate) seconds: f64,
    /// Gold for each sort of prompt.
    pub(crate) kinds: Vec<DemoKind>,
    /// Every version that was met.
    pub(crate) versions: Vec<DemoVersion<'a>>,
}

/// One sort of prompt.
#[derive(Debug, Serialize)]
pub(crate) struct DemoKind {
    /// Its name.
    pub(crate) kind: String,
    /// Held-out prompts of this sort.
    pub(crate) prompts: usize,
    /// Mean gold of `sft` on them.
    pub(crate) gold_first: f64,
    /// Mean gold of the last version on them.
    pub(crate) gold_last: f64,
}

/// One version.
#[derive(Debug, Serialize)]
pub(crate) struct DemoVersion<'a> {
    /// Its number.
    pub(crate) version: u64,
    /// When it was found live.
    pub(crate) seconds: f64,
    /// Gold on held-out prompts, where it was measured.
    pub(crate) gold: Option<f64>,
    /// Standard error of it.
    pub(crate) gold_error: Option<f64>,
    /// What its update measured.
    pub(crate) numbers: &'a BTreeMap<String, f64>,
}

impl DemoSummary<'_> {
    /// As text for people and programs.
    pub(crate) fn render(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        // Only maps with keys that are no text can fail, and there are none.
        text.expect("a struct of numbers and texts is JSON") + "\n"
    }
}
