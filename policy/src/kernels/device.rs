//! The device that a configuration names.

use candle_core::{Device, Result, bail};

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
    super::cuda::open(ordinal)
}

/// candle says that it was built without.
#[cfg(not(feature = "cuda-trainer"))]
fn gpu(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal)
}

#[cfg(test)]
mod tests {
    use super::device;

    #[test]
    fn a_device_that_does_not_exist_is_refused() {
        assert!(device("cpu").unwrap().is_cpu());
        for name in ["gpu", "cuda", "cuda:", "cuda:x", "CPU", "cuda:255"] {
            assert!(device(name).is_err(), "{name}");
        }
    }
}
