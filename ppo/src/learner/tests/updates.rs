//! Updates from claim to promotion, and everything that may come between.

use std::fs;

use candle_core::Device;
use policy::{PolicyVersion, TokenId, causal_lm::CausalLm, checkpoint::Checkpoint, sft};

use super::{super::*, world::*};
use crate::{
    guard::Guard,
    rollout_log::{RolloutState, VersionState},
    stats::UpdateOutcome,
    update::pretraining_examples,
};

#[test]
fn traffic_becomes_versions_and_each_serves_the_next_request() {
    let mut world = World::new(|_| ());
    let learner = world.start_learner();
    for n in 1..=3 {
        world.feed();
        let history = world.until_updates(&learner, n);
        let record = &history[n - 1];
        assert_eq!(record.outcome, UpdateOutcome::Promoted, "{:?}", record.reason);
        assert_eq!((record.update, record.version), (n as u64 - 1, Some(PolicyVersion(n as u64))));
        assert!(record.numbers["parity/max"] < 2e-3, "{}", record.numbers["parity/max"]);
        assert!(record.numbers["parity/tokens"] > 0.0);
        let rollouts = world.serve(1);
        assert_eq!(rollouts[0].version, PolicyVersion(n as u64));
    }
    let rows = world.registry.rows().unwrap();
    assert_eq!(rows[3].state, VersionState::Live);
    assert_eq!((rows[3].parent, rows[3].n_rollouts), (Some(PolicyVersion(2)), 8));
    assert!(rows[3].numbers.contains_key("objective/kl") && rows[3].numbers.contains_key("gate/pass"));
    assert_eq!(world.states()[&RolloutState::Trained], 24);
    assert_eq!(world.states().get(&RolloutState::Claimed), None);
    let status = learner.status();
    assert_eq!((status.version, status.n_updates), (PolicyVersion(3), 3));
    let counters = learner.counters();
    assert_eq!((counters.outcomes[&UpdateOutcome::Promoted], counters.trained), (3, 24));
    assert_eq!((counters.loads.count, counters.promotions.count), (3, 3));
    world.close();
}

/// Goal: what a candidate forgot is measured on the texts for that, whether others are learnt from or none. Method: the loss of both
/// files on both texts.
#[test]
fn what_was_forgotten_is_measured_on_texts_of_its_own() {
    let texts = |start: u32| -> Arc<[Sequence]> {
        let document: Vec<TokenId> = (start..start + 90).map(TokenId).collect();
        pretraining_examples(&[document], 6).into()
    };
    for ptx in ["off", "auto"] {
        let mut world = World::new(|config| (config.ptx, config.ptx_tokens) = (ptx.to_string(), 6));
        let (learnt, measured) = (texts(5), texts(100));
        let setup = LearnerSetup { pretraining: learnt.clone(), measured_texts: measured.clone(), ..world.setup(None) };
        let learner = Learner::start(setup).unwrap();
        world.learner = Some(learner.clone());
        world.feed();
        let record = world.until_updates(&learner, 1).remove(0);
        let loss = |version: u64, texts: &[Sequence]| {
            let file = Checkpoint::read(&world.registry.path(PolicyVersion(version))).unwrap();
            sft::mean_nll(&CausalLm::from_checkpoint(&file, &Device::Cpu).unwrap(), texts, 64).unwrap()
        };
        let rise = |texts: &[Sequence]| loss(1, texts) - loss(0, texts);
        let got = record.numbers["gate/ptx_rise"];
        assert!((got - rise(&measured)).abs() < 1e-4, "{ptx}: {got} instead of {}", rise(&measured));
        assert!((got - rise(&learnt)).abs() > 1e-3, "{ptx}: they differ");
        world.close();
    }
}

/// Of a thread; 0 is the caller.
fn nice_of(thread: u32) -> i32 {
    // SAFETY: plain numbers in and out.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, thread) }
}

/// Goal: a resident that the learner loaded serves at the daemon's priority, not at the learner's, which on Linux its
/// threads would inherit. Method: look at every thread that the engine named.
#[test]
fn versions_that_the_learner_loaded_serve_at_normal_priority() {
    let mut world = World::new(|_| ());
    let learner = world.start_learner();
    world.feed();
    world.until_updates(&learner, 1);
    let mut n_checked = 0;
    for entry in fs::read_dir("/proc/self/task").unwrap() {
        let path = entry.unwrap().path();
        let Ok(name) = fs::read_to_string(path.join("comm")) else {
            continue;
        };
        let id: u32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        if name.starts_with("engine-") {
            assert_eq!(nice_of(id), nice_of(0), "{name}");
            n_checked += 1;
        }
    }
    assert!(n_checked >= 2, "version 0 and version 1 are in memory");
    world.close();
}

#[test]
fn with_learning_rate_0_the_published_weights_are_the_same_bits() {
    let mut world = World::new(|config| {
        config.policy_learning_rate = 0.0;
        config.value_learning_rate = 0.0;
    });
    let learner = world.start_learner();
    world.feed();
    let record = world.until_updates(&learner, 1).remove(0);
    assert_eq!(record.outcome, UpdateOutcome::Promoted);
    assert_eq!((record.numbers["val/ratio"], record.numbers["policy/approxkl_avg"]), (1.0, 0.0));
    assert!(record.numbers["objective/kl"].abs() < 1e-4);
    let weights = |n: u64| {
        let checkpoint = Checkpoint::read(&world.registry.path(PolicyVersion(n))).unwrap();
        let bits = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        checkpoint.tensors.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect::<Vec<_>>()
    };
    assert_eq!(weights(0), weights(1));
    world.close();
}

/// Goal: a reward that nobody told the learner about is learnt. Method: responses score by the share of low token ids; a
/// few dozen tiny updates; the mean rises well beyond its noise.
#[test]
fn a_planted_reward_rises_over_versions() {
    let mut world = World::new(|config| {
        config.rollouts_per_update = 32;
        config.minibatch = 16;
        config.policy_learning_rate = 5e-3;
        config.kl_coef = 0.0;
        config.missing_eos_score = 0.0;
        config.stop_kl = 10.0;
        config.skip_kl = 10.0;
        config.epochs = 2;
    });
    let learner = world.start_learner();
    let rule = |rollout: &policy::Rollout| {
        let ids = ids(rollout);
        let share = ids.iter().filter(|id| id.0 < 135).count() as f64 / ids.len() as f64;
        4.0 * (share - 0.5)
    };
    // The daemon's limit ends nearly every response, and its score would be replaced: name the end instead.
    let mut means = Vec::new();
    for n in 1..=12 {
        let rollouts = world.serve_ending(32);
        means.push(rollouts.iter().map(rule).sum::<f64>() / rollouts.len() as f64);
        world.judge(rule);
        world.until_updates(&learner, n);
    }
    let (first, last) = (means[..3].iter().sum::<f64>() / 3.0, means[9..].iter().sum::<f64>() / 3.0);
    assert!(last > first + 0.5, "from {first} to {last}: {means:?}");
    world.close();
}

/// Goal: the average is a model that can be read, and goes with its version. Method: two versions, one kept.
#[test]
fn the_average_of_the_weights_lies_beside_its_version() {
    let mut world = World::new(|config| (config.ema_decay, config.keep_versions) = (0.5, 1));
    let learner = world.start_learner();
    for n in 1..=4 {
        world.feed();
        let record = world.until_updates(&learner, n).pop().unwrap();
        assert_eq!(record.outcome, UpdateOutcome::Promoted, "{:?}", record.reason);
    }
    let tensors = |path: &std::path::Path| {
        let checkpoint = Checkpoint::read(path).unwrap();
        checkpoint.tensors["token_embd.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let newest = PolicyVersion(4);
    let (average, weights) =
        (tensors(&world.registry.companion(newest, "average.gguf")), tensors(&world.registry.path(newest)));
    let base = tensors(&world.registry.path(PolicyVersion::SFT));
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
    let (lag, way) = (distance(&average, &weights), distance(&base, &weights));
    assert!(lag > 0.0 && lag < way, "the average is {lag} behind, the way was {way}");
    let gone = PolicyVersion(1);
    assert!(!world.registry.path(gone).exists() && !world.registry.companion(gone, "average.gguf").exists());
    world.close();
}

/// Goal: a guard that asks for the operator stops learning and nothing else. Method: a budget that the first candidate exceeds, whom
/// a strict gate refuses and another lets live; serving goes on, the reason is on the board, and resuming tries again.
#[test]
fn a_guard_pauses_the_learner_and_says_why() {
    for (gate, outcomes, live) in [
        ("strict", [UpdateOutcome::Rejected; 2], PolicyVersion::SFT),
        ("observe", [UpdateOutcome::Promoted, UpdateOutcome::NoStep], PolicyVersion(1)),
    ] {
        let mut world = World::new(|config| {
            config.policy_learning_rate = 2e-2;
            (config.stop_kl, config.skip_kl, config.kl_budget) = (10.0, 10.0, 1e-3);
            config.gate = gate.to_string();
        });
        let learner = world.start_learner();
        for (n, outcome) in (1..).zip(outcomes) {
            world.feed();
            let record = world.until_updates(&learner, n).remove(n - 1);
            assert_eq!((record.outcome, record.numbers["guard/kl_budget"]), (outcome, 1.0), "{:?}", record.reason);
            eventually("the pause", || matches!(learner.status().state, LearnerState::Halted(_)));
            let status = learner.status();
            assert!(status.is_paused && status.state.reason().unwrap().contains("ppo.kl_budget"), "{:?}", status.state);
            assert_eq!(learner.counters().trips[&Guard::KlBudget], n as u64);
            assert_eq!((world.serve(2).len(), world.engine.live()), (2, live));
            learner.resume().unwrap();
        }
        let reason = learner.history()[1].reason.clone().unwrap();
        assert!(reason.contains("kl_budget"), "{reason}");
        world.close();
    }
}

#[test]
fn a_paused_learner_takes_single_steps() {
    let mut world = World::new(|_| ());
    let learner = world.start_learner();
    learner.pause().unwrap();
    eventually("the pause", || learner.status().state == LearnerState::Paused);
    world.feed();
    world.feed();
    learner.step().unwrap();
    world.until_updates(&learner, 1);
    eventually("the pause after the step", || learner.status().state == LearnerState::Paused);
    assert_eq!(world.states()[&RolloutState::Scored], 8, "one step is one update");
    learner.resume().unwrap();
    world.until_updates(&learner, 2);
    world.close();
}

#[test]
fn an_activation_rolls_back_and_the_next_update_starts_there() {
    let mut world = World::new(|_| ());
    let learner = world.start_learner();
    for n in 1..=2 {
        world.feed();
        world.until_updates(&learner, n);
    }
    let lost = learner.activate(PolicyVersion(1), Some(PolicyVersion(1)), &Who::cli());
    assert!(lost.unwrap_err().to_string().contains("expected policy@1"));
    learner.activate(PolicyVersion(1), Some(PolicyVersion(2)), &Who::cli()).unwrap();
    assert_eq!((world.engine.live(), learner.status().version), (PolicyVersion(1), PolicyVersion(1)));
    world.feed();
    let record = world.until_updates(&learner, 3).remove(2);
    assert_eq!((record.parent, record.version), (PolicyVersion(1), Some(PolicyVersion(3))), "{:?}", record.reason);
    assert!(learner.activate(PolicyVersion(9), None, &Who::cli()).is_err());
    assert_eq!(world.engine.live(), PolicyVersion(3));
    let n_activations = learner.counters().activations;
    learner.activate(PolicyVersion(3), Some(PolicyVersion(3)), &Who::cli()).unwrap();
    assert_eq!(
        learner.counters().activations,
        n_activations,
        "the live version is left as it is, and so is its learner"
    );
    world.close();
}

#[test]
fn a_learner_that_cannot_read_its_weights_says_so_and_recovers() {
    let mut world = World::new(|_| ());
    let path = world.registry.path(PolicyVersion::SFT);
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    let learner = world.start_learner();
    eventually("the failure", || matches!(learner.status().state, LearnerState::Failed(_)));
    fs::rename(&aside, &path).unwrap();
    world.feed();
    assert_eq!(world.until_updates(&learner, 1)[0].outcome, UpdateOutcome::Promoted);
    world.close();
}
