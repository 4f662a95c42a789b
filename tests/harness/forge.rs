//! GGUF files written by hand, so that each can be wrong in its own way.

use candle_core::quantized::gguf_file::Value;
use policy::checkpoint::Checkpoint;

/// One tensor's entry and its bytes.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// As in the file: the length of a row first.
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// Bytes that it takes in the file even when it has fewer, so that the others stay where they are.
    pub(crate) room: usize,
}

/// A file in parts.
#[derive(Clone)]
pub(crate) struct Forge {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// What the file says instead of the truth.
    pub(crate) n_tensors: Option<u64>,
    pub(crate) n_keys: Option<u64>,
    /// A key, and the type and value after it as bytes.
    pub(crate) keys: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Forge {
    /// A good file with these contents, all numbers f32.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Forge {
        let keys = checkpoint.metadata.iter().map(|(key, value)| (key.to_owned(), typed(value))).collect();
        let mut offset = 0;
        let tensors = checkpoint.tensors.iter().map(|(name, tensor)| {
            let values: Vec<f32> = tensor.flatten_all().and_then(|t| t.to_vec1()).expect("numbers");
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            let dims = tensor.dims().iter().rev().map(|dim| *dim as u64).collect();
            let (at, room) = (offset, bytes.len().next_multiple_of(32));
            offset += room as u64;
            Tensor { name: name.clone(), dims, kind: 0, offset: at, bytes, room }
        });
        let tensors = tensors.collect();
        Forge { magic: *b"GGUF", version: 3, n_tensors: None, n_keys: None, keys, tensors }
    }

    pub(crate) fn key(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.keys.iter_mut().find(|(key, _)| key == name).expect("a key of the model").1
    }

    pub(crate) fn set(&mut self, name: &str, value: Vec<u8>) {
        self.keys.retain(|(key, _)| key != name);
        self.keys.push((name.to_owned(), value));
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of the model")
    }

    /// The header, and the whole file.
    pub(crate) fn parts(&self) -> (usize, Vec<u8>) {
        let mut out = [&self.magic[..], &self.version.to_le_bytes()].concat();
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(text(key));
            out.extend(value);
        }
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        let n_header = out.len();
        for tensor in &self.tensors {
            let end = out.len() + tensor.room;
            out.extend(&tensor.bytes);
            out.resize(end.max(out.len()), 0);
        }
        (n_header, out)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.parts().1
    }
}

/// A text with its length before it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A value of this type.
pub(crate) fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), bytes].concat()
}

/// A list that says it has `n` entries of this type.
pub(crate) fn list(kind: u32, n: u64, entries: &[u8]) -> Vec<u8> {
    value(9, &[&kind.to_le_bytes(), &n.to_le_bytes()[..], entries].concat())
}

fn typed(of: &Value) -> Vec<u8> {
    let (kind, bytes) = plain(of);
    value(kind, &bytes)
}

fn plain(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::U8(v) => (0, v.to_le_bytes().to_vec()),
        Value::I8(v) => (1, v.to_le_bytes().to_vec()),
        Value::U16(v) => (2, v.to_le_bytes().to_vec()),
        Value::I16(v) => (3, v.to_le_bytes().to_vec()),
        Value::U32(v) => (4, v.to_le_bytes().to_vec()),
        Value::I32(v) => (5, v.to_le_bytes().to_vec()),
        Value::F32(v) => (6, v.to_le_bytes().to_vec()),
        Value::Bool(v) => (7, vec![u8::from(*v)]),
        Value::String(v) => (8, text(v)),
        Value::U64(v) => (10, v.to_le_bytes().to_vec()),
        Value::I64(v) => (11, v.to_le_bytes().to_vec()),
        Value::F64(v) => (12, v.to_le_bytes().to_vec()),
        Value::Array(all) => {
            let kind = all.first().map_or(4, |first| plain(first).0);
            let entries: Vec<u8> = all.iter().flat_map(|v| plain(v).1).collect();
            (9, [&kind.to_le_bytes(), &(all.len() as u64).to_le_bytes()[..], &entries].concat())
        }
    }
}
