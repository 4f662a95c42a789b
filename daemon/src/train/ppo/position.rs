//! How far an offline run has come through its prompts, as the log of its folder says.
//!
//! Stopping must change nothing, and what a process counts is gone when it is killed. So each answer is named after its
//! prompt's place in the endless shuffle, and the answers are logged in the order of their names: what is in the log is the
//! beginning of all that will ever be drawn, and the place of the next answer is where that beginning ends: after the newest one,
//! whatever of the older ones has left the log since (`ppo.log.keep_days`).

use policy::{Rollout, RolloutId};
use ppo::rollout_log::{LogError, LogReader, RolloutState};

/// What the names of a run's answers begin with.
const NAME: &str = "train-ppo-";

/// Where the next answer belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Prompts before its own, all epochs together.
    pub(super) prompt: u64,
    /// Answers to its prompt that are in the log already: a process was killed while it wrote them.
    pub(super) n_answers: u32,
}

impl Position {
    /// After everything that is in the log, for `n_samples` answers to each prompt.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn after_log(reader: &LogReader, n_samples: u32) -> Result<Position, LogError> {
        let newest = reader.newest_named(NAME)?;
        let Some(last) = newest.and_then(|newest| prompt_of(&newest.request)) else {
            return Ok(Position::default());
        };
        let whole = Position { prompt: last + 1, n_answers: 0 };
        let logged = (0..n_samples).map_while(|index| reader.rollout(&id(last, index)).transpose());
        let states = logged.map(|row| Ok(row?.state)).collect::<Result<Vec<_>, LogError>>()?;
        // What has been learnt from was complete, also if an earlier run drew fewer answers to each prompt.
        let waits = states.iter().any(|state| matches!(state, RolloutState::Generated | RolloutState::Scored));
        let n_answers = states.len() as u32;
        match waits && n_answers < n_samples {
            true => Ok(Position { prompt: last, n_answers }),
            false => Ok(whole),
        }
    }

    /// After so many prompts from this one on, each with all its answers.
    pub(super) fn after(self, n_prompts: u64) -> Position {
        Position { prompt: self.prompt + n_prompts, n_answers: 0 }
    }
}

/// The answer under the name that it has in the log.
pub(super) fn named(rollout: Rollout, prompt: u64) -> Rollout {
    Rollout { id: id(prompt, rollout.id.index), ..rollout }
}

fn id(prompt: u64, index: u32) -> RolloutId {
    RolloutId { request: format!("{NAME}{prompt}"), index }
}

/// The prompt of an answer with this name; `None` for a name that no run gives.
fn prompt_of(request: &str) -> Option<u64> {
    request.strip_prefix(NAME)?.parse().ok()
}

#[cfg(test)]
pub(super) use tests::answer;

#[cfg(test)]
mod tests {
    use policy::{FinishReason, LogProb, PolicyVersion, SampledToken, SamplingParams, TokenId};
    use ppo::{
        RolloutLog,
        rollout_log::{DropReason, LogSettings, Retention, Verdict},
    };
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use super::*;

    /// An answer of one token, as a run names it.
    pub(in crate::train::ppo) fn answer(prompt: u64, index: u32) -> Rollout {
        let probability = LogProb(-1.0);
        let rollout = Rollout {
            id: RolloutId { request: "the engine's".to_owned(), index },
            version: PolicyVersion::SFT,
            prompt: vec![TokenId(1), TokenId(2)],
            response: vec![SampledToken {
                id: TokenId(3),
                log_prob: probability,
                behavior: probability,
                log_kept_mass: 0.0,
            }],
            sampling: SamplingParams::default(),
            finish: FinishReason::EndToken,
            user: None,
            created_ms: 1,
        };
        named(rollout, prompt)
    }

    /// Goal: whatever a kill has left in the log, the next answer is the one after it. Method: answers in the order in which a
    /// run logs them, three to a prompt, one by one; after each the log is asked.
    #[test]
    fn a_run_goes_on_after_the_last_answer_that_is_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let settings = LogSettings { commit_ms: 1, queue: 16, rescore_on_feedback: false };
        let log = RolloutLog::open(folder.path(), &settings).unwrap();
        let position = |n_samples| Position::after_log(&log.reader(), n_samples).unwrap();
        assert_eq!(position(3), Position::default());
        for prompt in 0..5 {
            for index in 0..3 {
                log.append(answer(prompt, index)).unwrap();
                log.flush().unwrap();
                let n_answers = (index + 1) % 3;
                let prompt = if n_answers == 0 { prompt + 1 } else { prompt };
                assert_eq!(position(3), Position { prompt, n_answers });
            }
        }
        assert_eq!(position(2), Position { prompt: 5, n_answers: 0 });
        assert_eq!(position(4), Position { prompt: 4, n_answers: 3 }, "it waits for more answers");
        let seq = |index| log.reader().rollout(&id(4, index)).unwrap().unwrap().seq;
        let gone = |index| (seq(index), Verdict::Dropped(DropReason::NonFinite));
        log.score((0..3).map(gone).collect()).unwrap();
        assert_eq!(position(4), Position { prompt: 5, n_answers: 0 }, "whatever became of it was of a whole prompt");
    }

    /// Goal: a run whose oldest answers have left the log goes on where it stopped, and not at its first prompt again. Method: twelve
    /// prompts, more than a digit's worth, the first of them older than what is kept; then a request of somebody else.
    #[test]
    fn a_run_goes_on_although_its_first_answers_have_left_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let settings = LogSettings { commit_ms: 1, queue: 64, rescore_on_feedback: false };
        let log = RolloutLog::open(folder.path(), &settings).unwrap();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        for prompt in 0..12 {
            for index in 0..2 {
                let created_ms = if prompt < 10 { 1 } else { now_ms };
                log.append(Rollout { created_ms, ..answer(prompt, index) }).unwrap();
            }
        }
        let other = RolloutId { request: "cmpl-99".to_owned(), index: 0 };
        log.append(Rollout { id: other, created_ms: now_ms, ..answer(0, 0) }).unwrap();
        log.keep(Retention { age: Duration::from_secs(86_400), n_updates: 0 }).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while log.reader().stats().unwrap().n_rollouts > 5 {
            assert!(Instant::now() < until, "the first answers stay");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(
            log.reader().rollout(&id(0, 0)).unwrap().is_none() && log.reader().rollout(&id(9, 1)).unwrap().is_none()
        );
        assert_eq!(Position::after_log(&log.reader(), 2).unwrap(), Position { prompt: 12, n_answers: 0 });
        assert_eq!(Position::after_log(&log.reader(), 3).unwrap(), Position { prompt: 11, n_answers: 2 });
    }
}
