//! What llama.cpp can compute on.

use std::fmt;

use llama_cpp_2::{LlamaBackendDevice, list_llama_ggml_backend_devices};

use super::{backend::backend, error::EngineError};

/// One device that this build of llama.cpp finds: the processor, a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// llama.cpp's name of it, `CPU` or `CUDA0`.
    pub name: String,
    /// Its maker's.
    pub description: String,
    /// Bytes of its memory in all, 0 where the device does not say.
    pub memory_total: u64,
    /// Bytes of it that nobody uses now.
    pub memory_free: u64,
}

impl From<LlamaBackendDevice> for Hardware {
    fn from(device: LlamaBackendDevice) -> Hardware {
        Hardware {
            name: device.name,
            description: device.description.trim().to_owned(),
            memory_total: device.memory_total as u64,
            memory_free: device.memory_free as u64,
        }
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        write!(f, "{}: {}", self.name, self.description)?;
        match self.memory_total {
            0 => Ok(()),
            total => write!(f, ", {:.1} GiB, {:.1} free", gib(total), gib(self.memory_free)),
        }
    }
}

/// Every device that llama.cpp finds, in its order.
///
/// # Errors
/// [`EngineError::Backend`].
pub fn hardware() -> Result<Vec<Hardware>, EngineError> {
    backend()?;
    Ok(list_llama_ggml_backend_devices().into_iter().map(Hardware::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_among_the_devices_and_has_memory() {
        let all = hardware().unwrap();
        let processor = all.iter().find(|device| device.name == "CPU").expect("llama.cpp is built for one");
        assert!(processor.memory_total >= processor.memory_free && processor.memory_total > 1 << 28, "{processor}");
        assert!(processor.to_string().starts_with("CPU: ") && processor.to_string().contains(" GiB, "), "{processor}");
    }
}
