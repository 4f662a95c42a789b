//! What a version is worth: answers to held-out prompts over HTTP, judged by the gold labeler.
//!
//! Prompts are of test users, whom neither the build nor the traffic knows. Answers are drawn at temperature 1 with one
//! fixed seed for each prompt, `store: false`, so evaluation teaches nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    client::{Client, Reply, Response},
    error::{DemoError, Result},
    scratch::ANSWER_TOKENS,
    world::{Gold, Prompt, judge},
};
use crate::http::wire::client::Ask;

/// Requests at once.
const LANES: usize = 8;

/// One held-out prompt, answered and judged.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// The answer.
    pub(super) answer: String,
    /// What it is worth.
    pub(super) gold: Gold,
}

/// Mean and standard error of gold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    /// Mean.
    pub(super) mean: f64,
    /// Standard error of the mean.
    pub(super) error: f64,
}

/// Asks `model` all prompts once.
pub(super) fn evaluate(client: &Client, model: &str, prompts: &[Prompt]) -> Result<Vec<Judged>> {
    let replies = ask_all(client, model, prompts, 1)?;
    let judged = prompts.iter().zip(replies).map(|(prompt, mut reply)| {
        let Response { text, ended } = reply.responses.swap_remove(0);
        Judged { gold: judge(&prompt.wanted, &text, ended), answer: text }
    });
    Ok(judged.collect())
}

/// Share of pairs of fresh answers to one prompt that the daemon's reward model puts in the order of gold.
///
/// Pairs of equal gold are left out: there is no order to find.
pub(super) fn reward_accuracy(client: &Client, model: &str, prompts: &[Prompt], n: u32) -> Result<(f64, usize)> {
    let replies = ask_all(client, model, prompts, n)?;
    let (mut right, mut pairs) = (0usize, 0usize);
    for (prompt, reply) in prompts.iter().zip(replies) {
        let ended: Vec<&Response> = reply.responses.iter().filter(|response| response.ended).collect();
        if ended.len() < 2 {
            continue;
        }
        let exchanges: Vec<(&str, &str)> =
            ended.iter().map(|response| (prompt.instruction.as_str(), response.text.as_str())).collect();
        let scores = client.rewards(&exchanges)?;
        let golds: Vec<f64> = ended.iter().map(|r| judge(&prompt.wanted, &r.text, true).total()).collect();
        for i in 0..golds.len() {
            for j in (0..golds.len()).filter(|&j| golds[i] > golds[j]) {
                pairs += 1;
                right += usize::from(scores[i] > scores[j]);
            }
        }
    }
    Ok((right as f64 / pairs.max(1) as f64, pairs))
}

/// Mean of gold with its standard error.
pub(super) fn level(judged: &[Judged]) -> Level {
    let n = judged.len().max(1) as f64;
    let totals: Vec<f64> = judged.iter().map(|one| one.gold.total()).collect();
    let mean = totals.iter().sum::<f64>() / n;
    let variance = totals.iter().map(|total| (total - mean).powi(2)).sum::<f64>() / n;
    Level { mean, error: (variance / n).sqrt() }
}

fn ask_all(client: &Client, model: &str, prompts: &[Prompt], n: u32) -> Result<Vec<Reply>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(prompt) = prompts.get(i) else {
                return Ok(done);
            };
            done.push((i, ask(client, model, prompt, i as u64, n)?));
        }
    };
    let parts: Vec<Result<Vec<(usize, Reply)>>> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(work)).collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|_| Err(DemoError::Daemon("an evaluation panicked".to_owned()))))
            .collect()
    });
    let mut all = parts.into_iter().collect::<Result<Vec<_>>>()?.concat();
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, reply)| reply).collect())
}

fn ask(client: &Client, model: &str, prompt: &Prompt, seed: u64, n: u32) -> Result<Reply> {
    let ask = Ask {
        model,
        text: &prompt.instruction,
        chat: true,
        stream: false,
        n,
        max_tokens: ANSWER_TOKENS,
        seed: Some(seed),
        store: false,
        user: &prompt.user,
    };
    client.ask(&ask).map_err(|reason| DemoError::Http { route: format!("POST {}", ask.route()), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_the_mean_and_its_standard_error() {
        let one =
            |helpful| Judged { answer: String::new(), gold: Gold { helpful, honest: 1.0, harmless: 1.0, ends: 1.0 } };
        let level = level(&[one(0.0), one(1.0), one(0.0), one(1.0)]);
        assert_eq!(level, Level { mean: 0.5, error: 0.25 });
    }
}
