//! What every scoring route does: texts become tokens, over-long ones are refused or cut, the scorer judges, and the answer
//! is stamped with who judged.
//!
//! A score is whatever the configured sources say, normalised, and never a stand-in: when one response of a request cannot
//! be judged the request fails whole, because a 0.0 among scores looks like a judgement.

use std::sync::Arc;

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use policy::{TokenId, Vocabulary, chat_template::Message, engine::CancelFlag};
use reward::{Lane, ScoreError, ScoreJob, ScoreRequest, Scored, Scorer, ScorerError, Sitting, scorer::Outcome};
use tokio::sync::oneshot;

use super::{
    context::{Context, Limits, Services},
    error::ApiError,
    models, prompts,
    wire::{
        error::{CONTEXT_LENGTH_EXCEEDED, FIELDS_DISAGREE},
        scoring::{Cut, Keep, ScoringOptions},
        usage::Usage,
    },
};

/// The header of every score: who judged, as in the rollout log.
pub(crate) const REWARD_VERSION_HEADER: HeaderName = HeaderName::from_static("x-honed-reward-version");

/// One response to judge, as tokens.
pub(crate) struct Item {
    /// As the policy saw it.
    pub(crate) prompt: Vec<TokenId>,
    /// To the token at which the score is read.
    pub(crate) response: Vec<TokenId>,
}

impl Item {
    /// A prompt and a response that ended: its end token is where the score is read.
    pub(crate) fn pair(vocabulary: &Vocabulary, prompt: &str, response: &str) -> Item {
        let mut response = vocabulary.tokenize(response);
        response.push(vocabulary.end_token());
        Item { prompt: vocabulary.prompt(prompt), response }
    }

    /// A conversation that ends with the answer to be judged.
    pub(crate) fn chat(vocabulary: &Vocabulary, messages: &[Message]) -> Result<Item, ApiError> {
        let (_, context) = messages.split_last().expect("the wire checked that there is an answer");
        let prompt = vocabulary.chat(context).map_err(prompts::refused_by_template)?;
        let whole = vocabulary.chat_with_answer(messages).map_err(prompts::refused_by_template)?;
        let at = prompt.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        Ok(Item { prompt: whole[..at].to_vec(), response: whole[at..].to_vec() })
    }

    /// Nothing over-long is judged silently: it is refused, or cut as the client said.
    fn fit(&mut self, window: usize, cut: Option<Cut>, param: &str) -> Result<(), ApiError> {
        let tokens = self.prompt.len() + self.response.len();
        if let Some(cut) = cut {
            self.keep(cut.tokens_max.unwrap_or(window).min(window), cut.keep);
        } else if tokens > window {
            let message = format!("`{param}` has {tokens} tokens, but the reward model reads {window} at most");
            return Err(ApiError::coded(CONTEXT_LENGTH_EXCEEDED, param, message));
        }
        match self.response.is_empty() {
            true => {
                let message = format!("`{param}` has no response to judge: no token of it is left");
                Err(ApiError::coded(FIELDS_DISAGREE, param, message))
            }
            false => Ok(()),
        }
    }

    fn keep(&mut self, n: usize, keep: Keep) {
        let n_over = (self.prompt.len() + self.response.len()).saturating_sub(n);
        match keep {
            Keep::End => {
                let of_prompt = n_over.min(self.prompt.len());
                self.prompt.drain(..of_prompt);
                self.response.drain(..n_over - of_prompt);
            }
            Keep::Beginning => {
                let of_response = n_over.min(self.response.len());
                self.response.truncate(self.response.len() - of_response);
                self.prompt.truncate(self.prompt.len() - (n_over - of_response));
            }
        }
    }
}

/// Scores of one request, in its order.
pub(crate) struct Judged {
    /// One for each item.
    pub(crate) scored: Vec<Scored>,
    /// Who judged.
    pub(crate) reward_version: String,
    /// Tokens that were read: not those that were cut away before.
    pub(crate) usage: Usage,
}

/// What a request is judged with: the parts that answer, and what the client asked for.
pub(crate) struct Bench {
    context: Context,
    services: Arc<Services>,
    /// The tokenizer that policy and reward model share.
    pub(crate) vocabulary: Arc<Vocabulary>,
    options: ScoringOptions,
    /// Who judges all of it, whoever sits by the time that it is handed over.
    sitting: Sitting,
}

impl Bench {
    /// Admits a request whose `model` is what judges now.
    pub(crate) fn open(context: &Context, options: ScoringOptions) -> Result<Bench, ApiError> {
        let services = context.admit()?;
        let vocabulary = services.engine.vocabulary();
        let mut bench = Bench { context: context.clone(), vocabulary, services, options, sitting: Sitting::default() };
        let scorer = bench.scorer()?;
        let sitting = scorer.sitting();
        models::check_reward(bench.options.model.as_deref(), &scorer.version_of(&sitting))?;
        bench.sitting = sitting;
        Ok(bench)
    }

    /// As the client named it.
    pub(crate) fn model(&self) -> Option<&str> {
        self.options.model.as_deref()
    }

    /// The item, when it fits or may be cut; `param` is what the client calls it.
    pub(crate) fn fit(&self, mut item: Item, param: &str) -> Result<Item, ApiError> {
        item.fit(self.services.engine.context_tokens() as usize, self.options.cut, param)?;
        Ok(item)
    }

    /// Judges all items or fails.
    pub(crate) async fn judge(&self, items: Vec<Item>) -> Result<Judged, ApiError> {
        let tokens = items.iter().map(|item| (item.prompt.len() + item.response.len()) as u64).sum();
        let scorer = self.scorer()?;
        let requests = self.requests(scorer, items);
        let outcomes = submit(scorer, requests, &self.sitting, self.context.limits()).await?;
        let scored: Result<Vec<Scored>, ScoreError> = outcomes.into_iter().collect();
        let mut scored = scored.map_err(|error| match error {
            ScoreError::Closing => ApiError::Unavailable("the daemon is shutting down"),
            other => ApiError::internal("scoring", other),
        })?;
        if self.options.squash {
            scored.iter_mut().for_each(squash);
        }
        Ok(Judged { scored, reward_version: scorer.version_of(&self.sitting), usage: Usage::new(tokens, 0, 0) })
    }

    fn scorer(&self) -> Result<&Scorer, ApiError> {
        self.services.scorer.as_ref().ok_or_else(|| ApiError::NotFound("no reward source is configured".into()))
    }

    fn requests(&self, scorer: &Scorer, items: Vec<Item>) -> Vec<ScoreRequest> {
        let text = |tokens: &[TokenId]| self.vocabulary.detokenize(tokens, true);
        let request = |item: Item| ScoreRequest {
            prompt_text: text(&item.prompt),
            response_text: text(&item.response),
            formula: scorer.rules().for_text(),
            prompt: item.prompt,
            response: item.response,
        };
        items.into_iter().map(request).collect()
    }
}

/// Into 0..1. A spread in score units has no meaning on that scale.
fn squash(scored: &mut Scored) {
    scored.score.0 = 1.0 / (1.0 + (-scored.score.0).exp());
    scored.std = None;
}

/// Stamps an answer with who judged.
pub(crate) fn stamped(mut response: Response, reward_version: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(reward_version) {
        response.headers_mut().insert(REWARD_VERSION_HEADER, value);
    }
    response
}

/// Raises the flag when the request's future ends, however it does: what was not judged by then, nobody waits for.
struct Waiting(CancelFlag);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn submit(
    scorer: &Scorer,
    requests: Vec<ScoreRequest>,
    sitting: &Sitting,
    limits: Limits,
) -> Result<Vec<Outcome>, ApiError> {
    let waiting = Waiting(CancelFlag::default());
    let (reply, outcomes) = oneshot::channel();
    let job = ScoreJob::new(requests, move |scored| {
        // A client that left does not need its answer.
        let _ = reply.send(scored);
    });
    let job = job.cancelled_by(waiting.0.clone()).judged_by(sitting.clone());
    let submitted = scorer.submit(Lane::Requests, job);
    submitted.map_err(|error| match error {
        ScorerError::Full => ApiError::QueueFull,
        ScorerError::TooMany(_) => ApiError::invalid("input", error.to_string()),
        ScorerError::Closed => ApiError::Unavailable("the daemon is shutting down"),
    })?;
    tokio::time::timeout(limits.request_timeout(), outcomes)
        .await
        .map_err(|_| ApiError::TimedOut(limits.request_timeout_s))?
        .map_err(|_| ApiError::Unavailable("the daemon is shutting down"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(prompt: std::ops::Range<u32>, response: std::ops::Range<u32>) -> Item {
        Item { prompt: prompt.map(TokenId).collect(), response: response.map(TokenId).collect() }
    }

    /// Goal: a cut keeps the end or the beginning of prompt and response together. Method: ten tokens in a row, every
    /// length, against the same cut of one list.
    #[test]
    fn a_cut_is_that_of_the_whole_sequence() {
        let all: Vec<TokenId> = (0..10).map(TokenId).collect();
        for n in 0..=12 {
            for (keep, expected) in
                [(Keep::End, &all[10_usize.saturating_sub(n)..]), (Keep::Beginning, &all[..n.min(10)])]
            {
                let mut cut = item(0..6, 6..10);
                cut.keep(n, keep);
                assert_eq!([cut.prompt, cut.response].concat(), expected, "{n} {keep:?}");
            }
        }
    }

    #[test]
    fn over_long_is_an_error_unless_a_cut_was_asked_for() {
        let cut = |tokens_max, keep| Some(Cut { tokens_max, keep });
        assert!(item(0..6, 6..10).fit(10, None, "x").is_ok());
        assert!(item(0..6, 6..10).fit(9, None, "x").is_err());
        assert!(item(0..6, 6..10).fit(9, cut(None, Keep::End), "x").is_ok());
        assert!(item(0..6, 6..10).fit(6, cut(None, Keep::Beginning), "x").is_err(), "nothing of the response is left");
        let mut short = item(0..6, 6..10);
        assert!(short.fit(10, cut(Some(3), Keep::End), "x").is_ok());
        assert_eq!((short.prompt.len(), short.response.len()), (0, 3));
    }
}
