//! Where a round began, to go back to: bit for bit for small models, the policy's weights alone for large ones.
//!
//! Policy, value model and their moments are six times the policy in f32. For a small model a copy costs nothing. For one of
//! 135 M parameters it is 3.2 GB, more than everything else that an update needs, and written to a disk it takes as long as
//! the update. So beyond `ppo.snapshot_mib` a snapshot holds what a refusal needs: the policy's weights (and their average).
//! Taking a round back then leaves both optimisers' moments and the value model as the round made them. What fails midway
//! cannot be put back: the models are marked ([`Models::is_spoilt`]), and their owner makes them again from the last state on
//! disk and the records since, as after a crash ([`crate::replay`]).

use std::collections::BTreeMap;

use candle_core::Tensor;
use policy::optimizer::AdamState;
use rayon::prelude::*;

use crate::{averaging::WeightAverage, control::ControlState, error::PpoError, models::Models, state::Half};

/// What a round may have to go back to.
pub struct Snapshot {
    policy: Copied,
    /// Absent beyond `ppo.snapshot_mib`.
    value: Option<Copied>,
    control: BTreeMap<String, f64>,
}

/// One model, and where there is room its optimiser.
struct Copied {
    weights: BTreeMap<String, Tensor>,
    optimizer: Option<AdamState>,
    /// Cheap to keep: its tensors are replaced, never written into.
    average: Option<WeightAverage>,
}

impl Snapshot {
    pub(crate) fn of(models: &Models, config: &config::Ppo) -> Result<Snapshot, PpoError> {
        let n_bytes: u64 = Half::ALL.into_iter().map(|half| half.n_bytes(models)).sum();
        let is_whole = n_bytes <= config.snapshot_mib << 20;
        let value = is_whole.then(|| Copied::of(models, Half::Value, true)).transpose()?;
        Ok(Snapshot { policy: Copied::of(models, Half::Policy, is_whole)?, value, control: models.control() })
    }

    /// Whether everything can be put back.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.value.is_some()
    }

    /// Puts everything back, or marks the models as spoilt.
    pub(crate) fn restore(&self, models: &mut Models) -> Result<(), PpoError> {
        let Some(value) = &self.value else {
            models.is_spoilt = true;
            return Ok(());
        };
        self.policy.put_back(models, Half::Policy)?;
        value.put_back(models, Half::Value)?;
        models.set_control(&self.control);
        Ok(())
    }

    /// Puts the policy back, with its optimiser where there is a copy.
    pub(crate) fn restore_policy(&self, models: &mut Models) -> Result<(), PpoError> {
        self.policy.put_back(models, Half::Policy)?;
        if self.policy.optimizer.is_some() {
            // What the moments have seen.
            models.control.n_policy_rounds = ControlState::from_numbers(&self.control).n_policy_rounds;
        }
        Ok(())
    }
}

impl Copied {
    /// Real copies: optimisers write into the storage that they hand out.
    fn of(models: &Models, half: Half, with_optimizer: bool) -> Result<Copied, PpoError> {
        let optimizer = with_optimizer.then(|| half.optimizer(models).state().copy()).transpose()?;
        // New memory costs more than the numbers in it: several threads ask for it at once.
        let weights = half.parameters(models).par_iter();
        let weights = weights.map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)));
        let average = if half == Half::Policy { models.average.clone() } else { None };
        Ok(Copied { weights: weights.collect::<Result<_, PpoError>>()?, optimizer, average })
    }

    fn put_back(&self, models: &mut Models, half: Half) -> Result<(), PpoError> {
        for (name, var) in half.parameters(models) {
            if let Some(weights) = self.weights.get(name) {
                var.set(weights)?;
            }
        }
        half.forget_rounded(models);
        if let Some(state) = &self.optimizer {
            half.optimizer_mut(models).restore(state.copy()?)?;
        }
        if half == Half::Policy {
            models.average = self.average.clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        state,
        test_world::{World, bytes_of, share_of},
        update::Round,
    };
    use policy::{
        PolicyVersion, TokenId,
        sequence_batch::{Sequence, SequenceBatch},
    };
    use std::ops::ControlFlow;

    fn learn(world: &mut World) {
        let rollouts = world.rollouts(8, share_of(TokenId(3)));
        let round = Round { config: &world.config, update: 0, lineage: &[PolicyVersion::SFT], pretraining: &[] };
        let outcome = round.run(&mut world.models, &rollouts, &mut || ControlFlow::Continue(())).unwrap();
        assert!(outcome.has_new_policy());
    }

    fn fingerprint(world: &World) -> String {
        state::fingerprint(&world.models, 0).unwrap().to_string()
    }

    /// Goal: a whole snapshot brings back every bit, however often. Method: learn, take it, learn on, go back, twice; the whole
    /// state is compared by fingerprint.
    #[test]
    fn a_whole_snapshot_brings_every_bit_back() {
        let mut world = World::new(1);
        world.config.kl_adaptive = true;
        world.config.ema_decay = 0.5;
        learn(&mut world);
        assert!(world.models.average.is_some());
        let snapshot = Snapshot::of(&world.models, &world.config).unwrap();
        assert!(snapshot.is_whole());
        let before = fingerprint(&world);
        for _ in 0..2 {
            learn(&mut world);
            assert_ne!(fingerprint(&world), before);
            snapshot.restore(&mut world.models).unwrap();
            assert_eq!(fingerprint(&world), before);
            assert!(!world.models.is_spoilt);
        }
    }

    /// The same in bf16, whose copies of the weights must go back with them.
    #[test]
    fn the_copies_in_bf16_go_back_too() {
        if policy::kernels::bf16_level() == 0 {
            eprintln!("skipped: this processor does not multiply bf16");
            return;
        }
        let mut world = World::with(3, |config| config.dtype = "bf16".to_owned());
        let batch = SequenceBatch::new(vec![Sequence::new(&[TokenId(1)], &[TokenId(2), TokenId(3)])]);
        let read = |world: &World| world.models.policy.frozen_log_probs(&batch, &[1.0]).unwrap();
        let before = read(&world);
        let snapshot = Snapshot::of(&world.models, &world.config).unwrap();
        learn(&mut world);
        assert_ne!(read(&world), before);
        snapshot.restore_policy(&mut world.models).unwrap();
        assert_eq!(read(&world), before);
    }

    /// And beside frozen weights in bf16, of which there is no other copy.
    #[test]
    fn an_adapter_in_bf16_goes_back_beside_its_frozen_weights() {
        if policy::kernels::bf16_level() == 0 {
            eprintln!("skipped: this processor does not multiply bf16");
            return;
        }
        // Drawn in f32: the world's dice ask the tape, which needs the matrices.
        let rollouts = World::with(4, |config| config.lora_rank = 2).rollouts(8, share_of(TokenId(3)));
        let mut world = World::with(4, |config| (config.dtype, config.lora_rank) = ("bf16".to_owned(), 2));
        let snapshot = Snapshot::of(&world.models, &world.config).unwrap();
        let before = fingerprint(&world);
        for _ in 0..2 {
            let round = Round { config: &world.config, update: 0, lineage: &[PolicyVersion::SFT], pretraining: &[] };
            let outcome = round.run(&mut world.models, &rollouts, &mut || ControlFlow::Continue(())).unwrap();
            assert!(outcome.has_new_policy() && fingerprint(&world) != before);
            snapshot.restore(&mut world.models).unwrap();
            assert_eq!(fingerprint(&world), before);
        }
    }

    /// Goal: the snapshot of a large model costs its weights once, takes the policy back and owns up to the rest. Method: the
    /// same world with no room at all.
    #[test]
    fn beyond_its_room_a_snapshot_holds_the_policys_weights_alone() {
        let mut world = World::new(2);
        world.config.snapshot_mib = 0;
        let snapshot = Snapshot::of(&world.models, &world.config).unwrap();
        assert!(!snapshot.is_whole());
        let bits =
            |world: &World| (bytes_of(world.models.policy.parameters()), bytes_of(world.models.value.parameters()));
        let before = bits(&world);
        learn(&mut world);
        let learnt = bits(&world);
        assert!(learnt.0 != before.0 && learnt.1 != before.1);
        snapshot.restore_policy(&mut world.models).unwrap();
        assert_eq!(bits(&world), (before.0, learnt.1));
        assert!(world.models.policy_optimizer.state().step > 0, "the moments go on");
        assert_eq!(world.models.control.n_policy_rounds, 1, "and so does their warm-up");
        assert!(!world.models.is_spoilt);
        snapshot.restore(&mut world.models).unwrap();
        assert!(world.models.is_spoilt);
    }

    #[test]
    fn the_policy_alone_goes_back_and_the_value_model_stays() {
        let mut world = World::new(2);
        let snapshot = Snapshot::of(&world.models, &world.config).unwrap();
        let bits =
            |world: &World| (bytes_of(world.models.policy.parameters()), bytes_of(world.models.value.parameters()));
        let before = bits(&world);
        learn(&mut world);
        let learnt = bits(&world);
        assert_eq!(world.models.control.n_policy_rounds, 1);
        snapshot.restore_policy(&mut world.models).unwrap();
        assert_eq!(bits(&world), (before.0, learnt.1));
        assert_eq!((world.models.policy_optimizer.state().step, world.models.control.n_policy_rounds), (0, 0));
        assert!(world.models.value_optimizer.state().step > 0);
    }
}
