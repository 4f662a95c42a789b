//! Where the last step has brought the policy.
//!
//! Every step sees how far the ones before it have gone, and nobody sees the last one: of a round with one minibatch and one
//! epoch that is all of it. So after it the first episodes that trained are read once more. What they say decides whether the
//! round is taken back (`ppo.skip_kl`), and is what the gate knows of the way from the live version and of what was learnt.

use crate::{
    error::PpoError,
    experience::{Budget, Experience, MicroBatches, Pace, batch_of, temperatures_of},
    gate::Lesson,
    kl::KlEstimator,
    loss::LOG_RATIO_MAX,
    masked,
    models::Models,
};

/// Episodes that are read at most.
const EPISODES_MAX: usize = 64;
/// Tokens that are read at most, prompts included, but for a single longer episode: a spot check, not one more pass over a
/// round of long answers.
const TOKENS_MAX: usize = 8192;

/// What the policy says now of the first episodes that it learnt from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Arrival {
    /// KL(old ‖ now) as k3, nats per token.
    pub(super) kl_k3: f64,
    /// What each was paid, and how likely it was and is.
    pub(super) lessons: Vec<Lesson>,
}

impl Arrival {
    /// Reads them.
    ///
    /// # Errors
    /// When a pass fails, or `pace` says stop.
    pub(super) fn measure(
        experience: &Experience,
        models: &Models,
        config: &config::Ppo,
        pace: Pace<'_>,
    ) -> Result<Arrival, PpoError> {
        let members = members(experience);
        let episodes = &experience.episodes;
        let pieces = MicroBatches::of(episodes, &members, Budget::of(models, config));
        let now = models.policy.open(|lm| {
            Ok(pieces.map(pace, |members| {
                Ok(lm.log_probs(&batch_of(episodes, members), &temperatures_of(episodes, members))?.log_probs)
            }))
        })??;
        let mut arrival = Arrival::default();
        let mut n_tokens = 0;
        // Piece after piece: how they are cut follows from shapes alone, and so does the order of these sums.
        for (members, now) in pieces.pieces().iter().zip(now) {
            let lengths: Vec<usize> = members.iter().map(|i| experience.lengths[*i]).collect();
            for (&i, now) in members.iter().zip(masked::split(&now, &lengths)) {
                let old = &experience.passes.old[experience.range(i)];
                arrival.kl_k3 += old.iter().zip(now).map(|(old, now)| k3(*old, f64::from(*now))).sum::<f64>();
                arrival.lessons.push(lesson(experience, i, now));
                n_tokens += now.len();
            }
        }
        arrival.kl_k3 /= n_tokens.max(1) as f64;
        Ok(arrival)
    }
}

/// As the policy loss counts it: the samples are old's, so old is the policy and what it has become the reference.
fn k3(old: f64, now: f64) -> f64 {
    KlEstimator::K3.value((old - now).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX))
}

/// The first episodes that trained, as many as are read.
fn members(experience: &Experience) -> Vec<usize> {
    let trained = (0..experience.episodes.len()).filter(|&i| experience.is_kept(i)).take(EPISODES_MAX);
    let mut n_tokens = 0;
    let fit = trained.take_while(|&i| {
        let is_first = n_tokens == 0;
        n_tokens += experience.episodes[i].sequence.tokens.len();
        is_first || n_tokens <= TOKENS_MAX
    });
    fit.collect()
}

fn lesson(experience: &Experience, i: usize, now: &[f32]) -> Lesson {
    let range = experience.range(i);
    Lesson {
        paid: experience.rewards[range.clone()].iter().sum(),
        old_log_prob: experience.passes.old[range].iter().sum(),
        new_log_prob: now.iter().copied().map(f64::from).sum(),
    }
}
