//! `GET /v1/rewards/model`, `POST /v1/rewards/model`.

use serde::Serialize;
use utoipa::ToSchema;

use super::fields::{FieldError, Fields};
use crate::reward_seat::{Change, Order, Seated};

/// Characters of a path, and of a version's name, at most.
const NAME_CHARS_MAX: usize = 4096;

/// The reward model that judges.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RewardModelCard {
    /// `reward_model`.
    object: &'static str,
    /// `model@<digest>`, of an ensemble with how its members become one: what scores are stamped with.
    version: String,
    /// Its file; null for the built-in one.
    path: Option<String>,
    /// Since when it judges, milliseconds since the Unix epoch.
    since_ms: u64,
    /// One for each head: `score = gain·raw + bias`.
    normalization: Vec<NormalizationRow>,
    /// How well it judged what its training had held back, as its file says; null where it does not.
    held_out: Option<HeldOutRow>,
    /// Of a change: who judged before; null when it is the same model.
    replaced: Option<String>,
    /// Of a change: rollouts that the old one judged and that wait to be judged again.
    rejudged: u64,
}

/// What `honed train reward` measured.
#[derive(Debug, Serialize, ToSchema)]
struct HeldOutRow {
    /// Share of pairs whose preferred response scores higher.
    accuracy: f64,
    /// Pairs.
    pairs: u64,
}

/// The map from a head's output to a score.
#[derive(Debug, Serialize, ToSchema)]
struct NormalizationRow {
    gain: f64,
    bias: f64,
}

impl RewardModelCard {
    /// Who sits.
    pub(crate) fn of(seated: &Seated) -> RewardModelCard {
        let (maps, held_out) = (seated.model.normalizations().iter(), seated.model.held_out());
        RewardModelCard {
            object: "reward_model",
            version: seated.version.clone(),
            path: seated.path.as_ref().map(|path| path.display().to_string()),
            since_ms: seated.since_ms,
            normalization: maps.map(|map| NormalizationRow { gain: map.gain, bias: map.bias }).collect(),
            held_out: held_out.map(|measured| HeldOutRow { accuracy: measured.accuracy, pairs: measured.n_pairs }),
            replaced: None,
            rejudged: 0,
        }
    }

    /// Who sits after a change, and what it changed.
    pub(crate) fn after(change: &Change) -> RewardModelCard {
        let card = RewardModelCard::of(&change.seated);
        RewardModelCard { replaced: change.replaced.clone(), rejudged: change.n_rejudged, ..card }
    }
}

/// Reads an order; the body may be missing.
pub(crate) fn order(body: &[u8]) -> Result<Order, FieldError> {
    if body.is_empty() {
        return Ok(Order::default());
    }
    let mut f = Fields::parse(body)?;
    let path = f.text("path", NAME_CHARS_MAX)?;
    if path.as_ref().is_some_and(String::is_empty) {
        return Err(f.error("path", "must not be empty; leave it out to read the configured file again"));
    }
    Ok(Order { path, expected: f.text("expected", NAME_CHARS_MAX)? })
}
