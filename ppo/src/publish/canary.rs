//! The canary: a candidate that has passed the gate answers a share of the traffic, and is judged by what users get.
//!
//! A group-sequential test (Pocock 1977): the rewards of candidate and live version, both since the canary began, are compared
//! after every fifth of `ppo.canary_rollouts`, each time against the same bound, which keeps the chance of a wrong refusal
//! over all five looks at 5 %. So a candidate that is clearly worse goes after the first few dozen answers.

use std::time::{Duration, Instant};

use policy::PolicyVersion;

use super::{PublishError, Publisher};
use crate::{
    registry::RegistryError,
    rollout_log::Seq,
    watch::{Service, welch},
};

/// Looks at most.
const LOOKS: usize = 5;
/// Pocock's bound for five looks and 5 %, two-sided.
const BOUND: f64 = 2.413;
/// Pause between two questions to the log.
const PAUSE: Duration = Duration::from_millis(100);

/// What the canary found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    /// Judged rollouts of the candidate.
    pub(super) n: usize,
    /// t of candidate − live at the last look; `None` before the first.
    pub(super) t: Option<f64>,
    /// Why it is refused.
    pub(super) refusal: Option<String>,
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
    pub(super) fn canary(
        &self,
        candidate: PolicyVersion,
        live: PolicyVersion,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Finding, PublishError> {
        let n_wanted = self.config.canary_rollouts;
        let deadline = Instant::now() + Duration::from_secs(self.config.canary_s);
        let start = self.registry.newest_rollout()?;
        self.engine.begin_canary(candidate, self.config.canary_share)?;
        let _running = Running(self.engine);
        tracing::info!(version = %candidate, share = self.config.canary_share, "a canary begins");
        let mut finding = Finding { n: 0, t: None, refusal: None };
        for look in 1..=LOOKS {
            let n = (n_wanted * look).div_ceil(LOOKS);
            loop {
                if !go_on() {
                    return Err(PublishError::Interrupted);
                }
                let [new, old] = [candidate, live].map(|version| self.service_since(version, start, n_wanted));
                let (new, old) = (new?, old?);
                finding.n = new.scores.len();
                if new.scores.len() >= n && old.scores.len() >= n {
                    finding.t = welch(&new.scores, &old.scores);
                    break;
                }
                if Instant::now() >= deadline {
                    tracing::warn!(version = %candidate, rollouts = finding.n, "the canary's time is over");
                    return Ok(finding);
                }
                std::thread::sleep(PAUSE);
            }
            if let Some(t) = finding.t.filter(|t| *t <= -BOUND) {
                let n = finding.n;
                finding.refusal =
                    Some(format!("canary: reward of {n} answers is lower than the live version's, t {t:.2}"));
                return Ok(finding);
            }
        }
        Ok(finding)
    }

    fn service_since(&self, version: PolicyVersion, start: Seq, n: usize) -> Result<Service, RegistryError> {
        self.registry.service(version, start, n)
    }
}
