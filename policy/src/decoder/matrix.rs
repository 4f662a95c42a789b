//! Matrices that the threads of a pass fill together.

use std::{marker::PhantomData, ops::Range};

use super::{lines::Lines, panels::padded, product::Rows};

/// Rows of floats, each in whole panels.
#[derive(Debug)]
pub(super) struct Buffer {
    lines: Lines,
    stride: usize,
}

impl Buffer {
    pub(super) fn new(rows: usize, width: usize) -> Buffer {
        Buffer { lines: Lines::zeros(rows * padded(width) * 4), stride: padded(width) }
    }

    /// For one pass.
    pub(super) fn open(&mut self) -> Shared<'_> {
        let bytes = self.lines.bytes_mut();
        Shared {
            start: bytes.as_mut_ptr().cast(),
            rows: bytes.len() / 4 / self.stride,
            stride: self.stride,
            life: PhantomData,
        }
    }

    /// Row `i`, its first `width` numbers.
    pub(super) fn row(&self, i: usize, width: usize) -> &[f32] {
        let bytes = &self.lines.bytes()[i * self.stride * 4..][..width * 4];
        // SAFETY: a buffer begins with a cache line and holds floats alone.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), width) }
    }
}

/// A buffer while threads work on it. Who does what is settled by the phases of the pass: no two write the same numbers in one
/// phase, and nobody reads what another writes in it.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    start: *mut f32,
    rows: usize,
    stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: only addresses; what is done with them is `unsafe`, and answers for it.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Numbers of a row, those that fill its last panel among them.
    pub(super) fn width(&self) -> usize {
        self.stride
    }

    /// From this row and column on.
    pub(super) fn at(&self, row: usize, column: usize) -> Rows<*mut f32> {
        assert!(row < self.rows && column < self.stride, "a place in the buffer");
        Rows { at: self.start.wrapping_add(row * self.stride + column), stride: self.stride }
    }

    /// As [`Self::at`], to be read.
    pub(super) fn read_at(&self, row: usize, column: usize) -> Rows<*const f32> {
        let Rows { at, stride } = self.at(row, column);
        Rows { at: at.cast_const(), stride }
    }

    /// Numbers of a row.
    ///
    /// # Safety
    /// Nobody writes them in this phase.
    pub(super) unsafe fn read(&self, row: usize, columns: Range<usize>) -> &'a [f32] {
        assert!(columns.end <= self.stride, "columns of the buffer");
        // SAFETY: the caller's, and inside the buffer.
        unsafe { std::slice::from_raw_parts(self.at(row, columns.start).at, columns.len()) }
    }

    /// Numbers of a row, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes them in this phase.
    #[allow(clippy::mut_from_ref)] // Threads share the handle, not the numbers.
    pub(super) unsafe fn write(&self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        assert!(columns.end <= self.stride, "columns of the buffer");
        // SAFETY: the caller's, and inside the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, columns.start).at, columns.len()) }
    }
}
