//! What every scoring route does: texts become tokens, over-long ones are refused or cut, the scorer judges, and the answer
//! is stamped with who judged.
//!
//! A score is whatever the configured sources say, normalised, and never a stand-in: when one response of a request cannot
//! be judged the request fails whole, because a 0.0 among scores looks like a judgement.

mod item;

use std::sync::Arc;

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use policy::{
    TokenId, Vocabulary,
    engine::{CancelFlag, Tenant},
};
use reward::{Lane, ScoreError, ScoreJob, ScoreRequest, Scored, Scorer, ScorerError, Sitting, scorer::Outcome};
use tokio::sync::oneshot;

use self::item::too_long;
pub(crate) use self::item::{Item, Prompt};
use super::{
    MUCH_TEXT,
    context::{Context, Services},
    error::ApiError,
    limits::Deadline,
    models, prompts,
    wire::{error::FIELDS_DISAGREE, scoring::ScoringOptions, usage::Usage},
};

/// The header of every score: who judged, as in the rollout log.
pub(crate) const REWARD_VERSION_HEADER: HeaderName = HeaderName::from_static("x-honed-reward-version");

/// Bytes of what one request has judged at most, tokens and texts, each response with its prompt: for the judge reads it again
/// each time. With four bytes to a token these are some sixteen million tokens, more than a request is waited for.
const JOB_BYTES_MAX: usize = 128 << 20;

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
    /// Whose share of the scorer it takes.
    tenant: Tenant,
    /// The tokenizer that policy and reward model share.
    pub(crate) vocabulary: Arc<Vocabulary>,
    options: ScoringOptions,
    /// For all that it waits for.
    deadline: Deadline,
    /// Who judges all of it, whoever sits by the time that it is handed over.
    sitting: Sitting,
}

impl Bench {
    /// Admits a request whose `model` is what judges now.
    pub(crate) fn open(context: &Context, tenant: Tenant, options: ScoringOptions) -> Result<Bench, ApiError> {
        let services = context.admit()?;
        let deadline = context.limits().deadline();
        let (context, vocabulary) = (context.clone(), services.engine.vocabulary());
        let mut bench = Bench { context, vocabulary, services, tenant, options, deadline, sitting: Sitting::default() };
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

    /// Refuses what must be over-long before time is spent on its tokens: none is longer than the longest. What may be cut
    /// is never too long.
    pub(crate) fn check_bytes(&self, n_bytes: usize, param: &str) -> Result<(), ApiError> {
        let (least, window) = (n_bytes / self.vocabulary.longest_piece(), self.window());
        match self.options.cut.is_none() && least > window {
            true => Err(too_long(param, &format!("{n_bytes} bytes, which are at least {least} tokens"), window)),
            false => Ok(()),
        }
    }

    /// A prompt as tokens; `param` is what the client calls it.
    pub(crate) fn prompt(&self, text: &str, param: &str) -> Result<Vec<TokenId>, ApiError> {
        self.vocabulary.prompt(text).map_err(|error| prompts::untokenized(param, &error))
    }

    /// What is asked about an item, when it fits or may be cut; `param` is what the client calls it.
    pub(crate) fn ask(&self, item: Item, param: &str) -> Result<ScoreRequest, ApiError> {
        let Item { prompt, mut response } = item.fit(self.window(), self.options.cut, param)?;
        response.shrink_to_fit();
        Ok(ScoreRequest {
            prompt_text: prompt.text(&self.vocabulary),
            response_text: self.vocabulary.detokenize(&response, true),
            formula: self.scorer()?.rules().for_text(),
            prompt: prompt.tokens,
            response,
        })
    }

    /// The same of prompts with their responses: one with each, or each with its own. A prompt becomes tokens once and is in
    /// memory once, however many responses it has, unless it is cut. `name` is what the client calls the responses.
    pub(crate) async fn ask_pairs(
        &self,
        prompts: &[String],
        responses: &[String],
        name: &str,
    ) -> Result<Vec<ScoreRequest>, ApiError> {
        let prompt_of = |i: usize| &prompts[if prompts.len() == 1 { 0 } else { i }];
        let n_bytes = |i: usize| prompt_of(i).len() + responses[i].len();
        let param = |i: usize| format!("{name}[{i}]");
        (0..responses.len()).try_for_each(|i| self.check_bytes(n_bytes(i), &param(i)))?;
        let n_held = prompts.iter().chain(responses).map(String::len).sum();
        let work = || {
            let shared = (prompts.len() == 1).then(|| self.prompt(&prompts[0], name)).transpose()?;
            let shared = shared.map(|tokens| Prompt::shared(tokens, &self.vocabulary));
            let ask = |(i, response): (usize, &String)| {
                let prompt = match &shared {
                    Some(prompt) => prompt.clone(),
                    None => self.prompt(prompt_of(i), &param(i))?.into(),
                };
                self.ask(Item::pair(&self.vocabulary, prompt, response, &param(i))?, &param(i))
            };
            gather(responses.iter().enumerate().map(ask), name)
        };
        self.make(n_held, (0..responses.len()).map(n_bytes).sum(), work).await
    }

    /// Makes what is asked, of texts of so many bytes that are read so often that they come to `n_read`, when its turn comes:
    /// what many requests make at once, before any of them asks the scorer for room, is bounded.
    pub(crate) async fn make<T: Send>(
        &self,
        n_bytes: usize,
        n_read: usize,
        work: impl FnOnce() -> Result<T, ApiError> + Send,
    ) -> Result<T, ApiError> {
        let texts = self.context.texts();
        // The body, its texts, and about as much again as tokens; what is made of them beyond that, `gather` bounds.
        let _part = (n_read > MUCH_TEXT).then(|| texts.scoring(self.tenant, 4 * n_bytes)).transpose()?;
        texts.run(n_read, self.deadline, work).await?
    }

    /// Judges all or fails.
    pub(crate) async fn judge(&self, requests: Vec<ScoreRequest>) -> Result<Judged, ApiError> {
        let tokens = requests.iter().map(|request| request.n_tokens() as u64).sum();
        let scorer = self.scorer()?;
        let outcomes = self.submit(scorer, requests).await?;
        let scored: Result<Vec<Scored>, ScoreError> = outcomes.into_iter().collect();
        let mut scored = scored.map_err(|error| match error {
            ScoreError::Closing => ApiError::ShuttingDown,
            other => ApiError::internal("scoring", other),
        })?;
        if self.options.squash {
            scored.iter_mut().for_each(squash);
        }
        Ok(Judged { scored, reward_version: scorer.version_of(&self.sitting), usage: Usage::new(tokens, 0, 0) })
    }

    async fn submit(&self, scorer: &Scorer, requests: Vec<ScoreRequest>) -> Result<Vec<Outcome>, ApiError> {
        let waiting = Waiting(CancelFlag::default());
        let (reply, outcomes) = oneshot::channel();
        let job = ScoreJob::new(requests, move |scored| {
            // A client that left does not need its answer.
            let _ = reply.send(scored);
        });
        let job = job.of(self.tenant).cancelled_by(waiting.0.clone()).judged_by(self.sitting.clone());
        let submitted = scorer.submit(Lane::Requests, job);
        submitted.map_err(|error| match error {
            ScorerError::Full => ApiError::QueueFull,
            ScorerError::TooMany(_) => ApiError::invalid("input", error.to_string()),
            ScorerError::Closed => ApiError::ShuttingDown,
        })?;
        self.deadline.bound(outcomes).await?.map_err(|_| ApiError::ShuttingDown)
    }

    fn window(&self) -> usize {
        self.services.engine.context_tokens() as usize
    }

    fn scorer(&self) -> Result<&Scorer, ApiError> {
        self.services.scorer.as_ref().ok_or_else(|| ApiError::NotFound("no reward source is configured".into()))
    }
}

/// All that one request asks, when that is not too much; `name` is what the client calls its responses.
pub(crate) fn gather(
    asked: impl Iterator<Item = Result<ScoreRequest, ApiError>>,
    name: &str,
) -> Result<Vec<ScoreRequest>, ApiError> {
    let mut n_bytes = 0;
    let bounded = asked.map(|request| {
        let request = request?;
        n_bytes += size_of::<TokenId>() * request.n_tokens() + request.prompt_text.len() + request.response_text.len();
        match n_bytes <= JOB_BYTES_MAX {
            true => Ok(request),
            false => {
                let message = format!(
                    "`{name}`, each with its prompt, may take {JOB_BYTES_MAX} bytes as tokens and texts in one request, and \
                     take more; send them in several"
                );
                Err(ApiError::coded(FIELDS_DISAGREE, name, message))
            }
        }
    });
    bounded.collect()
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

#[cfg(test)]
mod tests {
    use reward::sources::Formula;

    use super::*;

    /// Goal: a prompt counts with each of its responses, and what is too much is refused before all of it is made. Method: requests
    /// that each take a hundredth of the bound, counted as they are made.
    #[test]
    fn what_one_request_hands_over_is_bounded() {
        let text: Arc<str> = "x".repeat(JOB_BYTES_MAX / 100 - 12).into();
        let request = || ScoreRequest {
            prompt: [TokenId(1); 2].into(),
            response: vec![TokenId(2)],
            prompt_text: Arc::clone(&text),
            response_text: String::new(),
            formula: Formula::MODEL,
        };
        let mut n_made = 0;
        let mut ask = |n: usize| gather((0..n).map(|_| Ok(request())).inspect(|_| n_made += 1), "documents");
        assert_eq!(ask(100).map(|all| all.len()).ok(), Some(100));
        let Err(ApiError::Invalid { param, code, .. }) = ask(4096) else { panic!("that is too much") };
        assert_eq!((param.as_deref(), code), (Some("documents"), FIELDS_DISAGREE));
        assert_eq!(n_made, 100 + 101);
    }
}
