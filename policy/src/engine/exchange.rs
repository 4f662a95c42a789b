//! One request on its owner thread.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use crate::{
    engine::{
        Event, Failure, Sink,
        cells::Audience,
        resident::Job,
        stats::{Counters, add},
        tenant::Place,
    },
    token::TokenId,
    vocabulary::Vocabulary,
};

/// A request on its owner thread, shared by its choices.
pub(super) struct Exchange {
    pub(super) job: Job,
    /// Shared with the other prompts of its request, until it has a slot.
    place: Cell<Option<Rc<Place>>>,
    /// Choices that have a slot or had one.
    pub(super) n_started: Cell<u32>,
    /// The logits after the prompt, kept while choices wait for a slot: they start from here without a forward pass.
    pub(super) prompt_row: RefCell<Option<Vec<f32>>>,
    /// Set once `Failed` was sent; no event follows.
    pub(super) failed: Cell<bool>,
    /// Who may begin with what its sequences hold.
    pub(super) audience: Audience,
    sink: RefCell<Sink>,
    /// Tokens that must not be drawn, and how many drawn tokens end the ban.
    pub(super) banned: Vec<TokenId>,
    pub(super) banned_until: usize,
}

impl Exchange {
    pub(super) fn new(mut job: Job, place: Rc<Place>, audience: Audience, vocabulary: &Vocabulary) -> Exchange {
        let sink = std::mem::replace(&mut job.request.sink, Box::new(|_| ()));
        let params = &mut job.request.sampling;
        params.seed = Some(job.seed);
        let mut banned = Vec::new();
        if params.ignore_eos || params.min_tokens > 0 {
            banned.extend(vocabulary.end_tokens());
        }
        if params.min_tokens > 0 && !params.ignore_eos {
            banned.extend_from_slice(&params.stop_token_ids);
        }
        let banned_until = if params.ignore_eos { usize::MAX } else { params.min_tokens as usize };
        Exchange {
            job,
            place: Cell::new(Some(place)),
            audience,
            n_started: Cell::new(0),
            prompt_row: RefCell::new(None),
            failed: Cell::new(false),
            sink: RefCell::new(sink),
            banned,
            banned_until,
        }
    }

    pub(super) fn prompt(&self) -> &[TokenId] {
        &self.job.request.prompt
    }

    pub(super) fn n_unstarted(&self) -> u32 {
        self.job.request.n - self.n_started.get()
    }

    /// It waits no longer: every choice has a slot, or it is over.
    pub(super) fn leave_queue(&self) {
        self.place.take();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.job.request.cancel.is_cancelled()
    }

    /// Ends the whole request with one `Failed`.
    pub(super) fn fail(&self, failure: Failure, counters: &Counters) {
        if !self.failed.replace(true) {
            add(&counters.failed, usize::from(matches!(failure, Failure::Engine(_))));
            self.send(Event::Failed(failure));
        }
    }

    /// Tells the client.
    pub(super) fn send(&self, event: Event) {
        (self.sink.borrow_mut())(event);
    }
}
