//! `POST /v1/rerank`, `/rerank`, `/predict`: responses in the order of their scores, in Jina's and TEI's shapes.

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use policy::engine::Tenant;
use reward::Scored;

use super::{
    body::JsonBytes,
    context::Context,
    error::ApiError,
    prompts::Stamp,
    score::whole_text,
    scoring::{Bench, Item, gather, stamped},
    wire::{
        rerank::{Document, PredictRequest, Prediction, Ranked, Ranking, RerankRequest, Sequence, TeiRanked},
        scoring::LABEL,
    },
};

/// Orders responses to one prompt, best first; equal scores keep the client's order.
pub(crate) async fn post(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let RerankRequest { options, query, documents, is_tei, top_n, return_documents } = RerankRequest::parse(&body)?;
    let bench = Bench::open(&context, tenant, options)?;
    let name = if is_tei { "texts" } else { "documents" };
    let judged = bench.judge(bench.ask_pairs(&[query], &documents, name).await?).await?;
    let mut order: Vec<(usize, &Scored)> = judged.scored.iter().enumerate().collect();
    order.sort_by(|(_, a), (_, b)| b.score.0.total_cmp(&a.score.0));
    order.truncate(top_n.unwrap_or(usize::MAX));
    let text = |index: usize| return_documents.then(|| documents[index].clone());
    if is_tei {
        let ranked = |(index, s): (usize, &Scored)| TeiRanked { index, score: s.score.0, text: text(index) };
        let list: Vec<TeiRanked> = order.into_iter().map(ranked).collect();
        return Ok(stamped(Json(list).into_response(), &judged.reward_version));
    }
    let ranked = |(index, s): (usize, &Scored)| Ranked {
        index,
        relevance_score: s.score.0,
        std: s.std,
        document: text(index).map(|text| Document { text }),
    };
    let Stamp { id, model, .. } = Stamp::new("rerank", bench.model(), "reward");
    let ranking = Ranking {
        id,
        object: "list",
        model,
        reward_version: judged.reward_version.clone(),
        results: order.into_iter().map(ranked).collect(),
        usage: judged.usage,
    };
    Ok(stamped(Json(ranking).into_response(), &judged.reward_version))
}

/// Judges texts, or prompts with their responses.
pub(crate) async fn predict(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let PredictRequest { options, inputs, is_batch } = PredictRequest::parse(&body)?;
    let bench = Bench::open(&context, tenant, options)?;
    let item = |(i, sequence): (usize, &Sequence)| {
        let param = if is_batch { format!("inputs[{i}]") } else { "inputs".to_owned() };
        let item = match sequence {
            Sequence::Whole(text) => {
                bench.check_bytes(text.len(), &param)?;
                Item::whole(whole_text(&bench.vocabulary, text, true, &param)?)
            }
            Sequence::Pair(prompt, response) => {
                bench.check_bytes(prompt.len() + response.len(), &param)?;
                Item::pair(&bench.vocabulary, bench.prompt(prompt, &param)?, response, &param)?
            }
        };
        bench.ask(item, &param)
    };
    let requests = bench.make(body.len(), body.len(), || gather(inputs.iter().enumerate().map(item), "inputs")).await?;
    let judged = bench.judge(requests).await?;
    let predictions = judged.scored.iter().map(|s| [Prediction { score: s.score.0, label: LABEL }]);
    let predictions: Vec<[Prediction; 1]> = predictions.collect();
    let response = match predictions.as_slice() {
        [only] if !is_batch => Json(only).into_response(),
        all => Json(all).into_response(),
    };
    Ok(stamped(response, &judged.reward_version))
}
