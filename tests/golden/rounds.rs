//! Rows of a file as the episodes of a round, so that its numbers come from what makes a round's experience.

use config::{Config, Ppo};
use policy::{TokenId, sequence_batch::Sequence};
use ppo::{
    experience::{Episode, Experience, Passes, PolicyPass},
    masked,
};

/// What a file says of some sequences. Per-token vectors are flat, row after row, with whatever stands behind the mask.
pub(super) struct Rows<'a> {
    pub(super) old: &'a [f64],
    pub(super) reference: &'a [f64],
    pub(super) values: &'a [f64],
    pub(super) mask: &'a [bool],
    /// Of the rows, padding included.
    pub(super) lengths: &'a [usize],
    pub(super) scores: &'a [f64],
    pub(super) terminated: &'a [bool],
    pub(super) groups: &'a [usize],
}

/// The knobs of a round that takes scores as they are.
pub(super) fn knobs() -> Ppo {
    Ppo { score_clip: f64::INFINITY, missing_eos: "keep".to_owned(), ..Config::default().ppo }
}

impl Rows<'_> {
    /// The experience of a round of these sequences, without their padding, drawn by the very policy that learns.
    pub(super) fn experience(&self, config: &Ppo, kl_coef: f64) -> Experience {
        let flat = |x: &[f64]| masked::kept(x, self.mask).collect::<Vec<f64>>();
        let passes = Passes {
            policy: Some(PolicyPass { old: flat(self.old), entropies: vec![0.0; masked::count(self.mask)] }),
            reference: flat(self.reference),
            values: flat(self.values),
            last_values: vec![0.0; self.lengths.len()],
        };
        let rows = masked::split(self.old, self.lengths).zip(masked::split(self.mask, self.lengths));
        let episode = |(index, (old, mask)): (usize, (&[f64], &[bool]))| {
            let behavior: Vec<f64> = masked::kept(old, mask).collect();
            let n_tokens = behavior.len();
            Episode {
                index,
                // Answers to one prompt are a group.
                sequence: Sequence::new(&[TokenId(self.groups[index] as u32)], &vec![TokenId(0); n_tokens]),
                temperature: 1.0,
                behavior,
                log_kept_mass: vec![0.0; n_tokens],
                score: self.scores[index],
                terminated: self.terminated[index],
                cut_by_daemon: !self.terminated[index],
                staleness: 0,
            }
        };
        Experience::from_passes(rows.enumerate().map(episode).collect(), passes, config, kl_coef)
    }

    /// Numbers of the tokens that count, where they stand in the file, with 0 for the others.
    pub(super) fn spread(&self, flat: &[f64]) -> Vec<f64> {
        assert_eq!(flat.len(), masked::count(self.mask), "one number per token");
        let mut rest = flat.iter();
        self.mask.iter().map(|keep| if *keep { *rest.next().expect("as many as count") } else { 0.0 }).collect()
    }
}
