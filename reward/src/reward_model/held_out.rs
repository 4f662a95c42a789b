//! What a reward model's file says of how well it judges.

use candle_core::quantized::gguf_file::Value;

use super::RewardModel;

const ACCURACY: &str = "honed.reward.held_out_accuracy";
const PAIRS: &str = "honed.reward.held_out_pairs";

/// What its trainer measured on rankings that it had held back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// Share of pairs whose preferred response scores strictly higher.
    pub accuracy: f64,
    /// Pairs on which that was measured.
    pub n_pairs: u64,
}

impl RewardModel {
    /// The same model, in whose file this will stand.
    #[must_use]
    pub fn with_held_out(mut self, held_out: HeldOut) -> RewardModel {
        self.source.metadata.set(ACCURACY, Value::F64(held_out.accuracy));
        self.source.metadata.set(PAIRS, Value::U64(held_out.n_pairs));
        self
    }

    /// What stands there; `None` where nothing was held back, and of files that were made otherwise. It is what the file says of
    /// itself: nobody measures it again.
    #[must_use]
    pub fn held_out(&self) -> Option<HeldOut> {
        let metadata = &self.source.metadata;
        let accuracy = metadata.f64(ACCURACY).ok().filter(|accuracy| (0.0..=1.0).contains(accuracy))?;
        Some(HeldOut { accuracy, n_pairs: metadata.usize(PAIRS).ok()? as u64 })
    }
}
