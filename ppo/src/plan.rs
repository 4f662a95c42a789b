//! How much memory rounds take, before the first one.

use policy::{
    architecture::Shape,
    kernels::Precision,
    memory::{Held, MemoryPlan, Role, WidestPass, weight_bytes},
    model_error::ModelError,
    threads::{is_small_of, lanes_of},
    transformer::{Adapter, Keep},
};

use crate::experience::{AdvantageEstimator, micro_batch_tokens};

/// Numbers that a round keeps of every token: log-probs, values, rewards, advantages, weights.
const NUMBERS_PER_TOKEN: usize = 12;

/// Plans for the roles of a learner.
///
/// - `policy`, `value`: shapes of the models (the reference has the policy's);
/// - `reward`: shape of a reward model in this process, where there is one;
/// - `longest`: tokens of the longest prompt and response together;
/// - `others`: what else there will be, in bytes.
///
/// # Errors
/// When the precision is not to be had here.
pub fn plan(
    policy: &Shape,
    value: &Shape,
    reward: Option<&Shape>,
    config: &config::Ppo,
    longest: usize,
    others: &[(&str, u64)],
) -> Result<MemoryPlan, ModelError> {
    let n_threads = match config.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let pass = WidestPass {
        tokens: tokens_of(micro_batch_tokens(config, policy), longest, config),
        keep: if config.activation_checkpointing { Keep::Inputs } else { Keep::All },
        precision: match config.device == "cpu" {
            true => Precision::choose(&config.dtype, is_small_of(policy.n_parameters()))?,
            // What a GPU's products round they read as f32: there are no copies.
            false => Precision::F32,
        },
        has_logits: true,
        // The value model is cut like the policy, and as many pieces of it run at once.
        lanes: lanes_of(policy.n_parameters(), n_threads),
    };
    let mut roles = roles(policy, value, config);
    roles.extend(reward.map(|shape| Role { name: "reward model", shape, held: Held::Frozen }));
    let experience = (config.rollouts_per_update * longest * NUMBERS_PER_TOKEN * 8) as u64;
    let mut all =
        vec![("the round's beginning, to go back to", undo(&roles, config)), ("the round's numbers", experience)];
    let learnt = learnt_bytes(&roles);
    if config.ptx != "off" {
        // Beside the gradients of a pass: those of the minibatch, and the sum over the pieces of text.
        all.push(("gradients of minibatch and pretraining text", 2 * learnt));
    }
    if config.ema_decay > 0.0 {
        all.push(("the average of the policy's weights", learnt));
    }
    if config.device == "cpu" && AdvantageEstimator::of(config).needs_values() {
        // The policy's own is what the first step goes back through; the value model's waits beside it.
        let value = if config.lora_rank > 0 { policy } else { value };
        let tokens = tokens_of_episodes(micro_batch_tokens(config, policy), longest, config);
        all.push((
            "the value model's first pass, kept",
            (pass.lanes * tokens * pass.keep.bytes_per_token(value)) as u64,
        ));
    }
    all.extend_from_slice(others);
    Ok(MemoryPlan::new(&roles, pass, &all))
}

/// Tokens of the widest pass with gradients. What is longer than the budget goes through alone, and no pass is wider than all
/// that a step has: episodes, or texts.
fn tokens_of(budget: usize, longest: usize, config: &config::Ppo) -> usize {
    let episodes = tokens_of_episodes(budget, longest, config);
    if config.ptx == "off" {
        return episodes;
    }
    let all = config.minibatch.saturating_mul(config.ptx_examples).saturating_mul(config.ptx_tokens);
    episodes.max(budget.max(config.ptx_tokens).min(all))
}

fn tokens_of_episodes(budget: usize, longest: usize, config: &config::Ppo) -> usize {
    budget.max(longest).min(config.minibatch.saturating_mul(longest))
}

fn roles<'a>(policy: &'a Shape, value: &'a Shape, config: &config::Ppo) -> Vec<Role<'a>> {
    let role = |name, shape, held| Role { name, shape, held };
    match config.lora_rank {
        0 => vec![
            role("policy", policy, Held::Trained),
            role("reference", policy, Held::Frozen),
            role("value model", value, Held::Trained),
        ],
        rank => {
            let n = Adapter::n_parameters(policy, rank);
            vec![
                role("reference, shared", policy, Held::Frozen),
                role("policy's adapter", policy, Held::Adapter(n)),
                role("value model's adapter", policy, Held::Adapter(n)),
            ]
        }
    }
}

/// What [`crate::snapshot`] copies, the average of the weights included: a round makes a new one and leaves the old to it.
fn undo(roles: &[Role<'_>], config: &config::Ppo) -> u64 {
    let learnt = learnt_bytes(roles);
    let average = if config.ema_decay > 0.0 { learnt } else { 0 };
    let whole = 3 * roles.iter().map(trained_bytes).sum::<u64>() + average;
    match whole <= config.snapshot_mib << 20 {
        true => whole,
        false => learnt + average,
    }
}

/// Bytes of the policy's weights, or of its adapter.
fn learnt_bytes(roles: &[Role<'_>]) -> u64 {
    roles.iter().map(trained_bytes).find(|n| *n > 0).unwrap_or(0)
}

/// Bytes of what learns of a role.
fn trained_bytes(role: &Role<'_>) -> u64 {
    match role.held {
        Held::Trained => weight_bytes(role.shape),
        Held::Frozen => 0,
        Held::Adapter(n) => 4 * n as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(change: impl FnOnce(&mut config::Ppo)) -> u64 {
        let shape = Shape::llama(49152, 576, 30, 9, 3, 1536);
        let mut config = config::Config::default().ppo;
        (config.minibatch, config.rollouts_per_update) = (4, 8);
        change(&mut config);
        plan(&shape, &shape, None, &config, 128, &[]).unwrap().needed()
    }

    /// Goal: a plan is as wide as the widest pass, be it over episodes or over texts. Method: texts that are longer than any
    /// episode and than the budget; many that fill it; and few and short ones.
    #[test]
    fn texts_count_for_the_widest_pass() {
        let width = |n_examples: usize, n_tokens: usize, ptx: &str| {
            let mut config = config::Config::default().ppo;
            (config.minibatch, config.ptx, config.ptx_examples, config.ptx_tokens) =
                (4, ptx.to_owned(), n_examples, n_tokens);
            tokens_of(2000, 128, &config)
        };
        assert_eq!([width(8, 4096, "off"), width(8, 4096, "auto"), width(8, 4096, "fixed")], [512, 4096, 4096]);
        assert_eq!([width(8, 128, "auto"), width(1, 100, "auto")], [2000, 512]);
        let wide = needed(|config| (config.ptx, config.ptx_tokens) = ("auto".to_owned(), 1 << 16));
        let narrow = needed(|config| config.ptx = "auto".to_owned());
        assert!(wide > narrow, "{wide} {narrow}");
    }

    /// Goal: on a GPU, whose products round what lies in f32, no copies are planned, and bf16 asks nothing of the processor. Method: the
    /// same plan with either word.
    #[test]
    fn products_of_a_gpu_need_no_copies() {
        let of = |dtype: &str| needed(|config| (config.device, config.dtype) = ("cuda:0".to_owned(), dtype.to_owned()));
        assert_eq!(of("bf16"), of("f32"));
        assert_eq!([Precision::on_gpu("bf16"), Precision::on_gpu("auto")], [Precision::Bf16, Precision::F32]);
    }

    /// Goal: the plan tells apart what the knobs tell apart. Method: a model of 135 M parameters.
    #[test]
    fn a_plan_follows_the_knobs() {
        let weights = weight_bytes(&Shape::llama(49152, 576, 30, 9, 3, 1536));
        let full = needed(|_| ());
        assert!(full > 8 * weights, "three models, moments of two, gradients");
        assert!(needed(|config| config.lora_rank = 16) < full / 3);
        assert!(needed(|config| config.snapshot_mib = 1 << 20) - full == 5 * weights, "the rest of six copies");
        assert!(needed(|config| config.activation_checkpointing = true) < full);
        let without_values = needed(|config| config.advantage_estimator = "rloo".to_owned());
        let kept = 4 * 128 * Keep::All.bytes_per_token(&Shape::llama(49152, 576, 30, 9, 3, 1536));
        assert_eq!(full - without_values, kept as u64, "the value model's first pass, a minibatch long");
        let short_texts = |config: &mut config::Ppo| {
            (config.ptx, config.ptx_examples, config.ptx_tokens) = ("fixed".to_owned(), 1, 128);
        };
        assert_eq!(needed(short_texts) - full, 2 * weights, "of minibatch and of the text");
        assert_eq!(needed(|config| config.ema_decay = 0.99) - full, 2 * weights, "the average, and the one before");
        let six_copies = ((6 * weights) >> 20) + 1;
        let with_room = |ema_decay| needed(|config| (config.snapshot_mib, config.ema_decay) = (six_copies, ema_decay));
        assert_eq!(with_room(0.0) - full, 5 * weights);
        assert_eq!(with_room(0.99) - full, 2 * weights, "seven copies find no room: weights and averages alone");
        let adapters = |ptx: &str| {
            needed(|config| {
                short_texts(config);
                (config.lora_rank, config.ptx) = (16, ptx.to_owned());
            })
        };
        let extra = adapters("auto") - adapters("off");
        assert!(extra > 0 && extra < weights / 10, "text beside adapters costs what adapters cost: {extra}");
    }
}
