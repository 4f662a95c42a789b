//! What the fuzzers of weight files do with an input; compiled for tests and under `cfg(fuzzing)` only.

use std::io::Cursor;

use candle_core::quantized::GgmlDType;

use crate::{
    architecture::Shape,
    checkpoint::{self, Checkpoint},
    transformer::random_checkpoint,
};

/// GGUF.
pub mod gguf {
    use std::sync::LazyLock;

    use super::{Checkpoint, Cursor, GgmlDType, Shape, checkpoint, random_checkpoint};
    use crate::checkpoint::gguf::{Header, Malformed};

    /// Inputs to begin with: small models, of which one is quantised, and one that is no model at all.
    #[must_use]
    pub fn seeds() -> Vec<Vec<u8>> {
        let mut quantised = model(&Shape::llama(16, 32, 1, 2, 1, 32));
        quantised.types.insert("blk.0.ffn_up.weight".to_owned(), GgmlDType::Q8_0);
        let empty = [&b"GGUF"[..], &3_u32.to_le_bytes(), &[0; 16]].concat();
        vec![bytes(&version_0()), bytes(&quantised), empty]
    }

    /// Every look that a file from outside gets, as if it were to become a version beside a small version 0; how many of the four
    /// it passes.
    ///
    /// # Panics
    /// When an admitted file's tensors lie outside of it, or when a refusal says nothing.
    pub fn target(input: &[u8]) -> usize {
        static SFT: LazyLock<Header> = LazyLock::new(|| read(&bytes(&version_0())).expect("our own file"));
        let Some(header) = admitted(read(input)) else {
            return 0;
        };
        for place in header.tensors.values() {
            let end = place.start.checked_add(place.n_bytes);
            assert!(end.is_some_and(|end| end <= input.len() as u64), "{place:?}");
        }
        let fits = admitted(checkpoint::check_fit(&header, &SFT)).is_some();
        let is_finite = admitted(checkpoint::check_finite(&mut Cursor::new(input), &header)).is_some();
        let read = Checkpoint::from_bytes(input).map_err(|error| assert!(!error.to_string().is_empty()));
        1 + [fits, is_finite, read.is_ok()].into_iter().filter(|passed| *passed).count()
    }

    fn admitted<T>(result: Result<T, Malformed>) -> Option<T> {
        result.map_err(|error| assert!(!error.0.is_empty())).ok()
    }

    fn read(input: &[u8]) -> Result<Header, Malformed> {
        Header::read(input, input.len() as u64)
    }

    fn version_0() -> Checkpoint {
        model(&Shape::llama(16, 8, 1, 2, 1, 8))
    }

    fn model(shape: &Shape) -> Checkpoint {
        random_checkpoint(shape, 3).expect("a sound shape")
    }

    fn bytes(model: &Checkpoint) -> Vec<u8> {
        model.to_bytes().expect("a sound model")
    }
}

/// The headers of safetensors.
pub mod safetensors {
    use crate::checkpoint::safetensors::Header;

    /// Inputs to begin with.
    #[must_use]
    pub fn seeds() -> Vec<Vec<u8>> {
        let header = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
            "y":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]}}"#;
        let file = |header: &str| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 24]].concat();
        vec![file(header), file("{}")]
    }

    /// Reads the input's header; whether it is admitted.
    ///
    /// # Panics
    /// When an admitted file's tensors do not fill it, or when a refusal says nothing.
    pub fn target(mut input: &[u8]) -> bool {
        let len = input.len() as u64;
        match Header::read(&mut input, len) {
            Ok(header) => {
                let ends = header.tensors.values().map(|place| place.start + place.n_bytes);
                assert!(ends.max().is_none_or(|end| end == len));
                true
            }
            Err(error) => {
                assert!(!error.0.is_empty());
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_lead_past_every_look() {
        let passed: Vec<usize> = super::gguf::seeds().iter().map(|seed| super::gguf::target(seed)).collect();
        assert_eq!(passed, [4, 3, 3], "version 0 itself, and two sound files that are not like it");
        let admitted: Vec<bool> =
            super::safetensors::seeds().iter().map(|seed| super::safetensors::target(seed)).collect();
        assert_eq!(admitted, [true, false]);
    }
}
