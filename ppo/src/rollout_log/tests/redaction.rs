use super::{super::redaction, *};
use crate::pii::RedactedText;

/// Goal: a row without token ids is for people only. Method: one beside a whole one, as the writer writes them; who trains, who asks
/// and who removes what.
#[test]
fn a_redacted_row_is_read_asked_about_by_nobody_and_leaves_with_its_user() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let connection = open_for_writing(&database(dir.path())).unwrap();
    let text = RedactedText { prompt: "mail [EMAIL]".to_owned(), response: "a secret garden".to_owned() };
    let bare = Rollout { prompt: Vec::new(), response: Vec::new(), user: Some("ann".to_owned()), ..rollout(1, 0) };
    record::insert(&connection, &rollout(0, 0), None).unwrap();
    record::insert(&connection, &bare, Some(DropReason::Pii)).unwrap();
    redaction::insert(&connection, &text).unwrap();
    let rows = everything(&log);
    assert_eq!((rows[0].redacted.as_ref(), rows[1].redacted.as_ref()), (None, Some(&text)));
    assert_eq!((rows[1].state, rows[1].reason), (RolloutState::Dropped, Some(DropReason::Pii)));
    let newest = log.reader().newest(Seq(9), 9).unwrap();
    assert_eq!(newest.len(), 1, "what has no prompt is no question for the gate");
    assert_eq!(score_all(&log, 1.0), 1);
    log.forget_user("ann", &Who::cli()).unwrap();
    let n: i64 = connection.query_row("SELECT COUNT(*) FROM redactions", [], |row| row.get(0)).unwrap();
    assert_eq!(n, 0, "the text goes with its row");
}
