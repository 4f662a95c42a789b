//! A user is forgotten: what goes, what stays, and what is written down about it.

use reward::sources::Label;

use super::*;

fn of(n: u32, user: &str) -> Rollout {
    Rollout { user: Some(user.to_string()), ..rollout(n, 0) }
}

fn thumbs(n: u32, user: &str) -> Feedback {
    Feedback {
        id: rollout(n, 0).id,
        user: Some(user.to_string()),
        score: None,
        label: Some(Label::Up),
        edit: None,
        comment: Some("a comment of ann".to_string()),
        created_ms: 5,
    }
}

/// Goal: nothing of one user is left in rows or in the file's bytes, others keep what is theirs, and a version says how much of
/// what trained it is gone. Method: rows in every state, feedback both ways, and the files of the folder.
#[test]
fn everything_of_one_user_goes_and_versions_remember_that_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.change_version(
        VersionChange::Register(VersionRow {
            version: PolicyVersion(1),
            parent: None,
            state: VersionState::Candidate,
            digest: "d".to_string(),
            path: "policy-1.gguf".into(),
            created_ms: 1,
            n_rollouts: 2,
            reason: None,
            numbers: [].into(),
        }),
        &Who::learner(),
    )
    .unwrap();
    for (n, user) in [(0, "ann"), (1, "bob"), (2, "ann"), (3, "ann"), (4, "bob"), (5, "ann")] {
        log.append(of(n, user)).unwrap();
    }
    log.append(rollout(6, 0)).unwrap();
    log.flush().unwrap();
    score_all(&log, 1.0);
    let first = granted(claim(&log, 3, &[0]));
    log.settle(first.iter().map(|row| (row.seq, Outcome::Trained(PolicyVersion(1)))).collect::<Vec<_>>()).unwrap();
    let held = granted(claim(&log, 1, &[0]));
    assert_eq!(held[0].rollout.user.as_deref(), Some("ann"));
    for (n, user) in [(1, "ann"), (2, "bob"), (4, "bob")] {
        log.append_feedback(thumbs(n, user)).unwrap();
    }

    let forgotten = log.forget_user("ann", &Who::cli()).unwrap();
    let expected = Forgotten {
        n_rollouts: 3,
        n_untrained: 1,
        n_claimed: 1,
        n_feedback: 2,
        trained: [(PolicyVersion(1), 2)].into(),
    };
    assert_eq!(forgotten, expected);
    let users = || everything(&log).into_iter().map(|row| row.rollout.user).collect::<Vec<_>>();
    let [ann, bob] = ["ann", "bob"].map(|user| Some(user.to_string()));
    assert_eq!(users(), [bob.clone(), ann, bob.clone(), None]);
    assert!(everything(&log)[0].feedback.is_empty(), "what ann said about bob's is gone");
    assert_eq!(everything(&log)[2].feedback.len(), 1, "what bob said about bob's is not");
    assert_eq!(log.reader().version(PolicyVersion(1)).unwrap().unwrap().numbers[FORGOTTEN], 2.0);
    assert_eq!(log.counters().dropped[&DropReason::Forgotten], 1);
    assert_eq!(log.reader().stats().unwrap().dropped, [(DropReason::Forgotten, 1)].into());

    log.settle(vec![(held[0].seq, Outcome::Released)]).unwrap();
    assert_eq!(log.forget_user("ann", &Who::cli()).unwrap().n_rollouts, 1);
    assert_eq!(log.forget_user("ann", &Who::cli()).unwrap(), Forgotten::default(), "once is enough");
    assert_eq!(LogReader::open(dir.path()).unwrap().stats().unwrap().dropped[&DropReason::Forgotten], 2, "for good");
    assert_eq!(users(), [bob.clone(), bob, None]);
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
        for needle in [&b"a comment of ann"[..], b"cmpl-0000000000000005"] {
            let is_bobs = needle == b"a comment of ann";
            let n_found = bytes.windows(needle.len()).filter(|window| *window == needle).count();
            assert!(n_found <= usize::from(is_bobs), "{} is still in the file", String::from_utf8_lossy(needle));
        }
    }
}

/// Goal: nothing trains on a score that was made from words that are forgotten. Method: what ann said about bob's rollouts, one of
/// which is claimed; with a source that listens, and with one that does not.
#[test]
fn what_a_forgotten_user_judged_is_judged_again() {
    for rescore_on_feedback in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let log = RolloutLog::open(dir.path(), &LogSettings { rescore_on_feedback, ..settings() }).unwrap();
        for (n, user) in [(0, "bob"), (1, "bob"), (2, "bob"), (3, "ann")] {
            log.append(of(n, user)).unwrap();
        }
        log.flush().unwrap();
        for (n, user) in [(0, "ann"), (1, "ann"), (2, "bob"), (3, "ann")] {
            log.append_feedback(thumbs(n, user)).unwrap();
        }
        score_all(&log, 1.0);
        assert_eq!(granted(claim(&log, 1, &[0]))[0].rollout.prompt[2], TokenId(0));
        assert_eq!(log.forget_user("ann", &Who::cli()).unwrap().n_untrained, 1);
        let found: Vec<_> = everything(&log).iter().map(|row| (row.state, row.score.is_some())).collect();
        let again = if rescore_on_feedback { (RolloutState::Generated, false) } else { (RolloutState::Scored, true) };
        assert_eq!(found, [(RolloutState::Claimed, true), again, (RolloutState::Scored, true)]);
        assert_eq!(score_all(&log, -1.0), usize::from(rescore_on_feedback));
    }
}

fn n_in_file(dir: &std::path::Path, needle: &[u8]) -> usize {
    let bytes = |name: &str| std::fs::read(dir.join(name)).unwrap_or_default();
    let files = ["rollouts.sqlite", "rollouts.sqlite-wal"].map(bytes);
    files.iter().map(|bytes| bytes.windows(needle.len()).filter(|window| *window == needle).count()).sum()
}

/// Goal: what a row left behind where it was before it grew is gone too. Method: many rows of two users that are scored, which
/// makes them longer and moves them between pages.
#[test]
fn rows_that_moved_inside_the_file_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..400 {
        log.append(of(n, if n % 3 == 0 { "a-user-who-leaves" } else { "another" })).unwrap();
        if n % 50 == 49 {
            log.flush().unwrap();
            score_all(&log, f64::from(n));
        }
    }
    assert!(n_in_file(dir.path(), b"a-user-who-leaves") > 0, "there is something to forget");
    assert_eq!(log.forget_user("a-user-who-leaves", &Who::cli()).unwrap().n_rollouts, 134);
    assert_eq!(n_in_file(dir.path(), b"a-user-who-leaves"), 0);
}

/// Goal: a file from before deleted bytes were overwritten is cleaned when somebody is forgotten. Method: leave something in such a
/// file as SQLite does by default, then forget a user.
#[test]
fn an_older_file_is_written_anew_once() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close();
    let old = rusqlite::Connection::open(database(dir.path())).unwrap();
    old.execute_batch(
        "PRAGMA secure_delete = 0; PRAGMA application_id = 0; CREATE TABLE t (x TEXT);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO t SELECT 'what-was-left-' || i FROM n; DROP TABLE t; PRAGMA wal_checkpoint(TRUNCATE);",
    )
    .unwrap();
    drop(old);
    let log = open(dir.path());
    assert!(n_in_file(dir.path(), b"what-was-left-") > 0, "there is something left");
    log.forget_user("nobody", &Who::cli()).unwrap();
    assert_eq!(n_in_file(dir.path(), b"what-was-left-"), 0);
}
