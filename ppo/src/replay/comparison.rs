//! One update computed again, beside what was recorded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::AtomicBool,
};

use policy::threads::learner_pool;

use super::{Archive, Replay, ReplayError};
use crate::{arithmetic::arithmetic, beginning::Beginning, rollout_log::UpdateRow};

/// Numbers of this kind differ between any two runs.
const TIMES: &str = "time/";

/// Name, recorded, computed again.
type Pair = (String, Option<f64>, Option<f64>);

/// What was recorded and what came out.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The record.
    pub row: UpdateRow,
    /// Name, recorded, computed again; in order of the names, durations left out.
    pub numbers: Vec<Pair>,
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
        self.digests[0] == self.digests[1] && self.states[0] == self.states[1] && self.numbers.iter().all(is_same)
    }
}

fn is_same((_, recorded, rebuilt): &Pair) -> bool {
    recorded.map(f64::to_bits) == rebuilt.map(f64::to_bits)
}

/// Both sides of every number but durations, in order of the names, as the log keeps them: its zeros have no sign, and the sum
/// of nothing is -0 before it is written.
fn pairs(recorded: &BTreeMap<String, f64>, rebuilt: &BTreeMap<String, f64>) -> Vec<Pair> {
    let names: BTreeSet<&String> = recorded.keys().chain(rebuilt.keys()).collect();
    let pair = |name: &String| {
        let [recorded, rebuilt] = [recorded, rebuilt].map(|numbers| numbers.get(name).map(|number| number + 0.0));
        (name.clone(), recorded, rebuilt)
    };
    names.into_iter().filter(|name| !name.starts_with(TIMES)).map(pair).collect()
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
    Ok(Comparison {
        numbers: pairs(&recorded.numbers, &repeated.numbers),
        digests: [recorded.digest, repeated.digest],
        states: [recorded.state_after, after.head.fingerprint],
        arithmetic: [row.start.arithmetic.clone(), arithmetic(config)],
        began_with,
        n_computed,
        row,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a round measured of nothing is what its record says of it, and nothing else is forgiven.
    #[test]
    fn only_the_sign_of_zero_makes_no_difference() {
        let next = f64::from_bits(1.0_f64.to_bits() + 1);
        let both = [("a", 0.0, -0.0), ("b", -0.0, 0.0), ("c", f64::NAN, f64::NAN), ("d", 1.0, 1.0), ("e", 1.0, next)];
        let side = |of: fn(&(&str, f64, f64)) -> f64| -> BTreeMap<String, f64> {
            both.iter().map(|entry| (entry.0.to_string(), of(entry))).collect()
        };
        let (mut recorded, rebuilt) = (side(|entry| entry.1), side(|entry| entry.2));
        recorded.insert("f".to_string(), 0.0);
        recorded.insert("time/g".to_string(), 2.0);
        let same: Vec<bool> = pairs(&recorded, &rebuilt).iter().map(is_same).collect();
        assert_eq!(same, [true, true, true, true, false, false]);
    }
}
