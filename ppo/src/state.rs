//! The learner's state: everything that an update changes. As a fingerprint it says whether two learners are the same bit
//! for bit; as a stream of tensors it lies in a file ([`StateFile`]).
//!
//! An update is a pure function of the state before it and of its record in the log. So a state need not be written at
//! every update, which for a large model would cost as long as the update: a restart reads the newest state that there is,
//! and repeats the updates since ([`crate::replay`]).
//!
//! A state is: the f32 masters of policy and value model, both optimisers' moments and step counts, the numbers of
//! [`Models::control`] (β and whatever else steers), the number of the next update, and the version that it stands at.
//! A file also says the forms of the two models, adapters' alphas among them, which no tensor tells.
//! What is a function of these, of the configuration or of the log (reference, minibatch order, the rise of the value model's
//! rate) is not part of it.

mod file;
mod folder;
mod tensors;

pub use file::{StateFile, StateHead};
pub use folder::StateFolder;
pub(crate) use tensors::Half;
use tensors::{read_half, write_half};

use policy::model_error::ModelError;

use crate::{
    fingerprint::{Fingerprint, Fingerprinter},
    models::Models,
};

/// Of everything that the update of this number starts from. Call it inside the learner's pool.
///
/// # Errors
/// When a tensor cannot be read from its device.
pub fn fingerprint(models: &Models, update: u64) -> Result<Fingerprint, ModelError> {
    let mut taking = Fingerprinter::new();
    taking.word(update);
    for (name, value) in models.control() {
        taking.text(&name);
        taking.word(value.to_bits());
    }
    for half in Half::ALL {
        taking.word(half.optimizer(models).state().step);
        tensors::each(models, half, |key, dims, values| {
            taking.text(key);
            dims.iter().for_each(|n| taking.word(*n as u64));
            taking.floats(values);
            Ok(())
        })?;
    }
    Ok(taking.finish())
}

#[cfg(test)]
mod tests;
