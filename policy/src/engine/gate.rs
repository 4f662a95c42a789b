//! One forward pass at a time, whichever resident runs it.
//!
//! llama.cpp spreads a pass over all its threads and meets at a barrier after every operation. Two residents that compute
//! at once (a swap: the old one drains, the new one serves) put twice as many threads on the cores as there are, and every
//! barrier then waits for a thread that is not running: both become slower by an order of magnitude, not by half. So they
//! take turns, in the order in which they asked; an unfair lock would let one of them starve the other's streams.

use std::sync::{
    Arc, Condvar, Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

const UNPOISONED: &str = "no holder of the gate's lock panics";

/// A first-come, first-served lock.
#[derive(Debug, Default)]
pub(super) struct Gate {
    turns: Mutex<Turns>,
    changed: Condvar,
    at_work: AtomicUsize,
}

#[derive(Debug, Default)]
struct Turns {
    next: u64,
    serving: u64,
}

/// The right to compute, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Gate);

/// A resident with something to do, for as long as this lives.
#[derive(Debug)]
pub(super) struct AtWork(Arc<Gate>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// Says that a resident has something to do.
    pub(super) fn work(self: &Arc<Gate>) -> AtWork {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(Arc::clone(self))
    }

    /// Whether several residents have something to do, so that each waits for the passes of others.
    pub(super) fn is_shared(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) > 1
    }

    /// Waits for this caller's turn.
    pub(super) fn enter(&self) -> Turn<'_> {
        let mut turns: MutexGuard<'_, Turns> = self.turns.lock().expect(UNPOISONED);
        let mine = turns.next;
        turns.next += 1;
        while turns.serving != mine {
            turns = self.changed.wait(turns).expect(UNPOISONED);
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turns.lock().expect(UNPOISONED).serving += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn it_is_shared_while_two_are_at_work() {
        let gate = Arc::new(Gate::default());
        let one = gate.work();
        assert!(!gate.is_shared());
        let other = gate.work();
        assert!(gate.is_shared());
        drop(one);
        assert!(!gate.is_shared());
        drop(other);
    }

    #[test]
    fn one_at_a_time_and_in_order() {
        let gate = Gate::default();
        let inside = AtomicU32::new(0);
        let order = Mutex::new(Vec::new());
        let first = gate.enter();
        thread::scope(|scope| {
            for i in 1..=8 {
                let (gate, inside, order) = (&gate, &inside, &order);
                scope.spawn(move || {
                    let _turn = gate.enter();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    order.lock().unwrap().push(i);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
                while gate.turns.lock().unwrap().next <= i {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
