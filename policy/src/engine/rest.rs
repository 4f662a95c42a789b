//! Rests between forward passes.
//!
//! Learner threads run at nice 19 and get about a sixtieth of a busy core; when traffic never pauses, learning would stand
//! still. They cannot be given more priority (without privilege a thread never gets it back), and they should not: at any
//! priority that helps them they run *during* a forward pass, whose threads then spin at a barrier for the one that was
//! displaced. So serving rests instead, for a few milliseconds between two passes, when whoever keeps the learner's share
//! asks for it. The cost is what the rest takes, and not a hundredfold of it.
//!
//! So does whoever brings a version into memory beside the traffic: reading and checking its file, clearing its cache. As long as
//! there is such a [`Guest`], every pass is followed by a rest of a share of its own length.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Longest rest at once: what it adds to the gap between two tokens.
pub(super) const REST_MAX: Duration = Duration::from_millis(20);
/// A guest's rest, as a part of the pass before it: what loading adds to the gap between two tokens.
const GUEST_PART: u32 = 5;

/// When the residents may go on; one for all of them, because one that works is enough to starve the learner.
#[derive(Debug)]
pub(super) struct Rest {
    epoch: Instant,
    until_us: AtomicU64,
    guests: AtomicUsize,
}

impl Default for Rest {
    fn default() -> Rest {
        Rest { epoch: Instant::now(), until_us: AtomicU64::new(0), guests: AtomicUsize::new(0) }
    }
}

/// Somebody at work beside the passes, for as long as this lives.
#[derive(Debug)]
pub(super) struct Guest<'a>(&'a Rest);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Rest {
    /// Asks for a rest from now on, at most [`REST_MAX`].
    pub(super) fn ask(&self, duration: Duration) {
        let until = self.epoch.elapsed() + duration.min(REST_MAX);
        self.until_us.store(until.as_micros() as u64, Ordering::Relaxed);
    }

    /// Asks for rests until the guest is dropped.
    pub(super) fn guest(&self) -> Guest<'_> {
        self.guests.fetch_add(1, Ordering::Relaxed);
        Guest(self)
    }

    /// Whether there is a guest.
    pub(super) fn has_guest(&self) -> bool {
        self.guests.load(Ordering::Relaxed) > 0
    }

    #[cfg(test)]
    pub(super) fn n_guests(&self) -> usize {
        self.guests.load(Ordering::Relaxed)
    }

    /// Called by owner threads between two passes, with the length of the one before.
    pub(super) fn keep(&self, pass: Duration) {
        let asked = Duration::from_micros(self.until_us.load(Ordering::Relaxed));
        let asked = asked.saturating_sub(self.epoch.elapsed());
        let guests = if self.has_guest() { pass / GUEST_PART } else { Duration::ZERO };
        let rest = asked.max(guests).min(REST_MAX);
        if !rest.is_zero() {
            std::thread::sleep(rest);
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
            rest.keep(Duration::ZERO);
            before.elapsed()
        };
        assert!(kept(&rest) < REST_MAX / 2, "nobody asked");
        let asked = Instant::now();
        rest.ask(Duration::from_secs(3600));
        rest.keep(Duration::ZERO);
        let took = asked.elapsed();
        assert!(took >= REST_MAX, "{took:?}");
        let left = Duration::from_micros(rest.until_us.load(Ordering::Relaxed));
        assert!(left <= rest.epoch.elapsed(), "the rest is over");
    }

    #[test]
    fn passes_are_followed_by_a_share_of_themselves_while_there_is_a_guest() {
        let rest = Rest::default();
        let pass = Duration::from_millis(50);
        let kept = |rest: &Rest, pass: Duration| {
            let before = Instant::now();
            rest.keep(pass);
            before.elapsed()
        };
        let (one, other) = (rest.guest(), rest.guest());
        assert!(kept(&rest, pass) >= pass / GUEST_PART);
        drop(one);
        assert!(rest.has_guest());
        assert!(kept(&rest, pass) >= pass / GUEST_PART, "one is still there");
        assert!(kept(&rest, Duration::from_secs(3600)) < 10 * REST_MAX, "bounded");
        drop(other);
        assert!(!rest.has_guest());
        assert!(kept(&rest, pass) < pass / GUEST_PART, "nobody is there");
    }
}
