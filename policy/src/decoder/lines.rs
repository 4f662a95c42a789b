//! Memory that begins where a cache line does, and goes back to the system when it is freed.

use std::{io, ptr::NonNull};

/// Bytes of a cache line.
const LINE: usize = 64;
/// From here on the system is asked for pages of its own: the allocator may keep what is freed, and the pages that it keeps count as
/// taken when the next version asks whether there is memory for it.
const OWN_PAGES: usize = 1 << 16;

/// Zeros from the beginning of a cache line on, so that a vector of the processor is never split over two. Memory is taken where it
/// is first written.
#[derive(Debug)]
pub(super) struct Lines {
    at: NonNull<u8>,
    n_bytes: usize,
    /// What the allocator gave, a line longer than asked for; without, it is a mapping of its own.
    allocated: Option<Vec<u8>>,
}

// SAFETY: it owns what it points to, as a vector does.
unsafe impl Send for Lines {}
// SAFETY: as above; shared, it is only read, but by who answers for it with `unsafe`.
unsafe impl Sync for Lines {}

impl Lines {
    /// So many bytes, all 0.
    ///
    /// # Panics
    /// When the system has no addresses left.
    pub(super) fn zeros(n_bytes: usize) -> Lines {
        Lines::try_zeros(n_bytes).unwrap_or_else(|error| panic!("{n_bytes} bytes of memory: {error}"))
    }

    /// As [`Self::zeros`].
    ///
    /// # Errors
    /// When the system does not give so many.
    pub(super) fn try_zeros(n_bytes: usize) -> io::Result<Lines> {
        if n_bytes >= OWN_PAGES {
            return Ok(Lines { at: map(n_bytes)?, n_bytes, allocated: None });
        }
        let mut bytes = vec![0; n_bytes + LINE];
        let start = (bytes.as_ptr() as usize).next_multiple_of(LINE) - bytes.as_ptr() as usize;
        let at = NonNull::from(&mut bytes[start..]).cast();
        Ok(Lines { at, n_bytes, allocated: Some(bytes) })
    }

    /// As [`Self::zeros`], for what is written at once and read again and again from one end to the other: in large pages, where the
    /// system has them, the processor looks up fewer addresses (4 % of a token of Llama 135M).
    pub(super) fn read_often(n_bytes: usize) -> Lines {
        let lines = Lines::zeros(n_bytes);
        #[cfg(target_os = "linux")]
        if lines.allocated.is_none() {
            // SAFETY: a hint about the mapping's own pages; where it is not taken, they are small.
            unsafe { libc::madvise(lines.at.as_ptr().cast(), n_bytes, libc::MADV_HUGEPAGE) };
        }
        lines
    }

    /// The first byte. Writing there is for who knows that nobody else reads or writes.
    pub(super) fn start(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are there, as long as this.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.n_bytes) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.n_bytes) }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if self.allocated.is_none() {
            // SAFETY: mapped by `map` with this length, and nobody has it any more.
            unsafe { libc::munmap(self.at.as_ptr().cast(), self.n_bytes) };
        }
    }
}

/// Pages of zeros, taken when they are written. They begin with a page, and so with a line.
fn map(n_bytes: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, of no file, wherever there is room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), n_bytes, protection, flags | libc::MAP_NORESERVE, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("the system mapped address 0"))
}
