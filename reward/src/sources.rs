//! Where scores come from, and who decides which of them is asked.
//!
//! There are two machine sources, which the scorer asks in batches: the reward [`model`] in this process and a [`remote`]
//! reward server. [`feedback`] is what people said, which the rollout log holds; it is never asked, only waited for. The
//! [`mix`] turns the configured source and what is known about one rollout into a [`Formula`], a weighted sum over these.

pub mod feedback;
pub mod mix;
pub mod model;
pub mod remote;

pub use feedback::{Label, Opinion};
pub use mix::{Formula, Rules, Ruling, model_of};
pub use model::NamedJudge;
