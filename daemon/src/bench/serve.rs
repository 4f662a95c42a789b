//! `honed bench serve`: why every thread of the learner gives way. llama.cpp's threads spin at barriers, so one competitor of
//! normal priority costs far more than its share of a core; one that gives way as
//! the learner does costs almost nothing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use policy::threads;

use super::load::Traffic;
use crate::{
    app::Running,
    cli::{ConfigArgs, Outcome, progress, say},
    http::wire::{
        json,
        measurement::{Load, Serve},
    },
    scratch::Scratch,
    telemetry,
};

/// How to load the daemon.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Requests at once.
    #[arg(long, default_value_t = 8)]
    pub(super) concurrency: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 5)]
    pub(super) seconds: u64,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 64)]
    pub(super) max_tokens: u32,
    /// Words of each prompt.
    #[arg(long, default_value_t = 20)]
    prompt_words: usize,
    /// Busy threads beside the engine; 0: one per processor core.
    #[arg(long, default_value_t = 0)]
    busy_threads: usize,
    /// Measure beside the learner at work instead: idle, with updates, idle again.
    #[arg(long)]
    pub(super) with_updates: bool,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

impl Args {
    pub(super) fn traffic<'a>(&self, url: &'a str) -> Traffic<'a> {
        Traffic {
            url,
            concurrency: self.concurrency,
            max_tokens: self.max_tokens,
            prompt_words: self.prompt_words,
            trains: self.with_updates,
            ragged: false,
        }
    }
}

pub(super) fn run(args: &Args) -> Outcome {
    let scratch = Scratch::new("serve")?;
    let config = args.config.for_bench(scratch.path())?;
    telemetry::init_logging(&config.daemon.log_format, "error");
    let n_cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let busy_threads = if args.busy_threads == 0 { n_cores } else { args.busy_threads };
    let engine_threads = config.policy.threads;
    let model = config.policy.model.clone();
    let running = Running::start(config)?;
    let url = running.url();
    let traffic = args.traffic(&url);
    let bar = progress::bar(4, "measuring");
    let seconds = Duration::from_secs(args.seconds);
    let measure = |n_busy: usize, prepare: fn()| -> Result<Load, String> {
        let (load, ()) = beside(n_busy, prepare, || traffic.during(|| std::thread::sleep(seconds)))?;
        bar.inc(1);
        Ok(load)
    };
    // Pages of the model and threads of the runtime come to life before anything is measured.
    traffic.during(|| std::thread::sleep(Duration::from_millis(500)))?;
    let report = Serve {
        bench: "serve",
        model: if model.is_empty() { "built-in".to_owned() } else { model },
        concurrency: args.concurrency,
        max_tokens: args.max_tokens,
        threads: engine_threads,
        busy_threads,
        alone: measure(0, || ())?,
        beside_learner: measure(busy_threads, threads::give_way)?,
        beside_nice_19: measure(busy_threads, || threads::lower_priority(threads::NICE_LEARNER))?,
        beside_normal: measure(busy_threads, || ())?,
    };
    bar.finish_and_clear();
    say::answer(json(&report))?;
    running.stop()?;
    Ok(())
}

/// Runs `work` beside threads that compute without pause.
fn beside<T>(n_threads: usize, prepare: fn(), work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                prepare();
                let mut x = 1.0_f64;
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..10_000 {
                        x = std::hint::black_box(x * 1.000_000_1 + 1e-9);
                    }
                }
            });
        }
        let result = work();
        over.store(true, Ordering::Relaxed);
        result
    })
}
