//! How far the optimisers step in a round.

use policy::scalar_model::is_head;

use crate::{control::ControlState, schedule::warmup_then_constant};

/// Learning rates start at this share of their peak (InstructGPT C.4).
const WARMUP_START: f64 = 0.1;

/// Adam step sizes of this round.
#[derive(Clone, Copy, Debug)]
pub(super) struct LearningRates {
    pub(super) policy: f64,
    pub(super) value: f64,
    /// Of the value model's head; `None`: as of the rest of it.
    pub(super) value_head: Option<f64>,
}

impl LearningRates {
    /// The policy's rate rises with its own rounds since its moments were fresh: neither the rounds in which the value model warms
    /// up alone nor those before an activation tell Adam how large its gradients are. The value model learns in every round; `update`
    /// counts them.
    pub(super) fn of(config: &config::Ppo, control: &ControlState, update: u64) -> LearningRates {
        let rate = |peak, n_rounds| warmup_then_constant(peak, WARMUP_START, n_rounds, config.warmup_updates);
        LearningRates {
            policy: rate(config.policy_learning_rate, control.n_policy_rounds),
            value: rate(config.value_learning_rate, update),
            value_head: Some(config.value_head_learning_rate).filter(|peak| *peak > 0.0).map(|peak| rate(peak, update)),
        }
    }

    /// Of a parameter of the value model.
    pub(super) fn of_value(self, name: &str) -> f64 {
        self.value_head.filter(|_| is_head(name)).unwrap_or(self.value)
    }
}
