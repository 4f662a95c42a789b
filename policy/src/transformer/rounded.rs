//! bf16 copies of a model's matrices, kept from pass to pass.
//!
//! Rounding 135 M numbers reads and writes 0.8 GB, which costs a tenth of a second; an update would do it before every step
//! of each model. So copies are made once, and the optimiser rounds what it changes while it has it in hand
//! ([`AdamW::keeping`](crate::optimizer::AdamW::keeping)). Only a model whose weights nobody else writes may keep copies:
//! who writes them by hand must call [`Rounded::forget`].

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use half::bf16;

use crate::kernels::matrix::{Matrix, Values, rounded};

/// Copies by the names of their parameters; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Rounded(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_kept: AtomicBool,
    is_frozen: AtomicBool,
    copies: RwLock<Copies>,
}

/// The copies themselves.
#[derive(Debug, Default)]
pub(crate) struct Copies(BTreeMap<String, Copied>);

#[derive(Debug)]
struct Copied {
    n_in: usize,
    numbers: Vec<bf16>,
}

impl Rounded {
    /// Copies outlive a pass from now on: somebody keeps them in step with the weights.
    pub(crate) fn keep(&self) {
        self.0.is_kept.store(true, Ordering::Release);
    }

    /// From now on the copies are all that there is of these weights, which nobody writes any more.
    pub(crate) fn freeze(&self) {
        self.0.is_frozen.store(true, Ordering::Release);
    }

    /// The weights were written by hand: the next pass rounds them anew. Frozen ones were not, and stay.
    pub fn forget(&self) {
        if !self.0.is_frozen.load(Ordering::Acquire) {
            self.write().0.clear();
        }
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Copies> {
        // Whoever panicked while writing was the optimiser, whose weights are then lost too.
        self.0.copies.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Copies> {
        self.0.copies.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies of these matrices (name, numbers, width), which are made where they are missing.
    pub(crate) fn of<'a>(&self, matrices: impl Iterator<Item = (&'a str, &'a [f32], usize)> + Clone) -> OpenCopies<'_> {
        if !self.0.is_kept.load(Ordering::Acquire) {
            let mut copies = Copies::default();
            copies.make(matrices);
            return OpenCopies::Own(copies);
        }
        // Frozen weights have several readers, the judge of requests and the learner among them: none waits for another.
        let is_whole = |copies: &Copies| matrices.clone().all(|(name, ..)| copies.0.contains_key(name));
        if !is_whole(&self.read()) {
            self.write().make(matrices);
        }
        OpenCopies::Kept(self.read())
    }
}

impl Copies {
    fn make<'a>(&mut self, matrices: impl Iterator<Item = (&'a str, &'a [f32], usize)>) {
        for (name, numbers, n_in) in matrices {
            if !self.0.contains_key(name) {
                self.0.insert(name.to_owned(), Copied { n_in, numbers: rounded(numbers) });
            }
        }
    }

    /// One of them, to be written beside its parameter; `None` where no pass has wanted it yet.
    pub(crate) fn numbers_mut(&mut self, name: &str) -> Option<&mut [bf16]> {
        self.0.get_mut(name).map(|copied| copied.numbers.as_mut_slice())
    }

    /// One of them as a factor, and its name as it lives here.
    pub(crate) fn matrix(&self, name: &str) -> Option<(&str, Matrix<'_>)> {
        let (name, copied) = self.0.get_key_value(name)?;
        let (rows, cols) = (copied.numbers.len() / copied.n_in, copied.n_in);
        Some((name, Matrix { rows, cols, values: Values::Bf16(copied.numbers.as_slice().into()) }))
    }
}

/// Copies for the time of some passes.
pub(crate) enum OpenCopies<'a> {
    Own(Copies),
    Kept(RwLockReadGuard<'a, Copies>),
}

impl Deref for OpenCopies<'_> {
    type Target = Copies;

    fn deref(&self) -> &Copies {
        match self {
            OpenCopies::Own(copies) => copies,
            OpenCopies::Kept(copies) => copies,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use candle_core::Device;

    use crate::{
        causal_lm::CausalLm,
        checkpoint::{Checkpoint, WeightType},
        kernels::{Precision, bf16_level},
        optimizer::{AdamConfig, AdamW},
        scalar_model::ScalarModel,
        transformer::tests::{batch, gradients_of, tiny, uneven_checkpoint},
        transformer::{Adapter, LoraShape},
    };

    /// Goal: whoever judges with frozen weights does not wait for whoever learns beside them. Method: a pass of one model is held
    /// open while another thread computes with a second one on the same weights.
    #[test]
    fn models_on_the_same_frozen_weights_do_not_wait_for_each_other() {
        if bf16_level() == 0 {
            eprintln!("skipped: this processor does not multiply bf16");
            return;
        }
        let policy = CausalLm::from_checkpoint(&uneven_checkpoint(&tiny(), 5), &Device::Cpu).unwrap();
        let base = policy.with_precision(Precision::Bf16).frozen().unwrap();
        let adapter = |seed| Adapter::new(&tiny(), LoraShape { rank: 2, alpha: 4.0 }, seed, &Device::Cpu).unwrap();
        let learner = base.clone().with_adapter(adapter(1));
        let judge = ScalarModel::beside(&base, adapter(2)).unwrap();
        let (scored, scores) = mpsc::channel();
        let finished = learner.open(|_| {
            std::thread::spawn(move || drop(scored.send(judge.scores_at_last(&batch()).map(|scores| scores.len()))));
            Ok(scores.recv_timeout(Duration::from_secs(20)))
        });
        assert_eq!(finished.unwrap().expect("the judge waits for the learner").unwrap(), 3);
    }

    /// Goal: kept copies are those of the weights at any time. Method: a model made anew from the same weights, after a step of
    /// the optimiser, after weights were written by hand, and with the f32 matrices gone.
    #[test]
    fn kept_copies_are_those_of_the_weights() {
        if bf16_level() == 0 {
            eprintln!("skipped: this processor does not multiply bf16");
            return;
        }
        let checkpoint = uneven_checkpoint(&tiny(), 5);
        let rounding = |checkpoint: &Checkpoint| {
            CausalLm::from_checkpoint(checkpoint, &Device::Cpu).unwrap().with_precision(Precision::Bf16)
        };
        let model = rounding(&checkpoint);
        let anew = |model: &CausalLm| rounding(&model.to_checkpoint(&checkpoint, WeightType::F32).unwrap());
        let read = |model: &CausalLm| model.frozen_log_probs(&batch(), &[1.0, 0.5, 2.0]).unwrap();
        let mut adam = AdamW::new(model.parameters(), AdamConfig::default()).unwrap().keeping(model.rounded());
        let before = read(&model);
        adam.step(&gradients_of(&model), 0.01).unwrap();
        assert_ne!(read(&model), before);
        assert_eq!(read(&model), read(&anew(&model)));
        for var in model.parameters().values() {
            var.set(&(var.as_detached_tensor() * 0.9).unwrap()).unwrap();
        }
        model.rounded().forget();
        assert_eq!(read(&model), read(&anew(&model)));
        let frozen = anew(&model).frozen().unwrap();
        assert_eq!(read(&frozen), read(&model));
        frozen.rounded().forget();
        assert_eq!(read(&frozen), read(&model), "there is nothing to make them from again");
        assert!(!frozen.parameters().contains_key("blk.0.attn_q.weight"));
    }
}
