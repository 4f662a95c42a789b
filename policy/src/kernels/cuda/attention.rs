//! Causal attention over packed sequences: tiles of queries and of keys, in the order of their work.

use candle_core::{Result, Tensor, bail};

use super::{
    launch::{Kernel, Launch, Place},
    machine::{Machine, Room},
    taped::taped3,
};
use crate::{sequence_batch::Packed, transformer::AttentionShape};

/// Attention over the sequences of one batch.
#[derive(Clone)]
pub(super) struct Attention {
    machine: Machine,
    shape: AttentionShape,
    rows: usize,
    n_tiles: usize,
    kernels: Kernels,
    /// `[n_tiles, 3]`, the heaviest first: first row and length of the sequence, first position of the tile. In order of what
    /// queries see, and of what keys are seen by.
    by_query: Tensor,
    by_key: Tensor,
}

/// For heads up to some width.
#[derive(Clone, Copy)]
struct Kernels {
    /// Rows of a tile, as `attention.cu` has them.
    tile: usize,
    forward: Kernel,
    slope_q: Kernel,
    slopes_kv: Kernel,
}

const UP_TO_64: Kernels = Kernels {
    tile: 64,
    forward: Kernel::AttentionForward64,
    slope_q: Kernel::AttentionSlopeQ64,
    slopes_kv: Kernel::AttentionSlopesKv64,
};
const UP_TO_128: Kernels = Kernels {
    tile: 32,
    forward: Kernel::AttentionForward128,
    slope_q: Kernel::AttentionSlopeQ128,
    slopes_kv: Kernel::AttentionSlopesKv128,
};

impl Attention {
    pub(super) fn new(machine: Machine, packed: &Packed, shape: AttentionShape) -> Result<Attention> {
        let kernels = match shape.head_dim {
            1..=64 => UP_TO_64,
            65..=128 => UP_TO_128,
            wide => bail!("attention on CUDA expects heads of at most 128 dimensions, got {wide}"),
        };
        let of_span = |(start, len): (usize, usize)| {
            (0..len).step_by(kernels.tile).map(move |first| [start, len, first].map(|n| n as u32))
        };
        let tiles: Vec<[u32; 3]> = packed.spans().flat_map(of_span).collect();
        let upload = |work: fn(&[u32; 3]) -> u32| {
            let mut tiles = tiles.clone();
            // Stable, so that launches are the same for the same batch.
            tiles.sort_by_key(|tile| std::cmp::Reverse(work(tile)));
            machine.upload(tiles.as_flattened())
        };
        let (by_query, by_key) = (upload(|&[_, _, first]| first)?, upload(|&[_, len, first]| len - first)?);
        Ok(Attention { machine, shape, rows: packed.len(), n_tiles: tiles.len(), kernels, by_query, by_key })
    }

    fn widths(&self) -> (usize, usize) {
        (self.shape.n_heads * self.shape.head_dim, self.shape.n_kv_heads * self.shape.head_dim)
    }

    /// softmax(q·kᵀ / sqrt(head_dim))·v. `q [rows, heads * head_dim]`, `k` and `v [rows, kv_heads * head_dim]`.
    pub(super) fn run(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        let (out, log_sums) = self.forward(&q, &k, &v)?;
        let (attention, dims) = (self.clone(), q.dims());
        taped3("attention", [&q, &k, &v], (out, dims), move |qkv, out, g| attention.backward(qkv, (out, &log_sums), g))
    }

    /// The result, and log Σ e^score of every row and head, `[rows, heads]`.
    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Room, Tensor)> {
        let (width, kv_width) = self.widths();
        let (mut out, mut log_sums) =
            (self.machine.room(self.rows * width)?, self.machine.room(self.rows * self.shape.n_heads)?);
        let launch = Launch::new(self.kernels.forward, [self.n_tiles, self.shape.n_heads])
            .place(Place::of(q)?.with_room(self.rows * width))
            .place(Place::of(k)?.with_room(self.rows * kv_width))
            .place(Place::of(v)?.with_room(self.rows * kv_width))
            .place(out.place())
            .place(log_sums.place())
            .place(Place::of(&self.by_query)?);
        self.machine.launch(&self.heads(launch))?;
        Ok((out, log_sums.into_tensor((self.rows, self.shape.n_heads))))
    }

    /// Gradients of q, k and v.
    fn backward(&self, [q, k, v]: [&Tensor; 3], saved: (&Tensor, &Tensor), g: &Tensor) -> Result<[Tensor; 3]> {
        let (width, kv_width) = self.widths();
        let deltas = self.deltas(saved.0, g)?;
        let room = |width: usize| self.machine.room(self.rows * width);
        let (mut dq, mut dk, mut dv) = (room(width)?, room(kv_width)?, room(kv_width)?);
        let read = |kernel: Kernel, n: usize| -> Result<Launch<'_>> {
            let mut inputs = [q, k, v, g, saved.1, &deltas].into_iter();
            inputs.try_fold(Launch::new(kernel, [self.n_tiles, n]), |launch, x| Ok(launch.place(Place::of(x)?)))
        };
        let slope_q =
            read(self.kernels.slope_q, self.shape.n_heads)?.place(dq.place()).place(Place::of(&self.by_query)?);
        self.machine.launch(&self.heads(slope_q))?;
        let slopes_kv = read(self.kernels.slopes_kv, self.shape.n_kv_heads)?.place(dk.place()).place(dv.place());
        self.machine.launch(&self.heads(slopes_kv.place(Place::of(&self.by_key)?)))?;
        let tensor = |room: Room, width| room.into_tensor((self.rows, width));
        Ok([tensor(dq, width), tensor(dk, kv_width), tensor(dv, kv_width)])
    }

    /// rowsum(g∘out) of every row and head, `[rows, heads]`.
    fn deltas(&self, out: &Tensor, g: &Tensor) -> Result<Tensor> {
        let n = self.rows * self.shape.n_heads;
        let mut deltas = self.machine.room(n)?;
        let launch = Launch::warps(Kernel::AttentionDeltas, n)
            .place(Place::of(out)?.with_room(n * self.shape.head_dim))
            .place(Place::of(g)?.with_room(n * self.shape.head_dim))
            .place(deltas.place())
            .long(n)
            .int(self.shape.head_dim);
        self.machine.launch(&launch)?;
        Ok(deltas.into_tensor((self.rows, self.shape.n_heads)))
    }

    /// The arguments that all of its kernels end with.
    fn heads<'a>(&self, launch: Launch<'a>) -> Launch<'a> {
        let AttentionShape { n_heads, n_kv_heads, head_dim } = self.shape;
        launch.int(n_heads).int(n_kv_heads).int(head_dim).float(1.0 / (head_dim as f32).sqrt())
    }
}
