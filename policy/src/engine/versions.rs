//! Versions come, go live, and go.

use std::{
    path::Path,
    sync::{Arc, OnceLock, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use dashmap::DashMap;

use crate::{
    engine::{
        Engine, EngineError, UNPOISONED, gguf, loading,
        resident::{Resident, ResidentId},
        worker::Setup,
    },
    failpoint, threads,
    version::PolicyVersion,
};

/// What [`Engine::recall`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// It is not in memory, or on its way out.
    Absent,
    /// It is in memory, and had not stepped down.
    Ready,
    /// It had stepped down, and stays now.
    Recalled,
}

/// A version in memory, as far as its files and its row are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InMemory {
    /// Its number.
    pub version: PolicyVersion,
    /// It finishes what it runs, and then goes.
    pub is_leaving: bool,
}

impl InMemory {
    fn of(resident: &Resident) -> InMemory {
        InMemory { version: resident.version, is_leaving: resident.is_draining() }
    }
}

/// What is called with those that are still in memory when a version has left it.
pub(super) type Freed = Arc<OnceLock<Tell>>;
type Tell = Box<dyn Fn(&[InMemory]) + Send + Sync>;

impl Engine {
    /// Has `tell` called whenever a version has left memory, on the thread that held it, with those that are still there. Only
    /// the first such wish is heard.
    pub fn on_freed(&self, tell: impl Fn(&[InMemory]) + Send + Sync + 'static) {
        drop(self.0.freed.set(Box::new(tell)));
    }

    /// Every version in memory.
    #[must_use]
    pub fn in_memory(&self) -> Vec<InMemory> {
        self.0.residents.iter().map(|resident| InMemory::of(&resident)).collect()
    }

    /// Whether a version is in memory and admits requests.
    #[must_use]
    pub fn is_ready(&self, version: PolicyVersion) -> bool {
        self.resident(version).is_some_and(|resident| !resident.is_draining())
    }

    /// Whether [`Engine::shutdown`] has begun: what fails from here on says nothing about any version.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.0.shutting_down.load(Ordering::Acquire)
    }

    /// Brings a version into memory beside the live one; blocks the caller until its canary has passed. The file must speak
    /// version 0's vocabulary. A version that has stepped down makes room for it, once its header has been found in order, and
    /// it waits a while for those that are leaving. One version is loaded at a time: each has the places and the memory that
    /// the one before has left.
    ///
    /// # Errors
    /// [`EngineError`] with the reason, and one that [lacks room](EngineError::lacks_room) where it might be loaded later; who
    /// serves is then what it was.
    pub fn load(&self, version: PolicyVersion, path: &Path) -> Result<(), EngineError> {
        self.load_into(self.0.config.residents_max, version, path)
    }

    /// As [`Engine::load`], for a version that goes live as soon as it is there: it has one place more, so that nobody's
    /// judging is in the way of an activation or a rollback. Memory is asked for all the same.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_to_serve(&self, version: PolicyVersion, path: &Path) -> Result<(), EngineError> {
        self.load_into(self.0.config.residents_max + 1, version, path)
    }

    fn load_into(&self, places: usize, version: PolicyVersion, path: &Path) -> Result<(), EngineError> {
        let shared = &self.0;
        let refused = |reason: &str| EngineError::Load { path: path.to_owned(), reason: reason.into() };
        // Asked again when its turn has come: what is there already needs no file that is whole.
        if self.is_ready(version) {
            return Err(EngineError::AlreadyLoaded(version));
        }
        failpoint::reached("engine.load").map_err(|error| refused(&error.to_string()))?;
        let found = gguf::inspect(path)?;
        if found.tokenizer != shared.vocabulary.digest() {
            return Err(refused("its tokenizer is not version 0's"));
        }
        let setup = self.setup(version, path);
        let _turn = self.admit(&setup, &found, places)?;
        let _guest = shared.counters.rest.guest();
        let weights = loading::weights(&setup, Some(&shared.base))?;
        let forget = forgetting(version, Arc::downgrade(&shared.residents), Arc::downgrade(&shared.freed));
        let resident = Resident::start(
            &shared.nursery,
            (setup, weights),
            Arc::clone(&shared.counters),
            super::waiting_max(&shared.config),
            forget,
        )?;
        failpoint::passed("engine.loaded");
        let mut replaced = shared.replaced.lock().expect(UNPOISONED);
        // Under it a shutdown looks who is there: it sees this one, or is seen here.
        if self.is_shutting_down() {
            return Err(EngineError::shutting_down(path));
        }
        replaced.retain(|old| !old.wait_freed(Duration::ZERO));
        match shared.residents.entry(version) {
            dashmap::Entry::Occupied(entry) if !entry.get().is_draining() => Err(EngineError::AlreadyLoaded(version)),
            dashmap::Entry::Occupied(mut entry) => {
                replaced.push(entry.insert(Arc::new(resident)));
                Ok(())
            }
            dashmap::Entry::Vacant(entry) => {
                entry.insert(Arc::new(resident));
                Ok(())
            }
        }
    }

    /// Runs what a new version needs before it is loaded (a digest of its file, a copy, a look at every number): in the idle
    /// class, and between the passes of the residents, who rest a little after each meanwhile. Blocks the caller.
    ///
    /// # Panics
    /// When the system has no thread to give, or when `work` panics.
    pub fn beside_serving<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let _guest = self.0.counters.rest.guest();
        threads::apart(threads::give_way, work)
    }

    /// Sends new requests for the live policy to this version; returns the one that was live. Running responses stay where
    /// they are, and the previous version stays resident until [`Engine::retire`], or [`Engine::step_down`] and what follows it.
    ///
    /// # Errors
    /// [`EngineError::NotResident`] when it is not in memory or drains.
    pub fn promote(&self, version: PolicyVersion) -> Result<PolicyVersion, EngineError> {
        failpoint::reached("engine.promote").map_err(|error| EngineError::Thread(version, error))?;
        let mut swap = self.0.swap.lock().expect(UNPOISONED);
        let resident = self.resident(version).filter(|resident| !resident.is_draining());
        let resident = resident.ok_or(EngineError::NotResident(version))?;
        swap.take_if(|stepped_down| *stepped_down == version);
        self.end_canary();
        let before = self.0.live.swap(resident).version;
        drop(swap);
        failpoint::passed("engine.promoted");
        Ok(before)
    }

    /// Keeps a version that was live in memory, to be promoted again at once, until the next load or the next one that steps
    /// down wants its place. Requests that name it are answered meanwhile. Version 0 stays anyway.
    ///
    /// # Errors
    /// [`EngineError::StillNeeded`] for the live version, [`EngineError::NotResident`] for one that is not in memory.
    pub fn step_down(&self, version: PolicyVersion) -> Result<(), EngineError> {
        let mut stepped_down = self.0.swap.lock().expect(UNPOISONED);
        if version == PolicyVersion::SFT {
            return Ok(());
        }
        if version == self.live() {
            return Err(EngineError::StillNeeded(version, "live"));
        }
        self.resident(version).ok_or(EngineError::NotResident(version))?;
        if let Some(before) = stepped_down.replace(version).filter(|before| *before != version)
            && let Some(resident) = self.resident(before)
        {
            resident.drain();
        }
        Ok(())
    }

    /// Where a version stands that is about to be promoted. One that had stepped down stays from now on, until it is promoted or
    /// steps down again.
    #[must_use]
    pub fn recall(&self, version: PolicyVersion) -> Recall {
        let mut stepped_down = self.0.swap.lock().expect(UNPOISONED);
        if !self.is_ready(version) {
            return Recall::Absent;
        }
        match stepped_down.take_if(|other| *other == version) {
            Some(_) => Recall::Recalled,
            None => Recall::Ready,
        }
    }

    /// What a version is loaded with.
    pub(super) fn setup(&self, version: PolicyVersion, path: &Path) -> Setup {
        let shared = &self.0;
        Setup::new(&shared.config, &shared.vocabulary, &shared.gate, shared.context_tokens, version, path)
    }

    /// Lets a version finish what it runs and free its memory on its own thread. Returns at once; to retire a version that
    /// drains already changes nothing.
    ///
    /// # Errors
    /// [`EngineError::StillNeeded`] for the live version and version 0, [`EngineError::NotResident`] for an unknown one.
    pub fn retire(&self, version: PolicyVersion) -> Result<(), EngineError> {
        let mut swap = self.0.swap.lock().expect(UNPOISONED);
        if version == PolicyVersion::SFT {
            return Err(EngineError::StillNeeded(version, "the reference"));
        }
        if version == self.live() {
            return Err(EngineError::StillNeeded(version, "live"));
        }
        swap.take_if(|stepped_down| *stepped_down == version);
        self.resident(version).ok_or(EngineError::NotResident(version))?.drain();
        Ok(())
    }

    /// Admits nothing more, lets what runs finish until the deadline, ends the rest as cancelled, and frees everything.
    /// True when nothing had to be cut. Blocks the caller.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        self.0.shutting_down.store(true, Ordering::Release);
        let until = Instant::now() + deadline;
        let mut replaced = self.0.replaced.lock().expect(UNPOISONED);
        let mut residents: Vec<_> = self.0.residents.iter().map(|entry| Arc::clone(entry.value())).collect();
        residents.append(&mut replaced);
        drop(replaced);
        residents.iter().for_each(|resident| resident.drain());
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let unfinished: Vec<_> = residents.iter().filter(|resident| !resident.wait_freed(left(until))).collect();
        unfinished.iter().for_each(|resident| resident.abort());
        // A decode step is the longest that an owner thread can be deaf.
        for resident in &unfinished {
            resident.wait_freed(Duration::from_secs(60));
        }
        unfinished.is_empty()
    }
}

/// What is done on a version's thread once it has freed its memory. Its successor, the same version loaded again, stays.
fn forgetting(
    version: PolicyVersion,
    residents: Weak<DashMap<PolicyVersion, Arc<Resident>>>,
    freed: Weak<OnceLock<Tell>>,
) -> impl FnOnce(ResidentId) + Send + 'static {
    move |id| {
        let Some(residents) = residents.upgrade() else { return };
        let is_gone = |resident: &Resident| resident.id == id;
        // Before it leaves the list, so that a shutdown waits until whoever is told has done what there is to do.
        if let Some(tell) = freed.upgrade().as_deref().and_then(OnceLock::get) {
            let others = residents.iter().filter(|resident| !is_gone(resident));
            let others: Vec<InMemory> = others.map(|resident| InMemory::of(&resident)).collect();
            tell(&others);
        }
        residents.remove_if(&version, |_, resident| is_gone(resident));
    }
}
