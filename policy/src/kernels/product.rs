//! The three matrix products of a linear layer y = x·Wᵀ, on oneDNN, or on candle's own product where that is absent.
//!
//! A product is cut into pieces along one side of its result and the pieces spread over the current rayon pool. How it is
//! cut depends on its shape alone, never on the number of threads, so every result is the same bit for bit on one thread
//! or sixteen; and a piece runs on the thread that took it, so no thread exists that would not give way to serving.

mod candle;
#[cfg(onednn)]
mod onednn;
mod rate;

use half::bf16;
use rayon::prelude::*;

pub use rate::gflops;

use super::matrix::{Matrix, Values};

/// Below this many multiplications a product stays in one piece.
const PIECE: usize = 4 << 20;
/// Pieces of one product at most.
const PIECES_MAX: usize = 4;
/// Sides of pieces are multiples of this.
const GRAIN: usize = 32;

/// y (+)= x·Wᵀ. `x [rows, in]`, `weight [out, in]`, `y [rows, out]`.
pub(crate) fn forward(x: &Matrix<'_>, weight: &Matrix<'_>, y: &mut [f32], accumulates: bool) {
    let (a, b) = (Factor::of(x), Factor::of(weight).transposed());
    run(a, b, y, accumulates);
}

/// x·Wᵀ, `[rows, out]`, in memory that nobody has cleared for nothing.
pub(crate) fn forward_new(x: &Matrix<'_>, weight: &Matrix<'_>) -> Vec<f32> {
    run_new(Factor::of(x), Factor::of(weight).transposed())
}

/// g·W, `[rows, in]`, likewise.
pub(crate) fn input_gradient_new(g: &Matrix<'_>, weight: &Matrix<'_>) -> Vec<f32> {
    run_new(Factor::of(g), Factor::of(weight))
}

/// dx (+)= g·W. `g [rows, out]`, `weight [out, in]`, `dx [rows, in]`.
pub(crate) fn input_gradient(g: &Matrix<'_>, weight: &Matrix<'_>, dx: &mut [f32], accumulates: bool) {
    run(Factor::of(g), Factor::of(weight), dx, accumulates);
}

/// dW (+)= gᵀ·x. `g [rows, out]`, `x [rows, in]`, `dw [out, in]`.
pub(crate) fn weight_gradient(g: &Matrix<'_>, x: &Matrix<'_>, dw: &mut [f32], accumulates: bool) {
    run(Factor::of(g).transposed(), Factor::of(x), dw, accumulates);
}

/// A small matrix inside other work: row-major f32, `cols` wide, read as it is or transposed.
#[derive(Clone, Copy)]
pub(crate) struct Small<'a> {
    values: &'a [f32],
    factor: Factor,
}

impl<'a> Small<'a> {
    pub(crate) fn new(values: &'a [f32], cols: usize) -> Small<'a> {
        let rows = values.len() / cols;
        let start = Pointer::F32(values.as_ptr());
        assert_eq!(values.len(), rows * cols, "a matrix has as many numbers as its sides say");
        Small { values, factor: Factor { start, rows, cols, row_stride: cols, col_stride: 1 } }
    }

    pub(crate) fn transposed(self) -> Small<'a> {
        Small { factor: self.factor.transposed(), ..self }
    }

    /// out (+)= self·other, on this thread.
    pub(crate) fn times(self, other: Small<'_>, out: &mut [f32], accumulates: bool) {
        let (a, b) = (self.factor, other.factor);
        assert_eq!(a.cols, b.rows, "the factors of a product fit");
        assert_eq!(out.len(), a.rows * b.cols, "the result has room for the product");
        debug_assert!(self.values.len() == a.rows * a.cols && other.values.len() == b.rows * b.cols);
        one(a, b, Target { start: out.as_mut_ptr(), row_stride: b.cols }, accumulates);
    }
}

/// What computes f32 products, and bf16 ones where the processor has them in hardware.
#[must_use]
pub fn backend() -> &'static str {
    #[cfg(onednn)]
    if onednn::is_here() {
        return "oneDNN";
    }
    "gemm"
}

/// How well bf16 products run here: 2 on tiles (AMX), 1 on vectors (AVX512-BF16), 0 not at all.
#[must_use]
pub fn bf16_level() -> u32 {
    #[cfg(onednn)]
    return onednn::bf16_level();
    #[cfg(not(onednn))]
    0
}

#[derive(Clone, Copy)]
enum Pointer {
    F32(*const f32),
    Bf16(*const bf16),
}

/// A factor as the backends take it: where it begins, its sides, how far its rows and columns are apart.
#[derive(Clone, Copy)]
struct Factor {
    start: Pointer,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

// SAFETY: a factor is only read, and `run` keeps the matrix that it points into borrowed until all pieces are done.
unsafe impl Send for Factor {}
// SAFETY: as above.
unsafe impl Sync for Factor {}

impl Factor {
    fn of(matrix: &Matrix<'_>) -> Factor {
        let (start, len) = match &matrix.values {
            Values::F32(values) => (Pointer::F32(values.as_ptr()), values.len()),
            Values::Bf16(values) => (Pointer::Bf16(values.as_ptr()), values.len()),
        };
        assert_eq!(len, matrix.rows * matrix.cols, "a matrix has as many numbers as its sides say");
        Factor { start, rows: matrix.rows, cols: matrix.cols, row_stride: matrix.cols, col_stride: 1 }
    }

    fn transposed(self) -> Factor {
        Factor { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Rows `first..first + n`.
    fn some_rows(self, first: usize, n: usize) -> Factor {
        assert!(first + n <= self.rows);
        // SAFETY: the new start lies inside the matrix (or one past its end when `n` is 0), as the assertion says.
        let start = unsafe {
            match self.start {
                Pointer::F32(p) => Pointer::F32(p.add(first * self.row_stride)),
                Pointer::Bf16(p) => Pointer::Bf16(p.add(first * self.row_stride)),
            }
        };
        Factor { start, rows: n, ..self }
    }

    fn some_cols(self, first: usize, n: usize) -> Factor {
        self.transposed().some_rows(first, n).transposed()
    }
}

/// The part of the result that one piece writes: nobody else writes there.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    row_stride: usize,
}

// SAFETY: the pieces of one product are disjoint, and `run` keeps the result mutably borrowed until all are done.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    fn at(self, row: usize, col: usize) -> Target {
        // SAFETY: callers name a place inside the result.
        Target { start: unsafe { self.start.add(row * self.row_stride + col) }, ..self }
    }
}

fn run(a: Factor, b: Factor, out: &mut [f32], accumulates: bool) {
    assert_eq!(out.len(), a.rows * b.cols, "the result has room for the product");
    multiply(a, b, Target { start: out.as_mut_ptr(), row_stride: b.cols }, accumulates);
}

fn run_new(a: Factor, b: Factor) -> Vec<f32> {
    assert_ne!(a.cols, 0, "a product of nothing writes nothing");
    let n = a.rows * b.cols;
    let mut out = Vec::with_capacity(n);
    multiply(a, b, Target { start: out.as_mut_ptr(), row_stride: b.cols }, false);
    // SAFETY: the vector has room for n numbers, and a product that does not accumulate has written every one of them.
    unsafe { out.set_len(n) };
    out
}

/// Writes or adds every number of the result, whose room the caller has made sure of.
fn multiply(a: Factor, b: Factor, target: Target, accumulates: bool) {
    assert_eq!(a.cols, b.rows, "the factors of a product fit");
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    let by_cols = b.cols >= a.rows;
    let side = if by_cols { b.cols } else { a.rows };
    let grains = side.div_ceil(GRAIN);
    let pieces = (a.rows * b.cols * a.cols / PIECE).clamp(1, PIECES_MAX).min(grains);
    // As even as grains allow: on two threads, three pieces of four would leave one idle for a third of the time.
    let border = |i: usize| (grains * i / pieces * GRAIN).min(side);
    let piece = |i: usize| {
        let (first, n) = (border(i), border(i + 1) - border(i));
        if by_cols {
            one(a, b.some_cols(first, n), target.at(0, first), accumulates);
        } else {
            one(a.some_rows(first, n), b, target.at(first, 0), accumulates);
        }
    };
    if pieces == 1 {
        piece(0);
    } else {
        (0..pieces).into_par_iter().for_each(piece);
    }
}

/// One piece, on this thread.
fn one(a: Factor, b: Factor, out: Target, accumulates: bool) {
    #[cfg(onednn)]
    if onednn::run(a, b, out, accumulates) {
        return;
    }
    match (a.start, b.start) {
        (Pointer::F32(_), Pointer::F32(_)) => candle::run(a, b, out, accumulates),
        _ => unreachable!("bf16 factors are made only where `bf16_level` says that they can be multiplied"),
    }
}

#[cfg(test)]
mod tests;
