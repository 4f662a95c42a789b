//! Log-probabilities of the prompt's tokens, as vLLM answers `prompt_logprobs`: for each token a map from token ids to what
//! is known about them, the prompt's own token always among them, and null for the first, which nothing predicts.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::log_probs::{FLOOR, TokenText};

/// One token of a scored prompt.
#[derive(Clone, Debug)]
pub(crate) struct PromptReport {
    /// Its id.
    pub(crate) id: u32,
    /// Its text, a control token's name included.
    pub(crate) text: TokenText,
    /// Whether it is a control token, which plain text does not show.
    pub(crate) is_control: bool,
    /// `None` for the first.
    pub(crate) score: Option<PromptScore>,
}

/// What the tokens before it say about a token.
#[derive(Clone, Debug)]
pub(crate) struct PromptScore {
    /// At temperature 1 over the full vocabulary, nats.
    pub(crate) log_prob: f32,
    /// 1 for the most probable.
    pub(crate) rank: u32,
    /// The most probable tokens in its place, best first.
    pub(crate) top: Vec<(u32, TokenText, f32)>,
}

/// vLLM's list, one entry a token.
pub(crate) type PromptLogProbs = Vec<Option<BTreeMap<String, PromptLogProb>>>;

/// One possible token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PromptLogProb {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

/// The list of a prompt with the first `n_top` alternatives of each token.
pub(crate) fn prompt_log_probs(tokens: &[PromptReport], n_top: usize) -> PromptLogProbs {
    tokens.iter().map(|token| token.score.as_ref().map(|score| entry(token, score, n_top))).collect()
}

/// Bytes of the list at least: a quarter of what an entry takes.
pub(crate) fn scores_bytes_min(tokens: &[PromptReport]) -> usize {
    tokens.iter().map(|token| 16 * (1 + token.score.as_ref().map_or(0, |score| score.top.len()))).sum()
}

fn entry(token: &PromptReport, score: &PromptScore, n_top: usize) -> BTreeMap<String, PromptLogProb> {
    let describe = |text: &TokenText, log_prob: f32, rank: u32| PromptLogProb {
        logprob: log_prob.max(FLOOR),
        rank,
        decoded_token: text.lossy(),
    };
    let alternatives = (1..).zip(score.top.iter().take(n_top));
    let mut entry: BTreeMap<_, _> =
        alternatives.map(|(rank, (id, text, lp))| (id.to_string(), describe(text, *lp, rank))).collect();
    entry.insert(token.id.to_string(), describe(&token.text, score.log_prob, score.rank));
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_itself_is_in_its_entry_beside_the_best() {
        let text = |text: &str| TokenText(text.as_bytes().to_vec());
        let top = vec![(7, text("a"), -0.5), (8, text("b"), -1.5)];
        let score = PromptScore { log_prob: -4.0, rank: 9, top };
        let tokens = [
            PromptReport { id: 3, text: text("x"), is_control: false, score: None },
            PromptReport { id: 4, text: text("y"), is_control: false, score: Some(score) },
        ];
        let json = serde_json::to_value(prompt_log_probs(&tokens, 1)).expect("plain data");
        let want = serde_json::json!([null, {
            "7": {"logprob": -0.5, "rank": 1, "decoded_token": "a"},
            "4": {"logprob": -4.0, "rank": 9, "decoded_token": "y"},
        }]);
        assert_eq!(json, want);
    }
}
