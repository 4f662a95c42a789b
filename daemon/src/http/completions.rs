//! `POST /v1/completions`.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use policy::{PolicyVersion, TokenId, Vocabulary, engine::Target};

use super::{
    answer::{self, Assembly, Piece, Settings, Shape},
    body::JsonBytes,
    computing,
    context::{Context, Services},
    deposit::Deposit,
    error::ApiError,
    generation::{Generation, Job},
    prompts::{self, Stamp},
    wire::{
        completion::{Completion, CompletionChoice, CompletionRequest},
        json,
        log_probs::LegacyLogProbs,
        prompt::Prompt,
        usage::Usage,
    },
};

/// Answers.
pub(crate) async fn post(State(context): State<Context>, JsonBytes(body): JsonBytes) -> Result<Response, ApiError> {
    let request = CompletionRequest::parse(&body)?;
    let services = context.admit()?;
    let target = context.target(request.generation.model.as_deref())?;
    let vocabulary = services.engine.vocabulary();
    let texts = request.prompts.iter().filter_map(|prompt| match prompt {
        Prompt::Text(text) => Some(text.as_str()),
        Prompt::Tokens(_) => None,
    });
    prompts::check_bytes(texts, "prompt", &services)?;
    let prompts = computing(body.len(), || tokenize(&vocabulary, &request.prompts));
    let g = &request.generation;
    prompts::check(&prompts, "prompt", g, &services)?;
    let stamp = Stamp::new("cmpl", g.model.as_deref(), context.served_name());
    let shape = Completions {
        echo: if request.echo { echo(&vocabulary, &request.prompts) } else { Vec::new() },
        prompt_ids: prompts::ids(&prompts, g.return_token_ids),
        n: g.n,
        log_probs: request.log_probs.is_some(),
        include_usage: g.include_usage,
        offsets: Vec::new(),
        fingerprint: String::new(),
        stamp,
    };
    if g.max_tokens == Some(0) {
        return echo_only(&services, target, prompts, shape, g.stream);
    }
    let settings = Settings {
        vocabulary,
        log_probs: request.log_probs.is_some(),
        behavior: g.return_behavior_logprobs,
        token_ids: g.return_token_ids,
        include_usage: g.include_usage,
        n: g.n,
    };
    let stream = g.stream;
    let job = Job {
        id: shape.stamp.id.clone(),
        target,
        prompts,
        n: g.n,
        top_log_probs: request.log_probs.unwrap_or(0),
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

fn tokenize(vocabulary: &Vocabulary, prompts: &[Prompt]) -> Vec<Vec<TokenId>> {
    let tokens = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => vocabulary.prompt(text),
        Prompt::Tokens(ids) => ids.clone(),
    };
    prompts.iter().map(tokens).collect()
}

fn echo(vocabulary: &Vocabulary, prompts: &[Prompt]) -> Vec<String> {
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(ids) => vocabulary.detokenize(ids, true),
    };
    prompts.iter().map(text).collect()
}

/// `max_tokens: 0` with `echo`: the prompts come back and the engine is not asked.
fn echo_only(
    services: &Services,
    target: Target,
    prompts: Vec<Vec<TokenId>>,
    shape: Completions,
    stream: bool,
) -> Result<Response, ApiError> {
    let version = match target {
        Target::Live => services.engine.live(),
        Target::Version(version) => prompts::resident(services, version)?,
    };
    let mut shape = shape.of_version(version);
    let usage = Usage::new(prompts.iter().map(|prompt| prompt.len() as u64).sum(), 0, 0);
    let choices = prompts.len() as u32 * shape.n;
    let pieces = (0..choices).map(|choice| Piece { choice, finish: Some("length"), ..Piece::default() });
    if !stream {
        return Ok(answer::json_response(shape.whole(pieces.collect(), usage), version, Deposit::new(None)));
    }
    let mut events = shape.opening();
    for piece in pieces {
        events.push(shape.chunk(piece));
    }
    if shape.include_usage {
        events.push(shape.usage_chunk(usage));
    }
    events.push("[DONE]".to_owned());
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let event_stream = [(axum::http::header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
    Ok(super::context::with_version((event_stream, body).into_response(), version))
}

/// OpenAI's `text_completion` objects.
struct Completions {
    stamp: Stamp,
    fingerprint: String,
    /// Text in front of every response, by prompt; empty when not asked for.
    echo: Vec<String>,
    prompt_ids: Option<Vec<Vec<u32>>>,
    n: u32,
    log_probs: bool,
    include_usage: bool,
    /// Characters of the text so far, by choice.
    offsets: Vec<usize>,
}

impl Completions {
    fn of_version(mut self, version: PolicyVersion) -> Completions {
        self.fingerprint = version.to_string();
        self
    }

    fn prompt_of(&self, choice: u32) -> usize {
        (choice / self.n) as usize
    }

    fn choice(&mut self, piece: Piece) -> CompletionChoice {
        let log_probs = self.log_probs.then(|| self.log_probs(&piece));
        CompletionChoice {
            index: piece.choice,
            text: piece.text,
            logprobs: log_probs,
            finish_reason: piece.finish,
            prompt_token_ids: None,
            token_ids: self.prompt_ids.is_some().then_some(piece.token_ids),
        }
    }

    /// A token's offset is where its first whole character begins; held-back text does not move it.
    fn log_probs(&mut self, piece: &Piece) -> LegacyLogProbs {
        let at = piece.choice as usize;
        while self.offsets.len() <= at {
            let prompt = self.prompt_of(self.offsets.len() as u32);
            self.offsets.push(self.echo.get(prompt).map_or(0, |text| text.chars().count()));
        }
        let mut log_probs = LegacyLogProbs::default();
        for report in &piece.reports {
            log_probs.push(report, self.offsets[at]);
            self.offsets[at] += report.n_chars;
        }
        log_probs
    }

    fn json(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> String {
        let body = Completion {
            id: &self.stamp.id,
            object: "text_completion",
            created: self.stamp.created,
            model: &self.stamp.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage,
        };
        json(&body)
    }

    fn null_usage(&self) -> Option<Option<Usage>> {
        self.include_usage.then_some(None)
    }
}

impl Shape for Completions {
    /// The prompts, when they are echoed or their ids are wanted.
    fn opening(&mut self) -> Vec<String> {
        if self.echo.is_empty() && self.prompt_ids.is_none() {
            return Vec::new();
        }
        let prompts = self.echo.len().max(self.prompt_ids.as_ref().map_or(0, Vec::len)) as u32;
        let events = (0..prompts * self.n).map(|choice| {
            let prompt = self.prompt_of(choice);
            let choice = CompletionChoice {
                index: choice,
                text: self.echo.get(prompt).cloned().unwrap_or_default(),
                logprobs: None,
                finish_reason: None,
                prompt_token_ids: self.prompt_ids.as_ref().map(|ids| ids[prompt].clone()),
                token_ids: self.prompt_ids.is_some().then(Vec::new),
            };
            self.json(vec![choice], self.null_usage())
        });
        events.collect()
    }

    fn chunk(&mut self, piece: Piece) -> String {
        let choice = self.choice(piece);
        self.json(vec![choice], self.null_usage())
    }

    fn usage_chunk(&self, usage: Usage) -> String {
        self.json(Vec::new(), Some(Some(usage)))
    }

    fn whole(&mut self, pieces: Vec<Piece>, usage: Usage) -> String {
        let mut choices = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let prompt = self.prompt_of(piece.choice);
            let mut choice = self.choice(piece);
            if let Some(echo) = self.echo.get(prompt) {
                choice.text.insert_str(0, echo);
            }
            choice.prompt_token_ids = self.prompt_ids.as_ref().map(|ids| ids[prompt].clone());
            choices.push(choice);
        }
        self.json(choices, Some(Some(usage)))
    }
}
