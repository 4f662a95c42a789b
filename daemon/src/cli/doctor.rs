//! `honed doctor`: what this machine and this installation can do, and whether a model really answers on it.

mod address;
mod weight_types;

use std::{
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use config::Config;
use policy::{
    SamplingParams,
    engine::{Engine, Event, GenerateRequest, Target, hardware},
    kernels::{self, Precision},
    memory,
};

use super::{ConfigArgs, Outcome, say};
use crate::app::sft_file;

/// Tokens of the measured answer, and how long it may take.
const TOKENS: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(args: &ConfigArgs) -> Outcome {
    let mut report = Report::default();
    report.say("program", Ok(format!("honed {}, {}", env!("CARGO_PKG_VERSION"), engines())))?;
    report.say("processor", Ok(processor()))?;
    report.say("memory", memory_line().ok_or_else(|| "/proc/meminfo cannot be read".to_owned()))?;
    report.say("llama.cpp on", engine_devices())?;
    report.say("training", Ok(training()))?;
    let config = args.load();
    let shown =
        |config: &Config| format!("data directory {}, listens on {}", config.daemon.data_dir, config.daemon.listen);
    report.say("configuration", config.as_ref().map(shown).map_err(ToString::to_string))?;
    if let Ok(config) = config {
        report.say("address", address::look(&config.daemon))?;
        if config.ppo.device != "cpu" {
            report.say("ppo.device", learner_device(&config.ppo.device))?;
        }
        report.say("data directory", data_dir(Path::new(&config.daemon.data_dir)))?;
        report.say("model", model(&config))?;
        report.say("weight types", weight_types::measure(&config.policy).map(|rates| rates.to_string()))?;
    }
    match report.n_faults {
        0 => Ok(()),
        n => Err(format!("{n} of these did not hold").into()),
    }
}

/// Line by line: some of them take their time.
#[derive(Default)]
struct Report {
    n_faults: usize,
}

impl Report {
    fn say(&mut self, what: &str, found: Result<String, String>) -> std::io::Result<()> {
        self.n_faults += usize::from(found.is_err());
        let (mark, text) = match found {
            Ok(text) => ("ok  ", text),
            Err(text) => ("FAIL", text),
        };
        say::answer(format_args!("{mark}  {what:<16}{text}"))
    }
}

fn engines() -> String {
    let build = if cfg!(debug_assertions) { "debug build: slow" } else { "release build" };
    match cfg!(feature = "cuda") {
        true => {
            format!("{build}, llama.cpp and the trainer with CUDA; the trainer's kernels have not yet run on a GPU")
        }
        false => format!("{build}, llama.cpp and candle on the processor (no `cuda` feature)"),
    }
}

/// Where llama.cpp can compute.
fn engine_devices() -> Result<String, String> {
    let all = hardware().map_err(|error| error.to_string())?;
    Ok(all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// Whether the learner's GPU answers, and how fast.
fn learner_device(name: &str) -> Result<String, String> {
    // Below the first line there may be a backtrace of candle's.
    let first = |error: String| format!("{name}: {}", error.lines().next().unwrap_or_default());
    let rate = kernels::gflops_on(name).map_err(|error| first(error.to_string()))?;
    Ok(format!("{name} multiplies f32 at {rate:.0} GFLOP/s"))
}

/// What multiplies matrices when the model learns, and how fast, measured.
fn training() -> String {
    let rate = |precision: Precision| format!("{} {:.0}", precision.as_str(), kernels::gflops(precision));
    let f32 = rate(Precision::F32);
    let bf16 = match kernels::bf16_level() {
        0 => "no bf16".to_owned(),
        1 => format!("{} (AVX512-BF16)", rate(Precision::Bf16)),
        _ => format!("{} (AMX)", rate(Precision::Bf16)),
    };
    let hint = match kernels::backend() {
        "oneDNN" => "",
        _ => "; faster with oneDNN: install libdnnl-dev and build again",
    };
    format!("{} on all cores, GFLOP/s: {f32}, {bf16}{hint}", kernels::backend())
}

fn processor() -> String {
    let n = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{n} threads, {}", instructions().join(" "))
}

/// What kernels can use.
#[cfg(target_arch = "x86_64")]
fn instructions() -> Vec<&'static str> {
    let all = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512-vnni", std::is_x86_feature_detected!("avx512vnni")),
        ("avx512-bf16", std::is_x86_feature_detected!("avx512bf16")),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> Vec<&'static str> {
    vec![std::env::consts::ARCH]
}

fn memory_line() -> Option<String> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let (total, room) = (memory::meminfo("MemTotal")?, memory::machine()?);
    Some(format!("{:.1} GiB, of which {} leaves {:.1} GiB", gib(total), room.limit, gib(room.available)))
}

/// Writes and removes a file, as deep as the folder exists; a folder that is not there yet is fine.
fn data_dir(dir: &Path) -> Result<String, String> {
    let existing = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("."));
    let probe = existing.join(format!(".honed-doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe));
    written.map_err(|error| format!("{}: {error}", existing.display()))?;
    Ok(format!("{} can be written", existing.display()))
}

/// Loads the model and draws one answer.
fn model(config: &Config) -> Result<String, String> {
    let scratch = std::env::temp_dir().join(format!("honed-doctor-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|error| error.to_string())?;
    let daemon = config::Daemon { data_dir: scratch.display().to_string(), ..config.daemon.clone() };
    let config = Config { daemon, ..config.clone() };
    let report = sft_file(&config).map_err(|error| error.to_string()).and_then(|sft| measured(&config, &sft));
    // What cannot be removed lies where the system looks after it.
    let _ = std::fs::remove_dir_all(&scratch);
    report
}

fn measured(config: &Config, sft: &Path) -> Result<String, String> {
    let started = Instant::now();
    let engine = Engine::start(&config.policy, sft).map_err(|error| error.to_string())?;
    let loaded = started.elapsed();
    let vocabulary = engine.vocabulary();
    let (sender, events) = mpsc::channel();
    let request = GenerateRequest {
        id: "doctor".to_owned(),
        prompt: vocabulary.prompt("The ocean is").map_err(|error| error.to_string())?,
        sampling: SamplingParams { max_tokens: TOKENS, ignore_eos: true, ..SamplingParams::default() },
        sink: Box::new(move |event| {
            // Nobody waits any more once the patience is over.
            let _ = sender.send(event);
        }),
        ..GenerateRequest::default()
    };
    engine.submit(Target::Live, request).map_err(|error| error.to_string())?;
    loop {
        match events.recv_timeout(PATIENCE).map_err(|_| "no answer".to_owned())? {
            Event::Prompt { .. } | Event::Token { .. } => {}
            Event::Failed(failure) => return Err(failure.to_string()),
            Event::Finished(finished) => {
                let n = finished.rollout.response.len();
                let rate = n.saturating_sub(1) as f64 / finished.timings.decode.as_secs_f64().max(1e-9);
                let window = engine.context_tokens();
                return Ok(format!(
                    "{} tokens known, window of {window}, loaded in {:.2} s, decodes {rate:.0} tokens/s alone by {}",
                    vocabulary.size(),
                    loaded.as_secs_f64(),
                    engine.computed_by(),
                ));
            }
        }
    }
}
