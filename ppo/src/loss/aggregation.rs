//! How the losses of tokens become one number.

use crate::masked;

/// Who weighs how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aggregation {
    /// Every token alike (`lm-human-preferences`, verl, DAPO; ours).
    TokenMean,
    /// Every sequence alike, its tokens summed: the gradient of the sequence objective, with high variance.
    SequenceMeanTokenSum,
    /// Every sequence alike, its tokens averaged (GRPO, arXiv 2402.03300): punishes long bad answers too little.
    SequenceMeanTokenMean,
    /// Sum over tokens, divided by sequences times this constant (Dr. GRPO, arXiv 2503.20783).
    ConstantNorm(f64),
}

impl Aggregation {
    /// The configured one (`ppo.loss_aggregation`).
    ///
    /// # Panics
    /// When the word is none of those that `config` admits.
    #[must_use]
    pub fn of(config: &config::Ppo) -> Aggregation {
        match config.loss_aggregation.as_str() {
            "token-mean" => Aggregation::TokenMean,
            "seq-mean-token-sum" => Aggregation::SequenceMeanTokenSum,
            "seq-mean-token-mean" => Aggregation::SequenceMeanTokenMean,
            "constant" => Aggregation::ConstantNorm(config.loss_length as f64),
            other => panic!("config has checked the words of ppo.loss_aggregation, got {other}"),
        }
    }

    /// The coefficient c_t of every token, such that `loss = Σ_t c_t·l_t`.
    ///
    /// - `mask`: `[n]`, the tokens that count, *before* any off-policy filter: filtering never shrinks a denominator;
    /// - `lengths`: tokens of each sequence, Σ = n. A sequence counts as one even when its mask is empty.
    ///
    /// Make it for a whole minibatch and cut it with the micro-batches: their losses then add up to the minibatch's.
    ///
    /// # Panics
    /// When the lengths do not cover the mask.
    #[must_use]
    pub fn coefficients(self, mask: &[bool], lengths: &[usize]) -> Vec<f64> {
        let n_tokens = masked::count(mask).max(1) as f64;
        let n_sequences = lengths.len().max(1) as f64;
        let mut coefficients = Vec::with_capacity(mask.len());
        for sequence in masked::split(mask, lengths) {
            let divisor = match self {
                Aggregation::TokenMean => n_tokens,
                Aggregation::SequenceMeanTokenSum => n_sequences,
                Aggregation::SequenceMeanTokenMean => n_sequences * masked::count(sequence).max(1) as f64,
                Aggregation::ConstantNorm(length) => n_sequences * length,
            };
            coefficients.extend(sequence.iter().map(|keep| if *keep { 1.0 / divisor } else { 0.0 }));
        }
        coefficients
    }
}

#[cfg(test)]
mod tests {
    use super::Aggregation;

    const MASK: [bool; 5] = [true, true, true, true, false];
    const LENGTHS: [usize; 2] = [1, 4];

    #[test]
    fn means_have_coefficients_that_sum_to_one() {
        for aggregation in [Aggregation::TokenMean, Aggregation::SequenceMeanTokenMean] {
            let sum: f64 = aggregation.coefficients(&MASK, &LENGTHS).iter().sum();
            assert!((sum - 1.0).abs() < 1e-12, "{aggregation:?}");
        }
    }

    #[test]
    fn the_mean_of_means_weighs_short_sequences_more() {
        let per_sequence = Aggregation::SequenceMeanTokenMean.coefficients(&MASK, &LENGTHS);
        let per_token = Aggregation::TokenMean.coefficients(&MASK, &LENGTHS);
        assert_eq!((per_sequence[0], per_token[0]), (0.5, 0.25));
        assert_eq!(per_sequence[4], 0.0);
    }
}
