//! One update computed again, beside what was recorded.

use std::{collections::BTreeSet, sync::atomic::AtomicBool};

use policy::threads::learner_pool;

use super::{Archive, Replay, ReplayError};
use crate::{arithmetic::arithmetic, beginning::Beginning, rollout_log::UpdateRow};

/// Numbers of this kind differ between any two runs.
const TIMES: &str = "time/";

/// What was recorded and what came out.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The record.
    pub row: UpdateRow,
    /// Name, recorded, computed again; in order of the names, durations left out.
    pub numbers: Vec<(String, Option<f64>, Option<f64>)>,
    /// Digest of the weights, recorded and computed again; `None` where no weights were made.
    pub digests: [Option<String>; 2],
    /// Fingerprint of the state after the update, recorded and computed again.
    pub states: [String; 2],
    /// What computed then, and what computes now.
    pub arithmetic: [String; 2],
    /// The state file that the replay began from; `None`: from a fresh start.
    pub began_with: Option<u64>,
    /// Updates computed, this one among them.
    pub n_computed: u64,
}

impl Comparison {
    /// Whether every bit is the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        let same = |(_, recorded, rebuilt): &(String, Option<f64>, Option<f64>)| {
            recorded.map(f64::to_bits) == rebuilt.map(f64::to_bits)
        };
        self.digests[0] == self.digests[1] && self.states[0] == self.states[1] && self.numbers.iter().all(same)
    }
}

/// Computes an update again from the nearest state before it, and lays the result beside its record.
///
/// # Errors
/// When it has not ended, when something that it takes is gone (which is named), or when the state before it does not come
/// out as recorded.
pub fn rebuild(
    archive: &Archive,
    beginning: &Beginning,
    config: &config::Ppo,
    update: u64,
) -> Result<Comparison, ReplayError> {
    let row = archive.ended(update)?;
    // First what is missing for this very update: the way to it may be long.
    archive.rollouts(update)?;
    let pool = learner_pool(row.start.n_threads)?;
    let interrupt = AtomicBool::new(false);
    let replay = Replay { archive, beginning, config, pool: &pool, interrupt: &interrupt };
    let (reached, repeated) = replay.repeat(Some(replay.before(&row)?), &row)?;
    let recorded = row.end.clone().ok_or(ReplayError::NotEnded(update))?;
    let (began_with, n_computed) = (reached.saved, reached.n_replayed);
    let after = match recorded.streak.filter(|streak| streak.went_back) {
        None => reached,
        Some(streak) => {
            drop(reached);
            replay.go_back(replay.before(&archive.ended(streak.first)?)?, &row)?
        }
    };
    let names: BTreeSet<&String> = recorded.numbers.keys().chain(repeated.numbers.keys()).collect();
    let names = names.into_iter().filter(|name| !name.starts_with(TIMES));
    let pair = |name: &String| {
        let [recorded, rebuilt] = [&recorded.numbers, &repeated.numbers].map(|numbers| numbers.get(name).copied());
        (name.clone(), recorded, rebuilt)
    };
    Ok(Comparison {
        numbers: names.map(pair).collect(),
        digests: [recorded.digest, repeated.digest],
        states: [recorded.state_after, after.head.fingerprint],
        arithmetic: [row.start.arithmetic.clone(), arithmetic(config)],
        began_with,
        n_computed,
        row,
    })
}
