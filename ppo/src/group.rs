//! Advantages without a value model, from several responses to one prompt.
//!
//! Live traffic has one response per prompt, so these serve requests with `n` > 1 and offline comparison. A prompt that is
//! alone has no baseline: its advantage is 0 and it must be masked (verl returns its raw score, which is a trap).

use crate::masked;

/// How many responses each group has, `[number of groups]`.
///
/// - `groups`: `[n]`, numbered from 0.
#[must_use]
pub fn sizes(groups: &[usize]) -> Vec<usize> {
    let mut sizes = vec![0; groups.iter().max().map_or(0, |last| last + 1)];
    groups.iter().for_each(|group| sizes[*group] += 1);
    sizes
}

/// Sum of the values of each group over so many, added in their order; 0 over none.
fn means(values: impl Iterator<Item = f64>, groups: &[usize], divisors: &[usize]) -> Vec<f64> {
    let mut sums = vec![0.0; divisors.len()];
    groups.iter().zip(values).for_each(|(group, value)| sums[*group] += value);
    sums.iter().zip(divisors).map(|(sum, n)| if *n == 0 { 0.0 } else { sum / *n as f64 }).collect()
}

/// Mean of the scores of a group, for each member.
fn group_means(scores: &[f64], groups: &[usize]) -> Vec<(f64, usize)> {
    assert_eq!(scores.len(), groups.len(), "one group per score");
    let sizes = sizes(groups);
    let means = means(scores.iter().copied(), groups, &sizes);
    groups.iter().map(|g| (means[*g], sizes[*g])).collect()
}

/// RLOO: the score minus the mean of the *other* scores of the group; 0 for a group of one.
///
/// `A_i = R_i − 1/(G − 1)·Σ_{j≠i} R_j = G/(G − 1)·(R_i − mean)`. Source: Ahmadian et al. (arXiv 2402.14740) equation 6.
/// - `scores`: `[n]`, with the KL penalty of the whole sequence already taken off where that is wanted;
/// - `groups`: `[n]`, which prompt each belongs to, numbered from 0.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn rloo(scores: &[f64], groups: &[usize]) -> Vec<f64> {
    let means = group_means(scores, groups);
    let others = |(score, (mean, n)): (&f64, (f64, usize))| match n {
        1 => 0.0,
        n => (score - mean) * n as f64 / (n - 1) as f64,
    };
    scores.iter().zip(means).map(others).collect()
}

/// Dr. GRPO: the score minus the mean of the group. Source: arXiv 2503.20783 section 3.2.
///
/// - `scores`, `groups`: `[n]` as in [`rloo`].
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn dr_grpo(scores: &[f64], groups: &[usize]) -> Vec<f64> {
    scores.iter().zip(group_means(scores, groups)).map(|(score, (mean, _))| score - mean).collect()
}

/// GRPO: [`dr_grpo`] divided by the group's standard deviation, which weighs up prompts that are nearly always or hardly
/// ever solved.
///
/// `A_i = (R_i − mean)/(std_{n−1} + ε)`; 0 for a group of one. Source: DeepSeekMath (arXiv 2402.03300) section 4.1;
/// `eps`: 1e-4 (TRL), 1e-6 (verl).
/// - `scores`, `groups`: `[n]` as in [`rloo`].
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn grpo(scores: &[f64], groups: &[usize], eps: f64) -> Vec<f64> {
    let centred = dr_grpo(scores, groups);
    let degrees: Vec<usize> = sizes(groups).iter().map(|n| n.saturating_sub(1)).collect();
    let variances = means(centred.iter().map(|a| a * a), groups, &degrees);
    centred.iter().zip(groups).map(|(a, g)| a / (variances[*g].sqrt() + eps)).collect()
}

/// Reward to go: `G_t = r_t + γ·G_{t+1}` within each sequence.
///
/// - `rewards`, `mask`: `[n]` flat; `lengths`: tokens of each sequence, Σ = n.
///
/// Returns `[n]`, 0 where the mask is false.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn reward_to_go(rewards: &[f64], mask: &[bool], lengths: &[usize], gamma: f64) -> Vec<f64> {
    let mut result = Vec::with_capacity(rewards.len());
    for (rewards, mask) in masked::split(rewards, lengths).zip(masked::split(mask, lengths)) {
        let start = result.len();
        result.resize(start + rewards.len(), 0.0);
        let mut to_go = 0.0;
        for t in (0..rewards.len()).rev().filter(|t| mask[*t]) {
            to_go = rewards[t] + gamma * to_go;
            result[start + t] = to_go;
        }
    }
    result
}

/// The number of each sequence, on each of its tokens: `[n]` flat.
///
/// - `per_sequence`: one per sequence; `lengths`: tokens of each.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn per_token(per_sequence: &[f64], lengths: &[usize]) -> Vec<f64> {
    assert_eq!(per_sequence.len(), lengths.len(), "one number per sequence");
    per_sequence.iter().zip(lengths).flat_map(|(a, n)| std::iter::repeat_n(*a, *n)).collect()
}

#[cfg(test)]
mod tests {
    use super::{dr_grpo, grpo, rloo};
    use crate::masked::{Variance, variance};

    #[test]
    fn advantages_of_a_group_cancel() {
        let (scores, groups) = ([1.0, 4.0, -2.0, 0.5, 0.25], [0, 0, 0, 1, 1]);
        for advantages in [rloo(&scores, &groups), dr_grpo(&scores, &groups), grpo(&scores, &groups, 1e-4)] {
            assert!(advantages[..3].iter().sum::<f64>().abs() < 1e-12);
            assert!(advantages[3..].iter().sum::<f64>().abs() < 1e-12);
        }
    }

    #[test]
    fn the_baseline_leaves_the_response_itself_out() {
        assert_eq!(rloo(&[3.0, 1.0], &[0, 0]), vec![2.0, -2.0]);
    }

    #[test]
    fn a_response_that_is_alone_has_no_advantage() {
        assert_eq!((rloo(&[7.0], &[0]), grpo(&[7.0], &[0], 1e-4)), (vec![0.0], vec![0.0]));
        assert_eq!(grpo(&[2.0, 2.0], &[0, 0], 1e-4), vec![0.0, 0.0], "nor have equals");
    }

    /// Goal: a round of many prompts is as quick as one of few. Method: as many groups as a round may have, each against its own
    /// variance, bit for bit; quadratic, it would take minutes.
    #[test]
    fn the_largest_round_is_measured_group_by_group() {
        let n = 65_536;
        let groups: Vec<usize> = (0..n).map(|i| i * 7919 % (n / 2)).collect();
        let scores: Vec<f64> = (0..n).map(|i| (i * 37 % 101) as f64 / 7.0).collect();
        let got = grpo(&scores, &groups, 1e-4);
        let centred = dr_grpo(&scores, &groups);
        for group in [0, 1, 77, n / 2 - 1] {
            let mask: Vec<bool> = groups.iter().map(|g| *g == group).collect();
            let std = variance(&scores, &mask, Variance::Sample).sqrt();
            for i in (0..n).filter(|i| mask[*i]) {
                assert_eq!(got[i].to_bits(), (centred[i] / (std + 1e-4)).to_bits());
            }
        }
    }
}
