//! What tripped in a round.

use std::collections::BTreeMap;

use super::{Action, Guard};

/// One guard's trips in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trip {
    /// How often.
    pub n: u64,
    /// The number that tripped it last.
    pub value: f64,
    /// The limit that it broke.
    pub limit: f64,
}

/// All trips of a round, by guard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trips(BTreeMap<Guard, Trip>);

impl Trips {
    /// Remembers one.
    pub fn add(&mut self, guard: Guard, value: f64, limit: f64) {
        let n = self.0.get(&guard).map_or(0, |trip| trip.n) + 1;
        self.0.insert(guard, Trip { n, value, limit });
    }

    /// How often this one tripped.
    #[must_use]
    pub fn count(&self, guard: Guard) -> u64 {
        self.0.get(&guard).map_or(0, |trip| trip.n)
    }

    /// Those that tripped, mildest first within their kind.
    pub fn iter(&self) -> impl Iterator<Item = (Guard, Trip)> + '_ {
        self.0.iter().map(|(guard, trip)| (*guard, *trip))
    }

    /// Whether none tripped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them forbids the policy to learn from this round at all.
    #[must_use]
    pub fn forbid_learning(&self) -> bool {
        self.0.keys().any(|guard| matches!(guard.action(), Action::SkipRound | Action::Pause))
    }

    /// The first that asks for the operator.
    #[must_use]
    pub fn pausing(&self) -> Option<Guard> {
        self.0.keys().copied().find(|guard| guard.action() == Action::Pause)
    }
}
