//! The watch over the live version, and the rollback that it may end in.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use policy::PolicyVersion;

use super::{LearnerError, owner::Owner};
use crate::{
    publish::Loader,
    registry::RegistryError,
    rollout_log::{Seq, VersionState, Who},
    watch::{self, Errors},
};

/// Pause between two looks while nothing is about to be claimed.
const PAUSE: Duration = Duration::from_secs(1);
/// Ancestors that are looked at for one with enough rollouts.
const ANCESTORS_MAX: u64 = 16;

/// What is remembered between looks.
#[derive(Default)]
pub(super) struct Watch {
    looked: Option<Instant>,
    /// The version under watch, and what the engine had counted when it was first seen live.
    began: Option<(PolicyVersion, Errors)>,
}

/// A live version that must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    live: PolicyVersion,
    /// The last good one.
    good: PolicyVersion,
    why: String,
}

impl Owner {
    /// Looks at the live version, at most once a second unless `is_urgent`.
    pub(super) fn breach(&mut self, is_urgent: bool) -> Result<Option<Breach>, RegistryError> {
        let n = self.setup.config.watch_rollouts;
        if n == 0 || !(is_urgent || self.watch.looked.is_none_or(|looked| looked.elapsed() >= PAUSE)) {
            return Ok(None);
        }
        self.watch.looked = Some(Instant::now());
        let live = self.setup.registry.live()?.version;
        let errors = self.errors_since(live);
        if live == PolicyVersion::SFT {
            return Ok(None);
        }
        let service = self.setup.registry.service(live, Seq(0), n + 1)?;
        // Once there are more than its first rollouts, it has passed.
        if service.scores.len() > n {
            return Ok(None);
        }
        let ancestors = self.setup.registry.lineage(live, ANCESTORS_MAX)?;
        for good in ancestors.into_iter().skip(1).filter(|version| self.may_serve(*version)) {
            let before = self.setup.registry.service(good, Seq(0), n)?;
            if before.is_enough() || good == PolicyVersion::SFT {
                let why = watch::breach(&service, &before, errors);
                return Ok(why.map(|why| Breach { live, good, why }));
            }
        }
        Ok(None)
    }

    /// What the engine counted since this version was first seen live.
    fn errors_since(&mut self, live: PolicyVersion) -> Errors {
        let stats = self.setup.engine.stats();
        let now = Errors { failed: stats.failed, finished: stats.finished.iter().sum() };
        let (version, then) = *self.watch.began.get_or_insert((live, now));
        if version != live {
            self.watch.began = Some((live, now));
            return Errors::default();
        }
        Errors { failed: now.failed - then.failed, finished: now.finished - then.finished }
    }

    fn may_serve(&self, version: PolicyVersion) -> bool {
        let row = self.setup.registry.row(version).ok().flatten();
        row.is_some_and(|row| matches!(row.state, VersionState::Retained | VersionState::Draining))
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
        self.halt_because(&Who::watch(), why);
        Ok(())
    }
}
