//! What is computed on clients' texts beside the engine, and what such answers hold until they are sent.
//!
//! The tokens of a megabyte take a second of a processor and many times its memory, and what is written about each of them some
//! twenty times its length. So as many are made at once as leave the engine a processor, at a lower priority than its own, in
//! order of arrival, whosever they are; and what waits for that, and what is made and not yet taken by its client, has a bound in
//! bytes, of which a key has a share, and beyond which the answer is 429.

use policy::{
    engine::{Part, Room, Tenant},
    threads,
};
use tokio::sync::Semaphore;

use super::{MUCH_TEXT, error::ApiError, limits::Deadline};

/// Bytes of answers that are being made or sent, and as much again of texts that are to be scored.
const BYTES_MAX: usize = 128 << 20;
/// Share of them that one key may hold where there are several. No single one counts for more, so that a body as large as is let in
/// finds room.
const SHARE: f64 = 0.75;
/// Bytes that a key gets that holds none though others hold all: more than a body of the default size needs.
const FIRST_BYTES_MAX: usize = 16 << 20;

/// Bounds of all that is computed on texts.
pub(crate) struct Texts {
    turns: Semaphore,
    answers: Room,
    scorings: Room,
}

impl Texts {
    /// As many turns as there are processors, less one for the engine.
    pub(crate) fn new() -> Texts {
        let n_processors = std::thread::available_parallelism().map_or(1, usize::from);
        let room = || Room::new(BYTES_MAX, SHARE, FIRST_BYTES_MAX);
        Texts { turns: Semaphore::new((n_processors - 1).max(1)), answers: room(), scorings: room() }
    }

    /// Room for an answer, to be held from before it is made until it is sent.
    pub(crate) fn answer(&self, tenant: Tenant, n_bytes: usize) -> Result<Part, ApiError> {
        self.answers.take(tenant, counted(n_bytes)).ok_or(ApiError::QueueFull)
    }

    /// An answer that turns out to be so large. Whether there is room.
    pub(crate) fn becomes(part: &mut Part, n_bytes: usize) -> bool {
        part.becomes(counted(n_bytes))
    }

    /// Room for texts that are to be scored, to be held until the scorer counts what was made of them.
    pub(crate) fn scoring(&self, tenant: Tenant, n_bytes: usize) -> Result<Part, ApiError> {
        self.scorings.take(tenant, counted(n_bytes)).ok_or(ApiError::QueueFull)
    }

    /// Does `work` on so many bytes, beside the runtime and when its turn comes if these are many.
    pub(crate) async fn run<T: Send>(
        &self,
        n_bytes: usize,
        deadline: Deadline,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, ApiError> {
        if n_bytes <= MUCH_TEXT {
            return Ok(work());
        }
        let turn = deadline.bound(self.turns.acquire()).await?;
        let _turn = turn.map_err(|error| ApiError::internal("waiting for a processor", error))?;
        let lower = || threads::lower_priority(threads::NICE_REQUESTS);
        Ok(tokio::task::block_in_place(|| threads::apart(lower, work)))
    }
}

/// What is counted of so many bytes.
fn counted(n_bytes: usize) -> usize {
    n_bytes.min((BYTES_MAX as f64 * SHARE) as usize)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    use super::{super::limits::Limits, *};

    /// When a request is over that may take so many seconds.
    fn within(request_timeout_s: u64) -> Deadline {
        Limits { header_bytes_max: 0, body_bytes_max: 0, body_timeout_s: 0, request_timeout_s }.deadline()
    }

    fn one_turn() -> Texts {
        Texts { turns: Semaphore::new(1), ..Texts::new() }
    }

    /// Goal: no more is computed at once than there are turns, and what is short waits for nobody. Method: one turn, taken until
    /// the test lets go; a second long text, and a short one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn long_texts_wait_for_their_turn_and_short_ones_do_not() {
        let texts = Arc::new(one_turn());
        let (began, begins) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let long = Arc::clone(&texts);
        let first = tokio::spawn(async move {
            let work = move || {
                began.send(()).expect("the test listens");
                gate.recv().expect("the test lets go");
                1
            };
            long.run(MUCH_TEXT + 1, within(600), work).await
        });
        tokio::task::block_in_place(|| begins.recv()).expect("it began");
        let mut second = std::pin::pin!(texts.run(MUCH_TEXT + 1, within(600), || 2));
        let waits = tokio::time::timeout(Duration::from_millis(20), second.as_mut()).await;
        assert!(waits.is_err(), "it has no turn");
        assert_eq!(texts.run(MUCH_TEXT, within(600), || 3).await.ok(), Some(3));
        go.send(()).expect("it waits");
        assert_eq!(first.await.expect("no panic").ok(), Some(1));
        assert_eq!(second.await.ok(), Some(2));
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_a_request_may_take() {
        let texts = Texts { turns: Semaphore::new(0), ..Texts::new() };
        assert!(matches!(texts.run(MUCH_TEXT + 1, within(0), || ()).await, Err(ApiError::TimedOut(0))));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn long_texts_are_computed_at_a_lower_priority() {
        // SAFETY: takes numbers, touches no memory of ours.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let of_engine = nice();
        let beside = one_turn().run(MUCH_TEXT + 1, within(600), nice).await.ok();
        assert_eq!((beside, nice()), (Some(threads::NICE_REQUESTS), of_engine));
    }

    #[test]
    fn answers_have_a_bound_and_every_key_a_first_one() {
        let texts = Texts::new();
        let small = texts.answer(Tenant(1), 1).ok();
        assert!(texts.answer(Tenant(2), 2 * BYTES_MAX).is_ok(), "whoever may send it finds room");
        drop(small);
        let held = texts.answer(Tenant(1), BYTES_MAX / 2).ok();
        assert!(held.is_some());
        assert!(matches!(texts.answer(Tenant(1), BYTES_MAX / 2), Err(ApiError::QueueFull)), "a share is for others");
        let all = texts.answer(Tenant(2), BYTES_MAX / 2).ok();
        assert!(all.is_some() && texts.answer(Tenant(2), 1).is_err());
        assert!(texts.answer(Tenant(3), FIRST_BYTES_MAX).is_ok() && texts.scoring(Tenant(1), BYTES_MAX).is_ok());
    }
}
