//! Failures of the engine among a version's latest answers.
//!
//! A version may begin to fail at any time of its life, over a kind of prompt that nobody has sent before, say. So these are not
//! counted over all of it, where a thousand good answers would hide fifty bad ones, but over a window that moves with the traffic.

use policy::engine::Endings;

/// Failed requests that are no accident.
const FAILED_MIN: u64 = 5;
/// Their answers as a share of all that ended.
const FAILED_SHARE: f64 = 0.05;
/// Answers by which the window moves: it holds one to two times as many, and what came between two looks.
const WINDOW: u64 = 256;

/// How answers of a version have ended lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// Requests that ended in a failure of the engine.
    pub failed_requests: u64,
    /// Answers that these still owed.
    pub failed: u64,
    /// Answers that ended in another way, with somebody there to read them.
    pub finished: u64,
}

impl From<Endings> for Errors {
    /// An answer that nobody waited for any more says nothing for a version.
    fn from(ended: Endings) -> Errors {
        let Endings { failed_requests, failed, finished, cancelled } = ended;
        Errors { failed_requests, failed, finished: finished.saturating_sub(cancelled) }
    }
}

impl Errors {
    /// Why a version with so many must go, in words. The share is one of answers, on both sides; but a request of many choices
    /// that fails is one accident.
    #[must_use]
    pub fn breach(self) -> Option<String> {
        let Errors { failed_requests, failed, finished } = self;
        let n = failed + finished;
        let is_no_accident = failed_requests >= FAILED_MIN && failed as f64 >= FAILED_SHARE * n as f64;
        is_no_accident.then(|| format!("{failed} of {n} answers failed in the engine ({failed_requests} requests)"))
    }
}

/// The window over what the engine counts of one version.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent {
    /// Where it begins.
    start: Endings,
    /// Where it will begin once it has moved.
    next: Endings,
}

impl Recent {
    /// A window that begins now.
    #[must_use]
    pub fn from(now: Endings) -> Recent {
        Recent { start: now, next: now }
    }

    /// What is in it.
    pub fn errors(&mut self, now: Endings) -> Errors {
        let mut newer = now.since(self.next);
        // All of it is newer: the version came into memory again meanwhile, and its counts began anew there.
        if newer == now {
            *self = Recent::default();
        }
        let errors = Errors::from(now.since(self.start));
        newer.finished += newer.failed;
        // What whoever looks again has to find stays in it.
        if newer.finished >= WINDOW && errors.breach().is_none() {
            (self.start, self.next) = (self.next, now);
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(failed_requests: u64, failed: u64, finished: u64) -> Errors {
        Errors { failed_requests, failed, finished }
    }

    fn ended(failed: u64, finished: u64) -> Endings {
        Endings { failed_requests: failed, failed, finished, cancelled: 0 }
    }

    #[test]
    fn failures_and_finishes_are_counted_in_answers() {
        assert_eq!(errors(5, 5, 95).breach().unwrap(), "5 of 100 answers failed in the engine (5 requests)");
        assert_eq!(errors(5, 5, 96).breach(), None);
        assert_eq!(errors(4, 4, 10).breach(), None, "few");
        assert_eq!(errors(1, 16, 4).breach(), None, "one accident");
        assert!(errors(12, 12 * 16, 88 * 16).breach().is_some(), "one request in eight, of sixteen choices each");
        let left = Endings { cancelled: 105, ..ended(5, 200) };
        assert_eq!(Errors::from(left), errors(5, 5, 95), "who has left was not answered");
    }

    /// Goal: a version that was loaded again is judged by what it did since, all of it. Method: one count falls below what it was
    /// first seen at; then both are past it again.
    #[test]
    fn counts_that_began_anew_are_taken_whole() {
        let mut recent = Recent::from(ended(2, 100));
        assert_eq!(recent.errors(ended(5, 130)), errors(3, 3, 30));
        assert_eq!(recent.errors(ended(3, 50)), errors(3, 3, 50));
        assert_eq!(recent.errors(ended(4, 120)), errors(4, 4, 120));
    }

    /// Goal: who begins to fail late is found out as soon as who fails at once. Method: ten thousand good answers, looked at as they
    /// come; then one in ten fails.
    #[test]
    fn a_late_failure_is_no_smaller_than_an_early_one() {
        let mut recent = Recent::from(ended(0, 0));
        for n in 1..=1000 {
            assert_eq!(recent.errors(ended(0, 10 * n)).breach(), None);
        }
        let found = (1..=100).find(|n| recent.errors(ended(*n, 10_000 + 9 * n)).breach().is_some());
        assert!(found.is_some_and(|n| n <= 60), "after {found:?} failures");
    }
}
