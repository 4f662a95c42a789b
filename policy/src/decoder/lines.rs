//! Memory that begins where a cache line does.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes from the beginning of a cache line on, so that a vector of the processor is never split over two.
#[derive(Debug)]
pub(super) struct Lines {
    /// A line longer than asked for. As bytes, so that the system gives pages of zeros only where they are touched.
    bytes: Vec<u8>,
    start: usize,
    n_bytes: usize,
}

impl Lines {
    /// So many bytes, all 0.
    pub(super) fn zeros(n_bytes: usize) -> Lines {
        let bytes = vec![0; n_bytes + LINE];
        let start = (bytes.as_ptr() as usize).next_multiple_of(LINE) - bytes.as_ptr() as usize;
        Lines { bytes, start, n_bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..][..self.n_bytes]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.n_bytes]
    }
}
