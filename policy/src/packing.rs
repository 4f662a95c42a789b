//! Packing sequences into micro-batches.
//!
//! No pass ever pads, so a micro-batch costs what its tokens cost; what must be balanced is the rest: a forward and
//! backward pass is linear in tokens but for attention, which grows with the square of each length. So pieces hold at most
//! a budget of tokens, which bounds memory, and among those with room the one with the smallest Σ length² takes the next.

/// Cuts `lengths` into pieces: indices, each in exactly one piece, longest first, at most `max_tokens` in a piece unless one
/// alone is longer. At least `lanes` pieces where there are items enough, so that no lane waits for another.
#[must_use]
pub fn pack(lengths: &[usize], max_tokens: usize, lanes: usize) -> Vec<Vec<usize>> {
    let total: usize = lengths.iter().sum();
    let n = total.div_ceil(max_tokens.max(1)).next_multiple_of(lanes.max(1)).clamp(1, lengths.len().max(1));
    let mut pieces: Vec<Piece> = (0..n).map(|_| Piece::default()).collect();
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Stable, so that equal lengths keep their order and the cut depends on nothing but the lengths.
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    for i in order {
        let length = lengths[i];
        let has_room = |piece: &&mut Piece| piece.tokens == 0 || piece.tokens + length <= max_tokens;
        match pieces.iter_mut().filter(has_room).min_by_key(|piece| (piece.squares, piece.tokens)) {
            Some(piece) => piece.take(i, length),
            None => {
                let mut piece = Piece::default();
                piece.take(i, length);
                pieces.push(piece);
            }
        }
    }
    pieces.into_iter().map(|piece| piece.members).filter(|members| !members.is_empty()).collect()
}

#[derive(Default)]
struct Piece {
    tokens: usize,
    squares: usize,
    members: Vec<usize>,
}

impl Piece {
    fn take(&mut self, i: usize, length: usize) {
        self.tokens += length;
        self.squares += length * length;
        self.members.push(i);
    }
}

#[cfg(test)]
mod tests {
    use super::pack;

    fn lengths() -> Vec<usize> {
        (0..97).map(|i| 1 + (i * 37) % 61).collect()
    }

    #[test]
    fn every_sequence_is_in_one_piece_and_no_piece_is_over_budget() {
        let lengths = lengths();
        for (max_tokens, lanes) in [(64, 1), (200, 2), (1000, 4), (1 << 20, 3), (1, 1)] {
            let pieces = pack(&lengths, max_tokens, lanes);
            let mut seen: Vec<usize> = pieces.concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..97).collect::<Vec<_>>());
            for piece in &pieces {
                let tokens: usize = piece.iter().map(|&i| lengths[i]).sum();
                assert!(tokens <= max_tokens || piece.len() == 1, "{tokens} tokens in a piece of {max_tokens}");
            }
            assert!(pieces.len() >= lanes);
        }
    }

    #[test]
    fn lanes_get_equal_work() {
        let lengths = lengths();
        let squares = |piece: &Vec<usize>| piece.iter().map(|&i| lengths[i] * lengths[i]).sum::<usize>();
        let work: Vec<usize> = pack(&lengths, 1 << 20, 4).iter().map(squares).collect();
        let (least, most) = (work.iter().min().unwrap(), work.iter().max().unwrap());
        assert!(most - least < most / 10, "{work:?}");
    }

    #[test]
    fn nothing_gives_nothing() {
        assert!(pack(&[], 100, 2).is_empty());
    }
}
