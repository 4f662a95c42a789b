//! What is read of a service: of which rows, and whose words.

use reward::sources::Label;

use super::*;
use crate::{length_penalty::LengthPenalty, watch::Service};

fn by(n: u32, user: Option<&str>) -> Rollout {
    Rollout { user: user.map(str::to_owned), ..rollout(n, 1) }
}

fn say(log: &RolloutLog, n: u32, user: &str, label: Label) {
    let (id, user) = (rollout(n, 1).id, Some(user.to_owned()));
    let said = Feedback { id, user, score: None, label: Some(label), edit: None, comment: None, created_ms: 1 };
    log.append_feedback(said).unwrap();
}

/// Of version 1, from either end.
fn both(log: &RolloutLog, limit: usize) -> [Service; 2] {
    let sample = Sample { limit, quarantine: log.quarantine(), length_penalty: None };
    let (reader, version) = (log.reader(), PolicyVersion(1));
    [reader.service(version, Seq(0), sample).unwrap(), reader.last_service(version, sample).unwrap()]
}

/// Goal: what is compared is of one kind, but for thumbs. Method: rows of every kind that never train, with a thumb each.
#[test]
fn thumbs_are_of_every_answer_and_lengths_of_what_may_train() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut all: Vec<Rollout> = (0..4).map(|n| by(n, None)).collect();
    all[1].sampling.temperature = 0.0;
    all[2].sampling.constrained = true;
    (all[3].finish, all[3].response) = (FinishReason::Cancelled, all[3].response[..1].to_vec());
    all.into_iter().for_each(|rollout| log.append(rollout).unwrap());
    log.flush().unwrap();
    (0..4).for_each(|n| say(&log, n, "", if n == 0 { Label::Up } else { Label::Down }));
    assert_eq!(score_all(&log, 1.0), 1);
    for service in both(&log, 10) {
        assert_eq!((service.scores.len(), service.thumbs), (1, (1, 3)));
        assert_eq!(service.lengths, [3.0], "what is drawn greedily, or to a grammar, has another length");
    }
    assert_eq!(both(&log, 2).map(|service| service.thumbs), [(1, 1), (0, 2)], "the first two, and the last two");
}

/// Goal: the one who asks most, or says most, does not decide alone. Method: a user with almost all of the rows and thumbs, all at
/// either end, so that a sample would hold nobody else's; and the words of that user in another's scores.
#[test]
fn one_user_is_a_quarter_of_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..60 {
        let is_others = (20..40).contains(&n);
        log.append(by(n, (!is_others).then_some("loud"))).unwrap();
        if (36..40).contains(&n) || !is_others {
            say(&log, n, "loud", Label::Down);
        }
        if is_others && n < 36 {
            say(&log, n, "", Label::Up);
        }
    }
    score_all(&log, 1.0);
    for service in both(&log, 16) {
        assert_eq!((service.scores.len(), service.lengths.len()), (16, 16));
        assert_eq!(service.thumbs, (12, 4));
    }
    let [first, last] = both(&log, 60);
    assert_eq!((first.scores.len(), first.lengths.len()), (16 + 6, 20 + 7), "a third of what the others have");
    assert_eq!((last.scores.len(), last.lengths.len(), last.thumbs), (22, 27, (16, 6)));
}

/// Goal: who is in quarantine is heard nowhere, whatever was heard before. Method: thumbs, exchanges and a score that trained already,
/// before and after a restart with the list.
#[test]
fn who_is_in_quarantine_is_not_heard() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..6 {
        log.append(by(n, if n < 3 { Some("mallory") } else { Some("ann") })).unwrap();
        say(&log, n, if [0, 1, 3].contains(&n) { "mallory" } else { "ann" }, Label::Down);
    }
    score_all(&log, -1.0);
    let rows = granted(claim(&log, 6, &[1]));
    log.settle(rows.iter().map(|row| (row.seq, Outcome::Trained(PolicyVersion(2)))).collect::<Vec<_>>()).unwrap();
    let [before, _] = both(&log, 8);
    assert_eq!((before.scores.len(), before.lengths.len(), before.thumbs), (6, 6, (0, 6)));
    log.close();
    drop(log);
    let log = RolloutLog::open_with(dir.path(), &settings(), Quarantine::parse("mallory")).unwrap();
    for service in both(&log, 8) {
        assert_eq!((service.scores.len(), service.thumbs), (2, (0, 3)), "who asked and who judged");
        assert_eq!(service.lengths.len(), 3, "a judgement has no part in a length");
    }
}

/// Goal: where one user is most of it, what is read comes to an end all the same. Method: limits on either side of what there is, one
/// other beside a loud user and many; the scores alone are the same ones.
#[test]
fn a_window_is_full_though_little_of_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    (0..32).for_each(|n| log.append(by(n, Some(if n == 9 { "ann" } else { "loud" }))).unwrap());
    log.flush().unwrap();
    score_all(&log, 1.0);
    for (limit, n_scores, is_full) in [(8, 2, true), (9, 2, false), (40, 2, false)] {
        let service = &both(&log, limit)[0];
        assert_eq!((service.scores.len(), service.is_full), (n_scores, is_full), "{limit}");
        let sample = Sample { limit, quarantine: log.quarantine(), length_penalty: None };
        assert_eq!(log.reader().scores(PolicyVersion(1), Seq(0), sample).unwrap(), service.scores);
    }
    assert!(both(&log, 2)[0].is_full, "as many as are wanted");
}

/// Goal: versions are compared by what their answers are paid. Method: answers of three lengths at one score, by a cost that spares
/// the shortest.
#[test]
fn every_score_pays_for_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..3 {
        let mut rollout = by(n, None);
        let token = rollout.response[0];
        rollout.response = vec![token; 2 + n as usize];
        log.append(rollout).unwrap();
    }
    log.flush().unwrap();
    assert_eq!(score_all(&log, 1.0), 3);
    let config = config::Ppo { length_penalty: 0.25, length_free: 2, ..config::Config::default().ppo };
    let length_penalty = LengthPenalty::of(&config);
    let sample = Sample { limit: 10, quarantine: log.quarantine(), length_penalty };
    let (reader, version) = (log.reader(), PolicyVersion(1));
    let first = reader.service(version, Seq(0), sample).unwrap();
    assert_eq!((first.scores.as_slice(), first.lengths.as_slice()), (&[1.0, 0.75, 0.5][..], &[2.0, 3.0, 4.0][..]));
    assert_eq!(reader.last_service(version, sample).unwrap().scores, [0.5, 0.75, 1.0]);
    assert_eq!(reader.scores(version, Seq(0), sample).unwrap(), first.scores);
    drop(reader);
    assert_eq!(both(&log, 10)[0].scores, [1.0; 3]);
}

/// Goal: whether a version serves says nothing of whom it serves. Method: one user's answers alone and beside another's, some broken
/// off, and windows that do not reach them.
#[test]
fn answers_are_counted_whoever_asked() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..20 {
        let mut rollout = by(n, Some(if n == 0 { "ann" } else { "loud" }));
        if n >= 15 {
            (rollout.finish, rollout.response) = (FinishReason::Cancelled, Vec::new());
        }
        log.append(rollout).unwrap();
    }
    log.flush().unwrap();
    let n_answers = |version, window| log.reader().n_answers(PolicyVersion(version), window).unwrap();
    assert_eq!([100, 10, 5].map(|window| n_answers(1, window)), [15, 5, 0]);
    assert_eq!(n_answers(2, 100), 0);
}
