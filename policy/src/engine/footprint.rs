//! How much memory a version takes as a resident, said before any of it is asked for.
//!
//! llama.cpp asks for a cache of megabytes to gigabytes, is given addresses for it, and dies as it clears them where there
//! are no pages: with everything that the process serves. So what would not fit is refused first, with its numbers. Every
//! version has the shape of version 0, so that one tells of all; only the file is asked for its own size.
//!
//! What lies on a GPU is not counted. llama.cpp is refused that memory where there is none, and says so.

use std::fmt;

use crate::{
    decoder,
    engine::{EngineError, gguf::Inspected, loading, model::Model, worker::Setup},
    memory::{Room, mib},
    version::PolicyVersion,
};

/// llama.cpp rounds a sequence's window up to a multiple of this.
const WINDOW_STEP: u64 = 256;
/// Bytes of a number while llama.cpp computes.
const NUMBER: u64 = 4;

/// Bytes that one more resident takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footprint {
    /// Its file: whole weights, or an adapter beside version 0's.
    weights: u64,
    /// Keys and values of every sequence.
    cache: u64,
    /// Those that are kept beside the sequences.
    kept: u64,
    /// What a forward pass works with.
    pass: u64,
}

impl Footprint {
    /// - `base`: version 0's weights, whose shape is that of all versions;
    /// - `found`: what the header of the file says;
    /// - `file_bytes`: how long it is.
    pub(super) fn of(base: &Model, setup: &Setup, found: &Inspected, file_bytes: u64) -> Footprint {
        let shape = match (base, found.is_adapter) {
            (Model::Decoder(base), true) => Some(base.shape()),
            (Model::LlamaCpp(_), true) => None,
            (_, false) => setup.backend.decoder(found, setup.gpu_layers).ok(),
        };
        if let Some(shape) = shape {
            let (is_f32, weights) = match found.is_adapter {
                true => (base.is_f32(), found.adapter_bytes),
                false => (found.has_f32_matrices, file_bytes),
            };
            let decoder::Footprint { cache, kept, pass } = loading::limits(setup, shape, is_f32).footprint(shape);
            let [cache, kept, pass] = [cache, kept, pass].map(|bytes| bytes as u64);
            return Footprint { weights, cache, kept, pass };
        }
        // An adapter is computed with version 0's weights, and as exactly.
        let is_f32 = if found.is_adapter { base.is_f32() } else { found.is_f32 };
        let number = if is_f32 { 4 } else { 2 };
        let cell = base.cell_numbers() * number;
        let window = u64::from(setup.context_tokens).next_multiple_of(WINDOW_STEP);
        let on_host = |bytes: u64| bytes - bytes / 1000 * share_on_gpu(base, setup);
        Footprint {
            weights: on_host(file_bytes),
            cache: on_host(cell * window * setup.parallel as u64),
            kept: cell * loading::cache_tokens(base, setup) as u64,
            pass: pass(base, setup, is_f32, window),
        }
    }

    /// All of it together.
    pub(super) fn bytes(&self) -> u64 {
        [self.weights, self.cache, self.kept, self.pass].iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Refuses what does not fit. Where nobody says what there is, everything does.
    pub(super) fn check(&self, version: PolicyVersion, room: Option<Room>) -> Result<(), EngineError> {
        match room {
            Some(room) if self.bytes() > room.available => Err(EngineError::Memory {
                version,
                needed: mib(self.bytes()),
                parts: self.to_string(),
                room: mib(room.available),
                limit: room.limit,
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Footprint { weights, cache, kept, pass } = self;
        let [weights, cache, kept, pass] = [weights, cache, kept, pass].map(|bytes| mib(*bytes));
        write!(f, "weights {weights}, key-value cache {cache}, kept prompts {kept}, a pass {pass}")
    }
}

/// Logits and the stream of a full batch; where attention is not computed in one pass, its matrix of scores too.
fn pass(base: &Model, setup: &Setup, is_f32: bool, window: u64) -> u64 {
    let [hidden, feed_forward] = base.widths();
    let scores = match setup.flash_attention.is_off(is_f32, setup.gpu_layers) {
        true => base.n_heads() * window,
        false => 0,
    };
    let row = base.n_vocab() as u64 + 8 * hidden + 4 * feed_forward + scores;
    (setup.batch_tokens + setup.parallel) as u64 * row * NUMBER
}

/// Thousandths of the layers, the last matrix among them, that are on the GPU.
fn share_on_gpu(base: &Model, setup: &Setup) -> u64 {
    let layers = base.n_layers() + 1;
    1000 * u64::from(setup.gpu_layers).min(layers) / layers
}
