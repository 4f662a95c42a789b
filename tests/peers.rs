//! Other people's evaluations against the daemon. They need what is too large for every run, so they are ignored unless
//! asked for: `make test-peers` installs it and asks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use candle_core::Device;
use policy::{
    TokenId,
    byte_pair::{Bpe, SPECIAL_TOKENS},
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, WeightType},
    sequence_batch::{Sequence, SequenceBatch},
};
use serde_json::Value;

use crate::harness::TestDaemon;

/// Nats over a whole continuation or text.
const TOLERANCE: f64 = 1e-3;
/// Tokens that lm-eval puts into one window of a long text.
const WINDOW: usize = 100;

/// Goal: what people measure through the API is what the trainer computes. Method: the built-in model in f32, one file for
/// both; lm-evaluation-harness runs two tasks of ours through `/v1/completions` with our tokenizer; each log-likelihood that
/// it logs is held to the trainer's own transformer on the trainer's own tokens.
#[test]
#[ignore = "needs lm-evaluation-harness: make test-peers"]
fn log_likelihoods_of_lm_eval_are_the_trainers() {
    let lm_eval = std::env::var("HONED_LM_EVAL").expect("make test-peers says where it is");
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("f32.gguf");
    let checkpoint = in_f32(&model);
    let daemon = TestDaemon::builder().set(format!("policy.model={}", model.display())).start();
    let told = folder.path().join("told");
    run(&lm_eval, &format!("http://{}/v1/completions", daemon.address()), folder.path(), &told);

    let trainer = Trainer::new(&checkpoint);
    let choices = samples(&told, "honed_facts");
    assert_eq!(choices.len(), 28, "documents");
    let (mut n, mut worst) = (0, 0.0_f64);
    for (request, response) in choices.iter().flat_map(requests) {
        let texts = ["arg_0", "arg_1"].map(|name| request[name].as_str().expect("a text"));
        let (sum, is_greedy) = trainer.continuation(texts[0], texts[1]);
        let (said, said_greedy) = (number(&response[0]), truth(&response[1]));
        assert!((said - sum).abs() < TOLERANCE, "{texts:?}: lm-eval {said}, trainer {sum}");
        assert_eq!(said_greedy, is_greedy, "{texts:?}");
        (n, worst) = (n + 1, worst.max((said - sum).abs()));
    }
    let n_right = choices.iter().filter(|sample| sample["acc"].as_f64() == Some(1.0)).count();
    assert!(n_right > choices.len() / 2, "a model that has read them knows most facts: {n_right}");

    for (request, response) in samples(&told, "honed_texts").iter().flat_map(requests) {
        let text = request["arg_0"].as_str().expect("a text");
        let (said, sum) = (number(&response), trainer.rolling(text));
        assert!((said - sum).abs() < TOLERANCE, "{text:?}: lm-eval {said}, trainer {sum}");
        (n, worst) = (n + 1, worst.max((said - sum).abs()));
    }
    assert!(n > 80, "{n} log-likelihoods were compared");
    println!("{n} log-likelihoods, {worst:.1e} nats apart at most; {n_right} of {} facts", choices.len());
}

/// Writes the built-in model with f32 weights.
fn in_f32(path: &Path) -> Checkpoint {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/src/demo/artefacts/policy.gguf");
    let mut checkpoint = Checkpoint::read(&built_in).expect("the built-in model");
    checkpoint.retype(&BTreeMap::new(), WeightType::F32);
    checkpoint.write(path).expect("written");
    checkpoint
}

fn run(lm_eval: &str, url: &str, home: &Path, told: &Path) {
    let tasks = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let model = format!(
        "model=policy,base_url={url},tokenizer_backend=remote,tokenized_requests=True,num_concurrent=4,max_retries=1,max_length={WINDOW}"
    );
    let mut command = Command::new(lm_eval);
    command.current_dir(&tasks).env("HF_HOME", home.join("hf"));
    // Nothing of this is elsewhere, so nobody needs to be asked.
    command.env("HF_HUB_OFFLINE", "1").env("HF_DATASETS_OFFLINE", "1").env("OPENAI_API_KEY", "none");
    command.args(["run", "--model", "local-completions", "--model_args", &model, "--include_path", "."]);
    command.args(["--tasks", "honed_facts,honed_texts", "--log_samples", "--output_path"]).arg(told);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
}

/// What was logged of a task, document by document.
fn samples(told: &Path, task: &str) -> Vec<Value> {
    let mut files = Vec::new();
    find(told, &mut files);
    let wanted = |path: &&PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        name.starts_with(&format!("samples_{task}")) && name.ends_with(".jsonl")
    };
    let path = files.iter().find(wanted).unwrap_or_else(|| panic!("no samples of {task} among {files:?}"));
    let lines = std::fs::read_to_string(path).expect("samples");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() { find(&entry.path(), files) } else { files.push(entry.path()) }
    }
}

/// Each request of a document with what came back.
fn requests(sample: &Value) -> Vec<(Value, Value)> {
    let arguments = sample["arguments"].as_object().expect("arguments");
    let responses = sample["filtered_resps"].as_array().expect("responses");
    assert_eq!(arguments.len(), responses.len());
    // Named gen_args_0, gen_args_1 …, which is no order of words.
    let argument = |i: usize| arguments[&format!("gen_args_{i}")].clone();
    responses.iter().enumerate().map(|(i, response)| (argument(i), response.clone())).collect()
}

/// Logged as a number or as the text of one.
fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("no number: {value}"))
}

fn truth(value: &Value) -> bool {
    value
        .as_bool()
        .or_else(|| value.as_str()?.to_lowercase().parse().ok())
        .unwrap_or_else(|| panic!("no truth: {value}"))
}

/// The trainer's transformer and its tokenizer.
struct Trainer {
    model: CausalLm,
    bpe: Bpe,
    end: TokenId,
}

impl Trainer {
    fn new(checkpoint: &Checkpoint) -> Trainer {
        let model = CausalLm::from_checkpoint(checkpoint, &Device::Cpu).expect("a model");
        let end = checkpoint.metadata.usize("tokenizer.ggml.eos_token_id").expect("an end token");
        let bpe = Bpe::from_metadata(&checkpoint.metadata).expect("a tokenizer");
        Trainer { model, bpe, end: TokenId(end as u32) }
    }

    /// Sum of the log-probs of a continuation, and whether each of its tokens is the most probable one. As lm-eval cuts it:
    /// blanks at the end of the context belong to the continuation, and both are tokenised as one text.
    fn continuation(&self, context: &str, continuation: &str) -> (f64, bool) {
        let blanks = &context[context.trim_end().len()..];
        let context = context.trim_end();
        let whole = self.encode(&format!("{context}{blanks}{continuation}"));
        let at = self.encode(context).len();
        self.sum(&whole[..at], &whole[at..])
    }

    /// Sum of the log-probs of a text that begins after the end token, in windows that share the token before them.
    fn rolling(&self, text: &str) -> f64 {
        let tokens = self.encode(text);
        let mut sum = 0.0;
        // Of its window lm-eval leaves one token to the answer and one to the context. The first window has the end token in
        // front; each later one reads as far back as it may.
        let window = WINDOW - 2;
        let first = &tokens[..tokens.len().min(window)];
        sum += self.sum(&[self.end], first).0;
        let mut done = first.len();
        while done < tokens.len() {
            let until = (done + window).min(tokens.len());
            let from = until - window - 1;
            sum += self.sum(&tokens[from..done], &tokens[done..until]).0;
            done = until;
        }
        sum
    }

    fn sum(&self, prompt: &[TokenId], response: &[TokenId]) -> (f64, bool) {
        let sequence = Sequence::new(prompt, response);
        let logits = self.model.logits(&sequence.tokens).expect("logits").to_vec2::<f32>().expect("a matrix");
        let rows = &logits[prompt.len() - 1..sequence.tokens.len() - 1];
        let is_best = |(row, token): (&Vec<f32>, &TokenId)| row.iter().all(|logit| *logit <= row[token.0 as usize]);
        let is_greedy = rows.iter().zip(response).all(is_best);
        let batch = SequenceBatch::new(vec![sequence]);
        let log_probs = self.model.frozen_log_probs(&batch, &[1.0]).expect("log-probs").log_probs;
        (log_probs.iter().copied().map(f64::from).sum(), is_greedy)
    }

    /// Control tokens are parsed, as in lm-eval's requests to `/tokenize`.
    fn encode(&self, text: &str) -> Vec<TokenId> {
        let found = (0..).zip(SPECIAL_TOKENS).filter_map(|(id, special)| Some((text.find(special)?, id, special)));
        match found.min() {
            None => self.bpe.encode(text).expect("tokens"),
            Some((at, id, special)) => {
                let mut tokens = self.bpe.encode(&text[..at]).expect("tokens");
                tokens.push(TokenId(id));
                tokens.extend(self.encode(&text[at + special.len()..]));
                tokens
            }
        }
    }
}
