use candle_core::Device;

use super::*;
use crate::{
    checkpoint::Checkpoint,
    sequence_batch::{Sequence, SequenceBatch},
    transformer::{Adapter, LoraShape, merged},
};

const LORA: LoraShape = LoraShape { rank: 4, alpha: 8.0 };

/// Version 0's file, and an adapter beside it that has learnt something.
fn learnt(test: &TestEngine, seed: u64) -> (Checkpoint, Checkpoint) {
    let base = Checkpoint::read(&test.engine.residents()[0].path).unwrap();
    let shape = crate::checkpoint::shape_of_file(&test.engine.residents()[0].path).unwrap();
    let adapter = Adapter::new(&shape, LORA, seed, &Device::Cpu).unwrap();
    for (i, var) in adapter.parameters().values().enumerate() {
        let numbers: Vec<f32> = (0..var.elem_count()).map(|k| 0.1 * ((k * 7 + i) as f32 * 0.37).sin()).collect();
        var.set(&candle_core::Tensor::from_vec(numbers, var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
    let file = adapter.to_checkpoint(&base.metadata).unwrap();
    (base, file)
}

/// Goal: an adapter is served beside version 0's weights and says what the trainer says. Method: log-probs of the engine with
/// the adapter, of the engine with the merged model, and of the trainer with the adapter.
#[test]
fn an_adapter_serves_what_the_trainer_computes() {
    let test = TestEngine::new();
    let (base, adapter) = learnt(&test, 3);
    let files = [("adapter.gguf", &adapter), ("merged.gguf", &merged(&base, &adapter).unwrap())];
    for (i, (name, checkpoint)) in files.into_iter().enumerate() {
        let path = test.folder.path().join(name);
        checkpoint.write(&path).unwrap();
        test.engine.load(PolicyVersion(1 + i as u64), &path).unwrap();
    }
    let tokens = test.tokens("the user asked what color the sky is");
    let read = |version: u64| -> Vec<f32> {
        test.engine.log_probs(PolicyVersion(version), &tokens).unwrap().iter().map(|l| l.0).collect()
    };
    let shape = crate::checkpoint::shape_of_file(&test.engine.residents()[0].path).unwrap();
    let model = crate::causal_lm::CausalLm::from_checkpoint(&base, &Device::Cpu).unwrap();
    let model = model.with_adapter(Adapter::from_checkpoint(&adapter, &shape, &Device::Cpu).unwrap());
    let batch = SequenceBatch::new(vec![Sequence::new(&tokens[..1], &tokens[1..])]);
    let trained = model.frozen_log_probs(&batch, &[1.0]).unwrap().log_probs;
    let [plain, beside, whole] = [0, 1, 2].map(read);
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&plain, &beside) > 0.05, "the adapter does something");
    assert!(apart(&beside, &trained) < 2e-3, "{beside:?} {trained:?}");
    assert!(apart(&beside, &whole) < 2e-3, "{beside:?} {whole:?}");
}

/// Goal: adapters come and go under traffic, each answering with its own numbers, and none stays in memory. Method: versions
/// loaded, promoted and retired while version 0 answers; every response replays under its stamp.
#[test]
fn adapters_come_and_go_beside_one_base() {
    let test = TestEngine::new();
    for version in 1..=5 {
        let (_, adapter) = learnt(&test, version);
        let path = test.folder.path().join(format!("{version}.gguf"));
        adapter.write(&path).unwrap();
        test.engine.load(PolicyVersion(version), &path).unwrap();
        let before = test.engine.promote(PolicyVersion(version)).unwrap();
        let running = test.submit(Target::Live, Ask::exactly(test.tokens("the bear"), 20)).unwrap();
        let sft = test.submit(Target::Version(PolicyVersion::SFT), Ask::exactly(test.tokens("the bear"), 20)).unwrap();
        for choice in [running.wait().remove(0), sft.wait().remove(0)] {
            check_replay(&test.engine, &choice, 1e-3);
        }
        if before != PolicyVersion::SFT {
            test.engine.retire(before).unwrap();
        }
    }
    while test.engine.residents().len() > 2 {
        std::thread::yield_now();
    }
}

#[test]
fn an_adapter_is_no_version_0_and_must_fit() {
    let test = TestEngine::new();
    let (_, adapter) = learnt(&test, 9);
    let path = test.folder.path().join("adapter.gguf");
    adapter.write(&path).unwrap();
    let config = config::Config::default().policy;
    let error = Engine::start(&config, &path).unwrap_err().to_string();
    assert!(error.contains("version 0 must be a whole model"), "{error}");
    let mut wrong = adapter.clone();
    let name = "blk.0.attn_q.weight.lora_b";
    let zeros = candle_core::Tensor::zeros((3, LORA.rank), candle_core::DType::F32, &Device::Cpu).unwrap();
    wrong.tensors.insert(name.to_owned(), zeros);
    let path = test.folder.path().join("wrong.gguf");
    wrong.write(&path).unwrap();
    assert!(test.engine.load(PolicyVersion(1), &path).is_err());
    assert_eq!(test.ask(Ask::exactly(test.tokens("the"), 3)).len(), 1, "version 0 serves on");
}
