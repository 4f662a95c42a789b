use std::time::{Duration, Instant};

use super::*;
use crate::rollout::FinishReason;

/// Long enough to be interrupted.
fn long(test: &TestEngine) -> Ask {
    Ask::exactly(test.tokens("the"), 250)
}

#[test]
fn more_requests_than_slots_all_finish() {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 3);
    let answers: Vec<Answer> = (0..20)
        .map(|i| {
            let mut ask = Ask::exactly(test.tokens(&format!("request {i}")), 5 + i % 7);
            ask.n = 1 + i % 4;
            test.submit(Target::Live, ask).unwrap()
        })
        .collect();
    for (i, answer) in answers.into_iter().enumerate() {
        for choice in answer.wait() {
            assert_eq!(choice.streamed.len(), 5 + i % 7);
            check_replay(&test.engine, &choice, 1e-3);
        }
    }
    let stats = test.engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.failed), (0, 0, 0));
    assert_eq!(stats.finished.iter().sum::<u64>(), 50);
}

#[test]
fn a_full_queue_rejects_and_recovers() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 1;
        config.max_queue = 2;
    });
    let mut admitted = Vec::new();
    let rejection = loop {
        match test.submit(Target::Live, long(&test)) {
            Ok(answer) => admitted.push(answer),
            Err(rejection) => break rejection,
        }
        assert!(admitted.len() < 1000, "the queue has no bound");
    };
    assert!(matches!(rejection, Rejection::Full { waiting: 2.. }), "{rejection}");
    assert!(admitted.len() <= 3 + admitted.len() / 2);
    assert_eq!(test.engine.stats().rejected_full, 1);
    for answer in admitted {
        answer.wait();
    }
    assert_eq!(test.ask(Ask::exactly(test.tokens("x"), 2)).len(), 1);
}

/// Goal: a request counts as refused where its client is refused, once. Method: requests for the live policy while only the canary
/// is full, and while both are.
#[test]
fn what_the_live_version_takes_over_from_a_full_canary_is_not_refused() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 1;
        config.max_queue = 1;
    });
    test.load(1);
    test.engine.begin_canary(PolicyVersion(1), 1.0).unwrap();
    let mut admitted = vec![test.submit(Target::Version(PolicyVersion(1)), long(&test)).unwrap()];
    let mut fill = |version: PolicyVersion, n_running: usize| {
        // A slot takes its request out of the queue in its own time, and then there is room for another.
        while test.engine.stats().running < n_running {
            std::thread::yield_now();
        }
        while let Ok(answer) = test.submit(Target::Version(version), long(&test)) {
            admitted.push(answer);
        }
    };
    fill(PolicyVersion(1), 1);
    assert_eq!(test.engine.stats().rejected_full, 1);
    let taken_over = test.submit(Target::Live, long(&test)).unwrap();
    assert_eq!((taken_over.version, test.engine.stats().rejected_full), (PolicyVersion::SFT, 1));
    fill(PolicyVersion::SFT, 2);
    assert_eq!(test.engine.stats().rejected_full, 2);
    assert!(matches!(test.submit(Target::Live, long(&test)), Err(Rejection::Full { .. })));
    assert_eq!(test.engine.stats().rejected_full, 3);
    admitted.iter().chain([&taken_over]).for_each(|answer| answer.cancel.cancel());
}

/// Goal: a request of many prompts is one of those who wait, however short the queue, until its last prompt has a slot. Method: a
/// queue of one place behind one slot that is taken for long; where the first such request waits, a second is refused.
#[test]
fn the_prompts_of_a_request_share_a_place() {
    let test = TestEngine::with(Model::default(), |config| {
        config.parallel = 1;
        config.max_queue = 1;
    });
    let many = |n: u32| (0..n).map(|i| Ask::exactly(test.tokens(&format!("prompt {i}")), 3)).collect();
    let long = test.submit(Target::Live, long(&test)).unwrap();
    long.events.recv().unwrap();
    let first = test.submit_all(many(20)).unwrap();
    // Not what is still on its way: the slot's owner has read them once it has drawn again and again.
    long.events.try_iter().for_each(drop);
    (0..3).for_each(|_| drop(long.events.recv().unwrap()));
    assert_eq!(test.engine.stats().waiting, 1);
    assert!(matches!(test.submit_all(many(2)), Err(Rejection::Full { waiting: 1 })));
    long.cancel.cancel();
    for answer in first {
        assert_eq!(answer.wait()[0].streamed.len(), 3);
    }
    assert_eq!(test.engine.stats().waiting, 0);
    test.submit_all(many(2)).unwrap().into_iter().for_each(|answer| drop(answer.wait()));
}

#[test]
fn cancelling_frees_the_slot_wherever_the_request_is() {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 1);
    let running = test.submit(Target::Live, long(&test)).unwrap();
    let queued = test.submit(Target::Live, Ask { n: 3, ..long(&test) }).unwrap();
    let next = test.submit(Target::Live, Ask::exactly(test.tokens("x"), 2)).unwrap();
    queued.cancel.cancel();
    for choice in queued.wait() {
        assert_eq!(choice.finished.rollout.finish, FinishReason::Cancelled);
        assert!(choice.streamed.is_empty());
    }
    assert!(matches!(running.events.recv().unwrap(), Event::Token { .. }));
    running.cancel.cancel();
    let events: Vec<Event> = running.events.iter().collect();
    let Some(Event::Finished(finished)) = events.last() else { panic!("no end: {events:?}") };
    assert_eq!(finished.rollout.finish, FinishReason::Cancelled);
    assert!(finished.rollout.response.len() < 250, "it ran to its end");
    assert_eq!(next.wait()[0].streamed.len(), 2);
    assert_eq!(test.engine.stats().finished[4], 4);
}

/// Goal: a request that is cancelled in the middle of its prompt ends there. Method: chunks of 32 tokens; the flag is up
/// before the first pass is over, so the rest of the prompt must never be computed.
#[test]
fn cancelling_in_prefill_stops_the_prompt() {
    let test = TestEngine::with(Model::default(), |config| config.batch_tokens = 32);
    let prompt: Vec<TokenId> = (0..250).map(|i| TokenId(5 + i)).collect();
    let before = test.engine.stats().step_tokens;
    let answer = test.submit(Target::Live, Ask::exactly(prompt, 3)).unwrap();
    answer.cancel.cancel();
    let choice = answer.wait().remove(0);
    assert_eq!(choice.finished.rollout.finish, FinishReason::Cancelled);
    assert!(choice.streamed.is_empty());
    assert!(test.engine.stats().step_tokens - before < 250);
}

/// Goal: decoding sequences advance while a long prompt is computed. Method: a stream runs, a prompt of seven chunks
/// arrives; the stream must gain tokens before the newcomer's first.
#[test]
fn long_prompts_do_not_stall_streams() {
    let test = TestEngine::with(Model::default(), |config| config.batch_tokens = 32);
    let stream = test.submit(Target::Live, long(&test)).unwrap();
    stream.events.recv().unwrap();
    let prompt: Vec<TokenId> = (0..224).map(|i| TokenId(5 + i)).collect();
    let newcomer = test.submit(Target::Live, Ask::exactly(prompt, 1)).unwrap();
    let steps = test.engine.stats().steps;
    newcomer.wait();
    let steps = test.engine.stats().steps - steps;
    assert!(steps >= 7);
    assert!(stream.events.try_iter().count() >= 5);
}

/// Goal: of prompts that come together the first does not wait for all. Method: six of 100 tokens, five of which would fit one
/// pass; none may have had more than two of them.
#[test]
fn prompts_that_come_together_are_not_computed_at_once() {
    let test = TestEngine::new();
    let answers: Vec<Answer> = (0..6)
        .map(|i| {
            let prompt = (0..100).map(|k| TokenId(5 + (40 * i + k) % 250)).collect();
            test.submit(Target::Live, Ask::exactly(prompt, 1)).unwrap()
        })
        .collect();
    for answer in answers {
        answer.wait();
    }
    let stats = test.engine.stats();
    let n_wide: u64 = stats.step_sizes[STEP_SIZES.partition_point(|&end| end <= 256)..].iter().sum();
    assert_eq!(n_wide, 0, "{:?}", stats.step_sizes);
    assert!(stats.steps >= 4, "{}", stats.steps);
}

/// The class of the widest pass while a prompt of 200 tokens, from `first` on, goes to a resident that has a stream already.
fn widest_pass_of(test: &TestEngine, first: u32) -> usize {
    let before = test.engine.stats().step_sizes;
    let prompt: Vec<TokenId> = (0..200).map(|i| TokenId(5 + first + i)).collect();
    test.ask(Ask::exactly(prompt, 1));
    let after = test.engine.stats().step_sizes;
    STEP_SIZES[(0..STEP_SIZES.len()).rfind(|&i| after[i] > before[i]).unwrap()]
}

/// Goal: a stream does not wait for a long chunk on top of a guest's rest. Method: a stream and a long prompt, with a guest and
/// without.
#[test]
fn prompts_take_smaller_chunks_while_a_version_is_loaded() {
    let test = TestEngine::new();
    let stream = test.submit(Target::Live, long(&test)).unwrap();
    stream.events.recv().unwrap();
    assert_eq!(test.engine.beside_serving(|| widest_pass_of(&test, 0)), if on_decoder() { 16 } else { 32 });
    stream.cancel.cancel();
    let other = test.submit(Target::Live, long(&test)).unwrap();
    other.events.recv().unwrap();
    // Another prompt: the first is known by now.
    assert_eq!(widest_pass_of(&test, 30), 256);
}

/// Goal: a stream does not wait for a long chunk on top of another resident's pass. Method: streams of two versions.
#[test]
fn prompts_take_smaller_chunks_while_two_versions_serve() {
    let test = TestEngine::new();
    test.load(1);
    let streams =
        [Target::Live, Target::Version(PolicyVersion(1))].map(|target| test.submit(target, long(&test)).unwrap());
    streams.iter().for_each(|stream| drop(stream.events.recv().unwrap()));
    assert_eq!(widest_pass_of(&test, 0), if on_decoder() { 16 } else { 32 });
    streams.iter().for_each(|stream| stream.cancel.cancel());
}

#[test]
fn shutdown_finishes_what_runs_and_admits_nothing() {
    let test = TestEngine::new();
    let answer = test.submit(Target::Live, Ask::exactly(test.tokens("the"), 100)).unwrap();
    assert!(test.engine.shutdown(Duration::from_secs(60)));
    assert_eq!(answer.wait()[0].streamed.len(), 100);
    assert!(matches!(test.submit(Target::Live, long(&test)), Err(Rejection::ShuttingDown)));
}

#[test]
fn shutdown_cuts_what_outlives_the_deadline() {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 1);
    let answers: Vec<Answer> = (0..200).map(|_| test.submit(Target::Live, long(&test)).unwrap()).collect();
    assert!(!test.engine.shutdown(Duration::ZERO));
    let reasons: Vec<FinishReason> =
        answers.into_iter().flat_map(Answer::wait).map(|choice| choice.finished.rollout.finish).collect();
    assert_eq!(reasons.len(), 200);
    assert!(reasons.contains(&FinishReason::Cancelled));
}

/// Goal: what is left of a crowd is computed side by side, and a stream that moves goes on with what it held. Method: of seven
/// responses every second one ends early; all are replayed, and one stream must have moved between the others.
#[test]
fn streams_move_into_the_gaps_that_others_leave() {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 7);
    let length = |i: u32| if i.is_multiple_of(2) { 40 } else { 220 };
    let answers: Vec<Answer> = (0..7)
        .map(|i| test.submit(Target::Live, Ask::exactly(test.tokens(&format!("stream {i}")), length(i))).unwrap())
        .collect();
    for (i, answer) in (0..).zip(answers) {
        let choice = answer.wait().remove(0);
        assert_eq!(choice.streamed.len(), length(i) as usize);
        check_replay(&test.engine, &choice, 1e-3);
    }
    assert_eq!(test.engine.stats().moves >= 1, !on_decoder(), "for the decoder a gap is none");
}

/// Goal: times are those at which tokens were drawn, however late somebody reads of them. Method: read once all is over.
#[test]
fn events_carry_the_time_at_which_they_were_made() {
    let test = TestEngine::new();
    let mut last = Instant::now();
    let answer = test.submit(Target::Live, Ask::exactly(test.tokens("the"), 20)).unwrap();
    while test.engine.stats().finished.iter().sum::<u64>() == 0 {
        std::thread::yield_now();
    }
    let over = Instant::now();
    let mut n_tokens = 0;
    for event in &answer.events {
        match event {
            Event::Token { began, at, .. } => {
                assert!(began <= at && last <= at && at <= over, "token {n_tokens}");
                last = at;
                n_tokens += 1;
            }
            Event::Finished(finished) => assert!(last <= finished.at),
            Event::Prompt { .. } | Event::Failed(_) => panic!("{event:?}"),
        }
    }
    assert_eq!(n_tokens, 20);
}

/// Goal: choices that nobody waits for any more each have their end, although nothing was prepared for them. Method: cancel a
/// hundred that wait; every end has its number and the prompt, and no token.
#[test]
fn choices_that_never_began_end_one_by_one() {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 1);
    let running = test.submit(Target::Live, long(&test)).unwrap();
    let ask = Ask { n: 100, ..Ask::exactly(test.tokens("the user"), 3) };
    let prompt = ask.prompt.clone();
    let queued = test.submit(Target::Live, ask).unwrap();
    queued.cancel.cancel();
    for (index, choice) in (0..).zip(queued.wait()) {
        let rollout = choice.finished.rollout;
        assert_eq!((rollout.id.index, rollout.finish), (index, FinishReason::Cancelled));
        assert_eq!((&rollout.prompt, rollout.response.len()), (&prompt, 0));
    }
    running.cancel.cancel();
    running.wait();
    assert!(test.engine.stats().finished[4] >= 100);
}
