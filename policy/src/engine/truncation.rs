//! The set of tokens that truncation keeps.
//!
//! Until a stage cuts, the set is the whole row and costs nothing. A stage that cuts looks at every logit once; none sorts
//! the row.

use crate::engine::softmax::exp_nonpositive;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Its logit after penalties and bias.
    pub(super) logit: f32,
    /// Its id.
    pub(super) id: u32,
}

/// The tokens that are left, once something was cut.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Whether anything was cut; if not, the row is the set and `tokens` means nothing.
    pub(super) cut: bool,
    /// What is left, never empty once cut.
    pub(super) tokens: Vec<Candidate>,
    scratch: Vec<Candidate>,
}

impl Kept {
    /// Starts again with the whole row.
    pub(super) fn reset(&mut self) {
        self.cut = false;
        self.tokens.clear();
    }

    /// The whole row, written out.
    pub(super) fn all(&mut self, row: &[f32]) {
        self.tokens.clear();
        self.tokens.extend((0..).zip(row).map(|(id, &logit)| Candidate { logit, id }));
        self.cut = true;
    }

    /// Top-k: the `k` best, ties by the lower id.
    pub(super) fn best(&mut self, row: &[f32], k: usize) {
        if self.cut {
            best_of(&mut self.tokens, k);
        } else {
            best_of_row(row, k, &mut self.tokens);
            self.cut = true;
        }
    }

    /// Min-p: what is at least `min_p` times as probable as the best, at `1 / inverse_temperature`.
    pub(super) fn near_best(&mut self, row: &[f32], min_p: f64, inverse_temperature: f64) {
        let threshold = f64::from(self.largest(row)) + min_p.ln() / inverse_temperature;
        let stays = |candidate: &Candidate| f64::from(candidate.logit) >= threshold;
        if self.cut {
            self.tokens.retain(stays);
        } else {
            let all = (0..).zip(row).map(|(id, &logit)| Candidate { logit, id });
            self.tokens.clear();
            self.tokens.extend(all.filter(stays));
            self.cut = true;
        }
    }

    /// Top-p: the smallest set, best first, whose share of the present mass reaches `p`; at least one token. The best
    /// 64, 512, … are tried in turn, so that a peaked row of a large vocabulary is never sorted whole.
    pub(super) fn mass(&mut self, row: &[f32], p: f64, inverse_temperature: f64) {
        let max = self.largest(row);
        let n = if self.cut { self.tokens.len() } else { row.len() };
        let total = if self.cut {
            self.tokens.iter().map(|candidate| weight(candidate.logit, max, inverse_temperature)).sum::<f64>()
        } else {
            row.iter().map(|&logit| weight(logit, max, inverse_temperature)).sum::<f64>()
        };
        let mut k = 64;
        loop {
            if self.cut {
                self.scratch.clone_from(&self.tokens);
                best_of(&mut self.scratch, k);
            } else {
                best_of_row(row, k, &mut self.scratch);
            }
            let mut mass = 0.0;
            let last = self.scratch.iter().position(|candidate| {
                mass += weight(candidate.logit, max, inverse_temperature);
                mass >= p * total
            });
            if let Some(last) = last {
                self.scratch.truncate(last + 1);
            }
            if last.is_some() || k >= n {
                break;
            }
            k *= 8;
        }
        std::mem::swap(&mut self.tokens, &mut self.scratch);
        self.cut = true;
    }

    fn largest(&self, row: &[f32]) -> f32 {
        if self.cut {
            self.tokens.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max)
        } else {
            row.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        }
    }
}

/// `exp((logit - max) / T)`; f32 precision is plenty to say where a share of the mass is reached.
fn weight(logit: f32, max: f32, inverse_temperature: f64) -> f64 {
    f64::from(exp_nonpositive(((f64::from(logit) - f64::from(max)) * inverse_temperature) as f32))
}

fn better_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Keeps the `k` best, best first.
fn best_of(tokens: &mut Vec<Candidate>, k: usize) {
    if k < tokens.len() {
        tokens.select_nth_unstable_by(k, better_first);
        tokens.truncate(k);
    }
    tokens.sort_unstable_by(better_first);
}

/// The `k` best of a row, best first. A rising threshold turns nearly all of a long row away with one comparison each.
pub(super) fn best_of_row(row: &[f32], k: usize, best: &mut Vec<Candidate>) {
    best.clear();
    let room = k.saturating_mul(2).max(64);
    let mut threshold = None;
    for (id, &logit) in (0..).zip(row) {
        // An equal logit later in the row has a higher id and loses the tie.
        if threshold.is_none_or(|threshold| logit > threshold) {
            best.push(Candidate { logit, id });
            if best.len() >= room {
                best_of(best, k);
                threshold = best.last().map(|last| last.logit);
            }
        }
    }
    best_of(best, k);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u32) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 1009) as f32 / 100.0).collect()
    }

    fn sorted(row: &[f32]) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..row.len() as u32).collect();
        ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
        ids
    }

    fn ids(kept: &[Candidate]) -> Vec<u32> {
        kept.iter().map(|candidate| candidate.id).collect()
    }

    #[test]
    fn the_best_of_a_row_are_the_head_of_the_sorted_row() {
        let row = row(3000);
        for k in [1, 5, 40, 64, 1000, 2999, 3000, 5000] {
            let mut best = Vec::new();
            best_of_row(&row, k, &mut best);
            assert_eq!(ids(&best), sorted(&row)[..k.min(3000)], "k = {k}");
        }
    }

    #[test]
    fn the_kept_mass_is_the_shortest_sorted_prefix_that_reaches_p() {
        let row = row(3000);
        let weight = |id: u32| (f64::from(row[id as usize]) * 0.5).exp();
        let total: f64 = (0..3000).map(weight).sum();
        for p in [0.001, 0.3, 0.9, 0.999] {
            let mut kept = Kept::default();
            kept.mass(&row, p, 0.5);
            let mut mass = 0.0;
            let want: Vec<u32> = sorted(&row)
                .into_iter()
                .take_while(|&id| {
                    let short = mass < p * total;
                    mass += weight(id);
                    short
                })
                .collect();
            assert_eq!(ids(&kept.tokens), want, "p = {p}");
        }
    }

    #[test]
    fn stages_compose_on_what_is_left() {
        let row = row(100);
        let mut kept = Kept::default();
        kept.all(&row);
        kept.best(&row, 3);
        assert_eq!(ids(&kept.tokens), sorted(&row)[..3]);
        kept.near_best(&row, 1.0, 1.0);
        assert_eq!(ids(&kept.tokens), sorted(&row)[..1]);
    }
}
