//! The engine on small random models: every test computes a real file, once by the decoder and once by llama.cpp.

mod adapters;
mod backends;
mod constraints;
mod deterministic;
mod fairness;
mod footprints;
mod generation;
mod memory;
mod model;
mod places;
mod prefixes;
mod prompts;
mod residents;
mod scheduling;
mod steps;
mod vocabulary;

use std::sync::mpsc::{Receiver, channel};

use tempfile::TempDir;

use self::model::Model;
use super::*;
use crate::{rollout::SampledToken, sampling::SamplingParams};

/// Whether these are the tests on the decoder, and not those on llama.cpp.
fn on_decoder() -> bool {
    !module_path!().ends_with("on_llama_cpp")
}

/// An engine on a file in a folder that lives as long.
struct TestEngine {
    engine: Engine,
    folder: TempDir,
}

impl TestEngine {
    fn new() -> TestEngine {
        TestEngine::with(Model::default(), |_| ())
    }

    fn with(model: Model, change: impl FnOnce(&mut config::Policy)) -> TestEngine {
        let folder = TempDir::new().unwrap();
        let mut config = config::Config::default().policy;
        config.threads = 2;
        config.backend = if on_decoder() { "honed" } else { "llama.cpp" }.to_owned();
        change(&mut config);
        let engine = Engine::start(&config, &model.write(&folder)).unwrap();
        TestEngine { engine, folder }
    }

    /// Writes and loads another version with weights of its own.
    fn load(&self, version: u64) {
        let path = Model { seed: 100 + version, ..Model::default() }.write(&self.folder);
        self.engine.load(PolicyVersion(version), &path).unwrap();
    }

    fn submit(&self, target: Target, ask: Ask) -> Result<Answer, Rejection> {
        let n = ask.n as usize;
        let (request, events) = request(ask);
        let cancel = request.cancel.clone();
        let version = self.engine.submit(target, request)?;
        Ok(Answer { version, cancel, events, n })
    }

    /// Several prompts as one request.
    fn submit_all(&self, asks: Vec<Ask>) -> Result<Vec<Answer>, Rejection> {
        let (requests, open): (Vec<_>, Vec<_>) = asks
            .into_iter()
            .map(|ask| {
                let n = ask.n as usize;
                let (request, events) = request(ask);
                let cancel = request.cancel.clone();
                (request, (cancel, events, n))
            })
            .unzip();
        let version = self.engine.submit_all(Target::Live, requests)?;
        Ok(open.into_iter().map(|(cancel, events, n)| Answer { version, cancel, events, n }).collect())
    }

    fn ask(&self, ask: Ask) -> Vec<Choice> {
        self.submit(Target::Live, ask).unwrap().wait()
    }

    fn tokens(&self, text: &str) -> Vec<TokenId> {
        self.engine.vocabulary().tokenize(text).unwrap()
    }
}

/// What the engine is given, and where its events go.
fn request(ask: Ask) -> (GenerateRequest, Receiver<Event>) {
    let (sender, events) = channel();
    let request = GenerateRequest {
        id: "cmpl-test".into(),
        prompt: ask.prompt,
        n: ask.n,
        sampling: ask.sampling,
        constraint: ask.constraint,
        top_logprobs: ask.top,
        prompt_logprobs: ask.score_prompt,
        cache_salt: ask.salt.map(Into::into),
        tenant: ask.tenant,
        user: Some("somebody".into()),
        cancel: CancelFlag::default(),
        sink: Box::new(move |event| drop(sender.send(event))),
    };
    (request, events)
}

/// A request in the making.
#[derive(Clone)]
struct Ask {
    prompt: Vec<TokenId>,
    n: u32,
    top: u32,
    score_prompt: Option<u32>,
    salt: Option<&'static str>,
    tenant: Tenant,
    constraint: Option<Constraint>,
    sampling: SamplingParams,
}

impl Ask {
    /// `n_tokens` tokens, never an end token, seeded.
    fn exactly(prompt: Vec<TokenId>, n_tokens: u32) -> Ask {
        let sampling =
            SamplingParams { max_tokens: n_tokens, ignore_eos: true, seed: Some(7), ..SamplingParams::default() };
        Ask {
            prompt,
            n: 1,
            top: 0,
            score_prompt: None,
            salt: None,
            tenant: Tenant::ANYBODY,
            constraint: None,
            sampling,
        }
    }
}

/// An admitted request.
struct Answer {
    version: PolicyVersion,
    cancel: CancelFlag,
    events: Receiver<Event>,
    n: usize,
}

/// All that one choice sent.
#[derive(Debug)]
struct Choice {
    streamed: Vec<SampledToken>,
    text: String,
    top: Vec<Vec<(TokenId, LogProb)>>,
    /// The scored prompt, in the choice that computed it.
    prompt: Option<Vec<ScoredToken>>,
    finished: Finished,
}

impl Answer {
    /// Waits for all choices, by index; checks on the way that the stream and the rollout agree.
    fn wait(self) -> Vec<Choice> {
        let mut streams: Vec<(Vec<SampledToken>, String, Vec<_>)> = vec![Default::default(); self.n];
        let mut choices: Vec<Option<Choice>> = (0..self.n).map(|_| None).collect();
        let mut scored: Vec<Option<Vec<ScoredToken>>> = vec![None; self.n];
        for event in &self.events {
            match event {
                Event::Prompt { index, tokens, .. } => {
                    assert!(streams.iter().all(|stream| stream.0.is_empty()), "the prompt comes before every token");
                    assert!(scored[index as usize].replace(tokens).is_none(), "a prompt is scored once");
                }
                Event::Token { index, token, text, top, .. } => {
                    let stream = &mut streams[index as usize];
                    stream.0.push(token);
                    stream.1.push_str(&text);
                    stream.2.push(top);
                }
                Event::Finished(finished) => {
                    let index = finished.index as usize;
                    let (streamed, mut text, top) = std::mem::take(&mut streams[index]);
                    text.push_str(&finished.text_tail);
                    assert_eq!(streamed, finished.rollout.response, "the stream is the rollout");
                    assert_eq!(finished.rollout.version, self.version, "the version is the one of admission");
                    let before = choices[index].replace(Choice {
                        streamed,
                        text,
                        top,
                        prompt: scored[index].take(),
                        finished: *finished,
                    });
                    assert!(before.is_none(), "choice {index} finished twice");
                }
                Event::Failed(failure) => panic!("the request failed: {failure}"),
            }
        }
        choices.into_iter().map(|choice| choice.expect("every choice finishes")).collect()
    }
}

fn ids(tokens: &[SampledToken]) -> Vec<TokenId> {
    tokens.iter().map(|token| token.id).collect()
}

/// Goal: recorded raw log-probs are those of the stamped version, on the decoder to the bit. Method: teacher-forced replay of prompt
/// and response.
fn check_replay(engine: &Engine, choice: &Choice, tolerance: f32) {
    let gap = replay_gap(engine, choice);
    let is_close = if on_decoder() { gap == 0.0 } else { gap < tolerance };
    assert!(is_close, "{} replays with a log-prob {gap} apart", choice.finished.rollout.version);
}

/// Nats by which the replay of a response differs at most.
fn replay_gap(engine: &Engine, choice: &Choice) -> f32 {
    let rollout = &choice.finished.rollout;
    let mut tokens = rollout.prompt.clone();
    tokens.extend(ids(&rollout.response));
    let replayed = engine.log_probs(rollout.version, &tokens).unwrap();
    let of_response = &replayed[rollout.prompt.len() - 1..];
    assert_eq!(of_response.len(), rollout.response.len());
    let gaps = rollout.response.iter().zip(of_response).map(|(token, replayed)| (token.log_prob.0 - replayed.0).abs());
    // A NaN must not be lost in a maximum.
    gaps.fold(0.0, |most, gap| if gap > most || gap.is_nan() { gap } else { most })
}
