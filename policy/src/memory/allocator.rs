//! What the allocator keeps of freed memory.
//!
//! glibc keeps what was freed in the arena that it came from, of which a process has eight for each processor: tens of megabytes
//! in each, once buffers of that size have come and gone. A version that comes may be given another arena than the one that
//! went had, so a daemon that does nothing but swap versions grows, up to a multiple of what it uses.

/// Gives the pages of what is free back to the system, of all arenas.
///
/// It takes their locks one after the other, for some milliseconds together, and so at the priority of those who may wait for
/// them: one who gave way to them could be kept from giving the lock back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn give_back() {
    // SAFETY: it touches only what is free, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators see to it themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
