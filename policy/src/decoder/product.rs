//! Rows of floats times panels of weights: the one kernel of the decoder.
//!
//! A *panel* is 32 columns of a factor, a row of 32 numbers for each step of the sum. Weights are cut into panels when they are
//! loaded; keys and values are kept as panels. A tile of up to twelve rows times a panel stays in registers, reads the panel once,
//! and turns its numbers into floats as it reads them.
//!
//! Every result is one chain of fused multiply-adds in the order of the sum, whatever else is in the tile. So the bits of a row
//! depend on no other row, and a sequence is answered alike alone and among others.

#[cfg(not(target_feature = "avx512f"))]
use super::lanes::Eight;
#[cfg(target_feature = "avx512f")]
use super::lanes::Sixteen;
use super::{
    lanes::Lanes,
    numbers::{BLOCK, Bf16, F16, F32, Kind, Numbers, PANEL, Q8},
};

/// Rows of the largest tile.
pub(super) const TILE_ROWS: usize = 12;
/// Bytes of a panel between what is read and what is fetched for later. The processor's own guesses end with every page of memory,
/// and weights are read once a pass: without it, eight rows of Llama 135M take 1.4 times as long.
const AHEAD: usize = 4096;

/// Rows of floats, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<T> {
    pub(super) at: T,
    pub(super) stride: usize,
}

/// Panels of one kind, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) kind: Kind,
    pub(super) at: *const u8,
    pub(super) stride: usize,
}

/// `out[n_rows, n_panels · 32] = a[n_rows, depth] · columns`, or += where it adds.
pub(super) struct Product {
    pub(super) n_rows: usize,
    pub(super) depth: usize,
    pub(super) a: Rows<*const f32>,
    pub(super) columns: Columns,
    pub(super) n_panels: usize,
    pub(super) out: Rows<*mut f32>,
    pub(super) adds: bool,
}

impl Product {
    /// By the widest vectors that there are.
    ///
    /// # Safety
    /// `a` has so many rows of `depth` numbers, `out` as many of `n_panels · 32` that nobody else uses meanwhile, and `columns` so
    /// many panels of `depth` steps.
    pub(super) unsafe fn compute(&self) {
        // SAFETY: the caller's.
        #[cfg(target_feature = "avx512f")]
        unsafe {
            self.by::<Sixteen, 2>();
        }
        // SAFETY: the caller's.
        #[cfg(not(target_feature = "avx512f"))]
        unsafe {
            self.by::<Eight, 4>();
        }
    }

    /// By these vectors, of which `V` are a panel's row.
    ///
    /// # Safety
    /// As [`Self::compute`].
    #[inline(always)]
    pub(super) unsafe fn by<L: Lanes, const V: usize>(&self) {
        // SAFETY: the caller's; so below.
        unsafe {
            match self.columns.kind {
                Kind::F32 => self.rows::<L, F32, V>(),
                Kind::F16 => self.rows::<L, F16, V>(),
                Kind::Bf16 => self.rows::<L, Bf16, V>(),
                Kind::Q8 => self.rows::<L, Q8, V>(),
            }
        }
    }

    /// Panel by panel, the rows in tiles of about the same size. A single row has no other to wait beside, so two panels are read
    /// at once.
    unsafe fn rows<L: Lanes, N: Numbers, const V: usize>(&self) {
        let n_rows = self.n_rows;
        // What the registers hold beside a panel's row.
        let most = if V == 2 { TILE_ROWS } else { 3 };
        let n_tiles = n_rows.div_ceil(most).max(1);
        let mut panel = 0;
        while panel < self.n_panels {
            let n_panels = if n_rows == 1 && panel + 1 < self.n_panels { 2 } else { 1 };
            for tile in 0..n_tiles {
                let (from, to) = (n_rows * tile / n_tiles, n_rows * (tile + 1) / n_tiles);
                // SAFETY: rows and panels are among those that there are.
                unsafe { self.tile::<L, N, V>(from, to - from, panel, n_panels) };
            }
            panel += n_panels;
        }
    }

    unsafe fn tile<L: Lanes, N: Numbers, const V: usize>(&self, row: usize, n: usize, panel: usize, n_panels: usize) {
        // SAFETY: the caller's. With AVX2 no tile has more than three rows.
        unsafe {
            match (n, n_panels) {
                (1, 2) => self.sums::<L, N, V, 1, 2>(row, panel),
                (1, _) => self.sums::<L, N, V, 1, 1>(row, panel),
                (2, _) => self.sums::<L, N, V, 2, 1>(row, panel),
                (3, _) => self.sums::<L, N, V, 3, 1>(row, panel),
                (4, _) => self.sums::<L, N, V, 4, 1>(row, panel),
                (5, _) => self.sums::<L, N, V, 5, 1>(row, panel),
                (6, _) => self.sums::<L, N, V, 6, 1>(row, panel),
                (7, _) => self.sums::<L, N, V, 7, 1>(row, panel),
                (8, _) => self.sums::<L, N, V, 8, 1>(row, panel),
                (9, _) => self.sums::<L, N, V, 9, 1>(row, panel),
                (10, _) => self.sums::<L, N, V, 10, 1>(row, panel),
                (11, _) => self.sums::<L, N, V, 11, 1>(row, panel),
                (12, _) => self.sums::<L, N, V, 12, 1>(row, panel),
                _ => {}
            }
        }
    }

    /// `M` rows times `P` panels, all sums in registers.
    #[inline(always)]
    unsafe fn sums<L: Lanes, N: Numbers, const V: usize, const M: usize, const P: usize>(
        &self,
        row: usize,
        panel: usize,
    ) {
        // SAFETY: the caller's: `M` rows from `row` on and `P` panels from `panel` on are there, of `depth` steps each.
        unsafe {
            let a = self.a.at.add(row * self.a.stride);
            let out = self.out.at.add(row * self.out.stride + panel * PANEL);
            let at = |m: usize, p: usize, v: usize| out.add(m * self.out.stride + p * PANEL + v * L::WIDTH);
            let mut sums = [[[L::splat(0.0); V]; P]; M];
            if self.adds {
                for (m, row) in sums.iter_mut().enumerate() {
                    for (p, row) in row.iter_mut().enumerate() {
                        for (v, sum) in row.iter_mut().enumerate() {
                            *sum = L::of_f32(at(m, p, v).cast());
                        }
                    }
                }
            }
            let mut k = 0;
            while k < self.depth {
                let block = self.columns.at.add(panel * self.columns.stride + k / BLOCK * N::BLOCK_BYTES);
                let mut scales = [[L::splat(0.0); V]; P];
                for (p, row) in scales.iter_mut().enumerate() {
                    for (v, scale) in row.iter_mut().enumerate() {
                        *scale = N::scale::<L>(block.add(p * self.columns.stride), v * L::WIDTH);
                    }
                }
                for j in 0..(self.depth - k).min(BLOCK) {
                    let mut numbers = scales;
                    for p in 0..P {
                        L::prefetch(block.wrapping_add(p * self.columns.stride + j * N::STEP_BYTES + AHEAD));
                    }
                    for (p, row) in numbers.iter_mut().enumerate() {
                        for (v, number) in row.iter_mut().enumerate() {
                            *number = N::read(block.add(p * self.columns.stride), j, v * L::WIDTH, scales[p][v]);
                        }
                    }
                    for (m, row) in sums.iter_mut().enumerate() {
                        let factor = L::splat(*a.add(m * self.a.stride + k + j));
                        for (p, row) in row.iter_mut().enumerate() {
                            for (v, sum) in row.iter_mut().enumerate() {
                                *sum = factor.mul_add(numbers[p][v], *sum);
                            }
                        }
                    }
                }
                k += BLOCK;
            }
            for (m, row) in sums.iter().enumerate() {
                for (p, row) in row.iter().enumerate() {
                    for (v, sum) in row.iter().enumerate() {
                        sum.store(at(m, p, v));
                    }
                }
            }
        }
    }
}
