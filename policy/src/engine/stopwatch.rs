//! A stopwatch: how long a version takes for a token, here and now.
//!
//! What is counted of the traffic ([`super::step_times`]) depends on the traffic: on how many answer at once, how long their
//! conversations are, and what else the machine did meanwhile. Where two versions are compared nothing may differ but their
//! weights. So each computes the same few tokens, one a pass, with nobody else in the pass. Whoever is served has every other pass
//! meanwhile, and so waits about twice as long for a token, for as many passes as are timed; who comes while no slot is free waits for
//! all of them.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::{
    engine::{
        Engine, EngineError,
        plan::Plan,
        resident::Command,
        worker::{Work, Worker},
    },
    token::TokenId,
    version::PolicyVersion,
};

/// How often whoever waits is asked whether it still wants to.
const LOOK: Duration = Duration::from_millis(20);

/// Tokens that are computed one a pass.
pub(super) struct TimeJob {
    tokens: Vec<TokenId>,
    /// Told how long each pass took; dropped at the end. Has room for all.
    lengths: Sender<Duration>,
}

/// Such tokens in a slot.
pub(super) struct Timing {
    job: TimeJob,
    n_done: usize,
    /// Whether it had the last pass: the next is for others.
    had_last: bool,
}

impl From<TimeJob> for Timing {
    fn from(job: TimeJob) -> Timing {
        Timing { job, n_done: 0, had_last: false }
    }
}

impl Engine {
    /// How long a version takes for each of these tokens, from nothing on, in a pass by itself: waiting for other residents and for
    /// a slot is not in it. As many as there were by the time that `go_on` says no. Blocks the caller.
    ///
    /// # Errors
    /// [`EngineError::Tokens`] without tokens, with more than the context window, or unknown ones;
    /// [`EngineError::NotResident`]; [`EngineError::Forward`] where too many wait for the like.
    pub fn time_tokens(
        &self,
        version: PolicyVersion,
        tokens: &[TokenId],
        go_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Duration>, EngineError> {
        self.check_tokens(tokens, 1)?;
        let (lengths, passes) = bounded(tokens.len());
        let job = TimeJob { tokens: tokens.to_vec(), lengths };
        self.resident(version).ok_or(EngineError::NotResident(version))?.hand_over(Command::Time(job))?;
        let mut took = Vec::with_capacity(tokens.len());
        while go_on() {
            match passes.recv_timeout(LOOK) {
                Ok(length) => took.push(length),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(took)
    }
}

impl Worker<'_> {
    /// The next token of what is timed, if there is any and it is its turn.
    pub(super) fn plan_timing(&mut self) -> Option<Plan> {
        let i = self.slots.iter().position(|slot| matches!(slot.work, Some(Work::Time(_))))?;
        let others_work = self.slots.iter().any(|slot| matches!(slot.work, Some(Work::Answer(_) | Work::Score { .. })));
        let Some(Work::Time(timing)) = &mut self.slots[i].work else {
            return None;
        };
        timing.had_last = others_work && !timing.had_last;
        if others_work && !timing.had_last {
            return None;
        }
        let token = timing.job.tokens[timing.n_done];
        let mut plan = Plan { timed: Some(i), ..Plan::default() };
        self.add(&mut plan, i, vec![token], 1);
        Some(plan)
    }

    /// Tells of the pass that slot `i` just had, and ends with the last token, or when nobody listens any more.
    pub(super) fn note_timing(&mut self, i: usize, took: Duration) {
        let Some(Work::Time(timing)) = &mut self.slots[i].work else {
            return;
        };
        timing.n_done += 1;
        let is_heard = timing.job.lengths.try_send(took).is_ok();
        if timing.n_done == timing.job.tokens.len() || !is_heard {
            self.end_timing(i);
        }
    }

    /// Ends it, with however many tokens.
    pub(super) fn end_timing(&mut self, i: usize) {
        let ended = self.slots[i].work.take();
        self.cells.clear(i);
        self.end_aside();
        // Only now: whoever is told finds it in no gauge.
        drop(ended);
    }
}
