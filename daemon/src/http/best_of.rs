//! `best_of`: more choices are drawn than told, and the best are told, best first.
//!
//! The best are those with the highest mean log-probability per token (OpenAI's rule), at temperature 1 over the full
//! vocabulary. What is not told was drawn like the rest, so it is logged like the rest, under the numbers after those of the
//! told: to train on the told alone would teach the policy that what it finds likely is what people want.

use super::{answer::Piece, deposit::Deposit};

/// How many choices of each prompt are drawn, and how many told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BestOf {
    /// Told, at least 1.
    pub(crate) n: u32,
    /// Drawn, at least as many.
    pub(crate) n_drawn: u32,
}

impl BestOf {
    /// The pieces that are told, renumbered; `pieces[i]` is choice `i` of all that were drawn, prompt by prompt. The
    /// exchanges in the deposit are renumbered with them.
    pub(crate) fn choose(self, mut pieces: Vec<Piece>, deposit: &mut Deposit) -> Vec<Piece> {
        if self.n == self.n_drawn {
            return pieces;
        }
        let (numbers, n_told) = self.numbers(&pieces.iter().map(mean_log_prob).collect::<Vec<_>>());
        deposit.renumber(&numbers);
        for (piece, &number) in pieces.iter_mut().zip(&numbers) {
            piece.choice = number;
        }
        pieces.retain(|piece| piece.choice < n_told);
        pieces.sort_by_key(|piece| piece.choice);
        pieces
    }

    /// The number of each drawn choice, and how many of them are told: these come first.
    fn numbers(self, means: &[f64]) -> (Vec<u32>, u32) {
        let (n, n_drawn) = (self.n as usize, self.n_drawn as usize);
        let n_told = means.len() / n_drawn * n;
        let mut numbers = vec![0; means.len()];
        let mut n_numbered = n_told;
        for (prompt, means) in means.chunks(n_drawn).enumerate() {
            let mut order: Vec<usize> = (0..means.len()).collect();
            order.sort_by(|&a, &b| means[b].total_cmp(&means[a]).then(a.cmp(&b)));
            for (place, choice) in order.into_iter().enumerate() {
                let number = if place < n { prompt * n + place } else { n_numbered };
                n_numbered += usize::from(place >= n);
                numbers[prompt * n_drawn + choice] = number as u32;
            }
        }
        (numbers, n_told as u32)
    }
}

/// Nats per token; of an empty choice minus infinity.
fn mean_log_prob(piece: &Piece) -> f64 {
    if piece.n_tokens == 0 { f64::NEG_INFINITY } else { piece.log_prob_sum / f64::from(piece.n_tokens) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_each_prompt_come_first_and_every_choice_has_a_number() {
        let best_of = BestOf { n: 2, n_drawn: 3 };
        let (numbers, n_told) = best_of.numbers(&[-3.0, -1.0, -2.0, f64::NEG_INFINITY, -5.0, -5.0]);
        assert_eq!((numbers, n_told), (vec![4, 0, 1, 5, 2, 3], 4));
    }

    #[test]
    fn the_told_are_renumbered_in_order() {
        let piece = |choice, log_prob_sum| Piece { choice, log_prob_sum, n_tokens: 2, ..Piece::default() };
        let pieces = vec![piece(0, -8.0), piece(1, -2.0), piece(2, -4.0)];
        let told = BestOf { n: 1, n_drawn: 3 }.choose(pieces, &mut Deposit::nothing());
        assert_eq!(told.iter().map(|piece| (piece.choice, piece.log_prob_sum)).collect::<Vec<_>>(), [(0, -2.0)]);
    }
}
