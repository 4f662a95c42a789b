//! The gate: may these weights serve?
//!
//! Strict always: one failed check refuses the candidate, and a check that could not be made has failed. The checks are
//! those that need no labels and no second opinion:
//!
//! * every weight is finite (the engine's own canary has already seen finite logits of the written file);
//! * the serving engine and the trainer agree about the candidate ([`crate::parity`]);
//! * the policy is not further from the live one than one round may take it: k3 ≤ `ppo.skip_kl`;
//! * with `ppo.kl_adaptive`, the KL to version 0 is below ten times `ppo.kl_target`: the controller lost its grip. With a
//!   fixed β there is no such number: how far the policy goes is then what the operator chose β for;
//! * the round's own objective is finite.
//!
//! A refusal costs one round. It cannot lock learning up: all checks are about the candidate, not about the traffic that
//! the live policy produced, so the next round starts from weights that passed them.

use std::collections::BTreeMap;

use crate::{
    parity::{Parity, ParityLimits},
    update::RoundStats,
};

/// KL to version 0 that refuses a candidate, in multiples of `ppo.kl_target`.
const KL_TARGET_MULTIPLE: f64 = 10.0;

/// What the gate looks at.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Weights of the candidate that are not finite, in number of tensors.
    pub n_broken_tensors: usize,
    /// What the replay found.
    pub parity: Parity,
    /// How far the engines may be apart.
    pub parity_limits: ParityLimits,
    /// The round's numbers.
    pub stats: &'a RoundStats,
}

/// What the gate says.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Why the candidate is refused; empty when it may serve.
    pub refusals: Vec<String>,
    /// What was measured, for the version's row.
    pub numbers: BTreeMap<String, f64>,
}

impl Verdict {
    /// Whether the candidate may serve.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.refusals.is_empty()
    }
}

/// Judges a candidate.
#[must_use]
pub fn judge(evidence: &Evidence<'_>, config: &config::Ppo) -> Verdict {
    let Evidence { n_broken_tensors, parity, parity_limits, stats } = *evidence;
    let mut refusals = Vec::new();
    if n_broken_tensors > 0 {
        refusals.push(format!("{n_broken_tensors} tensors hold weights that are not finite"));
    }
    // Written so that NaN refuses.
    let mut within = |what: &str, value: f64, limit: f64| {
        if !(value.is_finite() && value <= limit) {
            refusals.push(format!("{what}: expected at most {limit}, got {value}"));
        }
    };
    within("log-prob difference between engine and trainer", parity.max, parity_limits.hard);
    within("KL to the live policy, nats per token", stats.policy_approx_kl_k3, config.skip_kl);
    let kl_limit = if config.kl_adaptive { KL_TARGET_MULTIPLE * config.kl_target } else { f64::MAX };
    within("KL to version 0, nats per episode", stats.objective_kl, kl_limit);
    within("objective", stats.objective_rlhf_reward, f64::MAX);
    let numbers = BTreeMap::from([
        ("parity/tokens".to_string(), parity.n_tokens as f64),
        ("parity/max".to_string(), parity.max),
        ("parity/mean".to_string(), parity.mean),
        ("parity/limit".to_string(), parity_limits.hard),
        ("gate/pass".to_string(), f64::from(u8::from(refusals.is_empty()))),
    ]);
    Verdict { refusals, numbers }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ParityLimits = ParityLimits { expected: 2e-3, hard: 2e-2 };

    fn verdict(change: impl FnOnce(&mut Parity, &mut RoundStats, &mut config::Ppo, &mut usize)) -> Verdict {
        let mut parity = Parity { n_tokens: 9, max: 1e-3, mean: 1e-4 };
        let mut stats = RoundStats { objective_kl: 100.0, policy_approx_kl_k3: 0.01, ..RoundStats::default() };
        let mut config = config::Config::default().ppo;
        let mut n_broken_tensors = 0;
        change(&mut parity, &mut stats, &mut config, &mut n_broken_tensors);
        let evidence = Evidence { n_broken_tensors, parity, parity_limits: LIMITS, stats: &stats };
        judge(&evidence, &config)
    }

    #[test]
    fn a_healthy_candidate_passes_whatever_the_kl_under_a_fixed_beta() {
        let verdict = verdict(|_, _, _, _| ());
        assert_eq!(verdict.refusals, Vec::<String>::new());
        assert_eq!((verdict.numbers["gate/pass"], verdict.numbers["parity/max"]), (1.0, 1e-3));
    }

    #[test]
    fn each_check_refuses_alone_and_not_a_number_is_a_refusal() {
        let refusal = |change: fn(&mut Parity, &mut RoundStats, &mut config::Ppo, &mut usize)| {
            let verdict = verdict(change);
            assert_eq!((verdict.refusals.len(), verdict.is_pass()), (1, false), "{:?}", verdict.refusals);
            verdict.refusals[0].clone()
        };
        assert!(refusal(|_, _, _, broken| *broken = 2).contains("2 tensors"));
        assert!(refusal(|parity, _, _, _| parity.max = 0.021).contains("engine and trainer"));
        assert!(refusal(|parity, _, _, _| parity.max = f64::NAN).contains("engine and trainer"));
        assert!(
            refusal(|_, stats, config, _| stats.policy_approx_kl_k3 = 1.01 * config.skip_kl).contains("live policy")
        );
        assert!(refusal(|_, _, config, _| config.kl_adaptive = true).contains("version 0"));
        assert!(refusal(|_, stats, _, _| stats.objective_kl = f64::INFINITY).contains("version 0"));
        assert!(refusal(|_, stats, _, _| stats.objective_rlhf_reward = f64::NAN).contains("objective"));
    }
}
