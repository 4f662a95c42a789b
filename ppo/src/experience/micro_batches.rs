//! Episodes cut into pieces that go through a model together.

use std::ops::ControlFlow;

use policy::{
    architecture::Shape, model_error::ModelError, packing::pack, sequence_batch::SequenceBatch, threads,
    transformer::Keep,
};
use rayon::prelude::*;

use super::Episode;
use crate::{error::PpoError, models::Models};

/// Called between micro-batches: may sleep to leave the processor to serving, and says whether to go on.
pub type Pace<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// Bytes of activations that one micro-batch may keep when `ppo.micro_batch_tokens` is 0.
const ACTIVATION_BYTES: usize = 512 << 20;
/// The fewest and the most tokens that follow from it: fewer leave matrix products too thin, more gain nothing.
const TOKENS: std::ops::RangeInclusive<usize> = 256..=16_384;

/// How episodes are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Tokens of a piece, prompts included.
    pub(crate) tokens: usize,
    /// Pieces at least: the same on every machine.
    pub(crate) pieces_min: usize,
    /// Pieces that run at once.
    pub(crate) lanes: usize,
}

impl Budget {
    /// For passes with gradients over models of one shape.
    pub(crate) fn of(models: &Models, config: &config::Ppo) -> Budget {
        let shape = models.policy.trunk().shape();
        let (tokens, n_parameters) = (micro_batch_tokens(config, shape), shape.n_parameters());
        let lanes = threads::lanes_of(n_parameters, rayon::current_num_threads());
        Budget { tokens, pieces_min: threads::pieces_min_of(n_parameters), lanes }
    }
}

/// Tokens of one forward and backward pass over a model of this shape, prompts included.
#[must_use]
pub fn micro_batch_tokens(config: &config::Ppo, shape: &Shape) -> usize {
    let keep = if config.activation_checkpointing { Keep::Inputs } else { Keep::All };
    match config.micro_batch_tokens {
        0 => (ACTIVATION_BYTES / keep.bytes_per_token(shape)).clamp(*TOKENS.start(), *TOKENS.end()),
        tokens => tokens,
    }
}

/// Some episodes, cut by a budget of tokens: the gradient does not depend on how (see [`pack`]).
#[derive(Clone, Debug)]
pub(crate) struct MicroBatches {
    pieces: Vec<Vec<usize>>,
    lanes: usize,
}

impl MicroBatches {
    /// `members`: indices into `episodes`.
    pub(crate) fn of(episodes: &[Episode], members: &[usize], budget: Budget) -> MicroBatches {
        let lengths: Vec<usize> = members.iter().map(|&i| episodes[i].sequence.tokens.len()).collect();
        let pieces = pack(&lengths, budget.tokens, budget.pieces_min);
        let pieces = pieces.into_iter().map(|piece| piece.into_iter().map(|i| members[i]).collect());
        MicroBatches { pieces: pieces.collect(), lanes: budget.lanes.max(1) }
    }

    /// All episodes, beginning with the pieces of `first` as [`Self::of`] cuts that alone; returns these that run at once, too.
    pub(crate) fn beginning_with(
        episodes: &[Episode],
        first: &[usize],
        budget: Budget,
    ) -> (MicroBatches, Vec<Vec<usize>>) {
        let MicroBatches { mut pieces, lanes } = MicroBatches::of(episodes, first, budget);
        let beginning = pieces.iter().take(lanes).cloned().collect();
        let rest: Vec<usize> = (0..episodes.len()).filter(|i| !first.contains(i)).collect();
        pieces.extend(MicroBatches::of(episodes, &rest, budget).pieces);
        (MicroBatches { pieces, lanes }, beginning)
    }

    /// The pieces that run at once, wave after wave.
    pub(crate) fn waves(&self) -> impl Iterator<Item = &[Vec<usize>]> {
        self.pieces.chunks(self.lanes)
    }

    /// Computes every piece, a wave at once, and returns the results in order.
    ///
    /// # Errors
    /// The first error of a piece, or [`PpoError::Interrupted`].
    pub(crate) fn map<R: Send>(
        &self,
        pace: Pace<'_>,
        compute: impl Fn(&[usize]) -> Result<R, ModelError> + Sync,
    ) -> Result<Vec<R>, PpoError> {
        let mut results = Vec::new();
        for wave in self.waves() {
            go_on(pace)?;
            let computed: Result<Vec<R>, ModelError> = wave.par_iter().map(|piece| compute(piece)).collect();
            results.extend(computed?);
        }
        Ok(results)
    }

    /// The pieces.
    pub(crate) fn pieces(&self) -> &[Vec<usize>] {
        &self.pieces
    }
}

/// The sequences of some episodes as one batch.
pub(crate) fn batch_of(episodes: &[Episode], members: &[usize]) -> SequenceBatch {
    SequenceBatch::new(members.iter().map(|i| episodes[*i].sequence.clone()).collect())
}

/// Their temperatures.
pub(crate) fn temperatures_of(episodes: &[Episode], members: &[usize]) -> Vec<f32> {
    members.iter().map(|i| episodes[*i].temperature).collect()
}

/// Asks the pace.
pub(crate) fn go_on(pace: Pace<'_>) -> Result<(), PpoError> {
    match pace() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PpoError::Interrupted),
    }
}
