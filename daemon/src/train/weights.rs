//! The end of a run: its weights in a file that can be served.

use std::path::Path;

use candle_core::{Tensor, quantized::GgmlDType};
use policy::{
    checkpoint::{Checkpoint, Digest},
    model_error::ModelError,
};

use super::error::{Result, TrainError};

/// Highest number of 16 bits, which are also the scales of quantised blocks.
const F16_MAX: f32 = 65504.0;

/// Writes the file whole or not at all; not at all when it would hold an infinity or no number, which nothing could serve.
pub(super) fn write(checkpoint: &Checkpoint, path: &Path) -> Result<Digest> {
    let refused = |reason: String| TrainError::Weights { path: path.to_owned(), reason };
    for (name, tensor) in &checkpoint.tensors {
        let kind = checkpoint.types.get(name).copied().unwrap_or(GgmlDType::F32);
        if let Some(number) = first_unfit(tensor, kind)? {
            let rule = format!("{name} holds {number}, for which {kind:?} has no room; lower the learning rate");
            return Err(refused(rule));
        }
    }
    checkpoint.write(path).map_err(|error| match error {
        // It names the file itself.
        error @ ModelError::Io { .. } => error.into(),
        // An encoder's full disk does not.
        error => refused(error.to_string()),
    })
}

fn first_unfit(tensor: &Tensor, kind: GgmlDType) -> Result<Option<f32>> {
    let highest = if matches!(kind, GgmlDType::F32 | GgmlDType::BF16) { f32::MAX } else { F16_MAX };
    let numbers = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(ModelError::from)?;
    Ok(numbers.into_iter().find(|number| !number.is_finite() || number.abs() > highest))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn checkpoint(numbers: &[f32], kind: GgmlDType) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        let tensor = Tensor::from_slice(numbers, (1, numbers.len()), &Device::Cpu).expect("a tensor");
        checkpoint.tensors.insert("x".to_owned(), tensor);
        checkpoint.types.insert("x".to_owned(), kind);
        checkpoint
    }

    /// Goal: no file appears that nothing could serve, and one that stood there stays. Method: numbers at the borders of two
    /// types, over an older file.
    #[test]
    fn numbers_without_room_in_the_file_leave_the_old_one_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.gguf");
        for (number, kind) in [(f32::NAN, GgmlDType::F32), (f32::INFINITY, GgmlDType::F32), (1e5, GgmlDType::F16)] {
            std::fs::write(&path, b"old").expect("written");
            let refused = write(&checkpoint(&[1.0, number], kind), &path).expect_err("refused").to_string();
            assert!(refused.contains("out.gguf: x holds") && refused.contains("learning rate"), "{refused}");
            assert_eq!(std::fs::read(&path).expect("there"), b"old");
        }
        write(&checkpoint(&[1.0, 1e5], GgmlDType::F32), &path).expect("32 bits have room");
        write(&checkpoint(&[1.0, -65504.0], GgmlDType::F16), &path).expect("just so");
    }

    /// Method: an encoder that fails, as on a full disk, with an error that knows no file: rows of three do not fill a block.
    #[test]
    fn a_failed_write_names_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.gguf");
        let refused = write(&checkpoint(&[1.0, 2.0, 3.0], GgmlDType::Q8_0), &path).expect_err("refused").to_string();
        assert!(refused.starts_with("cannot write") && refused.contains("out.gguf: "), "{refused}");
        assert!(!path.exists());
    }
}
