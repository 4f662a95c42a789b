//! What each chunk of a stream tells of token counts.

use policy::TokenId;

use super::{
    answer::Piece,
    wire::{sampling::StreamUsage, usage::Usage},
};

/// Nothing, null, or vLLM's counts so far: those of the chunk's choice and of the prompt that it answers.
pub(crate) enum ChunkUsage {
    /// Usage was not asked for.
    Absent,
    /// It comes in a chunk of its own at the end.
    Null,
    /// It comes there, and in every chunk before.
    SoFar {
        /// Tokens of each prompt.
        prompts: Vec<u64>,
        /// Tokens drawn, by choice.
        drawn: Vec<u64>,
    },
}

impl ChunkUsage {
    /// For a request of these prompts with `n` choices each.
    pub(crate) fn new(asked: StreamUsage, prompts: &[Vec<TokenId>], n: u32) -> ChunkUsage {
        match asked {
            StreamUsage::Untold => ChunkUsage::Absent,
            StreamUsage::Last => ChunkUsage::Null,
            StreamUsage::EveryChunk => ChunkUsage::SoFar {
                prompts: prompts.iter().map(|prompt| prompt.len() as u64).collect(),
                drawn: vec![0; prompts.len() * n as usize],
            },
        }
    }

    /// Counts a piece, whether it is told or not.
    pub(crate) fn count(&mut self, piece: &Piece) {
        if let ChunkUsage::SoFar { drawn, .. } = self {
            drawn[piece.choice as usize] += u64::from(piece.n_tokens);
        }
    }

    /// The `usage` of a chunk of this choice.
    pub(crate) fn of(&self, choice: u32) -> Option<Option<Usage>> {
        match self {
            ChunkUsage::Absent => None,
            ChunkUsage::Null => Some(None),
            ChunkUsage::SoFar { prompts, drawn } => {
                let n = drawn.len() / prompts.len();
                let choice = choice as usize;
                Some(Some(Usage::so_far(prompts[choice / n], drawn[choice])))
            }
        }
    }

    /// Whether a chunk at the end tells all counts.
    pub(crate) fn is_told_at_the_end(&self) -> bool {
        !matches!(self, ChunkUsage::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the counts of a chunk are its choice's, what was held back included. Method: two prompts of two choices, pieces that
    /// say nothing among them.
    #[test]
    fn every_chunk_tells_its_own_choice_and_prompt() {
        let prompts = [vec![TokenId(1); 3], vec![TokenId(1); 5]];
        let mut usage = ChunkUsage::new(StreamUsage::EveryChunk, &prompts, 2);
        let piece = |choice, n_tokens| Piece { choice, n_tokens, ..Piece::default() };
        [piece(1, 1), piece(2, 1), piece(2, 1), piece(2, 0)].iter().for_each(|piece| usage.count(piece));
        let told = [0, 1, 2, 3].map(|choice| {
            let usage = usage.of(choice).flatten().expect("counts");
            [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]
        });
        assert_eq!(told, [[3, 0, 3], [3, 1, 4], [5, 2, 7], [5, 0, 5]]);
        assert_eq!(ChunkUsage::new(StreamUsage::Untold, &prompts, 2).of(3), None);
        assert_eq!(ChunkUsage::new(StreamUsage::Last, &prompts, 2).of(3), Some(None));
    }
}
