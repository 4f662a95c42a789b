use super::*;

/// Three texts with a long beginning of their own, and one slot, so that each overwrites the one before.
fn one_slot(cache_tokens: usize) -> TestEngine {
    TestEngine::with(Model::default(), |config| {
        config.parallel = 1;
        config.prefix_cache_tokens = cache_tokens;
    })
}

fn prompt(test: &TestEngine, application: &str, question: &str) -> Vec<TokenId> {
    test.tokens(&format!("{application}: the long instructions that every user of it shares; {question}"))
}

fn cached(choice: &Choice) -> usize {
    choice.finished.cached_tokens as usize
}

#[test]
fn what_a_slot_held_before_is_taken_back_and_replays() {
    let test = one_slot(1000);
    let ask = |application, question| {
        let ask = Ask::exactly(prompt(&test, application, question), 12);
        let choice = test.ask(ask).remove(0);
        check_replay(&test.engine, &choice, 1e-3);
        choice
    };
    assert_eq!(cached(&ask("one", "first")), 0);
    assert_eq!(cached(&ask("two", "first")), 0);
    let again = ask("one", "second");
    assert!(cached(&again) >= 40, "{}", cached(&again));
    // The whole conversation is kept: what the policy said is part of the next prompt.
    let mut next_turn = again.finished.rollout.prompt.clone();
    next_turn.extend(ids(&again.streamed));
    next_turn.extend(test.tokens(" and then?"));
    ask("three", "x");
    let choice = test.ask(Ask::exactly(next_turn.clone(), 3)).remove(0);
    check_replay(&test.engine, &choice, 1e-3);
    // The last drawn token was never computed.
    assert_eq!(cached(&choice), again.finished.rollout.prompt.len() + 12 - 1);
}

#[test]
fn without_a_cache_only_the_slots_remember() {
    let test = one_slot(0);
    for (application, remembers) in [("one", false), ("one", true), ("two", false), ("one", false)] {
        let choice = test.ask(Ask::exactly(prompt(&test, application, "?"), 2)).remove(0);
        assert_eq!(cached(&choice) > 0, remembers, "{application}");
    }
}

#[test]
fn salts_keep_prompts_apart_in_slots_and_cache() {
    let test = one_slot(1000);
    let ask = |application, salt| {
        let ask = Ask { salt, ..Ask::exactly(prompt(&test, application, "?"), 2) };
        let choice = test.ask(ask).remove(0);
        check_replay(&test.engine, &choice, 1e-3);
        cached(&choice) > 0
    };
    assert!(!ask("one", Some("a")));
    assert!(ask("one", Some("a")));
    assert!(!ask("one", Some("b")));
    assert!(!ask("one", None));
    assert!(!ask("two", None));
    assert!(ask("one", Some("a")) && ask("one", Some("b")) && ask("one", None));
}

/// Goal: prompts that arrive together compute what they share once. Method: they are submitted while one pass runs; what is
/// computed is counted.
#[test]
fn prompts_that_arrive_together_share_their_beginning() {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 8);
    let system = "the long system prompt that all prompts of one request begin with;";
    let prompts: Vec<_> = (0..6).map(|i| test.tokens(&format!("{system} question {i}"))).collect();
    let before = test.engine.stats();
    let answers: Vec<_> =
        prompts.iter().map(|prompt| test.submit(Target::Live, Ask::exactly(prompt.clone(), 3)).unwrap()).collect();
    for answer in answers {
        check_replay(&test.engine, &answer.wait()[0], 1e-3);
    }
    let cached = test.engine.stats().cached_prompt_tokens - before.cached_prompt_tokens;
    assert!(cached >= 5 * test.tokens(system).len() as u64, "{cached}");
}

/// Goal: a prompt does not wait for one that is cancelled, and takes what that had computed. Method: chunks of 32 tokens;
/// the first prompt is cancelled while it is computed.
#[test]
fn a_prompt_outlives_the_one_it_waits_for() {
    let test = TestEngine::with(Model::default(), |config| config.batch_tokens = 32);
    let long: Vec<TokenId> = (0..240).map(|i| TokenId(5 + i)).collect();
    let first = test.submit(Target::Live, Ask::exactly(long.clone(), 1)).unwrap();
    let second = test.submit(Target::Live, Ask::exactly(long, 4)).unwrap();
    first.cancel.cancel();
    let choice = second.wait().remove(0);
    assert_eq!(choice.streamed.len(), 4);
    check_replay(&test.engine, &choice, 1e-3);
    drop(first);
}

/// Goal: many choices of a few prompts, with the cache on, still draw from what they say they draw. Method: replay all.
#[test]
fn forks_and_kept_prompts_do_not_mix() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 3;
        config.prefix_cache_tokens = 400;
    });
    for round in 0..3 {
        let answers: Vec<_> = (0..6)
            .map(|i| {
                let prompt = prompt(&test, ["one", "two", "three", "four"][(i + round) % 4], "?");
                let ask = Ask { n: 1 + (i as u32 * 7) % 5, ..Ask::exactly(prompt, 4 + i as u32) };
                test.submit(Target::Live, ask).unwrap()
            })
            .collect();
        for choice in answers.into_iter().flat_map(Answer::wait) {
            check_replay(&test.engine, &choice, 1e-3);
        }
    }
}

/// Goal: nothing is fetched into a slot that llama.cpp has still to copy into. Method: the second choice of a prompt is
/// copied beside the first, which runs, and ends with its first token; a prompt that the cache knows waits for that slot.
/// Whether a choice ends at once is up to its seed, so there are many.
#[test]
fn a_kept_prompt_is_not_fetched_under_a_pending_copy() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 2;
        config.prefix_cache_tokens = 2000;
    });
    let known = prompt(&test, "known", "?");
    let mut n_ended_at_once = 0;
    for seed in 0..16 {
        // Both slots forget the known prompt; the cache keeps it.
        for text in ["known", "one", "two", "three"] {
            test.ask(Ask { n: 2, ..Ask::exactly(prompt(&test, text, "?"), 2) });
        }
        let mut forking = Ask { n: 2, ..Ask::exactly(prompt(&test, "forking", "?"), 20) };
        forking.sampling.seed = Some(seed);
        forking.sampling.stop_token_ids = (5..133).map(TokenId).collect();
        let asks = [forking, Ask::exactly(test.tokens("x"), 1), Ask::exactly(known.clone(), 6)];
        let answers = asks.map(|ask| test.submit(Target::Live, ask).unwrap());
        for choice in answers.into_iter().flat_map(Answer::wait) {
            n_ended_at_once += usize::from(choice.streamed.len() == 1 && choice.finished.index == 1);
            check_replay(&test.engine, &choice, 1e-3);
        }
    }
    assert!(n_ended_at_once > 2, "{n_ended_at_once}");
}

/// Goal: what is kept beside the slots is never more than was planned for it, however it is cut into pages. Method: many short
/// beginnings, of which more would fit by their tokens than by their pages, and then a request that needs all of its slot.
#[test]
fn short_beginnings_leave_a_long_request_its_pages() {
    let test = one_slot(64);
    for i in 0..6 {
        let prompt: Vec<TokenId> = (0..20).map(|k| TokenId(10 + i * 30 + k)).collect();
        test.ask(Ask::exactly(prompt, 1));
    }
    let window = test.engine.context_tokens();
    let choice = test.ask(Ask::exactly(vec![TokenId(7); 20], window - 20)).remove(0);
    assert_eq!(choice.streamed.len() as u32, window - 20);
}
