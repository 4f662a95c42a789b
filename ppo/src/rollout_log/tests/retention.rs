//! Old exchanges leave.

use std::time::Instant;

use super::*;

/// A log whose exchanges are as old as their numbers say, in days.
fn aged(dir: &Path, days: &[u64]) -> RolloutLog {
    let log = open(dir);
    for (n, days) in (0..).zip(days) {
        let created_ms = crate::clock::now_ms() - days * 86_400_000;
        log.append(Rollout { created_ms, ..rollout(n, 0) }).unwrap();
    }
    log.flush().unwrap();
    log
}

fn keep(log: &RolloutLog, days: u64, n_updates: u64) {
    log.keep(Retention { age: Duration::from_secs(days * 86_400), n_updates }).unwrap();
}

/// Until only these are left, by number; what is removed is removed after the answer.
fn left(log: &RolloutLog, expected: &[u32]) {
    let numbers = || everything(log).iter().map(|row| row.rollout.id.clone()).collect::<Vec<_>>();
    let expected: Vec<_> = expected.iter().map(|n| rollout(*n, 0).id).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while numbers() != expected {
        assert!(Instant::now() < deadline, "{:?}, expected {expected:?}", numbers());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Goal: what is old goes with what was said about it and is counted where it had not trained; what an update holds stays, and
/// the log works on. Method: rows of every state and age; an exchange that comes later.
#[test]
fn old_exchanges_leave_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = aged(dir.path(), &[9, 8, 7, 6, 1, 0]);
    score_all(&log, 1.0);
    let first = granted(claim(&log, 1, &[0]));
    log.settle(first.iter().map(|row| (row.seq, Outcome::Trained(PolicyVersion(1)))).collect::<Vec<_>>()).unwrap();
    assert_eq!(granted(claim(&log, 1, &[0])).len(), 1, "the second is held");
    let said = Feedback {
        id: rollout(2, 0).id,
        user: Some("ann".to_string()),
        score: Some(1.0),
        label: None,
        edit: None,
        comment: None,
        created_ms: 5,
    };
    log.append_feedback(said.clone()).unwrap();
    keep(&log, 5, 0);
    left(&log, &[1, 4, 5]);
    assert_eq!(log.counters().dropped[&DropReason::Outdated], 2, "the first had trained");
    assert_eq!(log.reader().stats().unwrap().dropped, [(DropReason::Outdated, 2)].into(), "the log knows it too");
    assert!(matches!(log.append_feedback(said), Err(LogError::NotFound { .. })));
    log.append(rollout(6, 0)).unwrap();
    log.flush().unwrap();
    let feedback: i64 = Connection::open(database(dir.path()))
        .unwrap()
        .query_row("SELECT COUNT(*) FROM feedback", [], |row| row.get(0))
        .unwrap();
    assert_eq!(feedback, 0);
    log.close();
    drop(log);
    assert_eq!(LogReader::open(dir.path()).unwrap().stats().unwrap().dropped[&DropReason::Outdated], 2, "for good");
}

/// Goal: whoever asks why exchanges did not train is told the same after they have gone. Method: greedy ones, some of a user who is
/// forgotten, the others too old.
#[test]
fn reasons_outlive_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let log = aged(dir.path(), &[9, 9, 9]);
    for (n, user) in [(3, None), (4, Some("ann")), (5, Some("ann"))] {
        let mut greedy = Rollout { user: user.map(str::to_owned), ..rollout(n, 0) };
        (greedy.sampling.temperature, greedy.created_ms) = (0.0, 1);
        log.append(greedy).unwrap();
    }
    log.flush().unwrap();
    let dropped = || log.reader().stats().unwrap().dropped;
    assert_eq!(dropped(), [(DropReason::Greedy, 3)].into());
    log.forget_user("ann", &Who::cli()).unwrap();
    assert_eq!(dropped(), [(DropReason::Greedy, 3)].into());
    keep(&log, 5, 0);
    left(&log, &[]);
    assert_eq!(dropped(), [(DropReason::Greedy, 3), (DropReason::Outdated, 3)].into());
    log.close();
}

/// Goal: a restart can compute the newest updates again, whatever their age. Method: three updates of two old rows each.
#[test]
fn what_the_newest_updates_used_stays() {
    let dir = tempfile::tempdir().unwrap();
    let log = aged(dir.path(), &[90; 7]);
    let mut connection = Connection::open(database(dir.path())).unwrap();
    let transaction = connection.transaction().unwrap();
    transaction.execute("INSERT INTO update_configs (digest, assignments) VALUES ('c', '')", []).unwrap();
    for number in 0..3 {
        let update = "INSERT INTO updates (number, outcome, start, parent, parent_digest, lineage, state_before, config, arithmetic,
                n_threads, pretraining, n_attempts, claimed_ms, state_after)
             VALUES (?1, 'no_step', 'continued', 0, '', x'', '', 'c', '', 1, '', 1, 0, '')";
        transaction.execute(update, [number]).unwrap();
        for position in 0..2 {
            let used = "INSERT INTO update_rollouts (number, position, seq, score, reward_version) VALUES (?1, ?2, ?3, 0.0, '')";
            transaction.execute(used, [number, position, 1 + 2 * number + position]).unwrap();
        }
    }
    transaction.commit().unwrap();
    keep(&log, 30, 2);
    left(&log, &[2, 3, 4, 5]);
}

/// Goal: a log of many old rows is emptied piece by piece, without a request that wakes the writer. Method: more rows than a piece.
#[test]
fn more_than_a_piece_leaves_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let log = aged(dir.path(), &[3; 1100]);
    keep(&log, 2, 0);
    left(&log, &[]);
}

/// Goal: looking for the first rows of a version reads no others and sorts nothing. Method: SQLite's plan.
#[test]
fn rows_of_a_version_are_found_in_order() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let connection = Connection::open(database(dir.path())).unwrap();
    let plan = |sql: &str| {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let nothing = vec![rusqlite::types::Null; statement.parameter_count()];
        let lines = statement.query_map(rusqlite::params_from_iter(nothing), |row| row.get::<_, String>(3)).unwrap();
        lines.collect::<Result<Vec<_>, _>>().unwrap().join("; ")
    };
    let check = |sql: &str, index: &str| {
        let plan = plan(sql);
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{plan}");
    };
    for order in ["ASC", "DESC"] {
        let [scored, answered, said] = LogReader::service_sql(order);
        check(&scored, "scored_in_order");
        check(&answered, "scored_in_order");
        check(&said, "COVERING INDEX rollouts_in_order");
        check(&said, "SEARCH feedback USING PRIMARY KEY (seq=?)");
    }
    check(LogReader::N_ANSWERS, "rollouts_in_order");
    check(&LogReader::replayable_sql(), "rollouts_in_order");
    check(super::super::retention::OLD, "rollouts_by_age");
    let [update, judges] = LogReader::making_sql();
    check(update, "INDEX updates_by_version (version=?)");
    assert!(plan(judges).contains("USING PRIMARY KEY (number=?)"), "{}", plan(judges));
    let newest = plan(super::super::read::NEWEST_NAMED);
    assert!(
        newest.contains("SEARCH rollouts USING COVERING INDEX") && newest.contains("(request>? AND request<?)"),
        "{newest}"
    );
}
