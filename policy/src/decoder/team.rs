//! The threads that compute one pass together.
//!
//! All run the same pass and meet after each of its phases. Within a phase they take pieces from a common counter, so that whoever
//! is kept from the processor for a moment holds up the others by one piece at most. Between passes the helpers sleep.

use std::{
    hint,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    /// Helpers that are through with the pass.
    n_done: AtomicUsize,
    is_broken: AtomicBool,
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
    ///
    /// # Panics
    /// When the pass does on one of them; the team can run another one.
    pub(super) fn run(&mut self, alone: bool, pass: &(dyn Fn(&Member<'_>) + Sync)) {
        let shared = &self.shared;
        if alone || self.helpers.is_empty() {
            pass(&Member { shared, index: 0, n_members: 1 });
            return;
        }
        shared.begin();
        // SAFETY: helpers use it until they say that they are done, for which the owner waits below, whatever happens.
        let forever = unsafe {
            std::mem::transmute::<&(dyn Fn(&Member<'_>) + Sync), &'static (dyn Fn(&Member<'_>) + Sync)>(pass)
        };
        let mut order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.n_passes += 1;
        order.pass = Some(Pass(forever));
        drop(order);
        shared.woken.notify_all();
        let ended = shared.take_part(Pass(forever), &Member { shared, index: 0, n_members: self.n_threads() });
        wait_until(|| shared.n_done.load(Ordering::Acquire) == self.helpers.len());
        shared.order.lock().unwrap_or_else(PoisonError::into_inner).pass = None;
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
        assert!(!shared.is_broken.load(Ordering::Relaxed), "a thread of a forward pass panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.order.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.shared.woken.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches what a pass panics with.
            drop(helper.join());
        }
    }
}

fn help(shared: &Shared, index: usize, n_members: usize) {
    let member = Member { shared, index, n_members };
    let mut n_passes = 0;
    loop {
        let mut order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        while order.n_passes == n_passes && !order.is_over {
            order = shared.woken.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        let pass = order.pass.filter(|_| !order.is_over);
        n_passes = order.n_passes;
        drop(order);
        let Some(pass) = pass else {
            return;
        };
        // The owner learns of a panic by the flag.
        drop(shared.take_part(pass, &member));
        shared.n_done.fetch_add(1, Ordering::Release);
    }
}

/// Looks, and from time to time offers the processor to others.
fn wait_until(is_so: impl Fn() -> bool) {
    let mut n_looks = 0;
    while !is_so() {
        n_looks += 1;
        if n_looks % SPINS == 0 { thread::yield_now() } else { hint::spin_loop() }
    }
}

impl Shared {
    /// Before a pass, while no helper is in one.
    fn begin(&self) {
        for counter in [&self.next, &self.arrived, &self.n_done] {
            counter.store(0, Ordering::Relaxed);
        }
        self.is_broken.store(false, Ordering::Relaxed);
    }

    /// Runs a pass. A panic in it breaks it for all, so that nobody waits at a barrier for who does not come.
    fn take_part(&self, Pass(pass): Pass, member: &Member<'_>) -> thread::Result<()> {
        let ended = catch_unwind(AssertUnwindSafe(|| pass(member)));
        if ended.is_err() {
            self.is_broken.store(true, Ordering::Release);
        }
        ended
    }
}

impl Member<'_> {
    /// Threads that compute the pass.
    pub(super) fn n_members(&self) -> usize {
        self.n_members
    }

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
        wait_until(|| {
            assert!(!shared.is_broken.load(Ordering::Acquire), "another thread of this pass panicked");
            shared.phase.load(Ordering::Acquire) != phase
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every piece is done once, and what one phase writes the next can read. Method: many small phases, each looking at what
    /// the one before left.
    #[test]
    fn phases_follow_each_other() {
        for n_threads in [1, 2, 5] {
            let mut team = Team::new(n_threads).unwrap();
            for n_pieces in [0, 1, 3, 100] {
                let counts: Vec<AtomicUsize> = (0..n_pieces).map(|_| AtomicUsize::new(0)).collect();
                let has = |piece: usize, n: usize| assert_eq!(counts[piece].load(Ordering::Relaxed), n);
                team.run(false, &|member| {
                    for phase in 0..50 {
                        member.each(n_pieces, |piece| {
                            counts[piece].fetch_add(1, Ordering::Relaxed);
                        });
                        member.each(n_pieces, |piece| has(n_pieces - 1 - piece, phase + 1));
                    }
                });
                (0..n_pieces).for_each(|piece| has(piece, 50));
            }
        }
    }

    /// Goal: a pass that panics, on whichever thread, ends with that panic, and the team goes on. Method: a panic in the middle of a
    /// phase that others wait behind.
    #[test]
    fn a_panic_ends_the_pass_and_not_the_team() {
        let mut team = Team::new(3).unwrap();
        for culprit in 0..3 {
            let broken = catch_unwind(AssertUnwindSafe(|| {
                team.run(false, &|member| {
                    member.each(3, |_| ());
                    assert_ne!(member.index, culprit);
                    member.each(3, |_| ());
                });
            }));
            assert!(broken.is_err(), "thread {culprit}");
            let done = AtomicUsize::new(0);
            team.run(false, &|member| {
                member.each(7, |_| {
                    done.fetch_add(1, Ordering::Relaxed);
                })
            });
            assert_eq!(done.into_inner(), 7);
        }
    }
}
