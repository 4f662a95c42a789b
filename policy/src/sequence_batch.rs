//! Sequences as the trainer reads them.
//!
//! Batches are *packed*: the tokens of all sequences in one row after another, without padding. Only attention knows where
//! one sequence ends, so nothing else can leak across, no position is computed for nothing, and there is no pad token whose
//! gradient could be wrong.

use crate::{
    model_error::{ModelError, Result},
    token::TokenId,
};

/// A prompt and its response in one row of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Prompt, then response.
    pub tokens: Vec<TokenId>,
    /// Where the response starts; at least 1, because a token is predicted from the one before it.
    pub prompt_len: usize,
}

impl Sequence {
    /// Joins a prompt and a response.
    #[must_use]
    pub fn new(prompt: &[TokenId], response: &[TokenId]) -> Sequence {
        let tokens = prompt.iter().chain(response).copied().collect();
        Sequence { tokens, prompt_len: prompt.len() }
    }

    /// A text without a prompt: every token but the first is a target.
    #[must_use]
    pub fn text(tokens: Vec<TokenId>) -> Sequence {
        Sequence { tokens, prompt_len: 1 }
    }

    /// The response.
    #[must_use]
    pub fn response(&self) -> &[TokenId] {
        self.tokens.get(self.prompt_len..).unwrap_or_default()
    }
}

/// Sequences that go through a model together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceBatch {
    /// Any lengths, any order.
    pub sequences: Vec<Sequence>,
}

impl SequenceBatch {
    /// A batch of these.
    #[must_use]
    pub fn new(sequences: Vec<Sequence>) -> SequenceBatch {
        SequenceBatch { sequences }
    }

    /// Response tokens of all sequences together.
    #[must_use]
    pub fn n_response_tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.response().len()).sum()
    }

    /// All tokens.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.len()).sum()
    }

    /// Checks what every pass over responses relies on: a prompt of at least one token, and no empty batch.
    pub(crate) fn check(&self) -> Result<()> {
        if self.sequences.is_empty() {
            return Err(ModelError::Batch("no sequences".to_owned()));
        }
        match self.sequences.iter().position(|s| s.prompt_len == 0 || s.prompt_len > s.tokens.len()) {
            Some(i) => {
                let s = &self.sequences[i];
                Err(ModelError::Batch(format!("sequence {i}: prompt of {} in {} tokens", s.prompt_len, s.tokens.len())))
            }
            None => Ok(()),
        }
    }

    /// The tokens that predict a response token: everything but each sequence's last one.
    pub(crate) fn packed_inputs(&self) -> Packed {
        Packed::new(self.sequences.iter().map(|s| &s.tokens[..s.tokens.len() - usize::from(!s.response().is_empty())]))
    }

    /// Every token.
    pub(crate) fn packed(&self) -> Packed {
        Packed::new(self.sequences.iter().map(|s| s.tokens.as_slice()))
    }

    /// For each response token y_t, flat, the packed row of the position before it, P-1+t, in `packed_inputs`.
    #[must_use]
    pub fn prediction_rows(&self) -> Vec<u32> {
        let mut rows = Vec::with_capacity(self.n_response_tokens());
        let mut start = 0;
        for s in &self.sequences {
            let n = s.response().len();
            let first = start + s.prompt_len - 1;
            rows.extend((first..first + n).map(row));
            start += s.tokens.len() - usize::from(n > 0);
        }
        rows
    }
}

/// Sequences one after another in one row: what the trunk computes on.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Token ids, `[n_tokens]`.
    pub ids: Vec<u32>,
    /// Position of each token inside its own sequence, `[n_tokens]`.
    pub positions: Vec<u32>,
    /// Where each sequence starts, and at the end the number of tokens: `[n_sequences + 1]`.
    pub offsets: Vec<usize>,
}

impl Packed {
    /// Packs rows of tokens.
    pub fn new<'a>(rows: impl Iterator<Item = &'a [TokenId]>) -> Packed {
        let mut packed = Packed { ids: Vec::new(), positions: Vec::new(), offsets: vec![0] };
        for tokens in rows {
            packed.ids.extend(tokens.iter().map(|t| t.0));
            packed.positions.extend((0..tokens.len()).map(row));
            packed.offsets.push(packed.ids.len());
        }
        packed
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is nothing to compute.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Start and length of each sequence.
    pub fn spans(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.offsets.windows(2).map(|w| (w[0], w[1] - w[0]))
    }
}

fn row(index: usize) -> u32 {
    u32::try_from(index).expect("a batch has fewer than 2^32 tokens")
}
