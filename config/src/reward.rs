//! The `[reward]` section.

use crate::rule::{REMOTE_URL, TEXT, one_of, real, section, whole};

section! {
    /// What judges.
    Reward, "reward" {
        /// Where scores come from.
        source: String => one_of(&["model", "remote", "feedback", "mix"]);
        /// Reward model file; empty: the one that is built into the binary, which fits the built-in policy only.
        model: String => TEXT;
        /// Folder from which POST /v1/rewards/model takes other reward models; empty: from none. It can always read the file above again, as SIGHUP does.
        folder: String => TEXT;
        /// How an ensemble's heads become one score: their mean, the lowest ("min"), or mean - uwo_lambda * variance ("uwo"); Coste et al. 2023, section 3.2.
        ensemble: String => one_of(&["mean", "min", "uwo"]);
        /// Weight of the members' variance when ensemble = "uwo", per score unit (Coste et al. 2023: 0.1 with PPO).
        uwo_lambda: f64 => real(0.0, 1000.0);
        /// URL of a reward server that speaks OpenRLHF's shape: {"query","prompts","labels"} -> {"rewards"}.
        remote_url: String => REMOTE_URL;
        /// Milliseconds before one call to the reward server is given up.
        remote_timeout_ms: u64 => whole(1, 600_000);
        /// Calls after the first before a batch stays unscored and is tried again later.
        remote_retries: u32 => whole(0, 100);
        /// Responses in one scoring batch.
        batch: usize => whole(1, 4096);
        /// Tokens in one scoring batch, prompts included; a longer response is a batch of its own.
        batch_tokens: usize => whole(256, 16_777_216);
        /// Scoring jobs that may wait in one lane before newcomers get 429; up to 16 more of each API key take turns, and all of them together hold 256 MiB of tokens and texts at most, and 16 MiB more for each key.
        max_queue: usize => whole(1, 100_000);
        /// Share of that queue, of its jobs and of what these hold, which the requests of one API key may fill when several keys are configured; a key of which nothing waits has a place more.
        max_queue_share: f64 => real(0.01, 1.0);
        /// Seconds that a rollout waits for feedback before the fallback judges it.
        feedback_wait_s: u64 => whole(0, 604_800);
        /// What judges a rollout that got no feedback in time.
        feedback_fallback: String => one_of(&["model", "remote", "drop"]);
        /// Weight of each source when source = "mix"; one with weight 0 is not asked.
        mix_model: f64 => real(-1000.0, 1000.0);
        /// Weight of each source when source = "mix"; one with weight 0 is not asked.
        mix_remote: f64 => real(-1000.0, 1000.0);
        /// Weight of each source when source = "mix"; one with weight 0 is not asked.
        mix_feedback: f64 => real(-1000.0, 1000.0);
    }
}
