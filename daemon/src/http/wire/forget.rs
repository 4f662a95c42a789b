//! `POST /v1/rollouts/forget`.

use policy::PolicyVersion;
use ppo::rollout_log::Forgotten;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    fields::{FieldError, Fields},
    sampling::NAME_CHARS_MAX,
};

/// What is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ForgottenReport {
    /// `rollouts.forgotten`.
    object: &'static str,
    /// Exchanges of the user that were removed.
    rollouts: u64,
    /// Exchanges of the user that an update holds; they are still there, so ask again when it has ended.
    in_update: u64,
    /// Words that were removed: the user's own, and others' about what is gone.
    feedback: u64,
    /// Versions that had learnt from some of them, and keep what they learnt.
    trained: Vec<TrainedRow>,
}

/// A version, and how much of what trained it is gone.
#[derive(Debug, Serialize, ToSchema)]
struct TrainedRow {
    version: u64,
    rollouts: u64,
}

impl From<&Forgotten> for ForgottenReport {
    fn from(forgotten: &Forgotten) -> ForgottenReport {
        let trained = forgotten.trained.iter();
        ForgottenReport {
            object: "rollouts.forgotten",
            rollouts: forgotten.n_rollouts,
            in_update: forgotten.n_claimed,
            feedback: forgotten.n_feedback,
            trained: trained.map(|(version, n)| TrainedRow { version: version.0, rollouts: *n }).collect(),
        }
    }
}

/// The user that a body names.
pub(crate) fn user(body: &[u8]) -> Result<String, FieldError> {
    let mut f = Fields::parse(body)?;
    match f.text("user", NAME_CHARS_MAX)?.filter(|user| !user.is_empty()) {
        Some(user) => Ok(user),
        None => Err(f.error("user", "is required, and must not be empty")),
    }
}

/// The body that names a user.
pub(crate) fn body(user: &str) -> String {
    json!({"user": user}).to_string()
}

/// A report as the command line reads it.
pub(crate) fn read(answer: &[u8]) -> Option<Forgotten> {
    let report: Value = serde_json::from_slice(answer).ok()?;
    let number = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64);
    let trained = report.get("trained")?.as_array()?.iter();
    Some(Forgotten {
        n_rollouts: number(&report, "rollouts")?,
        n_untrained: 0,
        n_claimed: number(&report, "in_update")?,
        n_feedback: number(&report, "feedback")?,
        trained: trained
            .map(|row| Some((PolicyVersion(number(row, "version")?), number(row, "rollouts")?)))
            .collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let trained = [(PolicyVersion(3), 2)].into();
        let forgotten = Forgotten { n_rollouts: 5, n_untrained: 0, n_claimed: 1, n_feedback: 4, trained };
        let report = crate::http::wire::json(&ForgottenReport::from(&forgotten));
        assert_eq!(read(report.as_bytes()), Some(forgotten));
        assert_eq!(user(body("a \"b\"").as_bytes()), Ok("a \"b\"".to_owned()));
        for bad in ["{}", r#"{"user":""}"#, r#"{"user":5}"#, r#"{"user":null}"#] {
            assert_eq!(user(bad.as_bytes()).expect_err(bad).param.as_deref(), Some("user"), "{bad}");
        }
    }
}
