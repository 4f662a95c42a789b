//! A language of eleven tokens and a model of a few thousand weights, for tests of whole rounds.

use std::collections::BTreeMap;

use candle_core::{Device, Var};
use policy::{
    FinishReason, LogProb, PolicyVersion, Rollout, RolloutId, SampledToken, SamplingParams, TokenId,
    architecture::{Shape, llama::TOKEN_EMBEDDING},
    byte_pair::Bpe,
    checkpoint::Checkpoint,
    sequence_batch::Sequence,
    transformer::random_checkpoint,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reward::{Score, Scored, ScoredRollout};

use crate::{
    models::{Models, frozen},
    value_model,
};

/// Tokens of the language.
pub(crate) const VOCAB: usize = 11;
/// The end token.
pub(crate) const END: TokenId = TokenId(0);
/// Responses are cut here.
const LENGTH_MAX: usize = 8;

/// A model that llama.cpp serves: 270 tokens, two layers, a chat template, random weights.
pub(crate) fn served_model() -> Checkpoint {
    served_model_of(2)
}

/// The same of so many layers: an engine serves it beside the other, and takes longer for it.
pub(crate) fn served_model_of(n_layers: usize) -> Checkpoint {
    let specials = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"];
    let bpe = Bpe::learn(["a sea of blue, a blue sea"].into_iter(), 270, &specials).unwrap();
    let mut checkpoint = random_checkpoint(&Shape::llama(bpe.size(), 32, n_layers, 4, 2, 64), 7).unwrap();
    checkpoint.metadata.extend(bpe.metadata("{{ messages[0]['content'] }}"));
    checkpoint
}

/// Models, knobs, and the dice that draw rollouts from the policy.
pub(crate) struct World {
    pub(crate) models: Models,
    pub(crate) config: config::Ppo,
    /// For `ppo.ptx`.
    pub(crate) texts: Vec<Sequence>,
    /// Of the rollouts that it draws.
    pub(crate) temperature: f32,
    dice: ChaCha8Rng,
    n_drawn: u32,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        World::with(seed, |_| ())
    }

    /// With other knobs than the usual.
    pub(crate) fn with(seed: u64, change: impl FnOnce(&mut config::Ppo)) -> World {
        World::of(&Shape::llama(VOCAB, 16, 1, 2, 2, 24), seed, change)
    }

    /// With matrices of the size at which products are split over threads.
    pub(crate) fn wide(seed: u64) -> World {
        World::of(&Shape::llama(VOCAB, 256, 2, 4, 2, 768), seed, |_| ())
    }

    fn of(shape: &Shape, seed: u64, change: impl FnOnce(&mut config::Ppo)) -> World {
        let mut base = random_checkpoint(shape, seed).unwrap();
        let mut config = config::Config::default().ppo;
        (config.rollouts_per_update, config.minibatch, config.micro_batch_tokens) = (32, 8, 20);
        change(&mut config);
        if config.lora_rank > 0 {
            // Adapters leave embedding and last norm alone, which bound the logits: at 0.02 nothing could be learnt.
            let table = base.tensors.get_mut(TOKEN_EMBEDDING).unwrap();
            *table = (&*table * 10.0).unwrap();
        }
        let models = match config.lora_rank {
            0 => {
                let value = value_model::from_policy(&base, &Device::Cpu).unwrap();
                Models::new(&base, &base, value, &config, &Device::Cpu).unwrap()
            }
            _ => Models::beside(frozen(&base, &config, &Device::Cpu).unwrap(), &base, None, &config).unwrap(),
        };
        World { models, config, texts: Vec::new(), temperature: 1.0, dice: ChaCha8Rng::seed_from_u64(seed), n_drawn: 0 }
    }

    /// Draws responses from the policy as it is now and has them judged.
    pub(crate) fn rollouts(&mut self, n: usize, judge: impl Fn(&[TokenId]) -> f64) -> Vec<ScoredRollout> {
        (0..n).map(|_| scored(self.rollout(), &judge)).collect()
    }

    /// As [`World::rollouts`], several answers to each of some prompts, which differ from each other.
    pub(crate) fn groups(
        &mut self,
        n_prompts: u32,
        n_answers: usize,
        judge: impl Fn(&[TokenId]) -> f64,
    ) -> Vec<ScoredRollout> {
        let prompts = (0..n_prompts).map(|i| vec![TokenId(1 + i % 10), TokenId(1 + i / 10)]);
        let all: Vec<Vec<TokenId>> = prompts.flat_map(|prompt| vec![prompt; n_answers]).collect();
        all.into_iter().map(|prompt| scored(self.answer(prompt), &judge)).collect()
    }

    fn rollout(&mut self) -> Rollout {
        let prompt: Vec<TokenId> = (0..self.dice.random_range(1..4)).map(|_| self.token()).collect();
        self.answer(prompt)
    }

    fn answer(&mut self, prompt: Vec<TokenId>) -> Rollout {
        let mut tokens = prompt.clone();
        let mut response: Vec<SampledToken> = Vec::new();
        while response.len() < LENGTH_MAX && response.last().is_none_or(|last| last.id != END) {
            let drawn = self.draw(&tokens);
            tokens.push(drawn.id);
            response.push(drawn);
        }
        let ended = response.last().is_some_and(|last| last.id == END);
        self.n_drawn += 1;
        Rollout {
            id: RolloutId { request: "cmpl-0".to_owned(), index: self.n_drawn },
            version: PolicyVersion::SFT,
            prompt,
            response,
            sampling: SamplingParams { temperature: self.temperature, ..SamplingParams::default() },
            finish: if ended { FinishReason::EndToken } else { FinishReason::DaemonLimit },
            user: None,
            created_ms: 0,
        }
    }

    fn token(&mut self) -> TokenId {
        TokenId(self.dice.random_range(1..VOCAB as u32))
    }

    fn draw(&mut self, tokens: &[TokenId]) -> SampledToken {
        let logits = self.models.policy.logits(tokens).unwrap().to_vec2::<f32>().unwrap();
        let raw: Vec<f64> = logits[tokens.len() - 1].iter().map(|l| f64::from(*l)).collect();
        let row: Vec<f64> = raw.iter().map(|l| l / f64::from(self.temperature)).collect();
        let log_sum_of = |row: &[f64]| row.iter().map(|l| l.exp()).sum::<f64>().ln();
        let (raw_log_sum, log_sum) = (log_sum_of(&raw), log_sum_of(&row));
        let mut rest: f64 = self.dice.random();
        let drawn = row.iter().position(|l| {
            rest -= (l - log_sum).exp();
            rest < 0.0
        });
        let id = drawn.unwrap_or(VOCAB - 1);
        let log_prob = LogProb((raw[id] - raw_log_sum) as f32);
        let behavior = LogProb((row[id] - log_sum) as f32);
        SampledToken { id: TokenId(id as u32), log_prob, behavior, log_kept_mass: 0.0 }
    }

    /// The same rollout as if its tokens had been drawn otherwise.
    pub(crate) fn redrawn(scored: ScoredRollout, change: impl Fn(&mut SampledToken)) -> ScoredRollout {
        let (mut rollout, judgement) = scored.into_parts();
        rollout.response.iter_mut().for_each(change);
        ScoredRollout::new(rollout, judgement).unwrap()
    }
}

/// Joins a rollout with a judgement.
pub(crate) fn scored(rollout: Rollout, judge: &impl Fn(&[TokenId]) -> f64) -> ScoredRollout {
    let response: Vec<TokenId> = rollout.response.iter().map(|token| token.id).collect();
    let judgement = Scored { score: Score(judge(&response)), std: None, reward_version: "test".to_owned() };
    ScoredRollout::new(rollout, judgement).unwrap()
}

/// A reward: the share of one token.
pub(crate) fn share_of(wanted: TokenId) -> impl Fn(&[TokenId]) -> f64 + Copy {
    move |response| response.iter().filter(|id| **id == wanted).count() as f64 / response.len() as f64
}

/// Every bit of every weight.
pub(crate) fn bytes_of(parameters: &BTreeMap<String, Var>) -> BTreeMap<String, Vec<u32>> {
    let bits = |var: &Var| {
        let flat = var.as_detached_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        flat.into_iter().map(f32::to_bits).collect()
    };
    parameters.iter().map(|(name, var)| (name.clone(), bits(var))).collect()
}
