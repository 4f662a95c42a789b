//! 35 before a daemon runs: model files that are none. The parser is llama.cpp's, in C++, so what it would not survive must
//! not reach it: whatever the file, the process ends by itself, with status 1 and a reason.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor, quantized::gguf_file::Value};
use policy::checkpoint::Checkpoint;

use super::bench::{Bench, Case};
use crate::harness::{model, process};

/// For one refusal, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const CASES: &[Case] = &[
    (35, "a model that is not there, or no file", |b| {
        let folder = b.folder.path();
        for path in
            [folder.join("missing.gguf"), folder.to_owned(), PathBuf::from("/dev/zero"), PathBuf::from("/dev/null")]
        {
            check_refused(b, &path, "is not there");
        }
        for name in ["http://127.0.0.1:9/model.gguf", "file:///etc/passwd", "-"] {
            check_refused(b, Path::new(name), "names no file");
        }
        check_refused(b, Path::new("/etc/passwd"), "is no model");
    }),
    (35, "a model whose bytes end early or say too much", |b| {
        let whole = fs::read(model::file()).expect("the model");
        for n in [0, 1, 4, 8, 23, 24, 100, whole.len() / 2, whole.len() - 1] {
            check_bytes(b, &format!("its first {n} bytes"), &whole[..n]);
        }
        // Magic, version; then numbers of tensors and of metadata; then the length of the first key.
        let header: [(&str, usize, &[u8]); 6] = [
            ("another magic", 0, b"GGUG"),
            ("another version", 4, &99_u32.to_le_bytes()),
            ("tensors without end", 8, &u64::MAX.to_le_bytes()),
            ("a billion tensors", 8, &1_000_000_000_u64.to_le_bytes()),
            ("metadata without end", 16, &u64::MAX.to_le_bytes()),
            ("a key without end", 24, &(u64::MAX - 8).to_le_bytes()),
        ];
        for (name, at, bytes) in header {
            check_bytes(b, name, &with(&whole, at, bytes));
        }
        let dims_at = after_name(&whole, "token_embd.weight");
        let rank = u32::from_le_bytes(whole[dims_at..][..4].try_into().expect("four bytes")) as usize;
        let (type_at, offset_at) = (dims_at + 4 + 8 * rank, dims_at + 8 + 8 * rank);
        let tensor: [(&str, usize, &[u8]); 7] = [
            ("a rank of a billion", dims_at, &1_000_000_000_u32.to_le_bytes()),
            ("a dimension without end", dims_at + 4, &u64::MAX.to_le_bytes()),
            (
                "dimensions whose product overflows",
                dims_at + 4,
                &[&(1_u64 << 33).to_le_bytes()[..], &(1_u64 << 33).to_le_bytes()].concat(),
            ),
            ("a dimension of nothing", dims_at + 4, &0_u64.to_le_bytes()),
            ("an unknown type", type_at, &250_u32.to_le_bytes()),
            ("weights beyond the end", offset_at, &(1_u64 << 40).to_le_bytes()),
            ("weights at no boundary", offset_at, &1_u64.to_le_bytes()),
        ];
        for (name, at, bytes) in tensor {
            check_bytes(b, name, &with(&whole, at, bytes));
        }
    }),
    (35, "a model of another kind", |b| {
        type Change = fn(&mut Checkpoint);
        let changes: [(&str, Change); 8] = [
            ("an unknown architecture", |c| c.metadata.set("general.architecture", Value::String("nosuch".into()))),
            ("an architecture that is no text", |c| c.metadata.set("general.architecture", Value::U32(1))),
            ("no attention heads", |c| c.metadata.set("llama.attention.head_count", Value::U32(0))),
            ("a billion layers", |c| c.metadata.set("llama.block_count", Value::U32(1_000_000_000))),
            ("another width", |c| c.metadata.set("llama.embedding_length", Value::U32(63))),
            ("a tensor missing", |c| drop(c.tensors.remove("output_norm.weight"))),
            ("a vocabulary that is missing", |c| c.metadata.set("tokenizer.ggml.tokens", Value::Array(Vec::new()))),
            ("an end token that is none", |c| c.metadata.set("tokenizer.ggml.eos_token_id", Value::U32(1 << 30))),
        ];
        for (name, change) in changes {
            let path = b.folder.path().join("changed.gguf");
            let mut checkpoint = Checkpoint::read(&model::file()).expect("the model");
            change(&mut checkpoint);
            checkpoint.write(&path).expect("written");
            check_refused(b, &path, name);
        }
    }),
    (35, "weights that are no numbers", |b| {
        let path = b.folder.path().join("nan.gguf");
        let mut checkpoint = Checkpoint::read(&model::file()).expect("the model");
        let gains = checkpoint.tensors.get_mut("output_norm.weight").expect("a tensor");
        *gains = Tensor::full(f32::NAN, gains.shape(), &Device::Cpu).expect("a tensor");
        checkpoint.write(&path).expect("written");
        check_refused(b, &path, "weights that are no numbers");
    }),
];

/// The bytes with these at that place.
fn with(whole: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = whole.to_vec();
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    changed
}

/// Where what is said of a tensor begins: behind its name, which is preceded by its length.
fn after_name(whole: &[u8], name: &str) -> usize {
    let key = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
    whole.windows(key.len()).position(|window| window == key).expect("the tensor is there") + key.len()
}

fn check_bytes(b: &Bench, name: &str, bytes: &[u8]) {
    let path = b.folder.path().join("bytes.gguf");
    fs::write(&path, bytes).expect("written");
    check_refused(b, &path, name);
}

/// `honed serve` with this model ends by itself, unkilled, and says why.
#[track_caller]
fn check_refused(b: &Bench, path: &Path, name: &str) {
    let (data, log) = (b.folder.path().join("refused"), b.folder.path().join("refused.log"));
    let mut serve = Command::new(process::binary());
    serve.args(["serve", "--listen", "127.0.0.1:0", "--set", "ppo.enabled=false", "--data-dir"]).arg(&data);
    serve.arg("--model").arg(path).stdin(Stdio::null()).stdout(Stdio::null());
    let mut serve = serve.stderr(File::create(&log).expect("a file")).spawn().expect("the binary starts");
    let began = Instant::now();
    let status = loop {
        match serve.try_wait().expect("it is ours") {
            Some(status) => break Some(status),
            None if began.elapsed() > PATIENCE => break None,
            None => std::thread::yield_now(),
        }
    };
    // One that is served, or that hangs, would stay for ever.
    let _ = serve.kill().and_then(|()| serve.wait());
    let said = fs::read_to_string(&log).expect("a log");
    let code = status.map(|status| status.code());
    assert_eq!(code, Some(Some(1)), "{name} ({}): {status:?} {said}", path.display());
    assert!(said.contains("honed: ") && !said.contains("panicked"), "{name}: {said}");
    // What one refusal left behind must not be the reason of the next.
    let _ = fs::remove_dir_all(&data);
}
