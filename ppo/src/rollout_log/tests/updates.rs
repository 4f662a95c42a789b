//! Records of updates: there before the update begins, whole or not at all, and what a restart makes of them.

use super::{super::schema, *};

fn start(number: u64) -> UpdateStart {
    UpdateStart {
        number,
        start: Start::Continued,
        parent: PolicyVersion(3),
        parent_digest: "parent".to_string(),
        state_before: "before".to_string(),
        config: "ppo.seed=7\n".to_string(),
        arithmetic: "cpu".to_string(),
        n_threads: 2,
        pretraining: String::new(),
    }
}

fn end(number: u64) -> UpdateEnd {
    UpdateEnd {
        number,
        outcome: UpdateOutcome::NoStep,
        version: None,
        digest: None,
        state_after: "after".to_string(),
        numbers: [("objective/kl".to_string(), 0.1 + 0.2), ("broken".to_string(), f64::NAN)].into(),
        streak: Some(StreakRow { first: 5, n: 3, went_back: true }),
    }
}

fn request(n_rollouts: usize) -> ClaimRequest {
    let lineage = vec![PolicyVersion(3), PolicyVersion(0)];
    ClaimRequest { n_rollouts, lineage, user_share_max: 1.0 }
}

fn filled(dir: &Path, n: u32) -> RolloutLog {
    let log = open(dir);
    (0..n).for_each(|n| log.append(rollout(n, 0)).unwrap());
    log.flush().unwrap();
    score_all(&log, 0.75);
    log
}

fn abandoned(rows: &[LoggedRollout], number: u64) -> Settlement {
    let outcomes = rows.iter().map(|row| (row.seq, Outcome::Released)).collect();
    Settlement { outcomes, update: Some(UpdateChange::Abandon(number)) }
}

#[test]
fn an_update_is_recorded_with_its_claim_and_completed_with_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 4);
    assert_eq!(log.begin_update(request(5), start(7)).unwrap(), Claim::Short { n_ready: 4 });
    assert_eq!(log.reader().open_update().unwrap(), None, "without a claim there is no record");
    let rows = granted(log.begin_update(request(3), start(7)).unwrap());
    let open = log.reader().update(7).unwrap().unwrap();
    assert_eq!((&open.start, &open.lineage, &open.end), (&start(7), &request(3).lineage, &None));
    assert_eq!(open.ended_ms, None);
    assert_eq!(log.reader().open_update().unwrap(), Some(open));
    assert_eq!(log.reader().newest_update().unwrap(), None, "it has not ended");
    let used = log.reader().used_rollouts(7).unwrap();
    assert_eq!(
        used.iter().map(|used| (used.seq, used.score.score)).collect::<Vec<_>>(),
        [1, 2, 3].map(|n| (Seq(n), 0.75))
    );
    let outcomes = rows.iter().map(|row| (row.seq, Outcome::Dropped(DropReason::OffPolicy))).collect();
    let settlement = Settlement { outcomes, update: Some(UpdateChange::End(Box::new(end(7)))) };
    assert_eq!(log.settle(settlement.clone()).unwrap(), 3);
    let ended = log.reader().newest_update().unwrap().unwrap();
    let numbers = [("objective/kl".to_string(), 0.1 + 0.2)].into();
    assert_eq!(ended.end, Some(UpdateEnd { numbers, ..end(7) }), "a number that is none is left out");
    assert!(ended.ended_ms.unwrap() >= ended.claimed_ms);
    assert_eq!(log.reader().newest_updates(9).unwrap(), [ended]);
    assert_eq!(log.reader().drops_of_update(7).unwrap(), [(DropReason::OffPolicy, 3)].into());
    assert!(log.settle(settlement).is_err(), "an update ends once");
}

/// Goal: what trained a version can be told: update, configuration, judges, each rollout, also one that has left the log. Method: an
/// update whose rollouts two judges have scored, and a version that nobody made.
#[test]
fn what_made_a_version_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for (n, judge) in [(0, "model@b"), (1, "model@a"), (2, "model@b")] {
        log.append(rollout(n, 0)).unwrap();
        log.flush().unwrap();
        let score = ScoreRecord { score: 1.0, std: None, reward_version: judge.to_string() };
        log.score(vec![(Seq(i64::from(n) + 1), Verdict::Scored(score))]).unwrap();
    }
    let rows = granted(log.begin_update(request(3), start(7)).unwrap());
    let file = dir.path().join("policy-4.gguf");
    std::fs::write(&file, [0; 123]).unwrap();
    let row = |version| VersionRow {
        version: PolicyVersion(version),
        parent: None,
        state: VersionState::Candidate,
        digest: "d".to_string(),
        path: "policy-4.gguf".into(),
        created_ms: 1,
        n_rollouts: 3,
        reason: None,
        numbers: [].into(),
    };
    log.change_version(VersionChange::Register(row(4)), &Who::learner()).unwrap();
    let outcomes = rows.iter().map(|row| (row.seq, Outcome::Trained(PolicyVersion(4)))).collect();
    let made = UpdateEnd {
        outcome: UpdateOutcome::Promoted,
        version: Some(PolicyVersion(4)),
        digest: Some("d".to_string()),
        ..end(7)
    };
    log.settle(Settlement { outcomes, update: Some(UpdateChange::End(Box::new(made))) }).unwrap();
    Connection::open(database(dir.path())).unwrap().execute("DELETE FROM rollouts WHERE seq = 2", []).unwrap();

    let reader = LogReader::open(dir.path()).unwrap();
    let described = reader.describe(row(4), dir.path()).unwrap();
    let making = described.making.unwrap();
    assert_eq!((described.bytes, making.update), (Some(123), 7));
    assert_eq!(making.reward_versions, ["model@a", "model@b"]);
    assert_eq!(making.config_digest, policy::checkpoint::Digest::of(start(7).config.as_bytes()).to_string());
    let trained = |n: u32| Some((rollout(n, 0).id, RolloutState::Trained));
    let lessons: Vec<_> = reader.used_by(7).unwrap().into_iter().map(|used| (used.seq.0, used.row)).collect();
    assert_eq!(lessons, [(1, trained(0)), (2, None), (3, trained(2))]);
    let retired = VersionRow { state: VersionState::Retired, ..row(5) };
    assert_eq!(reader.describe(retired.clone(), dir.path()).unwrap(), MadeVersion::from(retired));
}

/// Goal: an end and its rollouts are one. Method: an end for an update that was never begun; its rollouts must stay.
#[test]
fn an_end_that_cannot_be_written_moves_no_rollout() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 2);
    let rows = granted(log.begin_update(request(2), start(7)).unwrap());
    let outcomes = rows.iter().map(|row| (row.seq, Outcome::Released)).collect();
    let settlement = Settlement { outcomes, update: Some(UpdateChange::End(Box::new(end(8)))) };
    assert!(log.settle(settlement).is_err());
    assert!(everything(&log).iter().all(|row| row.state == RolloutState::Claimed));
    assert_eq!(log.settle(abandoned(&rows, 7)).unwrap(), 2);
    assert_eq!(log.reader().update(7).unwrap(), None);
    assert!(log.reader().used_rollouts(7).unwrap().is_empty());
}

/// Goal: the update that a process died in keeps its rollouts, others do not. Method: a recorded claim and a plain one, and
/// the log is opened again.
#[test]
fn a_restart_keeps_what_an_open_update_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 4);
    let first = granted(log.begin_update(request(2), start(7)).unwrap());
    granted(log.claim(request(1)).unwrap());
    log.close();
    drop(log);
    let log = open(dir.path());
    let states: Vec<_> = everything(&log).iter().map(|row| row.state).collect();
    assert_eq!(states, [RolloutState::Claimed, RolloutState::Claimed, RolloutState::Scored, RolloutState::Scored]);
    assert_eq!(log.repeat_update(7).unwrap(), first);
    assert_eq!(log.reader().open_update().unwrap().unwrap().n_attempts, 2);
    assert!(log.repeat_update(8).is_err(), "there is no such update");
}

#[test]
fn an_open_update_whose_end_was_lost_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 4);
    granted(log.begin_update(request(2), start(7)).unwrap());
    let second = granted(log.begin_update(request(2), start(7)).unwrap());
    assert_eq!(log.reader().used_rollouts(7).unwrap()[0].seq, second[0].seq);
}

/// Goal: a folder of the first honed opens, with everything in it, and records updates from then on; and reading commands
/// work on it before anybody has migrated it. Method: a file with the first step of the schema only.
#[test]
fn a_log_without_updates_opens_and_gets_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = Connection::open(database(dir.path())).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    schema::migrate_through(&mut connection, &schema::STEPS[..1]).unwrap();
    connection
        .execute(
            "INSERT INTO versions (version, state, digest, path, created_ms, n_rollouts) VALUES (0, 'live', 'd', 'p', 1, 0)",
            [],
        )
        .unwrap();
    drop(connection);
    let old = LogReader::open(dir.path()).unwrap();
    assert_eq!((old.update(0).unwrap(), old.newest_update().unwrap()), (None, None));
    assert_eq!((old.versions().unwrap().len(), old.stats().unwrap().n_rollouts), (1, 0));
    let log = filled(dir.path(), 2);
    granted(log.begin_update(request(2), start(0)).unwrap());
    assert_eq!(log.reader().open_update().unwrap().unwrap().start, start(0));
    assert_eq!(log.reader().versions().unwrap()[0].digest, "d");
}
