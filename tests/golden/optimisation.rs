//! 15 and 16: optimisers and schedules.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use policy::{
    optimizer::{AdamConfig, AdamW, Gradients},
    sft::Schedule,
};
use ppo::{averaging, schedule};

use super::numbers::Case;

pub(super) fn optimisers(case: &mut Case<'_>) {
    if case.has("decay") {
        return moving_average(case);
    }
    let single = |x: &[f64]| x.iter().map(|v| *v as f32).collect::<Vec<f32>>();
    let start = single(&case.flat("theta0"));
    let theta = Var::from_slice(&start, start.len(), &Device::Cpu).unwrap();
    let parameters = BTreeMap::from([("theta".to_owned(), theta.clone())]);
    let config = AdamConfig {
        beta1: case.number("beta1"),
        beta2: case.number("beta2"),
        eps: case.number("eps"),
        weight_decay: case.number("weight_decay"),
    };
    let mut adam = AdamW::new(&parameters, config).unwrap();
    let (mut norms, mut path) = (Vec::new(), Vec::new());
    for row in case.rows("grads") {
        // A linear loss has the wanted gradient.
        let slope = Tensor::new(single(&row), &Device::Cpu).unwrap();
        let loss = (theta.as_tensor() * slope).unwrap().sum_all().unwrap();
        let mut gradients = Gradients::new();
        gradients.add(&parameters, &loss.backward().unwrap()).unwrap();
        norms.push(gradients.clip(case.optional("max_grad_norm").unwrap_or(f64::INFINITY)).unwrap());
        adam.step(&gradients, case.number("lr")).unwrap();
        path.extend(theta.as_tensor().to_vec1::<f32>().unwrap().into_iter().map(f64::from));
    }
    case.expect_f32("grad_norms", &norms);
    case.expect_f32("theta_torch_style", &path);
    // The file says which form is canonical; TensorFlow's, which adds eps to the uncorrected root, is not ours.
    case.leave("theta_tensorflow_style");
}

fn moving_average(case: &mut Case<'_>) {
    let weights = case.rows("weights_per_iteration");
    let mut average = weights[0].clone();
    let mut path = average.clone();
    for weights in &weights[1..] {
        averaging::move_average(&mut average, weights, case.number("decay"));
        path.extend(&average);
    }
    case.expect("ema", &path);
}

pub(super) fn schedules(case: &mut Case<'_>) {
    let peak = case.number("peak");
    let n_steps = case.n_wanted("lr");
    let cosine = |warmup_steps: u64| Schedule {
        peak,
        final_share: case.number("floor"),
        warmup_steps: warmup_steps as usize,
        n_steps: case.whole("n") as usize,
    };
    let rate = |step: u64| match (case.has("warmup"), case.has("start"), case.has("floor")) {
        (true, true, _) => schedule::warmup_then_constant(peak, case.number("start"), step, case.whole("warmup")),
        (true, false, _) => cosine(case.whole("warmup")).at(step as usize),
        (false, _, true) => cosine(0).at(step as usize),
        (false, _, false) => schedule::linear_to_zero(peak, step, case.whole("n")),
    };
    let rates: Vec<f64> = (0..n_steps as u64).map(rate).collect();
    case.expect("lr", &rates);
}
