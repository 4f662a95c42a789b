//! Sequences that a model computes side by side.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{
    adapter::Adapter,
    attention::{self, Heads},
    buffers::Buffers,
    matrix::Buffer,
    model::Model,
    pages::{Layout, POSITIONS, Pages, Pool, starts},
    pass::{Pass, Row, Run},
    team::Team,
};
use crate::{architecture::Shape, token::TokenId};

/// A token of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) token: TokenId,
    pub(crate) sequence: usize,
    /// Its place in the sequence.
    pub(crate) position: usize,
    /// Whether logits are asked for.
    pub(crate) gives_logits: bool,
}

/// What a context has room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) n_sequences: usize,
    /// Tokens of a sequence.
    pub(crate) n_positions: usize,
    /// Tokens of a pass.
    pub(crate) n_rows: usize,
    /// Rows of logits of a pass.
    pub(crate) n_wanted: usize,
    /// Tokens that are kept beside the sequences, in whole pages.
    pub(crate) n_kept: usize,
    pub(crate) n_threads: usize,
    /// Whether keys and values are kept in f32 rather than f16.
    pub(crate) is_f32: bool,
}

/// Bytes that a context takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Keys and values of its sequences.
    pub(crate) cache: usize,
    /// Those that are kept beside them.
    pub(crate) kept: usize,
    /// What a pass works with.
    pub(crate) pass: usize,
}

impl Limits {
    /// What a context of a model of this shape will take.
    pub(crate) fn footprint(&self, shape: &Shape) -> Footprint {
        let page = Layout::of(shape, self.is_f32).page_bytes();
        let scratch = attention::Scratch::n_bytes(Heads::of(shape), self.n_positions);
        Footprint {
            cache: page.saturating_mul(self.n_sequences * self.n_positions.div_ceil(POSITIONS)),
            kept: page.saturating_mul(self.n_kept.div_ceil(POSITIONS)),
            pass: Buffers::n_bytes(shape, self.n_rows, self.n_wanted).saturating_add(scratch * self.n_threads.max(1)),
        }
    }

    fn n_pages(&self) -> usize {
        self.n_sequences * self.n_positions.div_ceil(POSITIONS) + self.n_kept.div_ceil(POSITIONS)
    }
}

/// A model with sequences.
pub(crate) struct Context {
    model: Arc<Model>,
    adapter: Option<Arc<Adapter>>,
    limits: Limits,
    layout: Layout,
    team: Team,
    sequences: Vec<State>,
    pool: Pool,
    buffers: Buffers<Buffer>,
    /// Bytes that they and the scratch were planned with.
    pass_bytes: usize,
    scratch: Vec<Mutex<attention::Scratch>>,
    /// Row of logits of each token of the last batch.
    rows: BTreeMap<usize, usize>,
}

/// What a sequence holds, or held.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pages: Pages,
    n: usize,
}

impl Context {
    /// # Errors
    /// When the system gives no threads, or no memory for keys and values.
    pub(crate) fn new(model: Arc<Model>, adapter: Option<Arc<Adapter>>, limits: Limits) -> std::io::Result<Context> {
        let shape = &model.shape;
        let heads = Heads::of(shape);
        let layout = Layout::of(shape, limits.is_f32);
        let scratch = || Mutex::new(attention::Scratch::new(heads, limits.n_positions));
        Ok(Context {
            limits,
            layout,
            team: Team::new(limits.n_threads)?,
            sequences: std::iter::repeat_with(State::default).take(limits.n_sequences).collect(),
            pool: Pool::new(layout, limits.n_pages())?,
            buffers: Buffers::new(shape, adapter.as_deref(), limits.n_rows, limits.n_wanted),
            scratch: std::iter::repeat_with(scratch).take(limits.n_threads.max(1)).collect(),
            pass_bytes: limits.footprint(shape).pass,
            rows: BTreeMap::new(),
            model,
            adapter,
        })
    }

    /// Computes a batch, in which the tokens of a sequence follow each other and what it holds. `alone`: on the calling thread.
    ///
    /// # Panics
    /// When there are more tokens than the context has room for, or one is out of its turn: who plans batches sees to it.
    pub(crate) fn compute(&mut self, batch: &[Entry], alone: bool) {
        assert!(batch.len() <= self.limits.n_rows, "a batch of {} tokens", batch.len());
        let (mut runs, mut rows, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
        let tile = Heads::of(&self.model.shape).tokens();
        for same in batch.chunk_by(|a, b| a.sequence == b.sequence) {
            let (run, n) = (runs.len(), same.len());
            let held = &mut self.sequences[same[0].sequence];
            assert!(same[0].position == held.n && held.n + n <= self.limits.n_positions, "tokens in order");
            self.pool.extend(&mut held.pages, held.n, held.n + n);
            let pages = starts(&mut held.pages, held.n);
            runs.push(Run { row: rows.len(), position: held.n, n, pages });
            rows.extend(same.iter().map(|entry| Row { token: entry.token.0 as usize, position: entry.position, run }));
            pieces.extend((0..n).step_by(tile).map(|first| (run, first)));
            held.n += n;
        }
        assert!(rows.iter().all(|row| row.token < self.model.shape.vocab_size), "a token that there is");
        let wanted: Vec<usize> = (0..batch.len()).filter(|&at| batch[at].gives_logits).collect();
        assert!(wanted.len() <= self.limits.n_wanted, "{} rows of logits", wanted.len());
        self.rows = wanted.iter().enumerate().map(|(row, at)| (*at, row)).collect();
        let pass = Pass {
            model: &self.model,
            adapter: self.adapter.as_deref(),
            layout: self.layout,
            runs: &runs,
            rows: &rows,
            pieces: &pieces,
            wanted: &wanted,
            buffers: self.buffers.open(),
            scratch: &self.scratch,
        };
        self.team.run(alone, &|member| pass.run(member));
    }

    /// Logits after token `at` of the last batch, one for each token of the vocabulary.
    ///
    /// # Panics
    /// When they were not asked for.
    pub(crate) fn logits(&self, at: usize) -> &[f32] {
        self.buffers.logits.row(self.rows[&at], self.model.shape.vocab_size)
    }

    /// Makes a sequence hold the first `n` tokens of another one.
    pub(crate) fn copy(&mut self, from: usize, into: usize, n: usize) {
        self.sequences[into] = self.state(from);
        self.cut(into, n);
    }

    /// Leaves a sequence its first `n` tokens.
    pub(crate) fn cut(&mut self, i: usize, n: usize) {
        let held = &mut self.sequences[i];
        held.n = held.n.min(n);
        held.pages.truncate(held.n.div_ceil(POSITIONS));
    }

    /// Bytes that were planned for it and that it has not taken yet: pages that nobody has held, and all that passes work with,
    /// which is touched as far as they go.
    pub(crate) fn untaken_bytes(&self) -> usize {
        self.pool.untaken_bytes() + self.pass_bytes
    }

    /// What a sequence holds.
    pub(crate) fn state(&self, i: usize) -> State {
        self.sequences[i].clone()
    }

    /// Makes a sequence hold what another one did.
    pub(crate) fn set(&mut self, i: usize, state: &State) {
        self.sequences[i] = state.clone();
    }
}
