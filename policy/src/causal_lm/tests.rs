use super::*;
use crate::transformer::tests::{batch, largest_difference, tiny, tokens, uneven_checkpoint};

fn model() -> CausalLm {
    CausalLm::from_checkpoint(&uneven_checkpoint(&tiny(), 5), &Device::Cpu).unwrap()
}

/// The same numbers by hand from all logits of one sequence: log_softmax at P-1+t, gathered.
fn by_hand(model: &CausalLm, batch: &SequenceBatch, temperatures: &[f32]) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for (sequence, &tau) in batch.sequences.iter().zip(temperatures) {
        let logits = model.logits(&sequence.tokens).unwrap().to_vec2::<f32>().unwrap();
        for (t, token) in sequence.response().iter().enumerate() {
            let row: Vec<f64> =
                logits[sequence.prompt_len - 1 + t].iter().map(|&x| f64::from(x) / f64::from(tau)).collect();
            let log_sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let entropy = row.iter().map(|x| -(x - log_sum).exp() * (x - log_sum)).sum();
            out.push((row[token.0 as usize] - log_sum, entropy));
        }
    }
    out
}

#[test]
fn log_probs_and_entropies_are_read_one_position_before_their_token() {
    let (model, temperatures) = (model(), [1.0, 0.7, 1.3]);
    let expected = by_hand(&model, &batch(), &temperatures);
    let train = model.response_log_probs(&batch(), &temperatures).unwrap().to_vec1::<f32>().unwrap();
    let frozen = model.frozen_log_probs(&batch(), &temperatures).unwrap();
    let emulated =
        model.log_probs_on_tape(&batch(), &temperatures, Pass::Frozen, Operations::emulated(Precision::F32)).unwrap();
    let (emulated, emulated_entropies) = (emulated.0.to_vec1::<f32>().unwrap(), emulated.1.to_vec1::<f32>().unwrap());
    assert_eq!(train.len(), expected.len());
    for (i, (log_prob, entropy)) in expected.into_iter().enumerate() {
        assert!((f64::from(train[i]) - log_prob).abs() < 1e-5, "{i}: {} {log_prob}", train[i]);
        assert!((f64::from(frozen.log_probs[i]) - log_prob).abs() < 1e-5);
        assert!((f64::from(frozen.entropies[i]) - entropy).abs() < 1e-5);
        assert!((f64::from(emulated[i]) - log_prob).abs() < 1e-5, "{i}: {} {log_prob}", emulated[i]);
        assert!((f64::from(emulated_entropies[i]) - entropy).abs() < 1e-5);
    }
}

#[test]
fn a_batch_without_sequences_or_with_an_empty_prompt_is_refused() {
    assert!(model().response_log_probs(&SequenceBatch::default(), &[]).is_err());
    let no_prompt = SequenceBatch::new(vec![Sequence::new(&[], &tokens(&[1]))]);
    assert!(model().response_log_probs(&no_prompt, &[1.0]).is_err());
    assert!(model().response_log_probs(&batch(), &[1.0, 0.0, 1.0]).is_err());
}

#[test]
fn publishing_changes_weights_only_and_repeats_bit_for_bit() {
    let source = uneven_checkpoint(&tiny(), 5);
    let model = CausalLm::from_checkpoint(&source, &Device::Cpu).unwrap();
    let unchanged = model.to_checkpoint(&source, WeightType::Source).unwrap().to_bytes().unwrap();
    assert_eq!(unchanged, source.to_bytes().unwrap());
    let gain = &model.parameters()["output_norm.weight"];
    gain.set(&(gain.as_detached_tensor() * 2.0).unwrap()).unwrap();
    let changed = model.to_checkpoint(&source, WeightType::Source).unwrap();
    assert_ne!(changed.to_bytes().unwrap(), unchanged);
    assert_eq!(
        changed.to_bytes().unwrap(),
        model.to_checkpoint(&source, WeightType::Source).unwrap().to_bytes().unwrap()
    );
}

#[test]
fn a_checkpoint_taken_from_a_model_does_not_change_when_training_goes_on() {
    let source = uneven_checkpoint(&tiny(), 5);
    let model = CausalLm::from_checkpoint(&source, &Device::Cpu).unwrap();
    let taken = model.to_checkpoint(&source, WeightType::F32).unwrap();
    let gain = &model.parameters()["output_norm.weight"];
    gain.set(&gain.zeros_like().unwrap()).unwrap();
    assert_eq!(largest_difference(&taken.tensors["output_norm.weight"], &source.tensors["output_norm.weight"]), 0.0);
}

use crate::sequence_batch::Sequence;
