use super::*;
use crate::{
    optimizer::Gradients,
    transformer::tests::{batch, largest_difference, tiny, uneven_checkpoint},
};

fn model() -> ScalarModel {
    ScalarModel::from_policy(&uneven_checkpoint(&tiny(), 6), 1, &Device::Cpu).unwrap()
}

#[test]
fn every_parameter_of_a_scalar_model_gets_a_gradient() {
    for read in [ScalarModel::scores_at_last, ScalarModel::values_at_response] {
        let model = model();
        let loss = read(&model, &batch(), Pass::Train).unwrap().sqr().unwrap().sum_all().unwrap();
        let mut gradients = Gradients::new();
        gradients.add(model.parameters(), &loss.backward().unwrap()).unwrap();
        for name in model.parameters().keys() {
            let squares = gradients.get(name).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(squares > 0.0, "{name}");
        }
    }
}

/// Goal: V(y_t) is read before y_t. Method: the value before the last response token equals the score of the sequence
/// without that token.
#[test]
fn values_are_read_before_their_token_and_scores_after_the_last() {
    let (model, mut batch) = (model(), batch());
    let values = model.values_at_response(&batch, Pass::Frozen).unwrap();
    let last_value = values.narrow(0, 3, 1).unwrap();
    batch.sequences.truncate(1);
    batch.sequences[0].tokens.pop();
    let score = model.scores_at_last(&batch, Pass::Frozen).unwrap();
    assert!(largest_difference(&last_value, &score) < 1e-5);
}

#[test]
fn a_zero_head_gives_zero_and_a_saved_model_gives_the_same_scores() {
    let source = uneven_checkpoint(&tiny(), 6);
    let zero = ScalarModel::from_policy_zero_head(&source, &Device::Cpu).unwrap();
    let scores = zero.scores_at_last(&batch(), Pass::Frozen).unwrap();
    assert_eq!(scores.to_vec1::<f32>().unwrap(), vec![0.0; 3]);
    let model = model();
    let saved = model.to_checkpoint(&source, WeightType::F32).unwrap();
    let read = ScalarModel::from_checkpoint(&Checkpoint::from_bytes(&saved.to_bytes().unwrap()).unwrap(), &Device::Cpu);
    let again = read.unwrap().scores_at_last(&batch(), Pass::Frozen).unwrap();
    assert_eq!(largest_difference(&again, &model.scores_at_last(&batch(), Pass::Frozen).unwrap()), 0.0);
}

/// Goal: heads on one trunk differ, and the first is what a model with one head would have. Method: three heads and one
/// from the same seed, through a file.
#[test]
fn heads_of_one_trunk_are_drawn_apart_and_survive_a_file() {
    let source = uneven_checkpoint(&tiny(), 6);
    let three = ScalarModel::from_policy_with_heads(&source, 3, 1, &Device::Cpu).unwrap();
    let scores = three.member_scores_at_last(&batch(), Pass::Frozen).unwrap();
    assert_eq!((three.n_heads(), scores.dims()), (3, &[3, 3][..]));
    let column = |i| scores.narrow(1, i, 1).unwrap().squeeze(1).unwrap();
    let alone = model().scores_at_last(&batch(), Pass::Frozen).unwrap();
    assert!(largest_difference(&column(0), &alone) < 1e-6);
    assert!(largest_difference(&column(0), &column(1)) > 1e-3 && largest_difference(&column(1), &column(2)) > 1e-3);
    assert!(three.scores_at_last(&batch(), Pass::Frozen).is_err(), "no head speaks for all");
    let saved = three.to_checkpoint(&source, WeightType::F16).unwrap().to_bytes().unwrap();
    let read = ScalarModel::from_checkpoint(&Checkpoint::from_bytes(&saved).unwrap(), &Device::Cpu).unwrap();
    assert_eq!(
        read.parameters()[HEAD_WEIGHT].to_vec2::<f32>().unwrap(),
        three.parameters()[HEAD_WEIGHT].to_vec2::<f32>().unwrap()
    );
}

#[test]
fn the_head_starts_with_the_published_spread() {
    let wide = crate::architecture::Shape::llama(8, 1024, 1, 8, 8, 16);
    let checkpoint = crate::transformer::random_checkpoint(&wide, 0).unwrap();
    let model = ScalarModel::from_policy(&checkpoint, 3, &Device::Cpu).unwrap();
    let squares = model.parameters()[HEAD_WEIGHT].sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((squares * 1025.0 - 1.0).abs() < 0.15, "variance times 1025: {}", squares * 1025.0);
}
