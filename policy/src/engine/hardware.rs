//! What llama.cpp can compute on.

use std::fmt;

use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};

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
    /// Whether layers can go there: it is a GPU.
    pub is_gpu: bool,
}

impl From<LlamaBackendDevice> for Hardware {
    fn from(device: LlamaBackendDevice) -> Hardware {
        Hardware {
            name: device.name,
            description: device.description.trim().to_owned(),
            memory_total: device.memory_total as u64,
            memory_free: device.memory_free as u64,
            is_gpu: matches!(device.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu),
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

/// Refuses layers for a GPU that there is not: llama.cpp would compute them on the processor without a word, and what protects
/// streams there (prompts in pieces, a rest between passes) is left out for layers on a GPU.
///
/// # Errors
/// [`EngineError::NoGpu`].
pub(super) fn check_gpu(layers: u32) -> Result<(), EngineError> {
    if layers == 0 {
        return Ok(());
    }
    check_gpu_among(&hardware()?, layers, cfg!(feature = "cuda-engine"))
}

fn check_gpu_among(all: &[Hardware], layers: u32, is_built_for_one: bool) -> Result<(), EngineError> {
    if all.iter().any(|device| device.is_gpu) {
        return Ok(());
    }
    let reason = match is_built_for_one {
        false => "this honed was built without the `cuda` feature".to_owned(),
        true => {
            let found: Vec<String> = all.iter().map(ToString::to_string).collect();
            format!("llama.cpp finds no GPU here, only {}", found.join("; "))
        }
    };
    Err(EngineError::NoGpu { layers, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_for_a_gpu_that_is_not_there_are_refused() {
        let device = |name: &str, is_gpu| Hardware {
            name: name.to_owned(),
            description: "a device".to_owned(),
            memory_total: 0,
            memory_free: 0,
            is_gpu,
        };
        let (alone, beside) = ([device("CPU", false)], [device("CPU", false), device("CUDA0", true)]);
        check_gpu(0).unwrap();
        check_gpu_among(&beside, 99, true).unwrap();
        let said = |built| check_gpu_among(&alone, 99, built).unwrap_err().to_string();
        assert_eq!(said(false), "policy.gpu_layers = 99: this honed was built without the `cuda` feature");
        assert_eq!(said(true), "policy.gpu_layers = 99: llama.cpp finds no GPU here, only CPU: a device");
    }

    /// Goal: an engine never takes layers for a GPU that there is not. Method: this build on this machine, whatever it has.
    #[test]
    fn an_engine_starts_with_layers_on_a_gpu_only_where_there_is_one() {
        let config = config::Policy { gpu_layers: 99, ..config::Config::default().policy };
        let has_gpu = hardware().unwrap().iter().any(|device| device.is_gpu);
        let started = crate::engine::Engine::start(&config, std::path::Path::new("no/such/file"));
        let is_refused = matches!(started, Err(EngineError::NoGpu { layers: 99, .. }));
        assert_eq!(is_refused, !has_gpu, "before the file is looked at");
    }

    #[test]
    fn the_processor_is_among_the_devices_and_has_memory() {
        let all = hardware().unwrap();
        let processor = all.iter().find(|device| device.name == "CPU").expect("llama.cpp is built for one");
        assert!(processor.memory_total >= processor.memory_free && processor.memory_total > 1 << 28, "{processor}");
        assert!(processor.to_string().starts_with("CPU: ") && processor.to_string().contains(" GiB, "), "{processor}");
    }
}
