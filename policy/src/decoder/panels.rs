//! Weights in panels.

use super::{
    lines::Lines,
    numbers::{Kind, PANEL},
    product::{Columns, Product, Rows},
};

/// A matrix `[n_out, n_in]`, cut into panels of 32 outputs; the last one is filled up with zeros.
#[derive(Debug)]
pub(super) struct Panels {
    kind: Kind,
    n_out: usize,
    n_in: usize,
    lines: Lines,
}

/// Outputs in whole panels.
pub(super) const fn padded(n: usize) -> usize {
    n.next_multiple_of(PANEL)
}

impl Panels {
    /// Of a matrix whose rows `read` gives one after another, as a file holds them: into its argument goes the next.
    pub(super) fn pack<E>(
        kind: Kind,
        [n_out, n_in]: [usize; 2],
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Panels, E> {
        let stride = kind.panel_bytes(n_in);
        let mut lines = Lines::read_often(stride * n_out.div_ceil(PANEL));
        let row_bytes = kind.row_bytes(n_in);
        let mut rows = vec![0; row_bytes * PANEL];
        for (first, panel) in (0..n_out).step_by(PANEL).zip(lines.bytes_mut().chunks_exact_mut(stride)) {
            let n = PANEL.min(n_out - first);
            rows.fill(0);
            for row in rows.chunks_exact_mut(row_bytes).take(n) {
                read(row)?;
            }
            turn(kind, n_in, &rows, panel);
        }
        Ok(Panels { kind, n_out, n_in, lines })
    }

    /// Of f32.
    pub(super) fn of_f32(dims: [usize; 2], numbers: &[f32]) -> Panels {
        let mut rows = numbers.chunks_exact(dims[1]);
        let packed: Result<Panels, std::convert::Infallible> = Panels::pack(Kind::F32, dims, |out| {
            let row = rows.next().expect("as many rows as there are outputs");
            out.chunks_exact_mut(4).zip(row).for_each(|(out, number)| out.copy_from_slice(&number.to_le_bytes()));
            Ok(())
        });
        match packed {
            Ok(panels) => panels,
        }
    }

    /// Outputs.
    pub(super) fn n_out(&self) -> usize {
        self.n_out
    }

    /// Inputs.
    pub(super) fn n_in(&self) -> usize {
        self.n_in
    }

    /// Panels that the outputs are cut into.
    pub(super) fn n_panels(&self) -> usize {
        self.n_out.div_ceil(PANEL)
    }

    /// Whether its numbers are f32.
    pub(super) fn is_f32(&self) -> bool {
        self.kind == Kind::F32
    }

    /// Bytes in memory.
    pub(super) fn n_bytes(&self) -> usize {
        self.lines.bytes().len()
    }

    /// `out[.., panels] = a · panelsᵀ`, or += where it adds, for some of the panels: `out` begins with the first of them.
    ///
    /// # Safety
    /// `a` has `n_rows` rows of as many numbers as there are inputs, `out` as many of 32 numbers a panel that nobody else uses
    /// meanwhile.
    pub(super) unsafe fn multiply(
        &self,
        panels: std::ops::Range<usize>,
        n_rows: usize,
        a: Rows<*const f32>,
        out: Rows<*mut f32>,
        adds: bool,
    ) {
        let stride = self.kind.panel_bytes(self.n_in);
        let at = self.lines.bytes()[panels.start * stride..panels.end * stride].as_ptr();
        let columns = Columns { kind: self.kind, at, stride };
        // SAFETY: the caller's; the panels are in the slice above.
        unsafe { Product { n_rows, depth: self.n_in, a, columns, n_panels: panels.len(), out, adds }.compute() }
    }

    /// Row `i` of the matrix as floats, for the table of embeddings.
    pub(super) fn row(&self, i: usize, out: &mut [f32]) {
        let (panel, column) = (i / PANEL, i % PANEL);
        let stride = self.kind.panel_bytes(self.n_in);
        let panel = &self.lines.bytes()[panel * stride..][..stride];
        let numbers = |bytes: usize| panel.chunks_exact(bytes * PANEL).map(move |row| &row[column * bytes..][..bytes]);
        match self.kind {
            Kind::F32 => fill(out, numbers(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Kind::F16 => fill(out, numbers(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())),
            Kind::Bf16 => fill(out, numbers(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())),
            Kind::Q8 => {
                let blocks = panel.chunks_exact(Kind::Q8.panel_bytes(PANEL));
                for (block, out) in blocks.zip(out.chunks_mut(PANEL)) {
                    let (scales, steps) = block.split_at(2 * PANEL);
                    let scale = half::f16::from_le_bytes([scales[2 * column], scales[2 * column + 1]]).to_f32();
                    fill(out, steps.chunks_exact(PANEL).map(|step| f32::from(step[column].cast_signed()) * scale));
                }
            }
        }
    }
}

fn fill(out: &mut [f32], numbers: impl Iterator<Item = f32>) {
    out.iter_mut().zip(numbers).for_each(|(out, number)| *out = number);
}

impl Kind {
    /// Bytes of a row of the file.
    pub(super) fn row_bytes(self, n_in: usize) -> usize {
        match self {
            Kind::F32 => n_in * 4,
            Kind::F16 | Kind::Bf16 => n_in * 2,
            Kind::Q8 => n_in / PANEL * Q8_FILE_BLOCK,
        }
    }
}

/// A block of Q8_0 in a file: a scale, and 32 numbers.
const Q8_FILE_BLOCK: usize = 2 + PANEL;

/// 32 rows of a file as a panel: step by step instead of row by row.
fn turn(kind: Kind, n_in: usize, rows: &[u8], panel: &mut [u8]) {
    match kind {
        Kind::F32 => turn_numbers::<4>(n_in, rows, panel),
        Kind::F16 | Kind::Bf16 => turn_numbers::<2>(n_in, rows, panel),
        Kind::Q8 => {
            let row_bytes = kind.row_bytes(n_in);
            for (b, block) in panel.chunks_exact_mut(kind.panel_bytes(PANEL)).enumerate() {
                let (scales, steps) = block.split_at_mut(2 * PANEL);
                for (column, row) in rows.chunks_exact(row_bytes).enumerate() {
                    let (scale, numbers) = row[b * Q8_FILE_BLOCK..][..Q8_FILE_BLOCK].split_at(2);
                    scales[2 * column..][..2].copy_from_slice(scale);
                    steps.chunks_exact_mut(PANEL).zip(numbers).for_each(|(step, number)| step[column] = *number);
                }
            }
        }
    }
}

fn turn_numbers<const BYTES: usize>(n_in: usize, rows: &[u8], panel: &mut [u8]) {
    let (rows, _) = rows.as_chunks::<BYTES>();
    let (panel, _) = panel.as_chunks_mut::<BYTES>();
    for (k, step) in panel.chunks_exact_mut(PANEL).enumerate() {
        step.iter_mut().enumerate().for_each(|(column, number)| *number = rows[column * n_in + k]);
    }
}

#[cfg(test)]
impl Panels {
    /// All panels, as the kernel takes them.
    pub(super) fn columns(&self) -> Columns {
        Columns { kind: self.kind, at: self.lines.bytes().as_ptr(), stride: self.kind.panel_bytes(self.n_in) }
    }
}
