//! A learning rate that is a thousand times too high: what users get of it.

use std::collections::HashSet;

use policy::{PolicyVersion, Rollout, TokenId};

use super::{super::*, world::*};
use crate::{
    rollout_log::{Act, VersionState},
    stats::UpdateOutcome,
};

/// Of a healthy rate for a model of this size, a thousandfold.
const RATE: f64 = 1000.0 * 1e-3;

/// Pays for different tokens, up to so many: who says one thing over and over, or next to nothing, gets little.
fn variety(ids: &[TokenId], n_max: usize) -> f64 {
    let n_different = ids.iter().collect::<HashSet<_>>().len();
    4.0 * n_different.min(n_max) as f64 / n_max as f64
}

fn rule(rollout: &Rollout) -> f64 {
    variety(&ids(rollout), 8)
}

/// The same of a prompt and its answer.
fn rule_of_all(ids: &[TokenId]) -> f64 {
    variety(ids, 14)
}

fn raging(config: &mut config::Ppo) {
    config.rollouts_per_update = 64;
    config.minibatch = 32;
    config.epochs = 2;
    config.policy_learning_rate = RATE;
    config.missing_eos_score = 0.0;
    config.gate_tokens = 16;
}

/// And nothing inside the round that would notice.
fn without_rails(config: &mut config::Ppo) {
    raging(config);
    (config.stop_kl, config.skip_kl) = (1000.0, 1000.0);
    (config.grad_spike, config.ratio_spike, config.ess_min) = (0.0, 0.0, 0.0);
    config.parity_gap_max = 1000.0;
}

/// Goal: with rails the round is taken back; without them the gate refuses what comes of it, and says why. Method: three rounds of
/// each; every answer in between comes from version 0.
#[test]
fn a_rate_a_thousand_times_too_high_never_reaches_users_of_a_strict_gate() {
    for (has_rails, outcome) in [(true, UpdateOutcome::NoStep), (false, UpdateOutcome::Rejected)] {
        let mut world = World::new(if has_rails { raging } else { without_rails });
        let learner = world.start_learner_judged_by(rule_of_all);
        for n in 1..=3 {
            let served = world.serve_ending(64);
            assert!(served.iter().all(|rollout| rollout.version == PolicyVersion::SFT));
            world.judge(rule);
            let record = world.until_updates(&learner, n).pop().unwrap();
            assert_eq!(record.outcome, outcome, "{:?} {:?}", record.reason, record.numbers);
            if let Some(version) = record.version {
                let row = world.registry.row(version).unwrap().unwrap();
                assert_eq!((row.state, row.reason.as_ref()), (VersionState::Rejected, record.reason.as_ref()));
                assert!(!row.reason.unwrap().is_empty(), "the report says why");
            }
        }
        assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT);
        world.close();
    }
}

/// Goal: without a gate it serves, and not for long. Method: the same learner; its version is judged by the rule that judged the
/// last good one.
#[test]
fn without_a_gate_the_watch_takes_it_back() {
    let mut world = World::new(|config| {
        without_rails(config);
        config.gate = "off".to_string();
    });
    let learner = world.start_learner_judged_by(rule_of_all);
    world.serve_ending(64);
    world.judge(rule);
    let record = world.until_updates(&learner, 1).pop().unwrap();
    assert_eq!(record.outcome, UpdateOutcome::Promoted, "{:?}", record.reason);
    // Fewer than the next update would take, so that there is nothing to be learnt from them meanwhile.
    for rollout in world.serve_ending(60) {
        assert_eq!(rollout.version, PolicyVersion(1));
    }
    world.judge(rule);
    eventually("a rollback", || learner.counters().rollbacks == 1);
    eventually("the pause", || matches!(learner.status().state, LearnerState::Halted(_)));
    assert_eq!(world.serve_ending(1)[0].version, PolicyVersion::SFT);
    let rows = world.registry.rows().unwrap();
    assert!(rows[1].reason.as_deref().unwrap().starts_with("rolled back"), "{:?}", rows[1].reason);
    let acts = world.log.reader().audit(0, 100).unwrap().into_iter().map(|row| {
        let Act { who, action, subject } = row.act;
        format!("{} {} {}", who.actor, action.as_str(), subject.unwrap_or_default())
    });
    assert_eq!(acts.collect::<Vec<_>>(), ["learner promote policy@1", "watch rollback policy@0", "watch pause "]);
    world.close();
}
