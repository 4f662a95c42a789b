//! A weight that is no number, for tests of what becomes of it: where failpoint `update.weights` is armed with an error.
//!
//! Guard rails leave steps out whose loss or gradient is not finite, so no data brings such a weight about; a fault of memory, or of
//! ours, could. What has to stand against it is the gate.

use policy::failpoint;

use crate::{error::PpoError, models::Models};

/// Spoils one tensor of the policy if a test asks for it.
pub(super) fn spoil_if_armed(models: &Models) -> Result<(), PpoError> {
    if failpoint::reached("update.weights").is_ok() {
        return Ok(());
    }
    let last = models.policy.parameters().values().next_back();
    let last = last.expect("a policy has parameters");
    last.set(&last.as_detached_tensor().affine(f64::NAN, 0.0)?)?;
    Ok(())
}
