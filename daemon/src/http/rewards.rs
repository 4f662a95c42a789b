//! `POST /v1/rewards` and `POST /get_reward`: the reward model (or whatever is configured to judge) for everybody.

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use policy::{TokenId, Vocabulary, engine::Tenant};

use super::{
    body::JsonBytes,
    context::Context,
    error::ApiError,
    prompts,
    scoring::{Bench, Item, gather, stamped},
    wire::reward::{
        ExtraLogs, GetRewardRequest, GetRewardResponse, RewardEntry, RewardInput, RewardList, RewardRequest,
    },
};

/// Ours: prompts with completions, or conversations.
pub(crate) async fn post(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let RewardRequest { options, input } = RewardRequest::parse(&body)?;
    let bench = Bench::open(&context, tenant, options)?;
    let item = |(i, input): (usize, RewardInput)| {
        let param = format!("input[{i}]");
        let item = match input {
            RewardInput::Plain { prompt, completion } => {
                bench.check_bytes(prompt.len() + completion.len(), &param)?;
                Item::pair(&bench.vocabulary, bench.prompt(&prompt, &param)?, &completion, &param)?
            }
            RewardInput::Chat(messages) => {
                messages.iter().try_for_each(|message| bench.check_bytes(message.content.len(), &param))?;
                Item::chat(&bench.vocabulary, &messages)?
            }
        };
        bench.ask(item, &param)
    };
    let requests =
        bench.make(body.len(), body.len(), || gather(input.into_iter().enumerate().map(item), "input")).await?;
    let judged = bench.judge(requests).await?;
    let data = judged.scored.iter().enumerate();
    let list = RewardList {
        object: "list",
        model: "reward".to_owned(),
        reward_version: judged.reward_version.clone(),
        data: data.map(|(index, s)| RewardEntry { index, object: "reward", score: s.score.0, std: s.std }).collect(),
        usage: judged.usage,
    };
    Ok(stamped(Json(list).into_response(), &judged.reward_version))
}

/// OpenRLHF's: whole texts in which special tokens are spelled out.
pub(crate) async fn get_reward(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let GetRewardRequest { options, query, prompts } = GetRewardRequest::parse(&body)?;
    let bench = Bench::open(&context, tenant, options)?;
    let item = |(i, query): (usize, &String)| {
        let prompt = prompts.get(i).filter(|prompt| query.starts_with(prompt.as_str()));
        let param = format!("query[{i}]");
        bench.check_bytes(query.len(), &param)?;
        let tokens = bench.vocabulary.tokenize_special(query).map_err(|error| prompts::untokenized(&param, &error))?;
        bench.ask(split(&bench.vocabulary, tokens, prompt.map_or(0, String::len)), &param)
    };
    let requests = bench.make(body.len(), body.len(), || gather(query.iter().enumerate().map(item), "query")).await?;
    let judged = bench.judge(requests).await?;
    let scores: Vec<f64> = judged.scored.iter().map(|s| s.score.0).collect();
    let reward_mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let response = GetRewardResponse { rewards: scores.clone(), scores, extra_logs: ExtraLogs { reward_mean } };
    Ok(stamped(Json(response).into_response(), &judged.reward_version))
}

/// Splits tokens at the prompt's end; a token across the border belongs to the response.
fn split(vocabulary: &Vocabulary, mut prompt: Vec<TokenId>, prompt_bytes: usize) -> Item {
    let mut bytes = 0;
    let inside = prompt.iter().take_while(|token| {
        bytes += vocabulary.piece(**token).len();
        bytes <= prompt_bytes
    });
    let at = inside.count();
    let response = prompt.split_off(at);
    Item { prompt: prompt.into(), response }
}
