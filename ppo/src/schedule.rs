//! Learning rates over steps.
//!
//! Supervised fine-tuning and reward models know when they end and follow a cosine down to a tenth
//! ([`policy::sft::Schedule`]). Learning from live traffic has no end: the policy's rate rises from a tenth over the first
//! rounds and then stays (InstructGPT C.4). `step` counts from 0: the step that is about to be made.

/// Linear from `start·peak` to `peak` over `n_warmup` steps, then constant. InstructGPT C.4: 10 rounds from a tenth.
#[must_use]
pub fn warmup_then_constant(peak: f64, start: f64, step: u64, n_warmup: u64) -> f64 {
    if step >= n_warmup {
        return peak;
    }
    peak * (start + (1.0 - start) * step as f64 / n_warmup as f64)
}

/// `peak·(1 − step/n)`, 0 from step n on. `lm-human-preferences` and N+ (arXiv 2403.17031).
#[must_use]
pub fn linear_to_zero(peak: f64, step: u64, n_steps: u64) -> f64 {
    peak * (1.0 - step.min(n_steps) as f64 / n_steps.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::{linear_to_zero, warmup_then_constant};

    #[test]
    fn schedules_start_and_end_where_they_say() {
        assert!((warmup_then_constant(2.0, 0.1, 0, 10) - 0.2).abs() < 1e-12);
        assert_eq!(warmup_then_constant(2.0, 0.1, 10, 10), 2.0);
        assert_eq!(warmup_then_constant(2.0, 0.1, 0, 0), 2.0, "no warm-up");
        assert_eq!(linear_to_zero(2.0, 11, 10), 0.0);
    }
}
