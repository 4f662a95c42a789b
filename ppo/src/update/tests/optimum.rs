use std::ops::ControlFlow;

use candle_core::Device;
use policy::{
    FinishReason, LogProb, PolicyVersion, Rollout, RolloutId, SampledToken, SamplingParams, TokenId,
    architecture::Shape,
    causal_lm::CausalLm,
    sequence_batch::{Sequence, SequenceBatch},
    transformer::random_checkpoint,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reward::{Score, Scored, ScoredRollout};

use super::Round;
use crate::{
    models::Models,
    optimum::{kl_regularised_optimum, objective},
    value_model,
};

const ROLLOUTS: usize = 128;

/// Not of one token: a model whose past is copies of it cannot count them.
const PROMPT: [TokenId; 3] = [TokenId(0), TokenId(1), TokenId(2)];

/// What is learnt by what.
#[derive(Clone)]
struct Setting {
    shape: Shape,
    /// Tokens of every answer.
    length: u32,
    /// The matrices begin so many times as large as usual: at 0.02 so narrow a model finds all answers equally likely, and takes
    /// long to say anything else.
    loudness: f64,
    /// Of the policy.
    rate: f64,
    seed: u64,
}

/// A language whose answers can all be listed: so many tokens, after one prompt.
struct Language {
    answers: Vec<Vec<TokenId>>,
    /// Of each answer.
    scores: Vec<f64>,
    batch: SequenceBatch,
    models: Models,
    config: config::Ppo,
    dice: ChaCha8Rng,
    n_drawn: u32,
}

/// The log-probs of the tokens of every answer.
type Table = Vec<Vec<f64>>;

impl Language {
    fn new(setting: &Setting) -> Language {
        let Setting { shape, length, loudness, rate, seed } = setting.clone();
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut base = random_checkpoint(&shape, seed).unwrap();
        for matrix in base.tensors.values_mut().filter(|tensor| tensor.dims().len() == 2) {
            *matrix = (&*matrix * loudness).unwrap();
        }
        let config = config::Ppo {
            kl_coef: 0.3,
            policy_learning_rate: rate,
            value_learning_rate: 1e-2,
            ..config::Config::default().ppo
        };
        let value = value_model::from_policy(&base, &Device::Cpu).unwrap();
        let models = Models::new(&base, &base, value, &config, &Device::Cpu).unwrap();
        let vocab = shape.vocab_size;
        let digit = |number: usize, t: u32| TokenId((number / vocab.pow(t) % vocab) as u32);
        let answers: Vec<Vec<TokenId>> =
            (0..vocab.pow(length)).map(|number| (0..length).map(|t| digit(number, t)).collect()).collect();
        let scores = answers.iter().map(|_| dice.random_range(-1.0..1.0)).collect();
        let batch = SequenceBatch::new(answers.iter().map(|answer| Sequence::new(&PROMPT, answer)).collect());
        Language { answers, scores, batch, models, config, dice, n_drawn: 0 }
    }

    fn table(&self, lm: &CausalLm) -> Table {
        let log_probs = lm.frozen_log_probs(&self.batch, &vec![1.0; self.answers.len()]).unwrap().log_probs;
        log_probs.chunks(self.answers[0].len()).map(|answer| answer.iter().map(|l| f64::from(*l)).collect()).collect()
    }

    /// E[r] − β·KL of the policy, as a share of the way from that of the reference to the best, and of the best.
    fn worth(&self) -> [f64; 2] {
        let probs =
            |lm: &CausalLm| self.table(lm).iter().map(|answer| answer.iter().sum::<f64>().exp()).collect::<Vec<f64>>();
        let (policy, reference) = (probs(&self.models.policy), probs(&self.models.reference));
        let of = |probs: &[f64]| objective(probs, &reference, &self.scores, self.config.kl_coef);
        let best = kl_regularised_optimum(&reference, &self.scores, self.config.kl_coef).objective;
        let start = of(&reference);
        [(of(&policy) - start) / (best - start), of(&policy) / best]
    }

    /// Answers as the policy of this version drew them, judged.
    fn rollouts(&mut self, n: usize, version: PolicyVersion, table: &Table) -> Vec<ScoredRollout> {
        (0..n).map(|_| self.rollout(version, table)).collect()
    }

    fn rollout(&mut self, version: PolicyVersion, table: &Table) -> ScoredRollout {
        let mut rest: f64 = self.dice.random();
        let drawn = table.iter().position(|answer| {
            rest -= answer.iter().sum::<f64>().exp();
            rest < 0.0
        });
        let drawn = drawn.unwrap_or(table.len() - 1);
        let token = |(id, log_prob): (&TokenId, &f64)| {
            let log_prob = LogProb(*log_prob as f32);
            SampledToken { id: *id, log_prob, behavior: log_prob, log_kept_mass: 0.0 }
        };
        self.n_drawn += 1;
        let rollout = Rollout {
            id: RolloutId { request: "cmpl-0".to_owned(), index: self.n_drawn },
            version,
            prompt: PROMPT.to_vec(),
            response: self.answers[drawn].iter().zip(&table[drawn]).map(token).collect(),
            sampling: SamplingParams::default(),
            finish: FinishReason::Stop,
            user: None,
            created_ms: 0,
        };
        let judgement = Scored { score: Score(self.scores[drawn]), std: None, reward_version: "test".to_owned() };
        ScoredRollout::new(rollout, judgement).unwrap()
    }

    /// Rounds whose rollouts come half from the policy that learns and half from the one before it.
    fn learn(&mut self, n_rounds: u64) {
        let mut before = self.table(&self.models.policy);
        for update in 0..n_rounds {
            let lineage = [PolicyVersion(update + 1), PolicyVersion(update)];
            let now = self.table(&self.models.policy);
            let mut rollouts = self.rollouts(ROLLOUTS / 2, lineage[0], &now);
            rollouts.extend(self.rollouts(ROLLOUTS / 2, lineage[1], &before));
            let round = Round { config: &self.config, update, lineage: &lineage, pretraining: &[] };
            let outcome = round.run(&mut self.models, &rollouts, &mut || ControlFlow::Continue(())).unwrap();
            assert_eq!(outcome.stats.staleness_mean, 0.5, "round {update}");
            before = now;
        }
    }
}

/// Goal: a round is PPO, all of it: experience, importance weights, guards, AdamW and the transformer find what there is to be
/// found. Method: answers of one token, of which the best distribution is known in closed form; every rail at its default, half of
/// the rollouts a version old; the objective by listing all answers.
#[test]
fn rounds_find_the_optimum_of_answers_of_one_token() {
    let shape = Shape::llama(11, 16, 1, 2, 2, 24);
    let mut language = Language::new(&Setting { shape, length: 1, loudness: 10.0, rate: 2e-3, seed: 51 });
    assert_eq!(language.worth()[0], 0.0);
    language.learn(100);
    let [closed, of_best] = language.worth();
    assert!(closed >= 0.98 && of_best >= 0.98, "{closed:.4} of the way, {of_best:.4} of the best");
}

/// The same where the reward comes late: credit travels back over three tokens, of three. At the first rate the policy comes near
/// and then wanders about the optimum; at a tenth of it, it settles.
#[test]
fn rounds_find_the_optimum_of_answers_of_three_tokens() {
    let shape = Shape { tied: false, ..Shape::llama(3, 32, 2, 2, 2, 48) };
    let mut language = Language::new(&Setting { shape, length: 3, loudness: 10.0, rate: 1e-3, seed: 54 });
    language.learn(250);
    language.config.policy_learning_rate = 1e-4;
    language.learn(50);
    let [closed, of_best] = language.worth();
    assert!(closed >= 0.98 && of_best >= 0.98, "{closed:.4} of the way, {of_best:.4} of the best");
}
