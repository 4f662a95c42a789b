//! Reading candle's storage as slices, and splitting work by rows.

use std::ops::Deref;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// The contiguous f32 values of an operation's argument.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("a fused operation expects contiguous f32 on the CPU, got {:?}", layout.shape()),
    }
}

/// A tensor held open for reading in a backward pass. The guard's type belongs to candle's lock and has no name here.
pub(crate) struct Values<'a, G> {
    storage: G,
    layout: &'a Layout,
}

/// Opens a tensor for reading.
pub(crate) fn values(tensor: &Tensor) -> Values<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = tensor.storage_and_layout();
    Values { storage, layout }
}

impl<G: Deref<Target = Storage>> Values<'_, G> {
    pub(crate) fn slice(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => bail!("a fused operation expects a tensor on the CPU"),
        }
    }
}

/// Below this many numbers a split costs more than it saves.
const PARALLEL_NUMBERS: usize = 1 << 16;

/// Calls `fill(row, out_row)` for every row of `out`, on several threads of the current pool when there is enough to do.
pub(super) fn for_rows(out: &mut [f32], width: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    let threads = rayon::current_num_threads();
    let rows = out.len() / width.max(1);
    if threads == 1 || out.len() < PARALLEL_NUMBERS {
        out.chunks_exact_mut(width.max(1)).enumerate().for_each(|(row, out)| fill(row, out));
        return;
    }
    let block = rows.div_ceil(threads).max(1);
    out.par_chunks_mut(block * width).enumerate().for_each(|(i, rows)| {
        rows.chunks_exact_mut(width).enumerate().for_each(|(j, out)| fill(i * block + j, out));
    });
}
