//! The fourth stage: PPO, many times over, each time with another reward model or coefficient.
//!
//! The rounds are the learner's own ([`ppo::Round`]); only the traffic is made here. Every arm of a seed sees the same
//! prompts in the same order.

use std::ops::ControlFlow;

use candle_core::Device;
use policy::{PolicyVersion, Rollout, TokenId, causal_lm::CausalLm};
use ppo::{Models, Round, value_model};
use reward::{Score, Scored, ScoredRollout};

use super::{
    Result, corpus,
    judge::Judge,
    progress::Progress,
    recipe::{self, Recipe},
    sampler,
    start::Start,
    world::{Prompt, Split, VOCAB, gold, seed_of, stream},
};

/// How much a reward model has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strength {
    /// 150 ranked prompts.
    Weak,
    /// 1,000.
    Middling,
    /// 6,000.
    Strong,
}

/// One way to tune the supervised policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arm {
    /// The reward model.
    pub(super) judge: Strength,
    /// β, score units per nat.
    pub(super) kl_coef: f64,
    /// Whether pretraining text is mixed in (PPO-ptx).
    pub(super) ptx: bool,
}

/// β of the arms with the middling reward model, rising: one that is good enough to follow and bad enough to over-optimise,
/// as in Stiennon et al. (arXiv 2009.01325, figure 5).
pub(super) const KL_COEFS: [f64; 5] = [0.0, 0.02, 0.05, 0.5, 2.0];
/// The arm that stands for PPO where one must: TRL's and N+'s β.
pub(super) const PLAIN: Arm = Arm { judge: Strength::Strong, kl_coef: 0.05, ptx: false };
/// The same with pretraining text.
pub(super) const PTX: Arm = Arm { ptx: true, ..PLAIN };
/// Nothing holds the policy back, and the reward model knows little.
pub(super) const UNLEASHED: Arm = Arm { judge: Strength::Weak, kl_coef: 0.0, ptx: false };

/// An arm of the sweep over β.
pub(super) fn swept(kl_coef: f64) -> Arm {
    Arm { judge: Strength::Middling, kl_coef, ptx: false }
}

/// All arms of a seed.
pub(super) fn all() -> Vec<Arm> {
    [UNLEASHED, PLAIN, PTX].into_iter().chain(KL_COEFS.map(swept)).collect()
}

/// One round, measured on its own rollouts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Nats an answer from the supervised policy.
    pub(super) kl: f64,
    /// Mean score: what PPO sees.
    pub(super) score: f64,
    /// Mean gold: what it never sees.
    pub(super) gold: f64,
}

/// What an arm came to.
pub(super) struct Tuned {
    /// The policy after the last round.
    pub(super) policy: CausalLm,
    /// One point a round.
    pub(super) curve: Vec<Point>,
}

/// Tunes the supervised policy. Call it inside a pool.
pub(super) fn tune(
    seed: u64,
    arm: Arm,
    recipe: &Recipe,
    start: &Start,
    judge: &Judge,
    progress: &Progress,
) -> Result<Tuned> {
    let seed_of_order = seed_of(seed, "minibatches") >> 1;
    let mut sets = vec![format!("ppo.kl_coef={}", arm.kl_coef), format!("ppo.seed={seed_of_order}")];
    if arm.ptx {
        // The knob wants a file, as a daemon has; a round takes the text from memory.
        sets.extend(["ppo.ptx=auto".to_owned(), "ppo.ptx_file=memory".to_owned()]);
    }
    let config = recipe::ppo(sets)?;
    let pretraining = corpus::documents(seed, "pretraining", recipe.documents);
    let judge = &judge.model;
    let (checkpoint, normalization) = judge.value_start()?;
    let value = value_model::from_reward_model(&checkpoint, normalization, VOCAB, &Device::Cpu)?;
    let mut models = Models::new(&start.checkpoint, &start.checkpoint, value, &config, &Device::Cpu)?;
    let (mut prompt_dice, mut answer_dice) = (stream(seed, "traffic"), stream(seed, "answers"));
    let share = progress.share();
    let mut curve = Vec::new();
    for update in 0..recipe.rounds {
        let prompts: Vec<Prompt> =
            (0..config.rollouts_per_update).map(|_| Prompt::draw(Split::Train, &mut prompt_dice)).collect();
        let lineage = [PolicyVersion(update)];
        let rollouts = sampler::draw(&models.policy, lineage[0], &prompts, &mut answer_dice)?;
        let golds = prompts.iter().zip(&rollouts).map(|(prompt, rollout)| gold(*prompt, &sampler::answer(rollout)));
        let gold = golds.sum::<f64>() / prompts.len() as f64;
        let rollouts = judged(judge, rollouts)?;
        let round = Round { config: &config, update, lineage: &lineage, pretraining: &pretraining };
        let stats = round.run(&mut models, &rollouts, &mut || ControlFlow::Continue(()))?.stats;
        curve.push(Point { kl: stats.objective_kl, score: stats.objective_scores, gold });
        share.at(curve.len(), recipe.rounds as usize);
    }
    Ok(Tuned { policy: models.policy, curve })
}

fn judged(judge: &reward::RewardModel, rollouts: Vec<Rollout>) -> Result<Vec<ScoredRollout>> {
    let texts: Vec<Vec<TokenId>> = rollouts.iter().map(text).collect();
    let scored = |(rollout, score)| {
        let scored = Scored { score: Score(score), std: None, reward_version: "shapes".to_owned() };
        Ok(ScoredRollout::new(rollout, scored)?)
    };
    rollouts.into_iter().zip(judge.score(&texts)?).map(scored).collect()
}

/// Prompt and answer.
pub(super) fn text(rollout: &Rollout) -> Vec<TokenId> {
    [rollout.prompt.as_slice(), &sampler::answer(rollout)].concat()
}
