use super::*;

const ONE: PolicyVersion = PolicyVersion(1);

/// Decode steps of a version, class by class.
fn n_steps(test: &TestEngine, version: PolicyVersion) -> Vec<u64> {
    let times = test.engine.step_times(version);
    (0..BATCH_SIZES.len()).map(|class| times.n_steps(class)).collect()
}

/// Goal: what is counted is what streams wait for, apart by version and by how many they are. Method: answers of known length, alone
/// and by fours, whose first token comes out of the prompt's pass; prompts that are scored and tokens that are timed count nowhere.
#[test]
fn decode_steps_are_counted_by_version_and_by_batch_size() {
    let test = TestEngine::new();
    test.load(1);
    let ask = |n: u32, n_tokens: u32| Ask { n, ..Ask::exactly(test.tokens("the user"), n_tokens) };
    test.ask(ask(1, 20));
    assert_eq!(n_steps(&test, PolicyVersion::SFT), [19, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(n_steps(&test, ONE), [0; 9]);
    test.submit(Target::Version(ONE), ask(4, 30)).unwrap().wait();
    test.submit(Target::Version(ONE), ask(2, 8)).unwrap().wait();
    assert_eq!(n_steps(&test, ONE), [0, 7, 29, 0, 0, 0, 0, 0, 0]);
    test.engine.log_probs(ONE, &test.tokens("the user asked")).unwrap();
    test.engine.time_tokens(ONE, &test.tokens("the user asked"), &|| true).unwrap();
    test.submit(Target::Version(ONE), ask(1, 1)).unwrap().wait();
    assert_eq!(n_steps(&test, ONE), [0, 7, 29, 0, 0, 0, 0, 0, 0]);
    assert_eq!(n_steps(&test, PolicyVersion::SFT), [19, 0, 0, 0, 0, 0, 0, 0, 0], "another's steps are its own");
    let (fastest, slowest) = [0.0, 1.0].map(|share| test.engine.step_times(ONE).quantile(2, share).unwrap()).into();
    assert!(1e-6 < fastest && fastest <= slowest && slowest < 60.0, "{fastest} {slowest}");
    assert_eq!(n_steps(&test, PolicyVersion(9)), [0; 9], "nobody");
    test.engine.retire(ONE).unwrap();
    while !test.engine.residents().iter().all(|resident| resident.version != ONE) {
        std::thread::yield_now();
    }
    assert_eq!(n_steps(&test, ONE), [0; 9], "it is forgotten with its resident");
}

/// Goal: whoever times tokens gets as many as it gives, whoever is served stays served, and nothing of it stays behind. Method: every
/// slot but one answers, and every one does, for long; each answer replays.
#[test]
fn tokens_are_timed_beside_those_who_are_served() {
    for (is_deterministic, n_running) in [(false, 0), (false, 3), (false, 4), (true, 3)] {
        let test = TestEngine::with(Model::default(), |config| {
            (config.parallel, config.deterministic) = (4, is_deterministic);
        });
        let ask = |i: u32| Ask::exactly(test.tokens(&format!("the user {i}")), 60 + i);
        let running: Vec<Answer> = (0..n_running).map(|i| test.submit(Target::Live, ask(i)).unwrap()).collect();
        running.iter().for_each(|answer| drop(answer.events.recv().unwrap()));
        let tokens = test.tokens("a sentence of some length that nobody has asked for");
        let took = test.engine.time_tokens(PolicyVersion::SFT, &tokens, &|| true).unwrap();
        assert_eq!(took.len(), tokens.len());
        assert!(took.iter().all(|took| !took.is_zero() && took.as_secs() < 60), "{took:?}");
        for answer in running {
            // Its first event is gone already.
            let Some(Event::Finished(finished)) = answer.events.iter().last() else {
                panic!("it did not finish");
            };
            let choice = Choice {
                streamed: Vec::new(),
                text: String::new(),
                top: Vec::new(),
                prompt: None,
                finished: *finished,
            };
            check_replay(&test.engine, &choice, 1e-3);
        }
        let stats = test.engine.stats();
        assert_eq!((stats.running, stats.waiting, stats.failed), (0, 0, 0));
        assert_eq!(test.ask(Ask { n: 4, ..ask(0) }).len(), 4, "every slot is free");
    }
}

#[test]
fn timing_ends_when_nobody_waits_for_it_and_refuses_what_cannot_be_computed() {
    let test = TestEngine::with(Model::default(), |config| config.parallel = 1);
    let tokens = test.tokens("the user");
    let time = |version, tokens: &[TokenId]| test.engine.time_tokens(version, tokens, &|| true);
    let refused = |tokens: &[TokenId]| matches!(time(PolicyVersion::SFT, tokens), Err(EngineError::Tokens(_)));
    assert!(refused(&[]) && refused(&[TokenId(999_999)]) && refused(&vec![tokens[0]; 100_000]));
    assert!(matches!(time(ONE, &tokens), Err(EngineError::NotResident(_))));
    let running = test.submit(Target::Live, Ask::exactly(tokens.clone(), 200)).unwrap();
    running.events.recv().unwrap();
    assert_eq!(test.engine.time_tokens(PolicyVersion::SFT, &tokens, &|| false).unwrap(), [], "it waits for a slot");
    running.cancel.cancel();
    assert_eq!(time(PolicyVersion::SFT, &tokens).unwrap().len(), tokens.len());
    assert_eq!(test.engine.stats().running, 0);
}
