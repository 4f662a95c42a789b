//! One lane: the thread that owns its sources and judges its queue.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, select};
use policy::threads;

use super::{
    Counters, Lane, Outcome, ScoreRequest, Sitting,
    queue::Arrivals,
    turns::{BatchLimits, Turns},
};
use crate::{
    score::{Judgement, Score, ScoreError, Scored},
    sources::{Formula, model::ModelSource, remote::RemoteSource},
};

/// Jobs of one tenant that take turns; the others wait in the queue, in their order.
const TURNS_MAX: usize = 16;

/// What both lanes are made from.
pub(super) struct Setup<'a> {
    pub(super) reward: &'a config::Reward,
    pub(super) has_model: bool,
    pub(super) counters: &'a Arc<Counters>,
    pub(super) stopped: &'a Receiver<Infallible>,
    pub(super) alive: &'a Sender<Infallible>,
}

/// The state of one lane.
pub(super) struct Worker {
    arrivals: Arrivals,
    stopped: Receiver<Infallible>,
    model: Option<ModelSource>,
    remote: Option<RemoteSource>,
    limits: BatchLimits,
    counters: Arc<Counters>,
    _alive: Sender<Infallible>,
}

impl Worker {
    pub(super) fn spawn(setup: &Setup<'_>, lane: Lane, arrivals: Arrivals, n_threads: usize) -> std::io::Result<()> {
        let (name, prepare): (_, fn()) = match lane {
            Lane::Requests => ("scorer-requests", || threads::lower_priority(threads::NICE_REQUESTS)),
            Lane::Background => ("scorer", threads::give_way),
        };
        let pool = || threads::pool(name, n_threads, prepare).map_err(std::io::Error::other);
        let model = setup.has_model.then(pool).transpose()?.map(ModelSource::new);
        let remote = (!setup.reward.remote_url.is_empty()).then(|| RemoteSource::new(setup.reward));
        let worker = Worker {
            arrivals,
            stopped: setup.stopped.clone(),
            model,
            remote,
            limits: BatchLimits { responses: setup.reward.batch, tokens: setup.reward.batch_tokens },
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
        let mut turns = Turns::default();
        while !self.is_stopped() && self.admit(&mut turns) {
            let n_abandoned = turns.drop_abandoned();
            self.counters.abandoned.fetch_add(n_abandoned as u64, Ordering::Relaxed);
            self.judge_batch(&mut turns);
        }
        turns.close();
        for job in self.arrivals.close() {
            let closing = job.items.iter().map(|_| Err(ScoreError::Closing)).collect();
            (job.reply)(closing);
        }
    }

    /// Takes what waits, up to [`TURNS_MAX`] jobs of each tenant; waits itself when there is nothing to do. False when the lane
    /// ends.
    fn admit(&self, turns: &mut Turns) -> bool {
        loop {
            while let Some(job) = self.arrivals.next(|tenant| turns.len_of(tenant) < TURNS_MAX) {
                turns.admit(job);
            }
            if !turns.is_empty() {
                return true;
            }
            select! {
                recv(self.stopped) -> _ => return false,
                recv(self.arrivals.look) -> look => if look.is_err() { return false },
            }
        }
    }

    fn judge_batch(&self, turns: &mut Turns) {
        let batch = turns.next_batch(self.limits);
        if batch.is_empty() {
            return;
        }
        let started = Instant::now();
        let items: Vec<&ScoreRequest> = batch.iter().map(|place| turns.item(*place)).collect();
        let n_tokens: usize = items.iter().map(|item| item.n_tokens()).sum();
        let outcomes = self.judge(&items, turns.sitting(batch[0]));
        self.counters.count_batch(&outcomes, n_tokens, started.elapsed());
        turns.settle(&batch, outcomes);
    }

    fn judge(&self, batch: &[&ScoreRequest], sitting: &Sitting) -> Vec<Outcome> {
        if self.is_stopped() {
            return vec![Err(ScoreError::Closing); batch.len()];
        }
        let by_model = ask(
            batch,
            |formula| formula.model,
            |items| match (&self.model, &sitting.0) {
                (Some(model), Some(judge)) => model.score(&judge.judge, items),
                _ => vec![Err(ScoreError::Absent("reward model")); items.len()],
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
        let parts = by_model.into_iter().zip(by_remote);
        batch
            .iter()
            .zip(parts)
            .map(|(item, (model, remote))| {
                let model: Judgement = model?;
                let score = ScoreError::check("mixed", item.formula.sum(model.score, remote?))?;
                // The other parts of a sum are known without doubt, so the members' spread is only scaled.
                let std = model.std.map(|std| std * item.formula.model.abs());
                Ok(Scored { score: Score(score), std, reward_version: item.formula.name(sitting.model_version()) })
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
