//! Each kernel against its plain twin: the same value, and the same gradients of a weighted sum.

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{matrix::Matrix, *};
use crate::{sequence_batch::Packed, token::TokenId, transformer::AttentionShape};

fn random(rng: &mut ChaCha8Rng, dims: &[usize]) -> Var {
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| rng.random_range(-2.0..2.0)).collect();
    Var::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn numbers_of(matrix: &Matrix<'_>) -> Vec<f32> {
    match &matrix.values {
        matrix::Values::F32(values) => values.to_vec(),
        matrix::Values::Bf16(values) => values.iter().map(|v| v.to_f32()).collect(),
    }
}

/// What the tape says: the value of `plain`, and the gradients of Σ weights·value in every argument.
fn tape(arguments: &[&Var], plain: &Tensor, weights: &[f32]) -> (Vec<f32>, Vec<Vec<f32>>) {
    let weights = Tensor::from_vec(weights.to_vec(), plain.dims(), &Device::Cpu).unwrap();
    let store = (plain * weights).unwrap().sum_all().unwrap().backward().unwrap();
    (numbers(plain), arguments.iter().map(|argument| numbers(store.get(argument).unwrap())).collect())
}

fn close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max) / scale;
    assert!(worst < tolerance, "{what} differs by {worst}");
}

#[test]
fn rms_norm_equals_its_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (rows, width) in [(9, 40), (1500, 96)] {
        let (x, w, g) =
            (random(&mut rng, &[rows, width]), random(&mut rng, &[width]), random(&mut rng, &[rows, width]));
        let g = numbers(&g);
        let (value, slopes) = tape(&[&x, &w], &plain::rms_norm(&x, &w, 1e-5).unwrap(), &g);
        let (x, w) = (numbers(&x), numbers(&w));
        close(&numbers_of(&rms_norm::forward(&x, &w, 1e-5, Precision::F32)), &value, 2e-6, "value");
        close(&rms_norm::forward_f32(&x, &w, 1e-5), &value, 2e-6, "f32 value");
        close(&numbers_of(&rms_norm::forward(&x, &w, 1e-5, Precision::Bf16)), &value, 5e-3, "bf16 value");
        let (mut dx, mut dw) = (vec![1.0; x.len()], vec![2.0; w.len()]);
        rms_norm::backward(&x, &w, 1e-5, &g, &mut dx);
        rms_norm::backward_gain(&x, 1e-5, &g, &mut dw);
        dx.iter_mut().for_each(|d| *d -= 1.0);
        dw.iter_mut().for_each(|d| *d -= 2.0);
        close(&dx, &slopes[0], 5e-6, "dx");
        close(&dw, &slopes[1], 5e-6, "dw");
    }
}

#[test]
fn swiglu_equals_its_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (a, u, g) = (random(&mut rng, &[6, 37]), random(&mut rng, &[6, 37]), random(&mut rng, &[6, 37]));
    let g = numbers(&g);
    let (value, slopes) = tape(&[&a, &u], &plain::swiglu(&a, &u).unwrap(), &g);
    let (a, u) = (numbers(&a), numbers(&u));
    for (precision, tolerance) in [(Precision::F32, 5e-6), (Precision::Bf16, 5e-3)] {
        close(&numbers_of(&swiglu::forward(&a, &u, 37, precision)), &value, tolerance, "value");
        let (da, du) = swiglu::backward(&a, &u, &g, 37, precision);
        close(&numbers_of(&da), &slopes[0], tolerance, "d gate");
        close(&numbers_of(&du), &slopes[1], tolerance, "d up");
    }
}

#[test]
fn rope_equals_its_twin_also_when_only_some_dimensions_turn() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for frequencies in [&[1.0, 0.1, 0.01, 0.001][..], &[1.0, 0.1]] {
        let rotation = Rotation::new(&[0, 1, 2, 0, 5], frequencies, 8);
        let (x, g) = (random(&mut rng, &[5, 24]), random(&mut rng, &[5, 24]));
        let mut g = numbers(&g);
        let (value, slopes) = tape(&[&x], &plain::rope(&x, &rotation).unwrap(), &g);
        let mut x = numbers(&x);
        rotation.forward(&mut x, 24);
        close(&x, &value, 2e-6, "value");
        rotation.backward(&mut g, 24);
        close(&g, &slopes[0], 5e-6, "dx");
    }
}

/// Goal: attention and its backward are right for every way in which blocks and padding can fall. Method: lengths below, at
/// and above the grain and the block, with grouped queries, against the twin.
#[test]
fn attention_equals_its_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let shape = AttentionShape { n_heads: 6, n_kv_heads: 2, head_dim: 10 };
    for lengths in [&[5, 1, 33, 16][..], &[129], &[128, 300]] {
        let n: usize = lengths.iter().sum();
        let rows: Vec<Vec<TokenId>> = lengths.iter().map(|&n| vec![TokenId(0); n]).collect();
        let packed = Packed::new(rows.iter().map(Vec::as_slice));
        let (q, k, v) = (random(&mut rng, &[n, 60]), random(&mut rng, &[n, 20]), random(&mut rng, &[n, 20]));
        let g = numbers(&random(&mut rng, &[n, 60]));
        let (value, slopes) = tape(&[&q, &k, &v], &plain::attention(&q, &k, &v, &packed, shape).unwrap(), &g);
        let kernel = attention::Attention { offsets: &packed.offsets, shape };
        let (q, k, v) = (numbers(&q), numbers(&k), numbers(&v));
        let mixed = kernel.forward(&q, &k, &v);
        close(&mixed.out, &value, 5e-6, "value");
        let got = kernel.backward(&q, &k, &v, &mixed, &g);
        close(&got.q, &slopes[0], 2e-5, "dq");
        close(&got.k, &slopes[1], 2e-5, "dk");
        close(&got.v, &slopes[2], 2e-5, "dv");
    }
}

#[test]
fn log_probs_and_entropies_equal_their_twins() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let logits = random(&mut rng, &[5, 91]);
    let (targets, temperatures) = ([3, 90, 0, 17, 44], [1.0, 0.5, 2.0, 1.0, 0.7]);
    let log_probs = plain::log_prob_gather(&logits, &targets, &temperatures).unwrap();
    let entropies = plain::entropy(&logits, &temperatures).unwrap();
    let both = Tensor::cat(&[log_probs, entropies], 0).unwrap();
    let weights = numbers(&random(&mut rng, &[10]));
    let (value, slopes) = tape(&[&logits], &both, &weights);
    let logits = numbers(&logits);
    for (i, row) in logits.chunks_exact(91).enumerate() {
        let (target, inverse) = (targets[i] as usize, (1.0 / temperatures[i]) as f32);
        let read = log_prob::forward(row, target, inverse);
        close(&[read.log_prob, read.entropy], &[value[i], value[5 + i]], 2e-6, "value");
        let want = &slopes[0][i * 91..][..91];
        let mut got = vec![0.0f32; 91];
        log_prob::backward(row, target, inverse, read, (weights[i], weights[5 + i]), &mut got);
        close(&got, want, 5e-6, "slopes of both");
    }
}

#[test]
fn log_probs_survive_logits_that_overflow_an_exponential() {
    let at = |target| log_prob::forward(&[1000.0, 0.0, -1000.0], target, 1.0);
    assert_eq!((at(0).log_prob, at(1).log_prob, at(2).log_prob), (0.0, -1000.0, -2000.0));
    assert_eq!(at(0).entropy, 0.0);
    let mut slopes = [7.0f32; 3];
    log_prob::backward(&[1000.0, 0.0, f32::NEG_INFINITY], 1, 1.0, at(1), (1.0, 0.5), &mut slopes);
    assert_eq!(slopes[..2], [-1.0, 1.0]);
    assert!(slopes[2].abs() < 1e-30, "no mass, no slope: {}", slopes[2]);
}

#[test]
fn not_a_number_is_passed_on_and_not_hidden() {
    assert!(log_prob::forward(&[0.0, f32::NAN, 1.0], 0, 1.0).log_prob.is_nan());
    assert!(exp::exp(f32::NAN).is_nan());
}

#[test]
fn the_exponential_is_right_to_the_last_places() {
    for i in -8600..8700 {
        let x = i as f32 * 0.01;
        let (got, want) = (f64::from(super::exp::exp(x)), f64::from(x).exp());
        assert!((got / want - 1.0).abs() < 4e-7, "exp({x}): {got} {want}");
    }
}
