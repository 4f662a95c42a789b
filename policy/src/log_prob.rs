//! Log-probabilities.

/// A natural-log probability of one token, in nats: at most 0, and finite for every token that was really drawn.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct LogProb(pub f32);
