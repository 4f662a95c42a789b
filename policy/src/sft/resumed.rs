//! Runs that go on.

use crate::{
    model_error::{ModelError, Result},
    optimizer::{AdamState, AdamW},
};

/// Where a run was left that is gone on with. The weights are back in the model already.
#[derive(Debug)]
pub struct Resumed {
    /// Steps done.
    pub step: usize,
    /// The optimiser's state after them.
    pub adam: AdamState,
}

impl Resumed {
    /// Puts the optimiser's state back and returns the steps done; of a run that begins, none.
    ///
    /// # Errors
    /// When the state is of other parameters, or of a longer run.
    pub fn begin(this: Option<Resumed>, adam: &mut AdamW, n_steps: usize) -> Result<usize> {
        let Some(Resumed { step, adam: state }) = this else { return Ok(0) };
        if step > n_steps {
            return Err(ModelError::OptimizerState(format!("it is after step {step} of a run of {n_steps}")));
        }
        adam.restore(state)?;
        Ok(step)
    }
}
