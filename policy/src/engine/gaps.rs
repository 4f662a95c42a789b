//! Gaps between the sequences that are computed.
//!
//! llama.cpp computes neighbouring sequences together; over a gap it begins anew and reads all weights once more. Newcomers take
//! the lowest free slot and so close gaps, but where nobody comes, what is left of a crowd would be computed in pieces: then a
//! sequence moves. That copies its whole buffer, so a gap is left open until it has cost as much.

use std::time::Duration;

use crate::engine::{stats::add, worker::Worker};

/// How long a gap stays open at least: a client that asks again at once closes it for nothing.
const PATIENCE: Duration = Duration::from_millis(20);

/// What gaps have cost since the last move.
pub(super) struct Gaps {
    /// Reads of all weights.
    n_reads: usize,
    /// How many a move takes.
    n_reads_max: usize,
    /// Time of the passes in pieces.
    open_for: Duration,
}

impl Gaps {
    /// For a model whose weights could be read `reads_of_a_move` times while a sequence moves.
    pub(super) fn new(reads_of_a_move: usize) -> Gaps {
        Gaps { n_reads: 0, n_reads_max: reads_of_a_move, open_for: Duration::ZERO }
    }

    /// Notes a pass over these slots, after one that took so long; which one should move before it, and where to: the last that
    /// can into the first gap.
    fn note(&mut self, is_busy: &[bool], can_move: &[bool], last_pass: Duration) -> Option<(usize, usize)> {
        let n_pieces = is_busy.chunk_by(|a, b| a == b).filter(|piece| piece[0]).count();
        if n_pieces < 2 {
            (self.n_reads, self.open_for) = (0, Duration::ZERO);
            return None;
        }
        self.n_reads += n_pieces - 1;
        self.open_for += last_pass;
        if self.n_reads < self.n_reads_max || self.open_for < PATIENCE {
            return None;
        }
        let first = is_busy.iter().position(|busy| *busy)?;
        let gap = first + is_busy[first..].iter().position(|busy| !*busy)?;
        let last = can_move.iter().rposition(|can| *can).filter(|last| *last > gap)?;
        (self.n_reads, self.open_for) = (0, Duration::ZERO);
        Some((last, gap))
    }
}

impl Worker<'_> {
    /// Before a pass: moves a sequence where gaps have cost as much as that.
    pub(super) fn close_gaps(&mut self) {
        // Alone in its passes, no sequence has neighbours; and for the decoder a gap is none.
        if self.isolates || !self.cells.compute.has_places() {
            return;
        }
        let is_busy: Vec<bool> = self.slots.iter().map(|slot| slot.work.is_some()).collect();
        let can_move: Vec<bool> = (0..self.slots.len()).map(|i| self.token_to_decode(i).is_some()).collect();
        if let Some((from, into)) = self.gaps.note(&is_busy, &can_move, self.last_pass) {
            self.move_to(from, into);
        }
    }

    /// A sequence that decodes goes on in a free slot. What it held stays in its old one too, for prompts that begin alike.
    fn move_to(&mut self, from: usize, into: usize) {
        let n = self.cells.held(from).len();
        self.put_away(into, 0);
        if self.cells.take(into, from, n) == n {
            self.slots[into] = std::mem::take(&mut self.slots[from]);
            add(&self.counters.engine.moves, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass over slots as in this picture: an `x` decodes, an `S` is scored and stays.
    fn pass(gaps: &mut Gaps, slots: &str, last_pass: Duration) -> Option<(usize, usize)> {
        let is = |kind: &str| slots.chars().map(|slot| kind.contains(slot)).collect::<Vec<_>>();
        gaps.note(&is("xS"), &is("x"), last_pass)
    }

    /// Goal: nothing moves before it pays, what stands together never, and what cannot move holds up nobody else. Method: passes
    /// over pictures of slots.
    #[test]
    fn the_last_moves_into_the_first_gap_once_gaps_have_cost_as_much() {
        let mut gaps = Gaps::new(5);
        for together in ["", "....", "xxxx", ".xS.", "x..."] {
            assert!((0..20).all(|_| pass(&mut gaps, together, PATIENCE).is_none()), "{together}");
        }
        let mut passes = |slots: &str, n: usize| (0..n).map(|_| pass(&mut gaps, slots, PATIENCE)).collect::<Vec<_>>();
        assert_eq!(passes(".x.x.x..", 6), [None, None, Some((5, 2)), None, None, Some((5, 2))]);
        passes("x.x", 1);
        passes("xxx", 1);
        assert_eq!(passes("x..x", 5), [None, None, None, None, Some((3, 1))], "a gap that was closed is forgotten");
        assert_eq!(passes("x.x.S", 3), [None, None, Some((2, 1))]);
        assert_eq!(passes("xx.S", 9), [None; 9]);
    }

    /// Method: passes of a quarter of what is waited for a client, before a move that costs nothing.
    #[test]
    fn a_client_that_asks_again_is_waited_for() {
        let mut gaps = Gaps::new(0);
        let moves: Vec<_> = (0..4).map(|_| pass(&mut gaps, "x.x", PATIENCE / 4).is_some()).collect();
        assert_eq!(moves, [false, false, false, true]);
    }
}
