use std::io::Cursor as Bytes;

use candle_core::Tensor;

use super::*;
use crate::{
    architecture::Shape,
    checkpoint::{Checkpoint, Form, check_finite, check_fit},
    transformer::random_checkpoint,
};

type Change<'a> = &'a dyn Fn(&mut Checkpoint);

/// A file written by hand, so that it can be wrong.
struct Forge {
    magic: [u8; 4],
    version: u32,
    n_tensors: Option<u64>,
    n_keys: Option<u64>,
    /// Key, and type and value as bytes.
    keys: Vec<(String, Vec<u8>)>,
    /// Name, dimensions as in the file, type, offset.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), bytes].concat()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

fn list(kind: u32, n: u64, entries: &[u8]) -> Vec<u8> {
    value(9, &[&kind.to_le_bytes(), &n.to_le_bytes()[..], entries].concat())
}

impl Forge {
    /// Two matrices of 4 rows of 8 and a norm.
    fn good() -> Forge {
        let keys = vec![
            ("general.architecture".to_owned(), value(8, &text(b"llama"))),
            ("tokenizer.ggml.tokens".to_owned(), list(8, 2, &[text(b"a"), text(b"\xff")].concat())),
        ];
        let tensors = vec![
            ("a".to_owned(), vec![8, 4], 0, 0),
            ("b".to_owned(), vec![8, 4], 1, 128),
            ("norm".to_owned(), vec![8], 0, 192),
        ];
        Forge { magic: *MAGIC, version: 3, n_tensors: None, n_keys: None, keys, tensors, data: vec![0; 224] }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = [&self.magic[..], &self.version.to_le_bytes()].concat();
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(text(key.as_bytes()));
            out.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            out.extend(text(name.as_bytes()));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    fn with(change: impl FnOnce(&mut Forge)) -> Vec<u8> {
        let mut forge = Forge::good();
        change(&mut forge);
        forge.bytes()
    }
}

fn read(bytes: &[u8]) -> Result<Header, Malformed> {
    Header::read(bytes, bytes.len() as u64)
}

#[track_caller]
fn check_refused(bytes: &[u8], part: &str) {
    let error = read(bytes).map(|_| ()).expect_err(part).to_string();
    assert!(error.contains(part), "{error:?} does not say {part:?}");
}

#[test]
fn a_good_file_shows_its_places() {
    let bytes = Forge::good().bytes();
    let header = read(&bytes).unwrap();
    let b = &header.tensors["b"];
    assert_eq!((b.dims.as_slice(), b.kind.name, b.n_bytes), ([4, 8].as_slice(), "F16", 64));
    assert_eq!(b.start, bytes.len() as u64 - 224 + 128);
    assert_eq!(header.metadata.string("general.architecture").unwrap(), "llama");
}

#[test]
fn the_digest_sees_bytes_that_are_no_text() {
    let other = Forge::with(|f| f.keys[1].1 = list(8, 2, &[text(b"a"), text(b"\xfe")].concat()));
    let digest = |bytes: &[u8]| read(bytes).unwrap().vocabulary_digest;
    assert_ne!(digest(&Forge::good().bytes()), digest(&other));
    let reordered = Forge::with(|f| {
        f.keys.push(("tokenizer.ggml.model".to_owned(), value(8, &text(b"gpt2"))));
        f.keys.swap(1, 2);
    });
    let ordered = Forge::with(|f| f.keys.push(("tokenizer.ggml.model".to_owned(), value(8, &text(b"gpt2")))));
    assert_eq!(digest(&reordered), digest(&ordered));
}

#[test]
fn magic_version_and_counts_are_checked() {
    check_refused(b"", "ends inside");
    check_refused(&Forge::with(|f| f.magic = *b"GGML"), "does not begin");
    for version in [0, 1, 4, 3_u32.swap_bytes()] {
        check_refused(&Forge::with(|f| f.version = version), "expected 2 or 3");
    }
    for n in [1 << 17, u64::MAX, 1 << 63] {
        check_refused(&Forge::with(|f| f.n_tensors = Some(n)), "tensors");
        check_refused(&Forge::with(|f| f.n_keys = Some(n)), "keys");
    }
    check_refused(&Forge::with(|f| (f.n_tensors, f.data) = (Some(60_000), Vec::new())), "");
}

#[test]
fn values_are_checked() {
    let with = |value: Vec<u8>| Forge::with(|f| f.keys.push(("x".to_owned(), value)));
    check_refused(&with(value(13, &[])), "type 13");
    check_refused(&with(value(7, &[2])), "boolean of 2");
    check_refused(&with(value(8, &u64::MAX.to_le_bytes())), "longer than what follows");
    check_refused(&with(list(0, u64::MAX, &[])), "entries of lists");
    check_refused(&with(list(8, 1 << 21, &[])), "longer than what follows");
    let nested =
        (0..6).fold(Vec::new(), |inner: Vec<u8>, _| [&9_u32.to_le_bytes(), &1_u64.to_le_bytes()[..], &inner].concat());
    check_refused(&with(value(9, &nested)), "deep");
    check_refused(&Forge::with(|f| f.keys.push(f.keys[0].clone())), "there twice");
    check_refused(&Forge::with(|f| f.keys[0].0 = String::new()), "a key");
    check_refused(&Forge::with(|f| f.keys[0].0 = "a\0b".to_owned()), "control characters");
    for wrong in [value(4, &33_u32.to_le_bytes()), value(10, &32_u64.to_le_bytes()), value(4, &[0; 4])] {
        check_refused(&Forge::with(|f| f.keys.push((ALIGNMENT.to_owned(), wrong))), ALIGNMENT);
    }
}

#[test]
fn tensors_are_checked() {
    let with = |change: fn(&mut (String, Vec<u64>, u32, u64))| Forge::with(|f| change(&mut f.tensors[1]));
    check_refused(&with(|t| t.1 = vec![8, 4, 1, 1, 1]), "5 dimensions");
    check_refused(&with(|t| t.1 = vec![]), "0 dimensions");
    check_refused(&with(|t| t.1 = vec![8, 0]), "1 or more");
    check_refused(&with(|t| t.1 = vec![1 << 32, 1 << 32]), "more than any file");
    check_refused(&with(|t| t.1 = vec![u64::MAX]), "more than any file");
    check_refused(&with(|t| t.2 = 4), "type 4");
    check_refused(&with(|t| t.2 = u32::MAX), "is not known");
    check_refused(&with(|t| t.2 = 2), "whole blocks of 32");
    check_refused(&with(|t| t.3 = 129), "a multiple of 32");
    check_refused(&with(|t| t.3 = u64::MAX - 31), "not inside the file");
    check_refused(&with(|t| t.3 = 160), "overlap");
    check_refused(&with(|t| t.3 = 96), "overlap");
    check_refused(&with(|t| t.0 = "a".to_owned()), "there twice");
    check_refused(&with(|t| t.0 = "n".repeat(64)), "expected 1 to 63");
    let whole = Forge::good().bytes();
    check_refused(&whole[..whole.len() - 1], "not inside the file");
}

fn header_of(checkpoint: &Checkpoint) -> (Header, Vec<u8>) {
    let bytes = checkpoint.to_bytes().unwrap();
    (read(&bytes).unwrap(), bytes)
}

#[test]
fn numbers_that_are_none_are_found_in_every_type() {
    use candle_core::quantized::GgmlDType::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q6K, Q8_0};
    let mut model = random_checkpoint(&Shape::llama(16, 256, 1, 2, 1, 256), 3).unwrap();
    for kind in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q6K] {
        model.types.insert("blk.0.ffn_up.weight".to_owned(), kind);
        let (header, mut bytes) = header_of(&model);
        check_finite(&mut Bytes::new(&bytes), &header).unwrap();
        let place = &header.tensors["blk.0.ffn_up.weight"];
        // In the last block, which a check that stops early would not see.
        let block = (place.start + place.n_bytes - place.kind.block_bytes) as usize;
        let (at, infinite): (usize, &[u8]) = match place.kind.scales {
            Scales::F32 => (0, &[0, 0, 0x80, 0xff]),
            Scales::Bf16 => (0, &[0x81, 0x7f]),
            Scales::F16(places) => (*places.last().unwrap(), &[0, 0x7c]),
            other => panic!("{other:?}"),
        };
        bytes[block + at..block + at + infinite.len()].copy_from_slice(infinite);
        let error = check_finite(&mut Bytes::new(&bytes), &header).unwrap_err().to_string();
        assert!(error.contains("ffn_up") && error.contains("not finite"), "{kind:?}: {error}");
    }
}

#[test]
fn a_version_must_be_like_version_0() {
    let model = random_checkpoint(&Shape::llama(16, 32, 1, 2, 1, 64), 3).unwrap();
    let (sft, _) = header_of(&model);
    let fit = |change: Change<'_>| {
        let mut changed = model.clone();
        change(&mut changed);
        check_fit(&header_of(&changed).0, &sft)
    };
    assert_eq!(fit(&|_| ()).unwrap(), Form::Whole);
    let set = |key: &'static str, value: Value| move |c: &mut Checkpoint| c.metadata.set(key, value.clone());
    let text = |word: &str| Value::String(word.to_owned());
    fit(&set("general.name", text("mine"))).unwrap();
    let quantised = |c: &mut Checkpoint| {
        c.types.insert("blk.0.attn_q.weight".to_owned(), candle_core::quantized::GgmlDType::Q8_0);
    };
    fit(&quantised).unwrap();
    let cases: [(Change<'_>, &str); 9] = [
        (&set("tokenizer.ggml.model", text("other")), "tokenizer"),
        (&set("llama.rope.freq_base", Value::F32(1e6)), "llama.rope.freq_base"),
        (&set("llama.expert_count", Value::U32(8)), "llama.expert_count"),
        (&set("general.architecture", text("qwen2")), "general.architecture"),
        (&set("split.count", Value::U16(2)), "split.count"),
        (&set("adapter.lora.alpha", Value::U32(2)), "adapter.lora.alpha"),
        (&|c| drop(c.tensors.remove("output_norm.weight")), "missing"),
        (&|c| drop(c.tensors.insert("extra".to_owned(), c.tensors["output_norm.weight"].clone())), "extra"),
        (
            &|c| {
                let narrow = Tensor::zeros((63, 32), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
                c.tensors.insert("blk.0.ffn_up.weight".to_owned(), narrow);
            },
            "expected shape [64, 32], got [63, 32]",
        ),
    ];
    for (change, part) in cases {
        let error = fit(change).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn an_adapter_must_fit_version_0() {
    use crate::transformer::{Adapter, LoraShape};
    let shape = Shape::llama(16, 32, 1, 2, 1, 64);
    let model = random_checkpoint(&shape, 3).unwrap();
    let (sft, _) = header_of(&model);
    let lora = LoraShape { rank: 2, alpha: 8.0 };
    let adapter = Adapter::new(&shape, lora, 1, &candle_core::Device::Cpu).unwrap();
    let adapter = adapter.to_checkpoint(&model.metadata).unwrap();
    let fit = |change: Change<'_>| {
        let mut changed = adapter.clone();
        change(&mut changed);
        check_fit(&header_of(&changed).0, &sft)
    };
    assert_eq!(fit(&|_| ()).unwrap(), Form::Adapter { rank: 2, is_complete: true });
    let factor = |suffix: &str| format!("blk.0.attn_q.weight{suffix}");
    let without = |c: &mut Checkpoint| {
        c.tensors.remove(&factor(".lora_a"));
        c.tensors.remove(&factor(".lora_b"));
    };
    assert_eq!(fit(&without).unwrap(), Form::Adapter { rank: 2, is_complete: false });
    let cases: [(Change<'_>, &str); 5] = [
        (&|c| drop(c.tensors.remove(&factor(".lora_b"))), "one of its two factors"),
        (&|c| c.metadata.set("adapter.lora.alpha", Value::F32(f32::NAN)), "alpha"),
        (&|c| c.metadata.set("adapter.type", Value::U32(1)), "adapter.type"),
        (
            &|c| drop(c.tensors.insert("output_norm.weight.lora_a".to_owned(), c.tensors[&factor(".lora_a")].clone())),
            "no factor",
        ),
        (&|c| drop(c.tensors.insert(factor(".lora_b"), c.tensors[&factor(".lora_a")].clone())), "expected shape"),
    ];
    for (change, part) in cases {
        let error = fit(change).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}
