//! Places in memory: how many versions there may be beside version 0, and who waits for whom.
//!
//! Each version has a key-value cache of its own, which may be larger than its weights. Whoever leaves keeps its place until
//! its last answer has ended and its memory is free. So a load has whoever has stepped down leave, waits for those that are
//! leaving, and is refused where that takes too long or nobody is: a refusal costs a later attempt, a version too many may
//! cost the process. A version that comes back while its last answers run takes its own place again, so that a rollback waits
//! for nobody's answers. Who is loaded to serve has one place more ([`Engine::load_to_serve`]), so that a rollback does not
//! wait for whoever is judged either.

use std::{
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    engine::{
        Engine, EngineError, UNPOISONED, footprint::Footprint, gguf::Inspected, resident::Resident, worker::Setup,
    },
    memory::machine,
    version::PolicyVersion,
};

/// How long a load waits for those that are leaving.
const LEAVING_PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits before it looks again whether the engine shuts down.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Engine {
    /// Whether there is a place for this version now. Whoever has stepped down begins to leave for it, so where nobody else
    /// comes first there will be one as soon as the answers of those that are leaving have ended. Returns at once.
    #[must_use]
    pub fn make_room(&self, version: PolicyVersion) -> bool {
        self.ask_to_leave(version);
        self.places_taken(version).len() < self.0.config.residents_max
    }

    /// Whether every place is taken by a version that stays: the live one, and one that is being judged, say.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let stepped_down = *self.0.swap.lock().expect(UNPOISONED);
        let stays = |resident: &&Arc<Resident>| !resident.is_draining() && Some(resident.version) != stepped_down;
        self.places_taken(PolicyVersion::SFT).iter().filter(stays).count() >= self.0.config.residents_max
    }

    /// Whether a version is leaving memory, which will have more room then.
    #[must_use]
    pub fn is_anybody_leaving(&self) -> bool {
        self.leaving().is_some()
    }

    /// Bytes that a version beside those in memory will take: a whole model, or an adapter beside version 0's weights.
    #[must_use]
    pub fn bytes_of_another(&self, is_adapter: bool) -> u64 {
        let shared = &self.0;
        let Some(first) = self.resident(PolicyVersion::SFT) else { return 0 };
        let setup = self.setup(PolicyVersion::SFT.next(), &first.path);
        let is_f32 = shared.base.is_f32();
        let decoder = shared.base.decoder_shape().ok_or_else(String::new);
        let found = Inspected {
            tokenizer: String::new(),
            is_adapter,
            is_f32,
            has_f32_matrices: is_f32,
            adapter_bytes: 0,
            decoder,
        };
        let weights = if is_adapter { 0 } else { shared.base.n_bytes() };
        Footprint::of(&shared.base, &setup, &found, weights).bytes()
    }

    /// Bytes that were promised to the versions in memory, and that they have not taken yet.
    #[must_use]
    pub fn untaken_bytes(&self) -> u64 {
        let untaken = |resident: Arc<Resident>| resident.load.untaken_bytes.load(Ordering::Relaxed);
        self.not_freed().into_iter().map(untaken).sum()
    }

    /// Waits until there is one of so many places for a version, and memory for it; with what is given back, nobody else loads.
    pub(super) fn admit(
        &self,
        setup: &Setup,
        found: &Inspected,
        places: usize,
    ) -> Result<MutexGuard<'_, ()>, EngineError> {
        let refused = |error: std::io::Error| EngineError::Load { path: setup.path.clone(), reason: error.to_string() };
        let file_bytes = std::fs::metadata(&setup.path).map_err(refused)?.len();
        let footprint = Footprint::of(&self.0.base, setup, found, file_bytes);
        // Nothing is guarded but the order, so a panic in a load breaks nothing.
        let next = || self.0.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut turn = next();
        // Spent on those that are leaving alone: another's load takes nothing of it, whenever it comes first.
        let mut patience = LEAVING_PATIENCE;
        loop {
            if self.is_shutting_down() {
                return Err(EngineError::shutting_down(&setup.path));
            }
            if self.is_ready(setup.version) {
                return Err(EngineError::AlreadyLoaded(setup.version));
            }
            let Some((error, leaving)) = self.lack(setup.version, places, &footprint) else { return Ok(turn) };
            // Who waits is in nobody's way: another may find its own place meanwhile.
            drop(turn);
            let Some(leaving) = leaving.filter(|_| !patience.is_zero()) else { return Err(error) };
            let began = Instant::now();
            leaving.wait_freed(LOOK_AGAIN);
            patience = patience.saturating_sub(began.elapsed());
            turn = next();
        }
    }

    /// What there is too little of for a version, and who is leaving with some of it.
    fn lack(
        &self,
        version: PolicyVersion,
        places: usize,
        footprint: &Footprint,
    ) -> Option<(EngineError, Option<Arc<Resident>>)> {
        self.ask_to_leave(version);
        let taken = self.places_taken(version);
        if taken.len() >= places {
            let residents = taken.iter().map(|resident| resident.version).collect();
            let leaving = taken.into_iter().find(|resident| resident.is_draining());
            return Some((EngineError::Crowded { version, places, residents }, leaving));
        }
        // Asked first: whoever has left by the time that memory is looked at has left it free.
        let leaving = self.leaving();
        let room = machine().map(|room| room.without(self.untaken_bytes()));
        footprint.check(version, room).err().map(|error| (error, leaving))
    }

    /// Whoever has stepped down leaves memory before another version comes into it.
    fn ask_to_leave(&self, version: PolicyVersion) {
        // Held until its door is closed: whoever has it come back in between would promote a version that leaves.
        let mut stepped_down = self.0.swap.lock().expect(UNPOISONED);
        if let Some(resident) = stepped_down.take_if(|other| *other != version).and_then(|other| self.resident(other)) {
            resident.drain();
        }
    }

    /// Somebody who is leaving and still has memory.
    fn leaving(&self) -> Option<Arc<Resident>> {
        self.not_freed().into_iter().find(|resident| resident.is_draining())
    }

    /// Everybody who has memory. A thread that panicked has freed its own, and could not say so.
    fn not_freed(&self) -> Vec<Arc<Resident>> {
        let mut all: Vec<_> = self.0.residents.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.extend(self.0.replaced.lock().expect(UNPOISONED).iter().map(Arc::clone));
        all.retain(|resident| !resident.wait_freed(Duration::ZERO));
        all
    }

    /// A resident of every version but version 0 and this one; of two, where one is leaving, the other.
    fn places_taken(&self, but: PolicyVersion) -> Vec<Arc<Resident>> {
        let mut taken = self.not_freed();
        taken.retain(|resident| ![PolicyVersion::SFT, but].contains(&resident.version));
        // Each is asked once: doors close meanwhile.
        taken.sort_by_cached_key(|resident| (resident.version, resident.is_draining()));
        taken.dedup_by_key(|resident| resident.version);
        taken
    }
}
