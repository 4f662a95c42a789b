//! What an engine and a judge take beside what trains.

use std::path::Path;

use policy::{
    architecture::Shape,
    checkpoint::{metadata_of_file, shape_of_file},
    transformer::is_adapter,
};

use super::error::{Result, TrainError};

/// The shape of a reward model; of an adapter, that of the policy, which it is beside.
pub(super) fn judge_shape(path: &Path, policy: &Shape) -> Result<Shape> {
    match is_adapter(&metadata_of_file(path).map_err(TrainError::base(path))?) {
        true => Ok(policy.clone()),
        false => shape_of_file(path).map_err(TrainError::base(path)),
    }
}

/// Bytes of one version's cache of keys and values, in 16 bits.
pub(super) fn cache_bytes(shape: &Shape, config: &config::Policy) -> u64 {
    let window = if config.context_tokens == 0 { shape.context } else { config.context_tokens as usize };
    let per_token = 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * 2;
    ((config.parallel * window + config.prefix_cache_tokens) * per_token) as u64
}
