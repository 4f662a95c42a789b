//! Checkpoints: named tensors and metadata, in a GGUF file and out of it.
//!
//! A [`Checkpoint`] holds every tensor dequantised to f32 beside the type it had in its file, so that training works in
//! full precision and publication can go back to the source's types. Metadata (vocabulary, template, hyperparameters) is
//! carried through untouched: a published version differs from its source in weights only.
//!
//! Writing is deterministic: keys and tensors in sorted order, so equal contents give equal bytes and an equal digest.
//! A file appears under its name only when it is whole and on disk: write aside, fsync, rename, fsync the folder.

mod digest;
mod durable;
mod finite;
mod fit;
pub mod gguf;
mod header;
pub mod intake;
mod metadata;
pub mod safetensors;
pub mod stream;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Cursor, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};

pub use digest::{Digest, digest, digest_of};
pub use durable::{copy_durably, rename_durably, stream_durably, write_durably};
pub use finite::{check_finite, check_whole};
pub use fit::{Form, check_fit};
pub use header::{check_answers, header_of_file, metadata_of_file, shape_of_file};
pub use metadata::Metadata;

use crate::{
    architecture::llama,
    model_error::{ModelError, Result},
};

/// Which types published weights get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// Each tensor as in the source file.
    Source,
    /// Everything f32.
    F32,
    /// Matrices f16 (rounded to nearest even), vectors f32.
    F16,
}

impl WeightType {
    /// Reads the config's spelling: `source`, `f32` or `f16`.
    #[must_use]
    pub fn parse(text: &str) -> Option<WeightType> {
        match text {
            "source" => Some(WeightType::Source),
            "f32" => Some(WeightType::F32),
            "f16" => Some(WeightType::F16),
            _ => None,
        }
    }

    /// The type of one tensor. Vectors (norm gains, biases) stay f32: llama.cpp demands it, and they are small.
    fn of(self, source: Option<GgmlDType>, rank: usize) -> GgmlDType {
        match self {
            _ if rank < 2 => GgmlDType::F32,
            WeightType::Source => source.unwrap_or(GgmlDType::F32),
            WeightType::F32 => GgmlDType::F32,
            WeightType::F16 => GgmlDType::F16,
        }
    }
}

/// Named f32 tensors on the CPU, the types they have in files, and metadata.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Everything that is not a tensor.
    pub metadata: Metadata,
    /// Tensors by GGUF name, f32, rows first.
    pub tensors: BTreeMap<String, Tensor>,
    /// Type of each tensor in a file; absent means f32.
    pub types: BTreeMap<String, GgmlDType>,
}

impl Checkpoint {
    /// Reads a GGUF file whole and dequantises it.
    ///
    /// # Errors
    /// When the file cannot be read or is not GGUF.
    pub fn read(path: &Path) -> Result<Checkpoint> {
        let file = File::open(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
        Self::from_reader(&mut BufReader::with_capacity(1 << 20, file), path)
    }

    /// As [`Checkpoint::read`], from memory: the artefacts that are built into the binary.
    ///
    /// # Errors
    /// When the bytes are not GGUF.
    pub fn from_bytes(bytes: &[u8]) -> Result<Checkpoint> {
        Self::from_reader(&mut Cursor::new(bytes), Path::new("(embedded)"))
    }

    fn from_reader<R: Read + Seek>(reader: &mut R, path: &Path) -> Result<Checkpoint> {
        let gguf = |source| ModelError::Gguf { path: PathBuf::from(path), source };
        let io = |source| ModelError::Io { path: PathBuf::from(path), source };
        let len = reader.seek(SeekFrom::End(0)).map_err(io)?;
        reader.rewind().map_err(io)?;
        // What candle would trust is checked before it sees it.
        gguf::Header::read(&mut *reader, len)
            .map_err(|source| ModelError::Malformed { path: PathBuf::from(path), source })?;
        reader.rewind().map_err(io)?;
        let content = gguf_file::Content::read(reader).map_err(gguf)?;
        let mut checkpoint = Checkpoint { metadata: Metadata::new(content.metadata.clone()), ..Checkpoint::default() };
        for (name, info) in &content.tensor_infos {
            let tensor =
                content.tensor(reader, name, &Device::Cpu).and_then(|t| t.dequantize(&Device::Cpu)).map_err(gguf)?;
            checkpoint.tensors.insert(name.clone(), tensor);
            checkpoint.types.insert(name.clone(), info.ggml_dtype);
        }
        Ok(checkpoint)
    }

    /// Sets every tensor's file type by the rule of `weight_type`, `like` being the source, and the file's own mark of it:
    /// the engine keeps the key-value cache of an all-f32 file in f32 too.
    pub fn retype(&mut self, like: &BTreeMap<String, GgmlDType>, weight_type: WeightType) {
        self.types = self
            .tensors
            .iter()
            .map(|(name, t)| (name.clone(), weight_type.of(like.get(name).copied(), t.rank())))
            .collect();
        let mark = match weight_type {
            WeightType::Source => return,
            WeightType::F32 => llama::FILE_TYPE_F32,
            WeightType::F16 => llama::FILE_TYPE_F16,
        };
        self.metadata.set("general.file_type", gguf_file::Value::U32(mark));
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// When a tensor's row length does not fit its type's blocks.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Cursor::new(Vec::new());
        self.encode(&mut out)?;
        Ok(out.into_inner())
    }

    fn encode<W: Write + Seek>(&self, out: &mut W) -> Result<()> {
        let tensors: Vec<(&str, QTensor)> = self
            .tensors
            .iter()
            .map(|(name, t)| {
                let kind = self.types.get(name).copied().unwrap_or(GgmlDType::F32);
                Ok((name.as_str(), QTensor::quantize(&t.to_device(&Device::Cpu)?, kind)?))
            })
            .collect::<Result<_>>()?;
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (*name, t)).collect();
        // The writer aligns to 32 bytes whatever the source did, so a source's own alignment must not be repeated.
        let metadata: Vec<_> = self.metadata.iter().filter(|(key, _)| *key != "general.alignment").collect();
        Ok(gguf_file::write(out, &metadata, &tensors)?)
    }

    /// Writes the file so that it appears whole or not at all, and returns the digest of what then lies on the disk.
    ///
    /// # Errors
    /// When a tensor cannot be encoded or the disk refuses.
    pub fn write(&self, path: &Path) -> Result<Digest> {
        stream_durably(path, |out| self.encode(out))?;
        digest(path)
    }

    /// The digest that [`Checkpoint::write`] would return, without a file and without its bytes in memory.
    ///
    /// # Errors
    /// When a tensor cannot be encoded.
    pub fn digest(&self) -> Result<Digest> {
        let mut out = digest::Hashing::default();
        self.encode(&mut out)?;
        Ok(out.finish())
    }

    /// A tensor by name.
    ///
    /// # Errors
    /// When it is absent.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
