//! Each fused operation against its plain twin: the same value, and the same gradient of a weighted sum.

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{sequence_batch::Packed, token::TokenId, transformer::AttentionShape};

fn random(rng: &mut ChaCha8Rng, dims: &[usize]) -> Var {
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
    Var::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn check(arguments: &[Var], fused: impl Fn() -> Tensor, plain: impl Fn() -> Tensor) {
    let (a, b) = (fused(), plain());
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    let weights = random(&mut rng, a.dims());
    let gradients = |y: &Tensor| (y * weights.as_detached_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
    let difference = |a: &Tensor, b: &Tensor| {
        let scale = b.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap().max(1.0);
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() / scale
    };
    assert!(difference(&a, &b) < 2e-6, "value differs by {}", difference(&a, &b));
    let (ga, gb) = (gradients(&a), gradients(&b));
    for (i, argument) in arguments.iter().enumerate() {
        let d = difference(ga.get(argument).unwrap(), gb.get(argument).unwrap());
        assert!(d < 5e-6, "gradient of argument {i} differs by {d}");
    }
}

#[test]
fn fused_linear_equals_plain() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (x, w) = (random(&mut rng, &[7, 5]), random(&mut rng, &[3, 5]));
    check(&[x.clone(), w.clone()], || linear(&x, &w).unwrap(), || plain::linear(&x, &w).unwrap());
}

#[test]
fn fused_rms_norm_equals_plain() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (x, w) = (random(&mut rng, &[9, 40]), random(&mut rng, &[40]));
    check(&[x.clone(), w.clone()], || rms_norm(&x, &w, 1e-5).unwrap(), || plain::rms_norm(&x, &w, 1e-5).unwrap());
}

#[test]
fn fused_swiglu_equals_plain() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (a, u) = (random(&mut rng, &[6, 37]), random(&mut rng, &[6, 37]));
    check(&[a.clone(), u.clone()], || swiglu(&a, &u).unwrap(), || plain::swiglu(&a, &u).unwrap());
}

#[test]
fn fused_rope_equals_plain_also_when_only_some_dimensions_turn() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for frequencies in [&[1.0, 0.1, 0.01, 0.001][..], &[1.0, 0.1]] {
        let rotation = Arc::new(Rotation::new(&[0, 1, 2, 0, 5], frequencies, 8));
        let x = random(&mut rng, &[5, 24]);
        check(std::slice::from_ref(&x), || rope(&x, &rotation).unwrap(), || plain::rope(&x, &rotation).unwrap());
    }
}

#[test]
fn fused_attention_equals_plain() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let shape = AttentionShape { n_heads: 6, n_kv_heads: 2, head_dim: 10 };
    let rows: Vec<Vec<TokenId>> = [5, 1, 33, 16].iter().map(|&n| vec![TokenId(0); n]).collect();
    let packed = Packed::new(rows.iter().map(Vec::as_slice));
    let (q, k, v) = (random(&mut rng, &[55, 60]), random(&mut rng, &[55, 20]), random(&mut rng, &[55, 20]));
    check(
        &[q.clone(), k.clone(), v.clone()],
        || attention(&q, &k, &v, &packed, shape).unwrap(),
        || plain::attention(&q, &k, &v, &packed, shape).unwrap(),
    );
}

#[test]
fn fused_log_probs_equal_plain_and_entropies_too() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let logits = random(&mut rng, &[5, 91]);
    let (targets, temperatures) = ([3, 90, 0, 17, 44], [1.0, 0.5, 2.0, 1.0, 0.7]);
    check(
        std::slice::from_ref(&logits),
        || log_prob_gather(&logits, &targets, &temperatures).unwrap(),
        || plain::log_prob_gather(&logits, &targets, &temperatures).unwrap(),
    );
    let (a, b) =
        (entropy(&logits.as_detached_tensor(), &temperatures).unwrap(), plain::entropy(&logits, &temperatures));
    let difference = (a - b.unwrap()).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(difference < 5e-6, "{difference}");
}

#[test]
fn log_probs_survive_logits_that_overflow_an_exponential() {
    let logits = Tensor::new(&[[1000.0f32, 0.0, -1000.0]], &Device::Cpu).unwrap();
    let at = |target| log_prob_gather(&logits, &[target], &[1.0]).unwrap().to_vec1::<f32>().unwrap()[0];
    assert_eq!((at(0), at(1), at(2)), (0.0, -1000.0, -2000.0));
}

#[test]
fn not_a_number_is_passed_on_and_not_hidden() {
    let logits = Tensor::new(&[[0.0f32, f32::NAN, 1.0]], &Device::Cpu).unwrap();
    assert!(log_prob_gather(&logits, &[0], &[1.0]).unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
    assert!(super::exp::exp(f32::NAN).is_nan());
}

#[test]
fn the_exponential_is_right_to_the_last_places() {
    for i in -8600..8700 {
        let x = i as f32 * 0.01;
        let (got, want) = (f64::from(super::exp::exp(x)), f64::from(x).exp());
        assert!((got / want - 1.0).abs() < 4e-7, "exp({x}): {got} {want}");
    }
}
