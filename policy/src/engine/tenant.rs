//! Fairness between those who share a resident, the holders of different keys.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::UNPOISONED;

/// Whose request it is, as far as sharing goes. A small number: the daemon counts its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tenant(pub u32);

impl Tenant {
    /// Everybody who is not told apart; may fill the whole queue, if not with one request.
    pub const ANYBODY: Tenant = Tenant(0);
}

/// Requests, and the sequences that they ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Crowd {
    pub(super) requests: usize,
    pub(super) sequences: usize,
}

impl Crowd {
    /// Whether, this being as many as may wait, a request with so many sequences may join those that do. The first may, whatever
    /// it asks for.
    fn admits(self, waiting: Crowd, n_sequences: usize) -> bool {
        let has_room = waiting.requests == 0 || waiting.sequences + n_sequences <= self.sequences;
        waiting.requests < self.requests && has_room
    }

    fn join(&mut self, n_sequences: usize) {
        self.requests += 1;
        self.sequences += n_sequences;
    }

    fn leave(&mut self, n_requests: usize, n_sequences: usize) {
        self.requests = self.requests.saturating_sub(n_requests);
        self.sequences = self.sequences.saturating_sub(n_sequences);
    }

    /// A share of both, at least one where there is any.
    fn share(self, share: f64) -> Crowd {
        let of = |all: usize| ((all as f64 * share).ceil() as usize).clamp(all.min(1), all);
        Crowd { requests: of(self.requests), sequences: of(self.sequences) }
    }

    fn and(self, free: usize) -> Crowd {
        Crowd { requests: self.requests + free, sequences: self.sequences + free }
    }
}

/// Requests of which some sequence was admitted and is not yet in a slot: of all, and of each tenant that is told apart.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    crowds: Mutex<Crowds>,
    /// How many there are in all, for whoever only looks.
    n_requests: AtomicUsize,
}

#[derive(Debug, Default)]
struct Crowds {
    all: Crowd,
    of: HashMap<Tenant, Crowd>,
}

/// A place among those who wait, given back when it is dropped; room for sequences goes back as they start.
#[derive(Debug)]
pub(super) struct Place {
    waiting: Arc<Waiting>,
    tenant: Tenant,
    /// Sequences that have no slot yet.
    n_unstarted: Cell<usize>,
    /// Those of them that are counted.
    n_counted: Cell<usize>,
}

impl Place {
    /// So many of its sequences wait no longer.
    pub(super) fn give_back(&self, n_sequences: usize) {
        self.n_unstarted.set(self.n_unstarted.get().saturating_sub(n_sequences));
        let counted = self.n_counted.get().min(self.n_unstarted.get());
        self.waiting.leave(self.tenant, 0, self.n_counted.replace(counted) - counted);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.leave(self.tenant, 1, self.n_counted.get());
    }
}

/// How many may wait: of all tenants together, and of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitingMax {
    pub(super) all: Crowd,
    pub(super) of_one: Crowd,
}

impl WaitingMax {
    /// A queue of which one tenant may fill a share, at least one place.
    pub(super) fn new(all: Crowd, share: f64) -> WaitingMax {
        WaitingMax { all, of_one: all.share(share) }
    }

    /// The same with as many more as slots are free.
    pub(super) fn and(self, free: usize) -> WaitingMax {
        WaitingMax { all: self.all.and(free), of_one: self.of_one.and(free) }
    }
}

impl Waiting {
    pub(super) fn count(&self) -> usize {
        self.n_requests.load(Ordering::Relaxed)
    }

    /// Takes a place for a request with so many sequences. No more of them are counted than one tenant may have waiting: the
    /// first request may ask for any number, and would shut the others out until its last sequence but a few has a slot.
    ///
    /// # Errors
    /// How many requests wait, of all or of this tenant, where these or their sequences are as many as may.
    pub(super) fn enter(
        self: &Arc<Waiting>,
        tenant: Tenant,
        n_sequences: usize,
        max: WaitingMax,
    ) -> Result<Place, usize> {
        let n_counted = n_sequences.min(max.of_one.sequences);
        let mut crowds = self.crowds.lock().expect(UNPOISONED);
        if !max.all.admits(crowds.all, n_counted) {
            return Err(crowds.all.requests);
        }
        if tenant != Tenant::ANYBODY {
            let own = crowds.of.entry(tenant).or_default();
            if !max.of_one.admits(*own, n_counted) {
                return Err(own.requests);
            }
            own.join(n_counted);
        }
        crowds.all.join(n_counted);
        self.n_requests.store(crowds.all.requests, Ordering::Release);
        let (n_unstarted, n_counted) = (Cell::new(n_sequences), Cell::new(n_counted));
        Ok(Place { waiting: Arc::clone(self), tenant, n_unstarted, n_counted })
    }

    fn leave(&self, tenant: Tenant, n_requests: usize, n_sequences: usize) {
        let mut crowds = self.crowds.lock().expect(UNPOISONED);
        if let Some(own) = crowds.of.get_mut(&tenant) {
            own.leave(n_requests, n_sequences);
        }
        crowds.all.leave(n_requests, n_sequences);
        self.n_requests.store(crowds.all.requests, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(requests: usize) -> Crowd {
        Crowd { requests, sequences: 1000 }
    }

    /// The places that a tenant gets who asks ten times.
    fn places(waiting: &Arc<Waiting>, tenant: Tenant, max: WaitingMax) -> Vec<Place> {
        (0..10).filter_map(|_| waiting.enter(tenant, 1, max).ok()).collect()
    }

    #[test]
    fn one_tenant_never_fills_the_queue() {
        let (waiting, max) = (Arc::default(), WaitingMax::new(queue(8), 0.75));
        let (heavy, light) = (Tenant(1), Tenant(2));
        let mut of_heavy = places(&waiting, heavy, max);
        assert_eq!(of_heavy.len(), 6);
        assert_eq!(waiting.enter(heavy, 1, max).err(), Some(6));
        let of_light = places(&waiting, light, max);
        assert_eq!(of_light.len(), 2, "the queue itself has a bound");
        drop(of_heavy.pop());
        assert_eq!(waiting.count(), 7);
        assert!(waiting.enter(heavy, 1, max).is_ok());
    }

    #[test]
    fn who_is_not_told_apart_may_fill_it() {
        let (waiting, max) = (Arc::default(), WaitingMax::new(queue(8), 0.1));
        assert_eq!(places(&waiting, Tenant::ANYBODY, max).len(), 8);
    }

    #[test]
    fn every_tenant_has_a_place_where_there_is_one() {
        for (all, share, of_one) in [(0, 0.5, 0), (1, 0.01, 1), (256, 0.75, 192), (3, 0.5, 2), (4, 1.0, 4)] {
            assert_eq!(WaitingMax::new(queue(all), share).of_one.requests, of_one);
        }
        assert_eq!(WaitingMax::new(queue(0), 0.5).and(2).of_one, Crowd { requests: 2, sequences: 502 });
    }

    /// Goal: requests wait by what they ask for, and the first is never too large. Method: a queue of many places and few
    /// sequences, of which one tenant may have half.
    #[test]
    fn sequences_have_a_bound_of_their_own() {
        let (waiting, max) = (Arc::default(), WaitingMax::new(Crowd { requests: 100, sequences: 10 }, 0.5));
        let enter = |tenant, n_sequences| Waiting::enter(&waiting, Tenant(tenant), n_sequences, max);
        let huge = enter(1, 128).expect("nobody waits");
        assert_eq!(enter(1, 1).err(), Some(1), "its half is full");
        let other = enter(2, 128).expect("one request has no more than its tenant's half");
        assert_eq!(enter(3, 1).err(), Some(2), "two halves are all");
        drop((huge, other));
        let four = enter(1, 4).expect("the huge one is gone");
        assert_eq!(enter(1, 2).err(), Some(1), "half are for others");
        let five = enter(2, 5).expect("it is another's half");
        assert_eq!(enter(3, 2).err(), Some(2), "nine wait");
        let last = enter(3, 1).expect("nine wait");
        assert_eq!((waiting.count(), enter(4, 1).err()), (3, Some(3)));
        drop((four, five, last));
        assert_eq!(waiting.crowds.lock().unwrap().all, Crowd::default());
        assert_eq!((waiting.count(), enter(1, 128).is_ok()), (0, true));
    }

    /// Goal: room goes back as sequences start, never more than was taken. Method: the numbers, sequence by sequence.
    #[test]
    fn room_goes_back_as_sequences_start() {
        let (waiting, max) = (Arc::<Waiting>::default(), WaitingMax::new(Crowd { requests: 100, sequences: 10 }, 0.5));
        let of_all = || waiting.crowds.lock().unwrap().all.sequences;
        let own = || waiting.crowds.lock().unwrap().of[&Tenant(1)];
        let place = Waiting::enter(&waiting, Tenant(1), 8, max).expect("nobody waits");
        assert_eq!((of_all(), own()), (5, Crowd { requests: 1, sequences: 5 }));
        let other = Waiting::enter(&waiting, Tenant(2), 2, max).expect("there is room");
        for left in [5, 5, 5, 4, 3] {
            place.give_back(1);
            assert_eq!((of_all(), own()), (left + 2, Crowd { requests: 1, sequences: left }));
        }
        // The rest at once, as of a request that is cancelled, and no more than there is.
        place.give_back(3);
        place.give_back(1);
        assert_eq!((of_all(), own()), (2, Crowd { requests: 1, sequences: 0 }));
        drop((place, other));
        assert_eq!((of_all(), own()), (0, Crowd::default()));
    }
}
