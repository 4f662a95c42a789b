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
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use policy::{PolicyVersion, engine::Engine};

use super::{LearnerSetup, rollback::Rollback};
use crate::{
    registry::{Registry, RegistryError},
    rollout_log::{Seq, VersionState},
    watch::{self, Errors},
};

/// Pause between two looks while nothing is about to be claimed.
const PAUSE: Duration = Duration::from_secs(1);
/// Ancestors that are looked at for one with enough rollouts.
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
        let errors = memory.errors_since(id, self.count());
        if live == PolicyVersion::SFT || memory.passed == Some(id) {
            return Ok(None);
        }
        let service = self.registry.service(live, id.1, self.n_rollouts)?;
        let ancestors = self.registry.lineage(live, ANCESTORS_MAX)?;
        for good in ancestors.into_iter().skip(1).filter(|version| self.may_serve(*version)) {
            // Its last ones: of what was asked, and who judged, they are the most alike.
            let before = self.registry.last_service(good, self.n_rollouts)?;
            if before.is_enough() || good == PolicyVersion::SFT {
                if let Some(why) = watch::breach(&service, &before, errors) {
                    return Ok(Some(Breach { live, good, why }));
                }
                break;
            }
        }
        // Only now: it passes by having been compared, however many came between two looks.
        if service.scores.len() >= self.n_rollouts {
            memory.passed = Some(id);
        }
        Ok(None)
    }

    fn count(&self) -> Errors {
        let stats = self.engine.stats();
        Errors { failed: stats.failed, finished: stats.finished.iter().sum() }
    }

    fn may_serve(&self, version: PolicyVersion) -> bool {
        let row = self.registry.row(version).ok().flatten();
        row.is_some_and(|row| matches!(row.state, VersionState::Retained | VersionState::Draining))
    }
}

impl Memory {
    /// What the engine counted since this service was first seen.
    fn errors_since(&mut self, id: ServiceId, now: Errors) -> Errors {
        let (began, then) = *self.began.get_or_insert((id, now));
        if began != id {
            self.began = Some((id, now));
            return Errors::default();
        }
        Errors { failed: now.failed - then.failed, finished: now.finished - then.finished }
    }
}

/// Handle of the watch's thread; dropping it ends the thread.
pub(super) struct WatchKeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl WatchKeeper {
    /// Starts it, unless nothing is to be looked at.
    pub(super) fn start(watch: Arc<Watch>, rollback: Arc<Rollback>) -> std::io::Result<WatchKeeper> {
        if watch.n_rollouts == 0 {
            return Ok(WatchKeeper { stop: None, thread: None });
        }
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
    }
}
