//! One request's way through the engine: submitted whole or not at all, watched for its deadline, cancelled when dropped.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Instant,
};

use policy::{
    FinishReason, PolicyVersion, SamplingParams, TokenId,
    engine::{CancelFlag, Event, Failure, Finished, GenerateRequest, Rejection, Target, Tenant},
    sampling::OutOfRange,
};
use tokio::{sync::mpsc, time::Sleep};

use super::{
    constraint::{self, NamedConstraint},
    context::{Context, Services},
    deposit::Deposit,
    error::ApiError,
    models,
    token_clock::TokenClock,
    trace::RequestTrace,
    wire::error::{FIELDS_DISAGREE, UNKNOWN_TOKEN},
};

/// Tokens of one answer, each with its alternatives, at most: a whole answer is in memory until it is sent, and so is what a slow
/// reader of a stream has yet to take. A number takes some hundred bytes.
const NUMBERS_MAX: u64 = 4 << 20;

/// What a request asks of the engine, checked.
pub(crate) struct Job {
    /// The `id` that the client gets.
    pub(crate) id: String,
    /// When the request came to its handler, whole.
    pub(crate) arrived: Instant,
    /// Which weights.
    pub(crate) target: Target,
    /// Tokenised prompts, each within the context window.
    pub(crate) prompts: Vec<Vec<TokenId>>,
    /// Choices per prompt.
    pub(crate) n: u32,
    /// The field that makes the answer as long as it may become.
    pub(crate) length_name: &'static str,
    /// How to draw.
    pub(crate) sampling: SamplingParams,
    /// What every choice must look like.
    pub(crate) constraint: Option<NamedConstraint>,
    /// Alternatives per token.
    pub(crate) top_log_probs: u32,
    /// Alternatives per token of the prompts; `None` leaves them unscored.
    pub(crate) prompt_log_probs: Option<u32>,
    /// Keeps the computed prompts to requests with the same salt.
    pub(crate) cache_salt: Option<Arc<str>>,
    /// Whose share of the engine it takes.
    pub(crate) tenant: Tenant,
    /// Whom the client names as its user.
    pub(crate) user: Option<String>,
    /// Whether the exchange goes into the rollout log.
    pub(crate) store: bool,
}

/// A request inside the engine. Dropping it cancels what still runs.
pub(crate) struct Generation {
    events: mpsc::UnboundedReceiver<Event>,
    cancel: CancelFlag,
    /// The weights that draw every choice.
    pub(crate) version: PolicyVersion,
    /// What will be logged once it is sent.
    pub(crate) deposit: Deposit,
    choices_open: usize,
    /// The field that brought the grammar.
    grammar_field: Option<String>,
    deadline: Pin<Box<Sleep>>,
    clock: TokenClock,
    context: Context,
    /// Of the request, for the log.
    span: tracing::Span,
    /// Of the request, for the collector: it ends with the answer.
    trace: Option<RequestTrace>,
}

impl Generation {
    /// Submits every prompt of a job to one version, or none. Choices are numbered over all prompts: `prompt · n + choice`.
    pub(crate) fn start(context: &Context, services: &Services, job: Job) -> Result<Generation, ApiError> {
        check_size(services.engine.context_tokens(), &job)?;
        let cancel = CancelFlag::default();
        // Unbounded, but filled by at most `max_tokens` events per choice: the engine must never wait for a slow reader.
        let (sender, events) = mpsc::unbounded_channel();
        let requests = engine_requests(services, &job, &cancel, &sender);
        let submitted = Instant::now();
        let version =
            services.engine.submit_all(job.target, requests).map_err(|rejection| refusal(services, rejection))?;
        let clock = TokenClock::start(Arc::clone(context.metrics()), &job, submitted);
        let trace = RequestTrace::current();
        trace.iter().for_each(|trace| trace.submitted(&job, version));
        Ok(Generation {
            events,
            cancel,
            version,
            deposit: Deposit::new(services.log.clone(), job.store),
            choices_open: job.prompts.len() * job.n as usize,
            grammar_field: job.constraint.map(|constraint| constraint.field),
            deadline: Box::pin(tokio::time::sleep(context.limits().request_timeout())),
            clock,
            context: context.clone(),
            span: tracing::Span::current(),
            trace,
        })
    }

    /// Ready with the error once the request has taken as long as it may; nothing follows then.
    pub(crate) fn poll_deadline(&mut self, cx: &mut task::Context<'_>) -> Poll<ApiError> {
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(self.fail(ApiError::TimedOut(self.context.limits().request_timeout_s)))
    }

    /// The next event; `None` when every choice has finished. After an error nothing follows.
    pub(crate) fn poll_next(&mut self, cx: &mut task::Context<'_>) -> Poll<Option<Result<Event, ApiError>>> {
        if self.is_over() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(error) = self.poll_deadline(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(Some(match ready!(self.events.poll_recv(cx)) {
            Some(Event::Failed(Failure::Engine(reason))) => Err(self.fail_inside(&reason)),
            Some(Event::Failed(Failure::Grammar(reason))) => {
                let error = constraint::not_followed(self.grammar_field.take(), &reason);
                Err(self.fail(error))
            }
            None => Err(self.fail_inside("the engine let go of the request")),
            Some(event) => {
                self.clock.observe(&event);
                if let (Some(trace), Event::Finished(finished)) = (&self.trace, &event) {
                    trace.finished(finished);
                }
                // Nobody here cancels a request that is still read: the engine is shutting down.
                if matches!(&event, Event::Finished(f) if f.rollout.finish == FinishReason::Cancelled) {
                    self.deposit.add_unanswered(event);
                    return Poll::Ready(Some(Err(self.fail(ApiError::ShuttingDown))));
                }
                self.choices_open -= usize::from(matches!(event, Event::Finished(_)));
                Ok(event)
            }
        }))
    }

    /// The next event, awaited.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, ApiError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Whether every choice has finished, so that nothing follows.
    pub(crate) fn is_over(&self) -> bool {
        self.choices_open == 0
    }

    /// Counts an error that has no status line of its own.
    pub(crate) fn count(&self, error: &ApiError) {
        self.context.metrics().serving.errors.with_label_values(&[error.code()]).inc();
        if let Some(trace) = &self.trace {
            trace.failed(error.code(), matches!(error, ApiError::Internal));
        }
    }

    /// A stream is polled by the connection, outside of its request's span, which the log line must name.
    fn fail_inside(&mut self, cause: &str) -> ApiError {
        let error = self.span.in_scope(|| ApiError::internal("generation", cause));
        self.fail(error)
    }

    fn fail(&mut self, error: ApiError) -> ApiError {
        self.cancel.cancel();
        self.choices_open = 0;
        error
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel.cancel();
        if self.choices_open > 0 {
            self.context.metrics().serving.disconnects.inc();
        }
        // What the engine sent and nobody read was not answered. What it sends from now on goes the same way in the sink.
        self.events.close();
        while let Ok(event) = self.events.try_recv() {
            self.clock.observe(&event);
            self.deposit.add_unanswered(event);
        }
    }
}

/// Refuses an answer that may become larger than [`NUMBERS_MAX`].
fn check_size(window: u32, job: &Job) -> Result<(), ApiError> {
    let longest = |prompt: &Vec<TokenId>| {
        let room = u64::from(window).saturating_sub(prompt.len() as u64);
        room.min(job.sampling.max_tokens.into())
    };
    let n_tokens = job.prompts.iter().map(longest).sum::<u64>() * u64::from(job.n);
    let n_numbers = n_tokens * (1 + u64::from(job.top_log_probs));
    if n_numbers <= NUMBERS_MAX {
        return Ok(());
    }
    let name = job.length_name;
    let message = format!(
        "`{name}` asks for too long an answer: the tokens of all choices, each with its alternatives, must be at most \
         {NUMBERS_MAX} in one request, not {n_numbers}"
    );
    Err(ApiError::coded(FIELDS_DISAGREE, name, message))
}

/// What the engine is asked for each prompt of a job.
fn engine_requests(
    services: &Services,
    job: &Job,
    cancel: &CancelFlag,
    sender: &mpsc::UnboundedSender<Event>,
) -> Vec<GenerateRequest> {
    let request = |(i, prompt): (u32, &Vec<TokenId>)| GenerateRequest {
        id: job.id.clone(),
        prompt: prompt.clone(),
        n: job.n,
        sampling: job.sampling.clone(),
        constraint: job.constraint.as_ref().map(|named| named.constraint.clone()),
        top_logprobs: job.top_log_probs,
        prompt_logprobs: job.prompt_log_probs,
        cache_salt: job.cache_salt.clone(),
        tenant: job.tenant,
        user: job.user.clone(),
        cancel: cancel.clone(),
        sink: sink(sender.clone(), i * job.n, Deposit::new(services.log.clone(), job.store)),
    };
    (0u32..).zip(&job.prompts).map(request).collect()
}

/// Renumbers choices and hands events over; once the client is gone, logs what was left unanswered.
fn sink(sender: mpsc::UnboundedSender<Event>, offset: u32, mut unanswered: Deposit) -> Box<dyn FnMut(Event) + Send> {
    Box::new(move |mut event| {
        match &mut event {
            Event::Prompt { index, .. } | Event::Token { index, .. } => *index += offset,
            Event::Finished(finished) => {
                let Finished { index, rollout, .. } = finished.as_mut();
                *index += offset;
                rollout.id.index += offset;
            }
            Event::Failed(_) => {}
        }
        if let Err(mpsc::error::SendError(event)) = sender.send(event) {
            unanswered.add_unanswered(event);
            unanswered.append();
        }
    })
}

fn refusal(services: &Services, rejection: Rejection) -> ApiError {
    match rejection {
        Rejection::Full { .. } => ApiError::QueueFull,
        Rejection::Draining(version) | Rejection::UnknownVersion(version) => models::absent(services, version),
        Rejection::ShuttingDown => ApiError::ShuttingDown,
        // Fields that are right by themselves: the wire looked at each.
        Rejection::Invalid(OutOfRange { field, rule }) => {
            let code = if matches!(field, "stop_token_ids" | "logit_bias") { UNKNOWN_TOKEN } else { FIELDS_DISAGREE };
            ApiError::coded(code, field, format!("`{field}` {rule}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a refusal names what the client sent. Method: a conversation that fills a window of 4096 with 128 choices of 20
    /// alternatives a token, as three clients may ask for it.
    #[test]
    fn an_answer_that_may_become_too_long_names_the_field_that_was_sent() {
        for length_name in ["n", "best_of", "max_completion_tokens"] {
            let job = |n| Job {
                arrived: Instant::now(),
                id: String::new(),
                target: Target::Live,
                prompts: vec![vec![TokenId(1); 10]],
                n,
                length_name,
                sampling: SamplingParams { max_tokens: 4096, ..SamplingParams::default() },
                constraint: None,
                top_log_probs: 20,
                prompt_log_probs: None,
                cache_salt: None,
                tenant: Tenant::ANYBODY,
                user: None,
                store: true,
            };
            assert!(check_size(4096, &job(1)).is_ok());
            let Err(ApiError::Invalid { param, message, .. }) = check_size(4096, &job(128)) else { panic!("too long") };
            assert_eq!(param.as_deref(), Some(length_name));
            assert!(message.contains(length_name), "{message}");
        }
    }
}
