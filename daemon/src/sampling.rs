//! Draws many answers from a version in memory, by the engine itself: it batches them as it does for clients.
//!
//! For work that has no clients: building the default model, scaling a reward model, PPO over a file of prompts.

use crossbeam_channel::{Receiver, unbounded};
use policy::{
    FinishReason, PolicyVersion, Rollout, SamplingParams, TokenId,
    engine::{Engine, Event, GenerateRequest, Rejection, Target},
};
use rand::RngCore;

/// Why not everything was drawn.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// The engine refused a prompt.
    #[error("sampling: {0}")]
    Rejected(#[from] Rejection),
    /// A forward pass failed while answers were drawn.
    #[error("sampling: {0}")]
    Failed(String),
}

type Result<T> = std::result::Result<T, DrawError>;

/// An answer as it was drawn.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    /// Its tokens, the end token included.
    pub(crate) tokens: Vec<TokenId>,
    /// Its text.
    pub(crate) text: String,
    /// Whether it ended by itself.
    pub(crate) ended: bool,
}

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// From which version.
    pub(crate) version: PolicyVersion,
    /// Answers for each prompt.
    pub(crate) n: u32,
    /// Tokens of an answer at most.
    pub(crate) max_tokens: u32,
    /// 1 is the model's own distribution.
    pub(crate) temperature: f32,
    /// Prompt `i` has seed `seed + i`.
    pub(crate) seed: u64,
}

/// Draws `n` answers for each prompt, in the order of the prompts. The engine's queue must hold them all.
pub(crate) fn draw(engine: &Engine, prompts: &[Vec<TokenId>], draw: Draw) -> Result<Vec<Vec<Drawn>>> {
    let vocabulary = engine.vocabulary();
    let drawn = |rollout: Rollout| {
        let tokens: Vec<TokenId> = rollout.response.iter().map(|token| token.id).collect();
        let text = vocabulary.detokenize(&tokens, false);
        Drawn { tokens, text, ended: rollout.finish == FinishReason::EndToken }
    };
    let answers = rollouts(engine, prompts, draw)?;
    Ok(answers.into_iter().map(|row| row.into_iter().map(drawn).collect()).collect())
}

/// As [`draw`], with everything that is known about the draws.
pub(crate) fn rollouts(engine: &Engine, prompts: &[Vec<TokenId>], draw: Draw) -> Result<Vec<Vec<Rollout>>> {
    // Bounded by what is asked for: one event a token, and every answer is short.
    let (sender, receiver) = unbounded();
    // Names stay apart where two callers share an engine; a log has names of its own for what it keeps.
    let run = rand::rng().next_u64();
    for (i, prompt) in prompts.iter().enumerate() {
        let sender = sender.clone();
        let request = GenerateRequest {
            id: format!("train-{run:016x}-{i}"),
            prompt: prompt.clone(),
            n: draw.n,
            sampling: SamplingParams {
                seed: Some(draw.seed.wrapping_add(i as u64)),
                max_tokens: draw.max_tokens,
                temperature: draw.temperature,
                ..SamplingParams::default()
            },
            sink: Box::new(move |event| {
                if !matches!(event, Event::Token { .. }) {
                    // The receiver leaves early only when another answer has failed.
                    let _ = sender.send((i, event));
                }
            }),
            ..GenerateRequest::default()
        };
        engine.submit(Target::Version(draw.version), request)?;
    }
    drop(sender);
    collect(&receiver, prompts.len(), draw.n)
}

fn collect(receiver: &Receiver<(usize, Event)>, n_prompts: usize, n: u32) -> Result<Vec<Vec<Rollout>>> {
    let mut answers: Vec<Vec<Option<Rollout>>> = vec![vec![None; n as usize]; n_prompts];
    for (prompt, event) in receiver {
        match event {
            Event::Prompt { .. } | Event::Token { .. } => {}
            Event::Failed(failure) => return Err(DrawError::Failed(failure.to_string())),
            Event::Finished(finished) => answers[prompt][finished.index as usize] = Some(finished.rollout),
        }
    }
    let whole = |row: Vec<Option<Rollout>>| row.into_iter().collect::<Option<Vec<_>>>();
    let all: Option<Vec<Vec<Rollout>>> = answers.into_iter().map(whole).collect();
    all.ok_or_else(|| DrawError::Failed("an answer never finished".to_owned()))
}
