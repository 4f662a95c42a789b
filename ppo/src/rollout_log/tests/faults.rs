//! Files that are not as they were left, clocks that are not as they were, users who mean harm.

use std::{fs, path::PathBuf};

use super::{super::schema, *};

fn wal(dir: &Path) -> PathBuf {
    dir.join("rollouts.sqlite-wal")
}

/// A copy of a folder whose log is open: what a death leaves.
fn death(of: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["rollouts.sqlite", "rollouts.sqlite-wal"] {
        fs::copy(of.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

/// Goal: a torn end costs the transactions that it tore and no other, and nothing is ever read that was not written. Method: five
/// commits; the write-ahead log is cut inside the frames of each, has a bit turned there, or gets noise behind its end.
#[test]
fn a_corrupted_tail_costs_what_it_tore_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let size = || fs::metadata(wal(dir.path())).unwrap().len() as usize;
    let mut ends = vec![size()];
    for n in 0..5 {
        log.append(rollout(n, 0)).unwrap();
        log.flush().unwrap();
        ends.push(size());
    }
    let check = |what: &str, n_expected: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let copy = death(dir.path());
        let mut bytes = fs::read(wal(copy.path())).unwrap();
        change(&mut bytes);
        fs::write(wal(copy.path()), bytes).unwrap();
        let rows = everything(&open(copy.path()));
        assert_eq!(rows.len(), n_expected, "{what}");
        rows.iter().enumerate().for_each(|(n, row)| assert_eq!(row.rollout, rollout(n as u32, 0), "{what}"));
    };
    for (n, pair) in ends.windows(2).enumerate() {
        let middle = (pair[0] + pair[1]) / 2;
        check("cut", n, &|bytes| bytes.truncate(middle));
        check("cut by one byte", n, &|bytes| bytes.truncate(pair[1] - 1));
        check("a bit", n, &|bytes| bytes[middle] ^= 4);
        check("zeros", n, &|bytes| bytes[middle..].fill(0));
    }
    check("noise behind", 5, &|bytes| bytes.extend((0..9000_u32).map(|n| (n * 31 % 251) as u8)));
    check("whole", 5, &|_| ());
}

#[test]
fn a_database_that_is_none_any_more_says_so_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (0..200).for_each(|n| log.append(rollout(n, 0)).unwrap());
    log.close();
    drop(log);
    let path = dir.path().join("rollouts.sqlite");
    let whole = fs::read(&path).unwrap();
    let mut no_header = whole.clone();
    no_header[..32].fill(7);
    let mut no_schema = whole;
    no_schema[100..2000].fill(0xff);
    for damaged in [no_header, no_schema] {
        fs::write(&path, damaged).unwrap();
        let error = RolloutLog::open(dir.path(), &settings()).err().unwrap();
        let said = error.to_string();
        assert!(matches!(error, LogError::Damaged { .. }), "{said}");
        assert!(said.contains("rollouts.sqlite") && said.contains("good copy"), "{said}");
    }
}

/// Goal: a log of any age is brought up to date with everything in it, and can be read before that. Method: files as the first
/// schemas left them, with a row each.
#[test]
fn old_logs_are_brought_up_to_date() {
    for n_steps in 1..schema::STEPS.len() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = Connection::open(database(dir.path())).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        schema::migrate_through(&mut connection, &schema::STEPS[..n_steps]).unwrap();
        record::insert(&connection, &rollout(3, 0), None).unwrap();
        drop(connection);
        let reader = LogReader::open(dir.path()).unwrap();
        assert_eq!(reader.page(&PageQuery { limit: 9, ..PageQuery::default() }).unwrap().len(), 1);
        assert!(reader.newest_update().unwrap().is_none() && reader.imports().unwrap().is_empty());
        assert!(reader.audit(0, 9).unwrap().is_empty());
        assert_eq!(reader.live_since(PolicyVersion(0)).unwrap(), Seq(0));
        assert!(reader.stats().unwrap().dropped.is_empty());
        assert_eq!(reader.newest_named("cmpl-").unwrap(), Some(rollout(3, 0).id));
        let log = open(dir.path());
        assert_eq!(everything(&log)[0].rollout, rollout(3, 0));
        let import = ImportRow {
            at_ms: 1,
            source: ImportSource::Folder,
            path: "a.gguf".to_owned(),
            outcome: ImportOutcome::Rejected,
            digest: Some("d".to_owned()),
            version: Some(PolicyVersion(1)),
            reason: Some("why".to_owned()),
        };
        log.note_import(import.clone()).unwrap();
        assert_eq!(log.reader().imports().unwrap(), [import]);
        let row = Act::new(&Who::cli(), Action::Retire, "policy@1".to_owned()).done();
        log.note(row.clone());
        assert_eq!(log.reader().audit(0, 9).unwrap(), [AuditRow { number: 1, ..row }], "after {n_steps} steps");
        log.append(Rollout { user: Some("ann".to_owned()), ..rollout(4, 0) }).unwrap();
        log.flush().unwrap();
        log.forget_user("ann", &Who::cli()).unwrap();
        assert_eq!(log.reader().stats().unwrap().dropped, [(DropReason::Forgotten, 1)].into());
    }
}

/// Goal: a clock that was set back loses nothing and stops nothing. Method: rows from an hour ahead; whoever waits a minute for
/// feedback reads them at once, and order stays that of the log.
#[test]
fn rows_from_the_future_are_read_like_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let now = 10_000_000;
    for (n, created_ms) in [(0, now + 3_600_000), (1, now - 1), (2, now + 30_000), (3, now - 70_000)] {
        log.append(Rollout { created_ms, ..rollout(n, 0) }).unwrap();
    }
    log.flush().unwrap();
    let numbers = |rows: Vec<LoggedRollout>| rows.iter().map(|row| row.rollout.prompt[2].0).collect::<Vec<_>>();
    let young = now - 60_000 + 1..=now + 60_000;
    assert_eq!(numbers(log.reader().unscored_but(None, 10, young).unwrap()), [0, 3]);
    assert_eq!(numbers(log.reader().unscored(None, 10, u64::MAX).unwrap()), [0, 1, 2, 3]);
    assert_eq!(score_all(&log, 1.0), 4);
    assert_eq!(numbers(granted(claim(&log, 4, &[0]))), [0, 1, 2, 3]);
}

/// Goal: users who were caught change nothing more. Method: before and after they are on the list, with exchanges and words on
/// others' exchanges.
#[test]
fn quarantined_users_train_nothing_and_are_not_heard() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::parse("# caught\n\n mallory \n");
    assert!(quarantine.holds(Some("mallory")) && !quarantine.holds(Some("alice")) && !quarantine.holds(None));
    let of = |n: u32, user: &str| Rollout { user: Some(user.to_owned()), ..rollout(n, 0) };
    let words = |n: u32, user: &str| Feedback {
        id: rollout(n, 0).id,
        user: Some(user.to_owned()),
        score: Some(9.0),
        label: None,
        edit: None,
        comment: None,
        created_ms: 0,
    };
    let log = open(dir.path());
    for (n, user) in [(0, "alice"), (1, "mallory"), (2, "alice")] {
        log.append(of(n, user)).unwrap();
    }
    assert!(log.append_feedback(words(0, "mallory")).unwrap().applied);
    assert_eq!(score_all(&log, 1.0), 3);
    drop(log);
    let log = RolloutLog::open_with(dir.path(), &settings(), quarantine).unwrap();
    let states = |log: &RolloutLog| everything(log).iter().map(|row| (row.state, row.reason)).collect::<Vec<_>>();
    let dropped = (RolloutState::Dropped, Some(DropReason::Quarantined));
    let (judged_again, kept) = ((RolloutState::Generated, None), (RolloutState::Scored, None));
    assert_eq!(states(&log), [judged_again, dropped, kept]);
    assert_eq!(log.counters().dropped[&DropReason::Quarantined], 1, "what an open drops is counted");
    log.append(of(3, "mallory")).unwrap();
    assert!(!log.append_feedback(words(2, "mallory")).unwrap().applied);
    assert!(log.append_feedback(words(0, "bob")).unwrap().applied);
    assert_eq!(states(&log), [judged_again, dropped, kept, dropped]);
    assert_eq!(everything(&log)[2].feedback.len(), 1, "kept for whoever investigates");
    assert_eq!(log.counters().dropped[&DropReason::Quarantined], 2);
    let newest = log.reader().newest(Seq(i64::MAX), 10).unwrap();
    assert_eq!(
        newest.iter().map(|row| row.seq).collect::<Vec<_>>(),
        [Seq(3), Seq(1)],
        "nor does the gate ask what they asked"
    );
}

/// Goal: an update that a process died in does not carry a quarantined user's exchanges, or what their words made of others', into
/// a version. Method: both are claimed, beside a row that has nothing to do with them and one whose words nobody had listened to.
#[test]
fn what_an_unfinished_update_holds_of_a_quarantined_user_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for (n, user) in [(0, "mallory"), (1, "alice"), (2, "alice"), (3, "alice")] {
        log.append(Rollout { user: Some(user.to_owned()), ..rollout(n, 0) }).unwrap();
    }
    log.flush().unwrap();
    let words = |n: u32| Feedback {
        id: rollout(n, 0).id,
        user: Some("mallory".to_owned()),
        score: Some(9.0),
        label: None,
        edit: None,
        comment: None,
        created_ms: 0,
    };
    assert!(log.append_feedback(words(1)).unwrap().applied);
    score_all(&log, 1.0);
    let start = UpdateStart { number: 7, n_threads: 1, ..UpdateStart::default() };
    let request = ClaimRequest { n_rollouts: 4, lineage: vec![PolicyVersion(0)], user_share_max: 1.0 };
    granted(log.begin_update(request, start).unwrap());
    assert!(!log.append_feedback(words(2)).unwrap().applied, "it is claimed");
    log.close();
    drop(log);
    let log = RolloutLog::open_with(dir.path(), &settings(), Quarantine::parse("mallory")).unwrap();
    assert_eq!(log.counters().dropped[&DropReason::Quarantined], 1);
    let states: Vec<_> = everything(&log).iter().map(|row| (row.state, row.score.is_some())).collect();
    let claimed = (RolloutState::Claimed, true);
    assert_eq!(states, [(RolloutState::Dropped, true), (RolloutState::Generated, false), claimed, claimed]);
    assert_eq!(log.repeat_update(7).unwrap().len(), 2, "it misses rows, so the learner gives the others back");
}
