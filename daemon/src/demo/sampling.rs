//! Draws many answers from a version in memory, by the engine itself: llama.cpp batches them as it does for clients.

use crossbeam_channel::{Receiver, unbounded};
use policy::{
    FinishReason, PolicyVersion, SamplingParams, TokenId, Vocabulary,
    engine::{CancelFlag, Engine, Event, GenerateRequest, Target},
};

use super::error::{DemoError, Result};

/// An answer as it was drawn.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    /// Its tokens, the end token included.
    pub(super) tokens: Vec<TokenId>,
    /// Its text.
    pub(super) text: String,
    /// Whether it ended by itself.
    pub(super) ended: bool,
}

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    /// From which version.
    pub(super) version: PolicyVersion,
    /// Answers for each prompt.
    pub(super) n: u32,
    /// Tokens of an answer at most.
    pub(super) max_tokens: u32,
    /// 1 is the model's own distribution.
    pub(super) temperature: f32,
    /// Prompt `i` has seed `seed + i`.
    pub(super) seed: u64,
}

/// Draws `n` answers for each prompt, in the order of the prompts. The engine's queue must hold them all.
pub(super) fn draw(engine: &Engine, prompts: &[Vec<TokenId>], draw: Draw) -> Result<Vec<Vec<Drawn>>> {
    // Bounded by what is asked for: one event a token, and every answer is short.
    let (sender, receiver) = unbounded();
    for (i, prompt) in prompts.iter().enumerate() {
        let sender = sender.clone();
        let request = GenerateRequest {
            id: i.to_string(),
            prompt: prompt.clone(),
            n: draw.n,
            sampling: SamplingParams {
                seed: Some(draw.seed.wrapping_add(i as u64)),
                max_tokens: draw.max_tokens,
                temperature: draw.temperature,
                ..SamplingParams::default()
            },
            top_logprobs: 0,
            user: None,
            cancel: CancelFlag::default(),
            sink: Box::new(move |event| {
                if !matches!(event, Event::Token { .. }) {
                    // The receiver leaves early only when another answer has failed.
                    let _ = sender.send((i, event));
                }
            }),
        };
        engine.submit(Target::Version(draw.version), request)?;
    }
    drop(sender);
    collect(&receiver, &engine.vocabulary(), prompts.len(), draw.n)
}

fn collect(
    receiver: &Receiver<(usize, Event)>,
    vocabulary: &Vocabulary,
    n_prompts: usize,
    n: u32,
) -> Result<Vec<Vec<Drawn>>> {
    let mut answers: Vec<Vec<Option<Drawn>>> = vec![vec![None; n as usize]; n_prompts];
    for (prompt, event) in receiver {
        match event {
            Event::Token { .. } => {}
            Event::Failed { reason } => return Err(DemoError::Sampling(reason)),
            Event::Finished(finished) => {
                let tokens: Vec<TokenId> = finished.rollout.response.iter().map(|token| token.id).collect();
                answers[prompt][finished.index as usize] = Some(Drawn {
                    text: vocabulary.detokenize(&tokens, false),
                    ended: finished.rollout.finish == FinishReason::EndToken,
                    tokens,
                });
            }
        }
    }
    let whole = |row: Vec<Option<Drawn>>| row.into_iter().collect::<Option<Vec<_>>>();
    let all: Option<Vec<Vec<Drawn>>> = answers.into_iter().map(whole).collect();
    all.ok_or_else(|| DemoError::Sampling("an answer never finished".to_owned()))
}
