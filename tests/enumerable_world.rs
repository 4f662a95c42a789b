//! PPO against an optimum that is known.
//!
//! Goal: the production mathematics, put together as a trainer, find what they should find. Method: worlds so small that
//! every response can be listed, where max E[r] − β·KL has the closed form β·ln Z. The policy is a table with one row of
//! logits per prefix, so each gradient can be written down; token rewards, GAE, whitening, both losses and the schedule
//! are the learner's own. PPO must close 98 % of the gap between the reference and the optimum. That the learner's rounds do
//! it too, with their transformer, their optimiser, their weights and their rails, is shown beside them
//! (`ppo/src/update/tests/optimum.rs`).

use std::{fs, path::Path};

use ppo::{
    gae::{GaeOptions, gae},
    loss::{Aggregation, PolicyClip, PolicyTokens, ValueTokens, policy_loss, value_loss},
    masked::{self, Whitening},
    optimum::{kl_regularised_optimum, objective},
    schedule::linear_to_zero,
    token_rewards::token_rewards,
    update::{minibatches, permutation},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const UPDATES: u64 = 250;
const EPISODES: usize = 256;
const MINIBATCH: usize = 64;
const CLOSED: f64 = 0.98;

/// All responses of `length` tokens over a vocabulary; a state is a prefix.
struct World {
    vocab: usize,
    length: usize,
    /// Logits of the reference, `[state][vocab]`.
    reference: Vec<Vec<f64>>,
    /// One score per whole response, in the order of their numbers.
    scores: Vec<f64>,
    kl_coef: f64,
}

impl World {
    fn n_states(&self) -> usize {
        (0..self.length as u32).map(|t| self.vocab.pow(t)).sum()
    }

    /// The state after a token; prefixes of one length are numbered together.
    fn next(&self, state: usize, token: usize) -> usize {
        state * self.vocab + token + 1
    }

    /// Every response: its states, its tokens.
    fn responses(&self) -> Vec<Vec<(usize, usize)>> {
        (0..self.vocab.pow(self.length as u32))
            .map(|number| {
                let mut state = 0;
                let digit = |t: usize| number / self.vocab.pow((self.length - 1 - t) as u32) % self.vocab;
                (0..self.length)
                    .map(|t| {
                        let step = (state, digit(t));
                        state = self.next(state, digit(t));
                        step
                    })
                    .collect()
            })
            .collect()
    }

    /// The probability of every response under a table.
    fn probs(&self, table: &[Vec<f64>]) -> Vec<f64> {
        let log_prob =
            |steps: &Vec<(usize, usize)>| steps.iter().map(|(s, a)| log_softmax(&table[*s])[*a]).sum::<f64>();
        self.responses().iter().map(|steps| log_prob(steps).exp()).collect()
    }

    /// Which part of the way from the reference to the optimum a table has gone.
    fn closed(&self, table: &[Vec<f64>]) -> f64 {
        let reference = self.probs(&self.reference);
        let worth = |probs: &[f64]| objective(probs, &reference, &self.scores, self.kl_coef);
        let best = kl_regularised_optimum(&reference, &self.scores, self.kl_coef).objective;
        (worth(&self.probs(table)) - worth(&reference)) / (best - worth(&reference))
    }
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
    logits.iter().map(|l| l - log_sum).collect()
}

/// Adam over one table.
struct Adam {
    first: Vec<Vec<f64>>,
    second: Vec<Vec<f64>>,
    step: i32,
}

impl Adam {
    fn new(rows: usize, width: usize) -> Adam {
        Adam { first: vec![vec![0.0; width]; rows], second: vec![vec![0.0; width]; rows], step: 0 }
    }

    fn step(&mut self, table: &mut [Vec<f64>], gradient: &[Vec<f64>], rate: f64) {
        self.step += 1;
        let (c1, c2) = (1.0 - 0.9_f64.powi(self.step), 1.0 - 0.95_f64.powi(self.step));
        for (row, slopes) in gradient.iter().enumerate() {
            for (i, g) in slopes.iter().enumerate() {
                let (m, v) = (&mut self.first[row][i], &mut self.second[row][i]);
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.95 * *v + 0.05 * g * g;
                table[row][i] -= rate * (*m / c1) / ((*v / c2).sqrt() + 1e-5);
            }
        }
    }
}

/// One round's episodes, flat.
#[derive(Default)]
struct Round {
    steps: Vec<(usize, usize)>,
    old: Vec<f64>,
    old_values: Vec<f64>,
    advantages: Vec<f64>,
    returns: Vec<f64>,
}

struct Trainer<'a> {
    world: &'a World,
    policy: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
    policy_adam: Adam,
    value_adam: Adam,
    dice: ChaCha8Rng,
}

impl<'a> Trainer<'a> {
    fn new(world: &'a World, seed: u64) -> Trainer<'a> {
        let n = world.n_states();
        Trainer {
            world,
            policy: world.reference.clone(),
            values: vec![vec![0.0]; n],
            policy_adam: Adam::new(n, world.vocab),
            value_adam: Adam::new(n, 1),
            dice: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn draw(&mut self, state: usize) -> usize {
        let mut rest: f64 = self.dice.random();
        let drawn = log_softmax(&self.policy[state]).iter().position(|l| {
            rest -= l.exp();
            rest < 0.0
        });
        drawn.unwrap_or(self.world.vocab - 1)
    }

    fn episode(&mut self, round: &mut Round) {
        let world = self.world;
        let (mut state, mut number, mut steps) = (0, 0, Vec::new());
        for _ in 0..world.length {
            let token = self.draw(state);
            steps.push((state, token));
            number = number * world.vocab + token;
            state = world.next(state, token);
        }
        let read = |table: &[Vec<f64>]| steps.iter().map(|(s, a)| log_softmax(&table[*s])[*a]).collect::<Vec<f64>>();
        let (old, reference) = (read(&self.policy), read(&world.reference));
        let values: Vec<f64> = steps.iter().map(|(s, _)| self.values[*s][0]).collect();
        let mask = vec![true; steps.len()];
        let rewards = token_rewards(&old, &reference, &mask, world.scores[number], world.kl_coef);
        let got = gae(&rewards, &values, &mask, 0.0, GaeOptions { gamma: 1.0, lambda: 0.95 });
        round.steps.extend(steps);
        round.old.extend(old);
        round.old_values.extend(values);
        round.advantages.extend(got.advantages);
        round.returns.extend(got.returns);
    }

    fn update(&mut self, update: u64) {
        let mut round = Round::default();
        (0..EPISODES).for_each(|_| self.episode(&mut round));
        let everything = vec![true; round.steps.len()];
        round.advantages = masked::whiten(&round.advantages, &everything, Whitening::default());
        let rate = linear_to_zero(0.03, update, UPDATES);
        for members in minibatches(&permutation(1, update, 0, EPISODES), MINIBATCH) {
            let tokens: Vec<usize> =
                members.iter().flat_map(|i| i * self.world.length..(i + 1) * self.world.length).collect();
            self.minibatch(&round, &tokens, rate);
        }
    }

    fn minibatch(&mut self, round: &Round, tokens: &[usize], rate: f64) {
        let pick = |x: &[f64]| tokens.iter().map(|t| x[*t]).collect::<Vec<f64>>();
        let steps: Vec<(usize, usize)> = tokens.iter().map(|t| round.steps[*t]).collect();
        let mask = vec![true; tokens.len()];
        let coefficients =
            Aggregation::TokenMean.coefficients(&mask, &vec![self.world.length; tokens.len() / self.world.length]);
        let log_probs: Vec<f64> = steps.iter().map(|(s, a)| log_softmax(&self.policy[*s])[*a]).collect();
        let values: Vec<f64> = steps.iter().map(|(s, _)| self.values[*s][0]).collect();
        let policy = policy_loss(
            PolicyTokens {
                log_probs: &log_probs,
                old: &pick(&round.old),
                advantages: &pick(&round.advantages),
                weights: &vec![1.0; tokens.len()],
                coefficients: &coefficients,
                mask: &mask,
            },
            PolicyClip { low: 0.2, high: 0.2, dual: None },
        );
        let value = value_loss(
            ValueTokens {
                values: &values,
                old: &pick(&round.old_values),
                returns: &pick(&round.returns),
                coefficients: &coefficients,
                mask: &mask,
            },
            Some(0.2),
        );
        let mut policy_slope = vec![vec![0.0; self.world.vocab]; self.policy.len()];
        let mut value_slope = vec![vec![0.0]; self.values.len()];
        for (t, (state, token)) in steps.iter().enumerate() {
            // d ln π(token) / d logit_i = [i = token] − π_i
            let probs = log_softmax(&self.policy[*state]);
            for (i, log_prob) in probs.iter().enumerate() {
                policy_slope[*state][i] += policy.grad[t] * (f64::from(u8::from(i == *token)) - log_prob.exp());
            }
            value_slope[*state][0] += value.grad[t];
        }
        self.policy_adam.step(&mut self.policy, &policy_slope, rate);
        self.value_adam.step(&mut self.values, &value_slope, rate);
    }
}

fn assert_closes_the_gap(world: &World) {
    assert_eq!(world.closed(&world.reference), 0.0);
    let mut trainer = Trainer::new(world, 7);
    (0..UPDATES).for_each(|update| trainer.update(update));
    let closed = world.closed(&trainer.policy);
    assert!(closed >= CLOSED, "PPO closed {:.2} % of the gap", 100.0 * closed);
}

#[test]
fn ppo_finds_the_optimum_of_the_golden_bandits() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/22_kl_regularised_optimum.json");
    let file: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for case in file["cases"].as_array().unwrap() {
        let numbers = |key: &str| -> Vec<f64> {
            case["inputs"][key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let reference = numbers("ref_probs");
        let world = World {
            vocab: reference.len(),
            length: 1,
            reference: vec![reference.iter().map(|p| p.ln()).collect()],
            scores: numbers("rewards"),
            kl_coef: case["inputs"]["beta"].as_f64().unwrap(),
        };
        assert_closes_the_gap(&world);
    }
}

/// Three tokens, three steps: credit must travel back from the last token to the first.
#[test]
fn ppo_finds_the_optimum_where_the_reward_comes_late() {
    let mut dice = ChaCha8Rng::seed_from_u64(3);
    let mut world = World { vocab: 3, length: 3, reference: Vec::new(), scores: Vec::new(), kl_coef: 0.3 };
    world.reference = (0..world.n_states()).map(|_| (0..3).map(|_| dice.random_range(-0.5..0.5)).collect()).collect();
    world.scores = (0..27).map(|_| dice.random_range(-1.0..1.0)).collect();
    assert_closes_the_gap(&world);
}
