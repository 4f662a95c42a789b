//! Fault injection: a daemon under traffic is killed at a random failpoint or a random moment, again and again on one folder,
//! and after each death the folder is held to what was promised.
//!
//! * 0 answered feedback and 0 committed exchanges lost;
//! * 0 exchanges trained twice: an update's rollouts are in no other, and each version has the rollouts that its row counts;
//! * 0 versions torn: every file that a row wants has its digest, one row is live, nobody's candidate is left;
//! * always a serving version: each start answers, also after the live version's file was damaged in between; nobody is excused
//!   where no failpoint is armed;
//! * 0 halts lost: what the watch rolled back is not learnt from after the next start (`halts`).
//!
//! `HONED_KILLS` and `HONED_SEED` choose how many and which; a seed repeats every choice (the moments within a life are the
//! machine's). What a power cut would do beyond this, with pages that were written and not synced, is SQLite's and the file
//! system's part: a killed process loses nothing that it wrote.

mod clients;
mod fate;
mod faults;
mod folder;
mod halts;
mod points;

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use self::{
    clients::{Clients, post},
    fate::Fate,
    folder::Ledger,
};
use crate::harness::{
    client::{Reply, raw, request, until_ready},
    model,
    process::Process,
};

/// Deaths in a plain run of the tests.
const N_KILLS: u64 = 20;
const SEED: u64 = 1;
/// The life that finds exchanges older than what is kept: not the first, which makes the folder.
const OLD_BEFORE: u64 = 2;

const SETS: [&str; 20] = [
    "ppo.enabled=true",
    "reward.source=feedback",
    "reward.feedback_fallback=drop",
    "ppo.rollouts_per_update=8",
    "ppo.minibatch=4",
    "ppo.warmup_updates=0",
    "ppo.policy_learning_rate=1e-4",
    "ppo.max_staleness=64",
    "ppo.threads=1",
    "ppo.cpu_share=1",
    "ppo.keep_versions=3",
    "ppo.ema_decay=0.5",
    "ppo.ema_judge_every=2",
    "ppo.state_every=2",
    "ppo.stop_kl=1",
    "ppo.log.commit_ms=10",
    "ppo.log.keep_days=1",
    "ppo.log.scrub_pii=redact",
    "policy.parallel=4",
    "daemon.import_loss_max=0",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Goal and method: see above.
#[test]
fn random_kills_lose_nothing_repeat_nothing_and_tear_nothing() {
    let (n_kills, seed) = (number("HONED_KILLS", N_KILLS), number("HONED_SEED", SEED));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (data, models) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let import_dir = format!("daemon.import_dir={}", models.path().display());
    let sets: Vec<&str> = SETS.into_iter().chain([import_dir.as_str()]).collect();
    let mut ledger = Ledger::new(data.path());
    let started = Instant::now();
    let mut n_unborn = 0;
    for n in 0..n_kills {
        let fate = Fate::draw(&mut random);
        eprintln!("kill {n} of seed {seed}: {fate:?}");
        model::write(&models.path().join(format!("{n}.gguf")), 1000 + n);
        if n == OLD_BEFORE {
            ledger.add_old_exchanges();
        }
        let before = ledger.newest_version();
        match Process::try_serve(data.path(), &sets, &fate.failpoints) {
            Ok(daemon) => {
                ledger.check_restart(before, answers(&daemon, &fate.failpoints).as_deref());
                live_and_die(daemon, &fate, &mut ledger, &format!("{n}.gguf"), random.random());
            }
            // Killed, or told to fail, before it served: the next start shows whether that did harm.
            Err(status) => {
                assert!(!fate.failpoints.is_empty(), "it did not start: {status}");
                n_unborn += 1;
            }
        }
        ledger.check_folder();
        if random.random_bool(0.1) {
            ledger.damage_live_version();
        }
    }
    let before = ledger.newest_version();
    let daemon = Process::try_serve(data.path(), &sets, "").expect("it starts in the end");
    ledger.check_restart(before, answers(&daemon, "").as_deref());
    ledger.until_old_exchanges_are_gone(Duration::from_secs(60));
    drop(daemon);
    let report = ledger.report();
    eprintln!("{n_kills} kills, {n_unborn} before serving, in {:.0} s: {report}", started.elapsed().as_secs_f64());
    assert!(report.n_promoted > 0 && report.n_feedback > 0, "nothing was learnt, so nothing was shown: {report}");
}

/// Serves clients until the fate strikes, at the latest after a while.
fn live_and_die(mut daemon: Process, fate: &Fate, ledger: &mut Ledger, file: &str, seed: u64) {
    let clients = Clients::start(daemon.address, file, seed);
    let until = Instant::now() + fate.life;
    let mut sure = Vec::new();
    while Instant::now() < until && !daemon.has_ended() {
        // What a reader sees is committed.
        sure = ledger.committed();
        std::thread::sleep(Duration::from_millis(50));
    }
    if !daemon.has_ended() {
        daemon.signal(libc::SIGKILL);
        daemon.wait();
    }
    ledger.expect(sure, clients.stop());
}

/// The version that answers a question. Where a failpoint is armed it may strike right here, and then nobody knows.
fn answers(daemon: &Process, failpoints: &str) -> Option<String> {
    let body = json!({"prompt": "the sky", "max_tokens": 2, "store": false});
    if !failpoints.is_empty() {
        let answer = post(daemon.address, "/v1/completions", &body)?;
        return Some(answer["system_fingerprint"].as_str().expect("who answered").to_owned());
    }
    until_ready(daemon.address);
    let json = [("content-type", "application/json")];
    Some(answer_of(&raw(daemon.address, &request("POST", "/v1/completions", &json, body.to_string().as_bytes()))))
}

/// The version that an answer names, which must be one.
fn answer_of(reply: &Reply) -> String {
    assert!(reply.status == 200, "nobody answers: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
    let who = reply.json()["system_fingerprint"].as_str().map(str::to_owned);
    who.unwrap_or_else(|| panic!("who answered? {}", String::from_utf8_lossy(&reply.body)))
}

/// Goal: a failpoint at which nobody dies shows nothing. Method: those that a random life never or seldom comes by, one after the
/// other, in a folder and beside requests that lead there; then a start without.
#[test]
fn points_that_random_kills_seldom_reach_are_survived() {
    points::check_that_each_is_survived();
}

/// Goal: a harness that could not see a fault would be worth nothing. Method: each promise is broken by hand in a folder.
#[test]
fn the_ledger_sees_what_is_lost_trained_twice_or_torn() {
    faults::check_that_they_are_seen();
}

/// Goal: a rollback halts learning, also when the process dies of it. Method: users judge a version badly; the daemon is killed the
/// moment the earlier one is live, and started again.
#[test]
fn a_death_right_after_a_rollback_leaves_learning_halted() {
    halts::check_that_they_stay();
}
