//! The watch over the live version; what it may end in is a [`rollback`](super::rollback).
//!
//! It has a thread of its own, at the priority of serving: whether the learner learns, loads, pauses or cannot learn at all,
//! what users get is looked at once a second.
//!
//! *A service* is one stretch of time in which a version is live. Each is watched for itself, from the first rollout that was
//! answered in it: a version that was rolled back and is activated again gets its chance, and one that passed once may be
//! worse in other traffic. What users get is compared until there is enough of it; failures are counted as long as it serves.
//!
//! Who serves again because of a rollback is not compared anew: where other traffic has brought its successor down, the same
//! would bring it down too, and all before it. Of such a service failures alone are counted.
//!
//! How long a token takes is watched beside all this ([`latency`]), by the thread alone: there may be something to be timed.

mod keeper;
mod latency;

use std::sync::{Mutex, PoisonError};

pub(super) use keeper::WatchKeeper;
#[cfg(test)]
pub(super) use latency::LatencyWatch;
use policy::{
    PolicyVersion,
    engine::{Endings, Engine},
};

use super::LearnerSetup;
use crate::{
    length_penalty::LengthPenalty,
    registry::{Registry, RegistryError},
    rollout_log::{Seq, VersionState},
    watch::{self, Aspect, Errors, ROLLOUTS_MIN, Recent, Service},
};

/// Ancestors that are looked at, beside version 0.
const ANCESTORS_MAX: u64 = 16;
/// Last exchanges of a version among which [`ROLLOUTS_MIN`] answers tell that it can serve.
const SERVED_WINDOW: usize = 16 * ROLLOUTS_MIN;

/// A version, and where the log ended when it went live.
type ServiceId = (PolicyVersion, Seq);

/// Looks at the live version, for whoever asks.
pub(super) struct Watch {
    /// `ppo.watch_rollouts`; 0: nothing is looked at.
    n_rollouts: usize,
    /// `ppo.watch_latency_factor`; 0: how long a token takes is not looked at.
    latency_factor: f64,
    registry: Registry,
    engine: Engine,
    memory: Mutex<Memory>,
}

/// What is remembered between looks.
#[derive(Default)]
struct Memory {
    /// The service under watch, and what the engine counts of it.
    recent: Option<(ServiceId, Recent)>,
    /// The service whose first rollouts were all there when they were compared, and good enough; or that began by a rollback.
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
            latency_factor: setup.config.watch_latency_factor,
            registry: setup.registry.clone().with_length_penalty(LengthPenalty::of(&setup.config)),
            engine: setup.engine.clone(),
            memory: Mutex::default(),
        }
    }

    /// Whether what users get from the live version is compared no longer.
    #[cfg(test)]
    pub(super) fn has_passed(&self) -> bool {
        let live = self.registry.live().unwrap().version;
        let id = (live, self.registry.live_since(live).unwrap());
        self.memory.lock().unwrap().passed == Some(id)
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
        if memory.is_new(id) && self.registry.is_live_by_rollback(live)? {
            memory.passed = Some(id);
        }
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
        if service.is_full || n >= memory.n_held_against_all(id) + ROLLOUTS_MIN {
            if let Some((good, why)) = self.slide(&service, ancestors()?)? {
                return Ok(Some(self.breach(live, good, why)?));
            }
            memory.held_against_all = Some((id, n));
        }
        // Only now: it passes by having been compared, however many came between two looks.
        if service.is_full {
            memory.passed = Some(id);
        }
        Ok(None)
    }

    fn breach(&self, live: PolicyVersion, good: PolicyVersion, why: String) -> Result<Breach, RegistryError> {
        let older = self.ancestors(live)?.into_iter().skip_while(|version| *version != good).skip(1);
        Ok(Breach { live, good, older: older.collect(), why })
    }

    /// The nearest ancestor of whose answers there are enough to know that it can serve, whoever asked for them; version 0 where
    /// there is none.
    fn last_that_served(&self, ancestors: &[PolicyVersion]) -> Result<PolicyVersion, RegistryError> {
        for version in ancestors {
            if self.registry.n_answers(*version, SERVED_WINDOW)? >= ROLLOUTS_MIN {
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
    /// Whether nobody has looked at this service yet.
    fn is_new(&self, id: ServiceId) -> bool {
        self.recent.is_none_or(|(seen, _)| seen != id)
    }

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
