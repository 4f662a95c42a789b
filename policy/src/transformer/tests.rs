use super::*;
use crate::{
    causal_lm::CausalLm,
    optimizer::Gradients,
    sequence_batch::{Sequence, SequenceBatch},
    token::TokenId,
};

pub(crate) fn tiny() -> Shape {
    Shape::llama(17, 16, 2, 4, 2, 24)
}

pub(crate) fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().map(|&id| TokenId(id)).collect()
}

pub(crate) fn batch() -> SequenceBatch {
    SequenceBatch::new(vec![
        Sequence::new(&tokens(&[3, 1, 4]), &tokens(&[1, 5, 9, 2])),
        Sequence::new(&tokens(&[6]), &tokens(&[5, 3])),
        Sequence::new(&tokens(&[8, 9, 7, 9, 3]), &tokens(&[2])),
    ])
}

/// A checkpoint whose norms are not one, so that a gain applied twice or nowhere shows.
pub(crate) fn uneven_checkpoint(shape: &Shape, seed: u64) -> Checkpoint {
    let mut checkpoint = random_checkpoint(shape, seed).unwrap();
    let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(seed + 1);
    for (name, tensor) in &mut checkpoint.tensors {
        let noise = normal(&mut rng, if name.contains("norm") { 0.3 } else { 0.2 }, tensor.elem_count());
        *tensor = (&*tensor + Tensor::from_vec(noise, tensor.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    checkpoint
}

#[test]
fn every_parameter_gets_a_gradient_that_is_not_zero() {
    for tied in [true, false] {
        let shape = Shape { tied, ..tiny() };
        let model = CausalLm::from_checkpoint(&uneven_checkpoint(&shape, 1), &Device::Cpu).unwrap();
        let loss = model.response_log_probs(&batch(), &[1.0, 0.7, 1.3]).unwrap().sum_all().unwrap();
        let mut gradients = Gradients::new();
        gradients.add(model.parameters(), &loss.backward().unwrap()).unwrap();
        for name in model.parameters().keys() {
            let norm = gradients.get(name).unwrap_or_else(|| panic!("{name} has no gradient"));
            let norm = norm.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(norm > 0.0 && norm.is_finite(), "{name}: squared norm {norm}");
        }
    }
}

/// Goal: the gradients are right, not only present. Method: central differences through the whole 2-layer model, the
/// largest-gradient entry of every tensor, where rounding of f32 hurts least.
#[test]
fn gradients_are_the_finite_differences_of_the_loss() {
    let checkpoint = uneven_checkpoint(&Shape { tied: false, ..tiny() }, 2);
    let temperatures = [1.0, 0.7, 1.3];
    let weights: Vec<f32> = (0..batch().n_response_tokens()).map(|i| 0.5 - 0.3 * i as f32).collect();
    let weights = Tensor::new(weights, &Device::Cpu).unwrap();
    let loss = |checkpoint: &Checkpoint| {
        let model = CausalLm::from_checkpoint(checkpoint, &Device::Cpu).unwrap();
        let loss = model.response_log_probs(&batch(), &temperatures).unwrap().mul(&weights).unwrap().sum_all().unwrap();
        (model, loss)
    };
    let (model, at) = loss(&checkpoint);
    let store = at.backward().unwrap();
    for (name, var) in model.parameters() {
        let gradient = store.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (entry, analytic) =
            gradient.iter().copied().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
        let shifted = |by: f32| {
            let mut checkpoint = checkpoint.clone();
            let tensor = &checkpoint.tensors[name];
            let mut values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[entry] += by;
            let moved = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
            checkpoint.tensors.insert(name.clone(), moved);
            f64::from(loss(&checkpoint).1.to_scalar::<f32>().unwrap())
        };
        let step = 4e-3;
        let numeric = (shifted(step) - shifted(-step)) / (2.0 * f64::from(step));
        let error = (numeric - f64::from(analytic)).abs();
        assert!(error < 1e-2 * numeric.abs().max(0.05), "{name}[{entry}]: backward {analytic}, differences {numeric}");
    }
}

/// Goal: what follows a sequence, pad tokens included, never changes it. Method: append tokens and compare the prefix.
#[test]
fn tokens_after_the_end_change_nothing_before_it() {
    let model = Transformer::from_checkpoint(&uneven_checkpoint(&tiny(), 3), &Device::Cpu).unwrap();
    let (short, long) = (tokens(&[3, 1, 4, 1]), tokens(&[3, 1, 4, 1, 0, 0, 0, 0, 0, 0, 0]));
    let hidden = |t: &[TokenId]| model.hidden(&Packed::new(std::iter::once(t)), Pass::Frozen).unwrap();
    let (a, b) = (hidden(&short), hidden(&long).narrow(0, 0, 4).unwrap());
    assert!(largest_difference(&a, &b) < 1e-6);
}

#[test]
fn a_sequence_does_not_see_its_neighbours_in_the_batch() {
    let model = Transformer::from_checkpoint(&uneven_checkpoint(&tiny(), 3), &Device::Cpu).unwrap();
    let together = model.hidden(&batch().packed(), Pass::Frozen).unwrap();
    let mut start = 0;
    for sequence in &batch().sequences {
        let alone = model.hidden(&Packed::new(std::iter::once(sequence.tokens.as_slice())), Pass::Frozen).unwrap();
        let n = sequence.tokens.len();
        assert!(largest_difference(&alone, &together.narrow(0, start, n).unwrap()) < 1e-5);
        start += n;
    }
}

#[test]
fn positions_matter() {
    let model = Transformer::from_checkpoint(&uneven_checkpoint(&tiny(), 3), &Device::Cpu).unwrap();
    let last = |t: &[u32]| {
        let t = tokens(t);
        let hidden = model.hidden(&Packed::new(std::iter::once(t.as_slice())), Pass::Frozen).unwrap();
        hidden.narrow(0, t.len() - 1, 1).unwrap()
    };
    assert!(largest_difference(&last(&[1, 2, 3]), &last(&[2, 1, 3])) > 1e-3);
}

#[test]
fn a_frozen_pass_equals_a_training_pass_and_records_nothing() {
    let model = Transformer::from_checkpoint(&uneven_checkpoint(&tiny(), 4), &Device::Cpu).unwrap();
    let packed = batch().packed();
    let (train, frozen) = (model.hidden(&packed, Pass::Train).unwrap(), model.hidden(&packed, Pass::Frozen).unwrap());
    assert_eq!(largest_difference(&train, &frozen), 0.0);
    assert!(train.track_op() && !frozen.track_op());
}

#[test]
fn a_frozen_pass_sees_updated_weights() {
    let model = Transformer::from_checkpoint(&uneven_checkpoint(&tiny(), 4), &Device::Cpu).unwrap();
    let packed = batch().packed();
    let before = model.hidden(&packed, Pass::Frozen).unwrap();
    let gain = &model.parameters()["output_norm.weight"];
    gain.set(&gain.zeros_like().unwrap()).unwrap();
    let after = model.hidden(&packed, Pass::Frozen).unwrap();
    assert!(largest_difference(&before, &after) > 0.1);
    assert_eq!(after.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
}

#[test]
fn an_unknown_tensor_is_refused_and_not_ignored() {
    let mut checkpoint = random_checkpoint(&tiny(), 0).unwrap();
    let bias = Tensor::zeros(16, candle_core::DType::F32, &Device::Cpu).unwrap();
    checkpoint.tensors.insert("blk.0.attn_q.bias".to_owned(), bias);
    let error = Transformer::from_checkpoint(&checkpoint, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("blk.0.attn_q.bias"), "{error}");
}

#[test]
fn another_architecture_is_refused_by_name() {
    let mut checkpoint = random_checkpoint(&tiny(), 0).unwrap();
    let qwen = candle_core::quantized::gguf_file::Value::String("qwen3".to_owned());
    checkpoint.metadata.set("general.architecture", qwen);
    let error = Transformer::from_checkpoint(&checkpoint, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("\"qwen3\" serves but cannot be trained yet"), "{error}");
}

pub(crate) fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
}
