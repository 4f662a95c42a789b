//! The gate: may these weights serve?
//!
//! Two kinds of checks. The first kind asks whether the weights are what they claim to be, and refuses whatever
//! `ppo.gate` says, since such weights can be of no use to anybody:
//!
//! * every weight is finite (the engine's own canary has already seen finite logits of the written file);
//! * the serving engine and the trainer agree about the candidate ([`crate::parity`]).
//!
//! The second kind asks whether they are better. `ppo.gate = "strict"` refuses at the first failed one, `"observe"` only
//! writes down what it would have refused, `"off"` does not look:
//!
//! * the policy is not further from the live one than one round may take it: k3 after the last step ≤ `ppo.skip_kl`, where
//!   that is not 0;
//! * the candidate's KL to version 0 is within `ppo.kl_budget`, where that is not 0; and with `ppo.kl_adaptive` below ten times
//!   `ppo.kl_target`: the controller lost its grip. With a fixed β and no budget there is no such number: how far the policy goes
//!   is then what the operator chose β for;
//! * the round's own objective is finite;
//! * engine and trainer were compared at all: agreement over no token is none;
//! * the update did not unlearn its own lessons ([`alignment`]). It is no sharp test of a few: of updates whose sign is flipped it
//!   refuses 0.44, 0.92 and 1.00 with 16, 32 and 64 lessons where what was paid decides alone how much likelier an answer became,
//!   and 0.13, 0.58 and 0.99 where chance moves the answers as much (simulated, normally distributed). Below [`LESSONS_MIN`]
//!   lessons there is no such test, and what remains is the trial and, of a version that serves, the watch;
//! * the trial ([`Trial`]): the candidate answers questions beside the live version, with the same random numbers; held-out
//!   ones where a share is held out, else what it did not learn from just now, as far as there is enough of that ([`questions`]). It
//!   is refused when its reward, less what length costs ([`crate::length_penalty`]), is lower beyond doubt (the whole 95 % interval of the paired difference below 0), when the
//!   differences that the same judge found along its lineage add up to a loss beyond doubt ([`drift`]), or when its manner
//!   breaks: lengths, ends, repetition;
//! * with pretraining text, its loss on what of that is never learnt from has not risen by more than `ppo.gate_ptx_rise` over
//!   version 0's.
//!
//! A file from outside ([`crate::import`]), and an average of weights ([`crate::averages`]), has no round and no trainer; of
//! these checks it is shown the trial.
//!
//! A check that an accident kept from being made is no pass: the update fails and is tried again. One that there is nothing to
//! make of is another matter: where `ppo.rollouts_per_update` is below [`LESSONS_MIN`] no update ever has enough lessons, and
//! where nobody judges no trial has a reward; trying again would change nothing and refusing would end learning. Then the other
//! checks decide, and the report says which one is missing.
//!
//! A refusal costs one round. It cannot lock learning up: all checks are about the candidate, not about the traffic that the
//! live policy produced, so the next round starts from weights that passed them. A canary alone needs traffic: under "strict"
//! a candidate that answers nobody within `ppo.canary_s` is refused.

mod alignment;
mod comparison;
pub mod drift;
mod lineage;
mod questions;
mod trial;
mod verdict;

pub use alignment::{LESSONS_MIN, Lesson, alignment};
pub use comparison::{Comparison, Manner, PAIRS_MIN, Pair, PairedDifference};
pub use lineage::rungs;
pub use questions::{Asked, Origin, Question, ROWS_MAX, Sources, Window, questions};
pub use trial::{Trial, TrialError};
pub use verdict::{Evidence, Mode, Verdict, judge, judge_stranger};

/// Names of what the gate found, in a version's numbers. From those of its trial the lineage is read back.
pub mod names {
    /// Mean paired difference of rewards, candidate − live.
    pub const REWARD_DIFFERENCE: &str = "gate/reward_difference";
    /// Its standard error.
    pub const REWARD_DIFFERENCE_ERROR: &str = "gate/reward_difference_error";
    /// Lower end of its 95 % interval; of a version that no update made.
    pub const REWARD_LOWER: &str = "gate/reward_difference_lower";
    /// Upper end of it.
    pub const REWARD_UPPER: &str = "gate/reward_difference_upper";
    /// Begins the name of a 1, and the reward version that judged the trial ends it: differences in the eyes of two judges do
    /// not add up.
    pub const JUDGE: &str = "gate/judge/";
    /// Different prompts that were asked.
    pub const PROMPTS: &str = "gate/prompts_different";
    /// Those among them that never train.
    pub const PROMPTS_HELD_OUT: &str = "gate/prompts_held_out";
    /// And those that the update had just learnt from.
    pub const PROMPTS_LEARNT: &str = "gate/prompts_learnt";
    /// Seconds that half of the decode steps of candidate and live version took at most in the trial.
    pub const STEP_SECONDS: [&str; 2] = ["gate/step_seconds_candidate", "gate/step_seconds_live"];
    /// 1 where there was too little to hold the update against its own lessons.
    pub const NO_ALIGNMENT: &str = "gate/no_alignment";
    /// 1 where no trial compared rewards: nothing to ask, nobody to judge, or too few answers that differed.
    pub const NO_REWARD: &str = "gate/no_reward";
    /// 1 where too few answers of the canary were judged for a test.
    pub const CANARY_UNTESTED: &str = "canary/untested";
}
