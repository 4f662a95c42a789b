//! How much memory training will take, said before any of it is asked for.
//!
//! A process that runs out of memory is killed without a word, hours after it was started, and takes its machine's other
//! work along. So everybody who trains makes a [`MemoryPlan`] first, shows it, and refuses with its numbers when it does
//! not fit. It counts what grows with the model and with the batch; what it cannot know (allocator, code, page tables)
//! is in `OVERHEAD`. The counts of activations follow `transformer` as it is: whoever changes what a layer keeps for its
//! backward changes `kept_per_token`.

mod room;

use std::fmt;

pub use room::{Room, machine, meminfo};

use crate::{architecture::Shape, model_error::ModelError, threads::lanes_of};

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
    /// Whether it has an optimiser.
    pub is_trained: bool,
}

/// The widest pass: where activations and logits peak.
#[derive(Clone, Copy, Debug)]
pub struct WidestPass {
    /// Tokens in one forward and backward pass.
    pub tokens: usize,
    /// Rows of logits that exist at once; 0 for a scalar head.
    pub logit_rows: usize,
    /// Threads of the learner.
    pub n_threads: usize,
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
        let trained = || roles.iter().filter(|role| role.is_trained).map(|role| role.shape);
        let largest = |of: &dyn Fn(&Shape) -> u64| trained().map(of).max().unwrap_or(0);
        let lanes = |shape: &Shape| lanes_of(shape.n_parameters(), pass.n_threads) as u64;
        let bytes = |n: usize| n as u64 * NUMBER;
        let names: Vec<&str> = roles.iter().map(|role| role.name).collect();
        let mut items = vec![
            (
                format!("weights ({})", names.join(", ")),
                roles.iter().map(|role| bytes(role.shape.n_parameters())).sum(),
            ),
            // The sum, and beside it what each micro-batch in flight adds to it.
            ("gradients".to_owned(), largest(&|shape| bytes(shape.n_parameters()) * (1 + lanes(shape)))),
            ("Adam's moments".to_owned(), trained().map(|shape| 2 * bytes(shape.n_parameters())).sum()),
            // Weights and both moments of the largest matrix are written beside the old ones.
            ("Adam's step".to_owned(), largest(&|shape| 3 * bytes(largest_matrix(shape)))),
            (
                format!("activations ({} tokens a pass)", pass.tokens),
                largest(&|shape| lanes(shape) * bytes(pass.tokens * kept_per_token(shape))),
            ),
        ];
        if pass.logit_rows > 0 {
            // The logits, their softmax and its gradient.
            let logits = |shape: &Shape| lanes(shape) * 3 * bytes(pass.logit_rows * shape.vocab_size);
            items.push((format!("logits ({} rows)", pass.logit_rows), largest(&logits)));
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

/// Numbers that one token leaves behind in a forward pass until backward has used them.
///
/// A block keeps its two normed inputs, the residual stream after each half and what each half adds to it (6 × hidden);
/// query, key, value, the rotated query and key, and the heads' output; gate, up and their product. While backward is in one
/// block its gradients, and what the allocator has not given back, take about two more. Measured (peak of the process, MiB,
/// against the plan): 30 blocks of 576, 512 tokens a pass 3,112 of 3,161; 4 blocks of 128, 9,600 tokens in each of two
/// lanes 1,177 of 1,308.
fn kept_per_token(shape: &Shape) -> usize {
    let (query, key) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
    let block = 6 * shape.hidden + 3 * query + 3 * key + 3 * shape.ffn;
    (shape.n_layers + 2) * block + 3 * shape.hidden
}

fn largest_matrix(shape: &Shape) -> usize {
    shape.hidden * shape.vocab_size.max(shape.ffn).max(shape.n_heads * shape.head_dim)
}

/// Whole MiB, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tokens: usize, roles: usize) -> MemoryPlan {
        let shape = Shape::llama(1000, 64, 2, 2, 2, 128);
        let role = Role { name: "policy", shape: &shape, is_trained: true };
        let pass = WidestPass { tokens, logit_rows: tokens, n_threads: 2 };
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
        assert!(text.contains("logits (100 rows)") && text.contains("the file"), "{text}");
        assert!(text.lines().last().unwrap().contains(&mib(plan.needed()).to_string()), "{text}");
    }
}
