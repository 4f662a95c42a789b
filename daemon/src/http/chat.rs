//! `POST /v1/chat/completions`.

use std::time::Instant;

use axum::{Extension, extract::State, response::Response};
use policy::{PolicyVersion, engine::Tenant};
use serde::Serialize;

use super::{
    answer::{self, Assembly, Piece, Settings, Shape, Totals},
    best_of::BestOf,
    body::JsonBytes,
    chunk_usage::ChunkUsage,
    computing, constraint,
    context::Context,
    error::ApiError,
    generation::{Generation, Job},
    prompt_scores::{self, PromptScores},
    prompts::{self, Stamp},
    wire::{
        chat::{AssistantMessage, Chat, ChatChoice, ChatChunkChoice, ChatRequest, Delta},
        json,
        log_probs::ChatLogProbs,
        prompt_log_probs::{PromptLogProbs, PromptReport, prompt_log_probs, scores_bytes_min},
        timings::Timings,
        usage::Usage,
    },
};

/// Answers.
pub(crate) async fn post(
    State(context): State<Context>,
    Extension(tenant): Extension<Tenant>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let request = ChatRequest::parse(&body)?;
    let services = context.admit()?;
    let target = context.target(request.generation.model.as_deref())?;
    let vocabulary = services.engine.vocabulary();
    prompts::check_bytes(request.messages.iter().map(|message| message.content.as_str()), "messages", &services)?;
    let prompt = computing(body.len(), || vocabulary.chat(&request.messages)).map_err(prompts::refused_by_template)?;
    let g = request.generation;
    let prompts = vec![prompt];
    prompts::check(&prompts, "messages", &g, &services)?;
    prompt_scores::check(&prompts, "messages", g.prompt_log_probs, 1)?;
    let shape = Chats {
        stamp: Stamp::new("chatcmpl", g.model.as_deref(), context.served_name()),
        fingerprint: String::new(),
        prompt_ids: prompts::ids(&prompts, g.return_token_ids).map(|mut ids| ids.remove(0)),
        n: g.n,
        log_probs: request.log_probs.is_some(),
        prompt_log_probs: g.prompt_log_probs,
        scores: Vec::new(),
        usage: ChunkUsage::new(g.usage, &prompts, g.n),
    };
    let (best_of, length_name) = (BestOf { n: g.n, n_drawn: g.n_drawn }, g.length_name());
    let settings = Settings {
        vocabulary,
        log_probs: request.log_probs.is_some(),
        behavior: g.return_behavior_logprobs,
        token_ids: g.return_token_ids,
        include_usage: shape.usage.is_told_at_the_end(),
        best_of,
    };
    // OpenAI's chat has no default limit: the window is the limit, and reaching it is the daemon's doing.
    let window = services.engine.context_tokens();
    let sampling = policy::SamplingParams { max_tokens: g.max_tokens.unwrap_or(window), ..g.sampling };
    let constraint = constraint::compile(&services, g.grammar).await?;
    let job = Job {
        id: shape.stamp.id.clone(),
        arrived,
        target,
        prompts,
        n: best_of.n_drawn,
        length_name,
        sampling,
        constraint,
        top_log_probs: request.log_probs.unwrap_or(0),
        prompt_log_probs: g.prompt_log_probs,
        cache_salt: g.cache_salt.map(Into::into),
        tenant,
        user: g.user,
        store: g.store,
    };
    let generation = Generation::start(&context, &services, job)?;
    let shape = shape.of_version(generation.version);
    match g.stream {
        true => Ok(answer::stream(generation, Assembly::new(settings), shape)),
        false => answer::whole(generation, Assembly::new(settings), shape).await,
    }
}

/// OpenAI's `chat.completion` and `chat.completion.chunk` objects.
struct Chats {
    stamp: Stamp,
    fingerprint: String,
    prompt_ids: Option<Vec<u32>>,
    n: u32,
    log_probs: bool,
    /// Alternatives per token in the `prompt_logprobs` list; `None` leaves the list out.
    prompt_log_probs: Option<u32>,
    /// The scored prompt, once it is there.
    scores: Vec<PromptReport>,
    usage: ChunkUsage,
}

/// What an answer tells beside its choices.
#[derive(Default)]
struct Beside {
    usage: Option<Option<Usage>>,
    timings: Option<Timings>,
    prompt_ids: Option<Vec<u32>>,
    prompt_log_probs: Option<PromptLogProbs>,
}

impl Beside {
    fn of(totals: Totals) -> Beside {
        Beside { usage: Some(Some(totals.usage)), timings: totals.timings, ..Beside::default() }
    }
}

impl Chats {
    fn of_version(mut self, version: PolicyVersion) -> Chats {
        self.fingerprint = version.to_string();
        self
    }

    fn log_probs(&self, piece: &Piece) -> Option<ChatLogProbs> {
        self.log_probs.then(|| {
            let mut log_probs = ChatLogProbs::default();
            piece.reports.iter().for_each(|report| log_probs.push(report));
            log_probs
        })
    }

    fn json<C: Serialize>(&self, object: &'static str, choices: Vec<C>, beside: Beside) -> String {
        let body = Chat {
            id: &self.stamp.id,
            object,
            created: self.stamp.created,
            model: &self.stamp.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage: beside.usage,
            timings: beside.timings,
            prompt_token_ids: beside.prompt_ids,
            prompt_logprobs: beside.prompt_log_probs,
        };
        json(&body)
    }

    fn event(&self, choice: ChatChunkChoice, beside: Beside) -> String {
        let usage = self.usage.of(choice.index);
        self.json("chat.completion.chunk", vec![choice], Beside { usage, ..beside })
    }
}

impl Shape for Chats {
    /// Every choice begins with its role.
    fn opening(&self, number: u32) -> Option<String> {
        (number < self.n).then(|| {
            let role = ChatChunkChoice {
                index: number,
                delta: Delta { role: Some("assistant"), content: Some(String::new()) },
                logprobs: None,
                finish_reason: None,
                token_ids: None,
            };
            let prompt_ids = self.prompt_ids.clone().filter(|_| number == 0);
            self.event(role, Beside { prompt_ids, ..Beside::default() })
        })
    }

    fn keep_prompt(&mut self, scores: PromptScores) {
        self.scores = scores.tokens;
    }

    /// A stream is never asked for its prompt's.
    fn prompt_chunk(&mut self, _: usize, _: u32) -> Option<String> {
        None
    }

    fn count(&mut self, piece: &Piece) {
        self.usage.count(piece);
    }

    fn chunk(&mut self, piece: Piece, timings: Option<Timings>) -> String {
        let logprobs = self.log_probs(&piece);
        let is_last = piece.finish.is_some() && piece.text.is_empty();
        let choice = ChatChunkChoice {
            index: piece.choice,
            delta: Delta { role: None, content: (!is_last).then_some(piece.text) },
            logprobs,
            finish_reason: piece.finish,
            token_ids: self.prompt_ids.is_some().then_some(piece.token_ids),
        };
        self.event(choice, Beside { timings, ..Beside::default() })
    }

    fn usage_chunk(&self, totals: Totals) -> String {
        self.json("chat.completion.chunk", Vec::<ChatChunkChoice>::new(), Beside::of(totals))
    }

    fn whole_bytes_min(&self) -> usize {
        scores_bytes_min(&self.scores) + self.prompt_ids.as_ref().map_or(0, |ids| ids.len() * size_of::<u32>())
    }

    fn whole(&mut self, pieces: Vec<Piece>, totals: Totals) -> String {
        let choice = |piece: Piece| ChatChoice {
            index: piece.choice,
            logprobs: self.log_probs(&piece),
            message: AssistantMessage { role: "assistant", content: piece.text, refusal: None },
            finish_reason: piece.finish.unwrap_or("stop"),
            token_ids: self.prompt_ids.is_some().then_some(piece.token_ids),
        };
        let choices = pieces.into_iter().map(choice).collect();
        let beside = Beside {
            prompt_ids: self.prompt_ids.clone(),
            prompt_log_probs: self.prompt_log_probs.map(|n_top| prompt_log_probs(&self.scores, n_top as usize)),
            ..Beside::of(totals)
        };
        self.json("chat.completion", choices, beside)
    }
}
