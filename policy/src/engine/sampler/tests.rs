use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::*;
use crate::sampling::GREEDY_BELOW;

fn draw_with<'a>(params: &'a SamplingParams, order: &'a [Stage], history: &'a History) -> Draw<'a> {
    Draw { params, order, history, banned: &[], allowed: None }
}

fn stage(name: &str) -> Stage {
    match name {
        "temperature" => Stage::Temperature,
        "top_k" => Stage::TopK,
        "top_p" => Stage::TopP,
        "min_p" => Stage::MinP,
        other => panic!("unknown stage {other}"),
    }
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// An RNG whose quantile falls into the middle of `token`'s share of the kept set, in the order in which it is scanned.
struct Aimed(f64);

impl RngCore for Aimed {
    fn next_u32(&mut self) -> u32 {
        unreachable!("draws take 64 bits")
    }
    fn next_u64(&mut self) -> u64 {
        (self.0 * (1u64 << 53) as f64) as u64 * (1 << 11)
    }
    fn fill_bytes(&mut self, _: &mut [u8]) {
        unreachable!("draws take 64 bits")
    }
}

/// Goal: the recorded log-probs are those of the golden file, for every order of stages in it. Method: read the whole
/// distribution off the slow twin, then aim one draw at the file's token and compare what it records.
#[test]
fn golden_behavior_log_probs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/17_behaviour_logprob.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tolerance = file["tolerance_f32"].as_f64().unwrap();
    for case in file["cases"].as_array().unwrap() {
        let (inputs, outputs) = (&case["inputs"], &case["outputs"]);
        let logits: Vec<f32> = floats(&inputs["logits"]).iter().map(|&l| l as f32).collect();
        let params = SamplingParams {
            temperature: inputs["temperature"].as_f64().unwrap() as f32,
            top_k: inputs["top_k"].as_u64().unwrap() as u32,
            top_p: inputs["top_p"].as_f64().unwrap() as f32,
            min_p: inputs["min_p"].as_f64().unwrap() as f32,
            ..Default::default()
        };
        let order: Vec<Stage> =
            inputs["order"].as_array().unwrap().iter().map(|s| stage(s.as_str().unwrap())).collect();
        let history = History::default();
        let draw = draw_with(&params, &order, &history);
        let mut sampler = Sampler::default();
        let got = sampler.distribution(&logits, draw).unwrap();
        for (got, want) in got.iter().zip(floats(&outputs["processed_probs"])) {
            assert!((got - want).abs() < tolerance, "{}: {got} {want}", case["comment"]);
        }
        let token = inputs["token"].as_u64().unwrap() as u32;
        let drawn = (0..1000)
            .map(|i| sampler.draw(&logits, draw, &mut Aimed(f64::from(i) / 1000.0)).unwrap())
            .find(|drawn| drawn.id == TokenId(token))
            .unwrap();
        let close = |got: f32, key: &str| {
            let want = outputs[key].as_f64().unwrap();
            assert!((f64::from(got) - want).abs() < tolerance, "{} {key}: {got} {want}", case["comment"]);
        };
        close(drawn.log_prob.0, "raw_logp");
        close(drawn.behavior.0, "behave_logp");
        close(drawn.log_kept_mass, "log_kept_mass_at_temperature");
    }
}

fn row() -> Vec<f32> {
    (0..500).map(|i| ((i * 7919) % 1009) as f32 / 100.0 - 4.0).collect()
}

/// Goal: the fast draw and the slow distribution are the same law. Method: sweep the quantile; count hits per token.
#[test]
fn draws_follow_the_distribution_they_record() {
    let all = [
        SamplingParams::default(),
        SamplingParams { temperature: 0.6, ..Default::default() },
        SamplingParams { top_k: 30, top_p: 0.8, min_p: 0.02, temperature: 1.3, ..Default::default() },
        SamplingParams { logit_bias: vec![(TokenId(3), 5.0)], repetition_penalty: 1.5, ..Default::default() },
    ];
    for params in all {
        let mut history = History::new(&[TokenId(1), TokenId(2)], &params);
        history.push(TokenId(4), &params);
        let draw = draw_with(&params, &ORDER, &history);
        let mut sampler = Sampler::default();
        let law = sampler.distribution(&row(), draw).unwrap();
        let n = 20_000;
        let mut hits = vec![0.0; 500];
        for i in 0..n {
            let token = sampler.draw(&row(), draw, &mut Aimed((f64::from(i) + 0.5) / f64::from(n))).unwrap();
            let id = token.id.0 as usize;
            hits[id] += 1.0;
            assert!((f64::from(token.behavior.0) - law[id].ln()).abs() < 1e-5);
        }
        for (hit, p) in hits.iter().zip(law) {
            assert!((hit - p * f64::from(n)).abs() < 1.5, "{hit} hits, want {}", p * f64::from(n));
        }
    }
}

#[test]
fn greedy_takes_the_best_and_the_lowest_id_of_equals() {
    let params = SamplingParams { temperature: 0.0, ..Default::default() };
    let history = History::default();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let token = Sampler::default().draw(&[0.0, 3.0, 1.0, 3.0], draw_with(&params, &ORDER, &history), &mut rng).unwrap();
    assert_eq!((token.id, token.behavior, token.log_kept_mass), (TokenId(1), LogProb(0.0), 0.0));
    assert!((token.log_prob.0 - (-0.781_68)).abs() < 1e-3);
}

/// Goal: no temperature is too small for f32. Method: the least ones that are greedy and that are not, a row whose first token is
/// not its best, free and under a mask that forbids the best.
#[test]
fn the_smallest_temperatures_take_the_best_and_are_certain_of_it() {
    let history = History::default();
    for temperature in [0.0, f32::from_bits(1), 1e-40, f32::MIN_POSITIVE, 9e-6, GREEDY_BELOW] {
        for top_k in [0, 2] {
            let params = SamplingParams { temperature, top_k, ..Default::default() };
            for (allowed, best) in [(None, 2), (Some(&[0b1011][..]), 3)] {
                let draw = Draw { allowed, ..draw_with(&params, &ORDER, &history) };
                let mut sampler = Sampler::default();
                let token = sampler.draw(&[0.0, 1.0, 5.0, 3.0], draw, &mut Aimed(0.9)).unwrap();
                assert_eq!((token.id, token.behavior), (TokenId(best), LogProb(0.0)), "{temperature:e} {allowed:?}");
                let law = sampler.distribution(&[0.0, 1.0, 5.0, 3.0], draw).unwrap();
                assert_eq!(law[best as usize], 1.0, "{temperature:e} {allowed:?}");
            }
        }
    }
}

#[test]
fn banned_tokens_are_never_drawn_and_count_as_cut_mass() {
    let params = SamplingParams::default();
    let history = History::default();
    let banned = [TokenId(0)];
    let draw = Draw { banned: &banned, ..draw_with(&params, &ORDER, &history) };
    let logits = [2.0, 1.0, 0.0];
    let mut sampler = Sampler::default();
    for i in 0..100 {
        let token = sampler.draw(&logits, draw, &mut Aimed(f64::from(i) / 100.0)).unwrap();
        assert_ne!(token.id, TokenId(0));
        let kept = (1f64.exp() + 1.0) / (2f64.exp() + 1f64.exp() + 1.0);
        assert!((f64::from(token.log_kept_mass) - kept.ln()).abs() < 1e-6);
        assert!((token.behavior.0 + token.log_kept_mass - token.log_prob.0).abs() < 1e-6);
    }
    let all = [TokenId(0), TokenId(1), TokenId(2)];
    assert!(sampler.draw(&logits, Draw { banned: &all, ..draw }, &mut Aimed(0.5)).is_err());
}

/// Goal: a mask is a ban of everything else. Method: the same draws, greedy and stochastic, truncated or not.
#[test]
fn only_allowed_tokens_are_drawn_and_the_rest_counts_as_cut_mass() {
    let allowed = [1 << 3 | 1 << 31, 1 << 5];
    let banned: Vec<TokenId> = (0..500).filter(|id| ![3, 31, 37].contains(id)).map(TokenId).collect();
    let history = History::default();
    for params in [
        SamplingParams::default(),
        SamplingParams { temperature: 0.0, ..Default::default() },
        SamplingParams { temperature: 0.7, top_k: 2, ..Default::default() },
    ] {
        let plain = draw_with(&params, &ORDER, &history);
        for i in 0..50 {
            let mut sampler = Sampler::default();
            let mut draw = |draw| sampler.draw(&row(), draw, &mut Aimed(f64::from(i) / 50.0)).unwrap();
            let masked = draw(Draw { allowed: Some(&allowed), ..plain });
            let want = draw(Draw { banned: &banned, ..plain });
            assert_eq!(masked.id, want.id);
            assert!((masked.behavior.0 - want.behavior.0).abs() < 1e-5);
            assert!((masked.log_kept_mass - want.log_kept_mass).abs() < 1e-4);
            if params.temperature == 1.0 {
                assert!((masked.behavior.0 + masked.log_kept_mass - masked.log_prob.0).abs() < 1e-4);
            }
        }
    }
    let params = SamplingParams::default();
    let draw = Draw { allowed: Some(&[0]), ..draw_with(&params, &ORDER, &history) };
    assert!(Sampler::default().draw(&row(), draw, &mut Aimed(0.5)).is_err());
}

#[test]
fn penalties_shift_the_logits_as_documented() {
    let params = SamplingParams {
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        repetition_penalty: 2.0,
        ..Default::default()
    };
    let mut history = History::new(&[TokenId(0)], &params);
    history.push(TokenId(1), &params);
    history.push(TokenId(1), &params);
    let mut sampler = Sampler::default();
    let law = sampler.distribution(&[2.0, -1.0, 0.5], draw_with(&params, &ORDER, &history)).unwrap();
    // Token 0: only in the prompt, 2 / 2. Token 1: twice in the response, -1 · 2 - 2 · 0.25 - 0.5. Token 2: untouched.
    let want = [1.0f64, -3.0, 0.5].map(f64::exp);
    let total: f64 = want.iter().sum();
    for (got, want) in law.iter().zip(want) {
        assert!((got - want / total).abs() < 1e-6);
    }
}

#[test]
fn equal_seeds_draw_equally_and_choices_differ() {
    let params = SamplingParams::default();
    let history = History::default();
    let draw = draw_with(&params, &ORDER, &history);
    let run = |stream| {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        rng.set_stream(stream);
        let mut sampler = Sampler::default();
        (0..20).map(|_| sampler.draw(&row(), draw, &mut rng).unwrap().id).collect::<Vec<_>>()
    };
    assert_eq!(run(0), run(0));
    assert_ne!(run(0), run(1));
}

#[test]
fn top_log_probs_are_the_best_of_the_raw_row() {
    let mut sampler = Sampler::default();
    let top = top_log_probs(&[0.0, 2.0, 1.0, 2.0], 3, &mut sampler).unwrap();
    assert_eq!(top.iter().map(|t| t.0.0).collect::<Vec<_>>(), [1, 3, 2]);
    assert_eq!(top[0].1, raw_log_prob(&[0.0, 2.0, 1.0, 2.0], TokenId(1), &mut sampler).unwrap());
    assert!((top[2].1.0 - (-1.917_55)).abs() < 1e-3);
}
