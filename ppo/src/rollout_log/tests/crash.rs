//! kill -9. The child is this very test binary, told by a variable to run one scenario and to print what it was promised;
//! the parent kills it at a moment that differs each round, reopens the folder and holds the log to the promises.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use super::*;

const SCENARIO: &str = "HONED_LOG_CRASH_SCENARIO";
const FOLDER: &str = "HONED_LOG_CRASH_FOLDER";

/// Starts the child, reads `n_lines` lines of promises, kills it, and returns every promise that it had printed by then.
fn promises_until_killed(scenario: &str, dir: &Path, n_lines: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rollout_log::tests::crash::child", "--nocapture", "--quiet"])
        .env(SCENARIO, scenario)
        .env(FOLDER, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut promises: Vec<String> = Vec::new();
    for line in lines {
        let line = line.unwrap();
        promises.extend(line.strip_prefix("promise ").map(str::to_string));
        if promises.len() == n_lines {
            // SIGKILL; what is already in the pipe is still read, because it was promised.
            child.kill().unwrap();
        }
    }
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    child.wait().unwrap();
    assert!(promises.len() >= n_lines, "the child ended after {} promises: {words}", promises.len());
    promises
}

fn promise(what: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "promise {what}").unwrap();
    out.flush().unwrap();
}

/// Not a test of its own: the process that the others kill.
#[test]
fn child() {
    let (Ok(scenario), Ok(dir)) = (std::env::var(SCENARIO), std::env::var(FOLDER)) else {
        return;
    };
    let log = open(&PathBuf::from(dir));
    let start = everything(&log).len() as u32;
    match scenario.as_str() {
        "append" => {
            for n in start.. {
                log.append(rollout(n, 0)).unwrap();
                if n % 3 == 0 {
                    log.flush().unwrap();
                    promise(n);
                }
            }
        }
        "feedback" => {
            for n in start.. {
                log.append(rollout(n, 0)).unwrap();
                let words = Feedback {
                    id: rollout(n, 0).id,
                    user: None,
                    score: Some(f64::from(n)),
                    label: None,
                    edit: None,
                    comment: None,
                    created_ms: 0,
                };
                log.append_feedback(words).unwrap();
                promise(n);
            }
        }
        "train" => {
            for n in start.. {
                log.append(rollout(n, 0)).unwrap();
                log.flush().unwrap();
                score_all(&log, 1.0);
                let Claim::Granted(rows) = claim(&log, 1, &[0]) else {
                    continue;
                };
                promise(format!("claimed {}", rows[0].seq.0));
                let outcome = Outcome::Trained(PolicyVersion(u64::from(n) + 1));
                assert_eq!(log.settle(vec![(rows[0].seq, outcome)]).unwrap(), 1);
                promise(format!("trained {} {}", rows[0].seq.0, n + 1));
            }
        }
        other => panic!("unknown scenario {other}"),
    }
}

#[test]
fn every_acknowledged_exchange_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for n_lines in [1, 7, 20] {
        let promises = promises_until_killed("append", dir.path(), n_lines);
        let last: usize = promises.last().unwrap().parse().unwrap();
        let rows = everything(&open(dir.path()));
        assert!(rows.len() > last, "{} rows, but {last} was acknowledged", rows.len());
        for (n, row) in rows.iter().enumerate() {
            assert_eq!(row.rollout, rollout(n as u32, 0), "order and content hold without a gap");
        }
    }
}

#[test]
fn every_acknowledged_feedback_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for n_lines in [1, 9] {
        let promises = promises_until_killed("feedback", dir.path(), n_lines);
        let last: usize = promises.last().unwrap().parse().unwrap();
        let rows = everything(&open(dir.path()));
        for (n, row) in rows.iter().enumerate().take(last + 1) {
            assert_eq!(row.feedback[0].score, Some(n as f64));
        }
        assert!(rows.len() > last);
    }
}

/// Goal: after a crash no claim is lost, and no rollout trains twice. Method: kill between claims and settlements, reopen,
/// look at every row, and let the next child go on with the same folder.
#[test]
fn claims_of_a_killed_learner_come_back_and_none_trains_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut trained = std::collections::BTreeMap::new();
    for n_lines in [1, 4, 7, 12] {
        for promise in promises_until_killed("train", dir.path(), n_lines) {
            let words: Vec<&str> = promise.split(' ').collect();
            if words[0] == "trained" {
                let twice = trained.insert(words[1].to_string(), words[2].to_string());
                assert_eq!(twice, None, "{promise}");
            }
        }
        for row in everything(&open(dir.path())) {
            assert_ne!(row.state, RolloutState::Claimed, "row {} is claimed by nobody", row.seq.0);
            if let Some(version) = trained.get(&row.seq.0.to_string()) {
                assert_eq!(row.trained_version, Some(PolicyVersion(version.parse().unwrap())));
            }
        }
    }
}
