//! `POST /v1/rewards` and `POST /get_reward`: the reward model (or whatever is configured to judge) for everybody.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use policy::{TokenId, Vocabulary};
use reward::{Lane, ScoreError, ScoreRequest, Scored, Scorer, ScorerError};
use tokio::sync::oneshot;

use super::{
    body::JsonBytes,
    computing,
    context::{Context, Limits, Services},
    error::ApiError,
    models,
    wire::{
        reward::{ExtraLogs, GetRewardRequest, GetRewardResponse, RewardEntry, RewardInput, RewardList, RewardRequest},
        usage::Usage,
    },
};

/// Ours: prompts with completions, or conversations.
pub(crate) async fn post(State(context): State<Context>, JsonBytes(body): JsonBytes) -> Result<Response, ApiError> {
    let request = RewardRequest::parse(&body)?;
    let services = context.admit()?;
    if let Some(scorer) = &services.scorer {
        models::check_reward(request.model.as_deref(), scorer)?;
    }
    let vocabulary = services.engine.vocabulary();
    let window = services.engine.context_tokens() as usize;
    let fitted = |(i, input): (usize, RewardInput)| {
        let (prompt, response) = tokenize(&vocabulary, input)?;
        let mut item = Item { prompt, response };
        item.fit(window, request.truncate, &format!("input[{i}]"))?;
        Ok::<Item, ApiError>(item)
    };
    let items =
        computing(body.len(), || request.input.into_iter().enumerate().map(fitted).collect::<Result<Vec<_>, _>>())?;
    // Of what is read, not of what was cut away before.
    let tokens = items.iter().map(|item| (item.prompt.len() + item.response.len()) as u64).sum();
    let scored = score(&context, &services, &vocabulary, items).await?;
    let data = scored.into_iter().enumerate();
    let data = data.map(|(index, s)| RewardEntry { index, object: "reward", score: s.score.0, std: s.std });
    let list = RewardList {
        object: "list",
        model: "reward".to_owned(),
        data: data.collect(),
        usage: Usage::new(tokens, 0, 0),
    };
    Ok(Json(list).into_response())
}

/// OpenRLHF's: whole texts in which special tokens are spelled out.
pub(crate) async fn get_reward(
    State(context): State<Context>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let request = GetRewardRequest::parse(&body)?;
    let services = context.admit()?;
    let vocabulary = services.engine.vocabulary();
    let window = services.engine.context_tokens() as usize;
    let fitted = |(i, query): (usize, &String)| {
        let prompt = request.prompts.get(i).filter(|prompt| query.starts_with(prompt.as_str()));
        let mut item = split(&vocabulary, query, prompt.map_or(0, String::len));
        item.fit(window, false, &format!("query[{i}]"))?;
        Ok::<Item, ApiError>(item)
    };
    let items = computing(body.len(), || request.query.iter().enumerate().map(fitted).collect::<Result<Vec<_>, _>>())?;
    let scores: Vec<f64> =
        score(&context, &services, &vocabulary, items).await?.into_iter().map(|s| s.score.0).collect();
    let reward_mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let response = GetRewardResponse { rewards: scores.clone(), scores, extra_logs: ExtraLogs { reward_mean } };
    Ok(Json(response).into_response())
}

/// One response to judge, as tokens.
struct Item {
    prompt: Vec<TokenId>,
    response: Vec<TokenId>,
}

impl Item {
    /// Nothing over-long is judged silently: it is refused, or the prompt loses its beginning because the client said so.
    fn fit(&mut self, window: usize, truncate: bool, param: &str) -> Result<(), ApiError> {
        let tokens = self.prompt.len() + self.response.len();
        if self.response.is_empty() {
            return Err(ApiError::invalid(param, "there is no response to judge: it has no tokens"));
        }
        if tokens <= window {
            return Ok(());
        }
        if !truncate {
            let message = format!("`{param}` has {tokens} tokens, but the reward model reads {window} at most");
            return Err(ApiError::invalid(param, message));
        }
        self.prompt.drain(..self.prompt.len().min(tokens - window));
        self.response.truncate(window);
        Ok(())
    }
}

fn tokenize(vocabulary: &Vocabulary, input: RewardInput) -> Result<(Vec<TokenId>, Vec<TokenId>), ApiError> {
    match input {
        RewardInput::Plain { prompt, completion } => {
            let mut response = vocabulary.tokenize(&completion);
            // A response that ended is one with its end token: the score is read there.
            response.push(vocabulary.end_token());
            Ok((vocabulary.prompt(&prompt), response))
        }
        RewardInput::Chat(messages) => {
            let refused = |e: &dyn std::fmt::Display| {
                ApiError::invalid("messages", format!("the model's chat template refused them: {e}"))
            };
            let (_, context) = messages.split_last().expect("the wire checked that there is an answer");
            let prompt = vocabulary.chat(context).map_err(|e| refused(&e))?;
            let whole = vocabulary.chat_with_answer(&messages).map_err(|e| refused(&e))?;
            let at = prompt.iter().zip(&whole).take_while(|(a, b)| a == b).count();
            Ok((whole[..at].to_vec(), whole[at..].to_vec()))
        }
    }
}

/// Splits tokens at the prompt's end; a token across the border belongs to the response.
fn split(vocabulary: &Vocabulary, query: &str, prompt_bytes: usize) -> Item {
    let mut prompt = vocabulary.tokenize_special(query);
    let mut bytes = 0;
    let inside = prompt.iter().take_while(|token| {
        bytes += vocabulary.piece(**token).len();
        bytes <= prompt_bytes
    });
    let at = inside.count();
    let response = prompt.split_off(at);
    Item { prompt, response }
}

async fn score(
    context: &Context,
    services: &Services,
    vocabulary: &Arc<Vocabulary>,
    items: Vec<Item>,
) -> Result<Vec<Scored>, ApiError> {
    let scorer = services.scorer.as_ref().ok_or_else(|| ApiError::NotFound("no reward source is configured".into()))?;
    let requests = items
        .into_iter()
        .map(|item| ScoreRequest {
            prompt_text: vocabulary.detokenize(&item.prompt, true),
            response_text: vocabulary.detokenize(&item.response, true),
            formula: scorer.rules().for_text(),
            prompt: item.prompt,
            response: item.response,
        })
        .collect();
    let outcomes = submit(scorer, requests, context.limits()).await?;
    outcomes.into_iter().collect::<Result<_, ScoreError>>().map_err(|error| ApiError::internal("scoring", error))
}

async fn submit(
    scorer: &Scorer,
    requests: Vec<ScoreRequest>,
    limits: Limits,
) -> Result<Vec<reward::scorer::Outcome>, ApiError> {
    let (reply, outcomes) = oneshot::channel();
    let submitted = scorer.submit(Lane::Requests, requests, move |scored| {
        // A client that left does not need its answer.
        let _ = reply.send(scored);
    });
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
