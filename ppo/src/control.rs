//! The small numbers that a learner carries from round to round, beside weights, moments and β.
//!
//! Some are decisions that were made once (the weight of the pretraining text), some are positions (in the order of that
//! text, in the warm-up of the value model, in the rise of the policy's rate), some are memories against which the next step is
//! judged (the last gradient norms). A run that goes on without them is another run: so they can be written down as a list of
//! named numbers, and read back, bit for bit.

mod recent;

use std::collections::BTreeMap;

pub use recent::Recent;

/// Steps that a running median remembers.
pub const STEPS_REMEMBERED: usize = 31;
/// Rounds that a trend remembers.
pub const ROUNDS_REMEMBERED: usize = 16;

/// What [`Models`](crate::models::Models) remember from round to round; [`Models::control`](crate::models::Models::control)
/// writes it down beside β.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlState {
    /// γ that `ppo.ptx = "auto"` has chosen.
    pub ptx_coef: Option<f64>,
    /// Pretraining examples drawn so far: the position in their endless shuffle.
    pub ptx_drawn: u64,
    /// Rounds so far in which only the value model learnt.
    pub n_value_rounds: u64,
    /// Rounds in which the policy made a step, since its moments were fresh, or since a honed that did not count them.
    pub n_policy_rounds: u64,
    /// Gradient norms of the policy before clipping, step by step.
    pub policy_grad_norms: Recent,
    /// Gradient norms of the value model before clipping.
    pub value_grad_norms: Recent,
    /// Largest π/π_old of each step's minibatch.
    pub ratio_maxima: Recent,
    /// Mean score of what trains, round by round.
    pub training_scores: Recent,
    /// Mean score of what is held out, in the same rounds.
    pub held_out_scores: Recent,
}

impl Default for ControlState {
    fn default() -> Self {
        ControlState {
            ptx_coef: None,
            ptx_drawn: 0,
            n_value_rounds: 0,
            n_policy_rounds: 0,
            policy_grad_norms: Recent::new(STEPS_REMEMBERED),
            value_grad_norms: Recent::new(STEPS_REMEMBERED),
            ratio_maxima: Recent::new(STEPS_REMEMBERED),
            training_scores: Recent::new(ROUNDS_REMEMBERED),
            held_out_scores: Recent::new(ROUNDS_REMEMBERED),
        }
    }
}

impl ControlState {
    /// Everything by name, sorted. Counts are exact up to 2^53.
    #[must_use]
    pub fn numbers(&self) -> BTreeMap<String, f64> {
        let mut numbers = BTreeMap::from([
            ("ptx_drawn".to_string(), self.ptx_drawn as f64),
            ("n_value_rounds".to_string(), self.n_value_rounds as f64),
        ]);
        numbers.extend(self.ptx_coef.map(|coef| ("ptx_coef".to_string(), coef)));
        // States of a honed that did not count them have no such number, and their fingerprints are without it.
        let n_policy_rounds = (self.n_policy_rounds > 0).then_some(self.n_policy_rounds as f64);
        numbers.extend(n_policy_rounds.map(|n| ("n_policy_rounds".to_string(), n)));
        for (name, recent) in self.memories() {
            numbers.extend((0..).zip(recent.values()).map(|(i, value): (u32, f64)| (format!("{name}.{i:03}"), value)));
        }
        numbers
    }

    /// The state that was written down; a name that is unknown or missing is left at its start.
    #[must_use]
    pub fn from_numbers(numbers: &BTreeMap<String, f64>) -> ControlState {
        let mut state = ControlState::default();
        let count = |name: &str| numbers.get(name).map_or(0, |n| *n as u64);
        state.ptx_coef = numbers.get("ptx_coef").copied();
        (state.ptx_drawn, state.n_value_rounds) = (count("ptx_drawn"), count("n_value_rounds"));
        state.n_policy_rounds = count("n_policy_rounds");
        for (name, recent) in state.memories_mut() {
            let prefix = format!("{name}.");
            // Sorted by name is oldest first.
            numbers.iter().filter(|(key, _)| key.starts_with(&prefix)).for_each(|(_, value)| recent.push(*value));
        }
        state
    }

    /// Forgets what was usual of a step. A learner that went back because steps were skipped would otherwise judge the next
    /// ones by the same memory, and skip them for ever.
    pub fn forget_steps(&mut self) {
        for memory in [&mut self.policy_grad_norms, &mut self.value_grad_norms, &mut self.ratio_maxima] {
            *memory = Recent::new(STEPS_REMEMBERED);
        }
    }

    fn memories(&self) -> [(&'static str, &Recent); 5] {
        [
            ("policy_grad_norms", &self.policy_grad_norms),
            ("value_grad_norms", &self.value_grad_norms),
            ("ratio_maxima", &self.ratio_maxima),
            ("training_scores", &self.training_scores),
            ("held_out_scores", &self.held_out_scores),
        ]
    }

    fn memories_mut(&mut self) -> [(&'static str, &mut Recent); 5] {
        [
            ("policy_grad_norms", &mut self.policy_grad_norms),
            ("value_grad_norms", &mut self.value_grad_norms),
            ("ratio_maxima", &mut self.ratio_maxima),
            ("training_scores", &mut self.training_scores),
            ("held_out_scores", &mut self.held_out_scores),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{ControlState, STEPS_REMEMBERED};

    #[test]
    fn what_was_written_down_is_read_back_bit_for_bit() {
        let mut state = ControlState {
            ptx_coef: Some(1.0 / 3.0),
            ptx_drawn: 77,
            n_value_rounds: 2,
            n_policy_rounds: 5,
            ..ControlState::default()
        };
        // More than it remembers, so that the oldest are gone and the order matters.
        (0..STEPS_REMEMBERED + 5).for_each(|i| state.policy_grad_norms.push(0.1 * i as f64));
        state.held_out_scores.push(-0.5);
        assert_eq!(ControlState::from_numbers(&state.numbers()), state);
        assert_eq!(ControlState::from_numbers(&Default::default()), ControlState::default());
    }

    /// Goal: a state that an older honed wrote has the fingerprint that it was written with. Method: the names of its numbers.
    #[test]
    fn what_older_states_lack_is_not_written_at_its_start() {
        let names: Vec<String> = ControlState::default().numbers().into_keys().collect();
        assert_eq!(names, ["n_value_rounds", "ptx_drawn"]);
    }
}
