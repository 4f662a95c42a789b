//! Learning from what another policy drew.
//!
//! Three policies take part (Hilton et al., arXiv 2110.00641). *behavior* drew the tokens, inside the engine, maybe a
//! version ago; *old* is the trainer at the start of the update, the centre of the trust region; the third is under
//! gradient. The loss uses the ratio to *old* and is weighed with w = f(π_old/π_behavior), a constant. When old is taken to
//! be behavior the weight is 1 and PPO's own clip does the work: never both, that would count the ratio twice.
//!
//! Where nobody has computed old, each minibatch guesses it ([`LogLinear`], `ppo.proximal`).
//!
//! Weights are a correction for small gaps (another engine's arithmetic, one version of lag). The safety device against
//! large ones is the bound in [`staleness`](crate::staleness).

mod log_linear;

pub use log_linear::LogLinear;

use policy::SamplingParams;

use crate::{kl::KlEstimator, loss::ratio, masked};

/// f: what is done with π_old/π_behavior.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ImportanceMode {
    /// w = 1: old is taken to be behavior.
    Off,
    /// min(x, cap) per token: low variance, slightly biased (truncated importance sampling).
    TokenTruncate {
        /// Largest weight.
        cap: f64,
    },
    /// x inside [floor, cap], else 0 (IcePop; AReaL).
    TokenMask {
        /// Smallest ratio that counts.
        floor: f64,
        /// Largest ratio that counts.
        cap: f64,
    },
    /// min(Π x, cap) for the whole sequence: unbiased up to the cap, collapses on long answers.
    SequenceTruncate {
        /// Largest weight.
        cap: f64,
    },
    /// Sequences whose geometric mean ratio lies outside [floor, cap] get 0, tokens of the rest min(x, token_cap): ours.
    GeometricFilter {
        /// Smallest geometric mean that trains.
        floor: f64,
        /// Largest geometric mean that trains.
        cap: f64,
        /// Largest weight of a token.
        token_cap: f64,
    },
}

impl ImportanceMode {
    /// The configured one (`ppo.importance`). "bypass" weighs 1 as "off" does; the centre of its clip is another.
    ///
    /// # Panics
    /// When the word is none of those that `config` admits.
    #[must_use]
    pub fn of(config: &config::Ppo) -> ImportanceMode {
        let cap = config.is_cap;
        match config.importance.as_str() {
            "geometric" => ImportanceMode::GeometricFilter {
                floor: config.is_geo_low,
                cap: config.is_geo_high,
                token_cap: config.is_cap,
            },
            "token_truncate" => ImportanceMode::TokenTruncate { cap },
            "token_mask" => ImportanceMode::TokenMask { floor: config.is_mask_low, cap: config.is_mask_high },
            "sequence_truncate" => ImportanceMode::SequenceTruncate { cap },
            "off" | "bypass" => ImportanceMode::Off,
            other => panic!("config has checked the words of ppo.importance, got {other}"),
        }
    }

    /// Whether what a token weighs depends on that token alone.
    #[must_use]
    pub fn is_of_tokens(self) -> bool {
        use ImportanceMode::{Off, TokenMask, TokenTruncate};
        matches!(self, Off | TokenTruncate { .. } | TokenMask { .. })
    }
}

/// Weights and what they say about the gap between the engine and the trainer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceWeights {
    /// w, `[n]`; 0 where filtered or masked.
    pub weights: Vec<f64>,
    /// Tokens that still train, `[n]`.
    pub kept: Vec<bool>,
    /// (Σw)²/(n·Σw²) over the mask: 1 when all weigh the same, near 0 when few tokens carry the batch.
    pub ess_fraction: f64,
    /// Share of the mask whose weight was cut down to the cap.
    pub truncated_fraction: f64,
    /// Share of the mask that does not train.
    pub filtered_fraction: f64,
    /// Mean |ℓ_old − ℓ_behavior|, nats.
    pub mean_abs_gap: f64,
    /// Mean of ℓ_behavior − ℓ_old: KL(behavior ‖ old), nats, may be negative.
    pub k1: f64,
    /// The same KL, never negative, nats.
    pub k3: f64,
}

/// Importance weights of a batch.
///
/// `w = f(exp(ℓ_old − ℓ_behavior))`, f by `mode`.
/// Source: Hilton et al. (arXiv 2110.00641); AReaL (arXiv 2505.24298) section 5.2; verl `docs/algo/rollout_corr_math.md`.
/// - `old`, `behavior`: `[n]` flat, f64, nats, at the temperature of each sample; behavior is the log of the probability
///   with which the token was really drawn;
/// - `mask`: `[n]`; `lengths`: tokens of each sequence, Σ = n.
///
/// Everything returned is constant in the weights. The denominator of the loss stays the *original* count of tokens.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn importance_weights(
    old: &[f64],
    behavior: &[f64],
    mask: &[bool],
    lengths: &[usize],
    mode: ImportanceMode,
) -> ImportanceWeights {
    let n = mask.len();
    assert_eq!((old.len(), behavior.len()), (n, n), "one mask entry per token");
    let gaps: Vec<f64> = (0..n).map(|t| if mask[t] { old[t] - behavior[t] } else { 0.0 }).collect();
    let mut weights = Vec::with_capacity(n);
    let mut kept = Vec::with_capacity(n);
    let mut n_truncated = 0;
    for (gaps, mask) in masked::split(&gaps, lengths).zip(masked::split(mask, lengths)) {
        for token in sequence_weights(gaps, mask, mode) {
            weights.push(token.weight);
            kept.push(token.is_kept);
            n_truncated += usize::from(token.is_cut);
        }
    }
    let count = masked::count(mask).max(1) as f64;
    ImportanceWeights {
        ess_fraction: ess_fraction(&weights, mask),
        truncated_fraction: n_truncated as f64 / count,
        filtered_fraction: (masked::count(mask) - masked::count(&kept)) as f64 / count,
        mean_abs_gap: masked::kept(&gaps, mask).map(f64::abs).sum::<f64>() / count,
        k1: -masked::mean(&gaps, mask),
        k3: masked::kept(&gaps, mask).map(|d| KlEstimator::K3.value(-d)).sum::<f64>() / count,
        weights,
        kept,
    }
}

/// What one token weighs.
#[derive(Clone, Copy)]
struct TokenWeight {
    weight: f64,
    /// It trains.
    is_kept: bool,
    /// The cap made it lighter: the ratio that it is made of, the token's or the sequence's, is above.
    is_cut: bool,
}

impl TokenWeight {
    const FILTERED: TokenWeight = TokenWeight { weight: 0.0, is_kept: false, is_cut: false };

    fn whole(weight: f64) -> TokenWeight {
        TokenWeight { weight, is_kept: true, is_cut: false }
    }

    fn at_most(cap: f64, ratio: f64) -> TokenWeight {
        TokenWeight { weight: ratio.min(cap), is_kept: true, is_cut: ratio > cap }
    }
}

/// Of every token of one sequence.
fn sequence_weights(gaps: &[f64], mask: &[bool], mode: ImportanceMode) -> Vec<TokenWeight> {
    let sum: f64 = masked::kept(gaps, mask).sum();
    let geometric = ratio(sum / masked::count(mask).max(1) as f64);
    let weigh = |gap: f64| match mode {
        ImportanceMode::Off => TokenWeight::whole(1.0),
        ImportanceMode::TokenTruncate { cap } => TokenWeight::at_most(cap, ratio(gap)),
        ImportanceMode::TokenMask { floor, cap } if !(floor..=cap).contains(&ratio(gap)) => TokenWeight::FILTERED,
        ImportanceMode::TokenMask { .. } => TokenWeight::whole(ratio(gap)),
        ImportanceMode::SequenceTruncate { cap } => TokenWeight::at_most(cap, ratio(sum)),
        ImportanceMode::GeometricFilter { floor, cap, .. } if !(floor..=cap).contains(&geometric) => {
            TokenWeight::FILTERED
        }
        ImportanceMode::GeometricFilter { token_cap, .. } => TokenWeight::at_most(token_cap, ratio(gap)),
    };
    gaps.iter().zip(mask).map(|(gap, keep)| if *keep { weigh(*gap) } else { TokenWeight::FILTERED }).collect()
}

/// Effective sample size as a share of the tokens: `(Σw)²/(n·Σw²)` over the mask; 0 when every weight is 0.
///
/// Source: Kish (1965); a fall predicts collapse (arXiv 2602.17616).
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn ess_fraction(weights: &[f64], mask: &[bool]) -> f64 {
    let sum: f64 = masked::kept(weights, mask).sum();
    let squares: f64 = masked::kept(weights, mask).map(|w| w * w).sum();
    if squares == 0.0 {
        return 0.0;
    }
    sum * sum / squares / masked::count(mask) as f64
}

/// Whether sampling settings draw from the policy itself, at some temperature: nothing cut, penalised, biased, banned or held
/// to a grammar.
///
/// Only then is the behavior log-prob the policy's own (class A of the eligibility rules); a truncated draw has it up to the
/// mass that was kept.
#[must_use]
pub fn is_exactly_on_policy(sampling: &SamplingParams) -> bool {
    let truncates = sampling.top_k != 0 || sampling.top_p < 1.0 || sampling.min_p > 0.0;
    let bans = sampling.min_tokens > 0 || sampling.ignore_eos;
    !sampling.is_greedy() && !truncates && !is_altered(sampling) && !bans
}

/// Whether sampling settings draw from another policy, however little it differs: penalised, biased, or held to a grammar.
#[must_use]
pub fn is_altered(sampling: &SamplingParams) -> bool {
    sampling.presence_penalty != 0.0
        || sampling.frequency_penalty != 0.0
        || sampling.repetition_penalty != 1.0
        || !sampling.logit_bias.is_empty()
        || sampling.constrained
}

#[cfg(test)]
mod tests {
    use super::{ImportanceMode, ess_fraction, importance_weights};

    const OURS: ImportanceMode = ImportanceMode::GeometricFilter { floor: 0.8, cap: 1.25, token_cap: 2.0 };

    #[test]
    fn on_policy_every_mode_weighs_one() {
        let l = [-1.0, -0.2, -3.0];
        let modes = [
            ImportanceMode::Off,
            ImportanceMode::TokenTruncate { cap: 2.0 },
            ImportanceMode::TokenMask { floor: 0.5, cap: 5.0 },
            ImportanceMode::SequenceTruncate { cap: 2.0 },
            OURS,
        ];
        for mode in modes {
            let got = importance_weights(&l, &l, &[true; 3], &[2, 1], mode);
            assert_eq!(got.weights, vec![1.0; 3], "{mode:?}");
            assert_eq!((got.ess_fraction, got.filtered_fraction, got.truncated_fraction), (1.0, 0.0, 0.0));
            assert_eq!((got.k1, got.k3, got.mean_abs_gap), (0.0, 0.0, 0.0));
        }
    }

    /// A long answer with a small gap on every token trains; a short one that is far off does not.
    #[test]
    fn the_geometric_filter_does_not_depend_on_length() {
        let old = vec![-1.0; 102];
        let mut behavior = vec![-1.1; 102];
        behavior[100] = -2.0;
        behavior[101] = -2.0;
        let got = importance_weights(&old, &behavior, &[true; 102], &[100, 2], OURS);
        assert!(got.kept[..100].iter().all(|k| *k) && !got.kept[100] && got.weights[100] == 0.0);
    }

    #[test]
    fn a_single_likely_slip_is_capped_not_dropped() {
        let old = [-0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1];
        let mut behavior = old;
        behavior[4] = -1.6;
        let got = importance_weights(&old, &behavior, &[true; 10], &[10], OURS);
        assert_eq!(got.weights[4], 2.0);
        assert_eq!((got.truncated_fraction, got.filtered_fraction), (0.1, 0.0));
    }

    /// By hand: four sequences of two tokens, whose products are 0.5, 10, 2 and 1; only the second is above the cap, although none
    /// of its tokens is.
    #[test]
    fn a_sequence_is_cut_where_its_product_is_above_the_cap() {
        let ratios = [0.5, 1.0, 5.0, 2.0, 4.0, 0.5, 4.0, 0.25f64];
        let old: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let got = importance_weights(
            &old,
            &[0.0; 8],
            &[true; 8],
            &[2, 2, 2, 2],
            ImportanceMode::SequenceTruncate { cap: 6.0 },
        );
        let expected = [0.5, 0.5, 6.0, 6.0, 2.0, 2.0, 1.0, 1.0];
        assert!(
            got.weights.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-12),
            "{:?}",
            got.weights
        );
        assert_eq!((got.truncated_fraction, got.filtered_fraction), (0.25, 0.0));
    }

    #[test]
    fn the_effective_sample_size_falls_when_few_tokens_carry_the_batch() {
        assert_eq!(ess_fraction(&[0.5; 4], &[true; 4]), 1.0);
        assert!((ess_fraction(&[1.0, 0.0, 0.0, 0.0], &[true; 4]) - 0.25).abs() < 1e-12);
        assert_eq!(ess_fraction(&[0.0; 4], &[true; 4]), 0.0);
    }
}
