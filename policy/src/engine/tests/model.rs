//! A small random Llama with a byte-level vocabulary, written as a GGUF file.

use std::path::{Path, PathBuf};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use gguf_file::Value;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

/// The shape, small enough that a test loads dozens; rows are multiples of 32 for Q8_0.
const HIDDEN: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FEED_FORWARD: usize = 128;
pub(super) const CONTEXT: u32 = 256;

pub(super) const SPECIALS: [&str; 5] = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"];
pub(super) const TEMPLATE: &str = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\
    {% if m['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// What a model file is made of.
#[derive(Clone, Copy)]
pub(super) struct Model {
    pub(super) seed: u64,
    pub(super) weights: GgmlDType,
    /// Standard deviation of the weights: 0 makes every logit 0.
    pub(super) scale: f32,
}

impl Default for Model {
    fn default() -> Self {
        Model { seed: 1, weights: GgmlDType::F32, scale: 0.3 }
    }
}

impl Model {
    /// Writes the file into `folder`.
    pub(super) fn write(self, folder: &TempDir) -> PathBuf {
        let path = folder.path().join(format!("{}-{:?}-{}.gguf", self.seed, self.weights, self.scale));
        self.write_to(&path);
        path
    }

    fn write_to(self, path: &Path) {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let (tokens, merges) = vocabulary();
        let n_vocab = tokens.len();
        let mut tensors: Vec<(String, QTensor)> = Vec::new();
        let mut add = |name: String, rows: usize, columns: usize| {
            let data: Vec<f32> = (0..rows * columns).map(|_| self.scale * normal(&mut random)).collect();
            let tensor = Tensor::from_vec(data, (rows, columns), &Device::Cpu).unwrap();
            tensors.push((name, QTensor::quantize(&tensor, self.weights).unwrap()));
        };
        add("token_embd.weight".into(), n_vocab, HIDDEN);
        add("output.weight".into(), n_vocab, HIDDEN);
        let kv = HIDDEN / HEADS * KV_HEADS;
        for layer in 0..LAYERS {
            let matrices = [
                ("attn_q", HIDDEN, HIDDEN),
                ("attn_k", kv, HIDDEN),
                ("attn_v", kv, HIDDEN),
                ("attn_output", HIDDEN, HIDDEN),
                ("ffn_gate", FEED_FORWARD, HIDDEN),
                ("ffn_up", FEED_FORWARD, HIDDEN),
                ("ffn_down", HIDDEN, FEED_FORWARD),
            ];
            for (name, rows, columns) in matrices {
                add(format!("blk.{layer}.{name}.weight"), rows, columns);
            }
        }
        let norms = (0..LAYERS).flat_map(|layer| ["attn_norm", "ffn_norm"].map(|n| format!("blk.{layer}.{n}.weight")));
        for name in norms.chain(["output_norm.weight".into()]) {
            let ones = Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu).unwrap();
            tensors.push((name, QTensor::quantize(&ones, GgmlDType::F32).unwrap()));
        }
        let metadata = self.metadata(&tokens, &merges);
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (*name, value)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut file = std::fs::File::create(path).unwrap();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    }

    fn metadata(self, tokens: &[String], merges: &[String]) -> Vec<(&'static str, Value)> {
        let texts = |list: &[String]| Value::Array(list.iter().cloned().map(Value::String).collect());
        let kinds = (0..tokens.len()).map(|id| Value::I32(if id < SPECIALS.len() { 3 } else { 1 })).collect();
        let number = |n: usize| Value::U32(n as u32);
        let file_type = if self.weights == GgmlDType::F32 { 0 } else { 7 };
        vec![
            ("general.architecture", Value::String("llama".into())),
            ("general.file_type", number(file_type)),
            ("llama.context_length", Value::U32(CONTEXT)),
            ("llama.embedding_length", number(HIDDEN)),
            ("llama.block_count", number(LAYERS)),
            ("llama.feed_forward_length", number(FEED_FORWARD)),
            ("llama.attention.head_count", number(HEADS)),
            ("llama.attention.head_count_kv", number(KV_HEADS)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.dimension_count", number(HIDDEN / HEADS)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("llama.vocab_size", number(tokens.len())),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
            ("tokenizer.ggml.tokens", texts(tokens)),
            ("tokenizer.ggml.merges", texts(merges)),
            ("tokenizer.ggml.token_type", Value::Array(kinds)),
            ("tokenizer.ggml.eos_token_id", Value::U32(0)),
            ("tokenizer.ggml.padding_token_id", Value::U32(1)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
            ("tokenizer.chat_template", Value::String(TEMPLATE.into())),
        ]
    }
}

/// Five control tokens, the 256 bytes in GPT-2's alphabet, and a few merges.
fn vocabulary() -> (Vec<String>, Vec<String>) {
    let mut tokens: Vec<String> = SPECIALS.map(str::to_owned).into();
    tokens.extend((0..=255).map(|byte| byte_letter(byte).to_string()));
    let merges: Vec<String> = ["h e", "Ġ t", "Ġt he", "< |", "u s", "e r", "us er"].map(str::to_owned).into();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    (tokens, merges)
}

/// GPT-2's printable stand-in for a byte.
fn byte_letter(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let n = (0..byte).filter(|&b| !printable(b)).count();
    char::from_u32(256 + n as u32).unwrap()
}

/// Box-Muller.
fn normal(random: &mut ChaCha8Rng) -> f32 {
    let uniform = |random: &mut ChaCha8Rng| (f64::from(random.next_u32()) + 0.5) / 4_294_967_296.0;
    let (u, v) = (uniform(random), uniform(random));
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}
