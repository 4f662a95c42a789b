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
//! * with `ppo.kl_adaptive`, the KL to version 0 is below ten times `ppo.kl_target`: the controller lost its grip. With a
//!   fixed β there is no such number: how far the policy goes is then what the operator chose β for;
//! * the round's own objective is finite;
//! * the update did not unlearn its own lessons ([`alignment`]);
//! * the trial ([`Trial`]): the candidate answers held-out questions beside the live version, with the same random numbers.
//!   It is refused when its reward is lower beyond doubt (the whole 95 % interval of the paired difference below 0), when the
//!   differences that the same judge found along its lineage add up to a loss beyond doubt ([`drift`]), or when its manner
//!   breaks: lengths, ends, repetition;
//! * with pretraining text, its loss on that has not risen by more than `ppo.gate_ptx_rise` over version 0's.
//!
//! A file from outside ([`crate::import`]) has no round and no trainer; of these checks it is shown the trial.
//!
//! A check that could not be made is no pass: the update fails and is tried again. A refusal costs one round. It cannot lock
//! learning up: all checks are about the candidate, not about the traffic that the live policy produced, so the next round
//! starts from weights that passed them.

mod alignment;
mod comparison;
pub mod drift;
mod lineage;
mod questions;
mod trial;
mod verdict;

pub use alignment::{Lesson, alignment};
pub use comparison::{Comparison, Manner, PAIRS_MIN, PairedDifference};
pub use lineage::rungs;
pub use questions::{Question, ROWS_MAX, Sources, Window, questions};
pub use trial::{Trial, TrialError};
pub use verdict::{Evidence, Mode, Verdict, judge, judge_stranger};

/// Names of what a trial measured, in a version's numbers; the lineage is read back from them.
pub mod names {
    /// Mean paired difference of rewards, candidate − live.
    pub const REWARD_DIFFERENCE: &str = "gate/reward_difference";
    /// Its standard error.
    pub const REWARD_DIFFERENCE_ERROR: &str = "gate/reward_difference_error";
    /// Begins the name of a 1, and the reward version that judged the trial ends it: differences in the eyes of two judges do
    /// not add up.
    pub const JUDGE: &str = "gate/judge/";
}
