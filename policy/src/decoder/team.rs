//! The threads that compute one pass together.
//!
//! All run the same pass and meet after each of its phases. Within a phase they take pieces from a common counter, so that whoever
//! is kept from the processor for a moment holds up the others by one piece at most. Between passes the helpers sleep.

use std::{
    hint,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Looks at a barrier before a thread offers the processor to others: about ten microseconds.
const SPINS: usize = 2_000;

/// An owner and its helpers.
pub(super) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// One of those who compute.
pub(super) struct Member<'a> {
    shared: &'a Shared,
    /// 0 for the owner.
    pub(super) index: usize,
    n_members: usize,
}

/// A pass as the helpers see it. The owner returns from [`Team::run`] only when all are done with it.
#[derive(Clone, Copy)]
struct Pass(&'static (dyn Fn(&Member<'_>) + Sync));

#[derive(Default)]
struct Shared {
    order: Mutex<Order>,
    woken: Condvar,
    /// The next piece of the phase.
    next: AtomicUsize,
    arrived: AtomicUsize,
    /// Phases that are over.
    phase: AtomicUsize,
}

#[derive(Default)]
struct Order {
    /// Passes so far.
    n_passes: usize,
    pass: Option<Pass>,
    is_over: bool,
}

impl Team {
    /// Of `n_threads`, the caller's among them.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn new(n_threads: usize) -> std::io::Result<Team> {
        let mut team = Team { shared: Arc::default(), helpers: Vec::new() };
        for index in 1..n_threads.max(1) {
            let shared = Arc::clone(&team.shared);
            let helper = thread::Builder::new().name(format!("decoder-{index}"));
            team.helpers.push(helper.spawn(move || help(&shared, index, n_threads))?);
        }
        Ok(team)
    }

    /// Threads, the owner's among them.
    pub(super) fn n_threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs a pass on all threads, or on the caller's alone; returns when it is over.
    pub(super) fn run(&mut self, alone: bool, pass: &(dyn Fn(&Member<'_>) + Sync)) {
        if alone || self.helpers.is_empty() {
            self.shared.next.store(0, Ordering::Relaxed);
            pass(&Member { shared: &self.shared, index: 0, n_members: 1 });
            return;
        }
        // SAFETY: helpers use it between this order and the last barrier below, which the owner waits for.
        let forever = unsafe { std::mem::transmute::<&(dyn Fn(&Member<'_>) + Sync), &'static (dyn Fn(&Member<'_>) + Sync)>(pass) };
        let mut order = self.shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.n_passes += 1;
        order.pass = Some(Pass(forever));
        drop(order);
        self.shared.woken.notify_all();
        let owner = Member { shared: &self.shared, index: 0, n_members: self.n_threads() };
        let whole = Whole;
        pass(&owner);
        owner.meet();
        std::mem::forget(whole);
    }
}

/// Ends the process where a pass panics: the others would wait for ever, or read what is gone.
struct Whole;

impl Drop for Whole {
    fn drop(&mut self) {
        tracing::error!("a forward pass panicked");
        std::process::abort();
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.order.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.shared.woken.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked has said so; and a pass does not panic.
            drop(helper.join());
        }
    }
}

fn help(shared: &Shared, index: usize, n_members: usize) {
    let member = Member { shared, index, n_members };
    let mut n_done = 0;
    loop {
        let mut order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        while order.n_passes == n_done && !order.is_over {
            order = shared.woken.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        let pass = order.pass.filter(|_| !order.is_over);
        n_done = order.n_passes;
        drop(order);
        let Some(Pass(pass)) = pass else {
            return;
        };
        let whole = Whole;
        pass(&member);
        member.meet();
        std::mem::forget(whole);
    }
}

impl Member<'_> {
    /// A phase: `work` on each of `n` pieces, by whoever comes first; returns when all are done.
    pub(super) fn each(&self, n: usize, work: impl Fn(usize)) {
        if self.n_members == 1 {
            (0..n).for_each(work);
            return;
        }
        loop {
            let piece = self.shared.next.fetch_add(1, Ordering::Relaxed);
            if piece >= n {
                break;
            }
            work(piece);
        }
        self.meet();
    }

    /// Waits for all. What each wrote before, all can read afterwards.
    fn meet(&self) {
        let shared = self.shared;
        let phase = shared.phase.load(Ordering::Acquire);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.n_members {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.next.store(0, Ordering::Relaxed);
            shared.phase.store(phase.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut n_looks = 0;
        while shared.phase.load(Ordering::Acquire) == phase {
            n_looks += 1;
            if n_looks % SPINS == 0 { thread::yield_now() } else { hint::spin_loop() }
        }
    }
}
