use super::*;
use crate::rollout::FinishReason;

fn scored(prompt: Vec<TokenId>, n_tokens: u32, k: u32) -> Ask {
    Ask { score_prompt: Some(k), ..Ask::exactly(prompt, n_tokens) }
}

/// Goal: the scores of a prompt are those of teacher forcing, whatever is drawn after it. Method: in chunks of 32 tokens,
/// with a cache that holds the very prompt, against the scoring that the learner uses.
#[test]
fn scored_prompts_agree_with_teacher_forcing() {
    let test = TestEngine::with(Model::default(), |config| config.batch_tokens = 32);
    let prompt: Vec<TokenId> = (0..100).map(|i| TokenId(5 + (i * 37) % 250)).collect();
    test.ask(Ask::exactly(prompt.clone(), 2));
    let want = test.engine.log_probs(PolicyVersion::SFT, &prompt).unwrap();
    for n_tokens in [0, 3] {
        let choice = test.ask(scored(prompt.clone(), n_tokens, 4)).remove(0);
        let tokens = choice.prompt.unwrap();
        assert_eq!(tokens.len(), prompt.len() - 1);
        assert_eq!(choice.finished.cached_tokens, 0, "cached tokens have no logits");
        for ((token, want), &id) in tokens.iter().zip(&want).zip(&prompt[1..]) {
            assert_eq!(token.id, id);
            assert!((token.log_prob.0 - want.0).abs() < 1e-4, "{token:?} {want:?}");
            assert_eq!(token.top.len(), 4);
            assert!(token.top.is_sorted_by(|a, b| a.1.0 >= b.1.0));
            let n_better = token.top.iter().filter(|(_, log_prob)| log_prob.0 > token.log_prob.0).count();
            assert_eq!(token.rank <= 4, n_better < 4, "{token:?}");
        }
    }
}

#[test]
fn a_scored_prompt_without_response_ends_all_its_choices() {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 2);
    for prompt in [vec![TokenId(9)], test.tokens("the user"), vec![TokenId(9); model::CONTEXT as usize]] {
        let n = prompt.len();
        let choices = test.ask(Ask { n: 5, ..scored(prompt, 0, 0) });
        assert_eq!(choices[0].prompt.as_ref().map(Vec::len), Some(n - 1));
        for choice in &choices {
            assert_eq!(choice.finished.rollout.finish, FinishReason::ClientLimit);
            assert!(choice.streamed.is_empty());
        }
    }
    let stats = test.engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.generated_tokens), (0, 0, 0));
}

#[test]
fn choices_of_a_scored_prompt_share_its_computation() {
    let test = TestEngine::new();
    let prompt = test.tokens("the prompt that four choices share");
    let steps = test.engine.stats().step_tokens;
    let choices = test.ask(Ask { n: 4, ..scored(prompt.clone(), 2, 1) });
    assert_eq!(test.engine.stats().step_tokens - steps, prompt.len() as u64 + 4);
    for choice in &choices {
        assert_eq!(choice.prompt.is_some(), choice.finished.index == 0);
        check_replay(&test.engine, choice, 1e-3);
    }
}

/// Goal: a scored prompt is cancelled as any other. Method: chunks of 32 tokens, the flag up before the first pass is over.
#[test]
fn cancelling_stops_the_scoring_of_a_prompt() {
    let test = TestEngine::with(Model::default(), |config| config.batch_tokens = 32);
    let prompt: Vec<TokenId> = (0..250).map(|i| TokenId(5 + i)).collect();
    let before = test.engine.stats().step_tokens;
    let answer = test.submit(Target::Live, Ask { n: 3, ..scored(prompt, 0, 20) }).unwrap();
    answer.cancel.cancel();
    for choice in answer.wait() {
        assert_eq!(choice.finished.rollout.finish, FinishReason::Cancelled);
        assert!(choice.prompt.is_none());
    }
    assert!(test.engine.stats().step_tokens - before < 250);
    assert_eq!(test.ask(Ask::exactly(test.tokens("x"), 2)).len(), 1);
}

#[test]
fn nothing_is_drawn_only_where_something_is_scored() {
    let test = TestEngine::new();
    let field = |ask: Ask| match test.submit(Target::Live, ask) {
        Err(Rejection::Invalid(e)) => e.field,
        other => panic!("{}", other.is_ok()),
    };
    let prompt = test.tokens("the");
    assert_eq!(field(Ask::exactly(prompt.clone(), 0)), "max_tokens");
    assert_eq!(field(scored(prompt, 1, 21)), "prompt_logprobs");
    assert_eq!(field(scored(vec![TokenId(9); model::CONTEXT as usize + 1], 0, 0)), "prompt");
}
