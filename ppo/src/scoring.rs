//! The pump between the log and the judges: `generated` rows go in, verdicts come back.
//!
//! It takes the oldest rows that may be judged now, a bounded batch at a time, and hands them to the scorer's background
//! lane. A row that somebody still waits for people to speak about is left where it is; so is a row whose judge cannot be
//! reached: it stays `generated`, is counted, and comes back after a pause that doubles up to `PAUSE_MAX`. A score is
//! never made up. Only what can never be judged is dropped: a judge's NaN, a text that a reward server refuses while it
//! judges others, or feedback that did not come under the rule "drop".
//!
//! Rows that stay never stand in the way of those behind them: a sweep goes on past them, and where a whole batch stays, which
//! may be all of them or the judge, the sweep after the pause begins behind it.
//!
//! The rows themselves are the queue, so a crash loses nothing and repeats at most one batch.

#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use policy::{Rollout, TokenId, Vocabulary, threads};
use reward::{Formula, Lane, Opinion, Ruling, ScoreError, ScoreRequest, Scored, Scorer, ScorerError};

use crate::{
    clock::now_ms,
    rollout_log::{DropReason, Feedback, LogError, LoggedRollout, RolloutLog, ScoreRecord, Seq, Verdict},
    stats::ScoringCounters,
};

/// Pause when every row that may be judged is judged.
const IDLE: Duration = Duration::from_millis(25);
/// First pause after a judge could not be reached.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Handle of the pump's thread; dropping it stops the pump.
pub struct ScoringPump {
    stop: Option<Sender<()>>,
    /// Disconnected once the thread has ended, which tells with a deadline what a join tells without one.
    ended: Receiver<Infallible>,
    thread: Option<JoinHandle<()>>,
    counters: Arc<ScoringCounters>,
}

impl ScoringPump {
    /// Starts the pump.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        log: RolloutLog,
        scorer: Scorer,
        vocabulary: Arc<Vocabulary>,
        config: &config::Reward,
    ) -> std::io::Result<ScoringPump> {
        let (stop, stopped) = bounded(0);
        let (alive, ended) = bounded(0);
        let counters = Arc::new(ScoringCounters::default());
        let pump = Pump {
            log,
            scorer,
            vocabulary,
            batch: config.batch,
            feedback_wait_ms: config.feedback_wait_s.saturating_mul(1000),
            counters: Arc::clone(&counters),
        };
        let thread = std::thread::Builder::new().name("scoring-pump".to_string()).spawn(move || {
            let _alive: Sender<Infallible> = alive;
            threads::give_way();
            pump.run(&stopped);
        })?;
        Ok(ScoringPump { stop: Some(stop), ended, thread: Some(thread), counters })
    }

    /// What the pump counted.
    #[must_use]
    pub fn counters(&self) -> Arc<ScoringCounters> {
        Arc::clone(&self.counters)
    }

    /// Stops after the batch at hand; shut the scorer down first. Whether it ended within `patience`: a call to a reward server can
    /// outlast any, and is then left to itself.
    pub fn stop(mut self, patience: Duration) -> bool {
        self.stop = None;
        let has_ended = self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected);
        if !has_ended {
            drop(self.thread.take());
        }
        has_ended
    }

    fn end(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the scoring pump panicked");
        }
    }
}

impl Drop for ScoringPump {
    fn drop(&mut self) {
        self.end();
    }
}

/// What became of one sweep over the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Verdicts were stored; there may be more to do.
    Moved,
    /// Nothing may be judged now.
    Idle,
    /// Nothing of a whole batch could be judged.
    Unreachable,
    /// The scorer is gone.
    Closed,
}

type Verdicts = Vec<(Seq, Verdict)>;

struct Pump {
    log: RolloutLog,
    scorer: Scorer,
    vocabulary: Arc<Vocabulary>,
    batch: usize,
    feedback_wait_ms: u64,
    counters: Arc<ScoringCounters>,
}

impl Pump {
    fn run(&self, stopped: &Receiver<()>) {
        let mut pause = PAUSE_MIN;
        let mut after = None;
        loop {
            let wait = match self.sweep(&mut after) {
                Ok(Sweep::Moved) => {
                    pause = PAUSE_MIN;
                    Duration::ZERO
                }
                Ok(Sweep::Idle) => IDLE,
                Ok(Sweep::Closed) | Err(LogError::Closed) => return,
                Ok(Sweep::Unreachable) => longer(&mut pause),
                Err(error) => {
                    tracing::error!(%error, "scoring: the rollout log failed; will try again");
                    longer(&mut pause)
                }
            };
            if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Goes over the rows that may be judged, in log order, from behind `after` to the end, where the next sweep begins anew;
    /// or to the end of a batch of which nothing could be judged, behind which it goes on.
    fn sweep(&self, after: &mut Option<Seq>) -> Result<Sweep, LogError> {
        let mut sweep = Sweep::Idle;
        loop {
            let now = now_ms();
            let rows = self.unscored(*after, now)?;
            let Some(last) = rows.last() else {
                *after = None;
                return Ok(sweep);
            };
            *after = Some(last.seq);
            let (mut verdicts, asked) = self.rule(&rows, now);
            let n_asked = asked.len();
            let judged = match self.judge(asked) {
                Ok(judged) => judged,
                Err(ScorerError::Closed) => return Ok(Sweep::Closed),
                Err(error) => {
                    tracing::debug!(%error, "scoring will try again");
                    Vec::new()
                }
            };
            let (n_judged, n_deferred) = (judged.len(), n_asked - judged.len());
            verdicts.extend(judged);
            if !verdicts.is_empty() {
                let n_moved = match self.scorer.rules().listens() {
                    true => self.log.score_as_heard(verdicts, &rows)?,
                    false => self.log.score(verdicts)?,
                };
                self.counters.stored.fetch_add(n_moved as u64, Ordering::Relaxed);
                sweep = Sweep::Moved;
            }
            self.counters.deferred.fetch_add(n_deferred as u64, Ordering::Relaxed);
            if n_deferred > 0 && n_judged == 0 {
                return Ok(Sweep::Unreachable);
            }
        }
    }

    /// The next rows. With feedback in play, the young ones that nobody spoke about yet are not even read.
    fn unscored(&self, after: Option<Seq>, now: u64) -> Result<Vec<LoggedRollout>, LogError> {
        if !self.scorer.rules().listens() {
            return self.log.reader().unscored(after, self.batch, u64::MAX);
        }
        let wait = self.feedback_wait_ms;
        let young = now.saturating_sub(wait).saturating_add(1)..=now.saturating_add(wait);
        self.log.reader().unscored_but(after, self.batch, young)
    }

    /// Who judges which row; some are ruled out at once, some wait and are in neither list.
    fn rule(&self, rows: &[LoggedRollout], now: u64) -> (Verdicts, Vec<(Seq, ScoreRequest)>) {
        let mut verdicts = Vec::new();
        let mut asked = Vec::new();
        for row in rows {
            let counts = |words: &&Feedback| !self.log.quarantine().holds(words.user.as_deref());
            let opinions: Vec<Opinion> = row.feedback.iter().filter(counts).map(Feedback::opinion).collect();
            let created_ms = row.rollout.created_ms;
            match self.scorer.rules().ruling(&opinions, created_ms, now) {
                Ruling::Judge(formula) => asked.push((row.seq, score_request(&self.vocabulary, &row.rollout, formula))),
                Ruling::Wait { .. } => {}
                Ruling::Drop => verdicts.push((row.seq, Verdict::Dropped(DropReason::NoFeedback))),
            }
        }
        (verdicts, asked)
    }

    /// Verdicts on those that could be judged; the others are left out.
    fn judge(&self, asked: Vec<(Seq, ScoreRequest)>) -> Result<Verdicts, ScorerError> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let (seqs, requests): (Vec<Seq>, Vec<ScoreRequest>) = asked.into_iter().unzip();
        let outcomes = self.scorer.score(Lane::Background, requests)?;
        let mut verdicts = Vec::with_capacity(seqs.len());
        let mut failure = None;
        for (seq, outcome) in seqs.into_iter().zip(outcomes) {
            match outcome {
                Ok(scored) => verdicts.push((seq, Verdict::Scored(record(scored)))),
                Err(ScoreError::NonFinite { .. }) => {
                    verdicts.push((seq, Verdict::Dropped(DropReason::NonFinite)));
                }
                Err(ScoreError::Refused { status }) => {
                    tracing::warn!(
                        seq = seq.0,
                        status,
                        "the reward server refuses this rollout's text; it will not train"
                    );
                    verdicts.push((seq, Verdict::Dropped(DropReason::JudgeRefused)));
                }
                Err(ScoreError::Closing) => return Err(ScorerError::Closed),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            tracing::warn!(%error, "rollouts stay unscored; will try again");
        }
        Ok(verdicts)
    }
}

/// A rollout as judges want it.
pub(crate) fn score_request(vocabulary: &Vocabulary, rollout: &Rollout, formula: Formula) -> ScoreRequest {
    let response: Vec<TokenId> = rollout.response.iter().map(|token| token.id).collect();
    ScoreRequest {
        prompt_text: vocabulary.detokenize(&rollout.prompt, true).into(),
        response_text: vocabulary.detokenize(&response, true),
        prompt: rollout.prompt.as_slice().into(),
        response,
        formula,
    }
}

fn record(scored: Scored) -> ScoreRecord {
    ScoreRecord { score: scored.score.0, std: scored.std, reward_version: scored.reward_version }
}

/// The pause to take now; the next one is twice as long.
fn longer(pause: &mut Duration) -> Duration {
    let now = *pause;
    *pause = (now * 2).min(PAUSE_MAX);
    now
}
