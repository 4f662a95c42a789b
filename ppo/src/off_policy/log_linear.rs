//! ℓ_old without a forward pass.
//!
//! Decoupled PPO reads every rollout once before the first step, only to know what the policy said before it. AReaL spares that
//! pass: log-probs are taken to move evenly from one publication to the next, so that what the policy said at the start of the
//! round lies between what the version that drew a token said, which is recorded, and what the weights under gradient say, which
//! each minibatch computes anyway. A token of the very version that the round began with needs no guess: the record is its ℓ_old.
//!
//! All of this holds as far as engine and trainer say the same. Where they do not, the gap passes for learning: neither the ratio
//! nor the weight can tell the two apart.

use super::{ImportanceMode, ImportanceWeights, importance_weights};

/// Tokens whose ℓ_old nobody has computed; every slice is `[n]`, flat.
#[derive(Clone, Copy, Debug)]
pub struct LogLinear<'a> {
    /// Log of the probability with which each was really drawn, nats.
    pub behavior: &'a [f64],
    /// What the version that drew it gave it, nats: behavior, with the mass put back that truncation kept.
    pub drawn: &'a [f64],
    /// Publications from that version to the one that the round began with.
    pub staleness: &'a [u64],
}

impl LogLinear<'_> {
    /// Whether the knob asks for it (`ppo.proximal`).
    #[must_use]
    pub fn is_asked(config: &config::Ppo) -> bool {
        config.proximal == "log_linear"
    }

    /// ℓ_old, as good as it is known.
    ///
    /// `ℓ_old ≈ ℓ_drawn + α·(ℓ − ℓ_drawn), α = (v_old − v_drawn)/(v − v_drawn) = s/(s + 1)`: v, the version under gradient, is one
    /// after v_old; s is the staleness.
    /// Source: AReaL `docs/en/algorithms/prox_approx.md` (`prox_logp_method = "loglinear"`).
    /// - `current`: ℓ of the weights under gradient, `[n]`, f64, nats, at the temperature of each sample.
    ///
    /// Returns `[n]`, nats; gradients stop at it. Differs from the source in that it begins at what the version said, not at the
    /// probability of the draw: of a truncated draw that is another policy's.
    ///
    /// # Panics
    /// When the lengths differ.
    #[must_use]
    pub fn proximal(&self, current: &[f64]) -> Vec<f64> {
        let n = current.len();
        assert_eq!((self.drawn.len(), self.staleness.len()), (n, n), "one log-prob and one staleness per token");
        let steps = self.drawn.iter().zip(current).zip(self.staleness);
        steps
            .map(|((drawn, current), staleness)| {
                let publications = *staleness as f64;
                drawn + publications / (publications + 1.0) * (current - drawn)
            })
            .collect()
    }

    /// w = f(exp(ℓ_old − ℓ_behavior)) of tokens whose ℓ_old is `proximal`: [`importance_weights`], f by `mode`.
    ///
    /// # Panics
    /// When the lengths differ, or the mode asks for a whole sequence: these may be any part of one.
    #[must_use]
    pub fn weights(&self, proximal: &[f64], mask: &[bool], mode: ImportanceMode) -> ImportanceWeights {
        assert!(mode.is_of_tokens(), "config has refused {mode:?} beside ppo.proximal = \"log_linear\"");
        importance_weights(proximal, self.behavior, mask, &[mask.len()], mode)
    }
}

#[cfg(test)]
mod tests {
    use super::{ImportanceMode, LogLinear};

    const MASK: [bool; 4] = [true; 4];

    /// By hand: a gain of 0.6 nats since the draw, by a token of the version that the round began with, and by others one, two and
    /// five versions older: 0, 1/2, 2/3 and 5/6 of the way.
    #[test]
    fn the_older_a_token_the_more_of_the_way_was_gone_before_the_round() {
        let tokens = LogLinear { behavior: &[-1.0; 4], drawn: &[-1.0; 4], staleness: &[0, 1, 2, 5] };
        let proximal = tokens.proximal(&[-0.4; 4]);
        let expected = [-1.0, -0.7, -0.6, -0.5];
        assert!(proximal.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-12), "{proximal:?}");
        let whole = tokens.weights(&proximal, &MASK, ImportanceMode::TokenTruncate { cap: 10.0 });
        let ratios = [1.0, 0.3_f64.exp(), 0.4_f64.exp(), 0.5_f64.exp()];
        assert!(whole.weights.iter().zip(ratios).all(|(got, expected)| (got - expected).abs() < 1e-12), "{whole:?}");
        let masked = tokens.weights(&proximal, &MASK, ImportanceMode::TokenMask { floor: 0.5, cap: 1.4 });
        assert_eq!(masked.kept, [true, true, false, false]);
        assert_eq!(tokens.weights(&proximal, &MASK, ImportanceMode::Off).weights, [1.0; 4]);
    }

    /// Goal: a truncated draw weighs what truncation kept, whoever computes ℓ_old. Method: nine tenths of the mass kept, by the version
    /// that the round began with: its own log-prob is the centre, and 0.9 the weight.
    #[test]
    fn what_truncation_cut_is_no_distance() {
        let behavior = [-1.0 - 0.9_f64.ln()];
        let tokens = LogLinear { behavior: &behavior, drawn: &[-1.0], staleness: &[0] };
        let proximal = tokens.proximal(&[-1.0]);
        assert_eq!(proximal, [-1.0]);
        let got = tokens.weights(&proximal, &[true], ImportanceMode::TokenTruncate { cap: 2.0 });
        assert!((got.weights[0] - 0.9).abs() < 1e-12);
    }

    #[test]
    #[should_panic(expected = "config has refused")]
    fn a_part_of_a_sequence_has_no_weight_of_a_sequence() {
        let tokens = LogLinear { behavior: &[-1.0], drawn: &[-1.0], staleness: &[1] };
        let _ = tokens.weights(&[-1.0], &[true], ImportanceMode::SequenceTruncate { cap: 2.0 });
    }
}
