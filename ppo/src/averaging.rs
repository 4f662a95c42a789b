//! Averages of weights over updates.
//!
//! InstructGPT evaluates an exponential moving average of the policy (C.4: decay 0.992 per iteration). It is a candidate
//! for publication, never the sampler: the recorded behavior log-probs must belong to the weights that drew the tokens.

/// Moves `average` towards `weights`.
///
/// `a ← decay·a + (1 − decay)·w`, started at the first weights, hence without bias correction.
/// Source: InstructGPT (arXiv 2203.02155) C.4.
///
/// # Panics
/// When the lengths differ.
pub fn move_average(average: &mut [f64], weights: &[f64], decay: f64) {
    assert_eq!(average.len(), weights.len(), "one average per weight");
    for (a, w) in average.iter_mut().zip(weights) {
        *a = decay * *a + (1.0 - decay) * w;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_average_of_constant_weights_stays() {
        let mut average = [1.5, -2.0];
        super::move_average(&mut average, &[1.5, -2.0], 0.992);
        assert!((average[0] - 1.5).abs() < 1e-12 && (average[1] + 2.0).abs() < 1e-12);
        super::move_average(&mut average, &[3.0, 0.0], 0.0);
        assert_eq!(average, [3.0, 0.0]);
    }
}
