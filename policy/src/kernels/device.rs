//! The device that a configuration names.

use std::time::{Duration, Instant};

#[cfg(feature = "cuda-trainer")]
use candle_core::Error;
use candle_core::{DType, Device, Result, Tensor, bail};

/// Side of the square product of [`gflops_on`] on a GPU, and on the processor, which would take long for the first.
const SIDES: (usize, usize) = (4096, 512);
/// How long it measures.
const PATIENCE: Duration = Duration::from_millis(500);

/// `cpu` or `cuda:N`.
///
/// # Errors
/// When the name is another, the program was built without the feature `cuda`, there is no such GPU, or its driver is too old.
pub fn device(name: &str) -> Result<Device> {
    match (name, name.strip_prefix("cuda:").map(str::parse)) {
        ("cpu", _) => Ok(Device::Cpu),
        (_, Some(Ok(ordinal))) => gpu(ordinal),
        _ => bail!("device: expected cpu or cuda:N, got {name:?}"),
    }
}

#[cfg(feature = "cuda-trainer")]
fn gpu(ordinal: usize) -> Result<Device> {
    tracing::warn!(
        "the trainer's CUDA kernels have been checked by emulation only, never on a GPU: watch the parity gauges"
    );
    let opened = super::cuda::open(ordinal);
    opened.map_err(|error| {
        Error::msg(format!("cuda:{ordinal} cannot be opened ({error}); `nvidia-smi` lists the GPUs there are"))
    })
}

#[cfg(not(feature = "cuda-trainer"))]
fn gpu(ordinal: usize) -> Result<Device> {
    bail!("cuda:{ordinal} needs a honed that was built with the feature `cuda`")
}

/// GFLOP/s of a square f32 product by candle on the device of this name: the best of as many as fit into half a second. For
/// `honed doctor`, never for a decision.
///
/// # Errors
/// What [`device`] says, or the device's own words.
pub fn gflops_on(name: &str) -> Result<f64> {
    let device = device(name)?;
    let side = if device.is_cpu() { SIDES.1 } else { SIDES.0 };
    let x = Tensor::ones((side, side), DType::F32, &device)?;
    let (started, mut best) = (Instant::now(), f64::INFINITY);
    while started.elapsed() < PATIENCE || best.is_infinite() {
        let before = Instant::now();
        let y = x.matmul(&x)?;
        device.synchronize()?;
        best = best.min(before.elapsed().as_secs_f64());
        drop(y);
    }
    Ok(2.0 * (side as f64).powi(3) / best / 1e9)
}

#[cfg(test)]
mod tests {
    use super::{device, gflops_on};

    #[test]
    fn a_rate_is_measured_where_there_is_a_device() {
        let rate = gflops_on("cpu").unwrap();
        assert!(rate.is_finite() && rate > 0.1, "{rate}");
        assert!(gflops_on("cuda:255").is_err());
    }

    #[test]
    fn a_device_that_does_not_exist_is_refused() {
        assert!(device("cpu").unwrap().is_cpu());
        for name in ["gpu", "cuda", "cuda:", "cuda:x", "CPU", "cuda:255"] {
            assert!(device(name).is_err(), "{name}");
        }
        let refused = device("cuda:255").unwrap_err().to_string();
        assert!(refused.starts_with("cuda:255 "), "{refused}");
    }
}
