//! From hidden states to log-probs and entropies, some rows of logits at a time, so that nothing of size tokens × vocabulary
//! exists. Backward computes each chunk of logits again and turns it into its gradient in place.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{
    launch::{Kernel, Launch, Place},
    machine::{Machine, Room},
    product::{Factor, Product},
    taped::taped2,
};
use crate::kernels::Precision;

/// Bytes that the logits of one chunk may take: enough rows to fill a GPU with the product, at any vocabulary.
pub(crate) const CHUNK_BYTES: usize = 512 << 20;

#[derive(Clone)]
struct Readout {
    machine: Machine,
    /// `[n]`.
    targets: Tensor,
    /// 1 over the temperature, `[n]`.
    inverses: Tensor,
    n: usize,
    width: usize,
    vocab: usize,
    rows_a_chunk: usize,
    precision: Precision,
}

/// Log-prob of each row's target and entropy of each row's distribution: `[2, n]`, nats, differentiable.
///
/// `hidden [n, width]`; `weight [vocab, width]`; logits are divided by the row's temperature. `chunk_bytes`: of logits; `precision`: of
/// the products' factors.
///
/// # Errors
/// When the device fails.
pub(crate) fn log_probs(
    machine: Machine,
    [hidden, weight]: [&Tensor; 2],
    targets: &[u32],
    temperatures: &[f64],
    chunk_bytes: usize,
    precision: Precision,
) -> Result<Tensor> {
    let ((n, width), (vocab, _)) = (hidden.dims2()?, weight.dims2()?);
    assert_eq!((targets.len(), temperatures.len()), (n, n), "a target and a temperature for each row");
    assert!(targets.iter().all(|&target| (target as usize) < vocab), "targets lie in the vocabulary");
    let inverses: Vec<f32> = temperatures.iter().map(|t| (1.0 / t) as f32).collect();
    let readout = Readout {
        targets: machine.upload(targets)?,
        inverses: Tensor::from_vec(inverses, n, &machine.device())?,
        machine,
        n,
        width,
        vocab,
        precision,
        rows_a_chunk: (chunk_bytes / (4 * vocab)).clamp(1, n.max(1)),
    };
    let (hidden, weight) = (hidden.contiguous()?, weight.contiguous()?);
    let (value, log_sums) = readout.forward(&hidden, &weight)?;
    taped2("log_probs", [&hidden, &weight], (value, [2, n].as_slice()), move |both, value, g| {
        readout.backward(both, value, &log_sums, g)
    })
}

impl Readout {
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n, step) = (self.n, self.rows_a_chunk);
        (0..n).step_by(step).map(move |start| start..(start + step).min(n))
    }

    fn product(&self, left: Factor<'_>, right: Factor<'_>, out: Place<'_>, adds: bool) -> Result<()> {
        self.machine.product(&Product { left, right, out, adds, precision: self.precision })
    }

    /// Logits of some rows, into a room for the longest chunk.
    fn logits(&self, hidden: &Tensor, weight: &Tensor, chunk: &Range<usize>, out: Place<'_>) -> Result<()> {
        let left = Factor::new(Place::of(hidden)?.at(chunk.start * self.width), chunk.len(), self.width);
        let right = Factor::new(Place::of(weight)?, self.vocab, self.width).transposed();
        self.product(left, right, out, false)
    }

    fn forward(&self, hidden: &Tensor, weight: &Tensor) -> Result<(Room, Tensor)> {
        let mut logits = self.machine.room(self.rows_a_chunk * self.vocab)?;
        let (mut value, mut log_sums) = (self.machine.room(2 * self.n)?, self.machine.room(self.n)?);
        let (logits, out, sums) = (logits.place(), value.place(), log_sums.place());
        for chunk in self.chunks() {
            self.logits(hidden, weight, &chunk, logits)?;
            let launch = Launch::new(Kernel::LogProbForward, [chunk.len(), 1])
                .place(logits)
                .place(Place::of(&self.targets)?.at(chunk.start))
                .place(Place::of(&self.inverses)?.at(chunk.start))
                .place(out.at(chunk.start))
                .place(out.at(self.n + chunk.start))
                .place(sums.at(chunk.start))
                .int(self.vocab);
            self.machine.launch(&launch)?;
        }
        Ok((value, log_sums.into_tensor(self.n)))
    }

    fn backward(
        &self,
        [hidden, weight]: [&Tensor; 2],
        value: &Tensor,
        log_sums: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut logits = self.machine.room(self.rows_a_chunk * self.vocab)?;
        let mut d_hidden = self.machine.room(self.n * self.width)?;
        // Beside an adapter the unembedding is frozen.
        let mut d_weight = match weight.track_op() {
            true => Some(self.machine.room(self.vocab * self.width)?),
            false => None,
        };
        let logits = logits.place();
        for chunk in self.chunks() {
            self.logits(hidden, weight, &chunk, logits)?;
            let launch = Launch::new(Kernel::LogProbBackward, [chunk.len(), 1])
                .place(logits)
                .place(Place::of(&self.targets)?.at(chunk.start))
                .place(Place::of(&self.inverses)?.at(chunk.start))
                .place(Place::of(value)?.at(self.n + chunk.start))
                .place(Place::of(log_sums)?.at(chunk.start))
                .place(Place::of(g)?.at(chunk.start))
                .place(Place::of(g)?.at(self.n + chunk.start))
                .int(self.vocab);
            self.machine.launch(&launch)?;
            let slopes = Factor::new(logits, chunk.len(), self.vocab);
            let right = Factor::new(Place::of(weight)?, self.vocab, self.width);
            let out = d_hidden.place().at(chunk.start * self.width);
            self.product(slopes, right, out, false)?;
            if let Some(d_weight) = &mut d_weight {
                let right = Factor::new(Place::of(hidden)?.at(chunk.start * self.width), chunk.len(), self.width);
                let out = d_weight.place();
                self.product(slopes.transposed(), right, out, chunk.start > 0)?;
            }
        }
        let d_weight = d_weight.map(|room| room.into_tensor((self.vocab, self.width)));
        Ok((Some(d_hidden.into_tensor((self.n, self.width))), d_weight))
    }
}
