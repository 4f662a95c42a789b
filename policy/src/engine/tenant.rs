//! Fairness between those who share a resident, the holders of different keys.

use std::{
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
    /// Everybody who is not told apart; may fill the whole queue.
    pub const ANYBODY: Tenant = Tenant(0);
}

/// Requests admitted and not yet in a slot: of all, and of each tenant that is told apart.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    all: AtomicUsize,
    of: Mutex<HashMap<Tenant, usize>>,
}

/// A place among those who wait, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    waiting: Arc<Waiting>,
    tenant: Tenant,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.leave(self.tenant);
    }
}

/// How many may wait: of all tenants together, and of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitingMax {
    pub(super) all: usize,
    pub(super) of_one: usize,
}

impl WaitingMax {
    /// A queue of `all` places of which one tenant may fill a share, at least one place.
    pub(super) fn new(all: usize, share: f64) -> WaitingMax {
        WaitingMax { all, of_one: ((all as f64 * share).ceil() as usize).clamp(all.min(1), all) }
    }

    /// The same with as many places more as slots are free.
    pub(super) fn and(self, free: usize) -> WaitingMax {
        WaitingMax { all: self.all + free, of_one: self.of_one + free }
    }
}

impl Waiting {
    pub(super) fn count(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// How many wait, of all or of this tenant, if that is as many as may.
    pub(super) fn enter(self: &Arc<Waiting>, tenant: Tenant, max: WaitingMax) -> Result<Place, usize> {
        let mut of = self.of.lock().expect(UNPOISONED);
        let all = self.all.load(Ordering::Relaxed);
        if all >= max.all {
            return Err(all);
        }
        if tenant != Tenant::ANYBODY {
            let own = of.entry(tenant).or_default();
            if *own >= max.of_one {
                return Err(*own);
            }
            *own += 1;
        }
        self.all.store(all + 1, Ordering::Release);
        Ok(Place { waiting: Arc::clone(self), tenant })
    }

    fn leave(&self, tenant: Tenant) {
        let mut of = self.of.lock().expect(UNPOISONED);
        if let Some(own) = of.get_mut(&tenant) {
            *own = own.saturating_sub(1);
        }
        self.all.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places that a tenant gets who asks ten times.
    fn places(waiting: &Arc<Waiting>, tenant: Tenant, max: WaitingMax) -> Vec<Place> {
        (0..10).filter_map(|_| waiting.enter(tenant, max).ok()).collect()
    }

    #[test]
    fn one_tenant_never_fills_the_queue() {
        let (waiting, max) = (Arc::default(), WaitingMax::new(8, 0.75));
        let (heavy, light) = (Tenant(1), Tenant(2));
        let mut of_heavy = places(&waiting, heavy, max);
        assert_eq!(of_heavy.len(), 6);
        assert_eq!(waiting.enter(heavy, max).err(), Some(6));
        let of_light = places(&waiting, light, max);
        assert_eq!(of_light.len(), 2, "the queue itself has a bound");
        drop(of_heavy.pop());
        assert_eq!(waiting.count(), 7);
        assert!(waiting.enter(heavy, max).is_ok());
    }

    #[test]
    fn who_is_not_told_apart_may_fill_it() {
        let (waiting, max) = (Arc::default(), WaitingMax::new(8, 0.1));
        assert_eq!(places(&waiting, Tenant::ANYBODY, max).len(), 8);
    }

    #[test]
    fn every_tenant_has_a_place_where_there_is_one() {
        for (all, share, of_one) in [(0, 0.5, 0), (1, 0.01, 1), (256, 0.75, 192), (3, 0.5, 2), (4, 1.0, 4)] {
            assert_eq!(WaitingMax::new(all, share), WaitingMax { all, of_one });
        }
        assert_eq!(WaitingMax::new(0, 0.5).and(2), WaitingMax { all: 2, of_one: 2 });
    }
}
