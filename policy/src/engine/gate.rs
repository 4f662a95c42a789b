//! One forward pass at a time, whichever resident runs it.
//!
//! llama.cpp spreads a pass over all its threads and meets at a barrier after every operation. Two residents that compute
//! at once (a swap: the old one drains, the new one serves) put twice as many threads on the cores as there are, and every
//! barrier then waits for a thread that is not running: both become slower by an order of magnitude, not by half. So they
//! take turns, in the order in which they asked; an unfair lock would let one of them starve the other's streams.

use std::sync::{Condvar, Mutex, MutexGuard};

const UNPOISONED: &str = "no holder of the gate's lock panics";

/// A first-come, first-served lock.
#[derive(Debug, Default)]
pub(super) struct Gate {
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    next: u64,
    serving: u64,
}

/// The right to compute, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Gate);

impl Gate {
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
