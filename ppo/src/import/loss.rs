//! What a candidate thinks of the live version's answers.

use std::collections::BTreeMap;

use policy::{
    PolicyVersion, TokenId,
    engine::{Engine, EngineError},
};

use super::ImportError;
use crate::rollout_log::RolloutLog;

/// Logged answers that are looked at.
const N_ROLLOUTS: usize = 16;
/// Their tokens, prompts included, together at most.
const N_TOKENS_MAX: usize = 4096;

/// How much less likely a candidate finds what the live version said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Loss {
    /// Response tokens; 0 when the live version has not answered anybody yet.
    pub(super) n_tokens: usize,
    /// Nats per token; 0 without tokens.
    pub(super) mean: f64,
}

impl Loss {
    /// For the version's row.
    pub(super) fn numbers(&self) -> BTreeMap<String, f64> {
        [("import/tokens".to_owned(), self.n_tokens as f64), ("import/loss".to_owned(), self.mean)].into()
    }
}

/// `mean over response tokens of log p_live(y_t | x, y_<t) − log p_candidate(y_t | x, y_<t)`, temperature 1.
///
/// The answers were drawn from the live version, so this estimates KL(live ‖ candidate) per token (exactly so where they were
/// drawn at temperature 1 without truncation). Random weights lose ln(vocabulary) less the live version's entropy; a model of
/// the same family, tuned otherwise, some tenths.
pub(super) fn measure(engine: &Engine, log: &RolloutLog, candidate: PolicyVersion) -> Result<Loss, ImportError> {
    let live = engine.live();
    let rows = log.reader().replayable(live, N_ROLLOUTS)?;
    let (mut n_tokens, mut sum, mut n_left) = (0, 0.0, N_TOKENS_MAX.max(engine.context_tokens() as usize));
    for row in rows {
        let (prompt, response) = (&row.rollout.prompt, &row.rollout.response);
        let tokens: Vec<TokenId> = prompt.iter().copied().chain(response.iter().map(|token| token.id)).collect();
        if prompt.is_empty() || response.is_empty() || tokens.len() > n_left.min(engine.context_tokens() as usize) {
            continue;
        }
        n_left -= tokens.len();
        let of = |version| -> Result<f64, EngineError> {
            let log_probs = engine.log_probs(version, &tokens)?;
            Ok(log_probs[prompt.len() - 1..].iter().map(|log_prob| f64::from(log_prob.0)).sum())
        };
        sum += of(live)? - of(candidate)?;
        n_tokens += response.len();
    }
    Ok(Loss { n_tokens, mean: if n_tokens == 0 { 0.0 } else { sum / n_tokens as f64 } })
}
