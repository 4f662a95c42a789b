//! What a trial asks.
//!
//! The questions come from traffic that never trains (`ppo.held_out_share`), or from recent traffic where no share is held
//! out, and from the operator's file. They are asked again under other limits than they were first asked under: the answers
//! are shorter, and the window may be smaller since a restart. What the engine would refuse is no question: one of them would
//! end every trial, whatever the candidate is like.

use std::collections::HashSet;

use policy::{
    SamplingParams, TokenId,
    engine::{Engine, GenerateRequest},
};

use crate::{experience::is_held_out, rollout_log::LoggedRollout};

/// Rows of the log that are looked through for questions.
pub const ROWS_MAX: usize = 1024;

/// What both versions are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The prompt, special tokens included.
    pub prompt: Vec<TokenId>,
    /// How to draw; the seed is filled in.
    pub sampling: SamplingParams,
}

/// What an engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens of its vocabulary.
    pub n_vocab: usize,
    /// Tokens of prompt and response together.
    pub context_tokens: u32,
}

impl Window {
    /// Of this one.
    #[must_use]
    pub fn of(engine: &Engine) -> Window {
        Window { n_vocab: engine.vocabulary().size(), context_tokens: engine.context_tokens() }
    }

    /// Whether it would answer; [`GenerateRequest::check`] is the judge, here as at admission.
    fn takes(self, question: &Question) -> bool {
        let Question { prompt, sampling } = question.clone();
        let request = GenerateRequest { prompt, sampling, ..GenerateRequest::default() };
        request.check(self.n_vocab, self.context_tokens).is_ok()
    }
}

/// Where questions come from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Rows of the log, newest first.
    pub rows: &'a [LoggedRollout],
    /// The operator's file.
    pub file: &'a [Vec<TokenId>],
    /// What the engine takes that is to answer.
    pub window: Window,
}

/// Chooses the questions for one update: half of them from the file where there is one, the others the newest different
/// prompts of the log that are held out (all of them where no share is). As many as configured, if there is one at all.
#[must_use]
pub fn questions(sources: Sources<'_>, config: &config::Ppo, update: u64) -> Vec<Question> {
    let Sources { rows, file, window } = sources;
    let n = config.gate_prompts;
    let n_of_file = n.div_ceil(2).min(file.len());
    // Another stretch of the file each time, so that in the end all of it is asked.
    let start = (update as usize).wrapping_mul(n_of_file) % file.len().max(1);
    let of_file = file[start..].iter().chain(&file[..start]).map(|prompt| of_file(prompt, config));
    let of_file = of_file.filter(|question| window.takes(question)).take(n_of_file);
    let mut seen = HashSet::new();
    let asked = |row: &&LoggedRollout| config.held_out_share == 0.0 || is_held_out(&row.rollout, config.held_out_share);
    let of_traffic = rows.iter().filter(asked).map(|row| of_traffic(row, config));
    // First whether it can be asked: the same prompt may have been asked in another way too.
    let of_traffic = of_traffic.filter(|q| window.takes(q)).filter(|q| seen.insert(q.prompt.clone()));
    let different: Vec<Question> = of_file.chain(of_traffic).take(n).collect();
    // Few prompts are asked more than once, each time with other random numbers.
    let mut all: Vec<Question> = different.iter().cycle().take(n).cloned().collect();
    for (i, question) in (0u64..).zip(&mut all) {
        question.sampling.seed = Some((update << 20) | i);
    }
    all
}

fn of_file(prompt: &[TokenId], config: &config::Ppo) -> Question {
    let sampling = SamplingParams { max_tokens: config.gate_tokens, ..SamplingParams::default() };
    Question { prompt: prompt.to_vec(), sampling }
}

/// As it was asked, but for the length of the answer: who wanted at least so many tokens gets as many of them as there are.
fn of_traffic(row: &LoggedRollout, config: &config::Ppo) -> Question {
    let sampling = &row.rollout.sampling;
    let max_tokens = sampling.max_tokens.min(config.gate_tokens);
    let min_tokens = sampling.min_tokens.min(max_tokens);
    Question {
        prompt: row.rollout.prompt.clone(),
        sampling: SamplingParams { max_tokens, min_tokens, ..sampling.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rollout_log::{RolloutState, Seq},
        test_world::{World, share_of},
    };

    fn row(i: u32, user: &str) -> LoggedRollout {
        let (mut rollout, _) = World::new(1).rollouts(1, share_of(TokenId(3))).remove(0).into_parts();
        rollout.prompt = vec![TokenId(i)];
        rollout.user = Some(user.to_string());
        rollout.sampling.max_tokens = 500;
        LoggedRollout {
            seq: Seq(i64::from(i)),
            rollout,
            state: RolloutState::Scored,
            reason: None,
            score: None,
            trained_version: None,
            feedback: Vec::new(),
            redacted: None,
        }
    }

    fn of<'a>(rows: &'a [LoggedRollout], file: &'a [Vec<TokenId>]) -> Sources<'a> {
        Sources { rows, file, window: Window { n_vocab: 2000, context_tokens: 16 } }
    }

    #[test]
    fn questions_are_the_newest_different_prompts_of_who_never_trains() {
        let mut config = config::Config::default().ppo;
        (config.gate_prompts, config.gate_tokens) = (4, 16);
        let rows: Vec<_> = (0..300).rev().map(|i| row(i / 2, &format!("user-{}", i / 2))).collect();
        let all = questions(of(&rows, &[]), &config, 7);
        assert_eq!(all.iter().map(|q| q.prompt[0].0).collect::<Vec<_>>(), [149, 148, 147, 146]);
        assert!(all.iter().all(|q| q.sampling.max_tokens == 16));
        assert_eq!(all[1].sampling.seed, Some((7 << 20) | 1));
        config.held_out_share = 0.1;
        let held_out = questions(of(&rows, &[]), &config, 7);
        assert!(held_out.len() == 4 && held_out != all);
        for question in held_out {
            let row = rows.iter().find(|row| row.rollout.prompt == question.prompt).unwrap();
            assert!(is_held_out(&row.rollout, 0.1));
        }
    }

    #[test]
    fn half_of_them_come_from_the_file_and_in_the_end_all_of_it_is_asked() {
        let mut config = config::Config::default().ppo;
        config.gate_prompts = 4;
        let file: Vec<Vec<TokenId>> = (1000..1005).map(|i| vec![TokenId(i)]).collect();
        let rows: Vec<_> = (0..9).map(|i| row(i, "somebody")).collect();
        let mut asked = HashSet::new();
        for update in 0..5 {
            let all = questions(of(&rows, &file), &config, update);
            assert_eq!(all.iter().filter(|q| q.prompt[0].0 >= 1000).count(), 2);
            assert_eq!(all.len(), 4);
            asked.extend(all.into_iter().map(|q| q.prompt[0].0).filter(|id| *id >= 1000));
        }
        assert_eq!(asked.len(), 5);
        assert_eq!(questions(of(&[], &file), &config, 0).len(), 4, "few prompts are asked more than once");
        config.gate_prompts = 0;
        assert!(questions(of(&rows, &file), &config, 0).is_empty());
    }

    /// Goal: no single request that a client once made ends every trial. Method: requests that an engine took and would not take
    /// again with fewer tokens or in a smaller window, among others; and the engine's own check of what is chosen.
    #[test]
    fn what_the_engine_would_refuse_is_not_asked() {
        let mut config = config::Config::default().ppo;
        (config.gate_prompts, config.gate_tokens) = (8, 16);
        let mut rows: Vec<_> = (0..4).map(|i| row(i, "somebody")).collect();
        rows[0].rollout.sampling.min_tokens = 100;
        rows[1].rollout.prompt = vec![TokenId(1); 17];
        rows[2].rollout.sampling.max_tokens = 0;
        let file = [vec![TokenId(1000); 17], vec![TokenId(1001)], vec![TokenId(2000)]];
        let sources = of(&rows, &file);
        let all = questions(sources, &config, 3);
        assert_eq!(all.iter().map(|q| q.prompt[0].0).collect::<HashSet<_>>(), HashSet::from([0, 3, 1001]));
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(|question| sources.window.takes(question)));
        let long = all.iter().find(|question| question.prompt[0] == TokenId(0)).unwrap();
        assert_eq!(
            (long.sampling.min_tokens, long.sampling.max_tokens),
            (16, 16),
            "as much of it as there is room for"
        );
        assert!(questions(of(&rows[1..3], &file[..1]), &config, 3).is_empty());
    }
}
