//! What is written of an exchange that holds what looks like personal data (`ppo.log.scrub_pii`).
//!
//! Token ids spell the text, so there is nothing to be blanked in them: they are not written at all, nor are the log-probs that
//! belong to them. What is written is the text with a word such as `[EMAIL]` in each place, for people; an exchange without token
//! ids never trains. It is redacted before it is written for the first time, so no page of the database and no frame of its
//! write-ahead log ever held what was taken out.
//!
//! `user` is left as it is: it is the name by which somebody can be forgotten.

use policy::{Rollout, TokenId, Vocabulary};
use rusqlite::{Connection, OptionalExtension, params};

use super::{error::LogError, feedback::Feedback, record::Seq};
use crate::pii::{RedactedText, redacted, redacted_exchange};

/// The exchange as it may be written, and its text where that is all there may be.
pub(super) fn of_exchange(rollout: &Rollout, vocabulary: &Vocabulary) -> (Rollout, Option<RedactedText>) {
    // Control tokens are written out: they part words that would otherwise stand side by side.
    let spelt = |ids: &[TokenId]| vocabulary.detokenize(ids, true);
    let response: Vec<TokenId> = rollout.response.iter().map(|token| token.id).collect();
    let text = redacted_exchange(&spelt(&rollout.prompt), &spelt(&response));
    let mut written = rollout.clone();
    if text.is_some() {
        (written.prompt, written.response) = (Vec::new(), Vec::new());
    }
    for stop in &mut written.sampling.stop {
        if let Some(without) = redacted(stop) {
            *stop = without;
        }
    }
    (written, text)
}

/// Somebody's words as they may be written.
pub(super) fn of_feedback(words: Feedback) -> Feedback {
    let without = |text: Option<String>| text.map(|text| redacted(&text).unwrap_or(text));
    Feedback { edit: without(words.edit), comment: without(words.comment), ..words }
}

/// Beside the row that was inserted last.
pub(super) fn insert(connection: &Connection, text: &RedactedText) -> Result<(), LogError> {
    connection
        .prepare_cached("INSERT INTO redactions (seq, prompt, response) VALUES (?1, ?2, ?3)")?
        .execute(params![connection.last_insert_rowid(), text.prompt, text.response])?;
    Ok(())
}

/// The text of a row that was redacted.
pub(super) fn of(connection: &Connection, seq: Seq) -> Result<Option<RedactedText>, LogError> {
    let mut statement = connection.prepare_cached("SELECT prompt, response FROM redactions WHERE seq = ?1")?;
    let text = statement
        .query_row([seq.0], |row| Ok(RedactedText { prompt: row.get(0)?, response: row.get(1)? }))
        .optional()?;
    Ok(text)
}
