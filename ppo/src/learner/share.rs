//! The learner's share of the processor.
//!
//! # Why it is kept this way
//!
//! Everything that learns runs at nice 19 in the idle class, because llama.cpp's threads spin at barriers: one competitor
//! that runs while a forward pass does makes all of its threads wait. Against a busy thread of normal priority it gets
//! 3/1024 of a core, so when traffic never pauses, learning all but stops; `ppo.cpu_share` is the floor that it keeps.
//!
//! Raising the learner's priority would be the obvious way and is the wrong one twice: a thread that lowered its priority
//! needs privilege to raise it again, and any priority that gives it a quarter of a core takes that quarter in the middle of
//! forward passes (measured: a tiny model's prefill falls from 52,186 to 558 tokens/s beside competitors of normal
//! priority, to 11,317 beside nice 10). So it is serving that rests: whole milliseconds, between two passes, when no thread
//! spins ([`policy::engine::Engine::rest`]). The learner's threads, all of them runnable, have the cores to themselves
//! meanwhile. A share of a quarter of one core on two costs serving an eighth of its throughput, only when both want all.
//!
//! # The controller
//!
//! Ten times a second the keeper reads, for all threads of this process at nice 19 (the learner's pool, its owner, the
//! background scorer), how long they ran and how long they were runnable and did not (`/proc/self/task/*/schedstat`).
//! What they wanted is the sum of both: a learner that waits for rollouts wants nothing and gets nothing. When they got
//! less than the smaller of wanted and floor, the keeper asks for a rest of the missing time, divided by the cores it
//! will run on. A rest is at most 20 ms; what is still missing is carried over, up to one period.
//!
//! Without `/proc` (not Linux), or in a daemon that was itself started at nice 19, whose serving threads look like the
//! learner's, there is no floor, and one line in the log says so.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use policy::threads::NICE_LEARNER;

use super::LearnerSetup;
use crate::stats::LearnerCounters;

/// Length of one look.
const PERIOD: Duration = Duration::from_millis(100);

/// Handle of the keeper's thread; dropping it ends the keeper.
pub(super) struct ShareKeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ShareKeeper {
    /// Starts it. `share`: `ppo.cpu_share`, of one core; `rest`: asks serving to rest.
    pub(super) fn start(
        share: f64,
        n_threads: usize,
        rest: impl Fn(Duration) + Send + 'static,
    ) -> std::io::Result<ShareKeeper> {
        let (stop, stopped) = bounded(0);
        let thread = std::thread::Builder::new()
            .name("cpu-share".to_string())
            .spawn(move || keep(share, n_threads, &rest, &stopped))?;
        Ok(ShareKeeper { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ShareKeeper {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the keeper of ppo.cpu_share panicked");
        }
    }
}

/// Keeps `ppo.cpu_share` of this learner for as long as the handle lives; nothing where it is 0.
pub(super) fn keep_of(setup: &LearnerSetup, counters: &Arc<LearnerCounters>) -> Option<ShareKeeper> {
    let config = &setup.config;
    if config.cpu_share == 0.0 {
        return None;
    }
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let n_threads = if config.threads == 0 { n_cores } else { config.threads.min(n_cores) };
    let (engine, counters) = (setup.engine.clone(), Arc::clone(counters));
    let keeper = ShareKeeper::start(config.cpu_share, n_threads, move |duration| {
        counters.rests.fetch_add(1, Ordering::Relaxed);
        engine.rest(duration);
    });
    keeper.inspect_err(|error| tracing::warn!(%error, "ppo.cpu_share is not kept")).ok()
}

/// Whether the learner's threads can be told from the serving ones: a thread's priority can only fall.
pub(super) fn is_told_apart() -> bool {
    nice_of(std::process::id() as i32) < NICE_LEARNER
}

fn keep(share: f64, n_threads: usize, rest: &dyn Fn(Duration), stopped: &Receiver<()>) {
    if !is_told_apart() {
        tracing::warn!("the whole daemon runs at nice {NICE_LEARNER}: ppo.cpu_share cannot be kept");
        return;
    }
    let Some(mut before) = read_all() else {
        tracing::warn!("no /proc/self/task: ppo.cpu_share cannot be kept on this system");
        return;
    };
    let mut debt = Debt::new(share);
    let mut then = Instant::now();
    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        let Some(now) = read_all() else { return };
        let elapsed = then.elapsed();
        then = Instant::now();
        let missing = debt.after(elapsed, used(&before, &now));
        before = now;
        if !missing.is_zero() {
            rest(missing / n_threads.max(1) as u32);
        }
    }
}

/// Time that threads ran, and time that they were runnable and waited for a core.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Use {
    ran: Duration,
    waited: Duration,
}

/// What the learner is still owed.
#[derive(Debug)]
struct Debt {
    share: f64,
    owed: Duration,
}

impl Debt {
    fn new(share: f64) -> Debt {
        Debt { share, owed: Duration::ZERO }
    }

    /// Processor time that is missing after a period in which the learner's threads had this use.
    fn after(&mut self, elapsed: Duration, used: Use) -> Duration {
        let floor = elapsed.mul_f64(self.share);
        let wanted = used.ran + used.waited;
        let due = floor.min(wanted) + self.owed;
        self.owed = due.saturating_sub(used.ran).min(PERIOD.mul_f64(self.share));
        self.owed
    }
}

/// Running and waiting time of every thread at the learner's priority, by thread id.
fn read_all() -> Option<HashMap<i32, Use>> {
    let mut threads = HashMap::new();
    for entry in fs::read_dir("/proc/self/task").ok()? {
        let Some(id) = entry.ok()?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A thread may end between the listing and this line; it is then no longer of interest.
        if nice_of(id) == NICE_LEARNER
            && let Some(used) = read_one(id)
        {
            threads.insert(id, used);
        }
    }
    Some(threads)
}

fn nice_of(thread: i32) -> libc::c_int {
    // SAFETY: plain numbers in and out.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, thread as libc::id_t) }
}

fn read_one(thread: i32) -> Option<Use> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    Some(Use { ran: Duration::from_nanos(numbers.next()??), waited: Duration::from_nanos(numbers.next()??) })
}

/// What the threads that lived through the whole period used in it.
fn used(before: &HashMap<i32, Use>, now: &HashMap<i32, Use>) -> Use {
    let mut sum = Use::default();
    for (id, now) in now {
        let before = before.get(id).copied().unwrap_or(*now);
        sum.ran += now.ran.saturating_sub(before.ran);
        sum.waited += now.waited.saturating_sub(before.waited);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ms(ran: u32, waited: u32) -> Use {
        Use { ran: MS * ran, waited: MS * waited }
    }

    #[test]
    fn a_starved_learner_is_owed_its_floor_and_an_idle_one_nothing() {
        let missing = |used| Debt::new(0.25).after(MS * 100, used);
        assert_eq!(missing(ms(0, 200)), MS * 25);
        assert_eq!(missing(ms(10, 200)), MS * 15);
        assert_eq!(missing(ms(25, 200)), Duration::ZERO);
        assert_eq!(missing(ms(0, 0)), Duration::ZERO, "it wants nothing");
        assert_eq!(missing(ms(2, 3)), MS * 3, "it wants less than its floor");
        assert_eq!(Debt::new(0.0).after(MS * 100, ms(0, 200)), Duration::ZERO);
    }

    #[test]
    fn what_a_rest_did_not_pay_is_carried_over_but_not_for_ever() {
        let mut debt = Debt::new(0.25);
        assert_eq!(debt.after(MS * 100, ms(20, 100)), MS * 5);
        assert_eq!(debt.after(MS * 100, ms(25, 100)), MS * 5);
        assert_eq!(debt.after(MS * 100, ms(40, 100)), Duration::ZERO);
        for _ in 0..9 {
            assert!(debt.after(MS * 100, ms(0, 200)) <= MS * 25);
        }
    }

    /// Goal: the numbers come from the threads at nice 19 and from no others. Method: one spinning thread of each kind.
    #[test]
    fn only_threads_at_the_learners_priority_count() {
        if !is_told_apart() {
            println!("skipped: the tests themselves run at nice {NICE_LEARNER}");
            return;
        }
        let spin = |nice: bool| {
            let (ready, wait) = bounded(0);
            let (stop, stopped) = bounded::<()>(0);
            let thread = std::thread::spawn(move || {
                if nice {
                    policy::threads::lower_priority(NICE_LEARNER);
                }
                // SAFETY: takes and returns plain numbers.
                let id = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
                ready.send(id).unwrap();
                while stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
                    std::hint::spin_loop();
                }
            });
            (wait.recv().unwrap(), stop, thread)
        };
        let (learner, stop_learner, learner_thread) = spin(true);
        let (server, stop_server, server_thread) = spin(false);
        let before = read_all().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = read_all().unwrap();
            assert!(now.contains_key(&learner) && !now.contains_key(&server));
            if used(&before, &now).ran > Duration::ZERO {
                break;
            }
            assert!(Instant::now() < deadline, "a spinning thread never ran");
        }
        drop((stop_learner, stop_server));
        learner_thread.join().unwrap();
        server_thread.join().unwrap();
    }
}
