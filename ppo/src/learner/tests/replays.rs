//! Updates computed again from their records.

use std::{fs, path::Path};

use candle_core::Device;
use policy::{
    checkpoint::{Checkpoint, WeightType},
    kernels,
    scalar_model::ScalarModel,
};
use reward::normalization::Normalization;

use super::{
    super::*,
    resume::{N_UPDATES, finish, refuse_everything, spare_the_pass, stocked},
    world::eventually,
};
use crate::{
    replay::{self, Archive, ReplayError},
    state::StateFolder,
};

/// Goal: a replay goes back where the learner went back. Method: four refused updates, the third of which undoes the first
/// three; the third and the fourth, with states and without.
#[test]
fn rounds_that_were_taken_back_are_taken_back_again() {
    let mut world = stocked(refuse_everything);
    let learner = finish(&mut world);
    assert_eq!(learner.counters().restorations, 1);
    let row = world.log.reader().update(2).unwrap().unwrap();
    let streak = row.end.unwrap().streak.unwrap();
    assert_eq!((streak.first, streak.n, streak.went_back), (0, 3, true));
    let config = world.config.clone();
    let folder = world.close();
    let data_dir = folder.path().join("data");
    for _ in 0..2 {
        for update in [2, 3] {
            let comparison = rebuild(&data_dir, &config, update).unwrap();
            assert!(comparison.is_equal(), "{comparison:?}");
        }
        StateFolder::of(&data_dir)
            .updates()
            .iter()
            .for_each(|n| fs::remove_file(data_dir.join(format!("learner/state-{n}"))).unwrap());
    }
}

pub(super) fn rebuild(data_dir: &Path, config: &config::Ppo, update: u64) -> Result<replay::Comparison, ReplayError> {
    rebuild_from(ValueStart::Policy, data_dir, config, update)
}

fn rebuild_from(
    value_start: ValueStart,
    data_dir: &Path,
    config: &config::Ppo,
    update: u64,
) -> Result<replay::Comparison, ReplayError> {
    let archive = Archive::open(data_dir).unwrap();
    let sft = archive.sft().unwrap();
    let beginning = crate::beginning::Beginning::new(&sft, value_start, config).unwrap();
    replay::rebuild(&archive, &beginning, config, update)
}

/// Goal: who replays without the flags of the run is told which to look at. Method: a run whose value model started as the policy,
/// replayed with a reward model that is there.
#[test]
fn a_fresh_start_from_another_reward_model_says_what_to_look_at() {
    let mut world = stocked(|_| ());
    finish(&mut world);
    let config = world.config.clone();
    let folder = world.close();
    let data_dir = folder.path().join("data");
    let sft = Checkpoint::read(&Archive::open(&data_dir).unwrap().sft().unwrap()).unwrap();
    let reward = ScalarModel::from_policy(&sft, 3, &Device::Cpu).unwrap();
    let checkpoint = Box::new(reward.to_checkpoint(&sft, WeightType::F32).unwrap());
    let normalization = Normalization { gain: 1.0, bias: 0.0 };
    let start = ValueStart::RewardModel { checkpoint, normalization, base: None };
    let said = rebuild_from(start, &data_dir, &config, 0).err().unwrap().to_string();
    let words = ["the state before it", "as the configured reward model", "was judged by rule", "--reward-model"];
    words.iter().for_each(|word| assert!(said.contains(word), "{word}: {said}"));
}

/// Goal: an update can be checked by anybody, from its record and the nearest state. Method: every update of a run, with the
/// states of the run and without; then a record that is not true, a rollout that is gone, an update that never was.
#[test]
fn an_update_is_rebuilt_and_compared() {
    let mut world = stocked(|config| (config.keep_states, config.state_every) = (10, 1));
    finish(&mut world);
    let config = world.config.clone();
    let folder = world.close();
    let data_dir = folder.path().join("data");
    let rebuild = |update| rebuild(&data_dir, &config, update);
    for update in 0..N_UPDATES {
        let comparison = rebuild(update).unwrap();
        assert!(comparison.is_equal(), "{comparison:?}");
        assert!(comparison.numbers.len() > 40 && comparison.digests[0].is_some());
    }
    assert_eq!(rebuild(2).unwrap().began_with, Some(2));
    fs::remove_dir_all(data_dir.join("learner")).unwrap();
    fs::create_dir(data_dir.join("learner")).unwrap();
    let comparison = rebuild(2).unwrap();
    assert!(comparison.is_equal() && comparison.began_with.is_none() && comparison.n_computed == 3);
    let connection = rusqlite::Connection::open(data_dir.join("rollouts.sqlite")).unwrap();
    connection.execute("UPDATE update_rollouts SET score = score + 1 WHERE number = 2 AND position = 0", []).unwrap();
    assert!(!rebuild(2).unwrap().is_equal(), "another score, other weights");
    connection
        .execute("DELETE FROM rollouts WHERE seq = (SELECT seq FROM update_rollouts WHERE number = 1)", [])
        .unwrap();
    let error = rebuild(1).err().unwrap();
    assert!(matches!(&error, ReplayError::Pruned { update: 1, n_used: 8, missing } if missing.len() == 1), "{error}");
    assert!(error.to_string().contains("rows 9"), "{error}");
    assert!(matches!(rebuild(2), Err(ReplayError::Pruned { update: 1, .. })), "the way to it needs update 1");
    assert!(matches!(rebuild(9), Err(ReplayError::NoRecord(9))));
}

/// Goal: an update is repeated with the rates and costs of its record, and one of an older honed with what there was then. Method: runs
/// whose head has a rate of its own and whose answers pay for their length, replayed by who has neither, with states and without; a
/// run of adapters with one rate, whose records then lose the line that says so, replayed by who has two.
#[test]
fn rates_and_costs_are_those_of_the_record() {
    let check = |data_dir: &Path, config: &config::Ppo, names: &[&str]| {
        for update in 0..N_UPDATES {
            let comparison = rebuild(data_dir, config, update).unwrap();
            assert!(comparison.is_equal(), "{comparison:?}");
            let told: Vec<&str> = comparison.numbers.iter().map(|number| number.0.as_str()).collect();
            let all = ["lr_value_head", "objective/length_penalty"];
            assert_eq!(all.map(|name| told.contains(&name)), all.map(|name| names.contains(&name)));
        }
    };
    for (lora_rank, head, length_penalty) in [(0, 1e-2, 0.1), (2, 1e-2, 0.1), (2, 0.0, 0.0)] {
        let mut world = stocked(|config| {
            (config.keep_states, config.state_every, config.lora_rank) = (10, 1, lora_rank);
            (config.value_head_learning_rate, config.length_penalty, config.length_free) = (head, length_penalty, 4);
        });
        finish(&mut world);
        let today = if head == 0.0 { 1e-4 } else { 0.0 };
        let config = config::Ppo {
            value_head_learning_rate: today,
            length_penalty: 0.0,
            length_free: 0,
            ..world.config.clone()
        };
        let folder = world.close();
        let data_dir = folder.path().join("data");
        if head == 0.0 {
            let connection = rusqlite::Connection::open(data_dir.join("rollouts.sqlite")).unwrap();
            let sql = "UPDATE update_configs
                 SET assignments = replace(assignments, 'ppo.value_head_learning_rate=0.0' || char(10), '')";
            assert!(connection.execute(sql, []).unwrap() > 0);
            let left: i64 = connection
                .query_row("SELECT SUM(instr(assignments, 'value_head')) FROM update_configs", [], |row| row.get(0))
                .unwrap();
            assert_eq!(left, 0);
        }
        let names: &[&str] = if head == 0.0 { &[] } else { &["lr_value_head", "objective/length_penalty"] };
        check(&data_dir, &config, names);
        fs::remove_dir_all(data_dir.join("learner")).unwrap();
        fs::create_dir(data_dir.join("learner")).unwrap();
        check(&data_dir, &config, names);
    }
}

/// Goal: an update is repeated with the old log-probs that it had, whatever is configured by now. Method: a run that guessed them, in
/// the types that this machine has, replayed by who computes them; every digest, and the numbers that are not there.
#[test]
fn an_update_that_guessed_the_old_log_probs_is_repeated_so() {
    let has_bf16 = kernels::bf16_level() > 0;
    for dtype in ["f32", "bf16"].into_iter().filter(|dtype| has_bf16 || *dtype == "f32") {
        let mut world = stocked(|config| {
            spare_the_pass(config);
            (config.keep_states, config.state_every, config.dtype) = (10, 1, dtype.to_string());
        });
        finish(&mut world);
        let config = config::Ppo { proximal: "forward".to_string(), ..world.config.clone() };
        let folder = world.close();
        let data_dir = folder.path().join("data");
        for update in 0..N_UPDATES {
            let comparison = rebuild(&data_dir, &config, update).unwrap();
            assert!(comparison.is_equal() && comparison.digests[0].is_some(), "{dtype}: {comparison:?}");
            let number = |name: &str| comparison.numbers.iter().find(|(known, ..)| known == name).and_then(|it| it.1);
            assert_eq!((number("sampling/ess"), number("staleness/mean")), (None, Some(update as f64)), "{dtype}");
            assert!(number("first_minibatch/ess").is_some_and(|ess| ess > 0.5), "{dtype}");
        }
    }
}

/// Goal: an update is repeated in the type of its record, whatever is configured by now. Method: a run in bf16, replayed by who has
/// f32 in the configuration, with states and without; and gone on with.
#[test]
fn an_update_of_another_type_is_repeated_in_its_own() {
    if kernels::bf16_level() == 0 {
        eprintln!("SKIPPED: this machine does not multiply bf16");
        return;
    }
    for lora_rank in [0, 2] {
        let mut world = stocked(|config| {
            (config.keep_states, config.state_every, config.lora_rank) = (10, 1, lora_rank);
            config.dtype = "bf16".to_string();
        });
        finish(&mut world);
        let config = config::Ppo { dtype: "f32".to_string(), ..world.config.clone() };
        let folder = world.close();
        let data_dir = folder.path().join("data");
        for update in 1..N_UPDATES {
            let comparison = rebuild(&data_dir, &config, update).unwrap();
            assert!(comparison.is_equal(), "{comparison:?}");
        }
        fs::remove_dir_all(data_dir.join("learner")).unwrap();
        let mut world = folder.open(|it| *it = config);
        let learner = world.start_learner();
        eventually("the updates", || learner.counters().replayed == N_UPDATES);
        world.feed();
        eventually("an update", || learner.history().len() as u64 == N_UPDATES + 1);
        assert_eq!(learner.counters().resets, 0);
        world.close();
    }
}
