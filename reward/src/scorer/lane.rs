//! One lane: the thread that owns its sources and judges its queue.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, select};
use policy::threads;

use super::{Counters, Lane, Outcome, ScoreRequest};
use crate::{
    score::{Judgement, Score, ScoreError, Scored},
    sources::{Formula, NamedJudge, model::ModelSource, remote::RemoteSource},
};

/// Responses of one caller, and the caller.
pub(super) struct Job {
    pub(super) items: Vec<ScoreRequest>,
    pub(super) reply: Box<dyn FnOnce(Vec<Outcome>) + Send>,
}

/// What both lanes are made from.
pub(super) struct Setup<'a> {
    pub(super) reward: &'a config::Reward,
    pub(super) model: Option<NamedJudge>,
    pub(super) counters: &'a Arc<Counters>,
    pub(super) stopped: &'a Receiver<Infallible>,
    pub(super) alive: &'a Sender<Infallible>,
}

/// The state of one lane.
pub(super) struct Worker {
    jobs: Receiver<Job>,
    stopped: Receiver<Infallible>,
    model: Option<(ModelSource, String)>,
    remote: Option<RemoteSource>,
    batch: usize,
    counters: Arc<Counters>,
    _alive: Sender<Infallible>,
}

impl Worker {
    pub(super) fn spawn(setup: &Setup<'_>, lane: Lane, jobs: Receiver<Job>, n_threads: usize) -> std::io::Result<()> {
        let (name, prepare): (_, fn()) = match lane {
            Lane::Requests => ("scorer-requests", || threads::lower_priority(threads::NICE_REQUESTS)),
            Lane::Background => ("scorer", threads::give_way),
        };
        let model = match &setup.model {
            Some(NamedJudge { version, judge }) => {
                let pool = threads::pool(name, n_threads, prepare).map_err(std::io::Error::other)?;
                Some((ModelSource::new(judge.clone(), pool), version.clone()))
            }
            None => None,
        };
        let remote = (!setup.reward.remote_url.is_empty()).then(|| RemoteSource::new(setup.reward));
        let worker = Worker {
            jobs,
            stopped: setup.stopped.clone(),
            model,
            remote,
            batch: setup.reward.batch,
            counters: setup.counters.clone(),
            _alive: setup.alive.clone(),
        };
        let thread = std::thread::Builder::new().name(name.to_owned());
        // Nobody joins it: `ended` tells when it is gone, and with a deadline, which a join has not.
        thread.spawn(move || {
            prepare();
            worker.run();
        })?;
        Ok(())
    }

    fn run(self) {
        loop {
            let job = select! {
                recv(self.stopped) -> _ => break,
                recv(self.jobs) -> job => job,
            };
            match job {
                Ok(job) => self.judge_jobs(self.gather(job)),
                Err(_) => return,
            }
        }
        for job in self.jobs.try_iter() {
            let closing = job.items.iter().map(|_| Err(ScoreError::Closing)).collect();
            (job.reply)(closing);
        }
    }

    /// The job and whatever else waits already, until a batch is full.
    fn gather(&self, first: Job) -> Vec<Job> {
        let mut n_items = first.items.len();
        let mut jobs = vec![first];
        while n_items < self.batch {
            let Ok(job) = self.jobs.try_recv() else { break };
            n_items += job.items.len();
            jobs.push(job);
        }
        jobs
    }

    fn judge_jobs(&self, jobs: Vec<Job>) {
        let started = Instant::now();
        let items: Vec<&ScoreRequest> = jobs.iter().flat_map(|job| &job.items).collect();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(items.len());
        for batch in items.chunks(self.batch) {
            outcomes.extend(self.judge(batch));
            self.counters.batches.fetch_add(1, Ordering::Relaxed);
        }
        let n_scored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        self.counters.scored.fetch_add(n_scored as u64, Ordering::Relaxed);
        self.counters.failed.fetch_add((outcomes.len() - n_scored) as u64, Ordering::Relaxed);
        self.counters.busy_us.fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        let mut outcomes = outcomes.into_iter();
        for Job { items, reply } in jobs {
            reply(outcomes.by_ref().take(items.len()).collect());
        }
    }

    fn judge(&self, batch: &[&ScoreRequest]) -> Vec<Outcome> {
        if self.is_stopped() {
            return vec![Err(ScoreError::Closing); batch.len()];
        }
        let by_model = ask(
            batch,
            |formula| formula.model,
            |items| match &self.model {
                Some((model, _)) => model.score(items),
                None => vec![Err(ScoreError::Absent("reward model")); items.len()],
            },
        );
        let by_remote = ask(
            batch,
            |formula| formula.remote,
            |items| match &self.remote {
                Some(remote) => remote.score(items, &self.counters, &|delay| self.pause(delay)),
                None => vec![Err(ScoreError::Absent("reward server")); items.len()],
            },
        );
        let version = self.model.as_ref().map_or("", |(_, version)| version);
        let parts = by_model.into_iter().zip(by_remote);
        batch
            .iter()
            .zip(parts)
            .map(|(item, (model, remote))| {
                let model: Judgement = model?;
                let score = ScoreError::check("mixed", item.formula.sum(model.score, remote?))?;
                // The other parts of a sum are known without doubt, so the members' spread is only scaled.
                let std = model.std.map(|std| std * item.formula.model.abs());
                Ok(Scored { score: Score(score), std, reward_version: item.formula.name(version) })
            })
            .collect()
    }

    fn is_stopped(&self) -> bool {
        matches!(self.stopped.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Sleeps, unless the scorer is stopped meanwhile: then false.
    fn pause(&self, delay: Duration) -> bool {
        matches!(self.stopped.recv_timeout(delay), Err(RecvTimeoutError::Timeout))
    }
}

/// Asks one machine source about the items that give it a weight; the others get 0, which their formula ignores.
fn ask<T: Clone + Default>(
    batch: &[&ScoreRequest],
    weight: fn(&Formula) -> f64,
    source: impl FnOnce(&[&ScoreRequest]) -> Vec<Result<T, ScoreError>>,
) -> Vec<Result<T, ScoreError>> {
    let concerns = |item: &ScoreRequest| weight(&item.formula) != 0.0;
    let items: Vec<&ScoreRequest> = batch.iter().copied().filter(|item| concerns(item)).collect();
    if items.is_empty() {
        return vec![Ok(T::default()); batch.len()];
    }
    let mut answers = source(&items).into_iter();
    let answer = |item: &&ScoreRequest| {
        if concerns(item) { answers.next().expect("a source answers once per item") } else { Ok(T::default()) }
    };
    batch.iter().map(answer).collect()
}
