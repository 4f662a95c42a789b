//! Answers to be judged, and their rankings.
//!
//! Most answers are the supervised policy's own, because those are what the reward model will have to judge; one is the
//! base model's, some are drawn hot and some are staged (good ones, ones with a flaw, garbled ones). PPO finds whatever a
//! reward model has never seen: without garbled answers it learnt to begin with half a word that nobody had marked down.

use policy::{PolicyVersion, TokenId, scalar_model::ScalarModel};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use reward::{ranking_trainer::Ranking, reward_model::raw_scores};

use super::Bench;
use crate::{
    demo::{
        error::Result,
        scratch::{ANSWER_TOKENS, BASE, recipe, supervised::seed_of},
        world::{self, ANSWERS, Prompt, Split, judge, rank, staged_answer},
    },
    sampling::{Draw, Drawn, draw},
};

/// Temperature of the hot answers: the policy's own words in an order that it seldom chooses.
const HOT: f32 = 1.5;

/// How many of K answers come from where; the rest is the policy's own.
struct Mixture {
    own: usize,
    hot: usize,
    staged: usize,
}

impl Mixture {
    /// One of K is always the base model's.
    fn of(k: usize) -> Mixture {
        let hot = 1 + usize::from(k >= 7);
        let staged = 1 + usize::from(k >= 6);
        Mixture { own: k - 1 - hot - staged, hot, staged }
    }
}

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
    let what = Draw {
        version: PolicyVersion::SFT,
        n,
        max_tokens: ANSWER_TOKENS,
        temperature: 1.0,
        seed: seed_of(bench.world, stream),
    };
    let answers = draw(bench.engine, &tokens, what)?;
    let all = prompts.into_iter().zip(tokens).zip(answers);
    Ok(all.map(|((prompt, tokens), answers)| Answered { prompt, tokens, answers }).collect())
}

/// K answers to each training prompt, ranked by a noisy labeler.
pub(super) fn rankings(bench: &Bench<'_>) -> Result<Vec<Ranking>> {
    let most = Mixture::of(*ANSWERS.end());
    bench.progress.line("drawing answers to rank");
    let answered = answered(bench, Split::Train, "reward", recipe::RANKED_PROMPTS, most.own as u32)?;
    let tokens: Vec<Vec<TokenId>> = answered.iter().map(|one| one.tokens.clone()).collect();
    let seed = |name| seed_of(bench.world, name);
    let more = |version, n: usize, temperature, seed| {
        draw(bench.engine, &tokens, Draw { version, n: n as u32, max_tokens: ANSWER_TOKENS, temperature, seed })
    };
    let base = more(BASE, 1, 1.0, seed("base answers"))?;
    let hot = more(PolicyVersion::SFT, most.hot, HOT, seed("hot answers"))?;
    let mut rng = bench.world.stream("rankings");
    let others: Vec<String> = answered.iter().map(|one| one.prompt.instruction.clone()).collect();
    let mut rankings = Vec::with_capacity(answered.len());
    for ((one, base), hot) in answered.into_iter().zip(base).zip(hot) {
        let k = rng.random_range(ANSWERS);
        let mixture = Mixture::of(k);
        let own = one.answers.into_iter().take(mixture.own);
        let mut candidates: Vec<Drawn> = own.chain(base).chain(hot.into_iter().take(mixture.hot)).collect();
        for _ in 0..mixture.staged {
            let question = others[rng.random_range(0..others.len())].clone();
            let text = staged_answer(&one.prompt, &[question], &mut rng);
            candidates.push(Drawn { tokens: bench.encoder.answer(&text)?, text, ended: true });
        }
        rankings.push(ranked(&one.prompt, &one.tokens, candidates, &mut rng));
    }
    Ok(rankings)
}

/// Rankings of the answers that the scout likes best, among some that it does not.
///
/// The best of 16 is as far from the supervised policy as ln 16 − 15/16 = 1.8 nats of KL.
pub(super) fn tempted(bench: &Bench<'_>, scout: &ScalarModel) -> Result<Vec<Ranking>> {
    bench.progress.line("drawing answers that tempt the scout");
    let n = recipe::TEMPTED_FROM as usize;
    let answered = answered(bench, Split::Train, "reward/tempted", recipe::TEMPTED_PROMPTS, recipe::TEMPTED_FROM)?;
    let mut rng = bench.world.stream("rankings/tempted");
    let mut rankings = Vec::with_capacity(answered.len());
    for one in answered {
        let sequences: Vec<Vec<TokenId>> =
            one.answers.iter().map(|drawn| [one.tokens.as_slice(), &drawn.tokens].concat()).collect();
        let scores = raw_scores(scout, &sequences)?;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.dedup_by_key(|i| one.answers[*i].text.clone());
        let k = rng.random_range(ANSWERS).min(order.len());
        // Half of them from the top, the others from all over the rest.
        let top = k.div_ceil(2);
        let rest = order.len() - top;
        let spread = (0..k - top).map(|i| top + i * rest / (k - top));
        let candidates = (0..top).chain(spread).map(|at| one.answers[order[at]].clone()).collect();
        rankings.push(ranked(&one.prompt, &one.tokens, candidates, &mut rng));
    }
    Ok(rankings)
}

fn ranked(prompt: &Prompt, tokens: &[TokenId], candidates: Vec<Drawn>, rng: &mut ChaCha8Rng) -> Ranking {
    let golds: Vec<_> = candidates.iter().map(|drawn| judge(&prompt.wanted, &drawn.text, drawn.ended)).collect();
    let ranks = rank(&golds, recipe::LABEL_NOISE, rng);
    let responses: Vec<Vec<TokenId>> = candidates.into_iter().map(|drawn| drawn.tokens).collect();
    Ranking::new(tokens, &responses, &ranks)
}
