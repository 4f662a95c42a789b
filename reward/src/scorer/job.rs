//! What is handed to the scorer: responses, and who waits for their scores.

use std::sync::Arc;

use policy::{
    TokenId,
    engine::{CancelFlag, Part, Tenant},
};

use super::{Outcome, Sitting};
use crate::sources::Formula;

/// One response to judge. The prompt is shared, for thousands of responses may have one.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRequest {
    /// The prompt as the policy saw it.
    pub prompt: Arc<[TokenId]>,
    /// The response, end token included where it ended.
    pub response: Vec<TokenId>,
    /// The prompt as text, special tokens spelled out: what a reward server gets.
    pub prompt_text: Arc<str>,
    /// The response as text, special tokens spelled out.
    pub response_text: String,
    /// Who judges it, from [`Rules`](crate::Rules).
    pub formula: Formula,
}

impl ScoreRequest {
    /// Tokens that a model reads for it.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.prompt.len() + self.response.len()
    }

    /// Bytes of its tokens and texts, without those that it shares with the one before it.
    fn n_bytes_beside(&self, before: Option<&ScoreRequest>) -> usize {
        let before = |is_shared: fn(&ScoreRequest, &ScoreRequest) -> bool| before.is_some_and(|b| is_shared(self, b));
        let shares_tokens = before(|a, b| Arc::ptr_eq(&a.prompt, &b.prompt));
        let shares_text = before(|a, b| Arc::ptr_eq(&a.prompt_text, &b.prompt_text));
        let prompt = if shares_tokens { 0 } else { size_of_val(&*self.prompt) };
        let prompt_text = if shares_text { 0 } else { self.prompt_text.len() };
        prompt + prompt_text + size_of_val(self.response.as_slice()) + self.response_text.len()
    }
}

/// Responses of one caller, and the caller.
pub struct ScoreJob {
    pub(super) items: Vec<ScoreRequest>,
    /// Whose share of the scorer it takes.
    pub(super) tenant: Tenant,
    /// Who judges them; `None` until it is handed over.
    pub(super) sitting: Option<Sitting>,
    pub(super) cancel: CancelFlag,
    pub(super) reply: Box<dyn FnOnce(Vec<Outcome>) + Send>,
    /// Its bytes of its lane's room; `None` until it is handed over.
    pub(super) _bytes: Option<Part>,
}

impl ScoreJob {
    /// `reply` is called once, on the scorer's thread, with one outcome per response in their order; it must not block. It
    /// is dropped uncalled when the scorer ends first.
    pub fn new(items: Vec<ScoreRequest>, reply: impl FnOnce(Vec<Outcome>) + Send + 'static) -> ScoreJob {
        let (tenant, cancel) = (Tenant::ANYBODY, CancelFlag::default());
        ScoreJob { items, tenant, sitting: None, cancel, reply: Box::new(reply), _bytes: None }
    }

    /// Bytes of its tokens and texts; what responses in a row share counts once.
    pub(super) fn n_bytes(&self) -> usize {
        let before = std::iter::once(None).chain(self.items.iter().map(Some));
        self.items.iter().zip(before).map(|(item, before)| item.n_bytes_beside(before)).sum()
    }

    /// The same job, of which no more is judged once this flag is raised; `reply` is then dropped uncalled.
    #[must_use]
    pub fn cancelled_by(self, cancel: CancelFlag) -> ScoreJob {
        ScoreJob { cancel, ..self }
    }

    /// The same job, of this tenant's share and not of anybody's.
    #[must_use]
    pub fn of(self, tenant: Tenant) -> ScoreJob {
        ScoreJob { tenant, ..self }
    }

    /// The same job, judged by this sitting and not by whoever sits when it is handed over.
    #[must_use]
    pub fn judged_by(self, sitting: Sitting) -> ScoreJob {
        ScoreJob { sitting: Some(sitting), ..self }
    }

    /// Who judges it.
    pub(super) fn sitting(&self) -> &Sitting {
        self.sitting.as_ref().expect("it is filled in when a job is handed over")
    }
}
