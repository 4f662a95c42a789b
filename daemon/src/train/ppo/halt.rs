//! A guard has halted learning in an earlier run: whoever starts the next one says whether it goes on.
//!
//! There is no server here that could be told to. And starting again is not enough: a script that repeats a failing command
//! would train on over every halt.

use std::time::Duration;

use ppo::{
    learner::{Learner, LearnerState},
    rollout_log::{Act, Action, RolloutLog, Who},
};

use crate::train::error::{Result, TrainError};

/// How often the learner is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Lifts the halt of an earlier run if `may_resume`; without one, does nothing.
///
/// # Errors
/// When there is one and nobody has said that it may go on, or the learner takes no commands.
pub(super) fn lift(learner: &Learner, log: &RolloutLog, may_resume: bool) -> Result<()> {
    let Some(reason) = reason(learner) else {
        return Ok(());
    };
    if !may_resume {
        return Err(TrainError::Halted(reason));
    }
    tracing::warn!(reason, "--resume lifts the halt of an earlier run");
    learner.resume().map_err(|error| TrainError::Learner(error.to_string()))?;
    log.note(Act::new(&Who::cli(), Action::Resume, None).done_with(&reason));
    while matches!(learner.status().state, LearnerState::Halted(_)) {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Why it stands still. It is known to be paused from the start, and says why once its thread runs.
fn reason(learner: &Learner) -> Option<String> {
    loop {
        let status = learner.status();
        match status.state {
            LearnerState::Halted(reason) => return Some(reason),
            LearnerState::Loading if status.is_paused => std::thread::sleep(LOOK),
            _ => return None,
        }
    }
}
