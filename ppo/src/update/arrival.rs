//! Where the last step has brought the policy.
//!
//! Every step sees how far the ones before it have gone, and nobody sees the last one: of a round with one minibatch and one
//! epoch that is all of it. So after it the first episodes that trained are read once more. What they say decides whether the
//! round is taken back (`ppo.skip_kl`), and is what the gate knows of the way from the live version, of the way from version 0
//! and of what was learnt.
//!
//! Where no guard and no gate asks (`ppo.gate = "off"`, neither `ppo.skip_kl` nor `ppo.kl_budget`), that pass is spared.
//!
//! Where nobody ran the policy before the first step, its beginning is known of the first minibatch alone, and that is read.

use super::first_minibatch::FirstMinibatch;
use crate::{
    error::PpoError,
    experience::{Budget, Experience, MicroBatches, Pace, PolicyPass, batch_of, temperatures_of},
    gate::{LESSONS_MIN, Lesson, Mode},
    guard::EPISODES_MIN,
    loss::{bounded_k3, ratio},
    masked,
    models::Models,
};

/// Episodes that are read at most.
const EPISODES_MAX: usize = 64;
/// Tokens that are read at most, prompts included, beyond the first [`LESSONS_MIN`] episodes: a spot check, not one more pass
/// over a round of long answers. Those are read however long they are, or the gate could not look at long answers at all. It is
/// room for 64 episodes of 512 tokens: with half as many lessons the gate overlooks more (see [`gate`](crate::gate)).
const TOKENS_MAX: usize = 32_768;

/// What the policy says now of the first episodes that it learnt from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Arrival {
    /// KL(old ‖ now) as k3, nats per token.
    pub(super) kl_k3: f64,
    /// KL(now ‖ reference), nats per episode ([`to_reference`]).
    pub(super) kl_to_reference: f64,
    /// What each was paid, and how likely it was and is.
    pub(super) lessons: Vec<Lesson>,
}

/// Whether anybody asks: a guard of the round, or the gate.
fn is_asked_for(config: &config::Ppo) -> bool {
    config.skip_kl > 0.0 || config.kl_budget > 0.0 || Mode::of(config) != Mode::Off
}

impl Arrival {
    /// Of a round whose last step nobody looks at: what nobody has measured is not a number.
    fn unknown() -> Arrival {
        Arrival { kl_k3: f64::NAN, kl_to_reference: f64::NAN, lessons: Vec::new() }
    }

    /// Reads them, where anybody asks. `first`: what is known of the start where `experience` does not know it.
    ///
    /// # Errors
    /// When a pass fails, or `pace` says stop.
    pub(super) fn measure(
        experience: &Experience,
        first: Option<&FirstMinibatch>,
        models: &Models,
        config: &config::Ppo,
        pace: Pace<'_>,
    ) -> Result<Arrival, PpoError> {
        if !is_asked_for(config) {
            return Ok(Arrival::unknown());
        }
        let start = match (&experience.passes.policy, first) {
            (Some(pass), _) => Start::Round(pass),
            (None, Some(first)) => Start::First(first),
            (None, None) => return Ok(Arrival::default()),
        };
        let members = start.read(experience, config.minibatch);
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
                let (old, reference) = (start.old(experience, i), &experience.passes.reference[experience.range(i)]);
                let now = now.iter().copied().map(f64::from);
                arrival.kl_k3 += old.iter().zip(now.clone()).map(|(old, now)| bounded_k3(old - now)).sum::<f64>();
                let both = old.iter().zip(reference).zip(now.clone());
                arrival.kl_to_reference +=
                    both.map(|((old, reference), now)| to_reference(*old, now, *reference)).sum::<f64>();
                n_tokens += now.len();
                let (old_log_prob, new_log_prob) = (old.iter().sum(), now.sum());
                arrival.lessons.push(Lesson { paid: experience.paid(i), old_log_prob, new_log_prob });
            }
        }
        arrival.kl_k3 /= n_tokens.max(1) as f64;
        arrival.kl_to_reference /= arrival.lessons.len().max(1) as f64;
        Ok(arrival)
    }
}

/// What one token says of the KL from the reference to the policy as it is now, nats: `π/π_old · (e^−D − 1 + D)`,
/// `D = ℓ_now − ℓ_ref`.
///
/// k3 (Schulman 2020) is for samples of the policy, and these are old's: hence the weight. Without it, and with k1, the mean
/// would be KL(old ‖ ref) − KL(old ‖ now): the further the update went, the smaller. The states are still those that old came to.
fn to_reference(old: f64, now: f64, reference: f64) -> f64 {
    ratio(now - old) * bounded_k3(now - reference)
}

/// Where ℓ_old is known.
enum Start<'a> {
    /// Of the whole round.
    Round(&'a PolicyPass),
    /// Of its first minibatch.
    First(&'a FirstMinibatch),
}

impl Start<'_> {
    /// The first episodes that trained, as many as are read.
    fn read(&self, experience: &Experience, minibatch: usize) -> Vec<usize> {
        let known: Vec<usize> = match self {
            Start::Round(_) => (0..experience.episodes.len()).collect(),
            Start::First(first) => first.members().collect(),
        };
        let mut trained: Vec<usize> = known.into_iter().filter(|&i| experience.is_kept(i)).collect();
        let n_tokens: Vec<usize> = trained.iter().map(|&i| experience.episodes[i].sequence.tokens.len()).collect();
        trained.truncate(n_read(&n_tokens, minibatch));
        trained
    }

    /// ℓ_old of one of these.
    fn old(&self, experience: &Experience, i: usize) -> &[f64] {
        match self {
            Start::Round(pass) => &pass.old[experience.range(i)],
            Start::First(first) => first.old(i),
        }
    }
}

/// How many of the episodes that trained are read, of which these are the tokens. Where they are too few for the gate to judge what
/// was learnt, only the size of the way is asked, which a minibatch of some size shows.
fn n_read(n_tokens: &[usize], minibatch: usize) -> usize {
    if n_tokens.len() < LESSONS_MIN {
        return n_tokens.len().min(minibatch.max(EPISODES_MIN));
    }
    let mut sum = 0;
    let fits = |&(n, tokens): &(usize, &usize)| {
        sum += tokens;
        n < LESSONS_MIN || sum <= TOKENS_MAX
    };
    n_tokens.iter().take(EPISODES_MAX).enumerate().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::n_read;

    #[test]
    fn the_gate_gets_all_the_lessons_there_is_room_for_and_a_short_round_is_read_once() {
        assert_eq!(n_read(&[512; 128], 32), 64);
        assert_eq!(n_read(&[1024; 128], 32), 32);
        assert_eq!(n_read(&[5000; 128], 32), 16, "as many as it needs, however long they are");
        assert_eq!((n_read(&[100; 16], 4), n_read(&[100; 15], 4)), (16, 8), "nobody can judge fifteen");
        assert_eq!((n_read(&[100; 15], 32), n_read(&[], 32)), (15, 0));
    }
}
