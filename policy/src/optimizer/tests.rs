use candle_core::{DType, Device};

use super::*;
use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

fn one_parameter(values: &[f32]) -> BTreeMap<String, Var> {
    BTreeMap::from([("w".to_owned(), Var::new(values, &Device::Cpu).unwrap())])
}

/// Gradients of Σ c·w are c.
fn gradients(parameters: &BTreeMap<String, Var>, c: &[f32]) -> Gradients {
    let c = Tensor::new(c, &Device::Cpu).unwrap();
    let loss = (parameters["w"].as_tensor() * c).unwrap().sum_all().unwrap();
    let mut out = Gradients::new();
    out.add(parameters, &loss.backward().unwrap()).unwrap();
    out
}

/// An independent scalar Adam in f64, PyTorch's form.
fn reference(theta: f64, gradients: &[f64], lr: f64, config: AdamConfig) -> f64 {
    let (mut theta, mut m, mut v) = (theta, 0.0, 0.0);
    for (i, g) in gradients.iter().enumerate() {
        let t = i as i32 + 1;
        theta *= 1.0 - lr * config.weight_decay;
        m = config.beta1 * m + (1.0 - config.beta1) * g;
        v = config.beta2 * v + (1.0 - config.beta2) * g * g;
        let (m_hat, v_hat) = (m / (1.0 - config.beta1.powi(t)), v / (1.0 - config.beta2.powi(t)));
        theta -= lr * m_hat / (v_hat.sqrt() + config.eps);
    }
    theta
}

#[test]
fn steps_follow_the_papers_formula() {
    let config = AdamConfig { weight_decay: 0.1, eps: 1e-3, ..AdamConfig::default() };
    let parameters = one_parameter(&[0.5, -1.0]);
    let mut adam = AdamW::new(&parameters, config).unwrap();
    let steps: [[f32; 2]; 4] = [[0.1, -2.0], [0.3, 0.5], [-0.2, 1e-4], [0.0, 3.0]];
    for c in &steps {
        adam.step(&gradients(&parameters, c), 0.05).unwrap();
    }
    let got = parameters["w"].to_vec1::<f32>().unwrap();
    for (i, start) in [0.5, -1.0].into_iter().enumerate() {
        let column: Vec<f64> = steps.iter().map(|c| f64::from(c[i])).collect();
        let expected = reference(start, &column, 0.05, config);
        assert!((f64::from(got[i]) - expected).abs() < 1e-5, "{i}: {} {expected}", got[i]);
    }
}

#[test]
fn a_restored_optimiser_continues_bit_for_bit() {
    let run = |restore: bool| {
        let parameters = one_parameter(&[0.5, -1.0]);
        let mut adam = AdamW::new(&parameters, AdamConfig::default()).unwrap();
        for c in [[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]] {
            if restore {
                let state = adam.state().copy().unwrap();
                adam = AdamW::new(&parameters, AdamConfig::default()).unwrap();
                adam.restore(state).unwrap();
            }
            adam.step(&gradients(&parameters, &c), 0.01).unwrap();
        }
        parameters["w"].to_vec1::<f32>().unwrap()
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn a_state_of_other_parameters_is_refused() {
    let mut adam = AdamW::new(&one_parameter(&[0.5, -1.0]), AdamConfig::default()).unwrap();
    let other = AdamW::new(&one_parameter(&[0.5]), AdamConfig::default()).unwrap();
    assert!(adam.restore(other.state().copy().unwrap()).is_err());
    assert!(adam.restore(AdamState::default()).is_err());
}

#[test]
fn learning_rate_zero_leaves_the_weights_bit_identical() {
    let parameters = one_parameter(&[0.123_456_79, -1.0e-7]);
    let mut adam = AdamW::new(&parameters, AdamConfig::default()).unwrap();
    adam.step(&gradients(&parameters, &[1.0, -3.0]), 0.0).unwrap();
    assert_eq!(parameters["w"].to_vec1::<f32>().unwrap(), vec![0.123_456_79, -1.0e-7]);
}

#[test]
fn clipping_scales_by_the_global_norm_and_reports_it() {
    let parameters = one_parameter(&[0.0, 0.0]);
    let mut g = gradients(&parameters, &[3.0, 4.0]);
    assert!((g.clip(1.0).unwrap() - 5.0).abs() < 1e-6);
    assert!((g.global_norm().unwrap() - 5.0 / (5.0 + 1e-6)).abs() < 1e-6);
    let mut small = gradients(&parameters, &[0.3, 0.4]);
    small.clip(1.0).unwrap();
    assert_eq!(small.get("w").unwrap().to_vec().unwrap(), vec![0.3, 0.4]);
}

#[test]
fn lanes_change_nothing_but_time() {
    let parameters = one_parameter(&[0.7, -0.3]);
    let pool = crate::threads::learner_pool(2).unwrap();
    let sum = |lanes: usize| {
        pool.install(|| {
            let mut gradients = Gradients::new();
            let micro: Vec<f32> = (0..7).map(|i| 0.1 + i as f32).collect();
            let reports = accumulate(&mut gradients, &micro, lanes, |&x, gradients| {
                let w = parameters["w"].as_tensor();
                let loss = ((w * f64::from(x))?.sin()?).sum_all()?;
                gradients.add(&parameters, &loss.backward()?)?;
                Ok(loss.to_dtype(DType::F64)?.to_scalar::<f64>()?)
            });
            (gradients.get("w").unwrap().to_vec().unwrap(), reports.unwrap())
        })
    };
    assert_eq!(sum(2), sum(3));
    assert_eq!(sum(2), sum(5));
}

/// Goal: a saved state stays what it was. Method: a copy, then a step in place, then back to the copy.
#[test]
fn a_copied_state_does_not_change_when_training_goes_on() {
    let parameters = one_parameter(&[0.5, -1.0]);
    let mut adam = AdamW::new(&parameters, AdamConfig::default()).unwrap();
    adam.step(&gradients(&parameters, &[1.0, 2.0]), 0.01).unwrap();
    let first = |state: &AdamState| state.moments["w"].first.to_vec1::<f32>().unwrap();
    let (saved, before) = (adam.state().copy().unwrap(), first(adam.state()));
    adam.step(&gradients(&parameters, &[-5.0, 7.0]), 0.01).unwrap();
    assert_ne!(first(adam.state()), before);
    assert_eq!(first(&saved), before);
    adam.restore(saved).unwrap();
    assert_eq!(first(adam.state()), before);
}

/// Goal: clipping inside the step changes no bit. Method: the same step with gradients clipped before it.
#[test]
fn a_scaled_step_equals_a_step_on_clipped_gradients() {
    let run = |inside: bool| {
        let parameters = one_parameter(&[0.5, -1.0]);
        let mut adam = AdamW::new(&parameters, AdamConfig::default()).unwrap();
        let mut g = gradients(&parameters, &[3.0, 4.5]);
        let norm = g.global_norm().unwrap();
        if inside {
            adam.step_scaled(&g, clip_factor(norm, 1.0), 0.1).unwrap();
        } else {
            assert_eq!(g.clip(1.0).unwrap(), norm);
            adam.step(&g, 0.1).unwrap();
        }
        parameters["w"].to_vec1::<f32>().unwrap()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn gradients_that_were_reset_begin_at_zero() {
    let parameters = one_parameter(&[0.0, 0.0]);
    let mut g = gradients(&parameters, &[3.0, 4.0]);
    g.reset();
    assert!(g.get("w").is_none());
    assert_eq!(g.slot("w", 2), [0.0, 0.0]);
    g.reset();
    assert_eq!(g.slot("w", 3), [0.0; 3], "the memory of another model's parameter of that name");
    g.reset();
    assert!(!g.slot_to_fill("w", 2).1);
    g.reset();
    g.merge(&gradients(&parameters, &[1.0, 2.0])).unwrap();
    assert_eq!(g.get("w").unwrap().to_vec().unwrap(), vec![1.0, 2.0]);
}

/// Two parameters with gradients of their own, in memory or as another device has them.
fn a_pair(on_device: bool) -> (BTreeMap<String, Var>, Gradients) {
    let parameters: BTreeMap<String, Var> = [("head", [0.5_f32, -1.0]), ("trunk", [0.25, 2.0])]
        .map(|(name, values)| (name.to_owned(), Var::new(&values, &Device::Cpu).unwrap()))
        .into();
    let mut gradients = Gradients::new();
    for (name, slope) in [("head", [1.0_f32, -3.0]), ("trunk", [0.5, 0.125])] {
        match on_device {
            true => gradients.add_tensor(name, &Tensor::new(&slope, &Device::Cpu).unwrap()).unwrap(),
            false => gradients.slot(name, 2).copy_from_slice(&slope),
        }
    }
    (parameters, gradients)
}

/// Goal: each parameter steps at its own rate, and the steps are counted once. Method: steps at two rates against steps of all at
/// either, bit for bit, fused and in candle's operations.
#[test]
fn every_group_steps_at_its_own_rate() {
    for on_device in [false, true] {
        let stepped = |head: f64, trunk: f64| {
            let (parameters, gradients) = a_pair(on_device);
            let mut adam = AdamW::new(&parameters, AdamConfig::default()).unwrap();
            for _ in 0..3 {
                adam.step_grouped(&gradients, 0.5, |name| if name == "head" { head } else { trunk }).unwrap();
            }
            assert_eq!(adam.state().step, 3);
            ["head", "trunk"].map(|name| parameters[name].to_vec1::<f32>().unwrap())
        };
        let ([head, trunk], [fast, _], [_, slow]) = (stepped(0.1, 0.01), stepped(0.1, 0.1), stepped(0.01, 0.01));
        assert_eq!((&head, &trunk), (&fast, &slow), "on a device: {on_device}");
        assert_ne!(stepped(0.01, 0.01)[0], head, "the rates differ");
    }
}
