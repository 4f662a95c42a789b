//! The optimiser's two passes over memory: AdamW in place, and the squares that the norm of all gradients is made of.

use candle_core::{Result, Tensor};

use super::{
    launch::{Kernel, Launch, Place},
    machine::{Machine, write},
};

/// Numbers of one block of squares.
const NUMBERS_A_BLOCK: usize = 1 << 16;

/// One step's constants, as the kernel multiplies by them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamNumbers {
    /// By what the gradient is multiplied first.
    pub(crate) factor: f32,
    /// β₁ and β₂.
    pub(crate) betas: [f32; 2],
    /// 1 − β₁ and 1 − β₂.
    pub(crate) rests: [f32; 2],
    /// 1/(1 − β₁ᵗ) and 1/(1 − β₂ᵗ).
    pub(crate) scales: [f32; 2],
    /// The learning rate.
    pub(crate) rate: f32,
    /// What weight decay leaves of the parameter.
    pub(crate) keep: f32,
    pub(crate) eps: f32,
}

/// θ ← keep·θ − rate·m̂/(sqrt(v̂) + eps) after m and v have taken the gradient in, all in place.
///
/// # Errors
/// When shapes differ or the device fails.
pub(crate) fn adam_w(machine: Machine, [theta, m, v]: [&Tensor; 3], g: &Tensor, numbers: AdamNumbers) -> Result<()> {
    let (n, g) = (theta.elem_count(), g.contiguous()?);
    let AdamNumbers { factor, betas: [b1, b2], rests: [c1, c2], scales: [scale1, scale2], rate, keep, eps } = numbers;
    write(theta, |theta| {
        write(m, |m| {
            write(v, |v| {
                let launch = Launch::each(Kernel::AdamW, n)
                    .place(theta)
                    .place(m.with_room(n))
                    .place(v.with_room(n))
                    .place(Place::of(&g)?.with_room(n))
                    .long(n);
                let constants = [factor, b1, b2, c1, c2, scale1, scale2, rate, keep, eps];
                machine.launch(&constants.into_iter().fold(launch, Launch::float))
            })
        })
    })
}

/// Σ x² over all numbers of all tensors: blocks of a fixed size in f64, their sums on the host in order.
///
/// # Errors
/// When the device fails.
pub(crate) fn sum_of_squares(machine: Machine, tensors: &[&Tensor]) -> Result<f64> {
    let n_blocks = |tensor: &Tensor| tensor.elem_count().div_ceil(NUMBERS_A_BLOCK);
    let all = tensors.iter().map(|tensor| n_blocks(tensor)).sum();
    let (mut sums, mut start) = (machine.room(all)?, 0);
    for tensor in tensors {
        let tensor = tensor.contiguous()?;
        let launch = Launch::new(Kernel::SumsOfSquares, [n_blocks(&tensor), 1])
            .place(Place::of(&tensor)?)
            .place(sums.place().at(start))
            .long(tensor.elem_count())
            .int(NUMBERS_A_BLOCK);
        machine.launch(&launch)?;
        start += n_blocks(&tensor);
    }
    // One copy to the host for all of them.
    Ok(sums.into_tensor(all).to_vec1::<f32>()?.into_iter().map(f64::from).sum())
}
