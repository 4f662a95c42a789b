//! 15 and 16: optimisers and schedules.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use policy::{
    optimizer::{AdamConfig, AdamW, Gradients, clip_factor},
    sft::Schedule,
};
use ppo::{averaging::WeightAverage, schedule};

use super::numbers::Case;

pub(super) fn optimisers(case: &mut Case<'_>) {
    if case.has("decay") {
        return moving_average(case);
    }
    // Offline training scales the gradients, the learner scales them within the step.
    for scales_within in [false, true] {
        let (norms, path) = descend(case, scales_within);
        case.expect_f32("grad_norms", &norms);
        case.expect_f32("theta_torch_style", &path);
    }
    // The file says which form is canonical; TensorFlow's, which adds eps to the uncorrected root, is not ours.
    case.leave("theta_tensorflow_style");
}

/// Norms of the gradients before clipping, and the parameters after each step.
fn descend(case: &Case<'_>, scales_within: bool) -> (Vec<f64>, Vec<f64>) {
    let parameters = parameters(&case.flat("theta0"));
    let theta = &parameters[NAME];
    let config = AdamConfig {
        beta1: case.number("beta1"),
        beta2: case.number("beta2"),
        eps: case.number("eps"),
        weight_decay: case.number("weight_decay"),
    };
    let (rate, norm_max) = (case.number("lr"), case.optional("max_grad_norm").unwrap_or(f64::INFINITY));
    let mut adam = AdamW::new(&parameters, config).unwrap();
    let (mut norms, mut path) = (Vec::new(), Vec::new());
    for row in case.rows("grads") {
        // A linear loss has the wanted gradient.
        let slope = Tensor::new(single(&row), &Device::Cpu).unwrap();
        let loss = (theta.as_tensor() * slope).unwrap().sum_all().unwrap();
        let mut gradients = Gradients::new();
        gradients.add(&parameters, &loss.backward().unwrap()).unwrap();
        if scales_within {
            let norm = gradients.global_norm().unwrap();
            adam.step_scaled(&gradients, clip_factor(norm, norm_max), rate).unwrap();
            norms.push(norm);
        } else {
            norms.push(gradients.clip(norm_max).unwrap());
            adam.step(&gradients, rate).unwrap();
        }
        path.extend(numbers_of(theta.as_tensor()));
    }
    (norms, path)
}

const NAME: &str = "theta";

fn parameters(start: &[f64]) -> BTreeMap<String, Var> {
    BTreeMap::from([(NAME.to_owned(), Var::from_slice(&single(start), start.len(), &Device::Cpu).unwrap())])
}

fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|v| *v as f32).collect()
}

fn numbers_of(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// In the weights' own type, as the learner keeps it.
fn moving_average(case: &mut Case<'_>) {
    let rows = case.rows("weights_per_iteration");
    let mut average = WeightAverage::of(&parameters(&rows[0])).unwrap();
    let mut path = numbers_of(&average.tensors()[NAME]);
    for weights in &rows[1..] {
        average.follow(&parameters(weights), case.number("decay")).unwrap();
        path.extend(numbers_of(&average.tensors()[NAME]));
    }
    case.expect_f32("ema", &path);
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
        // No knob chooses this one.
        (false, _, false) => schedule::linear_to_zero(peak, step, case.whole("n")),
    };
    let rates: Vec<f64> = (0..n_steps as u64).map(rate).collect();
    case.expect("lr", &rates);
}
