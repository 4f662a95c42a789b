//! Whoever is away for a while costs time, and no rollout.

use std::sync::atomic::{AtomicBool, Ordering};

use reward::{Judgement, NamedJudge, sources::model::Judge};

use super::{super::*, world::*};
use crate::{rollout_log::RolloutState, stats::UpdateOutcome};

/// Goal: rollouts are not given up for a judge that is not there, however often it is asked. Method: more failures than rollouts
/// survive that may be at fault; then the judge is back.
#[test]
fn a_judge_that_is_away_costs_no_rollout() {
    static IS_THERE: AtomicBool = AtomicBool::new(false);
    let judge: Judge = Arc::new(|sequences: &[Vec<TokenId>]| match IS_THERE.load(Ordering::Relaxed) {
        true => Ok(sequences.iter().map(|_| Judgement::from(1.0)).collect()),
        false => Err("it is away".to_string()),
    });
    let judge = NamedJudge { version: "model@ab".to_string(), judge };
    let scorer = Scorer::start(&config::Config::default().reward, Some(judge), 1).unwrap();
    let mut world = World::new(|_| ());
    let learner = world.start_with(Some(scorer));
    world.feed();
    let n_failures = ATTEMPTS_MAX as usize + 1;
    for n in 1..=n_failures {
        let record = world.until_updates(&learner, n).pop().unwrap();
        assert_eq!(record.outcome, UpdateOutcome::Failed);
        eventually("the rest", || matches!(learner.status().state, LearnerState::Failed(_)));
        let why = learner.status().state.reason().unwrap().to_string();
        assert!(why.contains("it is away") && why.contains("the rollouts are kept"), "{why}");
        assert_eq!(world.states(), [(RolloutState::Scored, 8)].into());
        if n == n_failures {
            IS_THERE.store(true, Ordering::Relaxed);
        }
        // Nothing to be obeyed, but heard: the rest ends.
        learner.step().unwrap();
    }
    let record = world.until_updates(&learner, n_failures + 1).pop().unwrap();
    assert_ne!(record.outcome, UpdateOutcome::Failed, "{:?}", record.reason);
    world.close();
}
