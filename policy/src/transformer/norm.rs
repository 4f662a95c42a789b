//! Root-mean-square norm with a trained gain.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use super::{Pass, Weight};
use crate::{architecture::Shape, kernels, model_error::Result};

pub(super) struct RmsNorm {
    gain: Weight,
    eps: f64,
}

impl RmsNorm {
    pub(super) fn new(parameters: &BTreeMap<String, Var>, name: &str, shape: &Shape) -> Result<RmsNorm> {
        Ok(RmsNorm { gain: Weight::named(parameters, name)?, eps: f64::from(shape.norm_eps) })
    }

    /// `[n_tokens, hidden]` to the same.
    pub(super) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        Ok(kernels::rms_norm(x, self.gain.get(pass), self.eps)?)
    }
}
