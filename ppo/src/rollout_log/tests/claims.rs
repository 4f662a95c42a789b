//! Claims: order, freshness, shares, and that nothing trains twice.

use super::*;

fn numbers(rows: &[LoggedRollout]) -> Vec<u32> {
    rows.iter().map(|row| row.rollout.prompt[2].0).collect()
}

#[test]
fn claims_take_the_oldest_first_and_all_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..6 {
        log.append(rollout(n, 0)).unwrap();
    }
    log.flush().unwrap();
    assert_eq!(score_all(&log, 1.0), 6);
    assert_eq!(numbers(&granted(claim(&log, 4, &[0]))), [0, 1, 2, 3]);
    assert_eq!(claim(&log, 3, &[0]), Claim::Short { n_ready: 2 });
    assert_eq!(numbers(&granted(claim(&log, 2, &[0]))), [4, 5], "a short claim claims nothing");
}

#[test]
fn stale_rollouts_are_never_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for (n, version) in [(0, 3), (1, 4), (2, 5), (3, 7)] {
        log.append(rollout(n, version)).unwrap();
    }
    log.flush().unwrap();
    score_all(&log, 1.0);
    // The trainer is at 5, whose parent is 4: 3 is too old, 7 is no ancestor (somebody rolled back).
    assert_eq!(numbers(&granted(claim(&log, 2, &[5, 4]))), [1, 2]);
    let rows = everything(&log);
    for at in [0, 3] {
        assert_eq!((rows[at].state, rows[at].reason), (RolloutState::Expired, Some(DropReason::Stale)));
    }
    assert_eq!(log.counters().dropped[&DropReason::Stale], 2);
}

#[test]
fn unscored_rollouts_expire_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    assert_eq!(claim(&log, 1, &[2, 1]), Claim::Short { n_ready: 0 });
    assert_eq!(everything(&log)[0].state, RolloutState::Expired);
}

#[test]
fn a_named_user_fills_at_most_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..8 {
        let user = if n < 5 { Some("bursty".to_string()) } else { None };
        log.append(Rollout { user, ..rollout(n, 0) }).unwrap();
    }
    log.flush().unwrap();
    score_all(&log, 1.0);
    let request = ClaimRequest { n_rollouts: 4, lineage: vec![PolicyVersion(0)], user_share_max: 0.25 };
    assert_eq!(numbers(&granted(log.claim(request).unwrap())), [0, 5, 6, 7]);
}

#[test]
fn a_rollout_trains_at_most_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.flush().unwrap();
    score_all(&log, 1.0);
    let seq = granted(claim(&log, 1, &[0]))[0].seq;
    assert_eq!(log.settle(vec![(seq, Outcome::Trained(PolicyVersion(1)))]).unwrap(), 1);
    assert_eq!(log.settle(vec![(seq, Outcome::Trained(PolicyVersion(2)))]).unwrap(), 0);
    assert_eq!(log.settle(vec![(seq, Outcome::Released)]).unwrap(), 0);
    assert_eq!(score_all(&log, 2.0), 0);
    assert_eq!(claim(&log, 1, &[0]), Claim::Short { n_ready: 0 });
    assert_eq!(everything(&log)[0].trained_version, Some(PolicyVersion(1)));
}

#[test]
fn what_cannot_train_is_dropped_when_logged_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let base = rollout(0, 0);
    let with_sampling = |change: fn(&mut SamplingParams)| {
        let mut rollout = base.clone();
        change(&mut rollout.sampling);
        rollout
    };
    let mut cut = base.clone();
    cut.response[1].log_kept_mass = 0.5_f32.ln();
    let mut broken = base.clone();
    broken.response[2].behavior = LogProb(f32::NAN);
    let cases = [
        (Rollout { response: Vec::new(), ..base.clone() }, DropReason::Empty),
        (Rollout { finish: FinishReason::Cancelled, ..base.clone() }, DropReason::Cancelled),
        (with_sampling(|s| s.temperature = 0.0), DropReason::Greedy),
        (with_sampling(|s| s.temperature = 1e-40), DropReason::Greedy),
        (with_sampling(|s| s.presence_penalty = 0.5), DropReason::Altered),
        (with_sampling(|s| s.logit_bias = vec![(TokenId(4), 1.0)]), DropReason::Altered),
        (with_sampling(|s| s.constrained = true), DropReason::Altered),
        (cut, DropReason::TruncatedMass),
        (broken, DropReason::NonFinite),
    ];
    for (n, (case, _)) in cases.iter().enumerate() {
        let id = RolloutId { request: "cmpl-x".to_string(), index: n as u32 };
        log.append(Rollout { id, ..case.clone() }).unwrap();
    }
    log.flush().unwrap();
    for (row, (_, reason)) in everything(&log).iter().zip(&cases) {
        assert_eq!((row.state, row.reason), (RolloutState::Dropped, Some(*reason)));
    }
    let mut slightly_cut = rollout(1, 0);
    slightly_cut.response[0].log_kept_mass = 0.95_f32.ln();
    assert_eq!(obstacle(&slightly_cut), None);
    slightly_cut.sampling.min_tokens = 3;
    assert_eq!(obstacle(&slightly_cut), None, "a ban cuts mass, and its mass is judged");
    for finish in [FinishReason::ClientLimit, FinishReason::DaemonLimit] {
        assert_eq!(obstacle(&Rollout { finish, ..rollout(1, 0) }), None);
    }
}

#[test]
fn a_score_that_is_no_number_drops_the_rollout() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.flush().unwrap();
    assert_eq!(score_all(&log, f64::NAN), 1);
    assert_eq!(everything(&log)[0].reason, Some(DropReason::NonFinite));
}
