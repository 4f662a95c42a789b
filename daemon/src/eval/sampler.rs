//! Draws many answers from a model in memory, token by token, all open answers in one pass.
//!
//! The demonstration draws with llama.cpp, as serving does; here the policy changes hundreds of times a minute and never
//! becomes a file. Answers are short, so prompts are read again at every token: a key-value cache would be another engine.

use policy::{
    FinishReason, LogProb, PolicyVersion, Rollout, RolloutId, SampledToken, SamplingParams, TokenId,
    causal_lm::CausalLm,
    sequence_batch::{Sequence, SequenceBatch},
    transformer::Pass,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    Result,
    world::{ANSWER_TOKENS, END, Prompt},
};

/// Answers in one pass; bounds memory.
const PASS_ANSWERS: usize = 512;

/// One answer at temperature 1 to each prompt, in their order; the daemon's limit ends what no end token ends.
pub(super) fn draw(
    model: &CausalLm,
    version: PolicyVersion,
    prompts: &[Prompt],
    dice: &mut ChaCha8Rng,
) -> Result<Vec<Rollout>> {
    let mut rollouts: Vec<Rollout> = prompts.iter().zip(0..).map(|(prompt, i)| blank(*prompt, version, i)).collect();
    for chunk in rollouts.chunks_mut(PASS_ANSWERS) {
        for _ in 0..ANSWER_TOKENS {
            extend(model, chunk, dice)?;
        }
    }
    Ok(rollouts)
}

/// The ids of an answer.
pub(super) fn answer(rollout: &Rollout) -> Vec<TokenId> {
    rollout.response.iter().map(|token| token.id).collect()
}

fn blank(prompt: Prompt, version: PolicyVersion, index: u32) -> Rollout {
    Rollout {
        id: RolloutId { request: format!("shapes-{}", version.0), index },
        version,
        prompt: prompt.tokens(),
        response: Vec::new(),
        sampling: SamplingParams { max_tokens: ANSWER_TOKENS as u32, ..SamplingParams::default() },
        finish: FinishReason::DaemonLimit,
        user: None,
        created_ms: 0,
    }
}

/// Draws the next token of every answer that is still open.
fn extend(model: &CausalLm, rollouts: &mut [Rollout], dice: &mut ChaCha8Rng) -> Result<()> {
    let mut open: Vec<&mut Rollout> = rollouts.iter_mut().filter(|r| r.finish != FinishReason::EndToken).collect();
    if open.is_empty() {
        return Ok(());
    }
    let texts = open.iter().map(|rollout| [rollout.prompt.as_slice(), &answer(rollout)].concat()).collect();
    for (rollout, logits) in open.iter_mut().zip(next_logits(model, texts)?) {
        let drawn = draw_token(&logits, dice);
        rollout.response.push(drawn);
        if drawn.id == END {
            rollout.finish = FinishReason::EndToken;
        }
    }
    Ok(())
}

/// Logits of the token after each text, `[texts][vocab]`.
fn next_logits(model: &CausalLm, texts: Vec<Vec<TokenId>>) -> Result<Vec<Vec<f32>>> {
    let temperatures = vec![1.0; texts.len()];
    // Logits exist where a response token is predicted, so each text gets one, whichever.
    let sequences = texts.iter().map(|text| Sequence::new(text, &[END])).collect();
    let (logits, ..) = model.response_logits(&SequenceBatch::new(sequences), &temperatures, Pass::Frozen)?;
    Ok(logits.to_vec2::<f32>()?) // [texts, vocab]
}

/// Draws from softmax(logits) and keeps the log of the very probability that the draw had.
fn draw_token(logits: &[f32], dice: &mut ChaCha8Rng) -> SampledToken {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted: Vec<f64> = logits.iter().map(|logit| f64::from(logit - max)).collect();
    let log_sum = shifted.iter().map(|x| x.exp()).sum::<f64>().ln();
    let mut rest: f64 = dice.random();
    let drawn = shifted.iter().position(|x| {
        rest -= (x - log_sum).exp();
        rest < 0.0
    });
    // Rounding may leave a rest; the likeliest token takes it.
    let likeliest = || shifted.iter().position(|x| *x == 0.0).expect("the largest logit is its own maximum");
    let id = drawn.unwrap_or_else(likeliest);
    let log_prob = LogProb((shifted[id] - log_sum) as f32);
    SampledToken { id: TokenId(id as u32), log_prob, behavior: log_prob, log_kept_mass: 0.0 }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::eval::{
        recipe,
        world::{Split, stream},
    };

    /// Goal: what is recorded is what the trainer computes. Method: the trainer's own pass over the drawn answers.
    #[test]
    fn recorded_log_probs_are_those_of_the_trainer() {
        let model = CausalLm::random(&recipe::SMALL.shape(), 3, &Device::Cpu).unwrap();
        let mut dice = stream(3, "test");
        let prompts: Vec<Prompt> = (0..40).map(|_| Prompt::draw(Split::Train, &mut dice)).collect();
        let rollouts = draw(&model, PolicyVersion::SFT, &prompts, &mut dice).unwrap();
        let sequences: Vec<Sequence> = rollouts.iter().map(|r| Sequence::new(&r.prompt, &answer(r))).collect();
        let batch = SequenceBatch::new(sequences);
        let trainer = model.frozen_log_probs(&batch, &vec![1.0; prompts.len()]).unwrap().log_probs;
        let recorded: Vec<f32> = rollouts.iter().flat_map(|r| &r.response).map(|token| token.behavior.0).collect();
        assert_eq!(recorded.len(), trainer.len());
        let worst = recorded.iter().zip(&trainer).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{worst}");
        for rollout in &rollouts {
            let ends = answer(rollout).iter().position(|id| *id == END);
            let ended = rollout.finish == FinishReason::EndToken;
            assert_eq!(ends, ended.then(|| rollout.response.len() - 1));
            assert!(ended || rollout.response.len() == ANSWER_TOKENS);
        }
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let mut dice = stream(4, "test");
        let logits = [0.0, 1.0, -1.0_f32];
        let n = 20_000;
        let mut counts = [0.0; 3];
        for _ in 0..n {
            let drawn = draw_token(&logits, &mut dice);
            counts[drawn.id.0 as usize] += 1.0 / f64::from(n);
        }
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            assert!((count - f64::from(logit).exp() / sum).abs() < 0.012, "{counts:?}");
        }
    }
}
