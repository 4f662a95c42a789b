//! How long users wait for a token of one version, held against another's.
//!
//! Weights of one shape take the same time, but weights need not be alike otherwise: a file from outside may be of another type, an
//! adapter costs more than what it stands beside, numbers below the normal range are slow on some processors, and memory may be
//! another's. None of it shows in answers.
//!
//! Much else makes steps longer: the learner beside them, other programs, more users at once, longer conversations, a machine that is
//! throttled. So steps are compared among batches of one size, by their fastest tenth, which is what the version does where nothing
//! is in its way; and what has been seen so is a suspicion only. Whether it is the version's fault is asked of both, by turns, on the same
//! tokens ([`timed`]): where the machine or the traffic has become another, it is so for both.

use std::time::Duration;

use policy::engine::{BATCH_SIZES, StepTimes};

/// Steps of one batch size below which nothing is said of it.
pub const STEPS_MIN: u64 = 200;
/// Share of the steps that is looked at, the fastest.
const FASTEST: f64 = 0.1;
/// Share of the passes of a measurement by the clock that is looked at, likewise: of some dozen.
const FASTEST_TIMED: f64 = 0.25;

/// Seconds a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Of the live version.
    pub live: f64,
    /// Of the one that it is held against.
    pub before: f64,
}

impl Pace {
    /// Whether the live version takes this many times as long.
    #[must_use]
    pub fn is_slower(self, factor: f64) -> bool {
        self.live >= factor * self.before
    }

    /// Both, in words: the live version's first.
    #[must_use]
    pub fn words(self) -> (String, String) {
        let ms = |seconds: f64| match 1e3 * seconds {
            ms if ms < 1.0 => format!("{ms:.3} ms"),
            ms => format!("{ms:.1} ms"),
        };
        (ms(self.live), ms(self.before))
    }
}

/// The live version's steps beside those of another one, in the batch size in which it does best: where it is slower there, it is in
/// all. `None` where no batch size has enough of both.
#[must_use]
pub fn compare(live: &StepTimes, before: &StepTimes) -> Option<Pace> {
    let is_enough = |times: &StepTimes, class| times.n_steps(class) >= STEPS_MIN;
    let paces = (0..BATCH_SIZES.len()).filter(|class| is_enough(live, *class) && is_enough(before, *class));
    let paces = paces.filter_map(|class| {
        Some(Pace { live: live.quantile(class, FASTEST)?, before: before.quantile(class, FASTEST)? })
    });
    paces.min_by(|one, other| (one.live / one.before).total_cmp(&(other.live / other.before)))
}

/// What two versions took for the same tokens; `None` without any.
#[must_use]
pub fn timed(live: &[Duration], before: &[Duration]) -> Option<Pace> {
    Some(Pace { live: fastest(live)?, before: fastest(before)? })
}

fn fastest(passes: &[Duration]) -> Option<f64> {
    let mut seconds: Vec<f64> = passes.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get((FASTEST_TIMED * seconds.len() as f64) as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTOR: f64 = 3.0;

    /// So many steps of so many sequences; their length in microseconds by their number.
    fn steps(n: u64, n_sequences: usize, us: impl Fn(u64) -> f64) -> StepTimes {
        StepTimes::of((0..n).map(|i| (n_sequences, Duration::from_nanos((1e3 * us(i)) as u64))))
    }

    fn both(one: &[(u64, usize, f64)]) -> StepTimes {
        StepTimes::of(one.iter().flat_map(|&(n, n_sequences, us)| {
            (0..n).map(move |_| (n_sequences, Duration::from_nanos((1e3 * us) as u64)))
        }))
    }

    fn is_slower(live: &StepTimes, before: &StepTimes) -> Option<bool> {
        compare(live, before).map(|pace| pace.is_slower(FACTOR))
    }

    /// Between 1 and 2, and of every ninth step ten times that: somebody else had the core.
    fn noise(i: u64) -> f64 {
        (1.0 + (i * 37 % 100) as f64 / 100.0) * if i.is_multiple_of(9) { 10.0 } else { 1.0 }
    }

    /// Goal: neither noise nor contention nor a little more work is a suspicion, and what takes four times as long is. Method: the same
    /// noise, beside contention that lengthens four steps of five, and scaled.
    #[test]
    fn the_fastest_steps_are_compared() {
        let before = steps(1000, 1, |i| 100.0 * noise(i));
        assert_eq!(is_slower(&steps(300, 2, |i| 900.0 * noise(i)), &before), None, "another batch size");
        assert_eq!(is_slower(&steps(300, 1, |i| 100.0 * noise(i + 5)), &before), Some(false));
        let contended = |i: u64| 100.0 * noise(i) * if i.is_multiple_of(5) { 1.0 } else { 20.0 };
        assert_eq!(
            is_slower(&steps(300, 1, contended), &before),
            Some(false),
            "somebody is beside it most of the time"
        );
        assert_eq!(is_slower(&steps(300, 1, |i| 200.0 * noise(i)), &before), Some(false), "by little");
        assert_eq!(is_slower(&steps(300, 1, |i| 400.0 * noise(i)), &before), Some(true));
        assert_eq!(is_slower(&before, &steps(300, 1, |i| 400.0 * noise(i))), Some(false), "faster");
    }

    #[test]
    fn too_few_steps_say_nothing() {
        let before = steps(STEPS_MIN, 4, |i| 100.0 * noise(i));
        let slow = |n| steps(n, 4, |i| 1000.0 * noise(i));
        assert_eq!(is_slower(&slow(STEPS_MIN - 1), &before), None);
        assert_eq!(is_slower(&slow(STEPS_MIN), &before), Some(true));
        assert_eq!(is_slower(&before, &slow(STEPS_MIN - 1)), None);
        assert_eq!(is_slower(&before, &StepTimes::default()), None, "nobody has counted");
    }

    /// Goal: what is slower in one batch size and not in another is not the weights. Method: two batch sizes with enough of both, of
    /// which one is slower; then the other too; then one that only one version has.
    #[test]
    fn it_has_to_be_slower_in_every_batch_size() {
        let before = both(&[(500, 1, 100.0), (500, 8, 250.0)]);
        assert_eq!(is_slower(&both(&[(500, 1, 900.0), (500, 8, 250.0)]), &before), Some(false));
        let slow = both(&[(500, 1, 900.0), (500, 8, 1000.0)]);
        assert_eq!(is_slower(&slow, &before), Some(true));
        let pace = compare(&slow, &before).unwrap();
        assert!((pace.live / pace.before - 4.0).abs() < 1.0, "the one in which it does best: {pace:?}");
        assert_eq!(is_slower(&both(&[(500, 1, 900.0), (199, 8, 250.0), (500, 64, 300.0)]), &before), Some(true));
    }

    #[test]
    fn passes_that_were_in_the_way_of_something_are_left_out() {
        let ms = |all: &[u64]| all.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
        let pace = timed(&ms(&[90, 4, 40, 4, 50, 4, 60, 70]), &ms(&[1, 1, 1, 9])).unwrap();
        assert_eq!((pace.live, pace.before), (4e-3, 1e-3));
        assert!(pace.is_slower(FACTOR) && !pace.is_slower(4.1));
        assert_eq!(pace.words(), ("4.0 ms".to_owned(), "1.0 ms".to_owned()));
        assert_eq!(Pace { live: 0.0534e-3, before: 1.23 }.words(), ("0.053 ms".to_owned(), "1230.0 ms".to_owned()));
        assert_eq!((timed(&[], &ms(&[1])), timed(&ms(&[1]), &[])), (None, None));
    }
}
