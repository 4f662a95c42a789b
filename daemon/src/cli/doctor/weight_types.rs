//! Which type of weights this processor serves fastest, measured: a small model of random weights, once in each type, decoded
//! alone and eight at a time by the engine that serves.
//!
//! Its layers are those of a model of 135 million parameters and, in f32, do not fit the caches that cores have to themselves:
//! alone a token then costs what it takes to read the weights, eight at a time what it takes to multiply them. Which type wins is
//! a matter of the processor's instructions and of its memory, and cannot be told from their names.

use std::{fmt, path::Path, sync::mpsc, time::Duration};

use candle_core::quantized::{GgmlDType, gguf_file::Value};
use policy::{
    SamplingParams,
    architecture::Shape,
    checkpoint::Checkpoint,
    engine::{Engine, Event, GenerateRequest, Target},
    transformer::random_checkpoint,
};

use super::PATIENCE;
use crate::{demo::artefacts, scratch::Scratch};

/// The types, with GGUF's `general.file_type` of a file in each.
const TYPES: [(&str, GgmlDType, u32); 5] = [
    ("f32", GgmlDType::F32, 0),
    ("f16", GgmlDType::F16, 1),
    ("bf16", GgmlDType::BF16, 32),
    ("q8_0", GgmlDType::Q8_0, 7),
    ("q4_0", GgmlDType::Q4_0, 2),
];
/// Layers of the model; 3.5 million weights each.
const LAYERS: usize = 4;
/// Sequences at once.
const MANY: u32 = 8;
/// Tokens of each answer, and how often all is drawn: the best time counts, because others only take away from it.
const TOKENS: u32 = 48;
const RUNS: usize = 2;
/// Tokens of context.
const WINDOW: usize = 128;

/// How fast one type is, tokens per second.
struct Rate {
    name: &'static str,
    alone: f64,
    many: f64,
}

/// All types.
pub(super) struct Rates(Vec<Rate>);

/// Measures all types with the threads that are configured.
///
/// # Errors
/// When a model cannot be written, loaded or decoded.
pub(super) fn measure(policy: &config::Policy) -> Result<Rates, String> {
    let folder = Scratch::new("weights").map_err(|error| error.to_string())?;
    let mut model = model().map_err(|error| error.to_string())?;
    let policy = config::Policy {
        parallel: MANY as usize,
        context_tokens: WINDOW as u32,
        prefix_cache_tokens: 0,
        deterministic: false,
        gpu_layers: 0,
        // Not all types are the decoder's.
        backend: if policy.backend == "honed" { "auto".to_owned() } else { policy.backend.clone() },
        ..policy.clone()
    };
    let mut rates = Vec::new();
    for (name, kind, file_type) in TYPES {
        let path = folder.path().join(format!("{name}.gguf"));
        let is_matrix = |name: &str| model.tensors.get(name).is_some_and(|tensor| tensor.rank() == 2);
        let matrices: Vec<String> = model.tensors.keys().filter(|name| is_matrix(name)).cloned().collect();
        model.types = matrices.into_iter().map(|name| (name, kind)).collect();
        model.metadata.set("general.file_type", Value::U32(file_type));
        model.write(&path).map_err(|error| format!("{name}: {error}"))?;
        let (alone, many) = rates_of(&policy, &path).map_err(|reason| format!("{name}: {reason}"))?;
        rates.push(Rate { name, alone, many });
        // Five at once would be as many copies on the disk; one that stays goes with the folder.
        let _ = std::fs::remove_file(&path);
    }
    Ok(Rates(rates))
}

/// Random weights in the shape of a small Llama's layers, with the tokenizer of the built-in model.
fn model() -> policy::model_error::Result<Checkpoint> {
    let built_in = Checkpoint::from_bytes(artefacts::POLICY)?;
    let n_tokens = built_in.tensor(policy::architecture::llama::TOKEN_EMBEDDING)?.dims().first().copied().unwrap_or(0);
    let shape = Shape { context: WINDOW, ..Shape::llama(n_tokens, 576, LAYERS, 9, 3, 1536) };
    let mut model = random_checkpoint(&shape, 0)?;
    for (key, value) in built_in.metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        model.metadata.set(key, value.clone());
    }
    Ok(model)
}

/// Tokens per second, alone and many at once.
fn rates_of(policy: &config::Policy, path: &Path) -> Result<(f64, f64), String> {
    let engine = Engine::start(policy, path).map_err(|error| error.to_string())?;
    let best = |n: u32| -> Result<f64, String> {
        let rates: Result<Vec<f64>, String> = (0..RUNS).map(|_| rate(&engine, n)).collect();
        Ok(rates?.into_iter().fold(0.0, f64::max))
    };
    let rates = best(1).and_then(|alone| Ok((alone, best(MANY)?)));
    engine.shutdown(PATIENCE);
    rates
}

/// Tokens per second of `n` answers drawn at once, from their first token to their last.
fn rate(engine: &Engine, n: u32) -> Result<f64, String> {
    let (sender, events) = mpsc::channel();
    let request = GenerateRequest {
        id: "doctor".to_owned(),
        prompt: engine.vocabulary().prompt("the").map_err(|error| error.to_string())?,
        n,
        sampling: SamplingParams { max_tokens: TOKENS, ignore_eos: true, ..SamplingParams::default() },
        sink: Box::new(move |event| {
            // Nobody waits any more once the patience is over.
            let _ = sender.send(event);
        }),
        ..GenerateRequest::default()
    };
    engine.submit(Target::Live, request).map_err(|error| error.to_string())?;
    let (mut n_tokens, mut longest, mut n_open) = (0, Duration::ZERO, n);
    while n_open > 0 {
        match events.recv_timeout(PATIENCE).map_err(|_| "no answer".to_owned())? {
            Event::Prompt { .. } | Event::Token { .. } => {}
            Event::Failed(failure) => return Err(failure.to_string()),
            Event::Finished(finished) => {
                n_tokens += finished.rollout.response.len().saturating_sub(1);
                longest = longest.max(finished.timings.decode);
                n_open -= 1;
            }
        }
    }
    Ok(n_tokens as f64 / longest.as_secs_f64().max(1e-9))
}

impl Rates {
    fn fastest(&self, of: fn(&Rate) -> f64) -> &Rate {
        self.0.iter().max_by(|a, b| of(a).total_cmp(&of(b))).expect("there are types")
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (alone, many) = (self.fastest(|rate| rate.alone), self.fastest(|rate| rate.many));
        match alone.name == many.name {
            true => write!(f, "this processor serves {} fastest, alone and {MANY} at once", alone.name)?,
            false => {
                write!(f, "this processor serves {} fastest alone, {} fastest {MANY} at once", alone.name, many.name)?;
            }
        }
        write!(f, "; tokens/s of a random model of {LAYERS} layers of 3.5 million weights:")?;
        write!(f, "\n{:22}{:<6}{:>10}{:>14}", "", "", "alone", format!("{MANY} at once"))?;
        for rate in &self.0 {
            write!(f, "\n{:22}{:<6}{:>10.0}{:>14.0}", "", rate.name, rate.alone, rate.many)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every type is written, loaded and decoded by the engine as it is. Method: the measurement itself, whose numbers
    /// nobody relies on here; and the sentence of made-up ones.
    #[test]
    fn every_type_is_measured_and_the_fastest_named() {
        let rates = measure(&config::Config::default().policy).expect("all types work");
        assert_eq!(rates.0.len(), TYPES.len());
        assert!(rates.0.iter().all(|rate| rate.alone > 0.0 && rate.many > 0.0), "{rates}");

        let rate = |name, alone, many| Rate { name, alone, many };
        let shown = Rates(vec![rate("f32", 1.0, 9.0), rate("q8_0", 5.0, 7.0)]).to_string();
        assert!(shown.starts_with("this processor serves q8_0 fastest alone, f32 fastest 8 at once;"), "{shown}");
        assert_eq!(shown.lines().count(), 4, "{shown}");
    }
}
