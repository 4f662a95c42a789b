//! Which sources judge one rollout, and with which weights.
//!
//! Every configuration comes down to one [`Formula`]: `score = w_model·s_model + w_remote·s_remote + w_feedback·s_feedback`.
//! The single sources are the formulas with one weight of 1. A part is never silently left out, because a sum of the
//! other parts is on another scale and would teach the policy that nothing was wrong:
//!
//! - a machine part that fails makes the whole score fail; the rollout stays unscored and is tried again;
//! - a feedback part that did not come in time is replaced, at its own weight, by the source that
//!   `reward.feedback_fallback` names; `"drop"` drops the rollout.

use config::Reward;

use super::feedback::{self, Opinion, Patience};
use crate::score::Score;

/// The weighted sum that judges one response; a machine source with weight 0 is not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Formula {
    /// Weight of the reward model.
    pub model: f64,
    /// Weight of the reward server.
    pub remote: f64,
    /// Weight of what people said, and what they said.
    pub feedback: Option<(f64, Score)>,
}

impl Formula {
    /// The reward model alone.
    pub const MODEL: Formula = Formula { model: 1.0, remote: 0.0, feedback: None };
    /// The reward server alone.
    pub const REMOTE: Formula = Formula { model: 0.0, remote: 1.0, feedback: None };

    /// The sum. A part whose weight is 0 is not looked at, whatever it holds.
    #[must_use]
    pub(crate) fn sum(&self, model: f64, remote: f64) -> f64 {
        let part = |weight: f64, score: f64| if weight == 0.0 { 0.0 } else { weight * score };
        let feedback = self.feedback.map_or(0.0, |(weight, score)| part(weight, score.0));
        part(self.model, model) + part(self.remote, remote) + feedback
    }

    /// Who judges, for the log: `model@1f2e3d4c`, or `0.5*model@1f2e3d4c+1*feedback`.
    #[must_use]
    pub(crate) fn name(&self, model_version: &str) -> String {
        let feedback = self.feedback.map_or(0.0, |(weight, _)| weight);
        let parts = [(self.model, model_version), (self.remote, "remote"), (feedback, "feedback")];
        let asked: Vec<(f64, &str)> = parts.into_iter().filter(|(weight, _)| *weight != 0.0).collect();
        match asked[..] {
            [(1.0, name)] => name.to_owned(),
            _ => asked.iter().map(|(weight, name)| format!("{weight}*{name}")).collect::<Vec<_>>().join("+"),
        }
    }

    fn fall_back(mut self, fallback: Fallback, weight: f64) -> Option<Formula> {
        match fallback {
            Fallback::Model => self.model += weight,
            Fallback::Remote => self.remote += weight,
            Fallback::Drop => return None,
        }
        Some(self)
    }
}

/// The reward model that a score's version names, alone or as a part of a sum: `model@1f2e3d4c` of
/// `0.5*model@1f2e3d4c+1*feedback`.
#[must_use]
pub fn model_of(reward_version: &str) -> Option<&str> {
    let parts = reward_version.split('+').map(|part| part.split_once('*').map_or(part, |(_, name)| name));
    parts.into_iter().find(|name| name.starts_with("model@"))
}

/// What becomes of one unscored rollout now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ruling {
    /// Score it so.
    Judge(Formula),
    /// It waits for people; look again after so many milliseconds.
    Wait {
        /// Milliseconds until the wait is over.
        left_ms: u64,
    },
    /// Nobody judges it.
    Drop,
}

/// The configured sources.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    machines: Formula,
    feedback_weight: f64,
    fallback: Fallback,
    wait_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallback {
    Model,
    Remote,
    Drop,
}

impl Rules {
    /// The rules that a configuration states; `config` has checked its words.
    #[must_use]
    pub fn new(reward: &Reward) -> Rules {
        let machines = |model, remote| Formula { model, remote, feedback: None };
        let (machines, feedback_weight) = match reward.source.as_str() {
            "remote" => (machines(0.0, 1.0), 0.0),
            "feedback" => (machines(0.0, 0.0), 1.0),
            "mix" => (machines(reward.mix_model, reward.mix_remote), reward.mix_feedback),
            _ => (machines(1.0, 0.0), 0.0),
        };
        let fallback = match reward.feedback_fallback.as_str() {
            "remote" => Fallback::Remote,
            "drop" => Fallback::Drop,
            _ => Fallback::Model,
        };
        Rules { machines, feedback_weight, fallback, wait_s: reward.feedback_wait_s }
    }

    /// Whether what people say changes a score: a judged rollout is then judged again.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.feedback_weight != 0.0
    }

    /// Whether the reward model may be asked.
    #[must_use]
    pub fn needs_model(&self) -> bool {
        self.machines.model != 0.0 || (self.listens() && self.fallback == Fallback::Model)
    }

    /// Whether the reward server may be asked.
    #[must_use]
    pub fn needs_remote(&self) -> bool {
        self.machines.remote != 0.0 || (self.listens() && self.fallback == Fallback::Remote)
    }

    /// What becomes of a rollout of `created_ms` about which people said `opinions`. Times in milliseconds since the epoch.
    #[must_use]
    pub fn ruling(&self, opinions: &[Opinion], created_ms: u64, now_ms: u64) -> Ruling {
        if !self.listens() {
            return Ruling::Judge(self.machines);
        }
        match feedback::patience(opinions, created_ms, now_ms, self.wait_s) {
            Patience::Heard(score) => {
                Ruling::Judge(Formula { feedback: Some((self.feedback_weight, score)), ..self.machines })
            }
            Patience::Wait { left_ms } => Ruling::Wait { left_ms },
            Patience::Over => {
                self.machines.fall_back(self.fallback, self.feedback_weight).map_or(Ruling::Drop, Ruling::Judge)
            }
        }
    }

    /// How a text is judged that nobody can have an opinion about, because it never was a response: as a rollout whose
    /// wait is over, and by the reward model where that would be dropped.
    #[must_use]
    pub fn for_text(&self) -> Formula {
        if !self.listens() {
            return self.machines;
        }
        let formula = self.machines.fall_back(self.fallback, self.feedback_weight);
        formula.unwrap_or(Formula::MODEL)
    }
}

#[cfg(test)]
mod tests;
