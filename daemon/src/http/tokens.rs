//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`.

use axum::{Json, extract::State};
use policy::{TokenId, Vocabulary};

use super::{
    body::JsonBytes,
    computing,
    context::Context,
    error::ApiError,
    wire::tokens::{self, DetokenizeResponse, TokenizeRequest, TokenizeResponse, TokenizerInfo},
};

/// Text or messages to ids, exactly as generation would see them.
pub(crate) async fn tokenize(
    State(context): State<Context>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let services = context.services()?;
    let vocabulary = services.engine.vocabulary();
    let request = TokenizeRequest::parse(&body)?;
    let tokens = computing(body.len(), || tokens_of(&vocabulary, request))?;
    Ok(Json(TokenizeResponse {
        count: tokens.len(),
        max_model_len: services.engine.context_tokens() as usize,
        tokens: tokens.iter().map(|token| token.0).collect(),
    }))
}

fn tokens_of(vocabulary: &Vocabulary, request: TokenizeRequest) -> Result<Vec<TokenId>, ApiError> {
    Ok(match request {
        TokenizeRequest::Text { prompt, add_special_tokens: true } => vocabulary.prompt(&prompt),
        TokenizeRequest::Text { prompt, add_special_tokens: false } => vocabulary.tokenize(&prompt),
        TokenizeRequest::Chat(messages) => vocabulary.chat(&messages).map_err(|error| {
            ApiError::invalid("messages", format!("the model's chat template refused them: {error}"))
        })?,
    })
}

/// Ids to text, special tokens spelled out.
pub(crate) async fn detokenize(
    State(context): State<Context>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let services = context.services()?;
    let vocabulary = services.engine.vocabulary();
    let ids = tokens::detokenize(&body)?;
    if let Some(id) = ids.iter().find(|id| id.0 as usize >= vocabulary.size()) {
        let message = format!("`tokens` holds {}, but the vocabulary has {} tokens", id.0, vocabulary.size());
        return Err(ApiError::invalid("tokens", message));
    }
    let text = vocabulary.detokenize(&ids, true);
    Ok(Json(DetokenizeResponse { prompt: text.clone(), content: text }))
}

/// What a remote tokenizer needs to know.
pub(crate) async fn info(State(context): State<Context>) -> Result<Json<TokenizerInfo>, ApiError> {
    let services = context.services()?;
    let vocabulary = services.engine.vocabulary();
    let end = vocabulary.end_token();
    Ok(Json(TokenizerInfo {
        vocab_size: vocabulary.size(),
        max_model_len: services.engine.context_tokens() as usize,
        eos_token: String::from_utf8_lossy(vocabulary.piece(end)).into_owned(),
        eos_token_id: end.0,
        digest: vocabulary.digest().to_owned(),
    }))
}
