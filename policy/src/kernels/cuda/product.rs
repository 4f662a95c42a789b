//! Matrix products in BLAS's words: matrices there lie column after column, ours row after row.

use super::launch::Place;
use crate::kernels::Precision;

/// A factor, `[rows, cols]` row by row as it lies in memory, read as it is or transposed.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    place: Place<'a>,
    rows: usize,
    cols: usize,
    is_transposed: bool,
}

impl<'a> Factor<'a> {
    pub(super) fn new(place: Place<'a>, rows: usize, cols: usize) -> Factor<'a> {
        Factor { place: place.with_room(rows * cols), rows, cols, is_transposed: false }
    }

    pub(super) fn transposed(self) -> Factor<'a> {
        Factor { is_transposed: !self.is_transposed, ..self }
    }

    /// Rows and columns as the product sees them.
    fn sides(&self) -> (usize, usize) {
        if self.is_transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }
}

/// out (+)= left·right, row by row.
pub(super) struct Product<'a> {
    pub(super) left: Factor<'a>,
    pub(super) right: Factor<'a>,
    pub(super) out: Place<'a>,
    /// Whether the product is added to what is there.
    pub(super) adds: bool,
    /// To what the numbers of both factors may be rounded before they are multiplied; they lie there as f32, and sums are f32.
    pub(super) precision: Precision,
}

/// The same as the call `gemm` of a BLAS takes it: C = op(A)·op(B) + β·C, column by column, with lengths of columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blas {
    pub(super) is_transposed: [bool; 2],
    pub(super) m: i32,
    pub(super) n: i32,
    pub(super) k: i32,
    pub(super) a: u64,
    pub(super) lda: i32,
    pub(super) b: u64,
    pub(super) ldb: i32,
    pub(super) beta: f32,
    pub(super) c: u64,
    pub(super) ldc: i32,
    pub(super) precision: Precision,
}

impl Product<'_> {
    /// Read column by column, what lies row by row is its transpose: so outᵀ = rightᵀ·leftᵀ, and the factors change places.
    pub(super) fn blas(&self) -> Blas {
        let ((rows, inner), (other, cols)) = (self.left.sides(), self.right.sides());
        assert_eq!(inner, other, "the factors of a product fit");
        let side = |n: usize| i32::try_from(n).expect("a side of a matrix has fewer than 2^31 numbers");
        Blas {
            is_transposed: [self.right.is_transposed, self.left.is_transposed],
            m: side(cols),
            n: side(rows),
            k: side(inner),
            a: self.right.place.address(),
            lda: side(self.right.cols),
            b: self.left.place.address(),
            ldb: side(self.left.cols),
            beta: if self.adds { 1.0 } else { 0.0 },
            c: self.out.with_room(rows * cols).address(),
            ldc: side(cols),
            precision: self.precision,
        }
    }
}
