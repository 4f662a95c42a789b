//! The watch over the live version; what it may end in is a [`rollback`](super::rollback).
//!
//! It has a thread of its own, at the priority of serving: whether the learner learns, loads, pauses or cannot learn at all,
//! what users get is looked at once a second.
//!
//! *A service* is one stretch of time in which a version is live. Each is watched for itself, from the first rollout that was
//! answered in it: a version that was rolled back and is activated again gets its chance, and one that passed once may be
//! worse in other traffic.

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
    registry::{Registry, RegistryError},
    rollout_log::{Seq, VersionState},
    watch::{self, Errors, ROLLOUTS_MIN, Service},
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
    /// The service under watch, and what the engine had counted when it was first seen.
    began: Option<(ServiceId, Errors)>,
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
        let errors = memory.errors_since(id, self.count(live));
        if live == PolicyVersion::SFT || memory.passed == Some(id) {
            return Ok(None);
        }
        let service = self.registry.service(live, id.1, self.n_rollouts)?;
        let mut ancestors = self.ancestors(live)?.into_iter();
        for good in ancestors.by_ref() {
            let before = self.last_of(good)?;
            if before.is_enough() || good == PolicyVersion::SFT {
                if let Some(why) = watch::breach(&service, &before, errors) {
                    return Ok(Some(Breach { live, good, why }));
                }
                break;
            }
        }
        // These are many, and whoever compares often finds something by chance: so not before there is enough more to go by.
        let n = service.scores.len();
        if n >= self.n_rollouts || n >= memory.n_held_against_all(id) + ROLLOUTS_MIN {
            if let Some((good, why)) = self.slide(&service, ancestors.collect())? {
                return Ok(Some(Breach { live, good, why }));
            }
            memory.held_against_all = Some((id, n));
        }
        // Only now: it passes by having been compared, however many came between two looks.
        if n >= self.n_rollouts {
            memory.passed = Some(id);
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

    /// Of this version alone: a canary's failures are no fault of the version beside it.
    fn count(&self, version: PolicyVersion) -> Errors {
        let Endings { failed, finished, .. } = self.engine.endings(version);
        Errors { failed, finished }
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

    /// What the engine counted since this service was first seen.
    fn errors_since(&mut self, id: ServiceId, now: Errors) -> Errors {
        let (began, then) = *self.began.get_or_insert((id, now));
        if began != id {
            self.began = Some((id, now));
            return Errors::default();
        }
        let since = now.failed.checked_sub(then.failed).zip(now.finished.checked_sub(then.finished));
        if let Some((failed, finished)) = since {
            return Errors { failed, finished };
        }
        // It came into memory again meanwhile, and both counts began anew there.
        self.began = Some((id, Errors::default()));
        now
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

fn keep(watch: &Watch, rollback: &Rollback, stopped: &Receiver<()>) {
    let (mut due, mut pause) = (Instant::now(), PAUSE);
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        match watch.look() {
            Ok(None) => {}
            Ok(Some(breach)) => {
                if let Err(error) = rollback.at_once(&breach) {
                    tracing::error!(%error, "the rollback failed and will be tried again");
                }
            }
            Err(error) => tracing::warn!(%error, "the watch could not look at the live version and will try again"),
        }
        // Each attempt may read a whole file, and wait for memory: what cannot be is tried ever more rarely.
        if due <= Instant::now() {
            pause = if rollback.switch.keep_up() { PAUSE } else { (2 * pause).min(PAUSE_MAX) };
            due = Instant::now() + pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a version that was loaded again is judged by what it did since, all of it. Method: one count falls below what it was
    /// first seen at; then both are past it again.
    #[test]
    fn counts_that_began_anew_are_taken_whole() {
        let mut memory = Memory::default();
        let mut since = |failed, finished| {
            let Errors { failed, finished } =
                memory.errors_since((PolicyVersion(1), Seq(7)), Errors { failed, finished });
            (failed, finished)
        };
        assert_eq!([since(2, 100), since(5, 130)], [(0, 0), (3, 30)]);
        assert_eq!([since(3, 50), since(4, 120)], [(3, 50), (4, 120)]);
    }
}
