//! What a reward source says about one whole response.
//!
//! "Score" is per response and comes from here; "reward" is per token, after the KL penalty, and is `ppo`'s.

/// A judgement of one response; larger is better. From the reward model it is normalised: mean 0 on demonstrations,
/// standard deviation 1 on samples of the reference policy.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Score(pub f64);

/// What one reward model says about one response: a score, and how far its members are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Normalised, larger is better.
    pub score: f64,
    /// Population standard deviation over the members of an ensemble, in score units; `None` where one head spoke.
    pub std: Option<f64>,
}

impl From<f64> for Judgement {
    /// Of a judge that is no ensemble.
    fn from(score: f64) -> Judgement {
        Judgement { score, std: None }
    }
}

/// A score with what must be known about it to train on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The judgement.
    pub score: Score,
    /// Disagreement among the members of an ensemble, in score units; `None` where one judge spoke.
    pub std: Option<f64>,
    /// Who judged: `model@<digest>`, `remote`, `feedback`, or a weighted sum of these.
    pub reward_version: String,
}

/// Why there is no score. It is never 0.0: the policy would learn from our failure as from a judgement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// A source answered NaN or an infinity, or nothing, for this response.
    #[error("the {origin} source gave {got} instead of a finite score")]
    NonFinite {
        /// `model`, `remote` or `stored`.
        origin: &'static str,
        /// What it gave.
        got: String,
    },
    /// The reward model could not judge the batch.
    #[error("the reward model failed: {0}")]
    Model(String),
    /// The reward server could not be asked, or gave no usable answer.
    #[error("the reward server failed: {0}")]
    Remote(String),
    /// The reward server refuses this one text, and judges others: asked again it would say the same.
    #[error("the reward server refused the text with HTTP status {status}")]
    Refused {
        /// The status, 4xx.
        status: u16,
    },
    /// No source that could judge this is configured.
    #[error("no {0} is loaded")]
    Absent(&'static str),
    /// The scorer is shutting down.
    #[error("the scorer is shutting down")]
    Closing,
}

impl ScoreError {
    /// Whether it is about this response alone, so that asking again changes nothing.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, ScoreError::NonFinite { .. } | ScoreError::Refused { .. })
    }

    /// `value` as a score, when it is one.
    pub(crate) fn check(origin: &'static str, value: f64) -> Result<f64, ScoreError> {
        if value.is_finite() {
            return Ok(value);
        }
        Err(ScoreError::NonFinite { origin, got: value.to_string() })
    }
}
