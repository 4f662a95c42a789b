//! A tiny reward model with random weights, from a file and from memory, behind the scorer.

use policy::{architecture::Shape, checkpoint::WeightType, scalar_model::ScalarModel, transformer::random_checkpoint};

use super::*;
use crate::{
    normalization::Normalization,
    scorer::{Lane, Scorer},
    sources::Formula,
};

fn sequence(prompt: u32, response: u32) -> ScoreRequest {
    ScoreRequest {
        prompt: [TokenId(prompt), TokenId(1)].into(),
        response: vec![TokenId(response), TokenId(0)],
        prompt_text: "".into(),
        response_text: String::new(),
        formula: Formula::MODEL,
    }
}

/// Goal: what the daemon loads is what judges, stamped with the file that it came from. Method: save a model, load it by
/// path and from bytes, and compare the scorer's answers with the model's own.
/// For files that are whole.
fn no_base() -> Result<CausalLm, RewardModelError> {
    panic!("only an adapter needs a base")
}

#[test]
fn a_loaded_model_judges_under_the_digest_of_its_file() {
    let policy = random_checkpoint(&Shape::llama(11, 16, 2, 4, 2, 24), 3).unwrap();
    let vocabulary = policy.metadata.vocabulary_digest();
    let head = ScalarModel::from_policy(&policy, 1, &Device::Cpu).unwrap();
    let normalization = Normalization { gain: 2.0, bias: -0.5 };
    let model = RewardModel::new(head, &policy, &[normalization], WeightType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reward.gguf");
    let digest = model.save(&path).unwrap().to_string();

    let mut reward = config::Config::default().reward;
    let bytes = std::fs::read(&path).unwrap();
    let (_, built_in) = load(ModelFile::configured(&reward, &bytes), Combination::Mean, &vocabulary, no_base).unwrap();
    reward.model = path.to_str().unwrap().to_owned();
    let (_, from_file) = load(ModelFile::configured(&reward, &[]), Combination::Mean, &vocabulary, no_base).unwrap();
    assert_eq!(from_file.version, format!("model@{}", &digest[..12]));
    assert_eq!(built_in.version, from_file.version);
    let other = load(ModelFile::At(&path), Combination::Mean, "other", no_base);
    assert!(matches!(other, Err(RewardModelError::Vocabulary { .. })));

    let items = vec![sequence(2, 3), sequence(4, 5)];
    let whole = |item: &ScoreRequest| [&item.prompt[..], &item.response].concat();
    let expected = model.score(&items.iter().map(whole).collect::<Vec<_>>()).unwrap();
    assert!(expected[0] != expected[1], "the test sees which score is whose");
    let scorer = Scorer::start(&reward, Some(from_file), 1).unwrap();
    let outcomes = scorer.score(Lane::Background, items).unwrap();
    for (outcome, expected) in outcomes.into_iter().zip(expected) {
        assert!((outcome.unwrap().score.0 - expected).abs() < 1e-6);
    }
}
