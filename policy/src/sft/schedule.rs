//! The learning rate over one run.

/// A linear rise from 0, then half a cosine down to a share of the peak (InstructGPT C.1: a tenth, no rise).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest rate.
    pub peak: f64,
    /// Share of it at the end.
    pub final_share: f64,
    /// Steps of the rise.
    pub warmup_steps: usize,
    /// Steps in all.
    pub n_steps: usize,
}

impl Schedule {
    /// Rate of the 0-based step s: peak·(s + 1)/w while s < w; then peak·(f + (1 − f)/2·(1 + cos(π(s − w)/(n − w)))).
    #[must_use]
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.n_steps.saturating_sub(self.warmup_steps).max(1);
        let done = (step - self.warmup_steps) as f64 / span as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
        self.peak * (self.final_share + (1.0 - self.final_share) * cosine)
    }
}
