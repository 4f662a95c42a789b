//! The trainer against what serves, the decoder and llama.cpp: the same file must give the same tokens and the same
//! log-probabilities.
//!
//! This is what keeps the importance ratio honest: PPO compares log-probs that the engine recorded while sampling with
//! log-probs that the trainer computes. Every model is written by the trainer and loaded by the engine.

// Helpers here are tests too, but clippy sees only functions that carry the attribute.
#![allow(clippy::unwrap_used)]

mod naive;

use std::path::{Path, PathBuf};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, gguf_file::Value},
};
use policy::{
    PolicyVersion, TokenId, Vocabulary,
    architecture::Shape,
    byte_pair::{Bpe, CHAT_TEMPLATE, SPECIAL_TOKENS},
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, WeightType},
    engine::Engine,
    sequence_batch::{Sequence, SequenceBatch},
    transformer::random_checkpoint,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TEXTS: [&str; 4] = [
    "The ocean is vast, deep and tranquil.",
    "What color is the sky? The sky is blue.",
    "A brown bear goes to the beach and makes friends with a seal.",
    "Write three adjectives to describe the ocean.",
];

/// Texts that tokenizers like to disagree about.
const VARIED: [&str; 14] = [
    "The ocean is blue.",
    "  two spaces, three   spaces, a tab\tand a\nnewline\n\n",
    "trailing spaces   ",
    "\n\n  \n indented",
    "don't we'll I'm they've DON'T 'tis",
    "3.14159 1,000,000 ½ ² ١٢٣",
    "naïve café Straße ÑANDÚ",
    "日本語のテキスト 한국어 עברית",
    "🐻🏖️👩‍👩‍👧 emoji",
    "<|user|> typed by hand <|endoftext|>",
    "\u{1}\u{7f}\u{a0}\u{ad}\u{feff}",
    "snake_case camelCase $%&/()=?!",
    "a",
    " ",
];

fn bpe() -> Bpe {
    Bpe::learn(TEXTS.iter(), 320, &SPECIAL_TOKENS).unwrap()
}

/// A model with a vocabulary whose weights are far from their small start, so that every part shapes the logits.
fn checkpoint(shape: &Shape, seed: u64) -> Checkpoint {
    let mut checkpoint = random_checkpoint(shape, seed).unwrap();
    checkpoint.metadata.extend(bpe().metadata(CHAT_TEMPLATE));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (name, tensor) in &mut checkpoint.tensors {
        let spread = if name.contains("norm") { 0.3 } else { 0.1 };
        let noise: Vec<f32> = (0..tensor.elem_count()).map(|_| rng.random_range(-spread..spread)).collect();
        *tensor = (&*tensor + Tensor::from_vec(noise, tensor.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    checkpoint
}

fn shape(tied: bool) -> Shape {
    let tokens = bpe().size();
    Shape { tied, context: 256, rope_theta: 5000.0, ..Shape::llama(tokens, 64, 3, 4, 2, 96) }
}

/// What computes; both are asked.
const BACKENDS: [&str; 2] = ["honed", "llama.cpp"];

fn engine(path: &Path, backend: &str) -> Engine {
    let mut config = config::Config::default().policy;
    config.threads = 2;
    config.backend = backend.to_owned();
    Engine::start(&config, path).unwrap()
}

fn write(folder: &tempfile::TempDir, checkpoint: &Checkpoint) -> PathBuf {
    let path = folder.path().join("model.gguf");
    checkpoint.write(&path).unwrap();
    path
}

/// Checks that log-probabilities of the engine and of the trainer that reads the same file back differ by less than these, by the
/// decoder and by llama.cpp.
fn check_differences(what: &str, checkpoint: &Checkpoint, most: [f32; 2]) {
    for (backend, most) in BACKENDS.into_iter().zip(most) {
        let worst = largest_difference(checkpoint, backend);
        println!("{what}, {backend}: largest difference {worst:.2e} nats");
        assert!(worst < most, "{what}, {backend}: {worst}");
    }
}

/// Largest difference of log-probabilities between the engine and the trainer that reads the same file back.
fn largest_difference(checkpoint: &Checkpoint, backend: &str) -> f32 {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, checkpoint);
    let as_read = Checkpoint::read(&path).unwrap();
    let model = CausalLm::from_checkpoint(&as_read, &Device::Cpu).unwrap();
    let engine = engine(&path, backend);
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut worst = 0f32;
    for length in [2, 7, 40, 130] {
        let n_tokens = model.trunk().shape().vocab_size as u32;
        let tokens: Vec<TokenId> = (0..length).map(|_| TokenId(rng.random_range(0..n_tokens))).collect();
        let served = engine.log_probs(PolicyVersion::SFT, &tokens).unwrap();
        let batch = SequenceBatch::new(vec![Sequence::text(tokens)]);
        let trained = model.frozen_log_probs(&batch, &[1.0]).unwrap().log_probs;
        assert_eq!(served.len(), trained.len());
        let differences = served.iter().zip(&trained).map(|(a, b)| (a.0 - b).abs());
        let exact = naive::log_probs(&as_read, model.trunk().shape(), &batch.sequences[0].tokens);
        for (log_prob, exact) in trained.iter().zip(exact) {
            let error = (f64::from(*log_prob) - exact).abs();
            assert!(error < 1e-5, "the trainer is {error:.1e} nats off the slow twin");
        }
        worst = differences.fold(worst, f32::max);
    }
    worst
}

#[test]
fn log_probs_of_an_f32_file_agree() {
    for tied in [true, false] {
        check_differences(&format!("f32, tied {tied}"), &checkpoint(&shape(tied), 1), [1e-4, 2e-3]);
    }
}

#[test]
fn log_probs_agree_with_wide_heads_linear_scaling_and_rope_factors() {
    let odd = Shape { head_dim: 24, rope_dims: 24, rope_scale: 0.5, ..shape(true) };
    let mut odd = checkpoint(&odd, 2);
    let factors: Vec<f32> = (0..12).map(|i| 1.0 + 0.5 * i as f32).collect();
    odd.tensors.insert("rope_freqs.weight".to_owned(), Tensor::new(factors, &Device::Cpu).unwrap());
    check_differences("odd shape", &odd, [1e-4, 2e-3]);
    // What llama.cpp takes for linear though nothing says so, by either key.
    odd.metadata = checkpoint(&shape(true), 2).metadata;
    for (key, count) in [("llama.attention.key_length", 24), ("llama.rope.dimension_count", 24)] {
        odd.metadata.set(key, Value::U32(count));
    }
    odd.metadata.set("llama.attention.value_length", Value::U32(24));
    odd.metadata.set("llama.rope.scale_linear", Value::F32(3.0));
    check_differences("the older key of scaling", &odd, [1e-4, 2e-3]);
    odd.metadata.set("llama.rope.scaling.factor", Value::F32(1.5));
    check_differences("the newer key of scaling", &odd, [1e-4, 2e-3]);
}

#[test]
fn log_probs_of_f16_and_q8_files_agree() {
    let mut half = checkpoint(&shape(true), 3);
    half.retype(&Default::default(), WeightType::F16);
    check_differences("f16", &half, [5e-3, 2e-2]);
    // Trainer and decoder compute with the dequantised weights; llama.cpp also rounds the activations to 8 bits.
    for (name, kind) in &mut half.types {
        if name.starts_with("blk.") && !name.contains("norm") {
            *kind = GgmlDType::Q8_0;
        }
    }
    check_differences("q8_0", &half, [5e-3, 0.3]);
}

#[test]
fn a_wrong_rotation_would_be_seen() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&shape(true), 1);
    let path = write(&folder, &checkpoint);
    let mut wrong = checkpoint.clone();
    wrong.metadata.set("llama.rope.freq_base", Value::F32(5100.0));
    let model = CausalLm::from_checkpoint(&wrong, &Device::Cpu).unwrap();
    let tokens: Vec<TokenId> = (5..105).map(TokenId).collect();
    let batch = SequenceBatch::new(vec![Sequence::text(tokens.clone())]);
    let trained = model.frozen_log_probs(&batch, &[1.0]).unwrap().log_probs;
    for backend in BACKENDS {
        let served = engine(&path, backend).log_probs(PolicyVersion::SFT, &tokens).unwrap();
        let worst = served.iter().zip(&trained).map(|(a, b)| (a.0 - b).abs()).fold(0.0, f32::max);
        assert!(worst > 2e-3, "two per cent on the base moved log-probs by only {worst}");
    }
}

#[test]
fn llama_cpp_cuts_every_text_into_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, &checkpoint(&shape(true), 1));
    let (served, learnt) = (Vocabulary::load(&path).unwrap(), bpe());
    for text in VARIED.iter().chain(&TEXTS) {
        let expected = learnt.encode(text).unwrap();
        assert_eq!(served.tokenize(text).unwrap(), expected, "{text:?}");
        assert_eq!(served.prompt(text).unwrap(), expected, "{text:?}: something was put in front");
        assert_eq!(served.detokenize(&expected, false), *text);
    }
    assert_eq!(served.end_token(), policy::byte_pair::END);
    assert!(served.is_end(policy::byte_pair::END) && !served.is_end(policy::byte_pair::USER));
}

/// Goal: texts nobody thought of. Method: random strings over characters of every class, fixed seed.
#[test]
fn llama_cpp_cuts_random_texts_into_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, &checkpoint(&shape(true), 1));
    let (served, learnt) = (Vocabulary::load(&path).unwrap(), bpe());
    let alphabet: Vec<char> = "aZ é9½ \t\n\r'sd.,!_-()日本🐻\u{a0}\u{301}<|>\u{3000}ñ0".chars().collect();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..500 {
        let length = rng.random_range(1..30);
        let text: String = (0..length).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect();
        assert_eq!(served.tokenize(&text).unwrap(), learnt.encode(&text).unwrap(), "{text:?}");
    }
}

#[test]
fn both_sides_know_the_vocabulary_by_the_same_digest() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&shape(true), 1);
    let served = Vocabulary::load(&write(&folder, &checkpoint)).unwrap();
    assert_eq!(served.digest(), checkpoint.metadata.vocabulary_digest());
}

#[test]
fn the_chat_template_gives_the_tokens_that_training_uses() {
    let folder = tempfile::tempdir().unwrap();
    let served = Vocabulary::load(&write(&folder, &checkpoint(&shape(true), 1))).unwrap();
    let learnt = bpe();
    let message = |role: &str, content: &str| policy::Message { role: role.to_owned(), content: content.to_owned() };
    let prompt = served.chat(&[message("user", "What color is the sky?")]).unwrap();
    let question = learnt.encode("What color is the sky?").unwrap();
    let expected = [&[policy::byte_pair::USER], question.as_slice(), &[policy::byte_pair::ASSISTANT]].concat();
    assert_eq!(prompt, expected);
    let whole = [message("user", "What color is the sky?"), message("assistant", "blue")];
    let answer = [expected, learnt.encode("blue").unwrap(), vec![policy::byte_pair::END]].concat();
    assert_eq!(served.chat_with_answer(&whole).unwrap(), answer);
}
