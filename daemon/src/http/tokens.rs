//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`.

use axum::{Json, extract::State};
use policy::{TokenId, Vocabulary};

use super::{
    body::JsonBytes,
    computing,
    context::Context,
    error::ApiError,
    models, prompts,
    wire::{
        error::UNKNOWN_TOKEN,
        tokens::{
            DetokenizeRequest, DetokenizeResponse, Piece, TokenEntry, TokenizeInput, TokenizeRequest, TokenizeResponse,
            TokenizerInfo,
        },
    },
};

/// Text or messages to ids.
pub(crate) async fn tokenize(
    State(context): State<Context>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let request = TokenizeRequest::parse(&body)?;
    let services = context.services()?;
    models::check_exists(&services, context.target(request.model.as_deref())?)?;
    let vocabulary = services.engine.vocabulary();
    let tokens = computing(body.len(), || tokens_of(&vocabulary, request.input))?;
    Ok(Json(TokenizeResponse {
        count: tokens.len(),
        max_model_len: services.engine.context_tokens() as usize,
        token_strs: request.return_token_strs.then(|| tokens.iter().map(|&id| piece(&vocabulary, id)).collect()),
        tokens: tokens.iter().map(|&id| entry(&vocabulary, id, request.with_pieces)).collect(),
    }))
}

fn entry(vocabulary: &Vocabulary, id: TokenId, with_piece: bool) -> TokenEntry {
    match with_piece {
        true => TokenEntry::WithPiece { id: id.0, piece: Piece::of(vocabulary.piece(id)) },
        false => TokenEntry::Id(id.0),
    }
}

fn tokens_of(vocabulary: &Vocabulary, input: TokenizeInput) -> Result<Vec<TokenId>, ApiError> {
    let (prompt, add_special_tokens, parse_special) = match input {
        TokenizeInput::Text { prompt, add_special_tokens, parse_special } => {
            (prompt, add_special_tokens, parse_special)
        }
        TokenizeInput::Chat(messages) => {
            return vocabulary.chat(&messages).map_err(prompts::refused_by_template);
        }
    };
    let mut tokens = match parse_special {
        true => vocabulary.tokenize_special(&prompt),
        false => vocabulary.tokenize(&prompt),
    }
    .map_err(|error| prompts::untokenized("prompt", &error))?;
    // A text that already spells the beginning token gets no second one: models have never seen two.
    if let Some(begin) = vocabulary.begin_token().filter(|begin| add_special_tokens && tokens.first() != Some(begin)) {
        tokens.insert(0, begin);
    }
    Ok(tokens)
}

/// Ids to text, special tokens spelled out.
pub(crate) async fn detokenize(
    State(context): State<Context>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let request = DetokenizeRequest::parse(&body)?;
    let services = context.services()?;
    models::check_exists(&services, context.target(request.model.as_deref())?)?;
    let vocabulary = services.engine.vocabulary();
    if let Some(id) = request.tokens.iter().find(|id| id.0 as usize >= vocabulary.size()) {
        let message = format!("`tokens` holds {}, but the vocabulary has {} tokens", id.0, vocabulary.size());
        return Err(ApiError::coded(UNKNOWN_TOKEN, "tokens", message));
    }
    let text = computing(body.len(), || vocabulary.detokenize(&request.tokens, true));
    Ok(Json(DetokenizeResponse { prompt: text.clone(), content: text }))
}

/// What a remote tokenizer needs to know.
pub(crate) async fn info(State(context): State<Context>) -> Result<Json<TokenizerInfo>, ApiError> {
    let services = context.services()?;
    let vocabulary = services.engine.vocabulary();
    let (begin, end) = (vocabulary.begin_token(), vocabulary.end_token());
    Ok(Json(TokenizerInfo {
        vocab_size: vocabulary.size(),
        max_model_len: services.engine.context_tokens() as usize,
        bos_token: begin.map(|id| piece(&vocabulary, id)),
        bos_token_id: begin.map(|id| id.0),
        eos_token: piece(&vocabulary, end),
        eos_token_id: end.0,
        pad_token: None,
        chat_template: vocabulary.chat_template().map(str::to_owned),
        digest: vocabulary.digest().to_owned(),
    }))
}

fn piece(vocabulary: &Vocabulary, id: TokenId) -> String {
    String::from_utf8_lossy(vocabulary.piece(id)).into_owned()
}
