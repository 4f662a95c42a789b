//! Generalised advantage estimation.
//!
//! How much better was a token than the value model expected? Counting every later reward is unbiased and noisy (λ = 1);
//! trusting the value of the next token is quiet and as wrong as the value model (λ = 0). GAE weighs all horizons
//! between them geometrically.

/// Advantages of one response, and what the value model should have said.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// A_t, `[response_len]`, in score units; not whitened.
    pub advantages: Vec<f64>,
    /// R_t = A_t + V_t, `[response_len]`: the TD(λ) target of the value model.
    pub returns: Vec<f64>,
}

/// γ and λ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaeOptions {
    /// Discount per token. `[0, 1]`
    pub gamma: f64,
    /// Weight of longer horizons. `[0, 1]`
    pub lambda: f64,
}

/// Advantages and returns of one response.
///
/// `δ_t = r_t + γ·V_{t+1} − V_t; A_t = δ_t + γλ·A_{t+1}; R_t = A_t + V_t`, with `V_T = bootstrap, A_T = 0`.
/// Source: Schulman et al. (arXiv 1506.02438) equation 16; returns as in `lm-human-preferences` `train_policy.py`.
/// - `rewards`: `[response_len]`, f64, from [`token_rewards`](crate::token_rewards::token_rewards);
/// - `values`: `[response_len]`, f64, V_t is the value *before* response token t;
/// - `mask`: `[response_len]`, true on response tokens;
/// - `bootstrap`: value after the last token: 0 when the response ended, else what the value model says there.
///
/// Returns A and R for the same t, 0 where the mask is false: neither values nor rewards leak out of masked places.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn gae(rewards: &[f64], values: &[f64], mask: &[bool], bootstrap: f64, options: GaeOptions) -> Advantages {
    assert_eq!((rewards.len(), values.len()), (mask.len(), mask.len()), "one mask entry per token");
    let (mut next_value, mut next_advantage) = (bootstrap, 0.0);
    let mut result = Advantages { advantages: vec![0.0; mask.len()], returns: vec![0.0; mask.len()] };
    for t in (0..mask.len()).rev().filter(|t| mask[*t]) {
        let delta = rewards[t] + options.gamma * next_value - values[t];
        next_advantage = delta + options.gamma * options.lambda * next_advantage;
        next_value = values[t];
        result.advantages[t] = next_advantage;
        result.returns[t] = next_advantage + values[t];
    }
    result
}

#[cfg(test)]
mod tests {
    use super::{GaeOptions, gae};

    const REWARDS: [f64; 4] = [0.1, -0.4, 0.0, 2.0];
    const VALUES: [f64; 4] = [0.5, 0.3, 1.0, -0.7];

    #[test]
    fn lambda_one_is_monte_carlo() {
        let got = gae(&REWARDS, &VALUES, &[true; 4], 0.0, GaeOptions { gamma: 1.0, lambda: 1.0 });
        for t in 0..4 {
            let to_go: f64 = REWARDS[t..].iter().sum();
            assert!((got.returns[t] - to_go).abs() < 1e-12, "the return is the reward to go");
            assert!((got.advantages[t] - (to_go - VALUES[t])).abs() < 1e-12);
        }
    }

    #[test]
    fn lambda_zero_is_one_step() {
        let got = gae(&REWARDS, &VALUES, &[true; 4], 0.0, GaeOptions { gamma: 0.9, lambda: 0.0 });
        assert!((got.advantages[0] - (0.1 + 0.9 * 0.3 - 0.5)).abs() < 1e-12);
        assert!((got.advantages[3] - (2.0 + 0.7)).abs() < 1e-12);
    }

    #[test]
    fn what_the_mask_hides_leaks_into_nothing() {
        let options = GaeOptions { gamma: 1.0, lambda: 0.95 };
        let short = gae(&REWARDS[..2], &VALUES[..2], &[true; 2], 0.0, options);
        let padded =
            gae(&[0.1, -0.4, 9.0, f64::NAN], &[0.5, 0.3, f64::NAN, 9.0], &[true, true, false, false], 0.0, options);
        assert_eq!(short.advantages, padded.advantages[..2]);
        assert_eq!(padded.returns[2..], [0.0, 0.0]);
    }

    #[test]
    fn a_perfect_value_model_leaves_no_advantage() {
        let rewards = [0.0, 0.0, 1.5];
        let got = gae(&rewards, &[1.5; 3], &[true; 3], 0.0, GaeOptions { gamma: 1.0, lambda: 0.95 });
        assert!(got.advantages.iter().all(|a| a.abs() < 1e-12));
    }
}
