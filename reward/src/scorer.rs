//! The scorer: one handle, two owner threads that judge in batches.
//!
//! Two kinds of callers want scores. The log's pump brings everything that was served, in no hurry; a client of
//! `/v1/rewards` waits for its answer. They get a lane each, a thread with its own queue and its own little pool:
//!
//! | lane | priority | threads | why |
//! |---|---|---|---|
//! | [`Lane::Background`] | nice 19, idle class | learner's | llama.cpp's threads meet at barriers; normal priority costs serving all but everything |
//! | [`Lane::Requests`] | nice 10 | one | at nice 19 it would get 1.5 % of a busy core and starve; at nice 10 about a tenth, and it is one thread |
//!
//! A lane cuts batches across callers, up to `reward.batch` responses and `reward.batch_tokens` tokens; tenants take turns, and
//! the callers of each (`turns`), and each is answered with one outcome per response as soon as its last one is known. Queues are
//! bounded by `reward.max_queue` jobs, by what these hold, each tenant's by a share of both (`queue`), and jobs by responses; a full
//! queue is refused and counted, and the pump simply comes back, because the log holds what it wants judged.
//!
//! The reward model can be replaced while both lanes run ([`Scorer::seat`]): a job is judged by whoever sat when it was handed
//! over, and a batch never holds responses of two sittings.

mod counters;
mod job;
mod lane;
mod queue;
mod sitting;
#[cfg(test)]
mod tests;
mod turns;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
pub(crate) use counters::Counters;
pub use counters::ScorerStats;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub use self::{
    job::{ScoreJob, ScoreRequest},
    sitting::Sitting,
};
use self::{
    lane::Worker,
    queue::{Queue, queue},
};
use crate::{
    score::{ScoreError, Scored},
    sources::{NamedJudge, Rules},
};

/// Responses in one job.
const JOB_ITEMS_MAX: usize = 4096;

/// Who is waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// A client: bounded patience.
    Requests,
    /// The rollout log: no hurry.
    Background,
}

/// What becomes of one response.
pub type Outcome = Result<Scored, ScoreError>;

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScorerError {
    /// The lane's queue is full, by jobs or by what they hold, or its tenant's share of it; try again later.
    #[error("the scoring queue is full (reward.max_queue, reward.max_queue_share)")]
    Full,
    /// Too many responses at once.
    #[error("expected at most {JOB_ITEMS_MAX} responses in one job, got {0}")]
    TooMany(usize),
    /// The scorer is shutting down.
    #[error("the scorer is shutting down")]
    Closed,
}

/// Handle to the scorer; clones share it. The threads end when the last handle is dropped, or at [`Scorer::shutdown`].
#[derive(Clone)]
pub struct Scorer {
    shared: Arc<Shared>,
}

struct Shared {
    requests: Queue,
    background: Queue,
    counters: Arc<Counters>,
    rules: Rules,
    /// The reward model; empty where there is none.
    seat: ArcSwapOption<NamedJudge>,
    is_open: AtomicBool,
    /// Dropped to stop the lanes; they never receive from it.
    stop: Mutex<Option<Sender<Infallible>>>,
    /// Disconnected once both lanes have ended.
    ended: Receiver<Infallible>,
}

impl Scorer {
    /// Starts both lanes. `model` may be absent where the rules do not ask for it; asking all the same is an error per response.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        reward: &config::Reward,
        model: Option<NamedJudge>,
        n_background_threads: usize,
    ) -> std::io::Result<Scorer> {
        let (requests, requests_jobs) = queue(reward.max_queue, reward.max_queue_share);
        let (background, background_jobs) = queue(reward.max_queue, reward.max_queue_share);
        let (stop, stopped) = bounded(0);
        let (alive, ended) = bounded(0);
        let counters = Arc::new(Counters::default());
        let setup =
            lane::Setup { reward, has_model: model.is_some(), counters: &counters, stopped: &stopped, alive: &alive };
        Worker::spawn(&setup, Lane::Requests, requests_jobs, 1)?;
        Worker::spawn(&setup, Lane::Background, background_jobs, n_background_threads)?;
        let shared = Shared {
            requests,
            background,
            counters,
            rules: Rules::new(reward),
            seat: ArcSwapOption::new(model.map(Arc::new)),
            is_open: AtomicBool::new(true),
            stop: Mutex::new(Some(stop)),
            ended,
        };
        Ok(Scorer { shared: Arc::new(shared) })
    }

    /// The configured sources: who judges what, and when.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.shared.rules
    }

    /// Who judges a text that nobody can have an opinion about: `model@<digest>`, `remote`, or a weighted sum of these.
    #[must_use]
    pub fn reward_version(&self) -> String {
        self.version_of(&self.sitting())
    }

    /// The same, of a sitting.
    #[must_use]
    pub fn version_of(&self, sitting: &Sitting) -> String {
        self.shared.rules.for_text().name(sitting.model_version())
    }

    /// Who sits now.
    #[must_use]
    pub fn sitting(&self) -> Sitting {
        Sitting(self.shared.seat.load_full())
    }

    /// Has another reward model judge from the next job on; who sat before, unless there was no seat: a scorer that was started
    /// without a model has no threads for one, and leaves things as they are.
    pub fn seat(&self, judge: NamedJudge) -> Option<Sitting> {
        self.shared.seat.load().as_ref()?;
        Some(Sitting(self.shared.seat.swap(Some(Arc::new(judge)))))
    }

    /// Hands over a job without waiting.
    ///
    /// # Errors
    /// When the queue is full, the job too large, or the scorer shuts down; nothing is judged then.
    pub fn submit(&self, lane: Lane, mut job: ScoreJob) -> Result<(), ScorerError> {
        let refused = |error| {
            self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            Err(error)
        };
        if job.items.len() > JOB_ITEMS_MAX {
            return refused(ScorerError::TooMany(job.items.len()));
        }
        if !self.shared.is_open.load(Ordering::Acquire) {
            return refused(ScorerError::Closed);
        }
        job.sitting.get_or_insert_with(|| self.sitting());
        let queue = match lane {
            Lane::Requests => &self.shared.requests,
            Lane::Background => &self.shared.background,
        };
        queue.push(job).or_else(refused)
    }

    /// Hands over a job and waits for its outcomes: for owner threads, never for the HTTP runtime.
    ///
    /// # Errors
    /// As [`Scorer::submit`], and when the scorer ends first.
    pub fn score(&self, lane: Lane, items: Vec<ScoreRequest>) -> Result<Vec<Outcome>, ScorerError> {
        self.score_by(self.sitting(), lane, items)
    }

    /// The same, judged by this sitting: for jobs whose scores are compared with each other.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub fn score_by(
        &self,
        sitting: Sitting,
        lane: Lane,
        items: Vec<ScoreRequest>,
    ) -> Result<Vec<Outcome>, ScorerError> {
        let (reply, outcomes) = bounded(1);
        let job = ScoreJob::new(items, move |scored| {
            // The caller waits below; a dead one does not need the answer.
            let _ = reply.send(scored);
        });
        self.submit(lane, job.judged_by(sitting))?;
        outcomes.recv().map_err(|_| ScorerError::Closed)
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> ScorerStats {
        let queued = self.shared.requests.len() + self.shared.background.len();
        self.shared.counters.snapshot(queued)
    }

    /// Takes nothing new, answers what waits with [`ScoreError::Closing`], and waits for the threads until the deadline.
    /// Whether they ended; a call to a reward server can outlast any deadline and is then left to itself.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        self.shared.is_open.store(false, Ordering::Release);
        self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        matches!(self.shared.ended.recv_timeout(deadline), Err(RecvTimeoutError::Disconnected))
    }
}
