//! `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, response::Response};
use policy::{TokenId, Vocabulary, engine::Tenant};

use super::{
    body::JsonBytes,
    context::Context,
    error::ApiError,
    models, pieces, prompts,
    texts::Texts,
    wire::{
        error::UNKNOWN_TOKEN,
        tokens::{
            DetokenizeRequest, Piece, TokenEntry, TokenizeInput, TokenizeRequest, TokenizerInfo, Told, detokenized,
            is_long,
        },
    },
};

/// Bytes of a long answer that its client does not take: hyper holds some 400 KiB, and one piece is made.
const UNTAKEN_BYTES: usize = 1 << 19;

/// What an answer about so many tokens holds until it is sent.
fn held(n_tokens: usize) -> usize {
    n_tokens * size_of::<TokenId>() + if is_long(n_tokens) { UNTAKEN_BYTES } else { 0 }
}

/// Text or messages to ids.
pub(crate) async fn tokenize(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let deadline = context.limits().deadline();
    let TokenizeRequest { model, input, return_token_strs, with_pieces } = TokenizeRequest::parse(&body)?;
    let services = context.services()?;
    models::check_exists(&services, context.target(model.as_deref())?)?;
    let n_bytes = body.len();
    drop(body);
    // Before it has its turn, so that those who wait are bounded too: a text has at most as many tokens as bytes.
    let mut part = context.texts().answer(tenant, held(n_bytes))?;
    let vocabulary = services.engine.vocabulary();
    let cut = || tokens_of(&vocabulary, input);
    let mut tokens = context.texts().run(n_bytes, deadline, cut).await??;
    tokens.shrink_to_fit();
    // What a template adds may be more than its share.
    if !Texts::becomes(&mut part, held(tokens.len())) {
        return Err(ApiError::QueueFull);
    }
    let max_model_len = services.engine.context_tokens() as usize;
    let texts = Arc::clone(&vocabulary);
    let text = return_token_strs.then_some(move |id| piece(&texts, id));
    let entry = move |id| entry(&vocabulary, id, with_pieces);
    Ok(pieces::answer(Told { tokens, max_model_len, entry, text }.pieces(), part))
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
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let deadline = context.limits().deadline();
    let request = DetokenizeRequest::parse(&body)?;
    let services = context.services()?;
    models::check_exists(&services, context.target(request.model.as_deref())?)?;
    let vocabulary = services.engine.vocabulary();
    if let Some(id) = request.tokens.iter().find(|id| id.0 as usize >= vocabulary.size()) {
        let message = format!("`tokens` holds {}, but the vocabulary has {} tokens", id.0, vocabulary.size());
        return Err(ApiError::coded(UNKNOWN_TOKEN, "tokens", message));
    }
    let n_bytes: usize = request.tokens.iter().map(|&id| vocabulary.piece(id).len()).sum();
    let mut part = context.texts().answer(tenant, body.len() + n_bytes + UNTAKEN_BYTES)?;
    let join = || vocabulary.detokenize(&request.tokens, true);
    let text = context.texts().run(body.len(), deadline, join).await?;
    // Bytes that are no text became longer.
    let untaken = if text.len() > UNTAKEN_BYTES { UNTAKEN_BYTES } else { text.len() };
    if !Texts::becomes(&mut part, text.len() + untaken) {
        return Err(ApiError::QueueFull);
    }
    Ok(pieces::answer(detokenized(text), part))
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
