//! The trial: candidate and live version answer the same questions with the same random numbers, and are judged alike.
//!
//! Common random numbers: both draw question `i` from the same stream, so where their distributions agree they say the same,
//! and the difference that is left comes from the weights (each version's own forward passes still round a little differently
//! with the shape of a batch).
//!
//! The questions come from traffic that never trains (`ppo.held_out_share`), or from recent traffic where no share is held
//! out, and from the operator's file. The live version answers as any client's request would be answered, as a tenant of its
//! own, a few at a time; so a trial takes no more of it than one more client.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{RecvTimeoutError, unbounded};
use policy::{
    PolicyVersion, Rollout, SamplingParams, TokenId,
    engine::{CancelFlag, Engine, Event, GenerateRequest, Rejection, Target, Tenant},
};
use reward::{Lane, Ruling, ScoreError, Scorer, ScorerError};

use super::comparison::{Comparison, Manner, PairedDifference};
use crate::{
    experience::is_held_out,
    rollout_log::{LogError, LoggedRollout},
    scoring::score_request,
};

/// Rows of the log that are looked through for questions.
pub const ROWS_MAX: usize = 1024;
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

/// What both versions are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The prompt, special tokens included.
    pub prompt: Vec<TokenId>,
    /// How to draw; the seed is filled in.
    pub sampling: SamplingParams,
}

/// Chooses the questions for one update: half of them from the file where there is one, the others the newest different
/// prompts of `rows` that are held out (all of them where no share is). As many as configured, if there is one at all.
///
/// - `rows`: newest first.
#[must_use]
pub fn questions(rows: &[LoggedRollout], file: &[Vec<TokenId>], config: &config::Ppo, update: u64) -> Vec<Question> {
    let n = config.gate_prompts;
    let max_tokens = config.gate_tokens;
    let n_of_file = if file.is_empty() { 0 } else { n.div_ceil(2).min(file.len()) };
    // Another stretch of the file each time, so that in the end all of it is asked.
    let start = (update as usize).wrapping_mul(n_of_file);
    let of_file = (0..n_of_file).map(|i| Question {
        prompt: file[(start + i) % file.len()].clone(),
        sampling: SamplingParams { max_tokens, ..SamplingParams::default() },
    });
    let mut seen = HashSet::new();
    let asked = |row: &&LoggedRollout| config.held_out_share == 0.0 || is_held_out(&row.rollout, config.held_out_share);
    let of_traffic = rows.iter().filter(asked).filter(|row| seen.insert(row.rollout.prompt.clone())).map(|row| {
        let sampling = &row.rollout.sampling;
        let max_tokens = sampling.max_tokens.min(max_tokens);
        Question { prompt: row.rollout.prompt.clone(), sampling: SamplingParams { max_tokens, ..sampling.clone() } }
    });
    let different: Vec<Question> = of_file.chain(of_traffic).take(n).collect();
    // Few prompts are asked more than once, each time with other random numbers.
    let mut all: Vec<Question> = different.iter().cycle().take(n).cloned().collect();
    for (i, question) in (0u64..).zip(&mut all) {
        question.sampling.seed = Some((update << 20) | i);
    }
    all
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
        let (of_candidate, of_live) = std::thread::scope(|scope| {
            let of_live = scope.spawn(|| self.answers(live, go_on));
            let of_candidate = self.answers(candidate, go_on);
            let panicked = || TrialError::Engine { version: live, reason: "its thread panicked".into() };
            (of_candidate, of_live.join().unwrap_or_else(|_| Err(panicked())))
        });
        let (of_candidate, of_live) = (of_candidate?, of_live?);
        let reward = match self.rewards(&of_candidate)?.zip(self.rewards(&of_live)?) {
            Some((candidate, live)) => PairedDifference::of(&candidate, &live),
            None => None,
        };
        Ok(Some(Comparison { candidate: Manner::of(&of_candidate), live: Manner::of(&of_live), reward }))
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
        let Question { prompt, sampling } = &self.questions[i];
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

    /// One reward an answer; `None` where nobody judges without being told.
    fn rewards(&self, answers: &[Rollout]) -> Result<Option<Vec<f64>>, TrialError> {
        let Some(scorer) = self.scorer else {
            return Ok(None);
        };
        let Ruling::Judge(formula) = scorer.rules().ruling(&[], 0, u64::MAX) else {
            return Ok(None);
        };
        let vocabulary = self.engine.vocabulary();
        let requests = answers.iter().map(|answer| score_request(&vocabulary, answer, formula)).collect();
        let outcomes = scorer.score(Lane::Background, requests)?;
        Ok(Some(outcomes.into_iter().map(|outcome| Ok(outcome?.score.0)).collect::<Result<_, ScoreError>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rollout_log::{RolloutState, Seq},
        test_world::{World, share_of},
    };

    fn row(i: u32, user: &str) -> LoggedRollout {
        let (mut rollout, _) = World::new(1).rollouts(1, share_of(TokenId(3))).remove(0).into_parts();
        rollout.prompt = vec![TokenId(i)];
        rollout.user = Some(user.to_string());
        rollout.sampling.max_tokens = 500;
        LoggedRollout {
            seq: Seq(i64::from(i)),
            rollout,
            state: RolloutState::Scored,
            reason: None,
            score: None,
            trained_version: None,
            feedback: Vec::new(),
            redacted: None,
        }
    }

    #[test]
    fn questions_are_the_newest_different_prompts_of_who_never_trains() {
        let mut config = config::Config::default().ppo;
        (config.gate_prompts, config.gate_tokens) = (4, 16);
        let rows: Vec<_> = (0..300).rev().map(|i| row(i / 2, &format!("user-{}", i / 2))).collect();
        let all = questions(&rows, &[], &config, 7);
        assert_eq!(all.iter().map(|q| q.prompt[0].0).collect::<Vec<_>>(), [149, 148, 147, 146]);
        assert!(all.iter().all(|q| q.sampling.max_tokens == 16));
        assert_eq!(all[1].sampling.seed, Some((7 << 20) | 1));
        config.held_out_share = 0.1;
        let held_out = questions(&rows, &[], &config, 7);
        assert!(held_out.len() == 4 && held_out != all);
        for question in held_out {
            let row = rows.iter().find(|row| row.rollout.prompt == question.prompt).unwrap();
            assert!(is_held_out(&row.rollout, 0.1));
        }
    }

    #[test]
    fn half_of_them_come_from_the_file_and_in_the_end_all_of_it_is_asked() {
        let mut config = config::Config::default().ppo;
        config.gate_prompts = 4;
        let file: Vec<Vec<TokenId>> = (1000..1005).map(|i| vec![TokenId(i)]).collect();
        let rows: Vec<_> = (0..9).map(|i| row(i, "somebody")).collect();
        let mut asked = HashSet::new();
        for update in 0..5 {
            let all = questions(&rows, &file, &config, update);
            assert_eq!(all.iter().filter(|q| q.prompt[0].0 >= 1000).count(), 2);
            assert_eq!(all.len(), 4);
            asked.extend(all.into_iter().map(|q| q.prompt[0].0).filter(|id| *id >= 1000));
        }
        assert_eq!(asked.len(), 5);
        assert_eq!(questions(&[], &file, &config, 0).len(), 4, "few prompts are asked more than once");
        config.gate_prompts = 0;
        assert!(questions(&rows, &file, &config, 0).is_empty());
    }
}
