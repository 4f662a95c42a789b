//! `POST /v1/completions`.

mod repetition;
mod shape;

use std::time::Instant;

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse, Response},
};
use policy::{
    TokenId, Vocabulary,
    engine::{Target, Tenant},
};

use super::{
    answer::{self, Assembly, Piece, Settings, Shape, Totals},
    best_of::BestOf,
    body::JsonBytes,
    chunk_usage::ChunkUsage,
    computing, constraint,
    context::{Context, Services},
    deposit::Deposit,
    error::ApiError,
    generation::{Generation, Job},
    prompt_scores,
    prompts::{self, Stamp},
    wire::{completion::CompletionRequest, prompt::Prompt, usage::Usage},
};
use shape::{Completions, Echo};

/// Answers.
pub(crate) async fn post(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let request = CompletionRequest::parse(&body)?;
    let services = context.admit()?;
    let target = context.target(request.generation.model.as_deref())?;
    let vocabulary = services.engine.vocabulary();
    prompts::check_bytes(texts(&request.prompts), "prompt", &services)?;
    let prompts = computing(body.len(), || tokenize(&vocabulary, &request.prompts))?;
    let g = &request.generation;
    prompts::check(&prompts, "prompt", g, &services)?;
    let stamp = Stamp::new("cmpl", g.model.as_deref(), context.served_name());
    let prompt_log_probs = request.prompt_log_probs();
    prompt_scores::check(&prompts, "prompt", prompt_log_probs, g.n)?;
    repetition::check(&request, &prompts, &vocabulary)?;
    let shape = shape_of(&request, &prompts, &vocabulary, stamp);
    if g.max_tokens == Some(0) && prompt_log_probs.is_none() {
        return echo_only(&services, target, &prompts, shape, g.stream);
    }
    let best_of = BestOf { n: g.n, n_drawn: g.n_drawn };
    let settings = Settings {
        vocabulary,
        log_probs: request.log_probs.is_some(),
        behavior: g.return_behavior_logprobs,
        token_ids: g.return_token_ids,
        include_usage: shape.usage.is_told_at_the_end(),
        best_of,
    };
    let (stream, length_name) = (g.stream, g.length_name());
    let constraint = constraint::compile(&services, request.generation.grammar).await?;
    let job = Job {
        id: shape.stamp.id.clone(),
        arrived,
        target,
        prompts,
        n: best_of.n_drawn,
        length_name,
        constraint,
        top_log_probs: request.log_probs.unwrap_or(0),
        prompt_log_probs,
        cache_salt: request.generation.cache_salt.map(Into::into),
        tenant,
        user: request.generation.user,
        store: request.generation.store,
        sampling: request.generation.sampling,
    };
    let generation = Generation::start(&context, &services, job)?;
    let shape = shape.of_version(generation.version);
    match stream {
        true => Ok(answer::stream(generation, Assembly::new(settings), shape)),
        false => answer::whole(generation, Assembly::new(settings), shape).await,
    }
}

/// What the answer looks like, before it is known which version gives it.
fn shape_of(
    request: &CompletionRequest,
    prompts: &[Vec<TokenId>],
    vocabulary: &Vocabulary,
    stamp: Stamp,
) -> Completions {
    let g = &request.generation;
    let echo = |prompt| Echo::of(vocabulary, prompt);
    Completions {
        echo: if request.echo { request.prompts.iter().map(echo).collect() } else { Vec::new() },
        prompt_ids: prompts::ids(prompts, g.return_token_ids),
        n: g.n,
        log_probs: request.log_probs,
        behavior: g.return_behavior_logprobs,
        prompt_log_probs: g.prompt_log_probs,
        usage: ChunkUsage::new(g.usage, prompts, g.n),
        offsets: Vec::new(),
        scores: Vec::new(),
        fingerprint: String::new(),
        stamp,
    }
}

fn texts(prompts: &[Prompt]) -> impl Iterator<Item = &str> {
    prompts.iter().filter_map(|prompt| match prompt {
        Prompt::Text(text) => Some(text.as_str()),
        Prompt::Tokens(_) => None,
    })
}

fn tokenize(vocabulary: &Vocabulary, texts: &[Prompt]) -> Result<Vec<Vec<TokenId>>, ApiError> {
    let tokens = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => vocabulary.prompt(text).map_err(|error| prompts::untokenized("prompt", &error)),
        Prompt::Tokens(ids) => Ok(ids.clone()),
    };
    texts.iter().map(tokens).collect()
}

/// `max_tokens: 0` with `echo`: the prompts come back and the engine is not asked.
fn echo_only(
    services: &Services,
    target: Target,
    prompts: &[Vec<TokenId>],
    shape: Completions,
    stream: bool,
) -> Result<Response, ApiError> {
    let version = match target {
        Target::Live => services.engine.live(),
        Target::Version(version) => prompts::resident(services, version)?,
    };
    let shape = shape.of_version(version);
    let usage = Usage::new(prompts.iter().map(|prompt| prompt.len() as u64).sum(), 0, 0);
    let totals = Totals { usage, timings: None };
    let choices = prompts.len() as u32 * shape.n;
    let pieces = (0..choices).map(|choice| Piece { choice, finish: Some("length"), ..Piece::default() });
    let body = computing(shape.whole_bytes_min(), || echoes(shape, pieces.collect(), totals, stream));
    if !stream {
        return Ok(answer::json_response(body, version, Deposit::nothing()));
    }
    let event_stream = [(axum::http::header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
    Ok(super::context::with_version((event_stream, body).into_response(), version))
}

/// The body of such an answer.
fn echoes(mut shape: Completions, pieces: Vec<Piece>, totals: Totals, stream: bool) -> String {
    if !stream {
        return shape.whole(pieces, totals);
    }
    let mut events: Vec<String> = (0..).map_while(|number| shape.opening(number)).collect();
    events.extend(pieces.into_iter().map(|piece| shape.chunk(piece, None)));
    if shape.usage.is_told_at_the_end() {
        events.push(shape.usage_chunk(totals));
    }
    events.push("[DONE]".to_owned());
    // Each is let go as it is copied.
    events.into_iter().fold(String::new(), |body, event| body + "data: " + &event + "\n\n")
}
