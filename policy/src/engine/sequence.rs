//! One choice of one request while it is drawn.

use std::{rc::Rc, time::Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{
    engine::{
        Event, Failure, Finished, ScoredToken, Timings,
        constraint::{Allowed, Constraint, Lost},
        exchange::Exchange,
        sampler::{self, Draw, History, ORDER, Sampler},
        softmax::NotFinite,
        stats::{ResidentCounters, add},
        text::TextStream,
    },
    log_prob::LogProb,
    rollout::{FinishReason, SampledToken},
    token::TokenId,
    version::PolicyVersion,
    vocabulary::Vocabulary,
};

/// Why no token could be drawn.
#[derive(Debug, thiserror::Error)]
pub(super) enum DrawError {
    /// The row is not one of logits, or bans left nothing of it.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// Nobody knows what the grammar allows next.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl From<DrawError> for Failure {
    fn from(error: DrawError) -> Failure {
        match error {
            DrawError::Lost(lost) if lost.is_the_grammars() => Failure::Grammar(lost.to_string()),
            error => Failure::Engine(error.to_string()),
        }
    }
}

/// What a sequence needs to know about its resident.
pub(super) struct Surroundings<'a> {
    pub(super) vocabulary: &'a Vocabulary,
    pub(super) context_tokens: usize,
    pub(super) sampler: &'a mut Sampler,
    pub(super) counters: &'a ResidentCounters,
}

/// One choice in a slot.
pub(super) struct Sequence {
    pub(super) exchange: Rc<Exchange>,
    pub(super) cached_tokens: u32,
    pub(super) index: u32,
    response: Vec<SampledToken>,
    history: History,
    constraint: Option<Constraint>,
    rng: ChaCha8Rng,
    text: TextStream,
    /// Scores of the prompt's tokens so far, until they are sent; only in the choice that computes a scored prompt.
    prompt_scores: Option<Vec<ScoredToken>>,
    started: Instant,
    first_token: Option<Instant>,
}

impl Sequence {
    /// The next choice of `exchange`.
    pub(super) fn next_of(exchange: &Rc<Exchange>) -> Sequence {
        let index = exchange.n_started.get();
        exchange.n_started.set(index + 1);
        let params = &exchange.job.request.sampling;
        let mut rng = ChaCha8Rng::seed_from_u64(exchange.job.seed);
        rng.set_stream(u64::from(index));
        Sequence {
            exchange: Rc::clone(exchange),
            cached_tokens: 0,
            index,
            response: Vec::with_capacity(params.max_tokens.min(1024) as usize),
            history: History::new(exchange.prompt(), params),
            constraint: exchange.job.request.constraint.as_ref().map(Constraint::begin),
            rng,
            text: TextStream::new(&params.stop),
            prompt_scores: exchange.job.request.prompt_logprobs.filter(|_| index == 0).map(|_| Vec::new()),
            started: Instant::now(),
            first_token: None,
        }
    }

    /// Whether logits are wanted after every token of the prompt, which then must not come from the cache.
    pub(super) fn scores_prompt(&self) -> bool {
        self.prompt_scores.is_some()
    }

    /// Tokens to compute before the first can be drawn. The row after the last one is of no use when none will be.
    pub(super) fn prefill_tokens(&self) -> usize {
        self.exchange.prompt().len() - usize::from(self.exchange.job.request.is_prompt_only())
    }

    /// Scores the token of the prompt after `position` from the logits there.
    pub(super) fn score_prompt(
        &mut self,
        position: usize,
        logits: &[f32],
        sampler: &mut Sampler,
    ) -> Result<(), NotFinite> {
        let request = &self.exchange.job.request;
        if let (Some(scores), Some(k)) = (&mut self.prompt_scores, request.prompt_logprobs) {
            scores.push(sampler::scored_token(logits, request.prompt[position + 1], k as usize, sampler)?);
        }
        Ok(())
    }

    /// Sends the scores of the prompt, which is complete.
    pub(super) fn send_prompt_scores(&mut self) {
        if let Some(tokens) = self.prompt_scores.take() {
            self.exchange.send(Event::Prompt { index: self.index, first: self.exchange.prompt()[0], tokens });
        }
    }

    /// The token to be decoded next: the last drawn one.
    pub(super) fn last_token(&self) -> Option<TokenId> {
        self.response.last().map(|token| token.id)
    }

    /// Draws from a row of logits and sends the token; why the response is over, if it is.
    pub(super) fn draw(
        &mut self,
        logits: &[f32],
        around: &mut Surroundings<'_>,
    ) -> Result<Option<FinishReason>, DrawError> {
        self.send_prompt_scores();
        let exchange = Rc::clone(&self.exchange);
        let request = &exchange.job.request;
        let allowed = self.constraint.as_mut().map(Constraint::allowed).transpose()?;
        let draw = Draw {
            params: &request.sampling,
            order: &ORDER,
            history: &self.history,
            banned: exchange.banned_after(self.response.len()),
            allowed: allowed.as_ref().map(Allowed::bits),
        };
        let token = around.sampler.draw(logits, draw, &mut self.rng)?;
        if let Some(constraint) = &mut self.constraint {
            constraint.advance(token.id)?;
        }
        let top: Vec<(TokenId, LogProb)> = match request.top_logprobs {
            0 => Vec::new(),
            k => sampler::top_log_probs(logits, k as usize, around.sampler)?,
        };
        let at = Instant::now();
        self.first_token.get_or_insert(at);
        self.history.push(token.id, &request.sampling);
        self.response.push(token);
        add(&around.counters.engine.generated_tokens, 1);
        let armed = self.response.len() > request.sampling.min_tokens as usize;
        let stops_here = request.sampling.stop_token_ids.contains(&token.id);
        let bytes = if stops_here { &[] } else { around.vocabulary.text_piece(token.id) };
        let pushed = self.text.push(bytes, armed);
        exchange.send(Event::Token { index: self.index, token, text: pushed.text, top, began: self.started, at });
        Ok(self.finish_reason(token.id, stops_here || pushed.stopped, around))
    }

    fn finish_reason(&self, id: TokenId, stopped: bool, around: &Surroundings<'_>) -> Option<FinishReason> {
        let request = &self.exchange.job.request;
        let n = self.response.len();
        if around.vocabulary.is_end(id) {
            Some(FinishReason::EndToken)
        } else if stopped {
            Some(FinishReason::Stop)
        } else if n >= request.sampling.max_tokens as usize {
            Some(FinishReason::ClientLimit)
        } else if request.prompt.len() + n >= around.context_tokens {
            Some(FinishReason::DaemonLimit)
        } else {
            None
        }
    }

    /// Sends the end of this choice.
    pub(super) fn finish(mut self, finish: FinishReason, version: PolicyVersion, counters: &ResidentCounters) {
        let text_tail = self.text.finish();
        let exchange = Rc::clone(&self.exchange);
        let at = Instant::now();
        let timings = self.timings(at);
        let finished = Finished {
            index: self.index,
            rollout: exchange.rollout(self.index, version, self.response, finish),
            text_tail,
            cached_tokens: self.cached_tokens,
            at,
            timings,
        };
        exchange.finish(finished, counters);
    }

    fn timings(&self, now: Instant) -> Timings {
        let submitted = self.exchange.job.submitted;
        let first = self.first_token.unwrap_or(now);
        Timings {
            queued: self.started.saturating_duration_since(submitted),
            prefill: first.saturating_duration_since(self.started),
            first_token: first.saturating_duration_since(submitted),
            decode: now.saturating_duration_since(first),
        }
    }
}
