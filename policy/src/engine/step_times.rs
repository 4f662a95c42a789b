//! How long the decode steps of a resident take.
//!
//! A *decode step* is a forward pass in which nothing is computed but the next token of each of some sequences; so its length is
//! what each of these streams waits for a token, but for its draw. Passes with a part of a prompt are left out, for theirs depends
//! on the prompt. Steps are counted apart by how many sequences they had, for more take longer, and by how long they took, in
//! classes a quarter wide at most: bounded memory whatever comes, one addition a step, and nobody who reads is waited for.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::stats::add;

/// Upper ends of the classes of batch size, sequences: the last is the most that `policy.parallel` can be.
pub const BATCH_SIZES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Binary logarithm of the nanoseconds below which steps are not told apart: a microsecond.
const OCTAVE_MIN: u32 = 10;
/// Parts of an octave; a power of two.
const PARTS: usize = 4;
/// Classes of length: 24 octaves, up to 17 seconds. What takes longer is in the last one.
const LENGTHS: usize = 24 * PARTS;

type Counts<T> = [[T; LENGTHS]; BATCH_SIZES.len()];

/// Where a resident counts its steps.
#[derive(Debug)]
pub(super) struct StepCounts(Counts<AtomicU64>);

impl Default for StepCounts {
    fn default() -> StepCounts {
        StepCounts([const { [const { AtomicU64::new(0) }; LENGTHS] }; BATCH_SIZES.len()])
    }
}

impl StepCounts {
    /// Notes a step that gave each of so many sequences, at least one, a token.
    pub(super) fn count(&self, n_sequences: usize, took: Duration) {
        let class = BATCH_SIZES.partition_point(|&end| end < n_sequences).min(BATCH_SIZES.len() - 1);
        add(&self.0[class][length_of(took)], 1);
    }

    pub(super) fn read(&self) -> StepTimes {
        let counts = self.0.iter().map(|class| std::array::from_fn(|i| class[i].load(Ordering::Relaxed)));
        StepTimes(counts.collect())
    }
}

fn length_of(took: Duration) -> usize {
    let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1 << OCTAVE_MIN);
    let octave = ns.ilog2();
    // The two bits below the leading one.
    let part = (ns >> (octave - PARTS.ilog2())) as usize % PARTS;
    ((octave - OCTAVE_MIN) as usize * PARTS + part).min(LENGTHS - 1)
}

/// Where a class of length begins, seconds.
fn begin_of(length: usize) -> f64 {
    let octave = (OCTAVE_MIN as usize + length / PARTS) as i32;
    (1.0 + (length % PARTS) as f64 / PARTS as f64) * 2f64.powi(octave) * 1e-9
}

/// A reading of the decode steps of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepTimes(Vec<[u64; LENGTHS]>);

impl StepTimes {
    /// Steps of a class of [`BATCH_SIZES`].
    ///
    /// # Panics
    /// Where there is no such class.
    #[must_use]
    pub fn n_steps(&self, class: usize) -> u64 {
        assert!(class < BATCH_SIZES.len(), "there is no such class of batch size");
        self.0.get(class).map_or(0, |lengths| lengths.iter().sum())
    }

    /// Steps of all classes.
    #[must_use]
    pub fn n_steps_in_all(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// What this share of the steps of a class took at most, seconds; `None` without a step. Between the ends of a class of length
    /// it is interpolated, so it is off by a quarter at most, and by much less where the steps fill the class.
    ///
    /// # Panics
    /// Where there is no such class.
    #[must_use]
    pub fn quantile(&self, class: usize, share: f64) -> Option<f64> {
        let n = self.n_steps(class);
        let rank = (share.clamp(0.0, 1.0) * n as f64).max(1.0);
        let mut before = 0.0;
        for (length, &n) in self.0.get(class)?.iter().enumerate().filter(|(_, n)| **n > 0) {
            let part = (rank - before) / n as f64;
            if part <= 1.0 {
                let (begin, end) = (begin_of(length), begin_of(length + 1));
                return Some(begin + part * (end - begin));
            }
            before += n as f64;
        }
        None
    }

    /// Steps since `before`; all of them where the version came into memory again meanwhile, and counting began anew.
    #[must_use]
    pub fn since(&self, before: &StepTimes) -> StepTimes {
        let at = |class: usize, length: usize| before.0.get(class).map_or(0, |lengths| lengths[length]);
        let since = |(class, lengths): (usize, &[u64; LENGTHS])| {
            let mut since = *lengths;
            for (length, n) in since.iter_mut().enumerate() {
                *n = n.checked_sub(at(class, length))?;
            }
            Some(since)
        };
        let is_newer = self.0.len() >= before.0.len();
        let since = is_newer.then(|| self.0.iter().enumerate().map(since).collect::<Option<Vec<_>>>()).flatten();
        since.map_or_else(|| self.clone(), StepTimes)
    }

    /// Steps of so many sequences each, as if an engine had counted them.
    #[must_use]
    pub fn of(steps: impl IntoIterator<Item = (usize, Duration)>) -> StepTimes {
        let counts = StepCounts::default();
        steps.into_iter().for_each(|(n_sequences, took)| counts.count(n_sequences, took));
        counts.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Goal: every length has a class that holds it, no wider than a quarter of it. Method: lengths over ten decades, and their
    /// classes' ends.
    #[test]
    fn classes_of_length_are_narrow_and_without_gaps() {
        for ns in (0..2000).map(|i| 1024.0 * 1.0083f64.powi(i)).take_while(|ns| *ns < 1.7e10) {
            let length = length_of(Duration::from_nanos(ns as u64));
            let (begin, end) = (begin_of(length) * 1e9, begin_of(length + 1) * 1e9);
            assert!(begin <= ns.ceil() && ns.floor() < end, "{ns} between {begin} and {end}");
            assert!(end <= 1.2501 * begin, "{begin} to {end}");
        }
        assert_eq!((length_of(Duration::ZERO), length_of(Duration::MAX)), (0, LENGTHS - 1));
    }

    #[test]
    fn quantiles_are_those_of_the_steps() {
        let steps = (1..=1000).map(|i| (1, us(100 + i)));
        let times = StepTimes::of(steps);
        for (share, expected, error) in [(0.1, 200e-6, 0.03), (0.5, 600e-6, 0.03), (1.0, 1100e-6, 0.25)] {
            let found = times.quantile(0, share).unwrap();
            assert!((found / expected - 1.0).abs() < error, "{share}: {found} for {expected}");
        }
        assert_eq!(times.quantile(1, 0.1), None);
        assert_eq!(StepTimes::default().quantile(0, 0.1), None, "of a version that is not in memory");
        let same = StepTimes::of([(1, us(500)); 3]);
        assert!((same.quantile(0, 0.0).unwrap() / 500e-6 - 1.0).abs() < 0.2);
    }

    #[test]
    fn batches_are_told_apart_by_powers_of_two() {
        let times = StepTimes::of([1, 2, 3, 4, 5, 8, 9, 200, 256].map(|n| (n, us(50))));
        let n_steps: Vec<u64> = (0..BATCH_SIZES.len()).map(|class| times.n_steps(class)).collect();
        assert_eq!(n_steps, [1, 1, 2, 2, 1, 0, 0, 0, 2]);
        assert_eq!(times.n_steps_in_all(), 9);
    }

    /// Goal: what came since a reading is what came since, also where the version was loaded again between two readings. Method: more
    /// of the same; then fewer than there were.
    #[test]
    fn a_difference_holds_what_came_since() {
        let before = StepTimes::of([(1, us(50)), (4, us(70))]);
        let now = StepTimes::of([(1, us(50)), (4, us(70)), (4, us(70)), (4, us(90))]);
        assert_eq!(now.since(&before), StepTimes::of([(4, us(70)), (4, us(90))]));
        assert_eq!(before.since(&now), before, "it counts anew");
        assert_eq!(now.since(&StepTimes::default()), now);
        assert_eq!(StepTimes::default().since(&now), StepTimes::default(), "it has left memory");
    }
}
