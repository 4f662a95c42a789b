//! Guard rails: what may go wrong with a learner that nobody watches, and what is done about it.
//!
//! Each guard compares one number with one limit, and has one answer, from mild to severe:
//!
//! | answer | what is lost |
//! |---|---|
//! | skip the step | one minibatch |
//! | stop the epoch | the rest of the round's policy steps; what was learnt stays |
//! | skip the round | the round; the policy is what it was before it, bit for bit |
//! | pause | learning stands still until the operator resumes it, because going on would do harm or teach nothing |
//!
//! Spikes are judged against the median of the last steps, not against a mean, which a spike would drag along; and a
//! spike is remembered like any other value, so that a level that is really new is accepted after half a memory of it.
//! After [`SKIPPED_ROUNDS_MAX`] rounds in a row that taught nothing, the learner goes back to where it stood before the first
//! of them, and forgets what was usual. Limits that are 0 are off, but for `ppo.parity_gap_max`, which the daemon takes from
//! the type of the weights.

mod trips;

use crate::control::Recent;

pub use trips::{Trip, Trips};

/// Rounds in a row without a policy step, because of guards or the gate, after which the learner goes back.
pub const SKIPPED_ROUNDS_MAX: u32 = 3;
/// Steps of the policy that one round may leave out in a row; then it is taken back.
pub const SKIPPED_STEPS_MAX: u32 = 3;
/// Episodes below which a round makes no step (lm-human-preferences asks for 8 in what is whitened together): a few would be
/// compared with each other alone, and move the weights as far as a hundred.
pub const EPISODES_MIN: usize = 8;
/// Steps that must be remembered before a spike can be told from the usual.
const STEPS_MIN: usize = 8;

/// What watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guard {
    /// k3 between the policy before the round and now is above `ppo.stop_kl`.
    StopKl,
    /// It is above `ppo.skip_kl`.
    SkipKl,
    /// The KL to version 0 is above `ppo.kl_budget`.
    KlBudget,
    /// A gradient norm is far above the median: `ppo.grad_spike`.
    GradientSpike,
    /// The largest ratio that the policy loss takes is far above the median: `ppo.ratio_spike`.
    RatioSpike,
    /// A loss or a gradient is not a finite number, or no rollout of the round could be read by the models.
    NonFinite,
    /// The effective sample size of the importance weights, of which the filtered are 0, is below `ppo.ess_min`.
    Ess,
    /// Engine and trainer disagree about the same weights: `ppo.parity_gap_max`.
    Parity,
    /// Scores rise where it trains and fall where it does not: `ppo.held_out_share`.
    HeldOut,
    /// Of what was given to the round too few may train: fewer than [`EPISODES_MIN`], and of a small round fewer than half.
    EffectiveBatch,
    /// [`SKIPPED_STEPS_MAX`] steps of the policy in a row were left out.
    SkippedSteps,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// This minibatch makes no step.
    SkipStep,
    /// The policy makes no more steps in this round.
    StopEpoch,
    /// The round changes no weight of the policy.
    SkipRound,
    /// As before, and no round follows until the operator says so.
    Pause,
}

impl Action {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Action::SkipStep => "skip_step",
            Action::StopEpoch => "stop_epoch",
            Action::SkipRound => "skip_round",
            Action::Pause => "pause",
        }
    }
}

impl Guard {
    /// All guards.
    pub const ALL: [Guard; 11] = [
        Guard::StopKl,
        Guard::SkipKl,
        Guard::KlBudget,
        Guard::GradientSpike,
        Guard::RatioSpike,
        Guard::NonFinite,
        Guard::Ess,
        Guard::Parity,
        Guard::HeldOut,
        Guard::EffectiveBatch,
        Guard::SkippedSteps,
    ];

    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Guard::StopKl => "stop_kl",
            Guard::SkipKl => "skip_kl",
            Guard::KlBudget => "kl_budget",
            Guard::GradientSpike => "gradient_spike",
            Guard::RatioSpike => "ratio_spike",
            Guard::NonFinite => "non_finite",
            Guard::Ess => "ess",
            Guard::Parity => "parity",
            Guard::HeldOut => "held_out",
            Guard::EffectiveBatch => "effective_batch",
            Guard::SkippedSteps => "skipped_steps",
        }
    }

    /// What is done when it trips.
    #[must_use]
    pub fn action(self) -> Action {
        match self {
            Guard::StopKl => Action::StopEpoch,
            Guard::SkipKl | Guard::Ess | Guard::EffectiveBatch | Guard::SkippedSteps => Action::SkipRound,
            Guard::GradientSpike | Guard::RatioSpike | Guard::NonFinite => Action::SkipStep,
            Guard::KlBudget | Guard::Parity | Guard::HeldOut => Action::Pause,
        }
    }

    /// What the operator can do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Guard::StopKl => "harmless now and then; if every round stops early, lower ppo.policy_learning_rate",
            Guard::SkipKl => "lower ppo.policy_learning_rate, or raise ppo.minibatch",
            Guard::KlBudget => {
                "activate an earlier version, or raise ppo.kl_coef or ppo.kl_budget and restart; then resume learning"
            }
            Guard::GradientSpike => {
                "look at the scores of this round for outliers; lower ppo.score_clip if there are any"
            }
            Guard::RatioSpike => "lower ppo.policy_learning_rate or ppo.epochs, or set ppo.dual_clip = 3",
            Guard::NonFinite => "activate an earlier version if it comes again; report it with the log",
            Guard::Ess => "the rollouts are another policy's: lower ppo.max_staleness, and look at the parity numbers",
            Guard::Parity => {
                "engine and trainer compute different log-probs for the same weights: restart with ppo.dtype=f32 and \
                 policy.flash_attention=off (which is llama.cpp's), or begin a new folder with an f32 or f16 model file; then resume learning"
            }
            Guard::HeldOut => {
                "the reward is being gamed: raise ppo.kl_coef, improve the reward model, or activate an earlier version; \
                 then resume learning"
            }
            Guard::EffectiveBatch => {
                "too few rollouts of the round may train: see why the others were dropped; raise ppo.rollouts_per_update, set \
                 ppo.client_limit to score, or ask for several answers to a prompt where ppo.advantage_estimator compares them"
            }
            Guard::SkippedSteps => {
                "the guards beside it say what was wrong with the steps; look at the scores of this round for outliers, or \
                 lower ppo.policy_learning_rate"
            }
        }
    }

    /// Whether a trip says something about the learner's health, and not about the traffic alone.
    #[must_use]
    pub fn is_about_the_learner(self) -> bool {
        self != Guard::EffectiveBatch
    }
}

/// A limit as it is configured: 0 is none.
#[must_use]
pub fn limit(knob: f64) -> f64 {
    if knob > 0.0 { knob } else { f64::INFINITY }
}

/// A value that is beyond the limit that a spike would have: `factor` times the median of what is usual.
///
/// Returns the limit. `None` when the value is fine, the factor is 0, or too little is remembered to know what is usual.
#[must_use]
pub fn spike(value: f64, usual: &Recent, factor: f64) -> Option<f64> {
    let limit = usual.median().filter(|_| factor > 0.0 && usual.len() >= STEPS_MIN)? * factor;
    (value > limit).then_some(limit)
}

/// Whether scores rise where the policy trains and fall where it does not.
///
/// Both memories, round by round, are cut in halves; the later half's mean must differ from the earlier's by more than two
/// standard errors of that difference, upwards for one and downwards for the other. `None` while there are too few rounds.
/// Returns both differences, training first.
#[must_use]
pub fn parts_ways(training: &Recent, held_out: &Recent) -> Option<(f64, f64)> {
    if !(training.is_full() && held_out.is_full()) {
        return None;
    }
    let (rise, rise_error) = shift(training);
    let (fall, fall_error) = shift(held_out);
    (rise > 2.0 * rise_error && fall < -2.0 * fall_error).then_some((rise, fall))
}

/// How far the later half's mean is above the earlier's, and the standard error of that.
fn shift(recent: &Recent) -> (f64, f64) {
    let values: Vec<f64> = recent.values().collect();
    let (early, late) = values.split_at(values.len() / 2);
    let describe = |half: &[f64]| {
        let n = half.len() as f64;
        let mean = half.iter().sum::<f64>() / n;
        let variance = half.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    };
    let ((before, early_error), (after, late_error)) = (describe(early), describe(late));
    (after - before, (early_error + late_error).sqrt())
}

#[cfg(test)]
mod tests {
    use super::{Guard, Recent, limit, parts_ways, spike};
    use crate::control::{ROUNDS_REMEMBERED, STEPS_REMEMBERED};

    #[test]
    fn a_spike_is_far_above_the_median_and_a_new_level_is_accepted() {
        let mut usual = Recent::new(STEPS_REMEMBERED);
        for i in 0..7 {
            usual.push(1.0 + 0.01 * f64::from(i));
            assert_eq!(spike(1e9, &usual, 10.0), None, "too little is known");
        }
        (0..24).for_each(|_| usual.push(1.0));
        assert_eq!((spike(9.9, &usual, 10.0), spike(10.1, &usual, 10.0)), (None, Some(10.0)));
        assert_eq!(spike(1e9, &usual, 0.0), None, "off");
        let n_skipped = (0..100)
            .take_while(|_| {
                let is_spike = spike(20.0, &usual, 10.0).is_some();
                usual.push(20.0);
                is_spike
            })
            .count();
        assert_eq!(n_skipped, STEPS_REMEMBERED / 2 + 1, "half a memory");
    }

    #[test]
    fn a_limit_of_0_is_none() {
        assert_eq!((limit(0.2), limit(1e-9), limit(0.0)), (0.2, 1e-9, f64::INFINITY));
    }

    #[test]
    fn only_opposite_trends_beyond_their_noise_raise_the_alarm() {
        let of = |slope: f64| {
            let mut recent = Recent::new(ROUNDS_REMEMBERED);
            let noise = |i: usize| if i.is_multiple_of(2) { 0.05 } else { -0.05 };
            (0..ROUNDS_REMEMBERED).for_each(|i| recent.push(slope * i as f64 + noise(i)));
            recent
        };
        assert!(parts_ways(&of(0.1), &of(-0.1)).is_some());
        for (training, held_out) in [(0.1, 0.1), (-0.1, -0.1), (-0.1, 0.1), (0.1, 0.0), (0.0, -0.1)] {
            assert_eq!(parts_ways(&of(training), &of(held_out)), None, "{training} and {held_out}");
        }
        let mut short = Recent::new(ROUNDS_REMEMBERED);
        short.push(1.0);
        assert_eq!(parts_ways(&short, &of(-0.1)), None);
    }

    /// Goal: who follows an advice gets somewhere. Method: every `section.key` in it is a knob, with the value that it names.
    #[test]
    fn advice_names_knobs_that_exist() {
        let (mut n_knobs, mut n_values) = (0, 0);
        for guard in Guard::ALL {
            let words = guard.advice().split([' ', ',', ';', ':']);
            for word in words.filter(|word| word.starts_with("ppo.") || word.starts_with("policy.")) {
                let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
                let sets = value.iter().map(|value| format!("{key}={value}")).collect();
                let config = config::Config::load(config::Sources { file: None, env: Vec::new(), sets });
                let printed = config.unwrap_or_else(|error| panic!("{guard:?}: {error}")).print();
                let (section, name) = key.split_once('.').unwrap();
                let of_section = printed.split_once(&format!("[{section}]\n")).unwrap().1;
                assert!(of_section.contains(&format!("\n{name} = ")), "{guard:?} advises {key}");
                (n_knobs, n_values) = (n_knobs + 1, n_values + usize::from(value.is_some()));
            }
            assert!(!guard.advice().contains("doctor"), "it compares no engine with no trainer");
        }
        assert!(n_knobs > 8 && n_values == 2, "{n_knobs} and {n_values} were looked at");
    }

    #[test]
    fn every_guard_has_its_own_word() {
        let words: std::collections::BTreeSet<&str> = Guard::ALL.into_iter().map(Guard::as_str).collect();
        assert_eq!(words.len(), Guard::ALL.len());
        assert!(Guard::ALL.iter().enumerate().all(|(i, guard)| *guard as usize == i), "in the order of their numbers");
    }
}
