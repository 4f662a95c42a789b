//! Threads that give way to serving.
//!
//! llama.cpp's worker threads spin at barriers: one competitor of normal priority slows a small model's prefill a
//! hundredfold, one at nice 19 by four per cent. The priority is set on the thread, not the process: on Linux
//! `setpriority` takes a thread id.

use std::io;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Of everything that learns or judges in the background: the weakest there is.
pub const NICE_LEARNER: libc::c_int = 19;
/// Of judging that a client waits for: at 19 it would get 1.5 % of a busy core and starve.
pub const NICE_REQUESTS: libc::c_int = 10;

/// Builds a pool whose threads run at `nice`; 0 threads means one per core.
///
/// candle's matrix products split over the rayon pool that they are called from, so `pool.install` is enough.
///
/// # Errors
/// When threads cannot be started.
pub fn pool(
    name: &'static str,
    n_threads: usize,
    nice: libc::c_int,
) -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .thread_name(move |i| format!("{name}-{i}"))
        .start_handler(move |_| lower(nice))
        .build()
}

/// Lowers the calling thread to `nice`, a number up to 19; there is no way back up without privilege.
pub fn lower(nice: libc::c_int) {
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
