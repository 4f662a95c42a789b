//! A file of prompts: what `honed train ppo` answers and what the gate asks.

use std::path::Path;

use policy::{TokenId, Vocabulary};

use super::{
    dataset::read,
    encode::Encoder,
    error::{Result, TrainError},
};
use crate::http::wire::dataset::Record;

/// The prompts of a file that have at most `room` tokens, and a line that says how many were too long.
///
/// # Errors
/// When the file cannot be read, a line is none, or no prompt is left.
pub(crate) fn prompts(path: &Path, vocabulary: &Vocabulary, room: usize) -> Result<(Vec<Vec<TokenId>>, String)> {
    let mut encoder = Encoder::new(vocabulary, path, room);
    let mut prompts = Vec::new();
    for line in read(path, Record::prompt)? {
        prompts.extend(encoder.prompt(line.number, &line.record.content)?);
    }
    let tally = encoder.tally.line(path);
    match prompts.is_empty() {
        true => {
            let reason = format!("no prompt is left (of fewer than {room} tokens)");
            Err(TrainError::Data { path: path.to_owned(), reason })
        }
        false => Ok((prompts, tally)),
    }
}
