//! The ranking loss of a reward model.
//!
//! A labeler orders the K responses to one prompt; the reward model gives each response a score. InstructGPT trains on
//! *all* pairs of one ranking in one batch element: pairs that are shuffled apart show the same response in up to K − 1
//! gradient steps and overfit within an epoch (section 3.5). So the unit here is a ranking, never a pair: the loss of a
//! prompt is a mean over its pairs, the loss of a batch a mean over its prompts, and a prompt with nine responses weighs
//! as much as one with four.
//!
//! Ties carry no order and are dropped (InstructGPT C.2). The paper divides by C(K, 2) all the same; we divide by the
//! pairs that are left, or else a labeler who is honest about a tie would be heard less.

/// By what the sum over the pairs of one prompt is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairNormaliser {
    /// The pairs that are left when ties are dropped: ours.
    KeptPairs,
    /// C(K, 2), ties or not: InstructGPT's equation 1 to the letter.
    ChooseK2,
}

/// Variants of the loss; the default is InstructGPT's, over kept pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankingOptions {
    /// Probability with which a label is taken to be the wrong way round. `[0, 0.5)`
    pub label_smoothing: f64,
    /// Gap that is asked of the scores, per step of rank (Llama 2, section 3.2.2). Score units. A ranking may have one of its own
    /// ([`crate::margin`]).
    pub margin_per_rank: f64,
    /// Weight of (s_w + s_l)², which keeps scores near 0 (TRL's `center_rewards_coefficient`).
    pub center_coef: f64,
    /// By what the pairs of one prompt are averaged.
    pub normaliser: PairNormaliser,
}

impl Default for RankingOptions {
    fn default() -> Self {
        RankingOptions {
            label_smoothing: 0.0,
            margin_per_rank: 0.0,
            center_coef: 0.0,
            normaliser: PairNormaliser::KeptPairs,
        }
    }
}

/// Loss, gradient and accuracy of one ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct RankingLoss {
    /// Mean over pairs, nats; 0 when every pair is a tie.
    pub loss: f64,
    /// d loss / d score, `[k]`.
    pub grad_scores: Vec<f64>,
    /// Pairs that are not ties.
    pub n_pairs: usize,
    /// Pairs whose better response has strictly the higher score; equal scores are wrong.
    pub n_correct: usize,
}

/// Loss, gradients and accuracy of a batch of rankings.
#[derive(Clone, Debug, PartialEq)]
pub struct RankingBatchLoss {
    /// Mean over the prompts that have a pair, nats.
    pub loss: f64,
    /// d loss / d score, `[prompts][k]`.
    pub grad_scores: Vec<Vec<f64>>,
    /// Prompts that have a pair: the divisor.
    pub n_prompts: usize,
    /// Pairs that are not ties, over all prompts.
    pub n_pairs: usize,
    /// Pairs in the right order, over all prompts.
    pub n_correct: usize,
}

impl RankingBatchLoss {
    /// n_correct / n_pairs; 0 without pairs.
    #[must_use]
    pub fn pair_accuracy(&self) -> f64 {
        if self.n_pairs == 0 {
            return 0.0;
        }
        self.n_correct as f64 / self.n_pairs as f64
    }
}

/// `ln(1 + e^x)` without overflow, and exact to the last digits for very negative `x`.
#[must_use]
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^−x)` without overflow.
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        return 1.0 / (1.0 + (-x).exp());
    }
    let e = x.exp();
    e / (1.0 + e)
}

/// Ranking loss of the K responses to one prompt.
///
/// `loss = (1/n) Σ_{rank_w < rank_l} (1 − ε)·softplus(−d) + ε·softplus(d) + c·(s_w + s_l)²`,
/// `d = s_w − s_l − m·(rank_l − rank_w)`.
///
/// Source: InstructGPT (arXiv 2203.02155) equation 1; margin: Llama 2 (arXiv 2307.09288) section 3.2.2.
/// - `scores`: `[k]`, f64, the raw output of the head, one per response;
/// - `ranks`: `[k]`, 1 is best, equal ranks are a tie;
/// - `options`: ε, m, c and the divisor n.
///
/// Returns the loss with d loss / d score; nothing is stopped. Differs from the paper in the divisor (see the top of
/// this file). `−log σ(d)` is computed as `softplus(−d)`: `log(sigmoid(d))` is −∞ from d ≈ −745 and loses its gradient
/// long before.
///
/// # Panics
/// When `scores` and `ranks` differ in length: only a bug of the caller can do that.
#[must_use]
pub fn ranking_loss(scores: &[f64], ranks: &[u32], options: &RankingOptions) -> RankingLoss {
    assert_eq!(scores.len(), ranks.len(), "one rank per score");
    let mut result = RankingLoss { loss: 0.0, grad_scores: vec![0.0; scores.len()], n_pairs: 0, n_correct: 0 };
    for winner in 0..scores.len() {
        for loser in 0..scores.len() {
            if ranks[winner] < ranks[loser] {
                add_pair(&mut result, (winner, loser), scores, ranks, options);
            }
        }
    }
    let k = scores.len();
    let divisor = match options.normaliser {
        PairNormaliser::KeptPairs => result.n_pairs,
        PairNormaliser::ChooseK2 => k * k.saturating_sub(1) / 2,
    };
    let scale = 1.0 / divisor.max(1) as f64;
    result.loss *= scale;
    result.grad_scores.iter_mut().for_each(|g| *g *= scale);
    result
}

fn add_pair(
    sum: &mut RankingLoss,
    (winner, loser): (usize, usize),
    scores: &[f64],
    ranks: &[u32],
    options: &RankingOptions,
) {
    let (win, lose) = (scores[winner], scores[loser]);
    let margin = options.margin_per_rank * f64::from(ranks[loser] - ranks[winner]);
    let gap = win - lose - margin;
    let smoothing = options.label_smoothing;
    let together = win + lose;
    sum.loss += (1.0 - smoothing) * softplus(-gap) + smoothing * softplus(gap);
    sum.loss += options.center_coef * together * together;
    let grad_gap = -(1.0 - smoothing) * sigmoid(-gap) + smoothing * sigmoid(gap);
    let grad_center = 2.0 * options.center_coef * together;
    sum.grad_scores[winner] += grad_gap + grad_center;
    sum.grad_scores[loser] += -grad_gap + grad_center;
    sum.n_pairs += 1;
    sum.n_correct += usize::from(win > lose);
}

/// Mean of [`ranking_loss`] over the prompts that have a pair.
///
/// - `scores`, `ranks`: `[prompts][k]`, ragged.
///
/// A prompt whose responses all tie has gradient 0 and is not counted in the mean.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn ranking_batch_loss<S, R>(scores: &[S], ranks: &[R], options: &RankingOptions) -> RankingBatchLoss
where
    S: AsRef<[f64]>,
    R: AsRef<[u32]>,
{
    assert_eq!(scores.len(), ranks.len(), "one ranking per prompt");
    let prompts: Vec<RankingLoss> =
        scores.iter().zip(ranks).map(|(s, r)| ranking_loss(s.as_ref(), r.as_ref(), options)).collect();
    let n_prompts = prompts.iter().filter(|p| p.n_pairs > 0).count();
    let scale = 1.0 / n_prompts.max(1) as f64;
    RankingBatchLoss {
        loss: prompts.iter().map(|p| p.loss).sum::<f64>() * scale,
        n_prompts,
        n_pairs: prompts.iter().map(|p| p.n_pairs).sum(),
        n_correct: prompts.iter().map(|p| p.n_correct).sum(),
        grad_scores: prompts.into_iter().map(|p| p.grad_scores.into_iter().map(|g| g * scale).collect()).collect(),
    }
}

#[cfg(test)]
mod tests;
