//! A version's weights in memory, and what computes with them.
//!
//! On a processor, files that the decoder computes go to it; all others, and every file where layers are on a GPU, to llama.cpp.

use std::sync::Arc;

use llama_cpp_2::model::{LlamaModel, params::LlamaModelParams};

use crate::{
    architecture::Shape,
    decoder,
    engine::{
        EngineError,
        backend::backend,
        gguf::{self, Inspected},
        worker::Setup,
    },
};

/// `policy.backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// The decoder where it can, llama.cpp for the rest.
    Auto,
    /// The decoder, or nothing.
    Honed,
    LlamaCpp,
}

impl Backend {
    pub(super) fn of(configured: &str) -> Backend {
        match configured {
            "honed" => Backend::Honed,
            "llama.cpp" => Backend::LlamaCpp,
            _ => Backend::Auto,
        }
    }

    /// The shape of a file that is for the decoder, or why it is not.
    pub(super) fn decoder(self, found: &Inspected, gpu_layers: u32) -> Result<&Shape, String> {
        if self == Backend::LlamaCpp {
            return Err("policy.backend is \"llama.cpp\"".to_owned());
        }
        if gpu_layers > 0 {
            return Err("policy.gpu_layers is not 0".to_owned());
        }
        found.decoder.as_ref().map_err(Clone::clone)
    }
}

/// Whole weights; clones share them.
#[derive(Clone)]
pub(super) enum Model {
    LlamaCpp(Arc<LlamaModel>),
    Decoder(Arc<decoder::Model>),
}

impl Model {
    /// Reads a file of which this was found.
    pub(super) fn load(setup: &Setup, found: &Inspected) -> Result<Model, EngineError> {
        let (path, version) = (&setup.path, setup.version);
        let refused = |reason: String| EngineError::Load { path: path.clone(), reason };
        let model = match setup.backend.decoder(found, setup.gpu_layers) {
            Ok(_) => {
                tracing::debug!(%version, "honed's decoder computes it");
                Model::Decoder(Arc::new(decoder::Model::load(path).map_err(|error| refused(error.to_string()))?))
            }
            Err(reason) if setup.backend == Backend::Honed => {
                return Err(refused(format!(
                    "policy.backend is \"honed\", whose decoder does not compute it: {reason}"
                )));
            }
            Err(reason) => {
                tracing::info!(%version, reason, "llama.cpp computes it");
                let params = LlamaModelParams::default().with_n_gpu_layers(setup.gpu_layers);
                let model = LlamaModel::load_from_file(backend()?, path, &params);
                Model::LlamaCpp(Arc::new(model.map_err(|e| refused(format!("llama.cpp cannot load it: {e}")))?))
            }
        };
        let (got, want) = (model.n_vocab(), setup.vocabulary.size());
        if got != want {
            return Err(refused(format!("it has {got} tokens, expected {want}")));
        }
        Ok(model)
    }

    /// Whether a sequence's bits are the same whatever is computed beside it, in whatever chunks.
    pub(super) fn is_batch_invariant(&self) -> bool {
        matches!(self, Model::Decoder(_))
    }

    /// Its shape, if the decoder computes it.
    pub(super) fn decoder_shape(&self) -> Option<Shape> {
        match self {
            Model::LlamaCpp(_) => None,
            Model::Decoder(model) => Some(model.shape().clone()),
        }
    }

    /// What computes it, in words.
    pub(super) fn computed_by(&self) -> &'static str {
        match self {
            Model::LlamaCpp(_) => "llama.cpp",
            Model::Decoder(_) => decoder::NAME,
        }
    }

    /// Tokens of its vocabulary.
    pub(super) fn n_vocab(&self) -> usize {
        match self {
            Model::LlamaCpp(model) => usize::try_from(model.n_vocab()).unwrap_or(0),
            Model::Decoder(model) => model.shape().vocab_size,
        }
    }

    pub(super) fn n_params(&self) -> u64 {
        match self {
            Model::LlamaCpp(model) => model.n_params(),
            Model::Decoder(model) => model.shape().n_parameters() as u64,
        }
    }

    /// Bytes of its weights.
    pub(super) fn n_bytes(&self) -> u64 {
        match self {
            Model::LlamaCpp(model) => model.size(),
            Model::Decoder(model) => model.n_bytes() as u64,
        }
    }

    pub(super) fn n_layers(&self) -> u64 {
        match self {
            Model::LlamaCpp(model) => model.n_layer().into(),
            Model::Decoder(model) => model.shape().n_layers as u64,
        }
    }

    pub(super) fn n_heads(&self) -> u64 {
        match self {
            Model::LlamaCpp(model) => model.n_head().into(),
            Model::Decoder(model) => model.shape().n_heads as u64,
        }
    }

    /// Widths of the stream and of the layer between its halves.
    pub(super) fn widths(&self) -> [u64; 2] {
        match self {
            Model::LlamaCpp(model) => {
                ["embedding_length", "feed_forward_length"].map(|key| number_of(model, key).unwrap_or(0))
            }
            Model::Decoder(model) => [model.shape().hidden as u64, model.shape().ffn as u64],
        }
    }

    /// Numbers that the keys and values of one token are.
    pub(super) fn cell_numbers(&self) -> u64 {
        match self {
            Model::LlamaCpp(model) => {
                let hidden = u64::try_from(model.n_embd()).unwrap_or(0);
                let length = |key: &str| number_of(model, key).unwrap_or(hidden / u64::from(model.n_head().max(1)));
                let head = length("attention.key_length") + length("attention.value_length");
                u64::from(model.n_layer()) * u64::from(model.n_head_kv()) * head
            }
            Model::Decoder(model) => model.cell_numbers() as u64,
        }
    }

    /// Whether all matrices of the file are f32.
    pub(super) fn is_f32(&self) -> bool {
        match self {
            Model::LlamaCpp(model) => {
                let kind = model.meta_val_str("general.file_type").ok();
                kind.and_then(|kind| kind.parse().ok()) == Some(gguf::ALL_F32)
            }
            Model::Decoder(model) => model.is_f32(),
        }
    }

    /// Whether a part of what a sequence held can stand alone: a sliding window forgets, and a recurrent state has no beginning to
    /// cut to.
    pub(super) fn can_be_cut(&self) -> bool {
        let Model::LlamaCpp(model) = self else {
            return true;
        };
        let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
        let window = model.meta_val_str(&format!("{architecture}.attention.sliding_window"));
        let slides = window.is_ok_and(|window| window != "0");
        !(slides || model.is_recurrent() || model.is_hybrid())
    }
}

/// A number of the model's architecture by the end of its key, if its file has it.
fn number_of(model: &LlamaModel, key: &str) -> Option<u64> {
    let architecture = model.meta_val_str("general.architecture").ok()?;
    model.meta_val_str(&format!("{architecture}.{key}")).ok()?.parse().ok()
}
