//! `POST /v1/rewards` and `POST /get_reward`: the reward model (or whatever is configured to judge) for everybody.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use policy::Vocabulary;

use super::{
    body::JsonBytes,
    computing,
    context::Context,
    error::ApiError,
    scoring::{Bench, Item, stamped},
    wire::reward::{
        ExtraLogs, GetRewardRequest, GetRewardResponse, RewardEntry, RewardInput, RewardList, RewardRequest,
    },
};

/// Ours: prompts with completions, or conversations.
pub(crate) async fn post(State(context): State<Context>, JsonBytes(body): JsonBytes) -> Result<Response, ApiError> {
    let RewardRequest { options, input } = RewardRequest::parse(&body)?;
    let bench = Bench::open(&context, options)?;
    let item = |(i, input): (usize, RewardInput)| {
        let item = match input {
            RewardInput::Plain { prompt, completion } => Item::pair(&bench.vocabulary, &prompt, &completion),
            RewardInput::Chat(messages) => Item::chat(&bench.vocabulary, &messages)?,
        };
        bench.fit(item, &format!("input[{i}]"))
    };
    let items = computing(body.len(), || input.into_iter().enumerate().map(item).collect::<Result<_, _>>())?;
    let judged = bench.judge(items).await?;
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
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let GetRewardRequest { options, query, prompts } = GetRewardRequest::parse(&body)?;
    let bench = Bench::open(&context, options)?;
    let item = |(i, query): (usize, &String)| {
        let prompt = prompts.get(i).filter(|prompt| query.starts_with(prompt.as_str()));
        bench.fit(split(&bench.vocabulary, query, prompt.map_or(0, String::len)), &format!("query[{i}]"))
    };
    let items = computing(body.len(), || query.iter().enumerate().map(item).collect::<Result<_, _>>())?;
    let judged = bench.judge(items).await?;
    let scores: Vec<f64> = judged.scored.iter().map(|s| s.score.0).collect();
    let reward_mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let response = GetRewardResponse { rewards: scores.clone(), scores, extra_logs: ExtraLogs { reward_mean } };
    Ok(stamped(Json(response).into_response(), &judged.reward_version))
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
