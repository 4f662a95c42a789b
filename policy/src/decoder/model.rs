//! A model's weights, read from its file into panels.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use candle_core::{Device, Tensor};

use super::{
    numbers::Kind,
    panels::{Panels, padded},
};
use crate::{
    architecture::{Shape, llama},
    checkpoint::{
        gguf::{Header, Place},
        header_of_file,
    },
    model_error::{ModelError, Result},
    transformer::Rope,
};

/// The matrices of a block, in the order of [`Block::layers`].
pub(super) const LAYERS: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
pub(super) const QUERY: usize = 0;
pub(super) const KEY: usize = 1;
pub(super) const VALUE: usize = 2;
pub(super) const OUTPUT: usize = 3;
pub(super) const GATE: usize = 4;
pub(super) const UP: usize = 5;
pub(super) const DOWN: usize = 6;

/// The gains of a block's two norms.
const NORMS: [&str; 2] = ["attn_norm", "ffn_norm"];

/// One block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) attention_norm: Vec<f32>,
    pub(super) mlp_norm: Vec<f32>,
    /// One for each of [`LAYERS`].
    pub(super) layers: [Panels; LAYERS.len()],
}

/// A Llama in memory.
#[derive(Debug)]
pub(crate) struct Model {
    pub(super) shape: Shape,
    pub(super) embedding: Arc<Panels>,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Vec<f32>,
    pub(super) output: Arc<Panels>,
    /// Of each rotated pair, in radians a position.
    pub(super) frequencies: Vec<f32>,
}

/// Keys of the architecture that the decoder knows, those that change nothing among them. Whatever else a file asks for, llama.cpp
/// may compute.
const KEYS: [&str; 17] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
];

/// The shape of a model that the decoder computes, or why it does not.
///
/// # Errors
/// With the reason, for whoever wonders.
pub(crate) fn shape_of(header: &Header) -> std::result::Result<Shape, String> {
    if !super::lanes::ARE_FAST {
        return Err("this honed was compiled for a processor without AVX2 and FMA".to_owned());
    }
    let embedding = header.tensors.get(llama::TOKEN_EMBEDDING).ok_or("it has no table of embeddings")?;
    let n_vocab = embedding.dims.first().and_then(|n| usize::try_from(*n).ok()).unwrap_or(0);
    let is_tied = !header.tensors.contains_key(llama::OUTPUT);
    let shape = Shape::from_metadata(&header.metadata, n_vocab, is_tied).map_err(|error| error.to_string())?;
    let is_stranger = |key: &&str| key.strip_prefix("llama.").is_some_and(|key| !KEYS.contains(&key));
    if let Some(stranger) = header.metadata.iter().map(|(key, _)| key).find(is_stranger) {
        return Err(format!("key {stranger} is not one that it knows"));
    }
    let expected = llama::parameters(&shape);
    for parameter in &expected {
        let missing = || format!("tensor {} is missing", parameter.name);
        let place = header.tensors.get(&parameter.name).ok_or_else(missing)?;
        let dims: Vec<u64> = parameter.dims.iter().map(|n| *n as u64).collect();
        if place.dims != dims {
            return Err(format!("tensor {} has dimensions {:?}, expected {dims:?}", parameter.name, place.dims));
        }
        let is_vector = dims.len() == 1;
        if kind_of(place).is_none() || is_vector && kind_of(place) != Some(Kind::F32) {
            return Err(format!("tensor {} has type {}", parameter.name, place.kind.name));
        }
    }
    if let Some(factors) = header.tensors.get(llama::ROPE_FREQS)
        && (kind_of(factors) != Some(Kind::F32) || factors.dims != [shape.rope_dims as u64 / 2])
    {
        return Err(format!("tensor {} is not {} numbers in F32", llama::ROPE_FREQS, shape.rope_dims / 2));
    }
    let is_known = |name: &String| name == llama::ROPE_FREQS || expected.iter().any(|p| p.name == *name);
    match header.tensors.keys().find(|name| !is_known(name)) {
        Some(stranger) => Err(format!("tensor {stranger} is not part of a Llama's blocks")),
        None => Ok(shape),
    }
}

/// Type of a tensor's numbers, if the kernel reads them.
pub(super) fn kind_of(place: &Place) -> Option<Kind> {
    match place.kind.name {
        "F32" => Some(Kind::F32),
        "F16" => Some(Kind::F16),
        "BF16" => Some(Kind::Bf16),
        "Q8_0" => Some(Kind::Q8),
        _ => None,
    }
}

impl Model {
    /// Reads a file, tensor by tensor; the memory is that of the weights, and no more of the file than 32 rows.
    ///
    /// # Errors
    /// When the file cannot be read, or the decoder does not compute it.
    pub(crate) fn load(path: &Path) -> Result<Model> {
        let header = header_of_file(path)?;
        let shape = shape_of(&header).map_err(ModelError::Unsupported)?;
        let mut file = Tensors::open(path, &header)?;
        let embedding = Arc::new(file.matrix(llama::TOKEN_EMBEDDING)?);
        let output = match shape.tied {
            true => Arc::clone(&embedding),
            false => Arc::new(file.matrix(llama::OUTPUT)?),
        };
        let blocks = (0..shape.n_layers).map(|layer| file.block(layer)).collect::<Result<_>>()?;
        let factors = match header.tensors.contains_key(llama::ROPE_FREQS) {
            true => {
                let numbers = file.vector(llama::ROPE_FREQS)?;
                Some(Tensor::new(numbers, &Device::Cpu)?)
            }
            false => None,
        };
        let frequencies = Rope::new(&shape, factors.as_ref())?.into_frequencies();
        Ok(Model { embedding, blocks, norm: file.vector(llama::OUTPUT_NORM)?, output, frequencies, shape })
    }

    /// Numbers that shape it.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes of its matrices.
    pub(crate) fn n_bytes(&self) -> usize {
        let blocks = self.blocks.iter().flat_map(|block| &block.layers);
        let output = if self.shape.tied { 0 } else { self.output.n_bytes() };
        blocks.map(Panels::n_bytes).sum::<usize>() + self.embedding.n_bytes() + output
    }

    /// Numbers that the keys and values of one token take.
    pub(crate) fn cell_numbers(&self) -> usize {
        let shape = &self.shape;
        shape.n_layers * shape.n_kv_heads * (shape.head_dim + padded(shape.head_dim))
    }

    /// Whether all its matrices are f32.
    pub(crate) fn is_f32(&self) -> bool {
        let mut layers = self.blocks.iter().flat_map(|block| &block.layers);
        self.embedding.is_f32() && self.output.is_f32() && layers.all(Panels::is_f32)
    }
}

/// The tensors of an open file.
pub(super) struct Tensors<'a> {
    header: &'a Header,
    file: BufReader<File>,
    path: &'a Path,
}

impl<'a> Tensors<'a> {
    pub(super) fn open(path: &'a Path, header: &'a Header) -> Result<Tensors<'a>> {
        let file = File::open(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
        Ok(Tensors { header, file: BufReader::with_capacity(1 << 20, file), path })
    }

    fn block(&mut self, layer: usize) -> Result<Block> {
        let mut layers = Vec::with_capacity(LAYERS.len());
        for what in LAYERS {
            layers.push(self.matrix(&llama::block(layer, what))?);
        }
        let [attention_norm, mlp_norm] = NORMS.map(|what| self.vector(&llama::block(layer, what)));
        let layers = layers.try_into().expect("one for each name");
        Ok(Block { attention_norm: attention_norm?, mlp_norm: mlp_norm?, layers })
    }

    /// A matrix as panels.
    pub(super) fn matrix(&mut self, name: &str) -> Result<Panels> {
        let place = self.seek(name)?;
        let dims: Vec<usize> = place.dims.iter().filter_map(|n| usize::try_from(*n).ok()).collect();
        let (Some(kind), &[n_out, n_in]) = (kind_of(place), dims.as_slice()) else {
            return Err(ModelError::Unsupported(format!("tensor {name} of type {}, {dims:?}", place.kind.name)));
        };
        let (file, path) = (&mut self.file, self.path);
        Panels::pack(kind, [n_out, n_in], |row| {
            file.read_exact(row).map_err(|source| ModelError::Io { path: path.to_owned(), source })
        })
    }

    /// A vector of f32.
    fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        let place = self.seek(name)?;
        if kind_of(place) != Some(Kind::F32) {
            return Err(ModelError::Unsupported(format!("tensor {name} of type {}", place.kind.name)));
        }
        let mut bytes = vec![0; usize::try_from(place.n_bytes).unwrap_or(0)];
        self.file.read_exact(&mut bytes).map_err(|source| ModelError::Io { path: self.path.to_owned(), source })?;
        let (words, _) = bytes.as_chunks();
        Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    fn seek(&mut self, name: &str) -> Result<&'a Place> {
        let place = self.header.tensors.get(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        let at = SeekFrom::Start(place.start);
        self.file.seek(at).map_err(|source| ModelError::Io { path: self.path.to_owned(), source })?;
        Ok(place)
    }
}
