use policy::{architecture::Shape, transformer::random_checkpoint};

use super::*;

fn policy_checkpoint() -> Checkpoint {
    let mut checkpoint = random_checkpoint(&Shape::llama(11, 16, 2, 4, 2, 24), 3).unwrap();
    checkpoint.metadata.set("tokenizer.ggml.model", Value::String("gpt2".to_owned()));
    checkpoint
}

fn reward_model(normalization: Normalization) -> Result<RewardModel, RewardModelError> {
    let policy = policy_checkpoint();
    let model = ScalarModel::from_policy(&policy, 1, &Device::Cpu).unwrap();
    RewardModel::new(model, &policy, &[normalization], WeightType::F32)
}

fn sequences() -> Vec<Vec<TokenId>> {
    [&[1, 2, 3, 0][..], &[4], &[5, 6, 7, 8, 9, 10, 0], &[2, 0]]
        .iter()
        .map(|ids| ids.iter().map(|&id| TokenId(id)).collect())
        .collect()
}

#[test]
fn scores_are_normalised_and_in_the_order_of_the_sequences() {
    let raw = reward_model(Normalization { gain: 1.0, bias: 0.0 }).unwrap().score(&sequences()).unwrap();
    let scored = reward_model(Normalization { gain: 2.0, bias: -3.0 }).unwrap().score(&sequences()).unwrap();
    for (i, (raw, score)) in raw.iter().zip(&scored).enumerate() {
        assert!((2.0 * raw - 3.0 - score).abs() < 1e-9);
        let alone = reward_model(Normalization { gain: 2.0, bias: -3.0 }).unwrap().score(&sequences()[i..=i]).unwrap();
        assert!((alone[0] - score).abs() < 1e-5, "{i}: {} alone, {score} together", alone[0]);
    }
}

#[test]
fn a_saved_model_gives_the_same_scores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reward.gguf");
    let model = reward_model(Normalization { gain: 2.0, bias: -3.0 }).unwrap();
    model.save(&path).unwrap();
    let read = RewardModel::load(&path, &Device::Cpu).unwrap();
    assert_eq!(read.score(&sequences()).unwrap(), model.score(&sequences()).unwrap());
    assert_eq!(read.normalizations(), model.normalizations());
}

/// Goal: what was measured goes with the file, and a file that says what cannot be says nothing. Method: saved and read; then
/// shares that are none.
#[test]
fn a_file_says_how_well_it_judges_or_nothing() {
    let plain = reward_model(Normalization { gain: 2.0, bias: -3.0 }).unwrap();
    assert_eq!(plain.held_out(), None);
    let read = |model: &RewardModel| {
        RewardModel::from_bytes(&model.checkpoint().to_bytes().unwrap(), &Device::Cpu).unwrap().held_out()
    };
    let held_out = HeldOut { accuracy: 0.75, n_pairs: 128 };
    assert_eq!(read(&plain.with_held_out(held_out)), Some(held_out));
    for accuracy in [f64::NAN, f64::INFINITY, -0.1, 1.5] {
        let wrong = reward_model(Normalization { gain: 2.0, bias: -3.0 }).unwrap();
        assert_eq!(read(&wrong.with_held_out(HeldOut { accuracy, n_pairs: 1 })), None, "{accuracy}");
    }
}

#[test]
fn a_model_without_gain_and_bias_is_refused() {
    let saved = reward_model(Normalization { gain: 2.0, bias: -3.0 }).unwrap();
    for missing in [GAIN, BIAS] {
        let mut checkpoint = saved.checkpoint().clone();
        let kept = checkpoint.metadata.iter().filter(|(key, _)| *key != missing);
        checkpoint.metadata = policy::checkpoint::Metadata::new(kept.map(|(k, v)| (k.to_owned(), v.clone())));
        let refused = RewardModel::from_bytes(&checkpoint.to_bytes().unwrap(), &Device::Cpu);
        assert!(matches!(refused.err(), Some(RewardModelError::Normalization(_))), "{missing}");
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(reward_model(Normalization { gain: bad, bias: 0.0 }).is_err());
    }
}

#[test]
fn a_policy_of_another_vocabulary_is_refused() {
    let model = reward_model(Normalization { gain: 1.0, bias: 0.0 }).unwrap();
    assert!(model.check_vocabulary(&policy_checkpoint().metadata.vocabulary_digest()).is_ok());
    let mut other = policy_checkpoint();
    other.metadata.set("tokenizer.chat_template", Value::String("{{ 1 }}".to_owned()));
    assert!(model.check_vocabulary(&other.metadata.vocabulary_digest()).is_err());
}

#[test]
fn a_token_outside_the_vocabulary_and_an_empty_sequence_are_errors() {
    let model = reward_model(Normalization { gain: 1.0, bias: 0.0 }).unwrap();
    assert!(model.score(&[vec![TokenId(11)]]).is_err());
    assert!(model.score(&[vec![]]).is_err());
    assert_eq!(model.score(&[]).unwrap(), Vec::<f64>::new());
}

/// Three heads, each with its own map.
fn three_heads() -> (RewardModel, [Normalization; 3]) {
    let policy = policy_checkpoint();
    let model = ScalarModel::from_policy_with_heads(&policy, 3, 1, &Device::Cpu).unwrap();
    let maps = [(1.0, 0.0), (2.0, -1.0), (0.5, 0.25)].map(|(gain, bias)| Normalization { gain, bias });
    (RewardModel::new(model, &policy, &maps, WeightType::F32).unwrap(), maps)
}

/// Goal: members are normalised one by one, combined as configured, and their spread is told, also after a file. Method:
/// by hand from the raw outputs of the heads.
#[test]
fn an_ensemble_judges_by_its_members_on_one_scale() {
    let (model, maps) = three_heads();
    let raw = member_scores(&model.model, &sequences()).unwrap();
    let read = RewardModel::from_bytes(&model.checkpoint().to_bytes().unwrap(), &Device::Cpu).unwrap();
    assert_eq!(read.normalizations(), maps);
    let uwo = Combination::UncertaintyWeighted { lambda: 0.5 };
    let (mean, uwo) = (read.judge(&sequences()).unwrap(), read.combined(uwo).judge(&sequences()).unwrap());
    let worst = model.combined(Combination::Worst).judge(&sequences()).unwrap();
    for (i, raw) in raw.iter().enumerate() {
        let members: Vec<f64> = maps.iter().zip(raw).map(|(map, raw)| map.apply(*raw)).collect();
        let together = ensemble(&members).unwrap();
        assert!((mean[i].score - together.mean).abs() < 1e-9);
        assert!((worst[i].score - together.worst).abs() < 1e-9);
        assert!((uwo[i].score - (together.mean - 0.5 * together.variance)).abs() < 1e-9);
        assert!((mean[i].std.unwrap() - together.variance.sqrt()).abs() < 1e-9 && together.variance > 0.0);
    }
}

#[test]
fn one_head_has_no_spread_and_maps_must_be_as_many_as_heads() {
    let one = reward_model(Normalization { gain: 1.0, bias: 0.0 }).unwrap();
    assert!(one.judge(&sequences()).unwrap().iter().all(|judgement| judgement.std.is_none()));
    let policy = policy_checkpoint();
    let model = ScalarModel::from_policy_with_heads(&policy, 3, 1, &Device::Cpu).unwrap();
    let refused = RewardModel::new(model, &policy, &[Normalization { gain: 1.0, bias: 0.0 }; 2], WeightType::F32);
    assert!(refused.err().unwrap().to_string().contains("3 heads, got 2"));
}

/// Goal: a value model that starts from an ensemble starts at the members' mean score. Method: the folded head at the last
/// token against the judgement.
#[test]
fn a_value_model_starts_at_the_mean_of_the_members() {
    let (model, _) = three_heads();
    let (checkpoint, map) = model.value_start().unwrap();
    let one = ScalarModel::from_checkpoint(&checkpoint, &Device::Cpu).unwrap();
    let values = raw_scores(&one, &sequences()).unwrap();
    for (value, judgement) in values.iter().zip(model.judge(&sequences()).unwrap()) {
        assert!((map.apply(*value) - judgement.score).abs() < 1e-5, "{value} {judgement:?}");
    }
}

/// An adapter that has learnt something, with two heads, beside the weights of `policy`.
fn adapter(policy: &Checkpoint) -> RewardModel {
    let base = CausalLm::from_checkpoint(policy, &Device::Cpu).unwrap();
    let lora = policy::transformer::LoraShape { rank: 2, alpha: 4.0 };
    let adapter = policy::transformer::Adapter::new(base.trunk().shape(), lora, 5, &Device::Cpu).unwrap();
    for (i, var) in adapter.parameters().values().enumerate() {
        let numbers = (0..var.elem_count()).map(|k| 0.2 * ((k + i) as f32).sin()).collect();
        var.set(&Tensor::from_vec(numbers, var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    let model = ScalarModel::beside_with_heads(&base, adapter, 2, 1).unwrap();
    let maps = [Normalization { gain: 2.0, bias: -3.0 }, Normalization { gain: 1.5, bias: 0.5 }];
    RewardModel::new(model, policy, &maps, WeightType::Source).unwrap()
}

#[test]
fn an_adapter_judges_beside_the_weights_that_it_was_trained_on_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reward.gguf");
    let trained = adapter(&policy_checkpoint());
    trained.save(&path).unwrap();
    assert!(matches!(RewardModel::load(&path, &Device::Cpu).err(), Some(RewardModelError::NoBase)));
    let beside = |policy: &Checkpoint| {
        RewardModel::load_beside(&path, || Ok(CausalLm::from_checkpoint(policy, &Device::Cpu).unwrap()))
    };
    let read = beside(&policy_checkpoint()).unwrap();
    assert_eq!(read.score(&sequences()).unwrap(), trained.score(&sequences()).unwrap());
    assert_eq!((read.n_members(), read.base().is_some()), (2, true));
    let mut other = policy_checkpoint();
    let gain = other.tensors.get_mut("output_norm.weight").unwrap();
    *gain = (&*gain * 1.1).unwrap();
    assert!(matches!(beside(&other).err(), Some(RewardModelError::Base { .. })));
}
