//! The `[ppo]` section.

use crate::rule::{DEVICE, SWITCH, TEXT, one_of, real, section, whole};

section! {
    /// What learns.
    Ppo, "ppo" {
        /// Learn from traffic; false: serve and log only.
        enabled: bool => SWITCH;
        /// Episodes in one update round (InstructGPT C.4: 512; 128 suits 0.1 to 1 B parameters).
        rollouts_per_update: usize => whole(1, 65_536);
        /// Episodes in one optimiser step; must divide rollouts_per_update.
        minibatch: usize => whole(1, 65_536);
        /// Tokens in one forward and backward pass, prompts included; gradients do not depend on it. 0: as many as keep 512 MiB of activations, 256 to 16384.
        micro_batch_tokens: usize => whole(0, 16_777_216);
        /// In what matrix products are computed; master weights, sums, logits and losses are always f32. "auto": bf16 where the processor multiplies it in hardware (AMX, AVX512-BF16) and the model has 30 million parameters or more.
        dtype: String => one_of(&["auto", "f32", "bf16"]);
        /// Keep one activation a block and compute the rest again in backward: a third more arithmetic for a tenth of the memory (arXiv 1604.06174).
        activation_checkpointing: bool => SWITCH;
        /// Passes over the round (InstructGPT C.4: 1).
        epochs: u32 => whole(1, 64);
        /// Adam step size of the policy.
        policy_learning_rate: f64 => real(0.0, 1.0);
        /// Adam step size of the value model (InstructGPT C.4: 9e-6).
        value_learning_rate: f64 => real(0.0, 1.0);
        /// Update rounds over which both rates rise linearly from a tenth (InstructGPT C.4: 10).
        warmup_updates: u64 => whole(0, 100_000);
        /// KL penalty per nat, beta (InstructGPT C.4: 0.02; TRL: 0.05).
        kl_coef: f64 => real(0.0, 100.0);
        /// Adapt kl_coef towards kl_target (Ziegler et al. 2019, section 2.2).
        kl_adaptive: bool => SWITCH;
        /// KL that kl_adaptive aims at, in nats per episode.
        kl_target: f64 => real(0.001, 1000.0);
        /// Episodes over which kl_adaptive corrects a full error.
        kl_horizon: u64 => whole(1, 1_000_000_000);
        /// Discount.
        gamma: f64 => real(0.0, 1.0);
        /// GAE's lambda (Ziegler et al. 2019).
        lambda: f64 => real(0.0, 1.0);
        /// Clip of the policy ratio below and above 1 (InstructGPT C.4: 0.2).
        clip_low: f64 => real(0.0, 10.0);
        /// Clip of the policy ratio below and above 1 (InstructGPT C.4: 0.2).
        clip_high: f64 => real(0.0, 10.0);
        /// Clip of the value prediction around the old one (Ziegler et al. 2019: 0.2).
        value_clip: f64 => real(0.0, 1000.0);
        /// Scores are clipped to plus and minus this, after normalisation (OpenRLHF: 10).
        score_clip: f64 => real(0.0, 1_000_000.0);
        /// Score of an answer that the daemon's own limit cut off before its end token (Ziegler et al. 2019).
        missing_eos_score: f64 => real(-1000.0, 1000.0);
        /// What becomes of an answer that the client's max_tokens cut off: "score" trains on it with the score of the text that there is; "drop" trains on whole answers only (stricter, but a base model that never ends would never learn).
        client_limit: String => one_of(&["score", "drop"]);
        /// Versions that a rollout may be behind the trainer.
        max_staleness: u64 => whole(0, 64);
        /// Cap of the per-token importance weight trainer / behavior.
        is_cap: f64 => real(1.0, 1000.0);
        /// A sequence trains only when exp(mean log weight) lies in this range.
        is_geo_low: f64 => real(0.0, 1000.0);
        /// A sequence trains only when exp(mean log weight) lies in this range.
        is_geo_high: f64 => real(0.0, 1000.0);
        /// Share of a round that one user may fill.
        user_share_max: f64 => real(0.001, 1.0);
        /// Global gradient norm, policy and value model separately.
        max_grad_norm: f64 => real(0.0, 1_000_000.0);
        /// Adam's decay of the first and the second moment (InstructGPT C: 0.9, 0.95).
        adam_beta1: f64 => real(0.0, 0.999999);
        /// Adam's decay of the first and the second moment (InstructGPT C: 0.9, 0.95).
        adam_beta2: f64 => real(0.0, 0.999999);
        /// Adam's epsilon, beside the bias-corrected root (lm-human-preferences: 1e-5).
        adam_eps: f64 => real(1e-12, 1.0);
        /// Stop the round's remaining minibatches when k3(old, new) is above stop_kl; skip the step when above skip_kl.
        stop_kl: f64 => real(0.0, 1000.0);
        /// Stop the round's remaining minibatches when k3(old, new) is above stop_kl; skip the step when above skip_kl.
        skip_kl: f64 => real(0.0, 1000.0);
        /// Pretraining text in every step of the policy against forgetting (PPO-ptx, InstructGPT section 3.5): "auto" chooses its weight so that both gradients have the same norm at the first step, "fixed" takes ptx_coef.
        ptx: String => one_of(&["off", "auto", "fixed"]);
        /// Weight of the pretraining loss, a mean over tokens, with "fixed" (InstructGPT C.4: 27.8 of a sum whose normalisation is not published).
        ptx_coef: f64 => real(0.0, 1000.0);
        /// The text: plain, blank lines between documents, or JSON lines with a "text" each; needed unless ptx is off.
        ptx_file: String => TEXT;
        /// Examples for each episode (InstructGPT C.4: 8).
        ptx_examples: usize => whole(1, 65_536);
        /// Tokens of one example at most; longer texts are cut into several.
        ptx_tokens: usize => whole(2, 1_048_576);
        /// Threads of the learner, all at nice 19 in the idle class; 0: one per core.
        threads: usize => whole(0, 512);
        /// Share of a core that the learner keeps when traffic never pauses.
        cpu_share: f64 => real(0.0, 1.0);
        /// Type of published weights; "source": as the served model's file.
        weight_type: String => one_of(&["source", "f32", "f16"]);
        /// Versions kept on disk beside version 0 and the live one.
        keep_versions: usize => whole(1, 100_000);
        /// Where the learner computes; the second needs the `cuda` feature.
        device: String => DEVICE;
        /// Seed of minibatch order.
        seed: u64 => whole(0, i64::MAX);
    }
    with log: PpoLog
}

section! {
    /// The rollout log.
    PpoLog, "ppo.log" {
        /// Milliseconds that an answered exchange may wait before it is committed.
        commit_ms: u64 => whole(1, 100);
        /// Exchanges that may wait for the writer; beyond it they are counted as dropped.
        queue: usize => whole(1, 1_000_000);
    }
}
