//! How requests come in.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use crate::{
    engine::{Engine, GenerateRequest, Rejection, Target, resident::Job, stats::add},
    version::PolicyVersion,
};

/// A live resident may be retired between reading the pointer and knocking; the pointer then already shows the next one.
const LIVE_TRIES_MAX: u32 = 8;

impl Engine {
    /// Admits a request and names the version that will answer it. Everything that would reach C++ is judged here. Never
    /// blocks; after `Ok`, every choice ends with a `Finished`, or the request with one `Failed`.
    ///
    /// # Errors
    /// [`Rejection`]; the sink was not called.
    pub fn submit(&self, target: Target, request: GenerateRequest) -> Result<PolicyVersion, Rejection> {
        self.submit_all(target, vec![request])
    }

    /// The same for the prompts of one client's request: all go to one version, or none is admitted. Together they take one
    /// place among those who wait, until the last of them has a slot.
    ///
    /// # Errors
    /// [`Rejection`]; no sink was called.
    pub fn submit_all(&self, target: Target, requests: Vec<GenerateRequest>) -> Result<PolicyVersion, Rejection> {
        let shared = &self.0;
        for request in &requests {
            request.check(shared.vocabulary.size(), shared.context_tokens)?;
        }
        let mut jobs: Vec<Job> = requests.into_iter().map(|request| self.job(request)).collect();
        let mut last = Rejection::ShuttingDown;
        let mut canary = shared.canary.load_full().filter(|canary| target == Target::Live && canary.takes_next());
        for _ in 0..LIVE_TRIES_MAX {
            if shared.shutting_down.load(Ordering::Acquire) {
                return Err(Rejection::ShuttingDown);
            }
            let resident = match target {
                // Once: where it is full or gone, the live one answers.
                Target::Live if let Some(canary) = canary.take() => Arc::clone(&canary.resident),
                Target::Live => shared.live.load_full(),
                Target::Version(version) => self.resident(version).ok_or(Rejection::UnknownVersion(version))?,
            };
            match resident.submit(jobs) {
                Ok(()) => return Ok(resident.version),
                Err((refused, rejection)) => {
                    jobs = refused;
                    last = rejection;
                    let was_canary = resident.version != self.live();
                    if !(target == Target::Live && (was_canary || matches!(last, Rejection::Draining(_)))) {
                        break;
                    }
                }
            }
        }
        // Not where it is found: whom one resident has no room for, another one may answer.
        if matches!(last, Rejection::Full { .. }) {
            add(&shared.counters.rejected_full, 1);
        }
        Err(last)
    }

    fn job(&self, request: GenerateRequest) -> Job {
        let seed = request.sampling.seed.unwrap_or_else(|| self.next_seed());
        let asked = request.prompt.len().saturating_add(request.sampling.max_tokens as usize);
        let choice_tokens_max = asked.min(self.0.context_tokens as usize);
        Job { request, seed, choice_tokens_max, submitted: Instant::now() }
    }

    /// Distinct for each request, the same in each run of the daemon: a bijection of a counter (splitmix64's finaliser).
    fn next_seed(&self) -> u64 {
        let n = self.0.unseeded.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut z = self.0.config.seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
