//! A launch as plain data: which kernel, how many blocks, which arguments. The GPU and the emulation are given the same.

use std::marker::PhantomData;

use candle_core::{DType, Result, Storage, Tensor, bail};

/// Declares the kernels: name in the source, threads of a block, bytes of shared memory.
macro_rules! kernels {
    ($($kernel:ident $name:literal $threads:literal $shared:expr;)*) => {
        /// A kernel of `policy/native/cuda`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kernel {
            $($kernel,)*
        }

        impl Kernel {
            /// All of them, in the order of their numbers.
            pub(super) const ALL: &[Kernel] = &[$(Kernel::$kernel,)*];

            /// Its name in the source.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => $name,)*
                }
            }

            /// Threads of a block.
            pub(super) fn threads(self) -> u32 {
                match self {
                    $(Kernel::$kernel => $threads,)*
                }
            }

            /// Shared memory of a block, bytes.
            pub(super) fn shared_bytes(self) -> u32 {
                match self {
                    $(Kernel::$kernel => $shared,)*
                }
            }
        }
    };
}

kernels! {
    AttentionForward64 "attention_forward_64" 256 tiles(64, 64, 3);
    AttentionForward128 "attention_forward_128" 256 tiles(32, 128, 3);
    AttentionDeltas "attention_deltas" 256 0;
    AttentionSlopeQ64 "attention_slope_q_64" 256 tiles(64, 64, 4);
    AttentionSlopeQ128 "attention_slope_q_128" 256 tiles(32, 128, 4);
    AttentionSlopesKv64 "attention_slopes_kv_64" 256 tiles(64, 64, 4);
    AttentionSlopesKv128 "attention_slopes_kv_128" 256 tiles(32, 128, 4);
    Rope "rope" 256 0;
    SwigluForward "swiglu_forward" 256 0;
    SwigluBackward "swiglu_backward" 256 0;
    AdamW "adam_w" 256 0;
    // A number for each of 8 warps, of 8 bytes or 4.
    SumsOfSquares "sums_of_squares" 256 8 * 8;
    EmbeddingForward "embedding_forward" 256 0;
    EmbeddingPieces "embedding_pieces" 128 0;
    EmbeddingRows "embedding_rows" 128 0;
    LogProbForward "log_prob_forward" 256 8 * 4;
    LogProbBackward "log_prob_backward" 256 0;
    RmsNormForward "rms_norm_forward" 256 0;
    RmsNormBackward "rms_norm_backward" 256 0;
    RmsNormGainParts "rms_norm_gain_parts" 128 0;
    SumParts "sum_parts" 128 0;
}

/// Bytes of `n` tiles `[t, dim]` and one of weights `[t, t]`, each row 4 numbers longer than it need be (`attention.cu`).
const fn tiles(t: u32, dim: u32, n: u32) -> u32 {
    4 * (n * t * (dim + 4) + t * (t + 4))
}

/// Lanes of a warp.
const WARP: usize = 32;

/// Where numbers of 4 bytes begin on the machine, and how many there are. They outlive the launch that it is given to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    address: u64,
    len: usize,
    buffer: PhantomData<&'a ()>,
}

impl<'a> Place<'a> {
    pub(super) fn new(address: u64, len: usize) -> Place<'a> {
        Place { address, len, buffer: PhantomData }
    }

    /// Of a tensor that is only read.
    pub(super) fn of(tensor: &'a Tensor) -> Result<Place<'a>> {
        if !tensor.is_contiguous() || !matches!(tensor.dtype(), DType::F32 | DType::U32) {
            bail!("a kernel expects contiguous numbers of 4 bytes, got {:?} {:?}", tensor.dtype(), tensor.shape());
        }
        let (storage, layout) = tensor.storage_and_layout();
        let start = start_of(&storage, tensor.dtype())?;
        Ok(Place::new(start + 4 * layout.start_offset() as u64, tensor.elem_count()))
    }

    /// What lies `n` numbers further on.
    pub(super) fn at(self, n: usize) -> Place<'a> {
        assert!(n <= self.len, "number {n} of a buffer of {}", self.len);
        Place::new(self.address + 4 * n as u64, self.len - n)
    }

    /// The same, after a look at whether there is room for `n` numbers: the last point at which anybody can tell.
    pub(super) fn with_room(self, n: usize) -> Place<'a> {
        assert!(n <= self.len, "a kernel needs {n} numbers of a buffer of {}", self.len);
        self
    }

    pub(super) fn address(self) -> u64 {
        self.address
    }
}

fn start_of(storage: &Storage, dtype: DType) -> Result<u64> {
    match storage {
        Storage::Cpu(storage) => Ok(match dtype {
            DType::F32 => storage.as_slice::<f32>()?.as_ptr() as u64,
            _ => storage.as_slice::<u32>()?.as_ptr() as u64,
        }),
        #[cfg(feature = "cuda-trainer")]
        Storage::Cuda(storage) => super::gpu::start_of(storage, dtype),
        _ => bail!("a kernel expects a tensor on its own device"),
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

/// A kernel with everything that it is started with.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) kernel: Kernel,
    /// Blocks along x and y; nothing happens when there are none.
    pub(super) grid: [u32; 2],
    pub(super) arguments: Vec<Argument>,
    buffers: PhantomData<&'a ()>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(kernel: Kernel, grid: [usize; 2]) -> Launch<'a> {
        let grid = [blocks(grid[0], i32::MAX as u32), blocks(grid[1], u32::from(u16::MAX))];
        Launch { kernel, grid, arguments: Vec::new(), buffers: PhantomData }
    }

    /// One thread for each of `n` numbers.
    pub(super) fn each(kernel: Kernel, n: usize) -> Launch<'a> {
        Launch::new(kernel, [n.div_ceil(kernel.threads() as usize), 1])
    }

    /// One warp for each of `n` rows.
    pub(super) fn warps(kernel: Kernel, n: usize) -> Launch<'a> {
        Launch::new(kernel, [n.div_ceil(kernel.threads() as usize / WARP), 1])
    }

    fn with(mut self, argument: Argument) -> Launch<'a> {
        self.arguments.push(argument);
        self
    }

    pub(super) fn place(self, place: Place<'a>) -> Launch<'a> {
        self.with(Argument::Address(place.address))
    }

    /// A side of a matrix, or another number of things.
    pub(super) fn int(self, n: usize) -> Launch<'a> {
        self.with(Argument::Int(i32::try_from(n).expect("a side of a matrix has fewer than 2^31 numbers")))
    }

    /// How many numbers a whole matrix has.
    pub(super) fn long(self, n: usize) -> Launch<'a> {
        self.with(Argument::Long(i64::try_from(n).expect("memory has fewer than 2^63 numbers")))
    }

    pub(super) fn float(self, x: f32) -> Launch<'a> {
        self.with(Argument::Float(x))
    }
}

fn blocks(n: usize, most: u32) -> u32 {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    assert!(n <= most, "a grid of {n} blocks, of which CUDA allows {most}");
    n
}
