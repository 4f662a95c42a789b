//! kill -9 of the real daemon while it learns: what it has published in the end are the bits of a daemon that nobody killed.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use candle_core::Device;
use policy::{
    FinishReason, LogProb, PolicyVersion, Rollout, RolloutId, SampledToken, SamplingParams, TokenId,
    causal_lm::CausalLm,
    checkpoint::Checkpoint,
    sequence_batch::{Sequence, SequenceBatch},
};
use ppo::{
    RolloutLog,
    rollout_log::{LogReader, LogSettings, ScoreRecord, Verdict},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::harness::{
    model,
    process::{self, Process},
};

const N_UPDATES: u64 = 4;
const N_ROLLOUTS: usize = 16;
/// Long enough for a kill to fall into a round: a dozen optimiser steps of each model.
const RESPONSE: usize = 48;

pub(crate) const SETS: [&str; 11] = [
    "ppo.enabled=true",
    "reward.source=feedback",
    "reward.feedback_fallback=drop",
    "ppo.rollouts_per_update=16",
    "ppo.minibatch=4",
    "ppo.micro_batch_tokens=52",
    "ppo.epochs=3",
    "ppo.max_staleness=64",
    "ppo.policy_learning_rate=1e-4",
    "ppo.threads=1",
    "ppo.stop_kl=1",
];

/// Fills a log with judged rollouts for every update, so that a run depends on nothing but its own steps.
pub(crate) fn stock(data_dir: &Path) {
    let policy = Checkpoint::read(&model::file()).and_then(|c| CausalLm::from_checkpoint(&c, &Device::Cpu));
    let policy = policy.expect("a model");
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let settings = LogSettings { commit_ms: 10, queue: 4096, rescore_on_feedback: true };
    let log = RolloutLog::open(data_dir, &settings).expect("a log");
    for n in 0..N_UPDATES * N_ROLLOUTS as u64 {
        let mut tokens = |n: usize| -> Vec<TokenId> { (0..n).map(|_| TokenId(random.random_range(10..250))).collect() };
        let (prompt, response) = (tokens(4), tokens(RESPONSE));
        let batch = SequenceBatch::new(vec![Sequence::new(&prompt, &response)]);
        let log_probs = policy.frozen_log_probs(&batch, &[1.0]).expect("finite").log_probs;
        let sampled = |(id, log_prob): (TokenId, f32)| {
            let log_prob = LogProb(log_prob);
            SampledToken { id, log_prob, behavior: log_prob, log_kept_mass: 0.0 }
        };
        let rollout = Rollout {
            id: RolloutId { request: format!("cmpl-{n:016x}"), index: 0 },
            version: PolicyVersion::SFT,
            prompt,
            response: response.into_iter().zip(log_probs).map(sampled).collect(),
            sampling: SamplingParams::default(),
            finish: FinishReason::EndToken,
            user: None,
            created_ms: n,
        };
        log.append(rollout).expect("room");
    }
    log.flush().expect("a commit");
    let rows = log.reader().unscored(None, 10_000, u64::MAX).expect("rows");
    let score = |n: i64| ScoreRecord { score: (n % 3) as f64 - 1.0, std: None, reward_version: "test".to_owned() };
    log.score(rows.iter().map(|row| (row.seq, Verdict::Scored(score(row.seq.0)))).collect()).expect("scored");
    log.close();
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What each update began and ended with.
fn history(reader: &LogReader) -> Vec<[String; 4]> {
    let line = |number| {
        let row = reader.update(number).expect("readable").expect("recorded");
        let end = row.end.expect("ended");
        [row.start.state_before, end.outcome.as_str().to_owned(), end.digest.unwrap_or_default(), end.state_after]
    };
    (0..N_UPDATES).map(line).collect()
}

fn n_ended(reader: &LogReader) -> u64 {
    reader.newest_update().expect("readable").map_or(0, |row| row.start.number + 1)
}

fn replay(data_dir: &Path, update: u64) -> Output {
    let mut command = Command::new(process::binary());
    command.args(["replay", &update.to_string(), "--data-dir"]).arg(data_dir);
    command.args(["--set", SETS[1], "--set", SETS[2]]).output().expect("it runs")
}

/// Goal: no kill changes a published bit, and each update can be checked beside the daemon. Method: two folders with the
/// same rollouts; in one the daemon is killed in the middle of an update, and again right after another has ended.
#[test]
fn a_killed_learner_publishes_what_an_undisturbed_one_does() {
    let (calm, killed) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    [&calm, &killed].into_iter().for_each(|folder| stock(folder.path()));
    let daemon = Process::serve(calm.path(), &SETS);
    let reader = LogReader::open(calm.path()).expect("a log");
    wait_for("the undisturbed daemon", || n_ended(&reader) == N_UPDATES);
    drop(daemon);
    let expected = history(&reader);
    let reader = LogReader::open(killed.path()).expect("a log");
    let in_the_middle = || reader.open_update().expect("readable").is_some_and(|row| row.start.number >= 1);
    let after_an_end = || n_ended(&reader) == 3;
    for moment in [&in_the_middle as &dyn Fn() -> bool, &after_an_end] {
        let mut daemon = Process::serve(killed.path(), &SETS);
        wait_for("the moment to kill", moment);
        daemon.signal(libc::SIGKILL);
        daemon.wait();
    }
    let _daemon = Process::serve(killed.path(), &SETS);
    wait_for("the killed daemon", || n_ended(&reader) == N_UPDATES);
    assert_eq!(history(&reader), expected);
    assert!(expected.iter().any(|line| line[1] == "promoted"), "{expected:?}");
    let output = replay(killed.path(), N_UPDATES - 1);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("equal in every bit"), "{said}");
    assert!(said.contains(&expected[N_UPDATES as usize - 1][2]), "the digest: {said}");
    let output = replay(killed.path(), 77);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("update 77 has no record"), "{said}");
}

/// Goal: an operator whose learner goes nowhere is told, and no other one. Method: a step size of 0, which makes the parent's bits
/// again, and elsewhere the usual one.
#[test]
fn an_update_that_changes_no_weight_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    stock(folder.path());
    let log = folder.path().join("stderr");
    let sets = [&SETS[..], &["ppo.policy_learning_rate=0"]].concat();
    let daemon = Process::serve_logged(folder.path(), &sets, &log, "warn");
    let reader = LogReader::open(folder.path()).expect("a log");
    wait_for("two updates", || n_ended(&reader) >= 2);
    drop(daemon);
    let digest = |number| reader.update(number).expect("readable").and_then(|row| row.end).expect("ended").digest;
    assert!(digest(0).is_some() && digest(0) == digest(1), "{:?} {:?}", digest(0), digest(1));
    let said = fs::read_to_string(&log).expect("a log");
    assert!(said.contains("the update changed no weight"), "{said}");
    let elsewhere = tempfile::tempdir().expect("a folder");
    stock(elsewhere.path());
    let daemon = Process::serve_logged(elsewhere.path(), &SETS, &log, "warn");
    let reader = LogReader::open(elsewhere.path()).expect("a log");
    wait_for("two updates that learn", || n_ended(&reader) >= 2);
    drop(daemon);
    let said = fs::read_to_string(&log).expect("a log");
    assert!(!said.contains("the update changed no weight"), "{said}");
}

/// Goal: a learner that breaks off late ends by itself as long as the drain lasts. Method: it stands still for longer than the grace
/// that is the least, with a claim in its hands.
#[test]
fn a_learner_in_an_update_gets_what_is_left_of_the_drain() {
    let folder = tempfile::tempdir().expect("a folder");
    stock(folder.path());
    let log = folder.path().join("stderr");
    let sets = [&SETS[..], &["daemon.failpoints=claimed=delay:7000", "daemon.drain_s=60"]].concat();
    let mut daemon = Process::serve_logged(folder.path(), &sets, &log, "warn");
    let reader = LogReader::open(folder.path()).expect("a log");
    wait_for("a claim", || reader.open_update().expect("readable").is_some());
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
    let log = fs::read_to_string(log).expect("a log");
    assert!(log.contains("claimed") && !log.contains("did not end"), "{log}");
}
