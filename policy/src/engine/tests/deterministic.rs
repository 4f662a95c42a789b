use candle_core::quantized::GgmlDType;

use super::*;

/// Goal: a seed gives the same bits, log-probs included, whatever else is running. Method: prompts of one and of several
/// chunks, choices that share a prompt and one that is scored; first alone, then among streams that never pause, then alone
/// in slots that others used. With every kind of weights, because each has products of its own.
#[test]
fn a_seed_gives_the_same_bits_whatever_else_is_running() {
    for weights in [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q8_0] {
        check_determinism(weights);
    }
}

fn check_determinism(weights: GgmlDType) {
    let model = Model { weights, ..Model::default() };
    let test = TestEngine::with(model, |config| {
        config.deterministic = true;
        config.batch_tokens = 32;
        config.parallel = 4;
    });
    let long: Vec<TokenId> = (0..90).map(|i| TokenId(5 + (i * 31) % 250)).collect();
    let asks = [
        Ask::exactly(test.tokens("the user said"), 40),
        Ask { n: 6, ..Ask::exactly(long.clone(), 20) },
        Ask { score_prompt: Some(3), ..Ask::exactly(long, 5) },
    ];
    let answers = || asks.iter().map(|ask| test.ask(ask.clone())).collect::<Vec<_>>();
    let alone = answers();
    let is_over = AtomicBool::new(false);
    let among = std::thread::scope(|scope| {
        let (test, is_over) = (&test, &is_over);
        for i in 0..3u32 {
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    test.ask(Ask::exactly(test.tokens(&format!("noise {i}")), 10 + 7 * i));
                }
            });
        }
        while test.engine.stats().running < 3 {
            std::thread::yield_now();
        }
        let among = answers();
        is_over.store(true, Ordering::Relaxed);
        among
    });
    for (first, later) in alone.iter().chain(&alone).zip(among.iter().chain(&answers())) {
        for (first, later) in first.iter().zip(later) {
            assert_eq!(first.streamed, later.streamed);
            assert_eq!(first.prompt, later.prompt);
            assert_eq!(first.text, later.text);
        }
    }
}

/// Goal: the decoder's bits need no passes of their own, so that nothing is computed twice for them; llama.cpp's do. Method: the same
/// prompt twice, of which the second time all but the last token is known, or nothing.
#[test]
fn only_llama_cpp_pays_for_determinism() {
    let test = TestEngine::with(Model::default(), |config| config.deterministic = true);
    let prompt = test.tokens("the user said that the thing is a thing of the user");
    let known = |n: u32| test.ask(Ask::exactly(prompt.clone(), n)).remove(0).finished.cached_tokens as usize;
    assert_eq!(known(3), 0);
    assert_eq!(known(4), if on_decoder() { prompt.len() - 1 } else { 0 });
}
