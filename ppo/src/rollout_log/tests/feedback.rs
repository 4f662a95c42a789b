//! Feedback by id: durable, idempotent, and honest about whether it still counts.

use reward::sources::Label;

use super::*;

fn thumbs(n: u32, label: Label) -> Feedback {
    Feedback {
        id: rollout(n, 0).id,
        user: Some("ann".to_string()),
        score: None,
        label: Some(label),
        edit: None,
        comment: None,
        created_ms: 5,
    }
}

fn number(n: u32, score: f64) -> Feedback {
    Feedback { score: Some(score), label: None, ..thumbs(n, Label::Up) }
}

#[test]
fn feedback_finds_a_rollout_that_is_not_committed_yet() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    let receipt = log.append_feedback(thumbs(0, Label::Up)).unwrap();
    assert_eq!(receipt, FeedbackReceipt { applied: true, state: RolloutState::Generated });
    assert!(matches!(log.append_feedback(thumbs(1, Label::Up)), Err(LogError::NotFound(_))));
}

#[test]
fn the_same_words_twice_are_one_row_and_other_words_replace_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    for label in [Label::Up, Label::Up, Label::Down] {
        assert!(log.append_feedback(thumbs(0, label)).unwrap().applied);
    }
    log.append_feedback(Feedback { user: None, score: Some(0.5), ..thumbs(0, Label::Up) }).unwrap();
    let words = &everything(&log)[0].feedback;
    assert_eq!(words.len(), 2);
    assert_eq!((words[0].user.as_deref(), words[0].score), (None, Some(0.5)));
    assert_eq!((words[1].user.as_deref(), words[1].label), (Some("ann"), Some(Label::Down)));
}

/// Goal: a changed mind is heard, whichever way each judgement is put. Method: a number outranks a thumb beside it, so
/// after every judgement the row must hold nothing of the one before.
#[test]
fn a_later_judgement_replaces_the_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    let said = |words: Feedback| {
        assert!(log.append_feedback(words).unwrap().applied);
        let opinion = everything(&log)[0].feedback[0].opinion();
        (opinion.score, opinion.label, opinion.judgement().map(|score| score.0))
    };
    assert_eq!(said(number(0, -5.0)), (Some(-5.0), None, Some(-5.0)));
    assert_eq!(said(thumbs(0, Label::Up)), (None, Some(Label::Up), Some(1.0)), "score, then label");
    assert_eq!(said(number(0, 3.0)), (Some(3.0), None, Some(3.0)), "label, then score");
    assert_eq!(said(thumbs(0, Label::Down)), (None, Some(Label::Down), Some(-1.0)));
    let both = Feedback { score: Some(0.5), ..thumbs(0, Label::Down) };
    assert_eq!(said(both), (Some(0.5), Some(Label::Down), Some(0.5)), "said together, both stay");
    assert_eq!(said(number(0, 0.5)), (Some(0.5), None, Some(0.5)), "the thumb was not said again");
    assert_eq!(everything(&log)[0].feedback.len(), 1);
}

/// Goal: words that judge nothing take no judgement away. Method: an edit and a comment after a score and a label.
#[test]
fn words_that_judge_nothing_leave_score_and_label() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.append_feedback(Feedback { score: Some(2.0), ..thumbs(0, Label::Up) }).unwrap();
    let nothing = Feedback { label: None, ..thumbs(0, Label::Up) };
    let edit = Feedback { edit: Some("better".to_string()), ..nothing.clone() };
    let comment = Feedback { comment: Some("why".to_string()), ..nothing };
    for words in [edit, comment] {
        log.append_feedback(words).unwrap();
    }
    let kept = &everything(&log)[0].feedback[0];
    assert_eq!((kept.score, kept.label), (Some(2.0), Some(Label::Up)));
    assert_eq!((kept.edit.as_deref(), kept.comment.as_deref()), (Some("better"), Some("why")));
}

/// Goal: what was judged by the earlier words is judged again. Method: the row is scored when the mind changes.
#[test]
fn a_thumb_after_a_score_has_a_scored_rollout_scored_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.append_feedback(number(0, -5.0)).unwrap();
    score_all(&log, -5.0);
    let receipt = log.append_feedback(thumbs(0, Label::Up)).unwrap();
    assert_eq!(receipt, FeedbackReceipt { applied: true, state: RolloutState::Scored });
    let waiting = log.reader().unscored(None, 10, 0).unwrap();
    assert_eq!(waiting[0].feedback[0].opinion().judgement().map(|score| score.0), Some(1.0));
}

#[test]
fn feedback_on_a_scored_rollout_has_it_scored_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.flush().unwrap();
    score_all(&log, 1.0);
    let receipt = log.append_feedback(thumbs(0, Label::Down)).unwrap();
    assert_eq!(receipt, FeedbackReceipt { applied: true, state: RolloutState::Scored });
    let row = &everything(&log)[0];
    assert_eq!((row.state, row.score.as_ref()), (RolloutState::Generated, None));
}

#[test]
fn feedback_after_training_is_kept_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.flush().unwrap();
    score_all(&log, 1.0);
    let early = thumbs(0, Label::Up);
    let seq = granted(claim(&log, 1, &[0]))[0].seq;
    assert!(!log.append_feedback(early.clone()).unwrap().applied, "an update already holds it");
    log.settle(vec![(seq, Outcome::Trained(PolicyVersion(1)))]).unwrap();
    assert!(!log.append_feedback(early).unwrap().applied);
    let row = &everything(&log)[0];
    assert_eq!((row.state, row.feedback.len()), (RolloutState::Trained, 1));
}

#[test]
fn a_row_waits_for_feedback_as_long_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.append(rollout(9, 0)).unwrap();
    log.append_feedback(thumbs(9, Label::Up)).unwrap();
    let waiting = |since: u64| log.reader().unscored(None, 10, since).unwrap().len();
    assert_eq!(waiting(0), 1, "only the one that has feedback");
    assert_eq!(waiting(1_000), 2, "the other one was logged at 1,000 ms");
}

#[test]
fn a_comment_after_a_thumb_leaves_the_thumb() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.append_feedback(thumbs(0, Label::Up)).unwrap();
    let comment = Feedback { label: None, comment: Some("nice".to_string()), ..thumbs(0, Label::Up) };
    assert!(!log.append_feedback(comment.clone()).unwrap().applied, "a comment judges nothing");
    let words = &everything(&log)[0].feedback;
    assert_eq!((words[0].label, words[0].comment.as_deref()), (Some(Label::Up), Some("nice")));
    // Said again once an update holds the row: the answers are what they were.
    log.flush().unwrap();
    score_all(&log, 1.0);
    granted(claim(&log, 1, &[0]));
    assert!(
        log.append_feedback(thumbs(0, Label::Up)).unwrap().applied,
        "the thumb counted, whatever was said after it"
    );
    assert!(!log.append_feedback(comment).unwrap().applied);
}

#[test]
fn a_thumb_that_nobody_listens_to_is_kept_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = RolloutLog::open(dir.path(), &LogSettings { rescore_on_feedback: false, ..settings() }).unwrap();
    log.append(rollout(0, 0)).unwrap();
    assert!(!log.append_feedback(thumbs(0, Label::Up)).unwrap().applied);
    assert_eq!(everything(&log)[0].feedback.len(), 1);
}
