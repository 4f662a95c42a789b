//! What a trial asks.
//!
//! The questions come from traffic that never trains (`ppo.held_out_share`), or from recent traffic where no share is held
//! out, and from the operator's file. A prompt that the update has just learnt from says little about others, so it is asked
//! only where there are too few of these; and one user, whose prompts could be made for it, shall not decide about everybody's
//! policy, so each named one has a quarter of the questions as long as others have asked something. Users in quarantine ask
//! nothing here.
//!
//! They are asked again under other limits than they were first asked under: the answers are shorter, and the window may be
//! smaller since a restart. What the engine would refuse is no question: one of them would end every trial, whatever the
//! candidate is like.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use policy::{
    SamplingParams, TokenId,
    engine::{Engine, GenerateRequest},
};

use crate::{
    experience::is_held_out,
    rollout_log::{LoggedRollout, Quarantine, USER_PART},
};

/// Rows of the log that are looked through for questions.
pub const ROWS_MAX: usize = 1024;

/// What both versions are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The prompt, special tokens included.
    pub prompt: Vec<TokenId>,
    /// How to draw; the seed is filled in.
    pub sampling: SamplingParams,
    /// What the candidate has seen of it.
    pub origin: Origin,
}

/// What a candidate may have learnt from a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing: it is the operator's, or of traffic that never trains.
    HeldOut,
    /// Nothing in this update; an earlier one may have used it.
    Recent,
    /// The update has just used it.
    Learnt,
}

/// How many different prompts were asked, and what the candidate had seen of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Prompts.
    pub n_prompts: usize,
    /// Those that are [`Origin::HeldOut`].
    pub n_held_out: usize,
    /// Those that are [`Origin::Learnt`].
    pub n_learnt: usize,
}

impl Asked {
    /// Of these questions.
    #[must_use]
    pub fn of(questions: &[Question]) -> Asked {
        let mut seen = HashSet::new();
        let mut asked = Asked::default();
        for question in questions.iter().filter(|question| seen.insert(&question.prompt)) {
            asked.n_prompts += 1;
            asked.n_held_out += usize::from(question.origin == Origin::HeldOut);
            asked.n_learnt += usize::from(question.origin == Origin::Learnt);
        }
        asked
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asked { n_prompts, n_held_out, n_learnt } = *self;
        let prompts = if n_prompts == 1 { "prompt" } else { "prompts" };
        match (n_held_out, n_learnt) {
            (n, 0) if n == n_prompts => write!(f, "{n_prompts} held-out {prompts}"),
            (0, 0) => write!(f, "{n_prompts} {prompts} of recent traffic"),
            _ => write!(f, "{n_prompts} {prompts} ({n_held_out} held out, {n_learnt} that the update had learnt from)"),
        }
    }
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
        let Question { prompt, sampling, .. } = question.clone();
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
    /// Prompts that the update has learnt from.
    pub learnt: &'a [&'a [TokenId]],
    /// Who asks nothing here.
    pub quarantine: &'a Quarantine,
    /// What the engine takes that is to answer.
    pub window: Window,
}

/// Chooses the questions for one update: half of them from the file where there is one, the others the newest different
/// prompts of the log that are held out (all of them where no share is), those first that the update has not learnt from. As
/// many as configured, if there is one at all.
#[must_use]
pub fn questions(sources: Sources<'_>, config: &config::Ppo, update: u64) -> Vec<Question> {
    let Sources { file, learnt, window, .. } = sources;
    let n = config.gate_prompts;
    let n_of_file = n.div_ceil(2).min(file.len());
    // Another stretch of the file each time, so that in the end all of it is asked.
    let start = (update as usize).wrapping_mul(n_of_file) % file.len().max(1);
    let of_file = file[start..].iter().chain(&file[..start]).map(|prompt| of_file(prompt, learnt, config));
    let of_file = of_file.filter(|question| window.takes(question)).take(n_of_file);
    let different: Vec<Question> = of_file.chain(of_traffic(sources, config)).take(n).collect();
    // Few prompts are asked more than once, each time with other random numbers.
    let mut all: Vec<Question> = different.iter().cycle().take(n).cloned().collect();
    for (i, question) in (0u64..).zip(&mut all) {
        question.sampling.seed = Some((update << 20) | i);
    }
    all
}

/// All different prompts of the log that can be asked, the best first: what the update has not learnt from before what it has,
/// within these the newest; and behind all of them what would be more than one user's part.
fn of_traffic(sources: Sources<'_>, config: &config::Ppo) -> Vec<Question> {
    let learnt: HashSet<&[TokenId]> = sources.learnt.iter().copied().collect();
    let mut seen = HashSet::new();
    let (mut unseen, mut known) = (Vec::new(), Vec::new());
    for row in sources.rows {
        let (rollout, share) = (&row.rollout, config.held_out_share);
        if (share > 0.0 && !is_held_out(rollout, share)) || sources.quarantine.holds(rollout.user.as_deref()) {
            continue;
        }
        let origin = match () {
            () if learnt.contains(rollout.prompt.as_slice()) => Origin::Learnt,
            () if share > 0.0 => Origin::HeldOut,
            () => Origin::Recent,
        };
        let question = again(row, origin, config);
        // First whether it can be asked: the same prompt may have been asked in another way too.
        if sources.window.takes(&question) && seen.insert(&rollout.prompt) {
            let list = if origin == Origin::Learnt { &mut known } else { &mut unseen };
            list.push((rollout.user.as_deref(), question));
        }
    }
    let user_max = config.gate_prompts.div_ceil(USER_PART);
    let (mut first, mut rest, mut n_by_user) = (Vec::new(), Vec::new(), HashMap::new());
    for (user, question) in unseen.into_iter().chain(known) {
        // Who gives no name cannot be told from others.
        let n = user.map_or(0, |user| {
            let n = n_by_user.entry(user).or_insert(0);
            *n += 1;
            *n
        });
        let list = if n <= user_max { &mut first } else { &mut rest };
        list.push(question);
    }
    first.append(&mut rest);
    first
}

fn of_file(prompt: &[TokenId], learnt: &[&[TokenId]], config: &config::Ppo) -> Question {
    let sampling = SamplingParams { max_tokens: config.gate_tokens, ..SamplingParams::default() };
    let origin = if learnt.contains(&prompt) { Origin::Learnt } else { Origin::HeldOut };
    Question { prompt: prompt.to_vec(), sampling, origin }
}

/// As it was asked, but for the length of the answer: who wanted at least so many tokens gets as many of them as there are.
fn again(row: &LoggedRollout, origin: Origin, config: &config::Ppo) -> Question {
    let sampling = &row.rollout.sampling;
    let max_tokens = sampling.max_tokens.min(config.gate_tokens);
    let min_tokens = sampling.min_tokens.min(max_tokens);
    Question {
        prompt: row.rollout.prompt.clone(),
        sampling: SamplingParams { max_tokens, min_tokens, ..sampling.clone() },
        origin,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

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

    static NOBODY: LazyLock<Quarantine> = LazyLock::new(Quarantine::default);

    fn of<'a>(rows: &'a [LoggedRollout], file: &'a [Vec<TokenId>]) -> Sources<'a> {
        let window = Window { n_vocab: 2000, context_tokens: 16 };
        Sources { rows, file, learnt: &[], quarantine: &NOBODY, window }
    }

    fn ids(questions: &[Question]) -> Vec<u32> {
        questions.iter().map(|question| question.prompt[0].0).collect()
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

    /// Goal: what an update has just learnt from is asked only where there is too little else, and the report tells. Method: ten
    /// prompts of which the newest ones have trained.
    #[test]
    fn what_was_just_learnt_from_is_asked_last() {
        let mut config = config::Config::default().ppo;
        config.gate_prompts = 4;
        let rows: Vec<_> = (0..10).rev().map(|i| row(i, &format!("user-{i}"))).collect();
        let asked_after = |learnt: std::ops::Range<u32>| {
            let prompts: Vec<[TokenId; 1]> = learnt.map(|i| [TokenId(i)]).collect();
            let learnt: Vec<&[TokenId]> = prompts.iter().map(<[TokenId; 1]>::as_slice).collect();
            let all = questions(Sources { learnt: &learnt, ..of(&rows, &[]) }, &config, 0);
            (ids(&all), Asked::of(&all))
        };
        assert_eq!(asked_after(0..0), (vec![9, 8, 7, 6], Asked { n_prompts: 4, n_held_out: 0, n_learnt: 0 }));
        assert_eq!(asked_after(5..10), (vec![4, 3, 2, 1], Asked { n_prompts: 4, n_held_out: 0, n_learnt: 0 }));
        assert_eq!(asked_after(2..10), (vec![1, 0, 9, 8], Asked { n_prompts: 4, n_held_out: 0, n_learnt: 2 }));
        config.held_out_share = 0.5;
        let file = [vec![TokenId(1000)]];
        let all = questions(of(&rows, &file), &config, 0);
        assert!(all.iter().all(|question| question.origin == Origin::HeldOut), "the operator's, and who never trains");
    }

    /// Goal: no single user decides. Method: one who asked almost everything lately, and others; that one alone; and one who is in
    /// quarantine.
    #[test]
    fn one_user_has_a_quarter_of_the_questions_while_others_have_any() {
        let mut config = config::Config::default().ppo;
        config.gate_prompts = 8;
        let mut rows: Vec<_> = (100..200).rev().map(|i| row(i, "loud")).collect();
        assert_eq!(
            ids(&questions(of(&rows, &[]), &config, 0)),
            (192..200).rev().collect::<Vec<_>>(),
            "there is nobody else"
        );
        rows.extend((0..4).rev().map(|i| row(i, &format!("user-{i}"))));
        let all = ids(&questions(of(&rows, &[]), &config, 0));
        assert_eq!(all, [199, 198, 3, 2, 1, 0, 197, 196], "what nobody else fills");
        rows.extend((4..10).rev().map(|i| row(i, &format!("user-{i}"))));
        assert_eq!(ids(&questions(of(&rows, &[]), &config, 0)), [199, 198, 3, 2, 1, 0, 9, 8]);
        rows.iter_mut()
            .filter(|row| row.rollout.user.as_deref() == Some("loud"))
            .for_each(|row| row.rollout.user = None);
        assert_eq!(ids(&questions(of(&rows, &[]), &config, 0))[7], 192, "nameless ones cannot be told apart");
        rows[0].rollout.user = Some("bad".to_string());
        let quarantine = Quarantine::parse("bad");
        let all = questions(Sources { quarantine: &quarantine, ..of(&rows, &[]) }, &config, 0);
        assert_eq!(ids(&all)[0], 198);
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
