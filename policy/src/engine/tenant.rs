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

/// Requests, the sequences that they ask for, and the tokens that these may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Crowd {
    pub(super) requests: usize,
    pub(super) sequences: usize,
    pub(super) tokens: usize,
}

impl Crowd {
    /// Whether, this being as many as may wait, a newcomer may join those that do. The first may, whatever it asks for.
    fn admits(self, waiting: Crowd, newcomer: Crowd) -> bool {
        let with = waiting.and(newcomer);
        let has_room = waiting.requests == 0 || (with.sequences <= self.sequences && with.tokens <= self.tokens);
        waiting.requests < self.requests && has_room
    }

    /// Whether it is no more than that.
    fn fits(self, max: Crowd) -> bool {
        self.at_most(max) == self
    }

    /// Both together.
    pub(super) fn and(self, other: Crowd) -> Crowd {
        self.each(other, usize::saturating_add)
    }

    fn without(self, gone: Crowd) -> Crowd {
        self.each(gone, usize::saturating_sub)
    }

    fn at_most(self, max: Crowd) -> Crowd {
        self.each(max, usize::min)
    }

    fn each(self, other: Crowd, of: impl Fn(usize, usize) -> usize) -> Crowd {
        Crowd {
            requests: of(self.requests, other.requests),
            sequences: of(self.sequences, other.sequences),
            tokens: of(self.tokens, other.tokens),
        }
    }

    /// A share of all of them, at least one where there is any.
    fn share(self, share: f64) -> Crowd {
        let of = |all| share_of(all, share);
        Crowd { requests: of(self.requests), sequences: of(self.sequences), tokens: of(self.tokens) }
    }
}

/// A share of so many, at least one where there is any.
pub(super) fn share_of(all: usize, share: f64) -> usize {
    ((all as f64 * share).ceil() as usize).clamp(all.min(1), all)
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
    /// Requests among them that came into a full queue.
    n_firsts: usize,
    of: HashMap<Tenant, Crowd>,
}

/// A place among those who wait, given back when it is dropped; room for sequences and their tokens goes back as they start.
#[derive(Debug)]
pub(super) struct Place {
    waiting: Arc<Waiting>,
    tenant: Tenant,
    /// Whether it came into a full queue, as its tenant's first.
    is_first: bool,
    /// What has no slot yet.
    unstarted: Cell<Crowd>,
    /// Of that, what is counted.
    counted: Cell<Crowd>,
}

impl Place {
    /// So much of it waits no longer.
    pub(super) fn give_back(&self, gone: Crowd) {
        self.unstarted.set(self.unstarted.get().without(gone));
        let counted = self.counted.get().at_most(self.unstarted.get());
        self.waiting.leave(self.tenant, self.counted.replace(counted).without(counted), 0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.leave(self.tenant, self.counted.get(), usize::from(self.is_first));
    }
}

/// How many may wait: of all tenants together, and of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitingMax {
    pub(super) all: Crowd,
    pub(super) of_one: Crowd,
    /// What a tenant that is told apart and has nothing waiting may have though the others have filled the queue.
    first: Crowd,
}

/// First requests that a full queue took at most, of as many tenants: what it is longer by.
pub(super) const FIRST_REQUESTS_MAX: usize = 64;

/// Sequences of such a request at most; their tokens fit into one window.
pub(super) const FIRST_SEQUENCES: usize = 8;

impl WaitingMax {
    /// A queue of which one tenant may fill a share, at least one place.
    pub(super) fn new(all: Crowd, share: f64) -> WaitingMax {
        WaitingMax { all, of_one: all.share(share), first: Crowd::default() }
    }

    /// The same with room beyond it for a first request of every tenant, with so many sequences and tokens: whose key is new must not
    /// wait until others leave. None where nobody may wait.
    pub(super) fn with_first(self, sequences: usize, tokens: usize) -> WaitingMax {
        match self.all.requests {
            0 => self,
            _ => WaitingMax { first: Crowd { requests: 1, sequences, tokens }, ..self },
        }
    }

    /// The same with what fits into the slots that are free.
    pub(super) fn and(self, free: Crowd) -> WaitingMax {
        WaitingMax { all: self.all.and(free), of_one: self.of_one.and(free), ..self }
    }

    /// Requests that wait at most.
    pub(super) fn requests(&self) -> usize {
        self.all.requests + self.first.requests * FIRST_REQUESTS_MAX
    }

    /// Whether a full queue, which took so many first requests already, takes one of a tenant of which `own` wait.
    fn admits_first(&self, n_firsts: usize, own: Crowd, newcomer: Crowd) -> bool {
        own.requests == 0 && newcomer.fits(self.first) && n_firsts < FIRST_REQUESTS_MAX
    }
}

impl Waiting {
    pub(super) fn count(&self) -> usize {
        self.n_requests.load(Ordering::Relaxed)
    }

    /// Takes a place for a request, which asks for so much. No more of that is counted than one tenant may have waiting: the first
    /// request may ask for anything, and would shut the others out until its last sequence but a few has a slot.
    ///
    /// # Errors
    /// How many requests wait, of all or of this tenant, where these or what they ask for are as many as may.
    pub(super) fn enter(self: &Arc<Waiting>, tenant: Tenant, asked: Crowd, max: WaitingMax) -> Result<Place, usize> {
        let counted = asked.at_most(max.of_one);
        let mut crowds = self.crowds.lock().expect(UNPOISONED);
        let is_told_apart = tenant != Tenant::ANYBODY;
        let own = crowds.of.get(&tenant).copied().unwrap_or_default();
        let is_first = !max.all.admits(crowds.all, counted);
        if is_first && !(is_told_apart && max.admits_first(crowds.n_firsts, own, asked)) {
            return Err(crowds.all.requests);
        }
        if is_told_apart {
            let own = crowds.of.entry(tenant).or_default();
            if !max.of_one.admits(*own, counted) {
                return Err(own.requests);
            }
            *own = own.and(counted);
        }
        crowds.all = crowds.all.and(counted);
        crowds.n_firsts += usize::from(is_first);
        self.n_requests.store(crowds.all.requests, Ordering::Release);
        let (unstarted, counted) = (Cell::new(asked), Cell::new(counted));
        Ok(Place { waiting: Arc::clone(self), tenant, is_first, unstarted, counted })
    }

    fn leave(&self, tenant: Tenant, gone: Crowd, n_firsts: usize) {
        let mut crowds = self.crowds.lock().expect(UNPOISONED);
        if let Some(own) = crowds.of.get_mut(&tenant) {
            *own = own.without(gone);
        }
        crowds.all = crowds.all.without(gone);
        crowds.n_firsts -= n_firsts;
        self.n_requests.store(crowds.all.requests, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(requests: usize) -> Crowd {
        Crowd { requests, sequences: 1000, tokens: 1000 }
    }

    /// A request for so many sequences of one token each.
    fn asks(sequences: usize) -> Crowd {
        Crowd { requests: 1, sequences, tokens: sequences }
    }

    fn started(n: usize) -> Crowd {
        Crowd { requests: 0, ..asks(n) }
    }

    /// The places that a tenant gets who asks ten times.
    fn places(waiting: &Arc<Waiting>, tenant: Tenant, max: WaitingMax) -> Vec<Place> {
        (0..10).filter_map(|_| waiting.enter(tenant, asks(1), max).ok()).collect()
    }

    #[test]
    fn one_tenant_never_fills_the_queue() {
        let (waiting, max) = (Arc::default(), WaitingMax::new(queue(8), 0.75));
        let (heavy, light) = (Tenant(1), Tenant(2));
        let mut of_heavy = places(&waiting, heavy, max);
        assert_eq!(of_heavy.len(), 6);
        assert_eq!(waiting.enter(heavy, asks(1), max).err(), Some(6));
        let of_light = places(&waiting, light, max);
        assert_eq!(of_light.len(), 2, "the queue itself has a bound");
        drop(of_heavy.pop());
        assert_eq!(waiting.count(), 7);
        assert!(waiting.enter(heavy, asks(1), max).is_ok());
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
        let of_one = WaitingMax::new(queue(0), 0.5).and(Crowd { tokens: 200, ..asks(2) }).of_one;
        assert_eq!(of_one, Crowd { requests: 1, sequences: 502, tokens: 700 });
    }

    /// Goal: requests wait by what they ask for, and the first is never too large. Method: a queue of many places and few
    /// sequences, of which one tenant may have half.
    #[test]
    fn sequences_have_a_bound_of_their_own() {
        let (waiting, max) =
            (Arc::default(), WaitingMax::new(Crowd { requests: 100, sequences: 10, tokens: 1000 }, 0.5));
        let enter = |tenant, n_sequences| Waiting::enter(&waiting, Tenant(tenant), asks(n_sequences), max);
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

    /// Goal: others never shut a newcomer out, and what is let in beyond the queue is little. Method: a queue that one tenant has filled
    /// to the last place, and what another, who had nothing, gets then: one small request, and as many of those as are foreseen.
    #[test]
    fn who_has_nothing_waiting_gets_a_small_request_in() {
        let full = Crowd { requests: 2, sequences: 10, tokens: 1000 };
        let (waiting, max) = (Arc::<Waiting>::default(), WaitingMax::new(full, 1.0).with_first(3, 3));
        let enter = |tenant, n_sequences| Waiting::enter(&waiting, Tenant(tenant), asks(n_sequences), max);
        let of_heavy = [enter(1, 5).unwrap(), enter(1, 5).unwrap()];
        assert_eq!(enter(1, 1).err(), Some(2), "its own fill the queue");
        assert_eq!((enter(2, 4).err(), enter(0, 1).err()), (Some(2), Some(2)), "too much; and nobody in particular");
        let first = enter(2, 3).expect("it has nothing waiting");
        assert_eq!(enter(2, 1).err(), Some(3), "now it has");
        let others: Vec<Place> = (3..100).filter_map(|tenant| enter(tenant, 1).ok()).collect();
        assert_eq!((others.len() + 1, waiting.count()), (FIRST_REQUESTS_MAX, max.requests()));
        drop(first);
        assert!(enter(2, 1).is_ok());
        drop((of_heavy, others));
        assert_eq!(waiting.crowds.lock().unwrap().all, Crowd::default());
        // The same of a queue that one request has filled with its tokens.
        let of_tokens = WaitingMax::new(Crowd { tokens: 10, ..queue(1000) }, 1.0).with_first(3, 3);
        let enter = |tenant, n| waiting.enter(Tenant(tenant), asks(n), of_tokens);
        let huge = enter(1, 10).expect("nobody waits");
        let firsts: Vec<Place> = (2..200).filter_map(|tenant| enter(tenant, 1).ok()).collect();
        assert_eq!(firsts.len(), FIRST_REQUESTS_MAX);
        drop((huge, firsts));
        assert_eq!(waiting.crowds.lock().unwrap().n_firsts, 0);
        let nobody_waits = WaitingMax::new(queue(0), 1.0).with_first(3, 3);
        assert_eq!((waiting.enter(Tenant(1), asks(1), nobody_waits).err(), nobody_waits.requests()), (Some(0), 0));
    }

    /// Goal: room goes back as sequences start, never more than was taken. Method: the numbers, sequence by sequence.
    #[test]
    fn room_goes_back_as_sequences_start() {
        let (waiting, max) =
            (Arc::<Waiting>::default(), WaitingMax::new(Crowd { requests: 100, sequences: 10, tokens: 1000 }, 0.5));
        let of_all = || waiting.crowds.lock().unwrap().all.sequences;
        let own = || waiting.crowds.lock().unwrap().of[&Tenant(1)].sequences;
        let place = Waiting::enter(&waiting, Tenant(1), asks(8), max).expect("nobody waits");
        assert_eq!((of_all(), own()), (5, 5));
        let other = Waiting::enter(&waiting, Tenant(2), asks(2), max).expect("there is room");
        for left in [5, 5, 5, 4, 3] {
            place.give_back(started(1));
            assert_eq!((of_all(), own()), (left + 2, left));
        }
        // The rest at once, as of a request that is cancelled, and no more than there is.
        place.give_back(started(3));
        place.give_back(started(1));
        assert_eq!((of_all(), own()), (2, 0));
        drop((place, other));
        assert_eq!((of_all(), own()), (0, 0));
        assert_eq!(waiting.crowds.lock().unwrap().all, Crowd::default());
    }

    /// Goal: few sequences of many tokens are as full a queue as many of few. Method: a queue for a hundred tokens, of which one
    /// tenant may have half.
    #[test]
    fn tokens_have_a_bound_of_their_own() {
        let (waiting, max) = (Arc::default(), WaitingMax::new(Crowd { tokens: 100, ..queue(100) }, 0.5));
        let enter = |tenant, tokens| Waiting::enter(&waiting, Tenant(tenant), Crowd { tokens, ..asks(1) }, max);
        let huge = enter(1, 4000).expect("nobody waits");
        assert_eq!(enter(1, 1).err(), Some(1), "its half is full");
        let few = enter(2, 20).expect("half is for others");
        assert_eq!((enter(2, 31).err(), enter(3, 31).err()), (Some(2), Some(2)), "101 are too many");
        huge.give_back(Crowd { requests: 0, sequences: 0, tokens: 3990 });
        let next = enter(1, 40).expect("ten are left of its first");
        drop((huge, few, next));
        assert_eq!(waiting.crowds.lock().unwrap().all, Crowd::default());
    }
}
