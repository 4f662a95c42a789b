//! Computing updates again: so a restart comes back to where the last process was, and so anybody can check an update.
//!
//! ```text
//! nearest state before ─► update ─► update ─► … ─► the state wanted
//!    file, or a fresh start  └──────── each from its record: rollouts, scores, configuration, lineage
//! ```
//!
//! An update is a pure function of the state before it and its record ([`crate::rollout_log::UpdateRow`]). The state that
//! each leaves is compared with the fingerprint that was recorded; the first that differs ends the replay with an error, for
//! everything behind it would be another history.

mod archive;
mod comparison;
mod error;
mod repeat;
mod run;

pub use archive::Archive;
pub(crate) use archive::scored;
pub use comparison::{Comparison, rebuild};
pub use error::ReplayError;
pub(crate) use run::{Reached, Replay};
