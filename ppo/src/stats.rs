//! Numbers about learning, as plain atomics and snapshots. The daemon gives them names and exports them; nothing here waits.

mod histogram;
mod log;

pub use histogram::{Histogram, HistogramSnapshot};
pub use log::{DropCounters, LogCounters, LogCountersSnapshot};
