//! What people say about a rollout, by its id.
//!
//! One row per rollout and user: saying the same thing twice changes nothing, saying something else replaces what that
//! user said before, part by part: a comment after a thumb leaves the thumb. Score and label are one part, the
//! judgement: a thumb after a score takes the score away. Otherwise the score, which outranks a thumb, would hide that
//! the user has another mind now.
//!
//! Where the reward source listens to feedback, a judgement that comes before the rollout is claimed counts: a row that
//! was already scored goes back to `generated`, so that the scorer hears it. Everything else is kept (it is worth
//! exporting) and the answer says so: `applied: false`.

use policy::RolloutId;
use reward::sources::{Label, Opinion};
use rusqlite::{Connection, OptionalExtension, params};

use super::{error::LogError, record::Seq, state::RolloutState};

/// The word of a label in the column and in exports.
pub fn label_word(label: Label) -> &'static str {
    match label {
        Label::Up => "up",
        Label::Down => "down",
    }
}

fn parse_label(word: &str) -> Option<Label> {
    [Label::Up, Label::Down].into_iter().find(|label| label_word(*label) == word)
}

/// One user's words about one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// Which rollout.
    pub id: RolloutId,
    /// Who says so; `None` is one nameless user.
    pub user: Option<String>,
    /// A score on the scale of the reward model. Beside a label, it is the score that counts.
    pub score: Option<f64>,
    /// Thumbs.
    pub label: Option<Label>,
    /// A better text.
    pub edit: Option<String>,
    /// Anything else.
    pub comment: Option<String>,
    /// When, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl Feedback {
    /// The part that judges.
    #[must_use]
    pub fn opinion(&self) -> Opinion {
        Opinion { score: self.score, label: self.label }
    }

    /// That part, with who said it; the nameless user has no name.
    pub(super) fn said(&self) -> (String, Opinion) {
        (self.user.clone().unwrap_or_default(), self.opinion())
    }

    fn judges(&self) -> bool {
        self.score.is_some() || self.label.is_some()
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedbackReceipt {
    /// It is a judgement, somebody listens to it, and it came in time: it counts in the rollout's training.
    pub applied: bool,
    /// Where the rollout stood when it came.
    pub state: RolloutState,
}

/// Records one user's words. `listens`: whether the reward source hears them; a scored row is then handed to the scorer again.
pub(super) fn insert(connection: &Connection, feedback: &Feedback, listens: bool) -> Result<FeedbackReceipt, LogError> {
    let (seq, state) = find(connection, &feedback.id)?;
    let user = feedback.user.clone().unwrap_or_default();
    let judges = feedback.judges();
    if let Some(applied) = already_said(connection, seq, &user, feedback)? {
        return Ok(FeedbackReceipt { applied: applied && judges, state });
    }
    let applied = listens && judges && matches!(state, RolloutState::Generated | RolloutState::Scored);
    connection
        .prepare_cached(
            "INSERT INTO feedback (seq, user, score, label, edit, comment, created_ms, applied)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (seq, user) DO UPDATE SET score = CASE WHEN ?9 THEN excluded.score ELSE score END,
                label = CASE WHEN ?9 THEN excluded.label ELSE label END, edit = coalesce(excluded.edit, edit),
                comment = coalesce(excluded.comment, comment), created_ms = excluded.created_ms,
                applied = CASE WHEN ?9 THEN excluded.applied ELSE applied END",
        )?
        .execute(params![
            seq.0,
            user,
            feedback.score,
            feedback.label.map(label_word),
            feedback.edit,
            feedback.comment,
            feedback.created_ms as i64,
            applied,
            judges,
        ])?;
    if applied {
        connection
            .prepare_cached(
                "UPDATE rollouts SET state = 'generated', score = NULL, score_std = NULL, reward_version = NULL
                 WHERE seq = ?1 AND state = 'scored'",
            )?
            .execute([seq.0])?;
    }
    Ok(FeedbackReceipt { applied, state })
}

fn find(connection: &Connection, id: &RolloutId) -> Result<(Seq, RolloutState), LogError> {
    let found: Option<(i64, String)> = connection
        .prepare_cached("SELECT seq, state FROM rollouts WHERE request = ?1 AND choice = ?2")?
        .query_row(params![id.request, id.index], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (seq, state) = found.ok_or_else(|| LogError::NotFound(id.clone()))?;
    let state =
        RolloutState::parse(&state).ok_or(LogError::Corrupt { seq, what: format!("state {state:?} is unknown") })?;
    Ok((Seq(seq), state))
}

/// Whether all of these words are there already, and if so whether the judgement among that user's words counted.
fn already_said(connection: &Connection, seq: Seq, user: &str, feedback: &Feedback) -> Result<Option<bool>, LogError> {
    Ok(connection
        .prepare_cached(
            "SELECT applied FROM feedback WHERE seq = ?1 AND user = ?2 AND (NOT ?7 OR (score IS ?3 AND label IS ?4))
                AND edit IS coalesce(?5, edit) AND comment IS coalesce(?6, comment)",
        )?
        .query_row(
            params![
                seq.0,
                user,
                feedback.score,
                feedback.label.map(label_word),
                feedback.edit,
                feedback.comment,
                feedback.judges(),
            ],
            |row| row.get(0),
        )
        .optional()?)
}

/// The judgements about one rollout, each with its user's name, in the order of [`of`].
pub(super) fn opinions(connection: &Connection, seq: Seq) -> Result<Vec<(String, Opinion)>, LogError> {
    let nobody = RolloutId { request: String::new(), index: 0 };
    Ok(of(connection, seq, &nobody)?.iter().map(Feedback::said).collect())
}

/// All words about one rollout, by user.
pub(super) fn of(connection: &Connection, seq: Seq, id: &RolloutId) -> Result<Vec<Feedback>, LogError> {
    let mut statement = connection.prepare_cached(
        "SELECT user, score, label, edit, comment, created_ms FROM feedback WHERE seq = ?1 ORDER BY user",
    )?;
    let rows = statement.query_map([seq.0], |row| {
        Ok(Feedback {
            id: id.clone(),
            user: Some(row.get::<_, String>(0)?).filter(|user| !user.is_empty()),
            score: row.get(1)?,
            label: row.get::<_, Option<String>>(2)?.and_then(|word| parse_label(&word)),
            edit: row.get(3)?,
            comment: row.get(4)?,
            created_ms: row.get::<_, i64>(5)? as u64,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
