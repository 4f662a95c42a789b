//! Gains and biases in a file's metadata.

use candle_core::quantized::gguf_file::Value;
use policy::checkpoint::Checkpoint;

use super::RewardModelError;
use crate::normalization::Normalization;

/// One for each head, and of a kind that keeps the order of scores.
pub(super) fn check(normalizations: &[Normalization], n_heads: usize) -> Result<(), RewardModelError> {
    if normalizations.len() != n_heads {
        let (expected, got) = (n_heads, normalizations.len());
        return Err(RewardModelError::Normalization(format!("expected one for each of {expected} heads, got {got}")));
    }
    let is_wrong = |map: &&Normalization| !(map.gain.is_finite() && map.gain > 0.0 && map.bias.is_finite());
    match normalizations.iter().find(is_wrong) {
        None => Ok(()),
        Some(Normalization { gain, bias }) => Err(RewardModelError::Normalization(format!("gain {gain}, bias {bias}"))),
    }
}

/// One number as itself, several as a list: files of a single head stay what they were.
pub(super) fn numbers(all: impl Iterator<Item = f64>) -> Value {
    let all: Vec<Value> = all.map(Value::F64).collect();
    match <[Value; 1]>::try_from(all) {
        Ok([one]) => one,
        Err(all) => Value::Array(all),
    }
}

/// What [`numbers`] wrote.
pub(super) fn read_numbers(source: &Checkpoint, key: &str) -> Result<Vec<f64>, RewardModelError> {
    let number = |value: &Value| value.to_f64().map_err(|error| RewardModelError::Normalization(error.to_string()));
    match source.metadata.get(key) {
        Some(Value::Array(all)) => all.iter().map(number).collect(),
        _ => match source.metadata.f64(key) {
            Ok(one) => Ok(vec![one]),
            Err(error) => Err(RewardModelError::Normalization(error.to_string())),
        },
    }
}
