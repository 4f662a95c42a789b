//! `honed train sft`: supervised fine-tuning on a file of demonstrations.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use candle_core::Device;
use policy::{
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, Digest},
    memory::{Held, MemoryPlan, Role, weight_bytes},
    sequence_batch::Sequence,
    sft::{self, SftOptions, SftProgress, mean_nll},
};

use super::{
    base::Base,
    dataset::{Line, read},
    encode::Encoder,
    error::{Result, TrainError},
    interrupt::Interrupt,
    options::{FitOptions, count, not_negative, share},
    output::Output,
    split::{Split, split},
};
use crate::{
    cli::progress,
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
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    mix_share: f64,
    /// Passes over the records (InstructGPT C.3: 2 for the model that PPO starts from; C.1: 16).
    #[arg(long, value_name = "N", default_value_t = SftOptions::default().epochs, value_parser = count)]
    epochs: usize,
    /// Records in one optimiser step, mixed ones included.
    #[arg(long, value_name = "N", default_value_t = SftOptions::default().batch, value_parser = count)]
    batch: usize,
    /// Highest learning rate (InstructGPT C.1: 9.65e-6).
    #[arg(long, value_name = "RATE", default_value_t = SftOptions::default().learning_rate, value_parser = not_negative)]
    learning_rate: f64,
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
    fit: FitOptions,
}

/// Everything that the run learns from and measures on.
struct Data {
    train: Vec<Sequence>,
    validation: Vec<Sequence>,
    mix: Vec<Sequence>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    telemetry::init_logging("text", "warn");
    let output = Output::check(&args.out, args.fit.replace)?;
    let base = Base::open(args.model.as_deref())?;
    let data = load(args, &base)?;
    let plan = plan(args, &base, &data)?;
    eprintln!("{plan}");
    plan.check()?;
    let interrupt = Interrupt::listen().map_err(TrainError::io(&args.out))?;
    let source = base.checkpoint()?;
    let pool = args.fit.pool()?;
    pool.install(|| {
        let model = CausalLm::from_checkpoint(&source, &Device::Cpu)?;
        let model = model.with_precision(args.fit.precision(&base.shape)?).with_keep(args.fit.keep());
        Run { args, data: &data, model: &model, source: &source, output: &output, interrupt: &interrupt }.train()
    })
}

fn load(args: &Args, base: &Base) -> Result<Data> {
    let vocabulary = base.vocabulary()?;
    let tokens_max = args.fit.tokens_max(base.shape.context);
    let encoded = |path: &PathBuf, lines: &[Line<Example>]| {
        let mut encoder = Encoder::new(&vocabulary, path, tokens_max);
        let sequences = encoder.examples(lines, args.prompt_loss)?;
        if !lines.is_empty() {
            eprintln!("{}", encoder.tally.line(path));
        }
        Ok::<_, TrainError>(sequences)
    };
    let lines = read(&args.data, Record::example)?;
    let (train, validation) = match &args.fit.validation {
        Some(path) => (encoded(&args.data, &lines)?, encoded(path, &read(path, Record::example)?)?),
        None => {
            let Split { train, validation, how } =
                split(lines, args.fit.validation_percent, &args.fit.split_salt, prompt_of);
            eprintln!("{} records to learn from, {} for validation: {how}", train.len(), validation.len());
            (encoded(&args.data, &train)?, encoded(&args.data, &validation)?)
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
    Ok(Data { train, validation, mix })
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
    let role = Role { name: "policy", shape: &base.shape, held: Held::Trained };
    let others = [("the file's own weights", weight_bytes(&base.shape)), ("data", tokens_in_memory)];
    Ok(MemoryPlan::new(&[role], pass, &others))
}

struct Run<'a> {
    args: &'a Args,
    data: &'a Data,
    model: &'a CausalLm,
    source: &'a Checkpoint,
    output: &'a Output,
    interrupt: &'a Interrupt,
}

/// What one epoch has shown so far.
#[derive(Default)]
struct Epoch {
    n_done: usize,
    n_steps: usize,
    loss: f64,
}

impl Run<'_> {
    fn train(&self) -> Result<()> {
        let options = self.options();
        let before = self.validation_nll()?;
        if let Some(nll) = before {
            println!("epoch 0  validation loss {nll:.4}");
        }
        let bar = progress::bar(0, "fine-tuning");
        let (mut epoch, mut after, mut failure) = (Epoch::default(), before, None);
        let last = sft::train(self.model, &self.data.train, &self.data.mix, &options, |now| {
            bar.set_length(now.n_steps as u64);
            bar.set_position(now.step as u64);
            bar.set_message(format!("loss {:.3}, {:.0} tokens/s", now.loss, now.tokens_per_s));
            epoch.n_steps += 1;
            epoch.loss += now.loss;
            if is_epoch_end(epoch.n_done, options.epochs, now) {
                match self.end_epoch(&mut epoch, now) {
                    Ok((line, nll)) => {
                        bar.suspend(|| println!("{line}"));
                        after = nll;
                    }
                    Err(error) => {
                        failure = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            if self.interrupt.is_raised() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        bar.finish_and_clear();
        match failure {
            Some(error) => Err(error),
            None if last.step < last.n_steps => Err(self.interrupted(&last)?),
            None => self.finish(before, after),
        }
    }

    fn options(&self) -> SftOptions {
        let (args, fit) = (self.args, &self.args.fit);
        SftOptions {
            epochs: args.epochs,
            batch: args.batch,
            micro_batch_tokens: args.micro_batch_tokens,
            learning_rate: args.learning_rate,
            warmup_steps: fit.warmup_steps,
            final_share: fit.final_share(),
            mix_share: args.mix_share,
            max_grad_norm: fit.max_grad_norm,
            seed: fit.seed,
            ..SftOptions::default()
        }
    }

    /// Mean negative log-likelihood of the held-back answers, nats a token.
    fn validation_nll(&self) -> Result<Option<f64>> {
        if self.data.validation.is_empty() {
            return Ok(None);
        }
        Ok(Some(mean_nll(self.model, &self.data.validation, self.args.micro_batch_tokens)?))
    }

    fn end_epoch(&self, epoch: &mut Epoch, now: &SftProgress) -> Result<(String, Option<f64>)> {
        let n_done = epoch.n_done + 1;
        let nll = self.validation_nll()?;
        let validation = nll.map_or(String::new(), |nll| format!("  validation loss {nll:.4}"));
        let train = epoch.loss / epoch.n_steps.max(1) as f64;
        let line = format!("epoch {n_done}  step {}  loss {train:.4}{validation}", now.step);
        if self.args.keep_epochs {
            self.written(&self.output.at(&format!("epoch-{n_done}")))?;
        }
        *epoch = Epoch { n_done, ..Epoch::default() };
        Ok((line, nll))
    }

    fn written(&self, path: &Path) -> Result<Digest> {
        Ok(self.model.to_checkpoint(self.source, self.args.fit.weight_type())?.write(path)?)
    }

    fn interrupted(&self, last: &SftProgress) -> Result<TrainError> {
        let path = self.output.at(&format!("step-{}", last.step));
        self.written(&path)?;
        let kept = format!("the weights of that step are whole in {}", path.display());
        Ok(TrainError::Interrupted { step: last.step, n_steps: last.n_steps, kept })
    }

    fn finish(&self, before: Option<f64>, after: Option<f64>) -> Result<()> {
        let path = self.output.path();
        let digest = self.written(path)?;
        if let (Some(before), Some(after)) = (before, after) {
            println!("validation loss {before:.4} -> {after:.4}");
        }
        println!("wrote {} (sha256 {digest}); serve it with: honed serve --model {0}", path.display());
        Ok(())
    }
}

/// Epoch k of E ends with step ⌈k·n/E⌉: batches may reach across the border of two epochs.
fn is_epoch_end(n_done: usize, epochs: usize, now: &SftProgress) -> bool {
    now.step >= ((n_done + 1) * now.n_steps).div_ceil(epochs)
}
