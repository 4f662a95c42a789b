//! The trial: candidate and live version answer the same questions with the same random numbers, and are judged alike.
//!
//! Common random numbers: both draw question `i` from the same stream, so where their distributions agree they say the same,
//! and the difference that is left comes from the weights (each version's own forward passes still round a little differently
//! with the shape of a batch).
//!
//! The live version answers as any client's request would be answered, as a tenant of its own, a few at a time; so a trial
//! takes no more of it than one more client.
//!
//! How long each takes for a token goes into the report and refuses nobody: a candidate has just come into memory and has a few
//! dozen steps to show, the live version's are those of its clients too, with other contexts. Of what serves the watch knows more,
//! and it can ask both on the spot ([`crate::watch::latency`]).

mod judging;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{RecvTimeoutError, unbounded};
use policy::{
    PolicyVersion, Rollout,
    engine::{BATCH_SIZES, CancelFlag, Engine, Event, GenerateRequest, Rejection, StepTimes, Target, Tenant},
};
use reward::{ScoreError, Scorer, ScorerError};

use super::{
    comparison::{Comparison, Manner},
    questions::{Asked, Question},
};
use crate::rollout_log::LogError;

/// Answers that one version draws at once.
const WINDOW: usize = 8;
/// Whose requests they are: nobody's key has this number.
const TENANT: Tenant = Tenant(u32::MAX);
/// How often the drawing looks whether it is still wanted, and whether a full queue has room again.
const LOOK: Duration = Duration::from_millis(20);
/// Longest trial of one version.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why there was no trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The engine refused a question or failed over it.
    #[error("the trial of {version}: {reason}")]
    Engine {
        /// Who was asked.
        version: PolicyVersion,
        /// Why.
        reason: String,
    },
    /// An answer could not be judged.
    #[error("judging the trial: {0}")]
    Judge(#[from] ScoreError),
    /// The judge is busy or gone.
    #[error("judging the trial: {0}")]
    Scorer(#[from] ScorerError),
    /// No questions could be read.
    #[error("questions for the trial: {0}")]
    Log(#[from] LogError),
    /// A command came first.
    #[error("the trial was interrupted")]
    Interrupted,
}

/// A trial.
#[derive(Clone, Copy)]
pub struct Trial<'a> {
    /// Where both versions are in memory.
    pub engine: &'a Engine,
    /// Who judges; nobody where scores come from people alone.
    pub scorer: Option<&'a Scorer>,
    /// What is asked.
    pub questions: &'a [Question],
    /// Says what length costs; of every answer's reward its own is taken off.
    pub config: &'a config::Ppo,
}

impl Trial<'_> {
    /// Lets both answer. `None` without questions.
    ///
    /// # Errors
    /// [`TrialError`].
    pub fn compare(
        &self,
        candidate: PolicyVersion,
        live: PolicyVersion,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Comparison>, TrialError> {
        if self.questions.is_empty() {
            return Ok(None);
        }
        let steps = || [candidate, live].map(|version| self.engine.step_times(version));
        let before = steps();
        let (of_candidate, of_live) = std::thread::scope(|scope| {
            let of_live = scope.spawn(|| self.answers(live, go_on));
            let of_candidate = self.answers(candidate, go_on);
            let panicked = || TrialError::Engine { version: live, reason: "its thread panicked".into() };
            (of_candidate, of_live.join().unwrap_or_else(|_| Err(panicked())))
        });
        let (of_candidate, of_live) = (of_candidate?, of_live?);
        let [now, before] = [steps(), before];
        let step_seconds = step_seconds(&[now[0].since(&before[0]), now[1].since(&before[1])]);
        let (reward, judge) = self.judge(&of_candidate, &of_live)?.unzip();
        let (candidate, live) = (Manner::of(&of_candidate), Manner::of(&of_live));
        Ok(Some(Comparison { candidate, live, asked: Asked::of(self.questions), step_seconds, reward, judge }))
    }

    fn answers(&self, version: PolicyVersion, go_on: &dyn Fn() -> bool) -> Result<Vec<Rollout>, TrialError> {
        let failed = |reason: String| TrialError::Engine { version, reason };
        let (sender, events) = unbounded();
        let cancel = CancelFlag::default();
        let began = Instant::now();
        let mut answers: Vec<Option<Rollout>> = vec![None; self.questions.len()];
        let (mut next, mut n_running) = (0, 0);
        while next < answers.len() || n_running > 0 {
            if !go_on() || began.elapsed() > PATIENCE {
                cancel.cancel();
                return Err(if go_on() { failed("it took too long".into()) } else { TrialError::Interrupted });
            }
            while n_running < WINDOW && next < answers.len() {
                match self.engine.submit(Target::Version(version), self.request(next, &cancel, sender.clone())) {
                    Ok(_) => (next, n_running) = (next + 1, n_running + 1),
                    Err(Rejection::Full { .. }) => break,
                    Err(rejection) => {
                        cancel.cancel();
                        return Err(failed(rejection.to_string()));
                    }
                }
            }
            match events.recv_timeout(LOOK) {
                Ok((i, Ok(rollout))) => {
                    answers[i] = Some(rollout);
                    n_running -= 1;
                }
                Ok((_, Err(reason))) => {
                    cancel.cancel();
                    return Err(failed(reason));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("this function holds a sender"),
            }
        }
        let whole = answers.into_iter().flatten().collect::<Vec<_>>();
        match whole.iter().any(|answer| answer.finish == policy::FinishReason::Cancelled) {
            true => Err(TrialError::Interrupted),
            false => Ok(whole),
        }
    }

    fn request(
        &self,
        i: usize,
        cancel: &CancelFlag,
        answers: crossbeam_channel::Sender<(usize, Result<Rollout, String>)>,
    ) -> GenerateRequest {
        let Question { prompt, sampling, .. } = &self.questions[i];
        GenerateRequest {
            id: format!("trial-{i}"),
            prompt: prompt.clone(),
            sampling: sampling.clone(),
            tenant: TENANT,
            // What a trial computes is nobody else's to reuse, and the other way round.
            cache_salt: Some(Arc::from("trial")),
            cancel: cancel.clone(),
            // Whoever stopped listening has cancelled.
            sink: Box::new(move |event| match event {
                Event::Finished(finished) => drop(answers.send((i, Ok(finished.rollout)))),
                Event::Failed(failure) => drop(answers.send((i, Err(failure.to_string())))),
                Event::Prompt { .. } | Event::Token { .. } => {}
            }),
            ..GenerateRequest::default()
        }
    }
}

/// Median of the decode steps of both, seconds, in the batch size that both have most of.
fn step_seconds(steps: &[StepTimes; 2]) -> Option<[f64; 2]> {
    let n_of_both = |class: usize| steps[0].n_steps(class).min(steps[1].n_steps(class));
    let class = (0..BATCH_SIZES.len()).max_by_key(|class| n_of_both(*class)).filter(|class| n_of_both(*class) > 0)?;
    Some([steps[0].quantile(class, 0.5)?, steps[1].quantile(class, 0.5)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_times_are_of_the_batch_size_that_both_have_most_of() {
        let times = |steps: &[(u64, usize, u64)]| {
            StepTimes::of(
                steps
                    .iter()
                    .flat_map(|&(n, n_sequences, us)| (0..n).map(move |_| (n_sequences, Duration::from_micros(us)))),
            )
        };
        let live = times(&[(50, 1, 100), (1000, 8, 300), (9, 2, 150)]);
        let [candidate, of_live] = step_seconds(&[times(&[(40, 1, 200), (10, 8, 900)]), live.clone()]).unwrap();
        assert!((candidate / 200e-6 - 1.0).abs() < 0.15 && (of_live / 100e-6 - 1.0).abs() < 0.15);
        assert_eq!(step_seconds(&[times(&[(40, 16, 200)]), live]), None);
    }
}
