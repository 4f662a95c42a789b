//! What the allocator keeps of freed memory.
//!
//! glibc keeps what was freed in the arena that it came from, of which a process has eight for each processor: tens of megabytes
//! in each, once buffers of that size have come and gone. A version that comes may be given another arena than the one that
//! went had, so a process that does nothing but swap versions grows, up to a multiple of what it uses. There what a version
//! frees is given back ([`give_back`]).
//!
//! A process that trains has one arena, and keeps what it frees ([`keep_freed_memory`]): its next update needs it again, and so
//! does its next version. To give that back would stop every thread that allocates, those that decode too, until the kernel has
//! taken gigabytes, and training would then fetch them anew.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) use self::glibc::{give_back, keep_freed_memory};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::sync::atomic::{AtomicBool, Ordering};

    /// This process keeps what it frees.
    static KEEPS: AtomicBool = AtomicBool::new(false);

    /// From now on buffers up to 32 MiB, which is the most that glibc allows, are carved from memory that stays. Call it before
    /// other threads start.
    pub(crate) fn keep_freed_memory() {
        KEEPS.store(true, Ordering::Release);
        // SAFETY: settings of the allocator, made before other threads start; it checks their range itself.
        unsafe {
            // Heaps of other threads are given back whenever they are empty, whatever the thresholds say.
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        }
    }

    /// Gives the pages of what is free back to the system, of all arenas, unless this process keeps them.
    ///
    /// It takes their locks one after the other, for some milliseconds together, and so at the priority of those who may wait
    /// for them: one who gave way to them could be kept from giving the lock back.
    pub(crate) fn give_back() {
        if KEEPS.load(Ordering::Acquire) {
            return;
        }
        // SAFETY: it touches only what is free, under the allocator's own locks.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Other allocators see to it themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}

/// They are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_freed_memory() {}
