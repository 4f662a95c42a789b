use candle_core::quantized::gguf_file::Value;

use super::*;
use crate::{architecture::Shape, transformer::random_checkpoint};

fn sample() -> Checkpoint {
    let mut checkpoint = random_checkpoint(&Shape::llama(64, 32, 1, 2, 1, 32), 7).unwrap();
    let texts = ["a", "ü", "Ġb"].map(|t| Value::String(t.to_owned())).to_vec();
    checkpoint.metadata.set("tokenizer.ggml.tokens", Value::Array(texts));
    checkpoint.metadata.set("general.name", Value::String("sample".to_owned()));
    checkpoint
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.tensors[name].flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn an_f32_file_comes_back_bit_for_bit_with_all_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let written = sample();
    written.write(&path).unwrap();
    let read = Checkpoint::read(&path).unwrap();
    for name in written.tensors.keys() {
        assert_eq!(values(&written, name), values(&read, name), "{name}");
        assert_eq!(written.tensors[name].dims(), read.tensors[name].dims());
    }
    let lines = |c: &Checkpoint| c.metadata.iter().map(|(k, v)| format!("{k} = {v:?}")).collect::<Vec<_>>();
    assert_eq!(lines(&written), lines(&read));
}

#[test]
fn the_same_contents_give_the_same_digest_and_another_weight_another() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    let first = sample().write(&a).unwrap();
    assert_eq!(first, sample().write(&b).unwrap());
    assert_eq!(first, digest(&a).unwrap());
    assert_eq!(first, sample().digest().unwrap(), "what is not written has the same digest");
    let mut changed = sample();
    let gain = changed.tensors["output_norm.weight"].affine(1.0, 1e-6).unwrap();
    changed.tensors.insert("output_norm.weight".to_owned(), gain);
    assert_ne!(first, changed.write(&a).unwrap());
}

#[test]
fn f16_files_round_matrices_to_nearest_and_leave_norms() {
    let mut checkpoint = sample();
    checkpoint.retype(&BTreeMap::new(), WeightType::F16);
    let read = Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap();
    assert_eq!(read.types["token_embd.weight"], GgmlDType::F16);
    assert_eq!(read.types["output_norm.weight"], GgmlDType::F32);
    for (before, after) in values(&checkpoint, "token_embd.weight").iter().zip(values(&read, "token_embd.weight")) {
        assert_eq!(half::f16::from_f32(*before).to_f32(), after);
    }
}

#[test]
fn a_quantised_file_is_read_and_written_in_its_own_type() {
    let mut checkpoint = sample();
    checkpoint.types.insert("blk.0.ffn_gate.weight".to_owned(), GgmlDType::Q8_0);
    let read = Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap();
    let (exact, coarse) = (values(&checkpoint, "blk.0.ffn_gate.weight"), values(&read, "blk.0.ffn_gate.weight"));
    let scale = exact.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    assert!(exact.iter().zip(&coarse).all(|(a, b)| (a - b).abs() <= scale));
    let mut published = sample();
    published.retype(&read.types, WeightType::Source);
    assert_eq!(published.types, read.types);
}

#[test]
fn a_truncated_file_is_an_error_and_not_a_panic() {
    let bytes = sample().to_bytes().unwrap();
    for keep in [0, 3, 20, bytes.len() / 2, bytes.len() - 64] {
        assert!(Checkpoint::from_bytes(&bytes[..keep]).is_err(), "{keep} bytes");
    }
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent").join("model.gguf");
    assert!(sample().write(&path).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_a_crash_left_aside_is_overwritten_and_gone_after_the_next_write() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (folder.path().join("model.gguf"), folder.path().join("model.gguf.partial"));
    // Longer than what comes now: a write that did not truncate would keep its tail.
    std::fs::write(&aside, vec![7; 1 << 20]).unwrap();
    write_durably(&path, b"whole").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    assert!(!aside.exists());
}
