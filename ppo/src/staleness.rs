//! How old the weights may be that drew what we learn from.
//!
//! A version counts publications. The staleness of a rollout is the trainer's version minus that of its *oldest* token.
//! Off-policy corrections are only corrections: AReaL's naive PPO loses half its accuracy at staleness 4 (arXiv
//! 2505.24298), and in our own toy world every corrected variant broke at lag 48. So the bound is hard, and it is checked
//! where a rollout is consumed: when it is claimed, and once more when it is to become an episode.
//!
//! AReaL also bounds what is *begun* ([`Admission`]). The daemon does not: on live traffic nobody can be refused, rollouts are
//! claimed oldest first, and what would be over capacity expires when its turn comes, with its reason. All that the rule would
//! save is the judging of those.

use policy::PolicyVersion;

/// Versions between the trainer and the oldest token of a rollout; 0 when there is no token or it is newer.
#[must_use]
pub fn staleness(trainer: PolicyVersion, token_versions: &[PolicyVersion]) -> u64 {
    let oldest = token_versions.iter().min().copied().unwrap_or(trainer);
    trainer.0.saturating_sub(oldest.0)
}

/// Publications between the trainer's version and the oldest token of a rollout, along the trainer's own ancestry; `None` when a
/// token's version is not in it.
///
/// Numbers of versions have gaps, where candidates were refused or an earlier version was gone back to. So publications are
/// counted, and [`staleness`] is taken of the counts.
/// - `lineage`: the trainer's version, then its ancestors as far back as `ppo.max_staleness` allows;
/// - `token_versions`: who drew each token.
#[must_use]
pub fn staleness_along(lineage: &[PolicyVersion], token_versions: &[PolicyVersion]) -> Option<u64> {
    let published = |version: &PolicyVersion| {
        let n = lineage.iter().rev().position(|of_lineage| of_lineage == version)?;
        Some(PolicyVersion(n as u64))
    };
    let counts: Option<Vec<PolicyVersion>> = token_versions.iter().map(published).collect();
    Some(staleness(published(lineage.first()?)?, &counts?))
}

/// AReaL's admission control, for a trainer that begins its rollouts itself; the daemon has no use for it (see above).
///
/// `capacity = min(max_concurrent − running, (η + version + 1)·batch − (accepted + running))`.
/// Source: AReaL `areal/infra/staleness_manager.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    max_staleness: u64,
    batch: u64,
    max_concurrent: u64,
    version: u64,
    accepted: u64,
    running: u64,
}

impl Admission {
    /// `max_staleness`: η, versions; `batch`: rollouts of one update; `max_concurrent`: rollouts in flight.
    #[must_use]
    pub fn new(max_staleness: u64, batch: u64, max_concurrent: u64) -> Self {
        Admission { max_staleness, batch, max_concurrent, version: 0, accepted: 0, running: 0 }
    }

    /// Rollouts that may start now.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        let places = self.max_concurrent.saturating_sub(self.running);
        let fresh = (self.max_staleness + self.version + 1).saturating_mul(self.batch);
        places.min(fresh.saturating_sub(self.accepted + self.running))
    }

    /// A rollout starts; false when it must not.
    pub fn submit(&mut self) -> bool {
        let admitted = self.capacity() > 0;
        self.running += u64::from(admitted);
        admitted
    }

    /// A running rollout will train; false when none is running.
    pub fn accept(&mut self) -> bool {
        let had_one = self.reject();
        self.accepted += u64::from(had_one);
        had_one
    }

    /// A running rollout will not train and frees its place; false when none is running.
    pub fn reject(&mut self) -> bool {
        let had_one = self.running > 0;
        self.running -= u64::from(had_one);
        had_one
    }

    /// New weights were published.
    pub fn publish(&mut self) {
        self.version += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, staleness, staleness_along};
    use policy::PolicyVersion;

    #[test]
    fn the_oldest_token_decides() {
        let versions = [PolicyVersion(5), PolicyVersion(3), PolicyVersion(6)];
        assert_eq!(staleness(PolicyVersion(6), &versions), 3);
        assert_eq!(staleness(PolicyVersion(6), &[]), 0);
        assert_eq!(staleness(PolicyVersion(2), &versions), 0, "a trainer behind its data is not stale");
    }

    /// Goal: what training asks is the same number. Method: a lineage without gaps agrees with plain numbers; one with gaps counts
    /// publications; a stranger among the tokens has no place.
    #[test]
    fn along_a_lineage_publications_count() {
        let of = |numbers: &[u64]| numbers.iter().map(|n| PolicyVersion(*n)).collect::<Vec<_>>();
        let whole = of(&[9, 8, 7, 6, 5]);
        for versions in [of(&[7]), of(&[5, 7, 8, 9]), of(&[9, 9]), of(&[6, 5])] {
            assert_eq!(staleness_along(&whole, &versions), Some(staleness(PolicyVersion(9), &versions)));
            let within = of(&[9, 8, 7]);
            let is_fresh = staleness(PolicyVersion(9), &versions) <= 2;
            assert_eq!(staleness_along(&within, &versions).is_some(), is_fresh, "{versions:?}");
        }
        let with_gaps = of(&[12, 5, 4]);
        assert_eq!(staleness_along(&with_gaps, &of(&[4])), Some(2));
        assert_eq!(staleness_along(&with_gaps, &of(&[12, 5])), Some(1));
        assert_eq!(staleness_along(&with_gaps, &of(&[12, 11])), None, "a candidate that was refused");
        assert_eq!(staleness_along(&[], &of(&[0])), None);
    }

    #[test]
    fn accepted_rollouts_never_exceed_what_stays_fresh() {
        let mut admission = Admission::new(1, 2, 100);
        let admitted = (0..10).filter(|_| admission.submit()).count();
        assert_eq!(admitted, 4, "(1 + 0 + 1)·2");
        assert!(admission.accept());
        assert_eq!(admission.capacity(), 0, "an accepted rollout keeps its place");
        assert!(admission.reject());
        assert_eq!(admission.capacity(), 1, "a rejected one frees it");
        admission.publish();
        assert_eq!(admission.capacity(), 3);
    }
}
