//! Logits of a file as a model says them: the way from logits to log-probs and back that the trainer's own passes go.
//!
//! The processor's passes never see bare logits. They select hidden states, multiply by the unembedding and read the rows. So
//! the logits become the weights of a model that computes nothing else: a token of its language means a token of the file in
//! a certain row; its embedding is a direction of that row's own, which blocks of zeros and a norm of constant length let
//! pass; its unembedding holds what the row before says of it. What any other row says of it is so low that it has no mass.
//! And the gradient of the unembedding is that of the logits.

use candle_core::{Device, Tensor};
use policy::{
    TokenId,
    architecture::{Shape, llama},
    causal_lm::{CausalLm, HeadRows, HeadSlopes, ResponseLogProbs},
    optimizer::Gradients,
    sequence_batch::SequenceBatch,
    transformer::random_checkpoint,
};

/// Of the hidden states, and rows at most. A power of 4, so that the norm's length is a power of 2.
pub(super) const WIDTH: usize = 64;
/// Length of an embedding: beside its square the norm's epsilon is nothing.
pub(super) const LOUD: f32 = 1000.0;
/// A logit without mass.
const LOW: f32 = -1e4;

/// A model that says the logits of some rows.
pub(super) struct Said {
    lm: CausalLm,
    n_rows: usize,
    vocab: usize,
}

impl Said {
    /// - `logits`: `[rows * vocab]`; row `r` predicts the token that stands in row `r + 1`.
    pub(super) fn new(logits: &[f64], vocab: usize) -> Said {
        let n_rows = logits.len() / vocab;
        assert!(n_rows <= WIDTH, "{n_rows} rows want a wider model");
        let n_tokens = (n_rows + 1) * vocab;
        let (mut embedding, mut output) = (vec![0.0; n_tokens * WIDTH], vec![LOW; n_tokens * WIDTH]);
        for (i, logit) in logits.iter().enumerate() {
            let row = i / vocab;
            embedding[i * WIDTH + row] = LOUD;
            output[(i + vocab) * WIDTH + row] = *logit as f32;
        }
        let shape = Shape { tied: false, ..Shape::llama(n_tokens, WIDTH, 1, 1, 1, 8) };
        let mut checkpoint = random_checkpoint(&shape, 0).unwrap();
        let mut put = |name: &str, values: Vec<f32>, dims: &[usize]| {
            checkpoint.tensors.insert(name.to_owned(), Tensor::from_vec(values, dims, &Device::Cpu).unwrap());
        };
        put(llama::TOKEN_EMBEDDING, embedding, &[n_tokens, WIDTH]);
        put(llama::OUTPUT, output, &[n_tokens, WIDTH]);
        put(llama::OUTPUT_NORM, vec![1.0 / (WIDTH as f32).sqrt(); WIDTH], &[WIDTH]);
        put(&llama::block(0, "attn_output"), vec![0.0; WIDTH * WIDTH], &[WIDTH, WIDTH]);
        put(&llama::block(0, "ffn_down"), vec![0.0; WIDTH * 8], &[WIDTH, 8]);
        Said { lm: CausalLm::from_checkpoint(&checkpoint, &Device::Cpu).unwrap(), n_rows, vocab }
    }

    /// The token of this language that means `token` and stands in `row`.
    pub(super) fn token(&self, row: usize, token: usize) -> TokenId {
        assert!(row <= self.n_rows && token < self.vocab);
        TokenId((row * self.vocab + token) as u32)
    }

    pub(super) fn model(&self) -> &CausalLm {
        &self.lm
    }

    /// The frozen pass.
    pub(super) fn log_probs(&self, batch: &SequenceBatch, temperature: f64) -> ResponseLogProbs {
        let temperatures = vec![temperature as f32; batch.sequences.len()];
        self.lm.frozen_log_probs(batch, &temperatures).unwrap()
    }

    /// The pass with gradients.
    pub(super) fn backward(
        &self,
        batch: &SequenceBatch,
        temperature: f64,
        mut loss: impl FnMut(HeadRows<'_>) -> HeadSlopes,
    ) -> Gradients {
        let temperatures = vec![temperature as f32; batch.sequences.len()];
        let mut gradients = Gradients::new();
        self.lm.open(|lm| lm.backward(batch, &temperatures, &mut gradients, |rows| Ok(loss(rows)))).unwrap();
        gradients
    }

    /// d loss / d logits, `[rows * vocab]`; 0 where no response token is predicted.
    pub(super) fn in_logits(&self, gradients: &Gradients) -> Vec<f64> {
        let output = gradients.get(llama::OUTPUT).expect("the unembedding has a gradient").to_vec().unwrap();
        let of = |i: usize| f64::from(output[(i + self.vocab) * WIDTH + i / self.vocab]);
        (0..self.n_rows * self.vocab).map(of).collect()
    }
}

/// As the trainer hands slopes to a pass.
pub(super) fn slopes(log_probs: &[f64], entropies: &[f64]) -> HeadSlopes {
    let single = |x: &[f64]| x.iter().map(|v| *v as f32).collect();
    HeadSlopes { log_probs: single(log_probs), entropies: single(entropies) }
}

/// As the trainer reads what a pass says.
pub(super) fn double(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}
