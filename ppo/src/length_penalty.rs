//! What an answer pays for its length.
//!
//! Reward models like long answers more than people do, and much of what PPO gains from them is length alone (arXiv 2310.03716).
//! Tokens beyond those that are free therefore cost something.
//!
//! It comes off the score after everything else. Before the clip it would cost the longest answers, at −c already, nothing more.
//! And after the missing-EOS rule, because that says what a text without an end is worth and not what its tokens cost: were a
//! replaced score spared, then among long answers those would fare best that never end.
//!
//! Whoever compares rewards of versions (gate, canary, watch) compares them less the same cost: a version that does what it is
//! paid for, and shortens answers that a judge likes long, would otherwise be refused for it.

/// λ and T₀.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthPenalty {
    /// λ, score units a token, above 0.
    per_token: f64,
    /// T₀, tokens that cost nothing.
    n_free: usize,
}

impl LengthPenalty {
    /// The configured one; `None` where length costs nothing.
    #[must_use]
    pub fn of(config: &config::Ppo) -> Option<LengthPenalty> {
        let penalty = LengthPenalty { per_token: config.length_penalty, n_free: config.length_free };
        Some(penalty).filter(|penalty| penalty.per_token > 0.0)
    }

    /// λ·max(0, T − T₀), score units.
    ///
    /// - `n_tokens`: T, response tokens, the end token among them.
    #[must_use]
    pub fn cost(&self, n_tokens: usize) -> f64 {
        self.per_token * n_tokens.saturating_sub(self.n_free) as f64
    }
}

/// [`LengthPenalty::cost`], 0 where there is no penalty.
#[must_use]
pub fn cost_of(penalty: Option<LengthPenalty>, n_tokens: usize) -> f64 {
    penalty.map_or(0.0, |penalty| penalty.cost(n_tokens))
}

#[cfg(test)]
mod tests {
    use super::{LengthPenalty, cost_of};

    #[test]
    fn only_tokens_beyond_the_free_ones_cost() {
        let config = config::Config::default().ppo;
        assert_eq!(LengthPenalty::of(&config), None, "by default length costs nothing");
        assert_eq!(cost_of(None, 1000), 0.0);
        let penalty =
            |length_free| LengthPenalty::of(&config::Ppo { length_penalty: 0.25, length_free, ..config.clone() });
        let costs = |length_free| [0, 1, 4, 5, 9].map(|n_tokens| cost_of(penalty(length_free), n_tokens));
        assert_eq!(costs(4), [0.0, 0.0, 0.0, 0.25, 1.25]);
        assert_eq!(costs(0), [0.0, 0.25, 1.0, 1.25, 2.25]);
    }
}
