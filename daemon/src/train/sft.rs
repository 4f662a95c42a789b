//! `honed train sft`: supervised fine-tuning on a file of demonstrations.

mod fitting;
mod jury;
mod place;

use std::path::{Path, PathBuf};

use candle_core::Device;
use policy::{
    TokenId, Vocabulary,
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, digest},
    memory::{Held, MemoryPlan, Role, weight_bytes},
    sequence_batch::Sequence,
    sft::SftOptions,
    transformer::Adapter,
};

use self::{fitting::Run, jury::Jury, place::Place};
use super::{
    base::Base,
    dataset::{Line, read},
    encode::Encoder,
    error::{Result, TrainError},
    footprint::{cache_bytes, judge_shape},
    interrupt::Interrupt,
    lora::LoraOptions,
    options::{FitOptions, count, not_negative, share},
    output::Output,
    resume::{self, ResumeFile, RunName},
    split::{Split, split},
};
use crate::{
    cli::say,
    http::wire::dataset::{Example, PromptText, Record},
    telemetry,
};

/// `honed train sft`. Dropout is 0, as it must be in everything that PPO goes on from.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// GGUF file to start from (Llama architecture); without it, the built-in supervised model.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Demonstrations.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Where the fine-tuned model goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Records that are mixed into every batch, against forgetting: usually {"text"} from pretraining.
    #[arg(long, value_name = "FILE")]
    mix: Option<PathBuf>,
    /// Share of each batch that comes from --mix (InstructGPT C.3: 0.1).
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share, requires = "mix")]
    mix_share: f64,
    #[command(flatten)]
    lora: LoraOptions,
    /// Passes over the records (InstructGPT C.3: 2 for the model that PPO starts from; C.1: 16).
    #[arg(long, value_name = "N", default_value_t = SftOptions::default().epochs, value_parser = count)]
    epochs: usize,
    /// Records in one optimiser step, mixed ones included; the last step of an epoch takes what is left of it.
    #[arg(long, value_name = "N", default_value_t = SftOptions::default().batch, value_parser = count)]
    batch: usize,
    /// Highest learning rate; without it 1e-5 (InstructGPT C.1: 9.65e-6), or with --lora-rank 1e-4: an adapter wants ten times
    /// the step of whole weights ("LoRA Without Regret").
    #[arg(long, value_name = "RATE", value_parser = not_negative)]
    learning_rate: Option<f64>,
    /// Tokens in one forward and backward pass: bounds memory, changes no gradient.
    #[arg(long, value_name = "N", default_value_t = SftOptions::default().micro_batch_tokens, value_parser = count)]
    micro_batch_tokens: usize,
    /// Learn the prompts too, not only the answers.
    #[arg(long)]
    prompt_loss: bool,
    /// Keep the weights of every epoch, as OUT.epoch-N.gguf.
    #[arg(long)]
    keep_epochs: bool,
    #[command(flatten)]
    judge: jury::JudgeOptions,
    #[command(flatten)]
    fit: FitOptions,
}

/// Everything that the run learns from and measures on.
#[derive(Default)]
struct Data {
    train: Vec<Sequence>,
    validation: Vec<Sequence>,
    mix: Vec<Sequence>,
    /// What is answered for a reward model.
    prompts: Vec<Vec<TokenId>>,
}

impl Args {
    fn options(&self) -> SftOptions {
        let (fit, usual) = (&self.fit, SftOptions::default());
        SftOptions {
            epochs: self.epochs,
            batch: self.batch,
            micro_batch_tokens: self.micro_batch_tokens,
            learning_rate: self.lora.learning_rate(self.learning_rate, usual.learning_rate),
            warmup_steps: fit.warmup_steps,
            final_share: fit.final_share(),
            mix_share: self.mix_share,
            max_grad_norm: fit.max_grad_norm,
            seed: fit.seed,
            ..usual
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    telemetry::init_logging("text", "warn");
    let output = output(args)?;
    let base = Base::open(args.model.as_deref())?;
    let data = load(args, &base)?;
    let mut state = ResumeFile::of(&output, &args.fit, &name(args, &base, &data)?);
    let plan = plan(args, &base, &data)?;
    say::tell(&plan);
    plan.check()?;
    let interrupt = Interrupt::listen().map_err(TrainError::io(&args.out))?;
    let source = base.checkpoint()?;
    let pool = args.fit.pool()?;
    pool.install(|| {
        let jury = Jury::load(args, &base, &source, &data.prompts)?;
        let model = model(args, &base, &source)?.with_keep(args.fit.keep());
        let (jury, base) = (jury.as_ref(), &base);
        let (data, model, source) = (&data, &model, &source);
        Run { args, base, data, model, source, jury, output: &output, interrupt: &interrupt }.train(&mut state)
    })
}

/// What learns: the whole model, or an adapter beside its frozen weights.
fn model(args: &Args, base: &Base, source: &Checkpoint) -> Result<CausalLm> {
    let model = CausalLm::from_checkpoint(source, &Device::Cpu)?.with_precision(args.fit.precision(&base.shape)?);
    match args.lora.adapter(&base.shape, args.fit.seed)? {
        None => Ok(model),
        Some(adapter) => Ok(model.frozen()?.with_adapter(adapter)),
    }
}

/// Looks at every name that the run will write, and keeps them off the files that it reads.
fn output(args: &Args) -> Result<Output> {
    let inputs = [
        ("--data", Some(args.data.as_path())),
        ("--model", args.model.as_deref()),
        ("--mix", args.mix.as_deref()),
        ("--validation", args.fit.validation.as_deref()),
        ("--reward-model", args.judge.reward_model.as_deref()),
    ];
    let output = Output::check(&args.out, args.fit.replace, &inputs)?;
    resume::check(&output, &args.fit)?;
    if args.keep_epochs || args.judge.reward_model.is_some() {
        let argument = if args.keep_epochs { "--keep-epochs" } else { "--reward-model" };
        // An interrupted run has written its epochs, maybe one more than it has written down.
        let n_done = resume::place::<Place>(&output, &args.fit)?.map_or(0, |place| place.n_epochs());
        let n_own = if args.fit.resume { n_done + 1 } else { 0 };
        output.check_epochs(args.epochs, n_own, argument)?;
    }
    Ok(output)
}

/// All that decides the weights that the run comes to, and what it remembers on the way.
fn name(args: &Args, base: &Base, data: &Data) -> Result<RunName> {
    let judge = args.judge.reward_model.as_deref().map(digest).transpose()?;
    let name = RunName::default()
        .and("sft")
        .and(args.options())
        .and((&args.lora, args.fit.precision(&base.shape)?))
        .and(digest(&base.path)?)
        .and((judge, args.judge.reward_tokens, args.keep_epochs));
    let parts = [&data.train, &data.validation, &data.mix];
    let name = parts.into_iter().fold(name, |name, part| name.and_sequences(part));
    Ok(name.and_tokens(data.prompts.iter().map(Vec::as_slice)))
}

fn load(args: &Args, base: &Base) -> Result<Data> {
    let vocabulary = base.vocabulary()?;
    let tokens_max = args.fit.tokens_max(base.shape.context);
    let encoded = |path: &PathBuf, lines: &[Line<Example>]| {
        let mut encoder = Encoder::new(&vocabulary, path, tokens_max);
        let sequences = encoder.examples(lines, args.prompt_loss)?;
        if !lines.is_empty() {
            say::tell(encoder.tally.line(path));
        }
        Ok::<_, TrainError>(sequences)
    };
    let asked = |path: &PathBuf, lines: &[Line<Example>]| prompts(args, base, &vocabulary, path, lines);
    let lines = read(&args.data, Record::example)?;
    let (train, validation, prompts) = match &args.fit.validation {
        Some(path) => {
            let held_back = read(path, Record::example)?;
            (encoded(&args.data, &lines)?, encoded(path, &held_back)?, asked(path, &held_back)?)
        }
        None => {
            let Split { train, validation, how } =
                split(lines, args.fit.validation_percent, &args.fit.split_salt, prompt_of);
            say::tell(format_args!(
                "{} records to learn from, {} for validation: {how}",
                train.len(),
                validation.len()
            ));
            (encoded(&args.data, &train)?, encoded(&args.data, &validation)?, asked(&args.data, &validation)?)
        }
    };
    if train.is_empty() {
        let reason = format!("no record is left to learn from (of at most {tokens_max} tokens)");
        return Err(TrainError::Data { path: args.data.clone(), reason });
    }
    let mix = match &args.mix {
        Some(path) => encoded(path, &read(path, Record::example)?)?,
        None => Vec::new(),
    };
    Ok(Data { train, validation, mix, prompts })
}

/// What is answered for a reward model, where one was named: prompts of the records that are held back, each once.
fn prompts(
    args: &Args,
    base: &Base,
    vocabulary: &Vocabulary,
    path: &Path,
    lines: &[Line<Example>],
) -> Result<Vec<Vec<TokenId>>> {
    if args.judge.reward_model.is_none() {
        return Ok(Vec::new());
    }
    let room = args.fit.tokens_max(base.shape.context).saturating_sub(args.judge.reward_tokens as usize);
    let mut encoder = Encoder::new(vocabulary, path, room);
    let mut prompts = Vec::new();
    for line in lines {
        if let Example::Exchange { prompt, .. } = &line.record.content {
            prompts.extend(encoder.prompt(line.number, prompt)?);
        }
    }
    if prompts.is_empty() {
        let reason = format!(
            "--reward-model needs prompts that are held back, and there is none of fewer than {room} tokens, which is what \
             --reward-tokens leaves"
        );
        return Err(TrainError::Data { path: path.to_owned(), reason });
    }
    Ok(args.judge.choose(prompts, args.fit.seed))
}

/// What a record is about, for the split of records without a user.
fn prompt_of(example: &Example) -> String {
    match example {
        Example::Text(text) | Example::Exchange { prompt: PromptText::Plain(text), .. } => text.clone(),
        Example::Exchange { prompt: PromptText::Chat(turns), .. } => format!("{turns:?}"),
    }
}

fn plan(args: &Args, base: &Base, data: &Data) -> Result<MemoryPlan> {
    let all = || data.train.iter().chain(&data.validation).chain(&data.mix);
    let longest = all().map(|s| s.tokens.len()).max().unwrap_or(0);
    // A record stays in one piece, and a pass is never wider than its batch.
    let tokens = args.micro_batch_tokens.max(longest).min(args.batch.saturating_mul(longest));
    let pass = args.fit.pass(&base.shape, tokens, true)?;
    let tokens_in_memory = all().map(|s| s.tokens.len() as u64 * 4).sum();
    let (shape, weights) = (&base.shape, weight_bytes(&base.shape));
    let role = |name, held| Role { name, shape, held };
    let mut others = vec![("the file's own weights", weights), ("data", tokens_in_memory)];
    let mut roles = match args.lora.rank {
        0 => vec![role("policy", Held::Trained)],
        rank => {
            // Adapter and base become one beside both of them.
            others.push(("what will be written", weights));
            let n = Adapter::n_parameters(shape, rank);
            vec![role("the model", Held::Frozen), role("policy's adapter", Held::Adapter(n))]
        }
    };
    let judge = args.judge.reward_model.as_deref().map(|path| judge_shape(path, shape)).transpose()?;
    if let Some(judge) = &judge {
        roles.push(Role { name: "reward model", shape: judge, held: Held::Frozen });
        let engine = args.judge.engine(&data.prompts, args.fit.n_threads());
        others.push(("the reward model as a file", weight_bytes(judge)));
        others.push(("engine: an epoch with its cache", weights + cache_bytes(shape, &engine)));
    }
    Ok(MemoryPlan::new(&roles, pass, &others))
}

#[cfg(test)]
mod tests;
