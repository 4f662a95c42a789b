//! The `[ppo]` section.

use std::ops::RangeInclusive;

use crate::rule::{DEVICE, SWITCH, TEXT, one_of, real, section, whole};

/// Largest rank of an adapter: memory is asked for by it.
pub const LORA_RANK_MAX: u32 = 1024;
/// What `ppo.lora_alpha` may be, and every other alpha that somebody chooses: an adapter of less cannot act.
pub const LORA_ALPHA: RangeInclusive<f64> = 0.001..=4096.0;

section! {
    /// What learns.
    Ppo, "ppo" {
        /// Learn from traffic; false: serve and log only.
        enabled: bool => SWITCH;
        /// Episodes in one update round (InstructGPT C.4: 512; 128 suits 0.1 to 1 B parameters). By default 64 with lora_rank: adapters learn worse from large batches. A round of which fewer than 8 may train, or of a small one fewer than half, makes no step.
        rollouts_per_update: usize => whole(1, 65_536);
        /// Episodes in one optimiser step; must divide rollouts_per_update. By default 16 with lora_rank.
        minibatch: usize => whole(1, 65_536);
        /// Tokens in one forward and backward pass, prompts included; gradients do not depend on it. 0: as many as keep 512 MiB of activations, 256 to 16384.
        micro_batch_tokens: usize => whole(0, 16_777_216);
        /// In what matrix products are computed; master weights, sums, logits and losses are always f32. "auto": bf16 where the processor multiplies it in hardware (AMX, AVX512-BF16) and the model has 30 million parameters or more. It is almost twice as fast there, and further from what the engine computes: ppo.parity_gap_max bounds how far. On a GPU "auto" is f32, and bf16 lets cuBLAS round the factors. The gate compares in f32.
        dtype: String => one_of(&["auto", "f32", "bf16"]);
        /// Keep one activation a block and compute the rest again in backward: a third more arithmetic for a tenth of the memory (arXiv 1604.06174). Only on the processor.
        activation_checkpointing: bool => SWITCH;
        /// Rank of low-rank adapters that learn in place of the weights (LoRA, arXiv 2106.09685): policy, reference and value model then share the frozen weights of version 0, and a published version is a small file that is served beside them. The value model starts as the reward model where that is an adapter too (honed train reward --lora-rank), else at 0. A folder keeps the rank and alpha of its live version until version 0 is activated. 0: full fine-tuning.
        lora_rank: usize => whole(0, LORA_RANK_MAX as i64);
        /// Updates of the adapters are multiplied by lora_alpha / lora_rank.
        lora_alpha: f64 => real(*LORA_ALPHA.start(), *LORA_ALPHA.end());
        /// Passes over the round (InstructGPT C.4: 1).
        epochs: u32 => whole(1, 64);
        /// Adam step size of the policy (OpenRLHF, verl: 1e-6; N+, arXiv 2403.17031: 3e-6). By default 2e-5 with lora_rank: adapters want ten times the step of whole weights (TRL, "LoRA Without Regret").
        policy_learning_rate: f64 => real(0.0, 1.0);
        /// Adam step size of the value model (InstructGPT C.4: 9e-6). By default 5e-5 with lora_rank.
        value_learning_rate: f64 => real(0.0, 1.0);
        /// Adam step size of the value model's head; 0: value_learning_rate. By default 0.0001 with lora_rank: the head is no adapter, and begins at 0 where no reward model lends its own.
        value_head_learning_rate: f64 => real(0.0, 1.0);
        /// Update rounds over which the rates rise linearly from a tenth (InstructGPT C.4: 10); of the policy those in which it made a step, from the beginning again where its moments are fresh, as after an activation.
        warmup_updates: u64 => whole(0, 100_000);
        /// KL penalty per nat, beta (InstructGPT C.4: 0.02; TRL: 0.05).
        kl_coef: f64 => real(0.0, 100.0);
        /// Estimate of the KL that is paid: in the reward only the gradient of "k1" is that of the KL, in the loss that of "k2" (Schulman 2020; arXiv 2510.01555).
        kl_estimator: String => one_of(&["k1", "k2", "k3"]);
        /// Where the KL is paid: in the "reward" of every token (InstructGPT, RLOO, REINFORCE++), or as a term of the policy's "loss", with groups that compare bare scores: GRPO with kl_estimator "k3", REINFORCE++-baseline with "k2"; "k1" has no gradient there. Dr. GRPO pays none: kl_coef = 0.
        kl_in: String => one_of(&["reward", "loss"]);
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
        /// Where advantages come from: "gae" asks the value model (PPO). The others need none: "rloo" (arXiv 2402.14740), "grpo" (2402.03300), "dr_grpo" (2503.20783), "reinforce_pp" and "reinforce_pp_baseline" (2501.03262). All of these but reinforce_pp compare answers to one prompt, and an answer that is alone in its round does not train.
        advantage_estimator: String => one_of(&["gae", "rloo", "grpo", "dr_grpo", "reinforce_pp", "reinforce_pp_baseline"]);
        /// Clip of the policy ratio below and above 1 (InstructGPT C.4: 0.2).
        clip_low: f64 => real(0.0, 10.0);
        /// Clip of the policy ratio below and above 1 (InstructGPT C.4: 0.2).
        clip_high: f64 => real(0.0, 10.0);
        /// For a negative advantage the loss grows up to this many times the advantage; 0: without bound (arXiv 1912.09729: 3).
        dual_clip: f64 => real(0.0, 1000.0);
        /// How the losses of tokens become one: every token alike (verl, DAPO), every answer alike by its mean (GRPO) or its sum, or the sum by a constant (Dr. GRPO).
        loss_aggregation: String => one_of(&["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant"]);
        /// Tokens by which "constant" divides the sum of an answer: the longest answer that may come (Dr. GRPO, arXiv 2503.20783).
        loss_length: usize => whole(1, 1_048_576);
        /// Weight of the entropy bonus, nats; 0: none, as in all sources of RLHF.
        entropy_coef: f64 => real(0.0, 10.0);
        /// Clip of the value prediction around the old one, score units; 0: none, plain regression (Ziegler et al. 2019: 0.2).
        value_clip: f64 => real(0.0, 1000.0);
        /// Weight of the value loss before its gradient is clipped (Ziegler et al. 2019: 0.1 with one optimiser for both models; ours has its own: 1).
        value_coef: f64 => real(0.0, 1000.0);
        /// First rounds in which only the value model learns, from whole returns (OpenRLHF freezing_steps; 0: none).
        value_warmup_updates: u64 => whole(0, 100_000);
        /// Scores are clipped to plus and minus this, after normalisation; 0: not clipped (OpenRLHF: 10).
        score_clip: f64 => real(0.0, 1_000_000.0);
        /// What becomes of the score of an answer that the daemon's own limit cut off before its end token: "replace" by missing_eos_score (Ziegler et al. 2019), "subtract" missing_eos_penalty (TRL), "keep", or "bootstrap": what the value model says after its last token stands for the rest ("gae" only).
        missing_eos: String => one_of(&["replace", "subtract", "keep", "bootstrap"]);
        /// Score of such an answer with "replace" (Ziegler et al. 2019).
        missing_eos_score: f64 => real(-1000.0, 1000.0);
        /// Taken off the clipped score of such an answer with "subtract" (TRL: 1).
        missing_eos_penalty: f64 => real(0.0, 1000.0);
        /// What becomes of an answer that the client's max_tokens cut off: "score" trains on it with the score of the text that there is; "drop" trains on whole answers only; "bootstrap" as for missing_eos, which needs answers that do end: without one there is no score. "drop" is the stricter rule, because the cut was not the policy's doing; it is not the default, because most clients set max_tokens, and a model whose answers seldom end by themselves would then have nothing to learn from.
        client_limit: String => one_of(&["score", "drop", "bootstrap"]);
        /// Taken off a score for every token of the answer beyond length_free, score units a token, after clip and missing-EOS rule: what is cut off pays for its tokens too, or never to end would be the way out. 0: nothing. Most of what PPO gains may be length (arXiv 2310.03716). Gate, canary and watch compare rewards less the same.
        length_penalty: f64 => real(0.0, 100.0);
        /// Tokens of an answer that cost nothing with length_penalty, its end token among them; 0: each costs. The mean length of good answers leaves these alone.
        length_free: usize => whole(0, 1_048_576);
        /// Versions that a rollout may be behind the trainer.
        max_staleness: u64 => whole(0, 64);
        /// Weight against the policy that drew the tokens: "geometric" filters answers by their mean and caps tokens; "token_truncate" caps tokens (verl); "token_mask" leaves out tokens outside a range (IcePop); "sequence_truncate" caps the product over an answer; "off" weighs 1; "bypass" centres the clip on that policy instead (PPO as in arXiv 1707.06347).
        importance: String => one_of(&["geometric", "token_truncate", "token_mask", "sequence_truncate", "off", "bypass"]);
        /// What stands for the policy at the start of a round, where the clip is centred and the weight comes from: "forward" computes it (decoupled PPO, arXiv 2110.00641). "log_linear" spares that pass: a token that was drawn s versions ago is taken to have gone s / (s + 1) of the way from the log-prob that it was drawn with to the one under gradient (AReaL's prox_logp_method "loglinear"), and the KL is paid from what the engine said. It needs importance "token_truncate", "token_mask" or "off", and it hides what these are for: where engine and trainer disagree, that passes for learning. ess_min and parity_gap_max then look at the first minibatch only, whose log-probs no step has changed yet, and the gate's own look at the update at those episodes; stop_kl measures from the guess; the round's entropy, effective sample size and gap to the engine are not measured, and their numbers are absent.
        proximal: String => one_of(&["forward", "log_linear"]);
        /// Cap of the per-token importance weight trainer / behavior.
        is_cap: f64 => real(1.0, 1000.0);
        /// A sequence trains only when exp(mean log weight) lies in this range.
        is_geo_low: f64 => real(0.0, 1000.0);
        /// A sequence trains only when exp(mean log weight) lies in this range.
        is_geo_high: f64 => real(0.0, 1000.0);
        /// With "token_mask" a token trains only when its weight lies in this range (IcePop: 0.5 to 5).
        is_mask_low: f64 => real(0.0, 1000.0);
        /// With "token_mask" a token trains only when its weight lies in this range (IcePop: 0.5 to 5).
        is_mask_high: f64 => real(0.0, 1000.0);
        /// A round whose weights have an effective sample size below this share of its tokens makes no step (a fall predicts collapse: arXiv 2602.17616). What is filtered weighs 0, so at least this share must be left.
        ess_min: f64 => real(0.0, 1.0);
        /// Share of a round that one user may fill. 0.1 suits a service of many users who are named (`user`); by default 1.0, because where one named user sends most of the traffic a round would otherwise never fill. Requests without a name are not told apart, and not bounded.
        user_share_max: f64 => real(0.001, 1.0);
        /// Share of users, and of prompts without one, whose rollouts never train and only measure; 0: none.
        held_out_share: f64 => real(0.0, 0.5);
        /// Global gradient norm, policy and value model separately, above which gradients are scaled down to it; 0: never.
        max_grad_norm: f64 => real(0.0, 1_000_000.0);
        /// Adam's decay of the first and the second moment (InstructGPT C: 0.9, 0.95).
        adam_beta1: f64 => real(0.0, 0.999999);
        /// Adam's decay of the first and the second moment (InstructGPT C: 0.9, 0.95).
        adam_beta2: f64 => real(0.0, 0.999999);
        /// Adam's epsilon, beside the bias-corrected root (lm-human-preferences: 1e-5).
        adam_eps: f64 => real(1e-12, 1.0);
        /// Decay per round of a moving average of the policy's weights that is kept beside them, in memory and as a file beside each version; 0: none (InstructGPT C.4: 0.992). It is a candidate for publication and never the sampler: ema_judge_every has it judged. By default none: it costs a copy of the weights in memory and a file a version.
        ema_decay: f64 => real(0.0, 0.999999);
        /// Published versions after which the average of ema_decay stands the gate's trial beside the live version, as a file from outside does (ppo.gate). It is then a version of its own with its report, refused or kept, and live only where somebody activates it; learning goes on from it then with fresh moments. While it is judged it takes a place in memory: that of the version before the live one, and the next candidate may have to wait for it. It counts among keep_versions, and goes before the newest of the others does. 0: never.
        ema_judge_every: u64 => whole(0, 100_000);
        /// The policy makes no more steps in a round when k3(old, new) is above stop_kl (Spinning Up: 0.015); above skip_kl the round is taken back. 0: never.
        stop_kl: f64 => real(0.0, 1000.0);
        /// The policy makes no more steps in a round when k3(old, new) is above stop_kl (Spinning Up: 0.015); above skip_kl the round is taken back. 0: never.
        skip_kl: f64 => real(0.0, 1000.0);
        /// KL to version 0, nats per episode, beyond which the gate refuses a candidate, and learning pauses where the live version is beyond it all the same; 0: no bound, because it grows with the length of answers.
        kl_budget: f64 => real(0.0, 1_000_000.0);
        /// A step is skipped when its gradient norm, or its largest ratio, is more than this many times the median of the last steps; 0: never.
        grad_spike: f64 => real(0.0, 1_000_000.0);
        /// A step is skipped when its gradient norm, or its largest ratio, is more than this many times the median of the last steps; 0: never.
        ratio_spike: f64 => real(0.0, 1_000_000.0);
        /// Mean difference of log-probs between engine and trainer for the same version, nats, beyond which learning pauses; 0: 0.02, or 0.1 where weights are quantised or the trainer multiplies in bf16.
        parity_gap_max: f64 => real(0.0, 1000.0);
        /// Pretraining text in every step of the policy against forgetting (PPO-ptx, InstructGPT section 3.5): "auto" chooses its weight so that both gradients have the same norm at the first step, "fixed" takes ptx_coef. InstructGPT has it on; by default it is off, because the text must be that of the model, and only the operator has it. Adapters forget less and can do without.
        ptx: String => one_of(&["off", "auto", "fixed"]);
        /// Weight of the pretraining loss, a mean over tokens, with "fixed" (InstructGPT C.4: 27.8 of a sum whose normalisation is not published).
        ptx_coef: f64 => real(0.0, 1000.0);
        /// The text: plain, blank lines between documents, or JSON lines with a "text" each; needed unless ptx is off. Its last examples, one in 16 but at least 8 and at most 64, are never learnt from: on them the gate measures what was forgotten (gate_ptx_rise), with ptx off too. Of fewer than 16 all are learnt from and the first 8 measure, which a warning says.
        ptx_file: String => TEXT;
        /// Examples for each episode (InstructGPT C.4: 8).
        ptx_examples: usize => whole(1, 65_536);
        /// Tokens of one example at most; longer texts are cut into several. No more than the context that the model was trained with.
        ptx_tokens: usize => whole(2, 1_048_576);
        /// What the gate does with a candidate that looks worse than the live version: "strict" refuses it, "observe" serves it and writes down what was wrong, "off" does not look. Weights that are not finite, or that engine and trainer disagree about, are refused by each. Worse in reward is what lies below the live version with all of its 95 % interval: a bound of one standard error would refuse one in six of the candidates that are as good.
        gate: String => one_of(&["strict", "observe", "off"]);
        /// Questions that candidate and live version answer side by side before a publication; 0: none, and then only the round's own numbers decide. From rollouts of held_out_share, or where that is 0 from recent traffic: first what the update has not learnt from, and of one user a quarter as long as others have asked something. This trial is the shadow: the candidate answers the newest prompts that users sent a second time, out of sight and in its own share of the engine, and the judged pairs decide; a copy of requests still to come would ask the same kind of prompts a little later, and would make users wait for their answers twice.
        gate_prompts: usize => whole(0, 4096);
        /// Tokens of one such answer at most.
        gate_tokens: u32 => whole(1, 65_536);
        /// More questions, half of the trial: JSON lines with a "prompt" or "messages" each, as for `honed train ppo`.
        gate_file: String => TEXT;
        /// The answers' mean length may change by this factor in one publication; 0: by any. 1.2 is the stricter choice, for some 500 questions: between 32 answers and 32 others of the same model a fifth is chance.
        gate_length_factor: f64 => real(0.0, 1000.0);
        /// Share of the answers that may stop ending by themselves in one publication. 0.25 is two standard errors of 32 questions; 0.2 and less want more.
        gate_eos_drop: f64 => real(0.0, 1.0);
        /// Share of the live version's distinct pairs of tokens that the candidate's answers must keep (distinct-2).
        gate_distinct: f64 => real(0.0, 1.0);
        /// Rise of the loss on pretraining text over version 0's, nats a token, where ptx_file gives such text; 0: any. It bounds what all publications together may cost; some 2 % of the loss in one of them is a usual alarm.
        gate_ptx_rise: f64 => real(0.0, 100.0);
        /// Share of the traffic that a candidate which passed the gate answers before it may answer all; 0: none. Learning waits meanwhile. A model from outside (daemon.import_dir) has no canary: once it has passed the gate it answers all or, where it was not to be promoted, nobody.
        canary_share: f64 => real(0.0, 0.5);
        /// Judged answers of such a candidate, compared with the live version's of the same time after every fifth that makes at least 20 (a sequential test: what is clearly worse goes early). Of one named user as many count as for watch_rollouts, and answers without a score (temperature 0, grammars) are not compared. Too many failed answers refuse it at once.
        canary_rollouts: usize => whole(10, 1_000_000);
        /// Seconds after which what a canary has shown has to do: 8 judged answers on each side are compared, with fewer the gate's report says that they were not, and a candidate that has answered nobody is refused.
        canary_s: u64 => whole(1, 604_800);
        /// Judged rollouts since a version went live that are held against its last good ancestor's, also while learning is paused; when they are worse beyond doubt and by much (reward, length, thumbs down), that ancestor, or the nearest before it that can be loaded, serves again and learning pauses. Their reward is also held against every ancestor that is kept, version 0 among them. What may not train (temperature 0, grammars, other changes to the distribution) has no score: of it thumbs and failures alone are seen. Who serves again by a rollback is watched for failures alone. While others have brought anything, at most a quarter of each is the named user's who brings most, or as much as the next one's; whoever gives no name cannot be told apart. Failures are counted as long as a version is live, among its last few hundred answers. How long a token takes is looked at too (watch_latency_factor). Below 32 only failures and that count; 0: no watch. Nor is there one with enabled = false.
        watch_rollouts: usize => whole(0, 1_000_000);
        /// A live version is rolled back likewise when a token takes at least this many times as long as with its nearest ancestor that the daemon has served since it started; 0: that is not looked at. Forward passes that give users their next token are compared, the fastest tenth of some hundreds, among batches of one size and slower in each, and then both versions are timed by turns over the same few tokens: where a version is as slow as one that served before it, the machine or the traffic has changed. So wide, because weights of one shape and type take the same time, while an adapter was seen to take up to 2.2 times as long as what it stands beside: what takes longer than that is a fault. Less than 1.5 is refused, and where an adapter takes part it is 2.5 at least. A version whose weights are of a type that is larger by more than a quarter is not held against the smaller one.
        watch_latency_factor: f64 => real(0.0, 1000.0);
        /// Threads of the learner, all at nice 19 in the idle class; 0: one per core.
        threads: usize => whole(0, 512);
        /// Share of a core that the learner keeps when traffic never pauses; only serving rests for it, no other program.
        cpu_share: f64 => real(0.0, 1.0);
        /// Type of published weights; "source": as the served model's file.
        weight_type: String => one_of(&["source", "f32", "f16"]);
        /// Versions kept on disk beside version 0 and the live one.
        keep_versions: usize => whole(1, 100_000);
        /// MiB of these at most; the newest one stays whatever it weighs. 0: no bound.
        keep_versions_mib: u64 => whole(0, 1_073_741_824);
        /// Updates after which the learner's state (weights, moments, value model) is written at the latest; sooner as long as writing takes at most a twentieth of the time. A restart repeats the updates since, from the log, bit for bit.
        state_every: u64 => whole(1, 100_000);
        /// States kept on disk: the newest for a restart, the older ones for `honed replay`.
        keep_states: usize => whole(1, 100_000);
        /// Largest copy of policy, value model and moments that a round takes to go back to, MiB; beyond it the copy holds the policy's weights alone, and what fails midway is built anew from the last state on disk.
        snapshot_mib: u64 => whole(0, 1_048_576);
        /// Where the learner computes; the second needs the `cuda` feature, whose kernels are checked by emulation and have not yet run on a GPU.
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
        /// File with one user a line whose exchanges never train and whose feedback is kept but not heard, read at the start; empty: nobody.
        quarantine_file: String => TEXT;
        /// What is written of exchanges and of feedback that hold what looks like personal data. "off": what there is. "redact": the text with a word in brackets in each place: EMAIL, PHONE (international, or in one of a few national forms), CARD (Luhn), IBAN (mod 97), IP or SSN; of an exchange no token ids, which spell the text, so it never trains (dropped{reason="pii"}). InstructGPT filtered its training split so (section 3.2). Patterns find formats, not names, addresses of houses, or what is spelt out; `user` is kept, because somebody is forgotten by it, and what was logged before stays.
        scrub_pii: String => one_of(&["off", "redact"]);
        /// Days after which an exchange leaves the log with what was said about it, whether it has trained or not (dropped{reason="outdated"}); the newest updates keep theirs as long as a restart may compute them again. The file does not shrink, its free space is used again. 0: the log keeps everything, and grows.
        keep_days: u64 => whole(0, 36_500);
    }
}
