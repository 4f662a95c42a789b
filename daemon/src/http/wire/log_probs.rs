//! Log-probabilities in the two shapes that OpenAI has: four parallel arrays for completions, a list of objects for chat.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::prompt_log_probs::PromptReport;

/// What JSON gets instead of minus infinity, which it cannot hold (the number that OpenAI's specification names).
pub(super) const FLOOR: f32 = -9999.0;

/// One token as the wire shows it.
#[derive(Clone, Debug)]
pub(crate) struct TokenText(pub(crate) Vec<u8>);

impl TokenText {
    /// The text, with `bytes:\xNN` for pieces that are not UTF-8 on their own, so that two of them never look alike.
    fn legacy(&self) -> String {
        match std::str::from_utf8(&self.0) {
            Ok(text) => text.to_owned(),
            Err(_) => self.0.iter().fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}")),
        }
    }

    pub(super) fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// One drawn token with everything that a client can ask about it.
#[derive(Clone, Debug)]
pub(crate) struct TokenReport {
    /// The token.
    pub(crate) text: TokenText,
    /// Characters that it adds to the text; none for a control token.
    pub(crate) n_chars: usize,
    /// At temperature 1 over the full vocabulary, nats.
    pub(crate) log_prob: f32,
    /// In the distribution really drawn from, when asked for.
    pub(crate) behavior: Option<f32>,
    /// The most probable tokens, best first.
    pub(crate) top: Vec<(TokenText, f32)>,
}

/// The legacy shape of `/v1/completions`. What nothing predicts, or nobody drew, is null.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct LegacyLogProbs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    text_offset: Vec<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    behavior_logprobs: Vec<Option<f32>>,
}

impl LegacyLogProbs {
    /// Adds a token that starts `offset` characters into the choice's text. The drawn token is always among `top_logprobs`.
    pub(crate) fn push(&mut self, token: &TokenReport, offset: usize) {
        let top = token.top.iter().map(|(text, log_prob)| (text, *log_prob));
        self.add(&token.text, Some((token.log_prob, top.collect())), offset);
        self.behavior_logprobs.extend(token.behavior.map(|lp| Some(lp.max(FLOOR))));
    }

    /// Adds a token of an echoed prompt with its first `n_top` alternatives. It was not drawn: where the behavior is asked
    /// for (`behavior`), it has none.
    pub(crate) fn push_prompt(&mut self, token: &PromptReport, n_top: usize, behavior: bool, offset: usize) {
        let score = token.score.as_ref().map(|score| {
            let top = score.top.iter().take(n_top).map(|(_, text, log_prob)| (text, *log_prob));
            (score.log_prob, top.collect())
        });
        self.add(&token.text, score, offset);
        self.behavior_logprobs.extend(behavior.then_some(None));
    }

    /// Adds the tokens of `next` behind these.
    pub(crate) fn append(&mut self, mut next: LegacyLogProbs) {
        self.tokens.append(&mut next.tokens);
        self.token_logprobs.append(&mut next.token_logprobs);
        self.top_logprobs.append(&mut next.top_logprobs);
        self.text_offset.append(&mut next.text_offset);
        self.behavior_logprobs.append(&mut next.behavior_logprobs);
    }

    fn add(&mut self, text: &TokenText, score: Option<(f32, Vec<(&TokenText, f32)>)>, offset: usize) {
        let text = text.legacy();
        self.token_logprobs.push(score.as_ref().map(|(log_prob, _)| log_prob.max(FLOOR)));
        self.top_logprobs.push(score.map(|(log_prob, top)| {
            let mut top: BTreeMap<_, _> = top.into_iter().map(|(text, lp)| (text.legacy(), lp.max(FLOOR))).collect();
            top.insert(text.clone(), log_prob.max(FLOOR));
            top
        }));
        self.tokens.push(text);
        self.text_offset.push(offset);
    }
}

/// The shape of `/v1/chat/completions`.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChatLogProbs {
    content: Vec<ChatToken>,
    #[schema(value_type = Option<String>)]
    refusal: Option<()>,
}

impl ChatLogProbs {
    /// Adds a token.
    pub(crate) fn push(&mut self, token: &TokenReport) {
        let top = token.top.iter().map(|(text, lp)| TopToken::new(text, *lp)).collect();
        self.content.push(ChatToken {
            chosen: TopToken::new(&token.text, token.log_prob),
            top_logprobs: top,
            behavior_logprob: token.behavior.map(|lp| lp.max(FLOOR)),
        });
    }
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct ChatToken {
    #[serde(flatten)]
    chosen: TopToken,
    top_logprobs: Vec<TopToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    behavior_logprob: Option<f32>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct TopToken {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl TopToken {
    fn new(text: &TokenText, log_prob: f32) -> TopToken {
        TopToken { token: text.lossy(), logprob: log_prob.max(FLOOR), bytes: text.0.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawn_token_is_among_the_top_with_the_same_number() {
        let report = TokenReport {
            text: TokenText(vec![0xe2, 0x82]),
            n_chars: 1,
            log_prob: -0.123_456_79,
            behavior: None,
            top: vec![(TokenText(b"a".to_vec()), f32::NEG_INFINITY)],
        };
        let mut legacy = LegacyLogProbs::default();
        legacy.push(&report, 0);
        let json = serde_json::to_value(&legacy).expect("plain data");
        assert_eq!(json["tokens"][0], "bytes:\\xe2\\x82");
        assert_eq!(json["top_logprobs"][0]["bytes:\\xe2\\x82"], json["token_logprobs"][0]);
        assert_eq!(json["top_logprobs"][0]["a"], -9999.0);
        assert!(json.get("behavior_logprobs").is_none());
    }
}
