//! Where a round began, to go back to bit for bit: in memory for small models, in a file for large ones.
//!
//! Policy, value model and their moments are six times the policy in f32. For a small model a copy costs nothing. For one of
//! 135 M parameters it is 3.2 GB, more than everything else that an update needs; so from [`MEMORY_BYTES_MAX`] on it is
//! written to a file that has no name, in [`Models::scratch`]: the kernel keeps what it has memory for, writes the rest, and
//! forgets the file however the process ends. It is not synced: whoever needs it is this process.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufReader, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use candle_core::Tensor;
use policy::{
    model_error::ModelError,
    optimizer::{AdamState, Moments},
};

use crate::{
    averaging::WeightAverage,
    error::PpoError,
    models::Models,
    state::{Half, read_half, write_half},
};

/// Largest snapshot that stays in memory: copied in a tenth of a second, and below what a process of the size of such a
/// model (20 M parameters) notices.
pub const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// Everything that a round changes, at one moment.
pub struct Snapshot {
    halves: Halves,
    control: BTreeMap<String, f64>,
}

enum Halves {
    Memory([Copied; 2]),
    File(Unnamed),
}

/// One model and its optimiser.
struct Copied {
    weights: BTreeMap<String, Tensor>,
    optimizer: AdamState,
    /// Cheap to keep: its tensors are replaced, never written into.
    average: Option<WeightAverage>,
}

/// A file without a name, and where its second half begins.
struct Unnamed {
    file: File,
    /// Where its name was.
    path: PathBuf,
    starts: [u64; 2],
}

impl Snapshot {
    pub(crate) fn of(models: &Models) -> Result<Snapshot, PpoError> {
        Snapshot::within(models, MEMORY_BYTES_MAX)
    }

    fn within(models: &Models, memory_bytes_max: u64) -> Result<Snapshot, PpoError> {
        let n_bytes: u64 = Half::ALL.into_iter().map(|half| half.n_bytes(models)).sum();
        let halves = match &models.scratch {
            Some(folder) if n_bytes > memory_bytes_max => Halves::File(Unnamed::write(models, folder)?),
            _ => Halves::Memory([Copied::of(models, Half::Policy)?, Copied::of(models, Half::Value)?]),
        };
        Ok(Snapshot { halves, control: models.control() })
    }

    /// Puts everything back.
    pub(crate) fn restore(&self, models: &mut Models) -> Result<(), PpoError> {
        self.put_back(models, Half::Policy)?;
        self.put_back(models, Half::Value)?;
        models.set_control(&self.control);
        Ok(())
    }

    /// Puts the policy and its optimiser back.
    pub(crate) fn restore_policy(&self, models: &mut Models) -> Result<(), PpoError> {
        self.put_back(models, Half::Policy)
    }

    fn put_back(&self, models: &mut Models, half: Half) -> Result<(), PpoError> {
        match &self.halves {
            Halves::Memory(copied) => copied[half as usize].put_back(models, half),
            Halves::File(unnamed) => unnamed.put_back(models, half),
        }
    }
}

impl Copied {
    fn of(models: &Models, half: Half) -> Result<Copied, PpoError> {
        // Real copies: optimisers may write into the storage that they hand out.
        let state = half.optimizer(models).state();
        let both = |m: &Moments| Ok::<_, PpoError>(Moments { first: m.first.copy()?, second: m.second.copy()? });
        let moments = state.moments.iter().map(|(name, m)| Ok((name.clone(), both(m)?)));
        let optimizer = AdamState { step: state.step, moments: moments.collect::<Result<_, PpoError>>()? };
        let weights = half.parameters(models).iter();
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
        let both = |m: &Moments| Ok::<_, PpoError>(Moments { first: m.first.copy()?, second: m.second.copy()? });
        let moments = self.optimizer.moments.iter().map(|(name, m)| Ok((name.clone(), both(m)?)));
        let state = AdamState { step: self.optimizer.step, moments: moments.collect::<Result<_, PpoError>>()? };
        half.optimizer_mut(models).restore(state)?;
        if half == Half::Policy {
            models.average = self.average.clone();
        }
        Ok(())
    }
}

impl Unnamed {
    fn write(models: &Models, folder: &Path) -> Result<Unnamed, PpoError> {
        static N_WRITTEN: AtomicU64 = AtomicU64::new(0);
        let n = N_WRITTEN.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("snapshot-{}-{n}", std::process::id()));
        let io_error = |source| ModelError::Io { path: path.clone(), source };
        // Not `create`: a file that is there already belongs to somebody.
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(io_error)?;
        fs::remove_file(&path).map_err(io_error)?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        write_half(&mut out, models, Half::Policy, &io_error)?;
        let second = out.stream_position().map_err(io_error)?;
        write_half(&mut out, models, Half::Value, &io_error)?;
        out.flush().map_err(io_error)?;
        drop(out);
        Ok(Unnamed { file, path, starts: [0, second] })
    }

    fn put_back(&self, models: &mut Models, half: Half) -> Result<(), PpoError> {
        let io_error = |source| ModelError::Io { path: self.path.clone(), source };
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.starts[half as usize])).map_err(io_error)?;
        Ok(read_half(&mut BufReader::with_capacity(1 << 20, file), models, half, &io_error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        state,
        test_world::{World, share_of},
        update::Round,
    };
    use policy::{PolicyVersion, TokenId};
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

    /// Goal: memory and file bring back the same bits, however often. Method: learn, take both, learn on, go back by each in
    /// turn; the whole state is compared by fingerprint.
    #[test]
    fn a_snapshot_in_a_file_is_worth_one_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut world = World::new(1);
        world.config.kl_adaptive = true;
        world.config.ema_decay = 0.5;
        learn(&mut world);
        assert!(world.models.average.is_some());
        world.models.scratch = Some(folder.path().to_owned());
        let (memory, file) = (Snapshot::of(&world.models).unwrap(), Snapshot::within(&world.models, 0).unwrap());
        assert!(matches!((&memory.halves, &file.halves), (Halves::Memory(_), Halves::File(_))));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
        let before = fingerprint(&world);
        for snapshot in [&file, &memory, &file] {
            learn(&mut world);
            assert_ne!(fingerprint(&world), before);
            snapshot.restore(&mut world.models).unwrap();
            assert_eq!(fingerprint(&world), before);
        }
    }

    #[test]
    fn the_policy_alone_goes_back_and_the_value_model_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut world = World::new(2);
        world.models.scratch = Some(folder.path().to_owned());
        let snapshot = Snapshot::within(&world.models, 0).unwrap();
        let bits = |world: &World| {
            let of = crate::test_world::bytes_of;
            (of(world.models.policy.parameters()), of(world.models.value.parameters()))
        };
        let before = bits(&world);
        learn(&mut world);
        let learnt = bits(&world);
        snapshot.restore_policy(&mut world.models).unwrap();
        assert_eq!(bits(&world), (before.0, learnt.1));
        assert_eq!(world.models.policy_optimizer.state().step, 0);
        assert!(world.models.value_optimizer.state().step > 0);
    }
}
