//! A real model, made here: random Llama weights over a byte-level vocabulary learnt from a few sentences.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use candle_core::Device;
use policy::{
    architecture::{Shape, llama},
    byte_pair::{Bpe, SPECIAL_TOKENS},
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, WeightType},
    scalar_model::{HEAD_BIAS, ScalarModel},
};
use reward::{RewardModel, normalization::Normalization};

/// Tokens of prompt and response together.
pub(crate) const WINDOW: usize = 256;
const VOCABULARY: usize = 400;
const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\
    {% if m.role == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// The model's file, written once per test process.
pub(crate) fn file() -> PathBuf {
    static FOLDER: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("random.gguf");
        write(&path, 1);
        (folder, path)
    });
    path.clone()
}

/// Writes a model with the weights of a seed; all seeds share one vocabulary.
pub(crate) fn write(path: &Path, seed: u64) {
    let texts = ["the ocean is vast and deep", "a bear goes to the beach and meets a seal", "what color is the sky"];
    let bpe = Bpe::learn(texts.iter(), VOCABULARY, &SPECIAL_TOKENS).expect("a vocabulary");
    let shape = Shape { context: WINDOW, ..Shape::llama(bpe.size(), 64, 2, 4, 2, 128) };
    let mut like = Checkpoint { metadata: llama::metadata(&shape), ..Checkpoint::default() };
    like.metadata.extend(bpe.metadata(TEMPLATE));
    let model = CausalLm::random(&shape, seed, &Device::Cpu).expect("a model");
    model.to_checkpoint(&like, WeightType::F32).and_then(|c| c.write(path)).expect("a file");
}

/// Writes a reward model that knows the first few tokens of the vocabulary only, which are no letters: the score of a text is no
/// number.
pub(crate) fn write_mute_reward(path: &Path) {
    const N_KNOWN: usize = 16;
    write_reward(path, 1, 0.0);
    let mut checkpoint = Checkpoint::read(path).expect("written above");
    let table = checkpoint.tensor(llama::TOKEN_EMBEDDING).expect("a table").clone();
    let (n_vocab, hidden) = table.dims2().expect("a matrix");
    let known = table.narrow(0, 0, N_KNOWN).expect("rows");
    let mute = candle_core::Tensor::full(f32::NAN, (n_vocab - N_KNOWN, hidden), &Device::Cpu).expect("rows");
    let table = candle_core::Tensor::cat(&[known, mute], 0).expect("one table");
    checkpoint.tensors.insert(llama::TOKEN_EMBEDDING.to_owned(), table);
    checkpoint.write(path).expect("a file");
}

/// Writes a reward model on the trunk of [`file`], with random heads and this number as the bias of each.
pub(crate) fn write_reward(path: &Path, n_heads: usize, bias: f32) {
    let policy = Checkpoint::read(&file()).expect("the model");
    let model = ScalarModel::from_policy_with_heads(&policy, n_heads, 7, &Device::Cpu).expect("heads");
    let maps = vec![Normalization { gain: 1.0, bias: 0.0 }; n_heads];
    let model = RewardModel::new(model, &policy, &maps, WeightType::F32).expect("a reward model");
    let mut checkpoint = model.checkpoint().clone();
    let biases = candle_core::Tensor::full(bias, n_heads, &Device::Cpu).expect("biases");
    checkpoint.tensors.insert(HEAD_BIAS.to_owned(), biases);
    checkpoint.write(path).expect("a file");
}
