//! Numbers about learning, as plain atomics and snapshots. The daemon gives them names and exports them; nothing here waits.

mod histogram;
mod learner;
mod log;
mod round;
mod scoring;

pub use histogram::{Histogram, HistogramSnapshot};
pub use learner::{LearnerCounters, LearnerCountersSnapshot, UpdateOutcome, UpdateRecord};
pub use log::{DropCounters, LogCounters, LogCountersSnapshot};
pub use round::named;
pub use scoring::ScoringCounters;
