//! The watch over the live version, and the rollback that it may end in.
//!
//! It has a thread of its own, at the priority of serving: whether the learner learns, loads, pauses or cannot learn at all,
//! what users get is looked at once a second. The thread decides nothing. What it sees breaks off the update at hand and rings
//! for the owner, who looks again and rolls back between two commands, as with an operator's activation.
//!
//! *A service* is one stretch of time in which a version is live. Each is watched for itself, from the first rollout that was
//! answered in it: a version that was rolled back and is activated again gets its chance, and one that passed once may be
//! worse in other traffic.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never};
use policy::{PolicyVersion, engine::Engine};

use super::{LearnerError, LearnerSetup, owner::Owner};
use crate::{
    publish::Loader,
    registry::{Registry, RegistryError},
    rollout_log::{Seq, VersionState, Who},
    watch::{self, Errors},
};

/// Pause between two looks while nothing is about to be claimed.
const PAUSE: Duration = Duration::from_secs(1);
/// Ancestors that are looked at for one with enough rollouts.
const ANCESTORS_MAX: u64 = 16;

/// Between two reasons to stand still.
const BEFORE: &str = ". Before that: ";

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
    live: PolicyVersion,
    /// The last good one.
    good: PolicyVersion,
    why: String,
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
            let before = self.registry.service(good, Seq(0), self.n_rollouts)?;
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
    /// Something to be read when the live version must go.
    pub(super) alarms: Receiver<()>,
    /// A thread that died must not look like an alarm.
    _alarm: Option<Sender<()>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl WatchKeeper {
    /// Starts it, unless nothing is to be looked at. `interrupt` breaks off the update at hand.
    pub(super) fn start(watch: Arc<Watch>, interrupt: Arc<AtomicBool>) -> std::io::Result<WatchKeeper> {
        if watch.n_rollouts == 0 {
            return Ok(WatchKeeper { alarms: never(), _alarm: None, stop: None, thread: None });
        }
        let (stop, stopped) = bounded(0);
        let (alarm, alarms) = bounded(1);
        let bell = alarm.clone();
        let thread = std::thread::Builder::new()
            .name("watch".to_string())
            .spawn(move || keep(&watch, &interrupt, &bell, &stopped))?;
        Ok(WatchKeeper { alarms, _alarm: Some(alarm), stop: Some(stop), thread: Some(thread) })
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

fn keep(watch: &Watch, interrupt: &AtomicBool, alarm: &Sender<()>, stopped: &Receiver<()>) {
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        match watch.look() {
            Ok(None) => {}
            Ok(Some(_)) => {
                // Before the alarm: whoever obeys it takes the flag down. A full channel is an alarm that is still to be obeyed.
                interrupt.store(true, Ordering::Release);
                let _ = alarm.try_send(());
            }
            Err(error) => tracing::warn!(%error, "the watch could not look at the live version and will try again"),
        }
    }
}

impl Owner {
    /// The watch has seen something: looks, and rolls back if it is still so.
    pub(super) fn obey_watch(&mut self, loader: &Loader) {
        let looked = self.watch.look().map_err(LearnerError::from);
        let obeyed = looked.and_then(|breach| breach.map_or(Ok(()), |breach| self.roll_back(&breach, loader)));
        if let Err(error) = obeyed {
            tracing::error!(%error, "the rollback failed and will be tried again");
        }
    }

    /// The last good version serves again; learning stands still until somebody has looked.
    pub(super) fn roll_back(&mut self, breach: &Breach, loader: &Loader) -> Result<(), LearnerError> {
        let Breach { live, good, why } = breach;
        tracing::error!(%live, %good, why, "what users get became worse: the last good version serves again, and learning pauses");
        let row = self.setup.registry.verify(*good)?;
        let publisher = self.publisher(loader);
        publisher.load(*good)?;
        let registry = self.setup.registry.on_behalf_of(&Who::watch());
        registry.roll_back(*good, *live, &format!("rolled back: {why}"))?;
        publisher.promote(*good)?;
        self.counters.rollbacks.fetch_add(1, Ordering::Relaxed);
        self.follow(&row);
        let why = format!(
            "{live} was rolled back to {good}: {why}; look at `honed policies show {}`, then resume (POST \
             /v1/training/resume)",
            live.0
        );
        self.halt_because(&Who::watch(), self.with_what_was_before(why));
        self.stand_still();
        Ok(())
    }

    /// What stood still for another reason still has that one; of several the first, so that the text stays short.
    fn with_what_was_before(&self, why: String) -> String {
        match self.halted.as_deref().and_then(|halted| halted.rsplit(BEFORE).next()) {
            Some(before) => why + BEFORE + before,
            None => why,
        }
    }
}
