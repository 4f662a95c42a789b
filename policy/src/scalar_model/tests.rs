use super::*;
use crate::{
    optimizer::Gradients,
    transformer::tests::{batch, tiny, uneven_checkpoint},
};

fn model() -> ScalarModel {
    ScalarModel::from_policy(&uneven_checkpoint(&tiny(), 6), 1, &Device::Cpu).unwrap()
}

#[test]
fn every_parameter_of_a_scalar_model_gets_a_gradient() {
    let (model, double) = (model(), |scalars: &[f32]| Ok((scalars.iter().map(|s| 2.0 * s).collect(), ())));
    let (mut last, mut response) = (Gradients::new(), Gradients::new());
    model.open(|open| open.backward_at_last(&batch(), &mut last, double)).unwrap();
    model.open(|open| open.backward_at_response(&batch(), &mut response, double)).unwrap();
    for gradients in [last, response] {
        for name in model.parameters().keys() {
            let squares: f32 = gradients.get(name).unwrap().to_vec().unwrap().iter().map(|g| g * g).sum();
            assert!(squares > 0.0 && squares.is_finite(), "{name}");
        }
    }
}

/// Goal: V(y_t) is read before y_t. Method: the value before the last response token equals the score of the sequence
/// without that token.
#[test]
fn values_are_read_before_their_token_and_scores_after_the_last() {
    let (model, mut batch) = (model(), batch());
    let last_value = model.values_at_response(&batch).unwrap()[3];
    batch.sequences.truncate(1);
    batch.sequences[0].tokens.pop();
    let score = model.scores_at_last(&batch).unwrap()[0];
    assert!((last_value - score).abs() < 1e-5);
}

#[test]
fn a_zero_head_gives_zero_and_a_saved_model_gives_the_same_scores() {
    let source = uneven_checkpoint(&tiny(), 6);
    let zero = ScalarModel::from_policy_zero_head(&source, &Device::Cpu).unwrap();
    assert_eq!(zero.scores_at_last(&batch()).unwrap(), vec![0.0; 3]);
    let model = model();
    let saved = model.to_checkpoint(&source, WeightType::F32).unwrap();
    let read = ScalarModel::from_checkpoint(&Checkpoint::from_bytes(&saved.to_bytes().unwrap()).unwrap(), &Device::Cpu);
    let again = read.unwrap().scores_at_last(&batch()).unwrap();
    assert_eq!(again, model.scores_at_last(&batch()).unwrap());
}

/// Goal: heads on one trunk differ, and the first is what a model with one head would have. Method: three heads and one
/// from the same seed, through a file.
#[test]
fn heads_of_one_trunk_are_drawn_apart_and_survive_a_file() {
    let source = uneven_checkpoint(&tiny(), 6);
    let three = ScalarModel::from_policy_with_heads(&source, 3, 1, &Device::Cpu).unwrap();
    let scores = three.scores_at_last(&batch()).unwrap();
    assert_eq!((three.n_heads(), scores.len()), (3, 9));
    let alone = model().scores_at_last(&batch()).unwrap();
    for (row, alone) in scores.chunks(3).zip(alone) {
        assert!((row[0] - alone).abs() < 1e-6, "{row:?} {alone}");
        assert!((row[0] - row[1]).abs() > 1e-3 && (row[1] - row[2]).abs() > 1e-3, "{row:?}");
    }
    assert!(three.values_at_response(&batch()).is_err(), "no head speaks for all");
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
