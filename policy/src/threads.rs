//! The learner's threads.
//!
//! Serving and learning share cores, and llama.cpp's worker threads spin at barriers: one competitor of normal priority
//! slows a small model's prefill a hundredfold, one at nice 19 by four per cent. So every thread of the learner gives way.
//! The priority is set on the thread, not the process: on Linux `setpriority` takes a thread id.

use std::{collections::BTreeMap, io};

use candle_core::Var;

use crate::model_error::{ModelError, Result};

/// The weakest normal priority.
const NICE: libc::c_int = 19;

/// Builds the pool inside which all of the learner's tensor work runs; 0 threads means one per core.
///
/// candle's matrix products split over the rayon pool that they are called from, so `pool.install` is enough.
///
/// # Errors
/// When threads cannot be started.
pub fn learner_pool(n_threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .thread_name(|i| format!("learner-{i}"))
        .start_handler(|_| give_way())
        .build()
        .map_err(|error| ModelError::Threads(error.to_string()))
}

/// Lowers the calling thread to nice 19; owner threads of the learner call it first thing.
pub fn give_way() {
    // SAFETY: both calls take plain numbers and touch no memory of ours.
    let result = unsafe {
        let thread = libc::syscall(libc::SYS_gettid) as libc::id_t;
        libc::setpriority(libc::PRIO_PROCESS, thread, NICE)
    };
    if result != 0 {
        // Learning still works, it only competes; serving must not die of it.
        tracing::warn!(error = %io::Error::last_os_error(), "a learner thread keeps normal priority");
    }
}

/// How many micro-batches should run at once in the current pool: one per thread for a small model, whose matrix products
/// are too small to split; one in all for a large one, whose gradients would otherwise exist once per thread.
#[must_use]
pub fn lanes(parameters: &BTreeMap<String, Var>) -> usize {
    const SMALL: usize = 30_000_000;
    let n: usize = parameters.values().map(|var| var.elem_count()).sum();
    if n < SMALL {
        rayon::current_num_threads()
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> libc::c_int {
        // SAFETY: plain numbers in and out.
        unsafe {
            libc::getpriority(
                libc::PRIO_PROCESS,
                libc::syscall(libc::SYS_gettid) as libc::id_t,
            )
        }
    }

    #[test]
    fn every_learner_thread_gives_way_and_the_caller_does_not() {
        let before = niceness();
        let pool = learner_pool(2).unwrap();
        assert_eq!(pool.broadcast(|_| niceness()), vec![NICE, NICE]);
        assert_eq!(niceness(), before);
    }

    #[test]
    fn learner_threads_have_names() {
        let pool = learner_pool(1).unwrap();
        assert_eq!(
            pool.install(|| std::thread::current().name().map(str::to_owned)),
            Some("learner-0".to_owned())
        );
    }
}
