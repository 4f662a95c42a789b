//! `POST /v1/score`, `/score`, `/classify`, `/pooling`: one kind of judgement in vLLM's shapes.

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use policy::{TokenId, Vocabulary, engine::Tenant};
use reward::{ScoreRequest, Scored};
use serde::Serialize;

use super::{
    body::JsonBytes,
    context::Context,
    error::ApiError,
    prompts::{self, Stamp},
    scoring::{Bench, Item, Judged, gather, stamped},
    wire::{
        error::UNKNOWN_TOKEN,
        prompt::Prompt,
        score::{ClassEntry, PoolEntry, ScoreEntry, ScoreList, ScorePairsRequest, WholeInput, WholeRequest},
        scoring::LABEL,
    },
};

/// Prompts and responses.
pub(crate) async fn pairs(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let ScorePairsRequest { options, prompts, responses, responses_name } = ScorePairsRequest::parse(&body)?;
    let bench = Bench::open(&context, tenant, options)?;
    let requests = bench.ask_pairs(&prompts, &responses, responses_name).await?;
    let entry = |index, s: &Scored| ScoreEntry { index, object: "score", score: s.score.0, std: s.std };
    Ok(answer("score", bench.model(), bench.judge(requests).await?, entry))
}

/// Whole texts, as labels with one class.
pub(crate) async fn classify(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let WholeRequest { options, input } = WholeRequest::classify(&body)?;
    let entry = |index, s: &Scored| ClassEntry { index, label: LABEL, probs: [s.score.0], num_classes: 1, std: s.std };
    let bench = Bench::open(&context, tenant, options)?;
    whole(&bench, "classify", input, body.len(), entry).await
}

/// Whole texts, as what the model's head says.
pub(crate) async fn pooling(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let WholeRequest { options, input } = WholeRequest::pooling(&body)?;
    let entry = |index, s: &Scored| PoolEntry { index, object: "pooling", data: [s.score.0], std: s.std };
    let bench = Bench::open(&context, tenant, options)?;
    whole(&bench, "pool", input, body.len(), entry).await
}

async fn whole<T: Serialize>(
    bench: &Bench,
    name: &str,
    input: WholeInput,
    n_bytes: usize,
    entry: impl Fn(usize, &Scored) -> T,
) -> Result<Response, ApiError> {
    let requests = bench.make(n_bytes, n_bytes, || asked(bench, input)).await?;
    Ok(answer(name, bench.model(), bench.judge(requests).await?, entry))
}

fn asked(bench: &Bench, input: WholeInput) -> Result<Vec<ScoreRequest>, ApiError> {
    let (inputs, add_special_tokens) = match input {
        WholeInput::Chat(messages) => {
            messages.iter().try_for_each(|message| bench.check_bytes(message.content.len(), "messages"))?;
            return Ok(vec![bench.ask(Item::chat(&bench.vocabulary, &messages)?, "messages")?]);
        }
        WholeInput::Texts { inputs, add_special_tokens } => (inputs, add_special_tokens),
    };
    let item = |(i, input): (usize, Prompt)| {
        let param = format!("input[{i}]");
        let response = match input {
            Prompt::Text(text) => {
                bench.check_bytes(text.len(), &param)?;
                whole_text(&bench.vocabulary, &text, add_special_tokens, &param)?
            }
            Prompt::Tokens(ids) => known(&bench.vocabulary, ids, &param)?,
        };
        bench.ask(Item::whole(response), &param)
    };
    gather(inputs.into_iter().enumerate().map(item), "input")
}

/// Prompt and response in one text, special tokens spelled out; nothing is added at the end.
pub(crate) fn whole_text(
    vocabulary: &Vocabulary,
    text: &str,
    add_special_tokens: bool,
    param: &str,
) -> Result<Vec<TokenId>, ApiError> {
    let mut tokens = vocabulary.tokenize_special(text).map_err(|error| prompts::untokenized(param, &error))?;
    if let Some(begin) = vocabulary.begin_token().filter(|begin| add_special_tokens && tokens.first() != Some(begin)) {
        tokens.insert(0, begin);
    }
    Ok(tokens)
}

fn known(vocabulary: &Vocabulary, ids: Vec<TokenId>, param: &str) -> Result<Vec<TokenId>, ApiError> {
    match ids.iter().find(|id| id.0 as usize >= vocabulary.size()) {
        None => Ok(ids),
        Some(id) => {
            let message =
                format!("`{param}` holds token {}, but the vocabulary has {} tokens", id.0, vocabulary.size());
            Err(ApiError::coded(UNKNOWN_TOKEN, param, message))
        }
    }
}

fn answer<T: Serialize>(
    name: &str,
    model: Option<&str>,
    judged: Judged,
    entry: impl Fn(usize, &Scored) -> T,
) -> Response {
    let Stamp { id, created, model } = Stamp::new(name, model, "reward");
    let list = ScoreList {
        id,
        object: "list",
        created,
        model,
        reward_version: judged.reward_version.clone(),
        data: judged.scored.iter().enumerate().map(|(i, scored)| entry(i, scored)).collect(),
        usage: judged.usage,
    };
    stamped(Json(list).into_response(), &judged.reward_version)
}
