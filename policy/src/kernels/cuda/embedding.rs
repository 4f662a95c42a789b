//! Rows of a table by their indices, and the table's gradient, which many rows may add to at one place.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{
    launch::{Kernel, Launch, Place},
    machine::Machine,
    taped::taped1,
};

/// Places of one index that one thread sums.
const PLACES_A_PIECE: usize = 64;

/// `table[index]` for every index: `table [n, width]`; returns `[indices, width]`.
///
/// # Errors
/// When an index lies outside the table or the device fails.
pub(crate) fn rows(machine: Machine, table: &Tensor, indices: &[u32]) -> Result<Tensor> {
    let (n, width) = table.dims2()?;
    if let Some(index) = indices.iter().find(|&&index| index as usize >= n) {
        bail!("row {index} of a table of {n}");
    }
    let table = table.contiguous()?;
    let (mut value, uploaded) = (machine.room(indices.len() * width)?, machine.upload(indices)?);
    let launch = Launch::new(Kernel::EmbeddingForward, [indices.len(), 1])
        .place(Place::of(&table)?)
        .place(Place::of(&uploaded)?)
        .place(value.place())
        .int(width);
    machine.launch(&launch)?;
    let indices: Arc<[u32]> = indices.into();
    taped1("rows", &table, (value, [indices.len(), width].as_slice()), move |_, g| {
        Pieces::of(&indices).sum(machine, g, (n, width))
    })
}

/// The places of every index, sorted by it, and cut.
#[derive(Debug, Default, PartialEq)]
struct Pieces {
    /// Rows of the result, those of one index after another.
    places: Vec<u32>,
    /// Where each piece begins in `places`, and at the end how many there are.
    starts: Vec<u32>,
    /// Every index that occurs, ascending.
    indices: Vec<u32>,
    /// Where the pieces of each index begin in `starts`, and at the end how many there are.
    first: Vec<u32>,
}

impl Pieces {
    fn of(indices: &[u32]) -> Pieces {
        let mut pieces = Pieces { places: (0..indices.len() as u32).collect(), ..Pieces::default() };
        // Stable: the places of an index are summed in the order of the batch.
        pieces.places.sort_by_key(|&place| indices[place as usize]);
        let mut start = 0;
        for run in pieces.places.chunk_by(|&a, &b| indices[a as usize] == indices[b as usize]) {
            pieces.indices.push(indices[run[0] as usize]);
            pieces.first.push(pieces.starts.len() as u32);
            for piece in run.chunks(PLACES_A_PIECE) {
                pieces.starts.push(start);
                start += piece.len() as u32;
            }
        }
        pieces.first.push(pieces.starts.len() as u32);
        pieces.starts.push(start);
        pieces
    }

    /// d table, `[n, width]`, from the gradient of the rows, `[indices, width]`.
    fn sum(&self, machine: Machine, g: &Tensor, (n, width): (usize, usize)) -> Result<Tensor> {
        let n_pieces = self.starts.len() - 1;
        let columns = width.div_ceil(Kernel::EmbeddingPieces.threads() as usize);
        let (places, starts) = (machine.upload(&self.places)?, machine.upload(&self.starts)?);
        let (mut sums, mut d_table) = (machine.room(n_pieces * width)?, machine.zeros(n * width)?);
        let launch = Launch::new(Kernel::EmbeddingPieces, [n_pieces, columns])
            .place(Place::of(g)?.with_room(self.places.len() * width))
            .place(Place::of(&places)?)
            .place(Place::of(&starts)?)
            .place(sums.place())
            .int(width);
        machine.launch(&launch)?;
        let (indices, first) = (machine.upload(&self.indices)?, machine.upload(&self.first)?);
        let launch = Launch::new(Kernel::EmbeddingRows, [self.indices.len(), columns])
            .place(sums.place())
            .place(Place::of(&indices)?)
            .place(Place::of(&first)?)
            .place(d_table.place())
            .int(width);
        machine.launch(&launch)?;
        Ok(d_table.into_tensor((n, width)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_sorted_by_index_and_long_runs_are_cut() {
        let mut indices = vec![9, 2, 9, 5];
        indices.extend([2; 130]);
        let pieces = Pieces::of(&indices);
        assert_eq!(pieces.indices, [2, 5, 9]);
        assert_eq!(pieces.starts, [0, 64, 128, 131, 132, 134]);
        assert_eq!(pieces.first, [0, 3, 4, 5]);
        assert_eq!(pieces.places[..3], [1, 4, 5]);
        assert_eq!(pieces.places[131..], [3, 0, 2]);
    }
}
