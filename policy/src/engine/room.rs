//! Something of which there is only so much and which everybody wants: places in a queue, bytes in memory.
//!
//! Each tenant that is told apart may hold a share of it. Who holds nothing gets a little all the same, however much the others
//! hold: nobody is refused because of another one. What is held in all is bounded by that little for each tenant more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::{Tenant, UNPOISONED, tenant::share_of};

/// So much of it; clones are the same room.
#[derive(Clone, Debug)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    max_of_one: usize,
    first: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// Of those who hold any, as many as the daemon has keys at most.
    of: HashMap<Tenant, usize>,
}

/// A part of the room, given back when it is dropped.
#[derive(Debug)]
pub struct Part {
    room: Room,
    tenant: Tenant,
    n: usize,
}

impl Room {
    /// Room for `max`, of which one tenant may hold the `share` (0 to 1), at least one; who holds nothing gets up to `first`
    /// though the others hold all.
    #[must_use]
    pub fn new(max: usize, share: f64, first: usize) -> Room {
        Room(Arc::new(Inner { max, max_of_one: share_of(max, share), first, held: Mutex::default() }))
    }

    /// Takes a part, if there is so much left. Where nobody holds anything, there is, however much it is.
    #[must_use]
    pub fn take(&self, tenant: Tenant, n: usize) -> Option<Part> {
        let mut part = Part { room: self.clone(), tenant, n: 0 };
        part.becomes(n).then_some(part)
    }

    /// What is held in all.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.held.lock().expect(UNPOISONED).all
    }

    /// Whether a tenant may hold `n`, this being what the others hold, and what all hold.
    fn admits(&self, tenant: Tenant, n: usize, of_tenant: usize, all: usize) -> bool {
        let is_known = tenant != Tenant::ANYBODY;
        let max_of_one = if is_known { self.0.max_of_one } else { self.0.max };
        let fits = all.saturating_add(n) <= self.0.max && of_tenant.saturating_add(n) <= max_of_one;
        fits || all == 0 || (is_known && of_tenant == 0 && n <= self.0.first)
    }
}

impl Part {
    /// Makes it so large, if there is room: always, where it becomes no larger. Whether it did.
    #[must_use]
    pub fn becomes(&mut self, n: usize) -> bool {
        let mut held = self.room.0.held.lock().expect(UNPOISONED);
        let (others, of_tenant) = (held.all - self.n, held.of.get(&self.tenant).copied().unwrap_or(0) - self.n);
        if n > self.n && !self.room.admits(self.tenant, n, of_tenant, others) {
            return false;
        }
        held.all = others + n;
        match of_tenant + n {
            0 => drop(held.of.remove(&self.tenant)),
            left => drop(held.of.insert(self.tenant, left)),
        }
        self.n = n;
        true
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let is_smaller = self.becomes(0);
        debug_assert!(is_smaller, "there is always room for less");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nobody fills the room, and nobody is shut out of it. Method: a room for eight of which one may hold six, and who holds
    /// nothing gets two; the numbers.
    #[test]
    fn who_holds_nothing_is_never_refused_a_little() {
        let room = Room::new(8, 0.75, 2);
        let take = |tenant, n| room.take(Tenant(tenant), n);
        let (six, two) = (take(1, 6).expect("nobody is there"), take(2, 2).expect("it is the rest"));
        assert!(take(1, 1).is_none() && take(2, 1).is_none() && take(0, 1).is_none());
        assert!(take(3, 3).is_none(), "that is no longer a little");
        let first = take(3, 2).expect("it holds nothing");
        assert!(take(3, 1).is_none() && room.held() == 10);
        drop((six, two));
        let more = take(3, 4).expect("six are its share");
        assert!(take(3, 1).is_none());
        drop((first, more));
        assert_eq!((room.held(), room.0.held.lock().unwrap().of.len()), (0, 0));
    }

    #[test]
    fn an_empty_room_takes_anything_and_a_full_one_nothing() {
        let room = Room::new(10, 0.5, 0);
        let huge = room.take(Tenant::ANYBODY, 100).expect("nobody is there");
        assert!(room.take(Tenant::ANYBODY, 1).is_none() && room.take(Tenant(1), 1).is_none());
        drop(huge);
        let (all, none) = (room.take(Tenant::ANYBODY, 10), room.take(Tenant::ANYBODY, 1));
        assert!(all.is_some() && none.is_none(), "who is not told apart may fill it");
    }

    #[test]
    fn a_part_grows_as_long_as_there_is_room_and_always_shrinks() {
        let room = Room::new(10, 1.0, 0);
        let (mut a, b) = (room.take(Tenant(1), 4).unwrap(), room.take(Tenant(2), 4).unwrap());
        assert!(!a.becomes(7) && room.held() == 8, "it stays as it was");
        assert!(a.becomes(6) && room.held() == 10);
        assert!(a.becomes(1) && room.held() == 5);
        drop((a, b));
        assert_eq!(room.held(), 0);
    }
}
