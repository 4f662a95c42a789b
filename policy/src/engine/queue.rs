//! Whose choice gets the next free slot.
//!
//! Between tenants: the one for whom the fewest tokens were computed so far; a tenant that comes back is counted as if it had
//! been there, so that nobody saves up (the virtual token counter of Sheng et al., "Fairness in Serving Large Language
//! Models", OSDI 2024, with computed tokens as the service: a cached prompt is free). Between requests of one tenant: the
//! order of arrival, with all choices of a request before the first one of the next, so that requests end one after another.
//! Were choices to take turns between requests, then of forty requests with eight choices each all would end in the same late
//! moment, and under overload none within its time, with whole choices thrown away by the dozen. The price: a request with few
//! choices waits until those with many that came before it have all their slots. Who must not wait for others has a key.

use std::rc::Rc;

use crate::engine::{exchange::Exchange, tenant::Tenant};

/// A request with choices that have no slot yet.
struct Entry {
    exchange: Rc<Exchange>,
    /// Number of its arrival.
    arrival: u64,
}

impl Entry {
    /// Whether a slot is of use to it now: further choices wait until the first has computed the prompt.
    fn is_ready(&self) -> bool {
        self.exchange.n_started.get() == 0 || self.exchange.prompt_row.borrow().is_some()
    }
}

/// The requests of one tenant.
struct Lane {
    tenant: Tenant,
    /// Tokens computed for it, those included that it is counted for as having been away.
    served: u64,
    /// In order of arrival.
    entries: Vec<Entry>,
}

impl Lane {
    /// Its next entry. While the first ones compute their prompts, those after them may begin: no slot stays empty for that.
    fn first(&self) -> Option<usize> {
        self.entries.iter().position(Entry::is_ready)
    }
}

/// Prompts none of whose choices has a slot (of as many requests as admission lets wait, each of bounded size), and those whose prompt is computed or
/// being computed and which have choices left (at most one for each slot ever given).
#[derive(Default)]
pub(super) struct Queue {
    /// One for each tenant that ever came: as many as the daemon has keys.
    lanes: Vec<Lane>,
    n_arrived: u64,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.entries.is_empty())
    }

    pub(super) fn push(&mut self, exchange: Rc<Exchange>) {
        let present = self.lanes.iter().filter(|lane| !lane.entries.is_empty());
        // Where nobody waits, nobody is owed anything.
        let least = present.map(|lane| lane.served).min().unwrap_or_else(|| self.most_served());
        self.n_arrived += 1;
        let arrival = self.n_arrived;
        let lane = self.lane(exchange.job.request.tenant);
        if lane.entries.is_empty() {
            lane.served = lane.served.max(least);
        }
        lane.entries.push(Entry { exchange, arrival });
    }

    /// The request whose next choice is to start now. It stays here while it has more of them.
    pub(super) fn next(&mut self) -> Option<Rc<Exchange>> {
        let ready = self.lanes.iter_mut().filter_map(|lane| lane.first().map(|at| (lane, at)));
        let (lane, at) = ready.min_by_key(|(lane, at)| (lane.served, lane.entries[*at].arrival))?;
        let entry = &lane.entries[at];
        Some(match entry.exchange.n_unstarted() {
            0 | 1 => lane.entries.remove(at).exchange,
            _ => Rc::clone(&entry.exchange),
        })
    }

    /// Notes that tokens were computed for a tenant.
    pub(super) fn charge(&mut self, tenant: Tenant, n_tokens: usize) {
        self.lane(tenant).served += n_tokens as u64;
    }

    /// Takes out what is `over`, in order of arrival.
    pub(super) fn take_out(&mut self, over: impl Fn(&Exchange) -> bool) -> Vec<Rc<Exchange>> {
        let mut out = Vec::new();
        for lane in &mut self.lanes {
            out.extend(lane.entries.extract_if(.., |entry| over(&entry.exchange)));
        }
        out.sort_by_key(|entry| entry.arrival);
        out.into_iter().map(|entry| entry.exchange).collect()
    }

    fn most_served(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.served).max().unwrap_or(0)
    }

    fn lane(&mut self, tenant: Tenant) -> &mut Lane {
        let at = self.lanes.iter().position(|lane| lane.tenant == tenant).unwrap_or_else(|| {
            self.lanes.push(Lane { tenant, served: self.most_served(), entries: Vec::new() });
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }
}
