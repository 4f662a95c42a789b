//! Why an update made no step of the policy, in words.
//!
//! They are made of what the log keeps of an update, so that a restart has the same to say as the process that made it.

use std::collections::BTreeMap;

use crate::{
    guard::Guard,
    rollout_log::DropReason,
    stats::{UpdateOutcome, UpdateRecord},
};

/// What is known of a round without a step.
#[derive(Clone, Copy)]
pub(super) struct Idle<'a> {
    /// What it measured, by name ([`named`](crate::stats::named)).
    pub(super) numbers: &'a BTreeMap<String, f64>,
    /// Its rollouts that do not train, by reason, as far as they are there.
    pub(super) dropped: &'a BTreeMap<DropReason, usize>,
    /// All of its rollouts.
    pub(super) n_rollouts: usize,
}

impl Idle<'_> {
    pub(super) fn reason(&self) -> String {
        if is_warming_up(self.numbers) {
            return "only the value model learnt, which warms up (ppo.value_warmup_updates)".to_string();
        }
        let tripped = |guard: &Guard| is_positive(self.numbers, &format!("guard/{}", guard.as_str()));
        let mut guards: Vec<&str> =
            Guard::ALL.iter().filter(|guard| tripped(guard)).map(|guard| guard.as_str()).collect();
        let n_dropped = self.numbers.get("dropped").map_or(0, |n| *n as usize);
        // That too little was left is no news where nothing was; who filtered it all is.
        if n_dropped >= self.n_rollouts && !self.dropped.contains_key(&DropReason::Guard) {
            guards.retain(|guard| *guard != Guard::EffectiveBatch.as_str());
        }
        match n_dropped {
            0 if guards.is_empty() => "no minibatch made a step of the policy".to_string(),
            0 => format!("guard rails kept the policy where it was: {}", guards.join(", ")),
            n if !guards.is_empty() => {
                let (guards, drops) = (guards.join(", "), self.drops(n));
                format!("guard rails kept the policy where it was: {guards}; rollouts dropped: {drops}")
            }
            n if n >= self.n_rollouts => format!("every rollout of the round was filtered: {}", self.drops(n)),
            n => format!("no minibatch made a step of the policy; rollouts filtered: {}", self.drops(n)),
        }
    }

    fn drops(&self, n_dropped: usize) -> String {
        let n_known: usize = self.dropped.values().sum();
        let known = self.dropped.iter().map(|(reason, n)| format!("{n} {reason}"));
        let gone = n_dropped.checked_sub(n_known).filter(|n| *n > 0).map(|n| format!("{n} that have left the log"));
        known.chain(gone).collect::<Vec<_>>().join(", ")
    }
}

/// Says how an update ended, the louder where it learnt nothing although it was meant to.
pub(super) fn tell(record: &UpdateRecord) {
    let number = |name: &str| record.numbers.get(name).copied();
    let is_idle = record.outcome == UpdateOutcome::NoStep && !is_warming_up(&record.numbers);
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(
                update = record.update,
                outcome = record.outcome.as_str(),
                version = record.version.map(|version| version.0),
                reason = record.reason,
                score = number("objective/scores"),
                kl = number("objective/kl"),
                seconds = record.seconds,
                "update"
            )
        };
    }
    if is_idle { tell!(warn) } else { tell!(info) }
}

/// Whether the round was not meant to move the policy.
fn is_warming_up(numbers: &BTreeMap<String, f64>) -> bool {
    is_positive(numbers, "steps/value_warmup") && is_positive(numbers, "steps/value")
}

fn is_positive(numbers: &BTreeMap<String, f64>, name: &str) -> bool {
    numbers.get(name).is_some_and(|number| *number > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(numbers: &[(&str, f64)], dropped: &[(DropReason, usize)]) -> String {
        let numbers = numbers.iter().map(|(name, number)| ((*name).to_string(), *number)).collect();
        let dropped = dropped.iter().copied().collect();
        Idle { numbers: &numbers, dropped: &dropped, n_rollouts: 32 }.reason()
    }

    #[test]
    fn a_round_without_a_step_says_what_kept_it_from_one() {
        use DropReason::{Guard, OffPolicy, Singleton};
        let all = ("dropped", 32.0);
        assert_eq!(told(&[all], &[(OffPolicy, 32)]), "every rollout of the round was filtered: 32 off_policy");
        let partly = told(&[all], &[(OffPolicy, 20), (Singleton, 2)]);
        assert_eq!(
            partly,
            "every rollout of the round was filtered: 20 off_policy, 2 singleton, 10 that have left the log"
        );
        let guarded = told(&[all, ("guard/kl_budget", 1.0), ("guard/ess", 0.0)], &[(Guard, 32)]);
        assert_eq!(guarded, "guard rails kept the policy where it was: kl_budget; rollouts dropped: 32 guard");
        let skipped = told(&[("dropped", 0.0), ("guard/non_finite", 4.0)], &[]);
        assert_eq!(skipped, "guard rails kept the policy where it was: non_finite");
        let warm = [("steps/value_warmup", 1.0), ("steps/value", 8.0), ("dropped", 1.0)];
        assert!(told(&warm, &[(OffPolicy, 1)]).contains("ppo.value_warmup_updates"));
        let filtered = [("steps/value_warmup", 1.0), ("steps/value", 0.0), all];
        assert!(told(&filtered, &[(OffPolicy, 32)]).starts_with("every rollout"), "a warm-up that learnt nothing");
        let lone = [all, ("guard/effective_batch", 1.0)];
        assert_eq!(told(&lone, &[(Singleton, 32)]), "every rollout of the round was filtered: 32 singleton");
        assert!(told(&lone, &[(Singleton, 30), (Guard, 2)]).starts_with("guard rails"));
        assert_eq!(told(&[], &[]), "no minibatch made a step of the policy");
    }
}
