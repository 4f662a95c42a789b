//! Rests between forward passes.
//!
//! Learner threads run at nice 19 and get about a sixtieth of a busy core; when traffic never pauses, learning would stand
//! still. They cannot be given more priority (without privilege a thread never gets it back), and they should not: at any
//! priority that helps them they run *during* a forward pass, whose threads then spin at a barrier for the one that was
//! displaced. So serving rests instead, for a few milliseconds between two passes, when whoever keeps the learner's share
//! asks for it. The cost is what the rest takes, and not a hundredfold of it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Longest rest at once: what it adds to the gap between two tokens.
pub(super) const REST_MAX: Duration = Duration::from_millis(20);

/// When the residents may go on; one for all of them, because one that works is enough to starve the learner.
#[derive(Debug)]
pub(super) struct Rest {
    epoch: Instant,
    until_us: AtomicU64,
}

impl Default for Rest {
    fn default() -> Rest {
        Rest { epoch: Instant::now(), until_us: AtomicU64::new(0) }
    }
}

impl Rest {
    /// Asks for a rest from now on, at most [`REST_MAX`].
    pub(super) fn ask(&self, duration: Duration) {
        let until = self.epoch.elapsed() + duration.min(REST_MAX);
        self.until_us.store(until.as_micros() as u64, Ordering::Relaxed);
    }

    /// Called by owner threads between two passes.
    pub(super) fn keep(&self) {
        let until = Duration::from_micros(self.until_us.load(Ordering::Relaxed));
        if let Some(left) = until.checked_sub(self.epoch.elapsed()) {
            std::thread::sleep(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_kept_once_and_bounded() {
        let rest = Rest::default();
        let kept = |rest: &Rest| {
            let before = Instant::now();
            rest.keep();
            before.elapsed()
        };
        assert!(kept(&rest) < REST_MAX / 2, "nobody asked");
        let asked = Instant::now();
        rest.ask(Duration::from_secs(3600));
        rest.keep();
        let took = asked.elapsed();
        assert!(took >= REST_MAX, "{took:?}");
        let left = Duration::from_micros(rest.until_us.load(Ordering::Relaxed));
        assert!(left <= rest.epoch.elapsed(), "the rest is over");
    }
}
