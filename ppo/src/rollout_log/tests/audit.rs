use std::collections::BTreeMap;

use super::*;

fn version(number: u64, state: VersionState) -> VersionRow {
    VersionRow {
        version: PolicyVersion(number),
        parent: number.checked_sub(1).map(PolicyVersion),
        state,
        digest: "d".to_owned(),
        path: format!("policy-{number}.gguf").into(),
        created_ms: 1,
        n_rollouts: 0,
        reason: None,
        numbers: BTreeMap::new(),
    }
}

fn told(log: &RolloutLog) -> Vec<String> {
    let tell = |row: AuditRow| {
        let Act { who, action, subject } = &row.act;
        let subject = subject.clone().unwrap_or_default();
        format!(
            "{} {} {} {} {}",
            who.actor,
            action.as_str(),
            subject,
            row.outcome(),
            row.detail.clone().unwrap_or_default()
        )
    };
    log.reader().audit(0, 100).unwrap().into_iter().map(|row| tell(row).trim_end().to_owned()).collect()
}

/// Goal: no change of versions without its row, no row without the change. Method: every kind of change by somebody, then one
/// that fails.
#[test]
fn changes_of_versions_and_their_rows_are_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let admin = Who::key(b"secret", Some("10.0.0.7:1".to_owned()), Some("req-1".to_owned()));
    let (learner, watch) = (Who::learner(), Who::watch());
    let v = PolicyVersion;
    let activate = |version, why: Option<&str>| VersionChange::Activate {
        version: v(version),
        expected_live: None,
        why: why.map(str::to_owned),
    };
    let remark = format!("{}length: 9", VersionRow::OBSERVED);
    let publish = |version| VersionChange::Publish {
        version: v(version),
        settlement: Settlement::default(),
        report: VersionReport { remark: Some(remark.clone()), ..VersionReport::default() },
    };
    let reject = |version| VersionChange::Reject {
        version: v(version),
        reason: "worse".to_owned(),
        settlement: Settlement::default(),
        numbers: BTreeMap::new(),
    };
    log.change_version(VersionChange::Register(version(0, VersionState::Live)), &Who::start()).unwrap();
    for n in 1..=4 {
        log.change_version(VersionChange::Register(version(n, VersionState::Candidate)), &learner).unwrap();
    }
    log.change_version(publish(1), &learner).unwrap();
    log.change_version(reject(2), &learner).unwrap();
    log.change_version(activate(0, Some("reward fell")), &watch).unwrap();
    log.change_version(VersionChange::Keep { version: v(3), report: VersionReport::default() }, &admin).unwrap();
    log.change_version(reject(4), &admin).unwrap();
    log.change_version(activate(3, None), &admin).unwrap();
    let (from, to) = (VersionState::Draining, VersionState::Retained);
    log.change_version(VersionChange::Move { version: v(1), from, to, reason: None }, &learner).unwrap();
    let (from, to) = (VersionState::Retained, VersionState::Retired);
    let gone = VersionChange::Move { version: v(1), from, to, reason: Some("too old".to_owned()) };
    log.change_version(gone.clone(), &Who::cli()).unwrap();
    log.change_version(gone, &Who::cli()).unwrap_err();
    log.change_version(activate(9, None), &admin).unwrap_err();
    let key = &admin.actor;
    assert_eq!(key, "key:2bb80d53", "the first digits of `printf secret | sha256sum`");
    assert_eq!(
        told(&log),
        [
            format!("learner promote policy@1 done {remark}"),
            "learner reject policy@2 done worse".to_owned(),
            "watch rollback policy@0 done reward fell".to_owned(),
            format!("{key} import policy@3 done"),
            format!("{key} import policy@4 refused worse"),
            format!("{key} activate policy@3 done"),
            "cli retire policy@1 done too old".to_owned(),
        ]
    );
    let gone = log.reader().version(v(1)).unwrap().unwrap();
    assert_eq!(gone.reason, Some(format!("too old; {remark}")), "what the gate objected to stays");
    let rows = log.reader().audit(5, 1).unwrap();
    assert_eq!((rows.len(), rows[0].number, &rows[0].act.who), (1, 6, &admin));
}

#[test]
fn a_user_who_is_forgotten_is_named_by_a_digest() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(Rollout { user: Some("ann@example.org".to_owned()), ..rollout(1, 0) }).unwrap();
    log.forget_user("ann@example.org", &Who::cli()).unwrap();
    let subject = user_subject("ann@example.org");
    assert_eq!(told(&log), [format!("cli forget {subject} done removed 1 rollouts and 0 words of feedback")]);
    assert!(!subject.contains("ann"));
}

/// Goal: nobody rewrites what is written, and what cannot be written is no secret. Method: the statements that would, from another
/// connection; then a log that is closed.
#[test]
fn rows_stay_and_what_cannot_be_written_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let act = || Act::new(&Who::signal(), Action::ReloadKeys, None);
    log.note(act().done());
    log.note(act().refused("the file holds no key"));
    let other = Connection::open(database(dir.path())).unwrap();
    for statement in ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit WHERE number = 1", "DELETE FROM audit"] {
        let error = other.execute(statement, []).unwrap_err().to_string();
        assert!(error.contains("never"), "{error}");
    }
    assert_eq!(told(&log), ["signal reload_keys  done", "signal reload_keys  refused the file holds no key"]);
    assert_eq!(log.counters().audit_failures, 0);
    log.close();
    log.note(act().done());
    assert_eq!(log.counters().audit_failures, 1);
}
