//! A resident's sequences in memory: llama.cpp's context, or the decoder's.

use llama_cpp_2::{
    context::{
        LlamaContext,
        session::{LlamaStateSeqFlags, SeqState},
    },
    llama_batch::LlamaBatch,
    token::LlamaToken,
};

use crate::{decoder, token::TokenId};

pub(super) use crate::decoder::Entry;

/// What computes.
pub(super) enum Compute<'m> {
    LlamaCpp(Box<LlamaCpp<'m>>),
    Decoder(Box<decoder::Context>),
}

/// llama.cpp's context, with the batch that it is handed.
pub(super) struct LlamaCpp<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
}

/// What a sequence held, outside the context.
pub(super) enum State {
    LlamaCpp(SeqState),
    Decoder(decoder::State),
}

impl<'m> Compute<'m> {
    /// With room for batches of so many tokens.
    pub(super) fn llama_cpp(context: LlamaContext<'m>, n_batch: usize) -> Compute<'m> {
        Compute::LlamaCpp(Box::new(LlamaCpp { context, batch: LlamaBatch::new(n_batch, 1) }))
    }

    /// Whether copies between sequences wait for the next pass, and sequences between which others stand cost more.
    pub(super) fn has_places(&self) -> bool {
        matches!(self, Compute::LlamaCpp(_))
    }

    /// Tokens that are kept together in memory.
    pub(super) fn page_tokens(&self) -> usize {
        if self.has_places() { 1 } else { decoder::POSITIONS }
    }

    /// Bytes that were promised to it, and that it has not taken yet.
    pub(super) fn untaken_bytes(&self) -> usize {
        match self {
            Compute::LlamaCpp(_) => 0,
            Compute::Decoder(context) => context.untaken_bytes(),
        }
    }

    /// Computes a batch. `alone`: on the calling thread, where that can be asked for.
    pub(super) fn run(&mut self, batch: &[Entry], alone: bool) -> Result<(), String> {
        match self {
            Compute::LlamaCpp(llama) => llama.run(batch),
            Compute::Decoder(context) => {
                context.compute(batch, alone);
                Ok(())
            }
        }
    }

    /// Waits for a device that has only been told what to do.
    pub(super) fn synchronize(&mut self) {
        match self {
            Compute::LlamaCpp(llama) => llama.context.synchronize(),
            Compute::Decoder(_) => {}
        }
    }

    /// Logits after a token of the last batch that gives them.
    pub(super) fn logits(&self, at: usize) -> &[f32] {
        match self {
            Compute::LlamaCpp(llama) => llama.context.get_logits_ith(number(at)),
            Compute::Decoder(context) => context.logits(at),
        }
    }

    /// Makes sequence `into`, which is empty, hold what `from` does; whether it does.
    pub(super) fn copy(&mut self, from: usize, into: usize, n: usize) -> bool {
        match self {
            Compute::LlamaCpp(llama) => llama.context.copy_kv_cache_seq(number(from), number(into), None, None).is_ok(),
            Compute::Decoder(context) => {
                context.copy(from, into, n);
                true
            }
        }
    }

    /// Leaves the first `n` tokens of a sequence; false where its memory cannot be cut there. To 0, it always can.
    pub(super) fn cut(&mut self, i: usize, n: usize) -> bool {
        match self {
            Compute::LlamaCpp(llama) => {
                let from = (n > 0).then(|| u32::try_from(n).expect("a context window fits 32 bits"));
                let id = u32::try_from(i).expect("there are at most 256 sequences");
                matches!(llama.context.clear_kv_cache_seq(Some(id), from, None), Ok(true))
            }
            Compute::Decoder(context) => {
                context.cut(i, n);
                true
            }
        }
    }

    pub(super) fn state(&self, i: usize) -> Result<State, String> {
        match self {
            Compute::LlamaCpp(llama) => {
                let state = llama.context.state_seq_get(number(i), LlamaStateSeqFlags::empty());
                state.map(State::LlamaCpp).map_err(|error| error.to_string())
            }
            Compute::Decoder(context) => Ok(State::Decoder(context.state(i))),
        }
    }

    /// Makes an empty sequence hold what one held.
    pub(super) fn set(&mut self, i: usize, state: &State) -> Result<(), String> {
        match (self, state) {
            (Compute::LlamaCpp(llama), State::LlamaCpp(state)) => {
                llama.context.state_seq_set(state, number(i)).map(drop).map_err(|error| error.to_string())
            }
            (Compute::Decoder(context), State::Decoder(state)) => {
                context.set(i, state);
                Ok(())
            }
            _ => Err("it was computed by another backend".to_owned()),
        }
    }
}

impl LlamaCpp<'_> {
    fn run(&mut self, batch: &[Entry]) -> Result<(), String> {
        self.batch.clear();
        for entry in batch {
            let (token, position, sequence) = (llama(entry.token), number(entry.position), number(entry.sequence));
            let added = self.batch.add(token, position, &[sequence], entry.gives_logits);
            added.expect("a batch has room for batch_tokens and one token for each slot");
        }
        self.context.decode(&mut self.batch).map_err(|error| error.to_string())
    }
}

fn llama(token: TokenId) -> LlamaToken {
    LlamaToken(i32::try_from(token.0).expect("token ids were checked against the vocabulary"))
}

/// A sequence (there are at most 256), a place in a batch or a position in a context window, as llama.cpp takes it.
fn number(i: usize) -> i32 {
    i32::try_from(i).expect("sequences, batches and context windows are bounded")
}
