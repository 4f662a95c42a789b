//! Answers to be judged, and their rankings.
//!
//! Most answers are the supervised policy's own, because those are what the reward model will have to judge; one is the
//! base model's and some are staged (good ones, and ones with a flaw), so that it has seen better and worse than the
//! policy writes.

use policy::{PolicyVersion, TokenId};
use rand::Rng;
use reward::ranking_trainer::Ranking;

use super::Bench;
use crate::demo::{
    error::Result,
    sampling::{Draw, Drawn, draw},
    scratch::{ANSWER_TOKENS, BASE, recipe, supervised::seed_of},
    world::{self, ANSWERS, Prompt, Split, judge, rank, staged_answer},
};

/// Staged answers in a ranking; with the base model's one, what is not the policy's own.
const STAGED: usize = 2;

/// A prompt as the model sees it, with answers of the supervised policy.
pub(super) struct Answered {
    /// The prompt.
    pub(super) prompt: Prompt,
    /// Its tokens, in one of the two formats.
    pub(super) tokens: Vec<TokenId>,
    /// The answers.
    pub(super) answers: Vec<Drawn>,
}

/// Draws `n` answers for each of `n_prompts` prompts of a split.
pub(super) fn answered(
    bench: &Bench<'_>,
    split: Split,
    stream: &str,
    n_prompts: usize,
    n: u32,
) -> Result<Vec<Answered>> {
    let mut formats = bench.world.stream(&format!("{stream}/formats"));
    let prompts: Vec<Prompt> = bench.world.prompts(split, stream).take(n_prompts).collect();
    let tokens = prompts
        .iter()
        .map(|prompt| bench.encoder.prompt(&prompt.instruction, formats.random_bool(world::CHAT)))
        .collect::<Result<Vec<_>>>()?;
    let what = Draw { version: PolicyVersion::SFT, n, max_tokens: ANSWER_TOKENS, seed: seed_of(bench.world, stream) };
    let answers = draw(bench.engine, &tokens, what)?;
    let all = prompts.into_iter().zip(tokens).zip(answers);
    Ok(all.map(|((prompt, tokens), answers)| Answered { prompt, tokens, answers }).collect())
}

/// K answers to each training prompt, ranked by a noisy labeler.
pub(super) fn rankings(bench: &Bench<'_>) -> Result<Vec<Ranking>> {
    let most = (*ANSWERS.end() - STAGED - 1) as u32;
    bench.progress.line("drawing answers to rank");
    let answered = answered(bench, Split::Train, "reward", recipe::RANKED_PROMPTS, most)?;
    let tokens: Vec<Vec<TokenId>> = answered.iter().map(|one| one.tokens.clone()).collect();
    let what = Draw { version: BASE, n: 1, max_tokens: ANSWER_TOKENS, seed: seed_of(bench.world, "base answers") };
    let base = draw(bench.engine, &tokens, what)?;
    let mut rng = bench.world.stream("rankings");
    let others: Vec<String> = answered.iter().map(|one| one.prompt.instruction.clone()).collect();
    let mut rankings = Vec::with_capacity(answered.len());
    for (one, base) in answered.into_iter().zip(base) {
        let k = rng.random_range(ANSWERS);
        let mut candidates: Vec<Drawn> = one.answers.into_iter().take(k - STAGED - 1).chain(base).collect();
        for _ in 0..STAGED {
            let question = others[rng.random_range(0..others.len())].clone();
            let text = staged_answer(&one.prompt, &[question], &mut rng);
            candidates.push(Drawn { tokens: bench.encoder.answer(&text)?, text, ended: true });
        }
        let golds: Vec<_> =
            candidates.iter().map(|drawn| judge(&one.prompt.wanted, &drawn.text, drawn.ended)).collect();
        let ranks = rank(&golds, recipe::LABEL_NOISE, &mut rng);
        let responses: Vec<Vec<TokenId>> = candidates.into_iter().map(|drawn| drawn.tokens).collect();
        rankings.push(Ranking::new(&one.tokens, &responses, &ranks));
    }
    Ok(rankings)
}
