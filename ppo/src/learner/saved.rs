//! What the learner keeps beside a published version: f32 masters, the value model, both optimisers' moments, β, and the
//! number of the update.
//!
//! It is one file, `policy-N.learner.gguf`, that belongs to version N: written before N goes live, removed with it. A
//! restart whose live version has the digest that the file names goes on bit for bit where the last process stopped. After
//! a rollback, or when the file is missing or belongs to other weights, moments start at zero, which costs Adam some
//! twenty steps, and a line in the log says so.
//!
//! It is five to six times as large as the policy in f32, so writing it takes its time: the learner skips it when it took
//! more than a twentieth of the time since the last one, and makes up for that at pause and shutdown. Only the newest is
//! kept.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Tensor, Var, quantized::gguf_file::Value};
use policy::{
    checkpoint::Checkpoint,
    model_error::ModelError,
    optimizer::{AdamState, AdamW, Moments},
};

use crate::models::Models;

/// Suffix of the file.
pub(super) const SUFFIX: &str = "learner.gguf";

const DIGEST: &str = "learner.policy_digest";
const UPDATE: &str = "learner.update";
const KL_COEF: &str = "learner.kl_coef";
const POLICY_STEP: &str = "learner.policy_step";
const VALUE_STEP: &str = "learner.value_step";

/// Writes the file, whole or not at all. `digest` is that of the version's weights.
pub(super) fn save(path: &Path, models: &Models, update: u64, digest: &str) -> Result<(), ModelError> {
    let mut file = Checkpoint::default();
    file.metadata.set(DIGEST, Value::String(digest.to_string()));
    file.metadata.set(UPDATE, Value::U64(update));
    file.metadata.set(KL_COEF, Value::F64(models.kl_coef));
    let (policy, value) = (models.policy_optimizer.state(), models.value_optimizer.state());
    file.metadata.set(POLICY_STEP, Value::U64(policy.step));
    file.metadata.set(VALUE_STEP, Value::U64(value.step));
    put_weights(&mut file, "policy", models.policy.parameters());
    put_weights(&mut file, "value", models.value.parameters());
    put_moments(&mut file, "policy", policy);
    put_moments(&mut file, "value", value);
    file.write(path).map(drop)
}

/// Brings models back to where the file left them; returns the number of the next update.
///
/// # Errors
/// When the file is missing, damaged, or belongs to other weights; the models may then be half restored, and must be built
/// anew.
pub(super) fn restore(path: &Path, models: &mut Models, digest: &str) -> Result<u64, ModelError> {
    let file = Checkpoint::read(path)?;
    let found = file.metadata.string(DIGEST)?;
    if found != digest {
        let what = format!("saved beside weights of digest {found}, not {digest}");
        return Err(ModelError::OptimizerState(what));
    }
    get_weights(&file, "policy", models.policy.parameters())?;
    get_weights(&file, "value", models.value.parameters())?;
    get_moments(&file, "policy", POLICY_STEP, &mut models.policy_optimizer)?;
    get_moments(&file, "value", VALUE_STEP, &mut models.value_optimizer)?;
    models.kl_coef = file.metadata.f64(KL_COEF)?;
    Ok(file.metadata.usize(UPDATE)? as u64)
}

fn put_weights(file: &mut Checkpoint, group: &str, parameters: &BTreeMap<String, Var>) {
    for (name, var) in parameters {
        let tensor = var.as_detached_tensor();
        file.tensors.insert(format!("{group}/{name}"), tensor);
    }
}

fn put_moments(file: &mut Checkpoint, group: &str, state: &AdamState) {
    for (name, moments) in &state.moments {
        let (first, second) = (moments.first.clone(), moments.second.clone());
        file.tensors.insert(format!("{group}.m/{name}"), first);
        file.tensors.insert(format!("{group}.v/{name}"), second);
    }
}

fn get_weights(file: &Checkpoint, group: &str, parameters: &BTreeMap<String, Var>) -> Result<(), ModelError> {
    for (name, var) in parameters {
        var.set(&tensor(file, &format!("{group}/{name}"), var)?)?;
    }
    Ok(())
}

fn get_moments(file: &Checkpoint, group: &str, step: &str, optimizer: &mut AdamW) -> Result<(), ModelError> {
    let mut state = AdamState { step: file.metadata.usize(step)? as u64, moments: BTreeMap::new() };
    for (name, now) in &optimizer.state().moments {
        let moment = |kind: &str| tensor(file, &format!("{group}.{kind}/{name}"), &now.first);
        let moments = Moments { first: moment("m")?, second: moment("v")? };
        state.moments.insert(name.clone(), moments);
    }
    optimizer.restore(state)
}

fn tensor(file: &Checkpoint, name: &str, like: &Tensor) -> Result<Tensor, ModelError> {
    let tensor = file.tensor(name)?;
    if tensor.dims() != like.dims() {
        return Err(ModelError::TensorShape {
            name: name.to_string(),
            expected: like.dims().to_vec(),
            got: tensor.dims().to_vec(),
        });
    }
    Ok(tensor.to_device(like.device())?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use policy::{
        architecture::Shape, optimizer::Gradients, scalar_model::ScalarModel, transformer::random_checkpoint,
    };

    use super::*;

    fn models(seed: u64) -> Models {
        let policy = random_checkpoint(&Shape::llama(11, 16, 1, 2, 2, 24), seed).unwrap();
        let value = ScalarModel::from_policy(&policy, seed, &Device::Cpu).unwrap();
        let config = config::Config::default().ppo;
        Models::new(&policy, &policy, value, &config, &Device::Cpu).unwrap()
    }

    /// Every number of the models, as bits.
    fn bits(models: &Models) -> Vec<(String, Vec<u32>)> {
        let of = |name: String, tensor: &Tensor| {
            let numbers = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (name, numbers.into_iter().map(f32::to_bits).collect())
        };
        let mut all = Vec::new();
        for parameters in [models.policy.parameters(), models.value.parameters()] {
            all.extend(parameters.iter().map(|(name, var)| of(name.clone(), var)));
        }
        for optimizer in [&models.policy_optimizer, &models.value_optimizer] {
            for (name, moments) in &optimizer.state().moments {
                all.push(of(format!("{name} m"), &moments.first));
                all.push(of(format!("{name} v"), &moments.second));
            }
        }
        all
    }

    fn take_a_step(models: &mut Models) {
        let parameters = models.policy.parameters();
        let squares = parameters.values().map(|var| var.sqr().unwrap().sum_all().unwrap());
        let loss = squares.reduce(|sum, square| (sum + square).unwrap()).unwrap();
        let mut gradients = Gradients::new();
        gradients.add(parameters, &loss.backward().unwrap()).unwrap();
        models.policy_optimizer.step(&gradients, 0.01).unwrap();
        models.kl_coef = 0.125;
    }

    #[test]
    fn what_is_restored_has_every_bit_of_what_was_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy-3.learner.gguf");
        let mut trained = models(1);
        take_a_step(&mut trained);
        save(&path, &trained, 42, "abc").unwrap();
        let mut other = models(2);
        assert_ne!(bits(&other), bits(&trained));
        assert_eq!(restore(&path, &mut other, "abc").unwrap(), 42);
        assert_eq!(bits(&other), bits(&trained));
        assert_eq!((other.kl_coef, other.policy_optimizer.state().step), (0.125, 1));
    }

    #[test]
    fn a_file_of_other_weights_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy-3.learner.gguf");
        save(&path, &models(1), 42, "abc").unwrap();
        let error = restore(&path, &mut models(1), "def").unwrap_err().to_string();
        assert!(error.contains("abc") && error.contains("def"), "{error}");
    }
}
