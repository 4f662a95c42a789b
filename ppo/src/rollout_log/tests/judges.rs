//! The reward model is replaced: no round mixes two, and what trained keeps its score.

use super::*;

fn scored(log: &RolloutLog, n: usize, reward_version: &str) -> usize {
    let rows = log.reader().unscored(None, n, u64::MAX).unwrap();
    let record = ScoreRecord { score: 1.0, std: None, reward_version: reward_version.to_string() };
    log.score(rows.into_iter().map(|row| (row.seq, Verdict::Scored(record.clone()))).collect()).unwrap()
}

fn versions(log: &RolloutLog) -> Vec<(RolloutState, Option<String>)> {
    everything(log).into_iter().map(|row| (row.state, row.score.map(|score| score.reward_version))).collect()
}

/// Goal: after a swap only the new model's scores can be claimed, whatever was waiting, and only waiting rows change. Method:
/// rows in every state and judged by everybody, then another model; and the old one's verdict that comes too late.
#[test]
fn what_waits_is_judged_again_by_the_model_that_sits() {
    use RolloutState::{Claimed, Generated, Scored};
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (0..5).for_each(|n| log.append(rollout(n, 0)).unwrap());
    log.flush().unwrap();
    assert_eq!(log.seat_reward_model("model@old").unwrap(), 0);
    for version in ["model@old", "model@old", "0.5*model@old+1*feedback", "feedback"] {
        assert_eq!(scored(&log, 1, version), 1, "{version}");
    }
    let claimed = granted(claim(&log, 1, &[0]));
    assert_eq!(log.seat_reward_model("model@new").unwrap(), 2);
    let said = |version: &str| Some(version.to_string());
    let expected = [
        (Claimed, said("model@old")),
        (Generated, None),
        (Generated, None),
        (Scored, said("feedback")),
        (Generated, None),
    ];
    assert_eq!(versions(&log), expected);
    assert_eq!(scored(&log, 5, "model@old"), 0, "the old one's word comes too late");
    assert_eq!(scored(&log, 5, "2*model@old+1*remote"), 0);
    assert_eq!(scored(&log, 5, "model@new"), 3);
    assert_eq!(granted(claim(&log, 4, &[0])).len(), 4);
    log.settle(vec![(claimed[0].seq, Outcome::Released)]).unwrap();
    assert_eq!(versions(&log)[0], (Generated, None), "what comes back out of a claim is judged again too");
}

/// Goal: a restart with another reward model is a swap too. Method: score, close, open, name another.
#[test]
fn a_restart_with_another_model_judges_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (0..2).for_each(|n| log.append(rollout(n, 0)).unwrap());
    log.flush().unwrap();
    assert_eq!(scored(&log, 2, "model@old"), 2, "nobody was named yet");
    log.close();
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.seat_reward_model("model@new").unwrap(), 2);
    assert_eq!(log.seat_reward_model("model@new").unwrap(), 0);
}
