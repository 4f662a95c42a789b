//! Who waits for whom.

use std::time::Duration;

use super::*;

/// One slot, taken by a long request of nobody's while the others arrive.
fn busy() -> (TestEngine, Answer) {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 1);
    let first = occupy(&test);
    (test, first)
}

fn occupy(test: &TestEngine) -> Answer {
    let answer = test.submit(Target::Live, Ask::exactly(test.tokens("the"), 250)).unwrap();
    let drawn = test.engine.stats().generated_tokens;
    while test.engine.stats().generated_tokens == drawn {
        std::thread::yield_now();
    }
    answer
}

fn submit(test: &TestEngine, tenant: u32, n: u32, n_tokens: u32) -> Answer {
    let ask = Ask { n, tenant: Tenant(tenant), ..Ask::exactly(test.tokens("a word"), n_tokens) };
    test.submit(Target::Live, ask).unwrap()
}

/// How long each choice waited for its slot. All arrive within a moment, so this is the order in which they were served.
fn waits(answer: Answer) -> Vec<Duration> {
    answer.wait().iter().map(|choice| choice.finished.timings.queued).collect()
}

#[test]
fn a_tenant_with_many_requests_takes_turns_with_one_with_few() {
    let (test, first) = busy();
    let many: Vec<Answer> = (0..8).map(|_| submit(&test, 1, 1, 20)).collect();
    let few: Vec<Answer> = (0..2).map(|_| submit(&test, 2, 1, 20)).collect();
    first.wait();
    let many: Vec<Duration> = many.into_iter().flat_map(waits).collect();
    let few: Vec<Duration> = few.into_iter().flat_map(waits).collect();
    assert!(many.is_sorted(), "one tenant's requests keep their order: {many:?}");
    assert!(few[0] < many[2] && few[1] < many[3], "{few:?} among {many:?}");
}

#[test]
fn service_is_counted_in_tokens() {
    let (test, first) = busy();
    let long: Vec<Answer> = (0..3).map(|_| submit(&test, 1, 1, 100)).collect();
    let short: Vec<Answer> = (0..4).map(|_| submit(&test, 2, 1, 10)).collect();
    first.wait();
    let long: Vec<Duration> = long.into_iter().flat_map(waits).collect();
    let short: Vec<Duration> = short.into_iter().flat_map(waits).collect();
    assert!(short.iter().all(|wait| *wait < long[1]), "{short:?} among {long:?}");
}

/// Goal: nobody saves up. Method: a tenant is served alone for long; then it and a newcomer arrive together, again and again.
/// Whoever was never there would be owed everything the other one got.
#[test]
fn being_away_earns_nothing() {
    let (test, first) = busy();
    let alone: Vec<Answer> = (0..4).map(|_| submit(&test, 1, 1, 100)).collect();
    first.wait();
    alone.into_iter().for_each(|answer| drop(answer.wait()));
    let blocker = occupy(&test);
    let newcomer: Vec<Answer> = (0..6).map(|_| submit(&test, 2, 1, 20)).collect();
    let old: Vec<Answer> = (0..2).map(|_| submit(&test, 1, 1, 20)).collect();
    blocker.wait();
    let newcomer: Vec<Duration> = newcomer.into_iter().flat_map(waits).collect();
    let old: Vec<Duration> = old.into_iter().flat_map(waits).collect();
    assert!(old[1] < newcomer[4], "{old:?} among {newcomer:?}");
}

/// Goal: under overload requests end one after another, and not all of them at the same late moment. Method: three requests with
/// four choices each behind one slot; the last choice of each has its slot before the first one of the next.
#[test]
fn requests_of_one_tenant_end_one_after_another() {
    let (test, first) = busy();
    let requests: Vec<Answer> = (0..3).map(|_| submit(&test, 0, 4, 10)).collect();
    first.wait();
    let waited: Vec<Duration> = requests.into_iter().flat_map(waits).collect();
    assert!(waited.len() == 12 && waited.is_sorted(), "{waited:?}");
}

#[test]
fn a_request_with_many_choices_blocks_no_other_tenant() {
    let (test, first) = busy();
    let large = submit(&test, 1, 12, 10);
    let small: Vec<Answer> = (0..6).map(|_| submit(&test, 2, 1, 10)).collect();
    first.wait();
    let large = waits(large);
    let small: Vec<Duration> = small.into_iter().flat_map(waits).collect();
    assert!(small[0] < large[2] && small[5] < large[11], "it blocked: {small:?} among {large:?}");
}

#[test]
fn one_tenant_leaves_room_in_the_queue() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 1;
        config.max_queue = 8;
        config.max_queue_share = 0.5;
    });
    let long = |tenant| Ask { tenant: Tenant(tenant), ..Ask::exactly(test.tokens("the"), 250) };
    let mut admitted = Vec::new();
    while let Ok(answer) = test.submit(Target::Live, long(1)) {
        admitted.push(answer);
        assert!(admitted.len() < 1000, "the queue has no bound");
    }
    let other = test.submit(Target::Live, long(2)).expect("a place is left for others");
    admitted.into_iter().chain([other]).for_each(|answer| answer.cancel.cancel());
}

/// Goal: a few requests with many choices are as full a queue as many with one. Method: one slot, taken; a request that nobody waits
/// before is admitted whatever it asks for, and counts as no more than one client may have; then only as many choices as may wait.
#[test]
fn the_queue_is_bounded_by_sequences_too() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 1;
        config.max_queue_sequences = 10;
    });
    let running = occupy(&test);
    let ask = |n| test.submit(Target::Live, Ask { n, ..Ask::exactly(test.tokens("a word"), 3) });
    let huge = ask(64).expect("nobody waits");
    assert!(matches!(ask(3), Err(Rejection::Full { waiting: 1 })));
    let few = ask(2).expect("there is room beside one request");
    assert!(matches!(ask(1), Err(Rejection::Full { waiting: 2 })));
    few.cancel.cancel();
    few.wait();
    huge.cancel.cancel();
    huge.wait();
    while test.engine.stats().waiting > 0 {
        std::thread::yield_now();
    }
    let (six, four) = (ask(6).expect("nobody waits"), ask(4).expect("these are ten"));
    assert!(matches!(ask(1), Err(Rejection::Full { waiting: 2 })));
    running.cancel.cancel();
    assert_eq!((waits(six).len(), waits(four).len()), (6, 4));
    assert_eq!(waits(ask(64).expect("nobody waits")).len(), 64);
}

/// Goal: room goes back with each choice that gets a slot, not with the last one. Method: one slot and room for ten; of five long
/// choices the first is drawn.
#[test]
fn a_choice_that_has_a_slot_waits_no_longer() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 1;
        config.max_queue_sequences = 10;
    });
    let ask = |n| test.submit(Target::Live, Ask { n, ..Ask::exactly(test.tokens("the"), 250) });
    let first = ask(5).expect("nobody waits");
    first.events.recv().unwrap();
    let second = ask(6).expect("four wait");
    assert!(matches!(ask(1), Err(Rejection::Full { waiting: 2 })));
    [first, second].iter().for_each(|answer| answer.cancel.cancel());
}

/// Goal: what may wait is bounded by tokens too, those that were asked for and those of the prompts, each with every choice. Method:
/// one slot, taken; room for a thousand tokens, of which a request with one choice asks for 252 and one with three for 756.
#[test]
fn the_queue_is_bounded_by_tokens_too() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 1;
        config.max_queue_tokens = 1000;
        config.max_queue_share = 1.0;
    });
    let running = occupy(&test);
    let prompt: Vec<TokenId> = (0..52).map(|i| TokenId(5 + i)).collect();
    let ask = |n, n_tokens| test.submit(Target::Live, Ask { n, ..Ask::exactly(prompt.clone(), n_tokens) });
    let three = ask(3, 200).expect("nobody waits");
    assert!(matches!(ask(1, 200), Err(Rejection::Full { waiting: 1 })), "756 + 252");
    let short = ask(1, 192).expect("756 + 244 are a thousand");
    assert!(matches!(ask(1, 1), Err(Rejection::Full { waiting: 2 })));
    assert_eq!(test.engine.stats().rejected_full, 2);
    [three, short].into_iter().for_each(|answer| {
        answer.cancel.cancel();
        answer.wait();
    });
    while test.engine.stats().waiting > 0 {
        std::thread::yield_now();
    }
    let huge = ask(64, 200).expect("nobody waits");
    assert!(matches!(ask(1, 1), Err(Rejection::Full { waiting: 1 })));
    [huge, running].iter().for_each(|answer| answer.cancel.cancel());
}
