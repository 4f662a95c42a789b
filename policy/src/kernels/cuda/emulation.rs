//! The kernels on the processor: the same sources, compiled by the C++ compiler (`policy/native/emulation`).

use std::ffi::{CStr, CString, c_char, c_int};

use candle_core::{Result, bail};
use half::bf16;

use super::{
    launch::{Argument, Launch},
    product::Blas,
};
use crate::kernels::{Precision, matrix::Number};

/// In which order threads and blocks run: 0 ascending, 1 descending, more: shuffled. A kernel that is right cannot tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emulation {
    pub(super) schedule: u32,
}

/// As `emulation.cpp` declares it.
#[repr(C)]
struct Plain {
    kind: u32,
    bits: u64,
}

unsafe extern "C" {
    fn honed_emulated_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared_bytes: u32,
        arguments: *const Plain,
        n_arguments: usize,
        schedule: u32,
        message: *mut c_char,
        message_len: usize,
    ) -> c_int;
}

impl Emulation {
    pub(super) fn launch(self, launch: &Launch<'_>) -> Result<()> {
        let (kernel, [x, y]) = (launch.kernel, launch.grid);
        self.run(kernel.name(), [x, y, 1], (kernel.threads(), kernel.shared_bytes()), &launch.arguments)
    }

    /// Runs a kernel by its name.
    pub(super) fn run(
        self,
        name: &str,
        grid: [u32; 3],
        (threads, shared_bytes): (u32, u32),
        arguments: &[Argument],
    ) -> Result<()> {
        let plain = |argument: &Argument| match *argument {
            Argument::Address(bits) => Plain { kind: 0, bits },
            Argument::Int(x) => Plain { kind: 1, bits: x as u64 },
            Argument::Long(x) => Plain { kind: 2, bits: x as u64 },
            Argument::Float(x) => Plain { kind: 3, bits: u64::from(x.to_bits()) },
        };
        let arguments: Vec<Plain> = arguments.iter().map(plain).collect();
        let name = CString::new(name).expect("a name without a zero");
        let mut message = [0 as c_char; 256];
        // SAFETY: the pointers are to arrays of the lengths beside them. The emulation refuses arguments of other kinds than the
        // kernel takes; that addresses have room for what the kernel writes is what the tests around it are about.
        let failed = unsafe {
            honed_emulated_launch(
                name.as_ptr(),
                grid.as_ptr(),
                threads,
                shared_bytes,
                arguments.as_ptr(),
                arguments.len(),
                self.schedule,
                message.as_mut_ptr(),
                message.len(),
            )
        };
        if failed != 0 {
            // SAFETY: the message ends with a zero inside the array.
            let message = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned();
            bail!("{}: {message}", name.to_string_lossy());
        }
        Ok(())
    }

    /// The reference of BLAS's `gemm`: C = op(A)·op(B) + β·C, every matrix column by column; with β = 0 C is not read. In bf16 the
    /// numbers of A and B are rounded to it, and the sum is f32's.
    pub(super) fn product(self, blas: &Blas) {
        let Blas { is_transposed, m, n, k, a, lda, b, ldb, beta, c, ldc, precision } = *blas;
        let near = |x: f32| match precision {
            Precision::F32 => x,
            Precision::Bf16 => bf16::near(x).to_f32(),
        };
        let side = |x: i32| usize::try_from(x).expect("sides are not negative");
        let (m, n, k, lda, ldb, ldc) = (side(m), side(n), side(k), side(lda), side(ldb), side(ldc));
        let (a, b, c) = (a as *const f32, b as *const f32, c as *mut f32);
        let [ta, tb] = is_transposed;
        for j in 0..n {
            for i in 0..m {
                let term = |l: usize| {
                    let at_a = if ta { i * lda + l } else { l * lda + i };
                    let at_b = if tb { l * ldb + j } else { j * ldb + l };
                    // SAFETY: `Product` has checked the room of each matrix, and these indices lie inside its sides.
                    unsafe { near(*a.add(at_a)) * near(*b.add(at_b)) }
                };
                let sum: f32 = (0..k).map(term).sum();
                // SAFETY: as above.
                unsafe { *c.add(j * ldc + i) = if beta == 0.0 { sum } else { sum + beta * *c.add(j * ldc + i) } };
            }
        }
    }
}
