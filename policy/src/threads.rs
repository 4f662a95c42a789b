//! The learner's threads.
//!
//! Serving and learning share cores, and llama.cpp's worker threads spin at barriers: one competitor of normal priority
//! slows a small model's prefill a hundredfold, one at nice 19 by four per cent. So every thread of the learner gives way:
//! nice 19, and Linux's idle class. Nice alone decides who gets how much; but a thread that wakes up at a barrier also has
//! to wait out the slice that a nice 19 thread has begun, and only the idle class is interrupted at once.
//! Both are set on the thread, not the process: on Linux these calls take a thread id.
//!
//! The idle class gets what nothing else on the machine wants, which beside any busy program is nothing at all. That is right
//! for a daemon's learner, and wrong for a command that only learns: it says so first ([`serve_nobody`]).

use std::{
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    memory::allocator,
    model_error::{ModelError, Result},
};

/// Of everything that learns, or judges in the background: the weakest normal priority.
pub const NICE_LEARNER: libc::c_int = 19;
/// Of judging that a client waits for: at nice 19 it would get 1.5 % of a busy core and starve.
pub const NICE_REQUESTS: libc::c_int = 10;

/// Name of the threads that work beside serving for a moment, as `ps -T` shows it.
pub const BESIDE: &str = "beside-serving";

/// There is no traffic in this process that anybody would have to give way to.
static SERVES_NOBODY: AtomicBool = AtomicBool::new(false);

/// From now on no thread of this process lowers its priority: for commands that learn without traffic. Call it before the
/// learner's threads start; there is no way back.
pub fn serve_nobody() {
    SERVES_NOBODY.store(true, Ordering::Release);
}

/// Builds the pool inside which all of the learner's tensor work runs; 0 threads means one per core.
///
/// candle's matrix products split over the rayon pool that they are called from, so `pool.install` is enough.
///
/// # Errors
/// When threads cannot be started.
pub fn learner_pool(n_threads: usize) -> Result<rayon::ThreadPool> {
    pool("learner", n_threads, give_way)
}

/// Builds a pool whose threads start with `prepare`; 0 threads means one per core.
///
/// # Errors
/// When threads cannot be started.
pub fn pool(name: &'static str, n_threads: usize, prepare: fn()) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .thread_name(move |i| format!("{name}-{i}"))
        .start_handler(move |_| prepare())
        .build()
        .map_err(|error| ModelError::Threads(error.to_string()))
}

/// Lowers the calling thread to nice 19 in the idle class, unless the process serves nobody ([`serve_nobody`]); owner threads
/// of the learner, and whoever reads weights beside the traffic, call it first thing.
pub fn give_way() {
    if SERVES_NOBODY.load(Ordering::Acquire) {
        return;
    }
    lower_priority(NICE_LEARNER);
    #[cfg(target_os = "linux")]
    {
        let idle = libc::sched_param { sched_priority: 0 };
        // SAFETY: thread 0 is the calling one, and the struct outlives the call.
        if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const idle) } != 0 {
            // Nice 19 stays, which is nearly as good.
            tracing::warn!(error = %io::Error::last_os_error(), "a thread beside serving is not in the idle class");
        }
    }
}

/// Lowers the calling thread to `nice`, at most 19, unless the process serves nobody ([`serve_nobody`]); without privilege
/// there is no way back up.
pub fn lower_priority(nice: libc::c_int) {
    if SERVES_NOBODY.load(Ordering::Acquire) {
        return;
    }
    // SAFETY: both calls take plain numbers and touch no memory of ours.
    let result = unsafe {
        let thread = libc::syscall(libc::SYS_gettid) as libc::id_t;
        libc::setpriority(libc::PRIO_PROCESS, thread, nice)
    };
    if result != 0 {
        // The work is still done, it only competes; serving must not die of it.
        tracing::warn!(nice, error = %io::Error::last_os_error(), "a thread keeps its priority");
    }
}

/// Runs `work` on a thread of its own that first gives itself a priority, and waits for it: the caller keeps its own.
/// It is named [`BESIDE`], as those are that it starts: without a name it would have the caller's, and whoever lists the
/// daemon's threads would take it for an engine that serves at the lowest priority.
///
/// # Panics
/// When the system has no thread to give, or when `work` panics.
pub fn apart<T: Send>(lower: impl FnOnce() + Send, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let weak = std::thread::Builder::new().name(BESIDE.into()).spawn_scoped(scope, || {
            lower();
            work()
        });
        let weak = weak.expect("the system has a thread to give");
        weak.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Settles how candle uses threads. Call it first in `main`, before any other thread starts.
///
/// candle has a pool of its own for element-wise operations whose workers and callers *spin* at a barrier, one caller at a
/// time: two micro-batches in parallel then spend two thirds of their time waiting (measured: 1,085 training tokens/s with
/// it, 2,948 without, same crowded machine). The only way to turn it off is this environment variable, read once.
/// And unless the second is set, every matrix product reads `/proc/cpuinfo` to learn how many cores there are.
/// What the user has set stays.
///
/// Also tells glibc's allocator to keep what training frees: by default every buffer of a few MiB comes from the kernel
/// anew, and clearing its pages takes longer than the arithmetic of a layer that fills it (measured: a third of an update's
/// time). What is kept is bounded by what an update needs at its peak, which it will need again.
///
/// And a limit on the size of files (`ulimit -f`) becomes an error of the write that meets it, as a full disk is; by default it
/// is a signal that ends the process.
pub fn prepare_process() {
    allocator::keep_freed_memory();
    // SAFETY: no handler runs, the signal is only ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (key, value) in [("CANDLE_NUM_THREADS", 1), ("RAYON_NUM_THREADS", cores)] {
        if std::env::var_os(key).is_none() {
            // SAFETY: the contract above: no other thread runs yet that could read the environment meanwhile.
            unsafe { std::env::set_var(key, value.to_string()) };
        }
    }
}

/// Ends the process with this code, as a return from `main` does, but without the destructors of C++ for what is static.
///
/// A daemon leaves behind what does not end in time. A thread that loads a model meanwhile would find destroyed, under its
/// feet, what llama.cpp keeps in static objects: SIGSEGV in place of the exit code. Nothing of ours waits for a destructor:
/// what must last is on the disk by now.
pub fn end_process(code: u8) -> ! {
    // Nobody is left to be told that nobody reads.
    let _ = io::stdout().flush();
    let _ = io::stderr().flush();
    // SAFETY: it takes a number and does not return; no handler and no destructor runs.
    unsafe { libc::_exit(code.into()) }
}

/// How many micro-batches should run at once in a pool of `n_threads`: one per thread for a small model, whose matrix products
/// are too small to split; one in all for a large one, whose gradients would otherwise exist once per thread. `n_parameters`:
/// of the whole model, for its products are as large where only an adapter learns.
///
/// Never 1 for a small model: [`accumulate`](crate::optimizer::accumulate) adds the gradients of micro-batches in another
/// way then, and its bits must not depend on the number of threads.
#[must_use]
pub fn lanes_of(n_parameters: usize, n_threads: usize) -> usize {
    if is_small_of(n_parameters) { n_threads.max(2) } else { 1 }
}

/// Into how many micro-batches a batch is cut at least, where it has sequences enough: several for a small model, so that
/// there is work for every lane; and a constant, because sums depend on how a batch is cut, and must not on the machine.
#[must_use]
pub fn pieces_min_of(n_parameters: usize) -> usize {
    const PIECES: usize = 4;
    if is_small_of(n_parameters) { PIECES } else { 1 }
}

/// Whether a model has so few numbers that its matrix products do not fill several threads.
#[must_use]
pub fn is_small_of(n_parameters: usize) -> bool {
    n_parameters < SMALL
}

/// Below this a model is small.
const SMALL: usize = 30_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> libc::c_int {
        // SAFETY: plain numbers in and out.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::syscall(libc::SYS_gettid) as libc::id_t) }
    }

    #[test]
    fn every_learner_thread_gives_way_and_the_caller_does_not() {
        let before = niceness();
        let pool = learner_pool(2).unwrap();
        assert_eq!(pool.broadcast(|_| niceness()), vec![NICE_LEARNER, NICE_LEARNER]);
        assert_eq!(niceness(), before);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn learner_threads_are_in_the_idle_class_and_the_caller_is_not() {
        // SAFETY: 0 is the calling thread; a plain number comes back.
        let class = || unsafe { libc::sched_getscheduler(0) };
        let before = class();
        let pool = learner_pool(2).unwrap();
        assert_eq!(pool.broadcast(|_| class()), vec![libc::SCHED_IDLE, libc::SCHED_IDLE]);
        assert_eq!(class(), before);
    }

    #[test]
    fn work_apart_leaves_the_callers_priority_as_it_was() {
        let before = niceness();
        assert_eq!(apart(|| lower_priority(7), niceness), 7);
        assert_eq!(apart(give_way, niceness), NICE_LEARNER);
        assert_eq!(niceness(), before);
        assert!(std::panic::catch_unwind(|| apart(give_way, || assert_eq!(before, before + 1, "seen"))).is_err());
    }

    /// Found by a test that met an engine's thread at nice 19: it was the canary of another one, under its caller's name.
    #[cfg(target_os = "linux")]
    #[test]
    fn work_apart_has_a_name_of_its_own_before_it_lowers_itself() {
        let name = || std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        let (caller, seen) = (name(), std::sync::Mutex::new(String::new()));
        let child = apart(|| *seen.lock().unwrap() = name(), || std::thread::spawn(name).join().unwrap());
        assert_eq!((seen.lock().unwrap().trim_end(), child.trim_end()), (BESIDE, BESIDE));
        assert_ne!(caller.trim_end(), BESIDE);
    }

    /// Goal: who leaves threads behind still ends with its code, and with all that it said. Method: this test again, as a process
    /// in which whatever `exit` calls aborts, as a destructor under a thread may; a word without a line's end waits in the buffer.
    #[test]
    fn a_process_ends_with_its_code_and_its_words_whatever_exit_would_call() {
        const CHILD: &str = "HONED_TEST_END_PROCESS";
        extern "C" fn abort() {
            // SAFETY: it takes nothing and does not return.
            unsafe { libc::abort() }
        }
        if std::env::var_os(CHILD).is_some() {
            // SAFETY: the function that it is given is there as long as the process.
            assert_eq!(unsafe { libc::atexit(abort) }, 0);
            io::stdout().write_all(b"said").unwrap();
            end_process(7);
        }
        let name = std::thread::current().name().expect("tests have names").to_owned();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = child.args(["--exact", &name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert_eq!(ended.status.code(), Some(7), "{ended:?}");
        assert!(ended.stdout.ends_with(b"said"), "{ended:?}");
    }

    #[test]
    fn learner_threads_have_names() {
        let pool = learner_pool(1).unwrap();
        assert_eq!(pool.install(|| std::thread::current().name().map(str::to_owned)), Some("learner-0".to_owned()));
    }
}
