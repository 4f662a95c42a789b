//! 17: the probability that a token was really drawn with.

use policy::{
    SamplingParams, TokenId,
    engine::sampler::{Draw, History, Sampler, Stage},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::numbers::Case;

/// Draws after which a token of probability 1/100 has surely come.
const DRAWS_MAX: u32 = 10_000;

pub(super) fn behavior_log_prob(case: &mut Case<'_>) {
    let logits: Vec<f32> = case.flat("logits").into_iter().map(|l| l as f32).collect();
    let params = SamplingParams {
        temperature: case.number("temperature") as f32,
        top_k: case.whole("top_k") as u32,
        top_p: case.number("top_p") as f32,
        min_p: case.number("min_p") as f32,
        ..SamplingParams::default()
    };
    let order: Vec<Stage> = case.value("order").as_array().into_iter().flatten().map(|s| stage(s.as_str())).collect();
    let draw = Draw { params: &params, order: &order, history: &History::default(), banned: &[], allowed: None };
    let mut sampler = Sampler::default();
    let probabilities = sampler.distribution(&logits, draw).unwrap();
    let kept: Vec<f64> = probabilities.iter().map(|p| f64::from(u8::from(*p > 0.0))).collect();
    case.expect_f32("processed_probs", &probabilities);
    case.expect("kept", &kept);
    let wanted = TokenId(case.whole("token") as u32);
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let token = (0..DRAWS_MAX)
        .map(|_| sampler.draw(&logits, draw, &mut rng).unwrap())
        .find(|token| token.id == wanted)
        .expect("the token of the case is among the draws");
    let (raw, behavior, kept_mass) =
        (f64::from(token.log_prob.0), f64::from(token.behavior.0), f64::from(token.log_kept_mass));
    case.expect_f32("raw_logp", &[raw]);
    case.expect_f32("behave_logp", &[behavior]);
    case.expect_f32("log_kept_mass_at_temperature", &[kept_mass]);
    case.expect_f32("temperature_logp", &[behavior + kept_mass]);
    let is_exact = ppo::off_policy::is_exactly_on_policy(&params);
    case.expect("exactly_on_policy_eligible", &[f64::from(u8::from(is_exact))]);
}

fn stage(word: Option<&str>) -> Stage {
    match word {
        Some("temperature") => Stage::Temperature,
        Some("top_k") => Stage::TopK,
        Some("top_p") => Stage::TopP,
        Some("min_p") => Stage::MinP,
        other => panic!("unknown stage {other:?}"),
    }
}
