//! The canary: a candidate that has passed the gate answers a share of the traffic, and is judged by what users get.
//!
//! A group-sequential test (Pocock 1977): the rewards of candidate and live version, both since the canary began, are compared
//! after every fifth of `ppo.canary_rollouts`, as soon as there are [`LOOK_MIN`] on each side, each time against the same bound,
//! which keeps the chance of a wrong refusal over all five looks at 5 %. So a candidate that is clearly worse goes after the
//! first few dozen answers. When `ppo.canary_s` is over, one look at what there is takes the place of all that were still to come.
//!
//! Requests that fail are never judged, and a candidate that fails must not pass for want of a test: they are counted, and too
//! many of them are a reason of their own; so is having answered nobody until the end.

use std::time::{Duration, Instant};

use policy::PolicyVersion;

use super::{PublishError, Publisher};
use crate::{
    length_penalty::LengthPenalty,
    watch::{Errors, welch},
};

/// Looks at most.
const LOOKS: usize = 5;
/// Pocock's bound for five looks and 5 %, two-sided.
const BOUND: f64 = 2.413;
/// Judged answers on each side at the first look: t of two against two says nothing.
const LOOK_MIN: usize = 20;
/// The same when the time is over, where no other look will follow.
const LAST_LOOK_MIN: usize = 8;
/// Pause between two questions to the log.
const PAUSE: Duration = Duration::from_millis(100);

/// What the canary found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Finding {
    /// Judged rollouts of the candidate.
    pub(crate) n: usize,
    /// t of candidate − live at the last look; `None` where too little was judged for any.
    pub(crate) t: Option<f64>,
    /// Answers that the candidate failed over.
    pub(crate) n_failed: u64,
    /// Why it is refused.
    pub(crate) refusal: Option<String>,
}

impl Finding {
    /// Compares what was judged.
    fn look(&mut self, new: &[f64], old: &[f64]) {
        self.t = welch(new, old);
        self.refusal = self
            .t
            .filter(|t| *t <= -BOUND)
            .map(|t| format!("canary: reward of {} answers is lower than the live version's, t {t:.2}", new.len()));
    }
}

/// Judged answers on each side at the looks that are planned.
fn looks(n_wanted: usize) -> impl Iterator<Item = usize> {
    (1..=LOOKS).map(move |look| (n_wanted * look).div_ceil(LOOKS)).filter(|n| *n >= LOOK_MIN)
}

/// Ends the canary whatever comes.
struct Running<'a>(&'a policy::engine::Engine);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.end_canary();
    }
}

impl Publisher<'_> {
    /// Gives the candidate its share of the traffic and waits for the verdict, or until `ppo.canary_s` is over: then what was
    /// seen so far has to do.
    ///
    /// # Errors
    /// When the engine does not have it, the log cannot be read, or a command comes first.
    pub(crate) fn canary(
        &self,
        candidate: PolicyVersion,
        live: PolicyVersion,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Finding, PublishError> {
        let n_wanted = self.config.canary_rollouts.max(LOOK_MIN);
        let deadline = Instant::now() + Duration::from_secs(self.config.canary_s);
        let registry = self.registry.clone().with_length_penalty(LengthPenalty::of(self.config));
        let start = registry.newest_rollout()?;
        let before = self.engine.endings(candidate);
        self.engine.begin_canary(candidate, self.config.canary_share)?;
        let _running = Running(self.engine);
        tracing::info!(version = %candidate, share = self.config.canary_share, "a canary begins");
        let mut finding = Finding::default();
        let mut looks = looks(n_wanted).peekable();
        while let Some(n_planned) = looks.peek().copied() {
            if !go_on() {
                return Err(PublishError::Interrupted);
            }
            // Before the log is read: what came in the meantime is in it.
            let is_over = Instant::now() >= deadline;
            let [new, old] = [candidate, live].map(|version| registry.scores(version, start, n_wanted));
            let (new, old) = (new?, old?);
            finding.n = new.len();
            let errors = Errors::from(self.engine.endings(candidate).since(before));
            finding.n_failed = errors.failed;
            finding.refusal = errors.breach().map(|why| format!("canary: {why}"));
            let n = if is_over { LAST_LOOK_MIN } else { n_planned };
            let is_enough = new.len() >= n && old.len() >= n;
            if is_enough && finding.refusal.is_none() {
                finding.look(&new, &old);
                looks.next();
            }
            if is_over && finding.refusal.is_none() {
                tracing::warn!(version = %candidate, rollouts = finding.n, "the canary's time is over");
                finding.refusal = self.silence(&finding, errors);
            }
            if is_over || finding.refusal.is_some() {
                break;
            }
            if !is_enough {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(finding)
    }

    /// Why its silence refuses it: answers whose client had left by then are none.
    fn silence(&self, finding: &Finding, errors: Errors) -> Option<String> {
        if finding.n > 0 || errors.finished > 0 {
            return None;
        }
        let (seconds, n_failed) = (self.config.canary_s, finding.n_failed);
        Some(format!("canary: it answered nobody in {seconds} s, and failed over {n_failed} (ppo.canary_s)"))
    }
}

#[cfg(test)]
mod tests {
    use super::looks;

    #[test]
    fn no_look_is_taken_at_a_handful() {
        let at = |n| looks(n).collect::<Vec<_>>();
        assert_eq!(at(100), [20, 40, 60, 80, 100]);
        assert_eq!(at(40), [24, 32, 40]);
        assert_eq!(at(20), [20], "the least that can be configured is looked at once");
    }
}
