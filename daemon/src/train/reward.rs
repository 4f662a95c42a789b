//! `honed train reward`: a reward model, or an ensemble of them on one trunk, from rankings.

mod comparisons;
mod fitting;
mod quality;
mod scale;

use std::path::PathBuf;

use candle_core::Device;
use clap::ValueEnum;
use policy::{
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, digest},
    memory::{Held, MemoryPlan, Role, weight_bytes},
    scalar_model::ScalarModel,
    transformer::Adapter,
};
use reward::{
    RewardModel, margin::Scale, preference::Preference, ranking::RankingOptions, ranking_trainer::RankingTrainOptions,
};

use self::{comparisons::Comparisons, fitting::fit, scale::Samples};
use super::{
    base::Base,
    error::{Result, TrainError},
    interrupt::Interrupt,
    lora::LoraOptions,
    options::{FitOptions, count, not_negative, share},
    output::Output,
    resume::{self, ResumeFile, RunName},
    weights,
};
use crate::{cli::say, telemetry};

/// Heads of one ensemble at most; Coste et al. gain nothing beyond five.
const HEADS_MAX: usize = 64;

/// `honed train reward`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// GGUF file of the supervised model (Llama architecture); without it, the built-in one.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Rankings.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Where the reward model goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Heads on the shared trunk; more than one make an ensemble, whose members see resampled rankings (Coste et al.: 4-5).
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = heads)]
    heads: usize,
    #[command(flatten)]
    lora: LoraOptions,
    /// Passes over the rankings (InstructGPT C.2: 1, more overfits).
    #[arg(long, value_name = "N", default_value_t = RankingTrainOptions::default().epochs, value_parser = count)]
    epochs: usize,
    /// Prompts in one optimiser step; all pairs of a prompt stay together. The last step of an epoch takes what is left of it.
    #[arg(long, value_name = "N", default_value_t = RankingTrainOptions::default().batch, value_parser = count)]
    batch: usize,
    /// Highest learning rate; without it 9e-6 (InstructGPT C.2), or with --lora-rank 1e-4 (TRL): an adapter wants ten times
    /// the step of whole weights.
    #[arg(long, value_name = "RATE", value_parser = not_negative)]
    learning_rate: Option<f64>,
    /// Tokens in one forward and backward pass: bounds memory, changes no gradient.
    #[arg(long, value_name = "N", default_value_t = RankingTrainOptions::default().micro_batch_tokens, value_parser = count)]
    micro_batch_tokens: usize,
    /// Probability with which a label is taken to be the wrong way round, below 0.5.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = smoothing)]
    label_smoothing: f64,
    /// Gap that is asked of two scores, per step of rank (Llama 2, section 3.2.2); of a pair with a "margin" or a "strength" that
    /// counts, its own.
    #[arg(long, value_name = "GAP", default_value_t = 0.0, value_parser = not_negative)]
    margin_per_rank: f64,
    /// Gap of a pair by its "strength", significantly, better, slightly or unsure: small is 1, 2/3, 1/3, 0, and large 3, 2, 1, 0
    /// (Llama 2, section 3.2.2). none: it does not count. A pair's "margin" comes first.
    #[arg(long, value_enum, default_value_t = MarginScale::None)]
    margin_scale: MarginScale,
    /// Weight of the squared sum of a pair's scores, which keeps scores near 0 (TRL: 0.01).
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0, value_parser = not_negative)]
    center_coef: f64,
    /// Demonstrations, as for `sft`: scores get mean 0 on them instead of on answers of --model (InstructGPT 3.5).
    #[arg(long, value_name = "FILE")]
    demonstrations: Option<PathBuf>,
    /// Answers that --model draws to set the scale: standard deviation 1 on them.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    reference_samples: usize,
    /// Tokens of each of these answers at most.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    reference_tokens: u32,
    /// Leave the scale of the scores as training made it: a bias, but no gain.
    #[arg(long)]
    no_gain: bool,
    #[command(flatten)]
    fit: FitOptions,
}

/// Which margins strengths have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MarginScale {
    /// They have none.
    None,
    /// Up to 1.
    Small,
    /// Up to 3.
    Large,
}

impl MarginScale {
    fn scale(self) -> Option<Scale> {
        match self {
            MarginScale::None => None,
            MarginScale::Small => Some(Scale::Small),
            MarginScale::Large => Some(Scale::Large),
        }
    }
}

fn heads(text: &str) -> std::result::Result<usize, String> {
    count(text).ok().filter(|n| *n <= HEADS_MAX).ok_or_else(|| format!("expected a whole number in 1..={HEADS_MAX}"))
}

fn smoothing(text: &str) -> std::result::Result<f64, String> {
    share(text).ok().filter(|p| *p < 0.5).ok_or_else(|| "expected a number from 0 to below 0.5".to_owned())
}

pub(super) fn run(args: &Args) -> Result<()> {
    telemetry::init_logging("text", "warn");
    let inputs = [
        ("--data", Some(args.data.as_path())),
        ("--model", args.model.as_deref()),
        ("--demonstrations", args.demonstrations.as_deref()),
        ("--validation", args.fit.validation.as_deref()),
    ];
    let output = Output::check(&args.out, args.fit.replace, &inputs)?;
    resume::check(&output, &args.fit)?;
    let base = Base::open(args.model.as_deref())?;
    let data = Comparisons::load(args, &base)?;
    let demonstrations = scale::demonstrations(args, &base)?;
    let plan = plan(args, &base, &data)?;
    say::tell(&plan);
    plan.check()?;
    let interrupt = Interrupt::listen().map_err(TrainError::io(&args.out))?;
    let samples = Samples { reference: scale::reference(args, &base, &data.train)?, demonstrations };
    let source = base.checkpoint()?;
    let mut state = ResumeFile::of(&output, &args.fit, &name(args, &base, &data)?);
    args.fit.pool()?.install(|| {
        let model = model(args, &base, &source)?.with_keep(args.fit.keep());
        fit(args, &model, &data, &interrupt, &mut state)?;
        finish(args, model, &source, &data, &samples, &output)
    })?;
    state.remove();
    Ok(())
}

/// All that decides the weights that the run comes to.
fn name(args: &Args, base: &Base, data: &Comparisons) -> Result<RunName> {
    let name = RunName::default()
        .and("reward")
        .and(options(args))
        .and((args.heads, &args.lora, args.fit.precision(&base.shape)?))
        .and(digest(&base.path)?);
    Ok(data.train.iter().fold(name, |name, one| {
        let rows = std::iter::once(one.prompt()).chain(one.responses().iter().map(Vec::as_slice));
        name.and((one.ranks(), one.margin)).and_tokens(rows)
    }))
}

fn model(args: &Args, base: &Base, source: &Checkpoint) -> Result<ScalarModel> {
    let precision = args.fit.precision(&base.shape)?;
    let Some(adapter) = args.lora.adapter(&base.shape, args.fit.seed)? else {
        let model = ScalarModel::from_policy_with_heads(source, args.heads, args.fit.seed, &Device::Cpu)?;
        return Ok(model.with_precision(precision));
    };
    let shared = CausalLm::from_checkpoint(source, &Device::Cpu)?.with_precision(precision).frozen()?;
    Ok(ScalarModel::beside_with_heads(&shared, adapter, args.heads, args.fit.seed)?)
}

fn plan(args: &Args, base: &Base, data: &Comparisons) -> Result<MemoryPlan> {
    let tokens_of = |preference: &Preference| {
        let responses: usize = preference.responses().iter().map(Vec::len).sum();
        responses + preference.responses().len() * preference.prompt().len()
    };
    let all = || data.train.iter().chain(&data.validation);
    let longest = all().map(tokens_of).max().unwrap_or(0);
    // A ranking stays in one piece, however long it is, and a pass is never wider than its batch.
    let tokens = args.micro_batch_tokens.max(longest).min(args.batch.saturating_mul(longest));
    let pass = args.fit.pass(&base.shape, tokens, false)?;
    let shape = &base.shape;
    let role = |name, held| Role { name, shape, held };
    let roles = match args.lora.rank {
        0 => vec![role("reward model", Held::Trained)],
        rank => {
            let n = Adapter::n_parameters(shape, rank);
            vec![role("the model", Held::Frozen), role("reward model's adapter", Held::Adapter(n))]
        }
    };
    let weights = weight_bytes(shape);
    // Beside its own weights the reward model keeps what its file will hold.
    let others = [
        ("the file's own weights", weights),
        ("what will be written", weights),
        ("data", all().map(|p| tokens_of(p) as u64 * 8).sum()),
    ];
    Ok(MemoryPlan::new(&roles, pass, &others))
}

fn options(args: &Args) -> RankingTrainOptions {
    RankingTrainOptions {
        epochs: args.epochs,
        batch: args.batch,
        micro_batch_tokens: args.micro_batch_tokens,
        learning_rate: args.lora.learning_rate(args.learning_rate, RankingTrainOptions::default().learning_rate),
        warmup_steps: args.fit.warmup_steps,
        final_share: args.fit.final_share(),
        max_grad_norm: args.fit.max_grad_norm,
        loss: RankingOptions {
            label_smoothing: args.label_smoothing,
            margin_per_rank: args.margin_per_rank,
            center_coef: args.center_coef,
            ..RankingOptions::default()
        },
        seed: args.fit.seed,
        ..RankingTrainOptions::default()
    }
}

/// Measures, sets the scale, writes.
fn finish(
    args: &Args,
    model: ScalarModel,
    source: &Checkpoint,
    data: &Comparisons,
    samples: &Samples,
    output: &Output,
) -> Result<()> {
    let maps = samples.normalizations(&model, !args.no_gain)?;
    let quality = quality::measure(&model, data)?;
    say::show(&quality);
    for (member, map) in maps.iter().enumerate() {
        say::show(format_args!("head {member}: gain {:.4}, bias {:.4}", map.gain, map.bias));
    }
    let mut reward_model = RewardModel::new(model, source, &maps, args.fit.weight_type())?;
    if let Some(held_out) = quality.held_out() {
        reward_model = reward_model.with_held_out(held_out);
    }
    if reward_model.n_members() > 1 {
        let spread = samples.spread(&reward_model)?;
        say::show(format_args!("spread of the heads on the scaling answers: {spread:.4} (mean standard deviation)"));
    }
    let digest = weights::write(reward_model.checkpoint(), output.path())?;
    let path = output.path().display();
    say::show(format_args!(
        "wrote {path} (sha256 {digest}); judge with it: honed serve --model SFT --set reward.model={path}"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_learns_at_a_rate_of_its_own_unless_told() {
        let rate = |call: &str| {
            let known = <Args as clap::Args>::augment_args(clap::Command::new("reward"));
            let given = known.get_matches_from(call.split(' '));
            options(&<Args as clap::FromArgMatches>::from_arg_matches(&given).expect("well-formed")).learning_rate
        };
        assert_eq!(rate("reward --data d --out o"), 9e-6);
        assert_eq!(rate("reward --data d --out o --lora-rank 4"), 1e-4);
        assert_eq!(rate("reward --data d --out o --lora-rank 4 --learning-rate 9e-6"), 9e-6);
    }
}
