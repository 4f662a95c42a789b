//! From the engine's events to an answer, whole or as a stream, in whichever of OpenAI's two shapes.
//!
//! Everything is made of [`Piece`]s. A stream sends each one as it comes; a whole answer is the pieces of each choice put
//! together, so the two cannot differ.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use policy::{
    PolicyVersion, TokenId, Vocabulary,
    engine::{Event, ScoredToken},
};

use super::{
    best_of::BestOf,
    chars::CharCount,
    computing,
    context::with_version,
    deposit::Deposit,
    error::ApiError,
    generation::Generation,
    prompt_scores::{self, PromptScores},
    stream::EventStream,
    wire::{
        log_probs::{TokenReport, TokenText},
        timings::Timings,
        usage::Usage,
    },
};
use crate::telemetry::engine::finish_word;

/// Some tokens of one choice and the text that they made certain.
#[derive(Default)]
pub(crate) struct Piece {
    /// Which choice, over all prompts.
    pub(crate) choice: u32,
    /// Text, often empty: it is held back while it may turn out to be a stop text or half a character.
    pub(crate) text: String,
    /// The tokens, when log-probabilities were asked for.
    pub(crate) reports: Vec<TokenReport>,
    /// The tokens, when ids were asked for.
    pub(crate) token_ids: Vec<u32>,
    /// Tokens in it, and the sum of their log-probabilities at temperature 1, nats.
    pub(crate) n_tokens: u32,
    /// See `n_tokens`.
    pub(crate) log_prob_sum: f64,
    /// The last piece says why.
    pub(crate) finish: Option<&'static str>,
}

impl Piece {
    /// Whether it has nothing to tell: its text is held back and nobody asked for more.
    pub(crate) fn is_silent(&self) -> bool {
        self.text.is_empty() && self.reports.is_empty() && self.token_ids.is_empty() && self.finish.is_none()
    }

    fn absorb(&mut self, next: Piece) {
        self.text.push_str(&next.text);
        self.reports.extend(next.reports);
        self.token_ids.extend(next.token_ids);
        self.n_tokens += next.n_tokens;
        self.log_prob_sum += next.log_prob_sum;
        self.finish = self.finish.or(next.finish);
    }
}

/// What of an answer depends on the route.
pub(crate) trait Shape: Send + Unpin + 'static {
    /// The event of this number, from 0, of those before the first token; `None` behind the last. One at a time: together they
    /// may take tens of megabytes.
    fn opening(&self, number: u32) -> Option<String>;
    /// Keeps a scored prompt, for [`Shape::whole`] and [`Shape::prompt_chunk`].
    fn keep_prompt(&mut self, scores: PromptScores);
    /// The event of this number, from 0, of those that tell a kept prompt; `None` behind the last, and then it is forgotten.
    fn prompt_chunk(&mut self, prompt: usize, number: u32) -> Option<String>;
    /// Counts a piece of a stream, whether it is told or not, before [`Shape::chunk`].
    fn count(&mut self, piece: &Piece);
    /// One event; of a stream that ends with it, with the times of the whole.
    fn chunk(&mut self, piece: Piece, timings: Option<Timings>) -> String;
    /// The last event, when usage was asked for.
    fn usage_chunk(&self, totals: Totals) -> String;
    /// Bytes that [`Shape::whole`] has at least, beside what was drawn; so have the events that tell the same.
    fn whole_bytes_min(&self) -> usize;
    /// The whole answer.
    fn whole(&mut self, pieces: Vec<Piece>, totals: Totals) -> String;
}

/// What is told at the end.
#[derive(Clone, Copy)]
pub(crate) struct Totals {
    /// All tokens.
    pub(crate) usage: Usage,
    /// Where the time went; `None` when the engine was not asked.
    pub(crate) timings: Option<Timings>,
}

/// What of an answer depends on the request, on every route.
pub(crate) struct Settings {
    /// For the pieces of tokens.
    pub(crate) vocabulary: Arc<Vocabulary>,
    /// Log-probabilities are wanted.
    pub(crate) log_probs: bool,
    /// Those of the distribution really drawn from, too.
    pub(crate) behavior: bool,
    /// Token ids are wanted.
    pub(crate) token_ids: bool,
    /// A last chunk with token counts is wanted.
    pub(crate) include_usage: bool,
    /// How many choices of each prompt are told.
    pub(crate) best_of: BestOf,
}

/// What one event adds to an answer.
pub(crate) enum Part {
    /// To a choice.
    Piece(Piece),
    /// To all choices of a prompt.
    Prompt(PromptScores),
}

/// Turns events into parts and counts tokens and times on the way.
pub(crate) struct Assembly {
    settings: Settings,
    prompt_tokens: u64,
    completion_tokens: u64,
    cached_tokens: u64,
    prefill: Duration,
    decode: Duration,
    /// Where the text of each choice stands.
    chars: Vec<CharCount>,
}

impl Assembly {
    /// Nothing has happened yet.
    pub(crate) fn new(settings: Settings) -> Assembly {
        let (prefill, decode) = (Duration::ZERO, Duration::ZERO);
        let (prompt_tokens, completion_tokens, cached_tokens) = (0, 0, 0);
        Assembly { settings, prompt_tokens, completion_tokens, cached_tokens, prefill, decode, chars: Vec::new() }
    }

    /// The part of one event; complete exchanges go into the deposit.
    pub(crate) fn part(&mut self, event: Event, deposit: &mut Deposit) -> Part {
        match event {
            Event::Prompt { index, first, tokens } => {
                let prompt = (index / self.settings.best_of.n_drawn) as usize;
                let vocabulary = &self.settings.vocabulary;
                let reports = || prompt_scores::reports(vocabulary, first, &tokens);
                let tokens = computing(tokens.len() * size_of::<ScoredToken>(), reports);
                Part::Prompt(PromptScores { prompt, tokens })
            }
            Event::Token { index, token, text, top, .. } => {
                self.completion_tokens += 1;
                let report = self.settings.log_probs.then(|| TokenReport {
                    text: self.text(token.id),
                    n_chars: self.n_chars(index, token.id),
                    log_prob: token.log_prob.0,
                    behavior: self.settings.behavior.then_some(token.behavior.0),
                    top: top.iter().map(|(id, log_prob)| (self.text(*id), log_prob.0)).collect(),
                });
                Part::Piece(Piece {
                    choice: index,
                    text,
                    reports: report.into_iter().collect(),
                    token_ids: self.settings.token_ids.then_some(token.id.0).into_iter().collect(),
                    n_tokens: 1,
                    log_prob_sum: f64::from(token.log_prob.0),
                    finish: None,
                })
            }
            Event::Finished(finished) => {
                // A prompt is computed once, however many choices it has.
                if finished.index % self.settings.best_of.n_drawn == 0 {
                    self.prompt_tokens += finished.rollout.prompt.len() as u64;
                    self.cached_tokens += u64::from(finished.cached_tokens).min(finished.rollout.prompt.len() as u64);
                    self.prefill += finished.timings.prefill;
                }
                self.decode += finished.timings.decode;
                let finish = Some(finish_word(finished.rollout.finish));
                let piece = Piece { choice: finished.index, text: finished.text_tail, finish, ..Piece::default() };
                deposit.add(finished.rollout);
                Part::Piece(piece)
            }
            Event::Failed(_) => unreachable!("a generation turns failures into errors"),
        }
    }

    /// Counts and times so far.
    pub(crate) fn totals(&self) -> Totals {
        let usage = Usage::new(self.prompt_tokens, self.completion_tokens, self.cached_tokens);
        let computed = self.prompt_tokens - self.cached_tokens;
        let timings = Timings::new(self.cached_tokens, (computed, self.prefill), (self.completion_tokens, self.decode));
        Totals { usage, timings: Some(timings) }
    }

    /// Whether a stream ends with a usage chunk.
    pub(crate) fn include_usage(&self) -> bool {
        self.settings.include_usage
    }

    /// Characters of its choice's text that begin in a token.
    fn n_chars(&mut self, choice: u32, id: TokenId) -> usize {
        let at = choice as usize;
        if self.chars.len() <= at {
            self.chars.resize_with(at + 1, CharCount::default);
        }
        self.chars[at].begun(self.settings.vocabulary.text_piece(id))
    }

    fn text(&self, id: TokenId) -> TokenText {
        TokenText(self.settings.vocabulary.piece(id).to_vec())
    }
}

/// Streams an answer.
pub(crate) fn stream(generation: Generation, assembly: Assembly, shape: impl Shape) -> Response {
    let version = generation.version;
    let body = Body::new(EventStream::new(generation, assembly, shape));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    with_version((headers, body).into_response(), version)
}

/// Waits for the whole answer. When the client leaves meanwhile, hyper drops this future, and with it the generation.
pub(crate) async fn whole(
    mut generation: Generation,
    mut assembly: Assembly,
    mut shape: impl Shape,
) -> Result<Response, ApiError> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut deposit = Deposit::of_whole(&generation.deposit);
    while let Some(event) = generation.next().await {
        match assembly.part(event?, &mut deposit) {
            Part::Prompt(scores) => shape.keep_prompt(scores),
            Part::Piece(piece) => {
                let at = piece.choice as usize;
                if pieces.len() <= at {
                    pieces.extend((pieces.len()..=at).map(|i| Piece { choice: i as u32, ..Piece::default() }));
                }
                pieces[at].absorb(piece);
            }
        }
    }
    let pieces = assembly.settings.best_of.choose(pieces, &mut deposit);
    let json = computing(shape.whole_bytes_min(), || shape.whole(pieces, assembly.totals()));
    Ok(json_response(json, generation.version, deposit))
}

/// A JSON answer that logs its exchanges once it is sent.
pub(crate) fn json_response(json: String, version: PolicyVersion, deposit: Deposit) -> Response {
    let body = Body::new(Answer { bytes: Some(Bytes::from(json)), deposit });
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    with_version((json, body).into_response(), version)
}

/// Bytes, and what happens after them.
struct Answer {
    bytes: Option<Bytes>,
    deposit: Deposit,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.deposit.answered();
        std::task::Poll::Ready(self.bytes.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
