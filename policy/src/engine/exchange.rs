//! One request on its owner thread.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    engine::{
        Event, Failure, Finished, Sink, Timings, cells::Audience, resident::Job, stats::ResidentCounters, tenant::Place,
    },
    rollout::{FinishReason, Rollout, RolloutId, SampledToken},
    token::TokenId,
    version::PolicyVersion,
    vocabulary::Vocabulary,
};

/// A request on its owner thread, shared by its choices.
pub(super) struct Exchange {
    pub(super) job: Job,
    /// Shared with the other prompts of its request, until every choice has a slot.
    place: Cell<Option<Rc<Place>>>,
    /// Choices that have a slot or had one.
    pub(super) n_started: Cell<u32>,
    /// Choices whose end was sent.
    n_finished: Cell<u32>,
    /// The logits after the prompt, kept while choices wait for a slot: they start from here without a forward pass.
    pub(super) prompt_row: RefCell<Option<Vec<f32>>>,
    /// Set once `Failed` was sent; no event follows.
    pub(super) failed: Cell<bool>,
    /// Who may begin with what its sequences hold.
    pub(super) audience: Audience,
    sink: RefCell<Sink>,
    /// Tokens that must not be drawn: end tokens, then the client's stop tokens, which need not be banned as long.
    banned: Vec<TokenId>,
    n_end_tokens: usize,
}

impl Exchange {
    pub(super) fn new(mut job: Job, place: Rc<Place>, audience: Audience, vocabulary: &Vocabulary) -> Exchange {
        let sink = std::mem::replace(&mut job.request.sink, Box::new(|_| ()));
        let params = &mut job.request.sampling;
        params.seed = Some(job.seed);
        params.constrained = job.request.constraint.is_some();
        let mut banned = Vec::new();
        if params.ignore_eos || params.min_tokens > 0 {
            banned.extend(vocabulary.end_tokens());
        }
        let n_end_tokens = banned.len();
        if params.min_tokens > 0 {
            banned.extend_from_slice(&params.stop_token_ids);
        }
        Exchange {
            job,
            place: Cell::new(Some(place)),
            audience,
            n_started: Cell::new(0),
            n_finished: Cell::new(0),
            prompt_row: RefCell::new(None),
            failed: Cell::new(false),
            sink: RefCell::new(sink),
            banned,
            n_end_tokens,
        }
    }

    pub(super) fn prompt(&self) -> &[TokenId] {
        &self.job.request.prompt
    }

    /// What must not be drawn after so many tokens.
    pub(super) fn banned_after(&self, n_drawn: usize) -> &[TokenId] {
        let params = &self.job.request.sampling;
        if n_drawn < params.min_tokens as usize {
            &self.banned
        } else if params.ignore_eos {
            &self.banned[..self.n_end_tokens]
        } else {
            &[]
        }
    }

    pub(super) fn n_unstarted(&self) -> u32 {
        self.job.request.n - self.n_started.get()
    }

    /// One of its choices waits no longer: a slot is free. With the last of them it leaves those who wait.
    pub(super) fn leave_queue_by_one(&self) {
        if let Some(place) = self.place.take() {
            place.give_back(self.job.choices(1));
            self.place.set(Some(place).filter(|_| self.n_unstarted() > 1));
        }
    }

    /// It waits no longer, none of its choices: it is over.
    pub(super) fn leave_queue(&self) {
        if let Some(place) = self.place.take() {
            place.give_back(self.job.choices(self.n_unstarted()));
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.job.request.cancel.is_cancelled()
    }

    /// One of its choices, at its end.
    pub(super) fn rollout(
        &self,
        index: u32,
        version: PolicyVersion,
        response: Vec<SampledToken>,
        finish: FinishReason,
    ) -> Rollout {
        let request = &self.job.request;
        Rollout {
            id: RolloutId { request: request.id.clone(), index },
            version,
            prompt: request.prompt.clone(),
            response,
            sampling: request.sampling.clone(),
            finish,
            user: request.user.clone(),
            created_ms: now_ms(),
        }
    }

    /// Ends every choice that has no slot yet, unless the request has failed. There may be thousands, between two passes: nothing
    /// is prepared for drawing.
    pub(super) fn finish_unstarted(&self, finish: FinishReason, version: PolicyVersion, counters: &ResidentCounters) {
        let at = Instant::now();
        let waited = at.saturating_duration_since(self.job.submitted);
        let unstarted = self.n_started.replace(self.job.request.n)..self.job.request.n;
        for index in unstarted.filter(|_| !self.failed.get()) {
            let finished = Finished {
                index,
                rollout: self.rollout(index, version, Vec::new(), finish),
                text_tail: String::new(),
                cached_tokens: 0,
                at,
                timings: Timings { queued: waited, first_token: waited, ..Timings::default() },
            };
            self.finish(finished, counters);
        }
    }

    /// Ends one choice.
    pub(super) fn finish(&self, finished: Finished, counters: &ResidentCounters) {
        counters.count_finish(finished.rollout.finish);
        self.n_finished.update(|n| n + 1);
        self.send(Event::Finished(Box::new(finished)));
    }

    /// Ends the whole request with one `Failed`.
    pub(super) fn fail(&self, failure: Failure, counters: &ResidentCounters) {
        if !self.failed.replace(true) {
            if matches!(failure, Failure::Engine(_)) {
                counters.count_failure(self.job.request.n.saturating_sub(self.n_finished.get()));
            }
            self.send(Event::Failed(failure));
        }
    }

    /// Tells the client.
    pub(super) fn send(&self, event: Event) {
        (self.sink.borrow_mut())(event);
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
