//! candle's product, without tensors around it.

use super::{Factor, Pointer, Target};

/// out (+)= a·b in f32, on this thread.
pub(super) fn run(a: Factor, b: Factor, out: Target, accumulates: bool) {
    let (Pointer::F32(left), Pointer::F32(right)) = (a.start, b.start) else {
        unreachable!("candle's product is asked for f32 only");
    };
    // SAFETY: the factors' sides and strides describe memory that is borrowed while this runs, and the result's part is
    // this piece's alone (see `Factor` and `Target`).
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.start,
            1,
            out.row_stride as isize,
            accumulates,
            left,
            a.col_stride as isize,
            a.row_stride as isize,
            right,
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
