//! The watch over the live version; what it may end in is a [`rollback`](super::rollback).
//!
//! It has a thread of its own, at the priority of serving: whether the learner learns, loads, pauses or cannot learn at all,
//! what users get is looked at once a second.
//!
//! *A service* is one stretch of time in which a version is live. Each is watched for itself, from the first rollout that was
//! answered in it: a version that was rolled back and is activated again gets its chance, and one that passed once may be
//! worse in other traffic. What users get is compared until there is enough of it; failures are counted as long as it serves.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use policy::{
    PolicyVersion,
    engine::{Endings, Engine},
};

use super::{LearnerSetup, rollback::Rollback};
use crate::{
    publish::Switched,
    registry::{Registry, RegistryError},
    rollout_log::{Seq, VersionState},
    watch::{self, Aspect, Errors, ROLLOUTS_MIN, Recent, Service},
};

/// Pause between two looks while nothing is about to be claimed.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause at most between two attempts to have the live version serve, where its pointer had failed.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Ancestors that are looked at, beside version 0.
const ANCESTORS_MAX: u64 = 16;

/// A version, and where the log ended when it went live.
type ServiceId = (PolicyVersion, Seq);

/// Looks at the live version, for whoever asks.
pub(super) struct Watch {
    /// `ppo.watch_rollouts`; 0: nothing is looked at.
    n_rollouts: usize,
    registry: Registry,
    engine: Engine,
    memory: Mutex<Memory>,
}

/// What is remembered between looks.
#[derive(Default)]
struct Memory {
    /// The service under watch, and what the engine counts of it.
    recent: Option<(ServiceId, Recent)>,
    /// The service whose first rollouts were all there when they were compared, and good enough.
    passed: Option<ServiceId>,
    /// The service that was last held against all ancestors, and how many judged rollouts of it there were then.
    held_against_all: Option<(ServiceId, usize)>,
}

/// A live version that must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) live: PolicyVersion,
    /// The last good one.
    pub(super) good: PolicyVersion,
    /// Those before it, the nearest first and version 0 last: for when that one cannot serve.
    pub(super) older: Vec<PolicyVersion>,
    pub(super) why: String,
}

impl Watch {
    pub(super) fn new(setup: &LearnerSetup) -> Watch {
        Watch {
            n_rollouts: setup.config.watch_rollouts,
            registry: setup.registry.clone(),
            engine: setup.engine.clone(),
            memory: Mutex::default(),
        }
    }

    /// Why the live version must go; `None` while there is no reason.
    pub(super) fn look(&self) -> Result<Option<Breach>, RegistryError> {
        if self.n_rollouts == 0 {
            return Ok(None);
        }
        // Whoever panicked while looking left whole values: every write is one assignment.
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.registry.live()?.version;
        let id = (live, self.registry.live_since(live)?);
        // Of this version alone: a canary's failures are no fault of the version beside it.
        let errors = memory.errors(id, self.engine.endings(live));
        if live == PolicyVersion::SFT {
            return Ok(None);
        }
        let ancestors = || self.ancestors(live);
        if let Some(why) = errors.breach() {
            return Ok(Some(self.breach(live, self.last_that_served(&ancestors()?)?, why)?));
        }
        if memory.passed == Some(id) {
            return Ok(None);
        }
        let service = self.registry.service(live, id.1, self.n_rollouts)?;
        if let Some((good, why)) = self.fall(&service, &ancestors()?)? {
            return Ok(Some(self.breach(live, good, why)?));
        }
        // These are many, and whoever compares often finds something by chance: so not before there is enough more to go by.
        let n = service.scores.len();
        if n >= self.n_rollouts || n >= memory.n_held_against_all(id) + ROLLOUTS_MIN {
            if let Some((good, why)) = self.slide(&service, ancestors()?)? {
                return Ok(Some(self.breach(live, good, why)?));
            }
            memory.held_against_all = Some((id, n));
        }
        // Only now: it passes by having been compared, however many came between two looks.
        if n >= self.n_rollouts {
            memory.passed = Some(id);
        }
        Ok(None)
    }

    fn breach(&self, live: PolicyVersion, good: PolicyVersion, why: String) -> Result<Breach, RegistryError> {
        let older = self.ancestors(live)?.into_iter().skip_while(|version| *version != good).skip(1);
        Ok(Breach { live, good, older: older.collect(), why })
    }

    /// The nearest ancestor of whose answers there are enough to know that it can serve; version 0 where there is none.
    fn last_that_served(&self, ancestors: &[PolicyVersion]) -> Result<PolicyVersion, RegistryError> {
        for version in ancestors {
            if Aspect::Length.is_enough_in(&self.last_of(*version)?) {
                return Ok(*version);
            }
        }
        Ok(PolicyVersion::SFT)
    }

    /// The ancestor that what users get has fallen from, and what is to be said of that. For each aspect it is the nearest one
    /// that has enough of it.
    fn fall(
        &self,
        live: &Service,
        ancestors: &[PolicyVersion],
    ) -> Result<Option<(PolicyVersion, String)>, RegistryError> {
        let mut open = Aspect::ALL.to_vec();
        open.retain(|aspect| aspect.is_enough_in(live));
        for good in ancestors {
            if open.is_empty() {
                break;
            }
            let before = self.last_of(*good)?;
            if let Some(why) = open.iter().find_map(|aspect| aspect.breach(live, &before)) {
                return Ok(Some((*good, why)));
            }
            open.retain(|aspect| !aspect.is_enough_in(&before));
        }
        Ok(None)
    }

    /// Versions that could serve in its place: the nearest first, version 0 last, however far back that is.
    fn ancestors(&self, live: PolicyVersion) -> Result<Vec<PolicyVersion>, RegistryError> {
        let mut ancestors = self.registry.lineage(live, ANCESTORS_MAX)?;
        if !ancestors.contains(&PolicyVersion::SFT) {
            ancestors.push(PolicyVersion::SFT);
        }
        Ok(ancestors.into_iter().skip(1).filter(|version| self.may_serve(*version)).collect())
    }

    /// What users got from it: its last answers, for of what was asked, and who judged, they are the most alike.
    fn last_of(&self, version: PolicyVersion) -> Result<Service, RegistryError> {
        self.registry.last_service(version, self.n_rollouts)
    }

    /// The ancestor that the live version has fallen from little by little, and what is to be said of that.
    fn slide(
        &self,
        live: &Service,
        ancestors: Vec<PolicyVersion>,
    ) -> Result<Option<(PolicyVersion, String)>, RegistryError> {
        let services = ancestors.iter().map(|version| self.last_of(*version)).collect::<Result<Vec<_>, _>>()?;
        Ok(watch::slide(live, &services).map(|(i, why)| (ancestors[i], why)))
    }

    fn may_serve(&self, version: PolicyVersion) -> bool {
        let row = self.registry.row(version).ok().flatten();
        row.is_some_and(|row| matches!(row.state, VersionState::Retained | VersionState::Draining))
    }
}

impl Memory {
    /// Judged rollouts of this service that there were when it was last held against all ancestors.
    fn n_held_against_all(&self, id: ServiceId) -> usize {
        self.held_against_all.filter(|(held, _)| *held == id).map_or(0, |(_, n)| n)
    }

    /// How the latest answers of this service have ended.
    fn errors(&mut self, id: ServiceId, now: Endings) -> Errors {
        let (seen, mut recent) = self.recent.unwrap_or((id, Recent::from(now)));
        if seen != id {
            recent = Recent::from(now);
        }
        let errors = recent.errors(now);
        self.recent = Some((id, recent));
        errors
    }
}

/// Handle of the watch's thread; dropping it ends the thread.
pub(super) struct WatchKeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl WatchKeeper {
    /// Starts it. Where no service is to be watched, it still sees to it that who is live serves.
    pub(super) fn start(watch: Arc<Watch>, rollback: Arc<Rollback>) -> std::io::Result<WatchKeeper> {
        let (stop, stopped) = bounded(0);
        let thread =
            std::thread::Builder::new().name("watch".to_string()).spawn(move || keep(&watch, &rollback, &stopped))?;
        Ok(WatchKeeper { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for WatchKeeper {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the watch over the live version panicked");
        }
    }
}

/// When something that came to nothing is tried again: ever more rarely.
struct Pace {
    due: Instant,
    pause: Duration,
}

impl Pace {
    fn from(now: Instant) -> Pace {
        Pace { due: now, pause: PAUSE }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    fn tried(&mut self, now: Instant, is_done: bool) {
        self.pause = if is_done { PAUSE } else { (2 * self.pause).min(PAUSE_MAX) };
        self.due = now + self.pause;
    }
}

fn keep(watch: &Watch, rollback: &Rollback, stopped: &Receiver<()>) {
    let (mut following, mut rolling_back) = (Pace::from(Instant::now()), Pace::from(Instant::now()));
    let mut last = None;
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        let breach = watch.look().unwrap_or_else(|error| {
            tracing::warn!(%error, "the watch could not look at the live version and will try again");
            None
        });
        let wanted = breach.as_ref().map(|breach| (breach.live, breach.good));
        if last != wanted {
            (last, rolling_back) = (wanted, Pace::from(Instant::now()));
        }
        // Each attempt breaks off what the owner does, and may have it read whole files.
        if let Some(breach) = breach.filter(|_| rolling_back.is_due(Instant::now())) {
            let switched = rollback.at_once(&breach);
            rolling_back.tried(Instant::now(), matches!(switched, Ok(Switched::Done)));
            if let Err(error) = switched {
                tracing::error!(%error, "the rollback failed and will be tried again");
            }
        }
        // Each attempt may read a whole file, and wait for memory.
        if following.is_due(Instant::now()) {
            let is_done = rollback.switch.keep_up();
            following.tried(Instant::now(), is_done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what cannot be done is tried ever more rarely, and the next that can be is not kept waiting. Method: the clock by hand.
    #[test]
    fn what_fails_is_tried_ever_more_rarely() {
        let mut now = Instant::now();
        let mut pace = Pace::from(now);
        assert!(pace.is_due(now));
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            pace.tried(now, false);
            now += Duration::from_secs(seconds);
            assert!(pace.is_due(now) && !pace.is_due(now - Duration::from_millis(1)), "{seconds}");
        }
        pace.tried(now, true);
        assert!(pace.is_due(now + PAUSE));
    }
}
