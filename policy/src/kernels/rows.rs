//! Work on rows: reading candle's storage as slices, writing it in place, and splitting rows over threads.

use std::{cell::RefCell, ops::Deref};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("a kernel expects contiguous f32 on the CPU, got {:?}", layout.shape()),
    }
}

/// A tensor held open for reading. The guard's type belongs to candle's lock and has no name here.
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
            _ => bail!("a kernel expects a tensor on the CPU"),
        }
    }
}

/// Changes a tensor's numbers in place.
///
/// # Errors
/// When the tensor is not contiguous f32 on the CPU.
pub(crate) fn change<R>(tensor: &Tensor, work: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let change = Change(RefCell::new((Some(work), None)));
    tensor.inplace_op1(&change)?;
    Ok(change.0.into_inner().1.expect("candle ran the operation, or returned an error"))
}

struct Change<F, R>(RefCell<(Option<F>, Option<R>)>);

impl<F: FnOnce(&mut [f32]) -> R, R> InplaceOp1 for Change<F, R> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("a kernel expects contiguous f32 on the CPU, got {:?}", layout.shape());
        };
        let mut state = self.0.borrow_mut();
        let work = state.0.take().expect("candle runs an operation once");
        state.1 = Some(work(&mut values[start..end]));
        Ok(())
    }
}

/// Below this many numbers a split costs more than it saves.
const PARALLEL_NUMBERS: usize = 1 << 16;
/// Rows that one task takes are at most this share of all.
const TASKS: usize = 8;

/// Calls `fill(row, out_row)` for every row of `out`, on several threads of the current pool when there is enough to do.
pub(super) fn for_rows<N: Send>(out: &mut [N], width: usize, fill: impl Fn(usize, &mut [N]) + Sync) {
    let rows = out.len() / width.max(1);
    if out.len() < PARALLEL_NUMBERS {
        out.chunks_exact_mut(width.max(1)).enumerate().for_each(|(row, out)| fill(row, out));
        return;
    }
    let block = rows.div_ceil(TASKS).max(1);
    out.par_chunks_mut(block * width).enumerate().for_each(|(i, rows)| {
        rows.chunks_exact_mut(width).enumerate().for_each(|(j, out)| fill(i * block + j, out));
    });
}

/// Sums `add(row, sum)` over all rows into one row of `width` numbers. Rows are summed in fixed blocks, so the result does
/// not depend on the number of threads.
pub(super) fn sum_rows(rows: usize, width: usize, out: &mut [f32], add: impl Fn(usize, &mut [f32]) + Sync) {
    let block = if rows * width < PARALLEL_NUMBERS { rows } else { rows.div_ceil(TASKS) }.max(1);
    if block >= rows {
        (0..rows).for_each(|row| add(row, out));
        return;
    }
    let blocks: Vec<Vec<f32>> = (0..rows.div_ceil(block))
        .into_par_iter()
        .map(|i| {
            let mut sum = vec![0.0; width];
            (i * block..((i + 1) * block).min(rows)).for_each(|row| add(row, &mut sum));
            sum
        })
        .collect();
    for sum in blocks {
        out.iter_mut().zip(sum).for_each(|(o, s)| *o += s);
    }
}
