//! What one seed came to: everything that verdicts, table, chart and JSON are made from.

use ppo::metrics::WinRate;

use super::{
    arm::{Arm, Point},
    measure::Measured,
};

/// One reward model.
#[derive(Clone, Copy, Debug)]
pub(super) struct JudgeOutcome {
    /// Ranked prompts that it has seen.
    pub(super) n_prompts: usize,
    /// Share of held-out pairs in the labelers' order.
    pub(super) accuracy: f64,
}

/// One arm.
#[derive(Clone, Debug)]
pub(super) struct ArmOutcome {
    /// Which.
    pub(super) arm: Arm,
    /// After the last round.
    pub(super) measured: Measured,
    /// Against the supervised policy.
    pub(super) win: WinRate,
    /// One point a round.
    pub(super) curve: Vec<Point>,
}

/// One seed.
#[derive(Clone, Debug)]
pub(super) struct SeedOutcome {
    /// The seed.
    pub(super) seed: u64,
    /// After pretraining.
    pub(super) base: Measured,
    /// After demonstrations without pretraining text between them.
    pub(super) unmixed: Measured,
    /// What PPO starts from.
    pub(super) sft: Measured,
    /// Four times as wide, after pretraining.
    pub(super) large_base: Measured,
    /// Four times as wide, after demonstrations.
    pub(super) large_sft: Measured,
    /// Weak, middling, strong.
    pub(super) judges: Vec<JudgeOutcome>,
    /// The best accuracy that labels so noisy allow.
    pub(super) ceiling: f64,
    /// All arms.
    pub(super) arms: Vec<ArmOutcome>,
}

impl SeedOutcome {
    /// The outcome of an arm.
    pub(super) fn of(&self, arm: Arm) -> &ArmOutcome {
        self.arms.iter().find(|outcome| outcome.arm == arm).expect("every arm of arm::all is run")
    }
}
