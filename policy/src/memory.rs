//! How much memory training will take, said before any of it is asked for.
//!
//! A process that runs out of memory is killed without a word, hours after it was started, and takes its machine's other
//! work along. So everybody who trains makes a [`MemoryPlan`] first, shows it, and refuses with its numbers when it does
//! not fit. It counts what grows with the model and with the batch; what it cannot know (allocator, code, page tables)
//! is in `OVERHEAD`. What a pass keeps it asks of the pass itself ([`Keep::bytes_per_token`]).

pub(crate) mod allocator;
mod room;

use std::fmt;

pub use room::{Room, machine, meminfo};

use crate::{
    architecture::Shape, causal_lm::LOGIT_BYTES, kernels::Precision, model_error::ModelError, transformer::Keep,
};

/// Bytes of one number while training: weights, moments, activations are all f32.
const NUMBER: u64 = 4;
/// Program, libraries, allocator, thread stacks.
const OVERHEAD: u64 = 64 << 20;

/// One model that training keeps.
#[derive(Clone, Copy, Debug)]
pub struct Role<'a> {
    /// `policy`, `reference`, `value model`, …
    pub name: &'a str,
    /// Its trunk.
    pub shape: &'a Shape,
    /// What of it is in memory, and learns.
    pub held: Held,
}

/// What of a model is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// All weights; they learn.
    Trained,
    /// All weights; they stay as they are.
    Frozen,
    /// So many numbers of an adapter; they learn, beside another role's weights.
    Adapter(usize),
}

impl Role<'_> {
    fn n_trained(&self) -> usize {
        match self.held {
            Held::Trained => self.shape.n_parameters(),
            Held::Frozen => 0,
            Held::Adapter(n) => n,
        }
    }

    /// Bytes of its numbers, with their bf16 copies where products are computed in that. Frozen weights are then in memory in
    /// bf16 alone, but for the embedding table.
    fn bytes(&self, precision: Precision) -> u64 {
        let (all, table) = (self.shape.n_parameters() as u64, (self.shape.vocab_size * self.shape.hidden) as u64);
        match (self.held, precision) {
            (Held::Adapter(n), _) => n as u64 * NUMBER,
            (_, Precision::F32) => all * NUMBER,
            (Held::Trained, Precision::Bf16) => all * (NUMBER + 2),
            (Held::Frozen, Precision::Bf16) => all * 2 + table * NUMBER,
        }
    }
}

/// The widest pass: where activations and logits peak.
#[derive(Clone, Copy, Debug)]
pub struct WidestPass {
    /// Tokens in one forward and backward pass.
    pub tokens: usize,
    /// What forward keeps for backward.
    pub keep: Keep,
    /// In what matrix products are computed.
    pub precision: Precision,
    /// Whether tokens are predicted: a scalar head has no logits.
    pub has_logits: bool,
    /// Passes that run side by side ([`lanes_of`](crate::threads::lanes_of)).
    pub lanes: usize,
}

/// What training will take, item by item, and what there is.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    /// What it is for, and bytes.
    pub items: Vec<(String, u64)>,
    /// What the machine and its control group still give; `None` where nobody says.
    pub room: Option<Room>,
}

impl MemoryPlan {
    /// Plans for models that live together while one after the other takes optimiser steps.
    ///
    /// - `roles`: every model in memory;
    /// - `pass`: the widest pass of any of them;
    /// - `others`: what else the caller keeps, in bytes.
    #[must_use]
    pub fn new(roles: &[Role<'_>], pass: WidestPass, others: &[(&str, u64)]) -> MemoryPlan {
        let trained = || roles.iter().filter(|role| role.n_trained() > 0);
        let largest = |of: &dyn Fn(&Shape) -> u64| trained().map(|role| of(role.shape)).max().unwrap_or(0);
        let lanes = pass.lanes as u64;
        // Micro-batches that run side by side bring a sum each; one alone adds into the whole.
        let sums = if lanes == 1 { 1 } else { lanes + 1 };
        let names: Vec<&str> = roles.iter().map(|role| role.name).collect();
        let mut items = vec![
            (format!("weights ({})", names.join(", ")), roles.iter().map(|role| role.bytes(pass.precision)).sum()),
            ("gradients".to_owned(), trained().map(|role| role.n_trained() as u64 * NUMBER * sums).max().unwrap_or(0)),
            ("Adam's moments".to_owned(), trained().map(|role| 2 * NUMBER * role.n_trained() as u64).sum()),
            (
                format!("activations ({} tokens a pass)", pass.tokens),
                largest(&|shape| lanes * pass.tokens as u64 * bytes_per_token(shape, pass.keep)),
            ),
        ];
        if pass.has_logits {
            // A piece of the logits, and the gradient in them.
            let logits = |shape: &Shape| (pass.tokens * shape.vocab_size) as u64 * NUMBER;
            let piece = |shape: &Shape| 2 * lanes * logits(shape).min(LOGIT_BYTES as u64);
            items.push(("logits".to_owned(), largest(&piece)));
        }
        items.extend(others.iter().map(|(what, bytes)| ((*what).to_owned(), *bytes)));
        items.push(("program".to_owned(), OVERHEAD));
        MemoryPlan { items, room: machine() }
    }

    /// All items together, bytes.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.items.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Refuses what does not fit.
    ///
    /// # Errors
    /// [`ModelError::Memory`] with the numbers.
    pub fn check(&self) -> Result<(), ModelError> {
        match &self.room {
            Some(room) if self.needed() > room.available => {
                Err(ModelError::Memory { needed: mib(self.needed()), room: mib(room.available), limit: room.limit })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory, MiB")?;
        for (what, bytes) in &self.items {
            writeln!(f, "  {what:<44}{:>10}", mib(*bytes))?;
        }
        write!(f, "  {:<44}{:>10}", "together", mib(self.needed()))?;
        match &self.room {
            Some(room) => write!(f, "   of {} that {} leaves", mib(room.available), room.limit),
            None => write!(f, "   (nobody says how much there is)"),
        }
    }
}

/// Bytes of a model's weights as the trainer holds them.
#[must_use]
pub fn weight_bytes(shape: &Shape) -> u64 {
    shape.n_parameters() as u64 * NUMBER
}

/// Bytes that one token takes at the peak of a pass: what forward keeps, and what the backward of one block works with
/// (the stream and its gradients, query, key and value with theirs, gate and up with theirs and their product).
fn bytes_per_token(shape: &Shape, keep: Keep) -> u64 {
    let (query, key) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
    let working = 8 * shape.hidden + 3 * query + 3 * key + 4 * shape.ffn;
    keep.bytes_per_token(shape) as u64 + working as u64 * NUMBER
}

/// Whole MiB, rounded up.
pub(crate) fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tokens: usize, roles: usize) -> MemoryPlan {
        let shape = Shape::llama(1000, 64, 2, 2, 2, 128);
        let role = Role { name: "policy", shape: &shape, held: Held::Trained };
        let pass = WidestPass { tokens, keep: Keep::All, precision: Precision::F32, has_logits: true, lanes: 2 };
        MemoryPlan::new(&vec![role; roles], pass, &[("the file", 1 << 20)])
    }

    #[test]
    fn a_plan_grows_with_models_and_with_the_pass() {
        let small = plan(100, 1);
        let weights = Shape::llama(1000, 64, 2, 2, 2, 128).n_parameters() as u64 * 4;
        assert_eq!(small.items[0], ("weights (policy)".to_owned(), weights));
        assert_eq!(small.items[2].1, 2 * weights);
        assert!(plan(200, 1).needed() > small.needed());
        assert_eq!(plan(100, 2).needed() - small.needed(), 3 * weights, "weights and moments, not gradients");
    }

    #[test]
    fn adapters_cost_what_they_hold() {
        let shape = Shape::llama(1000, 64, 2, 2, 2, 128);
        let pass = WidestPass { tokens: 10, keep: Keep::All, precision: Precision::F32, has_logits: true, lanes: 2 };
        let roles = |held: [Held; 2]| held.map(|held| Role { name: "x", shape: &shape, held });
        let needed = |held| MemoryPlan::new(&roles(held), pass, &[]).needed();
        let (frozen, beside) = (needed([Held::Frozen; 2]), needed([Held::Frozen, Held::Adapter(1000)]));
        let n_sums = 3;
        let others = beside + weight_bytes(&shape) - frozen;
        assert!(others >= 4 * 1000 * (1 + 2 + n_sums), "weights, moments, a gradient a lane and their sum: {others}");
        assert!(beside < needed([Held::Frozen, Held::Trained]));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_numbers() {
        let room = Room { available: 1 << 20, limit: "the machine" };
        let refused = MemoryPlan { room: Some(room), ..plan(100, 1) }.check().unwrap_err().to_string();
        assert!(refused.contains("of 1 MiB") && refused.contains("the machine"), "{refused}");
        assert!(MemoryPlan { room: None, ..plan(100, 1) }.check().is_ok());
        assert!(plan(1 << 40, 1).check().is_err(), "no machine has that much");
    }

    #[test]
    fn a_plan_is_a_table_that_ends_with_its_sum() {
        let plan = plan(100, 1);
        let text = plan.to_string();
        assert!(text.contains("logits  ") && text.contains("the file"), "{text}");
        assert!(text.lines().last().unwrap().contains(&mib(plan.needed()).to_string()), "{text}");
    }
}
